"""Epochs that do not overlap, put together again: one array, or a recording with its annotations."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np

from streamnode.offline.run import Outcome
from streamnode.results import Results
from streamnode.sources.pacing import Annotation
from streamnode.sources.replay import Recording
from streamnode.types import Float32Array


def reconstruction_of(recording: Recording, outcome: Outcome) -> Recording:
    """Reconstructed epochs that do not overlap as a recording; zero where one was left out.

    The annotations come with it, from the first epoch on. `rebuilt/Cz` marks where a channel has nothing but the model
    behind it, and `BAD_ACQ_SKIP`, as MNE-Python has it, where the recording was interrupted.
    """
    tables, meta = outcome.results.tables, outcome.results.meta
    assert meta.reconstructed is not None
    data, t0 = continuous(outcome.results, "reconstruction").T, float(tables["epoch/t0"][0])
    events = [*recording.annotations, *_gaps(recording)]
    events = [_clipped(event, t0) for event in events if event.t_s >= t0 or event.t_s + event.duration_s > t0]
    events += _rebuilt_spans(outcome.results, meta.reconstructed.ch_names)
    info = replace(recording.info, sfreq=meta.sfreq, montage=meta.reconstructed)
    return Recording(info, np.ascontiguousarray(data), tuple(sorted(events)))


def _clipped(event: Annotation, t0: float) -> Annotation:
    """What of an annotation is not before `t0`, counted from there."""
    late_s = max(0.0, t0 - event.t_s)
    return event._replace(t_s=event.t_s + late_s - t0, duration_s=event.duration_s - late_s)


def _gaps(recording: Recording) -> Iterator[Annotation]:
    """From when to when nobody recorded."""
    sfreq = recording.info.sfreq
    for before, after in pairwise(recording.spans):
        yield Annotation(before.stop / sfreq, (after.start - before.stop) / sfreq, "BAD_ACQ_SKIP")


def continuous(results: Results, name: str) -> Float32Array:
    """`(n_rows, n_times)`: epochs of a table that do not overlap, each in its place; zero where one was left out."""
    rows, epochs = results.tables["epoch/start"] - results.tables["epoch/start"][0], results.tables[name]
    data = np.zeros((epochs.shape[1], rows[-1] + epochs.shape[2]), np.float32)
    for row, epoch in zip(rows, epochs, strict=True):
        data[:, row : row + epoch.shape[1]] = epoch
    return data


def before_and_after(results: Results) -> tuple[Float32Array, Float32Array, list[str]]:
    """The channels that were rebuilt in any epoch, `(n_rows, n_times)` each, and their names; NaN where none was."""
    tables, drawn = results.tables, results.meta.reconstructed
    if drawn is None or "rebuilt" not in tables:
        return np.empty((0, 0), np.float32), np.empty((0, 0), np.float32), []
    rows = np.flatnonzero(tables["rebuilt"].any(axis=0))
    before, after = continuous(results, "original"), continuous(results, "reconstruction")
    before = np.pad(before, ((0, len(after) - len(before)), (0, 0)), constant_values=np.nan)
    return before[rows], after[rows], [drawn.ch_names[row] for row in rows]


def _rebuilt_spans(results: Results, ch_names: Sequence[str]) -> Iterator[Annotation]:
    """From when to when each channel was rebuilt; none lasts from one run to the next."""
    tables, duration_s = results.tables, results.meta.duration_s
    for name, rebuilt in zip(ch_names, tables.get("rebuilt", np.empty((0, 0))).T, strict=False):
        t0, run = tables["epoch/t0"][rebuilt] - tables["epoch/t0"][0], tables["epoch/run"][rebuilt]
        ends = (np.diff(t0) > 1.5 * duration_s) | (np.diff(run) != 0)
        for span in np.split(t0, np.flatnonzero(ends) + 1):
            if len(span):
                yield Annotation(float(span[0]), float(span[-1] - span[0]) + duration_s, f"rebuilt/{name}")
