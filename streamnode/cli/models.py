"""Verbs of models and their weights."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated

import typer

from streamnode.cli.show import Json, show_table

app = typer.Typer()
weights_app = typer.Typer(no_args_is_help=True, help="Checkpoints of the models.")


@app.command()
def models(*, as_json: Json = False) -> None:
    """The models: parameters, rate, channels, outputs, and whether their weights are on disk."""
    from streamnode.models import catalog  # noqa: PLC0415

    rows = [asdict(row) for row in catalog.list_models()]
    if as_json:
        typer.echo(json.dumps(rows, default=str))
    else:
        show_table(list(rows[0]), [list(row.values()) for row in rows])


@weights_app.command()
def pull(
    model: Annotated[str, typer.Argument(help="Such as luna-base.")],
    *,
    revision: Annotated[str, typer.Option(help="Branch, tag or commit on the hub.")] = "main",
    sha256: Annotated[str | None, typer.Option(help="Digest the file must have.")] = None,
) -> None:
    """Download the published weights of a model."""
    from streamnode.models import catalog  # noqa: PLC0415

    resolved = catalog.pull(model, revision=revision, sha256=sha256)
    typer.echo(f"{resolved.path}\n  {resolved.info.source} @ {resolved.info.revision}\n  sha256 {resolved.info.sha256}")
