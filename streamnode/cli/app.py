"""All verbs together, and the options that come before them."""

from __future__ import annotations

import logging
from typing import Annotated

import typer

from streamnode import __version__
from streamnode.cli import bench, files, live, models

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Live EEG in, what foundation models say about it out.",
)
app.add_typer(live.app)
app.add_typer(files.app)
app.add_typer(models.app)
app.add_typer(models.weights_app, name="weights")
app.add_typer(bench.app, name="bench")


def _show_version(wanted: bool) -> None:  # noqa: FBT001  (as typer calls it)
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _options(
    *,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log every step.")] = False,
    version: Annotated[  # noqa: ARG001  (its call-back has seen to it)
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s", datefmt="%H:%M:%S"
    )
    logging.getLogger("streamnode").setLevel(logging.DEBUG if verbose else logging.INFO)
    logging.getLogger("mqtt").setLevel(logging.CRITICAL)  # aiomqtt repeats what the sink says better
    for chatty in ("httpx2", "httpcore2", "httpx", "httpcore", "uvicorn"):  # addresses of downloads may be signed
        logging.getLogger(chatty).setLevel(logging.WARNING)
