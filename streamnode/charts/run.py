"""What a run over a file yielded: how long it took, what the embedding looks like, where attention went.

Each of `timing`, `embedding`, `dimensions`, `reconstruction` and `attention` makes one figure, or None where the run
lacks what it shows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from streamnode.charts.drawing import (
    BLUE,
    GRADIENT,
    GREY,
    LINES,
    VERMILION,
    add_note,
    count,
    entitle,
    finish_waveforms,
    new_figure,
    overlay,
    plain,
    save_figure,
    shortened,
)
from streamnode.charts.scalp import project, scalp_maps
from streamnode.types import Float32Array, Float64Array, Montage, OutputName

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

_BARS_A_ROW = 64  # as many names as can be read side by side
_PANELS = 6  # waveforms one looks at


@dataclass(frozen=True, slots=True, eq=False)
class Run:
    """What a run over a file yielded.

    Attributes:
        title: what ran over what, such as `luna-base, S001R01.edf`.
        montage: channels as the model saw them, and their positions.
        sfreq: rate of `epochs` and of a reconstruction, Hz.
        seconds: wall time of each phase, in order of the phases.
        epoch_ms: `(n,)` duration of the forward pass, for each epoch.
        arrays: outputs stacked over epochs: `embedding` `(n, ...)`, `attention` `(n, n_patches, n_queries, n_chans)`,
            `reconstruction` `(n, n_chans, n_times)` microvolts. Channels that were left out of an epoch are NaN.
        epochs: `(n, n_chans, n_times)` microvolts, what the reconstruction is to be compared with; None without one.
    """

    title: str
    montage: Montage
    sfreq: float
    seconds: Mapping[str, float]
    epoch_ms: Float64Array
    arrays: Mapping[OutputName, Float32Array]
    epochs: Float32Array | None


def write_charts(folder: Path, run: Run) -> list[Path]:
    """Draw all that a run allows.

    Args:
        folder: is made where it does not exist; charts in it are overwritten.
        run: what to draw.

    Returns:
        The PNG files.

    Raises:
        ConfigError: matplotlib is not installed, or the folder cannot be written.
    """
    figures = {draw.__name__: draw(run) for draw in (timing, embedding, dimensions, reconstruction, attention)}
    drawn = {folder / f"{name}.png": figure for name, figure in figures.items() if figure is not None}
    for path, figure in drawn.items():
        save_figure(figure, path)
    return list(drawn)


# ---- Figures ---------------------------------------------------------------------------------------------------------


def timing(run: Run) -> Figure | None:
    """How long each phase took, and how the forward pass varied from epoch to epoch."""
    n_panels = bool(run.seconds) + bool(len(run.epoch_ms))
    if not n_panels:
        return None
    figure = new_figure(run.title, height=3.8)
    panels = iter(figure.subplots(1, n_panels, squeeze=False)[0])
    if run.seconds:
        ax = entitle(next(panels), f"The run: {sum(run.seconds.values()):.3g} s in all", "Wall time (s)", "")
        bars = ax.barh([plain(phase) for phase in run.seconds], list(run.seconds.values()), color=BLUE)
        ax.bar_label(bars, fmt="%.3g s", padding=3)
        ax.invert_yaxis()
        ax.margins(x=0.15)
    if len(run.epoch_ms):
        ax = entitle(next(panels), f"Forward pass of {count(len(run.epoch_ms), 'epoch')}", "Duration (ms)", "Epochs")
        ax.hist(run.epoch_ms, bins=min(60, 5 + len(run.epoch_ms) // 5), color=BLUE)
        median, late = np.percentile(run.epoch_ms, [50, 95])
        ax.axvline(median, color="black", label=f"median {median:.3g} ms")
        ax.axvline(late, color="black", linestyle=":", label=f"95th percentile {late:.3g} ms")
        ax.legend()
        ax.locator_params(axis="y", integer=True)
    return figure


def embedding(run: Run) -> Figure | None:
    """How the values of the embedding are distributed, its norm over time, and its epochs in two dimensions."""
    kept, vectors = _vectors(run)
    if not vectors.size:
        return None
    components, explained = principal_components(vectors)
    has_plane = len(explained) == 2
    figure = new_figure(run.title, height=4.2)
    panels = iter(figure.subplots(1, 1 + (len(vectors) > 1) + has_plane, squeeze=False)[0])
    _distribution(next(panels), vectors)
    if len(vectors) > 1:
        ax = entitle(next(panels), "Norm over time", "Epoch", "Euclidean norm")
        _over_epochs(ax, kept, np.linalg.norm(vectors, axis=1), BLUE)
    if has_plane:
        labels = [f"Component {number} ({share:.0%} of variance)" for number, share in enumerate(explained, start=1)]
        ax = entitle(next(panels), "Epochs by principal components", *labels)
        dots = ax.scatter(components[:, 0], components[:, 1], c=kept, cmap=GRADIENT, s=24)
        figure.colorbar(dots, ax=ax, label="Epoch").ax.locator_params(axis="y", integer=True)
    n_epochs = len(run.arrays["embedding"])
    if len(kept) < n_epochs:
        add_note(figure, f"{n_epochs - len(kept)} of {n_epochs} epochs have no embedding and are left out.")
    return figure


def dimensions(run: Run) -> Figure | None:
    """Mean and standard deviation over epochs of each dimension of the embedding, as they come and sorted."""
    _, vectors = _vectors(run)
    if not vectors.size:
        return None
    varies = len(vectors) > 1
    mean, std, index = vectors.mean(axis=0), vectors.std(axis=0), np.arange(vectors.shape[1])
    orders = {"Dimension": index, "Dimension, sorted by mean": np.argsort(mean)}
    figure = new_figure(run.title, height=3.4 * (1 + varies))
    panels = figure.subplots(1 + varies, 2, squeeze=False, sharey="row")
    over = f"over {count(len(vectors), 'epoch')}"
    for ax, (label, order) in zip(panels[0], orders.items(), strict=True):
        entitle(ax, f"Mean {'± standard deviation ' if varies else ''}{over}", label, "Value")
        ax.fill_between(index, (mean - std)[order], (mean + std)[order], color=BLUE, alpha=0.3, linewidth=0)
        ax.plot(index, mean[order], color=BLUE, linewidth=1)
    if varies:
        orders = {"Dimension": index, "Dimension, sorted by standard deviation": np.argsort(std)}
        for ax, (label, order) in zip(panels[1], orders.items(), strict=True):
            entitle(ax, f"Standard deviation {over}", label, "Value")
            ax.plot(index, std[order], color=VERMILION, linewidth=1)
            ax.set_ylim(bottom=0)
    return figure


def reconstruction(run: Run) -> Figure | None:
    """A few channels of one epoch and what the model made of them, and the error of every channel over all epochs."""
    rebuilt, original = run.arrays.get("reconstruction"), run.epochs
    if rebuilt is None or original is None:
        return None
    rebuilt = rebuilt[:, : original.shape[1]]  # what is added has nothing to be compared with
    error = np.array([_root_mean_square(new - old, axis=1) for new, old in zip(rebuilt, original, strict=True)])
    if not np.isfinite(error).any():
        return None
    names = run.montage.ch_names
    of_epoch = _ranked(_root_mean_square(error, axis=1))
    epoch = int(of_epoch[(len(of_epoch) - 1) // 2])
    channels = _ranked(error[epoch])
    shown = channels[np.linspace(0, len(channels) - 1, min(_PANELS, len(channels))).round().astype(int)]

    heights = [1.6 * ceil(len(shown) / 2) + 0.8, 2.2 * ceil(len(names) / _BARS_A_ROW)]
    figure = new_figure(run.title, height=sum(heights) + 0.4)
    above, below = figure.subfigures(2, 1, squeeze=False, height_ratios=heights)[:, 0]
    above.suptitle(f"Epoch {epoch}, of median error: channels from the best to the worst", fontsize="medium")
    panels = above.subplots(ceil(len(shown) / 2), 2, squeeze=False, sharex=True)
    times = np.arange(original.shape[2]) / run.sfreq
    for ax, channel in zip(panels.flat, shown, strict=False):
        entitle(ax, f"{plain(names[channel])}: RMSE {error[epoch, channel]:.3g} µV", "", "")
        overlay(ax, times, original=original[epoch, channel], reconstructed=rebuilt[epoch, channel])
    finish_waveforms(above, panels.flat, len(shown))
    of_channel = _root_mean_square(error, axis=0)
    _bars(below, names, of_channel, f"Error of each channel over {count(len(error), 'epoch')}", "RMSE (µV)")
    return figure


def attention(run: Run) -> Figure | None:
    """Where on the scalp each query looks, and what the most attended channels get over time."""
    scores = run.arrays.get("attention")
    if scores is None:
        return None
    shares = 100 * _mean(scores, axis=(0, 1))
    seen = np.isfinite(shares).all(axis=0)
    if not seen.any():
        return None
    placed = np.isfinite(run.montage.ch_pos).all(axis=1)
    shown = np.logical_and(seen, placed)
    heights = [2.7 * ceil(len(shares) / 4) + 0.4, 3.0] if shown.any() else [3.0]
    figure = new_figure(run.title, height=sum(heights) + 0.6)
    *above, below = figure.subfigures(len(heights), 1, squeeze=False, height_ratios=heights)[:, 0]
    names = np.array(run.montage.ch_names)
    for subfigure in above:
        subfigure.suptitle("Attention of each query, and the channels it takes most from", fontsize="medium")
        tops = [shortened(names[_ranked(row)[:-4:-1]], 26) for row in shares]
        titles = [f"Query {query}\n{top}" for query, top in enumerate(tops)]
        scalp_maps(subfigure, project(run.montage)[shown], shares[:, shown], titles, "Share of attention (%)")
    _attention_over_time(below.subplots(), run.montage.ch_names, scores)
    reasons = {"no position": names[~placed], "left out of every epoch": names[placed & ~seen]}
    absent = [f"{why}: {shortened(channels, 90)}" for why, channels in reasons.items() if len(channels)]
    if absent:
        add_note(figure, f"Not on the maps ({'; '.join(absent)})")
    return figure


# ---- What they show --------------------------------------------------------------------------------------------------


def principal_components(vectors: Float64Array) -> tuple[Float64Array, Float64Array]:
    """The plane in which vectors differ most.

    Args:
        vectors: `(n, d)`.

    Returns:
        `(n, k)` coordinates and `(k,)` shares of the variance; k is 2, or less where they do not span a plane.
    """
    centred = vectors - vectors.mean(axis=0)
    u, s, _ = np.linalg.svd(centred, full_matrices=False)
    k = min(2, int((s > s.max(initial=0) * max(centred.shape) * np.finfo(np.float32).eps).sum()))
    return u[:, :k] * s[:k], s[:k] ** 2 / max(float((s**2).sum()), np.finfo(np.float64).tiny)


def _vectors(run: Run) -> tuple[NDArray[np.intp], Float64Array]:
    """The epochs whose embedding is known, and their embeddings `(n, d)`."""
    array = run.arrays.get("embedding", np.empty((0, 0), np.float32))
    vectors = array.reshape(len(array), -1).astype(np.float64) if array.size else np.empty((0, 0))
    kept = np.flatnonzero(np.isfinite(vectors).all(axis=1))
    return kept, vectors[kept]


def _mean(values: ArrayLike, axis: int | tuple[int, ...]) -> Float64Array:
    """Mean of what is finite; NaN where nothing is."""
    array = np.asarray(values, dtype=np.float64)
    known = np.isfinite(array)
    with np.errstate(invalid="ignore"):
        mean: Float64Array = np.where(known, array, 0).sum(axis=axis) / known.sum(axis=axis)
    return mean


def _root_mean_square(values: ArrayLike, axis: int) -> Float64Array:
    """Root of the mean square of what is finite."""
    return np.sqrt(_mean(np.square(values, dtype=np.float64), axis))


def _ranked(values: Float64Array) -> NDArray[np.intp]:
    """Indices of what is finite, in ascending order of the values."""
    return np.argsort(values)[: np.isfinite(values).sum()]


# ---- Parts of figures ------------------------------------------------------------------------------------------------


def _distribution(ax: Axes, vectors: Float64Array) -> None:
    """Histogram of all values, and the normal distribution of their mean and standard deviation."""
    mean, std = float(vectors.mean()), float(vectors.std())
    entitle(ax, f"All values: mean {mean:.3g}, SD {std:.3g}", "Value", "Density")
    ax.hist(vectors.ravel(), bins=60, density=True, color=BLUE)
    if std > 0:
        x = np.linspace(mean - 4 * std, mean + 4 * std, 200)
        normal = np.exp(-(((x - mean) / std) ** 2) / 2) / (std * np.sqrt(2 * np.pi))
        ax.plot(x, normal, color=VERMILION, label="normal distribution")
        ax.margins(y=0.2)
        ax.legend()


def _over_epochs(ax: Axes, x: ArrayLike, y: ArrayLike, colour: str, label: str = "") -> None:
    """A line, with a dot for each epoch as long as they can be told apart."""
    ax.plot(x, y, color=colour, marker="." if len(np.asarray(y)) <= 100 else "", linewidth=1, label=label)
    ax.locator_params(axis="x", integer=True)


def _bars(figure: SubFigure, names: Sequence[str], values: Float64Array, title: str, ylabel: str) -> None:
    """A bar for each channel, in as many rows as keep the names apart."""
    rows = np.array_split(np.arange(len(names)), ceil(len(names) / _BARS_A_ROW))
    panels = figure.subplots(len(rows), 1, squeeze=False, sharey=True)[:, 0]
    for ax, channels in zip(panels, rows, strict=True):
        entitle(ax, title if ax is panels[0] else "", "", ylabel)
        ax.bar(np.arange(len(channels)), values[channels], color=BLUE)
        labels = [plain(names[channel]) for channel in channels]
        too_wide = sum(len(label) + 2 for label in labels) > 120
        ax.set_xticks(np.arange(len(channels)), labels, rotation=90 if too_wide else 0, fontsize="small")
        beside = max(0.6, (12 - len(channels)) / 2)
        ax.set_xlim(-beside, len(channels) - 1 + beside)
        ax.grid(visible=False, axis="x")


def _attention_over_time(ax: Axes, names: Sequence[str], scores: Float32Array) -> None:
    """The channels that got most: over epochs, or over the patches of the only one."""
    over_epochs = len(scores) > 1
    shares = 100 * (_mean(scores, axis=(1, 2)) if over_epochs else _mean(scores[0], axis=1))
    ranked = _ranked(_mean(shares, axis=0))
    entitle(ax, "The most attended channels over time", "Epoch" if over_epochs else "Patch", "Share of attention (%)")
    for channel, colour in zip(ranked[::-1], LINES, strict=False):
        _over_epochs(ax, np.arange(len(shares)), shares[:, channel], colour, plain(names[channel]))
    ax.axhline(100 / len(ranked), color=GREY, linestyle="--", linewidth=1, label="an even share", zorder=3)
    ax.legend(loc="upper left", bbox_to_anchor=(1, 1))
