"""The threads that read streams, on inlets that are made up."""

import asyncio
import queue
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import numpy as np
import pytest

from streamnode.errors import StreamLost
from streamnode.sources import lsl_poll
from streamnode.sources.lsl_poll import Call, Pulled, Readers, Tap, tell
from streamnode.testing import VirtualClock


def pulled(value: float, t_arrived: float | None = None) -> Pulled:
    """One sample, by default of now."""
    now = lsl_poll.local_clock() if t_arrived is None else t_arrived
    return Pulled(np.full((1, 1), value, np.float32), np.array([value]), now)


@dataclass
class Inlet:
    """Yields what is put into it, and notes who asks; an error put into it is raised."""

    waiting: queue.Queue[Pulled | Exception] = field(default_factory=queue.Queue)
    readers: list[threading.Thread] = field(default_factory=list)
    asked: list[tuple[float, float]] = field(default_factory=list)

    def pull(self, wait_s: float, not_before: float) -> Pulled | None:
        self.readers.append(threading.current_thread())
        self.asked.append((wait_s, not_before))
        try:
            item = self.waiting.get(timeout=wait_s) if wait_s else self.waiting.get_nowait()
        except queue.Empty:
            return None
        if isinstance(item, Exception):
            raise item
        return item

    def __str__(self) -> str:
        return "LSL stream 'made up'"


@dataclass
class Source:
    """What an inlet's listener was told."""

    inlet: Inlet = field(default_factory=Inlet)
    stall_s: float = 30.0
    values: list[float] = field(default_factory=list)
    stalls: list[bool] = field(default_factory=list)
    losses: list[Exception] = field(default_factory=list)

    def tap(self) -> Tap:
        return Tap(
            self.inlet, self.stall_s, lambda p: self.values.append(p.data[0, 0]), self.stalls.append, self.on_loss
        )

    def on_loss(self, error: Exception) -> None:
        self.losses.append(error)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110  (threads fulfil it)
            await asyncio.sleep(0)


@asynccontextmanager
async def reading(readers: Readers, *sources: Source) -> AsyncIterator[list[Tap]]:
    """Taps that are being read, and closed at the end."""
    taps = [source.tap() for source in sources]
    for tap in taps:
        readers.start(tap)
    yield taps
    for tap in taps:
        await asyncio.to_thread(tap.close)


def make(calls: list[Call]) -> None:
    for call in calls:
        call()


@pytest.fixture
def clock(virtual_clock: VirtualClock, monkeypatch: pytest.MonkeyPatch) -> VirtualClock:
    """Time for the taps, which sleep by going on with it."""
    monkeypatch.setattr(lsl_poll, "local_clock", virtual_clock)
    monkeypatch.setattr("streamnode.sources.lsl_poll.time.sleep", virtual_clock.advance)
    return virtual_clock


async def test_few_streams_have_a_thread_each_and_many_share_one() -> None:
    """One stream more than there may be threads, and all are read by a single one, with nothing lost on the way."""
    readers, sources = Readers(n_threads=2), [Source() for _ in range(3)]
    async with reading(readers, *sources[:2]):
        for value in range(5):
            for source in sources[:2]:
                source.inlet.waiting.put(pulled(value))
        await until(lambda: all(len(source.values) == 5 for source in sources[:2]))
        first, second = (source.inlet.readers[-1] for source in sources[:2])
        assert first is not second
        async with reading(readers, sources[2]):
            await until(lambda: len({source.inlet.readers[-1] for source in sources if source.inlet.readers}) == 1)
            for value in range(5, 50):
                for source in sources:
                    source.inlet.waiting.put(pulled(value))
            await until(lambda: len(sources[2].values) == 45 and all(len(s.values) == 50 for s in sources[:2]))
    assert [source.values for source in sources] == [[*range(50)], [*range(50)], [*range(5, 50)]]
    for thread in {*(source.inlet.readers[-1] for source in sources), first, second}:
        thread.join(5.0)
        assert not thread.is_alive()


async def test_streams_that_share_a_thread_end_on_their_own() -> None:
    """The loss of one stream is told of that one, the others are read on, and its place is free again."""
    readers, sources = Readers(n_threads=1), [Source() for _ in range(3)]
    async with reading(readers, *sources) as taps:
        sources[0].inlet.waiting.put(pulled(1))
        sources[0].inlet.waiting.put(RuntimeError("gone"))
        await until(lambda: bool(sources[0].losses))
        sources[1].inlet.waiting.put(RuntimeError("gone"))
        await until(lambda: bool(sources[1].losses))
        assert await asyncio.to_thread(taps[0].left.wait, 5.0)
        sources[2].inlet.waiting.put(pulled(2))
        await until(lambda: sources[2].values == [2])
        fourth = Source()
        async with reading(readers, fourth):
            fourth.inlet.waiting.put(pulled(3))
            await until(lambda: fourth.values == [3])
    assert (sources[0].values, sources[2].losses) == ([1], [])
    assert isinstance(sources[0].losses[0], StreamLost)
    assert str(sources[0].losses[0]) == "LSL stream 'made up' went away (gone): restart the sender"


async def test_after_close_nobody_touches_the_inlet() -> None:
    """Once `close` has returned, an inlet may be destroyed, however it was read."""
    readers, sources = Readers(n_threads=0), [Source(), Source()]
    async with reading(readers, *sources) as taps:
        await until(lambda: bool(sources[0].inlet.readers))
        await asyncio.to_thread(taps[0].close)
        n_pulls, n_others = len(sources[0].inlet.readers), len(sources[1].inlet.readers)
        await until(lambda: len(sources[1].inlet.readers) > n_others + 2)
        assert len(sources[0].inlet.readers) == n_pulls


async def test_fault_of_our_own_is_raised_as_it_is() -> None:
    """Whatever breaks in the thread ends the stream instead of leaving it silent for ever."""
    source, fault = Source(), ValueError("a fault of our own")
    source.inlet.waiting.put(fault)
    async with reading(Readers(), source):
        await until(lambda: bool(source.losses))
    assert source.losses == [fault]


async def test_samples_that_come_one_by_one_are_gathered(clock: VirtualClock) -> None:
    """Where one pull follows another within the pause, the next is slept for instead of waited for, while any come."""
    source, pause_s = Source(), lsl_poll._PAUSE_S
    tap = source.tap()
    for silence_s, waits_s, sleeps_s in (
        (0.1, lsl_poll._WAIT_S, 0.0),
        (pause_s, lsl_poll._WAIT_S, 0.0),
        (pause_s, 0.0, pause_s),
        (pause_s, 0.0, pause_s),
        (None, 0.0, pause_s),
        (0.1, lsl_poll._WAIT_S, 0.0),
        (0.1, lsl_poll._WAIT_S, 0.0),
    ):
        before, heard = clock(), tap._heard
        if silence_s is not None:
            source.inlet.waiting.put(pulled(0, heard + silence_s))
        make(tap.wait())
        assert clock() - before == pytest.approx(sleeps_s)
        assert source.inlet.asked[-1] == (waits_s, heard + pause_s)


async def test_silence_is_told_when_unusual_and_then_ends_the_stream(clock: VirtualClock) -> None:
    """Three times the longest silence of late is a stall, told once; what comes ends it; `stall_s` is the end."""
    source = Source(stall_s=2.0)
    tap = source.tap()
    for _ in range(8):
        clock.advance(0.1)
        source.inlet.waiting.put(pulled(0))
        make(tap.look())
    for silence_s, stalls in ((0.29, []), (0.02, [True]), (0.02, [True])):
        clock.advance(silence_s)
        make(tap.look())
        assert source.stalls == stalls
    source.inlet.waiting.put(pulled(1))
    make(tap.look())
    assert source.stalls == [True, False]
    clock.advance(2.0)
    make(tap.look())
    assert tap.over
    assert "delivered nothing for 2 s: see whether" in str(source.losses[0])


def test_nobody_is_told_after_the_loop_has_closed() -> None:
    """A thread that has news for a closed event loop goes on without a word."""
    loop, told = asyncio.new_event_loop(), []
    loop.close()
    tell(loop, [lambda: told.append(1)])
    assert told == []
