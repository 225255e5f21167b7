"""A network compiled ahead of time (AOTInductor) for one montage, and the packages that are kept of it.

Packages are code. So they lie in a folder that nobody else may enter, each under what it was made of and the digest of
what it holds, and nothing else is ever loaded. They are made and checked before the first epoch; whatever fails says
so in one sentence, and the network runs as it is.
"""

from __future__ import annotations

import hashlib
import logging
import os
import platform
import shutil
import stat
import warnings
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import torch
from torch import Tensor, nn

import streamnode.models
from streamnode.inference import package
from streamnode.inference.cpu import relative_error
from streamnode.models.convert import cache_folder
from streamnode.types import OutputName

log = logging.getLogger(__name__)

Encode = Callable[[Tensor], dict[OutputName, Tensor]]


class Encoding(nn.Module):
    """What is compiled: a network bound to a montage.

    Args:
        network: with its weights.
        binding: made outside of inference mode, whose tensors cannot be traced.
        outputs: what to compute.
    """

    def __init__(self, network: Any, binding: Any, outputs: Collection[OutputName]) -> None:
        super().__init__()
        self.network, self.binding, self.outputs = network, binding, frozenset(outputs)

    def forward(self, x: Tensor) -> dict[OutputName, Tensor]:
        """`(B, C, T)` microvolts to the outputs."""
        return cast("dict[OutputName, Tensor]", self.network.encode(x, self.binding, self.outputs))


@dataclass(frozen=True, slots=True)
class Recipe:
    """All that a package depends on.

    Attributes:
        name: of the model.
        parts: everything else, in words or bytes; the versions of torch and of the networks, and the machine, are
            added.
        max_batch: the most epochs of a pass.
        threads: CPU threads of a pass, whose number is in the code.
    """

    name: str
    parts: tuple[str | bytes, ...]
    max_batch: int
    threads: int

    def digest(self) -> str:
        """Of all that, 32 hexadecimal digits."""
        sources = sorted(Path(streamnode.models.__path__[0]).glob("*.py"))
        digest = hashlib.sha256()
        for part in (
            *(self.name, str(self.max_batch), str(self.threads), torch.__version__, _machine()),
            *(source.read_bytes() for source in sources),
            *self.parts,
        ):
            data = part.encode() if isinstance(part, str) else part
            digest.update(len(data).to_bytes(8, "little") + data)
        return digest.hexdigest()[:32]


def _machine() -> str:
    """Device and instruction set that code is made for."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else ""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    flags = next((line for line in lines if line.startswith(("flags", "Features"))), platform.processor())
    return f"{platform.system()} {platform.machine()} {flags} {gpu}"


def prepare(encoding: nn.Module, recipe: Recipe, x: Tensor, *, tolerance: float) -> Encode | None:
    """The compiled network, kept or made now, once it has shown to yield what the network itself does.

    Args:
        encoding: to compile.
        recipe: what it depends on.
        x: `(3, C, T)` microvolts to check it on.
        tolerance: relative difference between compiled and not.

    Returns:
        Takes `(B, C, T)` with any B up to the most of the recipe; None where that cannot be had.
    """
    try:
        encode = _prepare(encoding, recipe, x, tolerance)
    except _NotCompiledError as reason:
        log.warning("%s is not compiled and runs as it is: %s", recipe.name, reason)
        return None
    except Exception as error:  # noqa: BLE001  (the compiler has errors of every kind, and nothing here is vital)
        why = (str(error).strip() or type(error).__name__).splitlines()[0]
        log.warning("%s cannot be compiled and runs as it is: %.200s", recipe.name, why)
        return None
    return encode


class _NotCompiledError(Exception):
    """Why not, in words that say what to do."""


def _prepare(encoding: nn.Module, recipe: Recipe, x: Tensor, tolerance: float) -> Encode:
    folder = _private(cache_folder().with_name("compiled"))
    path = _find(folder, recipe) or _compile(encoding, recipe, x, folder)
    encode = package.load(path, x.device)
    error = _misfit(encode, encoding, x)
    if error > tolerance:
        path.unlink()
        raise _NotCompiledError(f"its results were off by {error:.0e}")
    return encode


def _private(folder: Path) -> Path:
    """A folder that only its owner may enter, made if need be."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    status = folder.stat()
    own = getattr(os, "getuid", None)  # not on Windows, where a user's folders are closed to others by themselves
    if own is not None and (status.st_uid != own() or stat.S_IMODE(status.st_mode) & 0o077):
        raise _NotCompiledError(f"others may write to {folder}, whose files are run as code; chmod it to 700")
    return folder


def _find(folder: Path, recipe: Recipe) -> Path | None:
    """The package of a recipe, if it still holds what was written."""
    for path in folder.glob(f"{recipe.name}-{recipe.digest()}-*.pt2"):
        if path.stem.rpartition("-")[2] == _digest_of(path):
            return path
        log.warning("%s is damaged and is made anew", path)
        path.unlink()
    return None


def _digest_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _compile(encoding: nn.Module, recipe: Recipe, x: Tensor, folder: Path) -> Path:
    """Make the package of a recipe."""
    from torch._inductor import aoti_compile_and_package, config  # noqa: PLC0415  (seconds)
    from torch._inductor.utils import fresh_cache  # noqa: PLC0415

    if not any(map(shutil.which, (os.environ.get("CXX", "g++"), "clang++"))):
        raise _NotCompiledError("there is no C++ compiler; install g++, or set CXX")
    log.info("compiling %s for this montage, which takes up to a minute, once", recipe.name)
    example = _example(x)
    sizes: dict[str, Any] = {"x": {0: torch.export.Dim("b", min=2, max=max(recipe.max_batch, len(example)))}}
    with (
        _without_stories(),
        TemporaryDirectory(dir=folder) as work,
        fresh_cache(dir=work),
        warnings.catch_warnings(action="ignore"),
        torch.no_grad(),
        config.patch({"freezing": True, "cpp.threads": recipe.threads}),
    ):
        # Strict, since only so a `len` of epochs is no constant; what is made for 2 and more epochs takes one as well.
        program = torch.export.export(encoding, (example,), dynamic_shapes=sizes, strict=True)
        made = Path(aoti_compile_and_package(program, package_path=f"{work}/{recipe.name}.pt2"))
        path = folder / f"{recipe.name}-{recipe.digest()}-{_digest_of(made)}.pt2"
        made.rename(path)
    return path


def _example(x: Tensor) -> Tensor:
    """As many epochs as no other axis has numbers: the compiler takes equal sizes for one, which is then fixed."""
    n_epochs = next(n for n in count(3) if n not in x.shape[1:])
    return x[torch.arange(n_epochs, device=x.device) % len(x)]


@contextmanager
def _without_stories() -> Iterator[None]:
    """What fails is told in one sentence: torch keeps to itself how it came to that."""
    logger = logging.getLogger("torch")
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(before)


@torch.inference_mode()
def _misfit(encode: Encode, encoding: nn.Module, x: Tensor) -> float:
    """By how much the two differ, on one epoch and on several."""
    errors = [0.0]
    for batch in (x[:1], x):
        found, true = encode(batch), encoding(batch)
        errors += [relative_error(found[name], true[name]) for name in true]
    return max(errors)
