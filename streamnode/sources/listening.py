"""A source that has listened: the mains frequency of its place is known before its first chunk is taken."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Self

from streamnode.errors import StreamLost
from streamnode.signal.mains import MainsListener
from streamnode.types import Chunk, Source, StreamInfo

log = logging.getLogger(__name__)


class ListeningSource:
    """Another source, whose `info` tells the mains frequency; what was heard meanwhile comes first, so none is lost.

    A loss while listening is raised where any other is: after all chunks that came before it.

    Args:
        source: not yet open.
    """

    def __init__(self, source: Source) -> None:
        self._source = source
        self._lost: StreamLost | None = None

    async def __aenter__(self) -> Self:
        """Open the source and listen to its first 4 s. Raises what opening it raises."""
        await self._source.__aenter__()
        try:
            self._chunks = aiter(self._source)
            self._listener = MainsListener(self._source.info)
            async for chunk in self._chunks:
                if self._listener(chunk):
                    break
        except StreamLost as lost:
            self._lost = lost
        except BaseException as error:
            await self._source.__aexit__(type(error), error, error.__traceback__)
            raise
        mains_hz = self._listener.mains_hz
        self.info: StreamInfo = replace(self._source.info, mains_hz=mains_hz)
        log.info("stream %s has %s", self.info.name, f"mains of {mains_hz:g} Hz" if mains_hz else "no mains line")
        return self

    async def __aexit__(self, *exc: object) -> None:
        """Close the source."""
        await self._source.__aexit__(*exc)

    async def __aiter__(self) -> AsyncIterator[Chunk]:
        """All chunks in order, those that were listened to included."""
        for chunk in self._listener.heard:
            yield replace(chunk, info=self.info)
        if self._lost is not None:
            raise self._lost
        async for chunk in self._chunks:
            yield replace(chunk, info=self.info)
