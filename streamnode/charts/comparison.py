"""A chart of channels that a model rebuilt, before and after."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from streamnode.charts.drawing import count, entitle, finish_waveforms, new_figure, overlay, plain, save_figure
from streamnode.types import FloatArray

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_PANELS = 6  # waveforms one looks at
_SHOWN_S = 10.0  # waveforms of more than this are a blur


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
    title = f"{part}{count(len(rebuilt), 'rebuilt channel')}, the first {len(times) / sfreq:.3g} s"
    figure = new_figure(title, height=1.5 * len(shown) + 1.2)
    panels = figure.subplots(len(shown), 1, squeeze=False, sharex=True)
    for ax, name, was, is_now in zip(panels.flat, shown, old, new, strict=True):
        entitle(ax, plain(name) if np.isfinite(was).any() else f"{plain(name)}, which nobody recorded", "", "")
        overlay(ax, times, before=was, after=is_now)
        ax.set_ylim(_in_proportion(was, is_now))
    finish_waveforms(figure, panels.flat, len(shown))
    return figure


def _in_proportion(was: FloatArray, is_now: FloatArray) -> tuple[float, float]:
    """Limits that show all of the new waveform, and of the old one what is no more than its height beyond it."""
    low, high = float(np.nanmin(is_now)), float(np.nanmax(is_now))
    span = (high - low) or 1.0
    both = np.concatenate([was[np.isfinite(was)], [low, high]])
    return max(both.min(), low - span) - span / 20, min(both.max(), high + span) + span / 20
