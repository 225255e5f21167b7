"""The models, each with its own options."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import AfterValidator, Field, ValidationInfo, model_validator

from streamnode.config.fields import Names, Outputs, Positive, Section, Seed, Text, beside, refusal, text
from streamnode.errors import StreamnodeError
from streamnode.montage import electrodes_to_add


def _weights(value: str, info: ValidationInfo) -> str:
    if value == "hub" or re.fullmatch(r"random:\d+", value):
        return value
    if value.startswith("random:"):
        raise ValueError("random weights need a seed that is a whole number, such as random:0")
    return str(beside(Path(value), info))


class _Model(Section):
    weights: Annotated[Text, AfterValidator(_weights)] = "hub"
    """hub downloads the published weights, random:0 draws untrained ones from a seed, all else is a path."""
    revision: Text = "main"
    """Branch, tag or commit on the hub; a commit keeps an unattended node on the same weights."""
    sha256: Annotated[str, text("[0-9a-f]{64}", "64 lowercase hexadecimal digits")] | None = None
    """Digest the weights file must have; null accepts any."""
    device: Annotated[str, text(r"(auto|cpu|cuda(:\d+)?)", "auto, cpu, cuda or cuda:N")] = "auto"
    """Where to compute; auto takes the first GPU, or the CPU where there is none."""
    precision: Literal["float32", "tf32", "bfloat16", "float16", "int8"] = "float32"
    """Number format of the large products; int8 is for CPUs, float16 and tf32 are for GPUs."""
    compile: bool = False
    """Compile the network for the montage of a stream, once, which takes up to a minute and a C++ compiler."""
    threads: Annotated[int, Field(ge=1, le=1024)] | Literal["auto"] = "auto"
    """CPU threads of the network; auto measures how many are best."""
    max_batch: Annotated[int, Field(ge=1, le=4096)] | Literal["auto"] = "auto"
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
    steps: Annotated[int, Field(ge=1, le=1000)] = 50
    """Steps of the sampler, each one pass through the decoder."""
    min_steps: Annotated[int, Field(ge=1)] | None = None
    """Where a machine cannot keep up: fewer steps down to this, then only epochs with bad channels; null never."""
    sampler: Literal["euler", "adams"] = "euler"
    """euler as published; adams, of second order, comes as close with far fewer steps."""
    guidance: Positive = 1.0
    """How much more than its surroundings tell it a rebuilt channel is made to follow them; 1 is none."""
    seed: Seed = 0
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
            raise refusal((("min_steps",), f"should be at most steps, {self.steps}, and these 2 or more"))
        return self

    @model_validator(mode="after")
    def _added_have_a_place(self) -> Self:
        try:
            electrodes_to_add(self.add if isinstance(self.add, tuple) else ())
        except StreamnodeError as error:
            raise refusal((("add",), str(error))) from None
        return self

    @model_validator(mode="after")
    def _options_have_a_use(self) -> Self:
        if self.guidance != 1 and "reconstruction" not in self.outputs:
            raise refusal((("guidance",), "steers a reconstruction; add that to outputs, or leave guidance out"))
        if self.std_uv is not None and self.variant != "v1":
            raise refusal((("std_uv",), f"is of v1 alone, and {self.variant} measures each channel; leave it out"))
        return self


ModelConfig = Annotated[LunaConfig | EegDinoConfig | EegptConfig | ZunaConfig, Field(discriminator="kind")]
