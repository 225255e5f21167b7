"""Promises of `streamnode.signal.overlap`."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, groupby

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamnode.errors import ContractError
from streamnode.signal.overlap import Block, OverlapAdd
from streamnode.types import Float32Array
from tests.signal import noise

SFREQ, T0 = 250.0, 1000.0
N_TIMES = 40
DATA = noise(1200, 3).T.copy()
GOOD = np.zeros(3, dtype=bool)


def epoch(start: int, data: Float32Array = DATA) -> Float32Array:
    return data[:, start : start + N_TIMES]


def joined(blend: int, epochs: Sequence[tuple[int, Float32Array]], n_chans: int = 3) -> list[Block]:
    """All blocks of epochs of one run, the last one flushed; `t0` follows from the index."""
    join = OverlapAdd(n_chans, N_TIMES, blend, SFREQ)
    blocks: list[Block] = []
    for start, data in epochs:
        rebuilt = np.zeros(n_chans, dtype=bool)
        blocks += join.add(data, start=start, t0=T0 + start / SFREQ, run=0, rebuilt=rebuilt)
    return blocks + join.flush()


def indices(blocks: Sequence[Block]) -> list[int]:
    return [index for block in blocks for index in range(block.start, block.stop)]


def samples(blocks: Sequence[Block]) -> Float32Array:
    """`(n_chans, n_times)`."""
    return np.concatenate([block.data for block in blocks]).T


BLENDS = st.integers(0, N_TIMES - 1)
HOPS = st.lists(st.integers(1, N_TIMES + 10), max_size=20)


@settings(max_examples=100, deadline=None)
@given(blend=BLENDS, hops=HOPS)
def test_every_sample_once_and_unchanged_where_epochs_agree(blend: int, hops: list[int]) -> None:
    """Whatever the hops, what epochs cover comes out once, in order, bit for bit, at its time; a hole ends a piece."""
    starts = list(accumulate(hops, initial=0))
    blocks = joined(blend, [(start, epoch(start)) for start in starts])
    covered = sorted({index for start in starts for index in range(start, start + N_TIMES)})
    assert indices(blocks) == covered
    np.testing.assert_array_equal(samples(blocks), DATA[:, covered])
    np.testing.assert_allclose([b.t0 for b in blocks], [T0 + b.start / SFREQ for b in blocks], rtol=0, atol=1e-9)
    pieces = [indices(list(piece)) for _, piece in groupby(blocks, lambda block: block.piece)]
    assert all(piece == list(range(piece[0], piece[-1] + 1)) for piece in pieces)
    assert len(pieces) == 1 + sum(hop > N_TIMES for hop in hops)


@settings(max_examples=60, deadline=None)
@given(blend=BLENDS, hops=HOPS)
def test_invents_nothing(blend: int, hops: list[int]) -> None:
    """Where epochs disagree, a sample lies between the least and the greatest that any of them says."""
    starts = list(accumulate(hops, initial=0))
    epochs = [noise(N_TIMES, 1, seed=seed).T for seed, _ in enumerate(starts)]
    blocks = joined(blend, list(zip(starts, epochs, strict=True)), n_chans=1)
    said: dict[int, list[float]] = {}
    for start, data in zip(starts, epochs, strict=True):
        for i, value in enumerate(data[0]):
            said.setdefault(start + i, []).append(float(value))
    slack = 1e-3  # float32 at some millivolts
    for index, value in zip(indices(blocks), samples(blocks)[0], strict=True):
        assert min(said[index]) - slack <= value <= max(said[index]) + slack


@pytest.mark.parametrize("hop", [10, 17, N_TIMES - 10])
def test_no_jump_where_epochs_disagree(hop: int) -> None:
    """A level that differs from epoch to epoch changes over a raised cosine, whose steepest step is 16 % over 10."""
    epochs = [(i * hop, np.full((1, N_TIMES), 100.0 * (i % 2), np.float32)) for i in range(8)]
    steps = np.abs(np.diff(samples(joined(10, epochs, n_chans=1))[0]))
    assert 15.0 < steps.max() < 16.0
    assert steps[:25].max() == 0.0


def test_fade_is_a_raised_cosine() -> None:
    """From one level to another over 4 samples, the weights are those of the formula and add up to 1."""
    epochs = [(0, np.zeros((1, N_TIMES), np.float32)), (20, np.ones((1, N_TIMES), np.float32))]
    out = samples(joined(4, epochs, n_chans=1))[0]
    fade = np.sin(np.pi * (np.arange(4) + 0.5) / 8) ** 2
    np.testing.assert_allclose(out[34:42], [0, 0, *fade, 1, 1], atol=1e-6)
    np.testing.assert_allclose(fade + fade[::-1], 1.0, atol=1e-12)


@pytest.mark.parametrize(("hop", "n_shared"), [(30, 10), (33, 7), (39, 1), (40, 0)])
def test_late_epoch_fades_over_what_is_left(hop: int, n_shared: int) -> None:
    """After dropped epochs the fade is as long as what two epochs share, down to nothing, and no sample is missing."""
    epochs = [(0, np.zeros((1, N_TIMES), np.float32)), (hop, np.ones((1, N_TIMES), np.float32))]
    blocks = joined(10, epochs, n_chans=1)
    out = samples(blocks)[0]
    assert {block.piece for block in blocks} == {0}
    assert len(out) == hop + N_TIMES
    assert ((out > 0) & (out < 1)).sum() == n_shared
    assert not out[: N_TIMES - n_shared].any()
    assert (out[N_TIMES:] == 1).all()


def test_runs_never_mix() -> None:
    """A new run ends the piece: what was held comes out as it is, even where indices would overlap."""
    join = OverlapAdd(1, N_TIMES, 10, SFREQ)
    zeros, ones = np.zeros((1, N_TIMES), np.float32), np.ones((1, N_TIMES), np.float32)
    good = np.zeros(1, dtype=bool)
    join.add(zeros, start=0, t0=T0, run=0, rebuilt=good)
    held, fresh = join.add(ones, start=20, t0=T0 + 50, run=1, rebuilt=~good)
    assert (held.start, held.stop, held.piece) == (30, 40, 0)
    assert (fresh.start, fresh.stop, fresh.piece) == (20, 50, 1)
    assert held.t0 == pytest.approx(T0 + 30 / SFREQ)
    assert fresh.t0 == T0 + 50
    assert not held.data.any()
    assert not held.rebuilt.any()
    assert (fresh.data == 1).all()
    assert fresh.rebuilt.all()


def test_nothing_is_blended_with_what_was_flushed() -> None:
    """After a flush the next epoch begins a piece of its own, and a second flush yields nothing."""
    join = OverlapAdd(3, N_TIMES, 10, SFREQ)
    join.add(epoch(0), start=0, t0=T0, run=0, rebuilt=GOOD)
    (held,) = join.flush()
    assert join.flush() == []
    (block,) = join.add(epoch(20), start=20, t0=T0, run=0, rebuilt=GOOD)
    assert (held.piece, block.piece, block.start) == (0, 1, 20)


def test_epoch_with_nothing_new_is_passed_over() -> None:
    """An epoch that ends no later than the one before finishes no sample and changes none."""
    join = OverlapAdd(3, N_TIMES, 10, SFREQ)
    join.add(epoch(20), start=20, t0=T0, run=0, rebuilt=GOOD)
    assert join.add(epoch(0), start=20, t0=T0, run=0, rebuilt=~GOOD) == []
    (held,) = join.flush()
    np.testing.assert_array_equal(held.data.T, DATA[:, 50:60])
    assert not held.rebuilt.any()


def test_rebuilt_is_what_any_epoch_rebuilt() -> None:
    """A channel that two of three epochs rebuilt is flagged from the first sample they are in to the last."""
    join = OverlapAdd(3, N_TIMES, 10, SFREQ)
    blocks: list[Block] = []
    for i in range(5):
        rebuilt = np.array([False, i in {1, 2}, True])
        blocks += join.add(epoch(20 * i), start=20 * i, t0=T0, run=0, rebuilt=rebuilt)
    blocks += join.flush()
    flags = np.concatenate([block.rebuilt for block in blocks])
    assert not flags[:, 0].any()
    assert flags[:, 2].all()
    assert np.flatnonzero(flags[:, 1]).tolist() == list(range(30, 80))


@pytest.mark.parametrize("ppm", [-100.0, 100.0])
def test_times_are_those_of_the_newest_epoch(ppm: float) -> None:
    """Where the device's clock drifts, the last sample of each block has its time by the epoch that finished it."""
    join, hop, blend, step = OverlapAdd(3, N_TIMES, 10, SFREQ), 20, 10, (1 + ppm * 1e-6) / SFREQ
    for i in range(50):
        t_last = T0 + (i * hop + N_TIMES - 1) * step
        t0 = t_last - (N_TIMES - 1) / SFREQ  # as epochs are stamped
        (block,) = join.add(epoch(i * hop), start=i * hop, t0=t0, run=0, rebuilt=GOOD)
        t_end = block.t0 + (len(block.data) - 1) / SFREQ
        assert t_end == pytest.approx(t_last - blend / SFREQ, abs=1e-9)
        assert t_end == pytest.approx(T0 + (block.stop - 1) * step, abs=2e-5)


def test_input_and_past_blocks_stay_as_they_are() -> None:
    """Nothing is written into an epoch that was given or a block that was handed out."""
    join = OverlapAdd(3, N_TIMES, 10, SFREQ)
    first, second = epoch(0).copy(), epoch(500).copy()
    (block,) = join.add(first, start=0, t0=T0, run=0, rebuilt=GOOD)
    join.add(second, start=20, t0=T0, run=0, rebuilt=~GOOD)
    np.testing.assert_array_equal(first, epoch(0))
    np.testing.assert_array_equal(second, epoch(500))
    np.testing.assert_array_equal(block.data.T, DATA[:, :30])
    assert not block.rebuilt.any()
    assert not GOOD.any()


def test_delay_is_declared() -> None:
    """The delay is that of the fade; each epoch but the first finishes a hop."""
    join = OverlapAdd(3, N_TIMES, 10, SFREQ)
    assert join.delay_s == 10 / SFREQ
    (first,) = join.add(epoch(0), start=0, t0=T0, run=0, rebuilt=GOOD)
    (second,) = join.add(epoch(20), start=20, t0=T0, run=0, rebuilt=GOOD)
    assert (first.start, first.stop) == (0, N_TIMES - 10)
    assert (second.start, second.stop) == (N_TIMES - 10, N_TIMES + 10)


@pytest.mark.parametrize("blend", [-1, N_TIMES])
def test_fade_must_fit_an_epoch(blend: int) -> None:
    """A fade that leaves nothing of an epoch to finish is refused, with what to do."""
    with pytest.raises(ContractError, match="blend fewer"):
        OverlapAdd(3, N_TIMES, blend, SFREQ)
