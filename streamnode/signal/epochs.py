"""Cuts a run of samples into epochs of fixed length, one every hop."""

from __future__ import annotations

from streamnode.errors import ContractError
from streamnode.signal.ring import RingBuffer
from streamnode.types import Chunk, Clock, Epoch, Float32Array, StreamInfo


class Epocher:
    """Yields an epoch as soon as its last sample is there.

    The first epoch ends `n_times` samples after a run starts, and none crosses from one run to the next.

    Args:
        info: the stream as the model sees it.
        n_times: samples in an epoch.
        hop: samples from one epoch to the next.
        clock: LSL clock, read when an epoch is cut.
        settling_s: epochs that begin less than this after the start of their run are marked as settling.
        first_seq: number of the first epoch, for an epocher that takes over from another.

    Raises:
        ContractError: an epoch or a hop is less than one sample.
    """

    def __init__(
        self, info: StreamInfo, *, n_times: int, hop: int, clock: Clock, settling_s: float = 0.0, first_seq: int = 0
    ) -> None:
        if min(n_times, hop) < 1:
            raise ContractError(f"epochs of {n_times} samples every {hop} cannot be cut: make both at least 1")
        self.info = info
        self._n_times = n_times
        self._hop = hop
        self._clock = clock
        self._ring = RingBuffer(info.n_chans, n_times)
        self._seq = first_seq
        self._run: int | None = None
        self._due = 0
        self._settled = 0.0
        self._settling = settling_s * info.sfreq
        self._gaps: list[Chunk] = []

    def __call__(self, chunk: Chunk) -> list[Epoch]:
        """Take in the next samples and return the epochs they complete, in order."""
        if chunk.n_times == 0:
            return []
        if chunk.run != self._run:
            self._begin(chunk)
        if chunk.n_missing:
            self._gaps.append(chunk)
        epochs: list[Epoch] = []
        stop = chunk.start + chunk.n_times
        while self._ring.end < stop:
            done = self._ring.end - chunk.start
            self._ring.append(chunk.data[done : min(self._due, stop) - chunk.start])
            if self._ring.end == self._due:
                epochs.append(self._cut(chunk))
        return epochs

    def _begin(self, chunk: Chunk) -> None:
        self._run = chunk.run
        self._ring.reset(chunk.start)
        self._due = chunk.start + self._n_times
        self._settled = chunk.start + self._settling
        self._gaps.clear()

    def _cut(self, chunk: Chunk) -> Epoch:
        """The epoch that is due now; its last sample is in `chunk`."""
        start, stop = self._due - self._n_times, self._due
        t_last = chunk.t0 + (stop - 1 - chunk.start) / chunk.info.sfreq
        epoch = Epoch(
            info=self.info,
            data=self._window(start, stop),
            seq=self._seq,
            start=start,
            t0=t_last - (self._n_times - 1) / self.info.sfreq,
            t_last=t_last,
            t_arrived=chunk.t_arrived,
            t_epoch=self._clock(),
            run=chunk.run,
            n_missing=self._count_missing(start, stop),
            settling=start < self._settled,
        )
        self._seq += 1
        self._due += self._hop
        return epoch

    def _window(self, start: int, stop: int) -> Float32Array:
        """`(n_chans, n_times)`: the one place where time becomes the last axis, and the one copy."""
        return self._ring.window(start, stop).T.copy(order="C")

    def _count_missing(self, start: int, stop: int) -> int:
        """Missing samples of the chunks in this epoch; one it holds in part counts as far as it may be within."""
        self._gaps = [gap for gap in self._gaps if gap.start + gap.n_times > start]
        spans = [(max(gap.start, start), min(gap.start + gap.n_times, stop), gap.n_missing) for gap in self._gaps]
        return sum(min(last - first, n_missing) for first, last, n_missing in spans)
