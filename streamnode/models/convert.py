"""Checkpoints of every published form to one: safetensors, float32, our names, and where they came from.

safetensors | pickle  -> read_checkpoint -> tensors  -> read_model -> one network, complete and sound  -> convert

Here is the only `torch.load`. It makes tensors and plain containers and nothing else: a checkpoint that names any other
class or function is refused, and where that is allowed, an empty placeholder stands in for it, so that nothing a file
names is ever imported or called.
"""

from __future__ import annotations

import json
import logging
import os
import re
import struct
import warnings
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from tempfile import TemporaryDirectory
from typing import Any, Self

import torch
from torch import Tensor

from streamnode.errors import WeightsError, reaching
from streamnode.models.family import Family, Reading, Which, recognise
from streamnode.models.weights import is_pickle, load_strict, map_safetensors, on_disk, read_metadata, sound

log = logging.getLogger(__name__)

_STATES = ("state_dict", "model_state_dict", "model", "module", "network")
"""Where trainers keep the tensors, among optimisers and counters."""

# What torch raises on damaged files: collected by feeding it thousands of truncated and overwritten ones.
_UNREADABLE = (
    *(UnpicklingError, RuntimeError, EOFError, OSError, ValueError, TypeError, AttributeError, LookupError),
    *(AssertionError, ArithmeticError, MemoryError, struct.error),
)

# ---- Reading ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class Checkpoint:
    """What is in a file.

    Attributes:
        container: `safetensors` or `pickle`.
        tensors: as they are, by name.
        metadata: what the file says of itself; a pickle says nothing.
    """

    container: str
    tensors: dict[str, Tensor]
    metadata: dict[str, str]


@dataclass(frozen=True, slots=True, eq=False)
class Model:
    """What is in a file, once it is known to be a whole network.

    Attributes:
        name: such as `luna-base`, or `luna-custom`.
        family: what it is one of.
        reading: its tensors, float32 and finite, and sizes.
    """

    name: str
    family: Family
    reading: Reading


def read_checkpoint(path: Path, allow: Sequence[str] = ()) -> Checkpoint:
    """Read a safetensors file or a pickle, whatever it is called; where the format allows, tensors stay on the disk.

    Args:
        path: the file.
        allow: classes and functions, such as `argparse.Namespace`, that a pickle may name: an empty placeholder
            takes the place of each.

    Raises:
        WeightsError: it is no such file, is damaged, or names what is not allowed.
    """
    with reaching(path, WeightsError):
        if not path.is_file():
            raise WeightsError(f"there is no file {path}: give the path of a checkpoint")
        if path.stat().st_size == 0:
            raise WeightsError(f"{path} is empty: get it again")
        if not is_pickle(path):
            return Checkpoint("safetensors", map_safetensors(path), read_metadata(path))
    return Checkpoint("pickle", _find_state(_unpickle(path, allow), path), {})


def _unpickle(path: Path, allow: Sequence[str]) -> Any:
    """What a pickle holds, as far as it is tensors and plain containers."""
    safe = torch.serialization.safe_globals([(_Placeholder, name) for name in allow])
    try:
        with path.open("rb") as opened, warnings.catch_warnings(), safe:
            warnings.simplefilter("ignore")  # of protocols: whether it worked is what counts
            # Only zip archives can be mapped, and only by a name that torch does not take for safetensors.
            mapped = opened.read(2) == b"PK" and path.suffix != ".safetensors"
            opened.seek(0)
            return torch.load(str(path) if mapped else opened, map_location="cpu", weights_only=True, mmap=mapped)
    except _UNREADABLE as error:
        raise WeightsError(_refusal(path, allow, str(error) or type(error).__name__)) from error


def _refusal(path: Path, allowed: Sequence[str], message: str) -> str:
    """Why a pickle was not opened, in a sentence."""
    if blocked := re.search(r"GLOBAL (\S+) whose module \S+ is blocked", message):
        return f"{path} names {blocked[1]}, by which it could run any program: do not use this file"
    if foreign := _foreign_names(path, allowed, message):
        return (
            f"{path} holds more than weights, and was not opened: get it as safetensors, or have placeholders that "
            f"do nothing put for what it names, by {' '.join(f'--allow {name}' for name in foreign)}"
        )
    told = [part for part in message.split("\n\n") if not part.startswith(("Weights only", "Check the documentation"))]
    reason = " ".join("".join(told[:1]).split()).partition(". ")[0]  # what follows is how to open it unsafely
    return f"{path} is no checkpoint that can be opened safely ({reason}): get it anew, or as safetensors"


def _foreign_names(path: Path, allowed: Sequence[str], message: str) -> list[str]:
    """Classes and functions that a pickle names and must not: all of them, or the first where only that is known."""
    try:
        names = set(torch.serialization.get_unsafe_globals_in_checkpoint(str(path)))
    except _UNREADABLE:
        found = re.findall(r"GLOBAL (\S+) was not an allowed global", message)
        names = {name if "." in name else f"builtins.{name}" for name in found}
    return sorted(names.difference(allowed))


class _Placeholder:
    """Stands for an object of a class that is not to be made: takes anything, keeps nothing."""

    def __new__(cls, *args: object) -> Any:
        """Where nothing is given yet, entries or attributes may follow, which torch gives to plain containers alone."""
        return super().__new__(cls) if args else OrderedDict()

    def __init__(self, *args: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        """Leave the attributes aside."""


def _find_state(held: Any, path: Path) -> dict[str, Tensor]:
    """The tensors of the network in what a trainer saved."""
    visited: list[int] = []
    while isinstance(held, Mapping) and id(held) not in visited:  # a pickle may hold itself
        visited.append(id(held))
        held = next((held[key] for key in _STATES if isinstance(held.get(key), Mapping)), held)
    entries = held.items() if isinstance(held, Mapping) else ()
    state = {key: tensor.detach() for key, tensor in entries if isinstance(key, str) and _is_dense(tensor)}
    if not state:
        what = ", ".join(map(str, held)) if isinstance(held, Mapping) else type(held).__name__
        raise WeightsError(f"{path} holds no tensors by name ({what or 'nothing'}): give a checkpoint of a network")
    return state


def _is_dense(tensor: object) -> bool:
    if not isinstance(tensor, Tensor):
        return False
    return tensor.layout is torch.strided and tensor.device.type == "cpu" and not tensor.is_quantized


# ---- Understanding ---------------------------------------------------------------------------------------------------


def read_model(
    path: Path,
    *,
    name: str | None = None,
    which: Which | None = None,
    trained_head: bool = False,
    allow: Sequence[str] = (),
    **options: Any,
) -> Model:
    """Read the one network that a checkpoint is to yield, and check that it is whole and sound.

    Args:
        path: safetensors or pickle, in any published form.
        name: what it must be, such as `luna-base`.
        which: of a self-distillation, the student or the teacher.
        trained_head: keep a head that its publisher never trained, for somebody has.
        allow: see `read_checkpoint`.
        options: sizes that the file does not show, as `Family.load_options` has them.

    Raises:
        WeightsError: the file is damaged, of no known model or not of this one, or tensors are missing, left over, or
            hold NaN.
        ConfigError: an option does not fit the model.
    """
    checkpoint = read_checkpoint(path, allow)
    family = recognise(checkpoint.tensors)
    if family is None:
        raise WeightsError(f"{path} is of no model that streamnode knows: give a checkpoint of one of them")
    try:
        reading = family.read(
            checkpoint.tensors, metadata=checkpoint.metadata, which=which, trained_head=trained_head, **options
        )
    except WeightsError as error:
        raise WeightsError(f"{path}: {error}") from error
    found = family.variant_of(reading.config)
    if name not in (None, found):
        raise WeightsError(f"{path} holds {found}, not {name}: give another file, or the other name")
    with torch.device("meta"):
        network = family.network(reading.config)
    load_strict(network, reading.state, path=path)
    return Model(found, family, Reading(sound(reading.state, path), reading.config, reading.form, reading.which))


# ---- Writing ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Converted:
    """A file that was written.

    Attributes:
        path: of the file.
        model: such as `luna-base`.
        n_tensors: tensors in it.
        n_params: numbers in these.
        n_bytes: its size.
        metadata: what it says of itself.
    """

    path: Path
    model: str
    n_tensors: int
    n_params: int
    n_bytes: int
    metadata: dict[str, str]

    @classmethod
    def of(cls, path: Path, model: str, state: Mapping[str, Tensor], metadata: dict[str, str]) -> Self:
        """A file just written."""
        n_params = sum(tensor.numel() for tensor in state.values())
        return cls(path, model, len(state), n_params, path.stat().st_size, metadata)


def convert(source: Path, out: Path, **wishes: Any) -> Converted:
    """Write the network in a checkpoint as safetensors, in float32 and by our names. The file appears whole or not.

    Args:
        source: safetensors or pickle, in any published form.
        out: the file to write; nothing may be there.
        wishes: as of `read_model`.

    Raises:
        WeightsError: as `read_model`, or the file cannot be written.
        ConfigError: as `read_model`.
    """
    with reaching(out, WeightsError):
        if out.exists():
            raise WeightsError(f"{out} is there already: give another place with -o")
    return _convert(source, out, **wishes)


def _convert(source: Path, out: Path, **wishes: Any) -> Converted:
    model = read_model(source, **wishes)
    reading = model.reading
    metadata = {
        "model": model.family.spec.name,
        "variant": model.name.partition("-")[2],
        "form": reading.form,
        **({"which": reading.which} if reading.which else {}),
        "source": source.name.encode(errors="replace").decode(),  # safetensors reads no JSON of undecodable bytes
        "sha256": on_disk(source).sha256,
        **model.family.metadata_of(reading.config),
    }
    _write(reading.state, metadata, out)
    return Converted.of(out, model.name, reading.state, metadata)


def _write(state: Mapping[str, Tensor], metadata: dict[str, str], out: Path) -> None:
    """As `safetensors.torch.save_file`, which orders the metadata by chance: here the same state is the same bytes."""
    tensors = sorted(state.items())
    header: dict[str, Any] = {"__metadata__": metadata}
    end = 0
    for key, tensor in tensors:
        start, end = end, end + 4 * tensor.numel()
        header[key] = {"dtype": "F32", "shape": list(tensor.shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    part = out.with_name(f".{out.name}.{os.getpid()}.part")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        try:
            with part.open("wb") as opened:
                opened.write(len(text).to_bytes(8, "little") + text)
                for _, tensor in tensors:
                    opened.write(tensor.numpy().astype("<f4", copy=False).tobytes())
                opened.flush()
                os.fsync(opened.fileno())
            part.replace(out)
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        raise WeightsError(
            f"{out} cannot be written ({error.strerror}): make room there, or choose another place"
        ) from error


def convert_once(source: Path, sha256: str, *, name: str, which: Which | None) -> Path:
    """The converted form of a pickle that lies on this machine, made at the first call, or anew once it is damaged.

    Args:
        source: the pickle.
        sha256: its digest, by which the converted file is found again.
        name: what it holds, such as `eegdino-large`.
        which: of a self-distillation, the student or the teacher.

    Raises:
        WeightsError: as `convert`.
    """
    folder, stem = cache_folder(), f"{sha256}-{which or name}"
    with reaching(folder, WeightsError):
        if kept := _find(folder, stem):
            return kept
        log.info("converting %s once, to %s", source, folder)
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=folder) as work:
            made = _convert(source, Path(work, f"{stem}.safetensors"), name=name, which=which).path
            return made.replace(folder / f"{stem}-{on_disk(made).sha256}.safetensors")


def _find(folder: Path, stem: str) -> Path | None:
    """The converted file of this name, if it still holds what was written."""
    for path in folder.glob(f"{stem}-*.safetensors"):
        if path.stem.rpartition("-")[2] == on_disk(path).sha256:
            return path
        log.warning("%s is damaged and is made anew", path)
        path.unlink()
    return None


def cache_folder() -> Path:
    """Where converted files are kept: `$STREAMNODE_CACHE`, or `~/.cache/streamnode`, and there `weights`.

    The name of each ends in its digest.
    """
    return Path(os.environ.get("STREAMNODE_CACHE") or "~/.cache/streamnode").expanduser() / "weights"
