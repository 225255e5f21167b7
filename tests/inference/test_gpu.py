"""Passes on a GPU: recorded as CUDA graphs, in every precision, and as they are where that fails."""

from __future__ import annotations

import gc
import threading
import weakref
from contextlib import nullcontext
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from streamnode.inference import graphs
from streamnode.inference.engine import BoundModel, Engine, load_model
from streamnode.inference.precision import Precision
from streamnode.models import catalog
from streamnode.models.catalog import LoadedModel
from streamnode.models.eegdino import EegDino, EegDinoConfig
from streamnode.models.family import Network
from streamnode.montage import make_montage
from streamnode.types import Float32Array, OutputName, WeightsInfo

CH_NAMES = ("Fp1", "Fp2", "C3", "C4", "O1", "O2")
needs_gpu = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]


def load(name: str, device: str, **options: Any) -> BoundModel:
    return load_model(name, weights="random:0", ch_names=CH_NAMES, outputs=("embedding",), device=device, **options)


def epochs_uv(model: BoundModel, n_epochs: int) -> Float32Array:
    n_times = round(model.SPEC.durations[0] * model.SPEC.sfreq)
    shape = n_epochs, len(CH_NAMES), n_times
    return (20 * np.random.default_rng(1).standard_normal(shape)).astype(np.float32)


def error(found: Float32Array, true: Float32Array) -> float:
    return float(np.linalg.norm(found - true) / np.linalg.norm(true))


class TestWithGpu:
    pytestmark = needs_gpu

    @pytest.mark.parametrize("name", ["luna-base", "eegpt-large", "eegdino-small", "zuna-1.1"])
    def test_graphs_equal_the_cpu(self, name: str) -> None:
        """Any number of epochs, with and without a recording of that size, is what the CPU says."""
        on_cpu, on_gpu = load(name, "cpu"), load(name, "cuda")
        for n_epochs in (1, 3, 5):
            x = epochs_uv(on_cpu, n_epochs)
            assert error(on_gpu.run(x)["embedding"], on_cpu.run(x)["embedding"]) < 1e-4

    @pytest.mark.parametrize(("precision", "limit"), [("tf32", 5e-3), ("bfloat16", 2e-2), ("float16", 5e-3)])
    def test_precisions(self, precision: Precision, limit: float) -> None:
        """Each is as close to float32 as its format allows, and not the same."""
        full = load("luna-base", "cuda")
        x = epochs_uv(full, 2)
        true = full.run(x)["embedding"]
        assert 0 < error(load("luna-base", "cuda", precision=precision).run(x)["embedding"], true) < limit

    def test_what_cannot_be_recorded_runs_as_it_is(
        self, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        """A failed recording is one sentence, and results are the same."""
        x = epochs_uv(recorded := load("luna-base", "cuda"), 2)

        def fail(*_: object) -> None:
            raise RuntimeError("operation not permitted when stream is capturing")

        monkeypatch.setattr(graphs, "Graph", fail)
        plain = load("luna-base", "cuda")
        assert "cannot be recorded as a CUDA graph" in caplog.text
        assert error(plain.run(x)["embedding"], recorded.run(x)["embedding"]) < 1e-5


# ---- Without a GPU ---------------------------------------------------------------------------------------------------

MONTAGE = make_montage(CH_NAMES)
A_SECOND = np.zeros((1, len(CH_NAMES), 200), np.float32)


@pytest.fixture
def engine() -> Engine:
    """As if on a GPU, with no pass made yet."""
    network = EegDino(EegDinoConfig(maps=(5, 5, 5), groups=5, depth=1, hidden=16))
    loaded = LoadedModel(
        cast("Network", network.eval().requires_grad_(requires_grad=False)), "tiny", WeightsInfo("none")
    )
    engine = Engine(loaded, device="cpu", max_batch=8)
    engine.device = torch.device("cuda")
    return engine


def bind(engine: Engine) -> BoundModel:
    return engine.bind(MONTAGE, ("embedding",), duration_s=0)


class Memory:
    """Of a device, for two layers of so many epochs; what a layer takes is given back when nobody knows of it."""

    def __init__(self, epochs: int) -> None:
        self.free, self.tried = 2 * epochs, list[int]()

    def record(self, launch: graphs.Encode, _shape: object, max_batch: int, _device: object) -> graphs.Encode:
        self.tried.append(max_batch)
        layers = self.take(max_batch)
        layers = layers, self.take(max_batch)
        return launch

    def take(self, epochs: int) -> Any:
        if epochs > self.free:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        self.free -= epochs
        weakref.finalize(taken := np.zeros(1), self.give, epochs)
        return taken

    def give(self, epochs: int) -> None:
        self.free += epochs


def test_a_recording_that_failed_leaves_its_memory_to_the_next(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Where there is memory for half as many epochs, so many are recorded at the second attempt."""
    memory = Memory(epochs=4)
    monkeypatch.setattr(graphs, "record", memory.record)
    assert bind(engine)._speed_up(A_SECOND) is not None
    assert memory.tried == [8, 4]
    assert engine.max_batch == 4
    assert caplog.messages == ["8 epochs do not fit into the memory of cuda: taking 4 at once"]


def test_what_has_no_memory_for_a_recording_runs_without(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Where not even one epoch can be recorded, a sentence says so, and the model is there all the same."""
    memory = Memory(epochs=0)
    monkeypatch.setattr(graphs, "record", memory.record)
    assert bind(engine)._speed_up(A_SECOND) is None
    assert memory.tried == [8, 4, 2, 1]
    assert caplog.messages[-1] == "tiny does not fit into the memory of cuda as a CUDA graph and is launched bit by bit"


def test_what_is_compiled_but_not_recorded_runs_compiled(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """What took a minute to compile is of use without a recording, too."""
    bound, encode = bind(engine), graphs.one_at_a_time(lambda x: {"embedding": x})
    monkeypatch.setattr(engine, "compiles", True)
    monkeypatch.setattr(engine, "compile", lambda *_: (encode, bound.binding))
    monkeypatch.setattr(graphs, "record", lambda *_: None)
    fast = bound._speed_up(A_SECOND)
    assert fast is not None
    assert fast.encode is encode


def test_a_bound_model_goes_with_its_last_stream(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """At once, without a search for garbage, which a node never makes: its recordings hold memory of the GPU."""
    monkeypatch.setattr(graphs, "record", lambda launch, *_: launch)
    bound = bind(engine)
    bound._fast = bound._speed_up(A_SECOND)
    kept = weakref.ref(bound)
    gc.disable()
    try:
        del bound
        assert kept() is None
    finally:
        gc.enable()


def test_threads_that_share_recordings_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each has its own result, though all recordings of a model use the same memory."""

    class Recording:
        """Adds up what lies in the memory of all when its pass ends, in whose midst another thread may come."""

        memory, other = np.zeros(1), threading.Event()

        def __init__(self, _encode: object, shape: tuple[int, ...], _pool: object) -> None:
            self.size = shape[0]

        def __call__(self, x: torch.Tensor) -> dict[OutputName, torch.Tensor]:
            is_first = not self.memory.any()
            self.memory[0] = x.sum()
            if is_first:
                another.start()
                self.other.wait(0.1)
            else:
                self.other.set()
            return {"embedding": torch.tensor(self.memory[0])}

    monkeypatch.setattr(graphs, "Graph", Recording)
    monkeypatch.setattr("torch.cuda.device", nullcontext)
    monkeypatch.setattr("torch.cuda.graph_pool_handle", lambda: None)
    replay = graphs.record(lambda _: {}, (1,), 2, torch.device("cuda"))
    assert replay is not None
    results = list[float]()
    another = threading.Thread(target=lambda: results.append(float(replay(torch.ones(2, 1))["embedding"])))
    assert float(replay(torch.ones(1, 1))["embedding"]) == 1
    another.join()
    assert results == [2]


class Spy(TorchDispatchMode):
    """Notes what torch is asked to do, and on which devices."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.operators, self.devices = set[str](), set[str]()

    def __torch_dispatch__(self, func: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.operators.add(func.name().removeprefix("aten::").partition(".")[0])
        tensors = [leaf for leaf in tree_leaves((args, kwargs, result)) if isinstance(leaf, torch.Tensor)]
        self.devices.update(tensor.device.type for tensor in tensors)
        return result


@pytest.mark.parametrize(
    ("name", "outputs", "options"),
    [
        ("luna-base", ("embedding", "attention"), {}),
        ("luna-base", ("reconstruction",), {"vocabulary": "strict"}),
        ("eegdino-small", ("embedding", "tokens"), {}),
        ("eegpt-large", ("embedding", "tokens"), {}),
        ("zuna-v1", ("embedding",), {"std_uv": 20.0}),
        ("zuna-1.1", ("embedding", "tokens"), {"add": ("Cz",)}),
    ],
)
def test_a_pass_stays_on_its_device(
    monkeypatch: pytest.MonkeyPatch, name: str, outputs: tuple[OutputName, ...], options: dict[str, Any]
) -> None:
    """No tensor comes from elsewhere, or is made of numbers there, and no number is waited for, as a recording asks.

    On a device without memory, where every machine can see it.
    """
    entry = catalog.find(name)
    with torch.device("meta"):
        network: Any = entry.family.network(entry.family.variants[entry.variant])
    loaded = LoadedModel(network.eval().requires_grad_(requires_grad=False), name, WeightsInfo("none"))
    monkeypatch.setattr("streamnode.inference.engine.find_device", torch.device)
    engine = Engine(loaded, device="meta", max_batch=64)
    bound = engine.bind(make_montage(CH_NAMES), outputs, duration_s=0, **options)
    x = torch.empty(3, len(CH_NAMES), round(engine.spec.durations[0] * engine.spec.sfreq), device="meta")
    with Spy() as spy:
        results = engine.run(x, bound.binding, outputs)
    assert results.keys() == set(outputs)
    assert spy.devices == {"meta"}
    # Rows by number, whose numbers torch brings there out of sight of a spy; and what depends on values.
    assert spy.operators.isdisjoint({"index", "index_put", "index_put_", "nonzero", "_local_scalar_dense"})


@pytest.mark.parametrize(
    ("most", "sizes"),
    [(1, [1]), (2, [1, 2]), (5, [1, 2, 4, 5]), (16, [1, 2, 4, 8, 16]), (48, [1, 2, 4, 8, 16, 32, 48])],
)
def test_batch_sizes_double(most: int, sizes: list[int]) -> None:
    """1, 2, 4 and so on, and the most that was asked for."""
    assert graphs.batch_sizes(most) == sizes


@pytest.mark.parametrize(("n_epochs", "size"), [(1, 1), (2, 2), (3, 4), (5, 8), (8, 8)])
def test_the_smallest_recording_that_fits_is_replayed(n_epochs: int, size: int) -> None:
    """No more rows are computed than need be."""

    class Recording:
        def __init__(self, size: int) -> None:
            self.size = size

    recordings: Any = [Recording(size) for size in (8, 4, 2, 1)]
    assert graphs.fitting(recordings, n_epochs).size == size
