"""A source that listens for the mains before it is used."""

from __future__ import annotations

import math

import numpy as np
import pytest

from streamnode.errors import ContractError, StreamLost
from streamnode.sources.listening import ListeningSource
from streamnode.sources.synthetic import SyntheticEeg, SyntheticSource
from streamnode.types import Source
from tests.sources.test_aligned import Scripted, stream


def synthetic(line_hz: float, duration_s: float) -> Source:
    eeg = SyntheticEeg(sfreq=250.0, seed=1, line_hz=line_hz)
    return SyntheticSource(eeg, clock=lambda: 0.0, duration_s=duration_s, speed=math.inf)


@pytest.mark.parametrize("line_hz", [50.0, 60.0])
async def test_mains_are_known_at_once_and_no_sample_is_lost(line_hz: float) -> None:
    """`info` tells the mains frequency when the block is entered; iterating yields every sample from the first on."""
    async with ListeningSource(synthetic(line_hz, 6.0)) as source:
        assert source.info.mains_hz == line_hz
        chunks = [chunk async for chunk in source]
    assert {chunk.info.mains_hz for chunk in chunks} == {line_hz}
    assert [chunk.start for chunk in chunks] == list(np.cumsum([0, *(chunk.n_times for chunk in chunks[:-1])]))
    assert sum(chunk.n_times for chunk in chunks) == 1500


async def test_source_that_ends_meanwhile_is_still_read() -> None:
    """Too short to tell is no mains, and no loss."""
    async with ListeningSource(synthetic(50.0, 2.0)) as source:
        assert source.info.mains_hz is None
        assert sum([chunk.n_times async for chunk in source]) == 500


async def test_loss_while_listening_is_raised_after_what_was_heard() -> None:
    """A stream that goes away before its mains are known was there: its samples are read, then the loss is raised."""
    broken = Scripted(stream("broken", "C3"), 50, StreamLost("the script says so"))
    async with ListeningSource(broken) as source:
        assert source.info.mains_hz is None
        chunks = aiter(source)
        assert [(await anext(chunks)).start for _ in range(5)] == [0, 10, 20, 30, 40]
        with pytest.raises(StreamLost, match="the script says so"):
            await anext(chunks)
    assert broken.closed


async def test_fault_while_listening_closes_the_source() -> None:
    """Anything but a loss is raised at once, with the source closed."""
    broken = Scripted(stream("broken", "C3"), 50, ContractError("the script says so"))
    with pytest.raises(ContractError, match="the script says so"):
        async with ListeningSource(broken):
            pytest.fail("half a second was enough")
    assert broken.closed
