from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from streamnode.errors import WeightsError
from streamnode.models import eegdino, luna
from streamnode.models.convert import read_model
from streamnode.models.family import FAMILIES
from streamnode.models.inspection import detect_heads, inspect
from streamnode.models.weights import on_disk
from tests.models.forms import EEGDINO, FORMS, LUNA, Form, dino_braindecode, dino_original, eegpt_pretraining, prefixed
from tests.models.test_eegdino import with_heads


def write(path: Path, state: dict[str, Tensor], **metadata: str) -> Path:
    save_file({key: tensor.contiguous() for key, tensor in state.items()}, path, metadata)
    return path


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_every_form_is_described(form: Form, tmp_path: Path) -> None:
    """The network, its form, its outputs and the parameters of its parts are found in a file of any form."""
    family = FAMILIES[form.family]
    state = family.random_state(form.sizes, 0)
    seen = inspect(write(tmp_path / "x.safetensors", form.write(state), **family.metadata_of(form.sizes)))
    with torch.device("meta"):
        network = family.network(form.sizes)
    assert (seen.problem, seen.missing, seen.unexpected) == ("", (), ())
    assert (seen.model, seen.form) == (family.variant_of(form.sizes), form.name)
    assert seen.outputs == network.available_outputs
    assert sum(seen.parts.values()) == seen.n_params == sum(tensor.numel() for tensor in state.values())
    assert seen.n_tensors - sum(seen.left_out.values()) == len(state)
    assert (seen.sha256, seen.n_bytes) == (on_disk(seen.path).sha256, seen.path.stat().st_size)


def test_what_is_not_used_is_counted_by_its_name(tmp_path: Path) -> None:
    """The other network of a pre-training, and what only training needs, are told apart from the one that is used."""
    state = eegdino.random_state(EEGDINO, 0)
    seen = inspect(write(tmp_path / "dino.safetensors", dino_original(state)), which="teacher")
    assert seen.which == "teacher"
    assert seen.left_out == {"module.student": len(state) + 1, "module.mask_projector": 1}
    assert seen.dtypes == {"float32": 2 * len(state) + 1, "int64": 1}
    state = FAMILIES["eegpt"].random_state(FAMILIES["eegpt"].variants["tiny1"], 0)
    seen = inspect(write(tmp_path / "eegpt.safetensors", eegpt_pretraining(state)))
    assert seen.left_out == {"encoder": len(state), "predictor": 1, "reconstructor": 1}


def test_a_head_that_nobody_trained_is_shown_as_left_out(tmp_path: Path) -> None:
    """The classifier that braindecode adds to EEG-DINO is counted, and yields nothing."""
    seen = inspect(write(tmp_path / "x.safetensors", dino_braindecode(eegdino.random_state(EEGDINO, 0))))
    assert (seen.left_out, seen.outputs) == ({"final_layer": 10}, ("embedding", "tokens"))


def test_a_pickle_is_described_like_any_file(tmp_path: Path) -> None:
    """Without conversion, and without metadata, which it has none of."""
    torch.save({"state_dict": luna.random_state(LUNA, 0)}, tmp_path / "luna.ckpt")
    seen = inspect(tmp_path / "luna.ckpt")
    assert (seen.container, seen.model, seen.metadata, seen.problem) == ("pickle", "luna-custom", {}, "")


def test_what_a_file_lacks_is_listed(tmp_path: Path) -> None:
    """A damaged checkpoint is described as far as it goes, with the tensors that keep it from loading."""
    state = luna.random_state(LUNA, 0)
    del state["norm.weight"]
    seen = inspect(write(tmp_path / "x.safetensors", state | {"extra": torch.ones(1)}))
    assert (seen.missing, seen.unexpected) == (("norm.weight",), ("extra",))
    assert "(tensors that differ: 1 missing: norm.weight; 1 unexpected: extra)" in seen.problem


@pytest.mark.parametrize(
    ("form", "key", "change"),
    [
        ("zuna canonical", "decoder.layers.0.feed_forward.w2.weight", lambda tensor: tensor[:-1]),
        ("zuna canonical", "decoder.layers.0.feed_forward.w2.weight", lambda tensor: tensor.to(torch.int8)),
        ("luna published", "blocks.0.attn.proj.weight", lambda tensor: tensor.bool()),
        ("luna published", "extra", lambda _: torch.ones(1)),
        ("luna published", "blocks.extra.weight", lambda _: torch.ones(1)),
        ("luna published", "blocks.999999999.norm1.weight", lambda _: torch.ones(32)),
        ("luna published", "blocks.0.attn.proj.weight", lambda tensor: tensor.half()),
    ],
)
def test_what_is_said_of_a_file_holds_when_it_is_loaded(
    tmp_path: Path, form: str, key: str, change: Callable[[Tensor | None], Tensor]
) -> None:
    """Where no problem is told, the file loads; where one is, the file is refused for it, in the same words."""
    written = next(one for one in FORMS if str(one) == form)
    state = FAMILIES[written.family].random_state(written.sizes, 0)
    state[key] = change(state.get(key))
    path = write(tmp_path / "x.safetensors", state)
    seen = inspect(path)
    try:
        read_model(path)
    except WeightsError as error:
        refusal = str(error)
    else:
        refusal = ""
    assert refusal == seen.problem.replace("it", str(path), 1)
    assert bool(refusal) == (state[key].dtype != torch.float16)


@pytest.mark.parametrize(
    ("change", "model", "problem"),
    [
        ({"mask_token": torch.ones(7)}, "luna", "mask_token has shape (7,)"),
        ({"cross_attn.query_embed": None}, "", "of no model that streamnode knows"),
        ({"norm.weight": torch.full((32,), math.nan)}, "luna-custom", ""),
    ],
)
def test_a_problem_is_said_and_not_raised(
    tmp_path: Path, change: dict[str, Tensor | None], model: str, problem: str
) -> None:
    """Whatever is wrong with the tensors, size, digest and kinds are told; their numbers are for `verify` to judge."""
    changed = {**luna.random_state(LUNA, 0), **change}
    state = {key: tensor for key, tensor in changed.items() if tensor is not None}
    seen = inspect(write(tmp_path / "x.safetensors", state))
    assert seen.model == model
    assert problem in seen.problem
    assert bool(problem) == bool(seen.problem)
    assert (seen.n_tensors, seen.dtypes) == (len(state), {"float32": len(state)})


def test_the_number_of_heads_is_told_from_the_weights(tmp_path: Path) -> None:
    """Also from a pickle, and for each network of a pre-training by itself."""
    student, teacher = (eegdino.random_state(EEGDINO, 0) | with_heads(n, 0.3, width=200, depth=1) for n in (4, 2))
    path = tmp_path / "dino.pt"
    torch.save({"state_dict": dino_original(student) | prefixed("module.teacher.", teacher)}, path)
    assert detect_heads(path).n_heads == 4
    assert detect_heads(path, which="teacher").n_heads == 2
    heads = inspect(path).heads
    assert heads is not None
    assert heads.n_heads == 4


def test_other_models_show_their_heads_or_have_nobody_to_tell(tmp_path: Path) -> None:
    """Only EEG-DINO is asked for its heads; a file of another model is refused by its path."""
    path = write(tmp_path / "luna.safetensors", luna.random_state(LUNA, 0))
    assert inspect(path).heads is None
    with pytest.raises(WeightsError, match=r"luna\.safetensors: these are not the weights of an EEG-DINO"):
        detect_heads(path)
    untrained = write(tmp_path / "dino.safetensors", eegdino.random_state(replace(EEGDINO, n_classes=3), 0))
    guess = inspect(untrained).heads
    assert guess == detect_heads(untrained)
    assert guess is not None
    assert guess.n_heads is None
