"""What files say of their channels, unit, rate and place, means what it would mean live."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import edfio
import numpy as np
import pytest

from streamnode.errors import ContractError
from streamnode.montage import make_montage
from streamnode.sources import replay
from streamnode.sources.replay import read
from streamnode.types import Float32Array
from tests.sources.test_replay import DESC, RNG, whole_microvolts, xdf_file, xdf_stream

# --- EDF and BDF ----------------------------------------------------------------------------------------------------


def write_edf(path: Path, *channels: tuple[str, Float32Array], sfreqs: Sequence[float], unit: str = "uV") -> Path:
    """An EDF or BDF file of channels by label, each of its own rate, whose unit is spelled just so."""
    bdf = path.suffix == ".bdf"
    signal, edf = (edfio.BdfSignal, edfio.Bdf) if bdf else (edfio.EdfSignal, edfio.Edf)
    limits = (-32768, 32767)
    scale: dict[str, Any] = {"physical_dimension": "uV", "physical_range": limits, "digital_range": limits}
    signals = [
        signal(values.astype(np.float64), sfreq, label=label, **scale)
        for (label, values), sfreq in zip(channels, sfreqs, strict=True)
    ]
    edf(signals, data_record_duration=1.0).write(path)
    content, n_signals = bytearray(path.read_bytes()), len(channels)
    spelled = unit.encode("utf-8" if "\N{GREEK SMALL LETTER MU}" in unit else "latin-1")
    for i in range(n_signals):
        first = 256 + 96 * n_signals + 8 * i
        content[first : first + 8] = spelled.ljust(8)
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("suffix", [".edf", ".bdf"])
@pytest.mark.parametrize(
    ("unit", "factor"),
    [
        *(("uV", 1), ("µV", 1), ("μV", 1), ("\x83\xcaV", 1), ("uv", 1), ("UV", 1), ("uVolt", 1), ("microvol", 1)),
        *(("mV", 1e3), ("mv", 1e3), ("millivol", 1e3), ("V", 1e6), ("Volt", 1e6), ("nV", 1e-3), ("nanoV", 1e-3)),
    ],
)
def test_edf_units(tmp_path: Path, suffix: str, unit: str, factor: float, caplog: pytest.LogCaptureFixture) -> None:
    """Whatever unit of voltage a file declares, in whatever spelling, its values become microvolts."""
    values = whole_microvolts(256, 1)
    recording = read(write_edf(tmp_path / f"a{suffix}", ("Cz", values[:, 0]), sfreqs=[128.0], unit=unit))
    np.testing.assert_allclose(recording.data, values * factor, rtol=1e-6)
    assert "no known unit" not in caplog.text


@pytest.mark.parametrize("unit", ["", "furlong", "%"])
def test_edf_units_that_nobody_knows(tmp_path: Path, unit: str, caplog: pytest.LogCaptureFixture) -> None:
    """A unit that is missing or unknown is taken for microvolts, with a warning that names the channels, as live."""
    values = whole_microvolts(256, 2)
    channels = ("EEG Cz", values[:, 0]), ("ECG", values[:, 1])
    recording = read(write_edf(tmp_path / "a.edf", *channels, sfreqs=[128.0] * 2, unit=unit))
    np.testing.assert_array_equal(recording.data, values[:, :1])
    assert f"a.edf: no known unit, taken as microvolts: EEG Cz ({unit!r})\n" in caplog.text


@pytest.mark.parametrize(("unit", "doubted"), [("V", True), ("uV", False), ("nV", False), ("mV", True)])
def test_unit_of_a_file_that_cannot_be(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, unit: str, *, doubted: bool
) -> None:
    """Samples that are no EEG in the unit their file declares are warned of."""
    read(write_edf(tmp_path / "a.edf", ("Cz", whole_microvolts(256, 1)[:, 0]), sfreqs=[128.0], unit=unit))
    assert ("a.edf: samples are typically" in caplog.text) == doubted


@pytest.mark.parametrize("suffix", [".edf", ".bdf"])
@pytest.mark.parametrize("other", [32.0, 512.0])
def test_edf_of_mixed_rates(
    tmp_path: Path, suffix: str, other: float, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """EEG comes at its own rate, sample for sample, whatever the rates of channels that are left out."""
    monkeypatch.setattr(replay, "_AT_ONCE", 999)
    caplog.set_level(logging.INFO)
    eeg, ecg = whole_microvolts(128 * 20, 2), whole_microvolts(round(other) * 20, 1)
    channels = ("EEG Fp1", eeg[:, 0]), ("ECG", ecg[:, 0]), ("EEG Cz", eeg[:, 1])
    path = write_edf(tmp_path / f"a{suffix}", *channels, sfreqs=[128.0, other, 128.0])

    recording = read(path)

    assert (recording.info.sfreq, recording.info.ch_names) == (128.0, ("Fp1", "Cz"))
    np.testing.assert_array_equal(recording.data, eeg)
    np.testing.assert_array_equal(read(path, picks=["Cz", "Fp1"]).data, eeg[:, ::-1])
    np.testing.assert_array_equal(read(path, picks=["ECG"]).data, ecg)
    assert "mixed sampling frequencies" not in caplog.text


def test_edf_of_mixed_rates_and_one_label(tmp_path: Path) -> None:
    """Channels whose labels are the same keep the numbers that tell them apart where others have another rate."""
    eeg, ecg = whole_microvolts(128 * 2, 2), whole_microvolts(512 * 2, 1)
    channels = ("T8-P8", eeg[:, 0]), ("ECG", ecg[:, 0]), ("T8-P8", eeg[:, 1])
    recording = read(write_edf(tmp_path / "a.edf", *channels, sfreqs=[128.0, 512.0, 128.0]))
    assert recording.info.ch_names == ("T8-P8-0", "T8-P8-1")
    np.testing.assert_array_equal(recording.data, eeg)


def test_edf_whose_eeg_seems_to_have_several_rates(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Channels that were not sampled together are not played together: those of the usual rate are."""
    eeg, slow = whole_microvolts(256, 1), whole_microvolts(2, 1)
    path = write_edf(tmp_path / "a.edf", ("Cz", eeg[:, 0]), ("Light", slow[:, 0]), sfreqs=[128.0, 1.0])
    np.testing.assert_array_equal(read(path).data, eeg)
    assert "several rates (128 Hz: Cz; 1 Hz: Light): taken are those of 128 Hz" in caplog.text
    with pytest.raises(ContractError, match=r"several rates \(128 Hz: Cz; 1 Hz: Light\): pick those of one"):
        read(path, picks=["Cz", "Light"])


# --- XDF ------------------------------------------------------------------------------------------------------------


UNITS = {
    **dict.fromkeys(("microvolts", "microvolt", "uV", " µV ", "μV", "-6"), 1.0),
    **dict.fromkeys(("millivolts", "millivolt", "mV", "-3"), 1e3),
    **dict.fromkeys(("volts", "volt", " V ", "Volts", "0"), 1e6),
    **dict.fromkeys(("nanovolt", "nV", "-9"), 1e-3),
}


def described(*channels: str) -> str:
    return f"<channels>{''.join(f'<channel>{channel}</channel>' for channel in channels)}</channels>"


@pytest.mark.parametrize(("unit", "factor"), UNITS.items())
def test_xdf_units_are_read_as_live(tmp_path: Path, unit: str, factor: float, caplog: pytest.LogCaptureFixture) -> None:
    """Each spelling that a live stream may use for its unit means the same in a file, without a warning."""
    desc = described(f"<label>Cz</label><unit>{unit}</unit>")
    data = RNG.normal(0, 30 / factor, (200, 1)).astype(np.float32)
    path = xdf_file(tmp_path / "a.xdf", xdf_stream(1, "EEG", list(data), list(1000 + np.arange(200) / 100), desc))

    np.testing.assert_allclose(read(path).data, data * factor, rtol=1e-6)
    assert "streamnode" not in "".join(record.name for record in caplog.records)


def test_xdf_units_that_nobody_knows(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A unit that is missing or unknown is taken for microvolts with a warning that names the channels, as live."""
    channels = ("<label>Fz</label><unit>furlong</unit>", "<label>Cz</label>", "<label>Oz</label><unit>uV</unit>")
    data = whole_microvolts(200, 3)
    stamps = list(1000 + np.arange(200) / 100)
    path = xdf_file(tmp_path / "a.xdf", xdf_stream(1, "EEG", list(data), stamps, described(*channels)))

    np.testing.assert_array_equal(read(path).data, data)
    assert "a.xdf: no known unit, taken as microvolts: Fz ('furlong'), Cz ('')\n" in caplog.text


def test_xdf_description_that_is_longer_or_shorter(tmp_path: Path) -> None:
    """Where channels are described that were not sent, or too few, the others are what they are said to be, as live."""
    data, stamps = whole_microvolts(200, 3), list(1000 + np.arange(200) / 100)
    one_more = DESC.replace("</channels>", "<channel><label>Pz</label></channel></channels>")
    recording = read(xdf_file(tmp_path / "more.xdf", xdf_stream(1, "EEG", list(data), stamps, one_more)))
    assert recording.info.ch_names == ("FC5", "Oz")
    np.testing.assert_array_equal(recording.data, data[:, [0, 2]] * [1e6, 1])

    fewer = described("<label>Fp1</label><unit>mV</unit>", "<label>EOG</label><type>EOG</type>")
    recording = read(xdf_file(tmp_path / "fewer.xdf", xdf_stream(1, "EEG", list(data), stamps, fewer)))
    assert recording.info.ch_names == ("Fp1", "ch3")
    np.testing.assert_array_equal(recording.data, data[:, [0, 2]] * [1e3, 1])


def test_xdf_positions_win_as_live(tmp_path: Path) -> None:
    """A place that the stream tells, in millimetres, wins over the template; zeros and silence tell none."""
    place = "<location><X>-30</X><Y>90</Y><Z>20</Z></location>"
    nowhere = "<location><X>0</X><Y>0</Y><Z>0</Z></location>"
    desc = described(f"<label>Fp1</label>{place}", f"<label>Cz</label>{nowhere}", "<label>Oz</label>")
    data, stamps = whole_microvolts(200, 3), list(1000 + np.arange(200) / 100)
    montage = read(xdf_file(tmp_path / "a.xdf", xdf_stream(1, "EEG", list(data), stamps, desc))).info.montage
    np.testing.assert_allclose(montage.ch_pos, [[-0.03, 0.09, 0.02], *make_montage(["Cz", "Oz"]).ch_pos])


@pytest.mark.parametrize(
    "desc",
    [
        *("", "text", "<channels/>", "<channels> </channels>", "<channels>text</channels>"),
        *(described("", "", ""), described("Fp1", "Cz", "Oz"), described("<label/>", "<label><a/></label>")),
    ],
)
def test_xdf_description_that_says_nothing(tmp_path: Path, desc: str) -> None:
    """Whatever is in a description that holds no labels, the channels have numbers."""
    data, stamps = whole_microvolts(200, 3), list(1000 + np.arange(200) / 100)
    recording = read(xdf_file(tmp_path / "a.xdf", xdf_stream(1, "EEG", list(data), stamps, desc)))
    assert recording.info.ch_names == ("ch1", "ch2", "ch3")
