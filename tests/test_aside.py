"""Calls in threads that nobody waits for."""

import asyncio
import threading

import pytest

from streamnode.aside import aside


async def test_a_call_returns_or_raises() -> None:
    """The result comes back, or the error does."""
    assert await aside(divmod, 7, 2) == (3, 1)
    with pytest.raises(ZeroDivisionError):
        await aside(divmod, 7, 0)


def test_whoever_is_cancelled_waits_no_longer_nor_does_the_loop() -> None:
    """Cancelling ends the wait while the call goes on, the event loop ends before it, and a late result harms none."""
    begun, go_on = threading.Event(), threading.Event()
    threads: list[threading.Thread] = []

    def call() -> None:
        threads.append(threading.current_thread())
        begun.set()
        go_on.wait()

    async def ask() -> None:
        task = asyncio.create_task(aside(call))
        await asyncio.to_thread(begun.wait)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(ask())
    assert threads[0].is_alive()
    go_on.set()
    threads[0].join()
