"""What an LSL stream says of its channels: which are EEG, in which unit, where they sit.

Descriptions in the wild lack labels, units and positions, or spell them in their own ways. What is missing is filled
in with a word in the log; what is ambiguous becomes unknown, never a guess.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np
import pylsl

from streamnode.errors import ContractError
from streamnode.types import Float64Array

log = logging.getLogger(__name__)

# Spellings without plural and with "u" for micro; the numbers are powers of ten, as `set_channel_units` takes them.
_MICROVOLTS = {
    **dict.fromkeys(("uv", "microvolt", "-6"), 1.0),
    **dict.fromkeys(("nv", "nanovolt", "-9"), 1e-3),
    **dict.fromkeys(("mv", "millivolt", "-3"), 1e3),
    **dict.fromkeys(("v", "volt", "0"), 1e6),
}


@dataclass(frozen=True, slots=True)
class Column:
    """One channel as the source describes it; position in metres or millimetres, NaN where not given."""

    index: int
    label: str
    kind: str
    unit: str
    position: tuple[float, ...]


def _columns(full: pylsl.StreamInfo) -> list[Column]:
    """A column for each channel of the stream, however much of its description is missing."""
    described: list[pylsl.info.XMLElement] = []
    channel = full.desc().child("channels").child("channel")
    while not channel.empty():
        described.append(channel)
        channel = channel.next_sibling("channel")
    described += [channel] * (full.channel_count() - len(described))  # the empty element answers "" to everything
    return [
        Column(
            index=i,
            label=channel.child_value("label").strip() or f"ch{i + 1}",
            kind=channel.child_value("type").strip().lower(),
            unit=channel.child_value("unit").strip(),
            position=_position(channel.child("location")),
        )
        for i, channel in enumerate(described[: full.channel_count()])
    ]


def _position(location: pylsl.info.XMLElement) -> tuple[float, ...]:
    try:
        place = tuple(float(location.child_value(axis)) for axis in "XYZ")
    except ValueError:
        place = (0.0, 0.0, 0.0)
    return place if any(place) else (np.nan, np.nan, np.nan)  # many senders write zeros for "unknown"


def eeg_columns(full: pylsl.StreamInfo) -> list[Column]:
    """The columns that are EEG or do not say. Raises `ContractError` if there are none."""
    columns = _columns(full)
    eeg = [c for c in columns if c.kind in {"", "eeg"}]
    if not eeg:
        raise ContractError(f"LSL stream {full.name()!r} declares no channel of type EEG: choose another stream")
    if left_out := [f"{c.label} ({c.kind})" for c in columns if c not in eeg]:
        log.info("LSL stream %r: left out, not EEG: %s", full.name(), ", ".join(left_out))
    return eeg


def to_microvolts(name: str, columns: list[Column]) -> Float64Array:
    """The factor for each column; a unit that is missing or unknown is taken for microvolts, with a warning."""
    plain = [c.unit.lower().replace("\N{MICRO SIGN}", "u").replace("\N{GREEK SMALL LETTER MU}", "u") for c in columns]
    factors = [_MICROVOLTS.get(unit.removesuffix("s")) for unit in plain]
    if doubtful := [f"{c.label} ({c.unit!r})" for c, f in zip(columns, factors, strict=True) if f is None]:
        log.warning("LSL stream %r: no known unit, taken as microvolts: %s", name, ", ".join(doubtful))
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
