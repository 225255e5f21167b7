"""Stored weights: products as close as their form allows, and a plain matrix to everything else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812  (its name everywhere)
from torch import Tensor, nn

from streamnode.inference import stored
from streamnode.inference.cpu import relative_error
from streamnode.inference.stored import Kept, StoredWeight, Then, can_pack

LIMITS: dict[Kept, float] = {"float32": 1e-6, "bfloat16": 0.004, "int8": 0.016}


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(params=[True, False], ids=["packed", "plain"])
def packs(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """With packing, as far as this machine has it, and without."""
    if not request.param:
        monkeypatch.setattr(stored, "can_pack", lambda _: False)
    return bool(request.param)


@pytest.mark.usefixtures("packs")
@pytest.mark.parametrize("kept", LIMITS)
@pytest.mark.parametrize("shape", [(3, 17), (1,), ()], ids=str)
def test_products(kept: Kept, shape: tuple[int, ...]) -> None:
    """Products with all of a weight and with rows of it are float32 and as close as the form allows."""
    x, weight, bias = draw(*shape, 200), draw(160, 200, seed=1), draw(160, seed=2)
    found_in = StoredWeight.of(weight, kept)
    for rows in (slice(None), slice(40, 120), slice(None, 40)):
        for with_bias in (bias[rows], None):
            found, true = F.linear(x, found_in[rows], with_bias), F.linear(x, weight[rows], with_bias)
            assert found.dtype == torch.float32
            assert relative_error(found, true) < LIMITS[kept]


@pytest.mark.usefixtures("packs")
@pytest.mark.parametrize(("then", "activation"), [("gelu", F.gelu), ("swish", F.silu)])
@pytest.mark.parametrize("kept", LIMITS)
def test_activation_of_a_product(kept: Kept, then: Then, activation: Callable[[Tensor], Tensor]) -> None:
    """Exact, and its steps in between no one sees; a following product takes it in whatever type it comes."""
    x, weight, bias, after = draw(3, 17, 200), draw(160, 200, seed=1), draw(160, seed=2), draw(130, 160, seed=3)
    found = StoredWeight.of(weight, kept).linear_then(x, bias, then)
    true = activation(F.linear(x, weight, bias))
    assert relative_error(found.float(), true) < 1.5 * LIMITS[kept]
    assert relative_error(F.linear(found, StoredWeight.of(after, kept)), F.linear(true, after)) < 2 * LIMITS[kept]


@pytest.mark.parametrize("kept", LIMITS)
def test_an_epoch_of_a_batch_is_as_it_is_alone(kept: Kept) -> None:
    """The first rows of a product are close to the product of the first rows, whatever the others are."""
    x, weight = draw(64, 256), StoredWeight.of(draw(128, 256, seed=1), kept)
    whole = F.linear(x, weight)
    torch.testing.assert_close(F.linear(x[:3], weight), whole[:3], rtol=1e-5, atol=1e-4)


@pytest.mark.usefixtures("packs")
@pytest.mark.parametrize("kept", LIMITS)
def test_everything_else_sees_a_plain_matrix(kept: Kept) -> None:
    """Whatever is done with a stored weight but products gives what the rounded float32 matrix would."""
    weight = draw(130, 140)
    kept_so = StoredWeight.of(weight, kept)
    wide = kept_so.plain().float()
    assert kept_so.dtype == torch.float32
    assert kept_so.shape == weight.shape
    torch.testing.assert_close(wide, weight, rtol=0.01, atol=0.02)
    for act in (lambda w: w.mT, lambda w: w.renorm(2, 0, 1.0), lambda w: w + 1, lambda w: torch.cat((w, w)), torch.sum):
        assert type(act(kept_so)) is torch.Tensor
        torch.testing.assert_close(act(kept_so), act(wide), rtol=0, atol=0)


@pytest.mark.usefixtures("packs")
def test_float32_loses_no_digit() -> None:
    """A packed matrix holds the same numbers."""
    weight = draw(130, 140)
    assert torch.equal(StoredWeight.of(weight, "float32").plain(), weight)


def test_rows_are_stored_once() -> None:
    """The same rows are the same weight the next time."""
    weight = StoredWeight.of(draw(300, 140), "float32")
    assert weight[:150] is weight[:150]
    assert weight[:150] is not weight[150:]


@pytest.mark.parametrize("step", [2, 3])
def test_every_other_row_is_not_all_rows(step: int) -> None:
    """A slice with a step gives its own rows, whatever rows were asked for before."""
    weight = draw(300, 140)
    kept_so = StoredWeight.of(weight, "float32")
    assert torch.equal(1 * kept_so[:], weight)
    assert torch.equal(1 * kept_so[::step], weight[::step])


@pytest.mark.usefixtures("packs")
@pytest.mark.parametrize("kept", ["float32", "bfloat16"])
@pytest.mark.parametrize("n_rows", [5, 64, 300])
@pytest.mark.parametrize("width", [200, 256])
def test_a_row_that_is_no_number_leaves_the_others_alone(kept: Kept, n_rows: int, width: int) -> None:
    """Whatever the number of rows and their width, and whatever lies behind the last one in memory."""
    weight, x = StoredWeight.of(draw(160, width, seed=1), kept), draw(n_rows + 1, width)
    true, spoilt = F.linear(x, weight)[:-1], n_rows // 2
    x[spoilt], x[-1] = torch.nan, torch.nan
    for given in (x[:-1], x.to(torch.bfloat16)[:-1]):
        found = F.linear(given, weight)
        assert found[spoilt].isnan().all()
        others = torch.arange(n_rows) != spoilt
        torch.testing.assert_close(found[others], true[others], rtol=0.02, atol=0.3)


def test_rows_of_int8_do_not_touch_each_other() -> None:
    """A huge row, one of zeros and one that is no number leave the others as they are alone."""
    x, narrow = draw(5, 256), StoredWeight.of(draw(128, 256, seed=1), "int8")
    x[1], x[2], x[3] = 1e6 * x[1], 0.0, float("nan")
    y = F.linear(x, narrow)
    for row in (0, 1, 4):
        assert torch.equal(y[row], F.linear(x[row : row + 1], narrow)[0])
    assert torch.equal(y[2], torch.zeros(128))
    assert y[3].isnan().all()


@pytest.mark.parametrize("kept", LIMITS)
def test_a_stored_weight_is_a_parameter(kept: Kept) -> None:
    """It is a parameter like any other to a module, and takes the memory of its form only."""
    layer: Any = nn.Linear(128, 128)
    layer.weight = nn.Parameter(StoredWeight.of(layer.weight.detach(), kept), requires_grad=False)
    assert [name for name, _ in layer.named_parameters()] == ["weight", "bias"]
    assert layer(draw(2, 128)).shape == (2, 128)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_cannot_be_packed_well_is_not_packed(monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype) -> None:
    """Packing that is not to be had, that is slower, or that comes out wrong, is gone without."""
    find_out = can_pack.__wrapped__
    with monkeypatch.context() as without:
        without.delattr(stored._Packed, "of")
        assert not find_out(dtype)
    with monkeypatch.context() as slow:
        slow.setattr(stored, "speedup", lambda *_: 0.8)
        assert not find_out(dtype)
    with monkeypatch.context() as wrong:
        wrong.setattr(stored, "speedup", lambda *_: 2.0)
        wrong.setattr(stored, "relative_error", lambda *_: 0.5)
        assert not find_out(dtype)
