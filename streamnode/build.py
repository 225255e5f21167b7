"""From a `NodeConfig` to live objects: the only place that asks of what `kind` anything is.

torch is imported inside the functions that load a model, so that a node can look for its stream meanwhile.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from streamnode import __version__
from streamnode.config import (
    LslSinkConfig,
    LslSourceConfig,
    LunaConfig,
    MqttSinkConfig,
    NodeConfig,
    ReplaySourceConfig,
    SyntheticSourceConfig,
)
from streamnode.errors import ConfigError, ContractError, WeightsError
from streamnode.metrics import Metrics
from streamnode.montage import clean_name, coverage, make_montage
from streamnode.pipeline import Session
from streamnode.signal.channels import BIPOLAR_MONTAGES
from streamnode.signal.guard import Guard
from streamnode.signal.interpolate import interpolation_matrix
from streamnode.signal.path import EpochStream, build_epochs
from streamnode.sinks.lsl import LslSink
from streamnode.sinks.mqtt import MqttSink
from streamnode.sources.lsl import LslQuery, LslSource, local_clock
from streamnode.sources.replay import ReplaySource, read
from streamnode.sources.synthetic import CH_NAMES_64, SyntheticEeg, SyntheticSource
from streamnode.types import Clock, ModelSpec, OutputMeta, Sink, Source, StreamInfo

if TYPE_CHECKING:
    from streamnode.inference.engine import BoundModel, Engine
    from streamnode.models.catalog import LoadedModel

clock: Clock = local_clock
_WAITING_UNDER_ALL = 64  # epochs that may wait for inference under policy `all`
_SLACK_S = 1.0  # what a source may deliver at once, beyond the epoch that is being judged
_EXPIRY_HOPS = 10  # a broker keeps a result for a slow subscriber so long: stale results mislead


def source_opener(config: NodeConfig, metrics: Metrics) -> Callable[[int], Source]:
    """A function that makes a new source whose first run has the given number.

    Raises:
        ConfigError: the recording to replay cannot be read.
    """
    match config.source:
        case LslSourceConfig() as lsl:
            query = LslQuery(lsl.name, lsl.source_id, lsl.stype, lsl.predicate)
            return lambda run: LslSource(
                query,
                timeout_s=lsl.timeout_s,
                stall_s=lsl.stall_s,
                fill=lsl.fill,
                max_missing_s=config.epoch.max_missing * config.epoch.duration_s,
                metrics=metrics,
                first_run=run,
            )
        case ReplaySourceConfig() as replay:
            recording = read(replay.file)
            speed = math.inf if replay.speed == "max" else replay.speed
            return lambda _: ReplaySource(recording, clock=clock, speed=speed, loop=replay.loop)
        case SyntheticSourceConfig() as synthetic:
            eeg = _synthetic(synthetic)
            return lambda _: SyntheticSource(eeg, clock=clock, duration_s=synthetic.duration_s)


def build_sinks(config: NodeConfig, metrics: Metrics) -> list[Sink]:
    """All sinks, not yet open. Raises `ConfigError` for a missing secret or certificate."""
    return [_sink(sink, config, metrics) for sink in config.sinks]


def _sink(sink: MqttSinkConfig | LslSinkConfig, config: NodeConfig, metrics: Metrics) -> Sink:
    outputs = sink.outputs or config.model.outputs
    match sink:
        case LslSinkConfig():
            return LslSink(sink.name, node=config.node.name, outputs=outputs, metrics=metrics, quality=sink.quality)
        case MqttSinkConfig():
            return MqttSink(
                sink.url,
                sink.topic,
                node=config.node.name,
                outputs=outputs,
                payload=sink.payload,
                qos=sink.qos,
                username=sink.username,
                password=None if sink.password is None else sink.password.resolve(),
                ca_file=sink.ca_file,
                timeout_s=sink.timeout_s,
                expiry_s=_EXPIRY_HOPS * config.epoch.hop_s,
                metrics=metrics,
            )


def backlog(config: NodeConfig) -> int:
    """How many epochs may wait for inference."""
    return 1 if config.epoch.policy == "latest" else _WAITING_UNDER_ALL


def rebuilds(config: NodeConfig) -> bool:
    """Whether a stream that comes back changed is taken as it is."""
    return not isinstance(config.source, LslSourceConfig) or config.source.on_change == "rebuild"


def load_engine(model: LunaConfig) -> Engine:
    """Weights onto the device; downloads them first if need be. Raises `WeightsError` or `ConfigError`."""
    import scipy.signal  # noqa: F401, PLC0415  (a second that `open_session` need not spend, with samples waiting)

    from streamnode.inference.engine import Engine  # noqa: PLC0415

    return Engine(load_weights(model), device=model.device, precision=model.precision, threads=model.threads)


def load_weights(model: LunaConfig) -> LoadedModel:
    """The model with the weights the configuration asks for. Raises `WeightsError` or `ConfigError`."""
    from streamnode.models import catalog  # noqa: PLC0415

    return catalog.load(model_name(model), model.weights, revision=model.revision, sha256=model.sha256)


def model_name(model: LunaConfig) -> str:
    """Name in the catalog."""
    return f"{model.kind}-{model.variant}"


def open_session(config: NodeConfig, engine: Engine, info: StreamInfo, first_seq: int = 0) -> Session:
    """Signal path, guard and bound model for a stream. Raises `ContractError` if stream and model do not fit."""
    signal = config.signal
    path = signal_path(config, engine.spec, info, first_seq)
    if signal.bad_channels == "interpolate":
        interpolation_matrix(path.info.montage, ())  # refuses channels without a place now, not when one goes bad
    horizon_s = config.epoch.duration_s + path.delay_s + _SLACK_S
    guard = Guard(info, path.info, signal.bad_channels, horizon_s=horizon_s, line_hz=signal.notch_hz)
    options = {"vocabulary": config.model.vocabulary}
    model = engine.bind(path.info.montage, config.model.outputs, duration_s=config.epoch.duration_s, **options)
    return Session(info, path, guard, model, _describe(config, path, model, info))


def signal_path(config: NodeConfig, spec: ModelSpec, info: StreamInfo, first_seq: int = 0) -> EpochStream:
    """From chunks of a stream to epochs of a model. Raises `ContractError` if they do not fit."""
    signal, epoch = config.signal, config.epoch
    return build_epochs(
        info,
        spec,
        signal.mode,
        n_times=_whole_samples("epoch.duration_s", epoch.duration_s, spec, spec.patch),
        hop=_whole_samples("epoch.hop_s", epoch.hop_s, spec),
        clock=clock,
        first_seq=first_seq,
        margin_s=signal.margin_s,
        lookahead_s=signal.lookahead_s or 0.0,
        picks=signal.picks,
        reference=signal.reference,
        bipolar=_pairs(signal.bipolar),
        l_freq=signal.l_freq,
        h_freq=signal.h_freq,
        notch_hz=signal.notch_hz,
    )


def check(config: NodeConfig) -> Iterator[str]:
    """What can be told of a configuration without opening a stream, a line each.

    Raises:
        StreamnodeError: the first thing that would keep the node from running.
    """
    from streamnode.models import catalog  # noqa: PLC0415

    name = model_name(config.model)
    spec = catalog.CATALOG[name].spec
    if config.epoch.duration_s not in spec.durations:
        trained = ", ".join(f"{duration:g}" for duration in spec.durations)
        yield f"note: {spec.name} was trained on epochs of {trained} s, not {config.epoch.duration_s:g} s"
    if spec.notch and config.signal.notch_hz is None:
        yield f"note: {spec.name} was trained on notched data; set signal.notch_hz to 50 or 60, your mains frequency"
    info = declared_stream(config, spec)
    if info is None:
        yield "channels: known once the stream is there"
    else:
        path = signal_path(config, spec, info)
        yield f"channels: {coverage(path.info.montage)}; signal: {' -> '.join(path.describe())}"
    for sink in config.sinks:
        if isinstance(sink, MqttSinkConfig) and sink.password is not None:
            sink.password.resolve()
    yield _check_weights(config.model)


def declared_stream(config: NodeConfig, spec: ModelSpec) -> StreamInfo | None:
    """The stream as far as the configuration itself tells its channels; None if it does not."""
    match config.source:
        case ReplaySourceConfig(file=file):
            return read(file).info
        case SyntheticSourceConfig() as source:
            return _synthetic(source).info
    pairs = _pairs(config.signal.bipolar)
    electrodes = list(dict.fromkeys(name for pair in pairs for name in clean_name(pair).split("-"))) if pairs else None
    names = config.signal.picks or electrodes
    if names is None:
        return None
    return StreamInfo("declared", "", "EEG", spec.sfreq, make_montage(names))


def _check_weights(model: LunaConfig) -> str:
    """Load the weights if they are on disk. Raises `WeightsError` if they are not, or are wrong."""
    from streamnode.models import catalog, weights  # noqa: PLC0415

    name = model_name(model)
    if model.weights == "hub" and weights.cached_path(catalog.CATALOG[name].hub, model.revision) is None:
        raise WeightsError(f"the weights of {name} are not on disk: run `streamnode weights pull {name}`")
    loaded = load_weights(model)
    if missing := [output for output in model.outputs if output not in loaded.model.available_outputs]:
        raise ContractError(
            f"the weights of {name} ({loaded.info.source}) have no head for {', '.join(missing)}: "
            f"ask for some of {', '.join(loaded.model.available_outputs)} in model.outputs"
        )
    return f"model: {loaded.name} from {loaded.info.source}" + (" (untrained)" if loaded.info.untrained else "")


def _describe(config: NodeConfig, path: EpochStream, model: BoundModel, info: StreamInfo) -> OutputMeta:
    return OutputMeta(
        node=config.node.name,
        version=__version__,
        stream=info,
        model=model.name,
        weights=model.weights,
        ch_names=path.info.ch_names,
        sfreq=path.info.sfreq,
        duration_s=config.epoch.duration_s,
        hop_s=config.epoch.hop_s,
        delay_s=path.delay_s,
        signal=path.describe(),
        shapes=model.shapes,
    )


def _synthetic(source: SyntheticSourceConfig) -> SyntheticEeg:
    return SyntheticEeg(source.ch_names or CH_NAMES_64[: source.n_chans or 32], source.sfreq, source.seed)


def _pairs(bipolar: str | tuple[str, ...] | None) -> tuple[str, ...] | None:
    return BIPOLAR_MONTAGES[bipolar] if isinstance(bipolar, str) else bipolar


def _whole_samples(key: str, seconds: float, spec: ModelSpec, multiple: int = 1) -> int:
    """Seconds as samples at the model's rate. Raises `ConfigError` unless that is a whole number of `multiple`."""
    exact = seconds * spec.sfreq
    n_times = multiple * max(1, round(exact / multiple))
    if abs(n_times - exact) > 1e-6 * spec.sfreq:
        raise ConfigError(
            f"{key}: {seconds:g} s is not a whole number of {spec.name}'s {multiple / spec.sfreq * 1e3:g} ms steps: "
            f"the nearest is {n_times / spec.sfreq:.10g} s"
        )
    return n_times
