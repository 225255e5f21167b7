"""Charts of a run: the values drawn are the values given, and what is missing is said."""

from __future__ import annotations

import itertools
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from streamnode.charts import run as charts
from streamnode.charts.run import Run
from streamnode.charts.scalp import project
from streamnode.errors import ConfigError
from streamnode.types import Float64Array, Montage
from tests.charts import MONTAGES, bars, drawn, line, make_run, note, panel

# ---- Files -----------------------------------------------------------------------------------------------------------


def test_every_chart_becomes_a_png_of_sensible_size(tmp_path: Path) -> None:
    """All five charts are PNG files that a report can hold, drawn on white."""
    paths = charts.write_charts(tmp_path / "new" / "folder", make_run())

    assert [path.name for path in paths] == [
        f"{name}.png" for name in ("timing", "embedding", "dimensions", "reconstruction", "attention")
    ]
    for path in paths:
        assert 10_000 < path.stat().st_size < 500_000
        with Image.open(path) as image:
            assert image.format == "PNG"
            assert image.width == 1575
            assert 400 < image.height < 1800
            assert image.getpixel((0, 0)) == (255, 255, 255)


def test_what_cannot_be_drawn_is_not_drawn(tmp_path: Path) -> None:
    """A run that yielded only some outputs gets only their charts, and an empty one gets none."""
    run = make_run()
    only_timed = replace(run, arrays={})
    unmatched = replace(run, arrays={"reconstruction": run.arrays["reconstruction"]}, epochs=None)
    empty = replace(only_timed, seconds={}, epoch_ms=np.empty(0))

    assert [path.name for path in charts.write_charts(tmp_path, only_timed)] == ["timing.png"]
    assert charts.reconstruction(unmatched) is None
    assert charts.write_charts(tmp_path, empty) == []


@pytest.mark.parametrize("name", ["embedding", "attention", "reconstruction"])
def test_output_without_a_number_is_not_drawn(name: str) -> None:
    """An output that is NaN throughout gets no chart."""
    run = make_run()
    run = replace(run, arrays={key: np.full_like(array, np.nan) for key, array in run.arrays.items()})

    assert getattr(charts, name)(run) is None


def test_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    """A file where the folder should be is an error that names it."""
    (tmp_path / "file").touch()

    with pytest.raises(ConfigError, match=r"file/timing\.png cannot be written .*: give another folder"):
        charts.write_charts(tmp_path / "file", replace(make_run(), arrays={}))


def test_without_matplotlib_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Where matplotlib is absent, the error says what to install."""
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)

    with pytest.raises(ConfigError, match=r"^charts need matplotlib: pip install 'streamnode\[files\]'$"):
        charts.write_charts(tmp_path, make_run())


def test_import_is_lazy_and_pyplot_is_left_alone() -> None:
    """Importing charts imports no matplotlib, and drawing one leaves its global state, pyplot, alone."""
    script = (
        "import sys, numpy as np\n"
        "from streamnode.charts.run import Run, timing\n"
        "from streamnode.montage import make_montage\n"
        "assert 'matplotlib' not in sys.modules\n"
        "timing(Run('', make_montage(['Cz']), 1.0, {'read': 1.0}, np.ones(1), {}, None))\n"
        "assert 'matplotlib' in sys.modules and 'matplotlib.pyplot' not in sys.modules\n"
    )
    finished = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)

    assert finished.returncode == 0, finished.stderr


# ---- Values drawn are the values given -------------------------------------------------------------------------------


def test_timing_shows_each_phase_and_every_epoch() -> None:
    """Bars are the seconds of the phases, in order; the histogram counts every epoch."""
    run = make_run(n_epochs=50)
    figure = charts.timing(run)
    phases, forward = panel(figure, "The run: 2.88 s"), panel(figure, "Forward pass of 50 epochs")

    assert [bar.get_width() for bar in bars(phases)] == list(run.seconds.values())
    assert [label.get_text() for label in phases.get_yticklabels()] == list(run.seconds)
    assert sum(bar.get_height() for bar in bars(forward)) == 50
    assert forward.lines[0].get_xdata() == pytest.approx([np.median(run.epoch_ms)] * 2)


def test_embedding_shows_values_norms_and_components() -> None:
    """The histogram has all values, the norms and the components those of each epoch, coloured by time."""
    run = make_run(n_epochs=9)
    vectors = run.arrays["embedding"].astype(np.float64)
    figure = charts.embedding(run)
    values, norms, components = (panel(figure, title) for title in ("All values", "Norm over time", "Epochs by princ"))
    (dots,) = components.collections

    edges = [bar.get_x() for bar in bars(values)]
    assert min(edges) == pytest.approx(vectors.min())
    assert sum(bar.get_height() * bar.get_width() for bar in bars(values)) == pytest.approx(1)
    np.testing.assert_allclose(line(norms, 0), np.linalg.norm(vectors, axis=1))
    np.testing.assert_allclose(np.asarray(dots.get_offsets()), charts.principal_components(vectors)[0])
    assert list(np.asarray(dots.get_array())) == list(range(9))


def test_embedding_of_any_rank_is_flattened() -> None:
    """One embedding per channel and epoch, `(n, c, d)`, is drawn as `c * d` dimensions."""
    run = make_run()
    flat = run.arrays["embedding"]
    deep = replace(run, arrays={"embedding": flat.reshape(len(flat), 4, 6)})

    for title in ("All values", "Norm over time"):
        assert panel(charts.embedding(deep), title).get_title() == panel(charts.embedding(run), title).get_title()
    np.testing.assert_array_equal(
        line(drawn(charts.dimensions(deep)).axes[0], 0), line(drawn(charts.dimensions(run)).axes[0], 0)
    )


def test_dimensions_show_mean_and_deviation_in_order_and_sorted() -> None:
    """The four panels are mean and standard deviation over epochs, as they come and in ascending order."""
    run = make_run()
    mean, std = run.arrays["embedding"].mean(axis=0), run.arrays["embedding"].std(axis=0)
    panels = drawn(charts.dimensions(run)).axes

    for ax, expected in zip(panels, (mean, np.sort(mean), std, np.sort(std)), strict=True):
        np.testing.assert_allclose(line(ax, 0), expected, rtol=1e-5)


def test_reconstruction_shows_waveforms_and_their_errors() -> None:
    """Panels hold the given waveforms with their RMSE, from the best to the worst; bars the RMSE over all epochs."""
    run = make_run()
    original, rebuilt = np.asarray(run.epochs), run.arrays["reconstruction"]
    error = np.sqrt(np.mean((rebuilt - original) ** 2, axis=2))
    epoch = int(np.argsort(np.sqrt(np.mean(error**2, axis=1)))[2])
    figure = drawn(charts.reconstruction(run))
    waves = [ax for ax in figure.axes if "RMSE" in ax.get_title()]
    errors = bars(panel(figure, "Error of each channel over 6 epochs"))

    shown = [run.montage.ch_names.index(ax.get_title().split(":")[0]) for ax in waves]
    assert len(shown) == 6
    assert shown == sorted(shown, key=lambda channel: error[epoch, channel])
    assert {shown[0], shown[-1]} == {int(error[epoch].argmin()), int(error[epoch].argmax())}
    for ax, channel in zip(waves, shown, strict=True):
        np.testing.assert_array_equal(line(ax, "original"), original[epoch, channel])
        np.testing.assert_array_equal(line(ax, "reconstructed"), rebuilt[epoch, channel])
        assert ax.get_title().endswith(f"RMSE {error[epoch, channel]:.3g} µV")
        assert np.asarray(ax.lines[0].get_xdata())[-1] == 127 / 64
    np.testing.assert_allclose([bar.get_height() for bar in errors], np.sqrt(np.mean(error**2, axis=0)), rtol=1e-5)


def test_attention_shows_the_mean_of_each_query_at_the_sensors() -> None:
    """Sensors carry the mean over epochs and patches in per cent; the title names the three highest."""
    run = make_run(n_queries=5)
    shares = 100 * run.arrays["attention"].mean(axis=(0, 1))
    figure = charts.attention(run)

    for query in range(5):
        ax = panel(figure, f"Query {query}\n")
        (dots,) = ax.collections
        top = [run.montage.ch_names[channel] for channel in np.argsort(-shares[query])[:3]]
        assert ax.get_title() == f"Query {query}\n{', '.join(top)}"
        np.testing.assert_allclose(np.asarray(dots.get_array()), shares[query], rtol=1e-5)
        np.testing.assert_allclose(np.asarray(dots.get_offsets()), project(run.montage))


@pytest.mark.parametrize(("n_epochs", "unit"), [(6, "Epoch"), (1, "Patch")])
def test_attention_follows_the_top_channels_over_time(n_epochs: int, unit: str) -> None:
    """The five channels with the highest mean are drawn over epochs, or over the patches of the only epoch."""
    run = make_run(n_epochs=n_epochs)
    scores = 100 * run.arrays["attention"].astype(np.float64)
    series = scores.mean(axis=(1, 2)) if n_epochs > 1 else scores[0].mean(axis=1)
    ax = panel(charts.attention(run), "The most attended")

    assert ax.get_xlabel() == unit
    for channel in np.argsort(-series.mean(axis=0))[:5]:
        np.testing.assert_allclose(line(ax, run.montage.ch_names[channel]), series[:, channel])
    np.testing.assert_allclose(line(ax, "an even share"), 100 / 19)


def test_two_sensors_make_no_field() -> None:
    """Between sensors on a line nothing is interpolated: the map is their own colours."""
    figure = charts.attention(make_run(2))

    assert not panel(figure, "Query 0").images
    assert len(np.asarray(panel(figure, "Query 0").collections[0].get_offsets())) == 2
    assert panel(charts.attention(make_run(19)), "Query 0").images


def test_map_ends_where_sensors_say_nothing() -> None:
    """Three sensors at the forehead leave the back of the head blank."""
    run = make_run()
    front = [run.montage.ch_names.index(name) for name in ("Fp1", "Fp2", "Fz")]
    montage = Montage(("Fp1", "Fp2", "Fz"), run.montage.ch_pos[front])
    figure = charts.attention(replace(run, montage=montage, arrays={"attention": run.arrays["attention"][..., front]}))
    field: Float64Array = np.ma.filled(np.ma.asarray(panel(figure, "Query 0").images[0].get_array()), np.nan)

    assert np.isnan(field[:64]).all()
    assert np.isfinite(field[100]).any()


# ---- What is missing -------------------------------------------------------------------------------------------------


def test_unplaced_and_unseen_channels_are_left_off_the_maps_and_named() -> None:
    """A channel without a position and one that was left out of every epoch are not on the maps; the note says why."""
    run = make_run()
    positions, attention = run.montage.ch_pos.copy(), run.arrays["attention"].copy()
    positions[3], attention[..., 5], attention[0, :, :, 8] = np.nan, np.nan, np.nan
    run = replace(run, montage=Montage(run.montage.ch_names, positions), arrays={"attention": attention})
    figure = charts.attention(run)
    shown = np.delete(np.arange(19), [3, 5])

    (dots,) = panel(figure, "Query 1").collections
    expected = 100 * np.nanmean(attention[..., shown], axis=(0, 1))[1]
    np.testing.assert_allclose(np.asarray(dots.get_array()), expected, rtol=1e-5)
    assert note(figure) == "Not on the maps (no position: F3; left out of every epoch: F4)"
    assert note(charts.attention(make_run())) == ""


def test_without_any_position_only_time_is_drawn() -> None:
    """Where no channel has a position there is no map."""
    run = make_run()
    run = replace(run, montage=Montage(run.montage.ch_names, np.full((19, 3), np.nan)))
    figure = drawn(charts.attention(run))

    assert [ax.get_title() for ax in figure.axes] == ["The most attended channels over time"]
    assert note(figure).startswith("Not on the maps (no position: Fp1, Fp2, F7")


def test_channels_left_out_have_no_error() -> None:
    """A channel that was never reconstructed has no bar and no panel; one that was now and then counts those epochs."""
    run = make_run()
    rebuilt = run.arrays["reconstruction"].copy()
    rebuilt[:, 3], rebuilt[1:, 5] = np.nan, np.nan
    figure = drawn(charts.reconstruction(replace(run, arrays={"reconstruction": rebuilt})))
    errors = bars(panel(figure, "Error of each channel"))

    assert np.isnan(errors[3].get_height())
    assert errors[5].get_height() == pytest.approx(
        np.sqrt(np.mean((rebuilt[0, 5] - np.asarray(run.epochs)[0, 5]) ** 2)), rel=1e-5
    )
    assert not [ax for ax in figure.axes if ax.get_title().startswith("F3:")]
    figure.draw_without_rendering()


def test_epochs_without_embedding_are_left_out_and_counted() -> None:
    """The others keep their place in time, and the note tells how many are missing."""
    run = make_run()
    vectors = run.arrays["embedding"].copy()
    vectors[[1, 4], 7] = np.nan
    figure = charts.embedding(replace(run, arrays={"embedding": vectors}))

    assert list(np.asarray(panel(figure, "Norm").lines[0].get_xdata())) == [0, 2, 3, 5]
    assert note(figure) == "2 of 6 epochs have no embedding and are left out."


@pytest.mark.parametrize(("n_epochs", "n_panels"), [(1, 1), (2, 2), (3, 3)])
def test_few_epochs_get_the_panels_they_can_fill(n_epochs: int, n_panels: int) -> None:
    """One epoch has no course over time, and two span no plane."""
    titles = [ax.get_title() for ax in drawn(charts.embedding(make_run(n_epochs=n_epochs))).axes]

    assert len([title for title in titles if title]) == n_panels


def test_constant_values_are_drawn() -> None:
    """Embeddings, attention and reconstructions that never vary are drawn like others, without a warning."""
    run = make_run()
    run = replace(
        run,
        arrays={name: np.ones_like(array) for name, array in run.arrays.items()},
        epochs=np.ones((6, 19, 128), "f4"),
    )

    for draw in (charts.embedding, charts.attention):
        drawn(draw(run)).draw_without_rendering()
    assert [bar.get_height() for bar in bars(panel(charts.reconstruction(run), "Error"))] == [0] * 19


# ---- Names -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_chans", MONTAGES)
def test_names_under_the_bars_do_not_overlap(n_chans: int) -> None:
    """The names of 2 to 128 channels stand apart from each other and inside the figure."""
    figure = drawn(charts.reconstruction(make_run(n_chans, n_epochs=2)))
    figure.draw_without_rendering()
    rows = [ax.get_xticklabels() for ax in figure.axes if ax.get_ylabel() == "RMSE (µV)"]

    assert [label.get_text() for row in rows for label in row] == list(MONTAGES[n_chans].ch_names)
    for row in rows:
        boxes = [label.get_window_extent() for label in row]
        assert all(left.x1 < right.x0 for left, right in itertools.pairwise(boxes))
        assert min(box.y0 for box in boxes) > 0


@pytest.mark.parametrize("draw", [charts.timing, charts.reconstruction, charts.attention])
def test_dollars_are_not_formulas(draw: Callable[[Run], Figure | None]) -> None:
    """Names and titles may hold what matplotlib would read as a broken formula."""
    run = make_run(2)
    montage = Montage((r"$\bad$", r"$\frac{$"), run.montage.ch_pos)
    figure = drawn(draw(replace(run, title=r"$\bad{$", montage=montage, seconds={r"$\bad{$": 1.0})))
    figure.draw_without_rendering()

    assert figure.get_suptitle() == r"\$\bad{\$"


def test_components_keep_the_distances_of_what_lies_in_a_plane() -> None:
    """Points of a plane in many dimensions come back as they lie, and two components have all the variance."""
    rng = np.random.default_rng(0)
    flat = rng.normal(size=(12, 2)) * [3, 1]
    basis, _ = np.linalg.qr(rng.normal(size=(40, 2)))

    components, explained = charts.principal_components(flat @ basis.T + rng.normal(size=40))

    np.testing.assert_allclose(
        np.linalg.norm(components[:, None] - components, axis=-1), np.linalg.norm(flat[:, None] - flat, axis=-1)
    )
    assert explained.sum() == pytest.approx(1)
    assert explained[0] > explained[1]
