"""Joins the streams of several amplifiers into one, on the time axis of the first.

Two amplifiers never sample at the same moments, and their crystals drift apart, by 0.36 s an hour at 100 ppm. Each
sample of the first stream is kept as it is; of every other stream, the value at that very time is interpolated with a
short windowed sinc. At 250 Hz its error is at most 2e-4 of the amplitude up to 40 Hz and 6e-4 up to 75 Hz, where a
straight line between samples is off by 12 % at 40 Hz. The price is that a value is known six samples late.

Stamps are taken as they are: jitter is for the time base to remove.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from streamnode.errors import ContractError
from streamnode.types import Chunk, Float64Array, Montage, StreamInfo

BoolArray = NDArray[np.bool_]
IntArray = NDArray[np.intp]

_HALF = 6  # taps to either side
_TAPS = np.arange(1 - _HALF, _HALF + 1)
_BETA = 7.0  # of the Kaiser window
_SAME = 1e-6  # of a sample: what is nearer is the same time, however the stamps were rounded
_NO_RUN = -1


class Aligner:
    """Takes the chunks of several streams, whichever comes first, and yields those of all of them together.

    A gap or a new run in any stream, and samples of the first that find no partners, begin a new run of the joined
    stream. Within six samples of where a run of another stream begins or ends it lacks neighbours to interpolate with.

    Args:
        infos: the streams; indices and times of the joined stream are those of the first.
        max_wait_s: how long a sample waits for its partners after it has arrived; more than `lag_s` and the time
            between two chunks of any stream together.
        prefixes: put before the channel names of each stream, such as `("A-", "B-")`, where some are the same.
        first_run: number of the first run.

    Attributes:
        info: the joined stream, with the channels of all in order.
        lag_s: how much later than its time a sample can be known, seconds.

    Raises:
        ContractError: less than two streams, different sampling frequencies, equal names, or too short a wait.
    """

    def __init__(
        self,
        infos: Sequence[StreamInfo],
        *,
        max_wait_s: float,
        prefixes: Sequence[str] | None = None,
        first_run: int = 0,
    ) -> None:
        self.info = _join_infos(infos, prefixes)
        self.lag_s = _HALF / self.info.sfreq
        if not max_wait_s > self.lag_s:
            raise ContractError(f"streams cannot be joined within {max_wait_s:g} s: wait more than {self.lag_s:g} s")
        self._max_wait_s = max_wait_s
        self._first: deque[Chunk] = deque()
        self._others = [_Partner(info) for info in infos[1:]]
        self._now = self._heard = self._t_last = -math.inf
        self._run = first_run - 1
        self._expected: tuple[int, ...] = ()
        self._given_up = 0

    @property
    def unpartnered(self) -> tuple[int, ...]:
        """Per stream, how many samples were given up: of the first, all not joined; of others, those next to none."""
        return (self._given_up, *(other.n_unused for other in self._others))

    @property
    def waiting(self) -> tuple[int, ...]:
        """Per stream, of how many samples it is not yet known whether they find partners."""
        return (sum(chunk.n_times for chunk in self._first), *(other.n_waiting for other in self._others))

    def add(self, i: int, chunk: Chunk) -> list[Chunk]:
        """Take in the next samples of stream `i` and return what can be known by now of the joined stream."""
        if chunk.n_times == 0:
            return []
        self._now = max(self._now, chunk.t_arrived)
        if i == 0:
            self._first.append(chunk)
            self._heard, self._t_last = self._now, chunk.t_last
        else:
            self._others[i - 1].add(chunk)
        joined = list(self._join())
        self._give_up()
        return joined

    def _join(self) -> Iterator[Chunk]:
        """Join what waits of the first stream, as far as all others have come."""
        while self._first:
            chunk = self._first[0]
            found = [other.find(_times(chunk)) for other in self._others]
            known = min(len(rows) for rows in found)
            if known == 0:
                return
            found = [rows[:known] for rows in found]
            runs = np.stack([other.runs(rows) for other, rows in zip(self._others, found, strict=True)], axis=1)
            borders = 1 + np.flatnonzero((runs[1:] != runs[:-1]).any(axis=1))
            for start, stop in pairwise([0, *borders.tolist(), known]):
                if (runs[start] == _NO_RUN).any():
                    self._given_up += stop - start
                else:
                    rows_of_part = [rows[start:stop] for rows in found]
                    yield from self._joined(_part(chunk, start, stop), rows_of_part, tuple(runs[start].tolist()))
            self._first.popleft()
            if known < chunk.n_times:
                self._first.appendleft(_part(chunk, known, chunk.n_times))

    def _joined(self, chunk: Chunk, found: Sequence[IntArray], runs: tuple[int, ...]) -> Iterator[Chunk]:
        """A chunk of the first stream with its partners beside it, parted so that filled samples are the first."""
        follows = (chunk.run, *runs, chunk.start)
        self._run += follows != self._expected
        self._expected = (*follows[:-1], chunk.start + chunk.n_times)
        taken = [other.take(_times(chunk), rows) for other, rows in zip(self._others, found, strict=True)]
        filled = np.any([_filled(chunk), *(filled for _, filled in taken)], axis=0)
        joined = replace(
            chunk,
            info=self.info,
            data=np.concatenate([chunk.data, *(data for data, _ in taken)], axis=1, dtype=np.float64),
            t_arrived=self._now,
            run=self._run,
        )
        gaps = 1 + np.flatnonzero(filled[1:] & ~filled[:-1])
        for start, stop in pairwise([0, *gaps.tolist(), len(filled)]):
            yield replace(_part(joined, start, stop), n_missing=int(np.count_nonzero(filled[start:stop])))

    def _give_up(self) -> None:
        """Drop what has waited too long and what nothing more can need."""
        limit = self._now - self._max_wait_s
        while self._first and self._first[0].t_arrived < limit:
            self._given_up += self._first.popleft().n_times
        t_next = self._first[0].t0 if self._first else self._t_last
        for other in self._others:
            other.forget_before(t_next)
            if self._heard < limit:
                other.forget_arrived_before(limit)


class _Partner:
    """What is held of a stream other than the first: a table with a row for each sample."""

    def __init__(self, info: StreamInfo) -> None:
        columns = [("t", "f8"), ("run", "i8"), ("filled", "?"), ("used", "?"), ("t_arrived", "f8")]
        self.n_unused = 0
        self._sfreq = info.sfreq
        self._held = np.empty(0, [*columns, ("data", "f8", (info.n_chans,))])

    @property
    def n_waiting(self) -> int:
        return int(np.count_nonzero(~self._held["used"]))

    def add(self, chunk: Chunk) -> None:
        new = np.zeros(chunk.n_times, self._held.dtype)
        new["t"], new["data"], new["filled"] = _times(chunk), chunk.data, _filled(chunk)
        new["run"], new["t_arrived"] = chunk.run, chunk.t_arrived
        if len(self._held) and chunk.run != self._held["run"][-1] and chunk.t0 <= self._held["t"][-1]:
            self._drop(len(self._held))  # the clock was set back: those times come again
        self._held = np.concatenate([self._held, new])
        self._held["t"] = np.maximum.accumulate(self._held["t"])

    def find(self, t: Float64Array) -> IntArray:
        """For each of the ascending times, as far as all taps for it are there, the row of the sample at or before."""
        rows = np.searchsorted(self._held["t"], t + _SAME / self._sfreq, side="right") - 1
        return rows[rows + _HALF < len(self._held)]

    def runs(self, rows: IntArray) -> IntArray:
        """The run that all taps of each row belong to, or `_NO_RUN`."""
        oldest, newest = rows + _TAPS[0], rows + _TAPS[-1]
        run = self._held["run"]
        return np.where((oldest >= 0) & (run[np.maximum(oldest, 0)] == run[newest]), run[newest], _NO_RUN)

    def take(self, t: Float64Array, rows: IntArray) -> tuple[Float64Array, BoolArray]:
        """Values at these times, `(n_times, n_chans)`, and which of them were filled in."""
        held = self._held
        fraction = (t - held["t"][rows]) / (held["t"][rows + 1] - held["t"][rows])
        held["used"][rows] = held["used"][rows + 1] = True
        windows = held["data"][rows[:, np.newaxis] + _TAPS]
        return np.einsum("nk,nkc->nc", _weights(fraction), windows), held["filled"][rows + (fraction >= 0.5)]

    def forget_before(self, t: float) -> None:
        """Drop all that is no neighbour of anything after `t`."""
        self._drop(int(np.searchsorted(self._held["t"], t, side="right")) - _HALF)

    def forget_arrived_before(self, t: float) -> None:
        """Drop all that came before `t`."""
        self._drop(int(np.searchsorted(self._held["t_arrived"], t)))

    def _drop(self, n: int) -> None:
        if n > 0:
            self.n_unused += int(np.count_nonzero(~self._held["used"][:n]))
            self._held = self._held[n:]


def _weights(fraction: Float64Array) -> Float64Array:
    """`(n, 2 * _HALF)`: the taps for values that far behind a sample; a constant passes exactly."""
    x = fraction[:, np.newaxis] - _TAPS
    window = np.i0(_BETA * np.sqrt(np.maximum(1 - (x / _HALF) ** 2, 0)))
    taps = np.sinc(x) * window
    weights: Float64Array = taps / taps.sum(axis=1, keepdims=True)
    return weights


def _times(chunk: Chunk) -> Float64Array:
    times: Float64Array = chunk.t0 + np.arange(chunk.n_times) / chunk.info.sfreq
    return times


def _filled(chunk: Chunk) -> BoolArray:
    """Which samples were filled in; the first, for a chunk only says how many."""
    return np.arange(chunk.n_times) < chunk.n_missing


def _part(chunk: Chunk, start: int, stop: int) -> Chunk:
    return replace(
        chunk,
        data=chunk.data[start:stop],
        start=chunk.start + start,
        t0=chunk.t0 + start / chunk.info.sfreq,
        n_missing=min(max(chunk.n_missing - start, 0), stop - start),
    )


def _join_infos(infos: Sequence[StreamInfo], prefixes: Sequence[str] | None) -> StreamInfo:
    if len(infos) < 2:
        raise ContractError(f"{len(infos)} streams cannot be joined: name at least two")
    if prefixes is not None and len(prefixes) != len(infos):
        raise ContractError(f"{len(prefixes)} prefixes do not fit {len(infos)} streams: give one for each, '' for none")
    first = infos[0]
    for other in infos[1:]:
        if other.sfreq != first.sfreq or not first.sfreq > 0:
            raise ContractError(
                f"stream {first.name!r} at {first.sfreq:g} Hz and stream {other.name!r} at {other.sfreq:g} Hz cannot "
                "be joined: resample both to one rate first"
            )
    marked = zip(infos, prefixes or [""] * len(infos), strict=True)
    names = tuple(prefix + name for info, prefix in marked for name in info.ch_names)
    folded = [name.casefold() for name in names]
    if twice := sorted({name for name, key in zip(names, folded, strict=True) if folded.count(key) > 1}):
        raise ContractError(
            f"more than one of the streams {', '.join(repr(info.name) for info in infos)} has {', '.join(twice)}: "
            "set prefixes that tell their channels apart, or pick other channels"
        )
    return replace(
        first,
        name="&".join(info.name for info in infos),
        source_id="&".join(info.source_id for info in infos),
        montage=Montage(names, np.concatenate([info.montage.ch_pos for info in infos])),
        uid="",
    )
