"""Cutting epochs around markers."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import count
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from streamnode.errors import ContractError
from streamnode.signal.markers import MarkerEpocher
from streamnode.types import Chunk, Epoch, Marker
from tests.signal import T0, as_chunk, cut, noise, stream

SFREQ = 250
INFO = stream(SFREQ)


def epocher(
    n_times: int = 50,
    tmin_s: float = 0.0,
    pattern: str | Sequence[str] = "*",
    history_s: float = 10.0,
    settling_s: float = 0.0,
) -> MarkerEpocher:
    return MarkerEpocher(
        INFO,
        n_times=n_times,
        tmin_s=tmin_s,
        pattern=pattern,
        clock=map(float, count()).__next__,
        settling_s=settling_s,
        history_s=history_s,
    )


def at(sample: float, label: str = "stim") -> Marker:
    """A marker at the time of a sample, as `as_chunk` has it."""
    return Marker(label, T0 + sample / SFREQ)


def feed(cutter: MarkerEpocher, items: Sequence[Chunk | Marker]) -> list[Epoch]:
    return [
        epoch for item in items for epoch in (cutter.add_marker(item) if isinstance(item, Marker) else cutter(item))
    ]


def gist(epoch: Epoch) -> tuple[int, int, str, float, bytes]:
    label = epoch.marker.label if epoch.marker else ""
    return epoch.run, epoch.start, label, round(epoch.t_last, 6), epoch.data.tobytes()


@pytest.mark.parametrize("when", ["before", "amid", "after"])
def test_an_epoch_is_a_slice(when: str) -> None:
    """Whether the marker is there before, amid or after its samples, the epoch is the same slice of them."""
    whole = as_chunk(INFO, noise(400), start=10**9)
    marker = at(10**9 + 200)
    items: list[Chunk | Marker] = list(cut(whole, [20]))
    items.insert({"before": 0, "amid": 11, "after": 20}[when], marker)
    (epoch,) = feed(epocher(50, tmin_s=-0.1), items)
    assert (epoch.seq, epoch.start, epoch.marker, epoch.info) == (0, 10**9 + 175, marker, INFO)
    assert epoch.t0 == pytest.approx(marker.t - 0.1, abs=1e-6)
    assert epoch.t_last == pytest.approx(marker.t - 0.1 + 49 / SFREQ, abs=1e-6)
    np.testing.assert_array_equal(epoch.data, whole.data[175:225].T)
    assert epoch.data.dtype == np.float32
    assert epoch.data.flags.c_contiguous
    assert epoch.data.flags.owndata


def test_epochs_come_at_once() -> None:
    """An epoch is cut by the chunk with its last sample, or by its marker if that comes last."""
    chunks = [replace(chunk, t_arrived=float(i)) for i, chunk in enumerate(cut(as_chunk(INFO, noise(200)), [40]))]
    cutter = epocher(50)
    assert cutter.add_marker(at(40)) == []
    assert [len(cutter(chunk)) for chunk in chunks[:2]] == [0, 0]
    assert cutter.n_waiting == 1
    (epoch,) = cutter(chunks[2])
    assert (epoch.t_arrived, epoch.t_epoch, cutter.n_waiting) == (2.0, 0.0, 0)
    (late,) = cutter.add_marker(at(10))
    assert (late.t_arrived, late.t_epoch, late.seq, late.start) == (1.0, 1.0, 1, 10)


@given(position=st.floats(60, 140), tmin=st.floats(-50, 50), phase=st.floats(0, 1))
def test_begins_at_the_nearest_sample(position: float, tmin: float, phase: float) -> None:
    """The first sample is within half a sample of the marker plus `tmin_s`, wherever the sample grid lies."""
    t0 = T0 + phase / SFREQ
    marker = Marker("stim", t0 + position / SFREQ)
    chunks = [replace(chunk, t0=t0 + chunk.start / SFREQ) for chunk in cut(as_chunk(INFO, noise(300)), [7, 64])]
    (epoch,) = feed(epocher(10, tmin / SFREQ), [marker, *chunks])
    assert abs(epoch.t0 - (marker.t + tmin / SFREQ)) <= 0.5 / SFREQ + 1e-9
    assert epoch.t0 == pytest.approx(t0 + epoch.start / SFREQ, abs=1e-9)


def test_follows_a_drifting_clock() -> None:
    """When the stamps drift from the nominal rate, a marker is placed by the chunk it falls into, to half a sample."""
    chunks = [
        replace(chunk, t0=T0 + chunk.start * 1.0005 / SFREQ) for chunk in cut(as_chunk(INFO, noise(50_000)), [25])
    ]
    markers = [Marker("stim", T0 + index * 1.0005 / SFREQ) for index in range(0, 49_900, 997)]
    epochs = feed(epocher(25), [*markers, *chunks])
    assert [epoch.start for epoch in epochs] == list(range(0, 49_900, 997))
    errors = [epoch.t0 - epoch.marker.t for epoch in epochs if epoch.marker]
    assert max(map(abs, errors)) < 0.02 / SFREQ


RUNS = [(0, 300, 0), (340, 200, 1), (545, 355, 2)]  # first sample, samples, run: gaps of 40 and of 5 samples
POSITIONS = st.lists(
    st.sampled_from([*range(-20, 920, 7), 100.4, 299, 299.6, 300, 340, 339.4, 545, 150, 150.2]), max_size=12
)


@settings(max_examples=100, deadline=None)
@given(
    positions=POSITIONS,
    sizes=st.lists(st.integers(1, 200), min_size=1, max_size=4),
    moments=st.lists(st.integers(0, 100), min_size=12, max_size=12),
    tmin=st.sampled_from([-0.2, -0.004, 0.0, 0.1]),
)
@example(positions=[340, 340], sizes=[200], moments=[0] * 12, tmin=0.0)
def test_arrival_does_not_matter(positions: list[float], sizes: list[int], moments: list[int], tmin: float) -> None:
    """Any chunking and any order of arrival give the same epochs and the same drops, each marker counted once."""
    wholes = [as_chunk(INFO, noise(n, seed=run), start, run) for start, n, run in RUNS]
    chunks = [part for whole in wholes for part in cut(whole, sizes)]
    markers = [at(position, str(i)) for i, position in enumerate(positions)]
    mixed: list[Chunk | Marker] = list(chunks)
    for marker, moment in zip(markers, moments, strict=False):
        mixed.insert(min(moment, len(mixed)), marker)
    one, other = epocher(30, tmin), epocher(30, tmin)
    expected = feed(one, [*markers, *wholes])
    epochs = feed(other, mixed)
    assert sorted(map(gist, epochs)) == sorted(map(gist, expected))
    assert other.dropped == one.dropped
    assert other.n_waiting == one.n_waiting
    assert len(epochs) + other.dropped.total() + other.n_waiting == len(markers)
    assert [epoch.seq for epoch in epochs] == list(range(len(epochs)))
    by_start = {start: whole for (start, _, _), whole in zip(RUNS, wholes, strict=True)}
    for epoch in epochs:
        origin = max(start for start in by_start if start <= epoch.start)
        first = epoch.start - origin
        np.testing.assert_array_equal(epoch.data, by_start[origin].data[first : first + 30].T)


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize(
    ("sample", "tmin", "reason"),
    [
        (-1, 0.0, "before_run"),  # before the first sample there ever was
        (0.4, -0.004, "before_run"),
        (80, 0.0, "run_ended"),  # 20 samples before the end of run 0, for a window of 30
        (71, 0.0, "run_ended"),
        (99.4, 0.0, "run_ended"),
        (99.6, 0.0, "before_run"),  # nearest to a sample that never was
        (110, 0.0, "before_run"),  # in the gap
        (119.4, 0.0, "before_run"),
        (120, -0.004, "before_run"),  # at the first sample of run 1
        (120, -0.1, "before_run"),  # in run 1, its window reaches back into run 0
        (110, -0.1, "run_ended"),  # in the gap, its window begins in run 0
    ],
)
def test_no_epoch_crosses_a_run(sample: float, tmin: float, reason: str, *, late: bool) -> None:
    """A window that reaches out of its run is dropped with the reason, whether its marker came early or late."""
    chunks = [as_chunk(INFO, noise(100), 0, 0), as_chunk(INFO, noise(100), 120, 1)]
    cutter = epocher(30, tmin)
    assert feed(cutter, [*chunks, at(sample)] if late else [at(sample), *chunks]) == []
    assert cutter.dropped == {reason: 1}
    assert cutter.n_waiting == 0


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize(("sample", "start", "run"), [(70, 70, 0), (120, 120, 1), (119.6, 120, 1), (0, 0, 0)])
def test_a_window_may_fill_a_run_to_its_border(sample: float, start: int, run: int, *, late: bool) -> None:
    """A window that ends with the last sample of a run, or begins with the first, is an epoch."""
    chunks = [as_chunk(INFO, noise(100), 0, 0), as_chunk(INFO, noise(100), 120, 1)]
    (epoch,) = feed(epocher(30), [*chunks, at(sample)] if late else [at(sample), *chunks])
    assert (epoch.start, epoch.run) == (start, run)


@pytest.mark.parametrize("late", [False, True])
def test_a_hole_between_two_chunks(*, late: bool) -> None:
    """A time that the stamps of no chunk reach belongs to the first sample after it."""
    chunks = [as_chunk(INFO, noise(50), 0), replace(as_chunk(INFO, noise(50), 50), t0=T0 + 53 / SFREQ)]
    (epoch,) = feed(epocher(10), [*chunks, at(51)] if late else [at(51), *chunks])
    assert (epoch.start, epoch.t0) == (50, chunks[1].t0)


def test_indices_may_start_again() -> None:
    """After a reconnect the indices may be those of before: times and runs tell the samples apart."""
    first = as_chunk(INFO, noise(100, seed=1), start=0, run=0)
    again = replace(as_chunk(INFO, noise(100, seed=2), start=0, run=1), t0=T0 + 60)
    old, new = feed(epocher(20), [first, again, at(10), Marker("stim", T0 + 60 + 30 / SFREQ)])
    assert [(epoch.run, epoch.start) for epoch in (old, new)] == [(0, 10), (1, 30)]
    np.testing.assert_array_equal(old.data, first.data[10:30].T)
    np.testing.assert_array_equal(new.data, again.data[30:50].T)


@pytest.mark.parametrize(("sample", "n_epochs"), [(500, 1), (499, 0)])
def test_history_is_kept_as_declared(sample: int, n_epochs: int) -> None:
    """A marker may come `history_s` after the last sample of its window, and not a sample later."""
    cutter = epocher(50, history_s=1.8)
    feed(cutter, list(cut(as_chunk(INFO, noise(1000)), [100])))
    assert len(cutter.add_marker(at(sample))) == n_epochs
    assert cutter.dropped == ({} if n_epochs else {"too_late": 1})
    assert len(cutter._spans) == 5


@pytest.mark.parametrize("size", [3, 1000])
def test_the_history_is_no_limit_for_punctual_markers(size: int) -> None:
    """Markers ahead of their samples need no history, even where one chunk is many times as long as what is kept."""
    whole = as_chunk(INFO, noise(1000))
    epochs = feed(epocher(50, history_s=0.0), [*(at(k) for k in range(0, 950, 19)), *cut(whole, [size])])
    assert [epoch.start for epoch in epochs] == list(range(0, 950, 19))
    for epoch in epochs:
        np.testing.assert_array_equal(epoch.data, whole.data[epoch.start : epoch.start + 50].T)


def test_overlapping_and_coinciding_windows() -> None:
    """Overlapping windows and markers closer than a sample each get their epoch, in order of time."""
    markers = [at(60.3, "c"), at(10, "a"), at(60.1, "b")]
    epochs = feed(epocher(100), [*markers, as_chunk(INFO, noise(400))])
    assert [(epoch.seq, epoch.start, epoch.marker and epoch.marker.label) for epoch in epochs] == [
        (0, 10, "a"),
        (1, 60, "b"),
        (2, 60, "c"),
    ]
    np.testing.assert_array_equal(epochs[1].data, epochs[2].data)
    assert not np.shares_memory(epochs[1].data, epochs[2].data)


@pytest.mark.parametrize(
    ("pattern", "labels"),
    [
        ("*", ["stim/left", "stim/right", "Stim/left", "rest", ""]),
        ("stim/*", ["stim/left", "stim/right"]),
        (["rest", "*/right"], ["stim/right", "rest"]),
        ("s??m/[lr]eft", ["stim/left"]),
        ("stim", []),
    ],
)
def test_labels_match_patterns(pattern: str | list[str], labels: list[str]) -> None:
    """Markers whose label matches a pattern, case and all, get an epoch; the others are neither cut nor dropped."""
    cutter = epocher(10, pattern=pattern)
    cutter(as_chunk(INFO, noise(100)))
    marked = feed(cutter, [at(20, label) for label in ("stim/left", "stim/right", "Stim/left", "rest", "")])
    assert [epoch.marker and epoch.marker.label for epoch in marked] == labels
    assert cutter.dropped == {}
    assert cutter.n_waiting == 0


def test_waiting_markers_are_bounded() -> None:
    """While there are no samples the latest 1024 markers wait; those before are dropped and counted."""
    cutter = epocher(10)
    assert feed(cutter, [at(k, str(k)) for k in range(1100)]) == []
    assert (cutter.n_waiting, cutter.dropped) == (1024, {"backlog": 76})
    epochs = cutter(as_chunk(INFO, noise(1200)))
    assert [epoch.start for epoch in epochs] == list(range(76, 1100))


@pytest.mark.parametrize("t", [float("nan"), float("inf")])
def test_a_marker_without_a_time_is_counted(t: float) -> None:
    """A marker whose time is not a number is dropped and disturbs no other."""
    cutter = epocher(10)
    epochs = feed(cutter, [Marker("stim", t), at(20), as_chunk(INFO, noise(100)), Marker("stim", t)])
    assert [epoch.start for epoch in epochs] == [20]
    assert cutter.dropped == {"not_finite": 2}


def test_settling_epochs_say_so() -> None:
    """Epochs that begin within the settling time of their run are marked, in every run."""
    cutter = epocher(10, settling_s=0.2)
    for run in (0, 1):
        start = 1000 * run
        markers = [at(start + k) for k in (0, 49, 50, 120)]
        epochs = feed(cutter, [*markers, *cut(as_chunk(INFO, noise(200), start, run), [30])])
        assert [epoch.settling for epoch in epochs] == [True, True, False, False]


def test_missing_samples_are_counted() -> None:
    """An epoch counts the missing samples of the chunks in it; of a chunk it shares, as many as may be its own."""
    parts = cut(as_chunk(INFO, noise(60)), [10])
    chunks = [replace(chunk, n_missing=k) for chunk, k in zip(parts, [0, 3, 8, 0, 10, 0], strict=True)]
    epochs = feed(epocher(20), [*chunks, at(0), at(15), at(30)])
    assert [(epoch.start, epoch.n_missing) for epoch in epochs] == [(0, 3), (15, 11), (30, 10)]


def test_empty_chunks_change_nothing() -> None:
    """Chunks without samples neither begin a run nor place a marker."""
    cutter = epocher(10)
    whole = as_chunk(INFO, noise(40))
    empty = replace(whole, data=whole.data[:0], run=7, t0=0.0)
    epochs = feed(cutter, [empty, at(0), empty, whole, replace(empty, run=8), at(20)])
    assert [(epoch.start, epoch.run) for epoch in epochs] == [(0, 0), (20, 0)]


@pytest.mark.parametrize(
    ("wrong", "remedy"),
    [({"n_times": 0}, "at least 1"), ({"history_s": -1.0}, "0 or more"), ({"pattern": []}, "at least one")],
)
def test_refuses_what_cannot_be_cut(wrong: dict[str, Any], remedy: str) -> None:
    """Epochs of no samples, a negative history and no pattern are refused with what to do."""
    with pytest.raises(ContractError, match=remedy):
        epocher(**wrong)
