"""Charts of what a run over a file yielded: how long it took, what the embedding looks like, where attention went.

Each of `timing`, `embedding`, `dimensions`, `reconstruction` and `attention` makes one figure, or None where the run
lacks what it shows. matplotlib is imported when the first is made, and only its objects are used, none of its state.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.interpolate import RBFInterpolator
from scipy.spatial.distance import cdist

from streamnode.errors import ConfigError
from streamnode.signal.interpolate import sphere_origin
from streamnode.types import Float32Array, Float64Array, FloatArray, Montage, OutputName

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

_DPI = 150
_WIDTH = 10.5  # inches

# Okabe and Ito (2008), Color Universal Design: told apart with any colour vision.
LINES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00")
_BLUE, _VERMILION = LINES[:2]
_SKY = "#56B4E9"
_GREY = "#666666"
_GRADIENT = "viridis"

_TEMPLATE_CENTRE = np.array([0.0, 0.0155, 0.0415])
"""Centre of the sphere through the 10-20 electrodes of the template, metres: few electrodes do not tell their own."""

_HEAD_EDGE = 100.0
"""Degrees from the vertex at which the head is drawn to end: just outside Fpz, T7, Oz."""

_NOSE = _HEAD_EDGE * np.array([[-0.1, 0.0, 0.1], [0.995, 1.12, 0.995]])
_RIGHT_EAR = _HEAD_EDGE * np.array([[0.98, 1.05, 1.08, 1.05, 0.98], [0.2, 0.2, 0.0, -0.2, -0.2]])
_LEFT_EAR = _RIGHT_EAR * [[-1], [1]]

_REACH = 40.0  # degrees from the nearest sensor: farther off, a map would be a guess
_BARS_A_ROW = 64  # as many names as can be read side by side
_BANDS = 24  # of a scalp map: steps read like contours
_PANELS = 6  # waveforms one looks at
_SHOWN_S = 10.0  # waveforms of more than this are a blur


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


def write_comparison(  # noqa: PLR0917
    path: Path,
    before: ArrayLike,
    after: ArrayLike,
    ch_names: Sequence[str],
    sfreq: float,
    rebuilt: Sequence[str],
) -> None:
    """Draw the channels that a model rebuilt, as they were and as they are.

    Args:
        path: the PNG file.
        before: `(n_chans, n_times)` microvolts; NaN where there was nothing.
        after: `(n_chans, n_times)` microvolts, finite in the rebuilt channels.
        ch_names: of the rows.
        sfreq: Hz.
        rebuilt: names of the channels to show, at least one.

    Raises:
        ConfigError: matplotlib is not installed, or the file cannot be written.
    """
    save_figure(comparison(before, after, ch_names, sfreq, rebuilt), path)


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
        bars = ax.barh([_plain(phase) for phase in run.seconds], list(run.seconds.values()), color=_BLUE)
        ax.bar_label(bars, fmt="%.3g s", padding=3)
        ax.invert_yaxis()
        ax.margins(x=0.15)
    if len(run.epoch_ms):
        ax = entitle(next(panels), f"Forward pass of {_count(len(run.epoch_ms), 'epoch')}", "Duration (ms)", "Epochs")
        ax.hist(run.epoch_ms, bins=min(60, 5 + len(run.epoch_ms) // 5), color=_BLUE)
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
        _over_epochs(ax, kept, np.linalg.norm(vectors, axis=1), _BLUE)
    if has_plane:
        labels = [f"Component {number} ({share:.0%} of variance)" for number, share in enumerate(explained, start=1)]
        ax = entitle(next(panels), "Epochs by principal components", *labels)
        dots = ax.scatter(components[:, 0], components[:, 1], c=kept, cmap=_GRADIENT, s=24)
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
    over = f"over {_count(len(vectors), 'epoch')}"
    for ax, (label, order) in zip(panels[0], orders.items(), strict=True):
        entitle(ax, f"Mean {'± standard deviation ' if varies else ''}{over}", label, "Value")
        ax.fill_between(index, (mean - std)[order], (mean + std)[order], color=_BLUE, alpha=0.3, linewidth=0)
        ax.plot(index, mean[order], color=_BLUE, linewidth=1)
    if varies:
        orders = {"Dimension": index, "Dimension, sorted by standard deviation": np.argsort(std)}
        for ax, (label, order) in zip(panels[1], orders.items(), strict=True):
            entitle(ax, f"Standard deviation {over}", label, "Value")
            ax.plot(index, std[order], color=_VERMILION, linewidth=1)
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
        entitle(ax, f"{_plain(names[channel])}: RMSE {error[epoch, channel]:.3g} µV", "", "")
        _overlay(ax, times, original=original[epoch, channel], reconstructed=rebuilt[epoch, channel])
    _finish_waveforms(above, panels.flat, len(shown))
    of_channel = _root_mean_square(error, axis=0)
    _bars(below, names, of_channel, f"Error of each channel over {_count(len(error), 'epoch')}", "RMSE (µV)")
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
    for subfigure in above:
        _scalp_maps(subfigure, run.montage, shares, shown)
    _attention_over_time(below.subplots(), run.montage.ch_names, scores)
    names = np.array(run.montage.ch_names)
    reasons = {"no position": names[~placed], "left out of every epoch": names[placed & ~seen]}
    absent = [f"{why}: {_some(channels, 90)}" for why, channels in reasons.items() if len(channels)]
    if absent:
        add_note(figure, f"Not on the maps ({'; '.join(absent)})")
    return figure


def comparison(
    before: ArrayLike, after: ArrayLike, ch_names: Sequence[str], sfreq: float, rebuilt: Sequence[str]
) -> Figure:
    """The first seconds of some rebuilt channels, before and after; arguments as of `write_comparison`."""
    shown = rebuilt[:_PANELS]
    rows = [list(ch_names).index(name) for name in shown]
    n_times = round(_SHOWN_S * sfreq)
    old, new = np.asarray(before)[rows, :n_times], np.asarray(after)[rows, :n_times]
    times = np.arange(new.shape[1]) / sfreq
    part = f"{len(shown)} of " if len(shown) < len(rebuilt) else ""
    title = f"{part}{_count(len(rebuilt), 'rebuilt channel')}, the first {len(times) / sfreq:.3g} s"
    figure = new_figure(title, height=1.5 * len(shown) + 1.2)
    panels = figure.subplots(len(shown), 1, squeeze=False, sharex=True)
    for ax, name, was, is_now in zip(panels.flat, shown, old, new, strict=True):
        entitle(ax, _plain(name) if np.isfinite(was).any() else f"{_plain(name)}, which nobody recorded", "", "")
        _overlay(ax, times, before=was, after=is_now)
        ax.set_ylim(_in_proportion(was, is_now))
    _finish_waveforms(figure, panels.flat, len(shown))
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


def project(montage: Montage) -> Float64Array:
    """Azimuthal equidistant projection of the electrodes: direction and distance from the vertex stay true.

    Returns:
        `(n_chans, 2)` degrees of arc from the vertex, to the right and to the front; NaN without a position.
    """
    n_placed = np.isfinite(montage.ch_pos).all(axis=1).sum()
    x, y, z = (montage.ch_pos - (sphere_origin(montage) if n_placed > 10 else _TEMPLATE_CENTRE)).T
    from_vertex, azimuth = np.degrees(np.arctan2(np.hypot(x, y), z)), np.arctan2(y, x)
    return np.column_stack([from_vertex * np.cos(azimuth), from_vertex * np.sin(azimuth)])


def interpolate(xy: Float64Array, values: Float64Array, at: Float64Array) -> Float64Array | None:
    """Thin-plate spline through values on a plane; a linear field comes back as it is, inside and outside.

    Args:
        xy: `(n, 2)` where the values were taken.
        values: `(n, m)` of m fields.
        at: `(k, 2)` where to interpolate.

    Returns:
        `(k, m)`, or None where the places lie on a line, or on a point, and tell nothing of the plane.
    """
    if np.linalg.matrix_rank(xy - xy.mean(axis=0), tol=1.0) < 2:
        return None
    # A trace of smoothing, for electrodes that share a place.
    field: Float64Array = RBFInterpolator(xy, values, kernel="thin_plate_spline", smoothing=1e-6)(at)
    return field


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


def new_figure(title: str, *, height: float) -> Figure:
    """An empty chart, its height in inches. Raises `ConfigError` without matplotlib."""
    try:
        from matplotlib.figure import Figure  # noqa: PLC0415
    except ImportError as error:
        raise ConfigError("charts need matplotlib: pip install 'streamnode[files]'") from error
    figure = Figure(figsize=(_WIDTH, height), dpi=_DPI, facecolor="white", layout="constrained")
    figure.suptitle(_plain(textwrap.fill(title, 90)), fontsize="large", fontweight="bold")
    return figure


def save_figure(figure: Figure, path: Path) -> None:
    """Write a PNG with 32 shades of each colour, which is half the size and looks the same."""
    from PIL import Image  # noqa: PLC0415  (comes with matplotlib)

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(drawn := BytesIO(), format="png", pil_kwargs={"compress_level": 1})
        image = Image.open(drawn).convert("RGB").point(lambda shade: round(shade * 31 / 255) * 255 // 31)
        image.save(path, format="PNG", dpi=(_DPI, _DPI))
    except OSError as error:
        raise ConfigError(f"{path} cannot be written ({error.strerror}): give another folder for the charts") from error


def entitle(ax: Axes, title: str, xlabel: str, ylabel: str) -> Axes:
    """Say what a panel shows."""
    ax.set_title(title, fontsize="medium")
    ax.set_xlabel(xlabel)
    ax.set_ylabel(ylabel)
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(alpha=0.25)
    ax.set_axisbelow(True)
    return ax


def add_note(figure: Figure, text: str) -> None:
    """A remark below all panels."""
    figure.supxlabel(_plain(textwrap.fill(text, 160)), fontsize="small", color=_GREY)


def _plain(text: str) -> str:
    """Keep matplotlib from reading dollars as formulas."""
    return text.replace("$", r"\$")


def _count(n: int, noun: str) -> str:
    return f"{n} {noun}{'' if n == 1 else 's'}"


def _some(names: Iterable[str], width: int) -> str:
    return textwrap.shorten(", ".join(names), width, placeholder=" …", break_on_hyphens=False)


def _distribution(ax: Axes, vectors: Float64Array) -> None:
    """Histogram of all values, and the normal distribution of their mean and standard deviation."""
    mean, std = float(vectors.mean()), float(vectors.std())
    entitle(ax, f"All values: mean {mean:.3g}, SD {std:.3g}", "Value", "Density")
    ax.hist(vectors.ravel(), bins=60, density=True, color=_BLUE)
    if std > 0:
        x = np.linspace(mean - 4 * std, mean + 4 * std, 200)
        normal = np.exp(-(((x - mean) / std) ** 2) / 2) / (std * np.sqrt(2 * np.pi))
        ax.plot(x, normal, color=_VERMILION, label="normal distribution")
        ax.margins(y=0.2)
        ax.legend()


def _overlay(ax: Axes, times: Float64Array, **waveforms: FloatArray) -> None:
    """Two named waveforms, the second thin upon the first."""
    styles = (_SKY, 1.8), (_VERMILION, 0.7)
    for (name, waveform), (colour, width) in zip(waveforms.items(), styles, strict=True):
        ax.plot(times, waveform, color=colour, linewidth=width, label=name)
    ax.margins(x=0.01)


def _over_epochs(ax: Axes, x: ArrayLike, y: ArrayLike, colour: str, label: str = "") -> None:
    """A line, with a dot for each epoch as long as they can be told apart."""
    ax.plot(x, y, color=colour, marker="." if len(np.asarray(y)) <= 100 else "", linewidth=1, label=label)
    ax.locator_params(axis="x", integer=True)


def _finish_waveforms(figure: Figure | SubFigure, panels: Iterable[Axes], n_used: int) -> None:
    used, unused = (panels := list(panels))[:n_used], panels[n_used:]
    for ax in unused:
        ax.set_visible(False)
    figure.legend(*used[0].get_legend_handles_labels(), loc="outside lower right", ncols=2)
    figure.supxlabel("Time (s)", fontsize="medium")
    figure.supylabel("Amplitude (µV)", fontsize="medium")


def _in_proportion(was: FloatArray, is_now: FloatArray) -> tuple[float, float]:
    """Limits that show all of the new waveform, and of the old one what is no more than its height beyond it."""
    low, high = float(np.nanmin(is_now)), float(np.nanmax(is_now))
    span = (high - low) or 1.0
    both = np.concatenate([was[np.isfinite(was)], [low, high]])
    return max(both.min(), low - span) - span / 20, min(both.max(), high + span) + span / 20


def _bars(figure: SubFigure, names: Sequence[str], values: Float64Array, title: str, ylabel: str) -> None:
    """A bar for each channel, in as many rows as keep the names apart."""
    rows = np.array_split(np.arange(len(names)), ceil(len(names) / _BARS_A_ROW))
    panels = figure.subplots(len(rows), 1, squeeze=False, sharey=True)[:, 0]
    for ax, channels in zip(panels, rows, strict=True):
        entitle(ax, title if ax is panels[0] else "", "", ylabel)
        ax.bar(np.arange(len(channels)), values[channels], color=_BLUE)
        labels = [_plain(names[channel]) for channel in channels]
        too_wide = sum(len(label) + 2 for label in labels) > 120
        ax.set_xticks(np.arange(len(channels)), labels, rotation=90 if too_wide else 0, fontsize="small")
        beside = max(0.6, (12 - len(channels)) / 2)
        ax.set_xlim(-beside, len(channels) - 1 + beside)
        ax.grid(visible=False, axis="x")


def _scalp_maps(figure: SubFigure, montage: Montage, shares: Float64Array, shown: NDArray[np.bool_]) -> None:
    """A map of the scalp for each query: sensors filled with their own value, between them a spline."""
    from matplotlib import colormaps  # noqa: PLC0415

    figure.suptitle("Attention of each query, and the channels it takes most from", fontsize="medium")
    panels = figure.subplots(ceil(len(shares) / 4), min(len(shares), 4), squeeze=False)
    values, xy = shares[:, shown], project(montage)[shown]
    edge = 1.04 * _HEAD_EDGE
    axis = np.linspace(-edge, edge, 128)
    grid = np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2)
    field, is_far = interpolate(xy, values.T, grid), cdist(grid, xy).min(axis=1) > _REACH
    colours = {"cmap": colormaps[_GRADIENT].resampled(_BANDS), "vmin": values.min(), "vmax": values.max()}
    turn = np.linspace(0, 2 * np.pi, 200)
    circle = np.array([np.sin(turn), np.cos(turn)])
    for query, ax in enumerate(panels.flat):
        ax.set_axis_off()
        if query >= len(shares):
            continue
        ax.set_aspect("equal")
        top = np.array(montage.ch_names)[_ranked(shares[query])[:-4:-1]]
        ax.set_title(_plain(f"Query {query}\n{_some(top, 26)}"), fontsize="medium")
        if field is not None:
            pixels = np.where(is_far, np.nan, field[:, query]).reshape(128, 128)
            image = ax.imshow(pixels, extent=(-edge, edge, -edge, edge), origin="lower", **colours)
            image.set_clip_path(ax.fill(*edge * circle, facecolor="none")[0])
        for outline in (_HEAD_EDGE * circle, _NOSE, _LEFT_EAR, _RIGHT_EAR):
            ax.plot(*outline, color="black", linewidth=1)
        dots = ax.scatter(*xy.T, c=values[query], s=max(8, 40 - len(xy) / 3), edgecolors="black", **colours)
    figure.colorbar(dots, ax=panels, label="Share of attention (%)")


def _attention_over_time(ax: Axes, names: Sequence[str], scores: Float32Array) -> None:
    """The channels that got most: over epochs, or over the patches of the only one."""
    over_epochs = len(scores) > 1
    shares = 100 * (_mean(scores, axis=(1, 2)) if over_epochs else _mean(scores[0], axis=1))
    ranked = _ranked(_mean(shares, axis=0))
    entitle(ax, "The most attended channels over time", "Epoch" if over_epochs else "Patch", "Share of attention (%)")
    for channel, colour in zip(ranked[::-1], LINES, strict=False):
        _over_epochs(ax, np.arange(len(shares)), shares[:, channel], colour, _plain(names[channel]))
    ax.axhline(100 / len(ranked), color=_GREY, linestyle="--", linewidth=1, label="an even share", zorder=3)
    ax.legend(loc="upper left", bbox_to_anchor=(1, 1))
