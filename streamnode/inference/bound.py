"""A network bound to a montage: batches in microvolts in, arrays out, as fast as its device allows."""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from time import perf_counter
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from numpy.typing import ArrayLike

from streamnode.errors import ContractError
from streamnode.inference import cpu, graphs
from streamnode.inference.compiled import Encode
from streamnode.inference.cpu import Setting
from streamnode.inference.pace import Cost
from streamnode.inference.reuse import PatchCache
from streamnode.types import Epoch, Float32Array, Float64Array, ModelOutput, Montage, OutputName

if TYPE_CHECKING:
    from streamnode.inference.engine import Engine

log = logging.getLogger(__name__)

_FAIR = 3  # comparisons before what took a minute to compile is given up
_SUBSETS = 32  # montages with channels left out that stay bound
_PACES = 2  # numbers of steps whose schedules, of some 2 MB a step, are kept
_TYPICAL_S = 1.0  # of signal, whose products are large enough to be as fast as those of more
_WARM_UP_S = 0.5  # for batches; those that take longer are not held up by what a first time takes

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


def _recall(kept: dict[K, V], key: K, make: Callable[[], V], limit: int) -> V:
    """What is kept under a key, or is made for it; the oldest gives way."""
    value = kept.get(key)
    if value is None:
        value = make()
        while len(kept) >= limit:
            kept.pop(next(iter(kept)), None)
        kept[key] = value
    return value


def _as_arrays(results: dict[OutputName, torch.Tensor]) -> dict[OutputName, Float32Array]:
    return {name: tensor.float().cpu().numpy() for name, tensor in results.items()}


@dataclass(frozen=True, slots=True)
class _Fast:
    """A pass made for epochs of one shape `(n_chans, n_times)`, and the binding that overlapping ones go with."""

    encode: Encode
    shape: tuple[int, ...]
    binding: Any


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
        binding: what the network has made of montage and options.
        options: of the model, as given when binding.
    """

    def __init__(
        self,
        engine: Engine,
        montage: Montage,
        outputs: tuple[OutputName, ...],
        binding: Any,
        options: Mapping[str, Any],
        *,
        setting: Setting | None = None,
    ) -> None:
        self.SPEC = engine.spec
        self.name = engine.name
        self.weights = engine.weights
        self.montage = montage
        self.outputs = outputs
        rows = getattr(binding, "montage", montage)  # a model that adds channels says so in its binding
        self.reconstructed: Montage | None = rows if "reconstruction" in outputs else None
        self.shapes: dict[OutputName, tuple[int, ...]] = {}
        self.binding = binding
        self.options = options
        self._engine = engine
        self._setting = setting
        self._fast: _Fast | None = None
        self._duration_s, self._warm = 0.0, 0
        self._on: dict[tuple[int, ...], BoundModel] = {}
        self._paced: dict[int, BoundModel] = {}

    def __repr__(self) -> str:
        """Name, weights, channels and device."""
        return f"<{self.name} ({self.weights.source}), {self.montage.n_chans} channels, {self._engine.device}>"

    def warm_up(self, duration_s: float) -> None:
        """Choose how an epoch passes, and pass some: what first times and choices take is not to delay live data."""
        epochs = self._made_up(duration_s, 1)
        # A step of a sampler is like the next; and it only runs where there is something to rebuild.
        model = self.with_steps(1) if self.steps_one_by_one else self
        self.shapes = {name: array.shape[1:] for name, array in model.run_on(self._typical_rows(), epochs).items()}
        if self._engine.device.type == "cpu":
            alike, threads = (self.name, self._engine.precision), self._engine.threads
            self._setting = cpu.choose_once(alike, self._typical_pass(duration_s), threads)
        self._paced.clear()  # they are to follow the setting
        self._fast = self._speed_up(self._made_up(duration_s, 3))
        self._duration_s = duration_s

    def _typical_rows(self) -> tuple[int, ...]:
        """All channels but one, where that is to be rebuilt."""
        n_chans = self.montage.n_chans
        return tuple(range(1 if self.SPEC.rebuilds and n_chans > 2 else 0, n_chans))

    def _typical_pass(self, duration_s: float) -> Callable[[], object]:
        """What settings are tried on: a pass, or for a model whose passes take seconds, a second of signal encoded."""
        if not self.SPEC.rebuilds:
            epochs = self._made_up(duration_s, 1)
            return lambda: self.run(epochs)
        x = torch.from_numpy(self._made_up(min(duration_s, _TYPICAL_S), 1))
        return lambda: self._engine.run(x, self.binding, ("tokens",))

    def _made_up(self, duration_s: float, n_epochs: int) -> Float32Array:
        shape = n_epochs, self.montage.n_chans, round(duration_s * self.SPEC.sfreq)
        return np.random.default_rng(0).standard_normal(shape).astype(np.float32)

    def _speed_up(self, epochs: Float32Array) -> _Fast | None:
        """Passes of whole epochs compiled or recorded, where that can be had and is faster."""
        x, engine = torch.from_numpy(epochs), self._engine
        encode, binding = (engine.compile(self, x) if engine.compiles else None) or (None, self.binding)
        if engine.device.type == "cuda":
            if not self.steps_one_by_one and not self.scaled_by_epoch:
                launch = encode or partial(engine.run, binding=binding, outputs=self.outputs)
                encode = self._record(launch, x.shape[1:]) or encode
        elif encode is not None and cpu.CLEARLY * (gain := self._gain(encode, x[:1])) < 1:
            log.info("%s is compiled but runs as it is, which is %.1f times faster", self.name, 1 / gain)
            return None
        return encode and _Fast(encode, x.shape[1:], binding)

    def _record(self, launch: Encode, shape: tuple[int, ...]) -> Encode | None:
        """Passes as CUDA graphs, of as many epochs as there is memory for; None where they cannot be recorded."""
        engine = self._engine
        while True:
            try:
                return graphs.record(launch, shape, engine.max_batch, engine.device)
            except torch.OutOfMemoryError as error:
                lacking = error.with_traceback(None)  # which would keep all that the attempt had allocated
            if engine.max_batch == 1:
                log.warning(
                    "%s does not fit into the memory of %s as a CUDA graph and is launched bit by bit",
                    *(self.name, engine.device),
                )
                return None
            engine.halve_batches(engine.max_batch, lacking)

    def _gain(self, encode: Encode, x: torch.Tensor) -> float:
        with torch.inference_mode(), self._set():
            return cpu.speedup(lambda: self._pass(x.numpy()), lambda: encode(x), least=_FAIR)

    def warm_up_batches(self, most: int) -> None:
        """Pass every number of epochs that may come together; to be called, after `warm_up`, in the thread of passes.

        The first pass of a size takes up to ten times as long as the next. The largest comes first: what it allocates
        does for the others, and what the thread uses of memory is in use from then on.
        """
        if self.steps_one_by_one or not self._duration_s or most <= self._warm:
            return
        self._warm = most
        began = perf_counter()
        self.run(self._made_up(self._duration_s, 1))
        affordable = int(_WARM_UP_S / (perf_counter() - began))
        for size in range(min(most, affordable), 1, -1):
            if perf_counter() - began > _WARM_UP_S:
                break
            self.run(self._made_up(self._duration_s, size))

    @property
    def threads(self) -> int:
        """CPU threads of a pass."""
        return (self._setting or cpu.usual(self._engine.threads)).threads

    @property
    def steps_one_by_one(self) -> bool:
        """Whether passes are steps of a sampler, whose number may differ from one to the next."""
        return self.SPEC.rebuilds and "reconstruction" in self.outputs

    @property
    def scaled_by_epoch(self) -> bool:
        """Whether epochs take along the standard deviation that they are divided by."""
        return bool(getattr(self.binding, "scaled_by_epoch", False))

    @property
    def placed(self) -> tuple[int, ...]:
        """Indices of the channels that the model looks at; with none of them it has nothing to say."""
        rows: tuple[int, ...] = getattr(self.binding, "placed", tuple(range(self.montage.n_chans)))
        return rows

    @property
    def needs_all(self) -> bool:
        """Whether the model takes all channels or none, so that `run_on` has no use."""
        return bool(getattr(self.binding, "needs_all", False))

    def with_steps(self, steps: int) -> BoundModel:
        """The same with another number of steps of the sampler; 0 passes epochs without it."""

        def pace() -> BoundModel:
            binding = self._engine.with_steps(self.binding, steps)
            return BoundModel(self._engine, self.montage, self.outputs, binding, self.options, setting=self._setting)

        return _recall(self._paced, steps, pace, _PACES)

    def steps_run(self, steps: int, *, bad: bool) -> int | None:
        """What an epoch really has of so many steps of the sampler; None where no network runs at all.

        Args:
            steps: that it may have.
            bad: whether channels of it are left out, to be rebuilt.
        """
        run: int | None = self.binding.steps_run(self.outputs, steps, bad=bad)
        return run

    def cost(self, duration_s: float, steps: int) -> Cost:
        """What a pass takes on this machine, measured on a made-up epoch with one channel bad.

        Args:
            duration_s: of the epochs to come.
            steps: of the sampler, by which one of them is measured.
        """
        x, rows = self._made_up(duration_s, 1), self._typical_rows()
        encoder = BoundModel(self._engine, self.montage, ("tokens",), self.binding, self.options, setting=self._setting)

        def quickest_s(model: BoundModel) -> float:
            took = list[float]()
            for _ in range(2):  # the first is slow, as every first time, and a hiccup is no cost
                began = perf_counter()
                model.run_on(rows, x)
                took.append(perf_counter() - began)
            return min(took)

        return Cost.between((0, quickest_s(encoder)), (steps, quickest_s(self.with_steps(steps))))

    def run(self, epochs_uV: Float32Array, std_uv: Float64Array | None = None) -> dict[OutputName, Float32Array]:  # noqa: N803
        """Infer epochs.

        Args:
            epochs_uV: `(n_epochs, n_chans, n_times)` finite float32 microvolts.
            std_uv: `(n_epochs,)` of the signal each is part of, for a model that is `scaled_by_epoch`; without it, such
                a model takes the epoch's own.

        Returns:
            Arrays `(n_epochs, ...)`.
        """
        return self._infer(epochs_uV, std_uv)

    def _infer(
        self,
        epochs_uV: Float32Array,  # noqa: N803
        std_uv: Float64Array | None,
        **of_epochs: Any,
    ) -> dict[OutputName, Float32Array]:
        if not len(epochs_uV):  # of which networks cannot tell the shapes: an epoch does
            one = self._infer(
                np.zeros((1, *epochs_uV.shape[1:]), np.float32), None if std_uv is None else np.ones(1), **of_epochs
            )
            return {name: array[:0] for name, array in one.items()}

        def infer(here: slice) -> dict[OutputName, Float32Array]:
            scale = {} if std_uv is None else {"std_uv": torch.from_numpy(std_uv[here])}
            return self._pass(epochs_uV[here], **scale, **of_epochs)

        return self._in_batches(len(epochs_uV), infer)

    def _in_batches(
        self, n_epochs: int, infer: Callable[[slice], dict[OutputName, Float32Array]]
    ) -> dict[OutputName, Float32Array]:
        """Pass by pass, no more epochs at once than fit."""
        parts, done = list[dict[OutputName, Float32Array]](), 0
        while done < n_epochs:
            end = min(done + self._engine.max_batch, n_epochs)
            try:
                parts.append(infer(slice(done, end)))
            except RuntimeError as error:
                self._engine.halve_batches(end - done, error)
            else:
                done = end
        if len(parts) == 1:
            return parts[0]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def _pass(self, epochs_uV: Float32Array, **of_epochs: Any) -> dict[OutputName, Float32Array]:  # noqa: N803
        x = torch.from_numpy(np.ascontiguousarray(epochs_uV))
        if self._fast is not None and self._fast.shape == x.shape[1:] and not of_epochs:
            with torch.inference_mode(), self._set():  # what is not compiled of it goes by the threads of torch
                return _as_arrays(self._fast.encode(x))
        with self._set():
            return _as_arrays(self._engine.run(x, self.binding, self.outputs, **of_epochs))

    def _set(self) -> AbstractContextManager[None]:
        return nullcontext() if self._setting is None else self._setting.applied()

    def run_overlapping(self, epochs: Sequence[Epoch], caches: Sequence[PatchCache]) -> dict[OutputName, Float32Array]:
        """`run` of epochs of different streams, of which only the patches that their caches lack are computed."""
        binding = self.binding if self._fast is None else self._fast.binding

        def infer(here: slice) -> dict[OutputName, Float32Array]:
            with self._set():
                return _as_arrays(self._engine.run_overlapping(epochs[here], caches[here], binding, self.outputs))

        return self._in_batches(len(epochs), infer)

    def run_on(
        self,
        rows: tuple[int, ...],
        epochs_uV: Float32Array,  # noqa: N803
        std_uv: Float64Array | None = None,
    ) -> dict[OutputName, Float32Array]:
        """`run` on some of the channels only, as if the others were not there; a model that rebuilds them does so.

        Args:
            rows: indices of the channels to use, ascending.
            epochs_uV: `(n_epochs, n_chans, n_times)`, all channels; those not used may be anything.
            std_uv: as of `run`.

        Returns:
            Arrays of the shapes of `run`: what belongs to a channel that was left out is NaN.
        """
        if len(rows) == self.montage.n_chans:
            return self.run(epochs_uV, std_uv)
        if self.SPEC.rebuilds:
            bad = sorted(set(range(self.montage.n_chans)).difference(rows))
            return self._infer(epochs_uV, std_uv, bad=bad)
        index = list(rows)

        def bind_some() -> BoundModel:
            some = Montage(tuple(self.montage.ch_names[row] for row in rows), self.montage.ch_pos[index])
            return self._engine.bind_anew(some, self.outputs, self.options, self._setting)

        some_model = _recall(self._on, rows, bind_some, _SUBSETS)
        results = {name: torch.from_numpy(array) for name, array in some_model.run(epochs_uV[:, index]).items()}
        return _as_arrays(self._engine.spread(results, index, self.montage.n_chans, some_model.binding))

    def encode(self, epochs_uV: ArrayLike, std_uv: ArrayLike | None = None) -> ModelOutput:  # noqa: N803
        """What the model says of some epochs.

        Args:
            epochs_uV: `(n_epochs, n_chans, n_times)` or `(n_chans, n_times)` microvolts at `SPEC.sfreq`, channels in
                the order of `montage`; n_epochs may be 0.
            std_uv: one or `(n_epochs,)`, as of `run`.

        Returns:
            A `ModelOutput` whose arrays all have a first axis of n_epochs.

        Raises:
            ContractError: wrong shape or length, a sample is not finite, or a standard deviation none.
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
        return output.with_arrays(self.run(x, None if std_uv is None else _one_each(std_uv, len(x))))


def _one_each(std_uv: ArrayLike, n_epochs: int) -> Float64Array:
    """`(n_epochs,)` standard deviations. Raises `ContractError` if they are none, or too few or many."""
    given = np.asarray(std_uv, np.float64)
    if given.shape not in ((), (n_epochs,)) or not (np.isfinite(given) & (given > 0)).all():
        raise ContractError(
            f"std_uv {std_uv!r} is no standard deviation of {n_epochs} epochs: give one number above 0, or one for each"
        )
    return np.full(n_epochs, given)


def check_finite(epochs: Float32Array, montage: Montage) -> None:
    """Raise `ContractError` naming the first channel of `(n_epochs, n_chans, n_times)` with a NaN or infinity."""
    if np.isfinite(epochs).all():
        return
    epoch, channel, sample = (int(i) for i in np.argwhere(~np.isfinite(epochs))[0])
    raise ContractError(
        f"sample {sample} of channel {montage.ch_names[channel]} in epoch {epoch} is not a finite number: "
        "fill or drop what is missing before encoding"
    )
