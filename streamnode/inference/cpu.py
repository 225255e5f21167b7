"""How passes use a CPU: the way of its matrix products, and threads; both chosen by what is measured.

float32 products go to MKL, which on some processors reaches half of what they can. oneDNN takes them over where torch
is told that bfloat16 is permitted; on processors without matrix tiles (AMX) it has no use for the permission, and the
results stay float32. Where it would make use of it, `permission_is_harmless` finds out.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache, partial
from threading import RLock
from time import perf_counter
from typing import Any, Literal

import torch

log = logging.getLogger(__name__)

Products = Literal["ieee", "bf16"]

_TOLERANCE = 1e-5  # of a float32 product; one that used bfloat16 is off by some 5e-3
CLEARLY = 1.2  # times faster that a setting must be, lest noise choose and the last bits of results change with it
_PAIRS = 5  # alternating measurements of two settings
_PATIENCE_S = 0.2  # after which fewer will do
_SHORT_S = 0.02  # passes beyond gain by every thread
_one_at_a_time = RLock()  # the settings are those of the whole process
_chosen: dict[Hashable, Setting] = {}


@dataclass(frozen=True, slots=True)
class Setting:
    """How passes use the CPU.

    Attributes:
        products: of float32 matrices: `ieee`, or `bf16` to permit it, see the module.
        threads: that share a pass.
    """

    products: Products
    threads: int

    @contextmanager
    def applied(self) -> Iterator[None]:
        """All of torch follows the setting, and afterwards what it followed before; this takes some microseconds."""
        with _one_at_a_time:
            matmul: Any = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
            threads = torch.get_num_threads()
            before = matmul.fp32_precision
            matmul.fp32_precision = self.products
            torch.set_num_threads(self.threads)
            try:
                yield
            finally:
                matmul.fp32_precision = before
                torch.set_num_threads(threads)


def usual(threads: int | None = None) -> Setting:
    """How torch goes about it by itself."""
    return Setting("ieee", threads or torch.get_num_threads())


def choose_once(what: Hashable, run: Callable[[], object], threads: int | None = None) -> Setting:
    """`choose` for the first of all passes that are alike, so that within a process they yield the same bits."""
    key = what, threads
    if key not in _chosen:
        _chosen[key] = choose(run, threads)
    return _chosen[key]


def choose(run: Callable[[], object], threads: int | None = None) -> Setting:
    """The fastest setting for a pass, the usual one unless another is clearly faster.

    Args:
        run: makes the pass, and not for the first time.
        threads: None chooses their number too: for a short pass half of them, and half again, as long as that is not
            clearly slower: what else a node has to do gains by every core that passes leave to it.
    """
    best, run_in = usual(threads), partial(_run_in, run)
    if permission_is_harmless():
        rival = replace(best, products="bf16")
        best = rival if speedup(run_in(best), run_in(rival)) > CLEARLY else best
    while threads is None and best.threads > 1 and _time(run_in(best)) < _SHORT_S:
        fewer = replace(best, threads=best.threads // 2)
        if CLEARLY * speedup(run_in(best), run_in(fewer)) < 1:
            break
        best = fewer
    return best


def _run_in(run: Callable[[], object], setting: Setting) -> Callable[[], object]:
    def run_so() -> object:
        with setting.applied():
            return run()

    return run_so


def speedup(one: Callable[[], object], other: Callable[[], object], *, least: int = 1) -> float:
    """How many times faster the other runs than the one, by the best of alternating runs; the one has run before.

    Of runs that take long there are at least so many.
    """
    other()
    began, pairs = perf_counter(), [(_time(one), _time(other))]
    while len(pairs) < least or (len(pairs) < _PAIRS and perf_counter() - began < _PATIENCE_S):
        pairs.append((_time(one), _time(other)))
    return min(took for took, _ in pairs) / min(took for _, took in pairs)


def _time(run: Callable[[], object]) -> float:
    began = perf_counter()
    run()
    return perf_counter() - began


@cache
def permission_is_harmless() -> bool:
    """Whether float32 products stay float32 where bfloat16 is permitted; if not, it never is, which is told once."""
    draw = torch.Generator().manual_seed(0)
    a, b = torch.randn(96, 512, generator=draw), torch.randn(512, 256, generator=draw)
    with torch.inference_mode(), Setting("bf16", torch.get_num_threads()).applied():
        error = relative_error(a @ b, a.double() @ b.double())
    if error > _TOLERANCE:
        log.info(
            "float32 products keep all their digits: this CPU would round them (by %.0e) if bfloat16 were permitted",
            error,
        )
    return error <= _TOLERANCE


def relative_error(found: torch.Tensor, true: torch.Tensor) -> float:
    """Norm of the difference by norm of what is true; infinite where that is not finite or of another shape."""
    if found.shape != true.shape:
        return float("inf")
    error = float((found.double() - true.double()).norm() / true.double().norm().clamp_min(1e-30))
    return error if error == error else float("inf")  # noqa: PLR0124  (not a number)
