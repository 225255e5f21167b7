"""ZUNA's networks: tokens to latents, and noise along a rectified flow to tokens.

Nothing here knows of electrodes or microvolts; `streamnode.models.zuna` does, and says what ZUNA is. Parameters are
named as in the published files (sections 2, 3 and 10 of the specification).
Shapes: B epochs, S tokens of 32 samples, D width, H heads of d numbers, A = H * d, L layers, N steps of the sampler.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, cast

import torch
import torch.nn.functional as F  # noqa: N812  (its name everywhere)
from torch import Tensor, nn

from streamnode.errors import WeightsError
from streamnode.models.layers import Linear, silu_linear
from streamnode.models.state import count_layers, weights_of

Generation = Literal["v1", "1.1"]
Sampler = Literal["euler", "adams"]

NOISE_STD = 0.1
_EPS = 1e-5  # of every norm

# ---- Sizes -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ZunaConfig:
    """Sizes of a ZUNA, by default those of both published ones. Where `decoder_depth` is 0 there is no decoder."""

    generation: Generation
    dim: int = 1024
    encoder_depth: int = 16
    decoder_depth: int = 16
    n_heads: int = 8
    head_dim: int = 64
    hidden: int = 2816
    time_dim: int = 64
    patch: int = 32
    latent: int = 32

    @property
    def n_bins(self) -> int:
        """Bins of a position along each axis; no tensor shows it."""
        return {"v1": 50, "1.1": 100}[self.generation]

    @property
    def max_patches(self) -> int:
        """Patches that a window may have; no tensor shows it."""
        return {"v1": 50, "1.1": 256}[self.generation]

    @classmethod
    @weights_of("a ZUNA")
    def from_state(cls, state: Mapping[str, Tensor], *, head_dim: int = 64) -> ZunaConfig:
        """Read generation and sizes off the tensors of a checkpoint, as `zuna.rename_keys` leaves them.

        Args:
            state: may lack the decoder.
            head_dim: width of a head in v1, whose tensors do not show it.

        Raises:
            WeightsError: these are not the weights of a ZUNA.
        """
        dim, patch = state["encoder.tok_embeddings.weight"].shape
        latent, _ = state["encoder.output.weight"].shape
        inner, _ = state["encoder.layers.0.attention.wq.weight"].shape
        hidden, _ = state["encoder.layers.0.feed_forward.w1.weight"].shape
        q_norm = state.get("encoder.layers.0.attention.q_norm.weight")
        head_dim = head_dim if q_norm is None else len(q_norm)
        waves = state.get("decoder.t_embedder.weight")
        if not head_dim or head_dim % 8 or inner % head_dim:
            raise WeightsError(
                f"these are not the weights of a ZUNA: attention {inner} wide does not divide into heads {head_dim} "
                "wide, nor those into pairs for four axes; give one of its checkpoints"
            )
        return cls(
            generation="v1" if q_norm is None else "1.1",
            dim=dim,
            encoder_depth=count_layers(state, "encoder.layers."),
            decoder_depth=count_layers(state, "decoder.layers."),
            n_heads=inner // head_dim,
            head_dim=head_dim,
            hidden=hidden,
            time_dim=64 if waves is None else 2 * len(waves),
            patch=patch,
            latent=latent,
        )


# ---- Layers ----------------------------------------------------------------------------------------------------------


def rms_norm(x: Tensor, gain: Tensor) -> Tensor:
    """Divide `(..., width)` by its root mean square and multiply by `gain`, in float32 at least."""
    wide = torch.promote_types(x.dtype, torch.float32)
    x, gain = x.to(wide), gain.to(wide)
    if x.device.type != "cpu":
        return F.rms_norm(x, gain.shape, gain, _EPS)
    # torch's own has no kernel for a CPU, and takes ten times as long there.
    mean_square = torch.linalg.vector_norm(x, dim=-1, keepdim=True).square() / x.shape[-1]
    normed: Tensor = (x * (mean_square + _EPS).rsqrt()).mul_(gain)
    return normed


class RMSNorm(nn.Module):
    """`rms_norm` with a learned gain."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width))

    def forward(self, x: Tensor) -> Tensor:
        """`(..., width)` to the same."""
        return rms_norm(x, self.weight)


def _norm_of_1_1(config: ZunaConfig, width: int) -> nn.Module:
    return RMSNorm(width) if config.generation == "1.1" else nn.Identity()


def rotations(index: Tensor, head_dim: int) -> Tensor:
    """How far each pair in the quarter of a head that belongs to one axis turns: `(...)` to complex `(..., d / 8)`."""
    quarter = head_dim // 4
    # As the original rounds it, float32 by float32, for its last bits show in float64.
    angles = index[..., None] * (1.0 / 10000.0 ** (torch.arange(0, quarter, 2).float() / quarter))
    return torch.complex(angles.cos(), angles.sin())


def rotate(heads: Tensor, rotation: Tensor) -> Tensor:
    """Turn consecutive pairs of `(B, n, H, d)` by complex `(n, d / 2)`, in float32 at least."""
    wide = heads.to(torch.promote_types(heads.dtype, torch.float32))
    pairs = torch.view_as_complex(wide.reshape(*wide.shape[:-1], -1, 2))
    return torch.view_as_real(pairs * rotation[:, None]).flatten(-2).to(heads.dtype)


class Attention(nn.Module):
    """Multi-head attention with rotary positions, whose keys and values may be made elsewhere."""

    def __init__(self, config: ZunaConfig) -> None:
        super().__init__()
        inner = config.n_heads * config.head_dim
        self.n_heads = config.n_heads
        self.wq = Linear(config.dim, inner, bias=False)
        self.wk = Linear(config.dim, inner, bias=False)
        self.wv = Linear(config.dim, inner, bias=False)
        self.wo = Linear(inner, config.dim, bias=False)
        self.q_norm = _norm_of_1_1(config, config.head_dim)
        self.k_norm = _norm_of_1_1(config, config.head_dim)

    def forward(self, x: Tensor, rotation: Tensor, rows: slice = slice(None)) -> Tensor:
        """What some rows of `(B, n, D)` take from all of them: `(B, n_rows, D)`."""
        return self.read(x[:, rows], rotation[rows], self.wk(x), self.wv(x), rotation)

    def read(self, x: Tensor, rotation: Tensor, keys: Tensor, values: Tensor, keys_rotation: Tensor) -> Tensor:
        """What `(B, n, D)` take from `(B, m, A)` keys and values: `(B, n, D)`."""
        q, k, v = (part.unflatten(-1, (self.n_heads, -1)) for part in (self.wq(x), keys, values))
        q, k = rotate(self.q_norm(q), rotation), rotate(self.k_norm(k), keys_rotation)
        q, k, v = (part.to(v.dtype).transpose(1, 2) for part in (q, k, v))
        return cast("Tensor", self.wo(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)))


class FeedForward(nn.Module):
    """SwiGLU."""

    def __init__(self, config: ZunaConfig) -> None:
        super().__init__()
        self.w1 = Linear(config.dim, config.hidden, bias=False)
        self.w3 = Linear(config.dim, config.hidden, bias=False)
        self.w2 = Linear(config.hidden, config.dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """`(..., D)` to the same."""
        return cast("Tensor", self.w2(silu_linear(x, self.w1).mul_(self.w3(x))))


# ---- Encoder ---------------------------------------------------------------------------------------------------------


class EncoderLayer(nn.Module):
    """A transformer layer."""

    def __init__(self, config: ZunaConfig) -> None:
        super().__init__()
        self.attention_norm = RMSNorm(config.dim)
        self.attention = Attention(config)
        self.attention_norm_post = _norm_of_1_1(config, config.dim)
        self.ffn_norm = RMSNorm(config.dim)
        self.feed_forward = FeedForward(config)
        self.ffn_norm_post = _norm_of_1_1(config, config.dim)

    def forward(self, h: Tensor, rotation: Tensor, rows: slice = slice(None)) -> Tensor:
        """Some rows of `(B, n, D)`, having looked at all: `(B, n_rows, D)`."""
        h = h[:, rows] + self.attention_norm_post(self.attention(self.attention_norm(h), rotation, rows))
        return h + cast("Tensor", self.ffn_norm_post(self.feed_forward(self.ffn_norm(h))))


class Encoder(nn.Module):
    """Puts a register before every token, at the same place, and reads the token's latent off it."""

    def __init__(self, config: ZunaConfig) -> None:
        super().__init__()
        self.registers = nn.Parameter(torch.empty(1, config.patch))
        self.tok_embeddings = nn.Linear(config.patch, config.dim)
        self.layers = nn.ModuleList(EncoderLayer(config) for _ in range(config.encoder_depth))
        self.norm = RMSNorm(config.dim)
        self.output = nn.Linear(config.dim, config.latent, bias=False)

    def forward(self, tokens: Tensor, rotation: Tensor) -> Tensor:
        """`(B, S, 32)` tokens at `(S, d / 2)` rotations to `(B, S, 32)` latents."""
        pairs = torch.stack((self.registers.expand_as(tokens), tokens), dim=2)
        h, rotation = self.tok_embeddings(pairs.flatten(1, 2)), rotation.repeat_interleave(2, dim=0)
        *layers, last = self.layers
        for layer in layers:
            h = layer(h, rotation)
        registers = last(h, rotation, slice(0, None, 2))  # nobody reads what the tokens themselves become
        return cast("Tensor", self.output(self.norm(registers)))


# ---- Decoder ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class Moment:
    """All of a decoder layer that depends on the time but not on the signal.

    Attributes:
        gains: `(3, D)` of the norms before cross-attention, self-attention and feed-forward.
        context: `(latent + 1, 2A)` takes a row of `Decoder.condition` to its keys and values.
        unconditional: `(D,)` what cross-attention adds where all latents are zero.
    """

    gains: Tensor
    context: Tensor
    unconditional: Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Schedule:
    """All of the decoder that depends on the steps but not on the signal: 2.4 MB a step for the published sizes.

    Attributes:
        layers: L by N moments.
        gains: `(N, D)` of the last norm.
    """

    layers: tuple[tuple[Moment, ...], ...]
    gains: Tensor

    @property
    def steps(self) -> int:
        """N."""
        return len(self.gains)


class TimeEmbedding(nn.Module):
    """Waves of the time, whose frequencies come with the weights but never train, through a linear map."""

    weight: Tensor

    def __init__(self, config: ZunaConfig) -> None:
        super().__init__()
        self.register_buffer("weight", torch.empty(config.time_dim // 2, 1))
        self.proj = nn.Linear(config.time_dim, config.time_dim)

    def forward(self, times: Tensor) -> Tensor:
        """`(N,)` to `(N, time_dim)`."""
        angles = 2 * torch.pi * times[:, None] * self.weight[:, 0]
        return cast("Tensor", self.proj(torch.cat((angles.cos(), angles.sin()), dim=-1)))


class AdaptiveGain(nn.Module):
    """Gain of a norm that depends on the time; the files call its linear map `weight`."""

    def __init__(self, config: ZunaConfig) -> None:
        super().__init__()
        self.weight = nn.Linear(config.time_dim, config.dim)

    def forward(self, embedded: Tensor) -> Tensor:
        """Embedded times `(N, time_dim)` to `(N, D)`."""
        return cast("Tensor", self.weight(embedded))


class DecoderLayer(nn.Module):
    """Looks at the latents, then at the other tokens of the flow."""

    def __init__(self, config: ZunaConfig) -> None:
        super().__init__()
        self.cross_attention_x_norm = AdaptiveGain(config)
        self.cross_attention_y_norm = AdaptiveGain(config)
        self.cross_attention = Attention(config)
        self.cross_attention_norm_post = _norm_of_1_1(config, config.dim)
        self.attention_norm = AdaptiveGain(config)
        self.attention = Attention(config)
        self.attention_norm_post = _norm_of_1_1(config, config.dim)
        self.ffn_norm = AdaptiveGain(config)
        self.feed_forward = FeedForward(config)
        self.ffn_norm_post = _norm_of_1_1(config, config.dim)

    def bind(self, embedded: Tensor, basis: Tensor) -> tuple[Moment, ...]:
        """The moments of embedded times `(N, time_dim)`.

        The gain of the context's norm depends on the time, so keys and values do too; but all between a latent and its
        keys and values is linear up to a factor, and folds into one small matrix per time (section 10.2).

        Args:
            embedded: times.
            basis: `(latent + 1, D)` what each number of a latent, and the bias, contributes to the context.
        """
        norms = (self.cross_attention_x_norm, self.attention_norm, self.ffn_norm)
        gains = torch.stack([norm(embedded) for norm in norms], dim=1)
        normed = self.cross_attention_y_norm(embedded)[:, None] * basis
        values = self.cross_attention.wv(normed)
        context = torch.cat((self.cross_attention.wk(normed), values), dim=-1)
        # Where all latents are zero, all values are that of the bias, and no query can choose between them.
        added = self.cross_attention.wo(values[:, -1] * _inverse_rms(basis[-1]))
        return tuple(map(Moment, gains, context, self.cross_attention_norm_post(added)))

    def forward(self, h: Tensor, context: Tensor | None, moment: Moment, rotation: Tensor) -> Tensor:
        """`(B, S, D)` to the same; without a context as if all latents were zero."""
        before_cross, before_self, before_ffn = moment.gains
        if context is None:
            h = h + moment.unconditional
        else:
            keys, values = (context @ moment.context).chunk(2, dim=-1)
            x = self.cross_attention.read(rms_norm(h, before_cross), rotation, keys, values, rotation)
            h = h + self.cross_attention_norm_post(x)
        h = h + self.attention_norm_post(self.attention(rms_norm(h, before_self), rotation))
        return h + cast("Tensor", self.ffn_norm_post(self.feed_forward(rms_norm(h, before_ffn))))


class Decoder(nn.Module):
    """Predicts noise minus data of tokens that are on their way from the one to the other."""

    def __init__(self, config: ZunaConfig) -> None:
        super().__init__()
        self.tok_embeddings = nn.Linear(config.patch, config.dim)
        self.t_embedder = TimeEmbedding(config)
        self.encoder_proj = nn.Linear(config.latent, config.dim)
        self.layers = nn.ModuleList(DecoderLayer(config) for _ in range(config.decoder_depth))
        self.norm = AdaptiveGain(config)
        self.output = nn.Linear(config.dim, config.patch, bias=False)

    def schedule(self, steps: int) -> Schedule:
        """Everything that depends on the times 1, 1 - 1/N, ..., 1/N alone; at 0 nothing is ever evaluated."""
        times = torch.arange(steps, 0, -1) * torch.tensor(1 / steps)  # float32, as the original's
        embedded = self.t_embedder(times.to(self.output.weight))
        basis = torch.cat((self.encoder_proj.weight.mT, self.encoder_proj.bias[None]))
        layers = (cast("DecoderLayer", layer) for layer in self.layers)
        return Schedule(tuple(layer.bind(embedded, basis) for layer in layers), self.norm(embedded))

    def condition(self, latents: Tensor) -> Tensor:
        """`(B, S, latent)` to `(B, S, latent + 1)`: a 1 for the bias behind, all over the RMS of the projection."""
        scale = _inverse_rms(self.encoder_proj(latents).to(latents.dtype))
        return torch.cat((latents * scale, scale), dim=-1)

    def forward(self, z: Tensor, context: Tensor | None, schedule: Schedule, step: int, rotation: Tensor) -> Tensor:
        """The velocity of tokens `(B, S, 32)` at the start of a step.

        Args:
            z: tokens on their way.
            context: from `condition`; None is as if all latents were zero.
            schedule: from `schedule`.
            step: from 0 on.
            rotation: `(S, d / 2)` complex.
        """
        h = self.tok_embeddings(z)
        for layer, moments in zip(self.layers, schedule.layers, strict=True):
            h = layer(h, context, moments[step], rotation)
        return cast("Tensor", self.output(rms_norm(h, schedule.gains[step]))).to(z.dtype)

    def flow(
        self,
        latents: Tensor,
        noise: Tensor,
        schedule: Schedule,
        rotation: Tensor,
        *,
        sampler: Sampler = "euler",
        guidance: float = 1.0,
    ) -> Iterator[Tensor]:
        """Tokens on their way from noise to data, one after each step.

        Args:
            latents: `(B, S, latent)` from the encoder, or from anywhere.
            noise: `(B, S, 32)` of standard deviation `NOISE_STD`.
            schedule: from `schedule`.
            rotation: `(S, d / 2)` complex.
            sampler: see `integrate`.
            guidance: 1 goes by the latents; more, at twice the cost, away from what is likely without them.
        """
        context = self.condition(latents)

        def velocity(z: Tensor, step: int) -> Tensor:
            v: Tensor = self(z, context, schedule, step, rotation)
            if guidance == 1:
                return v
            without: Tensor = self(z, None, schedule, step, rotation)
            return without + guidance * (v - without)

        return integrate(velocity, noise, schedule.steps, sampler)


def _inverse_rms(x: Tensor) -> Tensor:
    return x.square().mean(-1, keepdim=True).add(_EPS).rsqrt()


def integrate(
    velocity: Callable[[Tensor, int], Tensor], start: Tensor, steps: int, sampler: Sampler
) -> Iterator[Tensor]:
    """Solve dz/dt = velocity from t = 1 to 0 in equal steps, each of one evaluation at its start.

    Args:
        velocity: of a state, at the start of a step from 0 on.
        start: the state at 1.
        steps: how many.
        sampler: `euler`, of first order, as published; `adams`, of second order by what the step before has found
            (Adams-Bashforth; its first step is Euler's).
    """
    z, before = start, None
    for step in range(steps):
        now = velocity(z, step)
        slope = now if sampler == "euler" or before is None else 1.5 * now - 0.5 * before
        z, before = z - slope / steps, now
        yield z
