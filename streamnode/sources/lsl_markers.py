"""The events of an LSL stream of markers, on this machine's LSL clock."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncIterator
from typing import Self

import numpy as np
import pylsl

from streamnode.errors import StreamLost
from streamnode.sources.lsl import PROBE_S, LslQuery, connect, local_clock, probe
from streamnode.types import Marker

log = logging.getLogger(__name__)

_OPEN_S = 3.0
_PULL_S = 0.2  # a blocked pull cannot be woken: so long may closing take
_FOREIGN_S = 60.0  # a marker is pushed when it happens: a stamp further off than this is not of LSL's clock


class LslMarkers:
    """One stream of markers, of text or of numbers, of which the first channel counts.

    Args:
        query: which stream.
        timeout_s: how long to look for it, until it is open; None looks for ever.
    """

    def __init__(self, query: LslQuery, *, timeout_s: float | None = None) -> None:
        self._query, self._timeout_s = query, timeout_s
        self._offset, self._answering, self._told_foreign = 0.0, True, False
        self._closed = threading.Event()

    async def __aenter__(self) -> Self:
        """Find the stream and connect.

        Raises:
            StreamLost: it was not there in time, or went away whenever it was.
            ConfigError: several streams match.
        """
        self._inlet, self.name = await connect(self._query, self._timeout_s, _open)
        await asyncio.to_thread(self._ask_clock)  # meanwhile LSL keeps the markers
        threading.Thread(target=self._track_clock, name="lsl clock", daemon=True).start()
        log.info("markers from stream %s", self.name)
        return self

    def _track_clock(self) -> None:
        """Clock thread: a probe that is not answered blocks for seconds, which must hold up no marker."""
        while not self._closed.wait(PROBE_S):
            self._ask_clock()

    def _ask_clock(self) -> None:
        """How far the sender's clock is off; when it does not answer, the last offset stands."""
        offset = probe(self._inlet)
        if offset is not None:
            self._offset = offset
        elif self._answering and not self._closed.is_set():
            log.warning("stream %s is unsynchronised: its clock does not answer (UDP blocked?)", self.name)
        self._answering = offset is not None

    async def __aexit__(self, *exc: object) -> None:
        """Disconnect."""
        self._closed.set()  # the clock's thread may sit in a probe and ends by itself
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
        return Marker(_label(sample[0]), self._time(stamp + self._offset, local_clock()))

    def _time(self, t: float, t_arrived: float) -> float:
        if abs(t - t_arrived) < _FOREIGN_S:
            return t
        if not self._told_foreign:
            self._told_foreign = True
            log.warning("stamps of stream %s are not of LSL's clock: markers count from when they arrive", self.name)
        return t_arrived


def _open(found: pylsl.StreamInfo) -> tuple[pylsl.StreamInlet, str]:
    """Subscribe to a stream; returns its name, too. Blocks. Raises `StreamLost`."""
    name: str = found.name()
    inlet = pylsl.StreamInlet(found, recover=False, as_numpy=True)  # or text that is no UTF-8 would be lost
    try:
        inlet.open_stream(timeout=_OPEN_S)
    except RuntimeError as error:  # the base of all that pylsl raises
        raise StreamLost(f"stream {name} of markers went away while connecting: restart its source") from error
    return inlet, name


def _label(value: bytes | np.generic) -> str:
    """Text as it is, whole numbers in full, and others without the digits that float32 makes up."""
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return str(value) if isinstance(value, np.integer) else f"{float(value):.10g}"
