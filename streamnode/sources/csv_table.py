"""CSV files of samples: a line of names, then for every sample a line of numbers, separated by commas.

Blank lines and lines that start with `#` are skipped, there is no quoting. Nothing is guessed where a number is
missing: an empty cell, or one that holds no finite number, is an error wherever its column is asked for.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from streamnode.errors import ConfigError
from streamnode.sources.columns import EEG_SFREQ
from streamnode.types import Float64Array

_log = logging.getLogger(__name__)

_SEPARATORS = {";": "semicolons", "\t": "tabs"}  # what else programs write, and mean by CSV
_SOME = 1000  # lines, which have shown how times are rounded
_ROUNDED = 1.01  # units that a step may be off by rounding its ends, and a hair for the rounding of floats
_COARSE = 0.4  # samples to a unit, from which on a gap shows to the sample only between lines through the times ...
_VAGUE = 4  # ... and from which on not even so
_CERTAIN = 3  # units to a step, for which there must be a gap: rounding explains one, and a hiccup another
_MOST, _SAME = 0.99, 0.01  # of the steps; the part by which a clock may be off


@dataclass(frozen=True, slots=True)
class CsvTable:
    """The lines that hold samples; each has a field for every name.

    Attributes:
        path: of the file.
        names: of the columns.
        lines: one a sample.
        numbers: where in the file each line stands, from 1.
    """

    path: Path
    names: Sequence[str]
    lines: Sequence[str]
    numbers: Sequence[int]

    @classmethod
    def of(cls, path: Path, text: str, names: Sequence[str] | None = None) -> Self:
        """The table in the text of a file.

        Args:
            path: for messages.
            text: what the file holds.
            names: of the columns, where the file does not begin with them.

        Raises:
            ConfigError: there are no samples, a line has too many fields or too few, or something other than commas is
                between them.
        """
        numbered = [
            (number, line)
            for number, line in enumerate(text.splitlines(), 1)
            if line.strip() and not line.lstrip().startswith("#")
        ]
        if numbered and (other := _separator(numbered[0][1])):
            raise ConfigError(f"{path} separates its fields by {other}: export it with commas between them")
        if names is None and numbered:
            names = [name.strip() for name in numbered.pop(0)[1].split(",")]
        if names is None or not numbered:
            raise ConfigError(f"{path} has no samples: give a line of names and then a line of numbers per sample")
        for number, line in numbered:
            if (n_fields := line.count(",") + 1) != len(names):
                raise ConfigError(f"{path}:{number} has {n_fields} fields, not one for each of {len(names)} columns")
        numbers, lines = zip(*numbered, strict=True)
        return cls(path, names, lines, numbers)

    def time_column(self, wanted: str | None) -> int | None:
        """Index of the column that holds the times.

        Args:
            wanted: its name, or `none`; without it the first one named for time, else the first column if it only
                rises, which EEG does not.

        Raises:
            ConfigError: there is no column of this name.
        """
        lower = [name.lower() for name in self.names]
        if wanted is None:
            named = (i for i, name in enumerate(lower) if "time" in name or name in {"t", "ts"})
            return next(named, 0 if self._first_rises() else None)
        if wanted.lower() in lower:
            return lower.index(wanted.lower())
        if wanted.lower() == "none":
            return None
        raise ConfigError(
            f"{self.path} has no column {wanted!r} of times: name one of {', '.join(self.names)}, or none"
        )

    def values(self, columns: Sequence[int]) -> Float64Array:
        """`(n_times, len(columns))`. Raises `ConfigError` with the place of the first that is not a finite number."""
        values = self._parsed(columns)
        if values is None or not np.isfinite(values).all():
            raise ConfigError(self._first_fault(columns))
        return values

    def sfreq(self, time: int | None) -> float:
        """Rate of the steps that are no gaps, Hz; a whole number if rounding or a sample in all may be the difference.

        Raises:
            ConfigError: there is no column of times, they do not rise, are too few for how they are rounded, or tell a
                rate that no EEG has.
        """
        times = np.empty(0) if time is None else self.values([time])[:, 0]
        steps = np.diff(times)
        usual = self._usual(steps, time)
        if not steps[usual].sum() > 0:
            raise ConfigError(f"{self.path} has no rising times to take a sampling frequency from: give sfreq")
        sfreq, unit = 1 / float(np.mean(steps[usual])), self._unit(time)
        is_rounded = np.ptp(steps[usual]) > unit / 2
        doubt = unit * (1 + np.count_nonzero(~usual)) / steps[usual].sum() if is_rounded else 0.0  # of all it takes
        if doubt * sfreq >= 0.5:  # which whole number it is would be a guess
            raise ConfigError(f"{self.path} has times too coarse to take a sampling frequency from: give sfreq")
        if abs(round(sfreq) - sfreq) < sfreq * max(1 / len(times), doubt):
            sfreq = float(round(sfreq))
        if not EEG_SFREQ[0] <= sfreq <= EEG_SFREQ[1]:
            raise ConfigError(
                f"{self.path} has times that tell {sfreq:g} samples a second, which no EEG has: "
                "give them in seconds, or give sfreq"
            )
        return sfreq

    def stamps(self, time: int | None, sfreq: float) -> Float64Array | None:
        """`(n_times,)` seconds, by which a gap shows; None where there are none, or they tell of none for certain.

        Of a gap that is certain though its place is not there is a warning.

        Args:
            time: index of the column that holds the times.
            sfreq: Hz; all steps but a few must be of about its period, else the times are of bursts, or no seconds.
        """
        times = None if time is None else self._parsed([time])
        if times is None or not np.isfinite(times).all():
            return None
        steps, coarseness = np.diff(times[:, 0]), self._unit(time) * sfreq
        usual = self._usual(steps, time)
        is_sound = usual.any() and usual.mean() > _MOST and abs(np.mean(steps[usual]) * sfreq - 1) < _SAME
        if not is_sound:
            return None
        if coarseness >= _VAGUE:
            self._tell_of_gap(float(steps.max()), self._unit(time))
            return None
        if coarseness < _COARSE:
            return times[:, 0]
        return np.concatenate([_straightened(part) for part in np.split(times[:, 0], np.flatnonzero(~usual) + 1)])

    def _tell_of_gap(self, longest_s: float, unit_s: float) -> None:
        if longest_s > _CERTAIN * unit_s:
            _log.warning(
                "%s: its times leap, by up to %g s, but are too coarse to say where: what is missing is played over",
                *(self.path.name, longest_s),
            )

    def _usual(self, steps: Float64Array, time: int | None) -> NDArray[np.bool_]:
        """Which steps between times are no gaps: those that are off the typical one by less than half, or by rounding.

        Times rounded to a millisecond rise by 1 and 2 ms at 512 Hz, and not always at 1024.
        """
        typical = np.median(steps) if len(steps) else 0.0
        usual: NDArray[np.bool_] = np.abs(steps - typical) < max(typical / 2, _ROUNDED * self._unit(time))
        return usual

    def _unit(self, column: int | None) -> float:
        """What the first numbers of a column are multiples of, as they are written; 0 where that does not tell."""
        if column is None:
            return 0.0
        fields = [line.split(",")[column].strip().lower() for line in self.lines[:_SOME]]
        if any("e" in field for field in fields):
            return 0.0
        return float(10.0 ** -max(len(field.partition(".")[2]) for field in fields))

    def _first_rises(self) -> bool:
        first = self._parsed([0])
        return first is not None and bool((np.diff(first[:, 0]) > 0).all())

    def _parsed(self, columns: Sequence[int]) -> Float64Array | None:
        """All numbers of some columns at once; None where one is something else."""
        try:
            return np.loadtxt(self.lines, delimiter=",", usecols=columns, comments=None, ndmin=2)
        except ValueError:
            return None

    def _first_fault(self, columns: Sequence[int]) -> str:
        """Where the first cell is that holds no finite number, and what to do about it."""
        number, column, field = next(
            (number, column, fields[column].strip())
            for number, fields in zip(self.numbers, (line.split(",") for line in self.lines), strict=True)
            for column in columns
            if not _is_finite(fields[column])
        )
        found = repr(field) if field else "an empty cell"
        where = f"{self.path}:{number}, column {column + 1} ({self.names[column]})"
        return f"{where}: {found} is not a number: correct it, or pick other channels"


def _straightened(times: Float64Array) -> Float64Array:
    """The line through some times; what they are off it is how they were rounded."""
    numbers = np.arange(len(times))
    line: Float64Array = np.polynomial.Polynomial.fit(numbers, times, 1)(numbers) if len(times) > 1 else times
    return line


def _separator(line: str) -> str | None:
    """What the fields of a line are separated by, if not by commas, as far as it is known."""
    return None if "," in line else next((name for mark, name in _SEPARATORS.items() if mark in line), None)


def _is_finite(field: str) -> bool:
    """Whether `numpy.loadtxt` finds a finite number; `float` also takes underscores and the digits of all scripts."""
    try:
        return field.strip().isascii() and "_" not in field and math.isfinite(float(field))
    except ValueError:
        return False
