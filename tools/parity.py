"""Compares our networks with their authors' code, or a port of it, on the same random weights and the same random EEG.

    python tools/parity.py --biofoundation ../BioFoundation --zuna-v1 ../zuna

Each network of theirs is filled through our names for its tensors, then read back into ours as a checkpoint of it would
be. What is not installed is left out, and the end says how to get it. Every model has a process of its own: two of the
codes bring packages of the same names, and one that fails takes no other with it.
"""

from __future__ import annotations

import argparse
import importlib
import json
import logging
import os
import sys
import time
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, nullcontext
from copy import deepcopy
from dataclasses import asdict, astuple, dataclass, replace
from functools import partial
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from multiprocessing import get_context
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar
from unittest import mock

import torch
from torch import Tensor, nn

from streamnode.models import eegdino, eegpt, luna, zuna
from streamnode.models.family import FAMILIES, Family
from streamnode.models.weights import load_strict
from streamnode.montage import make_montage
from streamnode.types import OutputName

BATCH = 2
AMPLITUDE_UV = 20.0
N_CLASSES = 4

Parts = dict[str, Tensor]
"""What a network makes of some epochs on its way and in the end, by name."""


@dataclass(frozen=True, slots=True)
class Row:
    """How far apart two codes are in a part of a network.

    Attributes:
        model: which network.
        part: what of it.
        max_abs: largest difference in float32.
        rmse: root mean square of the differences in float32.
        nrmse: that over the root mean square of theirs.
        our_error: normalised error of ours in float32 against ours in float64.
        their_error: normalised error of theirs in float32 against ours in float64.
        in_float64: normalised difference of the two in float64.
    """

    model: str
    part: str
    max_abs: float
    rmse: float
    nrmse: float
    our_error: float
    their_error: float
    in_float64: float

    @property
    def agrees(self) -> bool:
        """Whether rounding alone sets them apart; in float64 it is that of ZUNA's rotations, which stay in float32."""
        return self.nrmse <= 1e-5 and self.in_float64 <= 1e-7


@dataclass(frozen=True, slots=True)
class Pair(ABC):
    """A network in two codes.

    Attributes:
        family: which of ours it is.
        ch_names: of an epoch.
        shape: of it, `(n_chans, n_times)`.
        model: what to call it.
        config: its sizes.
        theirs: the network in the other code, with any weights.
    """

    family: ClassVar[Family]
    ch_names: ClassVar[Sequence[str]]
    shape: ClassVar[tuple[int, int]]
    model: str
    config: Any
    theirs: nn.Module

    @property
    def options(self) -> dict[str, Any]:
        """Sizes that a checkpoint does not show."""
        return {name: getattr(self.config, name) for name in self.family.load_options}

    @abstractmethod
    def our_parts(self, network: Any, x_uv: Tensor) -> Parts:
        """Run ours on `(B, n_chans, n_times)` microvolts, in the precision of its weights."""

    @abstractmethod
    def their_parts(self, network: Any, x_uv: Tensor) -> Parts:
        """Run theirs likewise."""


# ---- Comparing -------------------------------------------------------------------------------------------------------


@torch.no_grad()
def compare(pair: Pair, seed: int) -> list[Row]:
    """Give both the same weights and epochs, and measure."""
    theirs = pair.theirs.eval()
    ours = exchange_weights(pair, seed)
    x_uv = AMPLITUDE_UV * torch.randn(BATCH, *pair.shape, generator=torch.Generator().manual_seed(seed))
    # On a copy, and before anything else: some cache what they once computed in float32.
    their_truth = pair.their_parts(deepcopy(theirs).double(), x_uv.double())
    their_parts, our_parts = pair.their_parts(theirs, x_uv), pair.our_parts(ours, x_uv)
    truth = pair.our_parts(ours.double(), x_uv.double())
    return [
        Row(
            model=pair.model,
            part=part,
            max_abs=(our_parts[part] - their_parts[part]).abs().max().item(),
            rmse=rms(our_parts[part] - their_parts[part]),
            nrmse=nrmse(our_parts[part], their_parts[part]),
            our_error=nrmse(our_parts[part], exact),
            their_error=nrmse(their_parts[part], exact),
            in_float64=nrmse(their_truth[part], exact),
        )
        for part, exact in truth.items()
    ]


def exchange_weights(pair: Pair, seed: int) -> Any:
    """Fill theirs by our names, and load ours from what a checkpoint of theirs would hold."""
    family, theirs = pair.family, pair.theirs.state_dict()
    renamed = family.rename(theirs)
    for name, tensor in lively(family.random_state(pair.config, seed), seed).items():
        renamed[name].copy_(tensor)
    reading = family.read(theirs, metadata={}, trained_head=True, **pair.options)
    if reading.config != pair.config:
        raise ValueError(f"a checkpoint of {pair.config} reads as {reading.config}")
    with torch.device("meta"):
        ours: Any = family.network(reading.config)
    load_strict(ours, reading.state, path=pair.model)
    return ours.eval()


def lively(state: Parts, seed: int) -> Parts:
    """Take biases off 0 and gains off 1, so that one that is forgotten shows."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: tensor + 0.1 * torch.randn(tensor.shape, generator=generator)
        if tensor.ndim == 1 and not name.endswith("freqs")
        else tensor
        for name, tensor in state.items()
    }


def rms(x: Tensor) -> float:
    """Root mean square."""
    return x.double().square().mean().sqrt().item()


def nrmse(x: Tensor, reference: Tensor) -> float:
    """Root mean square of the difference, over that of the reference."""
    if x.shape != reference.shape:
        raise ValueError(f"a part has shape {tuple(x.shape)} in one code and {tuple(reference.shape)} in the other")
    return rms(x.double() - reference.double()) / rms(reference)


@contextmanager
def listening(network: nn.Module, names: Iterable[str]) -> Iterator[Parts]:
    """Collect what some modules of a network return, by name; of several things the first."""
    heard: Parts = {}

    def hear(_: nn.Module, __: Any, result: Any, *, name: str) -> None:
        heard[name] = result[0] if isinstance(result, tuple) else result

    handles = [network.get_submodule(name).register_forward_hook(partial(hear, name=name)) for name in names]
    try:
        yield heard
    finally:
        for handle in handles:
            handle.remove()


def joined(tensors: Iterable[Tensor]) -> Tensor:
    """All numbers of some tensors in a row."""
    return torch.cat([tensor.flatten() for tensor in tensors])


# ---- Getting hold of theirs ------------------------------------------------------------------------------------------


class Missing(Exception):  # noqa: N818  (nothing went wrong)
    """The other code is not here."""


def require(name: str) -> Any:
    """A module of theirs. Raises `Missing` if it, or anything it needs, is not installed."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise Missing(f"{error.name} is not installed") from error


def import_from(checkout: Path | None, option: str, *inside: str) -> None:
    """Let modules be imported from a folder of a checkout. Raises `Missing` if there is no such checkout."""
    if checkout is None:
        raise Missing(f"{option} was not given")
    if not (folder := checkout.joinpath(*inside)).is_dir():
        raise Missing(f"{folder} is not there")
    sys.path.insert(0, str(folder))


def stand_in_for(package: str) -> None:
    """Put something hollow in place of a package that is imported but not used here, unless the package works."""
    try:
        importlib.import_module(package)
    except (ImportError, OSError, RuntimeError):  # the latter two when it was built for another torch
        for name in [name for name in sys.modules if name.partition(".")[0] == package]:
            del sys.modules[name]
        sys.meta_path.insert(0, _HollowFinder(package))


class _Hollow(type):
    """A class each of whose attributes is another such class."""

    def __getattr__(cls, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Hollow(name, (), {})


class _HollowModule(ModuleType):
    """A module each of whose attributes is a hollow class."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Hollow(name, (), {})


class _HollowFinder(MetaPathFinder, Loader):
    """Finds hollow modules at whatever name within a package."""

    def __init__(self, package: str) -> None:
        self.package = package

    def find_spec(self, fullname: str, *_: Any) -> ModuleSpec | None:
        inside = fullname.partition(".")[0] == self.package
        return ModuleSpec(fullname, self, is_package=True) if inside else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _HollowModule(spec.name)

    def exec_module(self, module: ModuleType) -> None: ...


# ---- LUNA ------------------------------------------------------------------------------------------------------------

_TUEG22 = (
    "FP1-F7 F7-T3 T3-T5 T5-O1 FP2-F8 F8-T4 T4-T6 T6-O2 T3-C3 C3-CZ CZ-C4 C4-T4 FP1-F3 F3-C3 C3-P3 P3-O1 FP2-F4 F4-C4 "
    "C4-P4 P4-O2 A1-T3 T4-A2"
)
TUEG22 = tuple(_TUEG22.split())


@dataclass(frozen=True, slots=True)
class LunaPair(Pair):
    """Against BioFoundation; braindecode's port lacks two of the norms."""

    vocabulary: dict[str, int]
    family: ClassVar[Family] = FAMILIES["luna"]
    ch_names: ClassVar[Sequence[str]] = TUEG22
    shape: ClassVar[tuple[int, int]] = (len(TUEG22), 1280)

    @property
    def modules(self) -> list[str]:
        """Those to listen to, which have the same names in both codes."""
        blocks = [f"blocks.{i}" for i in range(self.config.depth)]
        return ["patch_embed", "freq_embed", "channel_location_embedder", "cross_attn", *blocks, "norm"]

    def our_parts(self, network: luna.LUNA, x_uv: Tensor) -> Parts:
        """See `Pair`."""
        head: OutputName = "logits" if self.config.n_classes else "reconstruction"
        with listening(network, self.modules) as heard:
            binding = network.bind(make_montage(TUEG22), {head})
            z, _, _ = network.prepare(x_uv)
            results = network(z, binding, {head, "attention"})
        for name in ("patch_embed", "freq_embed"):  # ours go patch by patch, theirs channel by channel
            by_patch = heard[name].reshape(BATCH, -1, len(TUEG22), self.config.embed_dim)
            heard[name] = by_patch.transpose(1, 2).flatten(1, 2)
        return self._parts(heard, results[head], results["attention"])

    def their_parts(self, network: Any, x_uv: Tensor) -> Parts:
        """See `Pair`."""
        ch_pos = torch.tensor(make_montage(TUEG22).ch_pos, dtype=torch.float32).expand(len(x_uv), -1, -1)
        rows = torch.tensor([self.vocabulary[name] for name in TUEG22]).expand(len(x_uv), -1)
        z = (x_uv - x_uv.mean(-1, keepdim=True)) / (x_uv.std(-1, keepdim=True) + 1e-8)
        with listening(network, self.modules) as heard:
            result, _, *attention = network(z, None, ch_pos, rows)
        heard["channel_location_embedder"] = heard["channel_location_embedder"][0]
        return self._parts(heard, result, *attention)

    def _parts(self, heard: Parts, result: Tensor, attention: Tensor | None = None) -> Parts:
        if self.config.n_classes:
            return {"logits": result}
        assert attention is not None
        return {
            "patches in time": heard["patch_embed"],
            "patches in frequency": heard["freq_embed"],
            "locations": heard["channel_location_embedder"],
            "cross-attention": heard["cross_attn"],
            "attention": attention.flatten(),
            f"blocks 1 to {self.config.depth}": joined(heard[name] for name in self.modules if "blocks" in name),
            "latents": heard["norm"],
            "reconstruction": result,
        }


def luna_pairs(variant: str, sources: argparse.Namespace) -> Iterator[Pair]:
    """With either head."""
    import_from(sources.biofoundation, "--biofoundation")
    stand_in_for("torchvision")  # timm wants it, for pictures
    stand_in_for("torcheeg")  # has the names of the channels of one data set, and they are in our vocabulary
    vars(require("torcheeg.datasets.constants")).setdefault("SEED_CHANNEL_LIST", luna.VOCABULARY)
    build = require("models.LUNA").LUNA
    vocabulary = require("models.modules.channel_embeddings").CHANNEL_NAMES_TO_IDX
    for n_classes in (0, N_CLASSES):
        size = replace(luna.VARIANTS[variant], n_classes=n_classes, has_decoder=not n_classes)
        theirs = build(size.patch, size.n_queries, size.embed_dim, size.depth, size.n_heads, num_classes=n_classes)
        theirs.channel_location_embedder.register_forward_pre_hook(_widen)
        yield LunaPair(f"luna-{variant}", size, theirs, vocabulary)


def _widen(module: Any, args: tuple[Tensor]) -> tuple[Tensor]:
    """Places are told in float32, whose rounding the network was trained on; what is made of them may be wider."""
    return (args[0].to(module[0].fc1.weight),)


# ---- EEG-DINO --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class EegDinoPair(Pair):
    """Against braindecode."""

    family: ClassVar[Family] = FAMILIES["eegdino"]
    ch_names: ClassVar[Sequence[str]] = eegdino.SLOTS
    shape: ClassVar[tuple[int, int]] = (len(eegdino.SLOTS), 1000)

    @property
    def layers(self) -> list[str]:
        """All of them, which have the same names in both codes."""
        return [f"encoder_layers.{i}" for i in range(self.config.depth)]

    def our_parts(self, network: eegdino.EegDino, x_uv: Tensor) -> Parts:
        """See `Pair`."""
        outputs = network.available_outputs
        with listening(network, ("patch_embedding", *self.layers)) as heard:
            results = network.encode(x_uv, network.bind(make_montage(eegdino.SLOTS), outputs=outputs), outputs)
        return self._parts(heard, results["tokens"][:, 1:], results["embedding"], results["logits"])

    def their_parts(self, network: Any, x_uv: Tensor) -> Parts:
        """See `Pair`."""
        with listening(network, ("patch_embedding", *self.layers)) as heard:
            results = network(x_uv / 100, return_features=True)
        heard["patch_embedding"] = heard["patch_embedding"].flatten(1, 2)
        logits = network.final_layer(results["features"], x_uv.shape[1])
        return self._parts(heard, results["features"], results["cls_token"], logits)

    def _parts(self, heard: Parts, tokens: Tensor, embedding: Tensor, logits: Tensor) -> Parts:
        return {
            "patches": heard["patch_embedding"],
            f"layers 1 to {self.config.depth}": joined(heard[name] for name in self.layers),
            "tokens": tokens,
            "global token": embedding,
            "logits": logits,
        }


def eegdino_pairs(variant: str, _: argparse.Namespace) -> Iterator[Pair]:
    """With a classifier."""
    stand_in_for("torchaudio")  # other models of braindecode want it
    size = replace(eegdino.VARIANTS[variant], n_classes=N_CLASSES)
    port = require("braindecode.models.eegdino")
    n_chans, n_times = EegDinoPair.shape
    theirs = port.EEGDINO(N_CLASSES, n_chans, n_times=n_times, sfreq=200, **port.EEGDINO_CONFIGS[variant])
    yield EegDinoPair(f"eegdino-{variant}", size, theirs)


# ---- EEGPT -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class EegptPair(Pair):
    """Against braindecode."""

    family: ClassVar[Family] = FAMILIES["eegpt"]
    ch_names: ClassVar[Sequence[str]] = eegpt.PROJECTED
    shape: ClassVar[tuple[int, int]] = (len(eegpt.PROJECTED), 1280)

    @property
    def blocks(self) -> list[str]:
        """All but the last, which ours runs for the summary alone."""
        return [f"blocks.{i}" for i in range(self.config.depth - 1)]

    def our_parts(self, network: eegpt.Eegpt, x_uv: Tensor) -> Parts:
        """See `Pair`."""
        binding = network.bind(make_montage(eegpt.PROJECTED), {"tokens", "logits"})
        with listening(network, self.blocks) as heard:
            results = network.encode(x_uv - x_uv.mean(1, keepdim=True), binding, {"tokens", "logits"})
        return self._parts(heard, results["tokens"], results["logits"])

    def their_parts(self, network: Any, x_uv: Tensor) -> Parts:
        """See `Pair`."""
        with listening(network.target_encoder, ("", *self.blocks)) as heard:
            logits = network((x_uv - x_uv.mean(1, keepdim=True)) / 1000)
        return self._parts(heard, heard[""].flatten(1, 2), logits)

    def _parts(self, heard: Parts, tokens: Tensor, logits: Tensor) -> Parts:
        blocks = joined(heard[name] for name in self.blocks)
        return {f"blocks 1 to {len(self.blocks)}": blocks, "tokens": tokens, "logits": logits}


def eegpt_pairs(variant: str, _: argparse.Namespace) -> Iterator[Pair]:
    """With a probe, at both strides; with a channel projection before it."""
    stand_in_for("torchaudio")  # other models of braindecode want it
    build = require("braindecode.models").EEGPT
    n_chans, n_times = EegptPair.shape
    for stride, projection in ((32, "none"), (64, "none"), (64, "conv1d_constraint")):
        size = replace(
            eegpt.VARIANTS[variant],
            patch_stride=stride,
            n_classes=N_CLASSES,
            probe_patches=(n_times - 64) // stride + 1,
            n_proj_in=0 if projection == "none" else n_chans,
        )
        theirs = build(
            N_CLASSES,
            chs_info=[{"ch_name": name} for name in eegpt.PROJECTED],
            n_times=n_times,
            patch_stride=stride,
            chan_proj_type=projection,
        )
        title = f"eegpt-{variant}, stride {stride}" + (", projected" if size.n_proj_in else "")
        yield EegptPair(title, size, theirs)


# ---- ZUNA ------------------------------------------------------------------------------------------------------------

CHANNELS = ["F3", "Fz", "F4", "C3", "Cz", "C4", "P3", "P4"]
BAD = 3
STEPS = 4  # of the sampler; a power of two makes its times exact in either precision


@dataclass(frozen=True, slots=True)
class ZunaPair(Pair):
    """Against Zyphra's own; both are told to draw a channel that is bad."""

    to_bins: Callable[[Tensor, Tensor, int], Tensor]
    noise: Tensor
    family: ClassVar[Family] = FAMILIES["zuna"]
    ch_names: ClassVar[Sequence[str]] = CHANNELS
    shape: ClassVar[tuple[int, int]] = (len(CHANNELS), 320)

    def our_parts(self, network: zuna.Zuna, x_uv: Tensor) -> Parts:
        """See `Pair`."""
        tokens, noise = self._tokens(x_uv), self.noise.to(x_uv)
        plain, guided = (
            network.bind(make_montage(CHANNELS), outputs={"reconstruction"}, steps=STEPS, guidance=guidance)
            for guidance in (1.0, 2.0)
        )
        latents = network.encode_tokens(tokens, plain)
        decoder, rotation = network.decoder, plain.rotation(tokens.shape[1] // len(CHANNELS))
        velocity = decoder(noise, decoder.condition(latents), decoder.schedule(2), 1, rotation)
        return {
            "latents": latents,
            "velocity": velocity,
            f"sample, {STEPS} steps": network.sample(latents, noise, plain),
            f"guided sample, {STEPS} steps": network.sample(latents, noise, guided),
        }

    def their_parts(self, network: Any, x_uv: Tensor) -> Parts:
        """See `Pair`."""
        tokens, noise, places = (self._pack(x) for x in (self._tokens(x_uv), self.noise.to(x_uv), self._places(x_uv)))
        lengths = torch.tensor([tokens.shape[1] // BATCH] * BATCH)
        at = {"seq_lens": lengths, "tok_idx": places}
        both = {**at, "cross_seq_lens": lengths, "cross_tok_idx": places}
        drawn = mock.patch.object(torch, "randn_like", return_value=noise / network.global_sigma)
        with _in_precision_of(x_uv), drawn:
            latents, *_ = network.encoder(token_values=tokens, **at)
            time_of = x_uv.new_full((1, 1, 1), 0.5)
            velocity, _ = network.decoder(tokens=noise[:, None], cross_attended=latents, timeD=time_of, **both)
            plain, _ = network.sample(tokens, **at, sample_steps=STEPS)
            guided, _ = network.sample(tokens, **at, sample_steps=STEPS, cfg=2.0)
        return {
            "latents": self._unpack(latents),
            "velocity": self._unpack(velocity),
            f"sample, {STEPS} steps": self._unpack(plain),
            f"guided sample, {STEPS} steps": self._unpack(guided),
        }

    def _tokens(self, x_uv: Tensor) -> Tensor:
        """`(B, S, 32)`, channel by channel, scaled by ours for both."""
        good = [row for row in range(len(CHANNELS)) if row != BAD]
        scaled = zuna.normalise(x_uv, self.config.generation, good)
        return zuna.to_tokens(scaled.x, self.config.patch)

    def _places(self, x_uv: Tensor) -> Tensor:
        """`(B, S, 4)` bins along x, y and z, and patches, channel by channel."""
        n_patches = x_uv.shape[-1] // self.config.patch
        ch_pos = torch.tensor(make_montage(CHANNELS).ch_pos, dtype=torch.float32)
        box = torch.tensor([[-0.12] * 3, [0.12] * 3])
        bins = self.to_bins(ch_pos, box, self.config.n_bins)[:, None].expand(-1, n_patches, -1)
        patches = torch.arange(n_patches)[None, :, None].expand(len(bins), -1, -1)
        return torch.cat((bins, patches), dim=-1).flatten(0, 1).long().expand(BATCH, -1, -1)

    def _pack(self, x: Tensor) -> Tensor:
        """`(B, S, k)` as theirs wants it: epoch after epoch, `(1, B * S, k)`; in 1.1 patch by patch."""
        x = x.reshape(BATCH, len(CHANNELS), -1, x.shape[-1])
        return (x.transpose(1, 2) if self.config.generation == "1.1" else x).reshape(1, -1, x.shape[-1])

    def _unpack(self, x: Tensor) -> Tensor:
        """The way back."""
        if self.config.generation == "1.1":
            x = x.reshape(BATCH, -1, len(CHANNELS), x.shape[-1]).transpose(1, 2)
        return x.reshape(BATCH, -1, x.shape[-1])


@contextmanager
def _in_precision_of(x: Tensor) -> Iterator[None]:
    """Keep theirs from lower precision: v1 samples in bfloat16, and both go back to float32 wherever they can."""
    with mock.patch.object(torch, "autocast", return_value=nullcontext()):
        if x.dtype == torch.float32:
            yield
            return
        torch.set_default_dtype(torch.float64)
        try:
            with mock.patch.object(torch.Tensor, "float", torch.Tensor.double):
                yield
        finally:
            torch.set_default_dtype(torch.float32)


def zuna_pairs(variant: str, sources: argparse.Namespace) -> Iterator[Pair]:
    """Encoder and decoder of a generation."""
    if variant == "v1":
        import_from(sources.zuna_v1, "--zuna-v1", "src", "zuna", "inference", "AY2l", "lingua")
        stand_in_for("vector_quantize_pytorch")  # of bottlenecks that are not this one's
    code = require("apps.AY2latent_bci.transformer")
    size = zuna.VARIANTS[variant]
    args = {
        "dim": size.dim,
        "n_layers": size.encoder_depth,
        "head_dim": size.head_dim,
        "input_dim": size.patch,
        "encoder_input_dim": size.patch,
        "encoder_output_dim": size.latent,
        "encoder_latent_downsample_factor": 1,
        "encoder_sliding_window": 65536,
        "sliding_window": 65536,
        "xattn_sliding_window": 65536,
        "max_seqlen": size.max_patches,
        "num_fine_time_pts": size.patch,
        "rope_dim": 4,
        "tok_idx_type": "{x,y,z,tc}",
        "stft_global_sigma": 0.1,
    }
    if variant == "1.1":
        args |= {"register_tok_idx": "mean_all", "dropout_vec_type": "zeros", "ape_dim": 0}
    theirs = code.EncoderDecoder(code.DecoderTransformerArgs(**args))
    n_chans, n_times = ZunaPair.shape
    noise = 0.1 * torch.randn(BATCH, n_chans * n_times // size.patch, size.patch)
    to_bins = require("apps.AY2latent_bci.eeg_data").discretize_chan_pos
    yield ZunaPair(f"zuna-{variant}", size, theirs, to_bins, noise)


# ---- Running ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Contender:
    """Another code of some of our networks."""

    kind: str
    variants: tuple[str, ...]
    pairs: Callable[[str, argparse.Namespace], Iterator[Pair]]
    how_to_get: str


_BRAINDECODE = "pip install braindecode==1.8.1"
CONTENDERS = (
    Contender(
        "luna",
        ("base", "large", "huge"),
        luna_pairs,
        "git clone https://github.com/pulp-bio/BioFoundation, check out 1923999, "
        "pip install einops mne rotary-embedding-torch timm, and give --biofoundation",
    ),
    Contender("eegdino", ("small", "medium", "large"), eegdino_pairs, _BRAINDECODE),
    Contender("eegpt", ("large",), eegpt_pairs, _BRAINDECODE),
    Contender(
        "zuna",
        ("v1",),
        zuna_pairs,
        "git clone https://github.com/Zyphra/zuna, check out 7b6b858, pip install einops matplotlib, "
        "and give --zuna-v1",
    ),
    Contender("zuna", ("1.1",), zuna_pairs, "pip install zuna==1.1.6"),
)
JOBS = {
    f"{contender.kind}-{variant}": (contender, variant) for contender in CONTENDERS for variant in contender.variants
}


def rows_of(job: str, options: argparse.Namespace) -> list[Row]:
    """All comparisons of a model; in a process of its own."""
    warnings.simplefilter("ignore")  # of other people's code
    logging.disable(logging.WARNING)  # that weights are untrained is no news
    torch.manual_seed(options.seed)
    contender, variant = JOBS[job]
    return [row for pair in contender.pairs(variant, options) for row in compare(pair, options.seed)]


def run_apart(job: str, options: argparse.Namespace) -> list[Row]:
    """`rows_of` in a process that ends with it."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(rows_of, job, options).result()


def run(jobs: Iterable[str], options: argparse.Namespace) -> dict[str, Any]:
    """All rows, how long each job took, and why some did not run."""
    rows: list[Row] = []
    seconds: dict[str, float] = {}
    left_out: dict[str, str] = {}
    failed: dict[str, str] = {}
    for job in jobs:
        print(f"{job} ...", end=" ", file=sys.stderr, flush=True)
        started = time.monotonic()
        try:
            rows += run_apart(job, options)
        except Missing as reason:
            left_out[job] = f"{reason}: {JOBS[job][0].how_to_get}"
            print("left out", file=sys.stderr)
        except Exception as error:  # noqa: BLE001  (whatever it is, it does not concern the others)
            failed[job] = f"{type(error).__name__}: {error}"
            print("failed", file=sys.stderr)
        else:
            seconds[job] = round(time.monotonic() - started, 1)
            print(f"{seconds[job]} s", file=sys.stderr)
    return {"rows": rows, "seconds": seconds, "left_out": left_out, "failed": failed}


def markdown(rows: Iterable[Row]) -> str:
    """A table of all rows."""
    lines = [
        "| model | part | max abs | RMSE | NRMSE | error of ours | error of theirs | NRMSE in float64 |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in rows:
        model, part, *figures = astuple(row)
        lines.append(f"| {model} | {part} | " + " | ".join(f"{figure:.1e}" for figure in figures) + " |")
    return "\n".join(lines)


def main() -> None:
    """Compare all that is here, and say what is not; the exit code is 1 where something failed or does not agree."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", metavar="MODEL", help=f"all, or some of {', '.join(JOBS)}")
    parser.add_argument("--biofoundation", type=Path, metavar="DIR", help="checkout of BioFoundation, for LUNA")
    parser.add_argument("--zuna-v1", type=Path, metavar="DIR", help="checkout of ZUNA's repository, for v1")
    parser.add_argument("--seed", type=int, default=0, help="of weights, epochs and noise")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    options = parser.parse_args()
    if unknown := sorted(set(options.models).difference(JOBS)):
        parser.error(f"no such model: {', '.join(unknown)}; take some of {', '.join(JOBS)}")
    os.environ["TORCHDYNAMO_DISABLE"] = "1"  # ZUNA's compiles as it runs, which takes longer than to run

    setting = {"seed": options.seed, "batch": BATCH, "amplitude_uv": AMPLITUDE_UV, "torch": torch.__version__}
    found = run(options.models or JOBS, options)
    rows: list[Row] = found["rows"]
    if options.json:
        print(json.dumps({**setting, **found}, default=asdict))
    else:
        print(", ".join(f"{name} {value}" for name, value in setting.items()))
        if rows:
            print("", markdown(rows), sep="\n")
        for row in rows:
            if not row.agrees:
                print("", f"{row.model} differs in {row.part}", sep="\n")
        for job, why in (found["left_out"] | found["failed"]).items():
            print("", f"{job}: {why}", sep="\n")
    raise SystemExit(bool(found["failed"]) or not all(row.agrees for row in rows))


if __name__ == "__main__":
    main()
