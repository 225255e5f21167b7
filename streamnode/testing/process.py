"""A device as processes: one for each life of a timeline, with a written record of all that was sent."""

from __future__ import annotations

import asyncio
import json
import math
import sys
import tempfile
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Self

from streamnode.errors import StreamLost
from streamnode.testing.render import render
from streamnode.testing.timeline import Timeline


class TimelineProcess:
    """Plays a timeline over real LSL while its `async with` block is open.

    Within the block the stream can be found. It begins to play with its first consumer. All lives are started ahead
    and wait for their time, so that a restart takes as long as the timeline says. Block the event loop (a pull belongs
    in a thread) and the record and the later lives wait.

    Args:
        timeline: what to play.
        name: LSL name of the stream.
        source_id: LSL source id, the same for all lives.
        on_go: begin to play with `go` instead of the first consumer.
        speed: times real time; the stamps stay those of the timeline.

    Attributes:
        timeline: what is played.
        source_id: LSL source id.
        name: LSL name.
        pushes: what is sent if all goes by the script; add `t0` to its times, but not to a `ZERO_STAMP`.
        truth: what becomes of every sample; add `t0` to its times.
        t0: LSL time at which the timeline began; NaN until then.
        log: what the processes said they did, in order (see `streamnode.testing.source`).
    """

    def __init__(
        self, timeline: Timeline, *, name: str, source_id: str, on_go: bool = False, speed: float = 1.0
    ) -> None:
        self.timeline, self.name, self.source_id = timeline, name, source_id
        self.pushes, self.truth = render(timeline)
        self.t0 = math.nan
        self.log: list[dict[str, Any]] = []
        self._options = ["--name", name, "--source-id", source_id, "--speed", str(speed), *["--on-line"] * on_go]
        self._lives: list[asyncio.subprocess.Process] = []
        self._silent: set[int] = set()
        self._news = asyncio.Condition()
        self._cleanup = AsyncExitStack()

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            path = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "timeline.json"
            path.write_text(self.timeline.to_json(), "utf-8")
            tasks = await stack.enter_async_context(asyncio.TaskGroup())
            stack.push_async_callback(self._end)
            for life in self.truth.lives:
                self._lives.append(await self._start(path, life.number))
                tasks.create_task(self._listen(life.number), name=f"life {life.number} of {self.name}")
            self._cleanup = stack.pop_all()
        try:
            await self._heard("open", 0)
        except BaseException:
            await self._cleanup.aclose()
            raise
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._cleanup.aclose()

    async def go(self) -> None:
        """Begin to play."""
        await self._write(0, "go")

    async def begun(self) -> float:
        """Wait until it plays; LSL time at which the timeline began. Raises `StreamLost` if it never does."""
        await self._heard("play", 0)
        return self.t0

    async def finished(self) -> None:
        """Wait until all has been sent. Raises `StreamLost` if a process fails before."""
        await self._heard("end", len(self._lives) - 1)

    async def _start(self, path: Path, life: int) -> asyncio.subprocess.Process:
        command = [sys.executable, "-m", "streamnode.testing.source", str(path), "--life", str(life), *self._options]
        pipe = asyncio.subprocess.PIPE
        return await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe)

    async def _listen(self, life: int) -> None:
        """Take down what a process says, until it is dead."""
        stdout = self._lives[life].stdout
        assert stdout is not None
        async for line in stdout:
            entry = json.loads(line)
            if entry["event"] == "play" and life == 0:
                self.t0 = entry["t0"]
                for later in range(1, len(self._lives)):
                    await self._write(later, repr(self.t0))
            async with self._news:
                self.log.append(entry)
                self._news.notify_all()
        async with self._news:
            self._silent.add(life)
            self._news.notify_all()

    async def _heard(self, event: str, life: int) -> None:
        def known() -> bool:
            return any(entry["event"] == event and entry["life"] == life for entry in reversed(self.log))

        async with self._news:
            await self._news.wait_for(lambda: known() or life in self._silent or self._stillborn)
        if not known():
            raise StreamLost(f"life {life} of {self.name!r} ended before its {event!r}: see what it wrote to stderr")

    @property
    def _stillborn(self) -> bool:
        return 0 in self._silent and math.isnan(self.t0)

    async def _write(self, life: int, line: str) -> None:
        stdin = self._lives[life].stdin
        assert stdin is not None
        stdin.write(f"{line}\n".encode())
        await stdin.drain()

    async def _end(self) -> None:
        for process in self._lives:
            if process.returncode is None:
                process.kill()
        for process in self._lives:
            await process.wait()
