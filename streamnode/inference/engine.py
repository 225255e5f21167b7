"""A model on a device, shared by all that are bound to it.

What a bound model does is told in `bound`; how passes are made fast in `cpu`, `precision`, `compiled` and `graphs`.
"""

from __future__ import annotations

import logging
from collections.abc import Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from threading import Lock
from typing import Any, Literal, cast
from weakref import WeakValueDictionary

import torch
from numpy.typing import NDArray
from torch import nn

from streamnode.errors import ConfigError, ContractError
from streamnode.inference import compiled, reuse
from streamnode.inference.bound import BoundModel
from streamnode.inference.compiled import Encode, Encoding, Recipe
from streamnode.inference.cpu import Setting
from streamnode.inference.precision import (
    Precision,
    autocast,
    lower,
    plain_copy,
    refuse_unless_possible,
    tolerance_of,
    use_on,
)
from streamnode.inference.reuse import MOST, EncodingOfPatches, PatchCache, Patchwise
from streamnode.models import catalog
from streamnode.models.catalog import LoadedModel
from streamnode.models.family import Sampled
from streamnode.montage import make_montage
from streamnode.types import Epoch, ModelSpec, Montage, OutputName, WeightsInfo

__all__ = ["BoundModel", "Engine", "Precision", "find_device", "load_model"]

log = logging.getLogger(__name__)

_OF_ENCODER: tuple[OutputName, ...] = ("embedding", "tokens", "attention")
_MAX_BATCH = {"cpu": 8, "cuda": 64}  # beyond, a pass takes longer, and more memory, but no less for each epoch


class Engine:
    """One set of weights on one device, shared by every stream that is bound to it.

    Args:
        loaded: the model and where its weights came from; the engine takes the network over and keeps its weights in
            the precision asked for.
        device: `auto` (CUDA when torch sees one), `cpu`, `cuda` or `cuda:N`.
        precision: of the large products: `float32`; `bfloat16`; on a CPU `int8`; on a GPU `float16` and `tf32`.
        threads: CPU threads of a pass; `auto` measures how many are best.
        compile: have the network compiled for each montage, once, before it is used.
        max_batch: the most epochs of one pass; `auto` goes by the device.

    Raises:
        ConfigError: the device does not exist here, or lacks the precision.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        *,
        device: str = "auto",
        precision: Precision = "float32",
        threads: int | Literal["auto"] = "auto",
        compile: bool = False,  # noqa: A002  (as torch calls it)
        max_batch: int | Literal["auto"] = "auto",
    ) -> None:
        self.device = find_device(device)
        refuse_unless_possible(precision, self.device)
        use_on(self.device, precision)
        self.precision = precision
        self.threads = None if threads == "auto" else threads
        self.compiles = compile
        self.max_batch = _MAX_BATCH[self.device.type] if max_batch == "auto" else max_batch
        self.name = loaded.name
        self.spec: ModelSpec = loaded.model.SPEC
        self.weights: WeightsInfo = loaded.info
        lower(loaded.model, precision, self.device)
        # They come to the CPU; and packed ones would be unpacked, several times over, to be told to stay there.
        self._model = loaded.model if self.device.type == "cpu" else loaded.model.to(self.device)
        self._bound: WeakValueDictionary[Hashable, BoundModel] = WeakValueDictionary()
        self._binding = Lock()

    def bind(self, montage: Montage, outputs: Sequence[OutputName], *, duration_s: float, **options: Any) -> BoundModel:
        """Precompute all that depends on the montage, and warm up on one epoch so that the first real one is not late.

        Streams that ask for the same share what is made, for as long as one of them keeps it.

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
        wish = montage, tuple(outputs), duration_s, *((key, _hashable(options[key])) for key in sorted(options))
        with self._binding:
            bound = self._bound.get(wish)
            if bound is None:
                bound = self.bind_anew(montage, tuple(outputs), options)
                if duration_s > 0:
                    bound.warm_up(duration_s)
                self._bound[wish] = bound
        return bound

    def bind_anew(
        self,
        montage: Montage,
        outputs: tuple[OutputName, ...],
        options: Mapping[str, Any],
        setting: Setting | None = None,
    ) -> BoundModel:
        """`bind` for one owner, without a warm-up; it waits for nobody else's."""
        # Not in inference mode, whose tensors cannot be compiled.
        with torch.no_grad(), autocast(self.device, self.precision):
            binding = self._model.bind(montage, outputs=frozenset(outputs), **options)
        return BoundModel(self, montage, outputs, binding, options, setting=setting)

    @contextmanager
    def computing(self) -> Iterator[None]:
        """What every pass runs in."""
        with torch.inference_mode(), autocast(self.device, self.precision):
            yield

    def run(
        self, x: torch.Tensor, binding: Any, outputs: tuple[OutputName, ...], **of_epochs: Any
    ) -> dict[OutputName, torch.Tensor]:
        """One forward pass of `(n_epochs, n_chans, n_times)` float32 microvolts."""
        with self.computing():
            return self._model.encode(x.to(self.device), binding, frozenset(outputs), **of_epochs)

    def compile(self, bound: BoundModel, x: torch.Tensor) -> tuple[Encode, Any] | None:
        """The pass of a bound model compiled for epochs like `(3, n_chans, n_times)`; None, having said why, if not.

        Beside it the binding for overlapping epochs. Of a network that looks at each patch alone it is that which is
        compiled, so that one package, which holds the weights once more, serves whole epochs and overlapping ones.
        """
        if self.precision == "int8":
            log.warning("products of int8 are not compiled: %s runs as it is", self.name)
            return None
        if bound.steps_one_by_one:
            log.warning("a sampler is not compiled, for its steps vary: %s runs as it is", self.name)
            return None
        if bound.scaled_by_epoch:
            log.warning("%s is compiled with a std_uv of its own only: without one it runs as it is", self.name)
            return None
        network, binding, x = plain_copy(self._model), bound.binding, x.to(self.device)
        with autocast(self.device, self.precision):  # the casts that passes are made with become part of the package
            if isinstance(network, Patchwise):
                patches = network.prepare(x[..., : network.config.patch], binding)
                encode = self._package(EncodingOfPatches(network, binding), bound, patches, MOST)
                return encode and self._by_patch(encode, binding, bound.outputs)
            encode = self._package(Encoding(network, binding, bound.outputs), bound, x, self.max_batch)
            return encode and (lambda x: encode(self._to_device(x)), binding)

    def _package(self, encoding: nn.Module, bound: BoundModel, x: torch.Tensor, most: int) -> Encode | None:
        recipe = Recipe(
            self.name,
            (
                *(self.weights.sha256 or self.weights.source, self.weights.choices),
                *(self.precision, str(self.device), str(tuple(x.shape[1:]))),
                *(repr(bound.montage.ch_names), bound.montage.ch_pos.tobytes()),
                *(repr(sorted(bound.outputs)), repr(sorted(bound.options.items()))),
            ),
            max_batch=most,
            threads=bound.threads,
        )
        return compiled.prepare(encoding, recipe, x, tolerance=tolerance_of(self.precision))

    def _by_patch(self, encode: Encode, binding: Any, outputs: tuple[OutputName, ...]) -> tuple[Encode, Any]:
        """Passes of whole epochs, and the binding for overlapping ones, through compiled patches."""
        by_patch = replace(binding, compiled=lambda patches: encode(patches.contiguous())["tokens"])
        return lambda x: self.run(x, by_patch, outputs), by_patch

    def halve_batches(self, n_epochs: int, error: RuntimeError) -> None:
        """Take half as many epochs at once from now on, if it was memory that so many lacked; other errors go on.

        Raises:
            ConfigError: a single epoch does not fit.
        """
        if not isinstance(error, torch.OutOfMemoryError) and "can't allocate memory" not in str(error):
            raise error
        if n_epochs <= 1:
            raise ConfigError(
                f"one epoch of {self.name} does not fit into the memory of {self.device}: free some, choose a smaller "
                "variant, or another device"
            ) from error
        self.max_batch = n_epochs // 2
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        log.warning(
            "%d epochs do not fit into the memory of %s: taking %d at once", n_epochs, self.device, self.max_batch
        )

    def _to_device(self, x: torch.Tensor) -> torch.Tensor:
        return x.to(self.device)

    @property
    def patch_stride(self) -> int | None:
        """Samples from one patch to the next where the network looks at each alone; None where it does not."""
        return reuse.stride_of(self._model)

    def run_overlapping(
        self, epochs: Sequence[Epoch], caches: Sequence[PatchCache], binding: Any, outputs: tuple[OutputName, ...]
    ) -> dict[OutputName, torch.Tensor]:
        """One forward pass of those patches of some epochs that are not in the caches of their streams."""
        network = cast("Patchwise", self._model)
        with self.computing():
            return reuse.encode(network, binding, frozenset(outputs), epochs, caches, to_device=self._to_device)

    def with_steps(self, binding: Any, steps: int) -> Any:
        """A binding for another number of steps of the sampler, which the model must have."""
        with self.computing():
            return cast("Sampled", self._model).with_steps(binding, steps)

    def spread(
        self, results: dict[OutputName, torch.Tensor], rows: Sequence[int], n_chans: int, binding: Any
    ) -> dict[OutputName, torch.Tensor]:
        """Results of some channels where those of all would be; what belongs to the others is NaN.

        Of an epoch of which some number is none all is NaN, so that one can tell that from channels left out.
        """
        return {
            name: self._model.spread(name, _all_or_nothing(values), rows, n_chans, binding)
            for name, values in results.items()
        }


def _all_or_nothing(values: torch.Tensor) -> torch.Tensor:
    """`(n_epochs, ...)`, NaN throughout an epoch that is not finite throughout."""
    rest = tuple(range(1, values.ndim))
    return values.where(values.isfinite().all(rest, keepdim=True), torch.nan)


def _hashable(option: Any) -> Hashable:
    return tuple(option) if isinstance(option, list) else cast("Hashable", option)


def load_model(
    name: str,
    *,
    weights: str | None = None,
    ch_names: Sequence[str],
    ch_pos: NDArray[Any] | None = None,
    device: str = "auto",
    precision: Precision = "float32",
    compile: bool = False,  # noqa: A002  (as torch calls it)
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
        precision: `float32`, `bfloat16`, on a CPU `int8`, on a GPU `float16` and `tf32`.
        compile: have the network compiled for the montage, which takes up to a minute, once.
        outputs: what `encode` returns; None for what the encoder yields, without heads.
        revision: hub revision.
        sha256: digest the weights file must have.
        options: the model's own, such as `vocabulary` of LUNA or `pool` and `n_heads` of EEG-DINO.

    Raises:
        ConfigError: unknown model or device, or a precision that the device lacks.
        WeightsError: the weights cannot be had, or are not this model's.
        ContractError: a channel cannot be placed, or the weights lack a head.
    """
    load_keys = (*catalog.find(name).family.load_options, "which")
    to_load = {key: options.pop(key) for key in load_keys if key in options}
    loaded = catalog.load(name, weights or "hub", revision=revision, sha256=sha256, **to_load)
    engine = Engine(loaded, device=device, precision=precision, compile=compile)
    asked = outputs or [name for name in _OF_ENCODER if name in loaded.model.available_outputs]
    return engine.bind(make_montage(ch_names, ch_pos), asked, duration_s=engine.spec.durations[0], **options)


def find_device(name: str) -> torch.device:
    """The torch device called `name`; `auto` prefers CUDA. Raises `ConfigError` where models cannot run on it."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"there is no device called {name!r}: use auto, cpu, cuda or cuda:0") from error
    if device.type not in _MAX_BATCH:
        raise ConfigError(f"models do not run on {name}: use auto, cpu, cuda or cuda:0")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigError(
            f"device {name} was asked for, but torch sees {torch.cuda.device_count()} CUDA devices: "
            "use device: cpu or auto, or install a CUDA build of torch and its driver"
        )
    return device
