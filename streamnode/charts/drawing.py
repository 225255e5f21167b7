"""How every figure looks, and how it is written."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

from streamnode.errors import ConfigError
from streamnode.types import Float64Array, FloatArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

_DPI = 150
_WIDTH = 10.5  # inches

# Okabe and Ito (2008), Color Universal Design: told apart with any colour vision.
LINES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00")
BLUE, VERMILION = LINES[:2]
_SKY = "#56B4E9"
GREY = "#666666"
GRADIENT = "viridis"


def new_figure(title: str, *, height: float) -> Figure:
    """An empty chart, its height in inches. Raises `ConfigError` without matplotlib."""
    try:
        from matplotlib.figure import Figure  # noqa: PLC0415
    except ImportError as error:
        raise ConfigError("charts need matplotlib: pip install 'streamnode[files]'") from error
    figure = Figure(figsize=(_WIDTH, height), dpi=_DPI, facecolor="white", layout="constrained")
    figure.suptitle(plain(textwrap.fill(title, 90)), fontsize="large", fontweight="bold")
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
    figure.supxlabel(plain(textwrap.fill(text, 160)), fontsize="small", color=GREY)


def plain(text: str) -> str:
    """Keep matplotlib from reading dollars as formulas."""
    return text.replace("$", r"\$")


def count(n: int, noun: str) -> str:
    """Such as `3 epochs`."""
    return f"{n} {noun}{'' if n == 1 else 's'}"


def shortened(names: Iterable[str], width: int) -> str:
    """The first of some names, in at most so many characters."""
    return textwrap.shorten(", ".join(names), width, placeholder=" …", break_on_hyphens=False)


def overlay(ax: Axes, times: Float64Array, **waveforms: FloatArray) -> None:
    """Two named waveforms, the second thin upon the first."""
    styles = (_SKY, 1.8), (VERMILION, 0.7)
    for (name, waveform), (colour, width) in zip(waveforms.items(), styles, strict=True):
        ax.plot(times, waveform, color=colour, linewidth=width, label=name)
    ax.margins(x=0.01)


def finish_waveforms(figure: Figure | SubFigure, panels: Iterable[Axes], n_used: int) -> None:
    """One legend and names of the axes for all panels of waveforms; those beyond the used ones go."""
    used, unused = (panels := list(panels))[:n_used], panels[n_used:]
    for ax in unused:
        ax.set_visible(False)
    figure.legend(*used[0].get_legend_handles_labels(), loc="outside lower right", ncols=2)
    figure.supxlabel("Time (s)", fontsize="medium")
    figure.supylabel("Amplitude (µV)", fontsize="medium")
