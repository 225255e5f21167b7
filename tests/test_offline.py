"""Recordings through the same path as live streams: the same bits, in files that are whole, resumable and explained."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

import edfio
import numpy as np
import pytest
from safetensors.numpy import load_file
from typer.testing import CliRunner

from streamnode import build, charts, offline
from streamnode.cli import files
from streamnode.config import EpochConfig, LunaConfig
from streamnode.config.tree import MarkersConfig, SignalConfig
from streamnode.errors import ConfigError, ContractError, StreamnodeError
from streamnode.inference.engine import Engine
from streamnode.inference.worker import Worker
from streamnode.metrics import Metrics
from streamnode.montage import make_montage
from streamnode.offline import Outcome, Plan, Stopwatch, fewer_channels, process, run_file, summary
from streamnode.pipeline import Pipeline, Session
from streamnode.results import load
from streamnode.sources.pacing import Annotation
from streamnode.sources.replay import Recording, ReplaySource, read, write_fif
from streamnode.sources.runs import WHOLE, Run
from streamnode.sources.synthetic import SyntheticEeg
from streamnode.types import ModelOutput, OutputMeta, OutputName, StreamInfo
from tests.sources.test_replay import xdf_file, xdf_stream

NAMES = ("Fp1", "Cz", "Oz", "T7")


def make_plan(*outputs: OutputName, hop_s: float = 1.0, batch: int = 1, **signal: Any) -> Plan:
    return Plan(
        LunaConfig(kind="luna", weights="random:0", outputs=outputs or ("embedding",), vocabulary="alias"),
        EpochConfig(hop_s=hop_s),
        SignalConfig(**signal),
        batch=batch,
    )


def make_recording(seconds: float = 8.0, sfreq: float = 250.0, ch_names: Sequence[str] = NAMES) -> Recording:
    """EEG in whole microvolts, which every format can hold."""
    eeg = SyntheticEeg(ch_names, sfreq, seed=1)
    data = eeg.take(round(seconds * sfreq)).round()
    return Recording(StreamInfo("demo", "demo-1", "EEG", sfreq, make_montage(ch_names)), data)


def write_csv(path: Path, recording: Recording) -> Path:
    rows = [",".join(f"{value:.0f}" for value in row) for row in recording.data]
    path.write_text("\n".join([",".join(recording.info.ch_names), *rows]))
    return path


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


@pytest.fixture(scope="module")
def engine() -> Engine:
    return build.load_engine(make_plan().model)


@pytest.fixture(scope="module")
def outcome(engine: Engine) -> Outcome:
    """All that LUNA yields of a recording."""
    return process(make_recording(), engine, make_plan("embedding", "tokens", "reconstruction", "attention"))


# --- the same as live -----------------------------------------------------------------------------------------------


@dataclass
class Memory:
    """A sink that remembers."""

    name: str = "memory"
    metas: list[OutputMeta] = field(default_factory=list)
    outputs: list[ModelOutput] = field(default_factory=list)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None: ...

    async def announce(self, meta: OutputMeta) -> None:
        self.metas.append(meta)

    async def publish(self, output: ModelOutput) -> None:
        self.outputs.append(output)


async def live(recording: Recording, engine: Engine, plan: Plan) -> Memory:
    """What a node publishes of a recording that is played to it in chunks of 20 ms."""
    sink = Memory()

    async def open_session(info: StreamInfo, first_seq: int) -> Session:
        return build.open_session(plan, engine, info, first_seq)

    async with Worker(build.clock) as worker:
        await Pipeline(
            open_source=lambda _: ReplaySource(recording, clock=time.monotonic, speed=math.inf),
            open_session=open_session,
            worker=worker,
            sinks=[sink],
            backlog=100,
            clock=build.clock,
            metrics=Metrics(),
        ).run()
    return sink


@pytest.mark.parametrize("mode", ["causal", "window"])
async def test_embeddings_are_those_of_the_live_node_to_the_bit(engine: Engine, mode: str) -> None:
    """The same epochs, at the same times within the recording, and every bit of their embeddings and tokens."""
    recording, plan = make_recording(), make_plan("embedding", "tokens", mode=mode, notch_hz=50.0)

    sink = await live(recording, engine, plan)
    found = process(recording, engine, plan).results

    assert len(sink.outputs) == len(found.tables["embedding"]) >= 3
    for name in ("embedding", "tokens"):
        np.testing.assert_array_equal(found.tables[name], [output.arrays()[name] for output in sink.outputs])
    t0 = np.array([output.t0 for output in sink.outputs])
    np.testing.assert_allclose(np.diff(found.tables["epoch/t0"]), np.diff(t0), atol=1e-6)
    np.testing.assert_array_equal(found.tables["epoch/seq"], [output.seq for output in sink.outputs])
    np.testing.assert_array_equal(found.tables["epoch/settling"], [output.settling for output in sink.outputs])
    assert replace(sink.metas[0], stream=found.meta.stream) == found.meta


@pytest.mark.parametrize("chunk_s", [0.013, 1.0, 60.0])
def test_any_chunks_give_the_same(
    engine: Engine, outcome: Outcome, monkeypatch: pytest.MonkeyPatch, chunk_s: float
) -> None:
    """How much of a recording is handed on at once changes not one bit of the results."""
    monkeypatch.setattr(offline, "_CHUNK_S", chunk_s)
    tables = process(make_recording(), engine, make_plan("embedding")).results.tables

    for name in ("embedding", "epoch/seq", "epoch/start", "epoch/settling"):
        np.testing.assert_array_equal(tables[name], outcome.results.tables[name])
    np.testing.assert_allclose(tables["epoch/t0"], outcome.results.tables["epoch/t0"], atol=1e-9)


def test_batches_give_the_same_but_for_rounding(engine: Engine, outcome: Outcome) -> None:
    """Several epochs in a forward pass, the last of them incomplete, give the same results in the same order."""
    batched = process(make_recording(), engine, make_plan("embedding", batch=2))

    assert len(batched.epoch_ms) == 3
    np.testing.assert_allclose(batched.arrays["embedding"], outcome.arrays["embedding"], atol=1e-5)


def test_tables_tell_of_every_epoch(outcome: Outcome) -> None:
    """Times count from the first sample of the recording, an epoch a second; a row for each in every table."""
    tables = outcome.results.tables

    assert {len(table) for table in tables.values()} == {3}
    np.testing.assert_array_equal(tables["epoch/seq"], [0, 1, 2])
    np.testing.assert_array_equal(np.diff(tables["epoch/start"]), 256)
    np.testing.assert_allclose(tables["epoch/t0"], tables["epoch/start"] / 256, atol=1e-9)
    np.testing.assert_allclose(tables["epoch/t_last"], tables["epoch/t0"] + 1279 / 256)
    assert tables["epoch/settling"].all()
    assert not tables["epoch/n_missing"].any()
    assert {name: table.shape[1:] for name, table in tables.items() if not name.startswith("epoch/")} == {
        **{f"quality/{fault}": (4,) for fault in ("not_finite", "flat", "railed", "amplitude", "line", "correlation")},
        "embedding": (256,),
        "tokens": (32, 256),
        "attention": (32, 4, 4),
        "reconstruction": (4, 1280),
        "original": (4, 1280),
        "rmse_uv": (4,),
    }


def test_bad_channels_are_flagged(engine: Engine) -> None:
    """A channel that is flat is flagged as such in every epoch, and no other is."""
    recording = make_recording()
    recording.data[:, 2] = 7

    tables = process(recording, engine, make_plan()).results.tables

    np.testing.assert_array_equal(tables["quality/flat"], [[False, False, True, False]] * 3)


@pytest.mark.parametrize(("line_hz", "steps"), [(50.0, ["notch 50 Hz"]), (60.0, ["notch 60 Hz"]), (None, [])])
def test_mains_are_heard(engine: Engine, line_hz: float | None, steps: list[str]) -> None:
    """Notch `auto` listens to the first seconds, and removes what it hears there."""
    recording = make_recording(6.0)
    times = np.arange(len(recording.data)) / recording.info.sfreq
    recording.data[:] = np.random.default_rng(0).standard_normal(recording.data.shape)
    recording.data[:] += np.sin(2 * np.pi * (line_hz or 10.0) * times)[:, np.newaxis]

    words = process(recording, engine, make_plan(notch_hz="auto")).results.meta.signal

    assert [word[:11] for word in words if "notch" in word] == steps


def test_progress(engine: Engine) -> None:
    """After every forward pass it is told how many epochs are done, and how many there will be."""
    told: list[tuple[int, int]] = []
    process(make_recording(), engine, make_plan(batch=2), on_epochs=lambda *counts: told.append(counts))

    assert told == [(2, 3), (3, 3)]


# --- what is said of it ---------------------------------------------------------------------------------------------


def test_reconstruction_error(outcome: Outcome) -> None:
    """RMSE is that of reconstruction against what went in, for each epoch and channel, and summed up by either."""
    tables, said = outcome.results.tables, summary(outcome)
    error = tables["reconstruction"].astype(np.float64) - tables["original"]

    np.testing.assert_allclose(tables["rmse_uv"], np.sqrt((error**2).mean(axis=2)), rtol=1e-5)
    assert said["rmse_uv"]["channels"] == pytest.approx(dict(zip(NAMES, np.sqrt((error**2).mean((0, 2))), strict=True)))
    assert said["rmse_uv"]["epochs"] == pytest.approx(list(np.sqrt((error**2).mean((1, 2)))))
    assert said["rmse_uv"]["median"] == pytest.approx(float(np.median(tables["rmse_uv"])))


def test_most_attended_channels(outcome: Outcome) -> None:
    """For every query the three channels that got most attention, the most attended first."""
    mean = outcome.arrays["attention"].mean(axis=(0, 1))

    said = summary(outcome)["attention"]

    assert len(said) == len(mean) == 4
    for query, shares in zip(said, mean, strict=True):
        assert list(query) == [NAMES[i] for i in np.argsort(shares)[:0:-1]]
        assert list(query.values()) == pytest.approx(sorted(shares, reverse=True)[:3])


def test_time_is_accounted_for(engine: Engine) -> None:
    """Every phase has its time, all together not more than has passed."""
    watch, began = Stopwatch(), time.perf_counter()
    it = process(make_recording(), engine, make_plan(), watch=watch)
    passed_s = time.perf_counter() - began

    assert list(it.seconds) == ["prepare", "signal", "inference"]
    assert 0.5 * passed_s < sum(it.seconds.values()) <= passed_s
    assert sum(it.epoch_ms) == pytest.approx(1e3 * it.seconds["inference"], rel=0.05)
    said = summary(it)
    assert said["epochs_per_s"] == pytest.approx(3 / sum(it.seconds.values()))
    assert said["forward_share"] == pytest.approx(it.seconds["inference"] / sum(it.seconds.values()))


def test_fewer_channels(outcome: Outcome) -> None:
    """The embedding of all, three, two channels and one, compared with that of all."""
    report = fewer_channels(outcome)

    assert [line["channels"] for line in report] == [4, 3, 2, 1]
    assert report[0]["cosine"] == pytest.approx(1)
    assert all(0 < line["cosine"] < 1 - 1e-4 for line in report[1:])
    assert report[0]["mean_abs"] == pytest.approx(float(np.abs(outcome.arrays["embedding"]).mean()), rel=1e-4)


# --- files ----------------------------------------------------------------------------------------------------------


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


@pytest.fixture
def csv(tmp_path: Path) -> Path:
    return write_csv(tmp_path / "demo.csv", make_recording(6.0))


def csv_plan(**signal: Any) -> Plan:
    return replace(make_plan(**signal), reading={"unit": "uV", "sfreq": 250.0, "columns": None})


def test_results_that_are_there_are_not_computed_again(
    engine: Engine, csv: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second run with the same settings finds the file and leaves it alone, overwriting or not."""
    target = tmp_path / "out" / "demo.safetensors"
    assert run_file(csv, target, engine, csv_plan()) is not None
    before = target.read_bytes()
    monkeypatch.setattr(offline, "process", None)

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


def test_reconstruction_as_a_recording(engine: Engine, tmp_path: Path) -> None:
    """The epochs of a reconstruction follow each other in a FIF file, with the annotations where they were."""
    recording = replace(make_recording(16.0), annotations=(Annotation(6.5, 0.5, "blink"),))
    write_fif(tmp_path / "demo.fif", recording)
    plan = make_plan("reconstruction", hop_s=5.0)

    it = run_file(tmp_path / "demo.fif", tmp_path / "drawn.fif", engine, plan)

    drawn = read(tmp_path / "drawn.fif")
    assert it is not None
    assert drawn.info.sfreq == 256.0
    assert drawn.info.ch_names == NAMES
    np.testing.assert_allclose(drawn.info.montage.ch_pos, recording.info.montage.ch_pos, atol=1e-6)
    np.testing.assert_allclose(drawn.data.T, np.hstack(list(it.arrays["reconstruction"])), rtol=1e-5)
    assert len(drawn.data) == 3 * 1280
    assert drawn.annotations == (Annotation(6.5, 0.5, "blink"),)
    with pytest.raises(ConfigError, match="was made before: choose another place, or overwrite it"):
        run_file(tmp_path / "demo.fif", tmp_path / "drawn.fif", engine, plan)


def test_too_short(engine: Engine) -> None:
    """A recording without one whole epoch is said to be, with what an epoch takes."""
    with pytest.raises(ContractError, match=r"demo lasts 5 s, and one epoch takes 5\.0\d\d? s with the delay"):
        process(make_recording(5.0), engine, make_plan())


@pytest.mark.parametrize("mode", ["causal", "window", "recording"])
def test_no_epoch_crosses_a_gap(engine: Engine, mode: str) -> None:
    """The runs of an interrupted recording are as recordings of their own, but for the time of their epochs."""
    data = make_recording(15.0).data
    whole = Recording(make_recording().info, data, runs=(Run(0, 0), Run(1750, 6250)))
    plan, told = make_plan(mode=mode), list[tuple[int, int]]()

    outcome = process(whole, engine, plan, on_epochs=lambda *counts: told.append(counts))

    tables = outcome.results.tables
    parts = [process(replace(whole, data=part, runs=WHOLE), engine, plan) for part in (data[:1750], data[1750:])]
    np.testing.assert_array_equal(tables["embedding"], np.concatenate([part.arrays["embedding"] for part in parts]))
    n_epochs = [len(part.epoch_ms) for part in parts]
    np.testing.assert_array_equal(tables["epoch/run"], np.repeat([0, 1], n_epochs))
    t0 = [part.results.tables["epoch/t0"] + later for part, later in zip(parts, (0, 25), strict=True)]
    np.testing.assert_allclose(tables["epoch/t0"], np.concatenate(t0), atol=1e-9)
    assert told[-1] == (sum(n_epochs), sum(n_epochs))
    assert told[0][1] == sum(n_epochs)
    assert summary(outcome)["runs"] == 2


def test_runs_that_are_all_too_short(engine: Engine) -> None:
    """Where no run has a whole epoch, the longest of them is what is too short."""
    recording = replace(make_recording(), runs=(Run(0, 0), Run(900, 6250)))
    with pytest.raises(ContractError, match=r"the longest of the 2 runs of demo lasts 4\.4 s, and one epoch takes"):
        process(recording, engine, make_plan())


def test_epochs_around_annotations(engine: Engine) -> None:
    """Where a plan cuts around markers, these are the annotations of the recording that match."""
    spans = (Annotation(0.1, 0.0, "stim/a"), Annotation(2.0, 0.0, "rest"), Annotation(6.5, 0.0, "stim/b"))
    recording = replace(make_recording(13.0), annotations=spans)
    plan = replace(make_plan(), epoch=EpochConfig(markers=MarkersConfig(labels=("stim/*",), tmin_s=0.5)))

    tables = process(recording, engine, plan).results.tables

    np.testing.assert_allclose(tables["epoch/t0"], [0.6, 7.0], atol=0.51 / 256)
    plan = replace(plan, epoch=EpochConfig(markers=MarkersConfig(labels=("go", "stop"))))
    with pytest.raises(ContractError, match=r"around an annotation like go, stop \(there is rest, stim/a, stim/b\)"):
        process(recording, engine, plan)


def test_no_epoch_is_good_enough(engine: Engine) -> None:
    """Where all epochs are given up for their channels, it is not for their length."""
    recording = make_recording()
    recording.data[:, 2] = 7
    with pytest.raises(ContractError, match=r"every epoch of demo has channels that signal\.bad_channels gives up"):
        process(recording, engine, make_plan(bad_channels="skip"))


def test_bad_channels_are_not_shown(engine: Engine) -> None:
    """Channels that are named bad change nothing of what a model says, whatever they hold; unknown ones are refused."""
    sound, broken = make_recording(), make_recording()
    broken.data[:, 2] += 100
    plan = replace(make_plan(reference="as_recorded"), bad=("oz",))
    one, other = (process(recording, engine, plan).arrays["embedding"] for recording in (sound, broken))
    np.testing.assert_array_equal(one, other)
    assert np.abs(one - process(sound, engine, make_plan(reference="as_recorded")).arrays["embedding"]).max() > 1e-3
    with pytest.raises(ConfigError, match="demo has no Qz to call bad: name some of its channels, Fp1, Cz, Oz, T7"):
        process(sound, engine, replace(plan, bad=("Qz",)))


# --- the command line -----------------------------------------------------------------------------------------------


@pytest.fixture
def cli(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[int, dict[str, Any], str]]:
    """Runs a verb on the engine of this module; gives exit code, JSON and what was said of errors."""
    monkeypatch.setattr(build, "load_engine", lambda _: engine)

    def run(*arguments: str | Path) -> tuple[int, dict[str, Any], str]:
        it = CliRunner().invoke(files.app, [*map(str, arguments), "--weights", "random:0", "--json"])
        if isinstance(it.exception, StreamnodeError):
            return it.exception.exit_code, {}, str(it.exception)
        assert isinstance(it.exception, SystemExit | None), it.exception
        return it.exit_code, json.loads(it.stdout), it.stderr

    return run


Cli = Callable[..., tuple[int, dict[str, Any], str]]
CSV = ("--csv-unit", "uV", "--csv-sfreq", "250")


def test_embed(cli: Cli, csv: Path, tmp_path: Path) -> None:
    """`embed` writes a file for each recording, says what it took, and skips what is there."""
    other = write_csv(tmp_path / "other.csv", make_recording(7.0))
    options = ("-o", tmp_path / "out", "--hop", "0.5", "--notch", "auto", *CSV)

    code, said, errors = cli("embed", csv, other, *options)

    assert (code, errors) == (0, "")
    assert [row["epochs"] for row in said["files"]] == [2, 4]
    assert said["epochs"] == 6
    assert list(said["seconds"]) == ["load", "read", "prepare", "signal", "inference", "write"]
    assert said["epochs_per_s"] == pytest.approx(6 / (sum(said["seconds"].values()) - said["seconds"]["load"]))
    assert load(tmp_path / "out" / "other.safetensors").meta.hop_s == 0.5
    _, said, _ = cli("embed", csv, other, *options)
    assert [row.get("skipped") for row in said["files"]] == [True, True]


def test_embed_into_parquet(cli: Cli, csv: Path, tmp_path: Path) -> None:
    """Parquet has the same tables, in a folder or as the one file that is named."""
    pytest.importorskip("pyarrow")
    cli("embed", csv, "-o", tmp_path, *CSV)
    cli("embed", csv, "-o", tmp_path, "--format", "parquet", *CSV)
    cli("embed", csv, "-o", tmp_path / "named.parquet", *CSV)

    expected = load(tmp_path / "demo.safetensors")
    for name in ("demo.parquet", "named.parquet"):
        found = load(tmp_path / name)
        assert found.settings == expected.settings
        assert set(found.tables) == set(expected.tables)
        np.testing.assert_array_equal(found.tables["embedding"], expected.tables["embedding"])


def test_one_bad_file_does_not_keep_the_others(cli: Cli, csv: Path, tmp_path: Path, data_dir: Path) -> None:
    """Each file that fails is one sentence that names it; the others are done; the first failure is the exit code."""
    corrupt = tmp_path / "corrupt.edf"
    corrupt.write_bytes((data_dir / "eeglab" / "test.edf").read_bytes()[:700])
    eyes = write_csv(tmp_path / "eyes.csv", make_recording(6.0, ch_names=("hEOG", "vEOG")))
    nowhere = data_dir / "eeglab" / "test.xdf"
    short = write_csv(tmp_path / "short.csv", make_recording(3.0))
    gone = tmp_path / "gone.fif"

    code, said, errors = cli("embed", nowhere, corrupt, eyes, short, gone, csv, "-o", tmp_path / "out", *CSV)

    assert code == ContractError.exit_code
    *failed, done = said["files"]
    assert done["epochs"] == 1
    words = ["of ch1, ch2,", "cannot be read as EDF", "no EEG channel", "shorter --duration", "is not a file"]
    for row, path, word in zip(failed, (nowhere, corrupt, eyes, short, gone), words, strict=True):
        assert path.name in row["error"]
        assert word in row["error"]
        assert f"error: {row['error']}\n" in errors
    assert len(errors.splitlines()) == 5
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["demo.safetensors"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--model", "luna-bse"], "there is no model 'luna-bse': use luna-base"),
        (["--outputs", "embeding"], "--outputs: input should be 'embedding'"),
        (["--option", "pool=mean"], "luna has no option 'pool'"),
        (["--option", "vocabulary=loose"], "--option vocabulary: input should be 'strict'"),
        (["--option", "vocabulary"], "no equals sign"),
        (["--mode", "lookahead"], "--lookahead: belongs to mode lookahead"),
        (["--hop", "-1"], "--hop: input should be greater than 0"),
        (["--notch", "fifty"], "--notch: input should be"),
        (["--picks", "Cz,Cz"], "--picks: 'Cz' more than once"),
        (["-o", "a.csv"], "ends in '.csv'"),
    ],
)
def test_wrong_options(cli: Cli, csv: Path, options: list[str], words: str) -> None:
    """An option that cannot be is one sentence in the words of the command line."""
    code, _, error = cli("embed", csv, "-o", csv.parent, *options)

    assert code == ConfigError.exit_code
    assert words in error
    assert "\n" not in error


def test_wrong_options_for_a_file(cli: Cli, csv: Path, tmp_path: Path) -> None:
    """So is one that does not suit a file, or the results that are there."""
    _, said, _ = cli("embed", csv, "-o", tmp_path, "--duration", "5.01", *CSV)
    assert "--duration: 5.01 s is not a whole number" in said["files"][0]["error"]
    cli("embed", csv, "-o", tmp_path, *CSV)
    _, said, _ = cli("embed", csv, "-o", tmp_path, "--notch", "50", *CSV)
    assert "other settings (--notch)" in said["files"][0]["error"]


def test_names_of_files_are_left_alone(cli: Cli, tmp_path: Path) -> None:
    """A file called like a section of a configuration keeps its name in what is said of it."""
    _, said, _ = cli("embed", tmp_path / "signal.edf", "-o", tmp_path)
    assert "signal.edf is not a file" in said["files"][0]["error"]


def test_two_recordings_of_one_name(cli: Cli, csv: Path, tmp_path: Path) -> None:
    """Two results never go to the same file."""
    code, _, error = cli("embed", csv, tmp_path / "b" / "demo.edf", "-o", tmp_path)
    assert code == ConfigError.exit_code
    assert "demo.csv and" in error
    code, _, error = cli("embed", csv, csv, "-o", tmp_path / "a.safetensors")
    assert code == ConfigError.exit_code
    assert "give a folder" in error


def test_csv_and_channel_options(cli: Cli, tmp_path: Path) -> None:
    """Names, times, unit, labels and channels of a CSV file are as the options say."""
    recording = make_recording(6.0)
    rows = [",".join(f"{value / 1e3:.3f}" for value in row) for row in recording.data]
    text = "\n".join(f"{n / 250},note,{row}" for n, row in enumerate(rows))
    (tmp_path / "bare.csv").write_text(text)
    columns = "--csv-columns", "clock,label,Fp1,Cz,E3,T7"

    wishes = "--csv-times", "clock", "--csv-unit", "mV", "--rename", "E3=Oz", "--picks", "Fp1,Oz", "--bipolar", "Fp1-Oz"
    code, _, errors = cli("embed", tmp_path / "bare.csv", "-o", tmp_path / "a.safetensors", *columns, *wishes)

    assert (code, errors) == (0, "")
    found = load(tmp_path / "a.safetensors")
    assert found.meta.ch_names == ("Fp1-Oz",)
    assert found.meta.stream.ch_names == ("Fp1", "Oz")
    assert found.meta.stream.sfreq == 250.0


def test_reconstruct(cli: Cli, csv: Path, tmp_path: Path) -> None:
    """`reconstruct` writes what the model draws beside what it saw, also as luna-rs does, and how far it is off."""
    options = ("--option", "vocabulary=alias", *CSV)
    code, said, errors = cli("reconstruct", csv, "-o", tmp_path / "a.safetensors", *options)

    assert (code, errors) == (0, "")
    found = load_file(tmp_path / "a.safetensors")
    assert found["original"].shape == found["reconstruction"].shape == (1, 4, 1280)
    assert found["output_0"].shape == (4, 1280)
    assert said["files"][0]["rmse_uv"]["channels"]["Cz"] == pytest.approx(found["rmse_uv"][0, 1])
    code, _, error = cli("reconstruct", csv, "-o", tmp_path / "folder", *options)
    assert code == ConfigError.exit_code
    assert "results end in" in error


def test_reports(cli: Cli, csv: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Charts are drawn of each recording into a folder of its own; fewer channels are reported when asked for."""
    drawn: list[tuple[Path, charts.Run]] = []

    def draw(folder: Path, run: charts.Run) -> list[Path]:
        drawn.append((folder, run))
        return [folder / "a.png"]

    monkeypatch.setattr(charts, "write_charts", draw)

    _, said, _ = cli("embed", csv, "-o", tmp_path, "--charts", tmp_path / "charts", "--fewer-channels", *CSV)

    ((folder, run),) = drawn
    assert folder == tmp_path / "charts" / "demo"
    assert run.title == "luna-base, demo.csv"
    assert run.montage.ch_names == NAMES
    assert run.arrays["embedding"].shape == (1, 256)
    assert len(run.epoch_ms) == 1
    assert run.epochs is None
    assert said["files"][0]["charts"] == [str(folder / "a.png")]
    assert [line["channels"] for line in said["files"][0]["fewer_channels"]] == [4, 3, 2, 1]


def test_table_for_people(engine: Engine, csv: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without `--json` there is a line for each recording, and a word on those that were there."""
    monkeypatch.setattr(build, "load_engine", lambda _: engine)
    arguments = ["embed", str(csv), "-o", str(tmp_path), "--weights", "random:0", *CSV]

    first, again = (CliRunner().invoke(files.app, arguments) for _ in range(2))

    assert "demo.csv" in first.stdout
    assert "demo.csv: " in again.stdout
    assert "up to date" in again.stdout
