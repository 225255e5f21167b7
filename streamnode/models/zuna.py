"""ZUNA: EEG channels that are bad, or were never there, drawn anew from the others (Zyphra, 2026, arXiv:2602.18478).

    microvolts -> scaled -> tokens of 32 samples of one channel, zero where masked -> encoder: a latent per token
    noise -> decoder, along a flow that the latents steer -> tokens -> microvolts

Two generations are published, v1 and 1.1. The later one has norms of queries and keys and norms behind each sublayer,
finer positions and longer windows, and scales each channel by itself. The networks are in `zuna_flow`.
Shapes: B epochs, C channels, T samples, n = T / 32 patches, S = C * n tokens, channel by channel.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, cast, get_args

import numpy as np
import torch
from torch import Tensor, nn

from streamnode.errors import ConfigError, ContractError
from streamnode.models.state import count, draw, plain, shapes_of, without_wrappers
from streamnode.models.zuna_flow import (
    NOISE_STD,
    Decoder,
    Encoder,
    Generation,
    Sampler,
    Schedule,
    ZunaConfig,
    rotations,
)
from streamnode.montage import _NAMED_CAPS, _ROTATION, _TRANSLATION, electrodes_to_add, position, some
from streamnode.signal.interpolate import MIN_GOOD, interpolation_matrix
from streamnode.types import Float64Array, ModelSpec, Montage, OutputName

__all__ = [
    "SPEC",
    "VARIANTS",
    "Zuna",
    "ZunaBinding",
    "ZunaConfig",
    "form_of",
    "manifest",
    "random_state",
    "rename_keys",
    "variant_name",
]

SPEC = ModelSpec(
    name="zuna",
    sfreq=256.0,
    patch=32,
    durations=(5.0,),
    ch_names=None,
    needs_positions=True,
    l_freq=0.5,
    h_freq=128.0,  # the published preprocessing has no low-pass
    notch=False,
    reference="average",
    scaling="(x - mean) / (10 std) within -1...1; v1: one std of all channels, 1.1: each channel's own + 1 microvolt",
    outputs=("embedding", "tokens", "reconstruction"),
    offline=("resample", "band"),
    rebuilds=True,
)

VARIANTS = {"v1": ZunaConfig("v1"), "1.1": ZunaConfig("1.1")}

Pool = Literal["mean", "per_channel", "per_token"]
Frame = Literal["head", "template", "scaled85"]

DATA_NORM = 10.0  # standard deviations that the network is told are 1; what is beyond is clamped
V1_1_EPS_UV = 1.0  # 1.1 divides by std + 1e-6 volts
_FLAT_UV = 1e-3  # what varies by less than a nanovolt is not amplified
_BOX_M = 0.12  # positions are binned within this distance of the origin along each axis
_SITES = _NAMED_CAPS["biosemi64"]
_SCALED85 = 0.87467  # places half of the 10-05 template within 85 mm of its origin


def variant_name(config: ZunaConfig) -> str:
    """`zuna-v1` or `zuna-1.1`, with or without the decoder; `zuna-custom` for any other sizes."""
    published = VARIANTS[config.generation]
    encoder = replace(published, decoder_depth=0)
    return f"zuna-{config.generation}" if config in (published, encoder) else "zuna-custom"


def manifest(config: ZunaConfig) -> dict[str, torch.Size]:
    """Name and shape of every tensor in a checkpoint of these sizes, as `rename_keys` leaves it."""
    return shapes_of(lambda: Zuna(config))


# ---- Where channels are ----------------------------------------------------------------------------------------------


def to_frame(ch_pos: Float64Array, frame: Frame) -> Float64Array:
    """Positions as the network is told them (section 6.2).

    Args:
        ch_pos: `(C, 3)` metres in the head frame.
        frame: `head`, as in the published pipelines, though the top of the head leaves the box; `template`, that of
            the 10-05 template itself, which fits the box and so may be what training saw; `scaled85`, the template
            scaled down, as zuna-rs does with named channels.
    """
    if frame == "head":
        return ch_pos
    template: Float64Array = (ch_pos - _TRANSLATION) @ np.linalg.inv(_ROTATION).T
    return template * _SCALED85 if frame == "scaled85" else template


def position_bins(ch_pos: Tensor, n_bins: int) -> Tensor:
    """`(C, 3)` float32 metres to the number of the bin along each axis; what is outside the box is at its edge."""
    return ((ch_pos + _BOX_M) / (2 * _BOX_M) * n_bins).trunc().clamp(0, n_bins - 1).long()


def farthest(montage: Montage, n_chans: int) -> list[str]:
    """The sites of a 64-channel cap that a montage is short of so many, always the farthest from all there are so far.

    The published pipelines rank all sites once, in two frames that do not fit: ears first, and neighbours together.

    Raises:
        ConfigError: the montage has more channels than that, or all of the cap would not do.
    """
    sites = {name: position(name) for name in _SITES.split() if name not in montage.ch_names}
    n_added = n_chans - montage.n_chans
    if not 0 <= n_added <= len(sites):
        raise ConfigError(
            f"{montage.n_chans} channels cannot become {n_chans}: ask for {montage.n_chans} to "
            f"{montage.n_chans + len(sites)}, or name the channels to add"
        )
    names, places = list(sites), np.array(list(sites.values())).reshape(-1, 3)
    distance = np.linalg.norm(places[:, None] - montage.ch_pos, axis=-1).min(axis=1)
    chosen = []
    for _ in range(n_added):
        chosen.append(int(distance.argmax()))
        distance = np.minimum(distance, np.linalg.norm(places - places[chosen[-1]], axis=-1))
    return [names[i] for i in chosen]


def _added(montage: Montage, add: Montage | Sequence[str] | int) -> Montage:
    """The channels to reconstruct though nobody recorded them."""
    if isinstance(add, Montage):
        return add
    return electrodes_to_add(farthest(montage, add) if isinstance(add, int) else add)


def to_tokens(x: Tensor, patch: int) -> Tensor:
    """`(B, C, T)` to `(B, S, patch)`, channel by channel."""
    return x.reshape(len(x), -1, patch)


def from_tokens(tokens: Tensor, n_chans: int) -> Tensor:
    """`(B, S, patch)` to `(B, C, T)`."""
    return tokens.reshape(len(tokens), n_chans, -1)


# ---- Scaling ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class Scaled:
    """Epochs as the network sees them, and the way back.

    Attributes:
        x: `(B, C, T)` within -1...1; bad and added channels are 0.
        scale: `(B, C, 1)` microvolts.
        offset: `(B, C, T)` microvolts.
    """

    x: Tensor
    scale: Tensor
    offset: Tensor

    def undo(self, x: Tensor) -> Tensor:
        """`(B, C, T)` of the network to microvolts."""
        return x * self.scale + self.offset


def normalise(
    x_uv: Tensor,
    generation: Generation,
    good: Sequence[int],
    *,
    n_added: int = 0,
    std_uv: float | Tensor | None = None,
    data_norm: float = DATA_NORM,
) -> Scaled:
    """Scale epochs as those a generation was trained on (sections 5.1 and 5.7).

    Epochs are referenced to the average of their good channels; where that was done before, it changes nothing. Bad
    and added channels go back to microvolts by the median scale of the good ones. So we differ from the published
    pipelines where channels are bad: 1.1's has them in the average and scales them by what they held. And v1's does
    not put back the means of channels. `zuna_prepare` does as they do.

    All that 1.1 needs is in the epoch, so its scale is right as soon as the filters have settled. v1 was trained on
    signals divided by the standard deviation of their whole recording, which no live stream has yet: give that of a
    recording before, or that of the stream so far, which `signal.level` keeps and epochs take along. An epoch's own, of
    5 s, is off by 7 to 22 % (median of a recording, of six), and by up to 54 % in one epoch of twenty.

    Args:
        x_uv: `(B, C, T)` microvolts.
        generation: `v1` has one scale for all channels, `1.1` one for each.
        good: rows that are not bad.
        n_added: channels to append.
        std_uv: standard deviation of the whole recording, for v1, or `(B,)` that of each epoch's; None takes that of
            each epoch itself.
        data_norm: standard deviations that are 1 to the network.
    """
    n_chans = x_uv.shape[1]
    # Numbers of rows go to a GPU by a copy, which no recorded pass may have.
    rows: Any = slice(n_chans) if len(good) == n_chans else list(good)
    reference = x_uv[:, rows].mean(1, keepdim=True)
    known = x_uv[:, rows] - reference
    mean = known.mean(-1, keepdim=True)
    if generation == "1.1":
        std = known.std(-1, correction=0, keepdim=True) + V1_1_EPS_UV
    elif std_uv is None:
        std = known.std((1, 2), correction=0, keepdim=True).clamp_min(_FLAT_UV).expand_as(mean)
    else:
        given = std_uv.to(mean) if isinstance(std_uv, Tensor) else mean.new_full((1,), std_uv)
        std = given.clamp_min(_FLAT_UV).reshape(-1, 1, 1).expand_as(mean)
    n_rows = n_chans + n_added
    x = x_uv.new_zeros(len(x_uv), n_rows, x_uv.shape[-1])
    x[:, rows] = ((known - mean) / (data_norm * std)).clamp(-1, 1)
    scale = data_norm * std.quantile(0.5, dim=1, keepdim=True).repeat(1, n_rows, 1)
    scale[:, rows] = data_norm * std
    offset = reference.repeat(1, n_rows, 1)
    offset[:, rows] += mean
    return Scaled(x, scale, offset)


# ---- The model -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class ZunaBinding:
    """All that depends on channels, options and weights but not on the signal. C counts added channels.

    Attributes:
        montage: rows of the reconstruction: the bound channels, then the added ones.
        n_added: how many were added.
        space: `(C, 3d / 8)` complex, how far the place of a channel turns heads of d numbers.
        time: `(max_patches, d / 8)` complex, how far the place in the window does.
        pool: what the embedding is.
        std_uv: what v1 divides by; None is what comes with each epoch.
        scaled_by_epoch: whether it does.
        data_norm: see `normalise`.
        noise: `(C, max_patches * 32)` what reconstructions start from; None when none is wanted.
        schedule: what they go through; likewise.
        sampler: how they go.
        guidance: how strongly the latents steer them.
        keep_known: whether good channels come back as they were given.
        passing: `(n_added, n_chans)` what makes added channels without the sampler; None where it runs.
    """

    montage: Montage
    n_added: int
    space: Tensor
    time: Tensor
    pool: Pool
    std_uv: float | None
    scaled_by_epoch: bool
    data_norm: float
    noise: Tensor | None
    schedule: Schedule | None
    sampler: Sampler
    guidance: float
    keep_known: bool
    passing: Tensor | None = None

    @property
    def steps(self) -> int:
        """Of the sampler; 0 where epochs pass without it."""
        return 0 if self.schedule is None or self.passing is not None else self.schedule.steps

    def steps_run(self, outputs: Collection[OutputName], steps: int, *, bad: bool) -> int | None:
        """What epochs really have of so many steps; None where not even the encoder runs.

        Args:
            outputs: what is asked for.
            steps: that they may have.
            bad: whether they have bad channels.
        """
        if "reconstruction" in outputs and steps and (bad or self.n_added or not self.keep_known):
            return steps
        return None if set(outputs) == {"reconstruction"} else 0

    def rotation(self, n_patches: int) -> Tensor:
        """`(S, d / 2)` complex for the tokens of a window."""
        space = self.space[:, None].expand(-1, n_patches, -1)
        time = self.time[:n_patches].expand(len(space), -1, -1)
        return torch.cat((space, time), dim=-1).flatten(0, 1)


class Zuna(nn.Module):
    """The whole network. Its parameters are meaningless until a state is loaded."""

    SPEC: ClassVar[ModelSpec] = SPEC

    def __init__(self, config: ZunaConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        if config.decoder_depth:
            self.decoder = Decoder(config)

    @property
    def available_outputs(self) -> tuple[OutputName, ...]:
        """What these weights can yield."""
        return tuple(name for name in SPEC.outputs if name != "reconstruction" or self.config.decoder_depth)

    @property
    def n_params(self) -> int:
        """Numbers in the state."""
        return count(self)

    @torch.no_grad()
    def bind(
        self,
        montage: Montage,
        *,
        outputs: Collection[OutputName],
        pool: Pool = "mean",
        frame: Frame = "head",
        add: Montage | Sequence[str] | int = (),
        std_uv: float | None = None,
        data_norm: float = DATA_NORM,
        steps: int = 50,
        sampler: Sampler = "euler",
        guidance: float = 1.0,
        seed: int = 0,
        keep_known: bool = False,
    ) -> ZunaBinding:
        """Compute all that depends on channels and options alone; bind again when a channel comes or goes.

        Args:
            montage: channels of the epochs to come, in their order; all need a position.
            outputs: what will be asked of `encode`.
            pool: the embedding is one row: the mean of all tokens (`mean`), the mean of each channel's (`per_channel`)
                or all of them (`per_token`).
            frame: see `to_frame`.
            add: channels to reconstruct though nobody recorded them; those of `montage` are passed over. A number is
            that of all channels there shall be: see `farthest`.
            std_uv: see `normalise`; None leaves it to `encode`.
            data_norm: see `normalise`.
            steps: of the sampler, each one pass through the decoder.
            sampler: `euler`, as published, or `adams`, of second order, which on untrained weights is closer to the
                exact flow with 20 steps than `euler` with 50 (error 1.8 and 2.4 %; 10 steps 8.7, 16 steps 3.0, 40 steps
                0.4 %); on trained ones nobody has measured it.
            guidance: of the reconstruction; 1 is none, see `Decoder.flow`.
            seed: of the noise. Every epoch starts from the same, so that its result depends on nothing before it.
            keep_known: return good channels as they were given.

        Raises:
            ContractError: the weights lack the decoder, or a channel has no position.
            ConfigError: an option is none of those above.
        """
        for name, value, kind in (("pool", pool, Pool), ("frame", frame, Frame), ("sampler", sampler, Sampler)):
            _refuse_unless(name, value, get_args(kind))
        if steps < 1:
            raise ConfigError(f"steps is {steps}: take at least 1, or the published 50")
        if std_uv is not None and not std_uv > 0:
            raise ConfigError(f"std_uv is {std_uv}: give the standard deviation of the recording, in microvolts")
        if not data_norm > 0:
            raise ConfigError(f"data_norm is {data_norm}: give the published {DATA_NORM:g}, or another number above 0")
        if guidance != 1 and "reconstruction" not in outputs:
            raise ConfigError("guidance steers a reconstruction, and none is asked for: leave it out, or ask for one")
        if headless := set(outputs).difference(self.available_outputs):
            raise ContractError(f"these ZUNA weights have nothing for {', '.join(sorted(headless))}: do not ask for it")
        _refuse_unplaced(montage)  # first: no site is the farthest from a place that is not known
        rows = _extended(montage, _added(montage, add))
        _refuse_unplaced(rows)
        draws = "reconstruction" in outputs
        space, time = self._turns(to_frame(rows.ch_pos, frame))
        return ZunaBinding(
            montage=rows,
            n_added=rows.n_chans - montage.n_chans,
            space=space,
            time=time,
            pool=pool,
            std_uv=std_uv,
            scaled_by_epoch=self.config.generation == "v1" and std_uv is None,
            data_norm=data_norm,
            noise=self._noise(rows.n_chans, seed) if draws else None,
            schedule=self.decoder.schedule(steps) if draws else None,
            sampler=sampler,
            guidance=guidance,
            keep_known=keep_known,
        )

    # Turns and noise are made on the CPU in float32, so that every device starts from the same bits.

    def _turns(self, ch_pos: Float64Array) -> tuple[Tensor, Tensor]:
        """`space` and `time` of a binding."""
        head_dim, like = self.config.head_dim, self.encoder.registers
        bins = position_bins(torch.tensor(ch_pos, dtype=torch.float32), self.config.n_bins)
        space, time = rotations(bins, head_dim).flatten(1), rotations(torch.arange(self.config.max_patches), head_dim)
        dtype = torch.promote_types(like.dtype, torch.complex64)
        return space.to(like.device, dtype), time.to(like.device, dtype)

    def _noise(self, n_chans: int, seed: int) -> Tensor:
        """`noise` of a binding, enough for the longest window."""
        shape = n_chans, self.config.max_patches * self.config.patch
        noise = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
        return (NOISE_STD * noise).to(self.encoder.registers)

    def encode(
        self,
        x_uv: Tensor,
        binding: ZunaBinding,
        outputs: Collection[OutputName],
        *,
        bad: Collection[int] = (),
        std_uv: Tensor | None = None,
        noise: Tensor | None = None,
    ) -> dict[OutputName, Tensor]:
        """What the network makes of some epochs.

        Args:
            x_uv: `(B, C, T)` microvolts of the bound channels; T is a whole number of patches.
            binding: from `bind`, for the same channels.
            outputs: what to compute.
            bad: rows to mask in all of these epochs; whatever they hold does not matter.
            std_uv: `(B,)` of the signal each epoch is part of, for v1 bound without one; None takes each epoch's own.
            noise: `(C, T)` or `(B, C, T)`, with added channels, to start from instead of the binding's.

        Returns:
            `embedding` `(B, k)`, see `pool` in `bind`; `tokens` `(B, S, 32)`, the latents; `reconstruction`
            `(B, C, T)` microvolts in the reference of `x_uv`. Added channels are in the reconstruction alone.

        Raises:
            ContractError: the epochs do not fit the binding or the network, or fewer than two channels are good.
        """
        n_chans, n_times = x_uv.shape[1:]
        good = [row for row in range(n_chans) if row not in bad]
        self._refuse_misfit(n_chans, n_times, good, binding, outputs)
        steps = binding.steps_run(outputs, binding.steps, bad=bool(bad))
        if steps is None:
            return {"reconstruction": _as_it_is(x_uv, binding)}
        scaled = normalise(
            x_uv,
            self.config.generation,
            good,
            n_added=binding.n_added,
            std_uv=std_uv if binding.std_uv is None else binding.std_uv,
            data_norm=binding.data_norm,
        )
        latents = self.encode_tokens(to_tokens(scaled.x, self.config.patch), binding)
        results: dict[OutputName, Tensor] = {}
        bound = latents[:, : n_chans * n_times // self.config.patch]
        if "embedding" in outputs:
            results["embedding"] = _pooled(bound, n_chans, binding.pool)
        if "tokens" in outputs:
            results["tokens"] = bound
        if "reconstruction" in outputs and not steps:
            results["reconstruction"] = _as_it_is(x_uv, binding)
        elif "reconstruction" in outputs:
            start = cast("Tensor", binding.noise)[:, :n_times] if noise is None else noise
            tokens = self.sample(latents, to_tokens(start.expand_as(scaled.x), self.config.patch), binding)
            drawn = scaled.undo(from_tokens(tokens, binding.montage.n_chans))
            if binding.keep_known:
                drawn[:, good] = x_uv[:, good]
            results["reconstruction"] = drawn
        return results

    @staticmethod
    def spread(_name: OutputName, values: Tensor, _rows: Sequence[int], _n_chans: int, _: ZunaBinding) -> Tensor:
        """Nothing is ever left out: bad channels are masked, and rebuilt."""
        return values

    @torch.no_grad()
    def with_steps(self, binding: ZunaBinding, steps: int) -> ZunaBinding:
        """The same binding for another number of steps of the sampler; with 0, epochs pass without it.

        What passes is the epoch as it is, to the bit, with added channels drawn from the others by spherical splines.

        Raises:
            ContractError: epochs are to pass without the sampler, and there are too few channels for these splines.
        """
        if steps:
            return replace(binding, schedule=self.decoder.schedule(steps), passing=None)
        return replace(binding, passing=_passing(binding).to(self.encoder.registers))

    def encode_tokens(self, tokens: Tensor, binding: ZunaBinding, masked: Tensor | None = None) -> Tensor:
        """Latents of scaled tokens, those of added channels included.

        Args:
            tokens: `(B, S, 32)`, channel by channel.
            binding: from `bind`.
            masked: `(S,)` or `(B, S)`, true where a token is to be hidden. 1.1 was trained on any cells, v1 on
                whole channels.

        Returns:
            `(B, S, 32)`.
        """
        if masked is not None:
            tokens = tokens.masked_fill(masked[..., None], 0.0)
        n_patches = tokens.shape[1] // binding.montage.n_chans
        latents: Tensor = self.encoder(tokens, binding.rotation(n_patches))
        return latents.to(tokens.dtype)

    def sample(self, latents: Tensor, noise: Tensor, binding: ZunaBinding) -> Tensor:
        """Tokens that have these latents, by the schedule, sampler and guidance of a binding for the reconstruction.

        Args:
            latents: `(B, S, 32)`.
            noise: `(B, S, 32)` of standard deviation 0.1.
            binding: from `bind`.

        Returns:
            `(B, S, 32)`.
        """
        rotation = binding.rotation(noise.shape[1] // binding.montage.n_chans)
        schedule, sampler, guidance = cast("Schedule", binding.schedule), binding.sampler, binding.guidance
        *_, tokens = self.decoder.flow(latents, noise, schedule, rotation, sampler=sampler, guidance=guidance)
        return tokens

    def _refuse_misfit(
        self, n_chans: int, n_times: int, good: list[int], binding: ZunaBinding, outputs: Collection[OutputName]
    ) -> None:
        bound, patch, longest = binding.montage.n_chans - binding.n_added, self.config.patch, self.config.max_patches
        if n_chans != bound:
            raise ContractError(f"ZUNA is bound to {bound} channels, not {n_chans}: bind it to this montage")
        if not n_times or n_times % patch:
            raise ContractError(
                f"ZUNA takes whole patches of {patch} samples, which {n_times} samples are not: choose a multiple of "
                f"{patch / SPEC.sfreq} s as the duration, such as {SPEC.durations[0]} s"
            )
        if n_times > longest * patch:
            raise ContractError(
                f"ZUNA {self.config.generation} takes windows up to {longest * patch / SPEC.sfreq} s, not "
                f"{n_times / SPEC.sfreq} s: choose a shorter duration, such as {SPEC.durations[0]} s"
            )
        if len(good) < 2:
            raise ContractError(
                f"{len(good)} of {n_chans} channels are good, and an average reference of one leaves nothing: give "
                "ZUNA at least two good channels"
            )
        if "reconstruction" in outputs and binding.schedule is None:
            raise ContractError("ZUNA is bound without the reconstruction: ask for it when binding")


def _pooled(tokens: Tensor, n_chans: int, pool: Pool) -> Tensor:
    """`(B, S, latent)` to one row an epoch."""
    match pool:
        case "mean":
            return tokens.mean(1)
        case "per_channel":
            return tokens.reshape(len(tokens), n_chans, -1, tokens.shape[-1]).mean(2).flatten(1)
        case "per_token":
            return tokens.flatten(1)


def _as_it_is(x_uv: Tensor, binding: ZunaBinding) -> Tensor:
    """The reconstruction of epochs that need no sampler."""
    if binding.passing is None:
        return x_uv.clone()  # on a CPU the epochs may be the caller's own memory
    with torch.autocast(x_uv.device.type, enabled=False):
        return torch.cat((x_uv, binding.passing @ x_uv), dim=1)


def _passing(binding: ZunaBinding) -> Tensor:
    """`(n_added, n_chans)`: added channels by splines through all others. Raises `ContractError` if they are few."""
    n_chans = binding.montage.n_chans - binding.n_added
    added = tuple(range(n_chans, binding.montage.n_chans))
    if added and n_chans < MIN_GOOD:
        raise ContractError(
            f"{n_chans} channels are too few to make up {some(binding.montage.ch_names[n_chans:])} from where "
            f"there is no time for the sampler: leave out model.min_steps or model.add, or give at least {MIN_GOOD}"
        )
    matrix = interpolation_matrix(binding.montage, added) if added else np.eye(n_chans)
    return torch.tensor(matrix[n_chans:, :n_chans])


def _extended(montage: Montage, added: Montage) -> Montage:
    """The channels of one montage, then those that only another has."""
    new = [row for row, name in enumerate(added.ch_names) if name not in montage.ch_names]
    names = (*montage.ch_names, *(added.ch_names[row] for row in new))
    return Montage(names, np.concatenate((montage.ch_pos, added.ch_pos[new])))


def _refuse_unplaced(montage: Montage) -> None:
    lost = [name for name, xyz in zip(montage.ch_names, montage.ch_pos, strict=True) if not np.isfinite(xyz).all()]
    if lost:
        raise ContractError(f"ZUNA must know where {', '.join(lost)} sits: give positions, or drop the channels")


def _refuse_unless(name: str, value: Any, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ConfigError(f"{name} is {value!r}: use one of {', '.join(allowed)}")


# ---- Weights ---------------------------------------------------------------------------------------------------------

Form = Literal["original", "canonical"]


def form_of(state: Mapping[str, Tensor]) -> Form:
    """Whose names a state has: `original`, those of the published files, or `canonical`, those used here.

    Files differ from what is used here by a prefix, and those of 1.1 by a second `norm` in the names of norms.
    """
    return "canonical" if rename_keys(state).keys() == state.keys() else "original"


def rename_keys(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Give a state the names used here, which are v1's: drops the prefixes of trainers and 1.1's second `norm`.

    Where a trainer's prefix is found, keys without it are none of the network's and go.
    """
    renamed = without_wrappers(state)
    return {re.sub(r"(norm[^.]*)\.norm\.weight$", r"\1.weight", key): tensor for key, tensor in renamed.items()}


def random_state(config: ZunaConfig, seed: int) -> dict[str, Tensor]:
    """An untrained state, the same bits on every machine."""

    def constant(key: str, shape: torch.Size) -> Tensor:
        return torch.ones(shape) if key.endswith("norm.weight.bias") else plain(key, shape)

    return draw(manifest(config), seed, constant)
