from __future__ import annotations

import argparse
import errno
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from streamnode.errors import ConfigError, WeightsError
from streamnode.models import eegdino, luna
from streamnode.models.convert import cache_folder, convert, convert_once, read_checkpoint, read_model
from streamnode.models.family import FAMILIES
from streamnode.models.weights import on_disk, read_metadata, read_safetensors
from tests.models.forms import EEGDINO, FORMS, LUNA, Form, dino_braindecode, dino_original


@pytest.fixture
def state() -> dict[str, Tensor]:
    return luna.random_state(LUNA, 0)


@pytest.fixture
def pickle(tmp_path: Path, state: dict[str, Tensor]) -> Path:
    path = tmp_path / "luna.ckpt"
    torch.save(state, path)
    return path


def refusal(attempt: Callable[[], object]) -> str:
    """The one sentence by which an attempt is refused."""
    with pytest.raises(WeightsError) as caught:
        attempt()
    sentence = str(caught.value)
    assert "\n" not in sentence
    return sentence


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


# ---- From any form to ours -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_every_form_becomes_the_same_file(form: Form, tmp_path: Path) -> None:
    """A Lightning pickle in any form becomes a safetensors file with the bits of the network, from which it loads."""
    family = FAMILIES[form.family]
    state = family.random_state(form.sizes, 0)
    source, out = tmp_path / "theirs.ckpt", tmp_path / "ours.safetensors"
    optimiser = {"state": {0: {"exp_avg": torch.ones(3)}}, "lr": 1e-3}
    torch.save({"state_dict": form.write(state), "epoch": 3, "optimizer_states": [optimiser]}, source)
    options = {key: getattr(form.sizes, key) for key in family.load_options}
    made = convert(source, out, trained_head=True, **options)
    assert same({key: tensor for key, tensor in load_file(out).items() if not is_random_head(key, form)}, state)
    assert (made.path, made.n_bytes, made.metadata) == (out, out.stat().st_size, read_metadata(out))
    assert made.n_params == sum(tensor.numel() for tensor in load_file(out).values())
    assert made.metadata["model"] == form.family
    assert made.metadata["variant"] in {"custom", "tiny1"}
    assert (made.metadata["form"], made.metadata["source"]) == (form.name, "theirs.ckpt")
    assert made.metadata["sha256"] == on_disk(source).sha256
    again = convert(out, tmp_path / "again.safetensors")
    assert same(load_file(again.path), load_file(out))


def is_random_head(key: str, form: Form) -> bool:
    """Whether a tensor is of the head that braindecode adds to EEG-DINO."""
    return str(form) == "eegdino braindecode" and key.startswith(("full_linear.", "channel_linear.", "classifier."))


def test_metadata_tell_what_no_shape_shows(tmp_path: Path) -> None:
    """Heads, groups, the order of the channels and which of two networks it is are written beside the tensors."""
    source, out = tmp_path / "model_S.pt", tmp_path / "out.safetensors"
    torch.save({"state_dict": dino_original(eegdino.random_state(EEGDINO, 0))}, source)
    stated = convert(source, out, which="teacher", n_heads=10).metadata
    assert (stated["num_heads"], stated["groups"], stated["which"]) == ("10", "5", "teacher")
    assert stated["channel_order"].split() == list(eegdino.SLOTS)
    assert list(stated)[:2] == ["model", "variant"]
    model = read_model(out)
    assert (model.reading.config.n_heads, model.reading.which, model.name) == (10, "teacher", "eegdino-custom")


def test_the_same_state_is_the_same_bytes(state: dict[str, Tensor], tmp_path: Path) -> None:
    """Neither the order of the tensors nor chance shows in the file, so that its digest can be written down."""
    written = []
    for number, tensors in enumerate((state, dict(reversed(state.items())))):
        out = tmp_path / str(number) / "luna.safetensors"
        source = tmp_path / "luna.pt"
        torch.save(tensors, source)
        convert(source, out)
        written.append(out.read_bytes().replace(on_disk(source).sha256.encode(), b""))
    assert written[0] == written[1]
    assert (int.from_bytes(written[0][:8], "little") + 8) % 8 == 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_become_float32(state: dict[str, Tensor], tmp_path: Path, dtype: torch.dtype) -> None:
    """Half and double precision are accepted and written as float32."""
    theirs = {key: tensor.to(dtype) for key, tensor in state.items()}
    torch.save(theirs, tmp_path / "luna.pt")
    convert(tmp_path / "luna.pt", tmp_path / "luna.safetensors")
    read = load_file(tmp_path / "luna.safetensors")
    assert same(read, {key: tensor.float() for key, tensor in theirs.items()})
    assert {tensor.dtype for tensor in read.values()} == {torch.float32}


def test_tensors_may_share_memory_and_need_a_gradient(state: dict[str, Tensor], tmp_path: Path) -> None:
    """Tied, strided and trainable tensors are written like any others."""
    state["norm.weight"] = state["norm.bias"]
    state["blocks.0.mlp.fc1.weight"] = state["blocks.0.mlp.fc1.weight"].T.contiguous().T
    state["mask_token"] = nn.Parameter(state["mask_token"])
    torch.save(state, tmp_path / "luna.pt")
    convert(tmp_path / "luna.pt", tmp_path / "luna.safetensors")
    assert same(load_file(tmp_path / "luna.safetensors"), state)


@pytest.mark.parametrize(
    "wrapped",
    [
        lambda state: state,
        lambda state: {"state_dict": state, "model": "luna"},
        lambda state: {"model": state, "epoch": 1},
        lambda state: {"model": {"state_dict": state}, "optimizer": {"lr": 1.0}},
        lambda state: {"model_state_dict": state, "optimizer_state_dict": {"state": {}}},
    ],
)
@pytest.mark.parametrize("zipped", [True, False])
def test_tensors_are_found_where_trainers_put_them(
    state: dict[str, Tensor], tmp_path: Path, wrapped: Callable[[Any], Any], *, zipped: bool
) -> None:
    """Bare or among optimisers, in the new format of torch.save or the old, whatever the file is called."""
    path = tmp_path / "checkpoint.safetensors"
    torch.save(wrapped(state), path, _use_new_zipfile_serialization=zipped)
    checkpoint = read_checkpoint(path)
    assert checkpoint.container == "pickle"
    assert same(checkpoint.tensors, state)


# ---- Pickles are programs --------------------------------------------------------------------------------------------


def betray(path: str) -> None:
    """What a malicious checkpoint would have us call."""
    Path(path).touch()


class Malice:
    """Pickles as a call of a function with some arguments."""

    def __init__(self, function: Callable[[str], object], argument: str) -> None:
        self.call = function, (argument,)

    def __reduce__(self) -> Any:
        return self.call


@pytest.mark.parametrize("zipped", [True, False])
def test_a_malicious_pickle_is_refused_and_nothing_runs(
    state: dict[str, Tensor], tmp_path: Path, *, zipped: bool
) -> None:
    """A file that would call something is not opened; the refusal names what, and how to go without."""
    proof, path = tmp_path / "proof", tmp_path / "luna.pt"
    torch.save({"state_dict": state, "x": Malice(betray, str(proof))}, path, _use_new_zipfile_serialization=zipped)
    sentence = refusal(lambda: convert(path, tmp_path / "out.safetensors"))
    assert "--allow tests.models.test_convert.betray" in sentence
    assert "more than weights" in sentence
    assert not proof.exists()
    assert sorted(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("zipped", [True, False])
def test_what_is_allowed_still_does_not_run(state: dict[str, Tensor], tmp_path: Path, *, zipped: bool) -> None:
    """For what a user allows, a placeholder stands in: the weights are read, and nothing is called or imported."""
    proof, path = tmp_path / "proof", tmp_path / "luna.pt"
    torch.save({"state_dict": state, "x": Malice(betray, str(proof))}, path, _use_new_zipfile_serialization=zipped)
    assert same(read_checkpoint(path, ["tests.models.test_convert.betray"]).tensors, state)
    assert not proof.exists()
    assert "betray" not in str(torch.serialization.get_safe_globals())


@pytest.mark.parametrize("zipped", [True, False])
def test_some_functions_are_never_allowed(state: dict[str, Tensor], tmp_path: Path, *, zipped: bool) -> None:
    """A file that names the shell is not opened whatever is allowed."""
    proof, path = tmp_path / "proof", tmp_path / "luna.pt"
    malice = Malice(os.system, f"touch {proof}")
    torch.save({"state_dict": state, "x": malice}, path, _use_new_zipfile_serialization=zipped)
    for allow in ([], ["posix.system"]):
        assert "names posix.system" in refusal(lambda: read_checkpoint(path, allow))  # noqa: B023
    assert not proof.exists()


class Attributes(dict[str, object]):
    """Lightning keeps hyper-parameters in the like: a dictionary with attributes."""


def test_hyper_parameters_are_no_obstacle(state: dict[str, Tensor], tmp_path: Path) -> None:
    """All names that need allowing are told at once; what they stand for may have arguments, entries or attributes."""
    path = tmp_path / "luna.ckpt"
    settings = Attributes(lr=1.0)
    settings.name = "luna"  # type: ignore[attr-defined]
    others = {"args": argparse.Namespace(depth=8), "folder": Path("here"), "best": torch.tensor(0.5).numpy()}
    torch.save({"state_dict": state, "hyper_parameters": settings, **others}, path)
    sentence = refusal(lambda: read_checkpoint(path))
    allow = sentence.split("--allow ")[1:]
    assert {"argparse.Namespace", "tests.models.test_convert.Attributes"} <= {name.strip() for name in allow}
    assert same(read_checkpoint(path, [name.strip() for name in allow]).tensors, state)


# ---- Bad files -------------------------------------------------------------------------------------------------------


def test_a_folder_an_empty_file_and_text_are_told_apart(tmp_path: Path) -> None:
    """What is no checkpoint at all is refused by what it is."""
    assert "there is no file" in refusal(lambda: read_checkpoint(tmp_path))
    (tmp_path / "empty.pt").touch()
    assert "empty.pt is empty: get it again" in refusal(lambda: read_checkpoint(tmp_path / "empty.pt"))
    (tmp_path / "page.pt").write_text("<html>please log in</html>")
    assert "is not a complete safetensors file" in refusal(lambda: read_checkpoint(tmp_path / "page.pt"))


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("share", [0.01, 0.5, 0.999])
def test_a_truncated_pickle_is_refused(state: dict[str, Tensor], tmp_path: Path, share: float, *, zipped: bool) -> None:
    """A download broken off anywhere is called damaged, without torch's advice on how to open it unsafely."""
    path = tmp_path / "luna.pt"
    torch.save(state, path, _use_new_zipfile_serialization=zipped)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    sentence = refusal(lambda: read_checkpoint(path))
    assert "is no checkpoint that can be opened safely" in sentence
    assert "weights_only" not in sentence


@pytest.mark.parametrize("held", [{}, {"epoch": 3}, [torch.ones(2)], {"model": {"lr": 0.1}}, {0: torch.ones(2)}])
def test_a_pickle_without_tensors_is_refused(tmp_path: Path, held: object) -> None:
    """What has no tensors by name holds no network."""
    torch.save(held, tmp_path / "x.pt")
    assert "holds no tensors by name" in refusal(lambda: read_checkpoint(tmp_path / "x.pt"))


def test_a_pickle_that_holds_itself_is_looked_through_once(state: dict[str, Tensor], tmp_path: Path) -> None:
    """Where the place of the tensors leads back to itself, those that are there are found, or none."""
    path = tmp_path / "luna.pt"
    for tensors in ({}, state):
        held: dict[str, object] = {**tensors}
        held["model"] = held
        torch.save(held, path)
        if tensors:
            assert same(read_checkpoint(path).tensors, state)
        else:
            assert "holds no tensors by name (model)" in refusal(lambda: read_checkpoint(path))


@pytest.mark.parametrize(
    ("key", "tensor", "words"),
    [
        ("norm.weight", None, "1 missing: norm.weight"),
        ("extra.weight", torch.ones(2), "1 unexpected: extra.weight"),
        ("norm.weight", torch.full((32,), math.nan), "holds NaN or infinite weights in norm.weight"),
        ("norm.weight", torch.ones(32, dtype=torch.int8), "1 not floating-point: norm.weight torch.int8"),
        ("norm.weight", torch.ones(32).to_sparse(), "1 missing: norm.weight"),
        ("norm.weight", torch.ones(1).expand(10**12), "norm.weight has shape (1000000000000,)"),
        ("blocks.0.attn.rotary_emb.freqs", None, "not the weights of a LUNA, or not all of them"),
        ("cross_attn.query_embed", None, "is of no model that streamnode knows"),
    ],
)
def test_an_incomplete_network_is_not_written(
    state: dict[str, Tensor], tmp_path: Path, key: str, tensor: Tensor | None, words: str
) -> None:
    """Missing, foreign, mis-shaped, quantised and broken tensors are named, and no file appears."""
    state.pop(key, None)
    if tensor is not None:
        state[key] = tensor
    source = tmp_path / "luna.pt"
    torch.save(state, source)
    sentence = refusal(lambda: convert(source, tmp_path / "out.safetensors"))
    assert words in sentence
    assert str(source) in sentence
    assert list(tmp_path.iterdir()) == [source]


def test_the_model_must_be_the_one_that_was_asked_for(pickle: Path, tmp_path: Path) -> None:
    """A file of another model is refused by both names."""
    sentence = refusal(lambda: convert(pickle, tmp_path / "out.safetensors", name="eegdino-small"))
    assert "holds luna-custom, not eegdino-small" in sentence


def test_options_must_fit_the_model(pickle: Path, tmp_path: Path) -> None:
    """A size that the model does not have, or a student where there is none, is a mistake of who asks."""
    with pytest.raises(ConfigError, match="LUNA has no option n_heads"):
        convert(pickle, tmp_path / "out.safetensors", n_heads=2)
    with pytest.raises(ConfigError, match="neither student nor teacher"):
        convert(pickle, tmp_path / "out.safetensors", which="student")


# ---- Writing ---------------------------------------------------------------------------------------------------------


def test_nothing_is_overwritten(pickle: Path, tmp_path: Path) -> None:
    """A file that is there already stays as it is."""
    out = tmp_path / "out.safetensors"
    out.write_text("precious")
    assert "is there already: give another place with -o" in refusal(lambda: convert(pickle, out))
    assert out.read_text() == "precious"


def test_a_file_appears_whole_or_not_at_all(pickle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the disk is full nothing is left behind."""

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    sentence = refusal(lambda: convert(pickle, tmp_path / "out.safetensors"))
    assert "out.safetensors cannot be written (No space left on device): make room" in sentence
    assert list(tmp_path.iterdir()) == [pickle]


def test_a_place_that_cannot_be_is_named(pickle: Path) -> None:
    """A folder that is a file is refused with the path."""
    out = pickle / "out.safetensors"
    assert f"{out} cannot be written" in refusal(lambda: convert(pickle, out))


def test_a_source_whose_name_is_no_text_is_converted(state: dict[str, Tensor], tmp_path: Path) -> None:
    """Bytes of a name that nobody can decode are question marks in what the file says of itself, which can be read."""
    source = tmp_path / os.fsdecode(b"l\xe8.ckpt")
    torch.save(state, tmp_path / "luna.ckpt", _use_new_zipfile_serialization=False)
    (tmp_path / "luna.ckpt").rename(source)
    made = convert(source, tmp_path / "out.safetensors")
    assert read_metadata(made.path) == dict(sorted(made.metadata.items()))
    assert made.metadata["source"] == "l?.ckpt"


def test_folders_are_made(pickle: Path, tmp_path: Path, state: dict[str, Tensor]) -> None:
    """The folder of the output need not be there."""
    made = convert(pickle, tmp_path / "new" / "folder" / "out.safetensors")
    assert same(read_safetensors(made.path), state)


def test_a_pickle_is_converted_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The converted file is kept under the digest of its source and the network it is, and found there again."""
    monkeypatch.setenv("STREAMNODE_CACHE", str(tmp_path / "cache"))
    source = tmp_path / "dino.pt"
    torch.save(dino_original(eegdino.random_state(EEGDINO, 0)), source)
    sha256 = on_disk(source).sha256
    made = [convert_once(source, sha256, name="eegdino-custom", which=which) for which in ("student", "teacher")]
    assert [path.name for path in made] == [
        f"{sha256}-{which}-{on_disk(path).sha256}.safetensors"
        for which, path in zip(("student", "teacher"), made, strict=True)
    ]
    assert {*(tmp_path / "cache" / "weights").iterdir()} == {*made}
    source.unlink()
    assert convert_once(source, sha256, name="eegdino-custom", which="student") == made[0]


@pytest.mark.parametrize("damage", [lambda held: held[:-1] + b"!", lambda held: held[:-100]])
def test_a_damaged_converted_file_is_made_anew(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    damage: Callable[[bytes], bytes],
) -> None:
    """A converted file in which a byte is another, or which is cut short, is never used, but converted once more."""
    monkeypatch.setenv("STREAMNODE_CACHE", str(tmp_path / "cache"))
    source = tmp_path / "dino.pt"
    torch.save(dino_original(eegdino.random_state(EEGDINO, 0)), source)
    sha256 = on_disk(source).sha256
    made = convert_once(source, sha256, name="eegdino-custom", which="student")
    whole = made.read_bytes()
    made.write_bytes(damage(whole))
    assert convert_once(source, sha256, name="eegdino-custom", which="student").read_bytes() == whole
    assert f"{made} is damaged" in caplog.text


def test_a_cache_that_cannot_be_is_named(tmp_path: Path, pickle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder for converted files that is a file is refused by its path."""
    monkeypatch.setenv("STREAMNODE_CACHE", str(pickle))
    assert str(cache_folder()) in refusal(lambda: convert_once(pickle, "0" * 64, name="luna-custom", which=None))


def test_converted_files_are_kept_in_the_home_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without a variable the cache is where users expect one."""
    monkeypatch.delenv("STREAMNODE_CACHE", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "streamnode" / "weights"


def test_a_head_that_nobody_trained_needs_a_word(tmp_path: Path) -> None:
    """Braindecode's random classifier does not get into a converted file unless somebody says it was trained."""
    source = tmp_path / "model.safetensors"
    save_file(dino_braindecode(eegdino.random_state(EEGDINO, 0)), source)
    without = convert(source, tmp_path / "encoder.safetensors")
    with_head = convert(source, tmp_path / "all.safetensors", trained_head=True)
    assert (with_head.n_tensors - without.n_tensors, without.metadata["which"]) == (10, "teacher")
    assert read_model(with_head.path).reading.config.n_classes == 2
