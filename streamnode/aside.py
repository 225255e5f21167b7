"""Long work beside the event loop that nobody waits for at the end: a download may take minutes, and so may compiling.

`asyncio.to_thread` would do, were it not that leaving the event loop, and Python, waits for its threads.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import threading
from collections.abc import Callable
from functools import partial
from typing import NoReturn, ParamSpec, TypeVar

log = logging.getLogger(__name__)

_threads: list[threading.Thread] = []

P = ParamSpec("P")
T = TypeVar("T")


async def aside(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """What a function returns or raises, called in a thread that ends with the process if not before."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def work() -> None:
        try:
            settle = partial(future.set_result, function(*args, **kwargs))
        except BaseException as error:  # noqa: BLE001  (raised again where it is waited for)
            settle = partial(future.set_exception, error)
        try:
            loop.call_soon_threadsafe(_unless_done, future, settle)
        except RuntimeError:
            log.debug("the event loop has closed")

    _threads.append(threading.Thread(target=work, name="aside", daemon=True))
    _threads[-1].start()
    return await future


def leave(code: int) -> NoReturn:
    """End the process; a call that still runs is cut off, and not by Python, which compiled code does not survive."""
    if any(thread.is_alive() for thread in _threads):
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def _unless_done(future: asyncio.Future[T], settle: Callable[[], None]) -> None:
    if not future.done():  # cancelled: whoever asked is gone
        settle()
