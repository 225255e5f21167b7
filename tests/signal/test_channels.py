"""Picking, re-referencing and pairing channels."""

import numpy as np
import pytest

from streamnode.errors import ContractError
from streamnode.montage import position
from streamnode.signal.channels import BIPOLAR_MONTAGES, TUEG20, TUEG22, Bipolar, Pick, Rereference
from streamnode.signal.quality import carry
from streamnode.types import Quality
from tests.signal import as_chunk, noise, stream

INFO = stream(256, ["Fp1", "F7", "T3", "Cz"])
DATA = noise(50, 4)
CHUNK = as_chunk(INFO, DATA)


def test_pick_reorders() -> None:
    """The picked channels come in the order asked for, in any spelling, with their positions and their precision."""
    pick = Pick(INFO, ["EEG CZ-REF", "fp1"])
    assert pick.info.ch_names == ("Cz", "Fp1")
    np.testing.assert_array_equal(pick.info.montage.ch_pos, INFO.montage.ch_pos[[3, 0]])
    out = pick(CHUNK)
    assert out.info is pick.info
    assert out.data.dtype == np.float32
    np.testing.assert_array_equal(out.data, DATA[:, [3, 0]])


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["Cz", "T7"], "stream 'amp' has no channel T7: did you mean T3?"),
        (["Fp2"], "stream 'amp' has no channel Fp2: did you mean Fp1?"),
        (["EMG"], "stream 'amp' has no channel EMG: did you mean one of Fp1, F7, T3, Cz?"),
        (["Cz", "cz"], "cz is picked more than once"),
    ],
)
def test_pick_refuses(names: list[str], message: str) -> None:
    """An unknown channel is refused with what comes near: the other name of the place, a like spelling, or all."""
    with pytest.raises(ContractError) as error:
        Pick(INFO, names)
    assert message in str(error.value)


def test_average_reference() -> None:
    """With the average reference, the channels of each sample sum to zero."""
    out = Rereference(INFO, "average")(CHUNK).data
    np.testing.assert_allclose(out.sum(axis=1), 0, atol=1e-9)
    np.testing.assert_allclose(np.diff(out, axis=1), np.diff(DATA.astype(np.float64), axis=1), atol=1e-9)


def test_channel_that_is_no_number_does_not_count_in_the_average() -> None:
    """A dead channel leaves the reference to the others, and stays what it is."""
    data = DATA.copy()
    data[10:20, 1] = np.nan
    out = Rereference(INFO, "average")(as_chunk(INFO, data)).data
    assert np.isnan(out[10:20, 1]).all()
    np.testing.assert_allclose(np.delete(out[10:20], 1, axis=1).sum(axis=1), 0, atol=1e-9)
    np.testing.assert_array_equal(out[20:], Rereference(INFO, "average")(CHUNK).data[20:])


def test_reference_to_channels() -> None:
    """Re-referencing to two channels subtracts their mean from all."""
    out = Rereference(INFO, ["t3", "CZ"])(CHUNK).data
    np.testing.assert_allclose(
        out, DATA.astype(np.float64) - DATA[:, 2:].astype(np.float64).mean(axis=1, keepdims=True)
    )


def test_bipolar_pairs() -> None:
    """A pair is the first minus the second, named by both, at the mid-point that the montage gives its name."""
    bipolar = Bipolar(INFO, ["FP1 - F7", "F7-T3"])
    assert bipolar.info.ch_names == ("Fp1-F7", "F7-T3")
    np.testing.assert_array_equal(bipolar.info.montage.ch_pos, [position("Fp1-F7"), position("F7-T3")])
    expected = DATA[:, [0, 1]].astype(np.float64) - DATA[:, [1, 2]].astype(np.float64)
    np.testing.assert_array_equal(bipolar(CHUNK).data, expected)


def test_bipolar_pairs_are_spelled_as_the_stream() -> None:
    """Whatever case a pair is written in, what is wrong with its electrodes is found under its name."""
    info = stream(256, ["EarL", "EarR", "X1", "X2"])
    names = Bipolar(info, ["earl-EARR", "x1 - X2"]).info.ch_names
    assert names == ("EarL-EarR", "X1-X2")
    assert carry(Quality((("flat",), (), (), ())), info.ch_names, names).faults == (("flat",), ())


def test_bipolar_of_given_positions() -> None:
    """Mid-points are those of the stream's own positions, not of the template's."""
    info = stream(256, ["Fp1", "F7"])
    info.montage.ch_pos[:] = [[0.0, 0.1, 0.2], [0.2, 0.1, 0.0]]
    np.testing.assert_allclose(Bipolar(info, ["Fp1-F7"]).info.montage.ch_pos, [[0.1, 0.1, 0.1]])


@pytest.mark.parametrize(
    ("pairs", "message"),
    [(["Cz"], "Cz is not a pair of channels: write pairs such as Fp1-F7"), (["Fp1-Fz"], "has no channel Fz: did you")],
)
def test_bipolar_refuses(pairs: list[str], message: str) -> None:
    """What is no pair, and electrodes the stream lacks, are refused."""
    with pytest.raises(ContractError, match=message):
        Bipolar(INFO, pairs)


def test_tueg_montages() -> None:
    """The double banana has 22 distinct pairs, 20 without ears, all with a place, in the right order."""
    assert BIPOLAR_MONTAGES == {"TUEG22": TUEG22, "TUEG20": TUEG20}
    assert len(set(TUEG22)) == 22
    assert (TUEG22[0], TUEG22[-1], TUEG20[-1]) == ("Fp1-F7", "T4-A2", "P4-O2")
    electrodes = list(dict.fromkeys(name for pair in TUEG22 for name in pair.split("-")))
    bipolar = Bipolar(stream(256, electrodes), TUEG22)
    assert bipolar.info.ch_names == TUEG22
    low, high = bipolar.info.montage.ch_pos.min(axis=0), bipolar.info.montage.ch_pos.max(axis=0)
    np.testing.assert_allclose(low, [-0.08696143, -0.06241168, 0.00203225], atol=1e-8)
    np.testing.assert_allclose(high, [0.08359472, 0.10139235, 0.12235509], atol=1e-8)
