"""The YAML file that describes a node: `load` reads it, `schema` hands it to editors."""

from streamnode.config.load import load
from streamnode.config.models import EegDinoConfig, EegptConfig, LunaConfig, ModelConfig, ZunaConfig
from streamnode.config.sinks import LslEegSinkConfig, LslSinkConfig, MqttSinkConfig, Secret, SinkConfig
from streamnode.config.sources import (
    AlignedSourceConfig,
    LslSourceConfig,
    MarkersConfig,
    ReplaySourceConfig,
    SourceConfig,
    SyntheticSourceConfig,
)
from streamnode.config.tree import EpochConfig, NodeConfig, NodeSection, SignalConfig, schema, write_schema

__all__ = [
    "AlignedSourceConfig",
    "EegDinoConfig",
    "EegptConfig",
    "EpochConfig",
    "LslEegSinkConfig",
    "LslSinkConfig",
    "LslSourceConfig",
    "LunaConfig",
    "MarkersConfig",
    "ModelConfig",
    "MqttSinkConfig",
    "NodeConfig",
    "NodeSection",
    "ReplaySourceConfig",
    "Secret",
    "SignalConfig",
    "SinkConfig",
    "SourceConfig",
    "SyntheticSourceConfig",
    "ZunaConfig",
    "load",
    "schema",
    "write_schema",
]
