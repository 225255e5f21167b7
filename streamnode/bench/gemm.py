"""What this machine multiplies at best: the limit that the networks are held against.

A product of large matrices is timed by every route there is to it. The fastest is timed again in each round of a
comparison, so that a machine that slows down slows the limit with it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from time import perf_counter
from typing import cast

import torch
import torch.nn.functional as F  # noqa: N812  (its name everywhere)
from torch import Tensor

from streamnode.inference.cpu import Setting

SHAPES = ((1024, 1024, 1024), (960, 1024, 4096), (480, 512, 2048), (120, 512, 4096))
"""Rows, inputs and outputs of linear layers: those of wide networks, with the tokens of a few epochs."""

_EXACT = 1e-5  # relative error up to which a product counts as one of float32
_TRIES = 4

Product = Callable[[], Tensor]


@dataclass(frozen=True, slots=True, eq=False)
class Gemm:
    """A matrix product that can be timed again.

    Attributes:
        route: how torch is made to compute it.
        shape: rows, inputs, outputs.
        product: computes it.
        device: where.
    """

    route: str
    shape: tuple[int, int, int]
    product: Product
    device: torch.device

    @torch.inference_mode()
    def rate(self) -> float:
        """GFLOP/s of one product, now."""
        rows, n_in, n_out = self.shape
        self.product()  # threads of whoever ran before have gone to sleep after it
        _wait_for(self.device)
        began = perf_counter()
        self.product()
        _wait_for(self.device)
        return 2e-9 * rows * n_in * n_out / (perf_counter() - began)


def fastest(dtype: torch.dtype, device: torch.device) -> Gemm:
    """The product with the highest rate over shapes and routes; for float32, of those with the precision of it."""
    found = [gemm for shape in SHAPES for gemm in _products(shape, dtype, device)]
    return max(found, key=lambda gemm: max(gemm.rate() for _ in range(_TRIES)))


def _products(shape: tuple[int, int, int], dtype: torch.dtype, device: torch.device) -> Iterator[Gemm]:
    rows, n_in, n_out = shape
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(rows, n_in, generator=generator).to(device, dtype)
    weight = torch.randn(n_out, n_in, generator=generator).to(device, dtype)
    routes: dict[str, Product] = {"linear": lambda: F.linear(x, weight)}
    if device.type == "cpu":
        routes["linear, oneDNN"] = lambda: _by_onednn(x, weight)
        if packed := _packed(x, weight):
            routes["linear, packed"] = packed
    exact = x[:8].double() @ weight.double().T
    for name, product in routes.items():
        error = (product()[:8] - exact).norm() / exact.norm()
        if dtype != torch.float32 or error < _EXACT:
            yield Gemm(name, shape, product, device)


def _by_onednn(x: Tensor, weight: Tensor) -> Tensor:
    with Setting("bf16", torch.get_num_threads()).applied():
        return F.linear(x, weight)


def _packed(x: Tensor, weight: Tensor) -> Product | None:
    """The product with the weight in oneDNN's own layout; None for a torch without it."""
    try:
        ops = torch.ops.mkldnn
        packed = ops._reorder_linear_weight(weight, len(x))  # noqa: SLF001  (there is no public name for it)
        product = ops._linear_pointwise  # noqa: SLF001
    except (AttributeError, RuntimeError):
        return None
    return lambda: cast("Tensor", product(x, packed, None, "none", [], ""))


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
