"""Tests of `streamnode.charts`, and what they share."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from streamnode.charts.run import Run
from streamnode.montage import make_montage
from streamnode.types import Float64Array

TEN_TWENTY = "Fp1 Fp2 F7 F3 Fz F4 F8 T7 C3 Cz C4 T8 P7 P3 Pz P4 P8 O1 O2"
MONTAGES = {
    2: make_montage(["C3", "C4"]),
    19: make_montage(TEN_TWENTY.split()),
    128: make_montage([f"{bank}{number}" for bank in "ABCD" for number in range(1, 33)], cap="biosemi128"),
}


def make_run(n_chans: int = 19, n_epochs: int = 6, n_queries: int = 4) -> Run:
    """A run with everything: embeddings of 24 values, 3 patches, epochs of 2 s at 64 Hz."""
    rng = np.random.default_rng(n_chans)
    epochs = rng.normal(0, 30, (n_epochs, n_chans, 128)).astype(np.float32)
    return Run(
        title="luna-base, some.edf",
        montage=MONTAGES[n_chans],
        sfreq=64.0,
        seconds={"read": 0.5, "signal": 0.25, "inference": 2.0, "write": 0.125},
        epoch_ms=rng.gamma(9, 1, n_epochs),
        arrays={
            "embedding": rng.normal(1, 2, (n_epochs, 24)).astype(np.float32),
            "attention": rng.dirichlet(np.ones(n_chans), (n_epochs, 3, n_queries)).astype(np.float32),
            "reconstruction": (epochs + rng.normal(0, 5, epochs.shape)).astype(np.float32),
        },
        epochs=epochs,
    )


def drawn(figure: Figure | None) -> Figure:
    assert figure is not None
    return figure


def panel(figure: Figure | None, title: str) -> Axes:
    """The one panel whose title begins so."""
    (ax,) = [ax for ax in drawn(figure).axes if ax.get_title().startswith(title)]
    return ax


def line(ax: Axes, label: str | int) -> Float64Array:
    """The values of a line, by its label or its number."""
    lines = {artist.get_label(): artist for artist in ax.lines}
    return np.asarray((ax.lines[label] if isinstance(label, int) else lines[label]).get_ydata(), dtype=np.float64)


def bars(ax: Axes) -> list[Rectangle]:
    return [patch for patch in ax.patches if isinstance(patch, Rectangle)]


def note(figure: Figure | None) -> str:
    return drawn(figure).get_supxlabel()
