"""What `check` can tell of a configuration before anything runs."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from streamnode import config, node
from streamnode.build.check import check
from streamnode.errors import ConfigError

NODE = """\
node: {{name: checked, http: {http}}}
source: {{kind: synthetic, n_chans: 2}}
model: {{kind: luna, weights: "random:0", threads: 1, {model}}}
sinks: [{{kind: {sink}}}]
"""


def load(folder: Path, *, http: str = "null", model: str = "", sink: str = "lsl, name: out") -> config.NodeConfig:
    path = folder / "node.yaml"
    path.write_text(NODE.format(http=http, model=model, sink=sink))
    return config.load(path)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"sink": "mqtt, url: mqtt://h, topic: /a/"}, "topic is '/a/'"),
        ({"sink": "mqtt, url: mqtts://h, topic: a, ca_file: absent.pem"}, "absent.pem cannot be used"),
        ({"sink": "mqtt, url: mqtts://h, topic: a, ca_file: ."}, "ca_file .* cannot be used"),
        ({"sink": "mqtt, url: mqtt://h, topic: a, password: {env: PATH}"}, "a password but no username"),
        ({"sink": "mqtt, url: mqtt://h, topic: a, username: u, password: {env: ABSENT}"}, "no readable password in"),
        ({"sink": "mqtt, url: 'mqtt://h?x', topic: a"}, "the mqtt sink.s url"),
        ({"sink": "mqtt, url: 'mqtt://[1:2]:1883', topic: a"}, "the mqtt sink.s url"),
        ({"model": "device: 'cuda:99'"}, "cuda:99 was asked for, but torch sees"),
        ({"model": "device: cpu, precision: float16"}, "float16 is for GPUs"),
        ({"http": "198.51.100.7:0"}, "cannot listen on 198.51.100.7:0"),
    ],
)
async def test_what_the_node_refuses_is_refused_before_it_runs(
    wrong: dict[str, str], words: str, tmp_path: Path
) -> None:
    """A mistake that would end the node at its start is one for `check`, in the same words."""
    wrongly = load(tmp_path, **wrong)
    with pytest.raises(ConfigError, match=words):
        await node.run(wrongly)
    with pytest.raises(ConfigError, match=words):
        list(check(wrongly))


def test_status_page_of_a_node_that_runs_is_no_fault(tmp_path: Path) -> None:
    """A configuration can be checked while its node serves the address it asks for."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert list(check(load(tmp_path, http=f"127.0.0.1:{taken.getsockname()[1]}")))
