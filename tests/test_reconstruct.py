"""ZUNA over recordings, on small untrained networks: as published or as live, with all the options of its packages."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import mne
import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from safetensors.torch import save_file
from typer.testing import CliRunner

from streamnode import build
from streamnode.cli import files
from streamnode.config import EpochConfig, SignalConfig, ZunaConfig
from streamnode.errors import ConfigError, ContractError, StreamnodeError, WeightsError
from streamnode.inference.engine import Engine
from streamnode.inference.worker import Worker
from streamnode.models import zuna, zuna_flow
from streamnode.models.catalog import LoadedModel
from streamnode.models.weights import load_strict
from streamnode.models.zuna import Zuna, to_tokens
from streamnode.models.zuna_flow import Generation
from streamnode.models.zuna_prepare import prepare
from streamnode.montage import make_montage
from streamnode.offline.continuous import reconstruction_of
from streamnode.offline.files import run_file
from streamnode.offline.run import Plan, process
from streamnode.results import load
from streamnode.sources.pacing import Annotation
from streamnode.sources.replay import Recording, read, write_fif
from streamnode.sources.runs import WHOLE, Run
from streamnode.sources.synthetic import SyntheticEeg
from streamnode.types import Chunk, StreamInfo, WeightsInfo

NAMES = ("Fp1", "Fp2", "F3", "F4", "C3", "C4", "P3", "P4")
GENERATIONS: tuple[Generation, ...] = ("v1", "1.1")
both = pytest.mark.parametrize("generation", GENERATIONS)


def small_network(generation: Generation) -> Zuna:
    sizes = zuna_flow.ZunaConfig(
        generation, dim=48, encoder_depth=2, decoder_depth=2, n_heads=2, head_dim=16, hidden=128, time_dim=16
    )
    network = Zuna(sizes)
    load_strict(network, zuna.random_state(sizes, 0), path="a small one")
    return network.eval().requires_grad_(requires_grad=False)


@pytest.fixture(scope="module")
def engines() -> dict[str, Engine]:
    return {
        one: Engine(LoadedModel(small_network(one), f"zuna-{one}", WeightsInfo("random:0")), device="cpu")
        for one in GENERATIONS
    }


def make_recording(seconds: float = 12.0, sfreq: float = 250.0, ch_names: tuple[str, ...] = NAMES) -> Recording:
    own = SyntheticEeg(ch_names, sfreq, seed=3).take(round(seconds * sfreq))
    shared = own[:, :3] @ np.random.default_rng(1).normal(size=(3, len(ch_names)))  # as neighbours share what they see
    data = (shared + own / 5).astype(np.float32)
    return Recording(StreamInfo("demo", "demo-1", "EEG", sfreq, make_montage(ch_names)), data)


def make_plan(variant: Any = "1.1", *, mode: Any = "recording", bad: tuple[str, ...] = (), **options: Any) -> Plan:
    """By default all channels are drawn, in four steps."""
    asked = {"outputs": ("reconstruction",), "steps": 4, "keep_known": False, **options}
    model = ZunaConfig(kind="zuna", variant=variant, weights="random:0", **asked)
    return Plan(model, EpochConfig(hop_s=5.0), SignalConfig(mode=mode), bad=bad)


# --- as published, or as live ---------------------------------------------------------------------------------------


@both
def test_a_recording_as_a_whole_is_what_the_packages_prepare(
    generation: Generation, engines: dict[str, Engine]
) -> None:
    """In mode `recording` the latents are those of the published epochs; v1's one scale is measured and reported."""
    recording = make_recording()
    outcome = process(recording, engines[generation], make_plan(generation, outputs=("tokens",)))
    prepared = prepare(recording.data.T.astype(np.float64), 250.0, generation)
    network = small_network(generation)
    with torch.inference_mode():
        binding = network.bind(recording.info.montage, outputs={"tokens"})
        expected = network.encode_tokens(to_tokens(prepared.x.float(), 32), binding)
    np.testing.assert_allclose(outcome.arrays["tokens"], expected, rtol=0, atol=2e-5)
    measured = outcome.results.settings.get("measured", {})
    assert measured == ({"std_uv": pytest.approx(float(prepared.scale[0, 0, 0]) / 10)} if generation == "v1" else {})
    assert "the recording as a whole" in outcome.results.meta.signal


def test_epochs_with_their_past_are_those_of_the_recording(engines: dict[str, Engine]) -> None:
    """In mode `window` an epoch is that of the whole recording, but for what the filter sees after its end: 3.3 s."""
    recording = make_recording(20.0, sfreq=256.0)  # resampling puts its grid elsewhere for every length
    whole, found = (
        process(recording, engines["1.1"], make_plan(mode=mode)).results for mode in ("recording", "window")
    )
    np.testing.assert_array_equal(found.tables["epoch/start"], whole.tables["epoch/start"])
    for epoch in (1, 2):
        expected, early = (results.tables["original"][epoch][:, :400] for results in (whole, found))
        np.testing.assert_allclose(early, expected, rtol=0, atol=1e-3)
    assert found.meta.signal[-1] == "from 0.5 Hz, zero-phase FIR of 6.61 s"


def test_v1_has_the_scale_that_is_given(engines: dict[str, Engine]) -> None:
    """A given standard deviation is what epochs are divided by, in any mode, and nothing is measured."""
    recording = make_recording()
    measured = process(recording, engines["v1"], make_plan("v1", outputs=("tokens",)))
    std_uv = measured.results.settings["measured"]["std_uv"]
    same = process(recording, engines["v1"], make_plan("v1", outputs=("tokens",), std_uv=std_uv))
    np.testing.assert_array_equal(same.arrays["tokens"], measured.arrays["tokens"])
    for mode in ("causal", "window"):
        given = process(recording, engines["v1"], make_plan("v1", outputs=("tokens",), mode=mode, std_uv=3 * std_uv))
        assert given.results.settings == {}
        assert "epoch/std_uv" not in given.results.tables
        assert not any("standard deviation" in word for word in given.results.meta.signal)


@pytest.mark.parametrize("mode", ["causal", "window"])
def test_v1_is_scaled_by_what_there_is_so_far(
    mode: str, engines: dict[str, Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As live, each epoch is divided by the number it takes along, in batches and chunks of any size, and told of."""
    plan = make_plan("v1", mode=mode, outputs=("tokens", "reconstruction"), bad=("F3",))
    recording, broken = make_recording(22.0), make_recording(22.0)
    for one in (recording, broken):
        one.data[:] *= np.linspace(0.5, 2, len(one.data))[:, None]
    tables = process(recording, engines["v1"], plan).results.tables
    options = {"steps": 4, "keep_known": False}
    model = engines["v1"].bind(recording.info.montage, ("tokens", "reconstruction"), duration_s=0, **options)
    rows = tuple(row for row in range(8) if row != 2)
    expected = model.run_on(rows, tables["original"], tables["epoch/std_uv"])
    for name in ("tokens", "reconstruction"):
        np.testing.assert_allclose(tables[name], expected[name], rtol=0, atol=1e-5 * np.abs(expected[name]).max())
        assert np.abs(model.run_on(rows, tables["original"])[name] - expected[name])[-1].max() > 0.01
    assert len(set(tables["epoch/std_uv"])) == len(tables["epoch/std_uv"]) >= 3
    broken.data[:, 2] *= 300
    monkeypatch.setattr("streamnode.offline.run._CHUNK_S", 0.7)
    again = process(broken, engines["v1"], replace(plan, batch=3)).results.tables
    np.testing.assert_allclose(again["epoch/std_uv"], tables["epoch/std_uv"], rtol=1e-4)  # float32 keeps the average


def test_v1_is_scaled_by_all_runs_of_a_recording(engines: dict[str, Engine]) -> None:
    """In mode `recording` each run is prepared by itself, and one standard deviation is that of them all."""
    recording = replace(make_recording(12.0), runs=(Run(0, 0), Run(1500, 9000)))
    recording.data[1500:] *= 3
    plan = make_plan("v1", outputs=("tokens",))
    parts = [replace(recording, data=data, runs=WHOLE) for data in (recording.data[:1500], recording.data[1500:])]
    whole, *alone = (
        process(one, engines["v1"], plan).results.settings["measured"]["std_uv"] for one in (recording, *parts)
    )
    assert whole == pytest.approx(np.sqrt(np.mean(np.square(alone))), rel=1e-9)


def test_from_python_v1_takes_one_scale_or_one_an_epoch(engines: dict[str, Engine]) -> None:
    """`encode` divides by what it is told of the signal, and refuses what is no standard deviation."""
    recording = make_recording(11.0, sfreq=256.0)
    model = engines["v1"].bind(recording.info.montage, ("tokens",), duration_s=0)
    epochs = recording.data[:2560].T.reshape(8, 2, 1280).transpose(1, 0, 2)
    for given in (20.0, [20.0, 20.0]):
        np.testing.assert_array_equal(
            model.encode(epochs, given).tokens, model.run(epochs, np.array([20.0] * 2))["tokens"]
        )
    wrong: Any
    for wrong in (0.0, -3, [1.0, 2, 3], np.nan, [[5.0, 5.0]]):
        with pytest.raises(
            ContractError, match="no standard deviation of 2 epochs: give one number above 0, or one for"
        ):
            model.encode(epochs, wrong)
    epochs[1, 2, 3] = np.nan
    with pytest.raises(ContractError, match="sample 3 of channel F3 in epoch 1 is not a finite number: fill or drop"):
        model.encode(epochs, 20.0)


def test_v1_is_compiled_with_one_scale_only(
    engines: dict[str, Engine], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """What is compiled takes no number of an epoch, so without `std_uv` nothing is, and the log says why."""
    monkeypatch.setattr(engines["v1"], "compiles", True)
    montage = make_montage(NAMES[:4])
    assert engines["v1"].bind(montage, ("tokens",), duration_s=5.0, seed=1).scaled_by_epoch
    assert "zuna-v1 is compiled with a std_uv of its own only: without one it runs as it is" in caplog.text


async def test_streams_keep_their_own_scale(engines: dict[str, Engine]) -> None:
    """Of two streams that share the model, one ten times the other, v1 says the same: each is divided by its own."""
    recording, plan = make_recording(18.0), make_plan("v1", mode="causal", outputs=("tokens",))
    async with Worker(build.clock) as worker:

        def infer(gain: float) -> list[asyncio.Future[Any]]:
            session = build.open_session(plan, engines["v1"], recording.info)
            chunk = Chunk(recording.info, gain * recording.data, 0, 0.0, 0.0, 0)
            return [worker.infer(epoch, session.feed, t_enqueued=0.0) for epoch in session.path(chunk)]

        quiet, loud = infer(1.0), infer(10.0)
        outputs = await asyncio.gather(*quiet, *loud)
    tokens = np.stack([output.tokens for output in outputs])
    assert len(tokens) == 6
    np.testing.assert_allclose(tokens[:3], tokens[3:], rtol=0, atol=1e-4)


# --- channels that are bad or absent --------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["recording", "causal"])
def test_what_a_bad_channel_holds_does_not_matter(mode: str, engines: dict[str, Engine]) -> None:
    """A channel that is named bad is rebuilt the same whatever it holds, and others are as they were recorded."""
    sound, broken = make_recording(), make_recording()
    broken.data[:, 2] *= 300
    plan = make_plan(mode=mode, bad=("f3",), keep_known=True, add=("Cz",))
    one, other = (process(recording, engines["1.1"], plan).results for recording in (sound, broken))
    reference = [results.tables["reconstruction"][:, [0]] for results in (one, other)]  # the average has the channel
    np.testing.assert_allclose(
        one.tables["reconstruction"] - reference[0], other.tables["reconstruction"] - reference[1], atol=0.05
    )
    np.testing.assert_array_equal(one.tables["rebuilt"], [[False, False, True, *[False] * 5, True]] * 2)
    good = [row for row in range(8) if row != 2]
    np.testing.assert_array_equal(one.tables["reconstruction"][:, good], one.tables["original"][:, good])
    assert one.meta.reconstructed is not None
    assert one.meta.reconstructed.ch_names == (*NAMES, "Cz")


def test_what_is_found_bad_is_rebuilt(engines: dict[str, Engine]) -> None:
    """With `mask`, a channel is rebuilt in the epochs in which it is flat, and only there."""
    recording = make_recording(16.0)
    recording.data[: 5 * 250, 4] = 7.0
    plan = replace(make_plan(), signal=SignalConfig(bad_channels="mask"))
    tables = process(recording, engines["1.1"], plan).results.tables
    assert tables["rebuilt"].tolist() == [[row == 4 and epoch == 0 for row in range(8)] for epoch in range(3)]


@pytest.mark.parametrize(("bad", "n_dead"), [((), 7), (("Fp1",), 6)])
def test_epochs_with_too_few_good_channels_are_left_out(
    bad: tuple[str, ...], n_dead: int, engines: dict[str, Engine]
) -> None:
    """Where one channel is left, found bad or named so, the epoch is given up and the recording goes on."""
    recording = make_recording(16.0)
    recording.data[: 5 * 250, 8 - n_dead :] = 7.0
    plan = replace(make_plan(bad=bad), signal=SignalConfig(mode="recording", bad_channels="mask"))
    assert process(recording, engines["1.1"], plan).results.tables["epoch/seq"].tolist() == [1, 2]


# --- files ----------------------------------------------------------------------------------------------------------


@both
def test_safetensors_have_what_zuna_rs_writes(
    generation: Generation, engines: dict[str, Engine], tmp_path: Path, data_dir: Path
) -> None:
    """Reconstructions are there in standard deviations too, with positions: what is kept is what was prepared."""
    sample, target = data_dir / "zuna" / "sample1_raw.fif", tmp_path / "a.safetensors"
    plan = make_plan(generation, keep_known=True, bad=("O2",), add=("Cz", "Pz"))
    run_file(sample, target, engines[generation], plan)
    found, tables = load_file(target), load(target).tables
    assert found["n_samples"] == 3
    assert found["n_samples"].dtype == np.float32
    good = [row for row in range(12) if row != 9]
    recording = read(sample).data.T[good].astype(np.float64)  # without the bad channel, as it is scaled without it
    prepared = prepare(recording, 256.0, generation)
    for i, epoch in enumerate(prepared.x.numpy()):
        assert found[f"reconstructed_{i}"].shape == (14, 1280)
        assert found[f"reconstructed_{i}"].dtype == np.float32
        np.testing.assert_allclose(found[f"reconstructed_{i}"][good], 10 * epoch, rtol=0, atol=1e-4)
        np.testing.assert_allclose(found[f"chan_pos_{i}"][12:], make_montage(["Cz", "Pz"]).ch_pos, atol=1e-6)
    assert not any(re_read.startswith("reconstructed_") for re_read in tables)
    assert run_file(sample, target, engines[generation], plan) is None


def test_fif_tells_what_is_rebuilt(engines: dict[str, Engine], tmp_path: Path) -> None:
    """Any reader of FIF finds the added channels at their places, and spans that say which have only the model."""
    write_fif(tmp_path / "demo.fif", make_recording())
    plan = make_plan(bad=("P4",), add=("Pz",))
    outcome = run_file(tmp_path / "demo.fif", tmp_path / "drawn.fif", engines["1.1"], plan)
    assert outcome is not None
    raw = mne.io.read_raw(tmp_path / "drawn.fif", verbose="ERROR")
    assert raw.ch_names == [*NAMES, "Pz"]
    np.testing.assert_allclose(raw.info["chs"][8]["loc"][:3], make_montage(["Pz"]).ch_pos[0], atol=1e-6)
    drawn = np.hstack(list(outcome.arrays["reconstruction"]))
    np.testing.assert_allclose(raw.get_data() * 1e6, drawn, rtol=0, atol=1e-3)
    spans = [(span["description"], span["onset"], span["duration"]) for span in raw.annotations]
    assert sorted(spans) == [("rebuilt/P4", 0.0, 10.0), ("rebuilt/Pz", 0.0, 10.0)]


def test_what_is_rebuilt_ends_with_its_run(engines: dict[str, Engine]) -> None:
    """Where nobody recorded for a second, nothing was rebuilt: a span ends before and another begins behind it."""
    recording = replace(make_recording(20.0, sfreq=256.0), runs=(Run(0, 0), Run(2560, 2560 + 256)))
    outcome = process(recording, engines["1.1"], make_plan(bad=("C3",)))
    spans = reconstruction_of(recording, outcome).annotations
    assert spans == (
        Annotation(0.0, 10.0, "rebuilt/C3"),
        Annotation(10.0, 1.0, "BAD_ACQ_SKIP"),
        Annotation(11.0, 10.0, "rebuilt/C3"),
    )


# --- the command line -----------------------------------------------------------------------------------------------

Cli = Callable[..., tuple[dict[str, Any], str]]


@pytest.fixture
def cli(engines: dict[str, Engine], monkeypatch: pytest.MonkeyPatch) -> Cli:
    """Runs a verb; gives the JSON on the one recording and what was said of errors."""
    monkeypatch.setattr(build, "load_engine", lambda model: engines[model.variant])

    def run(*arguments: str | Path) -> tuple[dict[str, Any], str]:
        it = CliRunner().invoke(files.app, [*map(str, arguments), "--weights", "random:0", "--json"])
        if isinstance(it.exception, StreamnodeError):
            return {}, str(it.exception)
        assert isinstance(it.exception, SystemExit | None), it.exception
        return json.loads(it.stdout)["files"][0], it.stderr

    return run


@pytest.fixture
def fif(tmp_path: Path) -> Path:
    write_fif(tmp_path / "demo.fif", make_recording())
    return tmp_path / "demo.fif"


def test_every_option_reaches_the_network(cli: Cli, fif: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All that the packages let one choose is a flag, under their name too where they differ."""
    seen: list[Plan] = []
    monkeypatch.setattr("streamnode.offline.files.run_file", lambda _file, _out, _engine, plan, **_: seen.append(plan))
    flags = [
        "--steps",
        "9",
        "--sampler",
        "adams",
        "--cfg",
        "1.5",
        "--seed",
        "3",
        "--no-keep-known",
        "--data-norm",
        "8",
        "--std-uv",
        "12",
    ]
    cli(
        *("reconstruct", fif, "-o", tmp_path / "a.fif", "--model", "zuna-v1", *flags, "--target-channels", "Cz,Pz"),
        *("--bad-channels", "F3,P4", "--duration", "6", "--mode", "recording"),
    )
    cli("reconstruct", fif, "-o", tmp_path / "a.fif", "--model", "zuna-1.1", "--target-channels", "19")
    cli("embed", fif, "-o", tmp_path, "--model", "zuna-1.1", "--bad-channels", "C3", "--on-bad", "skip")
    first, second, third = seen
    options = first.model.model_dump(include={"steps", "sampler", "guidance", "seed", "data_norm", "std_uv", "add"})
    assert options == {
        "steps": 9,
        "sampler": "adams",
        "guidance": 1.5,
        "seed": 3,
        "data_norm": 8.0,
        "std_uv": 12.0,
        "add": ("Cz", "Pz"),
    }
    assert isinstance(first.model, ZunaConfig)
    assert not first.model.keep_known
    assert (first.bad, first.epoch.duration_s, first.epoch.hop_s) == (("F3", "P4"), 6.0, 6.0)
    assert (first.signal.mode, first.signal.bad_channels) == ("recording", "mask")
    assert isinstance(second.model, ZunaConfig)
    assert (second.model.add, second.model.steps, second.model.keep_known) == (19, 50, True)
    assert (third.bad, third.signal.bad_channels) == (("C3",), "skip")


def test_rebuilt_channels_are_drawn_beside_what_they_were(
    cli: Cli, fif: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`--charts` has a comparison of all that was rebuilt, of which only the bad channel has a past."""
    drawn: list[Any] = []
    monkeypatch.setattr("streamnode.charts.run.write_charts", lambda *_: [])
    monkeypatch.setattr("streamnode.charts.comparison.write_comparison", lambda *arguments: drawn.append(arguments))
    options = [
        "--model",
        "zuna-1.1",
        "--steps",
        "2",
        "--bad-channels",
        "F3",
        "--target-channels",
        "Cz",
        "--on-bad",
        "keep",
    ]
    said, errors = cli("reconstruct", fif, "-o", tmp_path / "a.fif", "--charts", tmp_path / "charts", *options)
    assert errors == ""
    ((path, before, after, names, sfreq, rebuilt),) = drawn
    assert said["charts"] == [str(path)] == [str(tmp_path / "charts" / "demo" / "comparison.png")]
    assert names == rebuilt == ["F3", "Cz"]
    assert sfreq == 256.0
    assert before.shape == after.shape == (2, 2 * 1280)
    assert np.isfinite(before).all(axis=1).tolist() == [True, False]
    assert np.isfinite(after).all()


def test_charts_of_added_channels(cli: Cli, fif: Path, tmp_path: Path) -> None:
    """With added channels, which have nothing to be compared with, the usual charts are there as well."""
    options = ["--model", "zuna-1.1", "--steps", "2", "--target-channels", "Cz", "--no-keep-known"]
    said, _ = cli("reconstruct", fif, "-o", tmp_path / "a.fif", "--charts", tmp_path / "charts", *options)
    assert [Path(path).name for path in said["charts"]] == ["timing.png", "reconstruction.png", "comparison.png"]
    assert all(Path(path).stat().st_size > 10_000 for path in said["charts"])


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ("--steps 0", "--steps: input should be greater than or equal to 1"),
        ("--target-channels Cz,Qz", "the 10-05 system has no Qz to add"),
        ("--target-channels 200", "8 channels cannot become 200: ask for 8 to 64"),
        ("--bad-channels F3,Qz", "demo has no Qz to call bad: name some of its channels, Fp1, Fp2"),
        ("--bad-channels " + ",".join(NAMES), "0 of 8 channels are good"),
        ("--model zuna-v1 --duration 6.5", "ZUNA v1 takes windows up to 6.25 s, not 6.5 s: choose a shorter duration"),
        ("--duration 40", "ZUNA 1.1 takes windows up to 32.0 s, not 40.0 s"),
        ("--duration 5.1", "--duration: 5.1 s is not a whole number of zuna's 125 ms steps"),
        ("--on-bad keep", "ZUNA has nothing to draw where all channels are kept: name bad ones, set --on-bad to mask"),
        ("--std-uv 5", "--std-uv: is of v1 alone"),
        ("--guidance 0", "--guidance: input should be greater than 0"),
        ("--data-norm -1", "--data-norm: input should be greater than 0"),
        ("--model luna-base --steps 5", "luna has no option 'steps': leave it out"),
    ],
)
def test_wrong_options_are_a_sentence_each(cli: Cli, fif: Path, tmp_path: Path, options: str, sentence: str) -> None:
    """What cannot be is refused in the words of the command line, and nothing is written."""
    said, errors = cli("reconstruct", fif, "-o", tmp_path / "a.safetensors", "--model", "zuna-1.1", *options.split())
    assert sentence in said.get("error", errors)
    assert "\n" not in errors.strip()
    assert not (tmp_path / "a.safetensors").exists()


def test_guidance_needs_something_to_guide(cli: Cli, fif: Path, tmp_path: Path) -> None:
    """Latents alone are not steered by anything."""
    _, errors = cli("embed", fif, "-o", tmp_path, "--model", "zuna-1.1", "--guidance", "2")
    assert errors == "--guidance: steers a reconstruction; add that to outputs, or leave guidance out"


def test_recordings_without_positions_are_refused(engines: dict[str, Engine]) -> None:
    """A channel that nobody can place is named, with what to do about it."""
    with pytest.raises(ContractError, match=r"of EXG1 it is not known: leave them out with signal.picks"):
        process(make_recording(ch_names=("Cz", "Pz", "EXG1")), engines["1.1"], make_plan())


def test_recordings_with_holes_are_refused(tmp_path: Path, engines: dict[str, Engine]) -> None:
    """A sample that is no number is found before anything is computed, by channel and time."""
    recording = make_recording()
    recording.data[500, 2] = np.nan
    write_fif(tmp_path / "holes.fif", recording)
    with pytest.raises(ConfigError, match=r"no number for F3 at 2\.000 s: cut or mend the file"):
        run_file(tmp_path / "holes.fif", tmp_path / "a.fif", engines["1.1"], make_plan())


def test_weights_of_the_other_generation_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Published weights are told by their tensors, and a variant that was asked for does not make them another."""
    sizes = replace(zuna.VARIANTS["1.1"], dim=64, encoder_depth=1, decoder_depth=1, n_heads=1, hidden=64)
    monkeypatch.setitem(zuna.VARIANTS, "1.1", sizes)
    save_file(zuna.random_state(sizes, 0), tmp_path / "model.safetensors")
    model = ZunaConfig(kind="zuna", variant="v1", weights=str(tmp_path / "model.safetensors"))
    with pytest.raises(WeightsError, match=r"holds zuna-1\.1, not zuna-v1: set model\.variant to 1\.1"):
        build.load_weights(model)
