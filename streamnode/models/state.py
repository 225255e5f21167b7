"""What every family does with tensors: those of a checkpoint, and outputs that lack some channels."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from streamnode.errors import WeightsError

_WRAPPERS = ("model.", "module.", "_orig_mod.")  # of trainers, of data parallelism, of compiled networks


def without_wrappers(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Drop the prefixes of trainers; where there is one, keys without it are of losses and metrics, and go."""
    keys = dict(state)
    while wrapped := [key for key in keys if key.startswith(_WRAPPERS)]:
        keys = {key.split(".", 1)[1]: keys[key] for key in wrapped}
    return keys


def shapes_of(build: Callable[[], nn.Module]) -> dict[str, torch.Size]:
    """Name and shape of every tensor of a network, without the memory for one."""
    with torch.device("meta"):
        return {key: tensor.shape for key, tensor in build().state_dict().items()}


def blank_embedding(n_rows: int, width: int) -> nn.Embedding:
    """An embedding to be filled; to draw numbers for it on the `meta` device would import torch's compiler: 1 s."""
    return nn.Embedding(n_rows, width, _weight=torch.empty(n_rows, width))


@contextmanager
def weights_of(title: str) -> Iterator[None]:
    """Where reading sizes off a state of any shapes comes to grief, say that it is not of this model, such as `a LUNA`.

    Raises:
        WeightsError: a tensor is missing, or nothing can be counted by the shape of one.
    """
    try:
        yield
    except (ArithmeticError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise foreign(title, str(error).partition("\n")[0]) from error


def foreign(title: str, why: str) -> WeightsError:
    """The error that a state is not of a model, such as `a LUNA`."""
    return WeightsError(
        f"these are not the weights of {title}, or not all of them ({why}): give one of its checkpoints"
    )


def count_layers(state: Mapping[str, Tensor], prefix: str) -> int:
    """How many layers of a state are numbered behind a prefix, such as `blocks.`."""
    numbers = {key.removeprefix(prefix).partition(".")[0] for key in state if key.startswith(prefix)}
    return sum(number.isdecimal() for number in numbers)


def count(network: nn.Module) -> int:
    """Numbers in the state of a network."""
    return sum(tensor.numel() for tensor in network.state_dict().values())


def refuse_contradictions(state: Mapping[str, Tensor], shapes: Mapping[str, torch.Size], title: str) -> None:
    """Raise `WeightsError` naming the first tensor whose shape is not what the others make of it."""
    for key, shape in shapes.items():
        if key in state and state[key].shape != shape:
            raise WeightsError(
                f"{key} has shape {tuple(state[key].shape)} where the rest of this {title} needs {tuple(shape)}: "
                "give an unmodified checkpoint"
            )


def plain(key: str, shape: torch.Size) -> Tensor:
    """Zeros for a bias and ones for a gain: a norm that does nothing."""
    return torch.zeros(shape) if key.endswith("bias") else torch.ones(shape)


def draw(
    shapes: Mapping[str, torch.Size], seed: int, constant: Callable[[str, torch.Size], Tensor] = plain
) -> dict[str, Tensor]:
    """An untrained state, the same bits on every machine.

    Args:
        shapes: of all tensors, by name.
        seed: of the weights, which are uniform and of variance 1 / fan-in.
        constant: what a tensor of less than two dimensions is.
    """
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for key, shape in shapes.items():
        if len(shape) > 1:
            uniform = torch.rand(shape, generator=generator) * 2 - 1
            state[key] = uniform * (3 * shape[0] / shape.numel()) ** 0.5
        else:
            state[key] = constant(key, shape)
    return state


def spread(values: Tensor, axis: int, rows: Sequence[int], n_chans: int) -> Tensor:
    """Put what belongs to some channels where that of all would be, along an axis; the rest is NaN."""
    shape = list(values.shape)
    shape[axis] = n_chans
    index = torch.tensor(rows, device=values.device)
    return values.new_full(shape, torch.nan).index_copy(axis, index, values)
