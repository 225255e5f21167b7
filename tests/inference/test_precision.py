"""Number formats: what devices refuse, and how far narrow weights are from wide ones."""

from __future__ import annotations

import logging
from typing import cast

import numpy as np
import pytest
import torch
from torch import nn

from streamnode.errors import ConfigError
from streamnode.inference import precision
from streamnode.inference.cpu import relative_error
from streamnode.inference.precision import (
    Precision,
    copy_sharing,
    lower,
    plain_copy,
    precision_error,
    refuse_unless_possible,
)
from streamnode.inference.stored import StoredWeight
from streamnode.models import catalog
from streamnode.models.family import Network
from streamnode.montage import make_montage

CPU, GPU = torch.device("cpu"), torch.device("cuda")
ON_CPU: tuple[Precision, ...] = ("float32", "bfloat16", "int8")


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


@pytest.mark.parametrize("kind", ON_CPU)
def test_lowering_stores_the_large_matrices(luna: Network, kind: Precision) -> None:
    """Matrices of the layers are kept in another form, all else stays; a copy made before stays as it was."""
    lowered = copy_sharing(luna)
    lower(lowered, kind, CPU)
    module, narrow = cast("nn.Module", luna), dict(cast("nn.Module", lowered).named_parameters())
    whole = dict(module.named_parameters())
    changed = {name for name in whole if narrow[name] is not whole[name]}
    assert {name.split(".")[0] for name in changed} == {"blocks"}
    assert all(isinstance(narrow[name], StoredWeight) and whole[name].ndim == 2 for name in changed)
    assert not any(isinstance(tensor, StoredWeight) for tensor in whole.values())
    share = sum(whole[name].numel() for name in changed) / sum(tensor.numel() for tensor in whole.values())
    assert share > 0.9


def test_where_nothing_can_be_packed_float32_is_left_alone(monkeypatch: pytest.MonkeyPatch, luna: Network) -> None:
    """Another torch or CPU: every tensor stays what it is."""
    monkeypatch.setattr(precision, "can_pack", lambda _: False)
    lowered = copy_sharing(luna)
    lower(lowered, "float32", CPU)
    before, after = (dict(cast("nn.Module", network).named_parameters()) for network in (luna, lowered))
    assert all(after[name] is tensor for name, tensor in before.items())


@pytest.mark.parametrize("kind", ON_CPU)
def test_a_plain_copy_computes_the_same(luna: Network, kind: Precision) -> None:
    """Compilers get matrices that they can read, and make of them what the stored ones do; the original stays."""
    lowered = copy_sharing(luna)
    lower(lowered, kind, CPU)
    copied = plain_copy(lowered)
    assert not any(isinstance(tensor, StoredWeight) for tensor in cast("nn.Module", copied).parameters())
    assert any(isinstance(tensor, StoredWeight) for tensor in cast("nn.Module", lowered).parameters())
    outputs, x = frozenset(("embedding",)), 20 * draw(2, 3, 1280)
    with torch.inference_mode():
        binding = luna.bind(make_montage(("Fp1", "C3", "O2")), outputs=outputs)
        found, true = (network.encode(x, binding, outputs)["embedding"] for network in (copied, lowered))
    assert relative_error(found, true) < (1e-5 if kind == "float32" else 0.02)


@pytest.mark.parametrize(
    ("kind", "low", "high"), [("float32", 0.0, 1e-6), ("bfloat16", 1e-4, 0.01), ("int8", 1e-4, 0.03)]
)
def test_the_error_of_a_precision_is_measured(luna: Network, kind: Precision, low: float, high: float) -> None:
    """Against plain float32 on given epochs: nothing but the order of sums for itself, little for the others."""
    montage, epochs = make_montage(("Fp1", "C3", "O2")), 20 * draw(2, 3, 1280).numpy()
    (error,) = precision_error(luna, kind, montage, epochs.astype(np.float32)).values()
    assert low <= error <= high
