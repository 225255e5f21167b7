"""Names and places of electrodes: spells labels as the 10-05 system does and puts them on a head.

Positions are those of MNE-Python's `standard_1005` template in its head frame, as `Raw.set_montage` gives them, so no
MNE is needed at run time. Labels of caps that number their electrodes (BioSemi's A1, EGI's E1) mean nothing until the
cap is declared: A1 is otherwise the left ear.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources

import numpy as np
from numpy.typing import ArrayLike

from streamnode.errors import ConfigError, ContractError
from streamnode.types import Float64Array, Montage

# Template frame (metres) to head frame: the rigid motion that MNE derives from fsaverage's nasion and ears.
_ROTATION = np.array(
    [
        [0.9999936819076538, 0.003551873844116926, 0.00020204810425639153],
        [-0.003557568648830056, 0.9983891248703003, 0.0566258579492569],
        [-5.947367753833532e-07, -0.05662621930241585, 0.9983954429626465],
    ]
)
_TRANSLATION = np.array([-0.0017627249525299085, 0.03109435042779479, 0.039597249076132754])

_SAME_PLACE = {"CB1": "POO7", "CB2": "POO8", "O9": "I1", "O10": "I2"}
"""What 10-05 calls otherwise: the cerebellar electrodes of Neuroscan caps (the SEED data sets), two of actiCAP's."""

_NAMED_CAPS = {
    "biosemi16": "Fp1 Fp2 F4 Fz F3 T7 C3 Cz C4 T8 P4 Pz P3 O1 Oz O2",
    "biosemi32": (
        "Fp1 AF3 F7 F3 FC1 FC5 T7 C3 CP1 CP5 P7 P3 Pz PO3 O1 Oz O2 PO4 P4 P8 CP6 CP2 C4 T8 FC6 FC2 F4 F8 AF4 Fp2 Fz Cz"
    ),
    "biosemi64": (
        "Fp1 AF7 AF3 F1 F3 F5 F7 FT7 FC5 FC3 FC1 C1 C3 C5 T7 TP7 CP5 CP3 CP1 P1 P3 P5 P7 P9 PO7 PO3 O1 Iz Oz POz Pz "
        "CPz Fpz Fp2 AF8 AF4 AFz Fz F2 F4 F6 F8 FT8 FC6 FC4 FC2 FCz Cz C2 C4 C6 T8 TP8 CP6 CP4 CP2 P2 P4 P6 P8 P10 PO8 "
        "PO4 O2"
    ),
}
"""BioSemi's caps after the 10-20 and 10-10 systems, in the order A1 ... A32, B1 ... B32."""

CAPS = (*_NAMED_CAPS, "biosemi128", "biosemi160", "biosemi256", "egi32", "egi64", "egi128", "egi256")
"""Caps that can be declared; `egi` are the HydroCel nets."""

_DASHES = re.compile("[\u2010-\u2015\u2212\ufe58\ufe63\uff0d]")
_PREFIX = re.compile(r"^(EEG|POL)[\s_.:-]*", re.IGNORECASE)
_REFERENCE = re.compile(
    r"[\s_/-]+(REF\d?|LER?|AVG?|AR|CAR|AA|ORG|LM|CS2|M[12]|M1\+?M2|A1\+?A2)(?=(-\d+)?$)", re.IGNORECASE
)


@dataclass(frozen=True, slots=True)
class Coverage:
    """How much of a montage is known; `str()` is one line for the log.

    Attributes:
        n_placed: channels with a position.
        n_total: channels.
        renamed: labels and the names they were read as, where these differ.
        unknown: names of the channels without a position.
        unnamed: names that are no electrode's, of channels whose position the stream gave.
    """

    n_placed: int
    n_total: int
    renamed: tuple[tuple[str, str], ...]
    unknown: tuple[str, ...]
    unnamed: tuple[str, ...]

    def __str__(self) -> str:
        unknown = f"; without: {some(self.unknown)}" if self.unknown else ""
        unnamed = f"; known by position alone: {some(self.unnamed)}" if self.unnamed else ""
        renamed = f"; read as: {some([f'{label!r} = {name}' for label, name in self.renamed])}" if self.renamed else ""
        return f"{self.n_placed} of {self.n_total} channels have a position{unknown}{unnamed}{renamed}"


def coverage(montage: Montage, labels: Sequence[str] | None = None, cap: str | None = None) -> Coverage:
    """What is known of a montage.

    Args:
        montage: as `make_montage` made it.
        labels: what it was made of; without them nothing is reported as renamed.
        cap: the cap that was declared for it.
    """
    placed = {name: bool(np.isfinite(xyz).all()) for name, xyz in zip(montage.ch_names, montage.ch_pos, strict=True)}
    pairs = zip(montage.ch_names if labels is None else labels, montage.ch_names, strict=True)
    return Coverage(
        n_placed=sum(placed.values()),
        n_total=montage.n_chans,
        renamed=tuple((label, name) for label, name in pairs if label != name),
        unknown=tuple(name for name in placed if not placed[name]),
        unnamed=tuple(name for name in placed if placed[name] and not _parse(name, cap)[0]),
    )


def some(words: Sequence[str], at_most: int = 8) -> str:
    """The first of some words, for a message that is still one line when there are hundreds."""
    more = f" and {len(words) - at_most} more" if len(words) > at_most else ""
    return ", ".join(words[:at_most]) + more


def clean_name(label: str, cap: str | None = None) -> str:
    """Spell a label as the 10-05 system does.

    `Fc5.` becomes `FC5`, `EEG FP1-REF` and `Fp1-M2` become `Fp1`, `FP1 - F7` becomes `Fp1-F7`. A pair with an ear, such
    as `T4-A2`, is a pair. T3, T4, T5, T6 stay distinct from T7, T8, P7, P8: they are the same places, but models know
    them as different channels. The number that MNE-Python puts behind duplicates stays: `T8-P8-1`.

    Args:
        label: as the amplifier or the file spells it.
        cap: one of `CAPS`, whose labels win; a BioSemi 64's `A1` is `Fp1`, an EGI 128's `EEG 001` is `E1`.

    Returns:
        The standard spelling; a label that names no electrode, or no pair of them, comes back trimmed.
    """
    electrodes, number = _parse(label, cap)
    return "-".join(electrodes) + number if electrodes else label.strip()


def without_prefix(label: str) -> str:
    """A label without the `EEG` or `POL` that many files put in front of all: `POL EKG1` is `EKG1`."""
    return _PREFIX.sub("", _DASHES.sub("-", label.strip()))


def position(name: str, cap: str | None = None) -> Float64Array:
    """Where an electrode sits, or the mid-point of a bipolar pair `A-B`.

    Returns:
        `(3,)` metres in the head frame; NaN when the name is unknown.
    """
    electrodes, _ = _parse(name, cap)
    if not electrodes:
        return np.full(3, np.nan)
    middle: Float64Array = np.mean([_places(cap)[_SAME_PLACE.get(name, name)] for name in electrodes], axis=0)
    return middle


def make_montage(labels: Sequence[str], ch_pos: ArrayLike | None = None, cap: str | None = None) -> Montage:
    """Clean the labels of some channels and place them.

    Args:
        labels: as the amplifier or the file spells them; an empty one becomes `ch` and its number, from 1.
        ch_pos: `(n_chans, 3)` metres in the head frame, which win over the template; rows with a NaN are looked up.
        cap: one of `CAPS`, if the labels are a cap's own. On caps of 128 and more they stay as names, which only the
            position tells from others: a BioSemi 128's `A1` is its vertex.

    Returns:
        The montage; a channel that neither has a place is at NaN.

    Raises:
        ContractError: two labels name the same channel (which one would a model get?), or `ch_pos` is not one row of
            three per label.
        ConfigError: there is no such cap.
    """
    names = tuple(clean_name(label, cap) or f"ch{number}" for number, label in enumerate(labels, start=1))
    _refuse_duplicates(labels, names)
    looked_up = np.array([position(label, cap) for label in labels]).reshape(-1, 3)
    if ch_pos is None:
        return Montage(names, looked_up)
    given = np.asarray(ch_pos, dtype=np.float64)
    if given.shape != looked_up.shape:
        raise ContractError(
            f"positions of {len(names)} channels are an array of shape {looked_up.shape}, not {given.shape}: "
            "give x, y, z in metres for each channel, NaN where unknown"
        )
    return Montage(names, np.where(np.isfinite(given).all(axis=1, keepdims=True), given, looked_up))


def electrodes_to_add(labels: Sequence[str]) -> Montage:
    """Channels that nobody records, by the names of their electrodes: a model can make up only what has a place.

    Raises:
        ConfigError: a label names no electrode of the 10-05 system.
        ContractError: two labels name the same one.
    """
    montage = make_montage(labels)
    if lost := coverage(montage).unknown:
        raise ConfigError(f"the 10-05 system has no {', '.join(lost)} to add: use its names, such as Cz or FCz")
    return montage


def _refuse_duplicates(labels: Sequence[str], names: tuple[str, ...]) -> None:
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        spellings = [repr(label) for label, name in zip(labels, names, strict=True) if name in twice]
        raise ContractError(
            f"more than one channel is {some(twice)} (labelled {some(spellings)}): rename or drop all but one"
        )


def _parse(label: str, cap: str | None) -> tuple[list[str], str]:
    """The electrode or the two that a label names, and the number of a duplicate; nothing if it names no electrode."""
    bare = _REFERENCE.sub("", without_prefix(label).rstrip("."))
    *parts, last = re.sub(r"[\s_]", "", bare).upper().split("-")
    number = f"-{last}" if parts and last.isdecimal() else ""
    parts = parts if number else [*parts, last]
    spelling = _spelling(cap)
    known = len(parts) <= 2 and all(part in spelling for part in parts)
    return ([spelling[part] for part in parts], number) if known else ([], "")


@cache
def _places(cap: str | None) -> dict[str, Float64Array]:
    """Where every electrode sits, by its standard name."""
    if cap is None:
        return {name: _ROTATION @ xyz + _TRANSLATION for (name,), xyz in _rows("colin27_1005.txt")}
    return _places(None) | {name: xyz for (of_cap, name), xyz in _rows("caps.txt") if of_cap == cap}


@cache
def _spelling(cap: str | None) -> dict[str, str]:
    """Standard name of every electrode, by its upper-case spellings."""
    if cap is None:
        return {name.upper(): name for name in (*_places(None), *_SAME_PLACE)}
    if cap not in CAPS:
        raise ConfigError(f"there is no cap {cap!r}: choose one of {', '.join(CAPS)}")
    named = _NAMED_CAPS.get(cap, "").split()
    own = {f"{'AB'[index // 32]}{index % 32 + 1}": name for index, name in enumerate(named)}
    if not named:
        own = {name: name for (of_cap, name), _ in _rows("caps.txt") if of_cap == cap}
    if cap.startswith("egi"):
        own |= {f"E{len(own)}": "Cz", "VREF": "Cz"}  # the reference electrode has the number after the last
    return _spelling(None) | {variant: name for label, name in own.items() for variant in _variants(label, cap)}


def _variants(label: str, cap: str) -> Iterator[str]:
    """`A1`, `A01`, `A001`; for EGI, whose letter all electrodes share, also `1`, `01`, `001`."""
    letter, number = label[0], label[1:]
    if not number.isdecimal():
        yield label.upper()
        return
    for prefix in (letter, "") if cap.startswith("egi") else (letter,):
        yield from (f"{prefix}{int(number):0{width}}" for width in (1, 2, 3))


@cache
def _rows(table: str) -> list[tuple[list[str], Float64Array]]:
    """The rows of a table: words, and metres."""
    lines = resources.files("streamnode").joinpath(table).read_text("utf-8").splitlines()
    rows = [line.split() for line in lines if not line.startswith("#")]
    return [(words[:-3], np.array(words[-3:], dtype=np.float64) / 1000) for words in rows]
