"""The check of ZUNA's real weights: what can be checked of it without them."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from streamnode.models import catalog, zuna
from streamnode.models.weights import load_strict
from streamnode.models.zuna import Zuna, ZunaConfig
from streamnode.sources.replay import read
from streamnode.types import WeightsInfo

SMALL = ZunaConfig("v1", dim=48, encoder_depth=2, decoder_depth=2, n_heads=2, head_dim=16, hidden=128, time_dim=16)


@pytest.fixture
def tool(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The script as a module."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "tools"))
    return import_module("verify_zuna")


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> Zuna:
    """A small untrained network, in place of the published one."""
    network = Zuna(SMALL)
    load_strict(network, zuna.random_state(SMALL, 0), path="a small one")
    loaded = catalog.LoadedModel(network.eval(), "zuna-v1", WeightsInfo("random:0"))
    monkeypatch.setattr(catalog, "load", lambda *_: loaded)
    return network


@pytest.fixture
def sample(data_dir: Path) -> Path:
    """The recording that the published figures are of."""
    return data_dir / "zuna" / "sample1_raw.fif"


def test_untrained_weights_fail_where_weights_matter(
    tool: Any, small: Zuna, sample: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A line for each row: those of the preprocessing pass, those of an untrained network do not, and 1 says so."""
    assert isinstance(small, Zuna)
    assert tool.main([str(sample), "--steps", "2"]) == 1
    *rows, last = capsys.readouterr().out.splitlines()
    assert len(rows) == len(tool.PREPARED) + len(tool.EMBEDDED) + len(tool.DRAWN)
    assert {row[:4] for row in rows if "prepared" in row or "recording" in row} == {"pass"}
    assert {row[:4] for row in rows if "latents" in row or "drawn" in row} == {"FAIL"}
    assert last == f"{len(tool.PREPARED)} of {len(rows)} rows as published"


def test_what_a_network_does_is_as_published_if_that_is_published(
    tool: Any, small: Zuna, sample: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Against its own figures, rounded as the published ones are, every row of a network passes."""
    found = tool.figures(read(sample), small, steps=0)
    for name, what in tool.EMBEDDED.items():
        assert found[name].shape == np.shape(what.values)
    own = {name: tool.Expected(found[name].round(6).tolist(), 1e-4) for name in tool.EMBEDDED}
    monkeypatch.setattr(tool, "EMBEDDED", own)
    assert tool.main([str(sample), "--steps", "0"]) == 0
    assert "FAIL" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("how", "values", "passes"),
    [
        ("equal", [1.0, 2.0], True),
        ("equal", [1.0, 2.2], False),
        ("equal", [1.0], False),
        ("at least", [0.9], True),
        ("at least", [1.5], False),
        ("at most", [2.1], True),
        ("at most", [1.5], False),
    ],
)
def test_rows_pass_within_their_tolerance(tool: Any, how: str, values: list[float], *, passes: bool) -> None:
    """Values are met, or a limit kept, by all that was computed; what was not computed never passes."""
    expected = {"a": tool.Expected(values, 0.1, how)}
    (row,) = tool.compare({"a": np.array([1.05, 2.0])}, expected)
    (absent,) = tool.compare({}, expected)
    assert row.passed is passes
    assert str(row).startswith("pass" if passes else "FAIL")
    assert not absent.passed


def test_what_cannot_be_read_is_one_sentence(tool: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A file that is not there is an error with its own exit code."""
    assert tool.main([str(tmp_path / "gone.fif")]) == 2
    assert "gone.fif is not a file" in capsys.readouterr().err
