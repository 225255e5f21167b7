"""Every data type and protocol of streamnode; read this file first.

Samples are microvolts, time is float64 seconds on the LSL clock, frequencies are Hz and positions are metres in the
MNE head frame. Conversion to these happens in `sources/` and nowhere else. Sources yield float32, transforms compute
and hand on float64, epochs are float32 again.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol, Self

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.floating[Any]]
Float32Array = NDArray[np.float32]
Float64Array = NDArray[np.float64]
Clock = Callable[[], float]
"""Returns seconds on the LSL clock."""
OutputName = Literal["embedding", "tokens", "logits", "reconstruction", "attention"]
OfflineStep = Literal["band", "notch", "resample"]
Fault = Literal["not_finite", "flat", "railed", "amplitude", "line", "correlation"]
"""Why a channel is bad; `streamnode.signal.quality` says when."""


@dataclass(frozen=True, slots=True, eq=False)
class Montage:
    """Channel names and their positions.

    Attributes:
        ch_names: one name a channel, as cleaned by `streamnode.montage`.
        ch_pos: `(n_chans, 3)` float64 metres, head frame; an unknown electrode is NaN, never a guess.
    """

    ch_names: tuple[str, ...]
    ch_pos: Float64Array

    def __eq__(self, other: object) -> bool:
        """Same names in the same order at the same places."""
        if not isinstance(other, Montage):
            return NotImplemented
        return self.ch_names == other.ch_names and np.array_equal(self.ch_pos, other.ch_pos, equal_nan=True)

    def __hash__(self) -> int:
        """Hash of the names, which all but decide equality."""
        return hash(self.ch_names)

    @property
    def n_chans(self) -> int:
        """Number of channels."""
        return len(self.ch_names)


@dataclass(frozen=True, slots=True)
class StreamInfo:
    """What is known of a stream of samples, at the source or after any transform.

    Attributes:
        name: LSL name of the stream.
        source_id: LSL source id, stable over restarts of the device.
        stype: LSL type, `EEG` for most.
        sfreq: nominal sampling frequency, Hz.
        montage: channels and their positions.
        uid: LSL's id of this one run of the source; empty when there is none.
        mains_hz: mains frequency that was heard in it; None where nobody listened, or there was none.
    """

    name: str
    source_id: str
    stype: str
    sfreq: float
    montage: Montage
    uid: str = ""
    mains_hz: float | None = None

    @property
    def ch_names(self) -> tuple[str, ...]:
        """Channel names in order."""
        return self.montage.ch_names

    @property
    def n_chans(self) -> int:
        """Number of channels."""
        return self.montage.n_chans


@dataclass(frozen=True, slots=True, eq=False)
class Chunk:
    """Consecutive samples, as one pull returned them or as a transform made of them.

    Attributes:
        info: the stream these samples belong to.
        data: `(n_times, n_chans)` microvolts; may have zero rows.
        start: absolute index of the first sample at `info.sfreq`.
        t0: LSL time of the first sample, delays of filters and resampling already subtracted.
        t_arrived: LSL time at which the newest sample reached this process.
        run: changes at every gap or reconnect; state of transforms never crosses it.
        n_missing: samples of this chunk that were filled in, not measured; in a chunk of a source they are the first.
    """

    info: StreamInfo
    data: FloatArray
    start: int
    t0: float
    t_arrived: float
    run: int
    n_missing: int = 0

    @property
    def n_times(self) -> int:
        """Number of samples."""
        return int(self.data.shape[0])

    @property
    def t_last(self) -> float:
        """LSL time of the last sample."""
        return self.t0 + (self.n_times - 1) / self.info.sfreq


@dataclass(frozen=True, slots=True)
class Quality:
    """Which channels are bad, and why.

    Attributes:
        faults: what is wrong with each channel, in the order of the channels; empty for a good one.
    """

    faults: tuple[tuple[Fault, ...], ...]

    @property
    def bad(self) -> tuple[int, ...]:
        """Indices of the bad channels."""
        return tuple(index for index, faults in enumerate(self.faults) if faults)

    def __or__(self, other: Quality) -> Quality:
        """The faults that either found, of the same channels."""
        return Quality(tuple(tuple(dict.fromkeys(a + b)) for a, b in zip(self.faults, other.faults, strict=True)))


@dataclass(frozen=True, slots=True)
class Marker:
    """An event from a stream of markers.

    Attributes:
        label: what happened, in the words of who sent it.
        t: when, LSL time.
    """

    label: str
    t: float


@dataclass(frozen=True, slots=True, eq=False)
class Epoch:
    """A fixed window given to a model. Owns its memory.

    Attributes:
        info: the stream as the model sees it (model rate, model channels).
        data: `(n_chans, n_times)` float32 microvolts.
        seq: number of this epoch since the stream was first opened; never reused.
        start: absolute index of the first sample at `info.sfreq`; within a run, a hop after that of the epoch before.
        t0: LSL time of the first sample.
        t_last: LSL time of the last sample.
        t_arrived: LSL time at which the sample that completed the epoch reached this process.
        t_epoch: LSL time at which the epoch was cut.
        run: the run all its samples belong to.
        n_missing: samples that were filled in, not measured.
        settling: True while the causal filters still ring in from the start of the run, or `std_uv` is of too little.
        quality: which channels are bad; None when nobody looked.
        marker: the event this epoch was cut around; None for epochs cut by hop.
        std_uv: standard deviation of the signal it is part of, all channels together, microvolts; None where no model
            asks for it.
    """

    info: StreamInfo
    data: Float32Array
    seq: int
    start: int
    t0: float
    t_last: float
    t_arrived: float
    t_epoch: float
    run: int
    n_missing: int = 0
    settling: bool = False
    quality: Quality | None = None
    marker: Marker | None = None
    std_uv: float | None = None


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """What a model expects of its input; data, so that the signal chain can be built without torch.

    Attributes:
        name: family name, such as `luna`.
        sfreq: sampling frequency of the input, Hz.
        patch: samples per patch; the window is a whole number of patches.
        durations: window lengths in seconds the model was trained on; others work but are out of distribution.
        ch_names: the fixed channels it needs, or None when any montage will do.
        needs_positions: whether every channel must have a position.
        l_freq: lower edge of the training band, Hz.
        h_freq: upper edge of the training band, Hz.
        notch: whether training data were notched at the mains frequency.
        reference: `as_recorded` or `average`.
        scaling: how `Model.encode` scales an epoch, in words.
        outputs: what the family can yield.
        offline: how its training data were prepared, step by step, each with the defaults of MNE-Python; empty where
            that is not published.
        rebuilds: whether it takes all channels, is told which are bad, and makes them up from the others.
    """

    name: str
    sfreq: float
    patch: int
    durations: tuple[float, ...]
    ch_names: tuple[str, ...] | None
    needs_positions: bool
    l_freq: float
    h_freq: float
    notch: bool
    reference: str
    scaling: str
    outputs: tuple[OutputName, ...]
    offline: tuple[OfflineStep, ...] = ()
    rebuilds: bool = False


@dataclass(frozen=True, slots=True)
class WeightsInfo:
    """Where weights came from; published with every output.

    Attributes:
        source: `hub:<repo>/<file>`, a path or `random:<seed>`.
        revision: the resolved commit of the hub file; empty otherwise.
        sha256: digest of the file; for random weights, of the seeded tensors' source word (empty).
        untrained: True for random weights: nothing they yield means anything.
        choices: what no tensor shows and was chosen, such as `teacher, num_heads=8`; empty where there was no choice.
    """

    source: str
    revision: str = ""
    sha256: str = ""
    untrained: bool = False
    choices: str = ""


@dataclass(frozen=True, slots=True)
class Trace:
    """When an epoch passed each station, LSL seconds.

    Attributes:
        t_last: its last sample was taken.
        t_arrived: and reached the node.
        t_epoch: it was cut.
        t_enqueued: it began to wait for the model.
        t_turn: the model had done with the passes of others that it waited for; `t_enqueued` if there was none.
        t_infer0: its pass began.
        t_infer1: and ended.
        t_published: a sink had taken the result.
    """

    t_last: float
    t_arrived: float
    t_epoch: float
    t_enqueued: float
    t_turn: float
    t_infer0: float
    t_infer1: float
    t_published: float = float("nan")

    @property
    def latency_s(self) -> float:
        """Last sample to result, with the delay of the filters and all else."""
        return self.t_published - self.t_last

    @property
    def wait_s(self) -> float:
        """Last sample arrived to result taken by the sink, less the forward pass."""
        return self.t_published - self.t_arrived - (self.t_infer1 - self.t_infer0)

    @property
    def overhead_s(self) -> float:
        """The same without what was waited for the passes of others: what the node itself adds."""
        return self.wait_s - (self.t_turn - self.t_enqueued)


@dataclass(frozen=True, slots=True, eq=False)
class ModelOutput:
    """What a model said of one epoch (arrays without a batch axis) or, from `encode`, of many (with one).

    Attributes:
        embedding: `(d,)` one vector per epoch.
        tokens: `(n_tokens, d)` the encoder's last hidden states.
        logits: `(n_classes,)`.
        reconstruction: `(n_chans, n_times)` microvolts.
        attention: model-specific; LUNA: `(n_patches, n_queries, n_chans)`.
        untrained: True when the weights are random.
        bad_channels: names of the channels that were bad in this epoch, whatever was done about them.
        marker: the event the epoch was cut around; None for epochs cut by hop.
    """

    model: str
    stream: str
    seq: int
    run: int
    t0: float
    t_last: float
    n_missing: int = 0
    settling: bool = False
    untrained: bool = False
    embedding: Float32Array | None = None
    tokens: Float32Array | None = None
    logits: Float32Array | None = None
    reconstruction: Float32Array | None = None
    attention: Float32Array | None = None
    trace: Trace | None = None
    bad_channels: tuple[str, ...] = ()
    marker: Marker | None = None

    def with_arrays(self, arrays: Mapping[OutputName, Float32Array]) -> ModelOutput:
        """The same result with these outputs."""
        named: dict[str, Any] = {str(name): array for name, array in arrays.items()}
        return replace(self, **named)

    def arrays(self) -> dict[OutputName, Float32Array]:
        """The outputs that are present, by name."""
        named: dict[OutputName, Float32Array | None] = {
            "embedding": self.embedding,
            "tokens": self.tokens,
            "logits": self.logits,
            "reconstruction": self.reconstruction,
            "attention": self.attention,
        }
        return {name: array for name, array in named.items() if array is not None}


@dataclass(frozen=True, slots=True)
class OutputMeta:
    """Describes every output of a node for one stream: the LSL `desc` and the retained MQTT `meta` hold this.

    Attributes:
        node: name of the node.
        version: version of streamnode.
        stream: the source as it came in.
        model: such as `luna-base`.
        weights: where the weights came from.
        ch_names: channels as the model sees them (after picks and re-referencing).
        sfreq: rate the model sees, Hz.
        duration_s: window length.
        hop_s: step between windows; 0 where they are cut around markers.
        delay_s: delay of the signal chain, already subtracted from all stamps.
        signal: the chain in words, in order.
        shapes: shape of each published output.
        reconstructed: the channels of a reconstruction, which may be more than those that went in; None without one.
    """

    node: str
    version: str
    stream: StreamInfo
    model: str
    weights: WeightsInfo
    ch_names: tuple[str, ...]
    sfreq: float
    duration_s: float
    hop_s: float
    delay_s: float
    signal: tuple[str, ...]
    shapes: dict[OutputName, tuple[int, ...]] = field(default_factory=dict)
    reconstructed: Montage | None = None


class Source(Protocol):
    """Yields the chunks of one stream while its `async with` block is open."""

    @property
    def info(self) -> StreamInfo:
        """The stream, known once the block is entered."""
        ...

    async def __aenter__(self) -> Self: ...
    async def __aexit__(self, *exc: object) -> None: ...
    def __aiter__(self) -> AsyncIterator[Chunk]:
        """Chunks in order. Ends when a finite source ends; raises `StreamLost` when the stream goes away."""
        ...


class MarkerSource(Protocol):
    """Yields the markers of one stream while its `async with` block is open."""

    async def __aenter__(self) -> Self: ...
    async def __aexit__(self, *exc: object) -> None: ...
    def __aiter__(self) -> AsyncIterator[Marker]:
        """Markers as they come. Raises `StreamLost` when the stream goes away."""
        ...


class Transform(Protocol):
    """A synchronous step of the signal chain, built from the incoming `StreamInfo`."""

    @property
    def info(self) -> StreamInfo:
        """The outgoing stream."""
        ...

    @property
    def delay_s(self) -> float:
        """Constant delay that `__call__` subtracts from the stamps."""
        ...

    @property
    def settling_s(self) -> float:
        """How long after `reset` the output is still ringing in."""
        ...

    def __call__(self, chunk: Chunk) -> Chunk:
        """Transform the next samples; the input is not changed."""
        ...

    def reset(self) -> None:
        """Forget all past samples, as if newly built."""
        ...


class Sink(Protocol):
    """Takes results to the outside while its `async with` block is open."""

    @property
    def name(self) -> str:
        """Label in metrics and logs, such as `mqtt:broker.local:1883/eeg/lab-3`."""
        ...

    async def __aenter__(self) -> Self: ...
    async def __aexit__(self, *exc: object) -> None: ...
    async def announce(self, meta: OutputMeta) -> None:
        """Describe what will be published; called before the first `publish` and whenever the stream has changed."""
        ...

    async def publish(self, output: ModelOutput) -> None:
        """Publish one result. Raises `SinkError` when it was not taken."""
        ...
