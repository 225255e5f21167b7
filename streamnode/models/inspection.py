"""What is in a weights file, sound or not: for people, and for finding out why it does not load."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from streamnode.errors import StreamnodeError, WeightsError
from streamnode.models import eegdino
from streamnode.models.convert import Checkpoint, read_checkpoint
from streamnode.models.eegdino import HeadGuess
from streamnode.models.family import FAMILIES, Family, Which, recognise
from streamnode.models.weights import misfit, on_disk
from streamnode.types import OutputName


@dataclass(frozen=True, slots=True)
class Inspection:
    """What is in a file. What is said of the network is empty where that is not one of a known family.

    Attributes:
        path: the file.
        container: `safetensors` or `pickle`.
        n_bytes: its size.
        sha256: its digest.
        n_tensors: tensors in it, of the network or not.
        dtypes: how many of each kind.
        metadata: what it says of itself.
        problem: why it cannot be loaded as it is, in a sentence; empty where it can.
        model: such as `luna-base`, or `luna-custom`; only `luna` where the sizes contradict each other.
        form: who wrote it.
        which: of a self-distillation, the student or the teacher.
        outputs: what it yields.
        sizes: of the network.
        n_params: numbers in the network.
        parts: the same for each part of it.
        left_out: tensors that are none of the network's, by what their names begin with.
        missing: tensors that the network lacks.
        unexpected: tensors that it has no place for.
        heads: of EEG-DINO, how many heads the weights seem to have been trained with.
    """

    path: Path
    container: str
    n_bytes: int
    sha256: str
    n_tensors: int
    dtypes: dict[str, int]
    metadata: dict[str, str]
    problem: str = ""
    model: str = ""
    form: str = ""
    which: Which | None = None
    outputs: tuple[OutputName, ...] = ()
    sizes: dict[str, Any] = field(default_factory=dict)
    n_params: int = 0
    parts: dict[str, int] = field(default_factory=dict)
    left_out: dict[str, int] = field(default_factory=dict)
    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    heads: HeadGuess | None = None


def inspect(path: Path, *, which: Which | None = None, allow: Sequence[str] = ()) -> Inspection:
    """Look at a file without loading it: of safetensors little more than the header is read, besides its digest.

    Args:
        path: safetensors or pickle, in any form.
        which: of a self-distillation, the student or the teacher.
        allow: see `read_checkpoint`.

    Raises:
        WeightsError: it cannot be opened at all; whatever else is wrong is said in `Inspection.problem`.
    """
    checkpoint = read_checkpoint(path, allow)
    return Inspection(
        path=path,
        container=checkpoint.container,
        n_bytes=path.stat().st_size,
        sha256=on_disk(path).sha256,
        n_tensors=len(checkpoint.tensors),
        dtypes=dict(Counter(str(tensor.dtype).removeprefix("torch.") for tensor in checkpoint.tensors.values())),
        metadata=checkpoint.metadata,
        **_understood(checkpoint, which),
    )


def _understood(checkpoint: Checkpoint, which: Which | None) -> dict[str, Any]:
    """What can be said of the network, as far as it can be made out."""
    family = recognise(checkpoint.tensors)
    if family is None:
        return {"problem": "it is of no model that streamnode knows: give a checkpoint of one of them"}
    tensors = {key: tensor.to("meta") for key, tensor in checkpoint.tensors.items()}
    try:
        reading = family.read(tensors, metadata=checkpoint.metadata, which=which)
    except StreamnodeError as error:
        return {"problem": str(error), "model": family.spec.name}
    with torch.device("meta"):
        network = family.network(reading.config)
    wanted = network.state_dict()
    missing = tuple(key for key in wanted if key not in reading.state)
    why = misfit(network, reading.state)
    return {
        "problem": why and f"it {why}",
        "model": family.variant_of(reading.config),
        "form": reading.form,
        "which": reading.which,
        "outputs": network.available_outputs,
        "sizes": asdict(reading.config),
        "n_params": sum(tensor.numel() for tensor in reading.state.values()),
        "parts": _parts(reading.state),
        "left_out": _left_out(checkpoint.tensors, family, reading.form, reading.which),
        "missing": missing,
        "unexpected": tuple(key for key in reading.state if key not in wanted),
        "heads": _heads(checkpoint, reading.which) if family is FAMILIES["eegdino"] and not missing else None,
    }


def _parts(state: Mapping[str, Tensor]) -> dict[str, int]:
    """Parameters of each part of the network."""
    parts: Counter[str] = Counter()
    for key, tensor in state.items():
        parts[key.partition(".")[0]] += tensor.numel()
    return dict(parts)


def _left_out(tensors: Iterable[str], family: Family, form: str, which: Which | None) -> dict[str, int]:
    """How many tensors are not used, by the beginning of their names."""
    numbered = {key: torch.tensor([[number]]) for number, key in enumerate(tensors)}  # survives being transposed
    used = {int(number) for number in family.renamed(numbered, form, which).values()}
    unused = [key for number, key in enumerate(numbered) if number not in used]
    return dict(Counter(".".join(key.split(".")[: 1 + key.startswith(("model.", "module."))]) for key in unused))


def _heads(checkpoint: Checkpoint, which: Which | None) -> HeadGuess:
    family = FAMILIES["eegdino"]
    state = family.renamed(checkpoint.tensors, family.form_of(checkpoint.tensors), which or family.default)
    return eegdino.detect_heads({key: tensor.float() for key, tensor in state.items()})


def detect_heads(path: Path, *, which: Which | None = None, allow: Sequence[str] = ()) -> HeadGuess:
    """Tell the number of heads of an EEG-DINO from its weights.

    Args:
        path: safetensors or pickle, in any form.
        which: of a self-distillation, the student or the teacher.
        allow: see `read_checkpoint`.

    Raises:
        WeightsError: it cannot be opened, or is no EEG-DINO.
    """
    checkpoint = read_checkpoint(path, allow)
    try:
        return _heads(checkpoint, which)
    except WeightsError as error:
        raise WeightsError(f"{path}: {error}") from error
