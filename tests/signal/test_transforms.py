"""What every transform of the signal path promises."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamnode.signal.chain import Step, build_chain
from streamnode.signal.channels import Bipolar, Pick, Rereference
from streamnode.signal.filters import LinearPhaseLowpass, highpass, notch
from streamnode.signal.resample import Resampler
from streamnode.types import Chunk, StreamInfo, Transform
from tests.signal import SPEC, T0, as_chunk, cut, join, noise, stream

Build = Callable[[StreamInfo], Transform]
STEPS: dict[str, Callable[[StreamInfo], Step]] = {
    "pick": lambda info: Pick(info, ["C4", "C3"]),
    "average": lambda info: Rereference(info, "average"),
    "reference": lambda info: Rereference(info, ["C3", "C4"]),
    "bipolar": lambda info: Bipolar(info, ["C3-Cz", "Cz-C4"]),
    "highpass": lambda info: highpass(info, 0.5, order=1),
    "notch": lambda info: notch(info, 50, q=30),
    "linear phase": lambda info: LinearPhaseLowpass(info, 84.4, 37.5),
    "500 to 256": lambda info: Resampler(info, 256, pass_hz=75),
    "500 to 250": lambda info: Resampler(info, 250, pass_hz=50),
    "500 to 512": lambda info: Resampler(info, 512, pass_hz=100, stop_hz=300),
    "500 to 998.42": lambda info: Resampler(info, 998.42, pass_hz=100),
}
TRANSFORMS: dict[str, Build] = {
    **STEPS,
    "chain": lambda info: build_chain(info, SPEC, reference="average", notch_hz=50),
}
each_transform = pytest.mark.parametrize("build", TRANSFORMS.values(), ids=TRANSFORMS.keys())

INFO = stream(500)


def run(transform: Transform, whole: Chunk, *sizes: int) -> Chunk:
    return join(transform(chunk) for chunk in cut(whole, sizes))


def assert_same(actual: Chunk, expected: Chunk) -> None:
    assert actual.info == expected.info
    assert actual.start == expected.start
    assert actual.t0 == pytest.approx(expected.t0, abs=1e-6)
    np.testing.assert_array_equal(actual.data, expected.data)


@each_transform
@settings(max_examples=15, deadline=None)
@given(sizes=st.lists(st.integers(0, 4096), min_size=1, max_size=8).filter(any), start=st.integers(0, 10**9))
def test_any_chunking_is_the_whole(build: Build, sizes: list[int], start: int) -> None:
    """However a run is cut into chunks, every bit of the output is the same."""
    whole = as_chunk(INFO, noise(700), start)
    assert_same(run(build(INFO), whole, *sizes), build(INFO)(whole))


@each_transform
@pytest.mark.parametrize("size", [1, 4096])
def test_extreme_chunks_are_the_whole(build: Build, size: int) -> None:
    """Sample by sample, and in chunks of seconds, every bit of the output is the same."""
    whole = as_chunk(INFO, noise(4500), start=123)
    assert_same(run(build(INFO), whole, size), build(INFO)(whole))


@pytest.mark.parametrize("name", [name for name in STEPS if name not in ("pick", "reference", "bipolar")])
def test_a_single_channel_in_any_chunking(name: str) -> None:
    """One channel alone, where arrays degenerate, is the same to the bit in any chunking."""
    info = stream(500, ["Cz"])
    whole = as_chunk(info, noise(600, 1))
    assert_same(run(STEPS[name](info), whole, 1, 7, 0, 32), STEPS[name](info)(whole))


@each_transform
def test_the_past_is_untouched_by_the_future(build: Build) -> None:
    """What has come out depends on nothing that comes in later."""
    data, other = noise(600), noise(600)
    other[300:] = 1e4 * noise(300, seed=1)
    before = build(INFO)(as_chunk(INFO, data[:300]))
    for later in (data, other):
        full = build(INFO)(as_chunk(INFO, later))
        np.testing.assert_array_equal(full.data[: before.n_times], before.data)


@each_transform
def test_empty_chunks_change_nothing(build: Build) -> None:
    """A chunk without samples yields none, before the first sample and between others, and leaves no trace."""
    transform = build(INFO)
    empty = transform(as_chunk(INFO, noise(0)))
    assert empty.data.shape == (0, transform.info.n_chans)
    assert empty.start == 0
    whole = as_chunk(INFO, noise(200))
    assert_same(run(transform, whole, 0, 10), build(INFO)(whole))


@each_transform
def test_input_is_not_changed(build: Build) -> None:
    """The chunk that goes in still holds what it held, and the output shares no memory with it."""
    whole = as_chunk(INFO, noise(200))
    out = build(INFO)(whole)
    np.testing.assert_array_equal(whole.data, noise(200))
    assert not np.shares_memory(out.data, whole.data)


@each_transform
def test_reset_is_as_good_as_new(build: Build) -> None:
    """After `reset` a transform yields what a new one does."""
    transform = build(INFO)
    transform(as_chunk(INFO, noise(333, seed=5)))
    transform.reset()
    whole = as_chunk(INFO, noise(200), start=1000)
    assert_same(transform(whole), build(INFO)(whole))


@each_transform
def test_output_never_lies_before_the_run(build: Build) -> None:
    """The first output is the first of the run: not earlier, and not a whole sample later."""
    transform = build(INFO)
    out = transform(as_chunk(INFO, noise(400), start=1001))
    late = out.start / transform.info.sfreq - 1001 / INFO.sfreq
    assert -1e-3 / INFO.sfreq <= late < 1 / transform.info.sfreq
    assert out.t0 == pytest.approx(T0 + 1001 / INFO.sfreq + late, abs=1e-6)


@each_transform
def test_a_constant_stays_a_constant(build: Build) -> None:
    """An offset of 20 mV does not ring: from the first sample on, what comes out does not change."""
    data = np.full((1500, 3), 20_000.0, np.float32)
    out = build(INFO)(as_chunk(INFO, data)).data
    assert np.ptp(out) < 1e-6


@each_transform
def test_a_sample_that_is_not_a_number_is_forgotten(build: Build) -> None:
    """A NaN shows in the output and is gone half a second later, in any chunking."""
    data = noise(1000)
    data[400, 1] = np.nan
    whole = as_chunk(INFO, data)
    transform = build(INFO)
    out = transform(whole)
    rows = np.flatnonzero(np.isnan(out.data).any(axis=1)) + out.start
    if "Cz" in transform.info.ch_names:
        assert len(rows)
    assert all(350 < row * INFO.sfreq / out.info.sfreq < 650 for row in rows)
    for sizes in ([1, 30, 7], [40]):  # the last has the NaN first in its chunk
        assert_same(run(build(INFO), whole, *sizes), out)
