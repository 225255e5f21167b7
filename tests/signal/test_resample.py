"""Times, band and delay of the resampler."""

import tracemalloc

import numpy as np
import pytest

from streamnode.errors import ContractError
from streamnode.signal.resample import Resampler
from streamnode.types import Chunk, Float64Array
from tests.signal import T0, as_chunk, cut, join, noise, stream

RATES = [160.0, 250.0, 500.0, 512.0, 998.42, 1000.0, 2048.0]


def resampler(sfreq: float, pass_hz: float = 75.0) -> Resampler:
    return Resampler(stream(sfreq, ["Cz"]), 256.0, pass_hz=min(pass_hz, 0.4 * sfreq))


def tone(sfreq: float, freq: float, seconds: float = 4.0, start: int = 0) -> Chunk:
    info = stream(sfreq, ["Cz"])
    data = np.cos(2 * np.pi * freq * (start + np.arange(round(seconds * sfreq))) / sfreq)
    return as_chunk(info, data[:, np.newaxis], start)


def steady(chunk: Chunk) -> Float64Array:
    """The middle, away from the onset of a tone."""
    return chunk.data[256:-64, 0].astype(np.float64)


@pytest.mark.parametrize("sfreq", RATES)
@pytest.mark.parametrize("start", [0, 7, 12_345_678])
def test_stamps_are_exact(sfreq: float, start: int) -> None:
    """A tone read off at the times of the output samples has the phase that went in, and its amplitude to 0.1 dB."""
    freq, chunk = 21.7, tone(sfreq, 21.7, start=start)
    out = join(map(resampler(sfreq), cut(chunk, [32, 1, 17])))
    step = 1 / (256 * (1 + resampler(sfreq).rate_error))
    turns = 2 * np.pi * freq * (out.t0 - T0 + np.arange(out.n_times) * step)[256:-64]
    in_phase, quadrature = np.linalg.lstsq(np.stack([np.cos(turns), np.sin(turns)], axis=1), steady(out))[0]
    assert 20 * np.log10(in_phase) == pytest.approx(0, abs=0.1)
    assert abs(quadrature) < (1e-4 if start < 10 else 1e-3)


@pytest.mark.parametrize("sfreq", RATES)
def test_index_is_time(sfreq: float) -> None:
    """Absolute index n of the output lies at n / 256 s on the axis of the input, to the error of the rate."""
    transform = resampler(sfreq)
    for chunk in cut(tone(sfreq, 10, start=5000), [50]):
        out = transform(chunk)
        expected = T0 + out.start / (256 * (1 + transform.rate_error))
        assert out.t0 == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("sfreq", RATES)
def test_delay_is_what_it_says(sfreq: float) -> None:
    """Fed sample by sample, each output appears with the last sample up to the declared delay after it."""
    transform = resampler(sfreq)
    due = T0
    for chunk in cut(tone(sfreq, 10, seconds=1), [1]):
        t_next_sample = chunk.t_last + 1 / sfreq
        for _ in range(transform(chunk).n_times):
            assert due + transform.delay_s < t_next_sample + 1e-5
            due += 1 / 256
        assert due + transform.delay_s > t_next_sample - 1e-5
    assert due > T0 + 0.9


@pytest.mark.parametrize("sfreq", [500.0, 512.0, 998.42, 1000.0, 2048.0])
def test_delay_is_short(sfreq: float) -> None:
    """With 75 Hz kept at 256 Hz, the delay is below 16 ms."""
    assert resampler(sfreq).delay_s < 0.016


@pytest.mark.parametrize("sfreq", RATES)
def test_pass_band_is_flat(sfreq: float) -> None:
    """What is to be kept is kept to 0.1 dB."""
    for freq in np.array([0.05, 0.5, 0.9, 1.0]) * min(75, 0.4 * sfreq):
        out = steady(resampler(sfreq)(tone(sfreq, freq)))
        phase = 2 * np.pi * freq * np.arange(len(out)) / 256
        fit = np.linalg.lstsq(np.stack([np.cos(phase), np.sin(phase)], axis=1), out)[0]
        assert 20 * np.log10(np.linalg.norm(fit)) == pytest.approx(0, abs=0.1)


@pytest.mark.parametrize("sfreq", [500.0, 512.0, 998.42, 1000.0, 2048.0])
@pytest.mark.parametrize("freq", [126.0, 128.5, 150.0, 200.0, 246.0, 249.0])
def test_aliases_are_gone(sfreq: float, freq: float) -> None:
    """With 60 Hz kept in less than 25 ms, a tone that would be folded is 63 dB down."""
    transform = Resampler(stream(sfreq, ["Cz"]), 256.0, pass_hz=60, stop_hz=125.25)
    assert transform.delay_s < 0.025
    assert np.abs(steady(transform(tone(sfreq, freq)))).max() < 10 ** (-63 / 20)


@pytest.mark.parametrize("sfreq", [160.0, 250.0])
def test_images_are_gone(sfreq: float) -> None:
    """In raising the rate, the mirror images of the band are 60 dB down."""
    freq = 0.3 * sfreq
    out = steady(resampler(sfreq)(tone(sfreq, freq)))
    spectrum = np.abs(np.fft.rfft(out * np.blackman(len(out)) ** 2))
    freqs = np.fft.rfftfreq(len(out), 1 / 256)
    image = spectrum[np.abs(freqs - freq) > 8].max()
    assert 20 * np.log10(image / spectrum.max()) < -60


def test_offset_does_not_ripple() -> None:
    """20 mV of offset leave as 20 mV to a thousandth of a microvolt, in each phase of the filter."""
    data = np.full((2000, 1), 20_000.0, np.float32)
    for sfreq in RATES:
        out = resampler(sfreq)(as_chunk(stream(sfreq, ["Cz"]), data)).data
        np.testing.assert_allclose(out, 20_000, rtol=0, atol=1e-3)


def test_rates_without_a_small_ratio() -> None:
    """998.42 Hz becomes 256 Hz to 10 ppm, and says so; 512 Hz does exactly."""
    odd, even = resampler(998.42), resampler(512)
    assert 0 < abs(odd.rate_error) < 1e-5
    assert "ppm" in odd.label
    assert even.rate_error == 0
    assert even.label == "resample 512 -> 256 Hz, pass 75 Hz, stop 181 Hz, 14.9 ms"
    assert even.info.sfreq == 256


def test_long_runs_do_not_drift() -> None:
    """After a week at 998.42 Hz, times are as exact as at the start."""
    start = int(7 * 86400 * 998.42)
    transform = resampler(998.42)
    out = transform(tone(998.42, 10, start=start))
    first = out.t0 - (T0 + start / 998.42)
    assert -1e-6 < first < 1 / 256


def test_a_long_chunk_takes_little_memory() -> None:
    """Seconds of a fast stream are resampled in less than four times the memory of its samples in float64."""
    info = stream(16384, [f"ch{i}" for i in range(16)])
    transform, chunk = Resampler(info, 256, pass_hz=60, stop_hz=125.25), as_chunk(info, noise(3 * 16384, 16))
    tracemalloc.start()
    try:
        transform(chunk)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 4 * chunk.data.size * 8


def test_missing_samples_are_shared_out() -> None:
    """Of 500 samples the first 100 are missing, and so are the 52 of 256 that stand for them, in any chunking."""
    info = stream(500, ["Cz"])
    for size in (1, 50):
        transform, total = resampler(500), 0
        for number, chunk in enumerate(cut(as_chunk(info, noise(1000, 1)), [size])):
            flagged = Chunk(
                info, chunk.data, chunk.start, chunk.t0, 0.0, 0, n_missing=size if number * size < 100 else 0
            )
            out = transform(flagged)
            assert out.n_missing <= out.n_times
            total += out.n_missing
        assert total == 52


@pytest.mark.parametrize(
    ("sfreq", "pass_hz", "stop_hz", "message"),
    [
        (256.5, 128.0, None, "choose 0 < pass < stop <= 256 - pass"),
        (500.0, 75.0, 200.0, "passes 75 Hz and stops 200 Hz: choose 0 < pass < stop <= 256 - pass"),
        (256.03, 75.0, None, "have the source state its nominal rate"),
    ],
)
def test_refusals(sfreq: float, pass_hz: float, stop_hz: float | None, message: str) -> None:
    """A band that would fold into itself, and rates in no ratio, are refused."""
    with pytest.raises(ContractError, match=message):
        Resampler(stream(sfreq), 256.0, pass_hz, stop_hz)
