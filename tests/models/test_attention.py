"""Promises of `streamnode.models.attention`."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F  # noqa: N812  (its name everywhere)
from torch import Tensor

from streamnode.models.attention import attend


def heads(*shape: int, seed: int) -> Tensor:
    """Float64 `(B, n, H, d)` as projections yield it, heads beside each other in memory, seen as `(B, H, n, d)`."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64).transpose(1, 2)


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-14), (torch.float32, 2e-6), (torch.bfloat16, 2e-2)]
)
@pytest.mark.parametrize("sizes", [(1, 8, 26, 64), (3, 2, 4, 32), (2, 8, 22, 16)])
def test_attention_is_that_of_the_textbook(sizes: tuple[int, ...], dtype: torch.dtype, tolerance: float) -> None:
    """Whichever way is taken, the result is softmax(q k / sqrt(d)) v to the rounding of its precision."""
    n_batch, n_heads, n, d = sizes
    queries = heads(n_batch, n, n_heads, d, seed=0).to(dtype)
    keys, values = (heads(n_batch, 22, n_heads, d, seed=seed).to(dtype) for seed in (1, 2))
    before = [part.clone() for part in (queries, keys, values)]
    found = attend(queries, keys, values)
    exact = (queries.double() @ keys.double().mT / d**0.5).softmax(-1) @ values.double()
    assert found.dtype == dtype
    torch.testing.assert_close(found.double(), exact, rtol=0, atol=tolerance)
    assert all(torch.equal(part, old) for part, old in zip((queries, keys, values), before, strict=True))


def test_queries_that_all_rows_share_need_not_be_copied() -> None:
    """Queries expanded over the batch read as their copies do."""
    queries, keys, values = (heads(n, 5, 2, 16, seed=n).float() for n in (1, 4, 4))
    shared = queries.expand(4, -1, -1, -1)
    torch.testing.assert_close(attend(shared, keys, values), F.scaled_dot_product_attention(shared, keys, values))
