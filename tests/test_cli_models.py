"""The verbs of models and weights, called in this process."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import typer
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from streamnode.cli.models import app, weights_app
from streamnode.errors import ConfigError, StreamLost, StreamnodeError, WeightsError
from streamnode.models import eegdino, eegpt, luna
from streamnode.models.weights import on_disk
from streamnode.montage import make_montage
from streamnode.sinks.lsl import EegOutlet
from streamnode.types import StreamInfo
from tests.hub_server import Hub, serve, use_hub
from tests.models.forms import EEGDINO, EEGPT, LUNA, dino_braindecode, dino_original


def said(*arguments: str | Path, verbs: typer.Typer = weights_app) -> str:
    """What a verb prints, rather wide."""
    result = CliRunner(env={"COLUMNS": "300"}).invoke(verbs, [str(argument) for argument in arguments])
    if result.exception:
        raise result.exception
    assert result.exit_code == 0
    return result.stdout


def refused(error: type[StreamnodeError], *arguments: str | Path, verbs: typer.Typer = weights_app) -> str:
    """The one sentence by which a verb ends."""
    with pytest.raises(error) as caught:
        said(*arguments, verbs=verbs)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def pickle(tmp_path: Path) -> Path:
    path = tmp_path / "dino.pt"
    torch.save({"state_dict": dino_original(eegdino.random_state(EEGDINO, 0)), "step": 1}, path)
    return path


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    with serve() as hub:
        use_hub(monkeypatch, hub.url, tmp_path / "cache")
        yield hub


# ---- Weights ---------------------------------------------------------------------------------------------------------


def test_convert_writes_beside_its_source_and_tells_what(pickle: Path) -> None:
    """Without `-o` the file is called after its source; what was made is told in three lines."""
    printed = said("convert", pickle)
    out = pickle.with_suffix(".safetensors")
    assert len(load_file(out)) == len(eegdino.manifest(EEGDINO))
    place, summary, metadata = printed.splitlines()
    assert place == str(out)
    assert summary.split(", ")[:2] == ["  eegdino-custom", "32 tensors"]
    assert f"source=dino.pt, sha256={on_disk(pickle).sha256}" in metadata


def test_convert_takes_what_the_tensors_do_not_show(pickle: Path, tmp_path: Path) -> None:
    """Which network, how many heads, and where to."""
    out = tmp_path / "there.safetensors"
    printed = said("convert", pickle, "-o", out, "--which", "teacher", "--n-heads", "10")
    assert out.is_file()
    assert "which=teacher" in printed
    assert "num_heads=10" in printed
    assert "num_heads=8" in said("convert", pickle, "-o", tmp_path / "rs.safetensors", "--n-heads", "eegdino_rs")
    assert "cannot have 7 heads" in refused(ConfigError, "convert", pickle, "-o", tmp_path / "x", "--n-heads", "7")
    assert "no option patch_stride" in refused(ConfigError, "convert", pickle, "-o", "x", "--patch-stride", "32")


@pytest.mark.parametrize("size", ["n-heads=-4", "n-heads=0", "n-heads=8.0", "n-heads=²", "patch-stride=0"])
def test_convert_refuses_sizes_that_cannot_be(tmp_path: Path, size: str) -> None:
    """Whatever is given as heads or stride is taken or refused, and none of it stands for the default."""
    path = tmp_path / "eegpt.pt"
    torch.save(eegpt.random_state(EEGPT, 0), path)
    value = size.partition("=")[2]
    assert f" {value} " in refused(ConfigError, "convert", path, f"--{size}")
    assert list(tmp_path.iterdir()) == [path]


def test_convert_refuses_in_a_sentence(pickle: Path, tmp_path: Path) -> None:
    """Another model than asked for, an unknown one, and a source that would be overwritten."""
    out = tmp_path / "out.safetensors"
    assert "not luna-base" in refused(WeightsError, "convert", pickle, "-o", out, "--model", "luna-base")
    assert "use luna-base" in refused(ConfigError, "convert", pickle, "-o", out, "--model", "luna-bas")
    said("convert", pickle, "-o", out)
    assert "give another place with -o" in refused(WeightsError, "convert", out)


@pytest.mark.parametrize("verb", ["convert", "inspect", "verify", "detect-heads"])
def test_a_path_that_nobody_can_follow_is_refused(verb: str, tmp_path: Path) -> None:
    """What the system will not even look for, such as a name beyond its limits, ends no verb in a traceback."""
    path = tmp_path / ("x" * 300)
    assert str(path) in refused(WeightsError, verb, path)


def test_a_place_that_nobody_can_follow_is_refused(pickle: Path, tmp_path: Path) -> None:
    """Nor does such a name for what is to be written."""
    out = tmp_path / ("x" * 300)
    assert str(out) in refused(WeightsError, "convert", pickle, "-o", out)


def test_a_pickle_with_more_than_weights_needs_leave(tmp_path: Path) -> None:
    """The options that the refusal names are the ones that help."""
    path = tmp_path / "luna.ckpt"
    torch.save({"state_dict": luna.random_state(LUNA, 0), "where": Path("here")}, path)
    _, *options = refused(WeightsError, "convert", path).split("--allow ")
    allow = [argument for option in options for argument in ("--allow", option.strip())]
    for verb in ("convert", "verify", "inspect"):
        assert "luna-custom" in said(verb, path, *allow)


def test_inspect_tells_of_network_parts_and_leftovers(pickle: Path) -> None:
    """A line each, and everything in JSON."""
    printed = said("inspect", pickle)
    for words in ("eegdino-custom student", "form       original", "32 of module.teacher", "do not tell how many"):
        assert words in printed
    assert "missing" not in printed
    seen = json.loads(said("inspect", pickle, "--json", "--which", "teacher"))
    assert (seen["which"], seen["outputs"], seen["missing"]) == ("teacher", ["embedding", "tokens"], [])


def test_heads_are_shown_candidate_by_candidate(pickle: Path) -> None:
    """The table shows why, the last line says how many; JSON has the numbers."""
    *_, verdict = said("detect-heads", pickle).splitlines()
    assert verdict == "the weights do not tell how many"
    assert list(json.loads(said("detect-heads", pickle, "--json"))["correlations"]) == ["2", "4", "8"]


def test_verify_says_ok_or_why_not(pickle: Path, tmp_path: Path) -> None:
    """A sound file is ok; another digest, a cut file and one without a tensor are refused."""
    sha256 = on_disk(pickle).sha256
    assert said("verify", pickle, "--sha256", sha256) == f"{pickle}: ok (eegdino-custom, sha256 {sha256})\n"
    assert "is not used" in refused(WeightsError, "verify", pickle, "--sha256", "0" * 64)
    state = luna.random_state(LUNA, 0)
    del state["norm.weight"]
    save_file(state, tmp_path / "lossy.safetensors")
    assert "1 missing: norm.weight" in refused(WeightsError, "verify", tmp_path / "lossy.safetensors")
    pickle.write_bytes(pickle.read_bytes()[:-100])
    assert refused(WeightsError, "verify", pickle).endswith("get it anew, or as safetensors")


def test_a_model_is_inspected_where_it_was_pulled_to(hub: Hub, tmp_path: Path) -> None:
    """A name stands for the published file on this machine, and must be that model."""
    assert "run `streamnode weights pull luna-base`" in refused(WeightsError, "verify", "luna-base")
    save_file(luna.random_state(luna.VARIANTS["base"], 0), tmp_path / "base.safetensors")
    contents = (tmp_path / "base.safetensors").read_bytes()
    hub.publish("PulpBio/LUNA", "LUNA_base.safetensors", contents)
    assert "sha256" in said("pull", "luna-base")
    assert said("verify", "luna-base").startswith("luna-base: ok (luna-base, sha256 ")
    assert "yields     embedding, tokens, reconstruction, attention" in said("inspect", "luna-base")
    hub.publish("PulpBio/LUNA", "LUNA_large.safetensors", contents)
    said("pull", "luna-large")
    assert "holds luna-base, not luna-large" in refused(WeightsError, "verify", "luna-large")


def test_an_untrained_head_is_not_used(tmp_path: Path) -> None:
    """Braindecode's classifier is shown as not used, and kept by those who trained it."""
    path, out = tmp_path / "model.safetensors", tmp_path / "tuned.safetensors"
    save_file(dino_braindecode(eegdino.random_state(EEGDINO, 0)), path)
    assert "not used   10 of final_layer" in said("inspect", path)
    said("convert", path, "-o", out, "--trained-head")
    assert "yields     embedding, tokens, logits" in said("inspect", out)


# ---- Models ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    path = tmp_path / "rest.csv"
    path.write_text("time,Fp1,T7,Cz,chin\n" + "".join(f"{i / 250},1e-6,2e-6,3e-6,0\n" for i in range(500)))
    return path


def test_a_recording_is_held_against_every_model(recording: Path) -> None:
    """For each family a row, and below it what is to be done."""
    printed = said("--check", recording, verbs=app)
    assert "luna: leave out what it cannot take by signal: {picks: [Fp1, T7, Cz]}" in printed
    assert "T7 = T3" in printed
    assert "luna: note: only the reconstruction" not in printed
    fits = json.loads(said("--check", recording, "--json", verbs=app))
    assert [one["model"] for one in fits] == ["luna", "eegdino", "eegpt", "zuna"]
    assert fits[1]["unknown"] == ["chin"]
    assert "picks: [Fp1, T7, Cz]" in fits[3]["remedies"][0]


def test_a_recording_that_nobody_can_reach_is_refused(tmp_path: Path) -> None:
    """A name beyond the limits of the system is neither a recording nor a stream."""
    path = tmp_path / ("x" * 300 + ".csv")
    assert str(path) in refused(ConfigError, "--check", path, verbs=app)


def test_a_stream_is_held_against_every_model(tmp_path: Path) -> None:
    """A live stream is found by its name, and one that is not there is missed."""
    info = StreamInfo(f"cap-{tmp_path.name}", tmp_path.name, "EEG", 256.0, make_montage(["Fp1", "AFz"]))
    with EegOutlet(info):
        printed = said("--check", info.name, verbs=app)
    assert "zuna: takes it as it is" in printed
    assert "luna: note: only the reconstruction" in printed
    assert "no LSL stream matched" in refused(StreamLost, "--check", "nobody", verbs=app)


def test_the_models_are_listed_with_their_channels(hub: Hub) -> None:
    """Nine rows, none of them on disk."""
    rows = json.loads(said("--json", verbs=app))
    assert len(rows) == 9
    assert {row["path"] for row in rows} == {None}
    assert "any of 19 (10-20 system)" in said(verbs=app)
