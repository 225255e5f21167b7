"""Plays a signal in real time: what recordings and synthetic EEG have in common.

Stamps follow the signal's own time from the instant playing starts: sample n carries `start + n / sfreq` whatever the
speed. At a speed other than 1 they therefore run ahead of the clock or fall behind it.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Iterator
from typing import NamedTuple, Protocol

from streamnode.errors import ConfigError
from streamnode.metrics import Metrics
from streamnode.types import Chunk, Clock, Float32Array, StreamInfo


class Annotation(NamedTuple):
    """Something that happened during a recording; times in seconds, `t_s` from its first sample."""

    t_s: float
    duration_s: float
    description: str


class Block(NamedTuple):
    """Consecutive samples of a signal.

    Attributes:
        run: changes with every pass over the signal, and where that was interrupted.
        row: index of the first sample within the pass, in time: it counts what is missing where that was interrupted.
        data: `(n_times, n_chans)` float32 microvolts.
    """

    run: int
    row: int
    data: Float32Array


class Signal(Protocol):
    """What can be played: a `Recording`, which ends, or `SyntheticEeg`, which does not."""

    @property
    def info(self) -> StreamInfo:
        """Name, rate and channels."""
        ...

    @property
    def annotations(self) -> tuple[Annotation, ...]:
        """What happened, in order."""
        ...

    def blocks(self, n_times: int, *, loop: bool) -> Iterator[Block]:
        """All samples in order, at most `n_times` at once; with `loop` again and again. No block spans two runs."""
        ...


async def paced(
    signal: Signal, *, speed: float, loop: bool, chunk_s: float, duration_s: float | None = None
) -> AsyncIterator[tuple[int, Block]]:
    """Hands out the blocks of a signal, each when its last sample is due, with the index of its first over all passes.

    Every deadline counts from the start, so lateness never adds up; what is late comes at once and nothing is left
    out. At an infinite speed everything is late, and other tasks run between blocks. Where the signal was interrupted,
    nothing comes for as long.

    Args:
        signal: what to play.
        speed: times real time.
        loop: start again at the end.
        chunk_s: seconds of the signal in a block.
        duration_s: end after so many seconds of the signal, passes added up.

    Raises:
        ConfigError: `speed` is not above 0.
    """
    if not speed > 0:
        raise ConfigError(f"a speed of {speed:g} plays nothing: give a number above 0, 1 for real time")
    sfreq = signal.info.sfreq
    n_total = sys.maxsize if duration_s is None else round(duration_s * sfreq)
    began, of_pass, stop = _loop_time(), 0, 0
    for block in signal.blocks(max(1, round(chunk_s * sfreq)), loop=loop):
        of_pass = stop if block.row == 0 else of_pass
        start = of_pass + block.row
        data = block.data[: max(0, n_total - start)]
        if not len(data):
            return
        stop = start + len(data)
        await asyncio.sleep(began + (stop - 1) / (sfreq * speed) - _loop_time())
        yield start, block._replace(data=data)


def _loop_time() -> float:
    return asyncio.get_running_loop().time()


async def chunks(
    signal: Signal,
    *,
    clock: Clock,
    speed: float,
    loop: bool,
    chunk_s: float,
    duration_s: float | None = None,
    metrics: Metrics | None = None,
) -> AsyncIterator[Chunk]:
    """Plays a signal from now on as the chunks of a source.

    `metrics` count its samples, None counts none; the other arguments are as of `paced`.
    """
    info, t0 = signal.info, clock()
    async for start, block in paced(signal, speed=speed, loop=loop, chunk_s=chunk_s, duration_s=duration_s):
        if metrics is not None:
            metrics.samples.labels(info.name).inc(len(block.data))
        yield Chunk(info, block.data, start, t0 + start / info.sfreq, clock(), block.run)
