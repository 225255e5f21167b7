"""The options that make a plan of what happens to recordings, and errors in their words."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial, wraps
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

import typer
from pydantic import TypeAdapter, ValidationError

from streamnode.config import EpochConfig, ModelConfig, SignalConfig
from streamnode.errors import ConfigError, StreamnodeError

if TYPE_CHECKING:
    from streamnode.offline.run import Plan

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
    from streamnode.offline.run import Plan  # noqa: PLC0415

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


def planned(verb: Callable[..., None]) -> Callable[..., None]:
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
        raise type(error)(in_options(error)) from error


def in_options(error: StreamnodeError) -> str:
    """What an error says, keys of a configuration as the options they are here."""

    def option(key: re.Match[str]) -> str:
        section, name = key.groups()
        if name not in _KEYS[section]:
            return key.group()  # such as model.safetensors
        if section == "model" and name not in _OF_ALL_MODELS.union(_OF_ZUNA):
            return f"--option {name}"
        return "--" + re.sub("_(s|hz)$", "", _OTHERWISE.get(name, name)).replace("_", "-")

    return re.sub(r"\b(epoch|signal|model)\.(\w+)", option, str(error))
