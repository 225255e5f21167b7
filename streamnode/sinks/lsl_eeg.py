"""The reconstruction of a model as a live EEG stream of Lab Streaming Layer: regular, continuous, stamped truly.

Epochs are joined by `streamnode.signal.overlap`. Beside the samples goes a stream of flags: which channels are rebuilt.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import pylsl

from streamnode.errors import ConfigError, SinkError
from streamnode.metrics import Metrics
from streamnode.signal.filters import BoolArray
from streamnode.signal.overlap import Block, OverlapAdd
from streamnode.sinks.lsl import BUFFERED, append_channel, append_provenance, append_values, describe_eeg
from streamnode.types import ModelOutput, Montage, OutputMeta, StreamInfo


class EegSink:
    """Implements `Sink`: all channels of the reconstruction as a stream of type EEG, and which of them are rebuilt.

    The stream has the rate of the model and its delay is declared: a sample leaves when an epoch has been inferred that
    ends `blend_s` or more after it. The newest `blend_s` before a gap follow when there is an epoch behind it.
    The stream `<name>-rebuilt`, of type Quality, has a 0 or 1 for each channel: a row goes out with every block of
    samples, and another wherever flags change within it. A row holds from its stamp on, until the next row.

    Args:
        name: of the stream.
        node: name of the node.
        metrics: instruments of the node.
        blend_s: how long one epoch fades into the next.
        keeps_known: whether the model returns good channels as they were measured; if not, all count as rebuilt.
    """

    def __init__(
        self, name: str, *, node: str, metrics: Metrics, blend_s: float = 0.25, keeps_known: bool = True
    ) -> None:
        self._stream_name = name
        self._node = node
        self._metrics = metrics
        self._blend_s = blend_s
        self._keeps_known = keeps_known
        self._announced: OutputMeta | None = None
        self._live: _Live | None = None

    @property
    def name(self) -> str:
        """Such as `lsl:lab-3-eeg`."""
        return f"lsl:{self._stream_name}"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._metrics.sink_connected.labels(self.name).set(0)
        await asyncio.to_thread(self._close)

    def _close(self) -> None:
        self._live = None  # with what is held: liblsl does not deliver what is pushed just before the end

    async def announce(self, meta: OutputMeta) -> None:
        """Open the outlets, or open them anew if anything but the run of the source has changed.

        Raises:
            ConfigError: there is no reconstruction, or its epochs cannot be joined.
        """
        lasting = replace(meta, stream=replace(meta.stream, uid=""))
        if lasting == self._announced:
            return
        await asyncio.to_thread(self._open, meta, self._montage_of(meta))
        self._announced = lasting
        self._metrics.sink_connected.labels(self.name).set(1)

    def _montage_of(self, meta: OutputMeta) -> Montage:
        """The channels to publish."""
        if meta.reconstructed is None:
            raise ConfigError(
                f"sink {self.name} publishes the reconstruction, which {meta.model} does not yield here: add "
                "reconstruction to model.outputs"
            )
        if not meta.hop_s:
            raise ConfigError(
                f"sink {self.name} makes one signal of all epochs, which those around markers are not: leave out "
                "epoch.markers, or this sink"
            )
        shared_s = max(0.0, meta.duration_s - meta.hop_s)
        if round(self._blend_s * meta.sfreq) > round(shared_s * meta.sfreq):
            raise ConfigError(
                f"sink {self.name} fades over {self._blend_s:g} s, but epochs of {meta.duration_s:g} s every "
                f"{meta.hop_s:g} s share only {shared_s:g} s: make blend_s or epoch.hop_s shorter"
            )
        return meta.reconstructed

    def _open(self, meta: OutputMeta, montage: Montage) -> None:
        self._close()  # first, for two streams with one source id confuse the receivers
        n_chans, n_times = meta.shapes["reconstruction"]
        measured = meta.ch_names if self._keeps_known else ()
        self._live = _Live(
            eeg=pylsl.StreamOutlet(self._describe_eeg(meta, montage)),
            flags=pylsl.StreamOutlet(self._describe_flags(meta, montage), 0, BUFFERED),
            joined=OverlapAdd(n_chans, n_times, round(self._blend_s * meta.sfreq), meta.sfreq),
            shape=(n_chans, n_times),
            hop=round(meta.hop_s * meta.sfreq),
            sfreq=meta.sfreq,
            ch_names=montage.ch_names,
            measured=frozenset(measured),
        )

    def _describe_eeg(self, meta: OutputMeta, montage: Montage) -> pylsl.StreamInfo:
        info = describe_eeg(StreamInfo(self._stream_name, self._source_id("eeg"), "EEG", meta.sfreq, montage))
        self._append_origin(info, "reconstruction", "time of each sample", meta)
        return info

    def _describe_flags(self, meta: OutputMeta, montage: Montage) -> pylsl.StreamInfo:
        info = pylsl.StreamInfo(
            f"{self._stream_name}-rebuilt",
            "Quality",
            montage.n_chans,
            pylsl.IRREGULAR_RATE,
            pylsl.cf_int8,
            source_id=self._source_id("rebuilt"),
        )
        channels = info.desc().append_child("channels")
        for name in montage.ch_names:
            append_channel(channels, f"rebuilt/{name}", kind="quality", unit="none")
        self._append_origin(info, "rebuilt", "time of the first sample that the flags hold for", meta)
        return info

    def _append_origin(self, info: pylsl.StreamInfo, output: str, stamps: str, meta: OutputMeta) -> None:
        """How the numbers came about, and how late they are."""
        # after a dropped epoch or a gap, pyxdf must not fit one line through the stamps before and behind it
        append_values(info.desc().append_child("synchronization"), {"can_drop_samples": "true"})
        block = info.desc().append_child("streamnode")
        append_provenance(block, output, meta, stamps)
        at_most_s = meta.delay_s + self._blend_s + meta.hop_s  # and the time the model takes
        append_values(block, {"blend_s": self._blend_s, "lag_s": at_most_s})

    def _source_id(self, what: str) -> str:
        return f"streamnode:{self._node}:{self._stream_name}:{what}"

    async def publish(self, output: ModelOutput) -> None:
        """Send the samples that this epoch finishes.

        Raises:
            SinkError: there is no reconstruction, or not of the announced shape, so nothing was sent.
        """
        live, drawn = self._live, output.reconstruction
        if live is None or drawn is None or drawn.shape != live.shape:
            raise SinkError(
                f"sink {self.name}: the reconstruction of epoch {output.seq} is not what was announced: announce again"
            )
        # Epochs are numbered as they are cut: a hop apart to the sample, also where the clocks drift or some are gone.
        start, rebuilt = output.seq * live.hop, live.rebuilt_in(output)
        live.send(live.joined.add(drawn, start=start, t0=output.t0, run=output.run, rebuilt=rebuilt))
        self._metrics.published.labels(self.name).inc()


@dataclass(frozen=True, slots=True)
class _Live:
    """Open outlets, and what one description settles.

    Attributes:
        eeg: samples.
        flags: which channels are rebuilt.
        joined: the epochs so far.
        shape: of a reconstruction.
        hop: samples from one epoch to the next.
        sfreq: Hz.
        ch_names: rows of a reconstruction.
        measured: those that come through as they were measured, unless they are bad.
    """

    eeg: pylsl.StreamOutlet
    flags: pylsl.StreamOutlet
    joined: OverlapAdd
    shape: tuple[int, int]
    hop: int
    sfreq: float
    ch_names: tuple[str, ...]
    measured: frozenset[str]

    def rebuilt_in(self, output: ModelOutput) -> BoolArray:
        """`(n_chans,)`, true for what an epoch does not have from its electrode."""
        kept = self.measured.difference(output.bad_channels)
        return np.array([name not in kept for name in self.ch_names])

    def send(self, blocks: list[Block]) -> None:
        """Publish finished samples, their flags first."""
        for block in blocks:
            changes = 1 + np.flatnonzero((block.rebuilt[1:] != block.rebuilt[:-1]).any(axis=1))
            rows = np.concatenate(([0], changes))
            self.flags.push_chunk(block.rebuilt[rows], (block.t0 + rows / self.sfreq).tolist())
            self.eeg.push_chunk(block.data, block.t0 + (len(block.data) - 1) / self.sfreq)
