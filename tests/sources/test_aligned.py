"""Streams joined into one source, from scripts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Self

import numpy as np
import pytest

from streamnode.errors import ContractError, StreamLost
from streamnode.metrics import Metrics
from streamnode.montage import make_montage
from streamnode.sources.aligned import AlignedSource
from streamnode.types import Chunk, StreamInfo

SFREQ = 100.0


@dataclass
class Scripted:
    """Yields a ramp in chunks of ten, five samples lost at one, three filled in at another; then ends, or raises."""

    info: StreamInfo
    n_times: int
    error: Exception | None = None
    refuse: Exception | None = None
    closed: bool = False
    gap_at: int = 1_000_000
    filled_at: int = 1_000_000

    async def __aenter__(self) -> Self:
        if self.refuse is not None:
            raise self.refuse
        return self

    async def __aexit__(self, *exc: object) -> None:
        self.closed = True

    async def __aiter__(self) -> AsyncIterator[Chunk]:
        for start in range(0, self.n_times, 10):
            await asyncio.sleep(0)
            rows = np.arange(start, start + 10, dtype=np.float32)[:, np.newaxis] + np.zeros(self.info.n_chans)
            late, n_missing = (5, 0) if start >= self.gap_at else (0, 3 if start == self.filled_at else 0)
            t0 = (start + late) / SFREQ
            yield Chunk(self.info, rows, start + late, t0, t0 + 10 / SFREQ, run=late, n_missing=n_missing)
        if self.error is not None:
            raise self.error
        await asyncio.Event().wait()


def stream(name: str, *ch_names: str, sfreq: float = SFREQ) -> StreamInfo:
    return StreamInfo(name, name, "EEG", sfreq, make_montage(ch_names))


def joined(sources: Sequence[Scripted], metrics: Metrics | None = None, max_wait_s: float = 0.5) -> AlignedSource:
    return AlignedSource(sources, max_wait_s=max_wait_s, label="head", first_run=3, metrics=metrics or Metrics())


async def until_lost(source: AlignedSource) -> tuple[list[Chunk], str]:
    """All chunks there are, and what ended them."""
    chunks: list[Chunk] = []
    try:
        async for chunk in source:
            chunks.append(chunk)  # noqa: PERF401  (a comprehension would lose what came before the error)
    except StreamLost as lost:
        return chunks, str(lost)
    pytest.fail("the source ended by itself")


async def test_channels_stand_side_by_side_and_runs_go_on() -> None:
    """The joined stream has all channels in order, its own name, and counts runs from where it is told to."""
    lost = StreamLost("the script says so")
    left, right = Scripted(stream("left", "C3"), 100, lost), Scripted(stream("right", "C4", "O2"), 200)
    async with joined([left, right]) as source:
        chunks, why = await until_lost(source)
        assert why == "the script says so"
        assert (source.info.name, source.info.ch_names) == ("head", ("C3", "C4", "O2"))
    assert left.closed
    assert right.closed
    assert {chunk.run for chunk in chunks} == {3}
    assert {chunk.info for chunk in chunks} == {source.info}
    data = np.concatenate([chunk.data for chunk in chunks])
    np.testing.assert_allclose(data, data[:, :1] + np.zeros(3), atol=1e-9)
    assert len(data) > 50


async def test_stream_that_is_not_there_closes_the_others() -> None:
    """One stream that cannot be opened ends the attempt, and leaves none open."""
    left = Scripted(stream("left", "C3"), 10)
    right = Scripted(stream("right", "C4"), 10, refuse=StreamLost("not there"))
    with pytest.raises(StreamLost, match="not there"):
        async with joined([left, right]):
            pytest.fail("opened without its second stream")
    assert left.closed


@dataclass
class SlowToClose(Scripted):
    """Says when its closing has begun, and closes once it may."""

    closing: asyncio.Event = field(default_factory=asyncio.Event)
    may_close: asyncio.Event = field(default_factory=asyncio.Event)

    async def __aexit__(self, *exc: object) -> None:
        self.closing.set()
        await self.may_close.wait()
        self.closed = True


async def test_a_task_cancelled_while_its_source_closes_ends() -> None:
    """Whoever stops a node while a lost source is being closed is heard: the task does not go on to open another."""
    lost = Scripted(stream("left", "C3"), 10, error=StreamLost("gone"))
    slow = SlowToClose(stream("right", "C4"), 10)

    async def read() -> None:
        async with joined([lost, slow]) as source:
            await until_lost(source)

    reading = asyncio.create_task(read())
    await slow.closing.wait()
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    slow.may_close.set()


async def test_streams_that_do_not_fit_are_refused() -> None:
    """Different rates are told, and the streams are closed again."""
    left, right = Scripted(stream("left", "C3"), 10), Scripted(stream("right", "C4", sfreq=50.0), 10)
    with pytest.raises(ContractError, match="resample both"):
        async with joined([left, right]):
            pytest.fail("joined 100 Hz and 50 Hz")
    assert left.closed
    assert right.closed


async def test_samples_without_partners_are_counted() -> None:
    """What waits longer than `max_wait_s` for the other stream is dropped by count, not silently."""
    metrics = Metrics()
    left = Scripted(stream("left", "C3"), 500, StreamLost("end"))
    right = Scripted(stream("right", "C4"), 100)
    async with joined([left, right], metrics, max_wait_s=0.3) as source:
        chunks, _ = await until_lost(source)
        labels = {"stream": "head", "reason": "unpartnered"}
        dropped = metrics.registry.get_sample_value("streamnode_samples_dropped_total", labels)
        waiting = source._aligner.waiting[0]
    assert dropped
    assert sum(chunk.n_times for chunk in chunks) + dropped + waiting == 500


@pytest.mark.parametrize("faulty", [0, 1])
async def test_joined_samples_are_in_one_account(faulty: int) -> None:
    """Of the first stream's samples each is received or lost; what passed on measured is what was not dropped."""
    metrics = Metrics()
    scripts = [Scripted(stream("left", "C3"), 500), Scripted(stream("right", "C4"), 500)]
    scripts[faulty].gap_at, scripts[faulty].filled_at = 200, 100
    scripts[0].error = StreamLost("end")
    async with joined(scripts, metrics) as source:
        chunks, _ = await until_lost(source)
        waiting = source._aligner.waiting[0]
    account = metrics.account("head")
    n_gap = 5 if faulty == 0 else 0
    assert account["lost"] == n_gap + 3
    assert account["received"] + account["lost"] + waiting == 500 + n_gap
    assert account["received"] - account["dropped"] == sum(chunk.n_times - chunk.n_missing for chunk in chunks)


async def test_joined_stream_is_connected_while_it_is_open() -> None:
    """The gauge of the joined stream is 1 from its opening to its end, and again when it is opened anew."""
    metrics = Metrics()
    for _ in range(2):
        sources = [Scripted(stream("left", "C3"), 10), Scripted(stream("right", "C4"), 10)]
        async with joined(sources, metrics):
            assert metrics.registry.get_sample_value("streamnode_source_connected", {"stream": "head"}) == 1
        assert metrics.registry.get_sample_value("streamnode_source_connected", {"stream": "head"}) == 0
