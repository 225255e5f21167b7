"""Several sources as one: each is read by a task of its own, and the aligner joins what they bring."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from typing import Self

from prometheus_client import Gauge

from streamnode.metrics import Metrics
from streamnode.signal.align import Aligner
from streamnode.types import Chunk, Source, StreamInfo

_WAITING = 64  # chunks between the readers and the aligner; a full queue holds the readers up, whose sources count


class AlignedSource:
    """The channels of several streams side by side, at the times of the first one's samples.

    The loss of one stream is the loss of all, and so is the end of one. A sample that finds no partner within
    `max_wait_s` is counted as dropped, reason `unpartnered`, under the joined stream's name. So are its samples: those
    of the first stream, of which those are lost that never came, or were filled in here or beside.

    Args:
        sources: not yet open; all of one sampling frequency.
        max_wait_s: how long a sample waits for its partners.
        prefixes: put before the channel names of each stream, where some are the same.
        label: name of the joined stream; None joins the streams' own with `&`.
        first_run: number of the first run.
        metrics: where samples are counted.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        *,
        max_wait_s: float,
        prefixes: Sequence[str] | None = None,
        label: str | None = None,
        first_run: int = 0,
        metrics: Metrics,
    ) -> None:
        self._sources, self._max_wait_s, self._prefixes, self._label = sources, max_wait_s, prefixes, label
        self._first_run, self._metrics = first_run, metrics
        self._brought: asyncio.Queue[tuple[int, Chunk] | Exception | None] = asyncio.Queue(_WAITING)
        self._readers: list[asyncio.Task[None]] = []
        self._connected: Gauge | None = None  # once it is known under which name

    async def __aenter__(self) -> Self:
        """Open all streams at once.

        Raises:
            StreamLost: one is not there.
            ContractError: they cannot be joined.
        """
        loop = asyncio.get_running_loop()
        opened = [loop.create_future() for _ in self._sources]
        self._readers = [
            loop.create_task(self._read(i, source, opened[i]), name=f"read {i}")
            for i, source in enumerate(self._sources)
        ]
        try:
            infos: list[StreamInfo] = await asyncio.gather(*opened)
            self._aligner = Aligner(
                infos, max_wait_s=self._max_wait_s, prefixes=self._prefixes, first_run=self._first_run
            )
        except BaseException:
            await self.__aexit__()
            raise
        joined = self._aligner.info
        self.info = joined if self._label is None else replace(joined, name=self._label)
        self._connected = self._metrics.connected.labels(self.info.name)
        self._connected.set(1)
        return self

    async def __aexit__(self, *exc: object) -> None:
        """Close all streams."""
        if self._connected is not None:
            self._connected.set(0)
        for reader in self._readers:
            reader.cancel()
        if self._readers:
            await asyncio.wait(self._readers)  # which lets through that this task is itself cancelled

    async def __aiter__(self) -> AsyncIterator[Chunk]:
        """Joined chunks in order. Raises what any of the streams raises."""
        received = self._metrics.samples.labels(self.info.name)
        lost = self._metrics.samples_lost.labels(self.info.name, "gap")
        counted, expected = 0, None
        while brought := await self._brought.get():
            if isinstance(brought, Exception):
                raise brought
            i, chunk = brought
            if i == 0:
                missing = 0 if expected is None else chunk.start - expected
                lost.inc(max(0, missing))
                expected = chunk.start + chunk.n_times
            for joined in self._aligner.add(i, chunk):
                received.inc(joined.n_times - joined.n_missing)
                lost.inc(joined.n_missing)
                yield replace(joined, info=self.info)
            if lonely := self._aligner.unpartnered[0] - counted:
                counted += lonely
                received.inc(lonely)
                self._metrics.samples_dropped.labels(self.info.name, "unpartnered").inc(lonely)

    async def _read(self, i: int, source: Source, opened: asyncio.Future[StreamInfo]) -> None:
        """Bring what one stream yields; its end or its error ends the whole."""
        try:
            async with source:
                if not opened.done():  # the opening may have been given up meanwhile
                    opened.set_result(source.info)
                async for chunk in source:
                    await self._brought.put((i, chunk))
        except Exception as error:  # noqa: BLE001  (raised again where the stream is opened or its chunks are read)
            if opened.done():
                await self._brought.put(error)
            else:
                opened.set_exception(error)
        else:
            await self._brought.put(None)
