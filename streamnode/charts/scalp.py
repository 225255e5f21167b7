"""Maps of the scalp, seen from above."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil
from typing import TYPE_CHECKING

import numpy as np
from scipy.interpolate import RBFInterpolator
from scipy.spatial.distance import cdist

from streamnode.charts.drawing import GRADIENT, plain
from streamnode.signal.interpolate import sphere_origin
from streamnode.types import Float64Array, Montage

if TYPE_CHECKING:
    from matplotlib.figure import SubFigure

_TEMPLATE_CENTRE = np.array([0.0, 0.0155, 0.0415])
"""Centre of the sphere through the 10-20 electrodes of the template, metres: few electrodes do not tell their own."""

_HEAD_EDGE = 100.0
"""Degrees from the vertex at which the head is drawn to end: just outside Fpz, T7, Oz."""

_NOSE = _HEAD_EDGE * np.array([[-0.1, 0.0, 0.1], [0.995, 1.12, 0.995]])
_RIGHT_EAR = _HEAD_EDGE * np.array([[0.98, 1.05, 1.08, 1.05, 0.98], [0.2, 0.2, 0.0, -0.2, -0.2]])
_LEFT_EAR = _RIGHT_EAR * [[-1], [1]]

_REACH = 40.0  # degrees from the nearest sensor: farther off, a map would be a guess
_BANDS = 24  # of colour: steps read like contours


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


def scalp_maps(figure: SubFigure, xy: Float64Array, values: Float64Array, titles: Sequence[str], unit: str) -> None:
    """Draw a map for each row of values: sensors filled with their own value, between them a spline.

    Args:
        figure: an empty one.
        xy: `(n, 2)` where the sensors are, as of `project`.
        values: `(n_maps, n)`, all of one scale of colour.
        titles: one a map.
        unit: what the scale of colour says.
    """
    from matplotlib import colormaps  # noqa: PLC0415

    panels = figure.subplots(ceil(len(values) / 4), min(len(values), 4), squeeze=False)
    edge = 1.04 * _HEAD_EDGE
    axis = np.linspace(-edge, edge, 128)
    grid = np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2)
    fields, is_far = interpolate(xy, values.T, grid), cdist(grid, xy).min(axis=1) > _REACH
    colours = {"cmap": colormaps[GRADIENT].resampled(_BANDS), "vmin": values.min(), "vmax": values.max()}
    turn = np.linspace(0, 2 * np.pi, 200)
    circle = np.array([np.sin(turn), np.cos(turn)])
    for ax in panels.flat:
        ax.set_axis_off()
    for number, (ax, title) in enumerate(zip(panels.flat, titles, strict=False)):
        ax.set_aspect("equal")
        ax.set_title(plain(title), fontsize="medium")
        if fields is not None:
            pixels = np.where(is_far, np.nan, fields[:, number]).reshape(128, 128)
            image = ax.imshow(pixels, extent=(-edge, edge, -edge, edge), origin="lower", **colours)
            image.set_clip_path(ax.fill(*edge * circle, facecolor="none")[0])
        for outline in (_HEAD_EDGE * circle, _NOSE, _LEFT_EAR, _RIGHT_EAR):
            ax.plot(*outline, color="black", linewidth=1)
        dots = ax.scatter(*xy.T, c=values[number], s=max(8, 40 - len(xy) / 3), edgecolors="black", **colours)
    figure.colorbar(dots, ax=panels, label=unit)
