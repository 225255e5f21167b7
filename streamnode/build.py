"""From a `NodeConfig` to live objects: the only place that asks of what `kind` anything is.

torch is imported inside the functions that load a model, so that a node can look for its stream meanwhile.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

from streamnode import __version__
from streamnode.config import (
    AlignedSourceConfig,
    EpochConfig,
    LslEegSinkConfig,
    LslSinkConfig,
    LslSourceConfig,
    MarkersConfig,
    ModelConfig,
    MqttSinkConfig,
    NodeConfig,
    ReplaySourceConfig,
    SinkConfig,
    SourceConfig,
    SyntheticSourceConfig,
    ZunaConfig,
)
from streamnode.config.tree import NodeSection, SignalConfig
from streamnode.errors import ConfigError, ContractError, WeightsError
from streamnode.inference.pace import Pace
from streamnode.inference.worker import Feed
from streamnode.metrics import Metrics
from streamnode.montage import clean_name, coverage, make_montage
from streamnode.pipeline import Session
from streamnode.signal.chain import Wishes
from streamnode.signal.channels import BIPOLAR_MONTAGES
from streamnode.signal.guard import Guard
from streamnode.signal.interpolate import interpolation_matrix
from streamnode.signal.level import Counting
from streamnode.signal.path import EpochStream, build_epochs, build_marker_epochs
from streamnode.sinks.lsl import LslSink
from streamnode.sinks.lsl_eeg import EegSink
from streamnode.sinks.mqtt import MqttSink
from streamnode.sources.aligned import AlignedSource
from streamnode.sources.listening import ListeningSource
from streamnode.sources.lsl import LslQuery, LslSource, local_clock
from streamnode.sources.lsl_markers import LslMarkers
from streamnode.sources.replay import ReplaySource, read
from streamnode.sources.synthetic import CH_NAMES_64, SyntheticEeg, SyntheticSource
from streamnode.types import Clock, MarkerSource, ModelSpec, OutputMeta, Sink, Source, StreamInfo

if TYPE_CHECKING:
    from streamnode.inference.engine import BoundModel, Engine
    from streamnode.models.catalog import LoadedModel

clock: Clock = local_clock
_WAITING_UNDER_ALL = 64  # epochs that may wait for inference under policy `all`
_TELLING_STEPS = 4  # of a sampler, to measure what one takes: all of them may take a minute
_LATE_MARKER_S = 10.0  # as long as its samples are kept: `MarkerEpocher`
_EXPIRY_HOPS, _EXPIRY_S = 10, 60.0  # so long a broker keeps a result for a slow subscriber: stale results mislead


def source_opener(config: NodeConfig, source: SourceConfig, metrics: Metrics) -> Callable[[int], Source]:
    """A function that makes a new source whose first run has the given number.

    Raises:
        ConfigError: the recording to replay cannot be read.
    """
    opener = _opener(source, config.epoch, metrics)
    return (lambda run: ListeningSource(opener(run))) if config.signal.notch_hz == "auto" else opener


def _opener(source: SourceConfig, epoch: EpochConfig, metrics: Metrics) -> Callable[[int], Source]:
    match source:
        case LslSourceConfig() as lsl:
            return lambda run: LslSource(
                _query(lsl),
                timeout_s=lsl.timeout_s,
                stall_s=lsl.stall_s,
                fill=lsl.fill,
                max_missing_s=epoch.max_missing * epoch.duration_s,
                cap=lsl.cap,
                label=lsl.label,
                metrics=metrics,
                first_run=run,
            )
        case ReplaySourceConfig() as replay:
            recording = read(replay.file)
            if replay.label:
                recording = replace(recording, info=replace(recording.info, name=replay.label))
            speed = math.inf if replay.speed == "max" else replay.speed
            return lambda _: ReplaySource(recording, clock=clock, speed=speed, loop=replay.loop)
        case SyntheticSourceConfig() as synthetic:
            eeg = _synthetic(synthetic)
            return lambda _: SyntheticSource(eeg, clock=clock, duration_s=synthetic.duration_s)
        case AlignedSourceConfig() as aligned:
            openers = [_opener(one, epoch, metrics) for one in aligned.sources]
            return lambda run: AlignedSource(
                [opener(0) for opener in openers],
                max_wait_s=aligned.max_wait_s,
                prefixes=aligned.prefixes,
                label=aligned.label,
                first_run=run,
                metrics=metrics,
            )


def marker_opener(epoch: EpochConfig) -> Callable[[], MarkerSource] | None:
    """A function that makes a new source of markers; None where epochs are cut by hop."""
    markers = epoch.markers
    return None if markers is None else lambda: LslMarkers(_query(markers), timeout_s=markers.timeout_s)


def _query(source: LslSourceConfig | MarkersConfig) -> LslQuery:
    return LslQuery(source.name, source.source_id, source.stype, source.predicate)


def build_sinks(config: NodeConfig, label: str | None, metrics: Metrics) -> list[Sink]:
    """All sinks of one stream, not yet open.

    Args:
        config: the node.
        label: of the stream where there are several: it follows the name or topic of each sink.
        metrics: where results are counted.

    Raises:
        ConfigError: a secret or certificate is missing.
    """
    return [_sink(sink, config, label, metrics) for sink in config.sinks]


def _sink(sink: SinkConfig, config: NodeConfig, label: str | None, metrics: Metrics) -> Sink:
    node, outputs = config.node.name, sink.outputs or config.model.outputs
    match sink:
        case LslSinkConfig():
            name = f"{sink.name}-{label}" if label else sink.name
            return LslSink(name, node=node, outputs=outputs, metrics=metrics, quality=sink.quality)
        case LslEegSinkConfig():
            name = f"{sink.name}-{label}" if label else sink.name
            keeps = isinstance(config.model, ZunaConfig) and config.model.keep_known
            return EegSink(name, node=node, metrics=metrics, blend_s=sink.blend_s, keeps_known=keeps)
        case MqttSinkConfig():
            return MqttSink(
                sink.url,
                f"{sink.topic}/{label}" if label else sink.topic,
                node=node,
                outputs=outputs,
                payload=sink.payload,
                qos=sink.qos,
                username=sink.username,
                password=None if sink.password is None else sink.password.resolve(),
                ca_file=sink.ca_file,
                timeout_s=sink.timeout_s,
                expiry_s=_EXPIRY_S if config.epoch.markers else _EXPIRY_HOPS * config.epoch.hop_s,
                metrics=metrics,
            )


def backlog(config: NodeConfig) -> int:
    """How many epochs may wait for inference."""
    return 1 if config.epoch.policy == "latest" else _WAITING_UNDER_ALL


def rebuilds(source: SourceConfig) -> bool:
    """Whether a stream that comes back changed is taken as it is."""
    match source:
        case LslSourceConfig():
            return source.on_change == "rebuild"
        case AlignedSourceConfig():
            return all(map(rebuilds, source.sources))
    return True


def load_engine(model: ModelConfig) -> Engine:
    """Weights onto the device; downloads them first if need be. Raises `WeightsError` or `ConfigError`."""
    import scipy.signal  # noqa: F401, PLC0415  (a second that `open_session` need not spend, with samples waiting)

    from streamnode.inference import cpu  # noqa: PLC0415
    from streamnode.inference.engine import Engine  # noqa: PLC0415

    with cpu.usual(1).applied():  # the sums that check them are short: on a busy machine threads wait, for seconds
        loaded = load_weights(model)
    return Engine(
        loaded,
        device=model.device,
        precision=model.precision,
        threads=model.threads,
        compile=model.compile,
        max_batch=model.max_batch,
    )


def load_weights(model: ModelConfig) -> LoadedModel:
    """The model with the weights the configuration asks for. Raises `WeightsError` or `ConfigError`."""
    from streamnode.models import catalog  # noqa: PLC0415

    name, options = model_name(model), model.load_options
    return catalog.load(name, model.weights, revision=model.revision, sha256=model.sha256, **options)


def model_name(model: ModelConfig) -> str:
    """Name in the catalog."""
    return f"{model.kind}-{model.variant}"


class Processing(Protocol):
    """What makes results of samples: the part of a `NodeConfig` that recordings have too."""

    @property
    def node(self) -> NodeSection: ...  # noqa: D102
    @property
    def epoch(self) -> EpochConfig: ...  # noqa: D102
    @property
    def signal(self) -> SignalConfig: ...  # noqa: D102
    @property
    def model(self) -> ModelConfig: ...  # noqa: D102


def open_session(
    config: Processing, engine: Engine, info: StreamInfo, first_seq: int = 0, *, without: Sequence[str] = ()
) -> Session:
    """Signal path, guard and bound model for a stream. Raises `ContractError` if stream and model do not fit.

    Args:
        config: what happens to it.
        engine: the model.
        info: the stream.
        first_seq: number of the first epoch.
        without: channels that the model will not see in any epoch.
    """
    from streamnode.inference.reuse import PatchCache  # noqa: PLC0415

    signal = config.signal
    path = signal_path(config, engine.spec, info, first_seq, without=without)
    if signal.bad_channels == "interpolate":
        interpolation_matrix(path.info.montage, ())  # refuses channels without a place now, not when one goes bad
    horizon_s = config.epoch.duration_s + path.delay_s + (_LATE_MARKER_S if config.epoch.markers else 0.0)
    line_hz, least = _notch_hz(config, info), least_good(engine.spec)
    guard = Guard(info, path.info, signal.bad_channels, horizon_s=horizon_s, line_hz=line_hz, least=least)
    model = engine.bind(
        path.info.montage, config.model.outputs, duration_s=config.epoch.duration_s, **config.model.bind_options
    )
    meta = _describe(config, path, model, info)
    stride, reuse = _reuse(config, engine.spec, engine.patch_stride)
    patches = None if stride is None else PatchCache(stride)
    feed = Feed(model, meta.hop_s, config.epoch.deadline_s, patches, engine.max_batch)
    return Session(info, path, guard, feed, meta, _pace(config, model), reuse)


def least_good(spec: ModelSpec) -> int:
    """How many channels a model must see; the average reference of one, which such a model takes, leaves nothing."""
    return 2 if spec.rebuilds else 1


def _pace(config: Processing, model: BoundModel) -> Pace | None:
    """Decides how many steps of a sampler each epoch has, where fewer are allowed."""
    zuna, epoch = config.model, config.epoch
    if not isinstance(zuna, ZunaConfig) or zuna.min_steps is None or "reconstruction" not in zuna.outputs:
        return None
    cost = model.cost(epoch.duration_s, min(zuna.steps, _TELLING_STEPS))
    return Pace(cost, steps=zuna.steps, floor=zuna.min_steps, hop_s=epoch.hop_s)


def _reuse(config: Processing, spec: ModelSpec, stride: int | None) -> tuple[int | None, str]:
    """Whether epochs pass on to the next the patches that they share: the stride if so, and the same in words.

    Args:
        config: how epochs are cut and filtered.
        spec: of the model.
        stride: samples from one patch to the next; None where a model does not look at each patch alone.
    """
    if stride is None:
        return None, ""
    n_times, hop = _n_times(config.epoch, spec), _hop(config.epoch, spec)
    n_patches, n_new = 1 + (n_times - spec.patch) // stride, hop // stride
    if config.epoch.markers is not None:
        why_not = "those around markers overlap by chance only"
    elif config.signal.mode != "causal":
        why_not = f"signal.mode {config.signal.mode} prepares the samples of each anew, which causal does not"
    elif hop % stride:
        why_not = (
            f"epoch.hop_s is no multiple of the {stride / spec.sfreq:g} s between patches, "
            f"as {max(1, round(hop / stride)) * stride / spec.sfreq:g} s is"
        )
    elif n_new >= n_patches:
        why_not = "no two of them overlap by a patch"
    else:
        return stride, f"{n_new} of {n_patches} patches of an epoch are computed, the others known from the one before"
    return None, f"every epoch is computed whole: {why_not}"


def signal_path(
    config: Processing, spec: ModelSpec, info: StreamInfo, first_seq: int = 0, *, without: Sequence[str] = ()
) -> EpochStream:
    """From chunks of a stream to epochs of a model, as of `open_session`."""
    signal, epoch = config.signal, config.epoch
    n_times, counting = _n_times(epoch, spec), _counting(config, info, without)
    wishes: Wishes = {
        "picks": signal.picks,
        "reference": signal.reference,
        "bipolar": _pairs(signal.bipolar),
        "l_freq": signal.l_freq,
        "h_freq": signal.h_freq,
        "notch_hz": _notch_hz(config, info),
    }
    if epoch.markers is not None:
        labels, tmin_s = epoch.markers.labels, epoch.markers.tmin_s
        return build_marker_epochs(
            info,
            spec,
            labels=labels,
            tmin_s=tmin_s,
            n_times=n_times,
            clock=clock,
            first_seq=first_seq,
            counting=counting,
            **wishes,
        )
    return build_epochs(
        info,
        spec,
        signal.mode,
        n_times=n_times,
        hop=_hop(epoch, spec),
        clock=clock,
        first_seq=first_seq,
        margin_s=signal.margin_s,
        lookahead_s=signal.lookahead_s or 0.0,
        counting=counting,
        **wishes,
    )


def _counting(config: Processing, info: StreamInfo, without: Sequence[str]) -> Counting | None:
    """Whose standard deviation epochs take along: v1 of ZUNA is to divide by that of a whole recording, if not told."""
    model = config.model
    if not isinstance(model, ZunaConfig) or model.variant != "v1" or model.std_uv is not None:
        return None
    return Counting(tuple(without), config.signal.bad_channels != "keep", _notch_hz(config, info))


def check(config: NodeConfig) -> Iterator[str]:
    """What can be told of a configuration without opening a stream, a line each.

    Raises:
        StreamnodeError: the first thing that would keep the node from running.
    """
    from streamnode.inference.reuse import stride_of  # noqa: PLC0415
    from streamnode.models import catalog  # noqa: PLC0415

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
    for sink in config.sinks:
        if isinstance(sink, MqttSinkConfig) and sink.password is not None:
            sink.password.resolve()
    loaded = _check_weights(config.model)
    yield f"model: {loaded.name} from {loaded.info.source}" + (" (untrained)" if loaded.info.untrained else "")
    if reuse := _reuse(config, spec, stride_of(loaded.model))[1]:
        yield f"epochs: {reuse}"


def declared_stream(config: NodeConfig, source: SourceConfig, spec: ModelSpec) -> StreamInfo | None:
    """A stream as far as the configuration itself tells its channels; None if it does not."""
    match source:
        case ReplaySourceConfig(file=file):
            return read(file).info
        case SyntheticSourceConfig():
            return _synthetic(source).info
    pairs = _pairs(config.signal.bipolar)
    electrodes = list(dict.fromkeys(name for pair in pairs for name in clean_name(pair).split("-"))) if pairs else None
    names = config.signal.picks or electrodes
    if names is None:
        return None
    return StreamInfo("declared", "", "EEG", spec.sfreq, make_montage(names))


def _check_weights(model: ModelConfig) -> LoadedModel:
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
    return loaded


def _describe(config: Processing, path: EpochStream, model: BoundModel, info: StreamInfo) -> OutputMeta:
    return OutputMeta(
        node=config.node.name,
        version=__version__,
        stream=info,
        model=model.name,
        weights=model.weights,
        ch_names=path.info.ch_names,
        sfreq=path.info.sfreq,
        duration_s=config.epoch.duration_s,
        hop_s=0.0 if config.epoch.markers else config.epoch.hop_s,
        delay_s=path.delay_s,
        signal=path.describe(),
        shapes=model.shapes,
        reconstructed=model.reconstructed,
    )


def _synthetic(source: SyntheticSourceConfig) -> SyntheticEeg:
    eeg = SyntheticEeg(source.ch_names or CH_NAMES_64[: source.n_chans or 32], source.sfreq, source.seed)
    eeg.info = replace(eeg.info, name=source.label or eeg.info.name)
    return eeg


def _notch_hz(config: Processing, info: StreamInfo) -> float | None:
    """Mains frequency to remove from a stream."""
    return info.mains_hz if config.signal.notch_hz == "auto" else config.signal.notch_hz


def _pairs(bipolar: str | tuple[str, ...] | None) -> tuple[str, ...] | None:
    return BIPOLAR_MONTAGES[bipolar] if isinstance(bipolar, str) else bipolar


def _n_times(epoch: EpochConfig, spec: ModelSpec) -> int:
    return _whole_samples("epoch.duration_s", epoch.duration_s, spec, spec.patch)


def _hop(epoch: EpochConfig, spec: ModelSpec) -> int:
    return _whole_samples("epoch.hop_s", epoch.hop_s, spec)


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
