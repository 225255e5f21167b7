"""Many streams through one worker."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from streamnode import config
from streamnode.bench.drill import Echo, drill
from streamnode.bench.e2e import memory, node_file, worst
from streamnode.bench.streams import largest
from streamnode.cli.bench import app
from streamnode.types import Float32Array, OutputName


@pytest.mark.parametrize(("most", "limit"), [(0, 64), (5, 64), (8, 64), (37, 64), (64, 64), (500, 64), (3, 3), (1, 1)])
async def test_the_largest_number_is_found(most: int, limit: int) -> None:
    """To within an eighth of it, never beyond the limit, and never one that was not tried."""
    tried = []

    async def works(n: int) -> bool:
        tried.append(n)
        return n <= most

    found = await largest(works, limit)
    assert found <= min(most, limit)
    assert min(most, limit) - found <= max(0, found // 8)
    assert found == 0 or found in tried
    assert max(tried) <= limit


async def test_results_that_go_astray_are_seen() -> None:
    """A model that turns its batch around is found out."""

    class Turning(Echo):
        def run(self, epochs_uV: Float32Array) -> dict[OutputName, Float32Array]:  # noqa: N803
            return super().run(epochs_uV[::-1])

    assert (await drill(500, n_streams=16, models=[Turning("echo")])).astray > 50


def test_streams_are_tried_from_the_command_line() -> None:
    """With trials together and one by one, all with their figures."""
    arguments = ["streams", "--model", "eegdino-small", "--channels", "3", "--seconds", "1.2", "--limit", "2"]
    result = CliRunner().invoke(app, [*arguments, "--hop", "1", "--submissions", "200", "--json"])
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert report["cross_talk"]["astray"] == 0
    assert {trial["batched"] for trial in report["trials"]} == {True, False}
    assert all(trial["epochs"] >= trial["n_streams"] for trial in report["trials"])
    assert "0 of 200 epochs thrown at random went astray" in result.stderr


@pytest.mark.parametrize("n_streams", [1, 3])
@pytest.mark.parametrize("model", ["luna-base", "eegpt-large"])
def test_the_node_of_the_rig_is_one_that_runs(model: str, n_streams: int, tmp_path: Path) -> None:
    """Its file passes the checks of any other, with a label for each of several streams."""
    names = [f"s{number}" for number in range(n_streams)]
    path = tmp_path / "node.yaml"
    path.write_text(json.dumps(node_file(model, names, mqtt_port=1, http_port=2, hop_s=0.25)))  # JSON is YAML
    node = config.load(path)
    assert [source.label for source in node.streams] == names
    assert (f"{node.model.kind}-{node.model.variant}", node.epoch.hop_s) == (model, 0.25)


def test_percentiles_of_streams_are_those_of_the_worst() -> None:
    """By the kind of sink: the median of medians, the worst of the tails."""
    streams = [
        {"mqtt:a": {"p50": float(i), "p99": 10.0 + i, "p99.9": 20.0}, "lsl:a": {"p50": 1.0, "p99": 2.0, "p99.9": 3.0}}
        for i in range(3)
    ]
    assert worst(streams) == {
        "mqtt": {"p50": 1.0, "p99": 12.0, "p99.9": 20.0},
        "lsl": {"p50": 1.0, "p99": 2.0, "p99.9": 3.0},
    }


def test_memory_is_held_against_time() -> None:
    """A megabyte a minute is sixty an hour."""
    grown = memory([100.0, 101.0, 102.0], seconds=120.0)
    assert (grown.start, grown.end, grown.most) == (100.0, 102.0, 102.0)
    assert grown.per_hour == pytest.approx(60.0)
