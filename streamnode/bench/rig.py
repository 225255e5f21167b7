"""A whole rig on loopback for the demo and the benchmarks: broker, sources and node, each on its own."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
import tempfile
import urllib.request
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass
from http import HTTPStatus
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from ruamel.yaml import YAML

from streamnode.errors import ConfigError, StreamLost
from streamnode.testing import isolate_lsl

if TYPE_CHECKING:
    import psutil

T = TypeVar("T")

STOP_S = 10.0


# ---- What the benchmarks of a node have in common --------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Memory:
    """Resident memory of the node, MB, and the slope of a line through all seconds; minutes make it mean something."""

    start: float
    end: float
    most: float
    per_hour: float


@dataclass(frozen=True, slots=True)
class Watched:
    """A node that runs, seen from outside.

    Attributes:
        url: of its status page.
        log: what it prints.
        process: by which it is run.
        usage: of this machine, by that process.
    """

    url: str
    log: Path
    process: asyncio.subprocess.Process
    usage: psutil.Process

    @property
    def rss_mb(self) -> float:
        """Its memory now. Raises `StreamLost` if the node has ended."""
        return self.figure(lambda process: float(process.memory_info().rss / 1e6))

    def figure(self, of: Callable[[psutil.Process], T]) -> T:
        """What this machine tells of its process. Raises `StreamLost` if the node has ended."""
        try:
            return of(self.usage)
        except _package("psutil").NoSuchProcess as error:
            raise self._ended() from error

    async def streams(self) -> list[dict[str, Any]]:
        """As `stream_infos`. Raises `StreamLost` if the node has ended."""
        infos = await stream_infos(self.url)
        if self.process.returncode is not None:
            raise self._ended()
        return infos

    def _ended(self) -> StreamLost:
        return StreamLost(f"the node ended: {last_line(self.log.read_text('utf-8'))}")


@dataclass(frozen=True, slots=True)
class Rig:
    """Where a node can be run: a folder, a broker, and LSL of its own.

    Attributes:
        folder: for files; gone in the end.
        mqtt_port: of the broker.
        http_port: for the status page of a node.
    """

    folder: Path
    mqtt_port: int
    http_port: int

    def node_file(self, model: str, names: Sequence[str], *, hop_s: float) -> dict[str, Any]:
        """A node with an LSL stream of each name, as its YAML file has it; the model runs on random weights."""
        from streamnode.models import catalog  # noqa: PLC0415  (torch, which the demo can do without)

        kind, _, variant = model.partition("-")
        sources = [{"kind": "lsl", "name": name, "label": name} for name in names]
        return {
            "node": {"name": "bench", "http": f"127.0.0.1:{self.http_port}"},
            **({"source": sources[0]} if len(sources) == 1 else {"sources": sources}),
            "epoch": {"duration_s": catalog.find(model).spec.durations[0], "hop_s": hop_s},
            "signal": {"notch_hz": 50},
            "model": {
                "kind": kind,
                "variant": variant,
                "weights": "random:0",
                "outputs": ["embedding", "attention" if kind == "luna" else "tokens"],
            },
            "sinks": [
                {"kind": "mqtt", "url": f"mqtt://127.0.0.1:{self.mqtt_port}", "topic": "bench"},
                {"kind": "lsl", "name": "bench"},
            ],
        }

    @asynccontextmanager
    async def running(self, node: Mapping[str, Any]) -> AsyncIterator[Watched]:
        """A node, as its YAML file has it, from the start of its process on."""
        psutil = _package("psutil")
        config, log = self.folder / "node.yaml", self.folder / "node.log"
        with config.open("w", encoding="utf-8") as file:
            YAML().dump(dict(node), file)
        async with streamnode("run", str(config), log=log) as process:
            yield Watched(f"http://127.0.0.1:{self.http_port}", log, process, psutil.Process(process.pid))


@asynccontextmanager
async def opened(name: str) -> AsyncIterator[Rig]:
    """A rig for one benchmark.

    Args:
        name: of the benchmark, for whoever finds its folder or its LSL session.

    Raises:
        ConfigError: a package that this needs is not installed.
    """
    with tempfile.TemporaryDirectory(prefix=f"streamnode-{name}-") as folder:
        isolate_lsl(Path(folder), f"streamnode-{name}-{os.getpid()}")
        rig = Rig(Path(folder), mqtt_port=port_or_free(0), http_port=port_or_free(0))
        async with broker(rig.mqtt_port):
            yield rig


def memory(rss_mb: Sequence[float], seconds: float) -> Memory:
    """What readings of the memory, evenly spaced over so long, say of it."""
    hours = np.linspace(0, seconds / 3600, len(rss_mb))
    slope = float(np.polyfit(hours, rss_mb, 1)[0]) if len(rss_mb) > 1 else 0.0
    return Memory(rss_mb[0], rss_mb[-1], max(rss_mb), slope)


def total(streams: Sequence[Mapping[str, Any]], key: str) -> int:
    """A figure of all streams that a node tells of."""
    return sum(int(info[key]) for info in streams)


def last_line(text: str) -> str:
    """Of a log, as all that a reader needs."""
    return (text.strip().splitlines() or ["it said nothing"])[-1]


# ---- Its parts -------------------------------------------------------------------------------------------------------


def port_or_free(port: int) -> int:
    """`port` if nobody listens on it, else any free one."""
    for candidate in (port, 0):
        with socket.socket() as probe, suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", candidate))
            return int(probe.getsockname()[1])
    raise RuntimeError("no free port")


@asynccontextmanager
async def broker(port: int) -> AsyncIterator[None]:
    """An embedded MQTT broker on loopback. Raises `ConfigError` if its package is not installed."""
    server = _package("amqtt.broker").Broker(
        {
            "listeners": {"default": {"type": "tcp", "bind": f"127.0.0.1:{port}"}},
            "plugins": {"amqtt.plugins.authentication.AnonymousAuthPlugin": {"allow_anonymous": True}},
        }
    )
    await server.start()
    try:
        yield
    finally:
        await server.shutdown()


def _package(name: str) -> Any:
    try:
        return import_module(name)
    except ImportError as error:
        name = (error.name or name).partition(".")[0]
        raise ConfigError(f"{name} is not installed: pip install 'streamnode[bench]' for the rig") from error


def streamnode(*arguments: str, log: Path) -> AbstractAsyncContextManager[asyncio.subprocess.Process]:
    """A `streamnode` process, see `python`."""
    return python("streamnode.cli", *arguments, log=log)


@asynccontextmanager
async def python(module: str, *arguments: str, log: Path) -> AsyncIterator[asyncio.subprocess.Process]:
    """A process that runs a module and is interrupted, as by Ctrl-C, at the end; what it prints goes to `log`."""
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", module, *arguments, stdout=output, stderr=output, start_new_session=True
        )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGINT)
            try:
                await asyncio.wait_for(process.wait(), STOP_S)
            except TimeoutError:
                process.kill()
                await process.wait()


def write_config(template: Path, folder: Path, **changes: Any) -> Path:
    """A copy of a YAML file in `folder` with `section__key=value` changes, lists indexed by number."""
    yaml = YAML()
    tree = yaml.load(template.read_text("utf-8"))
    for path, value in changes.items():
        *parents, leaf = (int(key) if key.isdigit() else key for key in path.split("__"))
        place = tree
        for parent in parents:
            place = place[parent]
        place[leaf] = value
    target = folder / template.name
    with target.open("w", encoding="utf-8") as file:
        yaml.dump(tree, file)
    return target


async def stream_infos(url: str) -> list[dict[str, Any]]:
    """What `/info` says of each stream of the node; nothing while it does not answer."""
    return await _streams(f"{url}/info")


async def timings(url: str) -> list[dict[str, Any]]:
    """The latest results of each stream of the node, as `/timings` has them; nothing while it does not answer."""
    return await _streams(f"{url}/timings")


async def _streams(url: str) -> list[dict[str, Any]]:
    def get() -> list[dict[str, Any]]:
        with suppress(OSError), urllib.request.urlopen(url, timeout=5) as reply:  # noqa: S310
            return list(json.load(reply)["streams"])
        return []

    return await asyncio.to_thread(get)


async def stream_info(url: str) -> dict[str, Any] | None:
    """The same of the node's only stream, or None while it does not answer."""
    return next(iter(await stream_infos(url)), None)


async def until_ready(node: asyncio.subprocess.Process, url: str) -> None:
    """Wait until a node says that it is ready, or has ended."""

    def is_ready() -> bool:
        with suppress(OSError), urllib.request.urlopen(f"{url}/readyz", timeout=5) as reply:  # noqa: S310
            return bool(reply.status == HTTPStatus.OK)
        return False  # not there yet, or 503, which is an error to urllib

    while node.returncode is None:
        if await asyncio.to_thread(is_ready):
            return
        await asyncio.sleep(0.02)


async def until_loaded(node: asyncio.subprocess.Process, url: str) -> None:
    """Wait until a node has its model, or has ended."""
    while node.returncode is None:
        info = await stream_info(url)
        if info is not None and info["model"] is not None:
            return
        await asyncio.sleep(0.05)
