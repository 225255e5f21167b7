"""What the sections of a configuration are made of: types of values, and how a wrong one is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, ValidationInfo
from pydantic_core import InitErrorDetails, PydanticCustomError

from streamnode.montage import CAPS
from streamnode.types import OutputName

T = TypeVar("T")
Keys = tuple[str | int, ...]
"""The way to a value through the file."""

_LABEL = r"[^\s:/@\[\].]{1,63}"
HOST = rf"(\[[0-9A-Fa-f:.]+\]|{_LABEL}(\.{_LABEL})*\.?)"
PORT = r":(6553[0-5]|655[0-2]\d|65[0-4]\d\d|6[0-4]\d{3}|[1-5]?\d{1,4})"


def text(pattern: str, words: str) -> Any:
    """A pattern and what to say when it does not match; `patternErrorMessage` is what editors look for."""
    return Field(pattern=f"^{pattern}$", json_schema_extra={"patternErrorMessage": f"should be {words}"})


def beside(path: Path, info: ValidationInfo) -> Path:
    """A relative path counts from the folder of the file it is written in."""
    folder: Path = (info.context or {}).get("folder", Path())
    return folder / path


def _known_cap(cap: str) -> str:
    if cap not in CAPS:
        raise ValueError(f"there is no cap {cap!r}; choose one of {', '.join(CAPS)}")
    return cap


def _unique(names: tuple[str, ...]) -> tuple[str, ...]:
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise ValueError(f"{' and '.join(map(repr, repeated))} more than once; list each name once")
    return names


def refusal(*problems: tuple[Keys, str]) -> ValidationError:
    """Problems found by comparing several keys, each at the key it is best mended at."""
    lines = [
        InitErrorDetails(type=PydanticCustomError("refusal", "{why}", {"why": why}), loc=keys, input=None)
        for keys, why in problems
    ]
    return ValidationError.from_exception_data("configuration", lines)


FURTHEST_S = 1800
"""From a marker to an end of its epoch, either way."""
Positive = Annotated[float, Field(gt=0)]
Span = Annotated[float, Field(gt=0, le=2 * FURTHEST_S)]
"""A length of signal, seconds, all of which may be held at once."""
Offset = Annotated[float, Field(ge=-FURTHEST_S, le=FURTHEST_S)]
"""Seconds after a marker; two are never further apart than a `Span`."""
Edge = Annotated[float, Field(ge=0.001, le=100_000)]
"""Of a band, Hz: a filter further down rings for hours, and no EEG goes further up."""
Mains = Annotated[float, Field(ge=10, le=1000)]
"""Hz; each of its harmonics is a filter of its own."""
Seed = Annotated[int, Field(ge=0, le=2**53 - 1)]
"""Of random numbers: a whole number that JSON and every generator hold."""
Text = Annotated[str, Field(min_length=1)]
FilePath = Annotated[Path, Field(strict=False), AfterValidator(beside)]
Listed = Annotated[
    tuple[T, ...],
    Field(strict=False, min_length=1, json_schema_extra={"uniqueItems": True}),
    AfterValidator(_unique),
]
Names = Listed[Text]
Outputs = Listed[OutputName]
Cap = Annotated[str, AfterValidator(_known_cap), Field(json_schema_extra={"enum": list(CAPS)})]
Label = Annotated[str, text(r"[A-Za-z0-9_.\-]+", "letters, digits, '-', '_' and '.' only")]


class Section(BaseModel):
    """A block of keys: no others, and no value bent to the type that is asked for."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        strict=True,
        allow_inf_nan=False,
        hide_input_in_errors=True,
        use_attribute_docstrings=True,
    )
