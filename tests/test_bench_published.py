"""What the comparison with published code does where that code is not installed, and how it takes turns."""

from __future__ import annotations

from argparse import Namespace
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def tool(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The script as a module."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "tools"))
    return import_module("bench_published")


def test_what_is_not_here_is_left_out_and_how_to_get_it_is_said(tool: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """One line a model, and no figures; the others would be measured all the same."""
    assert list(tool.measured(["luna-base"], Namespace(biofoundation=None, seed=0, rounds=2))) == []
    said = capsys.readouterr().err
    assert said.startswith("luna-base left out: --biofoundation was not given: git clone ")
    assert said.count("\n") == 1


def test_a_model_that_fails_costs_the_others_nothing(tool: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """Its error is said, and the next has its turn."""
    assert list(tool.measured(["nobody's", "luna-base"], Namespace(biofoundation=None, seed=0, rounds=2))) == []
    failed, left_out = capsys.readouterr().err.splitlines()
    assert failed.startswith("nobody's failed: KeyError")
    assert left_out.startswith("luna-base left out")


def test_passes_take_turns_and_the_first_of_each_turn_does_not_count(
    tool: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each runs twice a round, one after the other, and the second run is timed."""
    now, runs = 0.0, list[str]()

    def run(name: str, seconds: tuple[float, float]) -> None:
        nonlocal now
        now += seconds[runs.count(name) % 2]
        runs.append(name)

    monkeypatch.setattr(tool.time, "perf_counter", lambda: now)
    taken = tool.alternate([lambda: run("theirs", (9.0, 2.0)), lambda: run("ours", (8.0, 1.0))], 2)
    assert taken == [[2.0, 2.0], [1.0, 1.0]]
    assert runs == ["theirs", "theirs", "ours", "ours"] * 2
