"""A whole rig on loopback for the demo and the benchmark: broker, sources and node, each on its own."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import sys
import urllib.request
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from http import HTTPStatus
from pathlib import Path
from typing import Any

from amqtt.broker import Broker
from ruamel.yaml import YAML

STOP_S = 10.0


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
    """An embedded MQTT broker on loopback, so that nothing has to be installed."""
    server = Broker(
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
