"""Measures a node from outside: overhead, latency, CPU and memory at 64 channels, 1 kHz and a hop of 0.25 s.

Source, node and broker are processes on this machine, joined by real LSL and MQTT. `BENCH_SECONDS` sets the length.
The last line is one JSON object. Overhead is what the node itself adds: last sample arrived to result taken by the
sink, less the forward pass; the delay that the filters declare is in the latency only.
"""

from __future__ import annotations

import asyncio
import json
import os
import tempfile
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import psutil
import rig
from rich.console import Console
from rich.table import Table

from streamnode.testing import isolate_lsl

CONFIG = Path(__file__).parents[1] / "configs" / "demo.yaml"
N_CHANS, SFREQ, HOP_S = 64, 1000, 0.25
WARM_UP_S = 10.0


async def bench(seconds: float) -> dict[str, Any]:
    """Run the rig for `seconds` after the warm-up and collect the figures."""
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="streamnode-bench-")))
        isolate_lsl(folder, f"streamnode-bench-{os.getpid()}")
        mqtt_port, http_port = rig.port_or_free(0), rig.port_or_free(0)
        changes = {
            "sinks__0__url": f"mqtt://127.0.0.1:{mqtt_port}",
            "node__http": f"127.0.0.1:{http_port}",
            "epoch__hop_s": HOP_S,
        }
        config = rig.write_config(CONFIG, folder, **changes)
        url = f"http://127.0.0.1:{http_port}"
        await stack.enter_async_context(rig.broker(mqtt_port))
        play = ("play", "synthetic", "--sfreq", str(SFREQ), "--channels", str(N_CHANS))
        await stack.enter_async_context(rig.streamnode(*play, log=folder / "source.log"))
        started = time.monotonic()
        node = await stack.enter_async_context(rig.streamnode("run", str(config), log=folder / "node.log"))
        first_result_s = await _first_result(node, url, folder / "node.log") - started

        await asyncio.sleep(WARM_UP_S)
        process = psutil.Process(node.pid)
        before = await rig.stream_info(url) or {}
        cpu, rss = process.cpu_times(), [process.memory_info().rss]
        for _ in range(int(seconds)):
            await asyncio.sleep(1.0)
            rss.append(process.memory_info().rss)
        after = await rig.stream_info(url) or {}
        busy_s = sum(process.cpu_times()[:2]) - sum(cpu[:2])
        return {
            "n_chans": N_CHANS,
            "sfreq": SFREQ,
            "hop_s": HOP_S,
            "seconds": seconds,
            "model": after["outputs"]["model"],
            "first_result_s": round(first_result_s, 2),
            "epochs": after["epochs"] - before["epochs"],
            "expected": round(seconds / HOP_S),
            "dropped": after["dropped"] - before["dropped"],
            "overhead_ms": after["overhead_ms"],
            "latency_ms": after["latency_ms"],
            "delay_ms": round(1e3 * after["outputs"]["delay_s"], 2),
            "cpu_percent_of_a_core": round(100 * busy_s / seconds, 1),
            "rss_mb": {"start": rss[0] >> 20, "end": rss[-1] >> 20, "max": max(rss) >> 20},
        }


async def _first_result(node: asyncio.subprocess.Process, url: str, log: Path) -> float:
    """When the node had its first result, on the monotonic clock."""
    while node.returncode is None:
        info = await rig.stream_info(url)
        if info is not None and info["last"] is not None:
            return time.monotonic()
        await asyncio.sleep(0.05)
    raise SystemExit(await asyncio.to_thread(log.read_text, "utf-8"))


def main() -> None:
    """Print a table, then the figures as JSON."""
    figures = asyncio.run(bench(float(os.environ.get("BENCH_SECONDS", "60"))))
    table = Table("figure", "value", title="one node, end to end")
    for name, value in figures.items():
        table.add_row(name, json.dumps(value))
    Console(stderr=True, width=110).print(table)
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
