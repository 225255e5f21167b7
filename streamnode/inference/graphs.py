"""Passes on a GPU as CUDA graphs: recorded once for each batch size, replayed by a single launch.

A recording begins with the copy of the epochs from pinned memory and ends with that of the results to pinned memory, on
a stream of its own; so a pass is: write, launch, wait, read.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from threading import Lock
from typing import Any

import torch
from torch import Tensor

from streamnode.types import OutputName

log = logging.getLogger(__name__)

Encode = Callable[[Tensor], dict[OutputName, Tensor]]

_WARM_UPS = 3  # libraries choose kernels and allocate in the first passes, which no recording may


def batch_sizes(most: int) -> list[int]:
    """1, 2, 4 ... and the most."""
    return [*(1 << power for power in range((most - 1).bit_length())), most]


def record(encode: Encode, shape: tuple[int, ...], max_batch: int, device: torch.device) -> Encode | None:
    """All batch sizes of a pass, recorded.

    Args:
        encode: takes `(B, C, T)` on the device.
        shape: `(C, T)` of an epoch.
        max_batch: the most epochs of a pass.
        device: a GPU.

    Returns:
        Takes and gives tensors on the CPU, up to `max_batch` epochs, from any thread; None, having said why, where the
        network does what cannot be recorded.

    Raises:
        torch.OutOfMemoryError: the largest batch does not fit.
    """
    try:
        with torch.cuda.device(device), torch.inference_mode():
            pool = torch.cuda.graph_pool_handle()  # one for all, as no two of them ever run at once
            # The largest first: its memory does for the others.
            graphs = [Graph(encode, (size, *shape), pool) for size in reversed(batch_sizes(max_batch))]
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        log.warning("a pass cannot be recorded as a CUDA graph and is launched bit by bit: %.200s", error)
        return None
    return one_at_a_time(lambda x: fitting(graphs, len(x))(x))


def one_at_a_time(encode: Encode) -> Encode:
    """Passes that use the same memory every time: threads that share them take turns."""
    turn = Lock()

    def encode_in_turn(x: Tensor) -> dict[OutputName, Tensor]:
        with turn:
            return encode(x)

    return encode_in_turn


class Graph:
    """One pass of a fixed shape.

    Args:
        encode: takes `(B, C, T)` on the present device.
        shape: `(B, C, T)`.
        pool: of memory, shared by recordings that never run at once.
    """

    def __init__(self, encode: Encode, shape: tuple[int, ...], pool: Any) -> None:
        self.size = shape[0]
        self._encode = encode  # owns weights and constants, whose addresses are in the recording
        self._stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        self._graph = torch.cuda.CUDAGraph()
        self._there = torch.zeros(shape, pin_memory=True)
        self._x = torch.zeros(shape, device="cuda")
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            for _ in range(_WARM_UPS):
                results = encode(self._x)
        self._back = {name: torch.empty(tensor.shape, pin_memory=True) for name, tensor in results.items()}
        self._stream.synchronize()
        del results
        with torch.cuda.graph(self._graph, pool=pool, stream=self._stream, capture_error_mode="thread_local"):
            self._x.copy_(self._there, non_blocking=True)
            for name, tensor in encode(self._x).items():
                self._back[name].copy_(tensor.float(), non_blocking=True)

    def __call__(self, x: Tensor) -> dict[OutputName, Tensor]:
        """`(n, C, T)` on the CPU, n at most `size`; what is left in the other rows concerns nobody."""
        self._there[: len(x)].copy_(x)
        with torch.cuda.stream(self._stream):
            self._graph.replay()
        self._stream.synchronize()
        return {name: tensor[: len(x)].clone() for name, tensor in self._back.items()}


def fitting(graphs: Sequence[Graph], n_epochs: int) -> Graph:
    """The smallest that takes so many epochs."""
    return min((graph for graph in graphs if graph.size >= n_epochs), key=lambda graph: graph.size)
