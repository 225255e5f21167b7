"""What an LSL stream says of its channels, as `columns` understands it."""

from __future__ import annotations

import logging

import pylsl

from streamnode.errors import ContractError
from streamnode.sources.columns import Column, columns_of

log = logging.getLogger(__name__)


def _columns(full: pylsl.StreamInfo) -> list[Column]:
    """A column for each channel of the stream, however much of its description is missing."""
    described: list[dict[str, str]] = []
    channel = full.desc().child("channels").child("channel")
    while not channel.empty():
        place = channel.child("location")
        of_channel = {key: channel.child_value(key) for key in ("label", "type", "unit")}
        described.append(of_channel | {axis: place.child_value(axis) for axis in "XYZ"})
        channel = channel.next_sibling("channel")
    return columns_of(described, full.channel_count())


def eeg_columns(full: pylsl.StreamInfo) -> list[Column]:
    """The columns that are EEG or do not say. Raises `ContractError` if there are none."""
    columns = _columns(full)
    eeg = [c for c in columns if c.is_eeg]
    if not eeg:
        raise ContractError(f"LSL stream {full.name()!r} declares no channel of type EEG: choose another stream")
    if left_out := [f"{c.label} ({c.kind})" for c in columns if not c.is_eeg]:
        log.info("LSL stream %r: left out, not EEG: %s", full.name(), ", ".join(left_out))
    return eeg
