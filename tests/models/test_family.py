from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

import pytest
import torch

from streamnode.errors import ConfigError, WeightsError
from streamnode.models import eegdino, eegpt, luna
from streamnode.models.catalog import CATALOG
from streamnode.models.family import FAMILIES, recognise
from streamnode.models.weights import load_strict
from tests.models.forms import (
    EEGDINO,
    EEGPT,
    FORMS,
    LUNA,
    Form,
    dino_braindecode,
    dino_original,
    eegpt_pretraining,
    prefixed,
)

PUBLISHED = [(form, name) for form in FORMS for name, entry in CATALOG.items() if entry.spec.name == form.family]


@pytest.mark.parametrize(("form", "name"), PUBLISHED, ids=str)
def test_every_published_manifest_loads_with_nothing_missing_or_left_over(form: Form, name: str) -> None:
    """In every form, the tensors of every published size are found to be that size, and fill its network exactly."""
    family, config = CATALOG[name].family, CATALOG[name].family.variants[CATALOG[name].variant]
    if form.name == "braindecode" and form.family == "luna":
        config = replace(config, has_decoder=False, n_classes=2, location_norm=False, ffn_norm=False)
    with torch.device("meta"):
        network = family.network(config)
        theirs = form.write(network.state_dict())
    assert recognise(theirs) is family
    assert family.form_of(theirs) == form.name
    reading = family.read(theirs, metadata={})
    assert (reading.config, reading.form, family.variant_of(reading.config)) == (config, form.name, name)
    load_strict(network, reading.state, path=name)


def test_what_is_no_model_is_not_recognised() -> None:
    """Tensors of something else belong to no family."""
    assert recognise({"layer.weight": torch.ones(2), "global_tokens_of_another": torch.ones(2)}) is None


@pytest.mark.parametrize(("which", "sign"), [(None, 1), ("student", 1), ("teacher", -1)])
def test_eegdino_is_its_student_unless_asked_for(which: Any, sign: int) -> None:
    """Of the authors' two networks, the default is the one that eegdino-rs runs; the other is there on demand."""
    state = eegdino.random_state(EEGDINO, 0)
    reading = FAMILIES["eegdino"].read(dino_original(state), metadata={}, which=which)
    assert all(torch.equal(tensor, sign * state[key]) for key, tensor in reading.state.items())
    assert reading.which == (which or "student")


@pytest.mark.parametrize(("which", "sign"), [(None, 1), ("teacher", 1), ("student", -1)])
def test_eegpt_is_its_teacher_unless_asked_for(which: Any, sign: int) -> None:
    """All that was published builds on the momentum encoder; the other is there on demand."""
    state = eegpt.random_state(EEGPT, 0)
    reading = FAMILIES["eegpt"].read(eegpt_pretraining(state), metadata={}, which=which)
    assert all(torch.equal(tensor, sign * state[key]) for key, tensor in reading.state.items())
    assert reading.which == (which or "teacher")


def test_a_single_network_is_what_it_says() -> None:
    """Files with one network tell which it is by their form or metadata, and are not taken for the other."""
    family, state = FAMILIES["eegdino"], eegdino.random_state(EEGDINO, 0)
    assert family.read(state, metadata={}).which is None
    assert family.read(state, metadata={}, which="student").which == "student"
    assert family.read(state, metadata={"which": "teacher"}).which == "teacher"
    with pytest.raises(WeightsError, match="are the teacher: give others, or do without the student"):
        family.read(state, metadata={"which": "teacher"}, which="student")
    with pytest.raises(WeightsError, match="are the teacher"):
        family.read(dino_braindecode(state), metadata={}, which="student")


def test_a_family_of_one_network_has_no_student() -> None:
    """Asking LUNA for its teacher is a mistake of who asks."""
    with pytest.raises(ConfigError, match="LUNA has neither student nor teacher"):
        FAMILIES["luna"].read(luna.random_state(LUNA, 0), metadata={}, which="teacher")


def test_a_head_that_nobody_trained_is_left_out(caplog: pytest.LogCaptureFixture) -> None:
    """Braindecode's EEG-DINO comes with random numbers for a head: no logits, unless somebody says it was trained."""
    family, config = FAMILIES["eegdino"], replace(EEGDINO, n_classes=2)
    theirs = prefixed("model.", dino_braindecode(eegdino.random_state(config, 0)))
    with caplog.at_level(logging.INFO, logger="streamnode.models.family"):
        assert family.read(theirs, metadata={}).config == EEGDINO
    assert "braindecode publishes untrained" in caplog.text
    assert family.read(theirs, metadata={}, trained_head=True).config == config


def test_options_are_those_of_the_family() -> None:
    """An option of another family is refused with the ones there are."""
    with pytest.raises(ConfigError, match=r"LUNA has no option n_heads: leave it out, or use one of its own \(none\)"):
        FAMILIES["luna"].read(luna.random_state(LUNA, 0), metadata={}, n_heads=2)
    with pytest.raises(ConfigError, match=r"use one of its own \(n_heads\)"):
        FAMILIES["eegdino"].read(eegdino.random_state(EEGDINO, 0), metadata={}, patch_stride=32)
    reading = FAMILIES["eegpt"].read(eegpt.random_state(EEGPT, 0), metadata={}, n_heads=2, patch_stride=64)
    assert (reading.config.n_heads, reading.config.patch_stride) == (2, 64)


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_sizes_that_no_shape_shows_survive_in_the_metadata(form: Form) -> None:
    """What a converted file says of itself is enough to find its sizes again."""
    family = FAMILIES[form.family]
    state = family.random_state(form.sizes, 0)
    assert family.read(state, metadata=family.metadata_of(form.sizes)).config == form.sizes
