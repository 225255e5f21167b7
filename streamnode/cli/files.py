"""Verbs of recordings: what a model says of them, and what it makes of them."""

from __future__ import annotations

import inspect
import json
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial, wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

import typer
from pydantic import TypeAdapter, ValidationError
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from streamnode.cli.show import Json, show_table
from streamnode.config import EpochConfig, ModelConfig
from streamnode.config.tree import SignalConfig
from streamnode.errors import ConfigError, StreamnodeError

if TYPE_CHECKING:
    from streamnode.offline import Outcome, Plan

app = typer.Typer()

Charts = Annotated[Path | None, typer.Option(metavar="DIR", help="Also draw charts, into a folder for each recording.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace results of other settings.")]

_KEYS = {
    "epoch": set(EpochConfig.model_fields),
    "signal": set(SignalConfig.model_fields),
    "model": {key for kind in get_args(get_args(ModelConfig)[0]) for key in kind.model_fields},
}
_OF_ALL_MODELS = {"kind", "variant", "weights", "outputs", "device", "precision", "threads"}
_OF_ZUNA = ("steps", "sampler", "guidance", "seed", "keep_known", "add", "data_norm", "std_uv")
_OTHERWISE = {"kind": "model", "variant": "model", "add": "target-channels", "bad_channels": "on-bad"}
_ZUNA = partial(typer.Option, rich_help_panel="ZUNA")


def _plan(
    *,
    hop: float | None,
    outputs: str,
    model: Annotated[str, typer.Option(help="`streamnode models` lists them.")] = "luna-base",
    weights: Annotated[str, typer.Option(help="hub, the path of a file, or random:0 for untrained ones.")] = "hub",
    option: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="Of the model, such as pool=mean; again for more.")
    ] = None,
    duration: Annotated[
        float | None, typer.Option(help="Length of an epoch, seconds; by default the one the model was trained on.")
    ] = None,
    mode: Annotated[
        Literal["causal", "window", "lookahead", "recording"],
        typer.Option(help="How the signal is prepared: as live, or as published, of the recording as a whole."),
    ] = "causal",
    lookahead: Annotated[float | None, typer.Option(help="Seconds after an epoch, with mode lookahead.")] = None,
    notch: Annotated[str | None, typer.Option(help="Mains to remove, Hz; auto listens to the first seconds.")] = None,
    l_freq: Annotated[float | None, typer.Option(help="Lower edge of the band, Hz; by default the model's.")] = None,
    h_freq: Annotated[float | None, typer.Option(help="Upper edge of the band, Hz; by default the model's.")] = None,
    picks: Annotated[str | None, typer.Option(metavar="A,B,...", help="Channels to use; by default all EEG.")] = None,
    reference: Annotated[
        str | None, typer.Option(help="average, as_recorded or channels such as M1,M2; by default the model's.")
    ] = None,
    bad_channels: Annotated[
        str | None, typer.Option(metavar="A,B,...", help="Bad ones: ZUNA rebuilds them, others do without.")
    ] = None,
    on_bad: Annotated[
        Literal["keep", "mask", "interpolate", "skip"] | None,
        typer.Option(help="What to do about channels found to be bad; by default keep, or mask where ZUNA rebuilds."),
    ] = None,
    bipolar: Annotated[str | None, typer.Option(help="TUEG22, TUEG20, or pairs such as Fp1-F7,F7-T3.")] = None,
    cap: Annotated[str | None, typer.Option(help="The cap whose own labels the files use, such as biosemi64.")] = None,
    rename: Annotated[
        list[str] | None, typer.Option(metavar="OLD=NEW", help="Read the label OLD as NEW; again for more.")
    ] = None,
    csv_unit: Annotated[str, typer.Option(help="Of the values of CSV files: V, mV, uV or nV.")] = "V",
    csv_sfreq: Annotated[float | None, typer.Option(help="Hz, of CSV files; by default as their times say.")] = None,
    csv_times: Annotated[str | None, typer.Option(help="Column of times in CSV files, or none.")] = None,
    csv_columns: Annotated[
        str | None, typer.Option(metavar="A,B,...", help="Names of the columns, of CSV files without a line of names.")
    ] = None,
    steps: Annotated[int | None, _ZUNA(help="Of the sampler; 50 as published.")] = None,
    sampler: Annotated[Literal["euler", "adams"] | None, _ZUNA(help="euler as published, adams for few steps.")] = None,
    guidance: Annotated[
        float | None, _ZUNA("--guidance", "--cfg", help="How strongly the signal steers what is drawn; 1 as published.")
    ] = None,
    seed: Annotated[int | None, _ZUNA(help="Of the noise that every epoch starts from; 0 by default.")] = None,
    keep_known: Annotated[
        bool | None, _ZUNA("--keep-known/--no-keep-known", help="Good channels as recorded, or drawn as well.")
    ] = None,
    target_channels: Annotated[
        str | None, _ZUNA(metavar="A,B,...|N", help="Channels to add, by 10-05 names, or how many there shall be.")
    ] = None,
    data_norm: Annotated[
        float | None, _ZUNA(help="Standard deviations that are 1 to the network; 10 as published.")
    ] = None,
    std_uv: Annotated[
        float | None,
        _ZUNA(help="v1: standard deviation, microvolts; by default that so far, or the recording's in its mode."),
    ] = None,
    batch: Annotated[int, typer.Option(min=1, help="Epochs in a forward pass; 1 gives live results to the bit.")] = 1,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    precision: Annotated[
        Literal["float32", "tf32", "bfloat16", "float16", "int8"],
        typer.Option(help="Number format of the large products; int8 is for CPUs, float16 and tf32 for GPUs."),
    ] = "float32",
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads of the network.")] = None,
) -> Plan:
    """The plan that options make, most of which all verbs here have."""
    from streamnode.models import catalog  # noqa: PLC0415
    from streamnode.offline import Plan  # noqa: PLC0415

    spec = catalog.find(model).spec
    duration = duration or spec.durations[0]
    kind, _, variant = model.partition("-")
    asked_of_model: dict[str, Any] = {"kind": kind, "variant": variant, "weights": weights, "outputs": _names(outputs)}
    asked_of_model |= {"device": device, "precision": precision, "threads": threads}
    add = (
        _names(target_channels) if target_channels is None or not target_channels.isdecimal() else int(target_channels)
    )
    of_zuna = steps, sampler, guidance, seed, keep_known, add, data_norm, std_uv
    asked_of_model |= dict(zip(_OF_ZUNA, of_zuna, strict=True))
    asked_of_signal = {
        "mode": mode,
        "lookahead_s": lookahead,
        "bad_channels": on_bad or ("mask" if spec.rebuilds and "reconstruction" in outputs else None),
        "notch_hz": _value(notch),
        "l_freq": l_freq,
        "h_freq": h_freq,
        "picks": _names(picks),
        "reference": reference if reference in {"average", "as_recorded"} else _names(reference),
        "bipolar": bipolar if bipolar in {"TUEG22", "TUEG20"} else _names(bipolar),
    }
    own = {key: _value(value) for key, value in _pairs("--option", option).items()}
    return Plan(
        model=section(ModelConfig, "model", asked_of_model | own),
        epoch=section(EpochConfig, "epoch", {"duration_s": duration, "hop_s": hop or duration}),
        signal=section(SignalConfig, "signal", asked_of_signal),
        reading={
            "cap": cap,
            "rename": _pairs("--rename", rename),
            "unit": csv_unit,
            "sfreq": csv_sfreq,
            "times": csv_times,
            "columns": _names(csv_columns),
        },
        bad=_names(bad_channels) or (),
        batch=batch,
    )


def _planned(verb: Callable[..., None]) -> Callable[..., None]:
    """Give a verb the options of `_plan`, and what makes a plan of them in their place."""
    own = inspect.signature(verb, eval_str=True, locals={"Plan": Any})
    shared = [
        option
        for option in inspect.signature(_plan, eval_str=True, locals={"Plan": Any}).parameters.values()
        if option.default is not option.empty
    ]

    @wraps(verb)
    def command(**given: Any) -> None:
        with _in_words_of_options():
            verb(plan=partial(_plan, **{option.name: given.pop(option.name) for option in shared}), **given)

    parameters = [*(parameter for name, parameter in own.parameters.items() if name != "plan"), *shared]
    command.__signature__ = own.replace(parameters=parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return command


@app.command()
@_planned
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
@_planned
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


# --- what is asked --------------------------------------------------------------------------------------------------


def _targets(files: Sequence[Path], out: Path, suffix: str) -> list[Path]:
    """Where the results of each recording go."""
    from streamnode import results  # noqa: PLC0415

    if out.is_dir() or not out.suffix[1:].isalpha():
        targets = [out / f"{file.stem}.{suffix}" for file in files]
        if repeated := [str(file) for file, target in zip(files, targets, strict=True) if targets.count(target) > 1]:
            raise ConfigError(f"{' and '.join(repeated)} have one name: give each a folder of its own for its results")
    elif len(files) > 1:
        raise ConfigError(f"{out} is one file, and there are {len(files)} recordings: give a folder for their results")
    else:
        targets = [out]
    results.check_suffix(targets[0])
    return targets


def section(kind: Any, name: str, asked: Mapping[str, Any]) -> Any:
    """A section of a configuration, of what was asked; the rest is as in a file that leaves it out."""
    given = {key: value for key, value in asked.items() if value is not None}
    try:
        return TypeAdapter(kind).validate_python(given)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        key = next(key for key in problem["loc"] if key != given.get("kind"))
        if problem["type"] == "extra_forbidden":
            raise ConfigError(f"{given['kind']} has no option {key!r}: leave it out") from error
        why = problem["msg"].removeprefix("Value error, ")
        raise ConfigError(f"{name}.{key}: {why[:1].lower()}{why[1:]}") from error


def _names(text: str | None) -> tuple[str, ...] | None:
    return None if text is None else tuple(name.strip() for name in text.split(","))


def _pairs(option: str, texts: Sequence[str] | None) -> dict[str, str]:
    pairs = {}
    for text in texts or ():
        key, equals, value = text.partition("=")
        if not equals:
            raise ConfigError(f"{option} {text!r} has no equals sign: write it as in {option} old=new")
        pairs[key] = value
    return pairs


def _value(text: str | None) -> Any:
    """Numbers and the words true and false as such, all else as text."""
    try:
        return None if text is None else json.loads(text)
    except ValueError:
        return text


@contextmanager
def _in_words_of_options() -> Iterator[None]:
    """Errors speak of the keys of a configuration; here they are options."""
    try:
        yield
    except StreamnodeError as error:
        raise type(error)(_in_options(error)) from error


def _in_options(error: StreamnodeError) -> str:
    def option(key: re.Match[str]) -> str:
        section, name = key.groups()
        if name not in _KEYS[section]:
            return key.group()  # such as model.safetensors
        if section == "model" and name not in _OF_ALL_MODELS.union(_OF_ZUNA):
            return f"--option {name}"
        return "--" + re.sub("_(s|hz)$", "", _OTHERWISE.get(name, name)).replace("_", "-")

    return re.sub(r"\b(epoch|signal|model)\.(\w+)", option, str(error))


# --- what is done and said ------------------------------------------------------------------------------------------


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
    from streamnode import build, offline  # noqa: PLC0415

    load = offline.Stopwatch()
    with load("load"):
        engine = build.load_engine(asked.model)
    rows, failures = list[dict[str, Any]](), list[StreamnodeError]()
    with _progress(quiet=as_json) as progress:
        recordings = progress.add_task("recordings", total=len(jobs))
        for file, target in jobs:
            rows.append({"file": str(file), "out": str(target)})
            show = partial(_show, progress, epochs := progress.add_task(file.name, total=None))
            try:
                outcome = offline.run_file(file, target, engine, asked, overwrite=overwrite, on_epochs=show)
                rows[-1] |= {"skipped": True} if outcome is None else offline.summary(outcome)
                if outcome is not None and fewer_channels:
                    rows[-1]["fewer_channels"] = offline.fewer_channels(outcome)
                if outcome is not None and charts is not None:
                    rows[-1]["charts"] = _draw(charts / file.stem, file, outcome)
            except StreamnodeError as error:
                said = _in_options(error)
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
    from streamnode.charts import Run, write_charts, write_comparison  # noqa: PLC0415
    from streamnode.offline import before_and_after  # noqa: PLC0415

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
        typer.echo(json.dumps({"files": rows, "epochs": n_epochs, **rates, "seconds": {**load, **seconds}}))
    elif done:
        show_table(
            ["recording", "epochs", "epochs/s", "forward pass", "RMSE", "results"],
            [
                (
                    Path(row["file"]).name,
                    row["epochs"] if row["runs"] == 1 else f"{row['epochs']} in {row['runs']} runs",
                    f"{row['epochs_per_s']:.1f}",
                    f"{row['forward_share']:.0%}",
                    f"{row['rmse_uv']['median']:.3g} µV" if "rmse_uv" in row else None,
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
