"""EEGPT: named EEG channels in, four summary vectors per 250 ms patch out (Wang et al., NeurIPS 2024).

    microvolts -> millivolts (-> channel projection) -> patches of 64 samples -> linear + which channel it is, beside
    learned summary tokens -> transformer over the tokens of one patch -> its summary (-> probe over the window: logits)

Nothing but the probe connects one patch with another, and there is no position in time: what a patch yields is the same
in every window that holds it. Parameters are named as in the original code (github.com/BINE022/EEGPT).
Shapes: B epochs, C channels, T samples, N patches, n patches of any epochs, S summary tokens, D width, H heads.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, cast, get_args

import torch
import torch.nn.functional as F  # noqa: N812  (its name everywhere)
from torch import Tensor, nn

from streamnode.errors import ConfigError, ContractError, WeightsError
from streamnode.models.attention import attend
from streamnode.models.layers import Linear, Mlp, linear
from streamnode.models.state import (
    blank_embedding,
    count,
    count_layers,
    draw,
    foreign,
    refuse_contradictions,
    shapes_of,
    weights_of,
    without_wrappers,
)
from streamnode.types import ModelSpec, Montage, OutputName

log = logging.getLogger(__name__)

SPEC = ModelSpec(
    name="eegpt",
    sfreq=256.0,
    patch=64,
    durations=(4.0, 5.0),  # trained on 4 s; to an encoder without time, 5 s are just more patches
    ch_names=None,
    needs_positions=False,
    # Training filtered nothing itself. Below these edges lies the drift of amplifiers without a high-pass, above them
    # what the training set recorded at 160 Hz never had.
    l_freq=0.1,
    h_freq=75.0,
    notch=False,
    reference="average",
    scaling="x / 1000, so that microvolts become millivolts; nothing is normalised",
    outputs=("embedding", "tokens", "logits"),
    offline=("resample",),
)

OnUnknown = Literal["error", "drop"]
Tail = Literal["drop", "pad"]
Pool = Literal["mean", "slots", "patches", "flat"]
Which = Literal["teacher", "student"]
Form = Literal["pretraining", "downstream", "braindecode", "canonical"]

# ---- Channel names ---------------------------------------------------------------------------------------------------

_NAMES = (
    "FP1 FPZ FP2 AF7 AF3 AF4 AF8 F7 F5 F3 F1 FZ F2 F4 F6 F8 FT7 FC5 FC3 FC1 FCZ FC2 FC4 FC6 FT8 T7 C5 C3 C1 CZ C2 "
    "C4 C6 T8 TP7 CP5 CP3 CP1 CPZ CP2 CP4 CP6 TP8 P7 P5 P3 P1 PZ P2 P4 P6 P8 PO7 PO5 PO3 POZ PO4 PO6 PO8 O1 OZ O2"
)
_PROJECTED_NAMES = "FP1 FP2 F7 F3 FZ F4 F8 T7 C3 CZ C4 T8 P7 P3 PZ P4 P8 O1 O2"
VOCABULARY = tuple(_NAMES.split())
PROJECTED = tuple(_PROJECTED_NAMES.split())
UNTRAINED = frozenset(("AF7", "AF8", "PO5", "PO6"))  # in the table, but on no cap of the training sets
ALIASES = {"T3": "T7", "T4": "T8", "T5": "P7", "T6": "P8"}


def channel_rows(ch_names: Sequence[str], on_unknown: OnUnknown = "error") -> dict[int, int]:
    """Row in the table of channel embeddings, by the index of each channel that has one.

    Args:
        ch_names: as `streamnode.montage` spells them; T3, T4, T5, T6 are read as T7, T8, P7, P8.
        on_unknown: what to do about a channel without a row: `error`, or `drop` to leave it out.

    Raises:
        ContractError: a channel has no row, or none has, or two have the same.
    """
    names = [ALIASES.get(name.upper(), name.upper()) for name in ch_names]
    rows = {index: VOCABULARY.index(name) for index, name in enumerate(names) if name in VOCABULARY}
    unknown = [name for index, name in enumerate(ch_names) if index not in rows]
    if unknown and (on_unknown == "error" or not rows):
        otherwise = ", or set on_unknown to drop" if rows and on_unknown == "error" else ""
        raise ContractError(
            f"EEGPT has no embedding for {', '.join(unknown)}: pick channels of the 10-10 system it knows (no AFz, Iz, "
            f"FT9-10, TP9-10, ears){otherwise}"
        )
    if unknown:
        log.warning("EEGPT has no embedding for %s: left out, after the average reference", ", ".join(unknown))
    if twice := [name for name, standard in zip(ch_names, names, strict=True) if names.count(standard) > 1]:
        raise ContractError(f"EEGPT has one embedding for {', '.join(twice)}: pick one channel for each place")
    if untrained := [ch_names[index] for index in rows if names[index] in UNTRAINED]:
        log.warning("EEGPT never saw %s in training: better left out", ", ".join(untrained))
    return rows


# ---- Sizes -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class EegptConfig:
    """Sizes of an EEGPT.

    Attributes:
        embed_dim: D, width of a token.
        n_summary: S, summary tokens.
        depth: transformer layers.
        n_heads: attention heads.
        patch: samples in a patch.
        patch_stride: samples from one patch to the next: 64 in pretraining, 32 in most of what was built on it.
        n_chan_rows: rows of the table of channel embeddings; those beyond the vocabulary are never used.
        n_classes: logits of the probe; 0 without one.
        probe_hidden: what the probe makes of a patch.
        probe_patches: N, the only number of patches that the probe can read.
        n_proj_in: channels that the channel projection mixes; 0 without one.
    """

    embed_dim: int
    n_summary: int
    depth: int
    n_heads: int
    patch: int = 64
    patch_stride: int = 32
    n_chan_rows: int = len(VOCABULARY)
    n_classes: int = 0
    probe_hidden: int = 16
    probe_patches: int = 0
    n_proj_in: int = 0

    @classmethod
    @weights_of("an EEGPT")
    def from_state(
        cls,
        state: Mapping[str, Tensor],
        *,
        n_heads: int | None = None,
        patch_stride: int | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> EegptConfig:
        """Read the sizes off the tensors of a checkpoint, as `rename_keys` leaves them.

        Args:
            state: the tensors, in which neither heads nor stride show.
            n_heads: without it that of the metadata, or of the published variants of this width.
            patch_stride: without it that of the metadata, or 32.
            metadata: of the file; `num_heads` and `patch_stride` count.

        Raises:
            WeightsError: these are not the weights of an EEGPT, or their shapes contradict each other.
            ConfigError: heads or stride do not fit the tensors.
        """
        metadata = metadata or {}
        _, n_summary, embed_dim = state["summary_token"].shape
        _, _, _, patch = state["patch_embed.proj.weight"].shape
        n_chan_rows, _ = state["chan_embed.weight"].shape
        if not (depth := count_layers(state, "blocks.")):
            raise foreign("an EEGPT", "no blocks")
        n_classes, probe_inputs = state["linear_probe2.weight"].shape if "linear_probe2.weight" in state else (0, 0)
        probe_hidden = len(state["linear_probe1.weight"]) if n_classes else 16
        n_proj_in = state["chan_conv.weight"].shape[1] if "chan_conv.weight" in state else 0
        if n_heads is None:
            n_heads = int(metadata["num_heads"]) if "num_heads" in metadata else _heads(embed_dim)
        if patch_stride is None:
            patch_stride = int(metadata.get("patch_stride", 32))
        if n_heads not in range(1, embed_dim + 1) or embed_dim % n_heads or patch_stride not in range(1, patch + 1):
            raise ConfigError(
                f"an EEGPT {embed_dim} wide with patches of {patch} samples cannot have {n_heads} heads and a patch "
                f"every {patch_stride} samples: give heads that divide the width, and 32 or 64 as the stride"
            )
        config = cls(
            embed_dim=embed_dim,
            n_summary=n_summary,
            depth=depth,
            n_heads=n_heads,
            patch=patch,
            patch_stride=patch_stride,
            n_chan_rows=n_chan_rows,
            n_classes=n_classes,
            probe_hidden=probe_hidden,
            probe_patches=probe_inputs // probe_hidden,
            n_proj_in=n_proj_in,
        )
        _refuse_contradictions(state, config)
        log.info(
            "the weights are %s with %d heads, a patch every %d samples", variant_name(config), n_heads, patch_stride
        )
        return config


VARIANTS = {
    "tiny1": EegptConfig(embed_dim=64, n_summary=1, depth=2, n_heads=4),
    "tiny2": EegptConfig(embed_dim=64, n_summary=4, depth=2, n_heads=4),
    "tiny3": EegptConfig(embed_dim=64, n_summary=4, depth=8, n_heads=4),
    "little": EegptConfig(embed_dim=128, n_summary=4, depth=8, n_heads=4),
    "base1": EegptConfig(embed_dim=256, n_summary=1, depth=6, n_heads=4),
    "base2": EegptConfig(embed_dim=256, n_summary=4, depth=8, n_heads=4),
    "base3": EegptConfig(embed_dim=512, n_summary=1, depth=6, n_heads=8),
    "large": EegptConfig(embed_dim=512, n_summary=4, depth=8, n_heads=8),
}
"""The sizes of the original code; of these, only large was ever published."""


def variant_name(config: EegptConfig) -> str:
    """`eegpt-large` and the like by the sizes of the encoder that show; `eegpt-custom` for any other."""
    shown = _shown(config)
    return next((f"eegpt-{name}" for name, variant in VARIANTS.items() if _shown(variant) == shown), "eegpt-custom")


def _shown(config: EegptConfig) -> tuple[int, ...]:
    """The sizes of an encoder by which its variant is told: heads and stride show in no tensor."""
    return config.embed_dim, config.n_summary, config.depth, config.patch


def manifest(config: EegptConfig) -> dict[str, torch.Size]:
    """Name and shape of every tensor in a checkpoint of these sizes."""
    return shapes_of(lambda: Eegpt(config))


def _heads(embed_dim: int) -> int:
    for variant in VARIANTS.values():
        if variant.embed_dim == embed_dim:
            return variant.n_heads
    raise ValueError(f"no EEGPT is {embed_dim} wide, and no number of heads was given")


def _refuse_contradictions(state: Mapping[str, Tensor], config: EegptConfig) -> None:
    refuse_contradictions(state, manifest(config), "EEGPT")
    if config.n_chan_rows < len(VOCABULARY):
        raise WeightsError(
            f"chan_embed.weight has {config.n_chan_rows} rows where EEGPT knows {len(VOCABULARY)} channels: "
            "give an unmodified checkpoint"
        )


# ---- Layers, in the order a sample meets them ------------------------------------------------------------------------


def cut_patches(z: Tensor, patch: int, stride: int, tail: Tail) -> Tensor:
    """`(B, C, T)` to `(B, N, C, patch)`; samples after the last patch are dropped, or padded with zeros to one more."""
    if tail == "pad":
        z = F.pad(z, (0, -(z.shape[-1] - patch) % stride))
    return z.unfold(-1, patch, stride).movedim(2, 1)


class PatchEmbed(nn.Module):
    """One linear map of the samples of a patch, with the shape of the convolution it was trained as."""

    def __init__(self, width: int, patch: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(1, width, (1, patch))

    def forward(self, patches: Tensor, constant: Tensor) -> Tensor:
        """`(n, C, patch)` to `(n, C, D)`; the constant has the bias."""
        rows = patches.flatten(0, 1)  # in a block of their own: patches overlap where they are cut from
        return F.linear(rows, self.proj.weight.flatten(1)).reshape(*patches.shape[:2], -1) + constant


class Attention(nn.Module):
    """Multi-head self-attention."""

    def __init__(self, width: int, n_heads: int) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.qkv = Linear(width, 3 * width)
        self.proj = Linear(width, width)

    def forward(self, x: Tensor, n_out: int) -> Tensor:
        """What the last `n_out` tokens of `(n, m, D)` read in all: `(n, n_out, D)`."""
        n, width = x.shape[1:]
        weight, bias = self.qkv.weight, self.qkv.bias
        if n_out == n:
            queries, keys, values = self.qkv(x).chunk(3, -1)
        else:
            queries = linear(x[:, -n_out:], weight[:width], bias[:width])
            keys, values = linear(x, weight[width:], bias[width:]).chunk(2, -1)
        heads = attend(self._split(queries), self._split(keys), self._split(values))
        return cast("Tensor", self.proj(heads.transpose(1, 2).flatten(2)))

    def _split(self, x: Tensor) -> Tensor:
        return x.reshape(*x.shape[:-1], self.n_heads, -1).transpose(1, 2)


class Block(nn.Module):
    """A transformer layer over the tokens of one patch."""

    def __init__(self, width: int, n_heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attn = Attention(width, n_heads)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = Mlp(width, 4 * width, width)

    def forward(self, x: Tensor, n_out: int) -> Tensor:
        """`(n, m, D)` to the last `n_out` of its tokens: all that the last layer owes to anyone is the summary."""
        x = x[:, -n_out:] + self.attn(self.norm1(x), n_out)
        return x + cast("Tensor", self.mlp(self.norm2(x)))


class BoundedLinear(nn.Linear):
    """A linear layer whose rows are used at no more than this length; files hold them as the optimiser left them."""

    def __init__(self, n_in: int, n_out: int, *, longest: float) -> None:
        super().__init__(n_in, n_out)
        self.longest = longest

    def forward(self, x: Tensor) -> Tensor:
        """`(..., n_in)` to `(..., n_out)`."""
        return F.linear(x, self.weight.renorm(2, 0, self.longest), self.bias)


def pool_tokens(tokens: Tensor, pool: Pool) -> Tensor:
    """One embedding per epoch of its summary tokens `(B, N, S, D)`.

    Args:
        tokens: from as many patches as you like.
        pool: `mean` of all, `(B, D)`; `slots`, the mean over time, `(B, S * D)`; `patches`, the mean over summary
            tokens, `(B, N, D)`; `flat`, no mean at all, `(B, N, S * D)`.
    """
    match pool:
        case "mean":
            return tokens.mean((1, 2))
        case "slots":
            return tokens.mean(1).flatten(1)
        case "patches":
            return tokens.mean(2)
        case "flat":
            return tokens.flatten(2)


# ---- The network -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class EegptBinding:
    """All that depends on the montage and the weights but not on the signal, and what was chosen with it.

    Attributes:
        n_chans: channels of the epochs to come.
        constant: `(C, D)` which channel it is, and the bias of the patch embedding.
        kept: indices of the channels that have an embedding; None when all have.
        projection: the channel projection, with the scale in it: `(19, n_chans)` weights and `(19, 1)` bias; or None.
        scale: from microvolts to what the network takes.
        tail: what becomes of samples after the last whole patch.
        pool: what the embedding is made of.
        compiled: what `Eegpt.forward` does for this binding, `(n, C, patch)` to `(n, S, D)`, in its place; or None.
    """

    n_chans: int
    constant: Tensor
    kept: Tensor | None
    projection: tuple[Tensor, Tensor] | None
    scale: float
    tail: Tail
    pool: Pool
    compiled: Callable[[Tensor], Tensor] | None = None

    @property
    def placed(self) -> tuple[int, ...]:
        """Indices of the channels that it looks at."""
        return tuple(range(self.n_chans)) if self.kept is None else tuple(self.kept.tolist())

    @property
    def needs_all(self) -> bool:
        """Whether it can do without no channel, for the projection mixes them."""
        return self.projection is not None


class Eegpt(nn.Module):
    """The whole network. Its parameters are meaningless until a state is loaded."""

    SPEC: ClassVar[ModelSpec] = SPEC

    def __init__(self, config: EegptConfig) -> None:
        super().__init__()
        width = config.embed_dim
        self.config = config
        self.summary_token = nn.Parameter(torch.empty(1, config.n_summary, width))
        self.patch_embed = PatchEmbed(width, config.patch)
        self.chan_embed = blank_embedding(config.n_chan_rows, width)
        self.blocks = nn.ModuleList(Block(width, config.n_heads) for _ in range(config.depth))
        self.norm = nn.LayerNorm(width, eps=1e-6)
        if config.n_proj_in:
            self.chan_conv = nn.Conv1d(config.n_proj_in, len(PROJECTED), 1)
        if config.n_classes:
            self.linear_probe1 = BoundedLinear(config.n_summary * width, config.probe_hidden, longest=1.0)
            self.linear_probe2 = BoundedLinear(
                config.probe_patches * config.probe_hidden, config.n_classes, longest=0.25
            )

    @property
    def available_outputs(self) -> tuple[OutputName, ...]:
        """What these weights can yield."""
        return tuple(name for name in SPEC.outputs if name != "logits" or self.config.n_classes)

    @property
    def n_params(self) -> int:
        """Numbers in the state."""
        return count(self)

    @torch.no_grad()
    def bind(
        self,
        montage: Montage,
        outputs: Collection[OutputName] = ("embedding", "tokens"),
        *,
        pool: Pool = "mean",
        on_unknown: OnUnknown = "error",
        tail: Tail = "drop",
        scale: float = 1e-3,
    ) -> EegptBinding:
        """Compute all that depends on the montage alone; bind again when a channel comes or goes.

        Args:
            montage: channels of the epochs to come, in their order. With a channel projection their number must be
                that of its training, and so must their order, which nobody can check; names do not matter then.
            outputs: what will be asked of `encode`.
            pool: what the embedding is made of, see `pool_tokens`.
            on_unknown: what to do about channels that the vocabulary lacks: `error`, or `drop` to go without. They have
                been part of the average reference then, so where they are no EEG it is better not to pick them.
            tail: what to do about samples after the last whole patch: `drop`, as in the original code, or `pad` with
                zeros to one more patch, as in braindecode and eegpt-rs.
            scale: from microvolts to what the weights were trained on: millivolts for the published encoder; heads
                trained upon it often want another.

        Raises:
            ContractError: the weights lack a head or cannot place a channel, or two channels are the same to them.
            ConfigError: an option has a value that does not exist.
        """
        _refuse_unless("pool", pool, Pool)
        _refuse_unless("on_unknown", on_unknown, OnUnknown)
        _refuse_unless("tail", tail, Tail)
        if not 0 < scale < math.inf:
            raise ConfigError(f"scale is {scale}: give what turns a microvolt into the unit of training, such as 0.001")
        if headless := set(outputs).difference(self.available_outputs):
            raise ContractError(
                f"these EEGPT weights have no head for {', '.join(sorted(headless))}: do not ask for it"
            )
        kept = projection = None
        device = self.summary_token.device
        if self.config.n_proj_in:
            rows = channel_rows(PROJECTED)
            projection = self._projection(montage, scale)
        else:
            rows = channel_rows(montage.ch_names, on_unknown)
            kept = torch.tensor(list(rows), device=device) if len(rows) < montage.n_chans else None
        channels = self.chan_embed(torch.tensor(list(rows.values()), device=device))
        constant = channels + cast("Tensor", self.patch_embed.proj.bias)
        return EegptBinding(montage.n_chans, constant, kept, projection, scale, tail, pool)

    def _projection(self, montage: Montage, scale: float) -> tuple[Tensor, Tensor]:
        if montage.n_chans != self.config.n_proj_in:
            raise ContractError(
                f"the channel projection of these EEGPT weights was trained on {self.config.n_proj_in} channels, "
                f"not {montage.n_chans}: pick those, in the order of training"
            )
        weight, bias = self.chan_conv.weight, cast("Tensor", self.chan_conv.bias)
        return scale * weight.renorm(2, 0, 1.0)[..., 0], bias[:, None]

    def encode(self, x_uv: Tensor, binding: EegptBinding, outputs: Collection[OutputName]) -> dict[OutputName, Tensor]:
        """What the model says of some epochs.

        Args:
            x_uv: `(B, C, T)` microvolts to the average reference. The signal chain of a stream re-references, as `SPEC`
                asks it to, and the network does not, so that it happens once: from Python, subtract the mean over the
                channels of each sample first.
            binding: from `bind`, for the same channels.
            outputs: what to compute.

        Returns:
            As of `read_out`.

        Raises:
            ContractError: the epochs do not fit the binding, are shorter than a patch, or are not of the length that
                the probe reads.
        """
        self._refuse_misfit(x_uv, binding)
        patches = cut_patches(self.prepare(x_uv, binding), self.config.patch, self.config.patch_stride, binding.tail)
        tokens = self._summaries(patches.flatten(0, 1), binding)
        return self.read_out(tokens.reshape(*patches.shape[:2], *tokens.shape[1:]), binding, outputs)

    @staticmethod
    def spread(_name: OutputName, values: Tensor, _rows: Sequence[int], _n_chans: int, _: EegptBinding) -> Tensor:
        """Nothing that comes out belongs to a channel."""
        return values

    def encode_patches(self, patches_uv: Tensor, binding: EegptBinding) -> Tensor:
        """Summary tokens `(n, S, D)` of patches `(n, C, 64)` in microvolts to the average reference, of any epochs."""
        self._refuse_misfit(patches_uv, binding)
        return self._summaries(self.prepare(patches_uv, binding), binding)

    def _summaries(self, patches: Tensor, binding: EegptBinding) -> Tensor:
        return cast("Tensor", self(patches, binding)) if binding.compiled is None else binding.compiled(patches)

    def prepare(self, x_uv: Tensor, binding: EegptBinding) -> Tensor:
        """Sample by sample what the patches are cut from: `(..., C, T)` microvolts scaled, mixed or picked."""
        if binding.projection is not None:
            weight, bias = binding.projection
            return weight @ x_uv + bias
        kept = x_uv if binding.kept is None else x_uv.index_select(-2, binding.kept)
        return kept * binding.scale

    def forward(self, patches: Tensor, binding: EegptBinding) -> Tensor:
        """Prepared patches `(n, C, 64)` to their summary tokens `(n, S, D)`."""
        channels = self.patch_embed(patches, binding.constant)
        x = torch.cat((channels, self.summary_token.expand(len(patches), -1, -1)), dim=1)
        *blocks, last = self.blocks
        for block in blocks:
            x = block(x, n_out=x.shape[1])
        return cast("Tensor", self.norm(last(x, n_out=self.config.n_summary)))

    def read_out(
        self, tokens: Tensor, binding: EegptBinding, outputs: Collection[OutputName]
    ) -> dict[OutputName, Tensor]:
        """Make outputs of the summary tokens of whole epochs, however they were come by.

        Args:
            tokens: `(B, N, S, D)`, patches in order of time.
            binding: has how to pool.
            outputs: what to compute.

        Returns:
            `embedding` as of `pool_tokens`; `tokens` `(B, N * S, D)`, patch by patch; `logits` `(B, n_classes)`.

        Raises:
            ContractError: the probe reads another number of patches.
        """
        results: dict[OutputName, Tensor] = {}
        if "embedding" in outputs:
            results["embedding"] = pool_tokens(tokens, binding.pool)
        if "tokens" in outputs:
            results["tokens"] = tokens.flatten(1, 2)
        if "logits" in outputs:
            self._refuse_other_length(tokens.shape[1])
            results["logits"] = self.linear_probe2(self.linear_probe1(tokens.flatten(2)).flatten(1))
        return results

    def _refuse_misfit(self, x: Tensor, binding: EegptBinding) -> None:
        n_chans, n_times, patch = x.shape[-2], x.shape[-1], self.config.patch
        if n_chans != binding.n_chans:
            raise ContractError(f"EEGPT is bound to {binding.n_chans} channels, not {n_chans}: bind it to this montage")
        if n_times < patch:
            raise ContractError(
                f"EEGPT takes patches of {patch} samples, and {n_times} samples are less than one: choose a duration "
                f"of {patch / SPEC.sfreq} s or more, such as {SPEC.durations[0]} s"
            )

    def _refuse_other_length(self, n_patches: int) -> None:
        wanted, stride = self.config.probe_patches, self.config.patch_stride
        if n_patches != wanted:
            n_times = self.config.patch + stride * (wanted - 1)
            raise ContractError(
                f"the probe of these EEGPT weights reads {wanted} patches, one every {stride} samples, where the epoch "
                f"has {n_patches}: choose a duration of {n_times / SPEC.sfreq} s ({n_times} samples)"
            )


# ---- Weights ---------------------------------------------------------------------------------------------------------

_ENCODERS: dict[Which, str] = {"teacher": "target_encoder.", "student": "encoder."}
_PRETRAINING = ("predictor.", "reconstructor.")
_HEADS = {
    "chan_proj.proj.parametrizations.weight.original": "chan_conv.weight",
    "chan_proj.proj.bias": "chan_conv.bias",
    "final_layer.probe1.parametrizations.weight.original": "linear_probe1.weight",
    "final_layer.probe1.bias": "linear_probe1.bias",
    "final_layer.probe2.parametrizations.weight.original": "linear_probe2.weight",
    "final_layer.probe2.bias": "linear_probe2.bias",
}


def form_of(state: Mapping[str, Tensor]) -> Form:
    """Who wrote a state, by its names: the authors (`pretraining`, `downstream`), `braindecode`, or none of these."""
    keys = without_wrappers(state)
    if any(key.startswith(_PRETRAINING) for key in keys):
        return "pretraining"
    if "chans_id" in keys or not keys.keys().isdisjoint(_HEADS):
        return "braindecode"
    return "downstream" if any(key.startswith(_ENCODERS["teacher"]) for key in keys) else "canonical"


def rename_keys(state: Mapping[str, Tensor], which: Which = "teacher") -> dict[str, Tensor]:
    """Give a state the names of the original code, and leave out what inference has no use for.

    Args:
        state: the authors' (pretraining or downstream), braindecode's or a converted one; prefixes of trainers go.
        which: of a pretraining state, the momentum `teacher`, on which everything published builds, or the `student`.

    Raises:
        WeightsError: the state has no student.
        ConfigError: `which` is something else.
    """
    _refuse_unless("which", which, Which)
    keys = without_wrappers(state)
    prefix = _ENCODERS[which]
    encoder = {key.removeprefix(prefix): tensor for key, tensor in keys.items() if key.startswith(prefix)}
    if which == "student" and not encoder:
        raise WeightsError(
            "these weights hold no student, which only a pretraining checkpoint has: ask for the teacher"
        )
    foreign = (*_ENCODERS.values(), *_PRETRAINING)
    # braindecode stores the rows it looked up for its channels: here they follow from the names.
    others = {key: tensor for key, tensor in keys.items() if not key.startswith(foreign) and key != "chans_id"}
    return encoder | {_HEADS.get(key, key): tensor for key, tensor in others.items()}


def random_state(config: EegptConfig, seed: int) -> dict[str, Tensor]:
    """An untrained state, the same bits on every machine."""
    return draw(manifest(config), seed)


def _refuse_unless(name: str, value: str, allowed: Any) -> None:
    """Raise `ConfigError` unless an option has one of the values of a `Literal`."""
    if value not in get_args(allowed):
        raise ConfigError(f"{name} is {value!r}: use one of {', '.join(get_args(allowed))}")
