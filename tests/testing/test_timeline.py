"""Scripts of faults: kept as JSON, drawn at random, refused when they make no sense; and the virtual clock."""

import json
from typing import get_args

import pytest

from streamnode.errors import ConfigError
from streamnode.testing import Bursts, Event, Gap, Jitter, Restart, Timeline, VirtualClock, random_timeline


@pytest.mark.parametrize("seed", range(3))
def test_json_keeps_a_timeline(seed: int) -> None:
    """What is written as JSON comes back the same, infinite durations, NaN and labels included."""
    script = random_timeline(seed, 100.0)
    again = Timeline.from_json(script.to_json())
    assert repr(again) == repr(script)  # NaN is not equal to itself, but looks the same
    endless = Timeline(events=(Jitter(1.0, 2.0),))
    assert Timeline.from_json(endless.to_json()) == endless


@pytest.mark.parametrize(
    "text",
    ["", "[]", '{"sfreq": 0}', '{"hz": 250}', '{"sfreq": "fast"}']
    + [json.dumps({"events": [event]}) for event in ({"kind": "Flood", "at_s": 1}, {"kind": "Gap", "at": 1}, 7)],
)
def test_json_that_is_no_timeline_is_refused(text: str) -> None:
    """Anything but the JSON of a timeline is a `ConfigError`."""
    with pytest.raises(ConfigError):
        Timeline.from_json(text)


@pytest.mark.parametrize(
    "fields",
    [
        {"sfreq": 0.0},
        {"sfreq": float("inf")},
        {"duration_s": 0.0},
        {"duration_s": float("inf")},
        {"n_chans": 0},
        {"chunk": 0},
        {"events": (Bursts(0, 0),)},
        {"events": (Gap(-1, 1),)},
        {"events": (Gap(1, -1),)},
        {"events": (Restart(1, 1, sfreq=-250.0),)},
        {"events": (Restart(1, 1, ch_names=()),)},
        {"events": (Restart(1, 2), Restart(2, 1))},
    ],
)
def test_impossible_scripts_are_refused(fields: dict[str, float]) -> None:
    """Numbers that make no sense are a `ConfigError`, not a strange timeline."""
    with pytest.raises(ConfigError):
        Timeline(**fields)  # type: ignore[arg-type]


@pytest.mark.parametrize("duration_s", [5.0, 60.0, 3600.0])
def test_random_timelines_hold_every_fault(duration_s: float) -> None:
    """Every kind of fault happens, restarts with each kind of change among them, one after the other and in time."""
    script = random_timeline(7, duration_s)
    assert {type(event) for event in script.events} == set(get_args(Event))
    changed = [(r.sfreq, r.unit, r.ch_names) for r in script.restarts]
    assert all(any(restart[i] is not None for restart in changed) for i in range(3))
    assert (None, None, None) in changed
    ends = [event.at_s + getattr(event, "duration_s", 0.0) for event in script.events]
    assert all(end < after.at_s for end, after in zip(ends, [*script.events[1:], Gap(duration_s, 0)], strict=True))


def test_random_timelines_follow_their_seed() -> None:
    """One seed, one script; another seed, another."""
    assert repr(random_timeline(3, 60.0)) == repr(random_timeline(3, 60.0))
    assert repr(random_timeline(3, 60.0)) != repr(random_timeline(4, 60.0))


def test_clock_goes_on_when_told(virtual_clock: VirtualClock) -> None:
    """A virtual clock stands still between calls, goes on as told and never back."""
    assert virtual_clock() == virtual_clock() == 1000.0
    virtual_clock.advance(3600.0)
    virtual_clock.advance_to(4600.5)
    assert virtual_clock() == 4600.5
    with pytest.raises(ValueError, match="cannot go back"):
        virtual_clock.advance(-0.1)
