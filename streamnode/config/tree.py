"""One frozen tree describes a node: every key with its type, its default and a sentence for whoever edits the file."""

from __future__ import annotations

import json
from collections.abc import Iterator
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator
from pydantic.json_schema import GenerateJsonSchema

from streamnode.config.fields import (
    FURTHEST_S,
    HOST,
    PORT,
    Edge,
    Keys,
    Label,
    Mains,
    Names,
    Positive,
    Section,
    Span,
    refusal,
    text,
)
from streamnode.config.models import ModelConfig, ZunaConfig
from streamnode.config.sinks import LslEegSinkConfig, MqttSinkConfig, SinkConfig
from streamnode.config.sources import MarkersConfig, SourceConfig


class NodeSection(Section):
    """The node itself."""

    name: Label = "streamnode"
    """Name of this node in logs, on the status page and in everything it publishes."""
    http: Annotated[str, text(HOST + PORT, "host:port, such as 127.0.0.1:8765")] | None = "127.0.0.1:8765"
    """Address of the status page, metrics and health checks; port 0 takes any free port, null serves none."""


class EpochConfig(Section):
    """The windows a model is given."""

    duration_s: Span = 5.0
    """Length of an epoch, seconds."""
    hop_s: Span = 1.0
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
                if isinstance(tmin_s, int | float) and -FURTHEST_S <= tmin_s < tmax_s <= FURTHEST_S:
                    return {**data, "duration_s": float(tmax_s - tmin_s)}
        return data

    @model_validator(mode="after")
    def _one_length(self) -> Self:
        markers = self.markers
        if markers is not None and markers.tmax_s is not None:
            length_s = markers.tmax_s - markers.tmin_s
            if abs(length_s - self.duration_s) > 1e-9:
                why = f"is {length_s:g} s after tmin_s, where epoch.duration_s is {self.duration_s:g}; make them agree"
                raise refusal((("markers", "tmax_s"), why))
        return self


class SignalConfig(Section):
    """What happens to the signal before the model; whatever is left out follows from the model."""

    mode: Literal["causal", "window", "lookahead", "recording"] = "causal"
    """causal filters as samples come; window, lookahead prepare each epoch as training data were; recording a file."""
    margin_s: Span = 20.0
    """Modes window and lookahead: how much before an epoch is prepared with it, seconds."""
    lookahead_s: Span | None = None
    """Mode lookahead: how much after an epoch is waited for and prepared with it, seconds."""
    bad_channels: Literal["keep", "mask", "interpolate", "skip"] = "keep"
    """What to do about bad channels of an epoch: only flag, leave out, draw from the others, or skip the epoch."""
    picks: Names | None = None
    """Channels to use, in this order; null uses all."""
    reference: Literal["as_recorded", "average"] | Names | None = None
    """Re-reference to the average or to the mean of these channels; null follows the model."""
    bipolar: Literal["TUEG22", "TUEG20"] | Names | None = None
    """A named bipolar montage, or pairs such as Fp1-F7; null keeps the channels as they are."""
    l_freq: Edge | None = None
    """Lower edge of the pass band, Hz; null follows the model."""
    h_freq: Edge | None = None
    """Upper edge of the pass band, Hz; null follows the model."""
    notch_hz: Mains | Literal["auto"] | None = None
    """Mains frequency to remove, 50 or 60 Hz; auto listens to the first seconds; null removes none."""

    @model_validator(mode="after")
    def _lookahead_is_given(self) -> Self:
        if (self.mode == "lookahead") != (self.lookahead_s is not None):
            raise refusal((("lookahead_s",), "belongs to mode lookahead; give both or neither"))
        return self

    @model_validator(mode="after")
    def _band_in_order(self) -> Self:
        if self.l_freq is not None and self.h_freq is not None and self.l_freq >= self.h_freq:
            raise refusal((("l_freq",), f"should be below h_freq, got {self.l_freq:g} and {self.h_freq:g} Hz"))
        return self


class NodeConfig(Section):
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
            raise refusal(*problems)
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
                    key, what, address = "topic", "url and topic", (sink.url.lower().rstrip("/"), sink.topic)
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
