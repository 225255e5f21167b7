"""From a stream and a model's wishes to a chain, or to a sentence that says why not."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy import signal

from streamnode.errors import ContractError
from streamnode.signal.chain import build_chain
from streamnode.signal.channels import TUEG22
from streamnode.types import Float64Array, FloatArray, ModelSpec, StreamInfo
from tests.signal import SPEC, as_chunk, noise, stream

FIXED = replace(SPEC, name="fixed", ch_names=("C3", "C4"), needs_positions=False)


def test_describes_itself_in_order() -> None:
    """A chain says what it does, step by step, and its delay is the sum of theirs."""
    chain = build_chain(stream(500), SPEC, picks=["C4", "Cz"], reference="average", notch_hz=50)
    assert chain.describe() == (
        "pick 2 of 3 channels",
        "average reference",
        "high-pass 0.05 Hz, Butterworth 1",
        "notch 50 Hz + harmonics, Q 75",
        "resample 500 -> 256 Hz, pass 60 Hz, stop 125.2 Hz, 24.5 ms",
    )
    assert chain.delay_s == pytest.approx(0.0245, abs=5e-5)
    assert chain.settling_s == pytest.approx(11.0, abs=0.1)
    assert (chain.info.ch_names, chain.info.sfreq) == (("C4", "Cz"), 256.0)


def test_at_the_models_rate_nothing_is_resampled() -> None:
    """A stream at the model's rate is low-passed by the short linear-phase filter instead."""
    chain = build_chain(stream(256), SPEC)
    assert chain.describe() == ("high-pass 0.05 Hz, Butterworth 1", "low-pass 84.38 Hz, linear phase, 43.0 ms")


@pytest.mark.parametrize(
    ("sfreq", "delay_ms"), [(160, 39.8), (250, 24.5), (256, 43.0), (500, 24.5), (512, 24.4), (1000, 24.5), (2048, 24.5)]
)
def test_delays(sfreq: float, delay_ms: float) -> None:
    """The delay to 256 Hz is below 25 ms, unless the stream is at that rate already or ends close above the band."""
    assert 1e3 * build_chain(stream(sfreq), SPEC, notch_hz=50).delay_s == pytest.approx(delay_ms, abs=0.1)


@pytest.mark.parametrize(("sfreq", "beyond", "down_db"), [(256, 113, 50), (500, 128, 60), (1000, 128, 60)])
def test_band(sfreq: float, beyond: float, down_db: float) -> None:
    """The chain passes 80 % of the model's band to 0.1 dB; what could be folded into it is 60 dB down."""
    info = stream(sfreq, ["Cz"])
    chain, seconds = build_chain(info, SPEC), np.arange(30 * sfreq)[:, np.newaxis] / sfreq
    for freq, low_db, high_db in [
        (2, -0.1, 0.1),
        (30, -0.1, 0.1),
        (60, -0.1, 0.1),
        (75, -2.5, -1),
        (beyond, -200, -down_db),
    ]:
        chain.reset()
        steady = chain(as_chunk(info, np.cos(2 * np.pi * freq * seconds))).data[-10 * 256 : -64]
        assert low_db < 20 * np.log10(np.sqrt(2) * np.std(steady)) < high_db


def test_band_follows_wishes() -> None:
    """The edges of the band can be set, and a band that reaches the Nyquist frequency needs no low-pass."""
    assert build_chain(stream(256), SPEC, l_freq=1, h_freq=40).describe() == (
        "high-pass 0.5 Hz, Butterworth 1",
        "low-pass 45 Hz, linear phase, 82.0 ms",
    )
    assert build_chain(stream(256), replace(SPEC, l_freq=0.0, h_freq=128.0)).describe() == ()


def test_without_steps_a_chain_hands_on() -> None:
    """A stream that is already what the model wants passes unchanged."""
    chain = build_chain(stream(256), replace(SPEC, l_freq=0.0, h_freq=128.0))
    chunk = as_chunk(stream(256), noise(20))
    assert chain(chunk) is chunk
    assert (chain.delay_s, chain.settling_s) == (0, 0)


def test_a_new_run_is_a_new_chain() -> None:
    """The first chunk of a new run comes out as from a chain that has seen nothing before."""
    info = stream(500)
    used, new = (build_chain(info, SPEC, notch_hz=50) for _ in range(2))
    used(as_chunk(info, noise(700), run=0))
    actual, expected = (chain(as_chunk(info, noise(300, seed=9), start=1500, run=1)) for chain in (used, new))
    assert (actual.start, actual.t0, actual.run) == (expected.start, expected.t0, 1)
    np.testing.assert_array_equal(actual.data, expected.data)


def test_bipolar_needs_no_reference() -> None:
    """Pairs are formed of what was picked, in the order of the montage, and no reference is applied first."""
    electrodes = list(dict.fromkeys(name for pair in TUEG22 for name in pair.split("-")))
    info = stream(256, [*electrodes, "Fz"])
    chain = build_chain(info, replace(SPEC, reference="average"), picks=electrodes, bipolar=TUEG22)
    assert chain.info.ch_names == TUEG22
    assert chain.describe()[:3] == ("pick 19 of 20 channels", "22 bipolar pairs", "high-pass 0.05 Hz, Butterworth 1")


def test_reference_channels_need_not_be_picked() -> None:
    """Channels can serve as the reference without being given to the model."""
    spec = replace(SPEC, l_freq=0.0, h_freq=128.0)
    info = stream(256, ["C3", "C4", "A1", "A2"])
    data = noise(10, 4)
    chain = build_chain(info, spec, picks=["C4"], reference=["A1", "A2"])
    expected = data[:, 1].astype(np.float64) - data[:, 2:].astype(np.float64).mean(axis=1)
    np.testing.assert_array_equal(chain(as_chunk(info, data)).data[:, 0], expected)


def test_reference_follows_the_model() -> None:
    """Without a wish, the reference is the model's; `as_recorded` keeps the stream's."""
    averaged = replace(SPEC, reference="average")
    assert build_chain(stream(256), averaged).describe()[0] == "average reference"
    assert (
        build_chain(stream(256), averaged, reference="as_recorded").describe()
        == build_chain(stream(256), SPEC).describe()
    )


def test_fixed_channels_are_picked() -> None:
    """A model with fixed channels gets them in its order, whatever else the stream or the picks have."""
    info = stream(256, ["Cz", "C4", "C3"])
    for picks in (None, ["c4", "Cz", "c3"]):
        assert build_chain(info, FIXED, picks=picks).info.ch_names == ("C3", "C4")


def test_positions_are_only_needed_where_needed() -> None:
    """A model that does not ask for positions takes channels without."""
    assert build_chain(stream(256, ["C3", "EMG1"]), replace(SPEC, needs_positions=False)).info.n_chans == 2


@pytest.mark.parametrize(
    ("info", "spec", "wishes", "message"),
    [
        (stream(0), SPEC, {}, "stream 'amp' has no fixed sampling frequency, which model needs"),
        (stream(128), SPEC, {}, "record faster, or set signal.h_freq to 64 or less"),
        (stream(250), SPEC, {"h_freq": 130}, "wants frequencies up to 130 Hz"),
        (stream(100), SPEC, {"h_freq": 40, "notch_hz": 60}, "signal.notch_hz of 60 Hz is not between 0 and the 50 Hz"),
        (stream(256), SPEC, {"picks": ["C5"]}, "stream 'amp' has no channel C5: did you mean one of C3, Cz, C4?"),
        (stream(256), SPEC, {"reference": ["A1"]}, "stream 'amp' has no channel A1: did you mean"),
        (stream(256), SPEC, {"bipolar": ["C3-Fz"]}, "no channel Fz: did you mean one of C3, Cz, C4?"),
        (stream(256, ["C3", "Cz"]), FIXED, {}, "fixed needs C4, which stream 'amp' does not have: add what is missing"),
        (stream(256), FIXED, {"picks": ["C3"]}, "fixed needs C4, which signal.picks does not have"),
        (stream(256), FIXED, {"bipolar": ["C3-C4"]}, "fixed needs C3, C4, which signal.bipolar does not have"),
        (stream(256, ["C3", "EMG1", "X"]), SPEC, {}, "of EMG1, X it is not known: leave them out with signal.picks"),
        (stream(256, [""] * 512), SPEC, {}, "of ch1, ch2, ch3, ch4, ch5, ch6, ch7, ch8 and 504 more it is not known"),
        (stream(256, ["Cz"]), SPEC, {"reference": "average"}, "Cz alone has no average to refer to: use more channels"),
        (stream(256), SPEC, {"picks": ["Cz"], "reference": "average"}, "Cz alone has no average to refer to"),
    ],
)
def test_what_does_not_fit_is_refused(info: StreamInfo, spec: ModelSpec, wishes: dict[str, Any], message: str) -> None:
    """A stream that does not fit the model is refused in one sentence that says what to change."""
    with pytest.raises(ContractError) as error:
        build_chain(info, spec, **wishes)
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert not str(error.value).endswith(".")


@pytest.mark.parametrize(("sfreq", "median", "worst"), [(256, 0.98, 0.94), (512, 0.98, 0.94)])
def test_resembles_the_offline_signal(sfreq: int, median: float, worst: float) -> None:
    """Epochs correlate with those of the zero-phase filters that training data went through (MNE's defaults)."""
    info, raw = stream(sfreq, ["C3", "C4"]), _simulate(sfreq, seconds=600)
    live = _normalise(build_chain(info, SPEC, notch_hz=60)(as_chunk(info, raw)).data)
    offline = _normalise(_offline(raw, sfreq)[:: sfreq // 256])[: len(live)]
    similar = (live * offline).mean(axis=1)[4:-4]  # the offline filter reaches 16 s to both sides
    assert np.median(similar) > median
    assert np.quantile(similar, 0.05) > worst


def _simulate(sfreq: int, seconds: int) -> Float64Array:
    """EEG with a 1/f spectrum, slow drift, an offset of 5 mV and mains at 60 Hz."""
    n_times = sfreq * seconds
    rng = np.random.default_rng(2)
    slope = np.maximum(np.fft.rfftfreq(n_times, 1 / sfreq), 1 / seconds) ** -0.5
    raw = np.fft.irfft(np.fft.rfft(rng.standard_normal((n_times, 2)), axis=0) * slope[:, np.newaxis], n_times, axis=0)
    mains = 10 * np.sin(2 * np.pi * 60 * np.arange(n_times) / sfreq)
    eeg: Float64Array = 20 * raw / raw.std() + mains[:, np.newaxis] + 5000
    return eeg


def _offline(raw: Float64Array, sfreq: int) -> Float64Array:
    """Band-pass from 0.1 to 75 Hz and notch at 60 Hz, zero-phase, with the lengths and edges of MNE's defaults."""
    band = signal.firwin(33 * sfreq | 1, [0.05, 84.375], pass_zero=False, fs=sfreq)
    stop = signal.firwin(int(6.6 * sfreq) | 1, [59.6, 60.4], fs=sfreq)
    filtered: Float64Array = raw - raw.mean(axis=0)
    for taps in (band, stop):
        filtered = signal.fftconvolve(filtered, taps[:, np.newaxis], mode="same", axes=0)
    return filtered


def _normalise(data: FloatArray) -> Float64Array:
    """`(n_epochs, 1280, n_chans)`, each channel of each epoch with mean 0 and variance 1."""
    n_epochs = len(data) // 1280
    epochs = data[: n_epochs * 1280].reshape(n_epochs, 1280, -1)
    normalised: Float64Array = (epochs - epochs.mean(axis=1, keepdims=True)) / epochs.std(axis=1, keepdims=True)
    return normalised


def test_model_without_a_low_pass_takes_any_rate() -> None:
    """Where training data had no low-pass, a slow stream is used up to its own end."""
    unlimited = replace(SPEC, h_freq=SPEC.sfreq / 2)
    assert build_chain(stream(160), unlimited).info.sfreq == SPEC.sfreq
    with pytest.raises(ContractError, match=r"signal\.h_freq"):
        build_chain(stream(160), unlimited, h_freq=100.0)
