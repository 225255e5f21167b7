"""Health, readiness, metrics, what the node is doing as JSON, and a status page that shows it."""

from __future__ import annotations

import asyncio
import math
import socket
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import asdict, fields
from importlib.resources import files
from typing import Any

import numpy as np
import uvicorn
from prometheus_client.exposition import choose_encoder
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from streamnode import __version__
from streamnode.config import NodeConfig
from streamnode.errors import ConfigError
from streamnode.metrics import Metrics, Timings
from streamnode.pipeline import Status
from streamnode.types import ModelOutput

_GOODBYE_S = 1.0  # for answers under way when the node stops; whoever does not read them holds nothing up
_SECURITY_HEADERS = {"Content-Security-Policy": "default-src 'self' 'unsafe-inline'", "X-Frame-Options": "DENY"}


class NodeView:
    """What the web may know of a node: everything but its secrets."""

    def __init__(self, config: NodeConfig, streams: Sequence[Status], metrics: Metrics) -> None:
        self.metrics = metrics
        self._config = config
        self._streams = streams

    def readiness(self) -> dict[str, Any]:
        """Ready means that samples of all streams flow and every sink is connected."""
        streams = self._states()
        ready = all(stream["source"] == "running" and all(stream["sinks"].values()) for stream in streams)
        return {"ready": ready, "streams": streams}

    def info(self) -> dict[str, Any]:
        """Configuration, description of the outputs and the latest figures; JSON-ready."""
        readiness = self.readiness()
        figures = (_figures(status) for status in self._streams)
        return {
            "version": __version__,
            "config": self._config.to_public_dict(),
            "ready": readiness["ready"],
            "streams": [{**state, **of_stream} for state, of_stream in zip(readiness["streams"], figures, strict=True)],
        }

    def timings(self) -> dict[str, Any]:
        """The latest 4096 results of each stream to each of its sinks, one by one, in the words of `Timings`."""
        streams = [
            {"label": status.label, "sinks": {name: _listed(timings) for name, timings in status.timings.items()}}
            for status in self._streams
        ]
        return {"streams": streams}

    def _states(self) -> list[dict[str, Any]]:
        """The streams, and each of their sinks with whether it can take results now."""
        samples = (sample for metric in self.metrics.sink_connected.collect() for sample in metric.samples)
        connected = {sample.labels["sink"]: bool(sample.value) for sample in samples}
        return [
            {
                "label": status.label,
                "source": status.source,
                "sinks": {name: connected.get(name, False) for name in status.sinks},
            }
            for status in self._streams
        ]


def _figures(status: Status) -> dict[str, Any]:
    """What a stream has come to."""
    timings = status.timings.copy()  # to which the event loop may add meanwhile
    return {
        "outputs": None if status.session is None else _jsonable(asdict(status.session.meta)),
        "reuse": None if status.session is None else status.session.reuse,
        "model": status.model,
        "epochs": status.epochs,
        "dropped": status.dropped,
        "latency_ms": {name: percentiles_ms(of_sink.latencies_s) for name, of_sink in timings.items()},
        "wait_ms": {name: percentiles_ms(of_sink.waits_s) for name, of_sink in timings.items()},
        "overhead_ms": {name: percentiles_ms(of_sink.overheads_s) for name, of_sink in timings.items()},
        "last": None if status.last is None else summary(status.last),
    }


def _listed(timings: Timings) -> dict[str, list[float]]:
    return {field.name: list(getattr(timings, field.name)) for field in fields(timings)}


def summary(output: ModelOutput) -> dict[str, Any]:
    """One result in a few numbers."""
    embedding = output.embedding
    # in float64, where no square of a float32 is too large
    norm = None if embedding is None else round(float(np.linalg.norm(embedding.astype(np.float64))), 4)
    return {"seq": output.seq, "run": output.run, "t_last": output.t_last, "settling": output.settling,
            "embedding_norm": norm}  # fmt: skip


def percentiles_ms(durations_s: Iterable[float]) -> dict[str, float]:
    """Median, 99th and 99.9th percentile of some durations, milliseconds."""
    values = np.percentile(np.fromiter(durations_s, float) * 1e3, [50, 99, 99.9])
    return {name: round(float(value), 3) for name, value in zip(("p50", "p99", "p99.9"), values, strict=True)}


def make_app(view: NodeView) -> Starlette:
    """The ASGI application over a view of the node.

    What takes more than a moment of many streams is plain functions, which Starlette runs in threads of its own: no
    epoch waits for whoever looks on.
    """
    page = files("streamnode.web").joinpath("page.html").read_text("utf-8")

    async def index(_: Request) -> Response:
        return HTMLResponse(page, headers=_SECURITY_HEADERS)

    async def healthz(_: Request) -> Response:
        return PlainTextResponse("ok\n")

    def readyz(_: Request) -> Response:
        readiness = view.readiness()
        return JSONResponse(readiness, status_code=200 if readiness["ready"] else 503)

    def info(_: Request) -> Response:
        return JSONResponse(view.info())

    async def timings(_: Request) -> Response:
        return JSONResponse(view.timings())

    def metrics(request: Request) -> Response:
        encode, content_type = choose_encoder(request.headers.get("accept", ""))
        return Response(encode(view.metrics.registry), headers={"Content-Type": content_type})

    return Starlette(
        routes=[
            Route("/", index),
            Route("/healthz", healthz),
            Route("/readyz", readyz),
            Route("/info", info),
            Route("/timings", timings),
            Route("/metrics", metrics),
        ]
    )


@asynccontextmanager
async def serve(app: Starlette, address: str) -> AsyncIterator[str]:
    """Serve `app` at `host:port` in this event loop; yields the URL. Raises `ConfigError` when the port is taken."""
    with _bind(address) as listener:
        host, port = listener.getsockname()[:2]
        server = _Server(uvicorn.Config(app, log_config=None, access_log=False, lifespan="off", ws="none"))
        task = asyncio.create_task(server.serve(sockets=[listener]), name="http")
        try:
            yield f"http://{f'[{host}]' if ':' in host else host}:{port}"
        finally:
            server.should_exit = True
            await asyncio.wait([task], timeout=_GOODBYE_S)
            for connection in list(server.server_state.connections):
                connection.transport.abort()
            await task


class _Server(uvicorn.Server):
    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals to the node, which stops everything in order."""
        yield


def _bind(address: str) -> socket.socket:
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, int(port)))
        listener.listen()  # now, so that whoever has read the address is not refused while the server starts
    except OSError as error:
        listener.close()
        raise ConfigError(
            f"node.http cannot listen on {address} ({error.strerror or error}): "
            "choose another port, or null for no status page"
        ) from error
    return listener


def _jsonable(value: Any) -> Any:
    """Arrays as lists, unknown numbers as null."""
    match value:
        case dict():
            return {key: _jsonable(item) for key, item in value.items()}
        case list() | tuple():
            return [_jsonable(item) for item in value]
        case np.ndarray():
            return _jsonable(value.tolist())
        case float() if not math.isfinite(value):
            return None
    return value
