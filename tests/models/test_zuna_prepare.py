"""Promises of `streamnode.models.zuna_prepare`: the published preprocessing, and the way back.

The golden values are those of the authors' code with MNE 1.13 in float64: of a recording that a hash makes out of a
name, and of their sample recording.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from streamnode.errors import ContractError
from streamnode.models.zuna import SPEC, normalise
from streamnode.models.zuna_flow import Generation
from streamnode.models.zuna_prepare import prepare, unprepare
from streamnode.signal.offline import Preprocessing
from streamnode.sources.replay import read
from streamnode.types import Float64Array
from tests.models.test_zuna import GOLDEN, both, hashed

C3 = 4


def golden_recording() -> Float64Array:
    """`(4, 2560)` microvolts at 256 Hz."""
    return 10 * hashed("golden.rec", 10240).reshape(4, 2560)


@pytest.fixture
def sample(data_dir: Path) -> Float64Array:
    """`(12, 3840)` microvolts at 256 Hz: what the authors publish beside their code."""
    return read(data_dir / "zuna" / "sample1_raw.fif").data.T.astype(np.float64)


def noise(seconds: float, sfreq: float, seed: int = 0) -> Float64Array:
    """Five channels of another amplitude each, drifting, on an offset."""
    walk = np.random.default_rng(seed).normal(size=(5, round(seconds * sfreq)))
    drifting: Float64Array = walk * np.linspace(3, 30, 5)[:, np.newaxis] + walk.cumsum(axis=1) / 10 + 1000
    return drifting


# ---- As published ----------------------------------------------------------------------------------------------------


@both
def test_a_raw_recording_becomes_the_published_epochs(generation: Generation) -> None:
    """High-pass, reference, scaling and epochs together yield the authors' numbers, from what an amplifier sends."""
    prepared, golden = prepare(golden_recording(), 256.0, generation), GOLDEN["preprocessing"]
    assert prepared.x.shape == (2, 4, 1280)
    for z, scale, expected in zip(10 * prepared.x.numpy(), prepared.scale.numpy(), golden[generation], strict=True):
        np.testing.assert_allclose(z[0, :5], expected["first"], rtol=1e-6)
        np.testing.assert_allclose(z[3, 1280 - len(expected.get("last", [])) :], expected.get("last", []), rtol=1e-6)
        assert z.std() == pytest.approx(expected["std"], rel=1e-6)
        wanted = np.multiply(expected.get("scale", [golden["referenced"]["std"]] * 4), 1e7)
        np.testing.assert_allclose(scale[:, 0], wanted, rtol=1e-6)


def test_the_sample_recording_becomes_what_v1_makes_of_it(sample: Float64Array) -> None:
    """Standard deviation of the recording, and statistics and first samples of each epoch, to all published digits."""
    prepared = prepare(sample, 256.0, "v1")
    z = 10 * prepared.x.numpy()
    assert prepared.scale.numpy() == pytest.approx(65.47199300249313, rel=1e-9)
    np.testing.assert_allclose(z.std(axis=(1, 2)), [0.8345420501, 1.0285385954, 1.1040300727], rtol=1e-8)
    np.testing.assert_allclose(z.min(axis=(1, 2)), [-3.4931, -4.2253, -4.6051], atol=5e-5)
    np.testing.assert_allclose(z.max(axis=(1, 2)), [4.3103, 4.8893, 4.4880], atol=5e-5)
    np.testing.assert_allclose(
        z[:, 0, :5],
        [
            [-0.02072231, 0.42572172, 0.97841376, 0.65004454, 0.00515424],
            [-0.09943189, -0.1592271, -0.14700928, -0.19223451, -0.36217958],
            [0.84116312, 0.57306451, 1.2879733, 1.9699595, 1.36144193],
        ],
        rtol=0,
        atol=5e-7,  # for we read float32
    )


def test_a_bad_channel_is_what_v1_makes_of_it(sample: Float64Array) -> None:
    """It stays in the average, is zero in the one standard deviation, and zero to the network."""
    prepared = prepare(sample, 256.0, "v1", bad=[C3])
    assert prepared.scale[0, 0, 0] == pytest.approx(64.08457, rel=1e-7)
    first = [-0.02117095, 0.43493854, 0.99959631, 0.66411793, 0.00526583]
    np.testing.assert_allclose(10 * prepared.x[0, 0, :5], first, rtol=0, atol=5e-7)
    assert not prepared.x[:, C3].any()


def test_the_sample_recording_becomes_what_1_1_makes_of_it(sample: Float64Array) -> None:
    """Each channel has a scale of its own in each epoch; a bad one by what it holds, an added one by the average."""
    prepared = prepare(sample, 256.0, "1.1", bad=[C3], n_added=1)
    assert prepared.x.shape == (3, 13, 1280)
    np.testing.assert_allclose(
        10 * prepared.x[:, 0, :5],
        [
            [-0.02212802, 0.45460108, 1.0447856, 0.6941411, 0.0055039],
            [-0.08835494, -0.14148879, -0.1306321, -0.17081913, -0.32183194],
            [0.63335216, 0.4314878, 0.9697769, 1.4832771, 1.025095],
        ],
        rtol=0,
        atol=5e-7,
    )
    np.testing.assert_allclose(
        prepared.scale[0, [0, 1, 2, 12], 0], [61.312771, 66.537386, 52.101927, 42.921], rtol=0, atol=2e-4
    )
    assert not prepared.x[:, [C3, 12]].any()
    seen = 10 * prepare(sample, 256.0, "1.1").x  # the published figure has C3 before it is hidden
    np.testing.assert_allclose(seen.std(dim=(1, 2), correction=0), [0.8382, 0.8602, 0.8697], atol=5e-5)


# ---- And back --------------------------------------------------------------------------------------------------------


@both
@given(seed=st.integers(0, 99), sfreq=st.sampled_from([200.0, 256.0, 500.0]), n_added=st.integers(0, 2))
@settings(max_examples=10, deadline=None)
def test_microvolts_come_back_exactly(generation: Generation, seed: int, sfreq: float, n_added: int) -> None:
    """What was not clamped comes back as the recording at 256 Hz from 0.5 Hz, to rounding; the rest at its limit."""
    recording = noise(11.3, sfreq, seed)
    prepared = prepare(recording, sfreq, generation, n_added=n_added, data_norm=30)
    assert prepared.x.abs().max() < 1
    found = unprepare(prepared)
    filtered = Preprocessing(sfreq, SPEC, 0.5, 128.0, None)(recording)
    assert found.shape == (5 + n_added, 2560)
    np.testing.assert_allclose(found[:5], filtered[:, :2560], rtol=0, atol=1e-9)


def test_what_is_far_out_comes_back_clamped() -> None:
    """Of a spike ten standard deviations remain, and other samples are not touched by it."""
    recording = noise(5, 256.0)
    recording[2, 640] += 3e3
    prepared = prepare(recording, 256.0, "1.1")
    assert prepared.x.max() == 1
    lost = np.abs(unprepare(prepared) - Preprocessing(256.0, SPEC, 0.5, 128.0, None)(recording)) > 1e-9
    assert lost[2].any()
    assert np.flatnonzero(lost.any(axis=0)).tolist() == [640]


@both
def test_what_a_network_made_of_it_comes_back_alike(generation: Generation) -> None:
    """Any other tensor of that shape goes back to microvolts by the same scale, in float32 too."""
    prepared = prepare(noise(10, 256.0), 256.0, generation, bad=[1])
    half = unprepare(prepared, (prepared.x / 2).float())
    zero = unprepare(prepared, torch.zeros_like(prepared.x))
    np.testing.assert_allclose(2 * half - zero, unprepare(prepared), rtol=0, atol=1e-3)


@both
def test_it_is_what_live_epochs_go_through(generation: Generation) -> None:
    """Where no channel is bad, scaling filtered epochs one by one gives the same to the network, and the way back."""
    recording = noise(10, 256.0)
    prepared = prepare(recording, 256.0, generation)
    filtered = Preprocessing(256.0, SPEC, 0.5, 128.0, None)(recording)
    std_uv = float((filtered - filtered.mean(axis=0)).std()) if generation == "v1" else None
    epochs = torch.from_numpy(filtered.reshape(5, 2, 1280).transpose(1, 0, 2).copy())
    live = normalise(epochs, generation, range(5), std_uv=std_uv)
    torch.testing.assert_close(live.x, prepared.x, rtol=0, atol=1e-12)
    torch.testing.assert_close(live.undo(live.x), prepared.undo(prepared.x), rtol=0, atol=1e-9)


# ---- What cannot be prepared -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seconds", "value", "options", "message"),
    [
        (4.9, None, {}, "4.89844 s hold no epoch of 5 s: choose a longer recording"),
        (5, None, {"duration_s": 1.01}, "a shorter epoch of a multiple of 0.125 s"),
        (5, np.nan, {}, "sample 7 of row 3 is not a finite number: fill or cut what is missing"),
        (5, None, {"bad": range(5)}, "all 5 channels are bad: leave ZUNA some that are not"),
        (5, 0.0, {}, "nothing varies in this recording"),
    ],
)
def test_what_cannot_be_prepared_is_refused(
    seconds: float, value: float | None, options: dict[str, Any], message: str
) -> None:
    """Too short, broken patches, no numbers, no good channel, nothing in it: a sentence each."""
    recording = noise(seconds, 256.0)
    if value == 0:
        recording[:] = 0
    elif value is not None:
        recording[3, 7] = value
    with pytest.raises(ContractError, match=message):
        prepare(recording, 256.0, "v1", **options)
