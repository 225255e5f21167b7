"""A bounded queue with manners: it has a size, drops the oldest when full, tells of every drop, and can end.

The same class is the hand-over from a reader thread (through `loop.call_soon_threadsafe(channel.put, item)`), the
latest-wins slot of a stream (`maxsize=1`) and the queue before every sink.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Channel(Generic[T]):
    """Bounded, drop-oldest, single-consumer queue for one event loop.

    Args:
        maxsize: how many items may wait.
        on_drop: called with each item that was pushed out unread.
    """

    def __init__(self, maxsize: int, on_drop: Callable[[T], None]) -> None:
        if maxsize < 1:
            message = f"a channel holds at least one item, not {maxsize}"
            raise ValueError(message)
        self._items: deque[T] = deque()
        self._maxsize = maxsize
        self._on_drop = on_drop
        self._wake = asyncio.Event()
        self._closed = False
        self._error: BaseException | None = None

    def __len__(self) -> int:
        """How many items wait."""
        return len(self._items)

    def put(self, item: T) -> None:
        """Append an item; when full, the oldest goes to `on_drop`. An item put after `close` is dropped too."""
        if self._closed:
            self._on_drop(item)
            return
        if len(self._items) >= self._maxsize:
            self._on_drop(self._items.popleft())
        self._items.append(item)
        self._wake.set()

    def close(self, error: BaseException | None = None) -> None:
        """End the channel: what waits is still delivered, then iteration stops or raises `error`."""
        if not self._closed:
            self._closed, self._error = True, error
            self._wake.set()

    async def get(self) -> T:
        """The oldest waiting item. Raises `StopAsyncIteration`, or the error given to `close`, at the end."""
        while not self._items:
            if self._closed:
                raise self._error or StopAsyncIteration
            self._wake.clear()
            await self._wake.wait()
        return self._items.popleft()

    def __aiter__(self) -> Channel[T]:
        """Iterate over items until the channel ends."""
        return self

    async def __anext__(self) -> T:
        """The next item."""
        return await self.get()
