"""Files of results that are whole, resumable and explained, out of recordings of every format."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partialmethod
from pathlib import Path
from typing import Any

import edfio
import mne
import numpy as np
import pytest

from streamnode.errors import ConfigError, SinkError
from streamnode.inference.engine import Engine
from streamnode.offline import files
from streamnode.offline.files import run_file
from streamnode.offline.run import process
from streamnode.results import load, written_whole
from streamnode.sources.pacing import Annotation
from streamnode.sources.replay import Recording, read, write_fif
from streamnode.sources.runs import Run
from tests.offline import csv_plan, make_plan, make_recording, write_csv
from tests.sources.test_replay import xdf_file, xdf_stream


def write_edf(path: Path, recording: Recording) -> Path:
    signal, edf = (edfio.EdfSignal, edfio.Edf) if path.suffix == ".edf" else (edfio.BdfSignal, edfio.Bdf)
    limits = (-32768, 32767)
    scale: dict[str, Any] = {"physical_dimension": "uV", "physical_range": limits, "digital_range": limits}
    columns = zip(recording.info.ch_names, recording.data.T.astype(np.float64), strict=True)
    edf([signal(data, recording.info.sfreq, label=name, **scale) for name, data in columns]).write(path)
    return path


def write_xdf(path: Path, recording: Recording) -> Path:
    """At 100 Hz, as `xdf_stream` says."""
    channels = "".join(f"<channel><label>{name}</label></channel>" for name in recording.info.ch_names)
    stamps = list(np.arange(len(recording.data)) / 100)
    return xdf_file(path, xdf_stream(1, "EEG", list(recording.data), stamps, f"<channels>{channels}</channels>"))


FORMATS: dict[str, Callable[[Path, Recording], Path]] = {
    "csv": write_csv,
    "edf": write_edf,
    "bdf": write_edf,
    "xdf": write_xdf,
}


@pytest.mark.parametrize("suffix", [*FORMATS, "fif"])
def test_every_format_gives_the_same_embeddings(engine: Engine, tmp_path: Path, suffix: str) -> None:
    """The same samples give the same results out of any file; out of FIF, which holds volts, but for rounding."""
    recording, path = make_recording(7.0, sfreq=100.0), tmp_path / f"demo.{suffix}"
    if suffix == "fif":
        write_fif(path, recording)
    else:
        FORMATS[suffix](path, recording)
    plan = replace(make_plan(h_freq=45.0), reading={"unit": "uV", "sfreq": 100.0, "times": "none"})

    run_file(path, tmp_path / "demo.safetensors", engine, plan)

    found = load(tmp_path / "demo.safetensors").tables["embedding"]
    expected = process(recording, engine, plan).arrays["embedding"]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 if suffix == "fif" else 0)


@pytest.mark.parametrize("suffix", ["fif", "csv"])
def test_files_with_gaps_come_in_runs(engine: Engine, tmp_path: Path, suffix: str) -> None:
    """No epoch crosses the gap of a file: the results are those of the runs it has."""
    whole, path = make_recording(18.0), tmp_path / f"demo.{suffix}"
    recording = replace(whole, data=np.delete(whole.data, slice(2000, 2500), axis=0), runs=(Run(0, 0), Run(2000, 2500)))
    if suffix == "fif":
        write_fif(path, replace(whole, annotations=(Annotation(8.0, 2.0, "BAD_ACQ_SKIP"),)))
    else:
        times = np.delete(np.arange(4500), slice(2000, 2500)) / 250
        np.savetxt(path, np.column_stack((times, recording.data)), "%.6f", ",", header="t,Fp1,Cz,Oz,T7", comments="")
    plan = replace(make_plan(), reading={"unit": "uV"})

    it = run_file(path, tmp_path / "demo.safetensors", engine, plan)

    assert it is not None
    found, expected = it.results.tables, process(recording, engine, plan).results.tables
    np.testing.assert_array_equal(found["epoch/run"], [0] * 3 + [1] * 3)
    np.testing.assert_array_equal(found["epoch/t0"], expected["epoch/t0"])
    np.testing.assert_allclose(found["embedding"], expected["embedding"], rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "shape", "wishes"),
    [
        ("eeglab/eeglab_data.set", (3, 30), {"h_freq": 60.0}),
        ("eegmmidb/S001R02.edf", (1, 64), {}),
        ("eeglab/test.edf", (1, 16), {"notch_hz": "auto"}),
        ("zuna/sample1_raw.fif", (1, 12), {"reference": "average"}),
        ("zuna/sample1_raw.fif", (1, 2), {"picks": ("O1", "O2"), "reference": ("Fp1", "Fp2")}),
    ],
)
def test_real_recordings(
    engine: Engine, data_dir: Path, tmp_path: Path, *, name: str, shape: tuple[int, int], wishes: dict[str, Any]
) -> None:
    """Real files of every origin give finite embeddings of all their EEG channels."""
    run_file(data_dir / name, tmp_path / "a.safetensors", engine, make_plan(hop_s=80.0, **wishes))

    it = load(tmp_path / "a.safetensors")
    assert it.tables["embedding"].shape == (shape[0], 256)
    assert np.isfinite(it.tables["embedding"]).all()
    assert it.tables["quality/flat"].shape == shape
    assert it.montage.n_chans == shape[1]


def test_picks_are_judged_and_heard_among_all(engine: Engine, tmp_path: Path) -> None:
    """Channels that nobody picked tell the mains, and what is an uncommon hum, as they do live."""
    recording = make_recording(7.0)
    rng, times = np.random.default_rng(0), np.arange(len(recording.data)) / 250
    recording.data[:] = 10 * rng.standard_normal(recording.data.shape)
    recording.data[:, 2] += 60 * np.sin(2 * np.pi * 60 * times)
    csv, target = write_csv(tmp_path / "demo.csv", recording), tmp_path / "demo.safetensors"

    it = run_file(csv, target, engine, csv_plan(notch_hz=60.0, picks=("Oz",)))

    assert it is not None
    assert it.results.montage.ch_names == ("Oz",)
    assert it.results.tables["quality/line"].all()
    it = run_file(csv, target, engine, csv_plan(notch_hz="auto", picks=("Fp1", "T7")), overwrite=True)
    assert it is not None
    assert any(words.startswith("notch 60 Hz") for words in it.results.meta.signal)


@pytest.mark.parametrize("column", ["EOG", "note"])
def test_picks_among_what_is_no_eeg(engine: Engine, csv: Path, tmp_path: Path, column: str) -> None:
    """A channel that is no EEG can be the reference of what is picked, and one of no numbers is in nobody's way."""
    head, *lines = csv.read_text().splitlines()
    values = [line.split(",")[1] if column == "EOG" else "rest" for line in lines]
    csv.write_text("\n".join([f"{head},{column}", *map(",".join, zip(lines, values, strict=True))]))
    reference = ("EOG",) if column == "EOG" else "as_recorded"

    it = run_file(csv, tmp_path / "a.safetensors", engine, csv_plan(picks=("Oz", "Cz"), reference=reference))

    assert it is not None
    assert it.results.montage.ch_names == ("Oz", "Cz")


def test_results_that_are_there_are_not_computed_again(
    engine: Engine, csv: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second run with the same settings finds the file and leaves it alone, overwriting or not."""
    target = tmp_path / "out" / "demo.safetensors"
    assert run_file(csv, target, engine, csv_plan()) is not None
    before = target.read_bytes()
    monkeypatch.setattr(files, "process", None)

    assert run_file(csv, target, engine, csv_plan()) is None
    assert run_file(csv, target, engine, csv_plan(), overwrite=True) is None
    assert target.read_bytes() == before


def test_results_of_other_settings_are_in_the_way(engine: Engine, csv: Path, tmp_path: Path) -> None:
    """Other settings, or a recording that has changed since, are named; overwriting replaces the results."""
    target = tmp_path / "demo.safetensors"
    run_file(csv, target, engine, csv_plan())

    with pytest.raises(ConfigError, match=r"demo\.safetensors was made with other settings \(signal\.notch_hz\)"):
        run_file(csv, target, engine, csv_plan(notch_hz=50.0))
    csv.write_text(csv.read_text() + "\n" + "0,0,0,0\n" * 300)
    with pytest.raises(ConfigError, match=r"other settings \(source\)"):
        run_file(csv, target, engine, csv_plan())
    assert run_file(csv, target, engine, csv_plan(), overwrite=True) is not None
    assert len(load(target).tables["epoch/seq"]) == 3


def test_something_else_in_the_way(engine: Engine, csv: Path, tmp_path: Path) -> None:
    """A file that holds no results is not replaced unless told to."""
    target = tmp_path / "demo.safetensors"
    target.write_text("precious")

    with pytest.raises(ConfigError, match="holds no results"):
        run_file(csv, target, engine, csv_plan())
    assert target.read_text() == "precious"
    assert run_file(csv, target, engine, csv_plan(), overwrite=True) is not None


def test_interruption_leaves_no_file(engine: Engine, csv: Path, tmp_path: Path) -> None:
    """What is interrupted leaves nothing that the next run could take for results."""

    def interrupt(done: int, expected: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_file(csv, tmp_path / "out" / "demo.safetensors", engine, csv_plan(), on_epochs=interrupt)
    assert [path.name for path in tmp_path.rglob("*.*")] == ["demo.csv"]


def test_fif_that_one_file_does_not_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """FIF files end at 2 GB: what is longer goes on in a second one beside it, and any reader finds all of it."""
    at_most_10_mb = partialmethod(mne.io.BaseRaw.save, split_size="10MB")  # as for gigabytes, but in a second
    monkeypatch.setattr(mne.io.BaseRaw, "save", at_most_10_mb)
    data = np.random.default_rng(0).standard_normal((900_000, 4)).astype(np.float32)
    with written_whole(tmp_path / "night.fif") as part:
        write_fif(part, replace(make_recording(), data=data))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["night-1.fif", "night.fif"]
    np.testing.assert_allclose(read(tmp_path / "night.fif").data, data, rtol=1e-6)


def test_a_target_that_nobody_can_reach_is_refused_before_the_work(engine: Engine, tmp_path: Path) -> None:
    """Where the system will not even look for earlier results, nothing is computed that could not be written."""
    recording, target = write_csv(tmp_path / "demo.csv", make_recording(7.0)), tmp_path / ("x" * 300 + ".safetensors")
    with pytest.raises(SinkError, match=str(target)):
        run_file(recording, target, engine, csv_plan(), on_epochs=lambda *_: pytest.fail("it was computed"))
