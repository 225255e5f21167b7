"""The offline preprocessing has the numbers of MNE-Python's, on noise and on real recordings."""

import warnings
from dataclasses import replace
from pathlib import Path

import mne
import numpy as np
import pytest

from streamnode.errors import ContractError
from streamnode.models.luna import SPEC
from streamnode.models.zuna import SPEC as ZUNA
from streamnode.signal.offline import Preprocessing, band_taps, notch_taps, resample, resampled_grid, zero_phase
from streamnode.sources.replay import read
from streamnode.types import Float64Array
from tests.models.test_zuna import hashed


def drifting(n_times: int, n_chans: int = 3) -> Float64Array:
    """A random walk on the offset of an amplifier: what shows every difference in padding."""
    walk: Float64Array = np.random.default_rng(1).standard_normal((n_chans, n_times)).cumsum(axis=1) + 5000
    return walk


def by_mne(data: Float64Array, sfreq: float, h_freq: float, notch_hz: float | None = 60.0) -> Float64Array:
    """What the authors ran: `filter(0.1, 75)`, `notch_filter(60)`, `resample(256)`."""
    info = mne.create_info(len(data), sfreq, "eeg", verbose="ERROR")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # the filter is longer than the signal
        raw = mne.io.RawArray(data.copy(), info, verbose="ERROR").filter(0.1, h_freq, verbose="ERROR")
        raw = raw if notch_hz is None else raw.notch_filter(notch_hz, verbose="ERROR")
        prepared: Float64Array = raw.resample(256, verbose="ERROR").get_data()
    return prepared


def assert_close(actual: Float64Array, expected: Float64Array) -> None:
    """Equal to 1e-9 of the largest value."""
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-9 * np.abs(expected).max())


@pytest.mark.parametrize(
    ("sfreq", "h_freq"),
    [(128, 50), (160, 75), (250, 75), (256, 75), (500, 75), (512, 75), (998.42, 75), (1000, 75)],
)
@pytest.mark.parametrize("seconds", [0.7, 5, 15.3, 25, 70])
def test_is_mne(sfreq: float, h_freq: float, seconds: float) -> None:
    """Band-pass, notch and resampling are MNE's, for signals shorter and longer than the filters."""
    data = drifting(int(seconds * sfreq), n_chans=2)
    prepare = Preprocessing(sfreq, SPEC, 0.1, h_freq, 60 if sfreq > 128 else 50)
    assert_close(prepare(data), by_mne(data, sfreq, h_freq, 60 if sfreq > 128 else 50))


@pytest.mark.parametrize(
    ("file", "h_freq"),
    [
        ("eegmmidb/S001R01.edf", 75),
        ("eegmmidb/S001R02.edf", 75),
        ("eeglab/eeglab_data.set", 50),
        ("eeglab/test.edf", 75),
        ("zuna/sample1_raw.fif", 75),
    ],
)
def test_is_mne_on_real_recordings(data_dir: Path, file: str, h_freq: float) -> None:
    """Of whole recordings too, the numbers are MNE's."""
    recording = read(data_dir / file)
    data = recording.data.T[:8].astype(np.float64)
    sfreq = recording.info.sfreq
    assert_close(Preprocessing(sfreq, SPEC, 0.1, h_freq, 50)(data), by_mne(data, sfreq, h_freq, 50))


def test_taps_are_mnes() -> None:
    """Filters are MNE's tap by tap, with harmonics, without a lower edge, and with an edge close to the Nyquist."""
    for sfreq, l_freq, h_freq in [(256, 0.1, 75), (160, 0.5, 79.5), (500, 0.0, 40), (200, 12.0, 30)]:
        expected = mne.filter.create_filter(None, sfreq, l_freq or None, h_freq, verbose="ERROR")
        np.testing.assert_allclose(band_taps(sfreq, l_freq, h_freq), expected, rtol=0, atol=1e-15)
    data = drifting(4000)
    expected = mne.filter.notch_filter(data, 512.0, [50, 100, 150], verbose="ERROR")
    assert_close(zero_phase(data, notch_taps(512, [50, 100, 150])), expected)


def test_high_pass_is_the_one_zuna_was_trained_behind() -> None:
    """Without an upper edge the taps are MNE's high-pass, to the published digits at 256 Hz."""
    taps = band_taps(256.0, 0.5, None)
    assert len(taps) == 1691
    np.testing.assert_allclose(taps[:3], [2.696479e-05, 2.708197e-05, 2.720057e-05], rtol=0, atol=5e-12)
    np.testing.assert_allclose(taps[845:847], [0.9980373864337085, -0.001962595011619001], rtol=0, atol=1e-15)
    np.testing.assert_allclose([taps.sum(), (taps**2).sum()], [0, 0.9975820724851793], rtol=0, atol=1e-14)
    for sfreq, l_freq in [(256, 0.5), (500, 1.0), (100, 12.0)]:
        expected = mne.filter.create_filter(None, sfreq, l_freq, None, verbose="ERROR")
        np.testing.assert_allclose(band_taps(sfreq, l_freq, None), expected, rtol=0, atol=1e-15)


@pytest.mark.parametrize("sfreq", [100.0, 160.0, 250.0, 256.0, 500.0])
def test_zuna_has_no_low_pass(sfreq: float) -> None:
    """Where training knew none, a signal is resampled and high-passed as by MNE, whatever its rate."""
    data, info = drifting(int(12 * sfreq)), mne.create_info(3, sfreq, "eeg", verbose="ERROR")
    raw = mne.io.RawArray(data.copy(), info, verbose="ERROR").resample(256, verbose="ERROR")
    expected = raw.filter(0.5, None, verbose="ERROR").get_data()
    prepare = Preprocessing(sfreq, ZUNA, 0.5, min(ZUNA.h_freq, sfreq / 2), None)
    assert_close(prepare(data), expected)
    assert prepare.labels[-1] == "from 0.5 Hz, zero-phase FIR of 6.61 s"
    assert Preprocessing(sfreq, ZUNA, 0.5, 40.0, None).labels[-1].startswith("0.5-40 Hz")


@pytest.mark.parametrize(
    ("sfreq", "n_times", "first", "std"),
    [
        (250.0, 1024, [7.257573e-06, 5.83819e-06, 7.520901e-06, 2.315695e-06, 9.446785e-06], 5.7437431e-06),
        (500.0, 512, [6.69742e-06, 6.029728e-06, 6.279805e-06, 1.766472e-06, -3.881854e-06], 4.1484428e-06),
    ],
)
def test_resampling_is_the_published_one(sfreq: float, n_times: int, first: list[float], std: float) -> None:
    """A recording that a hash makes comes out as from the authors' own preprocessing."""
    resampled = resample(1e-5 * hashed("golden.resample", 2000).reshape(2, 1000), sfreq, 256.0)
    assert resampled.shape == (2, n_times)
    np.testing.assert_allclose(resampled[0, :5], first, rtol=0, atol=1e-12)
    assert resampled.std() == pytest.approx(std, rel=1e-7)


@pytest.mark.parametrize(("sfreq", "sfreq_out"), [(160, 256), (250, 256), (500, 256), (1000, 200), (128, 256)])
def test_grid_is_where_the_samples_lie(sfreq: float, sfreq_out: float) -> None:
    """A tone read off at the positions the grid gives is the tone, which at the nominal times it is not quite."""
    n_times = int(20 * sfreq)
    data = np.sin(2 * np.pi * 11.3 * np.arange(n_times) / sfreq)[np.newaxis] * np.hanning(n_times) ** 2
    grid = resampled_grid(n_times, sfreq, sfreq_out)
    position = grid.first + grid.step * np.arange(grid.n_times)
    expected = (
        np.sin(2 * np.pi * 11.3 * position / sfreq) * (0.5 - 0.5 * np.cos(2 * np.pi * position / (n_times - 1))) ** 2
    )
    resampled = resample(data, sfreq, sfreq_out)
    assert resampled.shape == (1, grid.n_times)
    np.testing.assert_allclose(resampled[0], expected, atol=3e-4)  # half a sample off would be 0.1
    assert abs(grid.first) <= 0.5 * grid.step


def test_same_rate_is_left_alone() -> None:
    """At the model's rate nothing is resampled, and the steps say so."""
    assert resample(drifting(10), 256, 256 + 1e-6) is not None
    assert len(Preprocessing(256, SPEC, 0.1, 75, None).labels) == 1
    assert Preprocessing(500, SPEC, 0.1, 75, 50).labels == (
        "0.1-75 Hz, zero-phase FIR of 33 s",
        "notch 50 Hz, zero-phase FIR of 6.6 s",
        "resample 500 -> 256 Hz by FFT",
    )


def test_order_of_the_steps_is_the_models() -> None:
    """A model whose data were resampled first has its filters designed for the outgoing rate."""
    data = drifting(6000)
    first = replace(SPEC, offline=("resample", "band"))
    expected = zero_phase(resample(data, 500, 256), band_taps(256, 0.1, 75))
    np.testing.assert_array_equal(Preprocessing(500, first, 0.1, 75, 50)(data), expected)


def test_channels_are_independent() -> None:
    """A channel comes out the same alone and among others, however many."""
    data, prepare = drifting(3000, 19), Preprocessing(160, SPEC, 0.1, 75, 50)
    np.testing.assert_allclose(prepare(data)[11:12], prepare(data[11:12]), rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    ("sfreq", "h_freq", "notch_hz", "message"),
    [
        (
            128,
            75,
            None,
            "the offline filter from 0.1 to 75 Hz does not fit a rate of 128 Hz: set signal.h_freq below 64",
        ),
        (150, 75, None, "the offline filter from 0.1 to 75 Hz does not fit a rate of 150 Hz: set signal.h_freq below"),
        (160, 75, 79.8, "an offline notch at 79.8 Hz does not fit a rate of 160 Hz"),
    ],
)
def test_refusals(sfreq: float, h_freq: float, notch_hz: float | None, message: str) -> None:
    """What MNE refuses is refused, in one sentence that says what to change."""
    with pytest.raises(ContractError, match=message):
        Preprocessing(sfreq, SPEC, 0.1, h_freq, notch_hz)


def test_high_pass_that_does_not_fit() -> None:
    """Nor is there a high-pass at 0 Hz, or beyond what the signal has."""
    for l_freq in (0.0, 128.0):
        with pytest.raises(ContractError, match=f"an offline high-pass at {l_freq:g} Hz does not fit a rate of 256 Hz"):
            Preprocessing(256.0, ZUNA, l_freq, 128.0, None)


def test_nothing_published() -> None:
    """A model of which no preprocessing is known has none to reproduce."""
    with pytest.raises(ContractError, match="no published preprocessing to reproduce"):
        Preprocessing(256, replace(SPEC, offline=()), 0.1, 75, None)
