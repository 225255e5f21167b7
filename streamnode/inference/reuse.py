"""Overlapping epochs through a model that looks at one patch at a time: only the patches that are new are computed.

What such a network says of a patch is the same in every epoch that holds it, so an epoch that shares all but its last
patch with the one before costs one patch. The results are those of whole epochs but for the order of sums.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from streamnode.types import Epoch, OutputName

_AT_ONCE = 256  # patches: where many streams begin together, all of theirs are new
MOST = 1 << 16  # patches of a pass that is compiled, which serves epochs of any length


@runtime_checkable
class Patchwise(Protocol):
    """A network in which no patch knows of another until the outputs are read out.

    Attributes:
        config: with `patch` and `patch_stride` in samples.
    """

    config: Any

    @property
    def encode_patches(self) -> Callable[..., Tensor]:
        """`encode_patches(patches_uv, binding)` makes tokens `(n, S, D)` of patches `(n, n_chans, patch)`."""
        ...

    @property
    def prepare(self) -> Callable[..., Tensor]:
        """`prepare(x_uv, binding)` makes of samples `(..., n_chans, n_times)` what patches are cut from."""
        ...

    @property
    def forward(self) -> Callable[..., Tensor]:
        """`forward(patches, binding)` makes tokens of prepared patches, unless the binding's `compiled` does."""
        ...

    @property
    def read_out(self) -> Callable[..., dict[OutputName, Tensor]]:
        """`read_out(tokens, binding, outputs)` makes outputs of the tokens `(n_epochs, n_patches, S, D)`."""
        ...


class EncodingOfPatches(nn.Module):
    """What is compiled of such a network: it serves whole epochs as well as those of which few patches are new.

    Args:
        network: with its weights.
        binding: made outside of inference mode.
    """

    def __init__(self, network: Patchwise, binding: Any) -> None:
        super().__init__()
        self.network, self.binding = network, binding

    def forward(self, x: Tensor) -> dict[OutputName, Tensor]:
        """Prepared patches to their `tokens`."""
        return {"tokens": self.network.forward(x, self.binding)}


@dataclass(slots=True, eq=False)
class PatchCache:
    """The tokens of the latest epoch of one stream.

    Attributes:
        stride: samples from one patch to the next.
        run: that its samples belong to.
        start: absolute index of its first sample.
        tokens: `(n_patches, S, D)`; None before the first epoch.
    """

    stride: int
    run: int = 0
    start: int = 0
    tokens: Tensor | None = None

    def shared(self, epoch: Epoch) -> Tensor | None:
        """The tokens of the first patches of a later epoch, as far as the two overlap; None where they do not."""
        if self.tokens is None or epoch.run != self.run:
            return None
        shift, between = divmod(epoch.start - self.start, self.stride)
        return None if between or not 0 < shift < len(self.tokens) else self.tokens[shift:]

    def keep(self, epoch: Epoch, tokens: Tensor) -> None:
        """Remember an epoch in place of the one before."""
        self.run, self.start, self.tokens = epoch.run, epoch.start, tokens


def encode(
    network: Patchwise,
    binding: Any,
    outputs: Collection[OutputName],
    epochs: Sequence[Epoch],
    caches: Sequence[PatchCache],
    *,
    to_device: Callable[[Tensor], Tensor],
) -> dict[OutputName, Tensor]:
    """What a network says of some epochs, each of another stream.

    Args:
        network: in evaluation.
        binding: of the channels of all epochs.
        outputs: what to compute.
        epochs: of equal length, of whole patches to their last sample.
        caches: that of the stream of each epoch; they remember the epochs.
        to_device: takes samples to where the network is, in its precision.

    Returns:
        As of the network's `read_out`.
    """
    patch, stride = network.config.patch, network.config.patch_stride
    shared = [cache.shared(epoch) for epoch, cache in zip(epochs, caches, strict=True)]
    new = [
        _cut(epoch, 0 if tokens is None else len(tokens), patch, stride)
        for epoch, tokens in zip(epochs, shared, strict=True)
    ]
    parts = torch.split(to_device(torch.cat(new)), _AT_ONCE)
    tokens_of_new = torch.cat([network.encode_patches(part, binding) for part in parts])
    encoded = tokens_of_new.split_with_sizes([len(patches) for patches in new])
    # Each stream's tokens are memory of their own: a stream that pauses keeps no whole batch alive.
    whole = [
        last.clone() if first is None else torch.cat((first, last)) for first, last in zip(shared, encoded, strict=True)
    ]
    results = network.read_out(torch.stack(whole), binding, outputs)
    for epoch, cache, tokens in zip(epochs, caches, whole, strict=True):
        cache.keep(epoch, tokens)
    return results


def _cut(epoch: Epoch, first: int, patch: int, stride: int) -> Tensor:
    """The patches of an epoch from the given one on: `(n, n_chans, patch)`."""
    return torch.from_numpy(epoch.data[:, first * stride :]).unfold(-1, patch, stride).movedim(1, 0)


def stride_of(network: object) -> int | None:
    """Samples from one patch to the next in a network that looks at each alone; None for any other."""
    return int(network.config.patch_stride) if isinstance(network, Patchwise) else None
