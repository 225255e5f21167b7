"""Promises of `streamnode.montage`."""

from __future__ import annotations

import importlib.util
import zlib
from pathlib import Path

import numpy as np
import pytest

from streamnode.errors import ConfigError, ContractError
from streamnode.montage import CAPS, clean_name, coverage, electrodes_to_add, make_montage, position

TUEG20 = (
    "FP1-F7 F7-T3 T3-T5 T5-O1 FP2-F8 F8-T4 T4-T6 T6-O2 T3-C3 C3-CZ CZ-C4 C4-T4 FP1-F3 F3-C3 C3-P3 P3-O1 FP2-F4 F4-C4 "
    "C4-P4 P4-O2"
)
TUEG22 = f"{TUEG20} A1-T3 T4-A2"
SIENA29 = "FP1 FP2 F3 C3 P3 O1 F7 T3 T5 FC1 FC5 CP1 CP5 F9 FZ CZ PZ F4 C4 P4 O2 F8 T4 T6 FC2 FC6 CP2 CP6 F10"
SEED62 = (
    "FP1 FPZ FP2 AF3 AF4 F7 F5 F3 F1 FZ F2 F4 F6 F8 FT7 FC5 FC3 FC1 FCZ FC2 FC4 FC6 FT8 T7 C5 C3 C1 CZ C2 C4 C6 T8 TP7 "
    "CP5 CP3 CP1 CPZ CP2 CP4 CP6 TP8 P7 P5 P3 P1 PZ P2 P4 P6 P8 PO7 PO5 PO3 POZ PO4 PO6 PO8 CB1 O1 OZ O2 CB2"
)


@pytest.mark.parametrize(
    ("labels", "crc"),
    [(TUEG22, 0xBE9A5AB5), (TUEG20, 0xD5EF5A62), (SIENA29, 0x2E6CE604), (SEED62, 0x23AF853F)],
    ids=["TUEG22", "TUEG20", "SIENA29", "SEED62"],
)
def test_positions_equal_mne_bit_for_bit(labels: str, crc: int) -> None:
    """The montages that LUNA was trained on have, as float32, exactly the bits that MNE's head frame gives."""
    ch_pos = make_montage(labels.split()).ch_pos
    assert zlib.crc32(ch_pos.astype("<f4").tobytes()) == crc


@pytest.mark.parametrize(
    ("label", "name"),
    [
        ("Fp1", "Fp1"),
        ("Fc5.", "FC5"),
        ("Cz..", "Cz"),
        ("EEG Fp1", "Fp1"),
        ("EEG T3-REF", "T3"),
        ("EEG FP2-LE", "Fp2"),
        ("pz - avg", "Pz"),
        ("FP1-F7", "Fp1-F7"),
        ("T3\N{EN DASH}c3", "T3-C3"),
        ("fp1_-_f7", "Fp1-F7"),
        (" AF P3 H ", "AFp3h"),
        ("CB1", "CB1"),
        ("T7", "T7"),
        ("T3", "T3"),
        ("EEG A1-A2", "A1-A2"),
        ("T4-A2", "T4-A2"),
        ("Fp1-M2", "Fp1"),
        ("C3-M1M2", "C3"),
        ("O2-A1+A2", "O2"),
        ("Fp1_Ref", "Fp1"),
        ("Cz-Ref1", "Cz"),
        ("EEG.AF3", "AF3"),
        ("EEG:Cz", "Cz"),
        ("EEG-Pz", "Pz"),
        ("POL M1", "M1"),
        ("EEG Fp1-Org", "Fp1"),
        ("T8-P8-1", "T8-P8-1"),
        ("EEG FP1-REF-0", "Fp1-0"),
    ],
)
def test_labels_are_spelled_as_the_10_05_system_does(label: str, name: str) -> None:
    """Case, dots, prefixes, references, blanks and dashes of amplifiers and files all lead to the standard name."""
    assert clean_name(label) == name


@pytest.mark.parametrize("label", ["EXG 1", "EEG 001", "Fp1-ECG", "Fp1-F7-F3", "trigger.", "", "-"])
def test_a_label_that_names_no_electrode_is_only_trimmed(label: str) -> None:
    """What is not an electrode or a pair keeps its own name and has no position."""
    assert clean_name(f" {label}\n") == label
    assert np.isnan(position(label)).all()


def test_every_electrode_of_the_template_keeps_its_name_and_has_a_place() -> None:
    """Cleaning is the identity on all 343 standard names, and all of them lie on a head."""
    rows = Path(__file__).parents[1].joinpath("streamnode/colin27_1005.txt").read_text("utf-8").splitlines()
    names = [row.split()[0] for row in rows if not row.startswith("#")]
    assert len(names) == 343
    assert [clean_name(name) for name in names] == names
    distance = np.linalg.norm(make_montage(names).ch_pos, axis=1)
    assert 0.05 < distance.min() < distance.max() < 0.2


def test_a_bipolar_channel_sits_between_its_electrodes() -> None:
    """`A-B` is at the mid-point, and the cerebellar electrodes are at their 10-05 places."""
    np.testing.assert_array_equal(position("Fp1-F7"), (position("Fp1") + position("F7")) / 2)
    np.testing.assert_array_equal(position("CB1"), position("POO7"))
    np.testing.assert_array_equal(position("CB2"), position("POO8"))


def test_old_and_new_temporal_names_share_a_place_not_a_name() -> None:
    """T3 and T7 stay two names for one place."""
    montage = make_montage(["T3", "T7", "T6", "P8"])
    assert montage.ch_names == ("T3", "T7", "T6", "P8")
    np.testing.assert_array_equal(montage.ch_pos[0], montage.ch_pos[1])
    np.testing.assert_array_equal(montage.ch_pos[2], montage.ch_pos[3])


def test_given_positions_win_and_gaps_are_filled_from_the_template() -> None:
    """A measured position is kept, a missing one is looked up, and what neither knows stays NaN."""
    measured = np.array([[0.01, 0.02, 0.03], [0.01, np.nan, 0.03], [np.nan] * 3])
    montage = make_montage(["Fp1", "Cz", "EXG1"], measured)
    np.testing.assert_array_equal(montage.ch_pos[0], measured[0])
    np.testing.assert_array_equal(montage.ch_pos[1], position("Cz"))
    assert np.isnan(montage.ch_pos[2]).all()


def test_a_montage_may_be_empty() -> None:
    """No labels give no channels."""
    assert make_montage([]).ch_pos.shape == (0, 3)


def test_duplicates_are_refused_by_name() -> None:
    """Two labels for one electrode are an error that names both spellings."""
    with pytest.raises(ContractError, match=r"more than one channel is Fp1 \(labelled 'FP1', 'EEG Fp1-REF'\)"):
        make_montage(["FP1", "Cz", "EEG Fp1-REF"])
    with pytest.raises(ContractError, match=r"\(labelled ('Cz', ){7}'Cz' and 504 more\)"):
        make_montage(["Cz"] * 512)


def test_positions_of_the_wrong_shape_are_refused() -> None:
    """Two coordinates, or a row too few, are an error that says what is expected."""
    with pytest.raises(ContractError, match=r"shape \(2, 3\), not \(2, 2\)"):
        make_montage(["Fp1", "Cz"], np.zeros((2, 2)))


def test_the_tables_are_what_their_tool_makes() -> None:
    """The shipped tables are the templates of the installed MNE, to the last digit."""
    pytest.importorskip("mne")
    root = Path(__file__).parents[1]
    spec = importlib.util.spec_from_file_location("make_montage", root / "tools" / "make_montage.py")
    assert spec is not None
    assert spec.loader is not None
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    assert tool.TABLE.read_text("utf-8") == tool.render()
    assert tool.CAPS_TABLE.read_text("utf-8") == tool.render_caps()


LABELS = {
    "TUH": (
        "EEG FP1-REF,EEG FP2-REF,EEG F3-REF,EEG F4-REF,EEG C3-REF,EEG C4-REF,EEG P3-REF,EEG P4-REF,EEG O1-REF,"
        "EEG O2-REF,EEG F7-REF,EEG F8-REF,EEG T3-REF,EEG T4-REF,EEG T5-REF,EEG T6-REF,EEG A1-REF,EEG A2-REF,"
        "EEG FZ-REF,EEG CZ-REF,EEG PZ-REF"
    ),
    "TUH, linked ears": "EEG FP1-LE,EEG FP2-LE,EEG T3-LE,EEG CZ-LE,EEG OZ-LE,EEG A1-LE,EEG A2-LE",
    "EEGMMIDB": (
        "Fc5.,Fc3.,Fc1.,Fcz.,Fc2.,Fc4.,Fc6.,C5..,C3..,C1..,Cz..,C2..,C4..,C6..,Cp5.,Cp3.,Cp1.,Cpz.,"
        "Cp2.,Cp4.,Cp6.,Fp1.,Fpz.,Fp2.,Af7.,Af3.,Afz.,Af4.,Af8.,F7..,F5..,F3..,F1..,Fz..,F2..,F4..,"
        "F6..,F8..,Ft7.,Ft8.,T7..,T8..,T9..,T10.,Tp7.,Tp8.,P7..,P5..,P3..,P1..,Pz..,P2..,P4..,P6..,"
        "P8..,Po7.,Po3.,Poz.,Po4.,Po8.,O1..,Oz..,O2..,Iz.."
    ),
    "CHB-MIT": (
        "FP1-F7,F7-T7,T7-P7,P7-O1,FP1-F3,F3-C3,C3-P3,P3-O1,FP2-F4,F4-C4,C4-P4,P4-O2,FP2-F8,F8-T8,T8-P8-0,"
        "P8-O2,FZ-CZ,CZ-PZ,P7-T7,T7-FT9,FT9-FT10,FT10-T8,T8-P8-1"
    ),
    "CHB-MIT, common reference": "FP1-CS2,F7-CS2,T7-CS2,P7-CS2,CZ-CS2,O2-CS2,C3-REF,CP1-Ref,CP2-Ref,CP5-Ref",
    "Siena": (
        "EEG FP1,EEG FP2,EEG F3,EEG C3,EEG P3,EEG O1,EEG F7,EEG T3,EEG T5,EEG Fc1,EEG Fc5,EEG CP1,EEG CP5,"
        "EEG F9,EEG FZ,EEG CZ,EEG PZ,EEG F4,EEG C4,EEG P4,EEG O2,EEG F8,EEG T4,EEG T6,EEG Fc2,EEG Fc6,"
        "EEG Cp2,EEG CP6,EEG F10"
    ),
    "SEED": SEED62.replace(" ", ","),
    "Muse": "TP9,AF7,AF8,TP10",
    "OpenBCI": "Fp1,Fp2,C3,C4,P7,P8,O1,O2,F7,F8,F3,F4,T7,T8,P3,P4",
    "actiCAP": (
        "Fp1,Fz,F3,F7,FT9,FC5,FC1,C3,T7,TP9,CP5,CP1,Pz,P3,P7,O1,Oz,O2,P4,P8,TP10,CP6,CP2,Cz,C4,"
        "T8,FT10,FC6,FC2,F4,F8,Fp2,AF7,AF3,AFz,F1,F5,FT7,FC3,FCz,C1,C5,TP7,CP3,P1,P5,PO7,PO3,"
        "POz,PO4,PO8,P6,P2,CPz,CP4,TP8,C6,C2,FC4,FT8,F6,F2,AF4,AF8,F9,AFF1h,FFC1h,FFC5h,FTT7h,"
        "FCC3h,CCP1h,CCP5h,TPP7h,P9,PPO9h,PO9,O9,OI1h,PPO1h,CPP3h,CPP4h,PPO2h,OI2h,O10,PO10,PPO10h,"
        "P10,TPP8h,CCP6h,CCP2h,FCC4h,FTT8h,FFC6h,FFC2h,AFF2h,F10,AFp1,AFp2,FFT9h,FTT9h,TTP7h,TPP9h,"
        "CPP5h,PPO5h,POO1,POO2,PPO6h,CPP6h,TPP10h,TTP8h,FTT10h,FFT10h,AFF5h,AFF6h,FFC3h,FCC1h,FCC5h,"
        "CCP3h,CPP1h,CPP2h,CCP4h,FCC6h,FCC2h,FFC4h"
    ),
    "Emotiv": "AF3,F7,F3,FC5,T7,P7,O1,O2,P8,T8,FC6,F4,F8,AF4",
    "EmotivPRO": "EEG.AF3,EEG.T7,EEG.Pz,EEG.T8,EEG.AF4",
    "g.tec": ("FP1,FP2,AF3,AF4,F7,F3,FZ,F4,F8,FC5,FC1,FC2,FC6,T7,C3,CZ,C4,T8,CP5,CP1,CP2,CP6,P7,P3,PZ,P4,P8,OZ"),
    "waveguard": (
        "Fp1,Fpz,Fp2,F7,F3,Fz,F4,F8,FC5,FC1,FC2,FC6,M1,T7,C3,Cz,C4,T8,M2,CP5,CP1,CP2,CP6,P7,P3,"
        "Pz,P4,P8,POz,O1,Oz,O2,AF7,AF3,AF4,AF8,F5,F1,F2,F6,FC3,FCz,FC4,C5,C1,C2,C6,CP3,CPz,CP4,"
        "P5,P1,P2,P6,PO5,PO3,PO4,PO6,FT7,FT8,TP7,TP8,PO7,PO8"
    ),
    "Neuroscan": f"{SEED62} M1 M2".replace(" ", ","),
    "10-10": (
        "fp1,fpz,fp2,af9,af7,af5,af3,af1,afz,af2,af4,af6,af8,af10,f9,ft9,t9,tp9,p9,po9,i1,iz,i2,po10,p10,tp10,t10"
    ),
    "polysomnography": "F3-M2,F4-M1,C3-M2,C4-M1,O1-M2,O2-M1",
    "Sleep-EDF": "EEG Fpz-Cz,EEG Pz-Oz",
    "Nihon Kohden": "EEG Fp1-Ref,EEG T3-Ref,POL T5,EEG Cz-Org,EEG A1-Ref",
    "BCI Competition IV": "EEG-Fz,EEG-C3,EEG-Cz,EEG-C4,EEG-Pz,EEG:C3,EEG:Cz,EEG:C4",
}


@pytest.mark.parametrize("labels", LABELS.values(), ids=LABELS.keys())
def test_public_label_sets_are_resolved(labels: str) -> None:
    """At least 95 % of the EEG labels of each public data set and of each maker's cap get a position."""
    places = np.array([position(label) for label in labels.split(",")])
    assert np.isfinite(places).all(axis=1).mean() >= 0.95


def test_numbered_electrodes_need_a_declared_cap() -> None:
    """A BioSemi or EGI label has a place only once the cap is declared; until then A1 is the left ear."""
    labels = ["A1", "A32", "B1", "B32"]
    assert make_montage(labels, cap="biosemi64").ch_names == ("Fp1", "CPz", "Fpz", "O2")
    np.testing.assert_array_equal(make_montage(labels, cap="biosemi64").ch_pos[0], position("Fp1"))
    assert make_montage(["A1", "A16", "A17"], cap="biosemi16").ch_names[:2] == ("Fp1", "O2")
    assert make_montage(["A02", "A32"], cap="biosemi32").ch_names == ("AF3", "Cz")
    assert coverage(make_montage(labels)).unknown == ("A32", "B1", "B32")
    assert coverage(make_montage(["E1", "E2", "EEG 003"])).n_placed == 0
    assert make_montage(["E1", "2", "EEG 003", "E129"], cap="egi128").ch_names == ("E1", "E2", "E3", "Cz")


def test_a_cap_of_its_own_places_the_vertex_on_top() -> None:
    """BioSemi 128's A1 and the reference of an EGI net are on top of the head, and 10-05 names stay known."""
    montage = make_montage(["A1", "D32", "EXG1", "Fp2"], cap="biosemi128")
    assert montage.ch_names == ("A1", "D32", "EXG1", "Fp2")
    np.testing.assert_allclose(montage.ch_pos[0], [0, 0, 0.135], atol=2e-4)
    assert np.isnan(montage.ch_pos[2]).all()
    net = make_montage([*(f"E{number}" for number in range(1, 129)), "VREF"], cap="egi128")
    assert coverage(net).n_placed == 129
    assert net.ch_pos[128, 2] > net.ch_pos[:, 2].max() - 2e-3


@pytest.mark.parametrize("cap", CAPS)
def test_every_electrode_of_every_cap_has_its_own_place(cap: str) -> None:
    """All electrodes a cap numbers are placed, no two alike, on the surface of a head."""
    n_chans = int(cap.removeprefix("biosemi").removeprefix("egi"))
    banks = [f"{bank}{number}" for bank in "ABCDEFGH" for number in range(1, 33)]
    labels = [f"E{number}" for number in range(1, n_chans + 1)] if cap.startswith("egi") else banks[:n_chans]
    ch_pos = make_montage(labels, cap=cap).ch_pos
    assert len(np.unique(ch_pos, axis=0)) == n_chans
    distance = np.linalg.norm(ch_pos - [0, 0, 0.04], axis=1)
    assert 0.06 < distance.min() < distance.max() < 0.13


def test_an_unknown_cap_is_refused() -> None:
    """A cap that does not exist is an error that lists those that do."""
    with pytest.raises(ConfigError, match="there is no cap 'biosemi63': choose one of biosemi16, biosemi32"):
        make_montage(["A1"], cap="biosemi63")


def test_empty_labels_are_numbered() -> None:
    """A channel without a label is named after its column, however many there are."""
    assert make_montage(["", "Cz", "  "]).ch_names == ("ch1", "Cz", "ch3")


def test_coverage_is_one_line() -> None:
    """The report counts the placed, names the unknown and shows what was read as something else, cut to a line."""
    labels = ["EEG FP1-REF", "Cz", "EXG1", *(f"EEG C{number}-LE" for number in range(1, 7)), "F3.", "F4."]
    found = coverage(make_montage(labels), labels)
    assert (found.n_placed, found.n_total, found.unknown, found.unnamed) == (10, 11, ("EXG1",), ())
    assert ("EEG FP1-REF", "Fp1") in found.renamed
    assert len(found.renamed) == 9
    assert str(found).startswith("10 of 11 channels have a position; without: EXG1; read as: 'EEG FP1-REF' = Fp1, ")
    assert str(found).endswith(" and 1 more")
    assert str(coverage(make_montage(["Cz"]))) == "1 of 1 channels have a position"


def test_coverage_tells_a_place_from_a_name() -> None:
    """A position that the stream gives does not make a label an electrode's; a declared cap does."""
    montage = make_montage(["Cz", "X1", "X2"], [[np.nan] * 3, [0.01, 0.02, 0.03], [np.nan] * 3])
    assert str(coverage(montage)) == ("2 of 3 channels have a position; without: X2; known by position alone: X1")
    numbered = make_montage(["A1", "D32"], cap="biosemi128")
    assert coverage(numbered, cap="biosemi128").unnamed == ()
    assert coverage(numbered).unnamed == ("D32",)


def test_coverage_of_many_channels_is_still_one_line() -> None:
    """Of 512 channels without a label, the first eight are listed and the rest are counted."""
    text = str(coverage(make_montage([""] * 512)))
    assert text == "0 of 512 channels have a position; without: ch1, ch2, ch3, ch4, ch5, ch6, ch7, ch8 and 504 more"


def test_electrodes_to_add_all_have_a_place() -> None:
    """Names in any spelling become electrodes; one that the system lacks is named, and so is one that comes twice."""
    montage = electrodes_to_add(["cz", "EEG FP1"])
    assert montage.ch_names == ("Cz", "Fp1")
    np.testing.assert_array_equal(montage.ch_pos, [position("Cz"), position("Fp1")])
    with pytest.raises(ConfigError, match="the 10-05 system has no Qz, nose to add: use its names, such as Cz or FCz"):
        electrodes_to_add(["Cz", "Qz", "nose"])
    with pytest.raises(ContractError, match=r"more than one channel is Cz \(labelled 'Cz', 'CZ'\)"):
        electrodes_to_add(["Cz", "CZ"])
