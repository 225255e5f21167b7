import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save, save_file
from torch import Tensor

from streamnode.errors import ConfigError, WeightsError
from streamnode.models import catalog
from streamnode.models.luna import VARIANTS, LunaConfig, manifest, random_state, variant_name
from tests.hub_server import Hub, serve, use_hub

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


@pytest.mark.parametrize(("name", "entry"), catalog.CATALOG.items())
def test_the_catalog_describes_the_networks(name: str, entry: catalog.Entry) -> None:
    """Names, sizes and files of the catalog are those of the networks that would be built."""
    config = VARIANTS[entry.variant]
    assert name == variant_name(config) == f"{entry.spec.name}-{entry.variant}"
    assert entry.n_params == sum(shape.numel() for shape in manifest(config).values())
    assert entry.hub.filename == f"LUNA_{entry.variant}.safetensors"


def test_the_published_model_is_loaded_by_name(hub: Hub, base: dict[str, Tensor]) -> None:
    """`load` downloads the file of the catalog and yields its tensors, frozen and in evaluation mode, with origin."""
    commit = hub.publish("PulpBio/LUNA", "LUNA_base.safetensors", save(base))
    loaded = catalog.load("luna-base")
    state = loaded.model.state_dict()
    assert state.keys() == base.keys()
    assert all(torch.equal(state[key], tensor) for key, tensor in base.items())
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
    assert torch.equal(first.model.mask_token, again.model.mask_token)
    assert not torch.equal(first.model.mask_token, other.model.mask_token)
    assert [record.levelno for record in caplog.records] == [logging.WARNING] * 3
    assert "means nothing" in caplog.text


def test_another_variant_is_named(base_file: Path) -> None:
    """A file of another size is refused with the variant it holds, as it is to be written."""
    assert "holds luna-base, not luna-large: set model.variant: base" in refusal("luna-large", base_file)


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
    with pytest.raises(ConfigError, match="luna-base, luna-large, luna-huge"):
        catalog.pull("qqq")


def test_models_are_listed_without_a_network(hub: Hub, base: dict[str, Tensor]) -> None:
    """The list tells what is on this machine, before and after a pull, and asks nobody."""
    assert [(row.name, row.path) for row in catalog.list_models()] == [(name, None) for name in catalog.CATALOG]
    hub.publish("PulpBio/LUNA", "LUNA_base.safetensors", save(base))
    pulled = catalog.pull("luna-base")
    hub.requests.clear()
    rows = catalog.list_models()
    assert [row.path for row in rows] == [pulled.path, None, None]
    assert hub.requests == []
    assert (rows[0].n_params, rows[0].sfreq, rows[0].channels) == (6_672_417, 256.0, "any that have positions")


def test_a_pull_enforces_the_digest(hub: Hub) -> None:
    """`pull` checks what it downloads."""
    hub.publish("PulpBio/LUNA", "LUNA_base.safetensors", b"not what was promised")
    with pytest.raises(WeightsError, match="is not used"):
        catalog.pull("luna-base", sha256="0" * 64)
