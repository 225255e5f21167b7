"""The three tasks between source and sinks: scripted sources, real chain and model, exact counts."""

from __future__ import annotations

import asyncio
import threading
import tracemalloc
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import pytest

from streamnode import build, config
from streamnode.errors import ContractError, SinkError, StreamLost
from streamnode.inference.engine import Engine
from streamnode.inference.worker import Worker
from streamnode.metrics import Metrics, Recent
from streamnode.models import eegpt
from streamnode.models.catalog import LoadedModel
from streamnode.models.eegpt import Eegpt, EegptConfig
from streamnode.models.weights import load_strict
from streamnode.montage import make_montage
from streamnode.pipeline import Pipeline, Session
from streamnode.types import Chunk, Marker, ModelOutput, OutputMeta, Source, StreamInfo, WeightsInfo

CH_NAMES = ("Fp1", "Fp2", "C3", "C4", "O1", "O2")
INFO = StreamInfo("headset", "headset-1", "EEG", 256.0, make_montage(CH_NAMES))
SECOND = 256


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("pipeline")


LUNA = "kind: luna, outputs: [embedding, attention]"
EEGPT = "kind: eegpt, outputs: [embedding, tokens]"


def configure(
    folder: Path,
    *,
    bad_channels: str = "keep",
    on_change: str = "rebuild",
    epoch: str = "hop_s: 1.0",
    model: str = LUNA,
) -> config.NodeConfig:
    path = folder / "node.yaml"
    path.write_text(
        f"source: {{kind: lsl, on_change: {on_change}}}\nepoch: {{{epoch}}}\n"
        f"signal: {{bad_channels: {bad_channels}}}\n"
        f"model: {{{model}, weights: 'random:0', device: cpu}}\n"
        "sinks: [{kind: lsl, name: out}]\n"
    )
    return config.load(path)


@pytest.fixture(scope="module")
def engine(folder: Path) -> Engine:
    return build.load_engine(configure(folder).model)


@dataclass
class Scripted:
    """A source that yields what it is told, then ends, or is lost."""

    info: StreamInfo
    chunks: Iterable[Chunk]
    lost: bool = False
    at_once: bool = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None: ...

    async def __aiter__(self) -> AsyncIterator[Chunk]:
        for chunk in self.chunks:
            if not self.at_once:
                await asyncio.sleep(0)
            yield chunk
        if self.lost:
            raise StreamLost("the script says so")


@dataclass
class Told:
    """A source of markers that knows them all beforehand, and then waits for ever."""

    markers: Iterable[Marker]

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None: ...

    async def __aiter__(self) -> AsyncIterator[Marker]:
        for marker in self.markers:
            yield marker
        await asyncio.Event().wait()


class Absent(Scripted):
    """A source that no stream matches."""

    async def __aenter__(self) -> Self:
        raise StreamLost("no stream matched")


def life(n_epochs: int, *, run: int = 0, info: StreamInfo = INFO, lost: bool = False) -> Scripted:
    """Noise for so many epochs: 5 s, a hop for each further one, and a second for the delay of the filters."""
    return Scripted(info, [chunk(second, run=run, info=info) for second in range(n_epochs + 5)], lost=lost)


@dataclass
class Memory:
    """A sink that remembers, and refuses what it is told to.

    `last` is the epoch after which `done` is set; nothing is taken before `gate` is.
    """

    name: str = "memory"
    refused: frozenset[int] = frozenset()
    metas: list[OutputMeta] = field(default_factory=list)
    outputs: list[ModelOutput] = field(default_factory=list)
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    last: int | None = None
    done: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.gate.set()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None: ...

    async def announce(self, meta: OutputMeta) -> None:
        self.metas.append(meta)

    async def publish(self, output: ModelOutput) -> None:
        await self.gate.wait()
        if output.seq in self.refused:
            raise SinkError("the script says so")
        self.outputs.append(output)
        if output.seq == self.last:
            self.done.set()


def chunk(second: int, *, run: int = 0, n_seconds: int = 1, info: StreamInfo = INFO) -> Chunk:
    """Seconds of noise, different ones for each second."""
    seed, n_times = second + 1000 * run, n_seconds * SECOND
    rng = np.random.default_rng(seed)
    data = 10 * (
        rng.standard_normal((n_times, info.n_chans)) + 2 * rng.standard_normal((n_times, 1))
    )  # alike, as EEG is
    data = data.astype(np.float32)
    t0 = 100.0 * run + second
    return Chunk(info, data, start=second * SECOND, t0=t0, t_arrived=t0 + n_seconds, run=run)


@dataclass
class Rig:
    """A pipeline around scripts."""

    pipeline: Pipeline
    metrics: Metrics
    sink: Memory
    asked_runs: list[int]

    def dropped(self, what: str, **labels: str) -> float:
        return self.metrics.registry.get_sample_value(f"streamnode_{what}_dropped_total", labels) or 0.0


@pytest.fixture
def rig(folder: Path, engine: Engine) -> Callable[..., Rig]:
    def make(
        *lives: Scripted,
        backlog: int = 100,
        sinks: Sequence[Memory] = (),
        engine: Engine = engine,
        worker: Worker | None = None,
        change: Callable[[Session], Session] = lambda session: session,
        markers: Sequence[float] = (),
        **wishes: str,
    ) -> Rig:
        node_config = configure(folder, **wishes)
        metrics, script, asked = Metrics(), iter(lives), list[int]()
        sinks = sinks or [Memory()]

        def open_source(run: int) -> Source:
            asked.append(run)
            return next(script)

        async def open_session(info: StreamInfo, first_seq: int) -> Session:
            return change(build.open_session(node_config, engine, info, first_seq))

        pipeline = Pipeline(
            open_source=open_source,
            open_session=open_session,
            worker=worker or Worker(build.clock),
            sinks=sinks,
            backlog=backlog,
            rebuild=build.rebuilds(node_config.streams[0]),
            clock=build.clock,
            metrics=metrics,
            open_markers=(lambda: Told([Marker(f"at {t:g}", t) for t in markers])) if markers else None,
        )
        return Rig(pipeline, metrics, sinks[0], asked)

    return make


async def test_every_epoch_of_a_finite_source_reaches_the_sink(rig: Callable[..., Rig]) -> None:
    """A source that ends is drained: all its epochs are published, in order, and the pipeline ends by itself."""
    it = rig(life(5))
    await it.pipeline.run()
    assert [output.seq for output in it.sink.outputs] == [0, 1, 2, 3, 4]
    assert it.pipeline.status.source == "ended"
    assert it.pipeline.status.dropped == 0
    assert len(it.sink.metas) == 1


async def test_lost_source_is_opened_again_with_the_next_run(rig: Callable[..., Rig]) -> None:
    """After a loss the next source starts the next run; epochs before and after are complete and keep counting."""
    it = rig(life(2, lost=True), life(2, run=1))
    await it.pipeline.run()
    assert it.asked_runs == [0, 1]
    assert [(output.seq, output.run) for output in it.sink.outputs] == [(0, 0), (1, 0), (2, 1), (3, 1)]
    assert it.metrics.registry.get_sample_value("streamnode_source_reconnects_total", {"stream": "headset"}) == 1


async def test_samples_before_and_after_a_loss_never_meet(rig: Callable[..., Rig]) -> None:
    """4 s before and 4 s after a loss make no epoch of 5 s."""
    first = Scripted(INFO, [chunk(second) for second in range(4)], lost=True)
    again = Scripted(INFO, [chunk(second, run=1) for second in range(4)])
    it = rig(first, again)
    await it.pipeline.run()
    assert it.sink.outputs == []


async def test_second_run_is_as_if_it_were_the_first(rig: Callable[..., Rig]) -> None:
    """Nothing of one run is left in the next: filters, resampler and ring start anew."""
    alone = rig(life(2, run=1))
    await alone.pipeline.run()
    after = rig(life(2, lost=True), life(2, run=1))
    await after.pipeline.run()
    np.testing.assert_array_equal(after.sink.outputs[2].embedding, alone.sink.outputs[0].embedding)


async def test_source_that_never_was_there_ends_the_pipeline(rig: Callable[..., Rig]) -> None:
    """Losing a source that was never entered is not retried: it has waited as long as it was told to."""
    it = rig(Absent(INFO, []))
    with pytest.raises(ExceptionGroup) as caught:
        await it.pipeline.run()
    assert caught.group_contains(StreamLost, match="no stream matched")


async def test_changed_stream_is_rebuilt_and_announced_anew(rig: Callable[..., Rig]) -> None:
    """A source that comes back with other channels gets a chain and a description of its own."""
    fewer = StreamInfo("headset", "headset-1", "EEG", 256.0, make_montage(CH_NAMES[:4]))
    it = rig(life(2, lost=True), life(2, run=1, info=fewer))
    await it.pipeline.run()
    assert [meta.ch_names for meta in it.sink.metas] == [CH_NAMES, CH_NAMES[:4]]
    assert [output.seq for output in it.sink.outputs] == [0, 1, 2, 3]


async def test_results_that_are_late_do_not_call_a_change_off(rig: Callable[..., Rig]) -> None:
    """What a stream gave before it changed may still wait for its pass: each description is announced once."""
    changed = threading.Event()

    class Late(Worker):
        def _run(self, *args: Any) -> None:
            assert changed.wait(10)
            super()._run(*args)

    def change(session: Session) -> Session:
        if session.info == fewer:
            changed.set()
        return session

    fewer = StreamInfo("headset", "headset-1", "EEG", 256.0, make_montage(CH_NAMES[:4]))
    it = rig(life(2, lost=True), life(2, run=1, info=fewer), worker=Late(build.clock), change=change)
    await it.pipeline.run()
    assert [len(meta.ch_names) for meta in it.sink.metas] == [6, 4]
    assert [output.seq for output in it.sink.outputs] == [0, 1, 2, 3]


async def test_stream_that_comes_back_unfit_ends_the_pipeline(rig: Callable[..., Rig]) -> None:
    """A source that comes back with a rate the model cannot use is refused, not fed to the model."""
    slow = StreamInfo("headset", "headset-1", "EEG", 100.0, INFO.montage)
    it = rig(life(2, lost=True), Scripted(slow, []))
    with pytest.raises(ExceptionGroup) as caught:
        await it.pipeline.run()
    assert caught.group_contains(ContractError, match="100 Hz")


async def test_changed_stream_can_be_rejected(rig: Callable[..., Rig]) -> None:
    """Under `on_change: reject` a source that comes back changed ends the pipeline, after all it gave before."""
    fewer = StreamInfo("headset", "headset-1", "EEG", 256.0, make_montage(CH_NAMES[:4]))
    it = rig(life(2, lost=True), life(2, run=1, info=fewer), on_change="reject")
    with pytest.raises(ExceptionGroup) as caught:
        await it.pipeline.run()
    assert caught.group_contains(ContractError, match="on_change")


async def test_mains_that_are_known_only_when_the_stream_is_back_are_taken_up(rig: Callable[..., Rig]) -> None:
    """A stream lost before its mains were known gets them once it is back, whatever `on_change` says; it keeps them."""
    heard = replace(INFO, mains_hz=50.0)
    lives = life(2, lost=True), life(2, run=1, info=heard, lost=True), life(2, run=2)
    it = rig(*lives, on_change="reject")
    await it.pipeline.run()
    assert [meta.stream.mains_hz for meta in it.sink.metas] == [None, 50.0]
    assert [output.seq for output in it.sink.outputs] == list(range(6))


def flat(n_epochs: int) -> Scripted:
    """A life in which C3 is dead."""
    source = life(n_epochs)
    for piece in source.chunks:
        piece.data[:, CH_NAMES.index("C3")] = 7.0
    return source


async def test_bad_channel_is_flagged_and_kept(rig: Callable[..., Rig]) -> None:
    """By default every epoch goes to the model as it is, and the result names the bad channels."""
    it = rig(flat(2))
    await it.pipeline.run()
    assert [output.bad_channels for output in it.sink.outputs] == [("C3",), ("C3",)]
    assert all(np.isfinite(output.arrays()["attention"]).all() for output in it.sink.outputs)


@pytest.mark.parametrize("at_once", [False, True])
async def test_raw_faults_are_known_however_many_chunks_wait(rig: Callable[..., Rig], *, at_once: bool) -> None:
    """A channel that stands still for a while is flagged in all epochs that hold it, and only there."""
    source = life(9)
    source.at_once = at_once
    for piece in list(source.chunks)[1:4]:
        piece.data[:, CH_NAMES.index("C3")] = 7.0
    it = rig(source)
    await it.pipeline.run()
    flagged = [output.seq for output in it.sink.outputs if output.bad_channels == ("C3",)]
    assert (flagged, len(it.sink.outputs)) == ([0, 1, 2, 3], 9)


async def test_a_clock_that_leaps_ends_nothing(rig: Callable[..., Rig]) -> None:
    """A run that begins long after the last one by its clock, but at once, costs no epoch of either."""
    it = rig(Scripted(INFO, [*life(1).chunks, *life(1, run=1).chunks], at_once=True))
    await it.pipeline.run()
    assert [(output.seq, output.run) for output in it.sink.outputs] == [(0, 0), (1, 1)]


MARKED = "markers: {source_id: m, labels: ['*'], tmin_s: 0.0, tmax_s: 5.0}"


async def test_markers_whose_samples_never_come_are_counted(rig: Callable[..., Rig]) -> None:
    """At the end of a source every marker has its epoch or a counted reason, be its samples there in part or not."""
    it = rig(life(4), markers=[1.0, 5.0, 50.0], epoch=MARKED)
    await it.pipeline.run()
    assert [output.marker for output in it.sink.outputs] == [Marker("at 1", 1.0)]
    assert it.dropped("markers", stream="headset", reason="run_ended") == 2


async def test_markers_outlive_a_change_of_the_stream(rig: Callable[..., Rig]) -> None:
    """A marker ahead of its samples gets them from the changed stream; one that had some of the old ones is counted."""
    fewer = StreamInfo("headset", "headset-1", "EEG", 256.0, make_montage(CH_NAMES[:4]))
    it = rig(life(4, lost=True), life(4, run=1, info=fewer), markers=[1.0, 5.0, 101.0], epoch=MARKED)
    await it.pipeline.run()
    assert [(output.marker, output.run) for output in it.sink.outputs] == [
        (Marker("at 1", 1.0), 0),
        (Marker("at 101", 101.0), 1),
    ]
    assert it.dropped("markers", stream="headset", reason="run_ended") == 1


async def test_masked_channel_is_as_if_it_were_not_there(rig: Callable[..., Rig]) -> None:
    """Under `mask` the model sees the other channels only; shapes stay, with NaN for the channel left out."""
    it = rig(flat(1), bad_channels="mask")
    await it.pipeline.run()
    (output,) = it.sink.outputs
    c3 = CH_NAMES.index("C3")
    attention = output.arrays()["attention"]
    assert attention.shape == it.sink.metas[0].shapes["attention"]
    assert np.isnan(attention[..., c3]).all()
    np.testing.assert_allclose(np.delete(attention, c3, axis=-1).sum(axis=-1), 1.0, rtol=1e-5)
    others = tuple(name for name in CH_NAMES if name != "C3")
    pick = [CH_NAMES.index(name) for name in others]
    info = StreamInfo("headset", "headset-1", "EEG", 256.0, make_montage(others))
    chunks = [replace(piece, info=info, data=piece.data[:, pick]) for piece in flat(1).chunks]
    alone = rig(Scripted(info, chunks))
    await alone.pipeline.run()
    a, b = (result.arrays()["embedding"] for result in (output, alone.sink.outputs[0]))
    np.testing.assert_allclose(a, b, rtol=0, atol=1e-5)


async def test_interpolated_channel_reaches_the_model(rig: Callable[..., Rig]) -> None:
    """Under `interpolate` the model sees all channels, the bad one drawn from the others."""
    kept, drawn = rig(flat(1)), rig(flat(1), bad_channels="interpolate")
    await kept.pipeline.run()
    await drawn.pipeline.run()
    a, b = (it.sink.outputs[0] for it in (kept, drawn))
    assert a.bad_channels == b.bad_channels == ("C3",)
    assert np.isfinite(b.arrays()["attention"]).all()
    assert not np.allclose(a.arrays()["embedding"], b.arrays()["embedding"], atol=1e-3)


async def test_epoch_with_a_bad_channel_can_be_skipped(rig: Callable[..., Rig]) -> None:
    """Under `skip` no epoch with a bad channel is inferred, and each is counted."""
    it = rig(flat(3), bad_channels="skip")
    await it.pipeline.run()
    assert it.sink.outputs == []
    assert it.dropped("epochs", stream="headset", reason="bad_channels") == 3


async def test_newest_epoch_replaces_the_unstarted_one_and_is_counted(rig: Callable[..., Rig]) -> None:
    """Latest wins: of epochs that complete at once, only the newest is inferred, and the rest are counted."""
    it = rig(Scripted(INFO, [chunk(0, n_seconds=15)]), backlog=1)
    await it.pipeline.run()
    assert [output.seq for output in it.sink.outputs] == [9]
    assert it.dropped("epochs", stream="headset", reason="superseded") == 9
    assert it.pipeline.status.epochs == it.pipeline.status.dropped + len(it.sink.outputs)


async def test_epoch_with_a_hole_is_dropped_and_counted(rig: Callable[..., Rig]) -> None:
    """A sample that is not a number costs the epochs that hold it, and no other."""
    chunks = [chunk(second) for second in range(16)]
    chunks[5].data[10, 2] = np.nan
    it = rig(Scripted(INFO, chunks))
    await it.pipeline.run()
    dropped = int(it.dropped("epochs", stream="headset", reason="not_finite"))
    assert dropped == 6  # the delay of the low-pass spreads the hole over 43 ms, which touches no further epoch
    assert len(it.sink.outputs) == it.pipeline.status.epochs - dropped
    assert all(np.isfinite(output.arrays()["embedding"]).all() for output in it.sink.outputs)


async def test_result_a_sink_refuses_is_counted_and_the_next_is_tried(rig: Callable[..., Rig]) -> None:
    """A failing sink loses only what it refused."""
    it = rig(life(5), sinks=[Memory(refused=frozenset({1, 2}))])
    await it.pipeline.run()
    assert [output.seq for output in it.sink.outputs] == [0, 3, 4]
    assert it.dropped("outputs", sink="memory", reason="sink_error") == 2


async def test_slow_sink_holds_up_nobody_and_its_losses_are_counted(rig: Callable[..., Rig]) -> None:
    """A sink that hangs gets a bounded backlog; the others get everything meanwhile."""
    slow, fast = Memory("slow"), Memory("fast", last=79)
    slow.gate.clear()
    it = rig(life(80), sinks=[slow, fast])
    task = asyncio.create_task(it.pipeline.run())
    await fast.done.wait()
    assert [output.seq for output in fast.outputs] == list(range(80))
    slow.gate.set()
    await task
    lost = it.dropped("outputs", sink="slow", reason="sink_full")
    assert lost == 80 - 64 - 1  # 64 wait, one is on its way, and the announcement was taken before
    assert len(slow.outputs) + lost == 80


def endless(n_epochs: int) -> Scripted:
    """A life that goes on after so many epochs, without another sample."""

    class Endless(Scripted):
        async def __aiter__(self) -> AsyncIterator[Chunk]:
            async for piece in super().__aiter__():
                yield piece
            await asyncio.Event().wait()

    return Endless(INFO, life(n_epochs).chunks)


async def test_results_that_wait_when_a_node_is_stopped_are_published(rig: Callable[..., Rig]) -> None:
    """Sinks that are behind get a moment to take what has been inferred."""
    slow, fast = Memory("slow"), Memory("fast", last=9)
    slow.gate.clear()
    it = rig(endless(10), sinks=[slow, fast])
    task = asyncio.create_task(it.pipeline.run())
    await fast.done.wait()
    task.cancel()
    slow.gate.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert [output.seq for output in slow.outputs] == list(range(10))


async def test_results_that_a_stopped_node_cannot_publish_are_counted(
    rig: Callable[..., Rig], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A sink that hangs does not keep a node from ending; what it has not taken by then is counted and told."""
    monkeypatch.setattr("streamnode.pipeline._DRAIN_S", 0.01)
    hangs, fast = Memory("hangs"), Memory("fast", last=9)
    hangs.gate.clear()
    it = rig(endless(10), sinks=[hangs, fast])
    task = asyncio.create_task(it.pipeline.run())
    await fast.done.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (hangs.outputs, it.dropped("outputs", sink="hangs", reason="stopped")) == ([], 10)
    assert "hangs did not take its last 10 results" in caplog.text


async def test_trace_is_in_order(rig: Callable[..., Rig]) -> None:
    """The stations of an epoch are stamped in the order it passes them."""
    it = rig(life(1))
    await it.pipeline.run()
    trace = it.sink.outputs[0].trace
    assert trace is not None
    assert trace.t_epoch <= trace.t_enqueued <= trace.t_turn <= trace.t_infer0 < trace.t_infer1
    assert trace.t_last == it.sink.outputs[0].t_last


async def test_late_epoch_is_dropped_and_counted(rig: Callable[..., Rig]) -> None:
    """Epochs whose deadline has passed are counted as late, exactly; the others are inferred."""
    seconds = [replace(chunk(second), t_arrived=build.clock() - 60 * (second % 3 == 0)) for second in range(14)]
    it = rig(Scripted(INFO, seconds), epoch="hop_s: 1.0, deadline_s: 30")
    await it.pipeline.run()
    # An epoch ends within the second after the one that holds its last hop: the filters delay it.
    late = [second - 5 for second in range(5, 14) if second % 3 == 0]
    assert [output.seq for output in it.sink.outputs] == [seq for seq in range(9) if seq not in late]
    assert it.dropped("epochs", stream="headset", reason="late") == len(late) == 3


async def test_epoch_superseded_in_the_queue_of_the_worker_is_not_inferred(rig: Callable[..., Rig]) -> None:
    """While the thread is busy with others, the latest epoch takes the place of the one that was handed over before."""
    worker, gate = Worker(build.clock), threading.Event()
    worker._thread.submit(gate.wait, 30)

    def seconds() -> Iterator[Chunk]:
        yield from life(8).chunks
        gate.set()

    it = rig(Scripted(INFO, seconds()), backlog=1, worker=worker)
    await it.pipeline.run()
    assert [output.seq for output in it.sink.outputs] == [7]
    assert it.dropped("epochs", stream="headset", reason="superseded") == 7


async def test_streams_of_one_montage_pass_together_and_keep_apart(rig: Callable[..., Rig]) -> None:
    """Two pipelines on one worker share passes, and each publishes what it would alone."""
    infos = [replace(INFO, name=name) for name in ("left", "right")]
    lives = [life(6, run=run, info=info) for run, info in enumerate(infos)]
    metrics, ended = Metrics(), threading.Barrier(3)
    worker = Worker(build.clock, metrics)
    worker._thread.submit(ended.wait, 30)

    def until_both_wait(chunks: Iterable[Chunk]) -> Iterator[Chunk]:
        yield from chunks
        threading.Thread(target=ended.wait, args=(30,)).start()

    together = [rig(replace(own, chunks=until_both_wait(own.chunks)), worker=worker) for own in lives]
    await asyncio.gather(*(it.pipeline.run() for it in together))
    passes = metrics.registry.get_sample_value("streamnode_batch_epochs_count", {"model": "luna-base"})
    assert passes is not None
    assert passes < 12
    for it, own in zip(together, lives, strict=True):
        alone = rig(own)
        await alone.pipeline.run()
        assert [output.stream for output in it.sink.outputs] == [own.info.name] * 6
        for a, b in zip(it.sink.outputs, alone.sink.outputs, strict=True):
            assert (a.seq, a.run) == (b.seq, b.run)
            np.testing.assert_allclose(a.arrays()["embedding"], b.arrays()["embedding"], rtol=0, atol=2e-5)


def eegpt_of(sizes: EegptConfig) -> Engine:
    model = Eegpt(sizes)
    load_strict(model, eegpt.random_state(sizes, 0), path="a small one")
    loaded = LoadedModel(model.eval().requires_grad_(requires_grad=False), "eegpt-large", WeightsInfo("random:0"))
    return Engine(loaded, device="cpu")


@pytest.fixture(scope="module")
def small_eegpt() -> Engine:
    return eegpt_of(EegptConfig(embed_dim=64, n_summary=4, depth=2, n_heads=4))


async def test_an_epoch_whose_placed_channels_are_all_bad_is_dropped(
    rig: Callable[..., Rig], small_eegpt: Engine
) -> None:
    """While a model knows the place of bad channels only, epochs are counted as dropped, and the node goes on."""
    info = replace(INFO, montage=make_montage(("TP9", "AF7", "AF8", "TP10")))
    source = life(9, info=info)
    for piece in list(source.chunks)[6:8]:
        piece.data[:, 1:3] = 7.0
    signal = "mask, reference: as_recorded"
    it = rig(source, engine=small_eegpt, model=f"{EEGPT}, on_unknown: drop", bad_channels=signal)
    await it.pipeline.run()
    dropped = it.dropped("epochs", stream="headset", reason="bad_channels")
    assert dropped
    assert len(it.sink.outputs) == 9 - dropped > 0
    assert it.sink.outputs[-1].seq == 8


def test_weights_that_mix_all_channels_refuse_to_go_without(folder: Path) -> None:
    """A channel projection and `mask` do not fit, which is said before the first sample and not when one is bad."""
    mixing = eegpt_of(EegptConfig(embed_dim=64, n_summary=4, depth=2, n_heads=4, n_proj_in=len(CH_NAMES)))
    for policy in ("keep", "interpolate", "skip"):
        build.open_session(configure(folder, model=EEGPT, bad_channels=policy), mixing, INFO)
        with pytest.raises(ContractError, match="can do without none"):
            build.open_session(configure(folder, model=EEGPT, bad_channels=policy), mixing, INFO, without=("C3",))
    with pytest.raises(ContractError, match=r"mix all of their 6 channels .* set signal\.bad_channels to interpolate"):
        build.open_session(configure(folder, model=EEGPT, bad_channels="mask"), mixing, INFO)


def without_reuse(session: Session) -> Session:
    return replace(session, feed=replace(session.feed, patches=None))


@pytest.mark.parametrize("policy", ["keep", "interpolate", "mask", "skip"])
async def test_epochs_that_share_patches_say_what_whole_ones_do(
    rig: Callable[..., Rig], small_eegpt: Engine, policy: str
) -> None:
    """Reuse on or off, all results are the same to 1e-6: over a loss, and while a channel is bad for some seconds."""

    def lives() -> list[Scripted]:
        first, second = life(5, lost=True), life(6, run=1)
        for piece in list(second.chunks)[6:8]:
            piece.data[:, CH_NAMES.index("C3")] = 7.0
        return [first, second]

    signal = f"{policy}, reference: as_recorded"  # noise alike on all channels would be gone from their average
    wishes = {"engine": small_eegpt, "epoch": "hop_s: 0.5", "model": EEGPT, "bad_channels": signal}
    reused, whole = rig(*lives(), **wishes), rig(*lives(), change=without_reuse, **wishes)
    for it in (reused, whole):
        await it.pipeline.run()
    session = reused.pipeline.status.session
    assert session is not None
    assert session.reuse == "4 of 39 patches of an epoch are computed, the others known from the one before"
    assert session.feed.patches is not None
    assert session.feed.patches.tokens is not None
    pairs = list(zip(reused.sink.outputs, whole.sink.outputs, strict=True))
    assert len({bool(a.bad_channels) for a, _ in pairs}) == (1 if policy == "skip" else 2)
    for a, b in pairs:
        assert (a.seq, a.run, a.bad_channels) == (b.seq, b.run, b.bad_channels)
        for name in ("embedding", "tokens"):
            np.testing.assert_allclose(a.arrays()[name], b.arrays()[name], rtol=1e-6, atol=5e-6)


@pytest.mark.parametrize(
    ("epoch", "signal", "sentence"),
    [
        ("hop_s: 0.125", "mode: causal", "1 of 39 patches of an epoch are computed"),
        ("hop_s: 1.0", "mode: causal, bad_channels: mask", "8 of 39 patches of an epoch are computed"),
        ("hop_s: 0.1015625", "mode: causal", "epoch.hop_s is no multiple of the 0.125 s between patches, as 0.125 s"),
        ("hop_s: 0.5", "mode: window", "signal.mode window prepares the samples of each anew"),
        ("hop_s: 5.0", "mode: causal", "no two of them overlap"),
        ("markers: {labels: [stim]}", "mode: causal", "those around markers"),
    ],
)
def test_whether_patches_are_shared_is_told_in_a_sentence(
    folder: Path, small_eegpt: Engine, epoch: str, signal: str, sentence: str
) -> None:
    """Where epochs cannot share patches, the session says why, and no memory is kept for it."""
    path = folder / "told.yaml"
    path.write_text(
        f"source: {{kind: lsl}}\nepoch: {{{epoch}}}\nsignal: {{{signal}}}\nmodel: {{{EEGPT}}}\n"
        "sinks: [{kind: lsl, name: out}]\n"
    )
    session = build.open_session(config.load(path), small_eegpt, INFO)
    assert sentence in session.reuse
    assert (session.feed.patches is None) == session.reuse.startswith("every epoch is computed whole: ")


def test_other_models_say_nothing_of_patches(folder: Path, engine: Engine) -> None:
    """A model whose patches see each other has nothing to share, and nothing to say about it."""
    session = build.open_session(configure(folder), engine, INFO)
    assert (session.reuse, session.feed.patches) == ("", None)


@pytest.mark.parametrize("n", [0, 1, 4096, 4097, 10_000])
def test_the_latest_durations_are_kept_in_memory_that_does_not_grow(n: int) -> None:
    """The latest 4096 at most, in as much memory as before the first: figures of a node do not grow for hours."""
    recent = Recent()
    tracemalloc.start()
    for number in range(n):
        recent.append(float(number))
    grown, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert sorted(recent) == [float(number) for number in range(max(0, n - 4096), n)]
    assert grown < 8192
