"""The YAML file that describes a node: `load` reads it, `schema` hands it to editors."""

from streamnode.config.load import load
from streamnode.config.tree import (
    AlignedSourceConfig,
    EpochConfig,
    LslSinkConfig,
    LslSourceConfig,
    LunaConfig,
    MarkersConfig,
    ModelConfig,
    MqttSinkConfig,
    NodeConfig,
    ReplaySourceConfig,
    Secret,
    SinkConfig,
    SourceConfig,
    SyntheticSourceConfig,
    schema,
    write_schema,
)

__all__ = [
    "AlignedSourceConfig",
    "EpochConfig",
    "LslSinkConfig",
    "LslSourceConfig",
    "LunaConfig",
    "MarkersConfig",
    "ModelConfig",
    "MqttSinkConfig",
    "NodeConfig",
    "ReplaySourceConfig",
    "Secret",
    "SinkConfig",
    "SourceConfig",
    "SyntheticSourceConfig",
    "load",
    "schema",
    "write_schema",
]
