"""Promises of `streamnode.signal.interpolate`."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from streamnode.errors import ContractError
from streamnode.montage import make_montage
from streamnode.signal.interpolate import FIXED_ORIGIN, Policy, interpolation_matrix, repair, sphere_origin
from streamnode.sources.synthetic import CH_NAMES_32, CH_NAMES_64, SyntheticEeg
from streamnode.types import Float32Array, Float64Array, Montage, Quality

GOOD: Quality = Quality(((),) * 32)


def some_bad(*indices: int) -> Quality:
    return Quality(tuple(("flat",) if index in indices else () for index in range(32)))


def eeg(ch_names: tuple[str, ...] = CH_NAMES_32) -> Float32Array:
    return np.ascontiguousarray(SyntheticEeg(ch_names, seed=3).take(1280).T)


def interpolated_by_mne(data: Float64Array, montage: Montage, bad: list[int]) -> Float64Array:
    mne = pytest.importorskip("mne")
    info = mne.create_info(list(montage.ch_names), 256.0, "eeg")
    places = dict(zip(montage.ch_names, montage.ch_pos, strict=True))
    raw = mne.io.RawArray(data, info, verbose="error")
    raw.set_montage(mne.channels.make_dig_montage(places, coord_frame="head"))
    raw.info["bads"] = [montage.ch_names[index] for index in bad]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Your spherical fit is poor", RuntimeWarning)
        raw.interpolate_bads(method={"eeg": "spline"}, verbose="error")
    return np.asarray(raw.get_data())


@pytest.mark.parametrize(
    ("ch_names", "cap", "bad"),
    [
        (CH_NAMES_32, None, [0, 17]),
        (CH_NAMES_64, None, [5]),
        (CH_NAMES_64, None, list(range(0, 64, 5))),
        (("T7", "T3", *CH_NAMES_32[7:]), None, [0, 3]),
        (tuple(f"{bank}{number}" for bank in "ABCD" for number in range(1, 33)), "biosemi128", [0, 64, 127]),
    ],
    ids=["32", "64", "64 with 13 bad", "two at one place", "biosemi128"],
)
def test_equals_mne(ch_names: tuple[str, ...], cap: str | None, bad: list[int]) -> None:
    """The matrix makes of any data what MNE's `interpolate_bads` does, to 1e-6."""
    montage = make_montage(ch_names, cap=cap)
    data = 20 * np.random.default_rng(0).standard_normal((montage.n_chans, 300))
    expected = interpolated_by_mne(data, montage, bad)
    matrix = interpolation_matrix(montage, bad)
    np.testing.assert_allclose(matrix @ data, expected, rtol=1e-6, atol=1e-6 * np.abs(expected).max())


def test_matrix_touches_only_bad_channels() -> None:
    """Good channels stay as they are, nothing is taken from a bad one, and weights of a constant field sum to one."""
    matrix = interpolation_matrix(make_montage(CH_NAMES_32), [3, 9])
    good = np.delete(np.arange(32), [3, 9])
    np.testing.assert_array_equal(matrix[good], np.eye(32)[good])
    assert not matrix[:, [3, 9]].any()
    np.testing.assert_allclose(matrix.sum(axis=1), 1, rtol=1e-9)


def test_few_electrodes_use_the_average_head() -> None:
    """No sphere is fitted to ten electrodes or fewer; that of a whole cap is near the average head's."""
    np.testing.assert_array_equal(sphere_origin(make_montage(CH_NAMES_32[:10])), FIXED_ORIGIN)
    fitted = sphere_origin(make_montage(CH_NAMES_64))
    assert 0 < np.linalg.norm(fitted - np.array(FIXED_ORIGIN)) < 0.03


@pytest.mark.parametrize(
    ("ch_names", "bad", "message"),
    [
        (("Fp1", "Fp2", "C3", "C4", "O1"), (0, 1), "3 good channels are too few to interpolate from: at least 4"),
        (("Fp1", "Fp2", "C3", "C4", "EXG1"), (), "cannot be interpolated while EXG1 has no position"),
    ],
)
def test_what_cannot_be_interpolated_is_refused(ch_names: tuple[str, ...], bad: tuple[int, ...], message: str) -> None:
    """Too few good channels, or a channel without a place even before any is bad, is an error that says what helps."""
    with pytest.raises(ContractError, match=message):
        interpolation_matrix(make_montage(ch_names), bad)


@pytest.mark.parametrize("policy", ["keep", "mask", "interpolate", "skip"])
def test_an_epoch_without_bad_channels_is_left_alone(policy: Policy) -> None:
    """Whatever the policy, a good epoch comes back as it is, not even copied."""
    data = eeg()
    repaired = repair(data, make_montage(CH_NAMES_32), GOOD, policy)
    assert repaired is not None
    assert repaired.data is data
    np.testing.assert_array_equal(repaired.rows, np.arange(32))


def test_keep_changes_nothing_and_skip_gives_up() -> None:
    """`keep` hands on the epoch as it is, `skip` none."""
    data = eeg()
    kept = repair(data, make_montage(CH_NAMES_32), some_bad(1, 4), "keep")
    assert kept is not None
    assert kept.data is data
    assert repair(data, make_montage(CH_NAMES_32), some_bad(1, 4), "skip") is None


def test_mask_leaves_bad_channels_out() -> None:
    """`mask` returns the good rows and says which they are; with none left, nothing."""
    data = eeg()
    masked = repair(data, make_montage(CH_NAMES_32), some_bad(1, 4), "mask")
    assert masked is not None
    np.testing.assert_array_equal(masked.rows, np.delete(np.arange(32), [1, 4]))
    np.testing.assert_array_equal(masked.data, data[masked.rows])
    assert repair(data, make_montage(CH_NAMES_32), some_bad(*range(32)), "mask") is None


def test_interpolate_brings_back_what_was_lost() -> None:
    """A channel of NaN comes back close to what it was, as float32, without a change to the input or the others."""
    truth = eeg()
    data = truth.copy()
    data[[7, 30]] = np.nan
    repaired = repair(data, make_montage(CH_NAMES_32), some_bad(7, 30), "interpolate")
    assert repaired is not None
    assert repaired.data.dtype == np.float32
    assert np.isnan(data[7]).all()
    np.testing.assert_array_equal(np.delete(repaired.data, [7, 30], axis=0), np.delete(truth, [7, 30], axis=0))
    assert np.corrcoef(repaired.data[30], truth[30])[0, 1] > 0.8


def test_interpolate_gives_up_when_too_few_are_good() -> None:
    """With three good channels the epoch is not inferred, and the node goes on."""
    assert repair(eeg(), make_montage(CH_NAMES_32), some_bad(*range(29)), "interpolate") is None
