"""Which samples were filled in, told with the later ones that stand for them."""

from __future__ import annotations

from streamnode.types import Chunk


class Filled:
    """Remembers the samples that were filled in until a transform with a delay hands on what it made of them.

    Outgoing sample n lies at incoming position n * down / up, and reaches to the one after it.

    Args:
        up: by how much the transform raises the rate ...
        down: ... and by how much it then lowers it.
    """

    def __init__(self, up: int = 1, down: int = 1) -> None:
        self._up, self._down = up, down
        self._spans: list[tuple[int, int]] = []  # of outgoing samples, from the first up to that after the last

    def add(self, chunk: Chunk) -> None:
        """Take note of the next incoming samples."""
        if not chunk.n_missing:
            return
        first = chunk.start * self._up // self._down
        end = -(-(chunk.start + chunk.n_missing) * self._up // self._down)
        self._spans.append((max(first, self._spans[-1][1]) if self._spans else first, end))

    def take(self, start: int, stop: int) -> int:
        """How many of the next outgoing samples, from `start` up to `stop`, are filled in, if only in part."""
        n_filled = sum(max(0, min(end, stop) - max(first, start)) for first, end in self._spans)
        self._spans = [(first, end) for first, end in self._spans if end > stop]
        return n_filled
