"""Which channels of a file are taken: those asked for, or all that are EEG by their labels."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from streamnode.errors import ConfigError, ContractError
from streamnode.montage import clean_name, without_prefix

_log = logging.getLogger(__name__)

_NOT_EEG = re.compile(
    r"[HV]?EOG|E[CKR]G|EMG|GSR|EDA|RESP|S[AP]O2|PLET|TEMP(?!OR)|ACC|STATUS|STI|TRIG|PHOTIC", re.IGNORECASE
)
"""Labels of other signals, which most formats cannot tell from EEG and readers therefore call EEG."""


@dataclass(frozen=True, slots=True)
class Labels:
    """What is asked of the channels of a file.

    Attributes:
        path: of the file, for messages.
        picks: channels to take, in this order, spelled in any way; without it all EEG channels.
        cap: one of `streamnode.montage.CAPS`, if the labels are a cap's own.
        rename: label in the file to the label it is read as.
    """

    path: Path
    picks: Sequence[str] | None
    cap: str | None
    rename: Mapping[str, str]

    def pick(self, labels: Sequence[str], is_eeg: Sequence[bool]) -> list[int]:
        """Indices of the picks, or of all EEG channels.

        Raises:
            ConfigError: a pick is no channel, or may be one of several.
            ContractError: without picks, there is no EEG.
        """
        labels = self.read_as(labels)
        if self.picks:
            return self._picked(self.picks, labels)
        keep = [i for i, label in enumerate(labels) if is_eeg[i] and not _NOT_EEG.match(without_prefix(label))]
        if not keep:
            found = ", ".join(labels) or "times"
            raise ContractError(f"{self.path} has no EEG channel (only {found}): name channels to pick")
        if len(keep) < len(labels):
            left_out = [label for i, label in enumerate(labels) if i not in keep]
            _log.info("%s: left out as not EEG: %s", self.path.name, ", ".join(left_out))
        return keep

    def read_as(self, labels: Sequence[str]) -> list[str]:
        """The labels after renaming. Raises `ConfigError` if one to rename is not there."""
        if absent := [label for label in self.rename if label not in labels]:
            raise ConfigError(f"{self.path} has no channel {', '.join(absent)} to rename: it has {', '.join(labels)}")
        return [self.rename.get(label, label) for label in labels]

    def _picked(self, picks: Sequence[str], labels: Sequence[str]) -> list[int]:
        names = [clean_name(label, self.cap) for label in labels]
        if absent := [pick for pick in picks if clean_name(pick, self.cap) not in names]:
            raise ConfigError(f"{self.path} has no channel {', '.join(absent)}: it has {', '.join(names)}")
        return [self._only(pick, labels, names) for pick in picks]

    def _only(self, pick: str, labels: Sequence[str], names: Sequence[str]) -> int:
        """Index of the channel spelled just like a pick, or else of the one of this name."""
        name = clean_name(pick, self.cap)
        exact = [i for i, label in enumerate(labels) if label == pick]
        found = exact or [i for i, other in enumerate(names) if other == name]
        if len(found) > 1:
            spellings = ", ".join(repr(labels[i]) for i in found)
            raise ConfigError(f"{self.path} has several channels {name} ({spellings}): pick one by its very spelling")
        return found[0]
