"""A live stream from Lab Streaming Layer: find it, check it, read it, in microvolts and on this machine's LSL clock.

liblsl's own comforts stay off, for each hides what the node has to know: `recover` continues with a restarted source
whose rate or channels may have changed, and the processing flags block the pull and bend the time axis around gaps.

Threads: one reads (a blocked pull cannot be woken, so it looks up five times a second), one asks for the clock offset.
Both only hand things to the event loop.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, Self, TypeVar

import numpy as np
import pylsl
from numpy.typing import NDArray

from streamnode.channel import Channel
from streamnode.errors import ConfigError, ContractError, StreamLost
from streamnode.metrics import Metrics
from streamnode.montage import make_montage
from streamnode.signal.timebase import Span, TimeBase
from streamnode.sources.lsl_info import eeg_columns, in_metres, to_microvolts
from streamnode.types import Chunk, Float32Array, Float64Array, StreamInfo

T = TypeVar("T")
Fill = Literal["hold", "interpolate"]
local_clock: Callable[[], float] = pylsl.local_clock

log = logging.getLogger(__name__)

_RIVALS_S = 0.7  # liblsl asks its KnownPeers 0.5 s after the multicast: a second match may answer as late as that
_LOOK_S = 0.05  # between two looks at the resolver, which has no call-back
_OPEN_S = 3.0  # for each step of connecting; on one host the slowest, the first clock probe, takes 0.64 s
_PULL_S = 0.2
_PAUSE_S = 0.0015  # between pulls that follow each other fast: every wake-up costs, so single samples are gathered
_STALL_S = 0.25
_PULL_SAMPLES = 2048
_INLET_S = 10  # what liblsl keeps for us; beyond it drops the oldest and tells nobody
_PROBE_S = 5.0
_WAITING = 4096  # chunks between reader thread and pipeline: four seconds of a 1 kHz device that sends single samples

_FORMATS = {
    pylsl.cf_float32: "float32",
    pylsl.cf_double64: "double64",
    pylsl.cf_string: "string",
    pylsl.cf_int64: "int64",
    pylsl.cf_int32: "int32",
    pylsl.cf_int16: "int16",
    pylsl.cf_int8: "int8",
}
_DTYPES = {name: np.dtype(name.replace("double", "float")) for name in _FORMATS.values() if name != "string"}


@dataclass(frozen=True, slots=True)
class LslQuery:
    """Which stream is meant; what is None does not matter.

    Attributes:
        name: LSL name.
        source_id: LSL source id.
        stype: LSL type, compared exactly.
        predicate: any further XPath 1.0 condition on the stream info, such as `starts-with(hostname,'rig')`.
    """

    name: str | None = None
    source_id: str | None = None
    stype: str | None = None
    predicate: str | None = None

    @property
    def xpath(self) -> str:
        """The condition as liblsl takes it: one line of XPath."""
        wanted = {"name": self.name, "source_id": self.source_id, "type": self.stype}
        terms = [f"{key}={_xpath_string(value)}" for key, value in wanted.items() if value is not None]
        if self.predicate:
            terms.append(f"({self.predicate})")
        return " ".join(" and ".join(terms).splitlines()) or "true()"


def _xpath_string(text: str) -> str:
    """A string literal; XPath 1.0 knows no escapes, so a text with both quotes is put together from parts."""
    if "'" not in text:
        return f"'{text}'"
    if '"' not in text:
        return f'"{text}"'
    parts = ', "\'", '.join(f"'{part}'" for part in text.split("'"))
    return f"concat({parts})"


@dataclass(frozen=True, slots=True)
class Sighting:
    """A stream that answered, by its own account."""

    name: str
    stype: str
    source_id: str
    sfreq: float
    n_chans: int
    format: str
    hostname: str
    uid: str
    created_at: float

    @classmethod
    def of(cls, info: pylsl.StreamInfo) -> Sighting:
        """What a resolver returned, as plain data."""
        return cls(
            name=info.name(),
            stype=info.type(),
            source_id=info.source_id(),
            sfreq=info.nominal_srate(),
            n_chans=info.channel_count(),
            format=_FORMATS.get(info.channel_format(), "undefined"),
            hostname=info.hostname(),
            uid=info.uid(),
            created_at=info.created_at(),
        )

    def __str__(self) -> str:
        return f"name={self.name!r} source_id={self.source_id!r} type={self.stype!r}"


def streams_in_sight(wait_s: float = 1.0) -> list[Sighting]:
    """All streams that answer within `wait_s`, which should exceed 0.5 s (see `KnownPeers` of liblsl). Blocks."""
    return sorted(map(Sighting.of, pylsl.resolve_streams(wait_s)), key=lambda s: (s.name, s.source_id))


async def resolve(query: LslQuery, timeout_s: float | None) -> pylsl.StreamInfo:
    """Wait for the one stream that matches. Raises `StreamLost` after `timeout_s`, `ConfigError` if several match."""
    matching = pylsl.ContinuousResolver(pred=query.xpath)
    everything = pylsl.ContinuousResolver()
    started, report_s, pause_s = local_clock(), 1.0, 1.0
    while True:
        await asyncio.sleep(_LOOK_S)
        found, waited_s = matching.results(), local_clock() - started
        if found and waited_s >= _RIVALS_S:
            return _only_one(found)
        if timeout_s is not None and waited_s >= max(timeout_s, _RIVALS_S):
            raise StreamLost(
                f"no LSL stream matched {query.xpath} within {timeout_s:g} s ({_in_sight(everything)}): "
                "start the source, or correct what the configuration asks for"
            )
        if waited_s >= report_s:
            log.info("looking for an LSL stream with %s (%s)", query.xpath, _in_sight(everything))
            pause_s = min(2 * pause_s, 10.0)
            report_s += pause_s


def _in_sight(resolver: pylsl.ContinuousResolver) -> str:
    seen = sorted(str(Sighting.of(info)) for info in resolver.results())
    return f"in sight: {'; '.join(seen)}" if seen else "none at all in sight"


def _only_one(found: list[pylsl.StreamInfo]) -> pylsl.StreamInfo:
    """The newest, if all are starts of one source. Raises `ConfigError` if they are different sources."""
    sightings = [Sighting.of(info) for info in found]
    sources = {(s.name, s.stype, s.hostname, s.source_id or s.uid) for s in sightings}
    if len(sources) == 1:
        return max(found, key=lambda info: float(info.created_at()))
    keys = {"source_id": "source_id", "name": "name", "stype": "stype", "predicate with hostname": "hostname"}
    telling = [key for key, field in keys.items() if len({getattr(s, field) for s in sightings}) > 1]
    raise ConfigError(
        f"{len(sources)} LSL streams match ({'; '.join(sorted(map(str, sightings)))}): "
        f"tell them apart by adding {' or '.join(telling) or 'a unique source_id to the sender and'} to the source"
    )


@dataclass(frozen=True, slots=True, eq=False)
class _Pulled:
    """What one pull brought: microvolts `(n_times, n_chans)`, stamps on the source's clock, when it came."""

    data: Float32Array
    stamps: Float64Array
    t_arrived: float


@dataclass(frozen=True, slots=True, eq=False)
class _Stream:
    """An open inlet and how to read it.

    Attributes:
        info: the stream as the node sees it: EEG channels only.
        inlet: subscribed, buffering.
        dtype: what the source sends.
        n_columns: how many channels it sends.
        picks: which of these are EEG.
        scale: factor to microvolts for each pick.
        timebase: on this machine's clock.
    """

    info: StreamInfo
    inlet: pylsl.StreamInlet
    dtype: np.dtype[Any]
    n_columns: int
    picks: NDArray[np.intp]
    scale: Float64Array
    timebase: TimeBase

    def pull(self, buffer: NDArray[Any], timeout_s: float) -> _Pulled | None:
        """What has come, or None. Blocks up to `timeout_s`. Raises `RuntimeError` when the stream is lost."""
        at_least = 1 if timeout_s else None
        rows, stamps = self.inlet.pull_chunk(timeout_s, len(buffer), buffer, min_samples=at_least, as_numpy=True)
        t_arrived = local_clock()
        if len(stamps) == 0:
            return None
        return _Pulled((rows[:, self.picks] * self.scale).astype(np.float32), stamps, t_arrived)

    def __str__(self) -> str:
        return f"LSL stream {self.info.name!r} (source_id {self.info.source_id!r})"


def _open(
    found: pylsl.StreamInfo, label: str, cap: str | None, first_run: int, max_missing_s: float
) -> _Stream:
    """Subscribe, read the full description. Blocks. Raises `ContractError` or `StreamLost`."""
    seen = Sighting.of(found)
    if seen.sfreq <= 0:
        raise ContractError(f"LSL stream {seen.name!r} has no regular sampling rate: choose a stream of EEG samples")
    if seen.format not in _DTYPES:
        raise ContractError(f"LSL stream {seen.name!r} sends {seen.format} values: choose a stream of numbers")
    inlet = pylsl.StreamInlet(found, max_buflen=_INLET_S, recover=False, processing_flags=0)
    try:
        full = inlet.info(_OPEN_S)
        inlet.open_stream(_OPEN_S)
    except RuntimeError as error:  # the base of all that pylsl raises
        raise StreamLost(f"LSL stream {seen.name!r} answered but could not be opened, try again: {error}") from error
    columns = eeg_columns(full)
    montage = make_montage([c.label for c in columns], in_metres(np.array([c.position for c in columns])), cap)
    return _Stream(
        info=StreamInfo(label or seen.name, seen.source_id, seen.stype, seen.sfreq, montage, seen.uid),
        inlet=inlet,
        dtype=_DTYPES[seen.format],
        n_columns=seen.n_chans,
        picks=np.array([c.index for c in columns], dtype=np.intp),
        scale=to_microvolts(seen.name, columns),
        timebase=TimeBase(seen.sfreq, first_run, round(max_missing_s * seen.sfreq)),
    )


def _probe(inlet: pylsl.StreamInlet) -> float | None:
    """The clock offset, or None if the source's clock does not answer. Blocks."""
    try:
        return float(inlet.time_correction(_OPEN_S))
    except RuntimeError:
        return None


class _Silence:
    """Tells when the silence of a stream is worth a word, and when it counts as the stream's end.

    Args:
        end_s: silence that ends the stream, seconds.
    """

    def __init__(self, end_s: float) -> None:
        self.end_s = end_s
        self._heard = local_clock()
        self._between: deque[float] = deque(maxlen=8)

    def broken(self, now: float) -> float:
        """Something has come. Returns how long the silence was, seconds."""
        lasted_s, self._heard = now - self._heard, now
        self._between.append(lasted_s)
        return lasted_s

    @property
    def usual_s(self) -> float:
        """What is nothing unusual: three times the longest silence of late, and no less than 250 ms."""
        enough = len(self._between) == self._between.maxlen
        return min(max(_STALL_S, 3 * max(self._between)), self.end_s) if enough else self.end_s

    @property
    def lasts_s(self) -> float:
        """How long it has been silent."""
        return local_clock() - self._heard


class LslSource:
    """Implements `Source` for one connection to one LSL stream; after `StreamLost` make a new one.

    Entering raises `StreamLost` if no stream matches in time or the one that does cannot be opened, `ConfigError` if
    several match, and `ContractError` if it is not a regular stream of numbers with EEG channels. Iterating raises
    `StreamLost`, after all samples that came before, when the stream ends or falls silent.

    Args:
        query: which stream.
        timeout_s: how long to look for it; None waits for ever.
        metrics: instruments of the node.
        cap: whose electrode names the stream uses, one of `streamnode.montage.CAPS`; None reads 10-20 names.
        label: what to call the stream; its LSL name if None.
        first_run: number of the first run.
        stall_s: silence after which the stream counts as lost; unusual silence, from 250 ms on, is flagged before.
        fill: what stands in for missing samples: the last one, or a straight line to the next.
        max_missing_s: longest gap to fill in; a longer one starts a new run.
    """

    def __init__(
        self,
        query: LslQuery,
        *,
        timeout_s: float | None,
        metrics: Metrics,
        cap: str | None = None,
        label: str | None = None,
        first_run: int = 0,
        stall_s: float = 2.0,
        fill: Fill = "hold",
        max_missing_s: float = 0.0,
    ) -> None:
        self._query = query
        self._timeout_s = timeout_s
        self._metrics = metrics
        self._cap = cap
        self._label = label or ""
        self._first_run = first_run
        self._stall_s = stall_s
        self._fill: Fill = fill
        self._max_missing_s = max_missing_s
        self._last_row: Float32Array | None = None
        self._stale = 0
        self._run: int | None = None
        self._foreign, self._answering = False, True
        self._channel: Channel[_Pulled] = Channel(_WAITING, self._on_drop)
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []
        self._entered: _Stream | None = None

    @property
    def _stream(self) -> _Stream:
        if self._entered is None:
            raise RuntimeError("a source is known once it is entered with `async with`")
        return self._entered

    @property
    def info(self) -> StreamInfo:
        """The stream, EEG channels only; known once the block is entered."""
        return self._stream.info

    async def __aenter__(self) -> Self:
        found = await resolve(self._query, self._timeout_s)
        self._entered = stream = await asyncio.to_thread(
            _open, found, self._label, self._cap, self._first_run, self._max_missing_s
        )
        self._label = stream.info.name
        self._received = self._metrics.samples.labels(self._label)
        self._metrics.connected.labels(self._label).set(1)
        self._on_offset(await asyncio.to_thread(_probe, stream.inlet))
        loop = asyncio.get_running_loop()
        for work in (self._read, self._track_clock):
            thread = threading.Thread(target=work, args=(stream, loop), name=f"lsl{work.__name__}", daemon=True)
            thread.start()
            self._threads.append(thread)
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._stop.set()
        self._metrics.connected.labels(self._label).set(0)
        await asyncio.to_thread(self._threads[0].join)  # the reader; the other may sit in a probe and ends by itself
        self._stream.inlet.close_stream()

    async def __aiter__(self) -> AsyncIterator[Chunk]:
        """Chunks in order, for ever. Raises `StreamLost` when the stream goes away."""
        async for pulled in self._channel:
            for chunk in self._chunks(pulled):
                yield chunk

    def _chunks(self, pulled: _Pulled) -> Iterator[Chunk]:
        """The chunks that a pull makes, short gaps filled in, and the accounts of what is missing."""
        stream = self._stream
        spans = stream.timebase.add(pulled.stamps, pulled.t_arrived)
        self._account(spans, stream)
        for span in spans:
            data = pulled.data[span.rows]
            if span.n_missing:
                data = np.concatenate((self._filled(span.n_missing, data[0]), data))
            self._last_row = data[-1]
            yield Chunk(stream.info, data, span.start, span.t0, pulled.t_arrived, span.run, span.n_missing)

    def _filled(self, n_missing: int, after: Float32Array) -> Float32Array:
        """What stands in for missing samples, `(n_missing, n_chans)`, given the sample after them."""
        before = after if self._last_row is None else self._last_row
        if self._fill == "hold":
            return np.repeat(before[np.newaxis], n_missing, axis=0)
        weights = np.arange(1, n_missing + 1, dtype=np.float32)[:, np.newaxis] / np.float32(n_missing + 1)
        filled: Float32Array = before + weights * (after - before)
        return filled

    def _account(self, spans: list[Span], stream: _Stream) -> None:
        """Count what the time base found, and say once if the source's clock is not LSL's."""
        timebase = stream.timebase
        if n_lost := sum(span.n_missing + span.n_lost for span in spans):
            self._metrics.samples_lost.labels(self._label, "gap").inc(n_lost)
        if timebase.stale > self._stale:
            self._metrics.samples_dropped.labels(self._label, "stale").inc(timebase.stale - self._stale)
            self._stale = timebase.stale
        if any(span.run != self._run for span in spans):
            self._run = spans[-1].run
            self._metrics.runs.labels(self._label).set(self._run)
        if timebase.foreign and not self._foreign:
            self._foreign = True
            log.warning("%s does not stamp with the LSL clock: its samples are timed by when they arrive", stream)
            self._tell_clock()

    def _read(self, stream: _Stream, loop: asyncio.AbstractEventLoop) -> None:
        """Reader thread: pull and hand over until told to stop; however it ends, the stream ends with it."""
        try:
            self._pull_while_alive(stream, loop)
        except RuntimeError as error:  # the base of all that pylsl raises
            _post(loop, self._on_loss, StreamLost(f"{stream} went away ({error}): restart the sender"))
        except Exception as error:  # noqa: BLE001  (a dead reader would be silence for ever; it is raised in the loop)
            _post(loop, self._on_loss, error)

    def _pull_while_alive(self, stream: _Stream, loop: asyncio.AbstractEventLoop) -> None:
        buffer = np.empty((_PULL_SAMPLES, stream.n_columns), stream.dtype)
        silence, stalled, hurried = _Silence(self._stall_s), False, False
        while not self._stop.is_set():
            left_s = (silence.end_s if stalled else silence.usual_s) - silence.lasts_s
            pulled = stream.pull(buffer, 0.0 if hurried else max(min(_PULL_S, left_s), 0.01))
            if pulled is not None:
                hurried = silence.broken(pulled.t_arrived) < 2 * _PAUSE_S
                _post(loop, self._on_pull, pulled)
                if stalled:
                    stalled = False
                    _post(loop, self._on_stall, stalled)
                if hurried:
                    time.sleep(_PAUSE_S)
            elif hurried:
                hurried = False
            elif silence.lasts_s >= silence.end_s:
                words = f"{stream} delivered nothing for {silence.end_s:g} s: see whether the device or its app hangs"
                _post(loop, self._on_loss, StreamLost(words))
                return
            elif not stalled and silence.lasts_s >= silence.usual_s:
                stalled = True
                _post(loop, self._on_stall, stalled)

    def _track_clock(self, stream: _Stream, loop: asyncio.AbstractEventLoop) -> None:
        """Clock thread: a probe can block for seconds, which must hold up neither the pull nor the event loop."""
        while not self._stop.wait(_PROBE_S):
            _post(loop, self._on_offset, _probe(stream.inlet))

    def _on_pull(self, pulled: _Pulled) -> None:
        self._received.inc(len(pulled.stamps))
        self._channel.put(pulled)

    def _on_drop(self, pulled: _Pulled) -> None:
        """What the channel drops comes before all that still waits in it, so the next sample read begins a new run."""
        self._metrics.samples_dropped.labels(self._label, "reader_full").inc(len(pulled.stamps))
        self._stream.timebase.skip(len(pulled.stamps))

    def _on_offset(self, offset: float | None) -> None:
        """The source's clock was asked; when it does not answer, the last offset stands."""
        if offset is not None:
            self._stream.timebase.clock_offset = offset
        elif self._answering:
            log.warning("%s is unsynchronised: its clock does not answer (UDP blocked?)", self._stream)
        self._answering = offset is not None
        self._tell_clock()

    def _tell_clock(self) -> None:
        timebase = self._stream.timebase
        self._metrics.clock_offset.labels(self._label).set(timebase.clock_offset)
        self._metrics.synchronised.labels(self._label).set(self._answering and not timebase.foreign)
        self._metrics.drift.labels(self._label).set(timebase.drift_ppm)
        self._metrics.jitter.labels(self._label).set(timebase.jitter_s)

    def _on_stall(self, stalled: bool) -> None:  # noqa: FBT001  (the one argument of a call-back)
        """The stream has fallen silent, which may mean nothing, or has gone on."""
        self._metrics.connected.labels(self._label).set(not stalled)
        if stalled:
            self._metrics.stalls.labels(self._label).inc()
            log.warning("%s is silent; it counts as lost after %g s", self._stream, self._stall_s)

    def _on_loss(self, error: Exception) -> None:
        self._metrics.connected.labels(self._label).set(0)
        self._channel.close(error)


def _post(loop: asyncio.AbstractEventLoop, call: Callable[[T], None], item: T) -> None:
    """Hand an item to the event loop; after the loop's end nobody waits for it."""
    try:
        loop.call_soon_threadsafe(call, item)
    except RuntimeError:
        log.debug("the event loop has closed")
