"""Cuts epochs of fixed length around the events of a stream of markers.

Markers and samples come over different connections: a marker may be here before its samples, with them or after
them, and markers may overtake each other. Which epochs are cut, and which are not for what reason, does not depend on
it, as long as no marker comes later than the history that is kept.
"""

from __future__ import annotations

import math
from bisect import bisect_right, insort
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from operator import attrgetter

from streamnode.errors import ContractError
from streamnode.signal.ring import RingBuffer
from streamnode.types import Chunk, Clock, Epoch, Marker, StreamInfo

_MAX_WAITING = 1024  # ahead of their samples: an hour without the amplifier at an event every four seconds


@dataclass(slots=True)
class _Run:
    """A run in the ring, whose places count on from run to run."""

    number: int
    first: int
    end: float = math.inf
    next_t0: float = math.inf


@dataclass(frozen=True, slots=True)
class _Span:
    """The samples of one chunk in the ring, from place `first` up to `end`."""

    run: _Run
    first: int
    end: int
    start: int
    t0: float
    sfreq: float
    t_arrived: float
    n_missing: int

    def reaches(self, t: float) -> bool:
        """Whether the sample nearest to `t` is here or before."""
        return (t - self.t0) * self.sfreq < self.end - self.first - 0.5

    def nearest(self, t: float) -> int:
        return self.first + math.floor((t - self.t0) * self.sfreq + 0.5)

    def time(self, place: int) -> float:
        return self.t0 + (place - self.first) / self.sfreq


@dataclass(frozen=True, slots=True)
class _Window:
    """An epoch to be: its marker, its first sample, and the chunk that has it."""

    marker: Marker
    first: int
    span: _Span


class MarkerEpocher:
    """Yields an epoch for every marker that matches, as soon as its last sample and the marker are there.

    The first sample is the one nearest to the time of the marker plus `tmin_s`, by the stamps of the chunk that holds
    it: half a sample off at most, and the later one of two equally near. Epochs may overlap or coincide; they come in
    the order of their samples. None crosses from one run to the next.

    Args:
        info: the stream as the model sees it.
        n_times: samples in an epoch.
        tmin_s: where the epoch begins, seconds after the marker; negative is before it.
        pattern: which labels count, such as `stim/*`, or several such patterns; case matters.
        clock: LSL clock, read when an epoch is cut.
        settling_s: epochs that begin less than this after the start of their run are marked as settling.
        first_seq: number of the first epoch, for an epocher that takes over from another.
        history_s: seconds of samples that may come between the end of an epoch and its marker.

    Attributes:
        dropped: how many matching markers got no epoch, by reason: `before_run`, the window begins before the run;
            `run_ended`, the run ended within the window; `too_late`, the samples are no longer held; `backlog`, too
            many markers were ahead of their samples; `not_finite`, the marker has no time.

    Raises:
        ContractError: an epoch is less than one sample, the history is negative, or there is no pattern.
    """

    def __init__(
        self,
        info: StreamInfo,
        *,
        n_times: int,
        tmin_s: float,
        pattern: str | Sequence[str],
        clock: Clock,
        settling_s: float = 0.0,
        first_seq: int = 0,
        history_s: float = 10.0,
    ) -> None:
        if n_times < 1:
            raise ContractError(f"epochs of {n_times} samples cannot be cut: make it at least 1")
        if not history_s >= 0:
            raise ContractError(f"a history of {history_s:g} s cannot be kept: make it 0 or more")
        if not pattern:
            raise ContractError("no marker matches no pattern: give at least one, or '*' for all markers")
        self.info = info
        self.dropped: Counter[str] = Counter()
        self._n_times = n_times
        self._tmin_s = tmin_s
        self._patterns = (pattern,) if isinstance(pattern, str) else tuple(pattern)
        self._clock = clock
        self._settling = settling_s * info.sfreq
        self._seq = first_seq
        self._ring = RingBuffer(info.n_chans, n_times + round(history_s * info.sfreq))
        self._run: _Run | None = None
        self._spans: list[_Span] = []  # of all samples in the ring
        self._ahead: list[Marker] = []  # whose windows begin after the newest sample
        self._begun: list[_Window] = []  # whose last samples are still to come

    @property
    def n_waiting(self) -> int:
        """Markers whose samples are still to come."""
        return len(self._ahead) + len(self._begun)

    def add_marker(self, marker: Marker) -> list[Epoch]:
        """Take in a marker and return its epoch if all the samples are there already."""
        if not any(fnmatchcase(marker.label, pattern) for pattern in self._patterns):
            return []
        t = marker.t + self._tmin_s
        if not math.isfinite(t):
            self.dropped["not_finite"] += 1
            return []
        span = next((span for span in self._spans if span.reaches(t)), None)
        if span is not None:
            self._place(marker, span)
            return self._cut_up_to(self._ring.end)
        insort(self._ahead, marker, key=attrgetter("t", "label"))
        if len(self._ahead) > _MAX_WAITING:
            del self._ahead[0]
            self.dropped["backlog"] += 1
        return []

    def __call__(self, chunk: Chunk) -> list[Epoch]:
        """Take in the next samples and return the epochs they complete, in order."""
        if chunk.n_times == 0:
            return []
        span = self._open(chunk)
        while self._ahead and span.reaches(self._ahead[0].t + self._tmin_s):
            self._place(self._ahead.pop(0), span)
        epochs: list[Epoch] = []
        while self._ring.end < span.end:  # in steps, for a chunk may be longer than the ring
            due = self._begun[0].first + self._n_times if self._begun else span.end
            stop = min(due, span.end)
            self._ring.append(chunk.data[self._ring.end - span.first : stop - span.first])
            epochs += self._cut_up_to(stop)
        del self._spans[: bisect_right(self._spans, self._ring.first, key=attrgetter("end"))]
        return epochs

    def end(self, heir: MarkerEpocher | None = None) -> None:
        """No more samples come: markers that are ahead of them go to the heir, which has had none yet.

        Without an heir they are counted as dropped, as are those that have only a part of their samples.
        """
        ahead, begun = self._ahead, self._begun
        self._ahead, self._begun = [], []
        self.dropped["run_ended"] += len(begun)
        if heir is None:
            self.dropped["run_ended"] += len(ahead)
        else:
            heir._ahead = ahead  # noqa: SLF001  (one of its kind)

    def _open(self, chunk: Chunk) -> _Span:
        """A place in the ring for a chunk; if it begins a run, nothing more comes of the windows of the one before."""
        first = self._ring.end
        if self._run is None or chunk.run != self._run.number:
            if self._run is not None:
                self._run.end, self._run.next_t0 = first, chunk.t0
            begun, self._begun = self._begun, []
            for window in begun:
                self._place(window.marker, window.span)
            self._run = _Run(chunk.run, first)
        span = _Span(
            run=self._run,
            first=first,
            end=first + chunk.n_times,
            start=chunk.start,
            t0=chunk.t0,
            sfreq=chunk.info.sfreq,
            t_arrived=chunk.t_arrived,
            n_missing=chunk.n_missing,
        )
        self._spans.append(span)
        return span

    def _place(self, marker: Marker, span: _Span) -> None:
        """Begin the window of a marker, whose first sample is in `span`, or count why there can be none."""
        first, run = span.nearest(marker.t + self._tmin_s), span.run
        if span.first > run.first and span is not self._spans[0]:
            first = max(first, span.first)  # what comes before was not reached by the chunks before
        if first < run.first:
            self.dropped["before_run"] += 1
        elif first < self._ring.first:
            self.dropped["too_late"] += 1
        elif first + self._n_times > run.end:
            self.dropped["before_run" if marker.t >= run.next_t0 else "run_ended"] += 1
        else:
            insort(self._begun, _Window(marker, first, span), key=lambda w: (w.first, w.marker.t, w.marker.label))

    def _cut_up_to(self, end: int) -> list[Epoch]:
        """The epochs of all windows that are complete at `end`."""
        epochs = []
        while self._begun and self._begun[0].first + self._n_times <= end:
            epochs.append(self._cut(self._begun.pop(0)))
        return epochs

    def _cut(self, window: _Window) -> Epoch:
        first, stop = window.first, window.first + self._n_times
        spans = self._spans[self._index(first) : self._index(stop - 1) + 1]
        shares = [min(min(span.end, stop) - max(span.first, first), span.n_missing) for span in spans]
        epoch = Epoch(
            info=self.info,
            data=self._ring.window(first, stop).T.copy(order="C"),
            seq=self._seq,
            start=window.span.start + first - window.span.first,
            t0=window.span.time(first),
            t_last=spans[-1].time(stop - 1),
            t_arrived=spans[-1].t_arrived,
            t_epoch=self._clock(),
            run=window.span.run.number,
            n_missing=sum(shares),
            settling=first - window.span.run.first < self._settling,
            marker=window.marker,
        )
        self._seq += 1
        return epoch

    def _index(self, place: int) -> int:
        """Which of the spans holds a place."""
        return bisect_right(self._spans, place, key=attrgetter("first")) - 1
