"""What is told of a run."""

from __future__ import annotations

import numpy as np
import pytest

from streamnode.inference.engine import Engine
from streamnode.offline.figures import fewer_channels, summary
from streamnode.offline.run import Outcome, process
from tests.offline import NAMES, make_plan, make_recording


@pytest.fixture(scope="module")
def outcome(engine: Engine) -> Outcome:
    """All that LUNA yields of a recording."""
    return process(make_recording(), engine, make_plan("embedding", "tokens", "reconstruction", "attention"))


def test_reconstruction_error(outcome: Outcome) -> None:
    """RMSE is that of reconstruction against what went in, for each epoch and channel, and summed up by either."""
    tables, said = outcome.results.tables, summary(outcome)
    error = tables["reconstruction"].astype(np.float64) - tables["original"]

    np.testing.assert_allclose(tables["rmse_uv"], np.sqrt((error**2).mean(axis=2)), rtol=1e-5)
    assert said["rmse_uv"]["channels"] == pytest.approx(dict(zip(NAMES, np.sqrt((error**2).mean((0, 2))), strict=True)))
    assert said["rmse_uv"]["epochs"] == pytest.approx(list(np.sqrt((error**2).mean((1, 2)))))
    assert said["rmse_uv"]["median"] == pytest.approx(float(np.median(tables["rmse_uv"])))


def test_most_attended_channels(outcome: Outcome) -> None:
    """For every query the three channels that got most attention, the most attended first."""
    mean = outcome.arrays["attention"].mean(axis=(0, 1))

    said = summary(outcome)["attention"]

    assert len(said) == len(mean) == 4
    for query, shares in zip(said, mean, strict=True):
        assert list(query) == [NAMES[i] for i in np.argsort(shares)[:0:-1]]
        assert list(query.values()) == pytest.approx(sorted(shares, reverse=True)[:3])


def test_fewer_channels(outcome: Outcome) -> None:
    """The embedding of all, three, two channels and one, compared with that of all."""
    report = fewer_channels(outcome)

    assert [line["channels"] for line in report] == [4, 3, 2, 1]
    assert report[0]["cosine"] == pytest.approx(1)
    assert all(0 < line["cosine"] < 1 - 1e-4 for line in report[1:])
    assert report[0]["mean_abs"] == pytest.approx(float(np.abs(outcome.arrays["embedding"]).mean()), rel=1e-4)
