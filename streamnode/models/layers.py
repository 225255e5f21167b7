"""What the transformer layers of several families are made of."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
import torch.nn.functional as F  # noqa: N812  (its name everywhere)
from torch import Tensor, nn

_TILE = 32  # numbers of bfloat16 in a row of a matrix tile


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """A linear layer `(..., n_in)` to `(..., n_out)` whose weight may be bfloat16 where all else is float32."""
    stored: Any = getattr(weight, "linear", None)  # a weight that has a way of its own
    if stored is not None:
        return cast("Tensor", stored(x, bias))
    if weight.dtype != torch.bfloat16 or x.dtype != torch.float32 or x.device.type != "cpu":  # autocast sees to GPUs
        return F.linear(x, weight, bias)
    narrow = None if bias is None else bias.bfloat16()
    return F.linear(in_whole_tiles(x.bfloat16()), in_whole_tiles(weight), narrow).float()


def in_whole_tiles(rows: Tensor) -> Tensor:
    """Rows of bfloat16 `(..., n)` for a product on a CPU, with zeros up to a multiple of 32; others as they are.

    What a tile (AMX) lacks at the end of a row oneDNN lets be what follows in memory, which is the next row: it counts
    zero times, but a number that is none spoils what it is multiplied with even so.
    """
    lacking = -rows.shape[-1] % _TILE if rows.dtype == torch.bfloat16 else 0
    return F.pad(rows, (0, lacking)) if lacking else rows


class Linear(nn.Linear):
    """A linear layer of `linear`."""

    def forward(self, x: Tensor) -> Tensor:
        """`(..., n_in)` to `(..., n_out)`."""
        return linear(x, self.weight, self.bias)


def gelu_linear(x: Tensor, layer: nn.Linear) -> Tensor:
    """The exact GELU of a linear layer."""
    return _then(x, layer, "gelu", F.gelu)


def silu_linear(x: Tensor, layer: nn.Linear) -> Tensor:
    """The SiLU of a linear layer."""
    return _then(x, layer, "swish", F.silu)


def _then(x: Tensor, layer: nn.Linear, name: str, activation: Callable[[Tensor], Tensor]) -> Tensor:
    """A linear layer and what follows it, in one go where its weight is stored in a form that can."""
    weight: Any = layer.weight
    both = getattr(weight, "linear_then", None)
    return activation(layer(x)) if both is None else cast("Tensor", both(x, layer.bias, name))


class Mlp(nn.Module):
    """Two linear layers around an exact GELU; the norm, where there is one, sits on the hidden layer."""

    def __init__(self, width: int, hidden: int, out: int, *, norm: bool = False) -> None:
        super().__init__()
        self.fc1 = Linear(width, hidden)
        self.norm = nn.LayerNorm(hidden) if norm else nn.Identity()
        self.fc2 = Linear(hidden, out)

    def forward(self, x: Tensor) -> Tensor:
        """`(..., width)` to `(..., out)`."""
        return cast("Tensor", self.fc2(self.norm(gelu_linear(x, self.fc1))))
