"""The ring buffer against plain slicing of all samples there ever were."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamnode.signal.ring import RingBuffer
from tests.signal import noise

DATA = noise(400, 2)


@settings(max_examples=60, deadline=None)
@given(
    capacity=st.integers(1, 40),
    sizes=st.lists(st.integers(0, 60), min_size=1, max_size=12),
    origin=st.integers(0, 10**12),
)
def test_holds_the_latest(capacity: int, sizes: list[int], origin: int) -> None:
    """Whatever is appended, every window of what is held is the samples of those indices, contiguous in memory."""
    ring, done = RingBuffer(2, capacity), 0
    ring.reset(origin)
    for size in sizes:
        chunk = DATA[done : done + size]
        ring.append(chunk)
        done += len(chunk)
        assert (ring.first, ring.end) == (origin + max(0, done - capacity), origin + done)
        for start in range(max(0, done - capacity), done):
            window = ring.window(origin + start, origin + done)
            assert window.flags.c_contiguous
            np.testing.assert_array_equal(window, DATA[start:done])


@pytest.mark.parametrize(("start", "stop"), [(94, 100), (100, 106), (90, 92), (103, 101)])
def test_refuses_what_it_does_not_hold(start: int, stop: int) -> None:
    """Reading samples that are gone or not yet there is an error that gives the bounds."""
    ring = RingBuffer(2, 10)
    ring.reset(80)
    ring.append(DATA[:25])
    assert ring.window(95, 105).shape == (10, 2)
    with pytest.raises(IndexError, match="the ring has 95 to 105"):
        ring.window(start, stop)


def test_before_the_origin_there_is_nothing() -> None:
    """After a reset the ring holds nothing of before, even where there was room."""
    ring = RingBuffer(2, 10)
    ring.append(DATA[:5])
    ring.reset(5)
    assert ring.window(5, 5).shape == (0, 2)
    with pytest.raises(IndexError, match="the ring has 5 to 5"):
        ring.window(4, 5)


def test_windows_are_read_only() -> None:
    """A window is a view of the ring, and nobody can write through it."""
    ring = RingBuffer(2, 10)
    ring.append(DATA[:10])
    with pytest.raises(ValueError, match="read-only"):
        ring.window(0, 10)[0] = 0


def test_needs_room() -> None:
    """A ring without room for a sample is refused."""
    with pytest.raises(ValueError, match="at least one sample"):
        RingBuffer(2, 0)
