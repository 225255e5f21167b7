"""Regenerate the position tables of `streamnode` from MNE-Python's templates (needs `streamnode[files]`)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import mne

HEADER = """\
# The 10-05 system on the Colin27 head, by Robert Oostenveld: FieldTrip's and MNE-Python's standard_1005
# (colin27_1005 from MNE 1.13 on). Template frame, millimetres: name, x right, y front, z up.
# Made by tools/make_montage.py.
"""
TABLE = Path(__file__).parents[1] / "streamnode" / "colin27_1005.txt"

CAPS_HEADER = """\
# Caps whose electrodes have names of their own, from MNE-Python's built-in montages: BioSemi (biosemi128 ...) and
# EGI's HydroCel nets (GSN-HydroCel-129 ...). Head frame, millimetres: cap, name, x right, y front, z up.
# Made by tools/make_montage.py.
"""
CAPS = {
    "biosemi128": "biosemi128",
    "biosemi160": "biosemi160",
    "biosemi256": "biosemi256",
    "egi32": "GSN-HydroCel-32",
    "egi64": "GSN-HydroCel-65_1.0",
    "egi128": "GSN-HydroCel-129",
    "egi256": "GSN-HydroCel-257",
}
CAPS_TABLE = TABLE.with_name("caps.txt")


def render() -> str:
    """The text of the table."""
    name = "colin27_1005" if "colin27_1005" in mne.channels.get_builtin_montages() else "standard_1005"
    positions = mne.channels.make_standard_montage(name).get_positions()["ch_pos"]
    rows = (f"{label} " + " ".join(f"{1000 * value:.4f}" for value in xyz) for label, xyz in positions.items())
    return HEADER + "\n".join(rows) + "\n"


def render_caps() -> str:
    """The text of the table of caps."""
    return CAPS_HEADER + "\n".join(row for cap, template in CAPS.items() for row in _rows(cap, template)) + "\n"


def _rows(cap: str, template: str) -> Iterator[str]:
    montage = mne.channels.make_standard_montage(template)
    info = mne.create_info(montage.ch_names, 1000.0, "eeg").set_montage(montage)
    for name, channel in zip(montage.ch_names, info["chs"], strict=True):
        yield f"{cap} {name} " + " ".join(f"{round(1000 * value, 4) + 0.0:.4f}" for value in channel["loc"][:3])


if __name__ == "__main__":
    TABLE.write_text(render(), encoding="utf-8")
    CAPS_TABLE.write_text(render_caps(), encoding="utf-8")
    print(f"wrote {TABLE} and {CAPS_TABLE}")
