"""Charts of channels that a model rebuilt."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from streamnode.charts.comparison import comparison, write_comparison
from tests.charts import TEN_TWENTY, line, make_run, panel


def test_comparison_becomes_a_png(tmp_path: Path) -> None:
    """The comparison is written where it was asked for."""
    data = make_run().arrays["reconstruction"][0]
    write_comparison(tmp_path / "charts" / "rebuilt.png", data, data + 1, TEN_TWENTY.split(), 64.0, ["Cz"])

    with Image.open(tmp_path / "charts" / "rebuilt.png") as image:
        assert image.format == "PNG"


def test_comparison_shows_the_first_seconds_of_rebuilt_channels() -> None:
    """Each rebuilt channel gets its panel of at most ten seconds, and the new waveform decides the scale."""
    rng = np.random.default_rng(0)
    after = rng.normal(0, 10, (19, 1000))
    before = after * np.where(np.arange(19) == 4, 1000, 1)[:, None]
    before[7] = np.nan
    figure = comparison(before, after, TEN_TWENTY.split(), 64.0, ["Fz", "T7"])
    figure.draw_without_rendering()

    for name, row in {"Fz": 4, "T7": 7}.items():
        np.testing.assert_array_equal(line(panel(figure, name), "before"), before[row, :640])
        np.testing.assert_array_equal(line(panel(figure, name), "after"), after[row, :640])
    low, high = panel(figure, "Fz").get_ylim()
    assert low < after[4, :640].min() < after[4, :640].max() < high
    assert high - low < 4 * np.ptp(after[4, :640])


def test_comparison_of_many_channels_shows_some_and_says_so() -> None:
    """Six panels are enough; the title tells how many there are."""
    data = np.zeros((19, 64))
    figure = comparison(data, data + 1, TEN_TWENTY.split(), 64.0, TEN_TWENTY.split())

    assert len(figure.axes) == 6
    assert figure.get_suptitle() == "6 of 19 rebuilt channels, the first 1 s"
