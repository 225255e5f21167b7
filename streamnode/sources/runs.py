"""Where a recording was interrupted: by the stamps of its samples, by what its file says of time, or by its marks."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from streamnode.signal.timebase import Span, TimeBase
from streamnode.sources.edf_header import ANNOTATIONS, EdfHeader
from streamnode.sources.pacing import Annotation
from streamnode.types import Float64Array

_SHORT_S = 0.1  # no run ends for less: what live streams fill in by default
_HINDSIGHT_S = 6.0  # so long a time base takes to find a gap, and no longer
_AT_ONCE_S = 0.1  # of stamps, as an inlet would hand them on
_BURST = 0.1  # of the nominal period: where stamps rise by less a sample, they tell when all came, and no rate

_SKIP = re.compile("bad_acq_skip", re.IGNORECASE)
_JOIN = re.compile("edge|bad boundary", re.IGNORECASE)
_BOUNDARY = re.compile(r"boundary|-99(\.0)?")  # the number where types of events are numbers
_HAIR = 1e-3  # of a sample, by which seconds may round a mark off its place


class Run(NamedTuple):
    """Samples of a recording that follow each other without a break.

    Attributes:
        row: of the first of them, among all samples.
        start: its index in time, which counts what is missing between runs.
    """

    row: int
    start: int


WHOLE = (Run(0, 0),)
"""The runs of a recording without interruptions."""


def runs_of_stamps(stamps: Float64Array, sfreq: float) -> tuple[NDArray[np.intp], tuple[Run, ...]]:
    """What a node would have made of a stream with these stamps (see `signal.timebase`).

    Args:
        stamps: `(n_times,)` seconds on the clock of the source, as they were received.
        sfreq: nominal, Hz.

    Returns:
        Which samples to take, in order: the last before a short gap again in place of those missing, none that came
        twice. And the runs of what was taken.
    """
    timebase = TimeBase(sfreq, max_fill=round(_SHORT_S * sfreq))
    n_times, taken, runs = max(1, round(_AT_ONCE_S * sfreq)), list[NDArray[np.intp]](), list[Run]()
    n_taken, number = 0, -1
    for row in range(0, len(stamps), n_times):
        part = stamps[row : row + n_times]
        for span in timebase.add(part, float(part[-1])):
            rows = _rows(span, row)
            if span.run != number:
                runs.append(Run(n_taken, span.start))
                number = span.run
            taken.append(rows)
            n_taken += len(rows)
    rows = np.concatenate(taken)
    return rows, _sharpened(runs, stamps[rows], sfreq)


def _sharpened(runs: list[Run], stamps: Float64Array, sfreq: float) -> tuple[Run, ...]:
    """The same runs, each from where the stamps leap: a gap shorter than a hiccup may be is found a while behind it."""
    sharp = runs[:1]
    for run in runs[1:]:
        last = sharp[-1]
        missing_s = (run.start - last.start - (run.row - last.row)) / sfreq
        back = max(last.row + 1, run.row - round(_HINDSIGHT_S * sfreq))
        steps = np.diff(stamps[back - 1 : run.row + 1])
        late = len(steps) - 1 - int(steps.argmax()) if steps.max() > missing_s / 2 > 0 else 0
        sharp.append(Run(run.row - late, run.start - late))
    return tuple(sharp)


def _rows(span: Span, first: int) -> NDArray[np.intp]:
    """The samples of a span and before it, for each that is missing, the one before."""
    rows = np.arange(first + span.rows.start - span.n_missing, first + span.rows.stop)
    return rows.clip(min=first + span.rows.start - (span.n_missing > 0))


def places_of(times: Sequence[float], stamps: Float64Array, runs: tuple[Run, ...], sfreq: float) -> list[float]:
    """Where events with these stamps lie among samples with those, as indices in time; not whole ones, and beyond too.

    As stamps jitter, what counts is the line through all those of the last run that had begun.
    """
    lines = [_line(part, sfreq) for part in np.split(stamps, [run.row for run in runs[1:]])]
    began = [t0 for t0, _ in lines]
    numbers = np.searchsorted(began, times, "right").clip(min=1) - 1
    return [runs[i].start + (t - lines[i][0]) / lines[i][1] for t, i in zip(times, numbers, strict=True)]


def _line(stamps: Float64Array, sfreq: float) -> tuple[float, float]:
    """Time of the first sample, and from one to the next, by all their stamps."""
    if len(stamps) < 2:
        return float(stamps[0]), 1 / sfreq
    line = np.polynomial.Polynomial.fit(np.arange(len(stamps)), stamps, 1)
    period_s = float(line.deriv()(0))
    return float(line(0)), period_s if period_s * sfreq > _BURST else 1 / sfreq


def runs_of_records(path: Path, sfreq: float) -> tuple[Run, ...]:
    """The runs of an EDF or BDF file, at the rate at which it is read; a file that is not of kind `+D` has one.

    Each record of a discontinuous file (EDF+, section 2.2.4) begins its first signal of annotations with the time at
    which it was recorded.

    Raises:
        ValueError: a record does not say when it was recorded, or the header is not one.
    """
    header = EdfHeader.of(path)
    if not header.is_interrupted:
        return WHOLE
    teller = next(i for i, label in enumerate(header.labels) if label in ANNOTATIONS)
    width = ANNOTATIONS[header.labels[teller]]
    first, n_told = width * sum(header.n_times[:teller]), width * header.n_times[teller]
    contents = np.memmap(path, np.uint8, "r", offset=header.n_bytes)
    n_bytes = width * sum(header.n_times)
    n_records = len(contents) // n_bytes
    records = contents[: n_records * n_bytes].reshape(n_records, -1)
    onsets = np.array([float(record.tobytes().split(b"\x14")[0]) for record in records[:, first : first + n_told]])
    return _of_onsets(onsets, header.record_s, sfreq)


def _of_onsets(onsets: Float64Array, record_s: float, sfreq: float) -> tuple[Run, ...]:
    """The runs of records that begin at these times, seconds; no record of a run is off its time by more than short."""
    n_times = round(record_s * sfreq)
    runs, begun = list(WHOLE), 0  # the record with which the last of them begins
    for number, onset in enumerate(onsets):
        if abs(onset - onsets[begun] - (number - begun) * record_s) > _SHORT_S:
            row, last, begun = number * n_times, runs[-1], number
            runs.append(Run(row, max(round((onset - onsets[0]) * sfreq), last.start + row - last.row)))
    return tuple(runs)


class Marked(NamedTuple):
    """A recording as its marks part it.

    Attributes:
        taken: `(n_times,)` which of the samples that a file holds were ever recorded.
        runs: of these.
        others: the annotations that are no such marks; their times count interruptions.
    """

    taken: NDArray[np.bool_]
    runs: tuple[Run, ...]
    others: list[Annotation]


def runs_of_marks(marks: Sequence[Annotation], n_times: int, sfreq: float, *, eeglab: bool = False) -> Marked:
    """The runs that annotations tell of.

    Those of MNE-Python (`mne.Annotations`, and the default of `skip_by_annotation` of its filters) are `BAD_ACQ_SKIP`
    over samples that nobody recorded, in whose place are zeros, and `EDGE boundary` or `BAD boundary` where two
    recordings were joined, and nobody knows how much lies between. In a file of EEGLAB a `boundary`, or the number -99,
    is between two samples and lasts as long as what was cut out there, if that is known; the latencies of other events
    leave it out.

    Args:
        marks: all annotations, `t_s` by the samples that the file holds.
        n_times: how many samples it holds.
        sfreq: Hz.
        eeglab: whether the file is one of EEGLAB; `boundary` may mean anything elsewhere.
    """
    taken, begins, n_cut = np.ones(n_times, np.bool_), np.zeros(n_times + 1, np.bool_), np.zeros(n_times + 1, np.intp)
    others = list[Annotation]()
    for mark in marks:
        n_marked = round(mark.duration_s * sfreq) if mark.duration_s > 0 else 0
        first = math.ceil(mark.t_s * sfreq - _HAIR)
        row, stop = (min(max(0, bound), n_times) for bound in (first, first + n_marked))
        if _SKIP.match(mark.description):
            taken[row:stop] = False
            begins[stop] = True
        elif _JOIN.match(mark.description):
            begins[row] = True
        elif eeglab and _BOUNDARY.fullmatch(mark.description):
            begins[row] = True
            n_cut[row] += n_marked
        else:
            others.append(mark)
    rows = np.flatnonzero(taken)
    if len(others) == len(marks) or not len(rows):
        return Marked(taken, WHOLE, others)
    places = np.arange(n_times + 1) + n_cut.cumsum()
    places -= places[rows[0]]
    begins[rows[0]] = True
    runs = tuple(Run(int(number), int(places[rows[number]])) for number in np.flatnonzero(begins[rows]))
    return Marked(taken, runs, [_moved(mark, places, sfreq) for mark in others])


def _moved(mark: Annotation, places: NDArray[np.intp], sfreq: float) -> Annotation:
    """An annotation where it belongs once each sample has its place."""
    row = min(max(0, math.floor(mark.t_s * sfreq + _HAIR)), len(places) - 1)
    return mark._replace(t_s=mark.t_s + float(places[row] - row) / sfreq)
