"""Promises of `streamnode.sources.runs`, and of files that were interrupted: what is missing is never played over."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import edfio
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamnode.errors import ConfigError
from streamnode.sources.pacing import Annotation, Block
from streamnode.sources.replay import Recording, ReplaySource, read
from streamnode.sources.runs import Run, places_of, runs_of_records, runs_of_stamps
from streamnode.types import Float32Array, Float64Array
from tests.sources.test_replay import DESC, whole_microvolts, xdf_file, xdf_stream

RNG = np.random.default_rng(0)


def write_discontinuous(
    path: Path, data: Float32Array, onsets: Sequence[float], notes: Sequence[tuple[float, str]] = ()
) -> Path:
    """An EDF+D or BDF+D file of 100 Hz, whose records of a second begin at these times; edfio writes none itself."""
    bdf = path.suffix == ".bdf"
    signal, edf, width = (edfio.BdfSignal, edfio.Bdf, 3) if bdf else (edfio.EdfSignal, edfio.Edf, 2)
    limits = (-32768, 32767)
    scale: dict[str, Any] = {"physical_dimension": "uV", "physical_range": limits, "digital_range": limits}
    columns = zip(("EEG Fp1", "EEG Cz"), data.T.astype(np.float64), strict=True)
    signals = [signal(column, 100.0, label=label, **scale) for label, column in columns]
    room = [edfio.EdfAnnotation(record + 0.5, None, "x" * 20) for record in range(len(onsets))]
    edf(signals, annotations=room, data_record_duration=1.0).write(path)
    content = bytearray(path.read_bytes())
    header = int(content[184:192])
    n_bytes = (len(content) - header) // len(onsets)
    content[192:197] = b"BDF+D" if bdf else b"EDF+D"
    for record, onset in enumerate(onsets):
        told = f"+{onset:g}\x14\x14\0" + "".join(
            f"+{t:g}\x14{text}\x14\0" for t, text in notes if onset <= t < onset + 1
        )
        first, stop = header + record * n_bytes + 200 * width, header + (record + 1) * n_bytes
        content[first:stop] = told.encode().ljust(stop - first, b"\0")
    path.write_bytes(content)
    return path


def blocks_of(recording: Recording, n_times: int = 1000, *, n: int = 1000, loop: bool = False) -> list[Block]:
    return [block for block, _ in zip(recording.blocks(n_times, loop=loop), range(n), strict=False)]


# ---- EDF+D and BDF+D -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".edf", ".bdf"])
def test_records_that_do_not_follow_each_other_are_runs(
    tmp_path: Path, suffix: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Samples stay as they are; the run after a gap begins at its own time, notes lie at theirs, and it is told."""
    data = whole_microvolts(600, 2)
    onsets = [0, 1, 2, 32, 33, 40.5]
    notes = [(1.25, "early"), (32.5, "late"), (40.75, "last")]
    path = write_discontinuous(tmp_path / f"night{suffix}", data, onsets, notes)

    recording = read(path)

    np.testing.assert_array_equal(recording.data, data)
    assert recording.runs == (Run(0, 0), Run(300, 3200), Run(500, 4050))
    assert recording.spans == (range(300), range(3200, 3400), range(4050, 4150))
    assert recording.duration_s == 41.5
    assert recording.annotations == tuple(Annotation(t, 0.0, text) for t, text in notes)
    assert "night" in caplog.text
    assert "has 3 runs, between which 35.5 s are missing: no epoch crosses from one to the next" in caplog.text


@pytest.mark.parametrize("onsets", [[0, 1, 2, 3], [0.5, 1.5, 2.5, 3.5], [0, 1.004, 2.05, 3.051]])
def test_records_that_follow_each_other_are_one_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, onsets: list[float]
) -> None:
    """A file that only could have been interrupted was not, nor do some milliseconds count."""
    recording = read(write_discontinuous(tmp_path / "a.edf", whole_microvolts(400, 2), onsets))
    assert recording.runs == (Run(0, 0),)
    assert "runs" not in caplog.text


def test_a_clock_that_was_set_back_begins_a_run(tmp_path: Path) -> None:
    """Records that claim to be older than those before are a run of their own, right behind them."""
    recording = read(write_discontinuous(tmp_path / "a.edf", whole_microvolts(400, 2), [0, 1, 0.2, 1.2]))
    assert recording.runs == (Run(0, 0), Run(200, 200))


def test_records_without_a_time_are_refused_in_a_sentence(tmp_path: Path) -> None:
    """A file whose records do not say when they were is not taken for one without gaps."""
    path = write_discontinuous(tmp_path / "a.edf", whole_microvolts(200, 2), [0, 1])
    content = path.read_bytes()
    path.write_bytes(content.replace(b"+1\x14\x14", b"?1\x14\x14"))
    with pytest.raises(ConfigError, match=r"a\.edf cannot be read as EDF .*: copy or export it anew"):
        read(path)


def test_interrupted_records_that_nothing_times_are_refused_in_a_sentence(tmp_path: Path) -> None:
    """A discontinuous file without a signal of annotations is not taken for one without interruptions."""
    path = write_discontinuous(tmp_path / "a.edf", whole_microvolts(300, 2), [0, 1, 5])
    path.write_bytes(path.read_bytes().replace(b"EDF Annotations ", b"EEG Unknown     "))
    with pytest.raises(ConfigError, match=r"a\.edf cannot be read as EDF .*: copy or export it anew"):
        read(path)


def test_other_files_have_one_run(tmp_path: Path) -> None:
    """Whatever is not discontinuous by its header."""
    (tmp_path / "a.edf").write_bytes(b"0" + b" " * 191 + b"EDF+C" + b" " * 59)
    assert runs_of_records(tmp_path / "a.edf", 100.0) == (Run(0, 0),)


# ---- XDF -------------------------------------------------------------------------------------------------------------


def stamps_of(indices: Float64Array, jitter_s: float = 0.0) -> Float64Array:
    stamps: Float64Array = 500 + indices / 100 + jitter_s * RNG.random(len(indices))
    return stamps


def test_xdf_with_a_gap(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Stamps that leap begin a run at its own time, with markers on their samples before and after, none within."""
    data = whole_microvolts(1000, 3)
    stamps = stamps_of(np.concatenate((np.arange(600), np.arange(1800, 2200))))
    path = xdf_file(
        tmp_path / "gap.xdf",
        xdf_stream(1, "EEG", list(data), list(stamps), DESC),
        xdf_stream(2, "Markers", ["before", "within", "after"], [501.5, 510.0, 518.25]),
    )

    recording = read(path)

    np.testing.assert_array_equal(recording.data, data[:, [0, 2]] * [1e6, 1])
    assert recording.runs == (Run(0, 0), Run(600, 1800))
    assert [(round(t, 6), text) for t, _, text in recording.annotations] == [(1.5, "before"), (18.25, "after")]
    assert "has 2 runs, between which 12 s are missing" in caplog.text


def test_xdf_of_a_clock_that_was_set_back(tmp_path: Path) -> None:
    """All samples are there; those after the leap are a run of their own behind the others."""
    stamps = np.concatenate((stamps_of(np.arange(500.0)), stamps_of(np.arange(500.0)) - 300))
    recording = read(
        xdf_file(tmp_path / "set.xdf", xdf_stream(1, "EEG", list(whole_microvolts(1000, 3)), list(stamps), DESC))
    )
    assert recording.runs == (Run(0, 0), Run(500, 500))
    assert len(recording.data) == 1000


@pytest.mark.parametrize("seed", range(5))
def test_jitter_and_bursts_are_no_gaps(seed: int) -> None:
    """Stamps milliseconds late, eight at a time, and a clock a percent slow interrupt nothing and lose nothing."""
    rng = np.random.default_rng(seed)
    exact = 100 + np.arange(30_000) / 254
    bursts = np.repeat(exact[7::8], 8)
    for stamps in (exact + 0.005 * rng.random(len(exact)), bursts + 0.002 * rng.random(len(exact))):
        rows, runs = runs_of_stamps(stamps, 256.0)
        np.testing.assert_array_equal(rows, np.arange(len(stamps)))
        assert runs == (Run(0, 0),)


@given(at=st.integers(600, 2500), n_lost=st.integers(4, 2000))
@settings(max_examples=40, deadline=None)
def test_what_is_lost_is_held_or_begins_a_run(at: int, n_lost: int) -> None:
    """Up to 0.1 s the sample before stands in for those that are missing, as live; the time of the rest stays true."""
    indices = np.concatenate((np.arange(at), np.arange(at + n_lost, 3500 + n_lost)))
    rows, runs = runs_of_stamps(10 + indices / 256, 256.0)
    np.testing.assert_array_equal(np.unique(rows), np.arange(3500))
    last = runs[-1]
    assert last.start + len(rows) - last.row == pytest.approx(3500 + n_lost, abs=1)
    if n_lost > 64:  # some samples beside the limit, a gap is what the first stamps behind it say, or later ones
        assert runs[0] == Run(0, 0)
        assert [run.row for run in runs] == [0, at]
    elif n_lost <= 25:
        assert runs == (Run(0, 0),)


def test_places_are_on_the_line_through_all_stamps() -> None:
    """Events are placed by the run they are in, to the fraction of a sample, whatever stamps jitter by."""
    runs = (Run(0, 0), Run(400, 1000), Run(800, 5000))
    stamps = np.concatenate((np.arange(400), np.arange(1000, 1400), [5000])) / 100 + 7
    jittering = stamps + 1e-3 * RNG.standard_normal(801)
    times = [7.0, 8.255, 17.5, 56.9, 57.25]
    np.testing.assert_allclose(places_of(times, stamps, runs, 100.0), [0, 125.5, 1050, 4990, 5025], atol=1e-6)
    np.testing.assert_allclose(places_of(times[:3], jittering, runs, 100.0), [0, 125.5, 1050], atol=0.05)
    assert places_of([], stamps, runs, 100.0) == []


# ---- Played ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def interrupted(tmp_path: Path) -> Recording:
    """Two runs, of two seconds and one, with half an hour between."""
    return read(write_discontinuous(tmp_path / "a.edf", whole_microvolts(300, 2), [0, 1, 1800]))


@pytest.mark.parametrize("n_times", [1, 70, 1000])
def test_no_block_spans_two_runs(interrupted: Recording, n_times: int) -> None:
    """Blocks of any size hold all samples in order, each at its own time, with a new run after each gap and pass."""
    blocks = blocks_of(interrupted, n_times)
    np.testing.assert_array_equal(np.concatenate([block.data for block in blocks]), interrupted.data)
    placed = [(block.run, block.row + i) for block in blocks for i in range(len(block.data))]
    assert placed == [(0, i) for i in range(200)] + [(1, 180_000 + i) for i in range(100)]
    assert {block.run for block in blocks_of(interrupted, n=6, loop=True)} == {0, 1, 2, 3, 4, 5}


async def test_a_source_of_it_has_gaps(interrupted: Recording) -> None:
    """A node sees what it would have seen live: a run that ends, and another that begins half an hour later."""
    chunks = [chunk async for chunk in ReplaySource(interrupted, clock=time.monotonic, speed=math.inf, chunk_s=0.5)]
    assert [(chunk.run, chunk.start) for chunk in chunks] == [
        *((0, start) for start in range(0, 200, 50)),
        *((1, 180_000 + start) for start in (0, 50)),
    ]
    assert [chunk.t0 - chunks[0].t0 for chunk in chunks] == pytest.approx([0, 0.5, 1, 1.5, 1800, 1800.5], abs=1e-6)
