"""What can be told of a configuration before anything runs."""

from __future__ import annotations

import socket
from collections.abc import Iterator

from streamnode.build.ends import build_sinks, synthetic_eeg
from streamnode.build.session import load_weights, model_name, pairs_of, patch_reuse, signal_path
from streamnode.config import (
    ModelConfig,
    NodeConfig,
    ReplaySourceConfig,
    SourceConfig,
    SyntheticSourceConfig,
)
from streamnode.errors import ConfigError, ContractError, WeightsError
from streamnode.inference.engine import find_device
from streamnode.inference.precision import refuse_unless_possible
from streamnode.inference.reuse import stride_of
from streamnode.metrics import Metrics
from streamnode.models import catalog, hub
from streamnode.models.catalog import LoadedModel
from streamnode.montage import clean_name, coverage, make_montage
from streamnode.sources.replay import read
from streamnode.types import ModelSpec, StreamInfo


def check(config: NodeConfig) -> Iterator[str]:
    """What can be told of a configuration without opening a stream, a line each.

    Raises:
        StreamnodeError: the first thing that would keep the node from running.
    """
    name = model_name(config.model)
    spec = catalog.CATALOG[name].spec
    if config.epoch.duration_s not in spec.durations:
        trained = ", ".join(f"{duration:g}" for duration in spec.durations)
        yield f"note: {spec.name} was trained on epochs of {trained} s, not {config.epoch.duration_s:g} s"
    if spec.notch and config.signal.notch_hz is None:
        yield f"note: {spec.name} was trained on notched data; set signal.notch_hz to auto, 50 or 60"
    for source in config.streams:
        info = declared_stream(config, source, spec)
        what = f"channels of {source.label}" if config.sources else "channels"
        if info is None:
            yield f"{what}: known once the stream is there"
        else:
            path = signal_path(config, spec, info)
            yield f"{what}: {coverage(path.info.montage)}; signal: {' -> '.join(path.describe())}"
        build_sinks(config, source.label if config.sources else None, Metrics())
    if config.node.http is not None:
        _refuse_absent_address(config.node.http)
    refuse_unless_possible(config.model.precision, find_device(config.model.device))
    loaded = _check_weights(config.model)
    yield f"model: {loaded.name} from {loaded.info.source}" + (" (untrained)" if loaded.info.untrained else "")
    if reuse := patch_reuse(config, spec, stride_of(loaded.model))[1]:
        yield f"epochs: {reuse}"


def declared_stream(config: NodeConfig, source: SourceConfig, spec: ModelSpec) -> StreamInfo | None:
    """A stream as far as the configuration itself tells its channels; None if it does not."""
    match source:
        case ReplaySourceConfig(file=file):
            return read(file).info
        case SyntheticSourceConfig():
            return synthetic_eeg(source).info
    pairs = pairs_of(config.signal.bipolar)
    electrodes = list(dict.fromkeys(name for pair in pairs for name in clean_name(pair).split("-"))) if pairs else None
    names = config.signal.picks or electrodes
    if names is None:
        return None
    return StreamInfo("declared", "", "EEG", spec.sfreq, make_montage(names))


def _refuse_absent_address(http: str) -> None:
    """Raise `ConfigError` unless the address is one of this machine; its port may be taken, by the node itself."""
    host = http.rpartition(":")[0].strip("[]")
    try:
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as any_port:
            any_port.bind((host, 0))
    except OSError as error:
        raise ConfigError(
            f"node.http cannot listen on {http} ({error.strerror or error}): "
            "give an address of this machine, or null for no status page"
        ) from error


def _check_weights(model: ModelConfig) -> LoadedModel:
    """Load the weights if they are on disk. Raises `WeightsError` if they are not, or are wrong."""
    name = model_name(model)
    if model.weights == "hub" and hub.cached_path(catalog.CATALOG[name].hub, model.revision) is None:
        raise WeightsError(f"the weights of {name} are not on disk: run `streamnode weights pull {name}`")
    loaded = load_weights(model)
    if missing := [output for output in model.outputs if output not in loaded.model.available_outputs]:
        raise ContractError(
            f"the weights of {name} ({loaded.info.source}) have no head for {', '.join(missing)}: "
            f"ask for some of {', '.join(loaded.model.available_outputs)} in model.outputs"
        )
    return loaded
