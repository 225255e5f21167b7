"""Number formats of a network: what each device can do, weights kept narrow, and what that costs in accuracy.

Only the matrices of transformer layers, which are nearly all of the weights and of the work, are kept otherwise than as
plain float32. On a CPU all else stays that, inputs and results of these products included; on a GPU autocast decides,
under which norms and softmax stay float32.
"""

from __future__ import annotations

import copy
import ctypes
import logging
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import chain
from typing import Any, Literal, cast, get_args

import torch
import torch.nn.functional as F  # noqa: N812  (its name everywhere)
from torch import Tensor, nn

from streamnode.errors import ConfigError
from streamnode.inference.cpu import relative_error, speedup
from streamnode.inference.stored import Kept, StoredWeight, can_pack
from streamnode.models.family import Network
from streamnode.types import Float32Array, Montage, OutputName

log = logging.getLogger(__name__)

Precision = Literal["float32", "tf32", "bfloat16", "float16", "int8"]

_HALVES = {"bfloat16": torch.bfloat16, "float16": torch.float16}
_NARROWEST = 128  # rows or columns below which a matrix is no work worth another form
_GROSS = 0.05  # an error that no rounding explains


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
    narrow = StoredWeight.of(weight, cast("Kept", precision))
    if relative_error(F.linear(x, narrow), F.linear(x, weight)) > _GROSS:
        raise ConfigError(f"products in {precision} come out wrong on this CPU: use precision float32")
    wide = StoredWeight.of(weight, "float32") if can_pack(torch.float32) else weight
    gain = speedup(lambda: F.linear(x, wide), lambda: F.linear(x, narrow))
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
    """Put the large matrices of a network into a precision, one by one, so that there never are two copies.

    On a CPU float32 ones are packed.
    """
    convert = _converter(precision, device)
    if convert is None:
        return
    modules = cast("nn.Module", network).modules()
    for layer in (layer for layers in modules if isinstance(layers, nn.ModuleList) for layer in layers):
        for part in layer.modules():
            for name, weight in part.named_parameters(recurse=False):
                if weight.ndim == 2 and min(weight.shape) >= _NARROWEST:
                    # Not by setattr, which looks at the gradient of what it is given, for which it would be widened.
                    part._parameters[name] = nn.Parameter(convert(weight), requires_grad=False)  # noqa: SLF001
        _give_back_memory()


def _give_back_memory() -> None:
    """Return to the system what was freed between blocks that stay, where its allocator (glibc) would keep it."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)


def _converter(precision: Precision, device: torch.device) -> Callable[[Tensor], Tensor] | None:
    """Makes of a matrix what is kept of it; None where that is the matrix itself."""
    if device.type == "cpu":
        kept = cast("Kept", precision)
        return (lambda weight: StoredWeight.of(weight, kept)) if kept != "float32" or can_pack(torch.float32) else None
    half = _HALVES.get(precision)
    return (lambda weight: weight.to(half)) if half is not None else None


def tolerance_of(precision: Precision) -> float:
    """By how much results in a precision may differ between two ways to the same: rounding, deep networks included."""
    return 1e-4 if precision in ("float32", "tf32") else _GROSS


def copy_sharing(network: Network) -> Network:
    """Another network with the same tensors."""
    module = cast("nn.Module", network)
    shared = {id(tensor): tensor for tensor in chain(module.parameters(), module.buffers())}
    return cast("Network", copy.deepcopy(module, shared))


def plain_copy(network: Network) -> Network:
    """Another network as compilers can read it: its stored weights are plain matrices, all other tensors the same."""
    copied = cast("nn.Module", copy_sharing(network))
    for part in copied.modules():
        for name, weight in part._parameters.items():  # noqa: SLF001
            if isinstance(weight, StoredWeight):
                part._parameters[name] = nn.Parameter(weight.plain(), requires_grad=False)  # noqa: SLF001
    return cast("Network", copied)


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

    def encode(network: Network, precision: Precision) -> dict[OutputName, Tensor]:
        use_on(device, precision)
        with torch.inference_mode(), autocast(device, precision):
            binding = network.bind(montage, outputs=frozenset(outputs), **options)
            return network.encode(x, binding, frozenset(outputs))

    lowered = copy_sharing(network)
    lower(lowered, precision, device)
    true, found = encode(network, "float32"), encode(lowered, precision)
    return {name: relative_error(found[name].float().cpu(), true[name].cpu()) for name in outputs}
