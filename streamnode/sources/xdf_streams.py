"""The streams of an XDF file as pyxdf hands them on.

Descriptions are nested dictionaries, in which an element that is empty is None, and one that holds text is that text,
whatever it should have held.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from streamnode.errors import ConfigError, ContractError
from streamnode.sources.columns import Column, columns_of
from streamnode.types import Float64Array


def the_eeg(path: Path, streams: Sequence[Any]) -> Any:
    """The one stream of EEG that has samples.

    Raises:
        ContractError: there is none.
        ConfigError: there are several, or its samples have no times.
    """
    found = [s for s in streams if _text(s["info"], "type").upper() == "EEG" and len(s["time_stamps"])]
    if not found:
        raise ContractError(f"{path} has no stream of type EEG with samples: choose another recording")
    if len(found) > 1:
        names = ", ".join(_text(stream["info"], "name") or "one without a name" for stream in found)
        raise ConfigError(f"{path} has several EEG streams ({names}): save the one to play as a file of its own")
    if not _tell_time(np.asarray(found[0]["time_stamps"])):
        raise ConfigError(f"{path} has EEG whose stamps tell no time: only samples with times can be played")
    return found[0]


def _tell_time(stamps: Float64Array) -> bool:
    return bool(np.isfinite(stamps).all()) and (len(stamps) == 1 or bool((np.diff(stamps) > 0).any()))


def described_columns(info: Mapping[str, Any]) -> list[Column]:
    """The channels of a stream as it describes them, just as if it were live."""
    channels = _children(_child(_child(info, "desc"), "channels"), "channel")
    described = [
        {key: _text(channel, key) for key in ("label", "type", "unit")}
        | {axis: _text(_child(channel, "location"), axis) for axis in "XYZ"}
        for channel in channels
    ]
    return columns_of(described, int(info["channel_count"][0]))


def markers(streams: Sequence[Any]) -> list[tuple[float, str]]:
    """Time and text of all that is in the streams of text."""
    return [
        (float(t), str(label[0]))
        for stream in streams
        if _text(stream["info"], "channel_format") == "string"
        for t, label in zip(stream["time_stamps"], stream["time_series"], strict=True)
    ]


def _children(element: Mapping[str, Any], name: str) -> list[Mapping[str, Any]]:
    """All children of this name; those that are empty or hold mere text have no children themselves."""
    return [child if isinstance(child, Mapping) else {} for child in element.get(name, [])]


def _child(element: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    return next(iter(_children(element, name)), {})


def _text(element: Mapping[str, Any], name: str) -> str:
    """The text of the first child of this name; empty where there is none."""
    first = next(iter(element.get(name, [])), None)
    return first if isinstance(first, str) else ""
