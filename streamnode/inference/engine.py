"""A model on a device: precision, warm-up, and `(n_epochs, n_chans, n_times)` microvolts in, arrays out."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from time import perf_counter
from typing import Any, Literal, cast

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from streamnode.errors import ConfigError, ContractError
from streamnode.inference.pace import Cost
from streamnode.models import catalog
from streamnode.models.catalog import LoadedModel
from streamnode.models.family import Sampled
from streamnode.montage import make_montage
from streamnode.types import Float32Array, ModelOutput, ModelSpec, Montage, OutputName, WeightsInfo

log = logging.getLogger(__name__)

Precision = Literal["float32", "bfloat16"]

_OF_ENCODER: tuple[OutputName, ...] = ("embedding", "tokens", "attention")
_SUBSETS = 32  # montages with channels left out that stay bound


class Engine:
    """One set of weights on one device, shared by every stream that is bound to it.

    Args:
        loaded: the model and where its weights came from.
        device: `auto` (CUDA when torch sees one), `cpu`, `cuda` or `cuda:N`.
        precision: `float32`, or `bfloat16` by autocast.
        threads: CPU threads of torch for the whole process; None leaves torch's choice.

    Raises:
        ConfigError: the device does not exist here.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        *,
        device: str = "auto",
        precision: Precision = "float32",
        threads: int | None = None,
    ) -> None:
        if threads is not None:
            torch.set_num_threads(threads)
        self.device = find_device(device)
        if precision == "float32":
            torch.backends.cudnn.allow_tf32 = False  # on by default for convolutions, and good for three digits only
        self.precision = precision
        self.name = loaded.name
        self.spec: ModelSpec = loaded.model.SPEC
        self.weights: WeightsInfo = loaded.info
        self._model = loaded.model.to(self.device)

    def bind(self, montage: Montage, outputs: Sequence[OutputName], *, duration_s: float, **options: Any) -> BoundModel:
        """Precompute all that depends on the montage, and warm up on one epoch so that the first real one is not late.

        Args:
            montage: channels of the epochs to come.
            outputs: what to compute.
            duration_s: window length to warm up on; 0 goes without.
            options: passed to the model's `bind`.

        Raises:
            ContractError: the weights lack a head for an output, or the model cannot place a channel.
        """
        missing = [name for name in outputs if name not in self._model.available_outputs]
        if missing:
            has = ", ".join(self._model.available_outputs)
            raise ContractError(
                f"{self.name} from {self.weights.source} has no head for {', '.join(missing)}: "
                f"ask for some of {has} in model.outputs, or give weights that have the head"
            )
        with torch.inference_mode():
            binding = self._model.bind(montage, outputs=frozenset(outputs), **options)
        bound = BoundModel(self, montage, tuple(outputs), binding, options)
        if duration_s > 0:
            bound.warm_up(duration_s)
        return bound

    def run(
        self, x: torch.Tensor, binding: Any, outputs: tuple[OutputName, ...], **of_epochs: Any
    ) -> dict[OutputName, torch.Tensor]:
        """One forward pass of `(n_epochs, n_chans, n_times)` float32 microvolts on the device."""
        reduced = self.precision == "bfloat16"
        with torch.inference_mode(), torch.autocast(self.device.type, torch.bfloat16, enabled=reduced):
            return self._model.encode(x, binding, frozenset(outputs), **of_epochs)

    def with_steps(self, binding: Any, steps: int) -> Any:
        """A binding for another number of steps of the sampler, which the model must have."""
        with torch.inference_mode():
            return cast("Sampled", self._model).with_steps(binding, steps)

    def spread(
        self, results: dict[OutputName, torch.Tensor], rows: Sequence[int], n_chans: int, binding: Any
    ) -> dict[OutputName, torch.Tensor]:
        """Results of some channels where those of all would be; what belongs to the others is NaN."""
        return {name: self._model.spread(name, values, rows, n_chans, binding) for name, values in results.items()}


def _as_arrays(results: dict[OutputName, torch.Tensor]) -> dict[OutputName, Float32Array]:
    return {name: tensor.float().cpu().numpy() for name, tensor in results.items()}


class BoundModel:
    """An engine bound to one montage: what `streamnode.load_model` returns and what a live stream runs.

    Attributes:
        SPEC: what the model expects of its input.
        name: such as `luna-base`.
        weights: where the weights came from.
        montage: the channels it is bound to.
        outputs: what it computes.
        shapes: shape of each output for one epoch of the warm-up's length.
        reconstructed: the channels of a reconstruction; None where none was asked for.
    """

    def __init__(
        self,
        engine: Engine,
        montage: Montage,
        outputs: tuple[OutputName, ...],
        binding: Any,
        options: Mapping[str, Any],
    ) -> None:
        self.SPEC = engine.spec
        self.name = engine.name
        self.weights = engine.weights
        self.montage = montage
        self.outputs = outputs
        rows = getattr(binding, "montage", montage)  # a model that adds channels says so in its binding
        self.reconstructed: Montage | None = rows if "reconstruction" in outputs else None
        self.shapes: dict[OutputName, tuple[int, ...]] = {}
        self._engine = engine
        self._binding = binding
        self._options = options
        self._on: dict[tuple[int, ...], BoundModel] = {}
        self._paced: tuple[int, BoundModel] | None = None

    def __repr__(self) -> str:
        """Name, weights, channels and device."""
        return f"<{self.name} ({self.weights.source}), {self.montage.n_chans} channels, {self._engine.device}>"

    def warm_up(self, duration_s: float) -> None:
        """Run twice on a fixed made-up epoch: allocations and kernel choices happen here, not on live data."""
        n_times = round(duration_s * self.SPEC.sfreq)
        x = np.random.default_rng(0).standard_normal((1, self.montage.n_chans, n_times)).astype(np.float32)
        # A step of a sampler is like the next; and it only runs where there is something to rebuild.
        model = self.with_steps(1) if self._steps_one_by_one else self
        rows = tuple(range(1 if self.SPEC.rebuilds and self.montage.n_chans > 2 else 0, self.montage.n_chans))
        for _ in range(2):
            self.shapes = {name: array.shape[1:] for name, array in model.run_on(rows, x).items()}

    @property
    def _steps_one_by_one(self) -> bool:
        return self.SPEC.rebuilds and "reconstruction" in self.outputs

    def with_steps(self, steps: int) -> BoundModel:
        """The same with another number of steps of the sampler; 0 passes epochs without it."""
        if self._paced is None or self._paced[0] != steps:
            binding = self._engine.with_steps(self._binding, steps)
            self._paced = steps, BoundModel(self._engine, self.montage, self.outputs, binding, self._options)
        return self._paced[1]

    def cost(self, duration_s: float, steps: int) -> Cost:
        """What a pass takes on this machine, measured on a made-up epoch with one channel bad.

        Args:
            duration_s: of the epochs to come.
            steps: of the sampler, at least 2: with so many and with one it is measured.
        """
        n_times = round(duration_s * self.SPEC.sfreq)
        x = np.random.default_rng(0).standard_normal((1, self.montage.n_chans, n_times)).astype(np.float32)
        took = {}
        for n in (1, 1, steps):  # the first is slow, as every first time
            model = self.with_steps(n)
            began = perf_counter()
            model.run_on(tuple(range(1, self.montage.n_chans)), x)
            took[n] = perf_counter() - began
        return Cost.between((1, took[1]), (steps, took[steps]))

    def run(self, epochs_uV: Float32Array) -> dict[OutputName, Float32Array]:  # noqa: N803
        """Infer `(n_epochs, n_chans, n_times)` finite float32 microvolts; arrays come back `(n_epochs, ...)`."""
        return _as_arrays(self._infer(epochs_uV))

    def _infer(self, epochs_uV: Float32Array, **of_epochs: Any) -> dict[OutputName, torch.Tensor]:  # noqa: N803
        x = torch.from_numpy(np.ascontiguousarray(epochs_uV)).to(self._engine.device)
        return self._engine.run(x, self._binding, self.outputs, **of_epochs)

    def run_on(self, rows: tuple[int, ...], epochs_uV: Float32Array) -> dict[OutputName, Float32Array]:  # noqa: N803
        """`run` on some of the channels only, as if the others were not there; a model that rebuilds them does so.

        Args:
            rows: indices of the channels to use, ascending.
            epochs_uV: `(n_epochs, n_chans, n_times)`, all channels; those not used may be anything.

        Returns:
            Arrays of the shapes of `run`: what belongs to a channel that was left out is NaN.
        """
        if len(rows) == self.montage.n_chans:
            return self.run(epochs_uV)
        if self.SPEC.rebuilds:
            bad = sorted(set(range(self.montage.n_chans)).difference(rows))
            return _as_arrays(self._infer(epochs_uV, bad=bad))
        index = list(rows)
        if rows not in self._on:
            if len(self._on) >= _SUBSETS:
                self._on.pop(next(iter(self._on)))
            some = Montage(tuple(self.montage.ch_names[row] for row in rows), self.montage.ch_pos[index])
            self._on[rows] = self._engine.bind(some, self.outputs, duration_s=0, **self._options)
        some_model = self._on[rows]
        results = some_model._infer(epochs_uV[:, index])  # noqa: SLF001  (its own kind)
        return _as_arrays(self._engine.spread(results, index, self.montage.n_chans, some_model._binding))  # noqa: SLF001

    def encode(self, epochs_uV: ArrayLike) -> ModelOutput:  # noqa: N803
        """What the model says of some epochs.

        Args:
            epochs_uV: `(n_epochs, n_chans, n_times)` or `(n_chans, n_times)` microvolts at `SPEC.sfreq`, channels in
                the order of `montage`.

        Returns:
            A `ModelOutput` whose arrays all have a first axis of n_epochs.

        Raises:
            ContractError: wrong shape or length, or a sample is not finite.
        """
        x = np.asarray(epochs_uV, dtype=np.float32)
        x = x[None] if x.ndim == 2 else x
        if x.ndim != 3 or x.shape[1] != self.montage.n_chans:
            raise ContractError(
                f"{self.name} is bound to {self.montage.n_chans} channels and takes (n_epochs, {self.montage.n_chans}, "
                f"n_times), not {np.shape(epochs_uV)}: give one row per channel of .montage.ch_names"
            )
        check_finite(x, self.montage)
        t_last = (x.shape[2] - 1) / self.SPEC.sfreq
        output = ModelOutput(
            self.name, stream="", seq=0, run=0, t0=0.0, t_last=t_last, untrained=self.weights.untrained
        )
        return output.with_arrays(self.run(x))


def load_model(
    name: str,
    *,
    weights: str | None = None,
    ch_names: Sequence[str],
    ch_pos: NDArray[Any] | None = None,
    device: str = "auto",
    precision: Precision = "float32",
    outputs: Sequence[OutputName] | None = None,
    revision: str = "main",
    sha256: str | None = None,
    **options: Any,
) -> BoundModel:
    """Load a published model for a montage.

    Args:
        name: such as `luna-base`; `streamnode models` lists them.
        weights: None or `hub` for the published checkpoint, a path, or `random:<seed>` (untrained).
        ch_names: channel labels in the order of the rows to come; `Fc5.`, `EEG Fp1` and `FP1-F7` are understood.
        ch_pos: `(n_chans, 3)` metres in the head frame; None or NaN rows are looked up by name.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        precision: `float32` or `bfloat16`.
        outputs: what `encode` returns; None for what the encoder yields, without heads.
        revision: hub revision.
        sha256: digest the weights file must have.
        options: the model's own, such as `vocabulary` of LUNA or `pool` and `n_heads` of EEG-DINO.

    Raises:
        ConfigError: unknown model or device.
        WeightsError: the weights cannot be had, or are not this model's.
        ContractError: a channel cannot be placed, or the weights lack a head.
    """
    load_keys = (*catalog.find(name).family.load_options, "which")
    to_load = {key: options.pop(key) for key in load_keys if key in options}
    loaded = catalog.load(name, weights or "hub", revision=revision, sha256=sha256, **to_load)
    engine = Engine(loaded, device=device, precision=precision)
    asked = outputs or [name for name in _OF_ENCODER if name in loaded.model.available_outputs]
    return engine.bind(make_montage(ch_names, ch_pos), asked, duration_s=engine.spec.durations[0], **options)


def check_finite(epochs: Float32Array, montage: Montage) -> None:
    """Raise `ContractError` naming the first channel of `(n_epochs, n_chans, n_times)` with a NaN or infinity."""
    if np.isfinite(epochs).all():
        return
    epoch, channel, sample = (int(i) for i in np.argwhere(~np.isfinite(epochs))[0])
    raise ContractError(
        f"sample {sample} of channel {montage.ch_names[channel]} in epoch {epoch} is not a finite number: "
        "fill or drop what is missing before encoding"
    )


def find_device(name: str) -> torch.device:
    """The torch device called `name`; `auto` prefers CUDA. Raises `ConfigError` when there is none."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"there is no device called {name!r}: use auto, cpu, cuda or cuda:0") from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigError(
            f"device {name} was asked for, but torch sees {torch.cuda.device_count()} CUDA devices: "
            "use device: cpu or auto, or install a CUDA build of torch and its driver"
        )
    return device
