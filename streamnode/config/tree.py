"""One frozen tree describes a node: every key with its type, its default and a sentence for whoever edits the file."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    model_validator,
)
from pydantic.json_schema import GenerateJsonSchema
from pydantic_core import InitErrorDetails, PydanticCustomError

from streamnode.errors import ConfigError
from streamnode.montage import CAPS
from streamnode.types import OutputName

T = TypeVar("T")
Keys = tuple[str | int, ...]
"""The way to a value through the file."""

_HOST = r"(\[[0-9A-Fa-f:.]+\]|[^\s:/@\[\]]+)"
_PORT = r":(6553[0-5]|655[0-2]\d|65[0-4]\d\d|6[0-4]\d{3}|[1-5]?\d{1,4})"


def _text(pattern: str, words: str) -> Any:
    """A pattern and what to say when it does not match; `patternErrorMessage` is what editors look for."""
    return Field(pattern=f"^{pattern}$", json_schema_extra={"patternErrorMessage": f"should be {words}"})


def _beside(path: Path, info: ValidationInfo) -> Path:
    """A relative path counts from the folder of the file it is written in."""
    folder: Path = (info.context or {}).get("folder", Path())
    return folder / path


def _weights(value: str, info: ValidationInfo) -> str:
    if value == "hub" or re.fullmatch(r"random:\d+", value):
        return value
    if value.startswith("random:"):
        raise ValueError("random weights need a seed that is a whole number, such as random:0")
    return str(_beside(Path(value), info))


def _known_cap(cap: str) -> str:
    if cap not in CAPS:
        raise ValueError(f"there is no cap {cap!r}; choose one of {', '.join(CAPS)}")
    return cap


def _without_login(url: object) -> object:
    if isinstance(url, str) and "@" in url:
        raise ValueError("no login in the address; use username and password: {env: NAME}")
    return url


def _unique(names: tuple[str, ...]) -> tuple[str, ...]:
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise ValueError(f"{' and '.join(map(repr, repeated))} more than once; list each name once")
    return names


def _refusal(*problems: tuple[Keys, str]) -> ValidationError:
    """Problems found by comparing several keys, each at the key it is best mended at."""
    lines = [
        InitErrorDetails(type=PydanticCustomError("refusal", "{why}", {"why": why}), loc=keys, input=None)
        for keys, why in problems
    ]
    return ValidationError.from_exception_data("configuration", lines)


Positive = Annotated[float, Field(gt=0)]
Text = Annotated[str, Field(min_length=1)]
FilePath = Annotated[Path, Field(strict=False), AfterValidator(_beside)]
Listed = Annotated[
    tuple[T, ...],
    Field(strict=False, min_length=1, json_schema_extra={"uniqueItems": True}),
    AfterValidator(_unique),
]
Names = Listed[Text]
Outputs = Listed[OutputName]
Cap = Annotated[str, AfterValidator(_known_cap), Field(json_schema_extra={"enum": list(CAPS)})]
Label = Annotated[str, _text(r"[A-Za-z0-9_.\-]+", "letters, digits, '-', '_' and '.' only")]


class _Section(BaseModel):
    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        strict=True,
        allow_inf_nan=False,
        hide_input_in_errors=True,
        use_attribute_docstrings=True,
    )


class NodeSection(_Section):
    """The node itself."""

    name: Label = "streamnode"
    """Name of this node in logs, on the status page and in everything it publishes."""
    http: Annotated[str, _text(_HOST + _PORT, "host:port, such as 127.0.0.1:8765")] | None = "127.0.0.1:8765"
    """Address of the status page, metrics and health checks; port 0 takes any free port, null serves none."""


class _LslQuery(_Section):
    name: Text | None = None
    """Name of the stream."""
    source_id: Text | None = None
    """Source id of the stream: the surest choice, as it stays the same when the device restarts."""
    stype: Text | None = "EEG"
    """LSL type of the stream; null takes any."""
    predicate: Text | None = None
    """XPath predicate such as "name='ant' and channel_count=64", in place of name, source_id and stype."""
    timeout_s: Positive | None = None
    """How long to look for the stream before giving up, seconds; null waits for ever."""

    @model_validator(mode="before")
    @classmethod
    def _no_default_beside_predicate(cls, data: object) -> object:
        return {"stype": None, **data} if isinstance(data, dict) and data.get("predicate") else data

    @model_validator(mode="after")
    def _predicate_alone(self) -> Self:
        others = [key for key in ("name", "source_id", "stype") if getattr(self, key) is not None]
        if self.predicate is not None and others:
            raise _refusal((("predicate",), f"replaces {' and '.join(others)}; give one or the other"))
        return self


class _Source(_Section):
    label: Label | None = None
    """What the stream is called in results, topics and metrics; null takes its own name."""


class LslSourceConfig(_LslQuery, _Source):
    """The one live stream of the Lab Streaming Layer that fits all that is given here."""

    kind: Literal["lsl"]
    """Lab Streaming Layer."""
    stall_s: Positive = 2.0
    """Silence after which the stream counts as lost, seconds; a shorter one that is unusual is flagged."""
    fill: Literal["hold", "interpolate"] = "hold"
    """How short gaps are filled: with the last sample, or on a line to the next."""
    on_change: Literal["rebuild", "reject"] = "rebuild"
    """When the stream comes back with another rate or other channels: start anew with them, or end the node."""
    cap: Cap | None = None
    """The cap whose own electrode names, such as A1, the stream uses; null reads names as 10-20 ones."""


class ReplaySourceConfig(_Source):
    """A recording, played as if it were live."""

    kind: Literal["replay"]
    """A recording."""
    file: FilePath
    """FIF, EDF, BDF, EEGLAB SET, XDF or CSV file; a relative path counts from the folder of this YAML file."""
    speed: Positive | Literal["max"] = 1.0
    """Times real time; max is as fast as the node can take it."""
    loop: bool = False
    """Start again at the end, for ever."""


class SyntheticSourceConfig(_Source):
    """Made-up EEG, the same for the same seed."""

    kind: Literal["synthetic"]
    """Made-up EEG."""
    sfreq: Annotated[float, Field(gt=30)] = 256.0
    """Sampling frequency, Hz; alpha waves need more than 30."""
    n_chans: Annotated[int, Field(ge=1, le=64)] | None = None
    """The first so many of 64 common electrodes; null takes 32 unless ch_names is given."""
    ch_names: Names | None = None
    """Names of the channels, in place of n_chans."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Seed of the random numbers."""
    duration_s: Positive | None = None
    """End after so many seconds; null goes on for ever."""

    @model_validator(mode="after")
    def _channels_once(self) -> Self:
        if self.n_chans is not None and self.ch_names is not None:
            raise _refusal((("n_chans",), "ch_names already says how many; give one or the other"))
        return self


SingleSourceConfig = Annotated[
    LslSourceConfig | ReplaySourceConfig | SyntheticSourceConfig, Field(discriminator="kind")
]


class AlignedSourceConfig(_Source):
    """Several streams joined channel by channel on the time axis of the first, such as two amplifiers on one head."""

    kind: Literal["aligned"]
    """Several streams as one."""
    sources: Annotated[tuple[SingleSourceConfig, ...], Field(strict=False)]
    """The streams, all of one sampling frequency; their channels follow each other in this order."""
    prefixes: Annotated[tuple[str, ...], Field(strict=False)] | None = None
    """Put before the channel names of each stream, one for each, where the same name occurs twice."""
    max_wait_s: Positive = 1.0
    """How long a sample of the first stream waits for those of the others, seconds."""

    @model_validator(mode="after")
    def _several(self) -> Self:
        if len(self.sources) < 2:
            raise _refusal((("sources",), "should be two streams or more; use a single one as the source itself"))
        if self.prefixes is not None and len(self.prefixes) != len(self.sources):
            raise _refusal((("prefixes",), f"should be {len(self.sources)}, one for each of the sources, '' for none"))
        return self


SourceConfig = Annotated[
    LslSourceConfig | ReplaySourceConfig | SyntheticSourceConfig | AlignedSourceConfig, Field(discriminator="kind")
]


class MarkersConfig(_LslQuery):
    """The LSL stream of markers around which epochs are cut, in place of one every hop."""

    stype: Text | None = "Markers"
    """LSL type of the stream; null takes any."""
    labels: Names = ("*",)
    """Which markers count: labels, or patterns such as stim/*."""
    tmin_s: float = 0.0
    """Where an epoch begins, seconds after its marker; negative is before it."""
    tmax_s: float | None = None
    """Where it ends, in place of epoch.duration_s."""


class EpochConfig(_Section):
    """The windows a model is given."""

    duration_s: Positive = 5.0
    """Length of an epoch, seconds."""
    hop_s: Positive = 1.0
    """Step from one epoch to the next, seconds."""
    policy: Literal["latest", "all"] = "latest"
    """When inference is too slow: latest skips to the newest epoch, all works through a bounded queue."""
    deadline_s: Positive | None = None
    """Drop an epoch whose inference has not begun this long after its last sample came, seconds; null waits."""
    max_missing: Annotated[float, Field(ge=0, le=0.5)] = 0.02
    """Share of an epoch that may be filled in where samples were lost; a longer gap starts a new run."""
    markers: MarkersConfig | None = None
    """Cut epochs around markers; null cuts one every hop."""

    @model_validator(mode="before")
    @classmethod
    def _length_by_markers(cls, data: Any) -> Any:
        match data:
            case {"markers": {"tmax_s": int() | float() as tmax_s, **markers}} if "duration_s" not in data:
                tmin_s = markers.get("tmin_s", 0.0)
                if isinstance(tmin_s, int | float) and tmax_s > tmin_s:
                    return {**data, "duration_s": float(tmax_s - tmin_s)}
        return data

    @model_validator(mode="after")
    def _one_length(self) -> Self:
        markers = self.markers
        if markers is not None and markers.tmax_s is not None:
            length_s = markers.tmax_s - markers.tmin_s
            if abs(length_s - self.duration_s) > 1e-9:
                why = f"is {length_s:g} s after tmin_s, where epoch.duration_s is {self.duration_s:g}; make them agree"
                raise _refusal((("markers", "tmax_s"), why))
        return self


class SignalConfig(_Section):
    """What happens to the signal before the model; whatever is left out follows from the model."""

    mode: Literal["causal", "window", "lookahead", "recording"] = "causal"
    """causal filters as samples come; window, lookahead prepare each epoch as training data were; recording a file."""
    margin_s: Positive = 20.0
    """Modes window and lookahead: how much before an epoch is prepared with it, seconds."""
    lookahead_s: Positive | None = None
    """Mode lookahead: how much after an epoch is waited for and prepared with it, seconds."""
    bad_channels: Literal["keep", "mask", "interpolate", "skip"] = "keep"
    """What to do about bad channels of an epoch: only flag, leave out, draw from the others, or skip the epoch."""
    picks: Names | None = None
    """Channels to use, in this order; null uses all."""
    reference: Literal["as_recorded", "average"] | Names | None = None
    """Re-reference to the average or to the mean of these channels; null follows the model."""
    bipolar: Literal["TUEG22", "TUEG20"] | Names | None = None
    """A named bipolar montage, or pairs such as Fp1-F7; null keeps the channels as they are."""
    l_freq: Positive | None = None
    """Lower edge of the pass band, Hz; null follows the model."""
    h_freq: Positive | None = None
    """Upper edge of the pass band, Hz; null follows the model."""
    notch_hz: Positive | Literal["auto"] | None = None
    """Mains frequency to remove, 50 or 60 Hz; auto listens to the first seconds; null removes none."""

    @model_validator(mode="after")
    def _lookahead_is_given(self) -> Self:
        if (self.mode == "lookahead") != (self.lookahead_s is not None):
            raise _refusal((("lookahead_s",), "belongs to mode lookahead; give both or neither"))
        return self

    @model_validator(mode="after")
    def _band_in_order(self) -> Self:
        if self.l_freq is not None and self.h_freq is not None and self.l_freq >= self.h_freq:
            raise _refusal((("l_freq",), f"should be below h_freq, got {self.l_freq:g} and {self.h_freq:g} Hz"))
        return self


class _Model(_Section):
    weights: Annotated[Text, AfterValidator(_weights)] = "hub"
    """hub downloads the published weights, random:0 draws untrained ones from a seed, all else is a path."""
    revision: Text = "main"
    """Branch, tag or commit on the hub; a commit keeps an unattended node on the same weights."""
    sha256: Annotated[str, _text("[0-9a-f]{64}", "64 lowercase hexadecimal digits")] | None = None
    """Digest the weights file must have; null accepts any."""
    device: Annotated[str, _text(r"(auto|cpu|cuda(:\d+)?)", "auto, cpu, cuda or cuda:N")] = "auto"
    """Where to compute; auto takes the first GPU, or the CPU where there is none."""
    precision: Literal["float32", "tf32", "bfloat16", "float16", "int8"] = "float32"
    """Number format of the large products; int8 is for CPUs, float16 and tf32 are for GPUs."""
    compile: bool = False
    """Compile the network for the montage of a stream, once, which takes up to a minute and a C++ compiler."""
    threads: Annotated[int, Field(ge=1)] | Literal["auto"] = "auto"
    """CPU threads of the network; auto measures how many are best."""
    max_batch: Annotated[int, Field(ge=1)] | Literal["auto"] = "auto"
    """Most epochs in one pass; auto takes 16 on a CPU and 64 on a GPU."""
    outputs: Outputs = ("embedding",)
    """What to compute. What there is depends on the model and on its weights."""

    _load_keys: ClassVar[tuple[str, ...]] = ()
    _bind_keys: ClassVar[tuple[str, ...]] = ()

    @property
    def load_options(self) -> dict[str, Any]:
        """What loading the weights must know besides."""
        return {key: value for key in self._load_keys if (value := getattr(self, key)) is not None}

    @property
    def bind_options(self) -> dict[str, Any]:
        """What binding to a montage must know besides."""
        return {key: getattr(self, key) for key in self._bind_keys}


class LunaConfig(_Model):
    """LUNA, which takes any electrode layout (arXiv 2510.22257)."""

    kind: Literal["luna"]
    """LUNA."""
    variant: Literal["base", "large", "huge"] = "base"
    """Size of the network."""
    vocabulary: Literal["strict", "alias", "none"] = "strict"
    """Channels LUNA has no name for, in a reconstruction: refuse, take the nearest known name, or use no names."""

    _bind_keys = ("vocabulary",)


class EegDinoConfig(_Model):
    """EEG-DINO, for up to 19 electrodes of the 10-20 system (MICCAI 2025, paper 3347)."""

    kind: Literal["eegdino"]
    """EEG-DINO."""
    variant: Literal["small", "medium", "large"] = "small"
    """Size of the network."""
    n_heads: Annotated[int, Field(ge=1)] | Literal["eegdino_rs"] | None = None
    """Attention heads, which no file shows for certain; null takes 8, eegdino_rs those of that port."""
    which: Literal["student", "teacher"] | None = None
    """Of the two networks of a training checkpoint, which to use; null takes the usual one, or what there is."""
    pool: Literal["global", "mean", "per_channel", "per_patch"] = "global"
    """The embedding: the global token, or the mean of the others: of all, of each channel, of each second."""

    _load_keys, _bind_keys = ("n_heads", "which"), ("pool",)


class EegptConfig(_Model):
    """EEGPT, for electrodes of its 62-name vocabulary (NeurIPS 2024)."""

    kind: Literal["eegpt"]
    """EEGPT."""
    variant: Literal["large"] = "large"
    """Size of the network; only this one was published."""
    patch_stride: Literal[32, 64] | None = None
    """Samples from one patch to the next: 64 in pretraining, 32 in most of what was built on it, the default."""
    which: Literal["student", "teacher"] | None = None
    """Of the two networks of a training checkpoint, which to use; null takes the usual one, or what there is."""
    pool: Literal["mean", "slots", "patches", "flat"] = "mean"
    """The embedding: the mean of all summary tokens, of each slot over time, of each patch, or all of them."""
    on_unknown: Literal["error", "drop"] = "error"
    """Channels that the vocabulary lacks: refuse the stream, or leave them out."""
    scale: Positive = 1e-3
    """What turns a microvolt into the unit of training: millivolts."""

    _load_keys, _bind_keys = ("patch_stride", "which"), ("pool", "on_unknown", "scale")


class ZunaConfig(_Model):
    """ZUNA, which rebuilds bad channels and makes up absent ones (arXiv 2602.18478, 2607.27308)."""

    kind: Literal["zuna"]
    """ZUNA."""
    variant: Literal["v1", "1.1"] = "1.1"
    """Generation of the network."""
    pool: Literal["mean", "per_channel", "per_token"] = "mean"
    """The embedding: the mean of all tokens, of each channel's, or all of them."""
    add: Names | Annotated[int, Field(ge=1)] | None = None
    """Channels to reconstruct though nobody records them, by their 10-05 names; or how many there shall be in all."""
    frame: Literal["head", "template", "scaled85"] = "head"
    """In which frame positions are told to the network; the others are those of other ports."""
    steps: Annotated[int, Field(ge=1)] = 50
    """Steps of the sampler, each one pass through the decoder."""
    min_steps: Annotated[int, Field(ge=1)] | None = None
    """Where a machine cannot keep up: fewer steps down to this, then only epochs with bad channels; null never."""
    sampler: Literal["euler", "adams"] = "euler"
    """euler as published; adams, of second order, comes as close with far fewer steps."""
    guidance: Positive = 1.0
    """How much more than its surroundings tell it a rebuilt channel is made to follow them; 1 is none."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Seed of the noise that every reconstruction starts from."""
    keep_known: bool = True
    """Good channels as they were recorded; false gives the network's version of them too."""
    std_uv: Positive | None = None
    """v1: standard deviation of the signal, microvolts, such as of a recording before; null measures as it comes."""
    data_norm: Positive = 10.0
    """Standard deviations that are 1 to the network."""

    _bind_keys = ("pool", "frame", "steps", "sampler", "guidance", "seed", "keep_known", "std_uv", "data_norm")

    @property
    def bind_options(self) -> dict[str, Any]:
        """What binding to a montage must know besides."""
        return {**super().bind_options, "add": self.add or ()}

    @model_validator(mode="after")
    def _floor_below_steps(self) -> Self:
        if self.min_steps is not None and not self.min_steps <= self.steps > 1:
            raise _refusal((("min_steps",), f"should be at most steps, {self.steps}, and these 2 or more"))
        return self

    @model_validator(mode="after")
    def _options_have_a_use(self) -> Self:
        if self.guidance != 1 and "reconstruction" not in self.outputs:
            raise _refusal((("guidance",), "steers a reconstruction; add that to outputs, or leave guidance out"))
        if self.std_uv is not None and self.variant != "v1":
            raise _refusal((("std_uv",), f"is of v1 alone, and {self.variant} measures each channel; leave it out"))
        return self


ModelConfig = Annotated[LunaConfig | EegDinoConfig | EegptConfig | ZunaConfig, Field(discriminator="kind")]


class Secret(_Section):
    """Where a secret is found when the node starts: an environment variable or a file, never the secret itself."""

    env: Annotated[str, _text("[A-Za-z_][A-Za-z0-9_]*", "the name of an environment variable")] | None = Field(
        default=None, json_schema_extra={"writeOnly": True}
    )
    """Name of the environment variable."""
    file: FilePath | None = Field(default=None, json_schema_extra={"writeOnly": True})
    """File that holds nothing else; a relative path counts from the folder of this YAML file."""

    @model_validator(mode="before")
    @classmethod
    def _never_plain(cls, data: object) -> object:
        # The usual errors would show an unknown key, and to YAML `{hunter2}` is one.
        if isinstance(data, dict) and list(data) in (["env"], ["file"]) and None not in data.values():
            return data
        raise ValueError("never in plain text; use {env: NAME} or {file: PATH}")

    def resolve(self) -> str:
        """The secret, read anew on every call and kept nowhere.

        Raises:
            ConfigError: it is not there, or empty.
        """
        place = self.file or f"the environment variable {self.env}"
        secret = _content(self.file) if self.file else os.environ.get(self.env or "", "")
        if not secret:
            raise ConfigError(f"there is no readable password in {place}; put it there before the start")
        return secret


def _content(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").rstrip("\r\n")
    except (OSError, UnicodeDecodeError):
        return ""


class MqttSinkConfig(_Section):
    """Results to an MQTT broker."""

    kind: Literal["mqtt"]
    """MQTT."""
    url: Annotated[
        str,
        _text(rf"mqtts?://{_HOST}({_PORT})?/?", "mqtt://host:port, or mqtts://host:port for TLS"),
        BeforeValidator(_without_login),
    ]
    """Address of the broker: mqtt://host or, with TLS, mqtts://host; ports default to 1883 and 8883."""
    topic: Annotated[str, _text("[^+#]+", "a topic without + and #")]
    """Topic under which results, description and status are published."""
    payload: Literal["cbor", "json", "raw"] = "cbor"
    """Format of a result: CBOR with typed arrays, JSON, or the bare float32 bytes."""
    qos: Literal[0, 1] = 0
    """0: at most once, 1: at least once."""
    username: Text | None = None
    """User name at the broker."""
    password: Secret | None = Field(default=None, exclude=True, repr=False)
    """Password at the broker: {env: NAME} or {file: PATH}."""
    ca_file: FilePath | None = None
    """Certificates to trust with mqtts, PEM; null trusts those of the system."""
    timeout_s: Positive | None = 10.0
    """How long the first connection may take before the node gives up, seconds; null tries for ever."""
    outputs: Outputs | None = None
    """Which of the model's outputs to publish; null publishes all."""

    @model_validator(mode="after")
    def _certificates_need_tls(self) -> Self:
        if self.ca_file is not None and not self.url.startswith("mqtts:"):
            raise _refusal((("ca_file",), "has no effect without TLS; change the url to mqtts://"))
        return self


class LslSinkConfig(_Section):
    """Results as LSL streams."""

    kind: Literal["lsl"]
    """Lab Streaming Layer."""
    name: Text
    """Name of the outgoing stream; with several outputs each has its own, such as NAME-embedding."""
    outputs: Outputs | None = None
    """Which of the model's outputs to publish; null publishes all."""
    quality: bool = False
    """Also publish NAME-quality: samples received and lost so far, and which channels were bad, with every result."""


class LslEegSinkConfig(_Section):
    """The reconstruction as one continuous LSL stream of EEG, in step with real time."""

    kind: Literal["lsl-eeg"]
    """Lab Streaming Layer, type EEG."""
    name: Text
    """Name of the outgoing stream; NAME-rebuilt beside it tells which channels are rebuilt at what time."""
    blend_s: Annotated[float, Field(ge=0)] = 0.25
    """How long one epoch fades into the next, seconds; so much later a sample leaves."""

    @property
    def outputs(self) -> tuple[OutputName, ...]:
        """What it publishes."""
        return ("reconstruction",)


SinkConfig = Annotated[MqttSinkConfig | LslSinkConfig | LslEegSinkConfig, Field(discriminator="kind")]


class NodeConfig(_Section):
    """A streamnode: one source or several, one model, any number of sinks."""

    node: NodeSection = NodeSection()
    """The node itself."""
    source: SourceConfig | None = None
    """Where samples come from."""
    sources: Annotated[tuple[SourceConfig, ...], Field(strict=False, min_length=1)] | None = None
    """Several streams, each by itself through the one model; a sink's name or topic is followed by each one's label."""
    epoch: EpochConfig = EpochConfig()
    """The windows a model is given."""
    signal: SignalConfig = SignalConfig()
    """What happens to the signal before the model."""
    model: ModelConfig
    """The model and its weights."""
    sinks: Annotated[tuple[SinkConfig, ...], Field(strict=False, min_length=1)]
    """Where results go."""

    @property
    def streams(self) -> tuple[SourceConfig, ...]:
        """The streams this node reads."""
        return self.sources or tuple(filter(None, [self.source]))

    @model_validator(mode="after")
    def _keys_fit(self) -> Self:
        problems = [*self._source_or_sources(), *self._absent_outputs(), *self._shared_addresses()]
        if self.signal.mode == "recording":
            problems.append((("signal", "mode"), "recording is of files; use causal, window or lookahead for a stream"))
        if self.epoch.markers is not None and self.signal.mode != "causal":
            problems.append((("epoch", "markers"), "needs signal.mode causal; change one of them"))
        rebuilds = isinstance(self.model, ZunaConfig) and "reconstruction" in self.model.outputs
        if rebuilds and self.signal.bad_channels != "mask":
            problems.append((("signal", "bad_channels"), "should be mask, by which ZUNA learns what to rebuild"))
        if problems:
            raise _refusal(*problems)
        return self

    def _source_or_sources(self) -> Iterator[tuple[Keys, str]]:
        if (self.source is None) == (self.sources is None):
            yield (
                ("source",),
                "missing; give source, or sources for several"
                if self.source is None
                else ("one of source and sources is enough; put all under sources"),
            )
        labels = [source.label for source in self.sources or ()]
        for i, label in enumerate(labels):
            kind = self.streams[i].kind
            if label is None:
                yield ("sources", i, kind, "label"), "missing; should be a name that tells this stream from the others"
            elif label in labels[:i]:
                yield ("sources", i, kind, "label"), f"{label!r} is taken; give each stream its own"

    def _absent_outputs(self) -> Iterator[tuple[Keys, str]]:
        for i, sink in enumerate(self.sinks):
            for name in sink.outputs or ():
                if name not in self.model.outputs:
                    key = "kind" if isinstance(sink, LslEegSinkConfig) else "outputs"
                    yield ("sinks", i, sink.kind, key), f"{name!r} is not computed; add it to model.outputs"

    def _shared_addresses(self) -> Iterator[tuple[Keys, str]]:
        owners: dict[tuple[str, ...], int] = {}
        for i, sink in enumerate(self.sinks):
            match sink:
                case MqttSinkConfig():
                    key, what, address = "topic", "url and topic", (sink.url, sink.topic)
                case _:
                    key, what, address = "name", "name", ("lsl", sink.name)
            owner = owners.setdefault(address, i)
            if owner != i:
                yield ("sinks", i, sink.kind, key), f"sinks.{owner} has the same {what}; give each sink its own"

    def to_public_dict(self) -> dict[str, Any]:
        """The configuration with its defaults, JSON-ready and without any trace of secrets."""
        return self.model_dump(mode="json")


class _Untitled(GenerateJsonSchema):
    def field_title_should_be_set(self, schema: Any) -> bool:  # noqa: ARG002  (titles such as "Hop S" repeat the key)
        return False


@cache
def cached_schema() -> dict[str, Any]:
    """The one copy of `schema()`; do not change it."""
    return NodeConfig.model_json_schema(schema_generator=_Untitled)


def schema() -> dict[str, Any]:
    """JSON Schema of a configuration, for editors."""
    return deepcopy(cached_schema())


def write_schema(path: Path | str) -> None:
    """Write `schema()` to a file."""
    Path(path).write_text(json.dumps(cached_schema(), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
