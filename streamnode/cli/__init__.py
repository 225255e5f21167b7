"""The command line: one verb per job. Every foreseen error is one sentence on stderr and an exit code, no traceback.

Each module here has the verbs of one subject. What a verb needs is imported when it runs: `--help` is instant.
"""

from __future__ import annotations

import logging
import sys
from typing import Annotated

import typer

from streamnode import __version__
from streamnode.aside import leave
from streamnode.cli import bench, files, live, models
from streamnode.errors import StreamnodeError

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


def main() -> None:
    """Entry point of the `streamnode` command."""
    leave(_exit_code())


def _exit_code() -> int:
    try:
        app()
    except StreamnodeError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        return error.exit_code
    except SystemExit as done:
        return int(done.code or 0)
    return 0


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
