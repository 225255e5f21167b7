"""Number formats of a network: what each device can do, weights kept narrow, and what that costs in accuracy.

Only the matrices of transformer layers, which are nearly all of the weights and of the work, are kept in another format
than float32. On a CPU all else stays float32, inputs and results of these products included; on a GPU autocast decides,
under which norms and softmax stay float32.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import chain
from typing import Any, Literal, Self, cast, get_args

import torch
import torch.nn.functional as F  # noqa: N812  (its name everywhere)
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from streamnode.errors import ConfigError
from streamnode.inference.cpu import relative_error, speedup
from streamnode.models.family import Network
from streamnode.types import Float32Array, Montage, OutputName

log = logging.getLogger(__name__)

Precision = Literal["float32", "tf32", "bfloat16", "float16", "int8"]

_HALVES = {"bfloat16": torch.bfloat16, "float16": torch.float16}
_NARROWEST = 128  # rows or columns below which a matrix is no work worth another format
_GROSS = 0.05  # an error that no rounding explains
_LEAST = 1e-30  # a row of zeros has a step, too


def refuse_unless_possible(precision: Precision, device: torch.device) -> None:
    """Raise `ConfigError` for a precision that a device lacks; warn of one that is no faster than float32 there."""
    if precision not in get_args(Precision):
        raise ConfigError(f"there is no precision {precision!r}: use one of {', '.join(get_args(Precision))}")
    of_cpu, of_gpu = device.type == "cpu", device.type == "cuda"
    if of_cpu and precision in ("float16", "tf32"):
        raise ConfigError(f"precision {precision} is for GPUs: use bfloat16, int8 or float32 on the CPU")
    if of_gpu and precision == "int8":
        raise ConfigError("precision int8 is for CPUs: use bfloat16 or float16 on a GPU")
    if of_gpu and precision == "bfloat16" and not torch.cuda.is_bf16_supported(including_emulation=False):
        raise ConfigError("this GPU has no bfloat16: use precision float16 or float32")
    if of_cpu and precision != "float32":
        _try_on_cpu(precision)


@torch.inference_mode()
def _try_on_cpu(precision: Precision) -> None:
    """One product, against float32: what only imitates a format is slow, and some do it wrong."""
    draw = torch.Generator().manual_seed(0)
    x, weight = torch.randn(96, 1024, generator=draw), torch.randn(1024, 1024, generator=draw)
    narrow = NarrowWeight.of(weight, precision)
    if relative_error(F.linear(x, narrow), F.linear(x, weight)) > _GROSS:
        raise ConfigError(f"products in {precision} come out wrong on this CPU: use precision float32")
    gain = speedup(lambda: F.linear(x, weight), lambda: F.linear(x, narrow))
    if gain < 1:
        log.warning("%s is no faster than float32 on this CPU (%.1f times): it saves only memory", precision, gain)


def use_on(device: torch.device, precision: Precision) -> None:
    """Let float32 products of a GPU be what was asked for, in the whole process; torch's convolutions start as TF32."""
    if device.type == "cuda":
        products = "tf32" if precision == "tf32" else "ieee"
        torch.backends.cuda.matmul.fp32_precision = products
        torch.backends.cudnn.conv.fp32_precision = products  # type: ignore[attr-defined]


def autocast(device: torch.device, precision: Precision) -> AbstractContextManager[Any]:
    """What passes on a GPU in a half precision run under; elsewhere nothing."""
    if device.type == "cuda" and precision in _HALVES:
        return torch.autocast("cuda", _HALVES[precision], cache_enabled=False)
    return nullcontext()


def lower(network: Network, precision: Precision, device: torch.device) -> None:
    """Put the large matrices of a network into a precision, one by one, so that there never are two copies."""
    if precision in ("float32", "tf32"):
        return
    narrow = _narrow(precision, device)
    modules = cast("nn.Module", network).modules()
    for layer in (layer for layers in modules if isinstance(layers, nn.ModuleList) for layer in layers):
        for part in layer.modules():
            for name, weight in part.named_parameters(recurse=False):
                if weight.ndim == 2 and min(weight.shape) >= _NARROWEST:
                    # Not by setattr, which looks at the gradient of what it is given, for which it would be widened.
                    part._parameters[name] = nn.Parameter(narrow(weight), requires_grad=False)  # noqa: SLF001


def copy_sharing(network: Network) -> Network:
    """Another network with the same tensors."""
    module = cast("nn.Module", network)
    shared = {id(tensor): tensor for tensor in chain(module.parameters(), module.buffers())}
    return cast("Network", copy.deepcopy(module, shared))


def _narrow(precision: Precision, device: torch.device) -> Callable[[Tensor], Tensor]:
    if device.type == "cuda":
        return lambda weight: weight.to(_HALVES[precision])
    return lambda weight: NarrowWeight.of(weight, precision)


class NarrowWeight(Tensor):
    """A weight matrix `(n_out, n_in)` kept in fewer bits, for inference on a CPU.

    `F.linear` multiplies by it as it is, and so by its rows `weight[a:b]`; to all else it is a float32 matrix, which is
    made anew every time.
    """

    scale: Tensor | None  # (n_out,) what a step of int8 is in each row; None for bfloat16

    @classmethod
    def of(cls, weight: Tensor, precision: Precision) -> Self:
        """A matrix in bfloat16, or in int8: 255 steps between minus and plus the largest number of each row."""
        if precision == "bfloat16":
            return cls._of(weight.to(torch.bfloat16), None)
        scale = _step(weight)
        return cls._of((weight / scale).round().to(torch.int8), scale[:, 0])

    @classmethod
    def _of(cls, stored: Tensor, scale: Tensor | None) -> Self:
        weight = stored.as_subclass(cls)
        weight.scale = scale
        return weight

    @property
    def stored(self) -> Tensor:
        """As it is kept."""
        return self.as_subclass(Tensor)

    def widened(self) -> Tensor:
        """As float32."""
        wide = self.stored.float()
        return wide if self.scale is None else wide * self.scale[:, None]

    def rows(self, index: slice) -> NarrowWeight:
        """Some of the rows, in the same memory."""
        return self._of(self.stored[index], None if self.scale is None else self.scale[index])

    @classmethod
    def __torch_function__(
        cls, func: Any, _types: Sequence[type], args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """What torch calls in place of any of its functions that meets such a weight."""
        with torch._C.DisableTorchFunctionSubclass():  # noqa: SLF001  (as in torch's own subclasses)
            if func is F.linear:
                return _linear(*args, **(kwargs or {}))
            if func in (Tensor.detach, Tensor.requires_grad_, Tensor.as_subclass):  # of which `nn.Parameter` is made
                return func(*args) if func is Tensor.as_subclass else args[0]
            if func is Tensor.__getitem__ and isinstance(args[1], slice):
                return args[0].rows(args[1])
            args, kwargs = tree_map(lambda a: a.widened() if isinstance(a, cls) else a, (args, dict(kwargs or {})))
            return func(*args, **kwargs)


def _linear(x: Tensor, weight: NarrowWeight, bias: Tensor | None = None) -> Tensor:
    """`(..., n_in)` float32 to `(..., n_out)` float32."""
    if weight.scale is None:
        return F.linear(x.bfloat16(), weight.stored, None if bias is None else bias.bfloat16()).float()
    # Each row has a step of its own: it is finer so, and no epoch of a batch touches another.
    step = _step(x)
    steps = (x / step).round_().to(torch.int8).reshape(-1, x.shape[-1])
    counts = torch._int_mm(steps, weight.stored.mT)  # noqa: SLF001
    y = counts.float().reshape(*x.shape[:-1], -1).mul_(step).mul_(weight.scale)
    return y if bias is None else y.add_(bias)


def _step(rows: Tensor) -> Tensor:
    """`(..., n)` to `(..., 1)`: what 127 of make the largest number of a row."""
    return rows.abs().amax(-1, keepdim=True).clamp_min(_LEAST) / 127


def precision_error(
    network: Network,
    precision: Precision,
    montage: Montage,
    epochs_uV: Float32Array,  # noqa: N803
    *,
    outputs: Sequence[OutputName] = ("embedding",),
    device: torch.device | None = None,
    **options: Any,
) -> dict[OutputName, float]:
    """How far results in a precision are from those in float32.

    Args:
        network: with its weights, on the device.
        precision: to judge.
        montage: of the epochs.
        epochs_uV: `(n_epochs, n_chans, n_times)` microvolts.
        outputs: of which to tell.
        device: where the network is; None is the CPU.
        options: of the model's `bind`.

    Returns:
        For each output the norm of the difference over the norm of what float32 gives.

    Raises:
        ConfigError: the device lacks the precision.
    """
    device = device or torch.device("cpu")
    refuse_unless_possible(precision, device)
    x = torch.from_numpy(epochs_uV).to(device)

    def encode(precision: Precision) -> dict[OutputName, Tensor]:
        use_on(device, precision)
        lowered = copy_sharing(network)
        lower(lowered, precision, device)
        with torch.inference_mode(), autocast(device, precision):
            binding = lowered.bind(montage, outputs=frozenset(outputs), **options)
            return lowered.encode(x, binding, frozenset(outputs))

    true, found = encode("float32"), encode(precision)
    return {name: relative_error(found[name].float().cpu(), true[name].cpu()) for name in outputs}
