"""Overlapping epochs joined into one continuous signal: the way back from epochs to a stream.

Each epoch contributes what is new, and fades in over the newest samples of the one before, with complementary weights
(weighted overlap-add). So the newest `blend` samples of an epoch are held until the next one, or the end, is there:

    epoch 0    [ ............. finished ............. | held ]
    epoch 1            [ ... passed over ............ | fade | finished | held ]
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from streamnode.errors import ContractError
from streamnode.signal.filters import BoolArray
from streamnode.types import Float32Array


@dataclass(frozen=True, slots=True, eq=False)
class Block:
    """Consecutive samples.

    Attributes:
        start: index of the first one.
        t0: its LSL time, by the newest epoch that is in them.
        data: `(n_times, n_chans)` float32.
        rebuilt: `(n_times, n_chans)`; true where an epoch that is in the sample had its channel rebuilt.
        piece: which continuous piece they belong to; within one, a block starts where the one before stopped.
    """

    start: int
    t0: float
    data: Float32Array
    rebuilt: BoolArray
    piece: int

    @property
    def stop(self) -> int:
        """Index after the last sample."""
        return self.start + len(self.data)


class OverlapAdd:
    """Joins the epochs of a stream.

    Epochs come in order, a hop apart that may vary. After a longer hop, for want of the epochs between, the fade is as
    long as what the two epochs share; where they share nothing and leave a hole, or the run is another, nothing is
    blended and a new piece begins.

    Args:
        n_chans: channels of an epoch.
        n_times: samples of an epoch.
        blend: samples to fade over; 0 changes over from one sample to the next.
        sfreq: sampling frequency, Hz.

    Raises:
        ContractError: the fade is negative, or longer than an epoch.
    """

    def __init__(self, n_chans: int, n_times: int, blend: int, sfreq: float) -> None:
        if not 0 <= blend < n_times:
            raise ContractError(f"epochs of {n_times} samples cannot fade over {blend}: blend fewer, and at least 0")
        self._blend = blend
        self._sfreq = sfreq
        self._nothing = np.empty((0, n_chans), np.float32)
        self._held: Block | None = None
        self._run = 0
        self._piece = -1

    @property
    def delay_s(self) -> float:
        """How long after a sample the epoch that finishes it must end, seconds."""
        return self._blend / self._sfreq

    def add(self, data: Float32Array, *, start: int, t0: float, run: int, rebuilt: BoolArray) -> list[Block]:
        """Take in the next epoch and return the samples it finishes.

        Args:
            data: `(n_chans, n_times)`.
            start: index of its first sample.
            t0: LSL time of that.
            run: epochs of different runs are not blended.
            rebuilt: `(n_chans,)`; which channels are not as they were measured.

        Returns:
            Blocks in order: none if the epoch ends no later than the one before, two if it begins a new piece.
        """
        before = self._held
        if before is not None and run == self._run and start <= before.stop:
            if start + data.shape[1] <= before.stop:
                return []
            return [self._advance(before, data.T, rebuilt, start, t0)]
        finished = self.flush()
        self._run = run
        self._piece += 1
        nothing = Block(start, t0, self._nothing, self._nothing.astype(bool), self._piece)
        return [*finished, self._advance(nothing, data.T, rebuilt, start, t0)]

    def flush(self) -> list[Block]:
        """The samples that are held, as no epoch follows that would blend with them; what comes next is a new piece."""
        held, self._held = self._held, None
        return [] if held is None or not len(held.data) else [held]

    def _advance(self, before: Block, rows: Float32Array, rebuilt: BoolArray, start: int, t0: float) -> Block:
        """Blend an epoch `(n_times, n_chans)` with what is held, hold its end, and return the rest."""
        joint = max(before.start, start)
        old, old_rebuilt = before.data[joint - before.start :], before.rebuilt[joint - before.start :]
        new = rows[joint - start :].copy()
        new_rebuilt = np.tile(rebuilt, (len(new), 1))
        new[: len(old)] = old + _fade_in(len(old)) * (new[: len(old)] - old)  # exact where both agree
        new_rebuilt[: len(old)] |= old_rebuilt
        alone = joint - before.start
        data = np.concatenate((before.data[:alone], new))
        flags = np.concatenate((before.rebuilt[:alone], new_rebuilt))
        cut = len(data) - self._blend
        first, piece = before.start, before.piece
        t_first = t0 + (first - start) / self._sfreq
        self._held = Block(first + cut, t_first + cut / self._sfreq, data[cut:], flags[cut:], piece)
        return Block(first, t_first, data[:cut], flags[:cut], piece)


def _fade_in(n_times: int) -> Float32Array:
    """`(n_times, 1)` rising half of a raised cosine; read backwards it is what is missing to 1."""
    phase = (np.arange(n_times, dtype=np.float32) + 0.5) / n_times
    return (0.5 - 0.5 * np.cos(np.pi * phase))[:, None].astype(np.float32)
