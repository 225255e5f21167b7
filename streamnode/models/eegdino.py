"""EEG-DINO: up to 19 channels of the 10-20 system in, a vector per channel and second out (MICCAI 2025, paper 3347).

    patches of one second -> convolutions + spectrum -> + which electrode -> mixed with the seconds around
    -> transformer over all patches of all channels, which one global token joins after the first layer -> class logits

Parameters are named as in the authors' code, without its prefixes; `rename_keys` brings every published form to these
names. Shapes: B epochs, C channels, P = T / 200 patches, D width of a token, G global tokens (one), H heads.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, cast, get_args

import torch
import torch.nn.functional as F  # noqa: N812  (its name everywhere)
from torch import Tensor, nn

from streamnode.errors import ConfigError, ContractError, WeightsError
from streamnode.models.attention import attend
from streamnode.models.layers import Linear, Mlp, linear
from streamnode.models.state import (
    count,
    count_layers,
    draw,
    foreign,
    refuse_contradictions,
    shapes_of,
    spread,
    weights_of,
)
from streamnode.types import ModelSpec, Montage, OutputName

log = logging.getLogger(__name__)

PATCH = 200
SPEC = ModelSpec(
    name="eegdino",
    sfreq=200.0,
    patch=PATCH,
    durations=(5.0, 10.0),
    ch_names=None,
    needs_positions=False,
    l_freq=0.3,
    h_freq=75.0,
    notch=True,
    reference="as_recorded",
    scaling="microvolts / 100",
    outputs=("embedding", "tokens", "logits"),
    offline=("resample", "band", "notch"),
)

Pool = Literal["global", "mean", "per_channel", "per_patch"]
_POOLED_AXES: dict[Pool, tuple[int, ...]] = {"global": (1, 2), "mean": (1, 2), "per_channel": (2,), "per_patch": (1,)}
Which = Literal["student", "teacher"]
Form = Literal["original", "fine-tuned", "braindecode", "eegdino-rs burn", "canonical"]

# ---- Channel names ---------------------------------------------------------------------------------------------------

# fmt: off
SLOTS = (
    "FP1", "FP2", "F3", "F4", "C3", "C4", "P3", "P4", "O1", "O2",
    "F7", "F8", "T3", "T4", "T5", "T6", "FZ", "CZ", "PZ",
)
# fmt: on
"""The electrodes of the training, in the order of their learned embeddings (CBraMod's, which EEG-DINO follows)."""

ALIASES = {"T7": "T3", "T8": "T4", "P7": "T5", "P8": "T6"}


def find_slots(ch_names: Sequence[str], n_slots: int = len(SLOTS)) -> list[int]:
    """Row in the first `n_slots` of `SLOTS` of each channel, whatever its case; T7, T8, P7, P8 are T3, T4, T5, T6.

    Raises:
        ContractError: an electrode is not among them, or two channels are the same one.
    """
    slots = SLOTS[:n_slots]
    names = [ALIASES.get(name.upper(), name.upper()) for name in ch_names]
    if unknown := [ch_name for ch_name, name in zip(ch_names, names, strict=True) if name not in slots]:
        raise ContractError(
            f"EEG-DINO never saw {', '.join(unknown)}: leave out all but {' '.join(slots)} with signal.picks"
        )
    if twice := [ch_name for ch_name, name in zip(ch_names, names, strict=True) if names.count(name) > 1]:
        raise ContractError(
            f"{', '.join(twice)} share a place, and EEG-DINO takes one channel a place: pick one with signal.picks"
        )
    return [slots.index(name) for name in names]


# ---- Sizes -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class EegDinoConfig:
    """Sizes of an EEG-DINO.

    Attributes:
        maps: channels of the three convolutions.
        groups: of the group norm behind each convolution.
        depth: transformer layers.
        hidden: width of their MLPs.
        n_heads: no shape shows it, and public ports disagree; see `from_state`.
        n_slots: channels that have a learned embedding.
        n_global_tokens: tokens that stand for the whole epoch.
        global_token_layer: after how many layers these join.
        n_classes: 0 for no head.

    Raises:
        ConfigError: the number of heads does not divide the width.
    """

    maps: tuple[int, int, int]
    groups: int
    depth: int
    hidden: int
    n_heads: int = 8
    n_slots: int = len(SLOTS)
    n_global_tokens: int = 1
    global_token_layer: int = 1
    n_classes: int = 0

    def __post_init__(self) -> None:
        if self.n_heads not in [n for n in range(1, self.width + 1) if self.width % n == 0]:
            raise ConfigError(
                f"tokens {self.width} wide cannot have {self.n_heads} heads: give a number that divides the width"
            )

    @property
    def width(self) -> int:
        """D: the convolutions leave 8 positions of a patch."""
        return 8 * self.maps[2]

    @classmethod
    @weights_of("an EEG-DINO")
    def from_state(
        cls,
        state: Mapping[str, Tensor],
        *,
        n_heads: int | Literal["eegdino_rs"] | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> EegDinoConfig:
        """Read the sizes off the tensors of a checkpoint, as `rename_keys` leaves them.

        Heads and norm groups leave no trace in any shape. The groups are known for the published widths. Of heads the
        authors' code most probably has 8 in every size, while eegdino-rs runs 8, 16 and 16; `detect_heads` asks the
        weights themselves.

        Args:
            state: names and tensors.
            n_heads: a number, or `eegdino_rs` for those of that port; without it `num_heads` of the metadata, or 8.
            metadata: of the file: `num_heads`, `groups`, `global_token_layer`.

        Raises:
            WeightsError: these are not the weights of an EEG-DINO, their shapes contradict each other, or they are of
                no published width and the metadata lack the groups.
            ConfigError: the number of heads, asked for or stated, does not divide the width, or eegdino-rs has none.
        """
        stated = metadata or {}
        _, n_global_tokens, width = state["global_tokens"].shape
        c1, c2, c3 = (state[f"patch_embedding.proj_in.{i}.weight"].shape[0] for i in (0, 3, 6))
        _, n_slots = state["patch_embedding.channel_embedding.weight"].shape
        hidden, _ = state["encoder_layers.0.mlp.fc1.weight"].shape
        groups = int(stated.get("groups", _GROUPS.get(width, 0)))
        global_token_layer = int(stated.get("global_token_layer", 1))
        heads, why = _choose_heads(width, n_heads, stated)
        if groups < 1 or any(maps % groups for maps in (c1, c2, c3)):
            raise WeightsError(
                f"{groups or 'no'} groups are known for convolutions {c1}, {c2} and {c3} wide, which no published "
                "EEG-DINO has: state the groups in the metadata of the file"
            )
        config = cls(
            maps=(c1, c2, c3),
            groups=groups,
            depth=count_layers(state, "encoder_layers."),
            hidden=hidden,
            n_heads=heads,
            n_slots=n_slots,
            n_global_tokens=n_global_tokens,
            global_token_layer=global_token_layer,
            n_classes=len(state.get("classifier.6.weight", ())),
        )
        refuse_contradictions(state, manifest(config), "EEG-DINO")
        log.info("the weights are %s with %d heads (%s)", variant_name(config), heads, why)
        return config


VARIANTS = {
    "small": EegDinoConfig(maps=(25, 25, 25), groups=5, depth=12, hidden=512),
    "medium": EegDinoConfig(maps=(64, 128, 64), groups=8, depth=16, hidden=1024),
    "large": EegDinoConfig(maps=(128, 256, 128), groups=16, depth=24, hidden=2048),
}
_GROUPS = {config.width: config.groups for config in VARIANTS.values()}
_HEADS_OF_EEGDINO_RS = {200: 8, 512: 16, 1024: 16}


def _choose_heads(width: int, asked: int | Literal["eegdino_rs"] | None, stated: Mapping[str, str]) -> tuple[int, str]:
    """How many heads, and why."""
    if asked == "eegdino_rs":
        if width not in _HEADS_OF_EEGDINO_RS:
            raise ConfigError(f"eegdino-rs has no network whose tokens are {width} wide: give the number of heads")
        return _HEADS_OF_EEGDINO_RS[width], "those of eegdino-rs"
    if asked is not None:
        return asked, "as asked for"
    if "num_heads" in stated:
        return int(stated["num_heads"]), "as its metadata say"
    return 8, "the default, as no shape shows them"


def variant_name(config: EegDinoConfig) -> str:
    """`eegdino-small`, `eegdino-medium` or `eegdino-large` by the sizes of the encoder; `eegdino-custom` for others."""
    encoder = replace(config, n_heads=8, n_classes=0)
    return next((f"eegdino-{name}" for name, variant in VARIANTS.items() if variant == encoder), "eegdino-custom")


def manifest(config: EegDinoConfig) -> dict[str, torch.Size]:
    """Name and shape of every tensor in a checkpoint of these sizes."""
    return shapes_of(lambda: EegDino(config))


# ---- Layers, in the order a sample meets them ------------------------------------------------------------------------


class PatchEmbedding(nn.Module):
    """What each second of each channel looks like in time and frequency, on which electrode, and among which others."""

    def __init__(self, config: EegDinoConfig) -> None:
        super().__init__()
        width, (c1, c2, c3) = config.width, config.maps
        layers: list[nn.Module] = []
        for maps, convolution in (
            (c1, nn.Conv2d(1, c1, (1, 49), stride=(1, 25), padding=(0, 24))),
            (c2, nn.Conv2d(c1, c2, (1, 3), padding=(0, 1))),
            (c3, nn.Conv2d(c2, c3, (1, 3), padding=(0, 1))),
        ):
            layers += [convolution, nn.GroupNorm(config.groups, maps), nn.GELU()]
        self.proj_in = nn.Sequential(*layers)
        self.spectral_proj = nn.Sequential(nn.Linear(PATCH // 2 + 1, width))
        self.channel_embedding = nn.Linear(config.n_slots, width)
        self.time_encoding = nn.Sequential(nn.Conv2d(width, width, (1, 5), padding=(0, 2), groups=width))

    def bind(self, slots: list[int]) -> Tensor:
        """What a token holds whatever the signal: its electrode and the biases, `(C, D)`."""
        electrodes = self.channel_embedding.weight[:, slots].T + self.channel_embedding.bias
        return electrodes + self.spectral_proj.get_parameter("0.bias")

    def forward(self, z: Tensor, offsets: Tensor) -> Tensor:
        """`(B, C, T)` to `(B, C * P, D)`, channel by channel."""
        patches = z.reshape(*z.shape[:2], -1, PATCH)
        x = self.embed_time(patches) + self.embed_spectrum(patches) + offsets[:, None]
        x = x.permute(0, 3, 1, 2)
        return cast("Tensor", x + self.time_encoding(x)).flatten(2).mT

    def embed_time(self, patches: Tensor) -> Tensor:
        """`(B, C, P, 200)` to `(B, C, P, D)`; the norms span all patches of all channels of an epoch."""
        maps = cast("Tensor", self.proj_in(patches.flatten(1, 2)[:, None]))
        return maps.transpose(1, 2).reshape(*patches.shape[:3], -1)

    def embed_spectrum(self, patches: Tensor) -> Tensor:
        """`(B, C, P, 200)` float32 or float64 to `(B, C, P, D)`, but for the bias, which `bind` adds."""
        magnitudes = torch.fft.rfft(patches, norm="forward").abs()
        return F.linear(magnitudes, self.spectral_proj.get_parameter("0.weight"))


class Attention(nn.Module):
    """Self-attention; keys have no bias."""

    def __init__(self, width: int, n_heads: int) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.q_bias = nn.Parameter(torch.empty(width))
        self.v_bias = nn.Parameter(torch.empty(width))
        self.qkv = Linear(width, 3 * width, bias=False)
        self.proj = Linear(width, width)

    def bind(self) -> Tensor:
        """The biases of queries, keys and values in one, `(3 * D,)`."""
        return torch.cat((self.q_bias, torch.zeros_like(self.q_bias), self.v_bias))

    def forward(self, x: Tensor, bias: Tensor, n_rows: int | None = None) -> Tensor:
        """`(B, n, D)` to the first `n_rows` rows of the same."""
        width = x.shape[-1]
        weight = self.qkv.weight
        if n_rows is None:
            queries, keys, values = (linear(x, weight) + bias).chunk(3, -1)
        else:
            queries = linear(x[:, :n_rows], weight[:width]) + bias[:width]
            keys, values = (linear(x, weight[width:]) + bias[width:]).chunk(2, -1)
        heads = attend(self.split(queries), self.split(keys), self.split(values))
        return cast("Tensor", self.proj(heads.transpose(1, 2).flatten(2)))

    def split(self, x: Tensor) -> Tensor:
        """`(B, n, D)` to `(B, H, n, D / H)`."""
        return x.reshape(*x.shape[:2], self.n_heads, -1).transpose(1, 2)


class EncoderLayer(nn.Module):
    """A transformer layer over all tokens of an epoch."""

    def __init__(self, config: EegDinoConfig) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(config.width)
        self.attn = Attention(config.width, config.n_heads)
        self.norm2 = nn.LayerNorm(config.width)
        self.mlp = Mlp(config.width, config.hidden, config.width)

    def forward(self, x: Tensor, qkv_bias: Tensor, n_rows: int | None = None) -> Tensor:
        """`(B, n, D)` to the first `n_rows` rows of the same."""
        x = x[:, :n_rows] + self.attn(self.norm1(x), qkv_bias, n_rows)
        return x + cast("Tensor", self.mlp(self.norm2(x)))


# ---- The network -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class EegDinoBinding:
    """All that depends on the montage and the weights but not on the signal.

    Attributes:
        offsets: `(C, D)` what the tokens of a channel hold whatever the signal.
        qkv_biases: `(3 * D,)` for each layer.
        pool: what `embedding` is.
    """

    offsets: Tensor
    qkv_biases: tuple[Tensor, ...]
    pool: Pool = "global"


class EegDino(nn.Module):
    """The whole network. Its parameters are meaningless until a state is loaded."""

    SPEC: ClassVar[ModelSpec] = SPEC

    def __init__(self, config: EegDinoConfig) -> None:
        super().__init__()
        width = config.width
        self.config = config
        self.global_tokens = nn.Parameter(torch.empty(1, config.n_global_tokens, width))
        self.patch_embedding = PatchEmbedding(config)
        self.encoder_layers = nn.ModuleList(EncoderLayer(config) for _ in range(config.depth))
        if config.n_classes:
            self.full_linear = nn.Linear(width, width)
            self.channel_linear = nn.Linear(width, width)
            self.classifier = nn.Sequential(
                nn.Linear(width, width // 2),
                nn.GELU(),
                nn.Identity(),  # dropout in training
                nn.Linear(width // 2, width // 4),
                nn.GELU(),
                nn.Identity(),
                nn.Linear(width // 4, config.n_classes),
            )

    @property
    def available_outputs(self) -> tuple[OutputName, ...]:
        """What these weights can yield."""
        return SPEC.outputs if self.config.n_classes else ("embedding", "tokens")

    @property
    def n_params(self) -> int:
        """Numbers in the state."""
        return count(self)

    @torch.no_grad()
    def bind(self, montage: Montage, *, outputs: Collection[OutputName], pool: Pool = "global") -> EegDinoBinding:
        """Compute all that does not depend on the signal; bind again when a channel comes or goes.

        Args:
            montage: channels of the epochs to come, in their order: any of `SLOTS`.
            outputs: what will be asked of `forward`.
            pool: what `embedding` is: `global` for the token that stands for the epoch, `mean` over all others,
                `per_channel` or `per_patch` for a vector each.

        Raises:
            ContractError: the weights lack a head, or a channel is none of the 19 or one of them twice.
            ConfigError: `pool` is something else.
        """
        if headless := set(outputs).difference(self.available_outputs):
            raise ContractError(
                f"these EEG-DINO weights have no head for {', '.join(sorted(headless))}: do not ask for it"
            )
        if pool not in get_args(Pool):
            raise ConfigError(f"pool is {pool!r}: use one of {', '.join(get_args(Pool))}")
        offsets = self.patch_embedding.bind(find_slots(montage.ch_names, self.config.n_slots))
        biases = tuple(cast("EncoderLayer", layer).attn.bind() for layer in self.encoder_layers)
        return EegDinoBinding(offsets, biases, pool)

    def encode(
        self, x_uv: Tensor, binding: EegDinoBinding, outputs: Collection[OutputName]
    ) -> dict[OutputName, Tensor]:
        """`forward` on `(B, C, T)` microvolts."""
        return self.forward(x_uv / 100, binding, outputs)

    def forward(self, z: Tensor, binding: EegDinoBinding, outputs: Collection[OutputName]) -> dict[OutputName, Tensor]:
        """Run the network as far as `outputs` need it.

        Args:
            z: `(B, C, T)` microvolts / 100; T is a whole number of seconds.
            binding: from `bind`, for the same channels.
            outputs: what to compute.

        Returns:
            `embedding`, by the pool of the binding `(B, D)`, `(B, C, D)` or `(B, P, D)`; `tokens` `(B, G + C * P, D)`,
            the global ones first, then channel by channel; `logits` `(B, n_classes)`.

        Raises:
            ContractError: the epochs do not fit the binding or the patches.
        """
        self._refuse_misfit(z, binding)
        x = self.patch_embedding(z, binding.offsets)
        n_global_tokens = self.config.n_global_tokens
        if binding.pool == "global" and set(outputs) == {"embedding"}:
            return {"embedding": self._transform(x, binding, n_rows=n_global_tokens)[:, :n_global_tokens].mean(1)}
        tokens = self._transform(x, binding)
        by_channel = tokens[:, n_global_tokens:].reshape(*z.shape[:2], -1, self.config.width)
        results: dict[OutputName, Tensor] = {}
        if "embedding" in outputs:
            pooled = tokens[:, None, :n_global_tokens] if binding.pool == "global" else by_channel
            results["embedding"] = pooled.mean(_POOLED_AXES[binding.pool])
        if "tokens" in outputs:
            results["tokens"] = tokens
        if "logits" in outputs:
            results["logits"] = self._classify(by_channel)
        return results

    def spread(
        self, name: OutputName, values: Tensor, rows: Sequence[int], n_chans: int, binding: EegDinoBinding
    ) -> Tensor:
        """Put what was computed on some channels where that of all would be; the rest is NaN."""
        if name == "tokens":
            first = self.config.n_global_tokens
            of_rows = values[:, first:].reshape(len(values), len(rows), -1, values.shape[-1])
            by_channel = spread(of_rows, 1, rows, n_chans)
            return torch.cat((values[:, :first], by_channel.flatten(1, 2)), dim=1)
        return spread(values, 1, rows, n_chans) if name == "embedding" and binding.pool == "per_channel" else values

    def _transform(self, x: Tensor, binding: EegDinoBinding, n_rows: int | None = None) -> Tensor:
        """`(B, C * P, D)` to `(B, G + C * P, D)`; with `n_rows` the last layer spares itself all further rows."""
        for number, (layer, bias) in enumerate(zip(self.encoder_layers, binding.qkv_biases, strict=True), start=1):
            x = layer(x, bias, n_rows if number == self.config.depth else None)
            if number == self.config.global_token_layer:
                x = torch.cat((self.global_tokens.expand(len(x), -1, -1), x), dim=1)
        return x

    def _classify(self, tokens: Tensor) -> Tensor:
        """`(B, C, P, D)` to `(B, n_classes)`."""
        x = F.gelu(self.full_linear(tokens)).mean(1)
        return cast("Tensor", self.classifier(F.gelu(self.channel_linear(x)).mean(1)))

    def _refuse_misfit(self, z: Tensor, binding: EegDinoBinding) -> None:
        n_chans, n_times = len(binding.offsets), z.shape[-1]
        if z.shape[1] != n_chans:
            raise ContractError(f"EEG-DINO is bound to {n_chans} channels, not {z.shape[1]}: bind it to this montage")
        if not n_times or n_times % PATCH:
            raise ContractError(
                f"EEG-DINO takes whole seconds of {PATCH} samples, which {n_times} samples are not: choose a whole "
                f"number of seconds as the duration, such as {SPEC.durations[0]} s"
            )


# ---- Weights ---------------------------------------------------------------------------------------------------------

_NAMES: dict[Form, dict[str, str]] = {
    "eegdino-rs burn": {
        "proj_in.conv1.": "proj_in.0.",
        "proj_in.norm1.": "proj_in.1.",
        "proj_in.conv2.": "proj_in.3.",
        "proj_in.norm2.": "proj_in.4.",
        "proj_in.conv3.": "proj_in.6.",
        "proj_in.norm3.": "proj_in.7.",
        "spectral_proj.": "spectral_proj.0.",
        "time_encoding.": "time_encoding.0.",
    },
    "braindecode": {
        "final_layer.token_proj.0.": "full_linear.",
        "final_layer.time_proj.0.": "channel_linear.",
        "final_layer.classifier.": "classifier.",
    },
}
_LINEAR = re.compile(
    r"(spectral_proj\.0|channel_embedding|attn\.(qkv|proj)|mlp\.fc[12]|(full|channel)_linear|classifier\.[036])\.weight$"
)


def form_of(state: Mapping[str, Tensor]) -> Form:
    """In which of the published forms a state is.

    Returns:
        `original`: the authors' pre-training, a student and a teacher; `fine-tuned`: their fine-tuning, an `encoder.`
        and a head; `braindecode`: with the head of that library; `eegdino-rs burn`: that port's, transposed;
        `canonical`: as this module names tensors.

    Raises:
        WeightsError: these are not the weights of an EEG-DINO.
    """
    prefix = _prefixes(state)[0]
    if prefix.endswith(("student.", "teacher.")):
        return "original"
    if f"{prefix}patch_embedding.proj_in.conv1.weight" in state:
        return "eegdino-rs burn"
    if any(key.startswith(f"{prefix}final_layer.") for key in state):
        return "braindecode"
    return "fine-tuned" if prefix.endswith("encoder.") else "canonical"


def _prefixes(state: Mapping[str, Tensor]) -> list[str]:
    """What precedes the names of each network in a state."""
    if prefixes := [key.removesuffix("global_tokens") for key in state if re.search(r"(^|\.)global_tokens$", key)]:
        return prefixes
    raise foreign("an EEG-DINO", "'global_tokens'")


def rename_keys(state: Mapping[str, Tensor], which: Which = "student") -> dict[str, Tensor]:
    """Bring a state in any published form to this module's names and layout; all else that it holds is left out.

    Args:
        state: names and tensors.
        which: of the two networks of a pre-training: the student is what eegdino-rs runs, the teacher what braindecode
            publishes; a state of one network offers no choice.

    Raises:
        WeightsError: these are not the weights of an EEG-DINO, or lack the one asked for.
    """
    form, prefix = form_of(state), _prefixes(state)[0]
    if form == "original":
        prefix = next((prefix for prefix in _prefixes(state) if prefix.endswith(f"{which}.")), "")
        if not prefix:
            raise WeightsError(
                f"these weights of an EEG-DINO hold no {which}: ask for the other of student and teacher"
            )
    ours = re.compile(
        rf"{re.escape(prefix)}(?=global_tokens$|patch_embedding\.|encoder_layers\.)"
        rf"|{re.escape(prefix.removesuffix('encoder.'))}(?=full_linear\.|channel_linear\.|classifier\.|final_layer\.)"
    )
    renamed = {
        ours.sub("", key, count=1): tensor
        for key, tensor in state.items()
        if ours.match(key) and not key.endswith("relative_position_index")
    }
    if form == "braindecode":
        log.warning(
            "braindecode publishes EEG-DINO with a classifier that was never trained: "
            "its logits mean nothing unless this file was fine-tuned"
        )
    for theirs, name in _NAMES.get(form, {}).items():
        renamed = {key.replace(theirs, name): tensor for key, tensor in renamed.items()}
    if form == "eegdino-rs burn":
        renamed |= {key: tensor.transpose(0, -1).contiguous() for key, tensor in renamed.items() if _LINEAR.search(key)}
    return renamed


def random_state(config: EegDinoConfig, seed: int) -> dict[str, Tensor]:
    """An untrained state, the same bits on every machine."""
    return draw(manifest(config), seed)


# ---- How many heads? -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class HeadGuess:
    """How many heads some weights were trained with.

    Attributes:
        n_heads: None where the weights do not tell, as untrained ones.
        correlations: for each candidate, how alike queries and keys (values and projections) are arranged within a
            head, and between the two halves of a head twice as wide; the first beats the second up to the true number.
    """

    n_heads: int | None
    correlations: dict[int, tuple[float, float]]


@weights_of("an EEG-DINO")
def detect_heads(state: Mapping[str, Tensor]) -> HeadGuess:
    """Tell the number of heads from trained weights, as `rename_keys` leaves them.

    Training makes the coordinates of queries and of keys alike in how they relate to each other, and those of values
    and of the output projection, but only within a head. A candidate whose neighbouring heads look like one is too
    many; the largest that is not is the answer. Right on small transformers trained with 2, 4, 8 and 16 heads.

    Raises:
        WeightsError: these are not the weights of an EEG-DINO.
    """
    width = len(state["encoder_layers.0.attn.proj.weight"])
    candidates = [n for n in (2, 4, 8, 16, 32) if width % n == 0 and width // n >= 8]  # narrower: told by chance
    found = [
        [_correlations(pair, width // n) for n in candidates]
        for layer in range(count_layers(state, "encoder_layers."))
        for pair in _gram_pairs(state, f"encoder_layers.{layer}.attn")
    ]
    medians = torch.tensor(found).median(0).values.tolist()
    correlations = {n: (within, between) for n, (within, between) in zip(candidates, medians, strict=True)}
    told = [n for n, (within, between) in correlations.items() if within - between >= 0.05]
    return HeadGuess(max(told, default=None), correlations)


def _gram_pairs(state: Mapping[str, Tensor], name: str) -> list[tuple[Tensor, Tensor]]:
    """Cosines between the coordinates of queries and of keys, and of values and of projections: `(D, D)` each."""
    rows = (*state[f"{name}.qkv.weight"].chunk(3), state[f"{name}.proj.weight"].mT)
    queries, keys, values, projections = (unit @ unit.mT for unit in (F.normalize(part, dim=1) for part in rows))
    return [(queries, keys), (values, projections)]


def _correlations(grams: tuple[Tensor, Tensor], head: int) -> tuple[float, float]:
    """How alike two `(D, D)` tables are: among the coordinates of a head, and between those of neighbouring heads."""
    n_heads = len(grams[0]) // head
    blocks = torch.stack(grams).reshape(2, n_heads, head, n_heads, head)
    same = blocks.diagonal(dim1=1, dim2=3)[:, ~torch.eye(head, dtype=torch.bool)]
    neighbours = blocks[:, 0::2, :, 1::2].diagonal(dim1=1, dim2=3)
    within, between = (float(torch.corrcoef(pairs.flatten(1))[0, 1]) for pairs in (same, neighbours))
    return within, between
