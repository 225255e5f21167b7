"""Promises of `streamnode.inference.pace`: scripted machines, no clock."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamnode.errors import ConfigError
from streamnode.inference.pace import Cost, Decision, Pace

HOP_S = 1.0
FAST = Cost(encode_s=0.02, step_s=0.01)
SLOWER = Cost(encode_s=0.02, step_s=0.03)  # 26 of 50 steps fit into 0.8 s, 22 into 0.7 s


@dataclass(frozen=True)
class Step:
    """What became of one epoch."""

    decision: Decision
    late_s: float
    took_s: float


@dataclass(frozen=True)
class Waiting:
    """What is known of an epoch when its turn comes."""

    late_s: float
    bad: bool


def drive(
    pace: Pace,
    cost: Cost,
    slowness: Sequence[float],
    bad: Callable[[int], bool] = lambda _: False,
    *,
    encodes: bool = True,
) -> list[Step]:
    """An epoch every hop, all of them in turn, on a machine that takes so many times the cost for each.

    Where what passes is not even encoded, it takes no time and teaches nothing.
    """
    free_at, story = 0.0, list[Step]()
    for i, factor in enumerate(slowness):
        late_s = max(0.0, free_at - i * HOP_S)
        decision = pace.decide(late_s=late_s, bad=bad(i))
        runs = decision.action == "rebuild" or (encodes and decision.action == "pass")
        took_s = factor * cost.of(decision.steps) if runs else 0.0
        if runs:
            pace.took(decision.steps, took_s)
        free_at = i * HOP_S + late_s + took_s
        story.append(Step(decision, late_s, took_s))
    return story


def steps_of(story: Sequence[Step]) -> list[int]:
    return [step.decision.steps for step in story]


def test_all_steps_where_there_is_time() -> None:
    """A machine that is fast enough does all steps from the first epoch on."""
    story = drive(Pace(FAST, steps=50, floor=5, hop_s=HOP_S), FAST, [1.0] * 20)
    assert {step.decision for step in story} == {Decision("rebuild", 50)}


def test_as_many_as_fit_on_a_slower_machine() -> None:
    """Where all steps take too long, it does those that take 70 % of the hop, always the same number."""
    story = drive(Pace(SLOWER, steps=50, floor=5, hop_s=HOP_S), SLOWER, [1.0] * 20)
    assert {step.decision for step in story} == {Decision("rebuild", 22)}
    assert max(step.late_s for step in story) == 0.0


def test_converges_and_recovers() -> None:
    """Three times slower from one epoch to the next: after 2 passes the steps fit, and all come back as soon."""
    pace = Pace(FAST, steps=50, floor=5, hop_s=HOP_S)
    story = drive(pace, FAST, [1.0] * 10 + [3.0] * 30 + [1.0] * 20)
    assert set(steps_of(story[:10])) == {50}
    assert set(steps_of(story[13:42])) == {24}
    assert all(step.took_s <= 0.8 for step in story[11:])
    assert all(step.late_s == 0.0 for step in story[13:])
    assert set(steps_of(story[42:])) == {50}
    assert all(step.decision.action == "rebuild" for step in story)


def test_hiccups_do_not_change_the_pace() -> None:
    """A pass that takes twice as long costs the epoch behind it some steps, and no other."""
    pace = Pace(SLOWER, steps=50, floor=5, hop_s=HOP_S)
    story = drive(pace, SLOWER, [1.0] * 10 + [2.0] + [1.0] * 10)
    late = [i for i, step in enumerate(story) if step.late_s > 0]
    assert late == [11]
    assert [i for i, steps in enumerate(steps_of(story)) if steps != 22] == late


@pytest.mark.parametrize("before", [0.5, 1.0])
def test_does_not_flutter(before: float) -> None:
    """Costs that vary by 5 % where the steps just fit change their number a few times in 300 epochs, then no more."""
    jitter = 1 + 0.05 * np.random.default_rng(0).uniform(-1, 1, 300)
    cost = Cost(0.02, 0.78 / 30)  # 30 steps are just 80 % of the hop
    story = drive(Pace(cost, steps=50, floor=5, hop_s=HOP_S), cost, [before] * 5 + jitter.tolist())
    changes = [i for i, (a, b) in enumerate(pairwise(steps_of(story))) if a != b]
    assert len(changes) <= 8
    assert max(changes) < 50


def test_only_bad_channels_are_worth_a_floor_that_does_not_fit() -> None:
    """Where the floor takes 90 % of the hop, epochs with bad channels get it and the others are only encoded."""
    cost = Cost(0.1, 0.08)
    story = drive(Pace(cost, steps=50, floor=10, hop_s=HOP_S), cost, [1.0] * 30, bad=lambda i: i % 3 == 0)
    for i, step in enumerate(story):
        assert step.decision == (Decision("rebuild", 10) if i % 3 == 0 else Decision("pass"))


def test_epochs_that_waited_too_long_are_dropped() -> None:
    """Where the floor takes 2.5 hops and all epochs are bad, one of three is rebuilt and nobody waits for long."""
    cost = Cost(0.1, 0.24)
    story = drive(Pace(cost, steps=50, floor=10, hop_s=HOP_S), cost, [1.0] * 30, bad=lambda _: True)
    actions = [step.decision.action for step in story]
    assert actions == ["rebuild", "drop", "drop"] * 10
    assert max(step.late_s for step in story) <= cost.of(10) - HOP_S + 1e-9


def test_recovers_from_passing() -> None:
    """A machine too slow for the floor is found to be fast again by what encoding takes."""
    pace = Pace(FAST, steps=50, floor=5, hop_s=HOP_S)
    story = drive(pace, FAST, [20.0] * 30 + [1.0] * 10)
    passed = [step.decision == Decision("pass") for step in story[20:30]]
    assert sum(passed) >= len(passed) - 1  # one may be tried
    assert {step.decision for step in story[32:]} == {Decision("rebuild", 50)}


def test_recovers_where_passing_teaches_nothing() -> None:
    """Where what passes is not even encoded, the floor is tried once in a while, and all steps come back with it."""
    pace = Pace(FAST, steps=50, floor=5, hop_s=HOP_S)
    story = drive(pace, FAST, [20.0] * 15 + [1.0] * 40, encodes=False)
    assert {step.decision for step in story[15:20]} == {Decision("pass")}
    assert {step.decision for step in story[30:]} == {Decision("rebuild", 50)}


def test_recovers_from_passing_though_the_encoder_was_measured_wrongly() -> None:
    """Where encoding is thought to take no time, and so every pass to be slow, it still does not pass for ever."""
    pace = Pace(Cost(1e-6, 0.01), steps=50, floor=5, hop_s=HOP_S)
    story = drive(pace, FAST, [20.0] * 10 + [1.0] * 80)
    assert {step.decision for step in story[12:60]} == {Decision("pass")}
    assert {step.decision for step in story[75:]} == {Decision("rebuild", 50)}


@pytest.mark.parametrize("encodes", [True, False])
def test_trying_costs_little(encodes: bool) -> None:  # noqa: FBT001
    """Where the floor takes four hops and no epoch is worth it, what is tried costs less than a tenth of them."""
    cost = Cost(0.1, 0.39)
    story = drive(Pace(cost, steps=50, floor=10, hop_s=HOP_S), cost, [1.0] * 400, encodes=encodes)
    actions = [step.decision.action for step in story]
    assert 1 <= actions.count("rebuild") <= 10
    assert actions.count("drop") < 40


def test_encoder_that_does_not_keep_up_still_gets_its_turn() -> None:
    """Where even encoding takes two hops, every other epoch is encoded."""
    cost = Cost(2.0, 1.0)
    story = drive(Pace(cost, steps=50, floor=5, hop_s=HOP_S), cost, [1.0] * 10)
    assert [step.decision.action for step in story] == ["pass", "drop"] * 5


seconds = st.floats(1e-4, 10.0)
epochs = st.builds(Waiting, late_s=st.floats(0.0, 2.0), bad=st.booleans())
RANK = {"rebuild": 2, "pass": 1, "drop": 0}


@given(
    cost=st.builds(Cost, seconds, seconds),
    factors=st.tuples(st.floats(1.0, 5.0), st.floats(1.0, 5.0)),
    epoch=epochs,
    more_s=st.floats(0.0, 2.0),
)
def test_slower_or_later_never_gets_more(
    cost: Cost, factors: tuple[float, float], epoch: Waiting, more_s: float
) -> None:
    """Whoever needs more time for anything, or waited longer, gets no more steps and no better an action."""
    quick = Pace(cost, steps=50, floor=5, hop_s=HOP_S)
    slow = Pace(Cost(cost.encode_s * factors[0], cost.step_s * factors[1]), steps=50, floor=5, hop_s=HOP_S)
    more = quick.decide(late_s=epoch.late_s, bad=epoch.bad)
    less = slow.decide(late_s=epoch.late_s + more_s, bad=epoch.bad)
    assert RANK[more.action] >= RANK[less.action]
    assert more.steps >= less.steps


@given(took=st.lists(st.tuples(st.integers(0, 50), seconds), max_size=12), epoch=epochs)
def test_never_more_than_its_share(took: list[tuple[int, float]], epoch: Waiting) -> None:
    """Whatever was measured, waiting and pass fit into 80 % of the hop, but for the floor of an epoch in time."""
    pace = Pace(FAST, steps=50, floor=5, hop_s=HOP_S)
    for steps, took_s in took:
        pace.decide(late_s=0.0, bad=False)
        pace.took(steps, took_s)
    decision = pace.decide(late_s=epoch.late_s, bad=epoch.bad)
    assert (decision.steps > 0) == (decision.action == "rebuild")
    if decision.action == "rebuild":
        assert 5 <= decision.steps <= 50
        forced = decision.steps == 5 and epoch.late_s <= 0.2  # it has bad channels, or the floor is tried
        assert forced or epoch.late_s + pace.cost.of(decision.steps) <= 0.8 + 1e-9


def test_cost_follows_from_two_passes() -> None:
    """What the encoder and a step take is solved from two passes; a difference that is noise stays positive."""
    cost = Cost.between((1, 0.5), (5, 1.3))
    assert (cost.encode_s, cost.step_s) == pytest.approx((0.3, 0.2))
    assert cost.of(50) == pytest.approx(10.3)
    assert (cost.steps_within(1.0), cost.steps_within(0.2)) == (3, -1)
    noise = Cost.between((1, 0.5), (5, 0.4))
    assert noise.encode_s > 0
    assert noise.step_s > 0


@pytest.mark.parametrize("floor", [0, 51])
def test_floor_is_one_of_the_steps(floor: int) -> None:
    """A floor above the steps, or none at all, is refused with what to choose."""
    with pytest.raises(ConfigError, match="from 1 to 50"):
        Pace(FAST, steps=50, floor=floor, hop_s=HOP_S)
