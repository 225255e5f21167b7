"""Promises of `streamnode.inference.package`, with a network that takes its time."""

from __future__ import annotations

import ctypes
import logging
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from time import perf_counter

import pytest
import torch
from torch import Tensor, nn

from streamnode.inference import package

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]  # for one to be compiled

CPU = torch.device("cpu")


class Slow(nn.Module):
    """Large products, one after the other."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(512, 512, generator=torch.Generator().manual_seed(0)) / 512**0.5)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        tokens = x
        for _ in range(6):
            tokens = torch.tanh(tokens @ self.weight)
        return {"tokens": tokens, "embedding": tokens.mean(dim=1)}


@pytest.fixture(scope="module")
def network() -> Slow:
    return Slow().eval().requires_grad_(requires_grad=False)


@pytest.fixture(scope="module")
def kept(network: Slow, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from torch._inductor import aoti_compile_and_package  # noqa: PLC0415  (seconds)

    folder, sizes = tmp_path_factory.mktemp("package"), {"x": {0: torch.export.Dim("b", min=2, max=4096)}}
    with warnings.catch_warnings(action="ignore"), torch.no_grad():
        program = torch.export.export(network, (torch.zeros(2, 8, 512),), dynamic_shapes=sizes, strict=True)
        return Path(aoti_compile_and_package(program, package_path=str(folder / "slow.pt2")))


@pytest.mark.parametrize("n_epochs", [1, 2, 5])
def test_a_package_yields_what_the_network_does(network: Slow, kept: Path, n_epochs: int) -> None:
    """By name, for any number of epochs, pass after pass."""
    encode = package.load(kept, CPU)
    for seed in range(2):
        x = torch.randn(n_epochs, 8, 512, generator=torch.Generator().manual_seed(seed))
        found, true = encode(x), network(x)
        assert list(found) == list(true)
        for name, array in true.items():
            torch.testing.assert_close(found[name], array, rtol=1e-5, atol=1e-5)
    assert sorted(path.name for path in kept.parent.iterdir()) == ["slow.pt2"]


def test_others_go_on_while_a_pass_runs(kept: Path) -> None:
    """Another thread has its turns in the midst of a pass; one that held the lock would leave it none."""
    encode, x, over = package.load(kept, CPU), torch.zeros(2000, 8, 512), threading.Event()
    turns = list[float]()

    def take_turns() -> None:
        while not over.wait(0.001):
            turns.append(perf_counter())

    encode(x)
    other = threading.Thread(target=take_turns)
    other.start()
    began = perf_counter()
    encode(x)
    took_s = perf_counter() - began
    over.set()
    other.join()
    assert any(began + 0.1 * took_s < t < began + 0.9 * took_s for t in turns)


def test_what_a_library_refuses_is_told_in_its_words(kept: Path) -> None:
    """A call that fails raises what torch says of it."""
    library = package._Library(kept)
    with pytest.raises(RuntimeError, match=r"\w"):
        library._call("GetOutputName", library._model, ctypes.c_size_t(99), ctypes.byref(ctypes.c_char_p()))


def refuse(_: Path) -> None:
    raise ValueError("it is for a GPU")


def test_other_packages_are_left_to_torch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """What cannot be called directly is loaded as torch does, and the log says what that means."""
    monkeypatch.setattr(package, "_Library", refuse)
    monkeypatch.setattr("torch._inductor.aoti_load_package", lambda path: f"torch's {path}")
    with caplog.at_level(logging.INFO):
        assert package.load(tmp_path / "net.pt2", CPU) == f"torch's {tmp_path / 'net.pt2'}"  # type: ignore[comparison-overlap]
    assert caplog.messages == ["passes of net hold up all else in the process: it is for a GPU"]


def test_a_package_for_a_gpu_is_loaded_as_recordings_need_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the GPU that was asked for, and without what keeps threads apart, as no recording may wait for events."""

    def load(path: str, **wishes: object) -> Callable[[Tensor], dict[str, object]]:
        return lambda _: {"path": path, **wishes}

    monkeypatch.setattr(package, "_Library", refuse)
    monkeypatch.setattr("torch._inductor.aoti_load_package", load)
    encode = package.load(tmp_path / "net.pt2", torch.device("cuda:1"))
    asked = {"path": str(tmp_path / "net.pt2"), "run_single_threaded": True, "device_index": 1}
    assert encode(torch.zeros(1)) == asked
