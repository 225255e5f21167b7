"""Weights: found on the hub, on disk or in a seed; checked; and put into a network that they must fit exactly.

"hub" | path | "random:<seed>"  -> resolve -> Resolved  -> read_safetensors -> state  -> load_strict -> network
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from math import prod
from mmap import ACCESS_COPY, ALLOCATIONGRANULARITY, mmap
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from streamnode.errors import ConfigError, WeightsError, reaching
from streamnode.models.hub import COMMIT, HubFile, cached_path, located
from streamnode.types import WeightsInfo

_SHA256 = re.compile(r"[0-9a-f]{64}")
_PICKLE_OR_ZIP = (b"\x80", b"PK\x03\x04")
_HEADER = b"\0\0\0\0{"  # from the fifth byte on, of every safetensors file: its length, then JSON
_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
"""Numbers of a safetensors file, by the names it has for them."""
_PIECE = 32 << 20  # bytes mapped at once: each mapping keeps a file open, of which a process may have a thousand
_SMALL = 1 << 20  # bytes of a tensor that is copied, lest it keep a piece in memory of which nothing else is in use
_SHOWN = 4  # keys named in an error, of each kind, where naming all helps nobody

# ---- Where weights are -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Resolved:
    """Weights that can be had now: a file whose digest is known, or a seed."""

    path: Path | None
    info: WeightsInfo
    seed: int = 0


def resolve(weights: str, hub: HubFile, *, revision: str = "main", sha256: str | None = None) -> Resolved:
    """Find the weights that a configuration asks for.

    Args:
        weights: `hub`, the path of a safetensors file, or `random:<seed>` for untrained ones.
        hub: what `hub` stands for.
        revision: branch, tag or commit on the hub.
        sha256: digest the file must have.

    Raises:
        WeightsError: the file cannot be had or has another digest, or the seed is not a whole number.
        ConfigError: a digest is given for random weights, which have none.
    """
    kind, _, seed = weights.partition(":")
    if weights == "hub":
        return fetch(hub, revision=revision, sha256=sha256)
    if kind == "random":
        if sha256 is not None:
            raise ConfigError(f"{weights} weights have no digest: leave out model.sha256, or give a file")
        return Resolved(None, WeightsInfo(source=weights, untrained=True), _seed(weights, seed))
    path = Path(weights).expanduser()
    with reaching(path, WeightsError):
        there = path.is_file()
    if not there:
        raise WeightsError(
            f"there is no weights file {path}: set model.weights to hub, the path of a safetensors file, or random:0"
        )
    return Resolved(path, on_disk(path, sha256=sha256))


def on_disk(path: Path, *, sha256: str | None = None) -> WeightsInfo:
    """Origin and digest of a file. Raises `WeightsError` if it cannot be read, or has another digest."""
    return WeightsInfo(source=str(path), sha256=_checked_digest(path, sha256))


def _seed(weights: str, seed: str) -> int:
    if not re.fullmatch(r"[0-9]{1,18}", seed):
        raise WeightsError(f"{weights!r} names no random weights: give a seed that is a whole number, such as random:0")
    return int(seed)


def fetch(file: HubFile, *, revision: str = "main", sha256: str | None = None) -> Resolved:
    """Download a file, or find it in the cache of earlier downloads.

    Follows `HF_ENDPOINT`, `HF_HUB_CACHE`, `HF_HUB_OFFLINE` and `HF_TOKEN`. A broken connection is taken up where it
    broke; a progress bar shows on a terminal. When the hub does not answer, the cached file serves, with a warning.

    Args:
        file: what to download.
        revision: branch, tag or commit; a cached commit needs no network at all.
        sha256: digest the file must have; without one, the digest that the hub published for it counts.

    Raises:
        WeightsError: the file cannot be had, or has another digest.
    """
    return _described(file, located(file, revision), sha256)


def stored(file: HubFile, *, revision: str = "main", sha256: str | None = None) -> Resolved | None:
    """As `fetch`, of what is on this machine already; None if the file is not. Never asks the network."""
    path = cached_path(file, revision)
    return None if path is None else _described(file, path, sha256)


def _described(file: HubFile, path: Path, sha256: str | None) -> Resolved:
    """A file in the cache, once its digest is right."""
    blob = path.resolve()  # the cache names large files after the digest that the hub published
    published = blob.name if _SHA256.fullmatch(blob.name) else None
    commit = path.parents[file.filename.count("/")].name
    info = WeightsInfo(
        source=str(file),
        revision=commit if COMMIT.fullmatch(commit) else "",
        sha256=_checked_digest(blob, sha256 or published),
    )
    return Resolved(path, info)


def _checked_digest(path: Path, expected: str | None) -> str:
    with reaching(path, WeightsError), path.open("rb") as opened:
        digest = hashlib.file_digest(opened, "sha256").hexdigest()
    if expected is not None and digest != expected.lower():
        raise WeightsError(
            f"{path} is not used, since its sha256 is {digest} where {expected.lower()} was expected: "
            "delete it and get it again, or correct model.sha256"
        )
    return digest


# ---- From a file into a network --------------------------------------------------------------------------------------


def is_pickle(path: Path) -> bool:
    """Whether a file is a pickle, or a zip archive as `torch.save` makes them, by its first bytes."""
    with path.open("rb") as opened:
        head = opened.read(9)
    # The lowest byte of the length by which a safetensors file opens may be that of a pickle.
    return head.startswith(_PICKLE_OR_ZIP) and not head.endswith(_HEADER)


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """Map the tensors of a file into memory; half and double precision become float32.

    Raises:
        WeightsError: the file is not safetensors, is incomplete or empty, or holds NaN or infinite weights.
    """
    # Looked at one by one and let go, then mapped anew: until somebody uses them, they take no memory.
    _refuse_infinite(_tensors_in(path), path)
    return {key: _widened(tensor) for key, tensor in _tensors_in(path)}


def map_safetensors(path: Path) -> dict[str, Tensor]:
    """Map the tensors of a file into memory as they are; large ones at which nobody looks are never read.

    Raises:
        WeightsError: the file is not safetensors, is incomplete or empty.
    """
    return dict(_tensors_in(path))


def _tensors_in(path: Path) -> Iterator[tuple[str, Tensor]]:
    """Name and tensor, in the order of the file.

    It is mapped by pieces, so that a network that is cast or moved tensor by tensor lets go of it as it goes: mapped as
    a whole, it would stay in memory beside what was made of it.
    """
    entries, first = _header(path)
    with path.open("rb") as opened:
        size, start, stop = os.fstat(opened.fileno()).st_size, 0, 0
        for key, entry in entries:
            dtype, shape = _DTYPES[entry["dtype"]], entry["shape"]
            begin, end = (first + offset for offset in entry["data_offsets"])
            if begin == end:
                yield key, torch.empty(shape, dtype=dtype)
                continue
            if end > stop:
                start = begin - begin % ALLOCATIONGRANULARITY
                stop = min(max(end, start + _PIECE), size)
                piece = mmap(opened.fileno(), stop - start, access=ACCESS_COPY, offset=start)
            tensor = torch.frombuffer(piece, dtype=dtype, count=prod(shape), offset=begin - start).reshape(shape)
            yield key, tensor.clone() if end - begin < _SMALL else tensor


def _header(path: Path) -> tuple[list[tuple[str, Any]], int]:
    """What a file says of its tensors, in the order in which they lie in it, and where the first begins."""
    try:
        if is_pickle(path):
            raise WeightsError(
                f"{path} is a pickle, which may run any program when opened: make a safetensors file of it, without "
                f"running any, by `streamnode weights convert {path}`, and give that"
            )
        with safe_open(path, framework="pt"):  # which refuses what is not whole, or contradicts itself
            pass
        with path.open("rb") as opened:
            length = int.from_bytes(opened.read(8), "little")
            header = json.loads(opened.read(length))
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"{path} is not a complete safetensors file ({error}): get it again") from error
    header.pop("__metadata__", None)
    if not header:
        raise WeightsError(f"{path} holds no tensors: give a checkpoint")
    if foreign := sorted({entry["dtype"] for entry in header.values()}.difference(_DTYPES)):
        raise WeightsError(
            f"{path} holds numbers of type {', '.join(foreign)}: give a checkpoint in float32 or bfloat16"
        )
    return sorted(header.items(), key=lambda item: item[1]["data_offsets"]), 8 + length


def read_metadata(path: Path) -> dict[str, str]:
    """What a safetensors file says of itself, in alphabetical order."""
    with safe_open(path, framework="pt") as opened:
        return dict(sorted((opened.metadata() or {}).items()))


def sound(state: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """The state with all floating-point tensors in float32. Raises `WeightsError` if it has NaN or infinite weights."""
    state = {key: _widened(tensor) for key, tensor in state.items()}
    _refuse_infinite(state.items(), path)
    return state


def _widened(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.is_floating_point() else tensor


def _refuse_infinite(tensors: Iterable[tuple[str, Tensor]], path: Path) -> None:
    if broken := [key for key, tensor in tensors if not _is_finite(_widened(tensor))]:
        raise WeightsError(f"{path} holds NaN or infinite weights in {_listed(broken)}: give a sound checkpoint")


def _is_finite(tensor: Tensor) -> bool:
    # The sum alone settles nearly every tensor, several times faster; only an infinite sum needs the second look.
    return bool(tensor.sum().isfinite()) or bool(tensor.isfinite().all())


class Stateful(Protocol):
    """What can be given a state, such as an `nn.Module`."""

    def state_dict(self) -> dict[str, Any]: ...  # noqa: D102
    def load_state_dict(self, state: Mapping[str, Tensor], /, *, assign: bool) -> Any: ...  # noqa: D102


def load_strict(module: Stateful, state: Mapping[str, Tensor], *, path: Path | str) -> None:
    """Make the tensors of a state the parameters of a module, without copying them.

    Args:
        module: may have been built on the `meta` device.
        state: must have exactly the module's keys and shapes.
        path: what the error calls the state.

    Raises:
        WeightsError: a tensor is missing, unexpected, of another shape, or not of floating-point numbers.
    """
    if why := misfit(module, state):
        raise WeightsError(f"{path} {why}")
    module.load_state_dict(state, assign=True)


def misfit(module: Stateful, state: Mapping[str, Tensor]) -> str:
    """Why a state cannot be put into a module, as the rest of a sentence about it; empty where it can.

    Args:
        module: may have been built on the `meta` device, as may the tensors of the state.
        state: names and tensors.
    """
    ours = module.state_dict()
    wanted = {key: tuple(tensor.shape) for key, tensor in ours.items()}
    given = {key: tuple(tensor.shape) for key, tensor in state.items()}
    missing = [key for key in wanted if key not in given]
    unexpected = [key for key in given if key not in wanted]
    misshaped = [
        f"{key} {given[key]} instead of {shape}" for key, shape in wanted.items() if given.get(key, shape) != shape
    ]
    quantised = [
        f"{key} {state[key].dtype}"
        for key in wanted
        if key in state and ours[key].is_floating_point() and not state[key].is_floating_point()
    ]
    kinds = {
        "missing": missing,
        "unexpected": unexpected,
        "of another shape": misshaped,
        "not floating-point": quantised,
    }
    foreign = len(missing) + len(misshaped) > len(wanted) / 2
    shown = _SHOWN if foreign else len(wanted) + len(given)  # of another model, some of hundreds of keys will do
    differences = [f"{len(keys)} {kind}: {_listed(keys, shown)}" for kind, keys in kinds.items() if keys]
    if not differences:
        return ""
    guess = ", and looks like another model" if foreign else ""
    return (
        f"does not fit {type(module).__name__}{guess}: give an unmodified checkpoint "
        f"(tensors that differ: {'; '.join(differences)})"
    )


def _listed(keys: list[str], shown: int = _SHOWN) -> str:
    more = f" and {len(keys) - shown} more" if len(keys) > shown else ""
    return ", ".join(keys[:shown]) + more
