"""Which LSL streams there are, and which one is meant."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import pylsl

from streamnode.errors import ConfigError, StreamLost

T = TypeVar("T")

log = logging.getLogger(__name__)

_RIVALS_S = 0.7  # liblsl asks its KnownPeers 0.5 s after the multicast: a second match may answer as late as that
_LOOK_S = 0.05  # between two looks at the resolver, which has no call-back

_FORMATS = {
    pylsl.cf_float32: "float32",
    pylsl.cf_double64: "double64",
    pylsl.cf_string: "string",
    pylsl.cf_int64: "int64",
    pylsl.cf_int32: "int32",
    pylsl.cf_int16: "int16",
    pylsl.cf_int8: "int8",
}


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
    """All streams that answer within `wait_s`, which should exceed 0.5 s (see `KnownPeers` of liblsl). Blocks.

    Raises:
        ConfigError: `wait_s` is not a finite number of at least 0, for which liblsl would wait for ever.
    """
    if not 0 <= wait_s < math.inf:
        raise ConfigError(f"streams cannot be listened for {wait_s:g} s: give a number of at least 0")
    return sorted(map(Sighting.of, pylsl.resolve_streams(wait_s)), key=lambda s: (s.name, s.source_id))


async def connect(query: LslQuery, timeout_s: float | None, opened: Callable[[pylsl.StreamInfo], T]) -> T:
    """Find the one stream that matches and open it; if it goes away in between, find it again.

    Args:
        query: which stream.
        timeout_s: how long to try; None tries for ever.
        opened: makes of the stream what is returned. Blocks. Raises `StreamLost` if the stream has gone.

    Raises:
        StreamLost: no stream matched in time, or none that did could be opened.
        ConfigError: several match.
    """
    started, warned = pylsl.local_clock(), False
    while True:
        found = await resolve(query, timeout_s, since=started)  # which takes long enough to be the pause
        try:
            return await asyncio.to_thread(opened, found)
        except StreamLost as lost:
            if timeout_s is not None and pylsl.local_clock() - started >= timeout_s:
                raise
            if not warned:
                log.warning("%s; looking for it again", lost)
            warned = True


async def resolve(query: LslQuery, timeout_s: float | None, *, since: float | None = None) -> pylsl.StreamInfo:
    """Wait for the one stream that matches.

    Args:
        query: which stream.
        timeout_s: how long to look; None looks for ever.
        since: LSL time from which `timeout_s` counts; None counts from now.

    Raises:
        StreamLost: none matched in time.
        ConfigError: several match.
    """
    matching = pylsl.ContinuousResolver(pred=query.xpath)
    everything = pylsl.ContinuousResolver()
    started, report_s, pause_s = pylsl.local_clock(), 1.0, 1.0
    deadline = None if timeout_s is None else (started if since is None else since) + timeout_s
    while True:
        await asyncio.sleep(_LOOK_S)
        found, now = matching.results(), pylsl.local_clock()
        waited_s = now - started
        if found and waited_s >= _RIVALS_S:
            return _only_one(found)
        if deadline is not None and now >= deadline and waited_s >= _RIVALS_S:
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
