"""What a source says of its channels: which are EEG, in which unit, where they sit; alike for live streams and files.

Descriptions in the wild lack labels, units and positions, or spell them in their own ways. What is missing is filled
in with a word in the log; what is ambiguous becomes unknown, never a guess.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from streamnode.montage import some
from streamnode.types import Float64Array

log = logging.getLogger(__name__)

EEG_SFREQ = (1.0, 100_000.0)
"""Rates of EEG amplifiers, Hz, with room; beyond, somebody has mistaken a unit."""

# Spellings without plural and with "u" for micro; the numbers are powers of ten, as liblsl's examples write them.
_MICROVOLTS = {
    **dict.fromkeys(("uv", "uvolt", "microv", "microvolt", "microvol", "-6"), 1.0),  # EDF has room for 8 letters
    **dict.fromkeys(("nv", "nvolt", "nanov", "nanovolt", "-9"), 1e-3),
    **dict.fromkeys(("mv", "mvolt", "milliv", "millivolt", "millivol", "-3"), 1e3),
    **dict.fromkeys(("v", "volt", "0"), 1e6),
}
_MICRO = ("\N{MICRO SIGN}", "\N{GREEK SMALL LETTER MU}", "\x83\xea")  # the last is Shift-JIS in lower case


@dataclass(frozen=True, slots=True)
class Column:
    """One channel as the source describes it; position in metres or millimetres, NaN where not given."""

    index: int
    label: str
    kind: str
    unit: str
    position: tuple[float, ...]

    @property
    def is_eeg(self) -> bool:
        """Whether it is EEG, or does not say."""
        return self.kind in {"", "eeg"}


def columns_of(described: Sequence[Mapping[str, str]], n_chans: int) -> list[Column]:
    """A column for each channel of a stream, however much of its description is missing, or too much.

    Args:
        described: what each channel has for `label`, `type`, `unit`, and for its place `X`, `Y` and `Z`.
        n_chans: how many there are.
    """
    filled = [*described[:n_chans], *({} for _ in range(n_chans - len(described)))]
    return [
        Column(
            index=i,
            label=channel.get("label", "").strip() or f"ch{i + 1}",
            kind=channel.get("type", "").strip().lower(),
            unit=channel.get("unit", "").strip(),
            position=_position(channel),
        )
        for i, channel in enumerate(filled)
    ]


def _position(channel: Mapping[str, str]) -> tuple[float, ...]:
    try:
        place = tuple(float(channel.get(axis, "")) for axis in "XYZ")
    except ValueError:
        place = (0.0, 0.0, 0.0)
    return place if any(place) else (np.nan, np.nan, np.nan)  # many senders write zeros for "unknown"


def microvolts(unit: str) -> float | None:
    """How many there are in a unit, however it is spelled; None where that is no unit of voltage."""
    plain = unit.strip().lower()
    for micro in _MICRO:
        plain = plain.replace(micro, "u")
    return _MICROVOLTS.get(plain.removesuffix("s"))


def to_microvolts(source: str, labels: Sequence[str], units: Sequence[str]) -> Float64Array:
    """The factor for each channel; a unit that is missing or unknown is taken for microvolts, with a warning."""
    factors = [microvolts(unit) for unit in units]
    if doubtful := [f"{labels[i]} ({units[i]!r})" for i, factor in enumerate(factors) if factor is None]:
        log.warning("%s: no known unit, taken as microvolts: %s", source, some(doubtful))
    return np.array([1.0 if factor is None else factor for factor in factors])


def in_metres(positions: Float64Array) -> Float64Array:
    """Positions `(n_chans, 3)` as sent (X right, Y front, Z up; millimetres by the XDF convention) in metres.

    Some senders write metres. The radius of a head tells which; what is neither (a unit sphere) becomes unknown.
    """
    radii = np.linalg.norm(positions, axis=1)
    known = np.isfinite(radii)
    radius = float(np.median(radii[known])) if known.any() else np.nan
    if 30 <= radius <= 300:
        return positions * 1e-3
    return positions if 0.03 <= radius <= 0.3 else np.full_like(positions, np.nan)
