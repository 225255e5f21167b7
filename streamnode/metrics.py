"""Every counter, gauge and histogram of a node, declared in one place, and the latest timings one by one.

Names follow `streamnode_<what>_<unit>[_total]`. A drop is always counted with its reason:

    epochs   superseded   a newer epoch replaced one that had not been started
             backlog      too many epochs waited
             late         its deadline was over before its turn came
             bad_channels the policy forbids to infer it
             not_finite   a sample was not a number, and the policy does not mend that; or what the model made of it
             pace         it waited too long for a model that draws step by step
    outputs  sink_full    a sink could not keep up
             sink_error   a sink was offline or refused
             stopped      a sink had not taken them when the node was stopped
    samples  reader_full  the node itself was too slow to take them from the reader thread
             stale        they came twice, or after later ones: their time had already been accounted for
             unpartnered  another stream that this one is aligned with had nothing for their time
    markers  before_run   the epoch would begin before the samples do
             run_ended    the samples ended, or had a gap, before the epoch did
             too_late     the marker came when its samples were no longer kept
             backlog      too many were ahead of their samples
             not_finite   the marker has no time

Samples that never came are `lost` (reason `gap`). Every sample is in one account: `received + lost` is what the source
took, plus what was `stale`; `received - dropped` is what passed on.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from streamnode.types import Trace

_LATENCY_BUCKETS = (
    0.0005,
    0.001,
    0.002,
    0.003,
    0.005,
    0.0075,
    0.01,
    0.015,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1.0,
    2.5,
    5.0,
)

_BATCH_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128)
_RECENT = 4096


class Metrics:
    """All instruments of one node, on a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        r = self.registry
        self.connected = Gauge("streamnode_source_connected", "1 while samples can arrive", ["stream"], registry=r)
        self.stalls = Counter("streamnode_source_stalls_total", "Unusual silences of a source", ["stream"], registry=r)
        self.reconnects = Counter(
            "streamnode_source_reconnects_total", "Times a lost source came back", ["stream"], registry=r
        )
        self.runs = Gauge("streamnode_source_run", "Number of the current run of samples", ["stream"], registry=r)
        self.clock_offset = Gauge(
            "streamnode_source_clock_offset_seconds", "Clock offset added to LSL stamps", ["stream"], registry=r
        )
        self.synchronised = Gauge(
            "streamnode_source_synchronised",
            "1 while the source's clock answers and its stamps are on it; 0: times are by arrival or as sent",
            ["stream"],
            registry=r,
        )
        self.drift = Gauge(
            "streamnode_source_drift_ppm", "How much slower than nominal the source samples", ["stream"], registry=r
        )
        self.jitter = Gauge(
            "streamnode_source_jitter_seconds", "Standard deviation of stamps, by chunk", ["stream"], registry=r
        )
        self.samples = Counter("streamnode_samples_received_total", "Samples received", ["stream"], registry=r)
        self.samples_dropped = Counter(
            "streamnode_samples_dropped_total", "Samples lost inside the node", ["stream", "reason"], registry=r
        )
        self.samples_lost = Counter(
            "streamnode_samples_lost_total", "Samples that never came, by the stamps", ["stream", "reason"], registry=r
        )
        self.markers_dropped = Counter(
            "streamnode_markers_dropped_total", "Markers that got no epoch", ["stream", "reason"], registry=r
        )
        self.epochs = Counter("streamnode_epochs_total", "Epochs cut", ["stream"], registry=r)
        self.epochs_dropped = Counter(
            "streamnode_epochs_dropped_total", "Epochs not inferred", ["stream", "reason"], registry=r
        )
        self.inferred = Counter(
            "streamnode_epochs_inferred_total", "Epochs that passed the model", ["stream"], registry=r
        )
        self.inference = Histogram(
            "streamnode_inference_seconds", "Forward pass of one batch", ["model"], buckets=_LATENCY_BUCKETS, registry=r
        )
        self.batch = Histogram(
            "streamnode_batch_epochs", "Epochs in one forward pass", ["model"], buckets=_BATCH_BUCKETS, registry=r
        )
        self.batch_wait = Histogram(
            "streamnode_batch_wait_seconds",
            "How long a pass waited for epochs of other streams",
            ["model"],
            buckets=_LATENCY_BUCKETS,
            registry=r,
        )
        self.pace = Counter(
            "streamnode_pace_epochs_total", "What became of epochs that were paced", ["stream", "action"], registry=r
        )
        self.pace_steps = Gauge(
            "streamnode_pace_steps", "Steps of the sampler that the latest epoch had", ["stream"], registry=r
        )
        self.overhead = Histogram(
            "streamnode_overhead_seconds",
            "Last sample arrived to result taken by the sink, less the forward pass and those of others before it",
            ["stream", "sink"],
            buckets=_LATENCY_BUCKETS,
            registry=r,
        )
        self.wait = Histogram(
            "streamnode_wait_seconds",
            "Last sample arrived to result taken by the sink, less the forward pass",
            ["stream", "sink"],
            buckets=_LATENCY_BUCKETS,
            registry=r,
        )
        self.latency = Histogram(
            "streamnode_latency_seconds",
            "Time of the last sample to result taken by the sink",
            ["stream", "sink"],
            buckets=_LATENCY_BUCKETS,
            registry=r,
        )
        self.published = Counter("streamnode_outputs_published_total", "Results a sink took", ["sink"], registry=r)
        self.outputs_dropped = Counter(
            "streamnode_outputs_dropped_total", "Results a sink did not take", ["sink", "reason"], registry=r
        )
        self.sink_connected = Gauge(
            "streamnode_sink_connected", "1 while the sink can take results", ["sink"], registry=r
        )

    def account(self, stream: str) -> dict[str, int]:
        """What became of the samples of a stream, by the names of the counters."""
        counters = {"received": self.samples, "lost": self.samples_lost, "dropped": self.samples_dropped}
        return {name: _total(counter, stream) for name, counter in counters.items()}


def _total(counter: Counter, stream: str) -> int:
    """Over all reasons."""
    samples = (sample for metric in counter.collect() for sample in metric.samples)
    return int(sum(s.value for s in samples if s.name.endswith("_total") and s.labels.get("stream") == stream))


class Recent:
    """The latest 4096 of some figures, in as much memory from the first on as they ever take."""

    def __init__(self) -> None:
        self._values, self._n = array("d", bytes(8 * _RECENT)), 0

    def append(self, value: float) -> None:
        """Add one; the oldest gives way."""
        self._values[self._n % _RECENT] = value
        self._n += 1

    def __iter__(self) -> Iterator[float]:
        """All of them, in no order."""
        return iter(self._values[: self._n])


@dataclass(frozen=True, slots=True)
class Timings:
    """How long the latest results took to one sink, seconds; `Trace` tells what each is.

    Attributes:
        t_published: when the sink had taken each, LSL time.
        latencies_s: the whole way of each, in the same order.
        waits_s: the same without the window and the forward pass.
        overheads_s: and without the passes of others that it waited for.
    """

    t_published: Recent = field(default_factory=Recent)
    latencies_s: Recent = field(default_factory=Recent)
    waits_s: Recent = field(default_factory=Recent)
    overheads_s: Recent = field(default_factory=Recent)

    def add(self, trace: Trace) -> None:
        """Take note of one more."""
        self.t_published.append(trace.t_published)
        self.latencies_s.append(trace.latency_s)
        self.waits_s.append(trace.wait_s)
        self.overheads_s.append(trace.overhead_s)
