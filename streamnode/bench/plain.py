"""Networks in real numbers: what the converters of other runtimes have no rule for, or a wrong one, said otherwise.

OpenVINO reads neither Fourier transforms nor complex products, and both it and onnxruntime are given an arc tangent
whose sign is wrong on the negative axis. The same numbers come out of products with sines and cosines. Only what is
exported is rewritten; the networks know nothing of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import pi
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode


@dataclass(frozen=True, slots=True, eq=False)
class _Pair:
    """A complex tensor as two real ones, as far as our networks use it."""

    real: Tensor
    imag: Tensor

    @classmethod
    def __torch_function__(cls, func: Any, _types: Any, args: tuple[Any, ...] = (), _kwargs: Any = None) -> Any:
        if func is not torch.view_as_real:
            return NotImplemented
        pair: _Pair = args[0]
        return torch.stack((pair.real, pair.imag), dim=-1)

    def abs(self) -> Tensor:
        return _hypot(self.real, self.imag)

    def __mul__(self, other: Tensor) -> _Pair:
        real, imag = torch.view_as_real(other).unbind(-1)
        return _Pair(self.real * real - self.imag * imag, self.real * imag + self.imag * real)


class without_complex(TorchFunctionMode):  # noqa: N801  (used like a function)
    """Within this block, what the converters lack is computed by what they have."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        _types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        instead = _INSTEAD.get(func, func)
        return instead(*args, **(kwargs or {}))


def _rfft(x: Tensor, n: int | None = None, dim: int = -1, norm: str = "backward") -> _Pair:
    assert n is None
    assert dim == -1
    n_times = x.shape[-1]
    turns = torch.arange(n_times, dtype=torch.float64)[:, None] * torch.arange(n_times // 2 + 1) / n_times
    scale = {"backward": 1.0, "forward": 1 / n_times, "ortho": n_times**-0.5}[norm or "backward"]
    angles = 2 * pi * turns
    return _Pair(x @ (scale * angles.cos()).to(x.dtype), x @ (-scale * angles.sin()).to(x.dtype))


def _view_as_complex(x: Tensor) -> _Pair:
    return _Pair(*x.unbind(-1))


def _hypot(x: Tensor, y: Tensor) -> Tensor:
    return (x.square() + y.square()).sqrt()


def _atan2(y: Tensor, x: Tensor) -> Tensor:
    within = torch.where((x == 0) & (y == 0), 0.0, torch.atan(y / x))
    return within + torch.where(x < 0, torch.where(y < 0, -pi, pi), 0.0)


def _unfold(x: Tensor, dimension: int, size: int, step: int) -> Tensor:
    assert dimension in {-1, x.ndim - 1}
    starts = torch.arange(0, x.shape[-1] - size + 1, step)
    return x[..., starts[:, None] + torch.arange(size)]


_INSTEAD: dict[Any, Callable[..., Any]] = {
    torch.fft.rfft: _rfft,
    torch.view_as_complex: _view_as_complex,
    torch.hypot: _hypot,
    torch.atan2: _atan2,
    torch.Tensor.unfold: _unfold,
}
