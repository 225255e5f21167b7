"""Samples that were filled in are told of the epochs that hold them, however late a transform hands them on."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamnode.signal.chain import build_chain
from streamnode.signal.filters import LinearPhaseLowpass
from streamnode.signal.path import build_epochs
from streamnode.signal.resample import Resampler
from streamnode.types import Chunk, StreamInfo, Transform
from tests.signal import SPEC, as_chunk, noise, stream

SFREQ_OUT = 256
Pulls = list[tuple[int, int]]
PULLS = st.lists(st.tuples(st.integers(1, 60), st.one_of(st.just(0), st.integers(0, 60))), min_size=1, max_size=12)
"""How many samples each chunk has, and how many of them, at most all, were filled in."""
each_rate = pytest.mark.parametrize("sfreq", [160.0, 250.0, 256.0, 500.0, 1000.0, 2048.0])


def transform(info: StreamInfo) -> Transform:
    if info.sfreq == SFREQ_OUT:
        return LinearPhaseLowpass(info, 84.4, 37.5)
    return Resampler(info, SFREQ_OUT, pass_hz=min(75, 0.4 * info.sfreq))


def pulled(info: StreamInfo, pulls: Pulls, start: int) -> Iterator[Chunk]:
    """Chunks that begin with what was filled in, and a second more."""
    for n_times, n_missing in [*pulls, (round(info.sfreq), 0)]:
        chunk = as_chunk(info, noise(n_times, info.n_chans), start)
        yield replace(chunk, n_missing=min(n_missing, n_times))
        start += n_times


def is_filled(chunks: Sequence[Chunk], sfreq: float, index: int) -> bool:
    """Whether one of the incoming samples was filled in that an outgoing one reaches to, sample by sample."""
    step = Fraction(sfreq) / SFREQ_OUT
    first, end = index * step, (index + 1) * step
    spans = [(chunk.start, chunk.start + chunk.n_missing) for chunk in chunks]
    return any(start < stop and start < end and first < stop for start, stop in spans)


@each_rate
@settings(max_examples=40, deadline=None)
@given(pulls=PULLS, start=st.integers(0, 10**7))
def test_delayed_samples_are_told_as_filled(sfreq: float, pulls: Pulls, start: int) -> None:
    """In any chunking, every outgoing chunk counts those of its own samples that stand for filled ones."""
    info = stream(sfreq)
    delayed, chunks = transform(info), list(pulled(info, pulls, start))
    for out in map(delayed, chunks):
        rows = range(out.start, out.start + out.n_times)
        assert out.n_missing == sum(is_filled(chunks, sfreq, row) for row in rows)


@each_rate
@settings(max_examples=25, deadline=None)
@given(pulls=PULLS, n_times=st.integers(1, 100), hop=st.integers(1, 100))
def test_epochs_tell_all_that_was_filled_in(sfreq: float, pulls: Pulls, n_times: int, hop: int) -> None:
    """No epoch tells less than it holds, nor more than there is in the chunks that it holds in part."""
    info = stream(sfreq)
    path, chunks = build_epochs(info, SPEC, n_times=n_times, hop=hop, clock=lambda: 0.0), list(pulled(info, pulls, 0))
    outs = list(map(build_chain(info, SPEC), chunks))
    for epoch in (epoch for chunk in chunks for epoch in path(chunk)):
        rows = range(epoch.start, epoch.start + n_times)
        held = [out for out in outs if out.start < rows.stop and out.start + out.n_times > rows.start]
        most = sum(out.n_missing for out in held)
        assert sum(is_filled(chunks, sfreq, row) for row in rows) <= epoch.n_missing <= min(most, n_times)


def test_a_new_run_has_nothing_of_the_one_before() -> None:
    """What was filled in at the end of a run is not told of the samples that come after its reset."""
    for sfreq in (256.0, 500.0):
        info = stream(sfreq)
        delayed = transform(info)
        chunk = as_chunk(info, noise(50))
        delayed(replace(chunk, n_missing=50))
        delayed.reset()
        assert delayed(as_chunk(info, noise(50), 50)).n_missing == 0
