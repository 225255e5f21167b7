"""How each family of models would take a montage: which channels, which not and why, and what to do about it.

Nothing here needs weights or runs a network; it asks the same tables by which one is bound to its channels.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from streamnode.errors import ContractError
from streamnode.models import eegdino, eegpt, luna
from streamnode.models.family import FAMILIES, Family
from streamnode.signal.chain import band
from streamnode.types import StreamInfo

_PLACES: Mapping[str, tuple[Sequence[str], Mapping[str, str]]] = {
    "eegdino": (eegdino.SLOTS, eegdino.ALIASES),
    "eegpt": (eegpt.VOCABULARY, eegpt.ALIASES),
}
"""The names that a family knows, and what it reads as one of them. The others go by position and take any name."""

_PLAIN = re.compile(r"[A-Za-z][A-Za-z0-9]*([-_. ][A-Za-z0-9]+)*")
_NOT_TEXT = {"null", "true", "false", "yes", "no", "on", "off", "y", "n"}
"""Words that YAML, or its older version, reads as something else."""


@dataclass(frozen=True, slots=True)
class Fit:
    """How a family would take the channels of a stream.

    Attributes:
        model: name of the family.
        n_chans: channels of the stream.
        used: those it can take, in their order.
        enough: whether these will do; an average reference needs two.
        read_as: those of them that it knows by another name, with that name.
        unknown: those whose name it does not know.
        unplaced: those whose position it would have to know.
        doubled: those whose place an earlier channel has taken.
        n_places: how many names it knows; 0 where it takes any.
        absent: those of them that no channel has.
        rate: why the sampling frequency will not do, in a sentence; empty where it will.
        notes: what else to know, a sentence each.
    """

    model: str
    n_chans: int
    used: tuple[str, ...]
    enough: bool
    read_as: dict[str, str]
    unknown: tuple[str, ...]
    unplaced: tuple[str, ...]
    doubled: tuple[str, ...]
    n_places: int
    absent: tuple[str, ...]
    rate: str
    notes: tuple[str, ...]

    @property
    def remedies(self) -> tuple[str, ...]:
        """What has to be done before the model takes this stream, a sentence each; empty where it takes it as it is."""
        remedies = (self.rate,) if self.rate else ()
        if not self.enough:
            usable = ", ".join(self.used) or "none"
            return (
                *remedies,
                f"it can use too few channels ({usable}): correct names or positions, or take another model",
            )
        if len(self.used) < self.n_chans:
            picks = ", ".join(map(_as_yaml, self.used))
            return (*remedies, f"leave out what it cannot take by signal: {{picks: [{picks}]}}")
        return remedies


def fit(info: StreamInfo) -> list[Fit]:
    """How each family would take a stream, as it comes from its source."""
    return [_fit(info, family) for family in FAMILIES.values()]


def _fit(info: StreamInfo, family: Family) -> Fit:
    spec = family.spec
    known, aliases = _PLACES.get(spec.name, ((), {}))
    unknown, unplaced, doubled = [], [], []
    taken: dict[str, str] = {}
    for name, position in zip(info.ch_names, info.montage.ch_pos, strict=True):
        place = aliases.get(name.upper(), name.upper())
        if known and place not in known:
            unknown.append(name)
        elif spec.needs_positions and not np.isfinite(position).all():
            unplaced.append(name)
        elif place in taken:
            doubled.append(name)
        else:
            taken[place] = name
    used = tuple(taken.values())
    return Fit(
        model=spec.name,
        n_chans=info.n_chans,
        used=used,
        enough=len(used) >= (2 if spec.reference == "average" else 1),
        read_as={name: place for place, name in taken.items() if place != name.upper()},
        unknown=tuple(unknown),
        unplaced=tuple(unplaced),
        doubled=tuple(doubled),
        n_places=len(known),
        absent=tuple(place for place in known if place not in taken),
        rate=_rate(info, family),
        notes=_notes(spec.name, used),
    )


def _as_yaml(name: str) -> str:
    """A name as it is written in a list of YAML: in quotes, unless every reader takes it for itself without."""
    if _PLAIN.fullmatch(name) and name.lower() not in _NOT_TEXT:
        return name
    return json.dumps(name, ensure_ascii=not name.isprintable())


def _rate(info: StreamInfo, family: Family) -> str:
    try:
        band(info, family.spec)
    except ContractError as error:
        return str(error)
    return ""


def _notes(model: str, used: Sequence[str]) -> tuple[str, ...]:
    if model == "luna":
        try:
            luna.vocabulary_rows(used, "strict")
        except ContractError as error:
            return (f"only the reconstruction goes by names, and {error}",)
    if model == "eegpt" and (untrained := [name for name in used if name.upper() in eegpt.UNTRAINED]):
        return (f"it never saw {', '.join(untrained)} in training: better left out",)
    return ()
