"""The most recent samples of a stream, addressed by absolute sample index.

Every sample is written twice, one capacity apart, so that any window of up to a capacity is one contiguous view and
nothing is ever rolled or joined. Capacity 4, after the samples 0 to 5:

    row      0  1  2  3 | 4  5  6  7
    sample   4  5  2  3 | 4  5  2  3
                   [ 2 .. 5 ]          the window (2, 6)
"""

from __future__ import annotations

import numpy as np

from streamnode.types import Float32Array, FloatArray


class RingBuffer:
    """Holds the latest samples of one run.

    Args:
        n_chans: number of channels.
        n_times: how many samples it holds.
    """

    def __init__(self, n_chans: int, n_times: int) -> None:
        if n_times < 1:
            raise ValueError(f"a ring buffer holds at least one sample, not {n_times}")
        self._rows = np.empty((2 * n_times, n_chans), dtype=np.float32)
        self._capacity = n_times
        self._origin = self._end = 0

    @property
    def first(self) -> int:
        """Index of the oldest sample still held."""
        return max(self._origin, self._end - self._capacity)

    @property
    def end(self) -> int:
        """Index after the newest sample."""
        return self._end

    def reset(self, start: int) -> None:
        """Forget all samples; the next one appended gets the index `start`."""
        self._origin = self._end = start

    def append(self, data: FloatArray) -> None:
        """Add the next samples, `(n_times, n_chans)`; the oldest make room."""
        end = self._end + len(data)
        kept = data[-self._capacity :]
        rows = np.arange(end - len(kept), end) % self._capacity
        self._rows[rows] = kept
        self._rows[rows + self._capacity] = kept
        self._end = end

    def window(self, start: int, stop: int) -> Float32Array:
        """The samples from `start` up to `stop`.

        Returns:
            `(stop - start, n_chans)`, a read-only view that the next `append` overwrites.

        Raises:
            IndexError: some of them are not held (any more, or yet).
        """
        if not self.first <= start <= stop <= self.end:
            raise IndexError(f"samples {start} to {stop} are not all held: the ring has {self.first} to {self.end}")
        row = start % self._capacity
        view = self._rows[row : row + stop - start]
        view.flags.writeable = False
        return view
