"""The ends of a node: where its samples come from, and where its results go."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

from streamnode.build.session import clock
from streamnode.config import (
    AlignedSourceConfig,
    EpochConfig,
    LslEegSinkConfig,
    LslSinkConfig,
    LslSourceConfig,
    MarkersConfig,
    MqttSinkConfig,
    NodeConfig,
    ReplaySourceConfig,
    SinkConfig,
    SourceConfig,
    SyntheticSourceConfig,
    ZunaConfig,
)
from streamnode.metrics import Metrics
from streamnode.sinks.lsl import LslSink
from streamnode.sinks.lsl_eeg import EegSink
from streamnode.sinks.mqtt import MqttSink
from streamnode.sources.aligned import AlignedSource
from streamnode.sources.listening import ListeningSource
from streamnode.sources.lsl import LslQuery, LslSource
from streamnode.sources.lsl_markers import LslMarkers
from streamnode.sources.replay import ReplaySource, read
from streamnode.sources.synthetic import CH_NAMES_64, SyntheticEeg, SyntheticSource
from streamnode.types import MarkerSource, Sink, Source

_WAITING_UNDER_ALL = 64  # epochs that may wait for inference under policy `all`
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
            return lambda _: ReplaySource(recording, clock=clock, speed=speed, loop=replay.loop, metrics=metrics)
        case SyntheticSourceConfig() as synthetic:
            eeg = synthetic_eeg(synthetic)
            return lambda _: SyntheticSource(eeg, clock=clock, duration_s=synthetic.duration_s, metrics=metrics)
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


def synthetic_eeg(source: SyntheticSourceConfig) -> SyntheticEeg:
    """What a source of made-up EEG plays."""
    eeg = SyntheticEeg(source.ch_names or CH_NAMES_64[: source.n_chans or 32], source.sfreq, source.seed)
    eeg.info = replace(eeg.info, name=source.label or eeg.info.name)
    return eeg


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
