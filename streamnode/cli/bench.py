"""Verbs that measure: models beside other runtimes, many streams on one machine, whole nodes."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from streamnode.cli.plan import section
from streamnode.cli.show import Json, show_json
from streamnode.config import ModelConfig
from streamnode.errors import ConfigError

if TYPE_CHECKING:
    from streamnode.bench import report

app = typer.Typer(no_args_is_help=True, help="Measure models, many streams, or a whole node on this machine.")

_WIDTH = 120  # of tables, also where stderr is a file

Charts = Annotated[Path | None, typer.Option(metavar="DIR", help="Also draw charts, into this folder.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")]
Hop = Annotated[float, typer.Option(min=0.01, max=3600, help="Seconds from one epoch of a stream to the next.")]
Threads = Annotated[int | None, typer.Option(min=1, max=1024, help="CPU threads; by default torch's choice.")]
Weights = Annotated[str, typer.Option(help="hub, a path, or random:0; how fast a network is does not depend on them.")]


@app.command()
def models(
    *,
    model: Annotated[list[str] | None, typer.Option(help="Such as luna-base; again for more.")] = None,
    against: Annotated[
        str | None, typer.Option(metavar="A,B,...", help="Who else takes part; by default all that fit the device.")
    ] = None,
    weights: Weights = "random:0",
    rounds: Annotated[int, typer.Option(min=2, help="Passes of each, in turn.")] = 30,
    channels: Annotated[str, typer.Option(metavar="A,B,...", help="Numbers of channels to try as well.")] = "4,16,64",
    batch: Annotated[str, typer.Option(metavar="A,B,...", help="Numbers of epochs in a pass likewise.")] = "1,2,4,8",
    threads: Threads = None,
    device: Device = "auto",
    charts: Charts = None,
    write: Annotated[
        Path | None, typer.Option(metavar="FILE.md", help="Also put the tables in its section <!-- bench:models -->.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Ours beside plain torch and other runtimes: the same weights, alternating rounds, errors against float64."""
    from streamnode.bench import contenders, report  # noqa: PLC0415
    from streamnode.bench.models import DEFAULT_MODELS, Plan, compare  # noqa: PLC0415
    from streamnode.inference.engine import find_device  # noqa: PLC0415

    usual = contenders.ON_CPU if find_device(device).type == "cpu" else contenders.ON_GPU
    others = usual if against is None else [name for name in against.split(",") if name not in {"", "ours"}]
    if unknown := sorted(set(others).difference(contenders.NAMES)):
        raise ConfigError(f"--against {', '.join(unknown)} is nobody: choose among {', '.join(contenders.NAMES)}")
    _use(threads)
    plan = Plan(
        models=model or DEFAULT_MODELS,
        against=others,
        weights=weights,
        rounds=rounds,
        channels=_numbers("--channels", channels),
        batches=_numbers("--batch", batch),
        device=device,
    )
    with _telling() as on_step:
        measured = compare(plan, on_step)
    for one in measured.models:
        _show(f"{one.model}, {one.n_chans} channels, {one.gflop:.3g} GFLOP a pass", report.contender_table(one))
        if one.by_channels or one.by_batch:
            _show("", report.scaling_table(one))
        for reuse in one.reuse:
            typer.echo(report.reuse_sentence(one.model, reuse), err=True)
        for why in dict.fromkeys(one.absent.values()):
            typer.echo(f"{one.model}: {why}", err=True)
    if charts is not None:
        _list(report.draw_models(charts, measured))
    if write is not None:
        report.write_section(write, "bench:models", report.markdown(measured))
    _print(measured, as_json=as_json)


@app.command()
def streams(
    *,
    model: Annotated[str, typer.Option(help="`streamnode models` lists them.")] = "luna-base",
    weights: Weights = "random:0",
    channels: Annotated[int, typer.Option(min=1, max=64, help="Of each stream.")] = 22,
    hop: Hop = 1.0,
    seconds: Annotated[float, typer.Option(min=0.1, help="Length of each trial.")] = 10.0,
    limit: Annotated[int, typer.Option(min=1, help="The most streams to try.")] = 512,
    submissions: Annotated[
        int, typer.Option(min=1, help="Epochs thrown at random in search of cross-talk.")
    ] = 1_000_000,
    threads: Threads = None,
    device: Device = "auto",
    charts: Charts = None,
    as_json: Json = False,
) -> None:
    """How many streams this machine keeps up with, together and one by one, and whether results ever go astray."""
    from streamnode.bench import report  # noqa: PLC0415
    from streamnode.bench.streams import measure  # noqa: PLC0415
    from streamnode.models import catalog  # noqa: PLC0415

    entry = catalog.find(model)
    asked = {"kind": entry.spec.name, "variant": entry.variant, "weights": weights, "device": device}
    config: Any = section(ModelConfig, "model", asked | {"threads": threads})
    with _telling() as on_step:
        measured = asyncio.run(
            measure(
                config,
                n_chans=channels,
                hop_s=hop,
                seconds=seconds,
                limit=limit,
                submissions=submissions,
                on_step=on_step,
            )
        )
    _show(f"{model}, {measured.n_chans} channels, an epoch every {hop:g} s", report.streams_table(measured))
    typer.echo(
        f"no epoch dropped, and time to spare, with up to {measured.most} streams, "
        f"one by one with {measured.most_one_by_one}; "
        f"{measured.cross_talk.astray} of {submissions:,} epochs thrown at random went astray",
        err=True,
    )
    if measured.added is not None:
        added = measured.added
        typer.echo(
            f"with {added.n_streams}, to pass together adds {added.p50_ms:+.1f} ms to the median latency "
            f"and {added.p99_ms:+.1f} ms to the 99th percentile",
            err=True,
        )
    if charts is not None:
        _list(report.draw_streams(charts, measured))
    _print(measured, as_json=as_json)


@app.command()
def e2e(
    *,
    model: Annotated[str, typer.Option(help="`streamnode models` lists them.")] = "luna-base",
    streams: Annotated[int, typer.Option(min=1, help="Headsets, all played by one process.")] = 1,
    channels: Annotated[int, typer.Option(min=1, max=64, help="Of each source.")] = 64,
    sfreq: Annotated[float, typer.Option(min=32, max=100_000, help="Of each source, Hz.")] = 1000.0,
    hop: Hop = 0.25,
    together: Annotated[bool, typer.Option("--together", help="All complete their epochs at once.")] = False,
    compiled: Annotated[bool, typer.Option("--compile", help="With `compile: true` and `threads: 1`.")] = False,
    seconds: Annotated[float, typer.Option(min=0.1, help="How long to watch, after 10 s.")] = 60.0,
    as_json: Json = False,
) -> None:
    """A node from outside, between real LSL and MQTT: what it adds to the time of a result, its CPU and its memory."""
    from streamnode.bench.e2e import Load, measure  # noqa: PLC0415

    load = Load(model, streams, channels, sfreq, hop, "together" if together else "apart", compiled)
    with _telling() as on_step:
        measured = asyncio.run(measure(load, seconds=seconds, on_step=on_step))
    _show_figures("one node, end to end", measured)
    _print(measured, as_json=as_json)


@app.command()
def soak(
    *,
    model: Annotated[str, typer.Option(help="`streamnode models` lists them.")] = "luna-base",
    streams: Annotated[int, typer.Option(min=1, help="Recordings, played at once.")] = 4,
    channels: Annotated[int, typer.Option(min=1, max=64, help="Of each.")] = 22,
    hop: Hop = 1.0,
    hours: Annotated[float, typer.Option(min=0.01, help="Of each recording to watch, after six minutes of it.")] = 1.0,
    speed: Annotated[
        float, typer.Option(min=0.1, help="Times real time; too much for the machine, and epochs drop.")
    ] = 20.0,
    as_json: Json = False,
) -> None:
    """Hours of a node in minutes: whether its memory stays what it is."""
    from streamnode.bench.soak import measure  # noqa: PLC0415

    with _telling() as on_step:
        measured = asyncio.run(
            measure(model, n_streams=streams, n_chans=channels, hop_s=hop, hours=hours, speed=speed, on_step=on_step)
        )
    _show_figures("one node, at speed", measured)
    _print(measured, as_json=as_json)


def _use(threads: int | None) -> None:
    if threads is not None:
        import torch  # noqa: PLC0415

        torch.set_num_threads(threads)


def _numbers(option: str, text: str) -> list[int]:
    try:
        numbers = [int(number) for number in text.split(",") if number.strip()]
    except ValueError as error:
        raise ConfigError(f"{option} {text!r} is no list of whole numbers: write it as in {option} 1,2,4") from error
    if any(number < 1 for number in numbers):
        raise ConfigError(f"{option} {text!r} has a number below 1: leave it out")
    return numbers


@contextmanager
def _telling() -> Iterator[Callable[[str], None]]:
    """Say on a terminal what is being done, in place of the log that every load would write."""
    for logger in ("", "streamnode"):
        logging.getLogger(logger).setLevel(logging.WARNING)
    logging.getLogger("amqtt").setLevel(logging.CRITICAL)  # the broker wonders at MQTT 5, which a node tries first
    with Console(stderr=True).status("starting") as status:
        yield status.update


def _show(title: str, table: report.Table) -> None:
    columns, rows = table
    shown = Table(title=title, title_justify="left", box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for i, name in enumerate(columns):
        shown.add_column(name, justify="left" if i == 0 else "right")
    for row in rows:
        shown.add_row(*row)
    Console(stderr=True, width=_WIDTH).print(shown, "")


def _show_figures(title: str, measured: Any) -> None:
    rows = [[name, _in_words(value)] for name, value in asdict(measured).items()]
    _show(title, (["figure", "value"], rows))


def _in_words(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_in_words(part)}" for key, part in value.items())
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _list(paths: Sequence[Path]) -> None:
    for path in paths:
        typer.echo(str(path), err=True)


def _print(measured: Any, *, as_json: bool) -> None:
    if as_json:
        show_json(asdict(measured))
