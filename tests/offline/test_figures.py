"""What is told of a run."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from streamnode import build
from streamnode.config import EegDinoConfig
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


def test_channels_that_no_epoch_was_inferred_from_do_not_count(engine: Engine) -> None:
    """A channel named bad has no error and no attention, and the figures of the others are those without it."""
    plan = replace(make_plan("reconstruction", "attention"), bad=("Cz",))
    outcome = process(make_recording(), engine, plan)
    rmse, others = outcome.results.tables["rmse_uv"], [0, 2, 3]
    assert np.isnan(rmse[:, 1]).all()

    said = summary(outcome)

    assert said["rmse_uv"]["channels"]["Cz"] is None
    assert said["rmse_uv"]["median"] == pytest.approx(float(np.median(rmse[:, others])))
    assert said["rmse_uv"]["epochs"] == pytest.approx(list(np.sqrt((rmse[:, others] ** 2).mean(axis=1))))
    assert [sorted(query) for query in said["attention"]] == [["Fp1", "Oz", "T7"]] * 4


def test_a_channel_that_is_bad_for_a_while_counts_for_the_rest(outcome: Outcome) -> None:
    """Figures of a channel are those of the epochs that it was seen in; of an epoch without any there is none."""
    rmse = outcome.results.tables["rmse_uv"].copy()
    rmse[0, 1] = rmse[1] = np.nan
    tables = {**outcome.results.tables, "rmse_uv": rmse}

    said = summary(replace(outcome, results=replace(outcome.results, tables=tables)))["rmse_uv"]

    assert said["channels"]["Cz"] == pytest.approx(float(np.sqrt((rmse[2:, 1] ** 2).mean())))
    assert said["epochs"][:2] == [pytest.approx(float(np.sqrt((rmse[0, [0, 2, 3]] ** 2).mean()))), None]


def test_fewer_channels_of_an_embedding_with_a_part_for_each() -> None:
    """Where a channel that is left out has a part in the embedding, there is no cosine with the whole one."""
    model = EegDinoConfig(kind="eegdino", weights="random:0", pool="per_channel")
    plan = replace(make_plan(), model=model)
    report = fewer_channels(process(make_recording(ch_names=("Fp1", "Cz", "O1", "T7")), build.load_engine(model), plan))
    assert report[0]["cosine"] == pytest.approx(1)
    assert [line["cosine"] for line in report[1:]] == [None] * 3
    assert all(line["mean_abs"] > 0 for line in report)
