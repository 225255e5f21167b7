"""What a device does wrong, and when: a script of faults that can be written down, drawn at random and kept as JSON.

Times are seconds since the script began. `render` says what goes over the wire, `streamnode.testing.source` sends it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Literal, get_args

import numpy as np

from streamnode.errors import ConfigError

_ELECTRODES = ("Fp1", "Fp2", "F3", "F4", "C3", "C4", "P3", "P4", "O1", "O2", "F7", "F8", "T7", "T8", "P7", "P8")

Unit = Literal["microvolts", "millivolts", "volts"]


@dataclass(frozen=True, slots=True)
class Jitter:
    """Chunks come up to `2 * ms` late and are stamped on arrival less the mean: all of one are off by up to ± `ms`."""

    at_s: float
    ms: float
    duration_s: float = math.inf


@dataclass(frozen=True, slots=True)
class Bursts:
    """The device collects `n_times` samples, then sends them stamped 10 µs apart, the last one right."""

    at_s: float
    n_times: int
    duration_s: float = math.inf


@dataclass(frozen=True, slots=True)
class Drift:
    """The device samples `ppm` millionths faster than it says; several at once add up."""

    at_s: float
    ppm: float
    duration_s: float = math.inf


@dataclass(frozen=True, slots=True)
class Gap:
    """What was captured in this time is lost; the device keeps its clock."""

    at_s: float
    duration_s: float


@dataclass(frozen=True, slots=True)
class Duplicate:
    """The chunk captured at this time is sent twice, stamps and all."""

    at_s: float


@dataclass(frozen=True, slots=True)
class OutOfOrder:
    """The chunk captured at this time is sent after the one that follows it."""

    at_s: float


@dataclass(frozen=True, slots=True)
class Freeze:
    """Silence, then all at once; of what was due meanwhile only the last `keeps_s` seconds are left.

    The device looks alive: the connection stays, clock probes are answered.
    """

    at_s: float
    duration_s: float
    keeps_s: float = math.inf


@dataclass(frozen=True, slots=True)
class Restart:
    """The process is killed and comes back `duration_s` later with the same source id, its samples lost meanwhile.

    What is not None has changed on return: sampling frequency (Hz), unit, labels, with them the number of channels, or
    LSL type.
    """

    at_s: float
    duration_s: float
    sfreq: float | None = None
    unit: Unit | None = None
    ch_names: tuple[str, ...] | None = None
    stype: str | None = None


@dataclass(frozen=True, slots=True)
class UnixStamps:
    """The device stamps with the time of day instead of the LSL clock."""

    at_s: float
    duration_s: float = math.inf


@dataclass(frozen=True, slots=True)
class ZeroStamps:
    """Every stamp is `ZERO_STAMP`."""

    at_s: float
    duration_s: float = math.inf


@dataclass(frozen=True, slots=True)
class NotFinite:
    """One channel delivers NaN or an infinity; `channel` as an index, the last by default."""

    at_s: float
    duration_s: float
    value: float = math.nan
    channel: int = -1


@dataclass(frozen=True, slots=True)
class BlockedProbes:
    """Clock probes go unanswered, as behind a firewall that lets only TCP through.

    Without effect on what is rendered. Over real LSL the sending process filters them out, which only Linux can do.
    """

    at_s: float
    duration_s: float = math.inf


Event = (
    Jitter
    | Bursts
    | Drift
    | Gap
    | Duplicate
    | OutOfOrder
    | Freeze
    | Restart
    | UnixStamps
    | ZeroStamps
    | NotFinite
    | BlockedProbes
)
_KINDS: dict[str, Callable[..., Event]] = {kind.__name__: kind for kind in get_args(Event)}


@dataclass(frozen=True, slots=True)
class Timeline:
    """The script of one device.

    Attributes:
        sfreq: nominal sampling frequency until a restart changes it, Hz.
        n_chans: number of channels.
        duration_s: how long it plays.
        seed: all chance comes from here.
        chunk: samples sent at once while no `Bursts` say otherwise.
        events: what goes wrong, in any order; spans may overlap, but not those of two restarts.

    Raises:
        ConfigError: a number makes no sense.
    """

    sfreq: float = 250.0
    n_chans: int = 4
    duration_s: float = 10.0
    seed: int = 0
    chunk: int = 10
    events: tuple[Event, ...] = ()

    def __post_init__(self) -> None:
        rates = [self.sfreq, *(r.sfreq for r in self.restarts if r.sfreq is not None)]
        if not (all(0 < rate < math.inf for rate in rates) and 0 < self.duration_s < math.inf):
            raise ConfigError("a timeline needs sampling frequencies and a duration above 0 and finite: correct them")
        sizes = [event.n_times for event in self.events if isinstance(event, Bursts)]
        sizes += [len(restart.ch_names) for restart in self.restarts if restart.ch_names is not None]
        if min(self.n_chans, self.chunk, *sizes, 1) < 1:
            raise ConfigError("a timeline needs at least one channel, and one sample in a chunk or burst: correct it")
        for before, after in zip(self.restarts, self.restarts[1:], strict=False):
            if before.at_s + before.duration_s > after.at_s:
                raise ConfigError(f"{after} begins while the source is away: move it past {before}")
        for event in self.events:
            if event.at_s < 0 or (not isinstance(event, Duplicate | OutOfOrder) and event.duration_s < 0):
                raise ConfigError(f"{event} has a negative time: give seconds since the timeline began")

    @property
    def restarts(self) -> tuple[Restart, ...]:
        """The restarts in order."""
        return tuple(sorted((e for e in self.events if isinstance(e, Restart)), key=lambda e: e.at_s))

    @property
    def ch_names(self) -> tuple[str, ...]:
        """Labels until a restart changes them: electrodes of the 10-20 system, then numbers."""
        return tuple([*_ELECTRODES, *(f"E{i + 1}" for i in range(len(_ELECTRODES), self.n_chans))][: self.n_chans])

    def to_json(self) -> str:
        """As text that `from_json` reads; infinite durations are written as `Infinity`."""
        events = [{"kind": type(event).__name__, **asdict(event)} for event in self.events]
        return json.dumps({**asdict(self), "events": events})

    @classmethod
    def from_json(cls, text: str) -> Timeline:
        """Read a timeline back.

        Raises:
            ConfigError: it is not the JSON of a timeline.
        """
        try:
            fields = json.loads(text)
            events = tuple(_event(**event) for event in fields.pop("events", ()))
            return cls(**fields, events=events)
        except (ValueError, TypeError, AttributeError, KeyError) as error:
            raise ConfigError(f"this is not the JSON of a timeline ({error}): write it with `to_json`") from error


def _event(kind: str, ch_names: list[str] | None = None, **fields: float | str | None) -> Event:
    named = {} if ch_names is None else {"ch_names": tuple(ch_names)}
    return _KINDS[kind](**fields, **named)


class VirtualClock:
    """A clock that stands still until it is told the time; call it for the seconds.

    Args:
        now: what it shows first, seconds.
    """

    def __init__(self, now: float = 0.0) -> None:
        self._now = now

    def __call__(self) -> float:
        """Seconds."""
        return self._now

    def advance(self, seconds: float) -> None:
        """Go on by `seconds`, which is not negative."""
        self.advance_to(self._now + seconds)

    def advance_to(self, now: float) -> None:
        """Go on to a later time."""
        if now < self._now:
            raise ValueError(f"a clock at {self._now:g} s cannot go back to {now:g} s")
        self._now = now


def random_timeline(seed: int, duration_s: float, *, sfreq: float = 250.0, n_chans: int = 4) -> Timeline:
    """Every fault there is, again and again in random order, each over before the next begins.

    Args:
        seed: the same seed gives the same timeline.
        duration_s: an hour holds over a dozen of each fault, anything down to a few seconds one of each.
        sfreq: nominal sampling frequency until the first restart that doubles it, Hz; the next such halves it.
        n_chans: number of channels.
    """
    rng = np.random.default_rng(seed)
    script = Timeline(sfreq=sfreq, n_chans=n_chans, duration_s=duration_s, seed=seed)
    n_faults = len(_faults(script, rng, 0.0, 1.0))
    n_rounds = max(1, int(duration_s / (20.0 * n_faults)))
    slot_s = duration_s / (n_rounds * n_faults)
    events: list[Event] = []
    for i in range(n_rounds):
        for j, kind in enumerate(rng.permutation(n_faults)):
            at_s = ((i * n_faults + j) + rng.uniform(0.1, 0.3)) * slot_s
            longest = 0.6 * slot_s
            lasts_s = min(longest, 0.05) * (longest / min(longest, 0.05)) ** rng.uniform()
            events.append(_faults(replace(script, events=tuple(events)), rng, at_s, lasts_s)[kind])
    return replace(script, events=tuple(events))


def _faults(script: Timeline, rng: np.random.Generator, at_s: float, lasts_s: float) -> list[Event]:
    """One of each kind, to go on with from `script`."""
    doubled = [r.sfreq for r in script.restarts if r.sfreq is not None][-1:] == [2 * script.sfreq]
    labels = tuple(f"{'XYZ'[rng.integers(3)]}{i}" for i in range(script.n_chans))
    return [
        Jitter(at_s, rng.uniform(0.5, 4.0), lasts_s),
        Bursts(at_s, int(rng.integers(5, 20)), lasts_s),
        Drift(at_s, rng.uniform(-200, 200), lasts_s),  # twice the worst of quartzes
        Gap(at_s, lasts_s),
        Duplicate(at_s),
        OutOfOrder(at_s),
        Freeze(at_s, lasts_s),
        Freeze(at_s, lasts_s, keeps_s=lasts_s * rng.uniform()),
        Restart(at_s, lasts_s),
        Restart(at_s, lasts_s, sfreq=script.sfreq * (1 if doubled else 2)),
        Restart(at_s, lasts_s, unit=rng.choice(["microvolts", "millivolts", "volts"]).item()),
        Restart(at_s, lasts_s, ch_names=labels),
        UnixStamps(at_s, lasts_s),
        ZeroStamps(at_s, lasts_s),
        NotFinite(at_s, lasts_s, float(rng.choice([math.nan, math.inf, -math.inf]))),
        BlockedProbes(at_s, lasts_s),
    ]
