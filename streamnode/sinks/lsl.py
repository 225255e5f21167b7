"""Outlets of Lab Streaming Layer: results of a node as streams, and the EEG and markers of a replayed recording.

Streams describe themselves as the XDF conventions ask (github.com/sccn/xdf/wiki/Meta-Data), with a `streamnode` block
that says how the numbers came about. Results are irregular streams: an epoch may be dropped, and a nominal rate would
invite receivers to smooth the hole away.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from itertools import product
from typing import Literal, Self

import numpy as np
import pylsl

from streamnode.errors import ConfigError, SinkError
from streamnode.metrics import Metrics
from streamnode.types import FloatArray, ModelOutput, OutputMeta, OutputName, StreamInfo

_AXES: dict[OutputName, tuple[str, ...]] = {
    "embedding": ("e",),
    "tokens": ("token", "d"),
    "logits": ("class",),
    "reconstruction": ("channel", "t"),
    "attention": ("patch", "q", "channel"),
}
_QUALITY = ("received", "lost", "dropped", "seq", "run", "n_missing", "settling")
BUFFERED = 5  # in hundreds of samples, as liblsl counts for irregular streams: what a slow receiver may lag behind


class EegOutlet:
    """Publishes a regular EEG stream while its `with` block is open.

    Args:
        info: name, ids, rate, channels and positions to announce.
        chunk_size: samples sent together; 0 sends each push as it is.
        unit: unit that the pushed values are in, announced for every channel.
    """

    def __init__(self, info: StreamInfo, *, chunk_size: int = 0, unit: str = "microvolts") -> None:
        self._outlet = pylsl.StreamOutlet(describe_eeg(info, unit), chunk_size)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        del self._outlet  # liblsl closes an outlet when it is destroyed

    @property
    def have_consumers(self) -> bool:
        """Whether anyone is connected; what is pushed before that is lost."""
        return bool(self._outlet.have_consumers())

    def wait_for_consumers(self, timeout_s: float) -> bool:
        """Block until anyone is connected; False if nobody came in time."""
        return bool(self._outlet.wait_for_consumers(timeout_s))

    def push(self, data: FloatArray, t_last: float) -> None:
        """Send samples `(n_times, n_chans)`, the last of which was taken at `t_last` on the LSL clock."""
        self._outlet.push_chunk(data, t_last)


class MarkersOutlet:
    """Publishes events as an irregular stream of strings while its `with` block is open."""

    def __init__(self, name: str, source_id: str) -> None:
        info = pylsl.StreamInfo(name, "Markers", 1, pylsl.IRREGULAR_RATE, pylsl.cf_string, source_id=source_id)
        self._outlet = pylsl.StreamOutlet(info)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        del self._outlet

    def push(self, label: str, t: float) -> None:
        """Send an event that happened at `t` on the LSL clock."""
        self._outlet.push_sample([label], t)


class LslSink:
    """Implements `Sink`: one outlet for each published output, one sample for each epoch.

    A sample is the output flattened in C order and carries the time of the epoch's last sample. The stream is called
    `name`, or `name-embedding` and so on when there are several; its source id stays the same over restarts.

    Args:
        name: of the stream.
        node: name of the node.
        outputs: what to publish.
        metrics: instruments of the node.
        quality: also publish `<name>-quality`, a stream of type Quality: how many samples were received, lost and
            dropped so far, what is known of the epoch, and which channels were bad.
    """

    def __init__(
        self, name: str, *, node: str, outputs: tuple[OutputName, ...], metrics: Metrics, quality: bool = False
    ) -> None:
        self._stream_name = name
        self._node = node
        self._outputs = outputs
        self._metrics = metrics
        self._announced: OutputMeta | None = None
        self._outlets: dict[OutputName, pylsl.StreamOutlet] = {}
        self._with_quality = quality
        self._quality: pylsl.StreamOutlet | None = None

    @property
    def name(self) -> str:
        """Such as `lsl:lab-3-luna`."""
        return f"lsl:{self._stream_name}"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._metrics.sink_connected.labels(self.name).set(0)
        await asyncio.to_thread(self._close)

    def _close(self) -> None:
        self._outlets.clear()
        self._quality = None

    async def announce(self, meta: OutputMeta) -> None:
        """Open the outlets, or open them anew if anything but the run of the source has changed.

        A source that merely reconnects leaves the receivers undisturbed.

        Raises:
            ConfigError: an output to publish is not among what the model yields.
        """
        lasting = replace(meta, stream=replace(meta.stream, uid=""))
        if lasting == self._announced:
            return
        if missing := [name for name in self._outputs if name not in meta.shapes]:
            raise ConfigError(
                f"sink {self.name} is to publish {', '.join(missing)}, but {meta.model} yields only "
                f"{', '.join(meta.shapes)}: change `outputs`"
            )
        await asyncio.to_thread(self._open, meta)  # thousands of labels take some 50 ms
        self._announced = lasting
        self._metrics.sink_connected.labels(self.name).set(1)

    def _open(self, meta: OutputMeta) -> None:
        self._close()  # first, for two streams with one source id confuse the receivers
        for output in self._outputs:
            rows = meta.reconstructed if output == "reconstruction" else None
            labels = channel_labels(output, meta.shapes[output], meta.ch_names if rows is None else rows.ch_names)
            self._outlets[output] = pylsl.StreamOutlet(self._describe(output, labels, meta), 0, BUFFERED)
        if self._with_quality:
            labels = [*_QUALITY, *(f"bad/{name}" for name in meta.ch_names)]
            self._quality = pylsl.StreamOutlet(self._describe("quality", labels, meta), 0, BUFFERED)

    def _describe(
        self, output: OutputName | Literal["quality"], labels: list[str], meta: OutputMeta
    ) -> pylsl.StreamInfo:
        info = pylsl.StreamInfo(
            self._stream_name if self._outputs == (output,) else f"{self._stream_name}-{output}",
            "Quality" if output == "quality" else "Features",
            len(labels),
            pylsl.IRREGULAR_RATE,
            pylsl.cf_double64 if output == "quality" else pylsl.cf_float32,  # samples are counted for months
            source_id=f"streamnode:{self._node}:{self._stream_name}:{output}",
        )
        channels = info.desc().append_child("channels")
        unit = "microvolts" if output == "reconstruction" else "none"
        for label in labels:
            append_channel(channels, label, kind=output, unit=unit)
        # pyxdf then keeps the stamps as they are instead of fitting a line through them
        append_values(info.desc().append_child("synchronization"), {"can_drop_samples": "true"})
        append_provenance(info.desc().append_child("streamnode"), output, meta)
        return info

    async def publish(self, output: ModelOutput) -> None:
        """Send one epoch's results, stamped with the time of its last sample.

        Raises:
            SinkError: an output is absent or not of the announced size, so nothing was sent.
        """
        arrays = output.arrays()
        for name in self._outputs:
            if (
                name not in arrays
                or name not in self._outlets
                or arrays[name].size != self._outlets[name].channel_count
            ):
                raise SinkError(
                    f"sink {self.name}: {name} of epoch {output.seq} is not what was announced: announce again"
                )
        for name, outlet in self._outlets.items():
            # one row, for `push_sample` would first make a list of it: 20 times slower at 8192 values
            outlet.push_chunk(arrays[name].reshape(1, -1), output.t_last)
        if self._quality is not None and self._announced is not None:
            row = self._quality_of(output, self._announced.ch_names)
            self._quality.push_sample(row, output.t_last)
        self._metrics.published.labels(self.name).inc()

    def _quality_of(self, output: ModelOutput, ch_names: tuple[str, ...]) -> list[float]:
        """A row of the quality stream, as `_QUALITY` and the channels name it."""
        account = self._metrics.account(output.stream)
        of_epoch = {"seq": output.seq, "run": output.run, "n_missing": output.n_missing, "settling": output.settling}
        values = {**account, **of_epoch}
        return [*(float(values[name]) for name in _QUALITY), *(float(name in output.bad_channels) for name in ch_names)]


def channel_labels(output: OutputName, shape: tuple[int, ...], ch_names: tuple[str, ...]) -> list[str]:
    """A label for each value of an output in C order, such as `e0`, `token3/d17` or `patch0/q0/Fp1`."""
    prefixes = _AXES[output] if len(_AXES[output]) == len(shape) else ("i",) * len(shape)
    axes = [
        ch_names if prefix == "channel" and size == len(ch_names) else [f"{prefix}{i}" for i in range(size)]
        for prefix, size in zip(prefixes, shape, strict=True)
    ]
    return ["/".join(label) for label in product(*axes)]


def describe_eeg(info: StreamInfo, unit: str = "microvolts") -> pylsl.StreamInfo:
    """A regular stream of float32 with label, unit and place in millimetres of each channel."""
    described = pylsl.StreamInfo(
        info.name, info.stype, info.n_chans, info.sfreq, pylsl.cf_float32, source_id=info.source_id
    )
    channels = described.desc().append_child("channels")
    for name, position in zip(info.ch_names, info.montage.ch_pos, strict=True):
        channel = append_channel(channels, name, kind="EEG", unit=unit)
        if np.isfinite(position).all():
            append_values(channel.append_child("location"), dict(zip("XYZ", 1000.0 * position, strict=True)))
    return described


def append_provenance(
    block: pylsl.info.XMLElement, output: str, meta: OutputMeta, stamps: str = "time of the last sample of the epoch"
) -> None:
    """How the numbers came about, for whoever opens the recording in a year; `stamps` is what those mean."""
    append_values(
        block,
        {
            "version": meta.version,
            "node": meta.node,
            "model": meta.model,
            "output": output,
            "shape": ",".join(str(size) for name, shape in meta.shapes.items() if name == output for size in shape),
            "window_s": meta.duration_s,
            "hop_s": meta.hop_s,
            "delay_s": meta.delay_s,
            "sfreq": meta.sfreq,
            "timestamp_meaning": stamps,
        },
    )
    weights = meta.weights
    append_values(
        block.append_child("weights"),
        {
            "source": weights.source,
            "revision": weights.revision,
            "sha256": weights.sha256,
            "untrained": str(weights.untrained).lower(),
            "choices": weights.choices,
        },
    )
    stream = meta.stream
    append_values(
        block.append_child("input"),
        {"name": stream.name, "source_id": stream.source_id, "uid": stream.uid, "sfreq": stream.sfreq},
    )
    for parent, child, texts in (("signal", "step", meta.signal), ("channels", "channel", meta.ch_names)):
        listing = block.append_child(parent)
        for text in texts:
            listing.append_child_value(child, text)


def append_channel(channels: pylsl.info.XMLElement, label: str, *, kind: str, unit: str) -> pylsl.info.XMLElement:
    """Add a channel to a description."""
    channel = channels.append_child("channel")
    append_values(channel, {"label": label, "type": kind, "unit": unit})
    return channel


def append_values(parent: pylsl.info.XMLElement, values: dict[str, str | float]) -> None:
    """Add texts and numbers to a block of a description."""
    for key, value in values.items():
        parent.append_child_value(key, value if isinstance(value, str) else f"{value:.10g}")
