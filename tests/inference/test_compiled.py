"""Compiled packages: made once, found again, and done without wherever anything is amiss."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from streamnode.inference import compiled, package
from streamnode.inference.compiled import Encoding, Recipe, prepare

RECIPE = Recipe("tiny", ("weights",), max_batch=8, threads=2)
EPOCHS = torch.randn(3, 4, 10, generator=torch.Generator().manual_seed(0))


class Tiny(nn.Module):
    """Encodes as networks do, the number of epochs taken by `len`."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(10, 10)

    def encode(self, x: Tensor, binding: Tensor, outputs: frozenset[str]) -> dict[str, Tensor]:
        tokens = self.linear(x.reshape(len(x), 4, 10) * binding)
        results = {"embedding": tokens.mean(1), "tokens": tokens}
        return {name: tensor for name, tensor in results.items() if name in outputs}


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("STREAMNODE_CACHE", str(tmp_path))
    return tmp_path / "compiled"


@pytest.fixture
def encoding() -> Encoding:
    torch.manual_seed(0)
    return Encoding(Tiny().requires_grad_(requires_grad=False), torch.ones(4, 1), ["embedding", "tokens"])


def store(folder: Path, recipe: Recipe = RECIPE, data: bytes = b"package") -> Path:
    """A file as if a package had been made."""
    folder.mkdir(parents=True, mode=0o700, exist_ok=True)
    path = folder / "made"
    path.write_bytes(data)
    return path.rename(folder / f"{recipe.name}-{recipe.digest()}-{compiled._digest_of(path)}.pt2")


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_compiled_is_as_not_compiled(cache: Path, encoding: Encoding, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package yields what the network does for any number of epochs, and is made only once."""
    for _ in range(2):
        encode = prepare(encoding, RECIPE, EPOCHS, tolerance=1e-4)
        assert encode is not None
        for n_epochs in (1, 2, 3):
            found, true = encode(EPOCHS[:n_epochs]), encoding(EPOCHS[:n_epochs])
            assert found.keys() == true.keys()
            for name in true:
                torch.testing.assert_close(found[name], true[name], rtol=1e-5, atol=1e-6)
        monkeypatch.setattr(compiled, "_compile", None)
    assert len(list(cache.iterdir())) == 1
    assert cache.stat().st_mode & 0o777 == 0o700


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.usefixtures("cache")
def test_casts_are_compiled_with_the_network(encoding: Encoding) -> None:
    """Half weights, which multiply under autocast alone, are compiled with it, and then need it no more."""
    encoding.network.linear.bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        encode, true = prepare(encoding, RECIPE, EPOCHS, tolerance=0.05), encoding(EPOCHS)
    assert encode is not None
    found = encode(EPOCHS)
    for name in true:
        torch.testing.assert_close(found[name].float(), true[name].float(), rtol=0.02, atol=0.02)


@pytest.mark.parametrize(("shape", "n_epochs"), [((4, 10), 3), ((3, 10), 4), ((4, 3), 5), ((5, 4, 3), 6)])
def test_the_example_has_a_number_of_epochs_of_its_own(shape: tuple[int, ...], n_epochs: int) -> None:
    """Never as many as there are channels, or anything else that is fixed: they would be compiled as one."""
    x = torch.arange(3.0).reshape(3, *[1] * len(shape)).expand(3, *shape)
    example = compiled._example(x)
    assert example.shape == (n_epochs, *shape)
    assert example.flatten(1)[:, 0].tolist() == [0, 1, 2, 0, 1, 2][:n_epochs]


@pytest.mark.usefixtures("cache")
def test_of_a_failed_export_torch_tells_nothing(
    encoding: Encoding, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A network that cannot be traced is one sentence, without torch's traceback; afterwards torch may speak again."""
    monkeypatch.setattr(Tiny, "encode", lambda _, x, *__: {"tokens": torch.bmm(x, x)})
    of_torch = logging.getLogger("torch")
    of_torch.addHandler(caplog.handler)
    try:
        assert prepare(encoding, RECIPE, EPOCHS, tolerance=1e-4) is None
    finally:
        of_torch.removeHandler(caplog.handler)
    told = [record.name for record in caplog.records if record.levelno >= logging.WARNING]
    assert told == ["streamnode.inference.compiled"]
    assert of_torch.isEnabledFor(logging.WARNING)


def test_a_kept_package_is_loaded_and_checked(cache: Path, encoding: Encoding, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was made before is found by what it depends on; nothing is compiled."""
    path, loaded = store(cache), list[Path]()
    monkeypatch.setattr(compiled, "_compile", None)

    def load(path: Path, _: torch.device) -> Any:
        loaded.append(path)
        return encoding

    monkeypatch.setattr(package, "load", load)
    assert prepare(encoding, RECIPE, EPOCHS, tolerance=1e-4) is encoding
    assert loaded == [path]


def test_a_package_that_is_off_is_thrown_away(
    cache: Path, encoding: Encoding, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Where results differ from the network's, it runs as it is, which one sentence says."""
    path = store(cache)
    monkeypatch.setattr(
        package, "load", lambda *_: lambda x: {name: 1.01 * tensor for name, tensor in encoding(x).items()}
    )
    assert prepare(encoding, RECIPE, EPOCHS, tolerance=1e-4) is None
    assert not path.exists()
    assert caplog.messages == ["tiny is not compiled and runs as it is: its results were off by 1e-02"]


def test_a_damaged_package_is_made_anew(
    cache: Path, encoding: Encoding, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A file that no longer holds what its name says is never loaded."""
    path = store(cache)
    path.write_bytes(b"something else")
    monkeypatch.setattr(compiled, "_compile", lambda *_: store(cache, data=b"new"))
    monkeypatch.setattr(package, "load", lambda *_: encoding)
    assert prepare(encoding, RECIPE, EPOCHS, tolerance=1e-4) is encoding
    assert not path.exists()
    assert caplog.messages == [f"{path} is damaged and is made anew"]


def test_a_folder_open_to_others_is_not_used(cache: Path, encoding: Encoding, caplog: pytest.LogCaptureFixture) -> None:
    """Packages are code: where others could have written them, none is loaded."""
    store(cache)
    cache.chmod(0o770)
    assert prepare(encoding, RECIPE, EPOCHS, tolerance=1e-4) is None
    why = f"others may write to {cache}, whose files are run as code; chmod it to 700"
    assert caplog.messages == [f"tiny is not compiled and runs as it is: {why}"]


def test_where_files_have_no_owner_the_folder_is_used(
    cache: Path, encoding: Encoding, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On Windows, which has neither user numbers nor modes, packages are kept all the same."""
    store(cache)
    cache.chmod(0o770)
    monkeypatch.delattr("os.getuid")
    monkeypatch.setattr(package, "load", lambda *_: encoding)
    assert prepare(encoding, RECIPE, EPOCHS, tolerance=1e-4) is encoding


def test_without_a_compiler_the_network_runs_as_it_is(
    cache: Path, encoding: Encoding, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """One sentence says what to install."""
    monkeypatch.setattr("shutil.which", lambda _: None)
    assert prepare(encoding, RECIPE, EPOCHS, tolerance=1e-4) is None
    assert caplog.messages == [
        "tiny is not compiled and runs as it is: there is no C++ compiler; install g++, or set CXX"
    ]


def test_a_failed_compile_is_one_sentence(
    cache: Path, encoding: Encoding, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever the compiler throws, its first line is told and the network runs as it is."""

    def fail(*_: object) -> Path:
        raise RuntimeError("unsupported operator\n  in a long story\n")

    monkeypatch.setattr(compiled, "_compile", fail)
    with caplog.at_level(logging.WARNING):
        assert prepare(encoding, RECIPE, EPOCHS, tolerance=1e-4) is None
    assert caplog.messages == ["tiny cannot be compiled and runs as it is: unsupported operator"]


@pytest.mark.parametrize(
    "change", [{"name": "small"}, {"parts": ("weight", "s")}, {"max_batch": 16}, {"threads": 1}], ids=str
)
def test_another_recipe_is_another_package(change: dict[str, Any]) -> None:
    """Nothing that a package depends on may change without its name changing."""
    assert replace(RECIPE, **change).digest() != RECIPE.digest()
    assert replace(RECIPE, parts=(b"weights",)).digest() == RECIPE.digest()


def test_another_machine_or_torch_is_another_package(monkeypatch: pytest.MonkeyPatch) -> None:
    """Code made for one set of instructions, or against one torch, is not found by another."""
    digests = {RECIPE.digest()}
    monkeypatch.setattr(compiled, "_machine", lambda: "another")
    digests.add(RECIPE.digest())
    monkeypatch.setattr(torch, "__version__", "99.0")
    digests.add(RECIPE.digest())
    assert len(digests) == 3
