"""Verbs of live streams: run and check a node, play a recording, look around."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from streamnode import config
from streamnode.cli.show import Json, show_json, show_table
from streamnode.errors import StreamnodeError

app = typer.Typer()


@app.command()
def run(path: Annotated[Path, typer.Argument(metavar="CONFIG.yaml")]) -> None:
    """Run a node until Ctrl-C or until its source ends."""
    from streamnode import node  # noqa: PLC0415  (so that `streamnode --help` stays instant)

    asyncio.run(node.run_until_signal(config.load(path)))


@app.command()
def check(paths: Annotated[list[Path], typer.Argument(metavar="CONFIG.yaml...")]) -> None:
    """Validate configurations without opening a stream."""
    from streamnode.build.check import check as findings  # noqa: PLC0415

    failures: list[StreamnodeError] = []
    for path in paths:
        try:
            for line in findings(config.load(path)):
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
        show_json(found)
    elif not found:
        typer.echo("no LSL streams in sight: is the device streaming, and in the same network and SessionID?")
    else:
        show_table(
            ["name", "type", "source_id", "Hz", "channels", "format", "host"], [list(s.values())[:7] for s in found]
        )
