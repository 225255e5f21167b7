"""From a `NodeConfig` to live objects: the only place that asks of what `kind` anything is."""

from streamnode.build.ends import backlog, build_sinks, marker_opener, rebuilds, source_opener
from streamnode.build.session import (
    Processing,
    clock,
    least_good,
    load_engine,
    load_weights,
    open_session,
    signal_path,
)

__all__ = [
    "Processing",
    "backlog",
    "build_sinks",
    "clock",
    "least_good",
    "load_engine",
    "load_weights",
    "marker_opener",
    "open_session",
    "rebuilds",
    "signal_path",
    "source_opener",
]
