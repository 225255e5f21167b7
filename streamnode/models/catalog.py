"""The models by name: what they expect, where their weights are published, and how to load them."""

from __future__ import annotations

import difflib
import logging
from dataclasses import dataclass
from pathlib import Path

import torch

from streamnode.errors import ConfigError, WeightsError
from streamnode.models import luna
from streamnode.models.luna import LUNA, VARIANTS, LunaConfig, random_state, rename_keys, variant_name
from streamnode.models.weights import HubFile, Resolved, cached_path, fetch, load_strict, read_safetensors, resolve
from streamnode.types import ModelSpec, OutputName, WeightsInfo

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Entry:
    """A published model.

    Attributes:
        spec: what it expects of its input.
        variant: its size within the family, such as `base`.
        hub: the published weights.
        n_params: numbers in the published file.
        licence: of the published weights.
    """

    spec: ModelSpec
    variant: str
    hub: HubFile
    n_params: int
    licence: str


def _luna(variant: str, n_params: int) -> Entry:
    return Entry(luna.SPEC, variant, HubFile("PulpBio/LUNA", f"LUNA_{variant}.safetensors"), n_params, "CC BY-ND 4.0")


CATALOG = {
    "luna-base": _luna("base", 6_672_417),
    "luna-large": _luna("large", 40_660_337),
    "luna-huge": _luna("huge", 303_769_569),
}


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A network with its weights, on the CPU, for inference only."""

    model: LUNA
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


def load(name: str, weights: str = "hub", *, revision: str = "main", sha256: str | None = None) -> LoadedModel:
    """Load a model; its heads are those that the file has.

    Args:
        name: in the catalog, such as `luna-base`.
        weights: `hub`, the path of a safetensors file, or `random:<seed>` for untrained ones.
        revision: branch, tag or commit on the hub.
        sha256: digest the file must have.

    Raises:
        ConfigError: no model has this name, or random weights were given a digest.
        WeightsError: the weights cannot be had, or are not this model's.
    """
    entry = find(name)
    resolved = resolve(weights, entry.hub, revision=revision, sha256=sha256)
    source = resolved.path or resolved.info.source
    if resolved.path is None:
        log.warning("%s has %s weights: it is untrained, and what it says means nothing", name, weights)
        config = VARIANTS[entry.variant]
        state = random_state(config, resolved.seed)
    else:
        state = rename_keys(read_safetensors(resolved.path))
        config = _config_of(state, name, resolved.path)
    with torch.device("meta"):
        model = LUNA(config)
    load_strict(model, state, path=source)
    log.info("loaded %s from %s, which yields %s", name, source, ", ".join(model.available_outputs))
    return LoadedModel(model.eval().requires_grad_(requires_grad=False), name, resolved.info)


def _config_of(state: dict[str, torch.Tensor], name: str, path: Path) -> LunaConfig:
    try:
        config = LunaConfig.from_state(state)
    except WeightsError as error:
        raise WeightsError(f"{path}: {error}") from error
    found = variant_name(config)
    if found == name:
        return config
    if found in CATALOG:
        raise WeightsError(f"{path} holds {found}, not {name}: set model.variant: {CATALOG[found].variant}")
    raise WeightsError(f"{path} holds a LUNA unlike any published one ({config}): give a checkpoint of {name}")


def pull(name: str, *, revision: str = "main", sha256: str | None = None) -> Resolved:
    """Download the published weights of a model, or find them on this machine.

    Raises:
        ConfigError: no model has this name.
        WeightsError: the file cannot be had, or has another digest.
    """
    return fetch(find(name).hub, revision=revision, sha256=sha256)


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
            channels=_channels(entry.spec),
            outputs=entry.spec.outputs,
            licence=entry.licence,
            path=cached_path(entry.hub),
        )
        for name, entry in CATALOG.items()
    ]


def _channels(spec: ModelSpec) -> str:
    return " ".join(spec.ch_names) if spec.ch_names else "any that have positions"
