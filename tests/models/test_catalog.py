import io
import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save, save_file
from torch import Tensor, nn

from streamnode.errors import ConfigError, WeightsError
from streamnode.models import catalog, eegdino, eegpt
from streamnode.models.hub import HubFile
from streamnode.models.luna import VARIANTS, LunaConfig, random_state
from tests.hub_server import Hub, serve, use_hub
from tests.models.forms import EEGDINO, EEGPT, dino_braindecode, dino_original

CLASSIFIER = LunaConfig(embed_dim=64, n_queries=4, depth=8, n_classes=3, has_decoder=False)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    with serve() as hub:
        use_hub(monkeypatch, hub.url, tmp_path / "cache")
        yield hub


@pytest.fixture(scope="module")
def base() -> dict[str, Tensor]:
    return random_state(VARIANTS["base"], seed=5)


@pytest.fixture
def base_file(base: dict[str, Tensor], tmp_path: Path) -> Path:
    path = tmp_path / "base.safetensors"
    save_file(base, path)
    return path


def refusal(name: str, path: Path) -> str:
    """The one sentence by which a file is refused."""
    with pytest.raises(WeightsError) as caught:
        catalog.load(name, str(path))
    sentence = str(caught.value)
    assert str(path) in sentence
    assert "\n" not in sentence
    return sentence


def test_every_published_model_has_a_name() -> None:
    """The catalog has the nine published models, each by its family and variant."""
    assert list(catalog.CATALOG) == [
        *("luna-base", "luna-large", "luna-huge", "eegdino-small", "eegdino-medium", "eegdino-large"),
        *("eegpt-large", "zuna-v1", "zuna-1.1"),
    ]


@pytest.mark.parametrize(("name", "entry"), catalog.CATALOG.items())
def test_the_catalog_describes_the_networks(name: str, entry: catalog.Entry) -> None:
    """Names and sizes of the catalog are those of the networks that would be built."""
    config = entry.family.variants[entry.variant]
    assert name == entry.family.variant_of(config) == f"{entry.spec.name}-{entry.variant}"
    assert entry.n_params == sum(shape.numel() for shape in entry.family.manifest(config).values())


def test_the_published_model_is_loaded_by_name(hub: Hub, base: dict[str, Tensor]) -> None:
    """`load` downloads the file of the catalog and yields its tensors, frozen and in evaluation mode, with origin."""
    commit = hub.publish("PulpBio/LUNA", "LUNA_base.safetensors", save(base))
    loaded = catalog.load("luna-base")
    state = loaded.model.state_dict()
    assert state.keys() == base.keys()
    assert all(torch.equal(state[key], tensor) for key, tensor in base.items())
    assert isinstance(loaded.model, nn.Module)
    assert not loaded.model.training
    assert not any(parameter.requires_grad for parameter in loaded.model.parameters())
    assert (loaded.name, loaded.info.revision) == ("luna-base", commit)
    assert loaded.info.source == "hub:PulpBio/LUNA/LUNA_base.safetensors"


def test_heads_are_those_of_the_file(tmp_path: Path) -> None:
    """A fine-tuned classifier is still luna-base; it yields logits of its classes and no reconstruction."""
    path = tmp_path / "classifier.safetensors"
    save_file({f"model.{key}": tensor for key, tensor in random_state(CLASSIFIER, seed=0).items()}, path)
    loaded = catalog.load("luna-base", str(path))
    assert loaded.model.config == CLASSIFIER
    assert "logits" in loaded.model.available_outputs
    assert "reconstruction" not in loaded.model.available_outputs


def test_random_weights_come_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    """A seed always gives the same untrained network, and the log says that it means nothing."""
    first, again, other = (catalog.load("luna-base", f"random:{seed}") for seed in (3, 3, 4))
    assert first.info.untrained
    assert torch.equal(*(one.model.state_dict()["mask_token"] for one in (first, again)))
    assert not torch.equal(*(one.model.state_dict()["mask_token"] for one in (first, other)))
    assert [record.levelno for record in caplog.records] == [logging.WARNING] * 3
    assert "means nothing" in caplog.text


def test_another_variant_is_named(base_file: Path) -> None:
    """A file of another size is refused with the variant it holds, as it is to be written."""
    assert "holds luna-base, not luna-large: set model.variant to base" in refusal("luna-large", base_file)


def test_an_unpublished_size_is_refused(tmp_path: Path) -> None:
    """A LUNA of other sizes is no luna-base, and its sizes are shown."""
    path = tmp_path / "tiny.safetensors"
    save_file(random_state(LunaConfig(embed_dim=16, n_queries=2, depth=1), seed=0), path)
    assert "embed_dim=16" in refusal("luna-base", path)


def test_a_file_of_another_model_is_refused(tmp_path: Path) -> None:
    """Weights that are no LUNA are called that, with the name of the file."""
    path = tmp_path / "other.safetensors"
    save_file({"conv.weight": torch.ones(3)}, path)
    assert "not the weights of a LUNA" in refusal("luna-base", path)


def test_a_missing_tensor_is_named(base: dict[str, Tensor], tmp_path: Path) -> None:
    """A LUNA that lost a tensor is refused instead of run with whatever was there."""
    path = tmp_path / "lossy.safetensors"
    save_file({key: tensor for key, tensor in base.items() if key != "blocks.3.norm1.bias"}, path)
    assert "1 missing: blocks.3.norm1.bias" in refusal("luna-base", path)


def test_a_truncated_file_is_refused(base_file: Path) -> None:
    """A download broken off by other means is not half loaded."""
    base_file.write_bytes(base_file.read_bytes()[:-1000])
    assert "is not a complete safetensors file" in refusal("luna-base", base_file)


@pytest.mark.parametrize(("name", "hint"), [("luna-bas", "use luna-base"), ("LUNA-huge", "use luna-huge")])
def test_a_misspelt_name_gets_a_suggestion(name: str, hint: str) -> None:
    """The closest name of the catalog is proposed."""
    with pytest.raises(ConfigError, match=hint):
        catalog.load(name)


def test_an_unknown_name_gets_the_list() -> None:
    """A name like no other is answered with all names."""
    with pytest.raises(ConfigError, match=r"luna-base, luna-large, luna-huge, eegdino-small, .*, zuna-1\.1"):
        catalog.pull("qqq")


def test_models_are_listed_without_a_network(hub: Hub, base: dict[str, Tensor]) -> None:
    """The list tells what is on this machine, before and after a pull, and asks nobody."""
    assert [(row.name, row.path) for row in catalog.list_models()] == [(name, None) for name in catalog.CATALOG]
    hub.publish("PulpBio/LUNA", "LUNA_base.safetensors", save(base))
    pulled = catalog.pull("luna-base")
    hub.requests.clear()
    rows = catalog.list_models()
    assert [row.path for row in rows] == [pulled.path] + 8 * [None]
    assert hub.requests == []
    assert (rows[0].n_params, rows[0].sfreq) == (6_672_417, 256.0)
    assert {row.name.partition("-")[0]: row.channels for row in rows} == {
        "luna": "any, with positions",
        "eegdino": "any of 19 (10-20 system)",
        "eegpt": "any of 62 (10-10 system)",
        "zuna": "any, with positions",
    }


def test_a_pull_enforces_the_digest(hub: Hub) -> None:
    """`pull` checks what it downloads."""
    hub.publish("PulpBio/LUNA", "LUNA_base.safetensors", b"not what was promised")
    with pytest.raises(WeightsError, match="is not used"):
        catalog.pull("luna-base", sha256="0" * 64)


# ---- Other families, other forms -------------------------------------------------------------------------------------


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> dict[str, Tensor]:
    """Weights of EEG-DINO small, which for the while is smaller still."""
    monkeypatch.setitem(eegdino.VARIANTS, "small", EEGDINO)
    return eegdino.random_state(EEGDINO, seed=1)


@pytest.fixture
def pickled(hub: Hub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, small: dict[str, Tensor]) -> HubFile:
    """EEG-DINO published as its large size is: a pickle of student and teacher, in a folder of a repository."""
    monkeypatch.setenv("STREAMNODE_CACHE", str(tmp_path / "converted"))
    file = HubFile("eegdino/EEG-DINO", "pre-trained-models/model_EEG_DINO_S.pt")
    monkeypatch.setitem(catalog.CATALOG, "eegdino-small", replace(catalog.CATALOG["eegdino-small"], hub=file))
    buffer = io.BytesIO()
    torch.save({"state_dict": dino_original(small), "step": 3}, buffer)
    hub.publish(file.repo, file.filename, buffer.getvalue())
    return file


def holds(loaded: catalog.LoadedModel, state: dict[str, Tensor], sign: int = 1) -> bool:
    """Whether a model has these weights, and no others."""
    own = loaded.model.state_dict()
    return own.keys() == state.keys() and all(torch.equal(own[key], sign * state[key]) for key in state)


def test_a_published_pickle_is_converted_once(
    hub: Hub, pickled: HubFile, small: dict[str, Tensor], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """`pull` downloads and converts; `load` then uses the converted file, and tells of the published one."""
    caplog.set_level(logging.INFO)
    pulled = catalog.pull("eegdino-small")
    assert pulled.path is not None
    assert pulled.path.parent == tmp_path / "converted" / "weights"
    assert pulled.path.name.startswith(f"{pulled.info.sha256}-student-")
    assert pulled.info.source == str(pickled)
    for _ in range(2):
        loaded = catalog.load("eegdino-small")
        assert replace(loaded.info, choices="") == pulled.info
        assert loaded.info.choices == "student, num_heads=8"
        assert holds(loaded, small)
    assert len(hub.downloads) == 1
    assert caplog.text.count("converting") == 1
    assert "loaded eegdino-small (student, num_heads=8)" in caplog.text


def test_a_published_pickle_is_converted_by_the_first_load(pickled: HubFile, small: dict[str, Tensor]) -> None:
    """Nobody need pull first, and either of the two networks can be had."""
    assert holds(catalog.load("eegdino-small", which="teacher"), small, -1)
    assert holds(catalog.load("eegdino-small"), small)
    assert catalog.pull("eegdino-small", which="teacher").path != catalog.pull("eegdino-small").path


def test_a_digest_is_that_of_the_published_pickle(pickled: HubFile) -> None:
    """What is pinned is what was published, not what was made of it."""
    sha256 = catalog.pull("eegdino-small").info.sha256
    assert catalog.load("eegdino-small", sha256=sha256).info.sha256 == sha256
    with pytest.raises(WeightsError, match="is not used"):
        catalog.load("eegdino-small", sha256="0" * 64)


def test_a_pickle_of_ones_own_is_to_be_converted(tmp_path: Path) -> None:
    """A path to a pickle is refused with the command that makes a file of it which can be given."""
    path = tmp_path / "luna.ckpt"
    torch.save({"w": torch.ones(1)}, path)
    assert f"streamnode weights convert {path}" in refusal("luna-base", path)


def test_logits_of_an_untrained_head_are_not_to_be_had(hub: Hub, small: dict[str, Tensor]) -> None:
    """The classifier that the hub's EEG-DINO carries holds random numbers, and is not there for us."""
    entry = catalog.CATALOG["eegdino-small"]
    hub.publish(entry.hub.repo, entry.hub.filename, save(dino_braindecode(small)))
    loaded = catalog.load("eegdino-small")
    assert loaded.model.available_outputs == ("embedding", "tokens")
    assert holds(loaded, small)


def test_options_reach_the_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small: dict[str, Tensor]) -> None:
    """Sizes that no tensor shows are taken from the metadata, or as asked for, with random weights too."""
    path = tmp_path / "small.safetensors"
    save_file(small, path, {"num_heads": "10"})
    assert catalog.load("eegdino-small", str(path)).model.config.n_heads == 10
    assert catalog.load("eegdino-small", str(path), n_heads=4).model.config.n_heads == 4
    assert catalog.load("eegdino-small", "random:0", n_heads="eegdino_rs").model.config.n_heads == 8
    save_file(eegpt.random_state(EEGPT, 0), path)
    monkeypatch.setitem(eegpt.VARIANTS, "large", EEGPT)
    monkeypatch.delitem(eegpt.VARIANTS, "tiny1")
    assert catalog.load("eegpt-large", str(path), n_heads=2, patch_stride=64).model.config.n_heads == 2
    with pytest.raises(ConfigError, match="LUNA has no option n_heads"):
        catalog.load("luna-base", "random:0", n_heads=2)


def test_weights_of_another_family_are_named(tmp_path: Path, small: dict[str, Tensor], base_file: Path) -> None:
    """A file of another model is refused with the one it looks like, as it is to be written."""
    path = tmp_path / "small.safetensors"
    save_file(small, path)
    assert "(it looks like EEG-DINO: set model.kind to eegdino)" in refusal("luna-base", path)
    for name in ("eegdino-small", "eegpt-large", "zuna-v1"):
        assert "(it looks like LUNA: set model.kind to luna)" in refusal(name, base_file)


def test_weights_are_located_without_a_network(hub: Hub, base: dict[str, Tensor], base_file: Path) -> None:
    """A path is a file, a name is the published file where it is on this machine, and anything else is refused."""
    assert catalog.locate(str(base_file))[0] == base_file
    with pytest.raises(WeightsError, match="run `streamnode weights pull luna-base`"):
        catalog.locate("luna-base")
    with pytest.raises(WeightsError, match="give the path of a checkpoint, or one of luna-base"):
        catalog.locate("luna-bas")
    hub.publish("PulpBio/LUNA", "LUNA_base.safetensors", save(base))
    pulled = catalog.pull("luna-base")
    hub.requests.clear()
    assert catalog.locate("luna-base") == (pulled.path, pulled.info)
    assert hub.requests == []
