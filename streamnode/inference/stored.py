"""Weight matrices kept in the form that products on a CPU are fastest with: packed for oneDNN, or in fewer bits.

Packed float32 has all its digits, in another order. Where MKL is slow a product with it takes half the time or less,
from one row to thousands, and it needs none of the permissions that oneDNN's other products do.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, Protocol, Self, cast

import torch
import torch.nn.functional as F  # noqa: N812  (its name everywhere)
from torch import Tensor
from torch.utils._pytree import tree_map

from streamnode.inference.cpu import CLEARLY, relative_error, speedup
from streamnode.models.layers import in_whole_tiles

log = logging.getLogger(__name__)

Kept = Literal["float32", "bfloat16", "int8"]
"""The type that a matrix is kept in."""

Then = Literal["none", "gelu", "swish"]
"""What is done with each number of a product: nothing, the exact GELU, or the SiLU, which oneDNN calls so."""

_DTYPES: dict[Kept, torch.dtype] = {"float32": torch.float32, "bfloat16": torch.bfloat16}
_ROWS = 128  # of an input: what a matrix is packed for serves any number, but less well if it was packed for one
_EXACT = {torch.float32: 1e-5, torch.bfloat16: 0.02}  # errors of products that rounding explains
_LEAST = 1e-30  # a row of zeros has a step, too


class StoredWeight(Tensor):
    """A weight matrix `(n_out, n_in)` for inference on a CPU, kept otherwise than as plain float32.

    `F.linear` multiplies by it as it is, and so by its rows `weight[a:b]`; to all else it is a float32 matrix, which is
    made anew every time.
    """

    form: _Form
    some_rows: dict[tuple[int | None, int | None, int | None], StoredWeight]

    @classmethod
    def of(cls, weight: Tensor, kept: Kept) -> Self:
        """A matrix packed in float32 or bfloat16 (plain where this torch cannot pack); or in int8, row by row."""
        # A single number that looks like a matrix: what takes memory is in the form.
        stored = torch.zeros(()).expand(weight.shape).as_subclass(cls)
        stored.form, stored.some_rows = _form_of(weight, kept), {}
        return stored

    def linear(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """What `F.linear` makes of it, without the way there, which takes longer than a small product."""
        return self.form.linear(x, bias, "none").float()

    def linear_then(self, x: Tensor, bias: Tensor | None, then: Then) -> Tensor:
        """An activation of a product with `(..., n_in)`: `(..., n_out)`, in bfloat16 if the matrix is."""
        return self.form.linear(x, bias, then)

    def plain(self) -> Tensor:
        """Row after row, in the type that it is kept in, int8 as float32."""
        return self.form.plain()

    def rows(self, index: slice) -> StoredWeight:
        """Some of the rows, kept likewise, and for the next time."""
        key = index.start, index.stop, index.step
        if key not in self.some_rows:
            self.some_rows[key] = StoredWeight.of(self.plain()[index], self.form.kept)
        return self.some_rows[key]

    @classmethod
    def __torch_function__(
        cls, func: Any, _types: Sequence[type], args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """What torch calls in place of any of its functions that meets such a weight."""
        if func is F.linear:
            return _linear(*args, **(kwargs or {}))
        if func in _AS_IT_IS:
            return args[0]
        if func is Tensor.__getitem__ and isinstance(args[1], slice):
            return args[0].rows(args[1])
        with torch._C.DisableTorchFunctionSubclass():  # noqa: SLF001  (as in torch's own subclasses)
            if func not in _LOOKS:
                args, kwargs = tree_map(_as_float32, (args, dict(kwargs or {})))
            return func(*args, **(kwargs or {}))


def _as_float32(argument: Any) -> Any:
    return argument.plain().float() if isinstance(argument, StoredWeight) else argument


_AS_IT_IS = (Tensor.detach, Tensor.requires_grad_)  # of which `nn.Parameter` is made
_LOOKS = tuple(getattr(Tensor, name).__get__ for name in ("shape", "dtype", "device", "ndim"))


def _linear(x: Tensor, weight: StoredWeight, bias: Tensor | None = None) -> Tensor:
    """`(..., n_in)` to `(..., n_out)` float32."""
    return weight.linear(x, bias)


# ---- Forms -----------------------------------------------------------------------------------------------------------


class _Form(Protocol):
    """How the numbers of a matrix are kept."""

    @property
    def kept(self) -> Kept:
        """In which type."""
        ...

    def linear(self, x: Tensor, bias: Tensor | None, then: Then) -> Tensor:
        """A product, and what is done with each of its numbers."""
        ...

    def plain(self) -> Tensor:
        """All of them row after row, int8 as float32."""
        ...


def _form_of(weight: Tensor, kept: Kept) -> _Form:
    if kept == "int8":
        return _Int8.of(weight)
    rounded = weight.to(_DTYPES[kept])
    return _Packed.of(rounded) if can_pack(rounded.dtype) else _Plain.of(rounded)


@dataclass(frozen=True, slots=True, eq=False)
class _Packed:
    """In oneDNN's own order; what comes out of a product is of the same type."""

    matrix: Tensor
    n_in: int

    @classmethod
    def of(cls, weight: Tensor) -> Self:
        whole = in_whole_tiles(weight).contiguous()
        return cls(torch.ops.mkldnn._reorder_linear_weight(whole, _ROWS), weight.shape[1])  # noqa: SLF001  (it has no other name)

    @property
    def kept(self) -> Kept:
        return "float32" if self.matrix.dtype == torch.float32 else "bfloat16"

    def linear(self, x: Tensor, bias: Tensor | None, then: Then) -> Tensor:
        dtype = self.matrix.dtype
        bias = None if bias is None else bias.to(dtype)
        product = torch.ops.mkldnn._linear_pointwise.default  # noqa: SLF001
        return cast("Tensor", product(in_whole_tiles(x.to(dtype)), self.matrix, bias, then, [], "none"))

    def plain(self) -> Tensor:
        return self.matrix.to_dense()[:, : self.n_in]


@dataclass(frozen=True, slots=True, eq=False)
class _Plain:
    """Row after row."""

    matrix: Tensor
    n_in: int

    @classmethod
    def of(cls, weight: Tensor) -> Self:
        return cls(in_whole_tiles(weight), weight.shape[1])

    @property
    def kept(self) -> Kept:
        return "float32" if self.matrix.dtype == torch.float32 else "bfloat16"

    def linear(self, x: Tensor, bias: Tensor | None, then: Then) -> Tensor:
        dtype = self.matrix.dtype
        y = F.linear(in_whole_tiles(x.to(dtype)), self.matrix, None if bias is None else bias.to(dtype))
        return _activated(y, then)

    def plain(self) -> Tensor:
        return self.matrix[:, : self.n_in]


@dataclass(frozen=True, slots=True, eq=False)
class _Int8:
    """In 255 steps between minus and plus the largest number of each row; what comes out of a product is float32."""

    matrix: Tensor
    step: Tensor

    @classmethod
    def of(cls, weight: Tensor) -> Self:
        step = _step(weight)
        return cls((weight / step).round().to(torch.int8), step[:, 0])

    @property
    def kept(self) -> Kept:
        return "int8"

    def linear(self, x: Tensor, bias: Tensor | None, then: Then) -> Tensor:
        # Each row of the input has a step of its own: it is finer so, and no epoch of a batch touches another.
        step = _step(x)
        steps = (x / step).round_().to(torch.int8).reshape(-1, x.shape[-1])
        counts = torch._int_mm(steps, self.matrix.mT)  # noqa: SLF001
        y = counts.float().reshape(*x.shape[:-1], -1).mul_(step).mul_(self.step)
        y = y if bias is None else y.add_(bias)
        return _activated(y, then)

    def plain(self) -> Tensor:
        return self.matrix.float() * self.step[:, None]


def _activated(y: Tensor, then: Then) -> Tensor:
    match then:
        case "none":
            return y
        case "gelu":
            return F.gelu(y)
        case "swish":
            return F.silu(y)


def _step(rows: Tensor) -> Tensor:
    """`(..., n)` to `(..., 1)`: what 127 of make the largest number of a row."""
    return rows.abs().amax(-1, keepdim=True).clamp_min(_LEAST) / 127


@cache
def can_pack(dtype: torch.dtype) -> bool:
    """Whether products with packed matrices are to be had here, come out right, and are not clearly slower than plain.

    If not, says so once.
    """
    draw = torch.Generator().manual_seed(0)
    x, weight, bias = (torch.randn(shape, generator=draw).to(dtype) for shape in ((96, 512), (1024, 512), (1024,)))
    with torch.inference_mode():
        try:
            packed = _Packed.of(weight)
            found = packed.linear(x, bias, "gelu")
        except (AttributeError, RuntimeError) as reason:  # another torch, or one without oneDNN
            log.info("weights are not packed, for this torch cannot: %s", reason)
            return False
        true = F.gelu(F.linear(x.double(), weight.double(), bias.double()))
        plain = _Plain.of(weight)
        gain = speedup(lambda: plain.linear(x, bias, "none"), lambda: packed.linear(x, bias, "none"))
    error = relative_error(found, true)
    if error < _EXACT[dtype] and gain * CLEARLY >= 1:
        return True
    log.info("weights are not packed: products with them are off by %.0e and %.1f times as fast", error, gain)
    return False
