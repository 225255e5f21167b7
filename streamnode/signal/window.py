"""Epochs prepared as training data were: the offline preprocessing, on the raw window and a margin before it.

Nothing is filtered as it comes. Once the last raw sample of an epoch is here, and `lookahead_s` more, the raw samples
from `margin_s` before the epoch on are taken as a recording of their own, and the part that is the epoch is cut out:

    |<------- margin ------->|<---- epoch ---->|<- lookahead ->|
                             t0            t_last              newest sample

Epochs are laid out in source time: the first begins with its run, the others a hop after the one before, to the whole
source sample. `start` counts these hops, so that epochs can be joined. `t0` and `t_last` are the exact times of the
first and the last prepared sample, which the rounding to whole samples puts up to two off that grid.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, replace

import numpy as np

from streamnode.errors import ContractError
from streamnode.signal.filters import BoolArray
from streamnode.signal.level import Counting, Squares
from streamnode.signal.offline import Preprocessing
from streamnode.types import Chunk, Clock, Epoch, Float32Array, Float64Array, FloatArray, StreamInfo


class WindowEpocher:
    """Cuts epochs out of raw samples and prepares each by itself.

    An epoch is marked as settling when its run does not reach back as far as the margin. A sample that is not finite is
    bridged by a straight line; the epochs that hold it have that channel NaN.

    Args:
        info: the incoming stream, with the channels of the model.
        prepare: the offline preprocessing, for the rate of `info`.
        n_times: samples in an epoch, at the outgoing rate.
        hop: samples from one epoch to the next, at the outgoing rate.
        margin_s: how much of the signal before an epoch is prepared with it.
        lookahead_s: how much of the signal after an epoch is waited for and prepared with it.
        clock: LSL clock, read when an epoch is cut.
        first_seq: number of the first epoch, for an epocher that takes over from another.
        counting: whose standard deviation, in all that is prepared with an epoch, it takes along; None goes without.

    Raises:
        ContractError: an epoch or a hop is less than one sample, or margin or lookahead are negative.
    """

    def __init__(
        self,
        info: StreamInfo,
        prepare: Preprocessing,
        *,
        n_times: int,
        hop: int,
        margin_s: float,
        lookahead_s: float = 0.0,
        clock: Clock,
        first_seq: int = 0,
        counting: Counting | None = None,
    ) -> None:
        if min(n_times, hop) < 1 or min(margin_s, lookahead_s) < 0:
            raise ContractError(
                f"epochs of {n_times} samples every {hop}, {margin_s:g} s after the start and {lookahead_s:g} s before "
                "the end of what is prepared, cannot be cut: make the first two at least 1 and the others at least 0"
            )
        self.info = replace(info, sfreq=prepare.sfreq_out)
        self._prepare = prepare
        self._sfreq = info.sfreq
        self._n_times, self._hop = n_times, hop
        self._window = self._source_samples(n_times)
        self._margin, self._lookahead = round(margin_s * info.sfreq), round(lookahead_s * info.sfreq)
        self.delay_s = self._lookahead / info.sfreq
        self.settling_s = self._margin / info.sfreq
        self._clock = clock
        self._tail = _Tail(info.n_chans, self._margin + self._window + self._lookahead)
        self._gaps: deque[_Gap] = deque()
        self._seq = first_seq
        self._counting = counting
        self._run: int | None = None
        self._origin = self._cut_so_far = 0

    def __call__(self, chunk: Chunk) -> list[Epoch]:
        """Take in the next samples and return the epochs they complete, in order."""
        if chunk.n_times == 0:
            return []
        if chunk.run != self._run:
            self._begin(chunk)
        if chunk.n_missing:
            self._gaps.append(_Gap(chunk.start, chunk.start + chunk.n_times, chunk.n_missing))
        epochs: list[Epoch] = []
        stop = chunk.start + chunk.n_times
        while self._tail.end < stop:
            done = self._tail.end - chunk.start
            self._tail.append(chunk.data[done : min(self._due, stop) - chunk.start])
            while self._tail.end == self._due:
                epochs.append(self._cut(chunk))
                self._cut_so_far += 1
        return epochs

    @property
    def measures_std(self) -> bool:
        """Whether epochs take a standard deviation along."""
        return self._counting is not None

    @property
    def _stop(self) -> int:
        """The source sample after the next epoch."""
        return self._origin + self._source_samples(self._n_times + self._cut_so_far * self._hop)

    @property
    def _due(self) -> int:
        """The source sample after the last one that the next epoch waits for."""
        return self._stop + self._lookahead

    def _source_samples(self, n_times: int) -> int:
        """The fewest source samples that span so many outgoing ones."""
        return math.ceil(n_times * self._sfreq / self.info.sfreq - 1e-6)

    def _begin(self, chunk: Chunk) -> None:
        self._run, self._origin, self._cut_so_far = chunk.run, chunk.start, 0
        self._tail.reset(chunk.start)
        self._gaps.clear()

    def _cut(self, chunk: Chunk) -> Epoch:
        """The epoch that is due now; the newest sample it needs is in `chunk`."""
        begin = self._stop - self._window
        first = max(self._origin, begin - self._margin)
        segment = np.ascontiguousarray(self._tail.window(first, self._due).T)
        finite = np.isfinite(segment)
        prepared = self._prepare(segment if finite.all() else _bridge(segment, finite))
        grid = self._prepare.grid(segment.shape[1])
        stop = max(self._n_times, grid.n_times - round(self._lookahead * self.info.sfreq / self._sfreq))
        data = prepared[:, stop - self._n_times : stop].astype(np.float32)
        data[~finite[:, begin - first : self._stop - first].all(axis=1)] = np.nan
        place = first + grid.first + np.array([stop - self._n_times, stop - 1]) * grid.step
        t0, t_last = chunk.t0 + (place - chunk.start) / self._sfreq
        epoch = Epoch(
            info=self.info,
            data=data,
            seq=self._seq,
            start=round(self._origin * self.info.sfreq / self._sfreq) + self._cut_so_far * self._hop,
            t0=float(t0),
            t_last=float(t_last),
            t_arrived=chunk.t_arrived,
            t_epoch=self._clock(),
            run=chunk.run,
            n_missing=self._count_missing(begin, self._stop),
            settling=begin - self._margin < self._origin,
            std_uv=self._std_of(prepared, data),
        )
        self._seq += 1
        return epoch

    def _std_of(self, prepared: Float64Array, data: Float32Array) -> float | None:
        """What an epoch takes along, of all that was prepared with it."""
        return None if self._counting is None else Squares.of(prepared, self._counting.rows(data, self.info)).std

    def _count_missing(self, start: int, stop: int) -> int:
        """Missing samples of an epoch, at the outgoing rate, rounded up."""
        while self._gaps and self._gaps[0].stop <= start:
            self._gaps.popleft()
        missing = sum(gap.within(start, stop) for gap in self._gaps)
        return min(math.ceil(missing * self.info.sfreq / self._sfreq - 1e-6), self._n_times)


@dataclass(frozen=True, slots=True)
class _Gap:
    """Samples among which some are missing."""

    start: int
    stop: int
    n_missing: int

    def within(self, start: int, stop: int) -> int:
        """How many of the missing may lie in here."""
        shared = min(self.stop, stop) - max(self.start, start)
        return min(self.n_missing, max(shared, 0))


class _Tail:
    """The latest samples of a run in float64, in one piece.

    They are written one after the other into twice the room, and moved to its front when that is full.

    Args:
        n_chans: number of channels.
        n_times: how many samples it holds.
    """

    def __init__(self, n_chans: int, n_times: int) -> None:
        self._rows = np.empty((2 * n_times, n_chans))
        self._capacity = n_times
        self.reset(0)

    def reset(self, start: int) -> None:
        """Forget all samples; the next one appended gets the index `start`."""
        self._used = 0
        self.end = start

    @property
    def first(self) -> int:
        """Index of the oldest sample still held."""
        return self.end - min(self._used, self._capacity)

    def append(self, data: FloatArray) -> None:
        """Add the next samples, `(n_times, n_chans)`; the oldest make room."""
        self.end += len(data)
        data = data[-self._capacity :]
        if self._used + len(data) > len(self._rows):
            kept = min(self._used, self._capacity)
            self._rows[:kept] = self._rows[self._used - kept : self._used]
            self._used = kept
        self._rows[self._used : self._used + len(data)] = data
        self._used += len(data)

    def window(self, start: int, stop: int) -> Float64Array:
        """`(stop - start, n_chans)`, a view that the next `append` overwrites."""
        row = self._used - self.end
        return self._rows[row + start : row + stop]


def _bridge(data: Float64Array, finite: BoolArray) -> Float64Array:
    """Replace what is not finite by a straight line between its neighbours in the channel; by 0 if there are none."""
    bridged = np.where(finite, data, 0.0)
    for row in np.flatnonzero(~finite.all(axis=1) & finite.any(axis=1)):
        there, lost = np.flatnonzero(finite[row]), np.flatnonzero(~finite[row])
        bridged[row, lost] = np.interp(lost, there, data[row, there])
    return bridged
