"""The threads that read LSL streams and hand what came to the event loop.

Waking a thread costs far more than what it then does: with warm caches a pull, its conversion and its way through the
event loop take 40 µs, every 8 ms on a shared virtual CPU ten times that. So all here is about waking seldom. Up to
eight streams have a thread each, which sleeps until a sample comes; more share one that looks into all in turn, which
halves what 32 of them cost.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import pylsl

from streamnode.errors import StreamLost
from streamnode.types import Clock, Float32Array, Float64Array

log = logging.getLogger(__name__)
local_clock: Clock = pylsl.local_clock

UNPACK_S = 2e-4  # within which liblsl has unpacked a chunk whose first sample it has shown
_THREADS = 8
_WAIT_S = 0.05  # a blocked pull cannot be woken: so long may closing take
# Least time between two pulls. At 1 kHz it holds back senders of up to 6 samples, which would wake us up to a thousand
# times a second: of single ones, 1.5 ms cost 15 % of a core and 1.2 ms of latency, 5 ms 10 % and 3.3, 8 ms 8 % and 5.1.
_PAUSE_S = 0.006
_CYCLE_S = 0.003  # between looks into all streams; 2 ms would cost a seventh more, 5 ms add one to the latency
_STALL_S = 0.2

Call = Callable[[], None]


@dataclass(frozen=True, slots=True, eq=False)
class Pulled:
    """What one pull brought: microvolts `(n_times, n_chans)`, stamps on the source's clock, when it came."""

    data: Float32Array
    stamps: Float64Array
    t_arrived: float


class Inlet(Protocol):
    """What can be read here; `str()` names the stream."""

    def pull(self, wait_s: float, not_before: float) -> Pulled | None:
        """What has come, or None.

        Args:
            wait_s: how long to wait for the first sample, seconds; 0 does not wait.
            not_before: after a wait, when to take what else has come, LSL time.

        Raises:
            RuntimeError: the stream is lost.
        """
        ...


class Tap:
    """A stream while it is being read. Make it in the event loop that is to be told.

    Args:
        inlet: the stream.
        stall_s: silence that counts as the stream's end, seconds; unusual silence, from 200 ms on, is told before.
        on_pull: told what has come.
        on_stall: told True when the stream has fallen silent, which may mean nothing, and False when it has gone on.
        on_loss: told the error when nothing more will come.

    Attributes:
        loop: where they are told.
        over: nothing will be read any more.
        left: set once the reading thread has let go of the stream.
    """

    def __init__(
        self,
        inlet: Inlet,
        stall_s: float,
        on_pull: Callable[[Pulled], None],
        on_stall: Callable[[bool], None],
        on_loss: Callable[[Exception], None],
    ) -> None:
        self.loop = asyncio.get_running_loop()
        self.over = False
        self.left = threading.Event()
        self._inlet, self._stall_s = inlet, stall_s
        self._on_pull, self._on_stall, self._on_loss = on_pull, on_stall, on_loss
        self._heard = local_clock()
        self._silences: deque[float] = deque(maxlen=8)
        self._hurried = self._stalled = False

    def close(self) -> None:
        """Have the stream read no more, and wait until its thread has let go of it. Blocks."""
        self.over = True
        self.left.wait()

    def wait(self) -> list[Call]:
        """Block until a sample comes, or, if they come one by one, until some have; then `look`."""
        if self._hurried:
            time.sleep(_PAUSE_S)
            return self.look()
        return self.look(_WAIT_S)

    def look(self, wait_s: float = 0.0) -> list[Call]:
        """Pull once. Returns the calls that tell what came of it; after a loss the tap is over."""
        try:
            pulled = self._inlet.pull(wait_s, self._heard + _PAUSE_S)
        except RuntimeError as error:  # the base of all that pylsl raises
            return self._end(StreamLost(f"{self._inlet} went away ({error}): restart the sender"))
        except Exception as error:  # noqa: BLE001  (a dead reader would be silence for ever; it is raised in the loop)
            return self._end(error)
        if pulled is None:
            self._hurried = False
            return self._still_silent()
        silence_s, self._heard = pulled.t_arrived - self._heard, pulled.t_arrived
        self._hurried = silence_s < 1.1 * _PAUSE_S
        self._silences.append(silence_s)
        calls: list[Call] = [partial(self._on_pull, pulled)]
        if self._stalled:
            self._stalled = False
            calls.append(partial(self._on_stall, self._stalled))
        return calls

    def _still_silent(self) -> list[Call]:
        """Whether the silence is worth a word: three times the longest of late is, and the one that ends the stream."""
        silence_s = local_clock() - self._heard
        if silence_s >= self._stall_s:
            words = f"{self._inlet} delivered nothing for {self._stall_s:g} s: see whether the device or its app hangs"
            return self._end(StreamLost(words))
        unusual = len(self._silences) == self._silences.maxlen and silence_s >= max(_STALL_S, 3 * max(self._silences))
        if self._stalled or not unusual:
            return []
        self._stalled = True
        return [partial(self._on_stall, self._stalled)]

    def _end(self, error: Exception) -> list[Call]:
        self.over = True
        return [partial(self._on_loss, error)]


class Readers:
    """Shares out streams among threads, which live as long as there is something to read.

    Args:
        n_threads: how many streams are read by a thread each; when there are more, one thread reads all.
    """

    def __init__(self, n_threads: int = _THREADS) -> None:
        self._n_threads = n_threads
        self._n_open = 0
        self._shared: list[Tap] = []
        self._lock = threading.Lock()

    def start(self, tap: Tap) -> None:
        """Read a stream until it is lost or closed."""
        with self._lock:
            self._n_open += 1
            if self._n_open > self._n_threads:
                self._share(tap)
            else:
                threading.Thread(target=self._read_one, args=(tap,), name="lsl reader", daemon=True).start()

    def _share(self, tap: Tap) -> None:
        self._shared.append(tap)
        if len(self._shared) == 1:
            threading.Thread(target=self._read_all, name="lsl readers", daemon=True).start()

    def _read_one(self, tap: Tap) -> None:
        while not tap.over:
            if self._n_open > self._n_threads:
                with self._lock:
                    self._share(tap)
                return
            tell(tap.loop, tap.wait())
        with self._lock:
            self._let_go(tap)

    def _read_all(self) -> None:
        while taps := self._still_shared():
            calls: dict[asyncio.AbstractEventLoop, list[Call]] = defaultdict(list)
            for tap in taps:
                calls[tap.loop] += tap.look()
            for loop, of_loop in calls.items():
                tell(loop, of_loop)
            time.sleep(_CYCLE_S)

    def _still_shared(self) -> list[Tap]:
        with self._lock:
            for tap in [tap for tap in self._shared if tap.over]:
                self._shared.remove(tap)
                self._let_go(tap)
            return self._shared.copy()

    def _let_go(self, tap: Tap) -> None:
        self._n_open -= 1
        tap.left.set()


def tell(loop: asyncio.AbstractEventLoop, calls: list[Call]) -> None:
    """Make calls in the event loop, all in one go; after the loop's end nobody waits for them."""
    if not calls:
        return
    try:
        loop.call_soon_threadsafe(_make, calls)
    except RuntimeError:
        log.debug("the event loop has closed")


def _make(calls: list[Call]) -> None:
    for call in calls:
        call()
