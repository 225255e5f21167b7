"""Recordings read from every format, and played."""

import asyncio
import logging
import math
import os
import struct
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import edfio
import mne
import numpy as np
import pytest
import pyxdf

from streamnode.errors import ConfigError, ContractError
from streamnode.metrics import Metrics
from streamnode.montage import make_montage
from streamnode.sources import replay
from streamnode.sources.pacing import Annotation
from streamnode.sources.replay import Recording, ReplaySource, read, write_fif
from streamnode.types import Chunk, Float32Array, Montage, StreamInfo

RNG = np.random.default_rng(0)


def whole_microvolts(n_times: int, n_chans: int) -> Float32Array:
    """Values that integer formats can hold exactly."""
    return RNG.integers(-500, 500, (n_times, n_chans)).astype(np.float32)


def make_recording(n_times: int = 100, sfreq: float = 100.0) -> Recording:
    info = StreamInfo("demo", "demo-1", "EEG", sfreq, make_montage(["Fp1", "Oz"]))
    return Recording(info, whole_microvolts(n_times, 2))


async def played(recording: Recording, *, speed: float = math.inf, chunk_s: float = 0.02) -> list[Chunk]:
    return [chunk async for chunk in ReplaySource(recording, clock=time.monotonic, speed=speed, chunk_s=chunk_s)]


# --- EDF, BDF, FIF, EEGLAB ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".edf", ".bdf"])
def test_edf_and_bdf_come_back_exactly(tmp_path: Path, suffix: str) -> None:
    """What was written in microvolts is read in microvolts, with clean names, without the EOG, with annotations."""
    data = whole_microvolts(512, 3)
    full_scale = 32768 if suffix == ".edf" else 8388608
    signals = [
        (edfio.EdfSignal if suffix == ".edf" else edfio.BdfSignal)(
            column.astype(np.float64),
            256.0,
            label=label,
            physical_dimension="uV",
            physical_range=(-full_scale, full_scale - 1),
            digital_range=(-full_scale, full_scale - 1),
        )
        for label, column in zip(["EEG Fp1-REF", "EOG left", "Cz.."], data.T, strict=True)
    ]
    notes = [edfio.EdfAnnotation(0.5, None, "T1"), edfio.EdfAnnotation(1.25, 0.5, "T2")]
    path = tmp_path / f"S7{suffix}"
    (edfio.Edf if suffix == ".edf" else edfio.Bdf)(signals, annotations=notes).write(path)

    recording = read(path)

    assert recording.info.ch_names == ("Fp1", "Cz")
    assert recording.info.sfreq == 256.0
    assert recording.info.source_id == "streamnode-play:S7"
    assert recording.duration_s == 2.0
    assert recording.data.dtype == np.float32
    np.testing.assert_array_equal(recording.data, data[:, [0, 2]])
    assert recording.annotations == (Annotation(0.5, 0.0, "T1"), Annotation(1.25, 0.5, "T2"))


@pytest.mark.parametrize("meas_date", [None, 1_000_000_000])
def test_fif_comes_back_exactly(tmp_path: Path, meas_date: int | None) -> None:
    """A cropped FIF gives its samples, its own positions, and annotations counted from its first sample."""
    data = RNG.normal(0, 30, (300, 3)).astype(np.float32)
    info = mne.create_info(["Fp1", "X1", "EOG 061"], 100.0, ["eeg", "eeg", "eog"])
    raw = mne.io.RawArray(data.T.astype(np.float64) * 1e-6, info, verbose="ERROR")
    raw.set_meas_date(meas_date)
    raw.set_annotations(mne.Annotations([0.5, 2.0], [0.0, 0.1], ["early", "late"]))
    raw.info["chs"][1]["loc"][:3] = [0.01, 0.02, 0.03]
    path = tmp_path / "demo_raw.fif"
    raw.crop(1.0, None).save(path, fmt="double", verbose="ERROR")

    recording = read(path)

    assert recording.info.ch_names == ("Fp1", "X1")
    np.testing.assert_array_equal(recording.data, data[100:, :2])
    np.testing.assert_allclose(recording.info.montage.ch_pos[1], [0.01, 0.02, 0.03], atol=1e-7)
    assert [a.description for a in recording.annotations] == ["late"]
    assert recording.annotations[0].t_s == pytest.approx(1.0, abs=1e-9)


def test_eeglab_sample_without_its_eog(data_dir: Path) -> None:
    """The EEGLAB sample gives the floats of its .fdt file, its positions and events, and neither EOG1 nor EOG2."""
    recording = read(data_dir / "eeglab" / "eeglab_data.set")

    raw = np.fromfile(data_dir / "eeglab" / "eeglab_data.fdt", "<f4").reshape(-1, 32)
    eeg = [i for i in range(32) if i not in {1, 5}]  # EOG1 and EOG2
    np.testing.assert_array_equal(recording.data, raw[:, eeg])
    assert recording.info.sfreq == 128.0
    assert recording.info.ch_names[:3] == ("Fpz", "F3", "Fz")
    np.testing.assert_allclose(recording.info.montage.ch_pos[0], [0, 0.09997791, -0.00210157], atol=1e-7)
    assert len(recording.annotations) == 154
    assert {a.description for a in recording.annotations} == {"square", "rt"}


def test_eegmmidb_names_and_places(data_dir: Path) -> None:
    """All 64 dotted names of an EEGMMIDB file become electrodes with a place."""
    recording = read(data_dir / "eegmmidb" / "S001R02.edf")

    assert recording.info.n_chans == 64
    assert recording.info.ch_names[:4] == ("FC5", "FC3", "FC1", "FCz")
    assert np.isfinite(recording.info.montage.ch_pos).all()
    assert recording.data.shape == (9600, 64)
    assert 10 < recording.data.std() < 200  # microvolts, not volts
    assert [a.description for a in recording.annotations] == ["T0"]


def test_fif_sample_keeps_its_positions(data_dir: Path) -> None:
    """Positions that the file has win over the template."""
    recording = read(data_dir / "zuna" / "sample1_raw.fif")

    assert recording.data.shape == (3840, 12)
    np.testing.assert_allclose(recording.info.montage.ch_pos[0], [-0.03090259, 0.11458518, 0.02786657], atol=1e-7)


def test_written_fif_is_read_back(tmp_path: Path) -> None:
    """What `write_fif` writes comes back: samples in float32 volts, rate, places and annotations."""
    montage = Montage(("Cz", "X1"), np.array([[0.01, 0.02, 0.1], [np.nan] * 3]))
    marks = (Annotation(0.25, 0.125, "go"), Annotation(0.5, 0.0, "stop"))
    written = Recording(StreamInfo("a", "a-1", "EEG", 200.0, montage), whole_microvolts(200, 2), marks)

    write_fif(tmp_path / "a.fif", written)

    found = read(tmp_path / "a.fif")
    assert found.info.sfreq == 200.0
    assert found.info.ch_names == ("Cz", "X1")
    assert found.annotations == marks
    np.testing.assert_allclose(found.info.montage.ch_pos, montage.ch_pos, atol=1e-7)
    np.testing.assert_allclose(found.data, written.data, rtol=1e-6)


def test_readers_do_not_talk(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """What a reader warns of is logged; standard output is left to those who print results there."""
    caplog.set_level(logging.INFO)
    write_fif(tmp_path / "odd.fif", make_recording())  # MNE wants _raw.fif

    read(tmp_path / "odd.fif")

    assert capsys.readouterr().out == ""
    assert "does not conform to MNE naming conventions" in caplog.text


def test_long_recording_is_read_in_parts(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A recording that is read part by part is the same as one read at once."""
    path = data_dir / "zuna" / "sample1_raw.fif"
    whole = read(path).data
    monkeypatch.setattr(replay, "_AT_ONCE", 999)

    np.testing.assert_array_equal(read(path).data, whole)


# --- XDF ------------------------------------------------------------------------------------------------------------


def xdf_chunk(tag: int, content: bytes, stream: int | None = None) -> bytes:
    body = struct.pack("<H", tag) + (b"" if stream is None else struct.pack("<I", stream)) + content
    return b"\x04" + struct.pack("<I", len(body)) + body


def xdf_stream(number: int, stype: str, values: Sequence[object], stamps: Sequence[float], desc: str = "") -> bytes:
    """One stream: floats at 100 Hz, or strings without a rate."""
    strings = isinstance(values[0], str)
    rate, fmt = (0, "string") if strings else (100, "float32")
    n_chans = 1 if strings else len(np.atleast_1d(np.asarray(values[0])))
    header = (
        f"<info><name>{stype.lower()}-{number}</name><type>{stype}</type><channel_count>{n_chans}</channel_count>"
        f"<nominal_srate>{rate}</nominal_srate><channel_format>{fmt}</channel_format><desc>{desc}</desc></info>"
    )
    samples = b"\x04" + struct.pack("<I", len(values))
    for value, stamp in zip(values, stamps, strict=True):
        text = isinstance(value, str) and b"\x01" + struct.pack("<B", len(value)) + value.encode()
        packed = text or np.asarray(value, "<f4").tobytes()
        samples += b"\x08" + struct.pack("<d", stamp) + packed
    footer = xdf_chunk(6, b"<info><sample_count>0</sample_count></info>", number)
    return xdf_chunk(2, header.encode(), number) + xdf_chunk(3, samples, number) + footer


def xdf_file(path: Path, *streams: bytes) -> Path:
    path.write_bytes(b"XDF:" + xdf_chunk(1, b"<info><version>1.0</version></info>") + b"".join(streams))
    return path


DESC = (
    "<channels>"
    "<channel><label>Fc5.</label><unit>volts</unit><type>EEG</type></channel>"
    "<channel><label>TRG</label><unit>none</unit><type>Trigger</type></channel>"
    "<channel><label>Oz</label><unit>microvolts</unit><type>EEG</type></channel>"
    "</channels>"
)


def test_xdf_with_markers(tmp_path: Path) -> None:
    """Labels, units and types of the stream are used; a marker lies on its sample although the device ran slow."""
    data = whole_microvolts(200, 3)
    stamps = 1000.0 + np.arange(200) / 99.0  # nominally 100 Hz
    path = xdf_file(
        tmp_path / "run.xdf",
        xdf_stream(1, "EEG", list(data), list(stamps), DESC),
        xdf_stream(2, "Markers", ["before", "go"], [999.0, float(stamps[150])]),
    )

    recording = read(path)

    assert recording.info.ch_names == ("FC5", "Oz")
    assert recording.info.sfreq == 100.0
    np.testing.assert_array_equal(recording.data, data[:, [0, 2]] * [1e6, 1])
    assert [a.description for a in recording.annotations] == ["go"]
    assert recording.annotations[0].t_s == pytest.approx(1.5, abs=1e-6)


def test_xdf_stream_without_a_type(tmp_path: Path) -> None:
    """A stream that says nothing of its type is none of EEG, and its text is read as that of others."""
    data, stamps = whole_microvolts(200, 3), list(1000 + np.arange(200) / 100)
    path = xdf_file(
        tmp_path / "a.xdf", xdf_stream(1, "EEG", list(data), stamps, DESC), xdf_stream(2, "", ["go"], [1000.5])
    )
    assert [a.description for a in read(path).annotations] == ["go"]


def test_xdf_marker_without_a_time(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A marker whose stamp is no number lies nowhere: it is left out, and told."""
    caplog.set_level(logging.INFO)
    data, stamps = whole_microvolts(200, 3), list(1000 + np.arange(200) / 100)
    marks = xdf_stream(2, "Markers", ["go", "lost", "gone"], [1000.5, math.nan, math.inf])
    recording = read(xdf_file(tmp_path / "a.xdf", xdf_stream(1, "EEG", list(data), stamps, DESC), marks))
    assert [a.description for a in recording.annotations] == ["go"]
    assert "left out 2 annotations beyond the data" in caplog.text


@pytest.mark.parametrize("stamp", [0.0, 5e-324, 1000.0, math.nan])
def test_xdf_whose_stamps_tell_no_time(tmp_path: Path, stamp: float) -> None:
    """EEG whose stamps never rise is refused in a sentence, and no sample is taken for a repeat."""
    path = xdf_file(tmp_path / "a.xdf", xdf_stream(1, "EEG", list(whole_microvolts(200, 3)), [stamp] * 200))
    with pytest.raises(ConfigError, match=r"a\.xdf has EEG whose stamps tell no time"):
        read(path)


def test_xdf_of_several_eeg_streams_is_refused(tmp_path: Path) -> None:
    """Of two EEG streams neither is taken by chance: the error names both."""
    streams = [xdf_stream(n, "EEG", list(whole_microvolts(5, 2)), [1.0, 1.01, 1.02, 1.03, 1.04]) for n in (1, 2)]

    with pytest.raises(ConfigError, match="several EEG streams \\(eeg-1, eeg-2\\)"):
        read(xdf_file(tmp_path / "two.xdf", *streams))


def test_xdf_without_eeg_is_refused(tmp_path: Path) -> None:
    """Markers alone are nothing to play."""
    path = xdf_file(tmp_path / "none.xdf", xdf_stream(1, "Markers", ["a"], [1.0]))

    with pytest.raises(ContractError, match="no stream of type EEG"):
        read(path)


def test_xdf_sample(data_dir: Path) -> None:
    """The EEGLAB test XDF, which names no channels, plays at its nominal rate with numbered channels."""
    path = data_dir / "eeglab" / "test.xdf"
    recording = read(path)

    streams, _ = pyxdf.load_xdf(path)
    np.testing.assert_array_equal(recording.data, streams[0]["time_series"].astype(np.float32))
    assert recording.info.sfreq == 1000.0
    assert recording.info.ch_names == tuple(f"ch{i}" for i in range(1, 9))


# --- CSV ------------------------------------------------------------------------------------------------------------


def csv_file(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "demo.csv"
    path.write_text(text, "utf-8")
    return path


def test_name_of_a_file_that_is_no_utf_8_can_be_sent(tmp_path: Path) -> None:
    """A file named in another encoding is a stream whose name is text, in which what cannot be read is marked."""
    path = tmp_path / os.fsdecode(b"caf\xe9.csv")
    path.write_text("time,Fz\n0,1e-5\n0.01,-1e-5\n0.02,1e-5\n0.03,-1e-5\n")
    assert read(path).info.name == "caf\ufffd"


def test_csv_in_volts(tmp_path: Path) -> None:
    """Comments and blank lines are skipped, the time column is not a channel, and volts become microvolts."""
    text = "# made by hand\n\nfp1, Timestamp ,OZ\n0.000001,10.0,0.5\n\n  # half way\n-0.000002,10.004,1e-6\n"
    recording = read(csv_file(tmp_path, text))

    assert recording.info.ch_names == ("Fp1", "Oz")
    assert recording.info.sfreq == 250.0
    np.testing.assert_array_equal(recording.data, [[1, 500000], [-2, 1]])


@pytest.mark.parametrize(("unit", "factor"), [("V", 1e6), ("mV", 1e3), ("uV", 1.0), ("nV", 1e-3)])
def test_csv_unit(tmp_path: Path, unit: str, factor: float) -> None:
    """The unit of the values is the caller's to say."""
    recording = read(csv_file(tmp_path, "t,Cz\n0,2\n0.01,3\n"), unit=unit)

    np.testing.assert_array_equal(recording.data[:, 0], np.array([2 * factor, 3 * factor], np.float32))


def test_csv_first_column_that_rises_is_time(tmp_path: Path) -> None:
    """Without a name that says so, a first column that only rises is the time; one that does not is a channel."""
    assert read(csv_file(tmp_path, "x,Cz\n0,2\n0.01,1\n")).info.ch_names == ("Cz",)
    assert read(csv_file(tmp_path, "Fz,Cz\n0,2\n-1,1\n"), sfreq=256.0).info.ch_names == ("Fz", "Cz")


@pytest.mark.parametrize(("unit", "doubted"), [("V", True), ("uV", False), ("nV", True)])
def test_csv_unit_that_cannot_be(tmp_path: Path, caplog: pytest.LogCaptureFixture, unit: str, *, doubted: bool) -> None:
    """Values that are no EEG in the unit they are said to have are warned of; an offset has no part in it."""
    rows = "".join(f"{n / 100},{4000 + value}\n" for n, value in enumerate(RNG.integers(-30, 30, 50)))
    read(csv_file(tmp_path, "t,Cz\n" + rows), unit=unit)

    assert ("is the unit right?" in caplog.text) == doubted


def test_csv_times_as_told(tmp_path: Path) -> None:
    """The column of times may be named, or said not to be there; without a line of names the columns are."""
    path = csv_file(tmp_path, "x,Cz,clock\n0,2,0.5\n1,3,0.51\n")
    assert read(path, times="Clock").info.ch_names == ("x", "Cz")
    assert read(path, times="clock").info.sfreq == 100.0
    assert read(path, times="none", sfreq=8.0).info.ch_names == ("x", "Cz", "clock")
    with pytest.raises(ConfigError, match=r"no column 'at' of times: name one of x, Cz, clock, or none"):
        read(path, times="at")
    bare = read(csv_file(tmp_path, "0,2\n0.01,3\n"), columns=["time", "Oz"], unit="uV")
    assert bare.info.ch_names == ("Oz",)
    np.testing.assert_array_equal(bare.data, [[2], [3]])


def test_csv_column_that_nobody_asks_for(tmp_path: Path) -> None:
    """A column of text, or with empty cells, is an error where it is asked for and nowhere else."""
    path = csv_file(tmp_path, "t,label,Cz,Oz\n0,rest,1,\n0.01,rest,2,5\n")

    np.testing.assert_array_equal(read(path, picks=["Cz"], unit="uV").data, [[1], [2]])
    with pytest.raises(ConfigError, match=r"demo\.csv:2, column 4 \(Oz\): an empty cell is not a number"):
        read(path, picks=["Cz", "Oz"])
    with pytest.raises(ConfigError, match=r"demo\.csv:2, column 2 \(label\): 'rest' is not a number"):
        read(path)


@pytest.mark.parametrize("sfreq", [128, 250, 256, 512, 800, 1000, 1024, 2048])
@pytest.mark.parametrize("decimals", [3, 4, 6, 9])
def test_csv_rate_from_rounded_times_with_gaps(tmp_path: Path, sfreq: int, decimals: int) -> None:
    """Rates are recognised from times rounded to a millisecond, be that more than a sample, with a second missing."""
    n_times = 20 * sfreq
    times = np.arange(n_times) / sfreq + (np.arange(n_times) > 1000)
    for begin in np.random.default_rng(sfreq).random(5):
        text = "time,Cz\n" + "".join(f"{begin + t:.{decimals}f},0\n" for t in times)
        assert read(csv_file(tmp_path, text)).info.sfreq == sfreq


@pytest.mark.parametrize(("sfreq", "seconds", "decimals"), [(256, 8, 0), (2048, 2, 3), (256, 3, 2)])
def test_csv_rate_that_would_be_a_guess(tmp_path: Path, sfreq: int, seconds: int, decimals: int) -> None:
    """Times so coarse, and so few, that the rate may be this or that are refused, unless it is told."""
    text = "time,Cz\n" + "".join(f"{0.3 + n / sfreq:.{decimals}f},{n}\n" for n in range(seconds * sfreq))
    path = csv_file(tmp_path, text)
    with pytest.raises(ConfigError, match=r"demo\.csv has times too coarse .*: give sfreq"):
        read(path)
    told = read(path, sfreq=float(sfreq), unit="uV")
    np.testing.assert_array_equal(told.data[:, 0], np.arange(seconds * sfreq))


@pytest.mark.parametrize("times", ["1e-2 2e-2 3e-2", "0 0.010 2.5 2.51", "1 1.01 1.02 1.0301"])
def test_csv_rate_however_times_are_written(tmp_path: Path, times: str) -> None:
    """With exponents, with few decimals or many."""
    text = "time,Cz\n" + "".join(f"{t},0\n" for t in times.split())
    assert read(csv_file(tmp_path, text)).info.sfreq == pytest.approx(100, rel=0.005)


def test_csv_rate_that_is_no_whole_number(tmp_path: Path) -> None:
    """A rate that the times show to be broken stays so."""
    text = "time,Cz\n" + "".join(f"{n / 998.42:.9f},0\n" for n in range(5000))

    assert read(csv_file(tmp_path, text)).info.sfreq == pytest.approx(998.42, abs=1e-3)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("t,Cz\n0,1\n\n0.1,1,2\n", "demo.csv:4 has 3 fields, not one for each of 2 columns"),
        ("t,Cz\n0,1\n0.1,x1\n", "demo.csv:3, column 2 \\(Cz\\): 'x1' is not a number"),
        ("t,Cz\n0,1\n0.1,nan\n", "demo.csv:3, column 2 \\(Cz\\): 'nan' is not a number"),
        ("t,Cz\n0,1\n0.1,1_000\n", "demo.csv:3, column 2 \\(Cz\\): '1_000' is not a number"),
        ("t,Cz\n0,\uff11\n0.1,2\n", "demo.csv:2, column 2 \\(Cz\\): '\uff11' is not a number"),
        ("t;Cz\n0;1\n0.1;2\n", "demo.csv separates its fields by semicolons: export it with commas"),
        ("t\tCz\n0\t1\n", "demo.csv separates its fields by tabs: export it with commas"),
        ("t\n0\n0.1\n", "no EEG channel \\(only times\\)"),
        ("ms,Cz\n0,1\n4,2\n8,3\n", "demo.csv has times that tell 0.25 samples a second, which no EEG has"),
        ("us,Cz\n0,1\n4000,2\n8000,3\n", "demo.csv has times that tell 0.00025 samples a second, which no EEG has"),
        ("h,Cz\n0,1\n1e-6,2\n2e-6,3\n", "demo.csv has times that tell 1e\\+06 samples a second, which no EEG has"),
        ("t,Cz\n", "has no samples"),
        ("", "has no samples"),
        ("Fz,Cz\n1,2\n0,1\n", "no rising times"),
        ("t,Cz\n1,2\n", "no rising times"),
    ],
)
def test_bad_csv(tmp_path: Path, text: str, message: str) -> None:
    """Whatever is wrong with a CSV file is said with the place where it is."""
    with pytest.raises((ConfigError, ContractError), match=message):
        read(csv_file(tmp_path, text))


def test_csv_with_semicolons_and_told_columns(tmp_path: Path) -> None:
    """The separator is named as well where there is no line of names."""
    with pytest.raises(ConfigError, match="separates its fields by semicolons"):
        read(csv_file(tmp_path, "0;1\n0.1;2\n"), columns=["t", "Cz"])


def test_csv_rate_that_no_eeg_has_may_be_told(tmp_path: Path) -> None:
    """Times in milliseconds are no reason to refuse a file whose rate is told."""
    assert read(csv_file(tmp_path, "ms,Cz\n0,1\n4,2\n8,3\n"), sfreq=250.0).info.sfreq == 250.0


@pytest.mark.parametrize("sfreq", [0.0, -1.0, math.inf, math.nan])
def test_rate_that_is_none(tmp_path: Path, sfreq: float) -> None:
    """A rate must be a number above 0, whatever times there are."""
    for text in ("Fz,Cz\n1,2\n0,1\n", "t,Cz\n0,2\n0.01,1\n"):
        with pytest.raises(ConfigError, match="sampling frequency above 0"):
            read(csv_file(tmp_path, text), sfreq=sfreq)


def test_unknown_unit(tmp_path: Path) -> None:
    """A unit that is none of volts is refused."""
    with pytest.raises(ConfigError, match="'furlong' is no unit"):
        read(csv_file(tmp_path, "t,Cz\n0,1\n"), unit="furlong")


# --- what is taken, what is refused ---------------------------------------------------------------------------------


def test_picks(tmp_path: Path) -> None:
    """Picks choose and order the channels, whatever their spelling; an absent one is named."""
    path = csv_file(tmp_path, "t,Fp1,Cz,EOG\n0,1,2,3\n0.01,4,5,6\n")

    assert read(path).info.ch_names == ("Fp1", "Cz")
    recording = read(path, picks=["EOG", "EEG CZ-REF"], unit="uV")
    assert recording.info.ch_names == ("EOG", "Cz")
    np.testing.assert_array_equal(recording.data, [[3, 2], [6, 5]])
    with pytest.raises(ConfigError, match="has no channel Pz: it has Fp1, Cz, EOG"):
        read(path, picks=["Cz", "Pz"])


def test_pick_that_may_be_several(tmp_path: Path) -> None:
    """Of two labels of one electrode a pick is the one that is spelled like it; another spelling is refused."""
    path = csv_file(tmp_path, "t,CZ,Cz,Oz\n0,1,2,3\n0.01,4,5,6\n")

    np.testing.assert_array_equal(read(path, picks=["Cz", "OZ"], unit="uV").data, [[2, 3], [5, 6]])
    np.testing.assert_array_equal(read(path, picks=["CZ"], unit="uV").data, [[1], [4]])
    with pytest.raises(ConfigError, match=r"several channels Cz \('CZ', 'Cz'\): pick one by its very spelling"):
        read(path, picks=["EEG Cz"])
    with pytest.raises(ConfigError, match=r"several channels Cz \('Cz', 'Cz'\)"):
        read(csv_file(tmp_path, "t,Cz,Cz\n0,1,2\n0.01,4,5\n"), picks=["Cz"])


@pytest.mark.parametrize(
    "label",
    [
        "POL EKG1",
        "EEG-EOG",
        "EEG:ECG",
        "EEG EKG1-REF",
        "EEG\u2013EMG",
        "EEG VEOG",
        "Plet",
        "Temp",
        "Temp1",
        "Resp",
        "Erg1",
    ],
)
def test_labels_of_other_signals(tmp_path: Path, label: str) -> None:
    """What is no EEG by its label is left out, whatever amplifiers put before it."""
    assert read(csv_file(tmp_path, f"t,POL Cz,{label}\n0,1,2\n0.01,4,5\n")).info.ch_names == ("Cz",)


@pytest.mark.parametrize("label", ["Temporal", "POL T3", "EEG E1-REF", "C3"])
def test_labels_that_only_look_like_others(tmp_path: Path, label: str) -> None:
    """What is not known to be another signal is taken for EEG."""
    assert read(csv_file(tmp_path, f"t,POL Cz,{label}\n0,1,2\n0.01,4,5\n")).info.n_chans == 2


@pytest.mark.parametrize(("value", "unit"), [("1e39", "uV"), ("-1e33", "V")])
def test_number_beyond_float32(tmp_path: Path, value: str, unit: str) -> None:
    """A value that is finite in the file and not as a sample is said with its place."""
    with pytest.raises(ConfigError, match=r"demo\.csv has no number for Cz at 0\.010 s: cut or mend the file"):
        read(csv_file(tmp_path, f"t,Oz,Cz\n0,1,2\n0.01,3,{value}\n"), unit=unit)


def test_rename(tmp_path: Path) -> None:
    """A label is read as another one, by which it is then picked, placed and taken for EEG; an absent one is named."""
    path = csv_file(tmp_path, "t,E7,ECG,Oz\n0,1,2,3\n0.01,4,5,6\n")

    assert read(path, rename={"E7": "Cz", "ECG": "T8"}).info.ch_names == ("Cz", "T8", "Oz")
    recording = read(path, rename={"E7": "Cz"}, picks=["Cz"])
    np.testing.assert_array_equal(recording.info.montage.ch_pos, make_montage(["Cz"]).ch_pos)
    with pytest.raises(ConfigError, match="has no channel E8 to rename: it has E7, ECG, Oz"):
        read(path, rename={"E8": "Cz"})


def test_cap(tmp_path: Path) -> None:
    """Labels of a declared cap are those of its electrodes, also where channels are picked."""
    path = csv_file(tmp_path, "t,A1,B16\n0,1,2\n0.01,4,5\n")

    assert read(path, cap="biosemi64").info.ch_names == ("Fp1", "Cz")
    assert read(path, cap="biosemi64", picks=["B16"]).info.ch_names == ("Cz",)
    assert read(path).info.ch_names == ("A1", "B16")


def test_no_eeg_at_all(tmp_path: Path) -> None:
    """A file of other signals does not fit."""
    with pytest.raises(ContractError, match="no EEG channel \\(only ECG, hEOG\\)"):
        read(csv_file(tmp_path, "t,ECG,hEOG\n0,1,2\n0.01,4,5\n"))


@pytest.mark.parametrize("suffix", ["fif", "edf", "bdf", "set", "xdf"])
@pytest.mark.parametrize("content", [b"", b"not what it seems " * 40])
def test_files_of_another_format(tmp_path: Path, suffix: str, content: bytes) -> None:
    """A file that is not what its suffix says is refused before a parser stumbles over it."""
    path = tmp_path / f"wrong.{suffix}"
    path.write_bytes(content)

    with pytest.raises(ConfigError, match=f"is no {suffix.upper()} file whatever its name says"):
        read(path)


@pytest.mark.parametrize("name", ["eegmmidb/S001R02.edf", "eeglab/eeglab_data.set"])
def test_damaged_files(data_dir: Path, tmp_path: Path, name: str) -> None:
    """A file that breaks off in its header is one sentence that names it, not the traceback of a parser."""
    path = tmp_path / Path(name).name
    path.write_bytes((data_dir / name).read_bytes()[:500])

    with pytest.raises(ConfigError, match=f"{path.name} cannot be read as {path.suffix[1:].upper()} ") as caught:
        read(path)
    assert "\n" not in str(caught.value)


def test_missing_and_unknown_files(tmp_path: Path) -> None:
    """A path that is no file, and a format nobody knows, are said so."""
    with pytest.raises(ConfigError, match=r"gone\.edf is not a file"):
        read(tmp_path / "gone.edf")
    beyond_limits = tmp_path / ("x" * 300 + ".edf")
    with pytest.raises(ConfigError, match=str(beyond_limits)):
        read(beyond_limits)
    (tmp_path / "song.mp3").touch()
    with pytest.raises(ConfigError, match=r"recordings end in \.fif, \.edf"):
        read(tmp_path / "song.mp3")


def test_missing_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the optional packages the error says how to get them."""
    path = tmp_path / "a.edf"
    path.write_bytes(b"0")
    monkeypatch.setitem(sys.modules, "mne", None)

    with pytest.raises(ConfigError, match="pip install streamnode\\[files\\]"):
        read(path)


def test_recording_without_samples() -> None:
    """An empty recording cannot be made, so that looping over one cannot hang."""
    with pytest.raises(ContractError, match="no samples"):
        make_recording(0)


# --- playing --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chunk_s", [0.001, 0.03, 10.0])
async def test_chunks_add_up_to_the_recording(chunk_s: float) -> None:
    """In any chunks the samples are those of the recording, in order, on a grid of 1 / sfreq."""
    recording = make_recording()
    chunks = await played(recording, chunk_s=chunk_s)

    np.testing.assert_array_equal(np.concatenate([c.data for c in chunks]), recording.data)
    assert [c.start for c in chunks] == [0, *np.cumsum([c.n_times for c in chunks])[:-1]]
    np.testing.assert_allclose([c.t0 - chunks[0].t0 for c in chunks], [c.start / 100 for c in chunks], atol=1e-9)
    assert {c.run for c in chunks} == {0}


async def test_loop_starts_a_run() -> None:
    """Each pass is a run of its own, the index and the count of samples go on, and no chunk spans the seam."""
    recording, metrics = make_recording(7), Metrics()
    source = ReplaySource(recording, clock=time.monotonic, speed=math.inf, loop=True, chunk_s=0.03, metrics=metrics)
    chunks: list[Chunk] = []
    async for chunk in source:
        chunks.append(chunk)
        if len(chunks) == 6:
            break

    assert [(c.run, c.start, c.n_times) for c in chunks] == [
        *((0, 0, 3), (0, 3, 3), (0, 6, 1)),
        *((1, 7, 3), (1, 10, 3), (1, 13, 1)),
    ]
    np.testing.assert_array_equal(chunks[4].data, recording.data[3:6])
    assert metrics.account("demo")["received"] == 14


async def test_nothing_comes_early() -> None:
    """At speed 4 each chunk comes when its last sample is due, and not before."""
    chunks = await played(make_recording(), speed=4.0)

    t0 = chunks[0].t0
    assert all(c.t_arrived - t0 >= (c.start + c.n_times - 1) / 400 for c in chunks)


async def test_lateness_does_not_add_up() -> None:
    """A consumer that stalls is late once: it then gets what it missed at once, and the end comes on time."""
    recording = make_recording(60)  # 0.6 s
    n_times, t_end, t0 = 0, 0.0, time.monotonic()
    async for chunk in ReplaySource(recording, clock=time.monotonic):
        if not n_times:
            time.sleep(0.3)  # noqa: ASYNC251  (the fault)
        n_times += chunk.n_times
        t_end = chunk.t_arrived

    assert n_times == 60
    assert 0.59 <= t_end - t0 < 0.8


async def test_full_speed_lets_others_run() -> None:
    """As fast as possible still gives way to other tasks after every chunk."""
    turns = 0

    async def neighbour() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async with asyncio.TaskGroup() as group:
        task = group.create_task(neighbour())
        chunks = await played(make_recording())
        task.cancel()

    assert turns >= len(chunks)


@pytest.mark.parametrize("speed", [0.0, -1.0, math.nan])
async def test_speed_that_plays_nothing(speed: float) -> None:
    """A speed must be above 0."""
    with pytest.raises(ConfigError, match="above 0"):
        await played(make_recording(), speed=speed)
