"""How verbs print."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


_SHORT = 16  # cells that are never broken


def show_json(value: object) -> None:
    """Print a value as JSON; null is a number that is none, and what JSON has no word for is text."""
    typer.echo(json.dumps(_in_json(value), allow_nan=False, default=str))


def _in_json(value: object) -> object:
    match value:
        case float():
            return value if math.isfinite(value) else None
        case Mapping():
            return {key: _in_json(one) for key, one in value.items()}
        case list() | tuple():
            return [_in_json(one) for one in value]
    return value


def show_table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a table; None is a dash, numbers have their thousands apart."""
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False)
    cells = [[_cell(value) for value in row] for row in rows]
    for i, name in enumerate(columns):
        column = [name, *(row[i] for row in cells)]
        table.add_column(
            name,
            no_wrap=max(map(len, column)) <= _SHORT,
            min_width=min(max(map(len, " ".join(column).split())), _SHORT),
            justify="right" if all(isinstance(row[i], int | float) for row in rows) else "left",
            overflow="fold",
        )
    for row in cells:
        table.add_row(*row)
    Console().print(table)


def _cell(value: object) -> str:
    match value:
        case None:
            return "-"
        case tuple():
            return ", ".join(map(str, value))
        case int():
            return f"{value:,}"
        case float():
            return f"{value:g}"
    return str(value)
