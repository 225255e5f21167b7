"""From a timeline to what goes over the wire, and the truth about it. Pure, and the same for the same timeline.

Samples are numbered as the device captures them, over losses and restarts alike, and every sample carries its number:
channel 0 holds it modulo 2**20, channel 1 the rest, channel c above these the number times c, modulo 2**20.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from streamnode.testing.timeline import (
    Bursts,
    Drift,
    Duplicate,
    Freeze,
    Gap,
    Jitter,
    NotFinite,
    OutOfOrder,
    Timeline,
    Unit,
    UnixStamps,
    ZeroStamps,
)
from streamnode.types import Float32Array, Float64Array, FloatArray

UNIX_OFFSET_S = 1.75e9
"""What `UnixStamps` adds: about the Unix time at which a machine on since June 2025 was started."""
ZERO_STAMP = 5e-324
"""Zero for all purposes; liblsl takes a true zero as the wish to be stamped with the present."""
PER_UNIT: dict[Unit, float] = {"microvolts": 1.0, "millivolts": 1e-3, "volts": 1e-6}
_WRAP = 1 << 20  # float32 counts to 2**24, and a factor of 16 is left for rounding in other units
_BURST_STEP_S = 10e-6

Indices = NDArray[np.int64]
Mask = NDArray[np.bool_]
E = TypeVar("E")


@dataclass(frozen=True, slots=True)
class Life:
    """One process of the source, from its start to its death.

    Attributes:
        number: counts from 0.
        begin_s: when it appears, seconds since the timeline began.
        end_s: when it is killed; infinite if it ends by itself.
        sfreq: what it declares, Hz.
        unit: of its samples.
        ch_names: its labels.
        stype: its LSL type.
        start: number of the first sample captured since it appeared.
        stop: number after the last one captured before the next life appears.
    """

    number: int
    begin_s: float
    end_s: float
    sfreq: float
    unit: Unit
    ch_names: tuple[str, ...]
    stype: str
    start: int = 0
    stop: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class Push:
    """What is sent at once.

    Attributes:
        t_push: when, LSL seconds.
        life: number of the process that sends it.
        index: `(n_times,)` the numbers of the samples; they have holes where some are lost.
        data: `(n_times, n_chans)` in the unit of the life.
        stamps: `(n_times,)` as the device stamps them.
    """

    t_push: float
    life: int
    index: Indices
    data: Float32Array
    stamps: Float64Array


@dataclass(frozen=True, slots=True, eq=False)
class Truth:
    """What really happened to each sample; all arrays are `(n_samples,)`, by number.

    Attributes:
        lives: the processes in order.
        t: when it was captured, LSL seconds.
        n_sent: how often it was sent: 0 is lost, 2 duplicated.
    """

    lives: tuple[Life, ...]
    t: Float64Array
    n_sent: Indices

    @property
    def expected(self) -> int:
        """How many samples were captured."""
        return len(self.t)

    @property
    def lost(self) -> int:
        """How many of them were never sent."""
        return int((self.n_sent == 0).sum())

    @property
    def duplicated(self) -> int:
        """How many times a sample was sent once too often."""
        return int(np.maximum(self.n_sent - 1, 0).sum())

    @property
    def runs(self) -> tuple[tuple[int, int], ...]:
        """First number and the one after the last of all that was sent without loss by one process, in order."""
        edges = {life.start for life in self.lives} | {self.expected}
        edges |= {int(i) + 1 for i in np.flatnonzero(np.diff(self.n_sent > 0))}
        return tuple((a, b) for a, b in pairwise(sorted(edges | {0})) if self.n_sent[a])


def encode(index: Indices, n_chans: int) -> FloatArray:
    """The samples with these numbers: `(n_times, n_chans)` microvolts."""
    factors = np.arange(n_chans)
    factors[:1] = 1
    data = (index[:, None] * factors) % _WRAP
    if n_chans > 1:
        data[:, 1] = index // _WRAP
    return data.astype(np.float64)


def decode(data: FloatArray) -> Indices:
    """The numbers of samples `(n_times, n_chans)` in microvolts; those of a single channel only modulo 2**20.

    Reads the first two channels, of which a `NotFinite` must spare the first and, after 2**20 samples, the second.
    """
    low = np.rint(data[:, 0].astype(np.float64)).astype(np.int64)
    if data.shape[1] == 1:
        return low
    high = np.nan_to_num(data[:, 1].astype(np.float64), posinf=0.0, neginf=0.0)
    return low + np.rint(high).astype(np.int64) * _WRAP


class _Lasting(Protocol):
    @property
    def at_s(self) -> float: ...
    @property
    def duration_s(self) -> float: ...


@dataclass(frozen=True, slots=True, eq=False)
class _Chunks:
    """How the samples are put together for sending.

    Attributes:
        first: `(n_chunks,)` number of the first sample of each, whether it is lost or not.
        last: `(n_chunks,)` number of the last.
        of: `(n_samples,)` the chunk of each sample.
    """

    first: Indices
    last: Indices
    of: Indices


def render(timeline: Timeline, t0: float = 0.0) -> tuple[list[Push], Truth]:
    """Play a timeline that begins at `t0` on the LSL clock.

    Returns:
        What is sent, in order, and what became of every sample.
    """
    lives, t = _capture(timeline)
    chunks = _gather(timeline, lives, t)
    ready, shift = _arrive(timeline, t, chunks)
    sent, t_push, kept = _deliver(timeline, t, chunks, ready)
    life_of = np.repeat([life.number for life in lives], [life.stop - life.start for life in lives])
    ends = np.array([life.end_s for life in lives])[life_of]
    kept &= (t < ends) & (t_push[chunks.of] < ends)
    stamps = _stamp(timeline, t0 + t + shift[chunks.of], t, chunks, t0 + ready)
    data = [_values(timeline, life, t[life.start : life.stop]) for life in lives]
    n_sent = np.zeros(len(t), np.int64)
    pushes: list[Push] = []
    for c in sent:
        index = chunks.first[c] + np.flatnonzero(kept[chunks.first[c] : chunks.last[c] + 1])
        if len(index):
            n_sent[index] += 1
            life = lives[life_of[index[0]]]
            values = data[life.number][index - life.start]
            pushes.append(Push(t0 + float(t_push[c]), life.number, index, values, stamps[index]))
    return pushes, Truth(lives, t0 + t, n_sent)


def _of(timeline: Timeline, kind: type[E]) -> Iterator[E]:
    return (event for event in timeline.events if isinstance(event, kind))


def _during(event: _Lasting, t: Float64Array) -> Mask:
    mask: Mask = (t >= event.at_s) & (t < event.at_s + event.duration_s)
    return mask


def _lives(timeline: Timeline) -> Iterator[Life]:
    life = Life(0, 0.0, math.inf, timeline.sfreq, "microvolts", timeline.ch_names, "EEG")
    for restart in timeline.restarts:
        yield replace(life, end_s=restart.at_s)
        changes = {"sfreq": restart.sfreq, "unit": restart.unit, "ch_names": restart.ch_names, "stype": restart.stype}
        kept: dict[str, Any] = {key: value for key, value in changes.items() if value is not None}
        life = replace(life, number=life.number + 1, begin_s=restart.at_s + restart.duration_s, **kept)
    yield life


def _capture(timeline: Timeline) -> tuple[tuple[Life, ...], Float64Array]:
    """Who lives when, and when each sample is captured."""
    lives = [life for life in _lives(timeline) if life.begin_s < timeline.duration_s]
    drifts = list(_of(timeline, Drift))
    cuts = {0.0, timeline.duration_s} | {life.begin_s for life in lives}
    cuts |= {min(t, timeline.duration_s) for drift in drifts for t in (drift.at_s, drift.at_s + drift.duration_s)}
    parts, t_next = [], 0.0
    for begin_s, end_s in pairwise(sorted(cuts)):
        declared = [life for life in lives if life.begin_s <= begin_s][-1].sfreq
        ppm = sum(drift.ppm for drift in drifts if drift.at_s <= begin_s < drift.at_s + drift.duration_s)
        sfreq = declared * (1 + 1e-6 * ppm)
        n_times = max(0, math.ceil((end_s - t_next) * sfreq - 1e-6))
        parts.append(t_next + np.arange(n_times) / sfreq)
        t_next += n_times / sfreq
    t = np.concatenate(parts)
    starts = [*np.searchsorted(t, [life.begin_s for life in lives]).tolist(), len(t)]
    numbered = zip(lives, starts, starts[1:], strict=False)
    return tuple(replace(life, start=start, stop=stop) for life, start, stop in numbered), t


def _gather(timeline: Timeline, lives: tuple[Life, ...], t: Float64Array) -> _Chunks:
    bursts = list(_of(timeline, Bursts))
    changes = [time for burst in bursts for time in (burst.at_s, burst.at_s + burst.duration_s)]
    marks = {life.start for life in lives} | {len(t)} | set(np.searchsorted(t, changes).tolist())
    firsts = []
    for start, stop in pairwise(sorted(marks)):
        now = [burst.n_times for burst in bursts if _during(burst, t[start : start + 1]).any()]
        firsts.append(np.arange(start, stop, now[0] if now else timeline.chunk))
    first = np.concatenate(firsts)
    edges = np.append(first, len(t))
    return _Chunks(first, edges[1:] - 1, np.repeat(np.arange(len(first)), np.diff(edges)))


def _arrive(timeline: Timeline, t: Float64Array, chunks: _Chunks) -> tuple[Float64Array, Float64Array]:
    """When each chunk is ready to be sent, never before an earlier one, and how wrong its stamps are for that."""
    rng = np.random.default_rng(timeline.seed)
    late, mean = np.zeros(len(chunks.first)), np.zeros(len(chunks.first))
    for jitter in _of(timeline, Jitter):
        hit = _during(jitter, t[chunks.first])
        late += hit * rng.uniform(0.0, 2e-3 * jitter.ms, len(hit))
        mean += hit * 1e-3 * jitter.ms
    ready = np.maximum.accumulate(t[chunks.last] + late)
    return ready, ready - t[chunks.last] - mean


def _deliver(
    timeline: Timeline, t: Float64Array, chunks: _Chunks, ready: Float64Array
) -> tuple[Indices, Float64Array, Mask]:
    """The chunks in the order they are sent, when each is, and which samples have not been lost until then."""
    t_push, kept = ready.copy(), np.ones(len(t), np.bool_)
    for freeze in sorted(_of(timeline, Freeze), key=lambda event: event.at_s):
        held, thaw_s = _during(freeze, t_push), freeze.at_s + freeze.duration_s
        t_push[held] = thaw_s
        kept &= ~(held[chunks.of] & (t < thaw_s - freeze.keeps_s))
    for gap in _of(timeline, Gap):
        kept &= ~_during(gap, t)
    rank = np.arange(len(t_push), dtype=np.float64)
    for swap in _of(timeline, OutOfOrder):
        c = _chunk_at(swap.at_s, t, chunks)
        if c + 1 < len(rank):
            t_push[c], rank[c] = t_push[c + 1], rank[c + 1] + 0.5
    twice = [_chunk_at(event.at_s, t, chunks) for event in _of(timeline, Duplicate)]
    sent = np.append(np.arange(len(rank)), np.array(twice, np.int64))
    return sent[np.lexsort((rank[sent], t_push[sent]))], t_push, kept


def _chunk_at(at_s: float, t: Float64Array, chunks: _Chunks) -> int:
    return int(np.searchsorted(t[chunks.first], at_s, side="right")) - 1


def _stamp(
    timeline: Timeline, stamps: Float64Array, t: Float64Array, chunks: _Chunks, ready: Float64Array
) -> Float64Array:
    """What the device makes of `stamps`, which were right but for jitter."""
    for burst in _of(timeline, Bursts):
        hit = _during(burst, t[chunks.first])[chunks.of]
        back = chunks.last[chunks.of] - np.arange(len(t))
        stamps = np.where(hit, ready[chunks.of] - _BURST_STEP_S * back, stamps)
    for unix in _of(timeline, UnixStamps):
        stamps = stamps + UNIX_OFFSET_S * _during(unix, t)
    for zero in _of(timeline, ZeroStamps):
        stamps = np.where(_during(zero, t), ZERO_STAMP, stamps)
    return stamps


def _values(timeline: Timeline, life: Life, t: Float64Array) -> Float32Array:
    data = encode(np.arange(life.start, life.stop), len(life.ch_names)) * PER_UNIT[life.unit]
    for fault in _of(timeline, NotFinite):
        data[_during(fault, t), fault.channel] = fault.value
    return data.astype(np.float32)
