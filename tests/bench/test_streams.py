"""Many streams through one worker."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from streamnode import config
from streamnode.bench.drill import Echo, drill
from streamnode.bench.e2e import pooled, times
from streamnode.bench.rig import Rig
from streamnode.bench.senders import shares
from streamnode.bench.soak import played, write_tape
from streamnode.bench.streams import Trial, added, largest
from streamnode.cli.bench import app
from streamnode.sources.replay import read
from streamnode.sources.synthetic import SyntheticEeg
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
    assert report["added"]["n_streams"] == min(report["most"], report["most_one_by_one"])
    assert "to pass together adds" in result.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["streams", "--hop", "0"],
        ["streams", "--seconds", "0"],
        ["e2e", "--hop", "0"],
        ["e2e", "--sfreq", "0"],
        ["soak", "--hours", "0"],
        ["soak", "--speed", "0"],
    ],
)
def test_measures_of_nothing_are_refused(arguments: list[str]) -> None:
    """A length, a rate or a speed of 0 is told with its option before anything is run."""
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 2
    assert f"Invalid value for '{arguments[1]}'" in result.stderr


def test_what_passing_together_adds_is_the_difference_of_two_trials() -> None:
    """Latency together less latency one by one, at the median and in the tail; a gain is below 0."""
    one = Trial(8, batched=False, epochs=1, dropped=0, batch=1.0, busy=0.5, wait_p50_ms=1.0, wait_p99_ms=9.0,
                latency_p50_ms=10.0, latency_p99_ms=30.0)  # fmt: skip
    together = replace(one, batched=True, latency_p50_ms=11.5, latency_p99_ms=22.0)
    assert (added(together, one).p50_ms, added(together, one).p99_ms) == (1.5, -8.0)


def test_the_node_of_a_soak_plays_recordings(tmp_path: Path) -> None:
    """Its file passes the checks of any other; each stream plays the tape, which is EEG in microvolts, for ever."""
    tape = write_tape(tmp_path / "tape.csv", 3)
    rigged = Rig(tmp_path, mqtt_port=1, http_port=2).node_file("luna-base", ["a", "b"], hop_s=1.0)
    path = tmp_path / "node.yaml"
    path.write_text(json.dumps(played(rigged, ["a", "b"], tape, speed=20.0)))  # JSON is YAML
    node = config.load(path)
    assert [(source.label, source.speed, source.loop) for source in node.streams] == [("a", 20, True), ("b", 20, True)]  # type: ignore[union-attr]
    recording = read(tape)
    assert (recording.info.sfreq, recording.info.ch_names) == (256.0, ("Fp1", "AF3", "F7"))
    expected = SyntheticEeg(recording.info.ch_names, 256.0).take(120 * 256)
    np.testing.assert_allclose(recording.data, expected, rtol=1e-5, atol=1e-3)


def test_results_of_all_streams_are_one_distribution() -> None:
    """By the kind of sink, and only what was published while the node was watched."""

    def of_sink(*t_published: float) -> dict[str, list[float]]:
        n = len(t_published)
        return {"t_published": [*t_published], "latencies_s": [0.1] * n, "waits_s": [0.004] * n,
                "overheads_s": [0.001 * (1 + i) for i in range(n)]}  # fmt: skip

    streams = [
        {"label": "a", "sinks": {"mqtt:bench/a": of_sink(0.9, 1.0, 2.0), "lsl:bench-a": of_sink(1.5)}},
        {"label": "b", "sinks": {"mqtt:bench/b": of_sink(1.5, 2.1)}},
    ]
    found = pooled(streams, 1.0, 2.0)
    assert found["mqtt"]["overheads_s"].tolist() == [0.002, 0.003, 0.001]
    told = times(found["mqtt"])
    assert (told.results, told.overhead_ms["p50"], told.wait_ms["p50"], told.latency_ms["p99.9"]) == (
        3,
        2.0,
        4.0,
        100.0,
    )
    assert told.queued == pytest.approx(0.5)
    assert times(found["lsl"]).results == 1
    assert times(pooled(streams, 5.0, 6.0)["lsl"]).overhead_ms == {"p50": 0.0, "p99": 0.0, "p99.9": 0.0}


def test_streams_are_out_of_phase_unless_all_together() -> None:
    """Each at a moment of the hop of its own, the same at every run; or all at once."""
    apart = shares(16, "apart")
    assert apart == shares(16, "apart")
    assert len(set(apart)) == 16
    assert 0 <= min(apart) <= max(apart) < 1
    assert shares(3, "together") == [0.0, 0.0, 0.0]
