from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ruamel.yaml import YAML

from streamnode.errors import ContractError
from streamnode.models import eegdino, eegpt
from streamnode.models.family import FAMILIES
from streamnode.models.fit import Fit, fit
from streamnode.montage import make_montage
from streamnode.signal.chain import build_montage
from streamnode.types import StreamInfo

# fmt: off
OLD = (
    "Fp1", "Fp2", "F3", "F4", "C3", "C4", "P3", "P4", "O1", "O2",
    "F7", "F8", "T3", "T4", "T5", "T6", "Fz", "Cz", "Pz",
)
MIXED = (
    "Fp1", "AF7", "F7", "F3", "Fz", "FT9", "T7", "T3", "C3", "Cz",
    "CP1", "P7", "Pz", "POz", "O1", "Iz", "A1", "chin", "EOG", "Fp1-F7",
)
# fmt: on
AWKWARD = (
    "1",
    "1e3",
    "?A",
    "2026-11-22",
    "yes",
    "null",
    "true",
    "~",
    "x: y",
    "#3",
    "a #b",
    "[C3]",
    "{Cz}",
    "a,b",
    '"q"',
    "'q",
    " ",
    "-",
    "é",
    "T7-A1",
)
CHARACTERS = st.characters(max_codepoint=0x24F)


def stream(ch_names: Sequence[str], sfreq: float = 512.0) -> StreamInfo:
    return StreamInfo("cap", "", "EEG", sfreq, make_montage(ch_names))


def fits(ch_names: Sequence[str], sfreq: float = 512.0) -> dict[str, Fit]:
    return {one.model: one for one in fit(stream(ch_names, sfreq))}


def test_the_channels_of_the_10_20_system_fit_every_model() -> None:
    """Nineteen channels with their old names are taken whole, and fill all places of EEG-DINO."""
    found = fits(OLD)
    assert list(found) == list(FAMILIES)
    assert all(one.used == OLD and one.remedies == () for one in found.values())
    assert (found["eegdino"].n_places, found["eegdino"].absent) == (19, ())
    assert found["eegpt"].read_as == {"T3": "T7", "T4": "T8", "T5": "P7", "T6": "P8"}
    assert (found["eegpt"].n_places, len(found["eegpt"].absent)) == (62, 43)
    assert (found["luna"].n_places, found["luna"].absent, found["luna"].notes) == (0, (), ())


def test_every_channel_is_accounted_for_by_its_reason() -> None:
    """Unknown names, unknown positions and places taken twice are told apart, and the rest is picked."""
    found = fits(MIXED)
    dino, gpt, luna = found["eegdino"], found["eegpt"], found["luna"]
    assert dino.used == ("Fp1", "F7", "F3", "Fz", "T7", "C3", "Cz", "P7", "Pz", "O1")
    assert dino.doubled == gpt.doubled == ("T3",)
    assert dino.read_as == {"T7": "T3", "P7": "T5"}
    assert dino.absent == ("FP2", "F4", "C4", "P3", "P4", "O2", "F8", "T4", "T6")
    assert gpt.unknown == ("FT9", "Iz", "A1", "chin", "EOG", "Fp1-F7")
    assert luna.unplaced == found["zuna"].unplaced == ("chin", "EOG")
    assert luna.unknown == ()
    assert dino.remedies == (
        "leave out what it cannot take by signal: {picks: [Fp1, F7, F3, Fz, T7, C3, Cz, P7, Pz, O1]}",
    )


@given(st.permutations(MIXED), st.integers(0, len(MIXED)))
def test_what_is_to_be_picked_is_what_the_models_take(ch_names: list[str], n_chans: int) -> None:
    """The proposed picks pass signal chain and model, and with any channel more they would not."""
    info = stream(ch_names[:n_chans])
    for one in fit(info):
        assert sorted((*one.used, *one.unknown, *one.unplaced, *one.doubled)) == sorted(info.ch_names)
        if not one.enough:
            continue
        takes(one.model, info, one.used)
        for other in {*info.ch_names}.difference(one.used):
            with pytest.raises(ContractError):
                takes(one.model, info, (*one.used, other))


@given(st.lists(st.one_of(st.sampled_from(AWKWARD), st.text(CHARACTERS)), min_size=1, max_size=40, unique=True))
def test_what_is_to_be_pasted_is_read_as_it_was_meant(ch_names: list[str]) -> None:
    """Names that YAML would take for something else, such as a number, stand in quotes."""
    names = ("Cz", *ch_names)
    line = fit_of_some(names).remedies[0].removeprefix("leave out what it cannot take by signal: ")
    assert "\n" not in line
    assert YAML(typ="safe", pure=True).load(line) == {"picks": list(names)}


def fit_of_some(used: tuple[str, ...]) -> Fit:
    """As if a model had taken these channels of more."""
    return replace(fits(["Cz"])["luna"], used=used, n_chans=len(used) + 1)


def takes(model: str, info: StreamInfo, picks: Sequence[str]) -> None:
    """Raise `ContractError` unless chain and model take these channels of a stream."""
    chain = build_montage(info, FAMILIES[model].spec, picks=picks)
    match model:
        case "eegdino":
            eegdino.find_slots(chain.info.ch_names)
        case "eegpt":
            eegpt.channel_rows(chain.info.ch_names)


def test_a_rate_that_does_not_carry_the_band_is_a_sentence() -> None:
    """For each model by its own band: 140 Hz is enough for ZUNA alone, whose training knew no low-pass."""
    found = fits(OLD, 140.0)
    assert {model: bool(one.rate) for model, one in found.items()} == {
        "luna": True,
        "eegdino": True,
        "eegpt": True,
        "zuna": False,
    }
    assert "set signal.h_freq to 70 or less" in found["luna"].remedies[0]
    assert not any(one.rate for one in fits(OLD, 160.0).values())


@pytest.mark.parametrize(
    ("ch_names", "useless"),
    [
        (["chin", "EOG"], {"luna", "eegdino", "eegpt", "zuna"}),
        (["Cz", "EOG"], {"eegpt", "zuna"}),
        (["Iz"], {"eegdino", "eegpt", "zuna"}),
    ],
)
def test_too_few_channels_are_no_stream(ch_names: list[str], useless: set[str]) -> None:
    """Where none is left, or one alone where it is referred to the average, leaving some out is no help."""
    found = fits(ch_names)
    assert {model for model, one in found.items() if "too few" in "".join(one.remedies)} == useless
    assert "picks" not in "".join(sentence for model in useless for sentence in found[model].remedies)


def test_names_matter_to_the_reconstruction_of_luna_alone() -> None:
    """A channel that LUNA takes but has no name for is a note, with what can be done."""
    (note,) = fits(["T7", "Cz", "AFz"])["luna"].notes
    assert note.startswith("only the reconstruction goes by names, and LUNA's vocabulary lacks AFz: ")
    assert "set vocabulary to alias" in note


def test_untrained_embeddings_are_noted() -> None:
    """Channels that EEGPT knows but never saw had better be left out."""
    assert fits(["AF7", "Cz"])["eegpt"].notes == ("it never saw AF7 in training: better left out",)
    assert fits(["Cz"])["eegpt"].notes == ()


def test_positions_of_the_stream_count() -> None:
    """A name that means nothing will do where the stream says where the channel sits."""
    info = StreamInfo("cap", "", "EEG", 256.0, make_montage(["E1", "E2"], np.full((2, 3), 0.05)))
    assert {one.model: len(one.used) for one in fit(info)} == {"luna": 2, "eegdino": 0, "eegpt": 0, "zuna": 2}
