"""Where electrodes are drawn, and what is drawn between them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamnode.charts.scalp import interpolate, project
from streamnode.montage import make_montage
from streamnode.types import Montage
from tests.charts import MONTAGES, TEN_TWENTY

coefficients = st.floats(-10, 10)


@given(coefficients, coefficients, coefficients)
def test_spline_reproduces_a_linear_field(constant: float, right: float, front: float) -> None:
    """What is linear over the sensors is the same plane between and beyond them."""
    xy = project(MONTAGES[19])
    at = np.random.default_rng(0).uniform(-150, 150, (40, 2))
    gradient = np.array([right, front])

    field = interpolate(xy, (constant + xy @ gradient)[:, None], at)

    assert field is not None
    np.testing.assert_allclose(field[:, 0], constant + at @ gradient, atol=1e-6)


def test_spline_passes_through_what_was_measured() -> None:
    """Any values come back at their sensors, and sensors that share a place yield their mean."""
    xy = project(MONTAGES[19])
    values = np.random.default_rng(0).normal(size=(19, 2))
    doubled = np.vstack([xy, xy[:1]])

    field = interpolate(xy, values, xy)
    shared = interpolate(doubled, np.vstack([values, values[:1] + 1]), xy)

    assert field is not None
    assert shared is not None
    np.testing.assert_allclose(field, values, atol=1e-6)
    np.testing.assert_allclose(shared[0], values[0] + 0.5, atol=1e-6)


@pytest.mark.parametrize("names", ["Cz", "C3 C4", "Fz Cz Pz Oz"])
def test_spline_needs_a_plane(names: str) -> None:
    """Sensors on a line, which 10-20 labels are to within a degree, tell nothing of what lies beside it."""
    xy = project(make_montage(names.split()))

    assert interpolate(xy, np.ones((len(xy), 1)), xy) is None


def test_projection_keeps_distance_and_direction_from_the_vertex() -> None:
    """On a sphere, degrees of arc from the vertex become distance from the middle; below the equator too."""
    arc, azimuth = np.linspace(0, 130, 20), np.linspace(0, 2 * np.pi, 20)
    polar = np.radians(arc)
    sphere = np.column_stack([np.sin(polar) * np.cos(azimuth), np.sin(polar) * np.sin(azimuth), np.cos(polar)])
    montage = Montage(tuple(f"E{n}" for n in range(21)), np.vstack([0.09 * sphere + [0.001, 0.02, 0.05], [np.nan] * 3]))

    xy = project(montage)

    expected = arc[:, None] * np.column_stack([np.cos(azimuth), np.sin(azimuth)])
    np.testing.assert_allclose(xy[:20], expected, atol=1e-6)
    assert np.isnan(xy[20]).all()


@pytest.mark.parametrize("names", [TEN_TWENTY, "Cz T7 T8 Fp1 Fp2 O1"])
def test_projection_puts_electrodes_where_they_are_drawn_everywhere(names: str) -> None:
    """Cz is in the middle, T7 at the left edge of the head and Fp2 at the front right, of many electrodes or few."""
    places = dict(zip(names.split(), project(make_montage(names.split())), strict=True))

    assert np.hypot(*places["Cz"]) < 10
    assert places["T7"] == pytest.approx([-97, 0], abs=4)
    assert places["Fp2"] == pytest.approx([27, 93], abs=4)
