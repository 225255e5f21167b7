"""Recordings through the same path as live streams: the same bits, and whatever keeps them from it is explained."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field, replace
from typing import Self

import numpy as np
import pytest

from streamnode import build
from streamnode.config import EpochConfig, MarkersConfig
from streamnode.errors import ConfigError, ContractError
from streamnode.inference.engine import Engine
from streamnode.inference.worker import Worker
from streamnode.metrics import Metrics
from streamnode.offline.figures import summary
from streamnode.offline.run import Outcome, Plan, Stopwatch, process
from streamnode.pipeline import Pipeline, Session
from streamnode.sources.pacing import Annotation
from streamnode.sources.replay import Recording, ReplaySource
from streamnode.sources.runs import WHOLE, Run
from streamnode.types import ModelOutput, OutputMeta, StreamInfo
from tests.offline import make_plan, make_recording


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
    monkeypatch.setattr("streamnode.offline.run._CHUNK_S", chunk_s)
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


@pytest.mark.parametrize(
    ("sfreq", "runs"), [(512.05, WHOLE), (250.1, WHOLE), (250.0, (Run(0, 0), Run(500, 2000)))], ids=str
)
def test_mains_are_heard_as_live(engine: Engine, sfreq: float, runs: tuple[Run, ...]) -> None:
    """At any rate the first 4 s of one run decide, whatever the offset of the amplifier in another."""
    recording = make_recording(16.0, sfreq)
    times = np.arange(len(recording.data)) / sfreq
    recording.data[:] += 10 * np.sin(2 * np.pi * 60 * times)[:, np.newaxis]
    recording.data[: runs[-1].row] += 20_000

    words = process(replace(recording, runs=runs), engine, make_plan(notch_hz="auto")).results.meta.signal

    assert any(word.startswith("notch 60 Hz") for word in words)


def test_progress(engine: Engine) -> None:
    """After every forward pass it is told how many epochs are done, and how many there will be."""
    told: list[tuple[int, int]] = []
    process(make_recording(), engine, make_plan(batch=2), on_epochs=lambda *counts: told.append(counts))

    assert told == [(2, 3), (3, 3)]


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


def test_annotations_without_an_epoch_are_told(engine: Engine, caplog: pytest.LogCaptureFixture) -> None:
    """Every annotation that matches has its epoch or is counted with a reason."""
    times = (0.1, 5.9, 9.0, 12.0, 14.0, 16.0, 19.999)
    recording = replace(
        make_recording(15.0),
        annotations=(*(Annotation(t, 0.0, f"go/{t:g}") for t in times), Annotation(19.0, 0.0, "rest")),
        runs=(Run(0, 0), Run(2500, 3750)),
    )
    plan = replace(make_plan(), epoch=EpochConfig(markers=MarkersConfig(labels=("go/*",), tmin_s=-1.0)))

    tables = process(recording, engine, plan).results.tables

    np.testing.assert_allclose(tables["epoch/t0"], [4.9], atol=0.51 / 256)
    assert "demo: annotations that got no epoch: 3 before_run, 3 run_ended" in caplog.text


def test_an_annotation_behind_the_last_sample(engine: Engine) -> None:
    """Less than a sample behind the end of the recording, an annotation has its epoch before it."""
    recording = replace(make_recording(8.0), annotations=(Annotation(7.999, 0.0, "go"),))
    plan = replace(make_plan(), epoch=EpochConfig(markers=MarkersConfig(labels=("go",), tmin_s=-5.5)))

    tables = process(recording, engine, plan).results.tables

    np.testing.assert_allclose(tables["epoch/t0"], [2.499], atol=0.51 / 256)


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


def test_channels_that_are_named_twice_are_bad_once(engine: Engine) -> None:
    """However often and however spelled a channel is named, it is one that is left out."""
    once, often = (
        process(make_recording(), engine, replace(make_plan(), bad=bad)).arrays["embedding"]
        for bad in (("Oz",), ("Oz", "oz", "EEG Oz", "OZ"))
    )
    np.testing.assert_array_equal(often, once)


def test_all_channels_named_bad(engine: Engine) -> None:
    """With no channel left there is nothing to infer from, which is said before the first epoch is."""
    with pytest.raises(
        ContractError, match=r"0 of 4 channels are good once Fp1, Cz, Oz, T7 are called bad, and luna needs 1 at least"
    ):
        process(make_recording(), engine, replace(make_plan(), bad=("T7", "Oz", "Cz", "Fp1")))
