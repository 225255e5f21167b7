"""The events of an LSL stream of markers, on this machine's LSL clock."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Self

import pylsl

from streamnode.errors import StreamLost
from streamnode.sources.lsl import LslQuery, local_clock, resolve
from streamnode.types import Marker

log = logging.getLogger(__name__)

_OPEN_S = 3.0
_PULL_S = 0.2  # a blocked pull cannot be woken: so long may closing take
_FOREIGN_S = 60.0  # a marker is pushed when it happens: a stamp further off than this is not of LSL's clock


class LslMarkers:
    """One stream of markers, of text or of numbers, of which the first channel counts.

    Args:
        query: which stream.
        timeout_s: how long to look for it; None looks for ever.
    """

    def __init__(self, query: LslQuery, *, timeout_s: float | None = None) -> None:
        self._query, self._timeout_s = query, timeout_s

    async def __aenter__(self) -> Self:
        """Find the stream and connect.

        Raises:
            StreamLost: it is not there, or went away meanwhile.
            ConfigError: several streams match.
        """
        info = await resolve(self._query, self._timeout_s)
        self.name: str = info.name()
        self._inlet = pylsl.StreamInlet(info, recover=False)
        self._told_foreign = False
        await asyncio.to_thread(self._open)
        log.info("markers from stream %s", self.name)
        return self

    def _open(self) -> None:
        try:
            self._inlet.open_stream(timeout=_OPEN_S)
        except RuntimeError as error:  # the base of all that pylsl raises
            raise StreamLost(f"stream {self.name} of markers went away while connecting: restart its source") from error

    async def __aexit__(self, *exc: object) -> None:
        """Disconnect."""
        await asyncio.to_thread(self._inlet.close_stream)

    async def __aiter__(self) -> AsyncIterator[Marker]:
        """Markers as they come, for ever. Raises `StreamLost` when the stream goes away."""
        while True:
            marker = await asyncio.to_thread(self._pull)
            if marker is not None:
                yield marker

    def _pull(self) -> Marker | None:
        try:
            sample, stamp = self._inlet.pull_sample(timeout=_PULL_S)
        except RuntimeError as error:
            raise StreamLost(f"stream {self.name} of markers went away ({error}): restart the sender") from error
        if sample is None:
            return None
        try:
            offset = self._inlet.time_correction(timeout=_OPEN_S)
        except RuntimeError:
            offset = 0.0  # exact on one machine, which is where markers mostly come from
        label = sample[0] if isinstance(sample[0], str) else f"{sample[0]:.10g}"
        return Marker(label, self._time(stamp + offset))

    def _time(self, t: float) -> float:
        now = local_clock()
        if abs(t - now) < _FOREIGN_S:
            return t
        if not self._told_foreign:
            self._told_foreign = True
            log.warning("stamps of stream %s are not of LSL's clock: markers count from when they arrive", self.name)
        return now
