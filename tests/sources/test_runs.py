"""Promises of `streamnode.sources.runs`, and of files that were interrupted: what is missing is never played over."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import edfio
import mne
import numpy as np
import pytest
import scipy
from hypothesis import given, settings
from hypothesis import strategies as st

from streamnode.errors import ConfigError
from streamnode.sources.pacing import Annotation, Block
from streamnode.sources.replay import Recording, ReplaySource, read
from streamnode.sources.runs import WHOLE, Run, places_of, runs_of_marks, runs_of_records, runs_of_stamps
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


@pytest.mark.parametrize("suffix", [".edf", ".bdf"])
def test_short_interruptions_add_up_to_a_run(tmp_path: Path, suffix: str) -> None:
    """However short each interruption is, no sample is ever more than 0.1 s off its time, nor a note off its sample."""
    onsets = [1.05 * record for record in range(40)]
    path = write_discontinuous(tmp_path / f"a{suffix}", whole_microvolts(4000, 2), onsets, [(1.05 * 30 + 0.5, "late")])

    recording = read(path)

    told = np.concatenate([onset * 100 + np.arange(100) for onset in onsets])
    assert np.abs(np.concatenate(recording.spans) - told).max() <= 10 + 1e-6
    assert recording.duration_s == pytest.approx(onsets[-1] + 1, abs=0.1)
    ((t_s, _, _),) = recording.annotations
    assert abs(np.concatenate(recording.spans)[3050] - t_s * 100) <= 10


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
    header = b"0".ljust(184) + b"256     EDF+C".ljust(60) + b"1       0   "
    (tmp_path / "a.edf").write_bytes(header)
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


def test_places_beside_a_burst_of_one_stamp() -> None:
    """A run whose samples all have one stamp goes on at the nominal rate from there."""
    stamps = np.concatenate((np.arange(300) / 100, np.full(10, 20.0)))
    runs = (Run(0, 0), Run(300, 2000))
    np.testing.assert_allclose(places_of([1.5, 20.05], stamps, runs, 100.0), [150, 2005], atol=1e-6)
    np.testing.assert_allclose(places_of([0.05], np.zeros(10), WHOLE, 100.0), [5], atol=1e-6)


# ---- FIF -------------------------------------------------------------------------------------------------------------


def raw_of(data: Float32Array, *notes: tuple[float, float, str], meas_date: int | None = None) -> Any:
    """What MNE holds of microvolts at 100 Hz, with annotations by onset, duration and text."""
    header = mne.create_info(["Fp1", "Cz"], 100.0, "eeg", verbose="ERROR")
    raw = mne.io.RawArray(data.T.astype(np.float64) * 1e-6, header, verbose="ERROR")
    raw.set_meas_date(meas_date)
    raw.set_annotations(mne.Annotations(*zip(*notes, strict=True)) if notes else None, verbose="ERROR")
    return raw


def save(path: Path, raw: Any) -> Path:
    """A FIF file in buffers of a second, of which MNE leaves out those that are skipped as a whole."""
    raw.save(path, fmt="double", buffer_size_sec=1.0, verbose="ERROR")
    return path


@pytest.mark.parametrize("meas_date", [None, 1_000_000_000])
@pytest.mark.parametrize("first", [0.0, 1.0])
@pytest.mark.parametrize("skipped_s", [3.0, 2.4])
def test_fif_with_a_skip(tmp_path: Path, meas_date: int | None, first: float, skipped_s: float) -> None:
    """What was not recorded is no zeros, whether the file holds them or not; the time of the rest stays true."""
    data, stop = whole_microvolts(1200, 2), round(100 * (4 + skipped_s))
    notes = (3.0, 0.0, "before"), (4.0, skipped_s, "BAD_ACQ_SKIP"), (5.0, 0.0, "within"), (8.5, 0.5, "after")
    path = save(tmp_path / "skip_raw.fif", raw_of(data, *notes, meas_date=meas_date).crop(first, None))

    recording = read(path)

    np.testing.assert_array_equal(recording.data, np.concatenate((data[round(100 * first) : 400], data[stop:])))
    begin = round(100 * first)
    assert recording.runs == (Run(0, 0), Run(400 - begin, stop - begin))
    assert [(round(t, 6), text) for t, _, text in recording.annotations] == [
        (3 - first, "before"),
        (8.5 - first, "after"),
    ]
    assert recording.duration_s == 12 - first


def test_fif_of_joined_recordings(tmp_path: Path) -> None:
    """Recordings that were put one behind the other are runs, though nobody knows what lies between."""
    data = whole_microvolts(700, 2)
    parts = [raw_of(data[:300]), raw_of(data[300:450]), raw_of(data[450:], (0.25, 0.0, "go"))]
    recording = read(save(tmp_path / "joined_raw.fif", mne.concatenate_raws(parts, verbose="ERROR")))
    np.testing.assert_array_equal(recording.data, data)
    assert recording.runs == (Run(0, 0), Run(300, 300), Run(450, 450))
    assert [(round(t, 6), text) for t, _, text in recording.annotations] == [(4.75, "go")]


def test_edf_that_was_padded(tmp_path: Path) -> None:
    """The zeros by which MNE fills the last record of an EDF file up, and marks, are no samples."""
    path, data = tmp_path / "padded.edf", whole_microvolts(250, 2)
    mne.export.export_raw(path, raw_of(data), physical_range=(-500, 500), verbose="ERROR")
    recording = read(path)
    np.testing.assert_allclose(recording.data, data, atol=0.02)
    assert (recording.runs, recording.annotations) == (WHOLE, ())


# ---- EEGLAB ----------------------------------------------------------------------------------------------------------


def write_set(path: Path, data: Float32Array, *events: tuple[str | float, float, float]) -> Path:
    """An EEGLAB file of 100 Hz with events by type, latency (samples, from 1) and duration (samples)."""
    names = np.array([("Fp1",), ("Cz",)], dtype=[("labels", object)])
    kinds = [("type", object), ("latency", object), ("duration", object)]
    eeg = {"setname": path.stem, "nbchan": 2.0, "pnts": float(len(data)), "trials": 1.0, "srate": 100.0, "xmin": 0.0,
           "xmax": (len(data) - 1) / 100, "data": data.T, "chanlocs": names, "event": np.array([*events], kinds),
           "icawinv": [], "icasphere": [], "icaweights": []}  # fmt: skip
    scipy.io.savemat(path, {"EEG": eeg}, appendmat=False)
    return path


@pytest.mark.parametrize("cut", ["boundary", -99.0, -99])
def test_eeglab_with_boundaries(tmp_path: Path, cut: str | float) -> None:
    """A boundary ends a run; what was cut out there counts in the time of all that follows, as far as it is known."""
    data = whole_microvolts(600, 2)
    events = (cut, 0.5, 70.0), ("before", 51.0, 0.0), (cut, 100.5, 250.0), ("after", 101.0, 0.0)
    path = write_set(tmp_path / "cut.set", data, *events, (cut, 400.5, math.nan), ("last", 451.0, 0.0))

    recording = read(path)

    np.testing.assert_array_equal(recording.data, data)
    assert recording.runs == (Run(0, 0), Run(100, 350), Run(400, 650))
    assert [(round(t, 6), text) for t, _, text in recording.annotations] == [
        (0.5, "before"),
        (3.5, "after"),
        (7.0, "last"),
    ]


@given(
    n_times=st.integers(1, 60),
    marks=st.lists(
        st.tuples(
            st.integers(-5, 65),
            st.integers(0, 30),
            st.sampled_from(["BAD_ACQ_SKIP", "EDGE boundary", "boundary", "go"]),
        ),
        max_size=6,
    ),
)
def test_marks_in_any_order_and_overlapping(n_times: int, marks: list[tuple[int, int, str]]) -> None:
    """What is taken is what no skip covers; runs begin in order, the first at 0, and none reaches into the next."""
    notes = [Annotation(t / 10, duration / 10, text) for t, duration, text in marks]
    taken, runs, others = runs_of_marks(notes, n_times, 10.0, eeglab=True)
    skipped = {row for t, n, text in marks if text == "BAD_ACQ_SKIP" for row in range(t, t + n)}
    assert np.flatnonzero(~taken).tolist() == sorted(skipped.intersection(range(n_times)))
    assert [mark.description for mark in others] == ["go"] * len(others)
    assert runs[0] == Run(0, 0)
    for one, after in pairwise(runs):
        assert one.row < after.row < taken.sum()
        assert after.start - one.start >= after.row - one.row


def test_a_boundary_of_others_is_a_word_like_any(tmp_path: Path) -> None:
    """Only EEGLAB is known to mean an interruption by it."""
    recording = read(save(tmp_path / "a_raw.fif", raw_of(whole_microvolts(400, 2), (2.0, 0.0, "boundary"))))
    assert (recording.runs, len(recording.annotations)) == (WHOLE, 1)


# ---- CSV -------------------------------------------------------------------------------------------------------------


def write_table(path: Path, times: Sequence[str], data: Float32Array) -> Path:
    rows = [f"{t},{a:.0f},{b:.0f}" for t, (a, b) in zip(times, data, strict=True)]
    path.write_text("\n".join(["time,Fp1,Cz", *rows]), "utf-8")
    return path


@pytest.mark.parametrize("sfreq", [None, 256.0])
@pytest.mark.parametrize("decimals", [3, 4, 9])
def test_csv_whose_times_leap(tmp_path: Path, decimals: int, sfreq: float | None) -> None:
    """Times in seconds that leap begin a run, however they are rounded, and whether the rate is told or found."""
    data = whole_microvolts(3000, 2)
    indices = np.concatenate((np.arange(1400), np.arange(2400, 4000)))
    times = [f"{t:.{decimals}f}" for t in 12 + indices / 256]
    recording = read(write_table(tmp_path / "a.csv", times, data), unit="uV", sfreq=sfreq)
    assert recording.info.sfreq == 256.0
    assert recording.runs == (Run(0, 0), Run(1400, 2400))
    np.testing.assert_array_equal(recording.data, data)


@pytest.mark.parametrize(("sfreq", "decimals"), [(128, 2), (200, 2), (512, 3), (800, 3), (1024, 3), (2000, 3)])
def test_csv_whose_coarse_times_leap(tmp_path: Path, sfreq: int, decimals: int) -> None:
    """Times rounded to half a sample or more show a gap, make no other, and repeat or lose nothing."""
    data = whole_microvolts(20 * sfreq, 2)
    indices = np.arange(len(data)) + 3 * sfreq * (np.arange(len(data)) >= 9 * sfreq)
    for begin in np.random.default_rng(sfreq).random(5):
        times = [f"{begin + n / sfreq:.{decimals}f}" for n in indices]
        recording = read(write_table(tmp_path / "a.csv", times, data), unit="uV", sfreq=float(sfreq))
        first, second = recording.runs
        assert (first, second.row) == (Run(0, 0), 9 * sfreq)
        assert abs(second.start - 12 * sfreq) <= 1
        np.testing.assert_array_equal(recording.data, data)


@pytest.mark.parametrize(
    ("name", "times"),
    [
        ("milliseconds", [f"{1000 * n / 256:.0f}" for n in range(2000)]),
        ("a count that begins anew", [str(n % 256) for n in range(2000)]),
        ("bursts", [f"{n // 16 / 16:.4f}" for n in range(2000)]),
        ("whole seconds", [str(n // 256) for n in range(2000)]),
        ("a time of day", [f"12:00:{n // 256:02}" for n in range(2000)]),
    ],
)
def test_csv_whose_times_tell_nothing(tmp_path: Path, name: str, times: list[str]) -> None:
    """A column that is not seconds, sample by sample, is no evidence of a gap where the rate is told."""
    path = write_table(tmp_path / f"{name}.csv", times, whole_microvolts(2000, 2))
    assert read(path, unit="uV", sfreq=256.0).runs == WHOLE


@pytest.mark.parametrize(("missing_s", "told"), [(0.0, False), (20.0, True)])
@pytest.mark.parametrize("decimals", [2, 1, 0])
def test_csv_whose_times_are_too_coarse_for_a_gap(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, decimals: int, missing_s: float, *, told: bool
) -> None:
    """A gap that nobody could place to a few samples is played over with a word, and no other is made up."""
    data = whole_microvolts(512 * 120, 2)
    exact = np.arange(len(data)) / 512 + missing_s * (np.arange(len(data)) >= 512 * 50)
    path = write_table(tmp_path / "a.csv", [f"{t:.{decimals}f}" for t in exact], data)
    recording = read(path, unit="uV", sfreq=512.0)
    assert recording.runs == WHOLE
    np.testing.assert_array_equal(recording.data, data)
    assert ("a.csv: its times leap, by up to 20" in caplog.text) == told


@pytest.mark.parametrize(("jitter_s", "decimals"), [(0.0002, 9), (0.002, 9), (0.01, 9), (0.0, 2)])
def test_csv_whose_times_are_rough(tmp_path: Path, jitter_s: float, decimals: int) -> None:
    """Times that jitter, or are rounded to more than a sample, make no gaps of their own."""
    exact = np.arange(3000) / 128 + jitter_s * np.random.default_rng(0).standard_normal(3000)
    recording = read(
        write_table(tmp_path / "a.csv", [f"{t:.{decimals}f}" for t in exact], whole_microvolts(3000, 2)), unit="uV"
    )
    assert (recording.runs, len(recording.data)) == (WHOLE, 3000)


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
