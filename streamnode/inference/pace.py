"""How much of the sampler the next epoch can have, so that a machine keeps up with a stream; no torch.

What is given up, in this order, as the time for an epoch gets short:

    all steps > as many as fit > the floor, for epochs with bad channels only > epochs that have waited too long

An epoch is decided upon when its turn comes, by what passes have cost lately and by how long it has waited. What it
takes beyond its time, the next ones find as waiting, and pay back. What goes without the sampler tells little of it, or
nothing: where all do, one has the floor once in a while, lest a busy minute stay believed for ever.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from statistics import median
from typing import Literal, Self

from streamnode.errors import ConfigError

Action = Literal["rebuild", "pass", "drop"]

_SHARE = 0.8  # of the hop that a pass may take; the rest is for all else there is to do, and for surprises
_EASY = 0.7  # of the hop within which more steps must fit before they are taken, lest their number flutter
_RECENT = 3  # passes whose median says how fast the machine is: one hiccup among them does not count
_TRYING = 0.1  # of the time that the floor may take where it is only tried
_PASSES = 60  # after which it is tried whatever it is thought to take
_LEAST_S = 1e-6  # a difference of two times that comes out smaller is noise


@dataclass(frozen=True, slots=True)
class Cost:
    """What a pass takes, seconds.

    Attributes:
        encode_s: all but the sampler.
        step_s: each step of it.
    """

    encode_s: float
    step_s: float

    @classmethod
    def between(cls, few: tuple[int, float], more: tuple[int, float]) -> Self:
        """From two passes, each as its number of steps and what it took."""
        step_s = max((more[1] - few[1]) / (more[0] - few[0]), _LEAST_S)
        return cls(max(few[1] - few[0] * step_s, _LEAST_S), step_s)

    def of(self, steps: int) -> float:
        """A pass of so many steps."""
        return self.encode_s + steps * self.step_s

    def steps_within(self, seconds: float) -> int:
        """The most steps that fit; negative where not even the encoder does."""
        return math.floor((seconds - self.encode_s) / self.step_s)


@dataclass(frozen=True, slots=True)
class Decision:
    """What to do with an epoch.

    Attributes:
        action: `rebuild` runs the sampler if there is anything to rebuild. `pass` at most encodes: for the embedding,
            and to learn how fast the machine is. `drop` does nothing.
        steps: of the sampler; 0 unless it may run.
    """

    action: Action
    steps: int = 0


class Pace:
    """Decides for one epoch after the other.

    Args:
        cost: of a pass on this machine while nothing disturbs it, as measured when the model is warmed up.
        steps: of the sampler where there is time.
        floor: fewer steps are not worth having.
        hop_s: time there is for an epoch; where several streams share a machine, the share of each.

    Raises:
        ConfigError: the floor is not between 1 and the steps.
    """

    def __init__(self, cost: Cost, *, steps: int, floor: int, hop_s: float) -> None:
        if not 1 <= floor <= steps:
            raise ConfigError(f"a floor of {floor} for {steps} steps cannot be kept: choose one from 1 to {steps}")
        self._cost = cost
        self._full, self._floor = steps, floor
        self._hop_s = hop_s
        self._slowness: deque[float] = deque([1.0], maxlen=_RECENT)
        self._steps = 0
        self._passes = 0  # decided since the sampler ran

    @property
    def cost(self) -> Cost:
        """What a pass takes at present."""
        slowness = median(self._slowness)
        return Cost(slowness * self._cost.encode_s, slowness * self._cost.step_s)

    def took(self, steps: int, seconds: float) -> None:
        """Learn what a pass has taken.

        Args:
            steps: that it really had; 0 is one that only encoded. One that did not even do that teaches nothing.
            seconds: that it took.
        """
        if steps and self._passes:
            self._slowness.clear()  # what is known is old, or of the encoder alone
            self._passes = 0
        self._slowness.append(seconds / self._cost.of(steps))

    def decide(self, *, late_s: float, bad: bool) -> Decision:
        """What to do with the next epoch.

        Args:
            late_s: how long it has waited for its turn.
            bad: whether it has bad channels.
        """
        cost = self.cost
        self._steps = self._settled(cost)
        steps = min(self._steps, cost.steps_within(_SHARE * self._hop_s - late_s))
        if steps >= self._floor:
            return Decision("rebuild", steps)
        in_time = late_s <= (1 - _SHARE) * self._hop_s
        if in_time and (bad or self._tries(cost)):
            return Decision("rebuild", self._floor)
        if bad or not (in_time or late_s + cost.encode_s <= self._hop_s):
            return Decision("drop")
        self._passes += 1
        return Decision("pass")

    def _tries(self, cost: Cost) -> bool:
        """Whether the floor is tried on an epoch that is not worth it."""
        return self._passes >= min(cost.of(self._floor) / (_TRYING * self._hop_s), _PASSES)

    def _settled(self, cost: Cost) -> int:
        """Steps for epochs that did not wait, below the floor where it is too much: down at once, up with some room."""
        most, easily = (cost.steps_within(share * self._hop_s) for share in (_SHARE, _EASY))
        return min(self._full, most if most < self._steps else max(easily, self._steps))
