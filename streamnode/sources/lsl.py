"""A live stream from Lab Streaming Layer: find it, check it, read it, in microvolts and on this machine's LSL clock.

liblsl's own comforts stay off, for each hides what the node has to know: `recover` continues with a restarted source
whose rate or channels may have changed, and the processing flags block the pull and bend the time axis around gaps.

Threads: one reads (see `lsl_poll`), one asks for the clock offset. Both only hand things to the event loop.
"""

from __future__ import annotations

import asyncio
import ctypes
import logging
import os
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from functools import partial
from typing import Literal, Self

import numpy as np
import pylsl
from numpy.typing import NDArray

from streamnode.channel import Channel
from streamnode.errors import ContractError, StreamLost
from streamnode.metrics import Metrics
from streamnode.montage import coverage, make_montage
from streamnode.signal.timebase import TimeBase
from streamnode.sources.columns import EEG_SFREQ, Column, in_metres, to_microvolts
from streamnode.sources.lsl_info import eeg_columns
from streamnode.sources.lsl_poll import UNPACK_S, Pulled, Readers, Tap, local_clock, tell
from streamnode.sources.lsl_resolve import LslQuery, Sighting, connect, streams_in_sight
from streamnode.types import Chunk, Float32Array, StreamInfo

__all__ = ["Fill", "LslQuery", "LslSource", "Sighting", "connect", "local_clock", "streams_in_sight"]

Fill = Literal["hold", "interpolate"]

log = logging.getLogger(__name__)

_OPEN_S = 3.0  # for each step of connecting; on one host the slowest, the first clock probe, takes 0.64 s
_PULL_SAMPLES = 2048
_INLET_S = 10  # what liblsl keeps for us; beyond it drops the oldest and tells nobody
PROBE_S = 5.0
_WAITING = 4096  # pulls between reader thread and pipeline: 24 s of the most there can be, see `lsl_poll`

_DTYPES = {
    name: np.dtype(name.replace("double", "float"))
    for name in ("float32", "double64", "int64", "int32", "int16", "int8")
}

_give_way: Callable[[], None] = getattr(os, "sched_yield", partial(time.sleep, 0))  # liblsl may want this very core


class _Stream:
    """An open inlet, read in microvolts.

    pylsl's own `pull_chunk` allocates and wraps anew at every call; this calls the same function of liblsl with memory
    of its own, for half the cost of a wake-up.

    Args:
        inlet: subscribed, buffering.
        seen: what it sends.
        columns: which of its channels are EEG.
        info: the stream as the node sees it: these channels only.
        timebase: on this machine's clock.
    """

    def __init__(
        self, inlet: pylsl.StreamInlet, seen: Sighting, columns: list[Column], info: StreamInfo, timebase: TimeBase
    ) -> None:
        self.inlet, self.info, self.timebase = inlet, info, timebase
        self._rows = np.empty((_PULL_SAMPLES, seen.n_chans), _DTYPES[seen.format])
        self._stamps = np.empty(_PULL_SAMPLES)
        self._counts: deque[int] = deque([1], maxlen=4)  # of the latest pulls
        self._rows_at, self._stamps_at = self._rows.ctypes.data, self._stamps.ctypes.data
        picks = np.array([c.index for c in columns], dtype=np.intp)
        self._picks: slice | NDArray[np.intp] = slice(None) if len(picks) == seen.n_chans else picks
        labels, units = [c.label for c in columns], [c.unit for c in columns]
        scale = to_microvolts(f"LSL stream {seen.name!r}", labels, units)
        self._scale = None if (scale == 1).all() else scale

    def pull(self, wait_s: float, not_before: float) -> Pulled | None:
        """See `lsl_poll.Inlet`."""
        n_times = self._take(0, 1 if wait_s else _PULL_SAMPLES, wait_s)
        if n_times == 0:
            return None
        if wait_s:
            n_times = self._with_the_rest(not_before)
        t_arrived = local_clock()
        data = self._rows[:n_times, self._picks]
        if self._scale is not None:
            data = data * self._scale
        return Pulled(data.astype(np.float32), self._stamps[:n_times].copy(), t_arrived)

    def _with_the_rest(self, not_before: float) -> int:
        """Take what came with the first sample, or soon after it. Returns how many there are with it.

        A sample wakes the reader while liblsl still unpacks the rest of its chunk. To block for that would wake it once
        more for every sample, and to sleep takes longer than the unpacking: so it looks again at once, until there are
        as many as usual.
        """
        if (pause_s := not_before - local_clock()) > 0:
            time.sleep(pause_s)
        n_times, usual, give_up = 1, max(self._counts), local_clock() + UNPACK_S
        with suppress(RuntimeError):  # the next pull will say it again; what has come is still good
            n_times += self._take(1, _PULL_SAMPLES - 1, 0.0)
            while n_times < usual and local_clock() < give_up:
                _give_way()
                n_times += self._take(n_times, _PULL_SAMPLES - n_times, 0.0)
        self._counts.append(n_times)
        return n_times

    def _take(self, row: int, at_most: int, wait_s: float) -> int:
        """Have liblsl write samples from a row on. Returns how many."""
        error = ctypes.c_int()
        n_columns = self._rows.shape[1]
        n_values = self.inlet.do_pull_chunk(
            self.inlet.obj,
            ctypes.c_void_p(self._rows_at + row * self._rows.strides[0]),
            ctypes.c_void_p(self._stamps_at + row * self._stamps.itemsize),
            ctypes.c_size_t(at_most * n_columns),
            ctypes.c_size_t(at_most),
            ctypes.c_double(wait_s),
            ctypes.byref(error),
        )
        pylsl.util.handle_error(error)
        return int(n_values // n_columns)

    def __str__(self) -> str:
        return f"LSL stream {self.info.name!r} (source_id {self.info.source_id!r})"


def _open(found: pylsl.StreamInfo, label: str, cap: str | None, first_run: int, max_missing_s: float) -> _Stream:
    """Subscribe, read the full description. Blocks. Raises `ContractError` or `StreamLost`."""
    seen = Sighting.of(found)
    _refuse_unusable(seen)
    inlet = pylsl.StreamInlet(found, max_buflen=_INLET_S, recover=False, processing_flags=0)
    try:
        full = inlet.info(_OPEN_S)
        inlet.open_stream(_OPEN_S)
    except RuntimeError as error:  # the base of all that pylsl raises
        raise StreamLost(f"LSL stream {seen.name!r} answered but could not be opened ({error}): restart it") from error
    columns = eeg_columns(full)
    labels = [c.label for c in columns]
    montage = make_montage(labels, in_metres(np.array([c.position for c in columns])), cap)
    info = StreamInfo(label or seen.name, seen.source_id, seen.stype, seen.sfreq, montage, seen.uid)
    stream = _Stream(inlet, seen, columns, info, TimeBase(seen.sfreq, first_run, round(max_missing_s * seen.sfreq)))
    n_eeg, units = len(columns), ", ".join(dict.fromkeys(c.unit or "no unit" for c in columns))
    log.info("%s: %d of %d channels at %g Hz, %s in %s", stream, n_eeg, seen.n_chans, seen.sfreq, seen.format, units)
    log.info("%s: %s", stream, coverage(montage, labels, cap))
    return stream


def _refuse_unusable(seen: Sighting) -> None:
    if seen.sfreq == 0:
        raise ContractError(f"LSL stream {seen.name!r} has no regular sampling rate: choose a stream of EEG samples")
    if not EEG_SFREQ[0] <= seen.sfreq <= EEG_SFREQ[1]:
        raise ContractError(
            f"LSL stream {seen.name!r} claims {seen.sfreq:g} samples a second, which no EEG has: correct the sender"
        )
    if seen.format not in _DTYPES:
        raise ContractError(f"LSL stream {seen.name!r} sends {seen.format} values: choose a stream of numbers")


def probe(inlet: pylsl.StreamInlet) -> float | None:
    """The clock offset, or None if the source's clock does not answer. Blocks."""
    try:
        return float(inlet.time_correction(_OPEN_S))
    except RuntimeError:
        return None


_READERS = Readers()  # liblsl is one to a process, and so is what reads it


class LslSource:
    """Implements `Source` for one connection to one LSL stream; after `StreamLost` make a new one.

    Entering raises `StreamLost` if no stream matches in time or the one that does cannot be opened, `ConfigError` if
    several match, and `ContractError` if it is not a regular stream of numbers with EEG channels. Iterating raises
    `StreamLost`, after all samples that came before, when the stream ends or falls silent.

    Numbers of any format and 1 to 100 000 Hz will do, and any number of channels. One without a label is called `ch`
    and its number; two that name the same electrode are refused. NaN and infinities are passed on as they are, for
    `signal.quality` to judge. Stamps of another clock, or of zero, are replaced by arrival. Rate, channels, units and
    format are read at every connection and logged, so that a source may come back changed.

    Args:
        query: which stream.
        timeout_s: how long to look for it, until it is open; None waits for ever.
        metrics: instruments of the node.
        cap: whose electrode names the stream uses, one of `streamnode.montage.CAPS`; None reads 10-20 names.
        label: what to call the stream; its LSL name if None.
        first_run: number of the first run.
        stall_s: silence after which the stream counts as lost; unusual silence, from 200 ms on, is flagged before.
        fill: what stands in for missing samples: the last one, or a straight line to the next.
        max_missing_s: longest gap to fill in; a longer one starts a new run.
        readers: the threads that read; None shares those of the process.
    """

    def __init__(
        self,
        query: LslQuery,
        *,
        timeout_s: float | None,
        metrics: Metrics,
        cap: str | None = None,
        label: str | None = None,
        first_run: int = 0,
        stall_s: float = 2.0,
        fill: Fill = "hold",
        max_missing_s: float = 0.0,
        readers: Readers | None = None,
    ) -> None:
        self._query = query
        self._timeout_s = timeout_s
        self._metrics = metrics
        self._cap = cap
        self._label = label or ""
        self._first_run = first_run
        self._stall_s = stall_s
        self._fill: Fill = fill
        self._max_missing_s = max_missing_s
        self._readers = readers or _READERS
        self._last_row: Float32Array | None = None
        self._lost = self._stale = 0
        self._run: int | None = None
        self._foreign, self._answering = False, True
        self._channel: Channel[Pulled] = Channel(_WAITING, self._on_drop)
        self._stop = threading.Event()
        self._entered: _Stream | None = None

    @property
    def _stream(self) -> _Stream:
        if self._entered is None:
            raise RuntimeError("a source is known once it is entered with `async with`")
        return self._entered

    @property
    def info(self) -> StreamInfo:
        """The stream, EEG channels only; known once the block is entered."""
        return self._stream.info

    async def __aenter__(self) -> Self:
        opened = partial(
            _open, label=self._label, cap=self._cap, first_run=self._first_run, max_missing_s=self._max_missing_s
        )
        self._entered = stream = await connect(self._query, self._timeout_s, opened)
        self._label = stream.info.name
        self._received = self._metrics.samples.labels(self._label)
        self._metrics.connected.labels(self._label).set(1)
        self._on_offset(await asyncio.to_thread(probe, stream.inlet))
        self._tap = Tap(stream, self._stall_s, self._on_pull, self._on_stall, self._on_loss)
        self._readers.start(self._tap)
        threading.Thread(target=self._track_clock, args=(stream, self._tap.loop), name="lsl clock", daemon=True).start()
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._stop.set()
        self._metrics.connected.labels(self._label).set(0)
        await asyncio.to_thread(self._tap.close)  # the clock's thread may sit in a probe and ends by itself
        self._stream.inlet.close_stream()

    async def __aiter__(self) -> AsyncIterator[Chunk]:
        """Chunks in order, for ever. Raises `StreamLost` when the stream goes away."""
        async for pulled in self._channel:
            for chunk in self._chunks(pulled):
                yield chunk

    def _chunks(self, pulled: Pulled) -> Iterator[Chunk]:
        """The chunks that a pull makes, short gaps filled in, and the accounts of what is missing."""
        stream = self._stream
        spans = stream.timebase.add(pulled.stamps, pulled.t_arrived)
        self._account(stream)
        for span in spans:
            if span.run != self._run:
                self._run = span.run
                self._metrics.runs.labels(self._label).set(span.run)
            data = pulled.data[span.rows]
            if span.n_missing:
                data = np.concatenate((self._filled(span.n_missing, data[0]), data))
            self._last_row = data[-1]
            yield Chunk(stream.info, data, span.start, span.t0, pulled.t_arrived, span.run, span.n_missing)

    def _filled(self, n_missing: int, after: Float32Array) -> Float32Array:
        """What stands in for missing samples, `(n_missing, n_chans)`, given the sample after them."""
        before = after if self._last_row is None else self._last_row
        if self._fill == "hold":
            return np.repeat(before[np.newaxis], n_missing, axis=0)
        weights = np.arange(1, n_missing + 1, dtype=np.float32)[:, np.newaxis] / np.float32(n_missing + 1)
        filled: Float32Array = before + weights * (after - before)
        return filled

    def _account(self, stream: _Stream) -> None:
        """Count what the time base found, and say once if the source's clock is not LSL's."""
        timebase = stream.timebase
        if timebase.lost > self._lost:
            self._metrics.samples_lost.labels(self._label, "gap").inc(timebase.lost - self._lost)
            self._lost = timebase.lost
        if timebase.stale > self._stale:
            self._metrics.samples_dropped.labels(self._label, "stale").inc(timebase.stale - self._stale)
            self._stale = timebase.stale
        if timebase.foreign and not self._foreign:
            self._foreign = True
            log.warning("%s does not stamp with the LSL clock: its samples are timed by when they arrive", stream)
            self._tell_clock()

    def _track_clock(self, stream: _Stream, loop: asyncio.AbstractEventLoop) -> None:
        """Clock thread: a probe can block for seconds, which must hold up neither the pull nor the event loop."""
        while not self._stop.wait(PROBE_S):
            tell(loop, [partial(self._on_offset, probe(stream.inlet))])

    def _on_pull(self, pulled: Pulled) -> None:
        self._received.inc(len(pulled.stamps))
        self._channel.put(pulled)

    def _on_drop(self, pulled: Pulled) -> None:
        """What the channel drops comes before all that still waits in it, so the next sample read begins a new run."""
        self._metrics.samples_dropped.labels(self._label, "reader_full").inc(len(pulled.stamps))
        self._stream.timebase.skip(len(pulled.stamps))

    def _on_offset(self, offset: float | None) -> None:
        """The source's clock was asked; when it does not answer, the last offset stands."""
        if offset is not None:
            self._stream.timebase.clock_offset = offset
        elif self._answering:
            log.warning("%s is unsynchronised: its clock does not answer (UDP blocked?)", self._stream)
        self._answering = offset is not None
        self._tell_clock()

    def _tell_clock(self) -> None:
        timebase = self._stream.timebase
        self._metrics.clock_offset.labels(self._label).set(timebase.clock_offset)
        self._metrics.synchronised.labels(self._label).set(self._answering and not timebase.foreign)
        self._metrics.drift.labels(self._label).set(timebase.drift_ppm)
        self._metrics.jitter.labels(self._label).set(timebase.jitter_s)

    def _on_stall(self, stalled: bool) -> None:  # noqa: FBT001  (the one argument of a call-back)
        """The stream has fallen silent, which may mean nothing, or has gone on."""
        self._metrics.connected.labels(self._label).set(not stalled)
        if stalled:
            self._metrics.stalls.labels(self._label).inc()
            log.warning("%s is silent; it counts as lost after %g s", self._stream, self._stall_s)

    def _on_loss(self, error: Exception) -> None:
        self._metrics.connected.labels(self._label).set(0)
        self._channel.close(error)
