"""Frequency responses, start-up and refusals of the filters."""

from collections.abc import Callable

import numpy as np
import pytest
from scipy import signal

from streamnode.errors import ContractError
from streamnode.signal.filters import LinearPhaseLowpass, SosFilter, cascade, highpass, notch
from streamnode.types import Float64Array, StreamInfo, Transform
from tests.signal import as_chunk, cut, noise, stream

INFO = stream(256, ["Cz"])


def gain_db(transform: Transform, *freqs_hz: float) -> Float64Array:
    """Gain for tones, measured once they are steady."""
    sfreq, n_times = transform.info.sfreq, 20 * 256
    gains = []
    for freq in freqs_hz:
        transform.reset()
        tone = np.sin(2 * np.pi * freq * np.arange(n_times) / sfreq)[:, np.newaxis]
        steady = transform(as_chunk(transform.info, tone)).data[-10 * 256 :]
        gains.append(20 * np.log10(np.sqrt(2) * np.std(steady) + 1e-12))
    return np.array(gains)


@pytest.mark.parametrize("order", [1, 4])
def test_highpass_is_3_db_down_at_its_edge(order: int) -> None:
    """A Butterworth high-pass is 3 dB down at its edge, whatever its order, and leaves alone what is far above."""
    np.testing.assert_allclose(gain_db(highpass(INFO, 2, order), 2, 60), [-3.01, 0], atol=0.02)


def test_notch_removes_mains_and_harmonics_only() -> None:
    """50 and 100 Hz are gone, 48 and 52 Hz all but untouched."""
    gains = gain_db(notch(INFO, 50, q=75), 50, 100, 48, 52, 10)
    assert (gains[:2] < -60).all()
    assert (np.abs(gains[2:]) < 0.15).all()


def test_notch_removes_as_many_harmonics_as_asked() -> None:
    """With one harmonic asked for, the second is left."""
    transform = notch(INFO, 50, q=75, harmonics=1)
    assert transform.label == "notch 50 Hz, Q 75"
    assert abs(gain_db(transform, 100)[0]) < 0.01


def test_linear_phase_lowpass_band() -> None:
    """At 256 Hz it has 23 taps: flat to 0.1 dB up to 60 Hz, one half at its edge, 50 dB down beyond 105 Hz."""
    transform = LinearPhaseLowpass(INFO, 84.375, 37.5)
    assert transform.delay_s == 11 / 256
    assert np.abs(gain_db(transform, 1, 10, 30, 50, 60)).max() < 0.1
    assert gain_db(transform, 84.375)[0] == pytest.approx(-6.02, abs=0.05)
    assert gain_db(transform, 105, 115, 127).max() < -50


def test_linear_phase_lowpass_delays_nothing_that_it_says_is_on_time() -> None:
    """Output samples carry the index and time of the input sample they stand for: a slow wave lies on itself."""
    wave = np.sin(2 * np.pi * 7.3 * np.arange(600) / 256)[:, np.newaxis]
    out = LinearPhaseLowpass(INFO, 84.375, 37.5)(as_chunk(INFO, wave, start=40))
    assert (out.start, out.n_times) == (40, 600 - 11)
    assert out.t0 == as_chunk(INFO, wave, start=40).t0
    np.testing.assert_allclose(out.data[11:], wave[11:-11], atol=5e-3)


def test_lowpass_takes_samples_in_any_order_of_memory() -> None:
    """Channel after channel, as SciPy's filters leave them, is as good as sample after sample, at any delay."""
    info, data = stream(256), noise(40)
    for transition_hz in (300.0, 37.5):  # of 3 and of 23 taps
        rows, columns = (LinearPhaseLowpass(info, 60.0, transition_hz) for _ in range(2))
        expected = rows(as_chunk(info, np.ascontiguousarray(data))).data
        found = columns(as_chunk(info, np.asfortranarray(data))).data
        np.testing.assert_array_equal(found, expected)


def test_filter_is_scipys() -> None:
    """The output is that of `scipy.signal.sosfilt` from the state of the first sample, in float64."""
    data = noise(500, 1)
    sos = signal.butter(4, [1, 40], "bandpass", output="sos", fs=256)
    state = signal.sosfilt_zi(sos)[:, :, np.newaxis] * data[0].astype(np.float64)
    expected, _ = signal.sosfilt(sos, data.astype(np.float64), axis=0, zi=state)
    actual = SosFilter(INFO, sos, "band")(as_chunk(INFO, data)).data
    assert actual.dtype == np.float64
    np.testing.assert_array_equal(actual, expected)


@pytest.mark.parametrize("sizes", [[1], [7, 30], [400]])
def test_cascade_is_its_filters_in_turn(sizes: list[int]) -> None:
    """Filters as one yield what they do one behind the other, also where channels start later, in any chunking."""
    info, data = stream(256), noise(400)
    data[:7, 1] = data[:30, 2] = np.nan
    high, hum = highpass(info, 0.05, order=1), notch(info, 50, q=75)
    in_turn = hum(high(as_chunk(info, data))).data
    both = cascade([high, hum])
    at_once = np.concatenate([both(chunk).data for chunk in cut(as_chunk(info, data), sizes)])
    np.testing.assert_allclose(at_once, in_turn, rtol=0, atol=1e-9)


def test_cascade_bridges_lost_samples_as_its_filters_in_turn() -> None:
    """What is lost stays lost, and holding the input instead of each filter's own leaves less than 0.1 uV behind."""
    info, data = stream(256), noise(2560)
    data[1280:1290] = np.nan
    high, hum = highpass(info, 0.05, order=1), notch(info, 50, q=75)
    in_turn, at_once = hum(high(as_chunk(info, data))).data, cascade([high, hum])(as_chunk(info, data)).data
    np.testing.assert_allclose(at_once, in_turn, rtol=0, atol=0.1)


def test_settling_is_when_a_step_has_decayed() -> None:
    """After the declared settling time, 5 % of a step is left of a first-order high-pass."""
    transform = highpass(INFO, 0.05, order=1)
    assert transform.settling_s == pytest.approx(9.54, abs=0.02)
    step = np.ones((4000, 1))
    step[0] = 0
    settled = round(transform.settling_s * 256)
    assert transform(as_chunk(INFO, step)).data[settled, 0] == pytest.approx(0.05, rel=0.01)


def test_starts_at_the_first_sample_that_is_there() -> None:
    """Leading NaNs are not filtered: the first whole sample is the one held for the past."""
    data = noise(300, 1)
    data[:5] = np.nan
    out = highpass(INFO, 0.5, 1)(as_chunk(INFO, data)).data
    assert np.isnan(out[:5]).all()
    np.testing.assert_array_equal(out[5:], highpass(INFO, 0.5, 1)(as_chunk(INFO, data[5:])).data)


@pytest.mark.parametrize("sizes", [[1], [7, 30], [300]])
def test_each_channel_starts_at_its_own_first_sample(sizes: list[int]) -> None:
    """Channels that come late, or never, leave the others as they would be alone, to the bit, in any chunking."""
    info, data = stream(256, ["C3", "Cz", "C4", "Pz"]), noise(300, 4)
    data[:40, 1] = data[:200, 2] = data[:, 3] = np.nan
    transform = notch(info, 50, 30)
    out = np.concatenate([transform(chunk).data for chunk in cut(as_chunk(info, data), sizes)])
    for channel, first in enumerate((0, 40, 200)):
        alone = notch(stream(256, ["Cz"]), 50, 30)(as_chunk(stream(256, ["Cz"]), data[first:, channel : channel + 1]))
        assert np.isnan(out[:first, channel]).all()
        np.testing.assert_array_equal(out[first:, channel], alone.data[:, 0])
    assert np.isnan(out[:, 3]).all()


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda info: highpass(info, 0, 1), "a high-pass at 0 Hz does not fit stream 'amp' of 256 Hz"),
        (lambda info: highpass(info, 128, 4), "choose a frequency between 0 and 128 Hz"),
        (lambda info: notch(info, 200, 75), "a notch at 200 Hz does not fit"),
        (lambda info: LinearPhaseLowpass(info, 130, 30), "a low-pass at 130 Hz does not fit"),
    ],
)
def test_frequencies_that_do_not_fit(build: Callable[[StreamInfo], Transform], message: str) -> None:
    """A frequency the stream cannot hold is refused, with the range it can."""
    with pytest.raises(ContractError, match=message):
        build(INFO)
