"""Bad channels rebuilt live: a small ZUNA in a whole pipeline, out as one continuous LSL stream of EEG."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Self, cast

import numpy as np
import pylsl
import pytest

from streamnode import build, config
from streamnode.errors import ContractError
from streamnode.inference.engine import BoundModel, Engine
from streamnode.inference.pace import Cost
from streamnode.inference.worker import Worker
from streamnode.metrics import Metrics
from streamnode.models import zuna
from streamnode.models.catalog import LoadedModel
from streamnode.models.weights import load_strict
from streamnode.models.zuna import Zuna
from streamnode.models.zuna_flow import ZunaConfig
from streamnode.montage import make_montage
from streamnode.pipeline import Pipeline, Session
from streamnode.sources.synthetic import SyntheticEeg
from streamnode.types import Chunk, ModelOutput, Sink, StreamInfo, WeightsInfo
from tests.test_pipeline import Memory, Scripted

CH_NAMES = (
    "Fp1",
    "Fp2",
    "F7",
    "F3",
    "Fz",
    "F4",
    "F8",
    "T7",
    "C3",
    "C4",
    "T8",
    "P7",
    "P3",
    "Pz",
    "P4",
    "P8",
    "O1",
    "O2",
)
C3, SECOND = CH_NAMES.index("C3"), 256
INFO = StreamInfo("headset", "headset-1", "EEG", float(SECOND), make_montage(CH_NAMES))
YAML = """\
source: {{kind: lsl}}
epoch: {{hop_s: 1.0, policy: all}}
signal: {{bad_channels: mask, reference: as_recorded}}
model: {{kind: zuna, weights: "random:0", outputs: [{outputs}], steps: 4, sampler: adams{options}}}
sinks: [{{kind: lsl-eeg, name: {name}}}]
"""


@pytest.fixture(scope="module")
def engine() -> Engine:
    """The network of the catalog, much smaller."""
    sizes = ZunaConfig("1.1", dim=48, encoder_depth=2, decoder_depth=2, n_heads=2, head_dim=16, hidden=128, time_dim=16)
    model = Zuna(sizes)
    load_strict(model, zuna.random_state(sizes, 0), path="a small one")
    return Engine(LoadedModel(model.eval().requires_grad_(requires_grad=False), "zuna-1.1", WeightsInfo("random:0")))


def life(n_epochs: int, *, dead: bool = False) -> Scripted:
    """EEG for so many epochs, a second apart; C3 may be dead."""
    data = SyntheticEeg(CH_NAMES, float(SECOND), seed=2).take((n_epochs + 4) * SECOND)
    if dead:
        data[:, C3] = 7.0
    starts = range(0, len(data), SECOND)
    t0 = 1000.0
    chunks = [Chunk(INFO, data[i : i + SECOND], i, t0 + i / SECOND, t0 + i / SECOND + 1, run=0) for i in starts]
    return Scripted(INFO, chunks)


def configure(folder: Path, options: str = "", outputs: str = "reconstruction") -> config.NodeConfig:
    path = folder / "node.yaml"
    path.write_text(YAML.format(options=options, outputs=outputs, name=f"repaired-{folder.name}"))
    return config.load(path)


def pipeline_of(
    node_config: config.NodeConfig, engine: Engine, source: Scripted, sinks: list[Sink], metrics: Metrics
) -> Pipeline:
    async def open_session(info: StreamInfo, first_seq: int) -> Session:
        return build.open_session(node_config, engine, info, first_seq)

    return Pipeline(
        open_source=lambda _: source,
        open_session=open_session,
        worker=Worker(build.clock),
        sinks=sinks,
        backlog=build.backlog(node_config),
        clock=build.clock,
        metrics=metrics,
    )


async def outputs_of(node_config: config.NodeConfig, engine: Engine, source: Scripted) -> list[ModelOutput]:
    memory = Memory()
    await pipeline_of(node_config, engine, source, [memory], Metrics()).run()
    return memory.outputs


async def test_only_bad_channels_are_rebuilt(tmp_path: Path, engine: Engine) -> None:
    """A dead channel comes back drawn from the others, which stay as they were recorded, to the bit."""
    (dead,), (sound,) = [
        await outputs_of(configure(tmp_path), engine, source) for source in (life(1, dead=True), life(1))
    ]
    rebuilt, measured = dead.arrays()["reconstruction"], sound.arrays()["reconstruction"]
    assert dead.bad_channels == ("C3",)
    assert sound.bad_channels == ()
    np.testing.assert_array_equal(np.delete(rebuilt, C3, axis=0), np.delete(measured, C3, axis=0))
    assert rebuilt[C3].std() > 0
    assert not np.allclose(rebuilt[C3], measured[C3])


async def test_absent_channels_are_made_up(tmp_path: Path, engine: Engine) -> None:
    """Added channels stand behind those that were recorded, and are described with their places."""
    memory = Memory()
    await pipeline_of(configure(tmp_path, ", add: [Cz, Fp1, Oz]"), engine, life(1), [memory], Metrics()).run()
    assert memory.metas[0].reconstructed is not None
    assert memory.metas[0].reconstructed.ch_names == (*CH_NAMES, "Cz", "Oz")
    (output,) = memory.outputs
    assert output.arrays()["reconstruction"].shape == (len(CH_NAMES) + 2, 5 * SECOND)
    assert np.isfinite(output.arrays()["reconstruction"]).all()


async def test_machine_that_is_too_slow_gives_up_steps_first(
    tmp_path: Path, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With `min_steps`, epochs without bad channels pass when there is no time for them, and are counted so."""
    node_config, metrics, memory = configure(tmp_path, ", min_steps: 2, add: [Cz]"), Metrics(), Memory()
    monkeypatch.setattr("streamnode.inference.engine.BoundModel.cost", lambda *_: Cost(0.01, 10.0))
    await pipeline_of(node_config, engine, life(3), [memory], metrics).run()
    labels = {"stream": INFO.name, "action": "pass"}
    passed = metrics.registry.get_sample_value("streamnode_pace_epochs_total", labels)
    assert passed == sum(not output.bad_channels for output in memory.outputs) > 0
    assert all(np.isfinite(output.arrays()["reconstruction"]).all() for output in memory.outputs)


@pytest.mark.parametrize(
    ("outputs", "options", "dead", "slow", "learnt"),
    [
        ("reconstruction", "", False, False, None),  # good channels come back as they are
        ("embedding, reconstruction", "", False, False, 0),
        ("reconstruction", "", True, False, 4),
        ("reconstruction", ", add: [Cz]", False, False, 4),
        ("reconstruction", ", keep_known: false", False, False, 4),
        ("reconstruction", ", add: [Cz]", False, True, None),  # it passes
        ("embedding, reconstruction", ", add: [Cz]", False, True, 0),
    ],
)
async def test_the_pace_learns_from_what_has_run(
    tmp_path: Path,
    engine: Engine,
    monkeypatch: pytest.MonkeyPatch,
    *,
    outputs: str,
    options: str,
    dead: bool,
    slow: bool,
    learnt: int | None,
) -> None:
    """An epoch that needed no sampler does not tell how fast it is, and one that took no network tells nothing."""
    told = list[int]()
    monkeypatch.setattr("streamnode.inference.engine.BoundModel.cost", lambda *_: Cost(0.01, 10.0 if slow else 1e-6))
    monkeypatch.setattr("streamnode.inference.pace.Pace.took", lambda _, steps, _seconds: told.append(steps))
    node_config, memory = configure(tmp_path, ", min_steps: 2" + options, outputs), Memory()
    await pipeline_of(node_config, engine, life(2, dead=dead), [memory], Metrics()).run()
    assert len(memory.outputs) == 2
    assert told == ([] if learnt is None else [learnt] * 2)


def test_too_few_channels_to_do_without_the_sampler(tmp_path: Path, engine: Engine) -> None:
    """What cannot be made up without the sampler is refused at the start, not when there is no time for it."""
    few = StreamInfo("headset", "headset-1", "EEG", 256.0, make_montage(("C3", "C4", "Pz")))
    with pytest.raises(
        ContractError, match=r"3 channels are too few to make up Cz from .* model\.min_steps or model\.add"
    ):
        build.open_session(configure(tmp_path, ", min_steps: 2, add: [Cz]"), engine, few)
    for options in (", min_steps: 2", ", add: [Cz]"):
        assert build.open_session(configure(tmp_path, options), engine, few).model.montage == few.montage


async def test_out_comes_one_continuous_stream(tmp_path: Path, engine: Engine) -> None:
    """Over LSL each sample arrives once, a 256th of a second after the one before, from the first epoch on."""
    node_config, metrics = configure(tmp_path), Metrics()
    (sink,) = build.build_sinks(node_config, None, metrics)
    source = life(4, dead=True)
    gate = asyncio.Event()

    class Gated(Scripted):
        async def __aenter__(self) -> Self:
            await gate.wait()
            return self

    gated = Gated(source.info, source.chunks)
    async with sink:
        pipeline = pipeline_of(node_config, engine, gated, [sink], metrics)
        session = build.open_session(node_config, engine, source.info)
        await sink.announce(session.meta)
        (found,) = await asyncio.to_thread(pylsl.resolve_byprop, "name", f"repaired-{tmp_path.name}", 1, 20)
        inlet = pylsl.StreamInlet(found, recover=False)
        await asyncio.to_thread(inlet.open_stream, 10)
        gate.set()
        await pipeline.run()
        n_expected = 8 * SECOND - round(0.25 * SECOND)  # four epochs of 5 s a second apart; the fade waits for a fifth
        rows, stamps = await asyncio.to_thread(pull, inlet, n_expected)
    assert len(rows) == n_expected
    np.testing.assert_allclose(np.diff(stamps), 1 / SECOND, atol=1e-6)
    assert found.nominal_srate() == SECOND


def pull(inlet: pylsl.StreamInlet, n_samples: int) -> tuple[list[list[float]], list[float]]:
    rows: list[list[float]] = []
    stamps: list[float] = []
    while len(rows) < n_samples:
        row, stamp = inlet.pull_sample(timeout=5)
        if row is None:
            break
        rows.append(row)
        stamps.append(stamp)
    return rows, stamps


async def test_too_few_good_channels_cost_the_epoch_and_no_more(tmp_path: Path, engine: Engine) -> None:
    """While all channels but one are dead there is nothing to rebuild from: counted as dropped, and life goes on."""
    source, metrics, memory = life(7), Metrics(), Memory()
    for chunk in list(source.chunks)[:5]:
        chunk.data[:, 1:] = 7.0
    await pipeline_of(configure(tmp_path), engine, source, [memory], metrics).run()
    labels = {"stream": INFO.name, "reason": "bad_channels"}
    dropped = metrics.registry.get_sample_value("streamnode_epochs_dropped_total", labels)
    assert dropped
    assert len(memory.outputs) == 7 - dropped > 0


def test_binding_takes_one_step_of_the_sampler(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many steps an epoch will have, and whatever is tried to find out how passes are fastest."""
    monkeypatch.setattr("streamnode.inference.cpu._chosen", {})
    encoded, stepped = list[int](), list[int]()
    network = cast("Zuna", engine._model)
    with (
        network.encoder.register_forward_hook(lambda *_: encoded.append(1)),
        network.decoder.register_forward_hook(lambda *_: stepped.append(1)),
    ):
        engine.bind(INFO.montage, ("reconstruction",), duration_s=5.0, steps=40, seed=99)
    assert len(stepped) == 1
    assert len(encoded) > 1


def test_what_a_pass_costs_is_measured_without_hiccups(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Encoder and sampler are timed each by itself, and a pass that something held up is not taken for the usual."""
    bound, now, hiccups = engine.bind(INFO.montage, ("reconstruction",), duration_s=0, steps=40), [0.0], [0.4, 0.0] * 2

    def run_on(model: BoundModel, rows: tuple[int, ...], _: object) -> None:
        steps = model.binding.steps if "reconstruction" in model.outputs else 0
        assert len(rows) == len(CH_NAMES) - 1
        now[0] += 0.1 + 0.02 * steps + hiccups.pop()

    monkeypatch.setattr("streamnode.inference.bound.perf_counter", lambda: now[0])
    monkeypatch.setattr(BoundModel, "run_on", run_on)
    cost = bound.cost(5.0, 4)
    assert (cost.encode_s, cost.step_s) == pytest.approx((0.1, 0.02))
