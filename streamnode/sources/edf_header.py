"""The header of EDF and BDF files: what MNE-Python does not hand on of rates and units."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Self

ANNOTATIONS = {"EDF Annotations": 2, "BDF Annotations": 3}
"""Labels of the signals that tell times, and bytes a sample in such a file."""

_WIDTHS = {"label": 16, "unit": 8, "n_times": 8}
_OFFSETS = {"label": 0, "unit": 96, "n_times": 216}  # where each column of the table of signals begins, per signal


@dataclass(frozen=True, slots=True)
class EdfHeader:
    """What the header of a file says.

    Attributes:
        n_bytes: of the header.
        is_interrupted: whether the records need not follow each other (EDF+, section 2.2.4).
        record_s: seconds in a record.
        labels: of all signals, those of annotations among them.
        units: as they are spelled.
        n_times: samples in a record.
    """

    n_bytes: int
    is_interrupted: bool
    record_s: float
    labels: tuple[str, ...]
    units: tuple[str, ...]
    n_times: tuple[int, ...]

    @classmethod
    def of(cls, path: Path) -> Self:
        """Read it. Raises `ValueError` if it is none, or tells of interruptions that nothing times."""
        with path.open("rb") as file:
            header = file.read(256)
            n_bytes, n_signals = int(_text(header[184:192])), int(_text(header[252:256]))
            table = file.read(n_bytes - 256)

        def column(name: str) -> tuple[str, ...]:
            first, width = _OFFSETS[name] * n_signals, _WIDTHS[name]
            return tuple(_text(table[first + width * i :][:width]) for i in range(n_signals))

        is_interrupted, labels = header[192:197] in (b"EDF+D", b"BDF+D"), column("label")
        if is_interrupted and not ANNOTATIONS.keys() & labels:
            raise ValueError("its records were interrupted, and no signal says when each was recorded")
        record_s = float(_text(header[244:252])) or 1.0  # as MNE-Python takes it
        n_times = tuple(int(number) for number in column("n_times"))
        return cls(n_bytes, is_interrupted, record_s, labels, column("unit"), n_times)

    @property
    def signals(self) -> list[int]:
        """Indices of the signals that hold samples."""
        return [i for i, label in enumerate(self.labels) if label not in ANNOTATIONS]

    def sfreq(self, signal: int) -> float:
        """Of a signal, Hz."""
        return self.n_times[signal] / self.record_s


def _text(field: bytes) -> str:
    """The text of a field: ASCII by the standard, Latin-1 or UTF-8 where a micro sign is."""
    content = field.split(b"\0")[0].strip()
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        return content.decode("latin-1")
