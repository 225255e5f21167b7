"""The command line: one verb per job. Every foreseen error is one sentence on stderr and an exit code, no traceback."""

from __future__ import annotations

import asyncio
import json
import logging
import sys
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from streamnode import __version__, config
from streamnode.errors import StreamnodeError

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)
weights_app = typer.Typer(no_args_is_help=True, help="Checkpoints of the models.")
app.add_typer(weights_app, name="weights")

Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


def main() -> None:
    """Entry point of the `streamnode` command."""
    try:
        app()
    except StreamnodeError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        sys.exit(error.exit_code)


@app.callback()
def _options(
    *,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log every step.")] = False,
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    if version:
        typer.echo(__version__)
        raise typer.Exit
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s", datefmt="%H:%M:%S"
    )
    logging.getLogger("streamnode").setLevel(logging.DEBUG if verbose else logging.INFO)
    logging.getLogger("mqtt").setLevel(logging.CRITICAL)  # aiomqtt repeats what the sink says better
    for chatty in ("httpx", "httpcore", "uvicorn"):
        logging.getLogger(chatty).setLevel(logging.WARNING)


@app.command()
def run(path: Annotated[Path, typer.Argument(metavar="CONFIG.yaml")]) -> None:
    """Run a node until Ctrl-C or until its source ends."""
    from streamnode import node  # noqa: PLC0415  (so that `streamnode --help` stays instant)

    asyncio.run(node.run_until_signal(config.load(path)))


@app.command()
def check(paths: Annotated[list[Path], typer.Argument(metavar="CONFIG.yaml...")]) -> None:
    """Validate configurations without opening a stream."""
    from streamnode import build  # noqa: PLC0415

    failures: list[StreamnodeError] = []
    for path in paths:
        try:
            for line in build.check(config.load(path)):
                typer.echo(f"{path}: {line}")
            typer.echo(f"{path}: ok")
        except StreamnodeError as error:
            typer.echo(str(error) if str(path.name) in str(error) else f"{path}: {error}", err=True)
            failures.append(error)
    if failures:
        raise typer.Exit(failures[0].exit_code)


@app.command()
def play(
    file: Annotated[Path, typer.Argument(help="FIF, EDF, BDF, EEGLAB SET, XDF or CSV; or the word `synthetic`.")],
    *,
    name: Annotated[str | None, typer.Option(help="Name of the LSL stream.")] = None,
    speed: Annotated[float, typer.Option(help="Times real time.")] = 1.0,
    loop: Annotated[bool, typer.Option("--loop", help="Start again at the end, for ever.")] = False,
    seconds: Annotated[float | None, typer.Option(help="End after so much of the recording.")] = None,
    unit: Annotated[str, typer.Option(help="Unit of the values of a CSV file.")] = "V",
    sfreq: Annotated[float | None, typer.Option(help="Hz, of synthetic EEG or a CSV file without times.")] = None,
    channels: Annotated[int, typer.Option(help="How many channels of synthetic EEG, at most 64.")] = 32,
    wait: Annotated[bool, typer.Option("--wait", help="Start when the first consumer has connected.")] = False,
) -> None:
    """Replay a recording, or synthetic EEG, as an LSL stream with a Markers stream for its annotations."""
    from streamnode import play as player  # noqa: PLC0415

    playing = player.play_file(
        file,
        name=name,
        speed=speed,
        loop=loop,
        seconds=seconds,
        unit=unit,
        sfreq=sfreq,
        n_chans=channels,
        wait_for_consumer=wait,
    )
    with suppress(KeyboardInterrupt):
        asyncio.run(playing)


@app.command()
def streams(*, wait: Annotated[float, typer.Option(help="Seconds to listen.")] = 1.0, as_json: Json = False) -> None:
    """The LSL streams in sight."""
    from streamnode.sources.lsl import streams_in_sight  # noqa: PLC0415

    found = [asdict(stream) for stream in streams_in_sight(wait)]
    if as_json:
        typer.echo(json.dumps(found))
    elif not found:
        typer.echo("no LSL streams in sight: is the device streaming, and in the same network and SessionID?")
    else:
        _table(["name", "type", "source_id", "Hz", "channels", "format", "host"], [list(s.values())[:7] for s in found])


@app.command()
def models(*, as_json: Json = False) -> None:
    """The models: parameters, rate, channels, outputs, and whether their weights are on disk."""
    from streamnode.models import catalog  # noqa: PLC0415

    rows = [asdict(row) for row in catalog.list_models()]
    if as_json:
        typer.echo(json.dumps(rows, default=str))
    else:
        _table(list(rows[0]), [list(row.values()) for row in rows])


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


def _table(columns: list[str], rows: list[list[object]]) -> None:
    table = Table(*columns)
    for row in rows:
        table.add_row(*(_cell(value) for value in row))
    Console().print(table)


def _cell(value: object) -> str:
    match value:
        case None:
            return "-"
        case tuple():
            return ", ".join(map(str, value))
        case int():
            return f"{value:,}"
    return str(value)


if __name__ == "__main__":
    main()
