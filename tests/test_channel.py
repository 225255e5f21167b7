"""Channels drop the oldest, tell of every drop, and end."""

from __future__ import annotations

import asyncio

import pytest

from streamnode.channel import Channel
from streamnode.errors import StreamLost


def channel(maxsize: int) -> tuple[Channel[int], list[int]]:
    dropped: list[int] = []
    return Channel(maxsize, dropped.append), dropped


async def test_items_come_out_in_the_order_they_went_in() -> None:
    """A channel is first in, first out, and ends after `close` has let the rest through."""
    pipe, dropped = channel(3)
    for item in range(3):
        pipe.put(item)
    pipe.close()
    assert [item async for item in pipe] == [0, 1, 2]
    assert dropped == []


async def test_full_channel_drops_the_oldest_and_tells() -> None:
    """With one place it is a latest-wins slot: what was replaced unread is handed to `on_drop`."""
    pipe, dropped = channel(1)
    for item in range(4):
        pipe.put(item)
    assert await pipe.get() == 3
    assert dropped == [0, 1, 2]


async def test_waiting_consumer_is_woken_by_put() -> None:
    """`get` on an empty channel waits for the next item."""
    pipe, _ = channel(2)
    waiting = asyncio.create_task(pipe.get())
    await asyncio.sleep(0)
    assert not waiting.done()
    pipe.put(7)
    assert await waiting == 7


async def test_waiting_consumer_is_woken_by_close() -> None:
    """Closing ends a consumer that waits."""
    pipe, _ = channel(2)

    async def consume() -> list[int]:
        return [item async for item in pipe]

    waiting = asyncio.create_task(consume())
    await asyncio.sleep(0)
    pipe.close()
    assert await waiting == []


async def test_error_is_raised_after_the_last_item() -> None:
    """What arrived before a failure is delivered before the failure is."""
    pipe, _ = channel(2)
    pipe.put(1)
    pipe.close(StreamLost("gone"))
    assert await pipe.get() == 1
    with pytest.raises(StreamLost, match="gone"):
        await pipe.get()


async def test_put_after_close_is_a_drop() -> None:
    """Nothing is lost without being told, not even what comes too late."""
    pipe, dropped = channel(2)
    pipe.close()
    pipe.put(5)
    assert dropped == [5]
    assert len(pipe) == 0


def test_a_channel_without_room_is_refused() -> None:
    """A size below one is a programming error."""
    with pytest.raises(ValueError, match="at least one item"):
        channel(0)
