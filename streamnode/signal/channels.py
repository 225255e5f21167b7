"""Which channels a model sees: pick and reorder, re-reference, form bipolar pairs. Names are compared without case."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from difflib import get_close_matches
from typing import Literal

import numpy as np

from streamnode.errors import ContractError
from streamnode.montage import clean_name
from streamnode.types import Chunk, Montage, StreamInfo

# fmt: off
TUEG22 = (
    "Fp1-F7", "F7-T3", "T3-T5", "T5-O1", "Fp2-F8", "F8-T4", "T4-T6", "T6-O2", "T3-C3", "C3-Cz", "Cz-C4", "C4-T4",
    "Fp1-F3", "F3-C3", "C3-P3", "P3-O1", "Fp2-F4", "F4-C4", "C4-P4", "P4-O2", "A1-T3", "T4-A2",
)
# fmt: on
"""The double banana of the TUH EEG Corpus (montages 01_tcp_ar and 02_tcp_le), in the order LUNA was trained on."""

TUEG20 = TUEG22[:20]
"""The same without the ear electrodes (montages 03_tcp_ar_a and 04_tcp_le_a)."""

BIPOLAR_MONTAGES = {"TUEG22": TUEG22, "TUEG20": TUEG20}

_SAME_PLACE = {"t3": "t7", "t4": "t8", "t5": "p7", "t6": "p8", "t7": "t3", "t8": "t4", "p7": "t5", "p8": "t6"}


class Pick:
    """Keeps some channels, in the given order.

    Args:
        info: the incoming stream.
        ch_names: the channels to keep, in any spelling `clean_name` understands.

    Raises:
        ContractError: the stream lacks one of them, or one is named twice.
    """

    delay_s = 0.0
    settling_s = 0.0

    def __init__(self, info: StreamInfo, ch_names: Sequence[str]) -> None:
        self._columns = _columns(info, ch_names)
        if twice := [name for i, name in enumerate(ch_names) if self._columns[i] in self._columns[:i]]:
            raise ContractError(f"{', '.join(twice)} is picked more than once: name each channel once")
        names = tuple(info.ch_names[column] for column in self._columns)
        self.info = replace(info, montage=Montage(names, info.montage.ch_pos[self._columns]))
        self.label = f"pick {len(names)} of {info.n_chans} channels"

    def __call__(self, chunk: Chunk) -> Chunk:
        """Keep the picked columns, in the precision they come in."""
        return replace(chunk, info=self.info, data=chunk.data.take(self._columns, axis=1))

    def reset(self) -> None:
        """Nothing to forget."""


class Rereference:
    """Subtracts the mean of some channels from all; one that is not a number at a time does not count then.

    Args:
        info: the incoming stream.
        reference: `average` for the mean of all channels, or the channels whose mean is the new reference.

    Raises:
        ContractError: the stream lacks one of them.
    """

    delay_s = 0.0
    settling_s = 0.0

    def __init__(self, info: StreamInfo, reference: Literal["average"] | Sequence[str]) -> None:
        names = info.ch_names if reference == "average" else reference
        self.info = info
        self.label = "average reference" if reference == "average" else f"reference {', '.join(names)}"
        self._columns = _columns(info, names)

    def __call__(self, chunk: Chunk) -> Chunk:
        """Subtract the reference, in float64."""
        data = chunk.data.astype(np.float64)
        of_reference = data.take(self._columns, axis=1)
        if (counts := np.isfinite(of_reference)).all():
            mean = of_reference.mean(axis=1, keepdims=True)
        else:
            n_counting = np.maximum(counts.sum(axis=1, keepdims=True), 1)
            mean = np.where(counts, of_reference, 0.0).sum(axis=1, keepdims=True) / n_counting
        return replace(chunk, info=self.info, data=data - mean)

    def reset(self) -> None:
        """Nothing to forget."""


class Bipolar:
    """Forms differences of electrodes, first minus second; each pair sits at the mid-point of its two.

    Pairs are named by the electrodes as the stream spells them, by which `quality.carry` finds what is wrong with them.

    Args:
        info: the incoming stream.
        pairs: such as `Fp1-F7`, in any spelling `clean_name` understands.

    Raises:
        ContractError: the stream lacks an electrode, or a pair is not one.
    """

    delay_s = 0.0
    settling_s = 0.0

    def __init__(self, info: StreamInfo, pairs: Sequence[str]) -> None:
        cleaned = [clean_name(pair) for pair in pairs]
        if odd := [pair for pair in cleaned if pair.count("-") != 1]:
            raise ContractError(f"{', '.join(odd)} is not a pair of channels: write pairs such as Fp1-F7")
        columns = _columns(info, [name for pair in cleaned for name in pair.split("-")])
        self._first, self._second = columns[::2], columns[1::2]
        names = tuple(f"{info.ch_names[a]}-{info.ch_names[b]}" for a, b in zip(self._first, self._second, strict=True))
        ch_pos = info.montage.ch_pos
        self.info = replace(info, montage=Montage(names, (ch_pos[self._first] + ch_pos[self._second]) / 2))
        self.label = f"{len(names)} bipolar pairs"

    def __call__(self, chunk: Chunk) -> Chunk:
        """Subtract, in float64."""
        data = chunk.data.astype(np.float64)
        return replace(chunk, info=self.info, data=data.take(self._first, axis=1) - data.take(self._second, axis=1))

    def reset(self) -> None:
        """Nothing to forget."""


def _columns(info: StreamInfo, ch_names: Sequence[str]) -> list[int]:
    """Where each of the channels is. Raises `ContractError` naming those that are nowhere and what comes near."""
    known = {clean_name(name).casefold(): column for column, name in enumerate(info.ch_names)}
    wanted = [clean_name(name).casefold() for name in ch_names]
    lost = dict.fromkeys(name for name, key in zip(ch_names, wanted, strict=True) if key not in known)
    if lost:
        near = {known[key] for name in lost for key in _near(clean_name(name).casefold(), list(known))}
        offer = " or ".join(info.ch_names[column] for column in sorted(near)) or "one of " + ", ".join(info.ch_names)
        raise ContractError(f"stream {info.name!r} has no channel {', '.join(lost)}: did you mean {offer}?")
    return [known[key] for key in wanted]


def _near(name: str, known: list[str]) -> list[str]:
    """The 10-10 name of the same place (T3 is now T7), or what is spelled alike."""
    if _SAME_PLACE.get(name) in known:
        return [_SAME_PLACE[name]]
    return get_close_matches(name, known, n=2)
