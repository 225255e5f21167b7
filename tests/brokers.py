"""Real MQTT brokers on loopback: Mosquitto as a process (MQTT 5, TLS, access control), amqtt (3.1.1)."""

from __future__ import annotations

import asyncio
import shutil
import signal
import socket
import subprocess
import sys
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import pytest

MOSQUITTO = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin")
needs_mosquitto = pytest.mark.skipif(MOSQUITTO is None, reason="mosquitto is not installed")


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Mosquitto:
    """A Mosquitto of its own port that can die and come back; nothing persists.

    Args:
        folder: for its configuration.
        settings: lines for its one listener; `allow_anonymous true` when there are none.
    """

    def __init__(self, folder: Path, settings: Sequence[str] = ("allow_anonymous true",)) -> None:
        self.port = free_port()
        self.url = f"mqtt://127.0.0.1:{self.port}"
        self._config = folder / f"mosquitto-{self.port}.conf"
        lines = ["per_listener_settings true", "user root", "set_tcp_nodelay true", f"listener {self.port} 127.0.0.1"]
        self._config.write_text("\n".join([*lines, "log_dest stderr", *settings, ""]))

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.kill()

    async def start(self) -> None:
        """Start, and return once it listens."""
        assert MOSQUITTO is not None
        self._process = await asyncio.create_subprocess_exec(MOSQUITTO, "-c", self._config, stderr=PIPE)
        assert self._process.stderr is not None
        said = b""
        async for line in self._process.stderr:
            said += line
            if b" running" in line:
                return
        raise RuntimeError(f"mosquitto did not start: {said.decode()}")

    def send_signal(self, number: signal.Signals) -> None:
        """Send a signal, such as SIGSTOP to hang it."""
        self._process.send_signal(number)

    async def kill(self) -> None:
        """SIGKILL; harmless when it is dead."""
        if self._process.returncode is None:
            self._process.kill()
        await self._process.communicate()


_AMQTT = """
import asyncio
from amqtt.broker import Broker

async def main():
    anonymous = {{"amqtt.plugins.authentication.AnonymousAuthPlugin": {{"allow_anonymous": True}}}}
    broker = Broker({{"listeners": {{"default": {{"type": "tcp", "bind": "127.0.0.1:{port}"}}}}, "plugins": anonymous}})
    await broker.start()
    print("running", flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


@asynccontextmanager
async def amqtt_broker(port: int | None = None) -> AsyncIterator[str]:
    """An amqtt broker, which speaks only MQTT 3.1.1; yields its url. A process, for it leaves sockets unclosed."""
    port = port or free_port()
    code = _AMQTT.format(port=port)
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", code, stdout=PIPE, stderr=DEVNULL)
    assert process.stdout is not None
    assert await process.stdout.readline() == b"running\n"
    try:
        yield f"mqtt://127.0.0.1:{port}"
    finally:
        process.kill()
        await process.communicate()


@dataclass(frozen=True)
class Certificates:
    """Files of a certificate authority and of a certificate it issued for 127.0.0.1."""

    ca: Path
    cert: Path
    key: Path

    @property
    def settings(self) -> tuple[str, str]:
        """What Mosquitto needs to serve TLS with them."""
        return f"certfile {self.cert}", f"keyfile {self.key}"


def issue_certificates(folder: Path) -> Certificates:
    """A new authority and server certificate, valid for a day."""
    made = Certificates(folder / "ca.pem", folder / "cert.pem", folder / "key.pem")
    new = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=test"]
    authority = f"-keyout {folder}/ca.key -out {made.ca}".split()
    server = f"-keyout {made.key} -out {made.cert} -CA {made.ca} -CAkey {folder}/ca.key".split()
    for arguments in (authority, [*server, "-addext", "subjectAltName=IP:127.0.0.1"]):
        subprocess.run([*new, *arguments], check=True, capture_output=True)
    return made
