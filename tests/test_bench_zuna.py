"""What the benchmark of ZUNA takes for granted when it makes figures of times: work of a pass, and an exact flow."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="module")
def bench() -> Iterator[ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(Path(__file__).parents[1] / "tools"))
        yield importlib.import_module("bench_zuna")


@pytest.mark.parametrize(
    ("n_chans", "encode", "step"), [(4, 110.2, 62.3), (12, 350.2, 196.9), (22, 686.8, 384.0), (64, 2543.9, 1399.1)]
)
def test_the_work_of_a_pass_is_that_of_the_specification(
    bench: ModuleType, n_chans: int, encode: float, step: float
) -> None:
    """GFLOP of an encode and of a step, with all that is saved, as in the table of its section 10.6."""
    assert bench.gflop_of(40 * n_chans) == pytest.approx((encode, step), rel=1e-3)


@pytest.mark.parametrize(("sampler", "order"), [("euler", 1), ("adams", 2)])
def test_a_sampler_has_its_order_on_the_exact_flow(bench: ModuleType, sampler: str, order: int) -> None:
    """Twice the steps halve the error of the first order, and quarter that of the second."""
    fewer, more = (bench._error_on_gaussian(steps, sampler) for steps in (50, 100))
    assert fewer / more == pytest.approx(2**order, rel=0.1)


def test_recommended_is_the_cheapest_that_is_exact_enough(bench: ModuleType) -> None:
    """The fewest steps that meet a use's error on both flows; where none do, the advice says so."""
    rows = [
        bench.SamplerFigures(4, 0.1, 0.1, 0.04, 0.04, 0.04, 0.06),
        bench.SamplerFigures(8, 0.1, 0.1, 0.04, 0.01, 0.03, 0.01),
    ]
    assert bench.recommended(rows) == {
        "live": "euler, 4 steps",
        "offline": "adams, 8 steps",
        "best": "more than 8 steps",
    }
