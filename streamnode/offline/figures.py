"""What is told of a run: how much, how fast, and what its results show at a glance."""

from __future__ import annotations

from collections.abc import Sequence
from time import perf_counter
from typing import Any

import numpy as np

from streamnode.errors import ContractError
from streamnode.offline.run import Outcome
from streamnode.types import Float32Array, Float64Array


def summary(outcome: Outcome) -> dict[str, Any]:
    """What to say of a run: how many epochs, how fast, and what can be told of the results at a glance.

    Where a model did not see a channel there is nothing to compare or to attend to, and it does not count; None stands
    for a figure of which nothing is left.
    """
    n_epochs, total_s = len(outcome.epoch_ms), sum(outcome.seconds.values())
    names, tables = outcome.results.montage.ch_names, outcome.results.tables
    said: dict[str, Any] = {
        "epochs": n_epochs,
        "runs": len(np.unique(tables["epoch/run"])),
        "epochs_per_s": n_epochs / total_s,
        "forward_share": outcome.seconds["inference"] / total_s,
        "seconds": dict(outcome.seconds),
    }
    said |= outcome.results.settings.get("measured", {})
    if "rmse_uv" in tables:
        rmse = tables["rmse_uv"]
        said["rmse_uv"] = {
            "median": _median(rmse),
            "channels": dict(zip(names, _root_mean_square(rmse, 0), strict=True)),
            "epochs": _root_mean_square(rmse, 1),
        }
    if "attention" in tables:
        of_queries = np.moveaxis(tables["attention"], 2, 0)  # (n_queries, n_epochs, ..., n_chans)
        said["attention"] = [_most_attended(query.reshape(-1, len(names)), names) for query in of_queries]
    return said


def _known(values: Float32Array) -> Float64Array:
    return values[np.isfinite(values)].astype(np.float64)


def _median(values: Float32Array) -> float | None:
    known = _known(values)
    return float(np.median(known)) if len(known) else None


def _root_mean_square(rmse: Float32Array, axis: int) -> list[float | None]:
    squares = [_known(row) ** 2 for row in np.moveaxis(rmse, axis, 1)]
    return [float(np.sqrt(np.mean(row))) if len(row) else None for row in squares]


def _most_attended(shares: Float32Array, names: Sequence[str]) -> dict[str, float]:
    means = {name: np.mean(known) for name, column in zip(names, shares.T, strict=True) if len(known := _known(column))}
    return {name: float(means[name]) for name in sorted(means, key=lambda name: -means[name])[:3]}


def fewer_channels(outcome: Outcome) -> list[dict[str, Any]]:
    """How the embedding of the first epochs holds up when the model sees fewer channels, evenly left out.

    Returns:
        For all, three quarters, half and a quarter of the channels: how many, milliseconds an epoch, the mean absolute
        value of what it holds, and the mean cosine with the embedding of all channels (None where their shapes differ,
        or a channel that was left out has a part in it).

    Raises:
        ContractError: there is no embedding, or the model does not take fewer channels.
    """
    model, sample = outcome.model, outcome.sample
    if "embedding" not in model.outputs:
        raise ContractError("without an embedding nothing can be said of fewer channels: add it to model.outputs")
    n_chans, report = model.montage.n_chans, list[dict[str, Any]]()
    whole = model.run(sample)["embedding"]
    for n_kept in sorted({max(1, round(n_chans * share)) for share in (0.25, 0.5, 0.75, 1.0)}, reverse=True):
        rows = tuple(int(row) for row in np.linspace(0, n_chans - 1, n_kept).round())
        model.run_on(rows, sample[:1])  # binds the model to them
        began = perf_counter()
        some = model.run_on(rows, sample)["embedding"]
        report.append(
            {
                "channels": n_kept,
                "ms": 1e3 * (perf_counter() - began) / len(sample),
                "mean_abs": float(np.abs(_known(some)).mean()),
                "cosine": _mean_cosine(some, whole) if some.shape == whole.shape and np.isfinite(some).all() else None,
            }
        )
    return report


def _mean_cosine(a: Float32Array, b: Float32Array) -> float:
    a, b = a.reshape(len(a), -1), b.reshape(len(b), -1)
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return float(np.mean(np.sum(a * b, axis=1) / norms))
