"""Linear layers whose weight may be narrower than their input."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812  (its name everywhere)
from torch import nn

from streamnode.models.layers import Linear, Mlp, gelu_linear, silu_linear


def draw(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def test_a_plain_layer_is_that_of_torch() -> None:
    """With float32 weights, to the bit; and in float64 where all is."""
    layer, x = Linear(32, 48), draw(2, 5, 32)
    assert torch.equal(layer(x), F.linear(x, layer.weight, layer.bias))
    assert torch.equal(gelu_linear(x, layer), F.gelu(layer(x)))
    assert torch.equal(silu_linear(x, layer), F.silu(layer(x)))
    assert layer.double()(x.double()).dtype == torch.float64


@torch.no_grad()
def test_a_bfloat16_weight_multiplies_as_such() -> None:
    """What comes out is float32, rounded as products of bfloat16 are; the bias may be either."""
    layer, x = Linear(256, 128), draw(7, 256)
    true = F.linear(x, layer.weight, layer.bias)
    layer.weight = nn.Parameter(layer.weight.detach().bfloat16())
    found = layer(x)
    assert found.dtype == torch.float32
    assert 1e-4 < float((found - true).norm() / true.norm()) < 0.01


@torch.no_grad()
def test_a_row_that_is_no_number_leaves_the_others_alone() -> None:
    """With a bfloat16 weight too, and rows of any width."""
    layer, x, others = Linear(200, 128), draw(64, 200), torch.arange(64) != 32
    layer.weight = nn.Parameter(layer.weight.detach().bfloat16())
    true = layer(x)
    x[32] = torch.nan
    found = layer(x)
    assert found[32].isnan().all()
    assert torch.equal(found[others], true[others])


def test_an_mlp_is_two_layers_around_a_gelu() -> None:
    """With and without a norm on what is between."""
    x = draw(3, 16)
    for mlp in (Mlp(16, 64, 8), Mlp(16, 64, 8, norm=True)):
        torch.testing.assert_close(mlp(x), mlp.fc2(mlp.norm(F.gelu(mlp.fc1(x)))), rtol=0, atol=0)
        assert any("norm" in name for name, _ in mlp.named_parameters()) == isinstance(mlp.norm, nn.LayerNorm)
