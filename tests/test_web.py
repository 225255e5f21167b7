"""The HTTP face says what is so: health, readiness, metrics, and the node's state without its secrets."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import urllib.error
import urllib.request
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest

from streamnode import config
from streamnode.errors import ConfigError
from streamnode.metrics import Metrics, Timings
from streamnode.pipeline import Status
from streamnode.types import Trace
from streamnode.web.app import NodeView, make_app, percentiles_ms, serve, summary
from tests.test_wire import RESULT

TRACE = Trace(0.0, 0.001, 0.001, 0.001, t_turn=0.003, t_infer0=0.003, t_infer1=0.005)
YAML = """\
node: {name: web-test, http: 127.0.0.1:0}
source: {kind: synthetic}
model: {kind: luna, weights: "random:0"}
sinks:
  - {kind: lsl, name: out}
  - {kind: mqtt, url: mqtt://127.0.0.1:1, topic: web, username: u, password: {env: WEB_TEST_SECRET}}
"""


@pytest.fixture
def node(tmp_path: Path) -> tuple[NodeView, Status, Metrics]:
    path = tmp_path / "node.yaml"
    path.write_text(YAML)
    status, metrics = Status("left", ("lsl:out", "mqtt:web")), Metrics()
    return NodeView(config.load(path), [status], metrics), status, metrics


async def get(url: str) -> tuple[int, str]:
    def fetch() -> tuple[int, str]:
        try:
            with urllib.request.urlopen(url, timeout=5) as reply:  # noqa: S310
                return reply.status, reply.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    return await asyncio.to_thread(fetch)


async def final_url(url: str) -> str:
    """Where a request ends after redirections."""

    def fetch() -> str:
        with urllib.request.urlopen(url, timeout=5) as reply:  # noqa: S310
            return str(reply.url)

    return await asyncio.to_thread(fetch)


async def test_ready_only_when_samples_flow_and_every_sink_is_connected(
    node: tuple[NodeView, Status, Metrics],
) -> None:
    """/readyz is 503 until the source runs and all sinks are connected, and says which is not."""
    view, status, metrics = node
    async with serve(make_app(view), "127.0.0.1:0") as url:
        assert (await get(f"{url}/healthz")) == (200, "ok\n")
        assert (await get(f"{url}/readyz"))[0] == 503
        status.source = "running"
        metrics.sink_connected.labels("lsl:out").set(1)
        code, body = await get(f"{url}/readyz")
        (stream,) = json.loads(body)["streams"]
        assert (code, stream["label"], stream["sinks"]) == (503, "left", {"lsl:out": True, "mqtt:web": False})
        metrics.sink_connected.labels("mqtt:web").set(1)
        assert (await get(f"{url}/readyz"))[0] == 200


async def test_metrics_are_what_was_counted(node: tuple[NodeView, Status, Metrics]) -> None:
    """/metrics is the node's own registry in Prometheus' text format."""
    view, _, metrics = node
    metrics.epochs_dropped.labels("headset", "superseded").inc(3)
    async with serve(make_app(view), "127.0.0.1:0") as url:
        _, text = await get(f"{url}/metrics")
    assert 'streamnode_epochs_dropped_total{reason="superseded",stream="headset"} 3.0' in text


async def test_info_tells_everything_but_secrets(
    node: tuple[NodeView, Status, Metrics], monkeypatch: pytest.MonkeyPatch
) -> None:
    """/info holds the configuration and the latest figures, and not a trace of a password."""
    monkeypatch.setenv("WEB_TEST_SECRET", "hunter2")
    view, status, _ = node
    timings = status.timings["lsl:out"] = Timings()
    for latency_s in [0.010] * 99 + [0.020]:
        timings.add(replace(TRACE, t_published=latency_s))
    async with serve(make_app(view), "127.0.0.1:0") as url:
        _, text = await get(f"{url}/info")
    info = json.loads(text)
    assert info["config"]["node"]["name"] == "web-test"
    (stream,) = info["streams"]
    assert stream["latency_ms"]["lsl:out"] == {"p50": 10.0, "p99": 10.1, "p99.9": 19.01}
    assert (stream["wait_ms"]["lsl:out"]["p50"], stream["overhead_ms"]["lsl:out"]["p50"]) == (7.0, 5.0)
    assert stream["source"] == "starting"
    assert "hunter2" not in text
    assert "WEB_TEST_SECRET" not in text


async def test_timings_are_told_one_by_one(node: tuple[NodeView, Status, Metrics]) -> None:
    """/timings holds the latest results of each sink in order, so that anybody can make statistics of their own."""
    view, status, _ = node
    timings = status.timings["lsl:out"] = Timings()
    for t in (0.01, 0.02):
        timings.add(replace(TRACE, t_published=t))
    async with serve(make_app(view), "127.0.0.1:0") as url:
        (stream,) = json.loads((await get(f"{url}/timings"))[1])["streams"]
    assert stream["label"] == "left"
    assert stream["sinks"]["lsl:out"]["t_published"] == [0.01, 0.02]
    assert stream["sinks"]["lsl:out"]["latencies_s"] == [0.01, 0.02]
    assert stream["sinks"]["lsl:out"]["overheads_s"] == pytest.approx([0.005, 0.015])


async def test_page_is_self_contained(node: tuple[NodeView, Status, Metrics]) -> None:
    """The status page asks no other host for anything."""
    async with serve(make_app(node[0]), "127.0.0.1:0") as url:
        code, page = await get(f"{url}/")
    assert code == 200
    assert "://" not in page


async def test_client_that_does_not_read_holds_nothing_up(node: tuple[NodeView, Status, Metrics]) -> None:
    """A node stops within moments though someone asked for more than the sockets hold and reads none of it."""
    view, status, _ = node
    timings = Timings()
    for i in range(4096):
        timings.add(replace(TRACE, t_published=i / 7))
    status.timings |= {f"lsl:{i}": timings for i in range(50)}  # 15 MB
    with socket.socket() as client:
        async with asyncio.timeout(15), serve(make_app(view), "127.0.0.1:0") as url:
            parts = urlsplit(url)
            await asyncio.to_thread(client.connect, (parts.hostname, parts.port))
            client.sendall(b"GET /timings HTTP/1.1\r\nHost: x\r\n\r\n")
            assert await asyncio.to_thread(client.recv, 1) == b"H"


async def test_links_of_the_page_lead_somewhere(node: tuple[NodeView, Status, Metrics]) -> None:
    """All that the page links to is there by that very name."""
    view, status, _ = node
    status.source, status.sinks = "running", ()
    async with serve(make_app(view), "127.0.0.1:0") as url:
        _, page = await get(f"{url}/")
        links = re.findall(r'href="([^"]+)"', page)
        assert links
        for link in links:
            assert urlsplit(await final_url(f"{url}/{link}")).path == f"/{link}"


def test_norm_of_large_values_is_a_number() -> None:
    """An embedding whose squares are beyond float32 has a norm, so that /info stays JSON."""
    large = replace(RESULT, embedding=np.full(4, 3e38, np.float32))
    assert summary(large)["embedding_norm"] == pytest.approx(6e38, rel=1e-6)


async def test_port_in_use_is_one_sentence(node: tuple[NodeView, Status, Metrics]) -> None:
    """A taken port is a `ConfigError` that names it and says what to do."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(ConfigError, match=rf"node\.http cannot listen on {address} .*choose another port"):
            async with serve(make_app(node[0]), address):
                pass


def test_percentiles() -> None:
    """Percentiles are in milliseconds."""
    assert percentiles_ms([0.001, 0.002, 0.003]) == {"p50": 2.0, "p99": 2.98, "p99.9": 2.998}
