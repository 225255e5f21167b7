"""The rig of the benchmarks: a node on loopback, seen from outside."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import psutil
import pytest

from streamnode import config
from streamnode.bench import rig
from streamnode.bench.rig import Rig, Watched, broker, last_line, memory, total
from streamnode.errors import ConfigError, StreamLost


@pytest.mark.parametrize("n_streams", [1, 3])
@pytest.mark.parametrize("model", ["luna-base", "eegpt-large"])
def test_its_node_is_one_that_runs(model: str, n_streams: int, tmp_path: Path) -> None:
    """Its file passes the checks of any other, with a label for each of several streams."""
    names = [f"s{number}" for number in range(n_streams)]
    path = tmp_path / "node.yaml"
    path.write_text(json.dumps(Rig(tmp_path, mqtt_port=1, http_port=2).node_file(model, names, hop_s=0.25)))
    node = config.load(path)  # JSON is YAML
    assert [source.label for source in node.streams] == names
    assert (f"{node.model.kind}-{node.model.variant}", node.epoch.hop_s) == (model, 0.25)


async def test_without_its_packages_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a broker to start, one sentence says what to install."""
    monkeypatch.setitem(sys.modules, "amqtt.broker", None)
    with pytest.raises(ConfigError, match=r"amqtt is not installed: pip install 'streamnode\[bench\]'"):
        async with broker(1):
            pass


def test_memory_is_held_against_time() -> None:
    """A megabyte a minute is sixty an hour."""
    grown = memory([100.0, 101.0, 102.0], seconds=120.0)
    assert (grown.start, grown.end, grown.most) == (100.0, 102.0, 102.0)
    assert grown.per_hour == pytest.approx(60.0)


def test_what_a_node_tells_is_put_in_short() -> None:
    """A figure of all its streams together; of its log the last line, or that there is none."""
    assert total([{"epochs": 2}, {"epochs": 3}], "epochs") == 5
    assert total([], "epochs") == 0
    assert last_line("started\nerror: no stream\n\n") == "error: no stream"
    assert last_line("") == "it said nothing"


async def test_why_a_node_has_ended_is_told_to_whoever_asks_for_its_figures(tmp_path: Path) -> None:
    """In place of its memory or streams there is a sentence, with the last line that the node said."""
    log = tmp_path / "node.log"
    async with rig.streamnode("run", str(tmp_path / "absent.yaml"), log=log) as process:
        watched = Watched("http://127.0.0.1:1", log, process, psutil.Process(process.pid))
        await process.wait()
        with pytest.raises(StreamLost, match=r"the node ended: error: .*absent\.yaml"):
            _ = watched.rss_mb
        with pytest.raises(StreamLost, match=r"the node ended: error: .*absent\.yaml"):
            await watched.streams()
