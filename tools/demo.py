"""Shows a node at work: synthetic EEG over real LSL in, LUNA embeddings over LSL and MQTT out, all on this machine.

`DEMO_SECONDS=20` ends it so long after the model is loaded; the last line is then one JSON object. The received counts
are those of an LSL inlet and an MQTT subscriber of the demo's own, not the node's.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
import tempfile
import threading
import time
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiomqtt
import numpy as np
import pylsl
from rich.console import Console
from rich.live import Live
from rich.table import Table

from streamnode import wire
from streamnode.bench import rig
from streamnode.testing import isolate_lsl
from streamnode.types import OutputMeta

CONFIG = Path(__file__).parents[1] / "configs" / "demo.yaml"
SETTLE_S = 3.0  # how long the receivers may take for what the node has already published


@dataclass
class Tally:
    """What arrived at the far ends."""

    lsl_received: int = 0
    mqtt_received: int = 0
    latencies_ms: list[float] = field(default_factory=list)
    embedding_norm: float | None = None
    attention: np.ndarray[Any, Any] | None = None
    meta: OutputMeta | None = None

    def latency_ms(self) -> dict[str, float] | None:
        """Median and 99th percentile from the last sample of an epoch to its arrival over LSL."""
        if not self.latencies_ms:
            return None
        p50, p99 = np.percentile(self.latencies_ms, [50, 99])
        return {"p50": round(float(p50), 2), "p99": round(float(p99), 2)}

    def top_channels(self) -> str:
        """The three channels LUNA attends to most, over all patches and queries of the last epoch."""
        if self.attention is None or self.meta is None:
            return ""
        weight = self.attention.mean(axis=(0, 1))
        return ", ".join(f"{self.meta.ch_names[i]} {weight[i]:.3f}" for i in np.argsort(weight)[::-1][:3])


def receive_lsl(tally: Tally, stop: threading.Event) -> None:
    """Count embeddings arriving over LSL; runs in a thread until `stop`."""
    found: list[pylsl.StreamInfo] = []
    while not found:
        if stop.is_set():
            return
        found = pylsl.resolve_bypred("type='Features' and contains(name, 'embedding')", minimum=1, timeout=1.0)
    inlet = pylsl.StreamInlet(found[0], recover=False)
    with suppress(pylsl.util.LostError):  # the node has ended
        while not stop.is_set():
            sample, stamp = inlet.pull_sample(timeout=0.2)
            if sample is not None:
                tally.lsl_received += 1
                tally.latencies_ms.append(1e3 * (pylsl.local_clock() - stamp))
                tally.embedding_norm = float(np.linalg.norm(sample))


async def receive_mqtt(tally: Tally, port: int, topic: str) -> None:
    """Count results arriving over MQTT."""
    async with aiomqtt.Client("127.0.0.1", port) as client:
        await client.subscribe(f"{topic}/#")
        async for message in client.messages:
            assert isinstance(message.payload, bytes)
            if message.topic.matches(f"{topic}/meta"):
                tally.meta = wire.decode_meta(message.payload)
            elif message.topic.matches(f"{topic}/output"):
                tally.mqtt_received += 1
                tally.attention = wire.decode(message.payload, "cbor").attention


def table(tally: Tally, info: dict[str, Any] | None, url: str) -> Table:
    """The state of the rig, for the terminal."""
    view = Table(title="streamnode: synthetic EEG → LSL → LUNA → LSL + MQTT", show_header=False, min_width=72)
    latency = tally.latency_ms()
    rows = {
        "state": "starting" if info is None else f"source {info['source']}",
        "epochs": "-" if info is None else str(info["epochs"]),
        "received": f"{tally.lsl_received} over LSL, {tally.mqtt_received} over MQTT",
        "dropped": "-" if info is None else str(info["dropped"]),
        "latency": "-" if latency is None else f"p50 {latency['p50']:.1f} ms, p99 {latency['p99']:.1f} ms",
        "embedding norm": "-" if tally.embedding_norm is None else f"{tally.embedding_norm:.3f}",
        "top attention": tally.top_channels() or "-",
        "status page": url,
    }
    for name, value in rows.items():
        view.add_row(name, value)
    if tally.meta is not None and tally.meta.weights.untrained:
        view.caption = "random weights: the numbers flow, but mean nothing"
    return view


async def watch(tally: Tally, node: asyncio.subprocess.Process, url: str, end: float | None) -> None:
    """Draw the table until the time is up or the node has ended."""
    info: dict[str, Any] | None = None
    with Live(table(tally, info, url), console=Console(stderr=True), refresh_per_second=4) as live:
        while node.returncode is None and (end is None or time.monotonic() < end):
            info = await rig.stream_info(url) or info
            live.update(table(tally, info, url))
            with suppress(TimeoutError):
                await asyncio.wait_for(node.wait(), 0.5)


async def drain(tally: Tally, url: str) -> dict[str, Any]:
    """Wait until the receivers have all that the node has inferred, or are late; returns the node's last words."""
    deadline = time.monotonic() + SETTLE_S
    while True:
        late = time.monotonic() > deadline
        info = await rig.stream_info(url)
        if info is None and late:
            raise SystemExit(f"the node does not answer at {url}")
        if info is not None:
            expected = info["epochs"] - info["dropped"]
            if late or min(tally.lsl_received, tally.mqtt_received) >= expected:
                return info


async def demo(seconds: float | None) -> int:
    """Run the rig; returns the exit code."""
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="streamnode-demo-")))
        isolate_lsl(folder, f"streamnode-demo-{os.getpid()}")
        mqtt_port, http_port = rig.port_or_free(18830), rig.port_or_free(8765)
        changes = {"sinks__0__url": f"mqtt://127.0.0.1:{mqtt_port}", "node__http": f"127.0.0.1:{http_port}"}
        config = rig.write_config(CONFIG, folder, **changes)
        url = f"http://127.0.0.1:{http_port}"
        tally, stop = Tally(), threading.Event()

        await stack.enter_async_context(rig.broker(mqtt_port))
        subscriber = asyncio.create_task(receive_mqtt(tally, mqtt_port, "streamnode/demo"), name="mqtt receiver")
        inlet = asyncio.create_task(asyncio.to_thread(receive_lsl, tally, stop), name="lsl receiver")
        stack.callback(subscriber.cancel)
        stack.callback(stop.set)
        node_log = folder / "node.log"
        node = await stack.enter_async_context(rig.streamnode("run", str(config), log=node_log))
        # The source comes last: then the receivers are there before the first result.
        await rig.until_loaded(node, url)
        end = None if seconds is None else time.monotonic() + seconds
        async with rig.streamnode("play", "synthetic", log=folder / "source.log"):
            await watch(tally, node, url, end)
        if node.returncode is not None:
            print(await asyncio.to_thread(node_log.read_text), file=sys.stderr)
            return node.returncode or 1
        print(json.dumps(report(tally, await drain(tally, url))))
        stop.set()
        await inlet
    return 0


def report(tally: Tally, info: dict[str, Any]) -> dict[str, Any]:
    """The figures of the last line."""
    outputs = info["outputs"] or {"model": None, "weights": {"source": None}}
    return {
        "epochs": info["epochs"],
        "lsl_received": tally.lsl_received,
        "mqtt_received": tally.mqtt_received,
        "dropped": info["dropped"],
        "latency_ms": tally.latency_ms(),
        "model": outputs["model"],
        "weights": outputs["weights"]["source"],
    }


def _seconds(text: str | None) -> float | None:
    try:
        return float(text) if text else None
    except ValueError:
        sys.exit(f"DEMO_SECONDS is {text!r}: give a number of seconds, such as 20")


def main() -> None:
    """Run until Ctrl-C, or for DEMO_SECONDS."""
    logging.getLogger("amqtt").setLevel(logging.CRITICAL)  # the broker wonders at MQTT 5, which the node tries first
    try:
        code = asyncio.run(demo(_seconds(os.environ.get("DEMO_SECONDS"))))
    except KeyboardInterrupt:
        code = 0
    sys.exit(code)


if __name__ == "__main__":
    main()
