"""Number formats: what devices refuse, and how far narrow weights are from wide ones."""

from __future__ import annotations

import logging
from typing import Any, cast

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812  (its name everywhere)
from torch import nn

from streamnode.errors import ConfigError
from streamnode.inference import precision
from streamnode.inference.precision import (
    NarrowWeight,
    Precision,
    copy_sharing,
    lower,
    precision_error,
    refuse_unless_possible,
)
from streamnode.models import catalog
from streamnode.models.family import Network
from streamnode.montage import make_montage

CPU, GPU = torch.device("cpu"), torch.device("cuda")
NARROW: tuple[Precision, ...] = ("bfloat16", "int8")


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def luna() -> Network:
    return catalog.load("luna-base", "random:0").model


@pytest.mark.parametrize(
    ("wish", "device", "message"),
    [
        ("float16", CPU, "precision float16 is for GPUs: use bfloat16, int8 or float32 on the CPU"),
        ("tf32", CPU, "precision tf32 is for GPUs: use bfloat16, int8 or float32 on the CPU"),
        ("int8", GPU, "precision int8 is for CPUs: use bfloat16 or float16 on a GPU"),
        ("float8", CPU, "there is no precision 'float8': use one of float32, tf32, bfloat16, float16, int8"),
    ],
)
def test_a_precision_the_device_lacks_is_refused(wish: Precision, device: torch.device, message: str) -> None:
    """One sentence says what there is instead."""
    with pytest.raises(ConfigError) as error:
        refuse_unless_possible(wish, device)
    assert str(error.value) == message


def test_a_gpu_without_bfloat16_refuses_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Older GPUs imitate it slowly; float16 they have."""
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *, including_emulation: including_emulation)
    with pytest.raises(ConfigError, match="no bfloat16: use precision float16"):
        refuse_unless_possible("bfloat16", GPU)


def test_a_format_that_is_imitated_is_warned_of(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A CPU that is slower so says it, and goes on."""
    monkeypatch.setattr(precision, "speedup", lambda *_: 0.25)
    with caplog.at_level(logging.WARNING):
        refuse_unless_possible("bfloat16", CPU)
    assert "no faster than float32 on this CPU (0.2 times)" in caplog.text


def test_products_that_come_out_wrong_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Integer products that saturate are found out before the first epoch."""
    monkeypatch.setattr(torch, "_int_mm", lambda a, b: (a.int() @ b.int()).clamp(-1000, 1000))
    with pytest.raises(ConfigError, match="products in int8 come out wrong on this CPU: use precision float32"):
        refuse_unless_possible("int8", CPU)


@pytest.mark.parametrize(("kind", "limit"), [("bfloat16", 0.004), ("int8", 0.012)])
def test_linear_by_a_narrow_weight(kind: Precision, limit: float) -> None:
    """Products by all of a weight and by rows of it are float32 and as close as the format allows."""
    x, weight, bias = draw(3, 17, 200), draw(160, 200, seed=1), draw(160, seed=2)
    narrow = NarrowWeight.of(weight, kind)
    for rows in (slice(None), slice(40, 120), slice(None, 40)):
        found, true = F.linear(x, narrow[rows], bias[rows]), F.linear(x, weight[rows], bias[rows])
        assert found.dtype == torch.float32
        assert 0 < float((found - true).norm() / true.norm()) < limit
    torch.testing.assert_close(F.linear(x[0, 0], narrow), F.linear(x, narrow)[0, 0])


@pytest.mark.parametrize("kind", NARROW)
def test_everything_else_sees_a_wide_weight(kind: Precision) -> None:
    """Whatever is done with a narrow weight but products gives what the rounded float32 matrix would."""
    weight = draw(130, 140)
    narrow = NarrowWeight.of(weight, kind)
    wide = narrow.widened()
    assert wide.dtype == narrow.dtype == torch.float32
    assert narrow.shape == weight.shape
    torch.testing.assert_close(wide, weight, rtol=0.01, atol=0.02)
    for act in (lambda w: w.mT, lambda w: w.renorm(2, 0, 1.0), lambda w: w + 1, lambda w: torch.cat((w, w)), torch.sum):
        assert type(act(narrow)) is torch.Tensor
        torch.testing.assert_close(act(narrow), act(wide), rtol=0, atol=0)


def test_rows_of_int8_do_not_touch_each_other() -> None:
    """A huge row, one of zeros and one that is no number leave the others as they are alone."""
    x, narrow = draw(5, 256), NarrowWeight.of(draw(128, 256, seed=1), "int8")
    x[1], x[2], x[3] = 1e6 * x[1], 0.0, float("nan")
    y = F.linear(x, narrow)
    for row in (0, 1, 4):
        assert torch.equal(y[row], F.linear(x[row : row + 1], narrow)[0])
    assert torch.equal(y[2], torch.zeros(128))
    assert y[3].isnan().all()


@pytest.mark.parametrize("kind", NARROW)
def test_lowering_makes_the_large_matrices_narrow(luna: Network, kind: Precision) -> None:
    """Matrices of the layers become narrow, all else stays; a copy made before stays as it was."""
    lowered = copy_sharing(luna)
    lower(lowered, kind, CPU)
    module, narrow = cast("nn.Module", luna), dict(cast("nn.Module", lowered).named_parameters())
    whole = dict(module.named_parameters())
    changed = {name for name in whole if narrow[name] is not whole[name]}
    assert {name.split(".")[0] for name in changed} == {"blocks"}
    assert all(isinstance(narrow[name], NarrowWeight) and whole[name].ndim == 2 for name in changed)
    assert not any(isinstance(tensor, NarrowWeight) for tensor in whole.values())
    share = sum(whole[name].numel() for name in changed) / sum(tensor.numel() for tensor in whole.values())
    assert share > 0.9


def test_float32_is_left_alone(luna: Network) -> None:
    """Where float32 is asked for, every tensor stays what it is."""
    lowered = copy_sharing(luna)
    lower(lowered, "float32", CPU)
    before, after = (dict(cast("nn.Module", network).named_parameters()) for network in (luna, lowered))
    assert all(after[name] is tensor for name, tensor in before.items())


@pytest.mark.parametrize(
    ("kind", "low", "high"), [("float32", 0.0, 1e-9), ("bfloat16", 1e-4, 0.01), ("int8", 1e-4, 0.03)]
)
def test_the_error_of_a_precision_is_measured(luna: Network, kind: Precision, low: float, high: float) -> None:
    """Against float32 on given epochs: none for itself, little for the others."""
    montage, epochs = make_montage(("Fp1", "C3", "O2")), 20 * draw(2, 3, 1280).numpy()
    (error,) = precision_error(luna, kind, montage, epochs.astype(np.float32)).values()
    assert low <= error <= high


def test_a_narrow_weight_is_a_parameter() -> None:
    """A narrow weight is a parameter like any other to a module."""
    layer: Any = nn.Linear(128, 128)
    layer.weight = nn.Parameter(NarrowWeight.of(layer.weight.detach(), "int8"), requires_grad=False)
    assert [name for name, _ in layer.named_parameters()] == ["weight", "bias"]
    assert layer(draw(2, 128)).shape == (2, 128)
