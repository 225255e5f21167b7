"""Who takes part in a comparison: the same network, on the same weights, by every runtime that is installed.

    eager          the network in plain torch, float32, as torch multiplies by default
    ours           what a node runs: the engine with its defaults
    compile        ours, compiled ahead of time
    bfloat16, int8, float16, tf32
                   ours in that precision; the last two are for GPUs
    compile-bf16   ours, compiled in bfloat16
    openvino       OpenVINO on the exported network, told to compute in float32
    openvino-bf16  the same in bfloat16, which is what OpenVINO chooses by itself on CPUs that have it
    onnx           onnxruntime on the exported network

All take microvolts in a numpy array and give numpy arrays back.
"""

from __future__ import annotations

import importlib.util
import logging
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from functools import cached_property
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from streamnode.bench.plain import without_complex
from streamnode.errors import ConfigError
from streamnode.inference.cpu import usual
from streamnode.inference.engine import find_device, load_model
from streamnode.inference.precision import Precision
from streamnode.models import catalog
from streamnode.models.fit import fit
from streamnode.montage import make_montage
from streamnode.sources.synthetic import CH_NAMES_64
from streamnode.types import Float32Array, Float64Array, Montage, OutputName, StreamInfo

if TYPE_CHECKING:
    from streamnode.models.family import Network

Arrays = dict[OutputName, Float32Array]
Run = Callable[[Float32Array], Arrays]

ON_CPU = ("eager", "compile", "bfloat16", "compile-bf16", "int8", "openvino", "openvino-bf16", "onnx")
ON_GPU = ("eager", "compile", "tf32", "bfloat16", "float16")
"""Who takes part beside ours if nobody says; ours runs as CUDA graphs there, and eager does not."""
NAMES = tuple(dict.fromkeys(("ours", *ON_CPU, *ON_GPU)))

_OUTPUTS: tuple[OutputName, ...] = ("embedding", "tokens")


@dataclass(frozen=True, slots=True, eq=False)
class Contender:
    """One way to run a network.

    Attributes:
        name: one of `NAMES`.
        precision: of its matrix products.
        run: `(n_epochs, n_chans, n_times)` microvolts to arrays `(n_epochs, ...)`.
    """

    name: str
    precision: str
    run: Run


@dataclass(frozen=True)
class Subject:
    """What all contenders run.

    Attributes:
        model: name in the catalog.
        weights: path of a safetensors file, or `hub`.
        montage: channels of the epochs.
        device: `cpu`, `cuda` or `cuda:N`.
        batch: epochs in a pass.
    """

    model: str
    weights: str
    montage: Montage
    device: str
    batch: int = 1

    @property
    def outputs(self) -> tuple[OutputName, ...]:
        """What is computed: the work of the encoder, without heads."""
        return _OUTPUTS

    @property
    def n_times(self) -> int:
        """Samples of an epoch, of the length the model was trained on."""
        spec = catalog.find(self.model).spec
        return round(spec.durations[0] * spec.sfreq)

    @cached_property
    def epochs(self) -> Float32Array:
        """`(batch, n_chans, n_times)` microvolts of noise."""
        shape = self.batch, self.montage.n_chans, self.n_times
        return 20 * np.random.default_rng(0).standard_normal(shape, np.float32)

    def network(self) -> Network:
        """The network itself, newly loaded."""
        return catalog.load(self.model, self.weights).model

    def bind(self, network: Network) -> Any:
        """Bind a network to the montage."""
        with torch.no_grad():
            return network.bind(self.montage, outputs=frozenset(self.outputs))

    @torch.inference_mode()
    def exact(self) -> dict[OutputName, Float64Array]:
        """What the network yields in float64: the truth that errors are counted from."""
        network: Any = self.network()
        network.double()
        results = network.encode(torch.from_numpy(self.epochs).double(), self.bind(network), frozenset(self.outputs))
        return {name: tensor.numpy() for name, tensor in results.items()}


def montage_of(family: str, n_chans: int) -> Montage:
    """The first so many of 64 common electrodes that a family takes, or all of them."""
    info = StreamInfo("bench", "", "EEG", 256.0, make_montage(CH_NAMES_64))
    (taken,) = (one.used for one in fit(info) if one.model == family)
    return make_montage(taken[:n_chans])


@contextmanager
def weights_of(model: str, weights: str) -> Iterator[str]:
    """Weights that every contender can load in the same way: random ones are drawn once and written to a file."""
    kind, _, seed = weights.partition(":")
    if kind != "random":
        yield weights
        return
    entry = catalog.find(model)
    config = entry.family.variants[entry.variant]
    with tempfile.TemporaryDirectory(prefix="streamnode-bench-") as folder:
        path = Path(folder) / f"{model}.safetensors"
        save_file(entry.family.random_state(config, int(seed)), path, metadata=entry.family.metadata_of(config))
        yield str(path)


def build(name: str, subject: Subject) -> Contender:
    """Make a contender ready to run.

    Raises:
        ConfigError: it is not installed, or this machine, device or network is not for it; the message says why.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of exporters and compilers, about their own insides
        match name:
            case "eager":
                return _eager(subject)
            case "ours" | "compile" | "bfloat16" | "compile-bf16" | "int8" | "float16" | "tf32":
                return _ours(name, subject)
            case "openvino" | "openvino-bf16":
                return _openvino(name, subject)
            case "onnx":
                return _onnx(subject)
    raise ConfigError(f"there is no contender {name!r}: choose among {', '.join(NAMES)}")


# ---- torch -----------------------------------------------------------------------------------------------------------


def _eager(subject: Subject) -> Contender:
    device = find_device(subject.device)
    network: Any = subject.network()
    network.to(device)
    binding, outputs = subject.bind(network), frozenset(subject.outputs)

    @torch.inference_mode()
    def run(epochs: Float32Array) -> Arrays:
        with usual().applied():
            results = network.encode(torch.from_numpy(epochs).to(device), binding, outputs)
        return {name: tensor.cpu().numpy() for name, tensor in results.items()}

    return Contender("eager", "float32", run)


def _ours(name: str, subject: Subject) -> Contender:
    how = name.replace("bf16", "bfloat16").split("-")
    precision: Any = next((word for word in how if word in get_args(Precision)), "float32")
    model = load_model(
        subject.model,
        weights=subject.weights,
        ch_names=subject.montage.ch_names,
        ch_pos=subject.montage.ch_pos,
        device=subject.device,
        precision=precision,
        outputs=subject.outputs,
        compile="compile" in how,
    )
    return Contender(name, precision, model.run)


# ---- Other runtimes --------------------------------------------------------------------------------------------------


class _Forward(nn.Module):
    """The whole way from microvolts to outputs, as exporters want it: tensors in, tensors out."""

    def __init__(self, subject: Subject) -> None:
        super().__init__()
        self.network: Any = subject.network()
        self.binding = subject.bind(self.network)
        self.outputs = subject.outputs

    def forward(self, x_uv: Tensor) -> tuple[Tensor, ...]:
        """`(n_epochs, n_chans, n_times)` microvolts."""
        with without_complex():
            results = self.network.encode(x_uv, self.binding, frozenset(self.outputs))
        return tuple(results[name] for name in self.outputs)


@contextmanager
def _exported(subject: Subject) -> Iterator[Path]:
    """The network as an ONNX file."""
    _require("onnx", "onnxscript")
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    epochs = torch.from_numpy(subject.epochs)
    with tempfile.TemporaryDirectory(prefix="streamnode-bench-") as folder, redirect_stdout(StringIO()):
        program = torch.export.export(_Forward(subject), (epochs,), strict=False)
        exported = torch.onnx.export(program, dynamo=True, verbose=False)
        assert exported is not None
        exported.save(path := Path(folder) / "model.onnx", external_data=True)
        yield path


def _openvino(name: str, subject: Subject) -> Contender:
    _refuse_gpu(name, subject)
    _require("openvino")
    import openvino  # noqa: PLC0415

    precision, hint = ("bfloat16", "bf16") if name == "openvino-bf16" else ("float32", "f32")
    with _exported(subject) as path:
        core = openvino.Core()
        settings = {
            "INFERENCE_PRECISION_HINT": hint,
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            "PERFORMANCE_HINT": "LATENCY",
        }
        compiled = core.compile_model(core.read_model(path), "CPU", settings)

    def run(epochs: Float32Array) -> Arrays:
        results = compiled(epochs)
        return {output: results[i] for i, output in enumerate(subject.outputs)}

    return Contender(name, precision, run)


def _onnx(subject: Subject) -> Contender:
    _refuse_gpu("onnx", subject)
    _require("onnxruntime")
    import onnxruntime  # noqa: PLC0415

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.add_session_config_entry("session.force_spinning_stop", "1")  # so that it leaves the cores to the next
    with _exported(subject) as path:
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    (source,) = session.get_inputs()

    def run(epochs: Float32Array) -> Arrays:
        return dict(zip(subject.outputs, session.run(None, {source.name: epochs}), strict=True))

    return Contender("onnx", "float32", run)


def _require(*packages: str) -> None:
    missing = [package for package in packages if importlib.util.find_spec(package) is None]
    if missing:
        raise ConfigError(f"{' and '.join(missing)} not installed: pip install 'streamnode[bench]' to compare with it")


def _refuse_gpu(name: str, subject: Subject) -> None:
    if find_device(subject.device).type != "cpu":
        raise ConfigError(f"{name} is compared on the CPU only: choose --device cpu for it")
