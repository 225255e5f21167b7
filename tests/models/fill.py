"""Numbers that depend on a name and a position alone: the weights and inputs behind golden values."""

from __future__ import annotations

import zlib
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from streamnode.types import Float64Array


def uniform(name: str, shape: tuple[int, ...]) -> Float64Array:
    """Hashed uniform numbers in [-0.5, 0.5), row-major; EEG-DINO's and EEGPT's specifications, section 7.1."""
    with np.errstate(over="ignore"):
        index = np.arange(1, int(np.prod(shape)) + 1, dtype=np.uint32)
        h = np.uint32(zlib.crc32(name.encode())) + np.uint32(2654435761) * index
        h ^= h >> np.uint32(16)
        h *= np.uint32(0x85EBCA6B)
        h ^= h >> np.uint32(13)
        h *= np.uint32(0xC2B2AE35)
        h ^= h >> np.uint32(16)
    return (h / 2.0**32 - 0.5).reshape(shape)


def filled(shapes: Mapping[str, tuple[int, ...]], *, plain: frozenset[str]) -> dict[str, Tensor]:
    """A float64 state: gains around 1, biases around 0, weights of variance 1 / fan-in, and `plain` ones as hashed."""
    state = {}
    for name, shape in shapes.items():
        u = uniform(name, tuple(shape))
        if name in plain:
            values = u
        elif len(shape) == 1:
            values = 1 + 0.5 * u if name.endswith("weight") else 0.5 * u
        else:
            values = 2 * (3 * shape[0] / u.size) ** 0.5 * u
        state[name] = torch.from_numpy(values)
    return state
