"""Promises of `streamnode.inference.reuse`, with small EEGPTs of made-up weights."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from streamnode.inference.compiled import Encode, Recipe
from streamnode.inference.engine import BoundModel, Engine
from streamnode.inference.reuse import PatchCache, encode, stride_of
from streamnode.models import eegpt, luna
from streamnode.models.catalog import LoadedModel
from streamnode.models.eegpt import Eegpt, EegptConfig
from streamnode.models.weights import load_strict
from streamnode.montage import make_montage
from streamnode.types import Epoch, Float32Array, OutputName, StreamInfo, WeightsInfo

MONTAGE = make_montage(["Fp1", "Fp2", "C3", "Cz", "C4", "O1", "O2"])
INFO = StreamInfo("headset", "", "EEG", 256.0, MONTAGE)
OUTPUTS: tuple[OutputName, ...] = ("embedding", "tokens", "logits")
N_TIMES = 512
STRIDES = (32, 64)


@lru_cache
def network(stride: int, dtype: torch.dtype = torch.float32) -> Eegpt:
    """With a probe that reads epochs of 2 s."""
    n_patches = 1 + (N_TIMES - 64) // stride
    sizes = EegptConfig(64, 4, depth=3, n_heads=4, patch_stride=stride, n_classes=3, probe_patches=n_patches)
    model = Eegpt(sizes)
    load_strict(model, eegpt.random_state(sizes, 0), path="a small one")
    return model.eval().requires_grad_(requires_grad=False).to(dtype)


def engine(stride: int, **wishes: Any) -> Engine:
    return Engine(LoadedModel(network(stride), "eegpt-small", WeightsInfo("random:0")), device="cpu", **wishes)


@lru_cache
def recording(seed: int) -> Float32Array:
    return (20 * np.random.default_rng(seed).standard_normal((MONTAGE.n_chans, 4096))).astype(np.float32)


def epoch(start: int, *, seed: int = 0, run: int = 0) -> Epoch:
    data = np.ascontiguousarray(recording(seed)[:, start : start + N_TIMES])
    return Epoch(INFO, data, start, start, 0.0, 0.0, 0.0, 0.0, run)


class Counted:
    """A network in double precision that counts the patches it computes, and remembers the largest pass."""

    def __init__(self, stride: int) -> None:
        self.of = network(stride, torch.float64)
        self.config, self.read_out = self.of.config, self.of.read_out
        self.prepare, self.forward = self.of.prepare, self.of.forward
        self.n_patches = self.largest = 0

    def encode_patches(self, patches_uv: Tensor, binding: Any) -> Tensor:
        self.n_patches += len(patches_uv)
        self.largest = max(self.largest, len(patches_uv))
        return self.of.encode_patches(patches_uv, binding)


@torch.inference_mode()
def worst(counted: Counted, batches: Sequence[Sequence[tuple[Epoch, PatchCache]]]) -> float:
    """The largest difference to whole epochs, over all outputs."""
    binding, differences = counted.of.bind(MONTAGE, OUTPUTS), [0.0]
    for batch in batches:
        epochs, caches = zip(*batch, strict=True)
        found = encode(counted, binding, OUTPUTS, epochs, caches, to_device=lambda x: x.double())
        x = torch.from_numpy(np.stack([epoch.data for epoch in epochs])).double()
        whole = counted.of.encode(x, binding, OUTPUTS)
        differences += [float((found[name] - whole[name]).abs().max()) for name in OUTPUTS]
    return max(differences)


@pytest.mark.parametrize("stride", STRIDES)
@pytest.mark.parametrize("n_new", [1, 3, 5])
def test_only_new_patches_are_computed_and_results_are_those_of_whole_epochs(stride: int, n_new: int) -> None:
    """Embedding, tokens and logits to 1e-12 in float64; after the first epoch a hop costs its own patches."""
    cache, counted = PatchCache(stride), Counted(stride)
    batches = [[(epoch(64 + hop * n_new * stride), cache)] for hop in range(6)]
    assert worst(counted, batches) <= 1e-12
    n_patches = counted.config.probe_patches
    assert counted.n_patches == n_patches + 5 * min(n_new, n_patches)


@pytest.mark.parametrize("stride", STRIDES)
def test_single_precision_is_as_exact_as_it_can_be(stride: int) -> None:
    """In float32 a bound model differs from whole epochs by the order of sums: 5e-6, and 1e-6 of the norm of tokens."""
    bound, cache = engine(stride).bind(MONTAGE, OUTPUTS, duration_s=0), PatchCache(stride)
    for hop in range(8):
        one = epoch(hop * stride)
        found, whole = bound.run_overlapping([one], [cache]), bound.run(one.data[None])
        for name in OUTPUTS:
            assert found[name].dtype == np.float32
            np.testing.assert_allclose(found[name], whole[name], rtol=0, atol=5e-6)
        for name in ("embedding", "tokens"):  # in logits, sums of both signs all but cancel
            assert np.linalg.norm(found[name] - whole[name]) <= 1e-6 * np.linalg.norm(whole[name])


def test_streams_pass_together_and_keep_apart() -> None:
    """Streams of one batch that share much, little or nothing with their past: each is as if it were alone."""
    caches, counted = [PatchCache(64) for _ in range(3)], Counted(64)

    def batch(*starts: int) -> list[tuple[Epoch, PatchCache]]:
        return [(epoch(start, seed=i), caches[i]) for i, start in enumerate(starts)]

    assert worst(counted, [batch(0, 128, 256), batch(64, 384, 2048), batch(128, 448, 2112)]) <= 1e-12
    assert counted.n_patches == 3 * 8 + (1 + 4 + 8) + 3
    assert len({cache.tokens.untyped_storage().data_ptr() for cache in caches if cache.tokens is not None}) == 3
    for cache in caches:
        assert cache.tokens is not None
        assert cache.tokens.untyped_storage().nbytes() == 8 * 4 * 64 * 8  # its own patches and no one else's


@pytest.mark.parametrize(
    "other",
    [epoch(64, run=1), epoch(0), epoch(100), epoch(2048)],
    ids=["another run", "the same samples", "between the patches", "beyond"],
)
def test_what_cannot_be_shared_is_computed_anew(other: Epoch) -> None:
    """Nothing is carried over a gap, off the grid, or to an epoch that does not come after."""
    cache, counted = PatchCache(64), Counted(64)
    assert worst(counted, [[(epoch(0), cache)], [(other, cache)]]) <= 1e-12
    assert counted.n_patches == 16


def test_another_run_shares_nothing_though_its_samples_are_numbered_alike() -> None:
    """After a gap the same indices mean other samples."""
    cache, counted = PatchCache(64), Counted(64)
    assert worst(counted, [[(epoch(0), cache)], [(epoch(64, seed=1, run=1), cache)]]) <= 1e-12


def test_many_that_begin_together_are_taken_in_parts() -> None:
    """However many streams begin at once, a pass has no more than 256 patches."""
    counted = Counted(32)
    assert worst(counted, [[(epoch(32 * i), PatchCache(32)) for i in range(40)]]) <= 1e-12
    assert (counted.n_patches, counted.largest) == (40 * 15, 256)


def test_when_memory_is_short_fewer_streams_pass_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half as many from then on; no epoch is lost, and what is kept for the next is as if nothing had happened."""
    small, tried = engine(64), list[int]()
    bound, caches, run = small.bind(MONTAGE, OUTPUTS, duration_s=0), [PatchCache(64) for _ in range(6)], encode

    def failing(*args: Any, **wishes: Any) -> Any:
        n_epochs = len(args[3])
        tried.append(n_epochs)
        if n_epochs > 2:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return run(*args, **wishes)

    monkeypatch.setattr(small, "max_batch", 4)
    monkeypatch.setattr("streamnode.inference.reuse.encode", failing)
    for hop in range(2):
        epochs = [epoch(64 * hop, seed=seed) for seed in range(6)]
        found = bound.run_overlapping(epochs, caches)["embedding"]
        whole = bound.run(np.stack([one.data for one in epochs]))["embedding"]
        np.testing.assert_allclose(found, whole, rtol=0, atol=5e-6)
    assert tried == [4, 2, 2, 2, 2, 2, 2]


def as_whole(bound: BoundModel, plain: BoundModel) -> None:
    """Of whole epochs and of two that overlap, the one says what the other does."""
    cache = PatchCache(64)
    for start in (0, 64):
        one = epoch(start)
        whole = plain.run(one.data[None])
        for found in (bound.run(one.data[None]), bound.run_overlapping([one], [cache])):
            for name in OUTPUTS:
                np.testing.assert_allclose(found[name], whole[name], rtol=0, atol=5e-6)


def test_what_is_compiled_of_patches_serves_every_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole epochs and overlapping ones take the compiled way, number after number in memory as code expects them."""
    numbers = list[int]()

    def prepare(encoding: nn.Module, _: Recipe, __: Tensor, **_limits: float) -> Encode:
        def encode(x: Tensor) -> dict[OutputName, Tensor]:
            assert x.is_contiguous()
            numbers.append(len(x))
            return cast("dict[OutputName, Tensor]", encoding(x))

        return encode

    monkeypatch.setattr("streamnode.inference.compiled.prepare", prepare)
    monkeypatch.setattr("streamnode.inference.cpu.speedup", lambda *_, **_least: 2.0)
    plain = engine(64).bind(MONTAGE, OUTPUTS, duration_s=0)
    bound = engine(64, compile=True).bind(MONTAGE, OUTPUTS, duration_s=2.0)
    numbers.clear()
    as_whole(bound, plain)
    assert numbers == [8, 8, 8, 1]


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_patches_can_be_compiled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One package serves any number of patches."""
    monkeypatch.setenv("STREAMNODE_CACHE", str(tmp_path))
    monkeypatch.setattr("streamnode.inference.cpu.speedup", lambda *_, **_least: 2.0)
    plain = engine(64).bind(MONTAGE, OUTPUTS, duration_s=0)
    as_whole(engine(64, compile=True).bind(MONTAGE, OUTPUTS, duration_s=2.0), plain)
    assert len(list((tmp_path / "compiled").glob("*.pt2"))) == 1


def test_only_networks_that_look_at_single_patches_have_a_stride() -> None:
    """EEGPT says its own; LUNA, whose patches see each other, has none."""
    with torch.device("meta"):
        other = luna.LUNA(luna.VARIANTS["base"])
    assert [stride_of(network(stride)) for stride in STRIDES] == [32, 64]
    assert stride_of(other) is None
