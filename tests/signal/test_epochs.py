"""Cutting epochs."""

from collections.abc import Iterable
from dataclasses import replace
from itertools import count

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamnode.errors import ContractError
from streamnode.signal.epochs import Epocher
from streamnode.types import Chunk, Epoch
from tests.signal import T0, as_chunk, cut, noise, stream

INFO = stream(256)


def epocher(n_times: int, hop: int, settling_s: float = 0.0) -> Epocher:
    return Epocher(INFO, n_times=n_times, hop=hop, clock=map(float, count()).__next__, settling_s=settling_s)


def feed(epochs_of: Epocher, chunks: Iterable[Chunk]) -> list[Epoch]:
    return [epoch for chunk in chunks for epoch in epochs_of(chunk)]


@settings(max_examples=40, deadline=None)
@given(
    n_times=st.integers(1, 60),
    hop=st.integers(1, 90),
    sizes=st.lists(st.integers(0, 150), min_size=1, max_size=6).filter(any),
    start=st.integers(0, 10**12),
)
def test_epochs_are_slices(n_times: int, hop: int, sizes: list[int], start: int) -> None:
    """In any chunking, epoch k is the samples from k hops on, transposed; none is left out and none made up."""
    whole = as_chunk(INFO, noise(400), start)
    epochs = feed(epocher(n_times, hop), cut(whole, sizes))
    assert len(epochs) == (400 - n_times) // hop + 1
    for k, epoch in enumerate(epochs):
        assert (epoch.seq, epoch.start, epoch.info) == (k, start + k * hop, INFO)
        np.testing.assert_array_equal(epoch.data, whole.data[k * hop : k * hop + n_times].T)


@pytest.mark.parametrize("n_chans", [1, 3])
@pytest.mark.parametrize("n_times", [1, 40])
def test_epochs_own_their_memory(n_chans: int, n_times: int) -> None:
    """An epoch is float32, contiguous, its own, and stays what it was when more samples come."""
    info = stream(256, ["C3", "Cz", "C4"][:n_chans])
    cutter = Epocher(info, n_times=n_times, hop=n_times, clock=lambda: 0.0)
    data = noise(80, n_chans).astype(np.float64)
    (first, *_) = cutter(as_chunk(info, data[:40]))
    cutter(as_chunk(info, data[40:], start=40))
    assert first.data.dtype == np.float32
    assert first.data.flags.c_contiguous
    assert first.data.flags.owndata
    assert first.data.flags.writeable
    np.testing.assert_array_equal(first.data, data[:n_times].T.astype(np.float32))


def test_times_are_those_of_the_samples() -> None:
    """The time of the last sample is read off the chunk that holds it, wherever in it the epoch ends."""
    for epoch in feed(epocher(100, 30), cut(as_chunk(INFO, noise(400), start=1000), [64])):
        assert epoch.t_last == pytest.approx(T0 + (epoch.start + 99) / 256, abs=1e-9)
        assert epoch.t0 == pytest.approx(T0 + epoch.start / 256, abs=1e-9)


def test_arrival_is_that_of_the_completing_chunk() -> None:
    """`t_arrived` is that of the chunk with the last sample, and the clock is read once per epoch."""
    chunks = [replace(chunk, t_arrived=float(i)) for i, chunk in enumerate(cut(as_chunk(INFO, noise(200)), [40]))]
    epochs = feed(epocher(100, 50), chunks)
    assert [epoch.t_arrived for epoch in epochs] == [2.0, 3.0, 4.0]
    assert [epoch.t_epoch for epoch in epochs] == [0.0, 1.0, 2.0]


def test_no_epoch_crosses_a_run() -> None:
    """A new run starts from nothing, wherever its indices are, and the numbers of the epochs go on."""
    cutter = epocher(100, 20)
    before = feed(cutter, [as_chunk(INFO, noise(150), start=0, run=4)])
    after = feed(cutter, [as_chunk(INFO, noise(99, seed=1), 500, 5), as_chunk(INFO, noise(30, seed=2), 599, 5)])
    again = feed(cutter, [as_chunk(INFO, noise(100, seed=3), 10, 6)])
    epochs = before + after + again
    assert [epoch.seq for epoch in epochs] == list(range(6))
    assert [epoch.run for epoch in epochs] == [4, 4, 4, 5, 5, 6]
    assert [epoch.start for epoch in epochs] == [0, 20, 40, 500, 520, 10]
    np.testing.assert_array_equal(after[0].data[:, :99], noise(99, seed=1).T)
    np.testing.assert_array_equal(again[0].data, noise(100, seed=3).T)


def test_settling_epochs_say_so() -> None:
    """Epochs that begin within the settling time of their run are marked, in every run."""
    cutter = epocher(64, 64, settling_s=0.5)
    for run in (0, 1):
        epochs = feed(cutter, cut(as_chunk(INFO, noise(320), start=1000 * run, run=run), [50]))
        assert [epoch.settling for epoch in epochs] == [True, True, False, False, False]


def test_missing_samples_are_counted() -> None:
    """An epoch counts the missing samples of the chunks in it; of a chunk it shares, as many as may be its own."""
    parts = cut(as_chunk(INFO, noise(60)), [10])
    chunks = [replace(chunk, n_missing=k) for chunk, k in zip(parts, [0, 3, 8, 0, 10, 0], strict=True)]
    epochs = feed(epocher(20, 15), chunks)
    assert [(epoch.start, epoch.n_missing) for epoch in epochs] == [(0, 3), (15, 11), (30, 10)]


def test_missing_samples_of_another_run_do_not_count() -> None:
    """A run that has the indices of the one before, as after a reconnect, does not inherit its missing samples."""
    cutter = epocher(20, 20)
    cutter(replace(as_chunk(INFO, noise(15), run=0), n_missing=5))
    (epoch,) = cutter(as_chunk(INFO, noise(20), run=1))
    assert epoch.n_missing == 0


@pytest.mark.parametrize(("n_times", "hop"), [(0, 1), (10, 0)])
def test_refuses_less_than_a_sample(n_times: int, hop: int) -> None:
    """Epochs and hops of no samples are refused."""
    with pytest.raises(ContractError, match="make both at least 1"):
        epocher(n_times, hop)
