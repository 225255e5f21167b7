"""Promises of `streamnode.inference.worker`, with models that answer with what they were asked."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

import numpy as np
import pytest

from streamnode.bench.drill import Echo, drill
from streamnode.inference.engine import BoundModel
from streamnode.inference.worker import Feed, Worker
from streamnode.metrics import Metrics
from streamnode.montage import make_montage
from streamnode.types import Epoch, Float32Array, ModelOutput, OutputName, StreamInfo

MONTAGE = make_montage(["Cz", "Pz"])
Answer = asyncio.Future[Any]


class Held(Echo):
    """A model whose first pass ends when it is told to, so that epochs wait meanwhile."""

    def __init__(self, *, fails_on: float | None = None, error: Exception | None = None) -> None:
        super().__init__()
        self.begun, self.go_on = threading.Event(), threading.Event()
        self.fails_on, self.error = fails_on, error

    def run(self, epochs_uV: Float32Array) -> dict[OutputName, Float32Array]:  # noqa: N803
        self.begun.set()
        assert self.go_on.wait(10)
        result = super().run(epochs_uV)
        if self.error is not None and self.fails_on in epochs_uV[:, 0, 0]:
            raise self.error
        return result


def feed(model: Echo, **wishes: Any) -> Feed:
    return Feed(cast("BoundModel", model), **wishes)


def epoch(number: float, seq: int = 0, *, t_arrived: float = 0.0) -> Epoch:
    """An epoch that says whose it is: its first sample is the number of the stream, and of the epoch."""
    info = StreamInfo(f"stream {number:g}", "", "EEG", 256.0, MONTAGE)
    return Epoch(info, np.array([[number], [seq]], np.float32), seq, seq, 0.0, 0.0, t_arrived, 0.0, run=0)


async def held_up(worker: Worker, model: Held) -> Answer:
    """Let a pass begin that does not end by itself; the answer to its only epoch."""
    answer = worker.infer(epoch(99), feed(model), t_enqueued=0.0)
    assert await asyncio.to_thread(model.begun.wait, 10)
    return answer


def numbers(outputs: Sequence[Any]) -> list[float]:
    """Whose results these are, by what the model said; each must agree with its label."""
    for output in outputs:
        assert isinstance(output, ModelOutput)
        assert output.embedding is not None
        assert output.stream == f"stream {output.embedding[0]:g}"
    return [float(output.embedding[0]) for output in outputs]


async def test_epochs_of_streams_that_share_a_model_pass_together() -> None:
    """What has come while the thread was busy is one pass, up to the largest batch, and each result reaches its own."""
    model = Held()
    async with Worker(lambda: 0.0, max_batch=4) as worker:
        first = await held_up(worker, model)
        answers = [worker.infer(epoch(number), feed(model), t_enqueued=0.0) for number in range(6)]
        model.go_on.set()
        assert numbers(await asyncio.gather(first, *answers)) == [99, 0, 1, 2, 3, 4, 5]
    assert model.batches == [1, 4, 2]


@pytest.mark.parametrize(
    ("n_streams", "of_model", "of_worker", "most"), [(1, 8, None, 1), (16, 8, None, 8), (5, 8, None, 5), (5, 8, 1, 1)]
)
async def test_batches_are_warmed_up_where_they_will_run(
    n_streams: int, of_model: int, of_worker: int | None, most: int
) -> None:
    """In the thread of the passes, before the first of them, and no larger than there are streams to fill them."""
    warmed = list[tuple[int, str]]()

    class Warmed(Held):
        def warm_up_batches(self, most: int) -> None:
            assert not self.begun.is_set()
            warmed.append((most, threading.current_thread().name))

        def run(self, epochs_uV: Float32Array) -> dict[OutputName, Float32Array]:  # noqa: N803
            warmed.append((0, threading.current_thread().name))
            return super().run(epochs_uV)

    model = Warmed()
    model.go_on.set()
    async with Worker(lambda: 0.0, max_batch=of_worker) as worker:
        one = feed(model, max_batch=of_model)
        worker.warm_up(one, n_streams)
        await worker.infer(epoch(1), one, t_enqueued=0.0)
    assert [size for size, _ in warmed] == [most, 0]
    assert len({thread for _, thread in warmed}) == 1


@pytest.mark.parametrize("other", [{"rows": (0,)}, {"rows": (1,)}, {"steps": 2}, {"steps": 4}], ids=str)
async def test_only_like_passes_with_like(other: dict[str, Any]) -> None:
    """Epochs with other channels left out, or with another number of steps, pass by themselves."""

    class Paced(Held):
        def with_steps(self, _steps: int) -> Paced:
            return self

    model = Paced()
    async with Worker(lambda: 0.0) as worker:
        first = await held_up(worker, model)
        wishes = [{}, {"rows": (0,)}, {"steps": 2}, {}, other]
        answers = [worker.infer(epoch(i), feed(model), t_enqueued=0.0, **wish) for i, wish in enumerate(wishes)]  # type: ignore[arg-type]
        model.go_on.set()
        outputs = await asyncio.gather(first, *answers)
    assert [output.seq for output in outputs] == [0] * 6
    shared = other in ({"rows": (0,)}, {"steps": 2})
    assert sorted(model.batches) == ([1, 1, 2, 2] if shared else [1, 1, 1, 1, 2])


async def test_each_epoch_is_scaled_by_its_own_number() -> None:
    """The numbers that epochs take along reach the model in their order; epochs without one pass by themselves."""

    class Scaled(Held):
        def run(self, epochs_uV: Float32Array, std_uv: Any = None) -> dict[OutputName, Float32Array]:  # noqa: N803
            seen.append((epochs_uV[:, 0, 0].tolist(), None if std_uv is None else std_uv.tolist()))
            return super().run(epochs_uV)

        def run_on(self, rows: Any, epochs_uV: Float32Array, std_uv: Any = None) -> dict[OutputName, Float32Array]:  # noqa: N803
            assert rows == (0,)
            return self.run(epochs_uV, std_uv)

    seen: list[Any] = []
    model = Scaled()
    async with Worker(lambda: 0.0) as worker:
        first = await held_up(worker, model)
        waiting = [replace(epoch(i), std_uv=std) for i, std in enumerate((30.0, None, 7.0, 5.0))]
        rows: list[Any] = [None, None, None, (0,)]
        answers = [
            worker.infer(one, feed(model), t_enqueued=0.0, rows=some) for one, some in zip(waiting, rows, strict=True)
        ]
        model.go_on.set()
        await asyncio.gather(first, *answers)
    assert seen == [([99.0], None), ([0.0, 2.0], [30.0, 7.0]), ([1.0], None), ([3.0], [5.0])]


async def test_models_take_turns_oldest_first() -> None:
    """Of several models, the one whose epoch waits longest is next."""
    order: list[str] = []

    class Named(Echo):
        def run(self, epochs_uV: Float32Array) -> dict[OutputName, Float32Array]:  # noqa: N803
            order.append(self.name)
            return super().run(epochs_uV)

    held, models = Held(), [Named(name) for name in "abc"]
    async with Worker(lambda: 0.0) as worker:
        first = await held_up(worker, held)
        answers = [
            worker.infer(epoch(i), feed(models[which]), t_enqueued=0.0) for i, which in enumerate((1, 0, 1, 2, 0))
        ]
        held.go_on.set()
        await asyncio.gather(first, *answers)
    assert order == ["b", "a", "c"]


async def test_late_epoch_costs_no_pass() -> None:
    """An epoch whose deadline is over when its turn comes is dropped; one that just makes it is not."""
    now, model = 0.0, Held()
    async with Worker(lambda: now) as worker:
        first = await held_up(worker, model)
        arrivals = (0.0, 0.4, 0.5, 0.6, 1.0)
        answers = [
            worker.infer(epoch(i, t_arrived=t), feed(model, deadline_s=0.5), t_enqueued=t)
            for i, t in enumerate(arrivals)
        ]
        now = 1.0
        model.go_on.set()
        await first
        outcomes = await asyncio.gather(*answers)
    assert outcomes[:2] == ["late", "late"]
    assert numbers(outcomes[2:]) == [2, 3, 4]
    assert model.batches == [1, 3]


async def test_superseded_epoch_costs_no_pass() -> None:
    """An epoch that waits gives way to a newer one of its stream; one whose pass has begun does not."""
    model, mine = Held(), feed(Echo())
    async with Worker(lambda: 0.0) as worker:
        running = feed(model)
        first = worker.infer(epoch(99), running, t_enqueued=0.0)
        assert await asyncio.to_thread(model.begun.wait, 10)
        worker.supersede(running)
        older = worker.infer(epoch(1, 0), mine, t_enqueued=0.0)
        worker.supersede(mine)
        newer = worker.infer(epoch(1, 1), mine, t_enqueued=0.0)
        assert await older == "superseded"
        model.go_on.set()
        outputs = await asyncio.gather(first, newer)
    assert [(output.stream, output.seq) for output in outputs if isinstance(output, ModelOutput)] == [
        ("stream 99", 0),
        ("stream 1", 1),
    ]
    assert cast("Echo", mine.model).batches == [1]


async def test_stream_that_closes_leaves_the_others_alone() -> None:
    """A cancelled answer, waiting or under way, costs its epoch and no other."""
    model = Held()
    async with Worker(lambda: 0.0) as worker:
        under_way = await held_up(worker, model)
        answers = [worker.infer(epoch(number), feed(model), t_enqueued=0.0) for number in range(4)]
        under_way.cancel()
        answers[1].cancel()
        model.go_on.set()
        outputs = await asyncio.gather(answers[0], *answers[2:])
        assert numbers(outputs) == [0, 2, 3]
    assert model.batches == [1, 3]


async def test_worker_that_closes_gives_up_what_waits() -> None:
    """The pass that runs ends and is answered; what waited is cancelled, and nobody hangs."""
    model = Held()
    async with Worker(lambda: 0.0) as worker:
        running = await held_up(worker, model)
        waiting = worker.infer(epoch(1), feed(model), t_enqueued=0.0)
        asyncio.get_running_loop().call_soon(model.go_on.set)
    assert waiting.cancelled()
    assert numbers([await running]) == [99]


async def test_only_the_epoch_that_fails_is_told() -> None:
    """A pass that fails is repeated one by one: the others have their results, the guilty one its error."""
    model = Held(fails_on=2, error=ValueError("the second"))
    async with Worker(lambda: 0.0) as worker:
        first = await held_up(worker, model)
        answers = [worker.infer(epoch(number), feed(model), t_enqueued=0.0) for number in range(4)]
        model.go_on.set()
        await first
        outcomes = await asyncio.gather(*answers, return_exceptions=True)
        assert numbers(outcomes[:2] + outcomes[3:]) == [0, 1, 3]
        assert isinstance(outcomes[2], ValueError)
        assert model.batches == [1, 4, 1, 1, 1, 1]
        assert numbers([await worker.infer(epoch(5), feed(model), t_enqueued=0.0)]) == [5]


async def test_pass_that_is_too_big_is_not_repeated() -> None:
    """Out of memory, nobody is guilty: all are told at once."""
    model = Held(fails_on=2, error=MemoryError())
    async with Worker(lambda: 0.0) as worker:
        first = await held_up(worker, model)
        answers = [worker.infer(epoch(number), feed(model), t_enqueued=0.0) for number in range(4)]
        model.go_on.set()
        await first
        outcomes = await asyncio.gather(*answers, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [MemoryError] * 4
    assert model.batches == [1, 4]


async def test_row_that_is_no_number_is_the_only_one_marked() -> None:
    """NaN in one epoch of a pass drops that one; NaN of a channel that was left out is as it should be."""
    model = Held()
    async with Worker(lambda: 0.0) as worker:
        first = await held_up(worker, model)
        answers = [worker.infer(epoch(number), feed(model), t_enqueued=0.0) for number in (0, np.nan, 2)]
        masked = worker.infer(epoch(3, 7), feed(model), t_enqueued=0.0, rows=(1,))
        model.go_on.set()
        await first
        outcomes = await asyncio.gather(*answers)
        assert outcomes[1] == "not_finite"
        assert numbers([outcomes[0], outcomes[2]]) == [0, 2]
        np.testing.assert_array_equal(cast("ModelOutput", await masked).embedding, [np.nan, 7])


@pytest.mark.parametrize(("rebuilds", "outcome"), [(True, "not_finite"), (False, [np.nan, 7])])
async def test_a_model_that_rebuilds_leaves_nothing_out(rebuilds: bool, outcome: object) -> None:  # noqa: FBT001
    """NaN in any channel of what it says drops the epoch; what others leave out is as it should be."""
    model = Echo()
    model.SPEC = replace(model.SPEC, rebuilds=rebuilds)
    async with Worker(lambda: 0.0) as worker:
        answer = await worker.infer(epoch(3, 7), feed(model), t_enqueued=0.0, rows=(1,))
    found = answer if isinstance(answer, str) else answer.embedding
    np.testing.assert_array_equal(found, outcome)


async def test_results_are_memory_of_their_own() -> None:
    """What a model does with its buffers after a pass changes no result."""

    class Reusing(Echo):
        buffer: Float32Array = np.zeros((1, 2), np.float32)

        def run(self, epochs_uV: Float32Array) -> dict[OutputName, Float32Array]:  # noqa: N803
            self.buffer[:] = super().run(epochs_uV)["embedding"]
            return {"embedding": self.buffer}

    model = Reusing()
    async with Worker(lambda: 0.0) as worker:
        outputs = [await worker.infer(epoch(number), feed(model), t_enqueued=0.0) for number in range(3)]
    assert numbers(outputs) == [0, 1, 2]


async def test_company_is_waited_for_until_it_comes() -> None:
    """Streams that come one after the other, when they are expected, pass together; each trace has the pass's times."""
    now, metrics, model = 0.0, Metrics(), Echo()
    feeds = [feed(model, hop_s=1.0) for _ in range(3)]
    async with Worker(lambda: now, metrics) as worker:
        for number, mine in enumerate(feeds):
            await worker.infer(epoch(number), mine, t_enqueued=0.0)
        now = 1.0
        answers = [worker.infer(epoch(number, 1), mine, t_enqueued=1.0) for number, mine in enumerate(feeds)]
        outputs = await asyncio.gather(*answers)
    assert numbers(outputs) == [0, 1, 2]
    assert model.batches[-1] == 3
    traces = [output.trace for output in outputs if isinstance(output, ModelOutput)]
    assert {(trace.t_enqueued, trace.t_infer0, trace.t_infer1) for trace in traces if trace} == {(1.0, 1.0, 1.0)}
    value = metrics.registry.get_sample_value
    assert value("streamnode_batch_epochs_sum", {"model": "echo"}) == 6
    assert value("streamnode_batch_wait_seconds_count", {"model": "echo"}) == len(model.batches)


async def test_trace_tells_whether_passes_of_others_were_waited_for() -> None:
    """The turn of an epoch comes with the end of the pass before; of one that finds the model idle, at once."""
    now = 0.0

    class Slow(Held):
        def run(self, epochs_uV: Float32Array) -> dict[OutputName, Float32Array]:  # noqa: N803
            nonlocal now
            result = super().run(epochs_uV)
            now += 3.0
            return result

    model = Slow()
    async with Worker(lambda: now) as worker:
        first = await held_up(worker, model)
        second = worker.infer(epoch(1), feed(model), t_enqueued=1.0)
        model.go_on.set()
        outputs = [await first, await second]
        now = 10.0
        outputs.append(await worker.infer(epoch(2), feed(model), t_enqueued=10.0))
    traces = [output.trace for output in outputs if isinstance(output, ModelOutput) and output.trace is not None]
    assert [(t.t_enqueued, t.t_turn, t.t_infer0, t.t_infer1) for t in traces] == [
        (0.0, 0.0, 0.0, 3.0),
        (1.0, 3.0, 3.0, 6.0),
        (10.0, 10.0, 10.0, 13.0),
    ]
    published = replace(traces[1], t_published=8.0)
    assert (published.latency_s, published.wait_s, published.overhead_s) == (8.0, 5.0, 3.0)


async def test_lone_stream_is_never_held_up() -> None:
    """A stream that shares its model with nobody passes at once, whatever its rhythm."""
    now, metrics, model = 0.0, Metrics(), Echo()
    mine = feed(model, hop_s=1.0)
    async with Worker(lambda: now, metrics) as worker:
        for hop in range(20):
            now = float(hop)
            await worker.infer(epoch(1, hop), mine, t_enqueued=now)
    value = metrics.registry.get_sample_value
    assert model.batches == [1] * 20
    assert value("streamnode_batch_wait_seconds_bucket", {"model": "echo", "le": "0.0005"}) == 20
    assert value("streamnode_batch_wait_seconds_sum", {"model": "echo"}) == 0


@pytest.mark.parametrize(("n_streams", "n_models"), [(200, 3), (7, 2)])
async def test_nothing_goes_astray(n_streams: int, n_models: int) -> None:
    """Of thousands of epochs of many streams, each is answered once, to its own stream, in order, whatever happens."""
    tally = await drill(
        10_000, n_streams=n_streams, models=[Echo(str(number)) for number in range(n_models)], seed=n_streams
    )
    assert tally.astray == 0
    assert tally.inferred + tally.late + tally.superseded + tally.cancelled == 10_000
    assert tally.largest > 1
    assert 100 < tally.late < 300  # 2 % are meant to be
