"""Where samples come from, and the markers around which epochs may be cut."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from streamnode.config.fields import (
    Cap,
    FilePath,
    Label,
    Names,
    Offset,
    Positive,
    Section,
    Seed,
    Span,
    Text,
    refusal,
)


class LslQuerySection(Section):
    """Which stream of the Lab Streaming Layer."""

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
            raise refusal((("predicate",), f"replaces {' and '.join(others)}; give one or the other"))
        return self


class _Source(Section):
    label: Label | None = None
    """What the stream is called in results, topics and metrics; null takes its own name."""


class LslSourceConfig(LslQuerySection, _Source):
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
    sfreq: Annotated[float, Field(gt=30, le=100_000)] = 256.0
    """Sampling frequency, Hz; alpha waves need more than 30."""
    n_chans: Annotated[int, Field(ge=1, le=64)] | None = None
    """The first so many of 64 common electrodes; null takes 32 unless ch_names is given."""
    ch_names: Names | None = None
    """Names of the channels, in place of n_chans."""
    seed: Seed = 0
    """Seed of the random numbers."""
    duration_s: Positive | None = None
    """End after so many seconds; null goes on for ever."""

    @model_validator(mode="after")
    def _channels_once(self) -> Self:
        if self.n_chans is not None and self.ch_names is not None:
            raise refusal((("n_chans",), "ch_names already says how many; give one or the other"))
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
    max_wait_s: Span = 1.0
    """How long a sample of the first stream waits for those of the others, seconds."""

    @model_validator(mode="after")
    def _several(self) -> Self:
        if len(self.sources) < 2:
            raise refusal((("sources",), "should be two streams or more; use a single one as the source itself"))
        if self.prefixes is not None and len(self.prefixes) != len(self.sources):
            raise refusal((("prefixes",), f"should be {len(self.sources)}, one for each of the sources, '' for none"))
        return self


SourceConfig = Annotated[
    LslSourceConfig | ReplaySourceConfig | SyntheticSourceConfig | AlignedSourceConfig, Field(discriminator="kind")
]


class MarkersConfig(LslQuerySection):
    """The LSL stream of markers around which epochs are cut, in place of one every hop."""

    stype: Text | None = "Markers"
    """LSL type of the stream; null takes any."""
    labels: Names = ("*",)
    """Which markers count: labels, or patterns such as stim/*."""
    tmin_s: Offset = 0.0
    """Where an epoch begins, seconds after its marker; negative is before it."""
    tmax_s: Offset | None = None
    """Where it ends, in place of epoch.duration_s."""
