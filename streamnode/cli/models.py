"""Verbs of models and their weights."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from streamnode.cli.show import Json, show_json, show_table
from streamnode.errors import ConfigError, reaching
from streamnode.types import StreamInfo

if TYPE_CHECKING:
    from streamnode.models.eegdino import HeadGuess
    from streamnode.models.inspection import Inspection

app = typer.Typer()
weights_app = typer.Typer(no_args_is_help=True, help="Checkpoints of the models.")

Checkpoint = Annotated[str, typer.Argument(metavar="FILE|MODEL", help="A file, or a model whose weights are on disk.")]
WhichOption = Annotated[
    Literal["student", "teacher"] | None, typer.Option(help="Of a self-distillation, the network that is meant.")
]
Allow = Annotated[
    list[str] | None,
    typer.Option(
        metavar="GLOBAL", help="A class or function that a pickle may name; a placeholder that does nothing stands in."
    ),
]


@app.command()
def models(
    *,
    check: Annotated[
        str | None, typer.Option(metavar="STREAM|FILE", help="See how each would take an LSL stream or a recording.")
    ] = None,
    as_json: Json = False,
) -> None:
    """The models: parameters, rate, channels, outputs, and whether their weights are on disk."""
    from streamnode.models import catalog  # noqa: PLC0415

    if check is not None:
        _show_fit(_stream(check), as_json=as_json)
        return
    rows = [asdict(row) for row in catalog.list_models()]
    if as_json:
        show_json(rows)
    else:
        rows = [row | {"n_params": f"{row['n_params'] / 1e6:.1f} M"} for row in rows]
        show_table(list(rows[0]), [list(row.values()) for row in rows])


def _stream(name: str) -> StreamInfo:
    """What a recording or an LSL stream says of its channels."""
    with reaching(Path(name), ConfigError):
        is_recording = bool(Path(name).suffix) and Path(name).is_file()
    if is_recording:
        from streamnode.sources.replay import read  # noqa: PLC0415

        return read(name).info
    return asyncio.run(_seen(name))


async def _seen(name: str) -> StreamInfo:
    from streamnode.metrics import Metrics  # noqa: PLC0415
    from streamnode.sources.lsl import LslQuery, LslSource  # noqa: PLC0415

    async with LslSource(LslQuery(name=name), timeout_s=2, metrics=Metrics()) as source:
        return source.info


def _show_fit(info: StreamInfo, *, as_json: bool) -> None:
    from streamnode.models.fit import fit  # noqa: PLC0415

    fits = fit(info)
    if as_json:
        show_json([asdict(one) | {"remedies": one.remedies} for one in fits])
        return
    columns = ["model", "takes", "places filled", "read as", "unknown", "no position", "twice", "rate"]
    show_table(
        columns,
        [
            [
                one.model,
                f"{len(one.used)} of {one.n_chans}",
                f"{one.n_places - len(one.absent)} of {one.n_places}" if one.n_places else None,
                _some([f"{name} = {place}" for name, place in one.read_as.items()]),
                _some(one.unknown),
                _some(one.unplaced),
                _some(one.doubled),
                "no" if one.rate else "ok",
            ]
            for one in fits
        ],
    )
    for one in fits:
        for sentence in one.remedies or ("takes it as it is",):
            typer.echo(f"{one.model}: {sentence}")
        for note in one.notes:
            typer.echo(f"{one.model}: note: {note}")


def _some(words: Sequence[str]) -> str | None:
    """As many as a table has room for."""
    more = f" and {len(words) - 4} more" if len(words) > 4 else ""
    return ", ".join(words[:4]) + more if words else None


@weights_app.command()
def pull(
    model: Annotated[str, typer.Argument(help="Such as luna-base.")],
    *,
    revision: Annotated[str, typer.Option(help="Branch, tag or commit on the hub.")] = "main",
    sha256: Annotated[str | None, typer.Option(help="Digest the file must have.")] = None,
    which: WhichOption = None,
) -> None:
    """Download the published weights of a model; a pickle is converted."""
    from streamnode.models import catalog  # noqa: PLC0415

    resolved = catalog.pull(model, revision=revision, sha256=sha256, which=which)
    typer.echo(f"{resolved.path}\n  {resolved.info.source} @ {resolved.info.revision}\n  sha256 {resolved.info.sha256}")


@weights_app.command()
def convert(
    source: Annotated[Path, typer.Argument(metavar="FILE", help="Safetensors, .pt, .ckpt, .bin, .pth; in any form.")],
    *,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="File to write; else FILE.safetensors.")] = None,
    model: Annotated[str | None, typer.Option(help="What it must be, such as eegdino-large.")] = None,
    which: WhichOption = None,
    n_heads: Annotated[str | None, typer.Option(help="Attention heads, of EEG-DINO or EEGPT.")] = None,
    patch_stride: Annotated[int | None, typer.Option(help="Samples between patches, of EEGPT.")] = None,
    trained_head: Annotated[
        bool, typer.Option("--trained-head", help="Keep the head that braindecode's EEG-DINO has; somebody trained it.")
    ] = False,
    allow: Allow = None,
) -> None:
    """Make a safetensors file, in float32 and by our names, of a checkpoint in any published form."""
    from streamnode.models.catalog import find  # noqa: PLC0415
    from streamnode.models.convert import convert as convert_file  # noqa: PLC0415

    if model is not None:
        find(model)
    sizes = {"n_heads": n_heads and _number_or_name(n_heads), "patch_stride": patch_stride}
    made = convert_file(
        source,
        out or source.with_suffix(".safetensors"),
        name=model,
        which=which,
        trained_head=trained_head,
        allow=allow or (),
        **{name: size for name, size in sizes.items() if size is not None},
    )
    typer.echo(
        f"{made.path}\n  {made.model}, {made.n_tensors} tensors, {made.n_params:,} parameters, "
        f"{made.n_bytes / 1e6:.1f} MB\n  {_listed(made.metadata)}"
    )


def _number_or_name(heads: str) -> int | str:
    """Heads as they were given; which of these a family takes is its to say."""
    try:
        return int(heads)
    except ValueError:
        return heads


@weights_app.command()
def inspect(checkpoint: Checkpoint, *, which: WhichOption = None, allow: Allow = None, as_json: Json = False) -> None:
    """What is in a file: which network, its parts and heads, what is missing or left over."""
    from streamnode.models.catalog import locate  # noqa: PLC0415
    from streamnode.models.inspection import inspect as look_into  # noqa: PLC0415

    path, _ = locate(checkpoint)
    seen = look_into(path, which=which, allow=allow or ())
    if as_json:
        show_json(asdict(seen))
    else:
        typer.echo("\n".join(_described(seen)))


def _described(seen: Inspection) -> list[str]:
    """An inspection, a line each."""
    unused = [f"{n_tensors} of {prefix}" for prefix, n_tensors in seen.left_out.items()]
    lines = {
        "model": " ".join(filter(None, (seen.model, seen.which or ""))),
        "form": seen.form,
        "yields": ", ".join(seen.outputs),
        "sizes": _listed(seen.sizes),
        "parameters": f"{seen.n_params:,}",
        "of which": ", ".join(f"{part} {n_params:,}" for part, n_params in seen.parts.items()),
        "tensors": f"{seen.n_tensors} ({', '.join(f'{count} {dtype}' for dtype, count in seen.dtypes.items())})",
        "not used": ", ".join(unused),
        "missing": ", ".join(seen.missing),
        "left over": ", ".join(seen.unexpected),
        "says": _listed(seen.metadata),
        "heads": "" if seen.heads is None else _verdict(seen.heads),
        "file": f"{seen.container}, {seen.n_bytes / 1e6:.1f} MB, sha256 {seen.sha256}",
        "problem": seen.problem,
    }
    return [str(seen.path), *(f"  {name:10} {text}" for name, text in lines.items() if text)]


def _listed(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value}" for name, value in values.items())


def _verdict(guess: HeadGuess) -> str:
    return f"the weights look like {guess.n_heads}" if guess.n_heads else "the weights do not tell how many"


@weights_app.command()
def detect_heads(
    checkpoint: Checkpoint,
    *,
    which: WhichOption = None,
    allow: Allow = None,
    as_json: Json = False,
) -> None:
    """Tell with how many attention heads an EEG-DINO was trained, which no shape shows, from its weights."""
    from streamnode.models import inspection  # noqa: PLC0415
    from streamnode.models.catalog import locate  # noqa: PLC0415

    path, _ = locate(checkpoint)
    guess = inspection.detect_heads(path, which=which, allow=allow or ())
    if as_json:
        show_json(asdict(guess))
        return
    rows = [[n, f"{within:.3f}", f"{between:.3f}"] for n, (within, between) in guess.correlations.items()]
    show_table(["heads", "alike within a head", "between neighbours"], rows)
    typer.echo(_verdict(guess))


@weights_app.command()
def verify(
    checkpoint: Checkpoint,
    *,
    sha256: Annotated[str | None, typer.Option(help="Digest the file must have.")] = None,
    which: WhichOption = None,
    allow: Allow = None,
) -> None:
    """Check that a file is complete and sound: all tensors there, all finite, the digest right."""
    from streamnode.models.catalog import locate  # noqa: PLC0415
    from streamnode.models.convert import read_model  # noqa: PLC0415

    path, info = locate(checkpoint, sha256=sha256)
    name = checkpoint if info.source.startswith("hub:") else None
    model = read_model(path, name=name, which=which, allow=allow or ())
    typer.echo(f"{checkpoint}: ok ({model.name}, sha256 {info.sha256})")
