"""Verbs of recordings: what a model says of them, and what it makes of them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from streamnode.cli.plan import in_options, planned
from streamnode.cli.show import Json, show_json, show_table
from streamnode.errors import ConfigError, SinkError, StreamnodeError, reaching

if TYPE_CHECKING:
    from streamnode.offline.run import Outcome, Plan

app = typer.Typer()

Charts = Annotated[Path | None, typer.Option(metavar="DIR", help="Also draw charts, into a folder for each recording.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace results of other settings.")]


@app.command()
@planned
def embed(
    *,
    plan: Callable[..., Plan],
    files: Annotated[list[Path], typer.Argument(help="FIF, EDF, BDF, EEGLAB SET, XDF or CSV.")],
    out: Annotated[
        Path, typer.Option("--out", "-o", help="A folder; or, for one recording, a .safetensors or .parquet file.")
    ],
    outputs: Annotated[
        str, typer.Option(metavar="A,B,...", help="Of embedding, tokens, logits, reconstruction, attention.")
    ] = "embedding",
    hop: Annotated[float, typer.Option(help="Step from one epoch to the next, seconds.")] = 1.0,
    suffix: Annotated[
        Literal["safetensors", "parquet"], typer.Option("--format", help="Of the files in a folder.")
    ] = "safetensors",
    overwrite: Overwrite = False,
    charts: Charts = None,
    fewer_channels: Annotated[
        bool, typer.Option("--fewer-channels", help="Also tell how the embedding holds up with fewer channels.")
    ] = False,
    as_json: Json = False,
) -> None:
    """What a model says of recordings, as it would live; run again, it goes on where it was interrupted."""
    jobs = list(zip(files, _targets(files, out, suffix), strict=True))
    asked = plan(outputs=outputs, hop=hop)
    _run(asked, jobs, overwrite=overwrite, charts=charts, fewer_channels=fewer_channels, as_json=as_json)


@app.command()
@planned
def reconstruct(
    *,
    plan: Callable[..., Plan],
    file: Annotated[Path, typer.Argument(help="FIF, EDF, BDF, EEGLAB SET, XDF or CSV.")],
    out: Annotated[
        Path,
        typer.Option(
            "--out", "-o", help="A .fif file, or .safetensors or .parquet, which have the original beside it."
        ),
    ],
    overwrite: Overwrite = False,
    charts: Charts = None,
    as_json: Json = False,
) -> None:
    """What a model draws from its own view of a recording, epoch after epoch, and how far it is off."""
    from streamnode import results  # noqa: PLC0415

    if out.suffix != ".fif":
        results.check_suffix(out)
    asked = plan(outputs="reconstruction", hop=None)
    _run(asked, [(file, out)], overwrite=overwrite, charts=charts, fewer_channels=False, as_json=as_json)


def _targets(files: Sequence[Path], out: Path, suffix: str) -> list[Path]:
    """Where the results of each recording go."""
    from streamnode import results  # noqa: PLC0415

    with reaching(out, SinkError):
        is_folder = out.is_dir()
    if is_folder or not out.suffix[1:].isalpha():
        targets = [out / f"{file.stem}.{suffix}" for file in files]
        if repeated := [str(file) for file, target in zip(files, targets, strict=True) if targets.count(target) > 1]:
            raise ConfigError(f"{' and '.join(repeated)} have one name: give each a folder of its own for its results")
    elif len(files) > 1:
        raise ConfigError(f"{out} is one file, and there are {len(files)} recordings: give a folder for their results")
    else:
        targets = [out]
    results.check_suffix(targets[0])
    return targets


def _run(
    asked: Plan,
    jobs: Sequence[tuple[Path, Path]],
    *,
    overwrite: bool,
    charts: Path | None,
    fewer_channels: bool,
    as_json: bool,
) -> None:
    """Go through recordings and the places of their results; what fails does not keep the others from it."""
    from streamnode import build  # noqa: PLC0415
    from streamnode.offline import figures, files, run  # noqa: PLC0415

    load = run.Stopwatch()
    with load("load"):
        engine = build.load_engine(asked.model)
    rows, failures = list[dict[str, Any]](), list[StreamnodeError]()
    with _progress(quiet=as_json) as progress:
        recordings = progress.add_task("recordings", total=len(jobs))
        for file, target in jobs:
            rows.append({"file": str(file), "out": str(target)})
            show = partial(_show, progress, epochs := progress.add_task(file.name, total=None))
            try:
                outcome = files.run_file(file, target, engine, asked, overwrite=overwrite, on_epochs=show)
                rows[-1] |= {"skipped": True} if outcome is None else figures.summary(outcome)
                if outcome is not None and fewer_channels:
                    rows[-1]["fewer_channels"] = figures.fewer_channels(outcome)
                if outcome is not None and charts is not None:
                    rows[-1]["charts"] = _draw(charts / file.stem, file, outcome)
            except StreamnodeError as error:
                said = in_options(error)
                rows[-1]["error"] = said if file.name in said else f"{file}: {said}"
                failures.append(error)
            progress.remove_task(epochs)
            progress.advance(recordings)
    _report(rows, load.seconds, as_json=as_json)
    if failures:
        raise typer.Exit(failures[0].exit_code)


def _progress(*, quiet: bool) -> Progress:
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    return Progress(*columns, console=Console(stderr=True), transient=True, disable=quiet or not sys.stderr.isatty())


def _show(progress: Progress, task: TaskID, done: int, expected: int) -> None:
    progress.update(task, completed=done, total=expected)


def _draw(folder: Path, file: Path, outcome: Outcome) -> list[str]:
    from streamnode.charts.comparison import write_comparison  # noqa: PLC0415
    from streamnode.charts.run import Run, write_charts  # noqa: PLC0415
    from streamnode.offline.continuous import before_and_after  # noqa: PLC0415

    results = outcome.results
    run = Run(
        title=f"{results.meta.model}, {file.name}",
        montage=results.montage,
        sfreq=results.meta.sfreq,
        seconds=outcome.seconds,
        epoch_ms=outcome.epoch_ms,
        arrays=outcome.arrays,
        epochs=results.tables.get("original"),
    )
    paths = write_charts(folder, run)
    before, after, rebuilt = before_and_after(results)
    if rebuilt:
        paths.append(folder / "comparison.png")
        write_comparison(paths[-1], before, after, rebuilt, results.meta.sfreq, rebuilt)
    return [str(path) for path in paths]


def _report(rows: Sequence[Mapping[str, Any]], load: Mapping[str, float], *, as_json: bool) -> None:
    """What was done, how fast, and what failed."""
    done = [row for row in rows if "seconds" in row]
    if as_json:
        seconds = {phase: sum(row["seconds"][phase] for row in done) for phase in (done[0]["seconds"] if done else ())}
        n_epochs, total_s = sum(row["epochs"] for row in done), sum(seconds.values())
        rates = {"epochs_per_s": n_epochs / total_s, "forward_share": seconds["inference"] / total_s} if done else {}
        show_json({"files": rows, "epochs": n_epochs, **rates, "seconds": {**load, **seconds}})
    elif done:
        show_table(
            ["recording", "epochs", "epochs/s", "forward pass", "RMSE", "results"],
            [
                (
                    Path(row["file"]).name,
                    row["epochs"] if row["runs"] == 1 else f"{row['epochs']} in {row['runs']} runs",
                    f"{row['epochs_per_s']:.1f}",
                    f"{row['forward_share']:.0%}",
                    None if (rmse := row.get("rmse_uv", {}).get("median")) is None else f"{rmse:.3g} µV",
                    Path(row["out"]).name,
                )
                for row in done
            ],
        )
        for report in (row["fewer_channels"] for row in done if "fewer_channels" in row):
            show_table(list(report[0]), [[_rounded(value) for value in line.values()] for line in report])
    for row in rows:
        if "skipped" in row and not as_json:
            typer.echo(f"{row['file']}: {row['out']} is up to date")
        if "error" in row:
            typer.echo(f"error: {row['error']}", err=True)


def _rounded(value: object) -> object:
    return f"{value:.3g}" if isinstance(value, float) else value
