"""Synthetic EEG: the same for the same seed in any chunks, and with the marks of a real one."""

import asyncio
import math
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.signal import welch

from streamnode.errors import ConfigError
from streamnode.metrics import Metrics
from streamnode.sources.synthetic import CH_NAMES_32, EYES_PERIOD_S, SyntheticEeg, SyntheticSource
from streamnode.types import Chunk, Float64Array

SFREQ = 256.0


@pytest.fixture(scope="module")
def minute() -> Float64Array:
    """60 s of the default EEG as `(n_half_periods, n_times, n_chans)`: eyes open, closed, open, ..."""
    return SyntheticEeg(sfreq=SFREQ).take(60 * 256).astype(np.float64).reshape(6, -1, 32)


def power(signal: Float64Array, low: float, high: float) -> float:
    """Mean power density between two frequencies, over `(n_parts, n_times)`."""
    freqs, density = welch(signal, SFREQ, nperseg=512)
    return float(density[:, (freqs >= low) & (freqs <= high)].mean())


@given(st.lists(st.integers(0, 700), max_size=8))
@settings(max_examples=15, deadline=None)
def test_any_chunks_are_the_same_eeg(sizes: list[int]) -> None:
    """However it is taken, the samples are the same to the last bit."""
    names = ["Fp1", "Cz", "Oz", "somewhere"]
    chunked = SyntheticEeg(names, 250.0, seed=3)

    parts = [chunked.take(size) for size in sizes]

    whole = SyntheticEeg(names, 250.0, seed=3).take(sum(sizes))
    assert [part.shape for part in parts] == [(size, 4) for size in sizes]
    assert whole.dtype == np.float32
    np.testing.assert_array_equal(np.concatenate([whole[:0], *parts]), whole)


def test_seed_decides() -> None:
    """Another seed is another recording."""
    assert not np.array_equal(SyntheticEeg(seed=1).take(100), SyntheticEeg(seed=2).take(100))


def test_default_channels_are_placed() -> None:
    """The default cap has 32 different channels, all with a place."""
    info = SyntheticEeg().info

    assert info.ch_names == CH_NAMES_32
    assert len(set(CH_NAMES_32)) == 32
    assert np.isfinite(info.montage.ch_pos).all()


def test_amplitudes_are_those_of_eeg(minute: Float64Array) -> None:
    """Every channel has 10 to 50 microvolts rms."""
    rms = minute.reshape(-1, 32).std(axis=0)

    assert (rms > 10).all()
    assert (rms < 50).all()


def test_alpha_rises_at_the_back_when_the_eyes_close(minute: Float64Array) -> None:
    """Eyes closed, occipital alpha is more than ten times its power with open eyes; frontal alpha hardly moves."""
    opened, closed = minute[0::2], minute[1::2]
    oz, fp1 = CH_NAMES_32.index("Oz"), CH_NAMES_32.index("Fp1")

    assert EYES_PERIOD_S == 20.0
    assert power(closed[..., oz], 9, 11) > 10 * power(opened[..., oz], 9, 11)
    assert power(closed[..., oz], 9, 11) > 10 * power(closed[..., oz], 15, 20)
    assert power(closed[..., fp1], 9, 11) < 2 * power(opened[..., fp1], 9, 11)


def test_background_falls_with_frequency(minute: Float64Array) -> None:
    """Away from alpha and mains the power falls about as 1/f, in every channel."""
    for channel in range(32):
        signal = minute[1::2, :, channel]
        decay = math.log10(power(signal, 2, 4) / power(signal, 20, 40))  # a decade apart
        assert 0.6 < decay < 1.6


def test_neighbours_are_alike(minute: Float64Array) -> None:
    """Electrodes side by side share their background, distant ones hardly."""
    correlation = np.asarray(np.corrcoef(minute.reshape(-1, 32).T))
    c3, cp1, t8 = (CH_NAMES_32.index(name) for name in ("C3", "CP1", "T8"))

    assert correlation[c3, cp1] > 0.4
    assert abs(correlation[c3, t8]) < 0.2


def test_blinks_while_the_eyes_are_open(minute: Float64Array) -> None:
    """Frontal deflections of about 100 microvolts come with open eyes only, and do not reach the back."""
    fp1, oz = CH_NAMES_32.index("Fp1"), CH_NAMES_32.index("Oz")
    opened, closed = minute[0::2, 256:-256], minute[1::2, 256:-256]  # away from the turn

    assert opened[..., fp1].max() > 80
    assert closed[..., fp1].max() < 60
    assert opened[..., oz].max() < 60


@pytest.mark.parametrize(("line_hz", "other_hz"), [(50.0, 60.0), (60.0, 50.0)])
def test_hum(line_hz: float, other_hz: float) -> None:
    """The mains stand out at their frequency and nowhere else."""
    signal = SyntheticEeg(["Cz"], SFREQ, line_hz=line_hz).take(256 * 20).T.astype(np.float64)

    assert power(signal, line_hz, line_hz) > 5 * power(signal, line_hz - 4, line_hz - 3)
    assert power(signal, other_hz, other_hz) < 2 * power(signal, other_hz - 4, other_hz - 3)


def test_hum_above_nyquist_is_left_out() -> None:
    """A rate that cannot carry the mains does not get them as an alias."""
    np.testing.assert_array_equal(
        SyntheticEeg(["Cz"], 80.0, line_hz=50.0).take(500), SyntheticEeg(["Cz"], 80.0, line_hz=60.0).take(500)
    )


def test_rate_too_low() -> None:
    """A rate without room for alpha is refused."""
    with pytest.raises(ConfigError, match="above 30 Hz"):
        SyntheticEeg(sfreq=20.0)


async def test_source_plays_what_the_generator_makes() -> None:
    """A source of a given duration ends after so many samples, counted, all of one run, on the grid of its rate."""
    eeg, metrics = SyntheticEeg(sfreq=SFREQ, seed=5), Metrics()
    source = SyntheticSource(eeg, clock=time.monotonic, speed=math.inf, chunk_s=0.03, duration_s=1.0, metrics=metrics)
    chunks: list[Chunk] = []
    async with source, asyncio.timeout(5):
        chunks = [chunk async for chunk in source]

    np.testing.assert_array_equal(np.concatenate([c.data for c in chunks]), SyntheticEeg(sfreq=SFREQ, seed=5).take(256))
    assert metrics.account(eeg.info.name)["received"] == 256
    assert {c.run for c in chunks} == {0}
    np.testing.assert_allclose([c.t0 - chunks[0].t0 for c in chunks], [c.start / SFREQ for c in chunks], atol=1e-9)
