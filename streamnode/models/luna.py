"""LUNA: any set of EEG channels in, a latent vector per 156 ms patch out (Döner et al., 2025, arXiv:2510.22257).

    patches of 40 samples -> convolutions + spectrum -> + where the channel sits -> learned queries read all channels of
    a patch (cross-attention) -> transformer over patches -> reconstruction of the window, or class logits

Parameters are named as in the original code (github.com/pulp-bio/BioFoundation), so a published file loads as it is.
Shapes: B epochs, C channels, T samples, S = T / 40 patches, D width of a token, Q queries, E = Q * D, H heads.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Collection, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, cast, get_args

import torch
import torch.nn.functional as F  # noqa: N812  (its name everywhere)
from torch import Tensor, nn

from streamnode.errors import ConfigError, ContractError, WeightsError
from streamnode.models.attention import attend
from streamnode.models.layers import Linear, Mlp, gelu_linear, linear
from streamnode.models.state import (
    blank_embedding,
    count,
    count_layers,
    draw,
    plain,
    refuse_contradictions,
    shapes_of,
    spread,
    weights_of,
    without_wrappers,
)
from streamnode.types import ModelSpec, Montage, OutputName

log = logging.getLogger(__name__)

SPEC = ModelSpec(
    name="luna",
    sfreq=256.0,
    patch=40,
    durations=(5.0,),
    ch_names=None,
    needs_positions=True,
    l_freq=0.1,
    h_freq=75.0,
    notch=True,
    reference="as_recorded",
    scaling="each channel of each epoch: (x - mean) / (std + 1e-8), unbiased std",
    outputs=("embedding", "tokens", "logits", "reconstruction", "attention"),
    offline=("band", "notch", "resample"),
)

# ---- Channel names: known to the reconstruction head only ------------------------------------------------------------

Vocabulary = Literal["strict", "alias", "none"]

_TUEG22 = (
    "FP1-F7 F7-T3 T3-T5 T5-O1 FP2-F8 F8-T4 T4-T6 T6-O2 T3-C3 C3-CZ CZ-C4 C4-T4 FP1-F3 F3-C3 C3-P3 P3-O1 FP2-F4 F4-C4 "
    "C4-P4 P4-O2 A1-T3 T4-A2"
)
_SIENA29 = "FP1 FP2 F3 C3 P3 O1 F7 T3 T5 FC1 FC5 CP1 CP5 F9 FZ CZ PZ F4 C4 P4 O2 F8 T4 T6 FC2 FC6 CP2 CP6 F10"
_SEED62 = (
    "FP1 FPZ FP2 AF3 AF4 F7 F5 F3 F1 FZ F2 F4 F6 F8 FT7 FC5 FC3 FC1 FCZ FC2 FC4 FC6 FT8 T7 C5 C3 C1 CZ C2 C4 C6 T8 TP7 "
    "CP5 CP3 CP1 CPZ CP2 CP4 CP6 TP8 P7 P5 P3 P1 PZ P2 P4 P6 P8 PO7 PO5 PO3 POZ PO4 PO6 PO8 CB1 O1 OZ O2 CB2"
)
TRAINED = frozenset(f"{_TUEG22} {_SIENA29}".split())
VOCABULARY = tuple(sorted(TRAINED | set(_SEED62.split())))
ALIASES = {"T7": "T3", "T8": "T4", "P7": "T5", "P8": "T6"}


def vocabulary_rows(ch_names: Sequence[str], vocabulary: Vocabulary) -> list[int]:
    """Row of each channel in the table of channel embeddings.

    Args:
        ch_names: as `streamnode.montage` spells them.
        vocabulary: `strict`, or `alias` to read T7, T8, P7, P8 as the T3, T4, T5, T6 that training saw.

    Raises:
        ContractError: a name has no row.
        ConfigError: `vocabulary` is something else.
    """
    if vocabulary not in get_args(Vocabulary):
        raise ConfigError(f"vocabulary is {vocabulary!r}: use one of {', '.join(get_args(Vocabulary))}")
    aliases = ALIASES if vocabulary == "alias" else {}
    names = ["-".join(aliases.get(part, part) for part in name.upper().split("-")) for name in ch_names]
    unknown = [ch_name for ch_name, name in zip(ch_names, names, strict=True) if name not in VOCABULARY]
    if unknown:
        raise ContractError(
            f"LUNA's vocabulary lacks {', '.join(unknown)}: leave out the reconstruction, or set vocabulary to alias "
            "(reads T7, T8, P7, P8 as T3, T4, T5, T6) or none (reconstructs by position alone, as training never did)"
        )
    untrained = [ch_name for ch_name, name in zip(ch_names, names, strict=True) if name not in TRAINED]
    if untrained:
        log.warning("LUNA never saw %s in training: their reconstruction means little", ", ".join(untrained))
    return [VOCABULARY.index(name) for name in names]


# ---- Sizes -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class LunaConfig:
    """Sizes of a LUNA. The two norms are missing from files saved by braindecode, whose network lacks them."""

    embed_dim: int
    n_queries: int
    depth: int
    n_heads: int = 2
    patch: int = 40
    mlp_ratio: int = 4
    n_classes: int = 0
    has_decoder: bool = True
    location_norm: bool = True
    ffn_norm: bool = True

    @property
    def width(self) -> int:
        """E, the width of the transformer over patches."""
        return self.n_queries * self.embed_dim

    @classmethod
    @weights_of("a LUNA")
    def from_state(cls, state: Mapping[str, Tensor]) -> LunaConfig:
        """Read the sizes off the tensors of a checkpoint, as `rename_keys` leaves them.

        The number of heads shows in the rotary frequencies alone: all other shapes are the same for any number.

        Raises:
            WeightsError: these are not the weights of a LUNA, or their shapes contradict each other.
        """
        _, n_queries, embed_dim = state["cross_attn.query_embed"].shape
        (half_head,) = state["blocks.0.attn.rotary_emb.freqs"].shape
        _, n_features = state["freq_embed.frequency_to_embed.fc1.weight"].shape
        hidden, width = state["blocks.0.mlp.fc1.weight"].shape
        if not embed_dim or embed_dim % 16 or not half_head or embed_dim % (2 * half_head):
            raise WeightsError(
                f"these are not the weights of a LUNA: heads {2 * half_head} wide do not divide tokens {embed_dim} "
                "wide; give one of its checkpoints"
            )
        config = cls(
            embed_dim=embed_dim,
            n_queries=n_queries,
            depth=count_layers(state, "blocks."),
            n_heads=embed_dim // (2 * half_head),
            patch=n_features - 2,
            mlp_ratio=hidden // width,
            n_classes=len(state.get("classifier.decoder_ffn.fc2.weight", ())),
            has_decoder="decoder_head.norm.weight" in state,
            location_norm="channel_location_embedder.0.norm.weight" in state,
            ffn_norm="cross_attn.ffn.norm.weight" in state,
        )
        refuse_contradictions(state, manifest(config), "LUNA")
        log.info("the weights are %s with %d heads", variant_name(config), config.n_heads)
        return config


VARIANTS = {
    "base": LunaConfig(embed_dim=64, n_queries=4, depth=8),
    "large": LunaConfig(embed_dim=96, n_queries=6, depth=10),
    "huge": LunaConfig(embed_dim=128, n_queries=8, depth=24),
}


def variant_name(config: LunaConfig) -> str:
    """`luna-base`, `luna-large` or `luna-huge` by the sizes of the encoder; `luna-custom` for any other."""
    encoder = LunaConfig(
        config.embed_dim, config.n_queries, config.depth, patch=config.patch, mlp_ratio=config.mlp_ratio
    )
    return next((f"luna-{name}" for name, variant in VARIANTS.items() if variant == encoder), "luna-custom")


def manifest(config: LunaConfig) -> dict[str, torch.Size]:
    """Name and shape of every tensor in a checkpoint of these sizes."""
    return shapes_of(lambda: LUNA(config))


# ---- Layers, in the order a sample meets them ------------------------------------------------------------------------


class PatchEmbed(nn.Module):
    """What a patch looks like in time: three convolutions, normalised over all patches of all channels at once.

    A patch has four positions only, so each convolution is run as the matrix that it is, position by position.
    """

    def __init__(self, embed_dim: int, patch: int) -> None:
        super().__init__()
        self.patch = patch
        maps, step = embed_dim // 4, patch // 4
        layers: list[nn.Module] = []
        for convolution in (
            nn.Conv2d(1, maps, (1, 2 * step - 1), stride=(1, step), padding=(0, step - 1)),
            nn.Conv2d(maps, maps, (1, 3), padding=(0, 1)),
            nn.Conv2d(maps, maps, (1, 3), padding=(0, 1)),
        ):
            layers += [convolution, nn.GroupNorm(4, maps), nn.GELU()]
        self.proj_in = nn.Sequential(*layers)

    def bind(self) -> tuple[tuple[Tensor, Tensor], ...]:
        """Weight and bias of each convolution as a linear layer."""
        convolutions = [layer for layer in self.proj_in if isinstance(layer, nn.Conv2d)]
        return tuple(as_linear(layer, n) for layer, n in zip(convolutions, (self.patch, 4, 4), strict=True))

    def forward(self, rows: Tensor, layers: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
        """Patches `(B, R, patch)` to `(B, R, D)`; features are ordered position by map, as the weights expect."""
        norms = [layer for layer in self.proj_in if isinstance(layer, nn.GroupNorm)]
        for (weight, bias), norm in zip(layers, norms, strict=True):
            maps = F.linear(rows, weight, bias).reshape(*rows.shape[:2], 4, -1).permute(0, 3, 1, 2)
            # Map after map in memory, where the norm's sums are the most exact.
            rows = F.gelu(norm(maps.contiguous())).permute(0, 2, 3, 1).flatten(2)
        return rows


def as_linear(convolution: nn.Conv2d, n: int) -> tuple[Tensor, Tensor]:
    """Weight and bias of the linear layer that a convolution is on rows of n positions; features go position by map."""
    weight, bias = convolution.weight, cast("Tensor", convolution.bias)
    units = torch.eye(n * weight.shape[1], dtype=weight.dtype, device=weight.device).reshape(-1, 1, n, weight.shape[1])
    maps = F.conv2d(units.permute(0, 3, 1, 2), weight, None, convolution.stride, convolution.padding)
    return maps.permute(3, 1, 2, 0).flatten(0, 2), bias.repeat(maps.shape[-1])


class FrequencyEmbed(nn.Module):
    """What a patch looks like in frequency: magnitudes and phases of its Fourier transform through an MLP."""

    def __init__(self, embed_dim: int, patch: int) -> None:
        super().__init__()
        self.patch = patch
        self.frequency_to_embed = Mlp(patch + 2, 4 * (patch + 2), embed_dim)

    def bind(self) -> Tensor:
        """The matrix `(patch + 2, patch + 2)` that parts a spectrum, of real and imaginary parts in turn, into the two.

        Imaginary parts at DC and Nyquist become exact zeros: rounding there, which differs between FFTs, would flip a
        phase of pi to -pi.
        """
        n = self.patch // 2 + 1
        parting = torch.eye(2 * n).reshape(n, 2, 2 * n).transpose(0, 1).flatten(0, 1)
        parting[[n, -1]] = 0
        return parting.to(self.frequency_to_embed.fc1.bias)

    def forward(self, rows: Tensor, parting: Tensor) -> Tensor:
        """Patches `(B, R, patch)` in float32 or float64 to `(B, R, D)`."""
        spectrum = torch.fft.rfft(rows)
        # A product leaves patch beside patch in memory, so that a CPU takes arc tangents of many at once.
        real, imag = product_of_parts(spectrum, parting) if rows.device.type == "cpu" else parts(spectrum)
        features = torch.cat((torch.hypot(real, imag), torch.atan2(imag, real)), dim=-2)
        return cast("Tensor", self.frequency_to_embed(features.mT.contiguous()))


def product_of_parts(spectrum: Tensor, parting: Tensor) -> tuple[Tensor, Tensor]:
    """What `parts` yields, by the matrix of `FrequencyEmbed.bind`; autocast would round it."""
    real, imag = (parting @ torch.view_as_real(spectrum).flatten(-2).mT).chunk(2, dim=-2)
    return real, imag


def parts(spectrum: Tensor) -> tuple[Tensor, Tensor]:
    """Real and imaginary parts `(B, F, R)` of spectra `(B, R, F)`, the latter without those at DC and Nyquist."""
    return spectrum.real.mT, F.pad(spectrum.imag[..., 1:-1], (1, 1)).mT


def scale_locations(ch_pos: Tensor) -> Tensor:
    """`(C, 3)` positions scaled to 0...1 along each axis, over the channels that are present."""
    low, high = ch_pos.amin(0), ch_pos.amax(0)
    return (ch_pos - low) / (high - low + 1e-8)


def encode_locations(ch_pos: Tensor, embed_dim: int) -> Tensor:
    """Sines and cosines of the scaled positions, octave by octave: `(C, 3)` to `(C, D)`, zeros at the end.

    Give float32: the network was trained on its rounding, which the highest octave of luna-huge amplifies to 0.06 rad.
    """
    octaves = torch.tensor([2.0**m for m in range(embed_dim // 6)], dtype=ch_pos.dtype)
    angles = scale_locations(ch_pos)[:, None, :] * octaves[:, None]
    waves = torch.stack((angles.sin(), angles.cos()), dim=-1).flatten(1)
    return F.pad(waves, (0, embed_dim - waves.shape[1]))


class Attention(nn.Module):
    """Multi-head attention with packed projections; its steps are apart, so that constant ones can be precomputed."""

    def __init__(self, width: int, n_heads: int) -> None:
        super().__init__()
        self.width, self.n_heads = width, n_heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.empty(3 * width))
        self.out_proj = Linear(width, width)

    def project(self, x: Tensor, parts: Literal["qkv", "q", "k", "v", "kv"]) -> Tensor:
        """The asked projections of `(..., n, width)`, as `(n_parts, ..., H, n, width / H)`."""
        first = "qkv".index(parts) * self.width
        rows = slice(first, first + len(parts) * self.width)
        return split_heads(linear(x, self.in_proj_weight[rows], self.in_proj_bias[rows]), len(parts), self.n_heads)

    def merge(self, heads: Tensor) -> Tensor:
        """`(..., H, n, width / H)` to `(..., n, width)`."""
        return cast("Tensor", self.out_proj(heads.transpose(-3, -2).flatten(-2)))

    def attend(self, queries: Tensor, memory: Tensor) -> Tensor:
        """Let projected queries `(H, n, width / H)` read a memory `(N, m, width)`: `(N, n, width)`."""
        keys, values = self.project(memory, "kv")
        return self.merge(attend(queries.expand(len(memory), -1, -1, -1), keys, values))

    def forward(self, x: Tensor) -> Tensor:
        """Self-attention over `(..., n, width)`."""
        return self.merge(attend(*self.project(x, "qkv")))


def split_heads(x: Tensor, n_parts: int, n_heads: int) -> Tensor:
    """`(..., n, n_parts * width)` to `(n_parts, ..., n_heads, n, width / n_heads)`."""
    return x.reshape(*x.shape[:-1], n_parts, n_heads, -1).movedim(-3, 0).transpose(-3, -2)


class QueryLayer(nn.Module):
    """A transformer layer over the queries of one patch."""

    def __init__(self, embed_dim: int, n_heads: int) -> None:
        super().__init__()
        self.self_attn = Attention(embed_dim, n_heads)
        self.linear1 = Linear(embed_dim, 4 * embed_dim)
        self.linear2 = Linear(4 * embed_dim, embed_dim)
        self.norm1 = nn.LayerNorm(embed_dim)
        self.norm2 = nn.LayerNorm(embed_dim)

    def forward(self, x: Tensor) -> Tensor:
        """`(N, Q, D)` to the same."""
        x = x + self.self_attn(self.norm1(x))
        return x + cast("Tensor", self.linear2(gelu_linear(self.norm2(x), self.linear1)))


@dataclass(frozen=True, slots=True, eq=False)
class UnifierBinding:
    """How the queries of the unifier read channels: constants of the weights.

    Attributes:
        scorers: `(Q * H, D)` what each head of each query looks for in a normalised token.
        weight: `(D, H * D)` what becomes of what the heads picked.
        bias: `(D,)` what a query reads in any case.
    """

    scorers: Tensor
    weight: Tensor
    bias: Tensor


class ChannelUnifier(nn.Module):
    """Learned queries read the channels of a patch, however many: the step that makes LUNA indifferent to montages."""

    def __init__(self, config: LunaConfig) -> None:
        super().__init__()
        width = config.embed_dim
        self.query_embed = nn.Parameter(torch.empty(1, config.n_queries, width))
        self.temparature = nn.Parameter(torch.empty(()))  # in every checkpoint, thus spelled, and never used
        self.cross_attention = Attention(width, config.n_heads)
        self.ffn = Mlp(width, config.mlp_ratio * width, width, norm=config.ffn_norm)
        self.keys_norm = nn.LayerNorm(width)
        self.values_norm = nn.LayerNorm(width)
        self.queries_norm = nn.LayerNorm(width)
        layers = nn.Sequential(*(QueryLayer(width, config.n_heads) for _ in range(3)))
        self.query_self_attn = nn.ModuleDict({"layers": layers})

    def bind(self) -> UnifierBinding:
        """The attention with its projections and the affine norms before it folded into three tensors.

        Queries are constant, so scores come straight of the normalised tokens; what all channels share drops out of the
        softmax. Values are picked first and projected afterwards, shares adding up to 1.
        """
        exact = deepcopy(self).double()  # rounded once: an error in here would be the same in every token
        attention = exact.cross_attention
        (queries,) = attention.project(exact.queries_norm(exact.query_embed[0]), "q")
        _, to_keys, to_values = attention.in_proj_weight.reshape(3, attention.n_heads, -1, attention.width)
        scorers = queries / queries.shape[-1] ** 0.5 @ to_keys * exact.keys_norm.weight
        merge = attention.out_proj.weight.reshape(attention.width, attention.n_heads, -1).transpose(0, 1)
        weight = merge @ to_values * exact.values_norm.weight
        (shared,) = attention.project(exact.values_norm.bias[None], "v")
        folded = (scorers.transpose(0, 1).flatten(0, 1), weight.transpose(0, 1).flatten(1), attention.merge(shared)[0])
        return UnifierBinding(*(tensor.to(self.query_embed) for tensor in folded))

    def forward(self, tokens: Tensor, binding: UnifierBinding) -> tuple[Tensor, Tensor]:
        """`(N, C, D)` to unified tokens `(N, Q, D)`, and how much each head of each query took `(N, Q, H, C)`."""
        tokens = F.layer_norm(tokens, tokens.shape[-1:])
        scores = torch.matmul(binding.scorers, tokens.mT).softmax(-1)
        n, n_queries = len(tokens), self.query_embed.shape[1]
        x = F.linear(torch.bmm(scores, tokens).reshape(n, n_queries, -1), binding.weight, binding.bias)
        scores = scores.reshape(n, n_queries, self.cross_attention.n_heads, -1)
        return self.query_self_attn["layers"](self.ffn(x) + x), scores


class RotaryFrequencies(nn.Module):
    """Frequencies of a rotary position embedding over interleaved pairs: they come with the weights but never train."""

    freqs: Tensor

    def __init__(self, head: int) -> None:
        super().__init__()
        self.register_buffer("freqs", torch.tensor([10000.0 ** (-i / head) for i in range(0, head, 2)]))


def turns(freqs: Tensor, n: int) -> Tensor:
    """Cosines, and sines with the sign of each partner, for positions 0...n-1: `(L, head / 2)` to `(L, 2, n, head)`."""
    angles = torch.arange(n, device=freqs.device)[:, None] * freqs[:, None]
    cos, sin = angles.cos(), angles.sin()
    return torch.stack((torch.stack((cos, cos), -1), torch.stack((-sin, sin), -1)), dim=1).flatten(-2)


def rotate(x: Tensor, turn: Tensor) -> Tensor:
    """Rotate the pairs of `(..., n, head)` by a `(2, n, head)` of `turns`."""
    cos, sin = turn
    partners = x.reshape(*x.shape[:-1], -1, 2).flip(-1).flatten(-2)
    return torch.addcmul(x * cos, partners, sin).to(x.dtype)


class RotaryAttention(nn.Module):
    """Self-attention over the patches of an epoch."""

    def __init__(self, width: int, n_heads: int) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.rotary_emb = RotaryFrequencies(width // n_heads)
        self.qkv_proj = Linear(width, 3 * width)
        self.proj = Linear(width, width)

    def forward(self, x: Tensor, turn: Tensor) -> Tensor:
        """`(B, S, E)` to the same."""
        qkv = split_heads(self.qkv_proj(x), 3, self.n_heads)
        queries, keys = rotate(qkv[:2], turn)
        heads = attend(queries, keys, qkv[2])
        return cast("Tensor", self.proj(heads.transpose(1, 2).flatten(2)))


class Block(nn.Module):
    """A transformer layer over the patches of an epoch."""

    def __init__(self, config: LunaConfig) -> None:
        super().__init__()
        width = config.width
        self.norm1 = nn.LayerNorm(width)
        self.attn = RotaryAttention(width, config.n_heads * config.n_queries)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = Mlp(width, config.mlp_ratio * width, width, norm=True)

    def forward(self, x: Tensor, turn: Tensor) -> Tensor:
        """`(B, S, E)` to the same; the turn is that of the positions, from `turns`."""
        x = x + self.attn(self.norm1(x), turn)
        return x + cast("Tensor", self.mlp(self.norm2(x)))


class DecoderLayer(nn.Module):
    """Lets every channel look at the others of its montage, then at the unified tokens of one patch."""

    def __init__(self, embed_dim: int, n_heads: int) -> None:
        super().__init__()
        self.self_attn = Attention(embed_dim, n_heads)
        self.multihead_attn = Attention(embed_dim, n_heads)
        self.linear1 = Linear(embed_dim, 4 * embed_dim)
        self.linear2 = Linear(4 * embed_dim, embed_dim)
        self.norm1 = nn.LayerNorm(embed_dim)
        self.norm2 = nn.LayerNorm(embed_dim)
        self.norm3 = nn.LayerNorm(embed_dim)

    def bind(self, channels: Tensor) -> tuple[Tensor, Tensor]:
        """All that precedes the first look at the signal: channels `(C, D)` and their queries `(H, C, D / H)`."""
        channels = channels + self.self_attn(self.norm1(channels)[None])[0]
        (queries,) = self.multihead_attn.project(self.norm2(channels), "q")
        return channels, queries

    def forward(self, channels: Tensor, queries: Tensor, memory: Tensor) -> Tensor:
        """Read the unified tokens `(N, Q, D)` into the channels: `(N, C, D)`."""
        x = channels + self.multihead_attn.attend(queries, memory)
        return x + cast("Tensor", self.linear2(gelu_linear(self.norm3(x), self.linear1)))


class ReconstructionHead(nn.Module):
    """Draws each channel's 40 samples of a patch."""

    def __init__(self, config: LunaConfig) -> None:
        super().__init__()
        width = config.embed_dim
        self.decoder_pred = nn.ModuleDict({"layers": nn.ModuleList([DecoderLayer(width, config.n_heads)])})
        self.norm = nn.LayerNorm(width)
        self.decoder_linear = Mlp(width, 4 * width, config.patch)

    @property
    def layer(self) -> DecoderLayer:
        """The only layer."""
        return cast("DecoderLayer", self.decoder_pred.get_submodule("layers.0"))

    def forward(self, channels: Tensor, queries: Tensor, memory: Tensor) -> Tensor:
        """`(N, Q, D)` unified tokens to `(N, C, patch)` normalised samples."""
        return cast("Tensor", self.decoder_linear(self.norm(self.layer(channels, queries, memory))))


class ClassificationHead(nn.Module):
    """One learned query reads all patches."""

    def __init__(self, config: LunaConfig) -> None:
        super().__init__()
        width = config.width
        self.learned_agg = nn.Parameter(torch.empty(1, 1, width))
        self.decoder_attn = Attention(width, config.n_heads)
        self.decoder_ffn = Mlp(width, 4 * width, config.n_classes)

    def forward(self, latent: Tensor) -> Tensor:
        """`(B, S, E)` to `(B, n_classes)`."""
        (query,) = self.decoder_attn.project(self.learned_agg[0], "q")
        return cast("Tensor", self.decoder_ffn(self.decoder_attn.attend(query, latent)[:, 0]))


# ---- The network -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class LunaBinding:
    """All that depends on the montage and the weights but not on the signal.

    Attributes:
        location: `(C, D)` where each channel sits.
        patch_layers: weight and bias of the linear layers that the convolutions are.
        parting: of the spectrum of a patch, see `FrequencyEmbed`.
        unifier: how its queries read the channels.
        freqs: `(L, E / heads / 2)` of the rotary embedding of each layer.
        channels: `(C, D)` what the decoder starts from; None when no reconstruction is wanted.
        channel_queries: `(H, C, D / H)` what the decoder asks of the unified tokens; likewise.
    """

    location: Tensor
    patch_layers: tuple[tuple[Tensor, Tensor], ...]
    parting: Tensor
    unifier: UnifierBinding
    freqs: Tensor
    channels: Tensor | None = None
    channel_queries: Tensor | None = None


class LUNA(nn.Module):
    """The whole network. Its parameters are meaningless until a state is loaded."""

    SPEC: ClassVar[ModelSpec] = SPEC

    def __init__(self, config: LunaConfig) -> None:
        super().__init__()
        width = config.embed_dim
        self.config = config
        self.mask_token = nn.Parameter(torch.empty(1, 1, width))  # stands in for masked patches, in training only
        self.patch_embed = PatchEmbed(width, config.patch)
        self.freq_embed = FrequencyEmbed(width, config.patch)
        self.channel_location_embedder = nn.Sequential(Mlp(width, 2 * width, width, norm=config.location_norm))
        self.cross_attn = ChannelUnifier(config)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.depth))
        self.norm = nn.LayerNorm(config.width)
        if config.has_decoder:
            self.decoder_head = ReconstructionHead(config)
            self.channel_emb = nn.ModuleDict({"embeddings": blank_embedding(len(VOCABULARY), width)})
        if config.n_classes:
            self.classifier = ClassificationHead(config)

    @property
    def available_outputs(self) -> tuple[OutputName, ...]:
        """What these weights can yield."""
        absent = {"logits": not self.config.n_classes, "reconstruction": not self.config.has_decoder}
        return tuple(name for name in SPEC.outputs if not absent.get(name))

    @property
    def n_params(self) -> int:
        """Numbers in the state."""
        return count(self)

    @torch.no_grad()
    def bind(
        self,
        montage: Montage,
        outputs: Collection[OutputName] = ("embedding", "tokens", "attention"),
        *,
        vocabulary: Vocabulary = "strict",
    ) -> LunaBinding:
        """Compute all that depends on the montage alone; bind again when a channel comes or goes.

        Args:
            montage: channels of the epochs to come, in their order; all need a position.
            outputs: what will be asked of `forward`.
            vocabulary: how the reconstruction looks up channels: `strict`, `alias` (see `vocabulary_rows`), or `none`
                to go by position alone, as training never did.

        Raises:
            ContractError: the weights lack a head, a channel has no position, or the vocabulary lacks a channel that is
                to be reconstructed.
            ConfigError: `vocabulary` is something else.
        """
        if headless := set(outputs).difference(self.available_outputs):
            raise ContractError(f"these LUNA weights have no head for {', '.join(sorted(headless))}: do not ask for it")
        ch_pos = torch.tensor(montage.ch_pos, dtype=torch.float32)
        if lost := [name for name, xyz in zip(montage.ch_names, ch_pos, strict=True) if not xyz.isfinite().all()]:
            raise ContractError(f"LUNA must know where {', '.join(lost)} sits: give positions, or drop the channels")
        # The waves are made on the CPU, so that every device starts from the same bits.
        location = self.channel_location_embedder(encode_locations(ch_pos, self.config.embed_dim).to(self.mask_token))
        freqs = torch.stack([cast("Block", block).attn.rotary_emb.freqs for block in self.blocks])
        binding = LunaBinding(location, self.patch_embed.bind(), self.freq_embed.bind(), self.cross_attn.bind(), freqs)
        if "reconstruction" not in outputs:
            return binding
        channels = location
        if vocabulary != "none":
            rows = torch.tensor(vocabulary_rows(montage.ch_names, vocabulary), device=location.device)
            channels = location + self.channel_emb["embeddings"](rows)
        channels, queries = self.decoder_head.layer.bind(channels)
        return replace(binding, channels=channels, channel_queries=queries)

    def encode(self, x_uv: Tensor, binding: LunaBinding, outputs: Collection[OutputName]) -> dict[OutputName, Tensor]:
        """`forward` on `(B, C, T)` microvolts; the reconstruction comes back in microvolts."""
        z, mean, std = self.prepare(x_uv)
        results = self.forward(z, binding, outputs)
        if "reconstruction" in results:
            results["reconstruction"] = results["reconstruction"] * std + mean
        return results

    @staticmethod
    def spread(name: OutputName, values: Tensor, rows: Sequence[int], n_chans: int, _: LunaBinding) -> Tensor:
        """Put what was computed on some channels where that of all would be; the rest is NaN."""
        axes: dict[OutputName, int] = {"reconstruction": 1, "attention": -1}
        return spread(values, axes[name], rows, n_chans) if name in axes else values

    @staticmethod
    def prepare(x_uv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Scale each channel of each epoch: `(B, C, T)` microvolts to z-scores; also mean and std, `(B, C, 1)`."""
        first = x_uv[..., :1]
        x = x_uv - first  # so that a flat channel is zero, whatever its offset
        mean = x.mean(-1, keepdim=True)
        x = x - mean
        std = torch.linalg.vector_norm(x, dim=-1, keepdim=True) / (x.shape[-1] - 1) ** 0.5
        return x / (std + 1e-8), mean + first, std

    def forward(self, z: Tensor, binding: LunaBinding, outputs: Collection[OutputName]) -> dict[OutputName, Tensor]:
        """Run the network as far as `outputs` need it.

        Args:
            z: `(B, C, T)` as `prepare` scales it; T is a whole number of patches.
            binding: from `bind`, for the same channels.
            outputs: what to compute.

        Returns:
            `embedding` `(B, E)`, the mean of the tokens; `tokens` `(B, S, E)`, the latent after its final norm;
            `logits` `(B, n_classes)`; `reconstruction` `(B, C, T)` in the units of `z`; `attention` `(B, S, Q, C)`,
            how much each query took from each channel, rows summing to 1.

        Raises:
            ContractError: the epochs do not fit the binding or the patches.
        """
        self._refuse_misfit(z, binding, outputs)
        by_patch = (len(z), z.shape[-1] // self.config.patch)
        unified, scores = self.cross_attn(self.tokenize(z, binding), binding.unifier)
        x = unified.unflatten(0, by_patch).flatten(2)
        for block, turn in zip(self.blocks, turns(binding.freqs, by_patch[1]), strict=True):
            x = block(x, turn)
        tokens = self.norm(x)
        results: dict[OutputName, Tensor] = {}
        if "embedding" in outputs:
            results["embedding"] = tokens.mean(1)
        if "tokens" in outputs:
            results["tokens"] = tokens
        if "logits" in outputs:
            results["logits"] = self.classifier(tokens)
        if "reconstruction" in outputs:
            memory = tokens.flatten(0, 1).unflatten(-1, (-1, self.config.embed_dim))
            patches = self.decoder_head(binding.channels, binding.channel_queries, memory)
            results["reconstruction"] = patches.unflatten(0, by_patch).transpose(1, 2).flatten(2)
        if "attention" in outputs:
            results["attention"] = scores.mean(2).unflatten(0, by_patch)
        return results

    def tokenize(self, z: Tensor, binding: LunaBinding) -> Tensor:
        """One token per channel and patch: `(B, C, T)` to `(B * S, C, D)`, epoch by epoch."""
        rows = z.reshape(*z.shape[:2], -1, self.config.patch).transpose(1, 2).flatten(1, 2)
        tokens = self.patch_embed(rows, binding.patch_layers) + self.freq_embed(rows, binding.parting)
        return cast("Tensor", tokens.reshape(-1, *binding.location.shape) + binding.location)

    def _refuse_misfit(self, z: Tensor, binding: LunaBinding, outputs: Collection[OutputName]) -> None:
        n_chans, n_times, patch = len(binding.location), z.shape[-1], self.config.patch
        if z.shape[1] != n_chans:
            raise ContractError(f"LUNA is bound to {n_chans} channels, not {z.shape[1]}: bind it to this montage")
        if not n_times or n_times % patch:
            raise ContractError(
                f"LUNA takes whole patches of {patch} samples, which {n_times} samples are not: choose a multiple of "
                f"{patch / SPEC.sfreq} s as the duration, such as {SPEC.durations[0]} s"
            )
        if "reconstruction" in outputs and binding.channels is None:
            raise ContractError("LUNA is bound without the reconstruction: ask for it when binding")


# ---- Weights ---------------------------------------------------------------------------------------------------------


def rename_keys(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Give a state the names of the published files: drops the prefixes of trainers, translates braindecode's names.

    Where a trainer's prefix is found, keys without it (of losses and metrics) are none of the network's and go.
    """
    renamed = without_wrappers(state)
    for pattern, ours in (
        (r"^channel_location_embedder\.(?=[a-z])", "channel_location_embedder.0."),
        (r"^cross_attn\.temperature$", "cross_attn.temparature"),
        (r"^final_layer\.", "classifier."),
    ):
        renamed = {re.sub(pattern, ours, key): tensor for key, tensor in renamed.items()}
    return renamed


def form_of(state: Mapping[str, Tensor]) -> str:
    """Who wrote a state, by its names: `braindecode`, a `trainer` that put a prefix before them, or `published`."""
    if "channel_location_embedder.fc1.weight" in state or "cross_attn.temperature" in state:
        return "braindecode"
    return "published" if "cross_attn.query_embed" in state else "trainer"


def random_state(config: LunaConfig, seed: int) -> dict[str, Tensor]:
    """An untrained state, the same bits on every machine."""

    def constant(key: str, shape: torch.Size) -> Tensor:
        return RotaryFrequencies(2 * shape[0]).freqs if key.endswith("rotary_emb.freqs") else plain(key, shape)

    return draw(manifest(config), seed, constant)
