"""The models by name: what they expect, where their weights are published, and how to load them."""

from __future__ import annotations

import difflib
import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from streamnode.errors import ConfigError, WeightsError, reaching
from streamnode.models.convert import convert_once
from streamnode.models.family import FAMILIES, Family, Network, Reading, State, Which, recognise
from streamnode.models.hub import HubFile, cached_path
from streamnode.models.weights import (
    Resolved,
    fetch,
    is_pickle,
    load_strict,
    on_disk,
    read_metadata,
    read_safetensors,
    resolve,
    stored,
)
from streamnode.types import ModelSpec, OutputName, WeightsInfo

log = logging.getLogger(__name__)

_CHOSEN = ("num_heads", "patch_stride")


@dataclass(frozen=True, slots=True)
class Entry:
    """A published model.

    Attributes:
        family: what it is one of.
        variant: its size within the family, such as `base`.
        hub: the published weights.
        n_params: numbers in the network as published, heads included.
        licence: of the published weights.
    """

    family: Family
    variant: str
    hub: HubFile
    n_params: int
    licence: str

    @property
    def spec(self) -> ModelSpec:
        """What it expects of its input."""
        return self.family.spec


def _luna(variant: str, n_params: int) -> Entry:
    return Entry(
        FAMILIES["luna"], variant, HubFile("PulpBio/LUNA", f"LUNA_{variant}.safetensors"), n_params, "CC BY-ND 4.0"
    )


def _eegdino(variant: str, hub: HubFile, n_params: int) -> Entry:
    return Entry(FAMILIES["eegdino"], variant, hub, n_params, "not stated")


def _zuna(generation: str, repo: str, n_params: int) -> Entry:
    return Entry(
        FAMILIES["zuna"], generation, HubFile(repo, "model-00001-of-00001.safetensors"), n_params, "Apache-2.0"
    )


CATALOG = {
    "luna-base": _luna("base", 6_672_417),
    "luna-large": _luna("large", 40_660_337),
    "luna-huge": _luna("huge", 303_769_569),
    "eegdino-small": _eegdino("small", HubFile("braindecode/eegdino-small-pretrained", "model.safetensors"), 4_433_944),
    "eegdino-medium": _eegdino(
        "medium", HubFile("braindecode/eegdino-medium-pretrained", "model.safetensors"), 33_755_456
    ),
    "eegdino-large": _eegdino(
        "large", HubFile("eegdino/EEG-DINO", "pre-trained-models/model_EEG_DINO_L.pt"), 201_908_864
    ),
    "eegpt-large": Entry(
        FAMILIES["eegpt"],
        "large",
        HubFile("braindecode/eegpt-pretrained", "model.safetensors"),
        25_287_168,
        "not stated",
    ),
    "zuna-v1": _zuna("v1", "Zyphra/ZUNA", 382_018_688),
    "zuna-1.1": _zuna("1.1", "Zyphra/ZUNA1.1", 382_106_752),
}


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A network with its weights, on the CPU, for inference only."""

    model: Network
    name: str
    info: WeightsInfo


@dataclass(frozen=True, slots=True)
class ModelRow:
    """A line of `streamnode models`; `path` is None until the weights are on this machine."""

    name: str
    n_params: int
    sfreq: float
    channels: str
    outputs: tuple[OutputName, ...]
    licence: str
    path: Path | None


def load(
    name: str,
    weights: str = "hub",
    *,
    revision: str = "main",
    sha256: str | None = None,
    which: Which | None = None,
    **options: Any,
) -> LoadedModel:
    """Load a model; its heads are those that the file has.

    A file of the hub that is a pickle is converted once, and the converted file kept; `WeightsInfo` is of the pickle.

    Args:
        name: in the catalog, such as `luna-base`.
        weights: `hub`, the path of a safetensors file, or `random:<seed>` for untrained ones.
        revision: branch, tag or commit on the hub.
        sha256: digest the file must have.
        which: of a self-distillation, the student or the teacher; None takes the family's default, or what there is.
        options: sizes that the tensors do not show: `n_heads` of EEG-DINO and EEGPT, `patch_stride` of EEGPT.

    Raises:
        ConfigError: no model has this name, it has no such option, or random weights were given a digest.
        WeightsError: the weights cannot be had, or are not this model's.
    """
    entry = find(name)
    family = entry.family
    family.refuse_unknown(options)
    resolved = resolve(weights, entry.hub, revision=revision, sha256=sha256)
    source = resolved.path or resolved.info.source
    if resolved.path is None:
        log.warning("%s has %s weights: it is untrained, and what it says means nothing", name, weights)
        state = family.random_state(family.variants[entry.variant], resolved.seed)
        reading = family.read(state, metadata={}, which=which, **options)
    else:
        path = resolved.path if weights != "hub" else _as_safetensors(resolved, name, which)
        reading = _read(path, name, which, options)
    with torch.device("meta"):
        model = family.network(reading.config)
    load_strict(model, reading.state, path=source)
    info = replace(resolved.info, choices=_choices(family, reading))
    what = f"{name} ({info.choices})" if info.choices else name
    log.info("loaded %s from %s, which yields %s", what, source, ", ".join(model.available_outputs))
    return LoadedModel(model.eval().requires_grad_(requires_grad=False), name, info)


def _choices(family: Family, reading: Reading) -> str:
    """What no tensor shows of the weights that were loaded."""
    chosen = [f"{key}={value}" for key, value in family.metadata_of(reading.config).items() if key in _CHOSEN]
    return ", ".join(filter(None, [reading.which, *chosen]))


def _as_safetensors(resolved: Resolved, name: str, which: Which | None) -> Path:
    """A published file, or what was converted from it."""
    path, family = resolved.path, find(name).family
    assert path is not None
    if not is_pickle(path):
        return path
    return convert_once(path, resolved.info.sha256, name=name, which=which or family.default)


def _read(path: Path, name: str, which: Which | None, options: dict[str, Any]) -> Reading:
    """What is in a file, which must be of `name`."""
    family, tensors = find(name).family, read_safetensors(path)
    try:
        reading = family.read(tensors, metadata=read_metadata(path), which=which, **options)
    except WeightsError as error:
        raise WeightsError(f"{path}: {error}{_guess(tensors, family)}") from error
    found = family.variant_of(reading.config)
    if found == name:
        return reading
    if found in CATALOG:
        raise WeightsError(f"{path} holds {found}, not {name}: set model.variant to {CATALOG[found].variant}")
    raise WeightsError(
        f"{path} holds a {family.title} unlike any published one ({reading.config}): give a checkpoint of {name}"
    )


def _guess(tensors: State, family: Family) -> str:
    """What a file seems to hold instead of the family that was asked for."""
    seen = recognise(tensors)
    if seen is None or seen is family:
        return ""
    return f" (it looks like {seen.title}: set model.kind to {seen.spec.name})"


def pull(name: str, *, revision: str = "main", sha256: str | None = None, which: Which | None = None) -> Resolved:
    """Download the published weights of a model, or find them on this machine; pickles are converted.

    Args:
        name: in the catalog, such as `luna-base`.
        revision: branch, tag or commit on the hub.
        sha256: digest the published file must have.
        which: see `load`.

    Returns:
        The safetensors file; what is said of its origin is of the published file.

    Raises:
        ConfigError: no model has this name.
        WeightsError: the file cannot be had, or has another digest.
    """
    resolved = fetch(find(name).hub, revision=revision, sha256=sha256)
    return replace(resolved, path=_as_safetensors(resolved, name, which))


def locate(weights: str, *, sha256: str | None = None) -> tuple[Path, WeightsInfo]:
    """A file by its path, or the published one of a model by its name, and where it came from. Asks no network.

    Raises:
        WeightsError: there is no such file, it cannot be reached, or it has another digest.
    """
    path = Path(weights).expanduser()
    with reaching(path, WeightsError):
        if path.is_file():
            return path, on_disk(path, sha256=sha256)
    if weights not in CATALOG:
        raise WeightsError(f"there is no file {path}: give the path of a checkpoint, or one of {', '.join(CATALOG)}")
    resolved = stored(CATALOG[weights].hub, sha256=sha256)
    if resolved is None or resolved.path is None:
        raise WeightsError(f"the weights of {weights} are not on disk: run `streamnode weights pull {weights}`")
    return resolved.path, resolved.info


def find(name: str) -> Entry:
    """The model of this name.

    Raises:
        ConfigError: there is none.
    """
    if name in CATALOG:
        return CATALOG[name]
    close = difflib.get_close_matches(name.lower(), CATALOG, n=1)
    raise ConfigError(f"there is no model {name!r}: use {close[0] if close else 'one of ' + ', '.join(CATALOG)}")


def list_models() -> list[ModelRow]:
    """Every model, without touching the network or any weights."""
    return [
        ModelRow(
            name=name,
            n_params=entry.n_params,
            sfreq=entry.spec.sfreq,
            channels=entry.family.channels,
            outputs=entry.spec.outputs,
            licence=entry.licence,
            path=cached_path(entry.hub),
        )
        for name, entry in CATALOG.items()
    ]
