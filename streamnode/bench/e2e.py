"""A node from outside: overhead, latency, CPU and memory, with real LSL in and real LSL and MQTT out.

Senders, node and broker are processes on this machine. Overhead is what the node itself adds: last sample arrived to
result taken by the sink, less the forward pass; the delay that the filters declare is in the latency only.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ruamel.yaml import YAML

from streamnode.errors import ConfigError, StreamLost
from streamnode.models import catalog
from streamnode.testing import isolate_lsl

_WARM_UP_S = 10.0
_OF_INTEREST = ("p50", "p99", "p99.9")

OnStep = Callable[[str], None]
Timings = dict[str, dict[str, float]]
"""Percentiles in milliseconds by the kind of sink."""


@dataclass(frozen=True, slots=True)
class Memory:
    """Resident memory of the node, MB, and the slope of a line through all seconds; minutes make it mean something."""

    start: float
    end: float
    most: float
    per_hour: float


@dataclass(frozen=True, slots=True)
class NodeReport:
    """What a node did.

    Attributes:
        model: name in the catalog.
        n_streams: how many it had.
        n_chans: of each.
        sfreq: of each, Hz.
        hop_s: from one epoch to the next.
        seconds: how long it was watched.
        first_result_s: from the start of its process to its first result.
        epochs: how many it cut.
        expected: how many there were to cut.
        dropped: how many had no result.
        overhead_ms: see the module; the median over streams of `p50`, the worst of all streams of the others. The node
            reports its latest 4096 results of a stream, those of its first seconds included while there are fewer.
        latency_ms: last sample to result, likewise.
        delay_ms: of the filters, which is part of the latency.
        cpu_percent_of_a_core: of its process.
        rss_mb: its memory.
    """

    model: str
    n_streams: int
    n_chans: int
    sfreq: float
    hop_s: float
    seconds: float
    first_result_s: float
    epochs: int
    expected: int
    dropped: int
    overhead_ms: Timings
    latency_ms: Timings
    delay_ms: float
    cpu_percent_of_a_core: float
    rss_mb: Memory


async def measure(
    model: str,
    *,
    n_streams: int,
    n_chans: int,
    sfreq: float,
    hop_s: float,
    seconds: float,
    on_step: OnStep = lambda _: None,
) -> NodeReport:
    """Run sources, broker and node, and watch the node.

    Args:
        model: name in the catalog, which runs on random weights.
        n_streams: headsets.
        n_chans: of each, at most 64.
        sfreq: of each, Hz.
        hop_s: from one epoch to the next.
        seconds: how long to watch, after a warm-up.
        on_step: told in a few words what is being done.

    Raises:
        ConfigError: the broker that this needs is not installed.
        StreamLost: the node ended before it should.
    """
    try:
        import psutil  # noqa: PLC0415

        from streamnode.bench import rig  # noqa: PLC0415
    except ImportError as error:
        raise ConfigError(f"{error.name} is not installed: pip install 'streamnode[bench]' for the rig") from error
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="streamnode-bench-")))
        isolate_lsl(folder, f"streamnode-bench-{os.getpid()}")
        mqtt_port, http_port = rig.port_or_free(0), rig.port_or_free(0)
        names = [f"bench-{number}" for number in range(n_streams)]
        config = folder / "node.yaml"
        with config.open("w", encoding="utf-8") as file:
            YAML().dump(node_file(model, names, mqtt_port=mqtt_port, http_port=http_port, hop_s=hop_s), file)
        url, log = f"http://127.0.0.1:{http_port}", folder / "node.log"
        await stack.enter_async_context(rig.broker(mqtt_port))
        on_step("sources")
        senders = rig.python("streamnode.bench.senders", str(sfreq), str(n_chans), *names, log=folder / "senders.log")
        await stack.enter_async_context(senders)
        started = time.monotonic()
        node = await stack.enter_async_context(rig.streamnode("run", str(config), log=log))
        on_step("first results")
        while any(info["last"] is None for info in await rig.stream_infos(url) or [{"last": None}]):
            if node.returncode is not None:
                raise StreamLost(f"the node ended: {_last_line(await asyncio.to_thread(log.read_text, 'utf-8'))}")
            await asyncio.sleep(0.05)
        first_result_s = time.monotonic() - started

        on_step("warm-up")
        await asyncio.sleep(_WARM_UP_S)
        process = psutil.Process(node.pid)
        before = await rig.stream_infos(url)
        busy_s, rss = sum(process.cpu_times()[:2]), [process.memory_info().rss / 1e6]
        began = time.monotonic()
        while (passed := time.monotonic() - began) < seconds:
            on_step(f"{passed:.0f} of {seconds:.0f} s")
            await asyncio.sleep(min(1.0, seconds - passed))
            rss.append(process.memory_info().rss / 1e6)
        after, took_s = await rig.stream_infos(url), time.monotonic() - began
        busy_s = sum(process.cpu_times()[:2]) - busy_s
    if not before or not after:
        raise StreamLost("the node did not answer while it was watched: give it fewer streams, or a longer hop")
    return NodeReport(
        model=model,
        n_streams=n_streams,
        n_chans=n_chans,
        sfreq=sfreq,
        hop_s=hop_s,
        seconds=seconds,
        first_result_s=first_result_s,
        epochs=_total(after, "epochs") - _total(before, "epochs"),
        expected=round(n_streams * took_s / hop_s),
        dropped=_total(after, "dropped") - _total(before, "dropped"),
        overhead_ms=worst([info["overhead_ms"] for info in after]),
        latency_ms=worst([info["latency_ms"] for info in after]),
        delay_ms=1e3 * after[0]["outputs"]["delay_s"],
        cpu_percent_of_a_core=100 * busy_s / took_s,
        rss_mb=memory(rss, took_s),
    )


def node_file(model: str, names: Sequence[str], *, mqtt_port: int, http_port: int, hop_s: float) -> dict[str, Any]:
    """A node with a stream of each name, as its YAML file has it."""
    kind, _, variant = model.partition("-")
    sources = [{"kind": "lsl", "name": name, "label": name} for name in names]
    return {
        "node": {"name": "bench", "http": f"127.0.0.1:{http_port}"},
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
            {"kind": "mqtt", "url": f"mqtt://127.0.0.1:{mqtt_port}", "topic": "bench"},
            {"kind": "lsl", "name": "bench"},
        ],
    }


def worst(streams: Sequence[Mapping[str, Mapping[str, float]]]) -> Timings:
    """Percentiles of all streams by the kind of their sinks: the median of `p50`, of the others the worst.

    Args:
        streams: for each, percentiles by the name of the sink, such as `mqtt:bench/left`.
    """
    by_kind: dict[str, list[Mapping[str, float]]] = {}
    for stream in streams:
        for sink, percentiles in stream.items():
            by_kind.setdefault(sink.partition(":")[0], []).append(percentiles)
    return {
        kind: {
            name: float((np.median if name == "p50" else np.max)([one[name] for one in found])) for name in _OF_INTEREST
        }
        for kind, found in by_kind.items()
    }


def memory(rss_mb: Sequence[float], seconds: float) -> Memory:
    """What readings of the memory, evenly spaced over so long, say of it."""
    hours = np.linspace(0, seconds / 3600, len(rss_mb))
    slope = float(np.polyfit(hours, rss_mb, 1)[0]) if len(rss_mb) > 1 else 0.0
    return Memory(rss_mb[0], rss_mb[-1], max(rss_mb), slope)


def _total(streams: Sequence[Mapping[str, Any]], key: str) -> int:
    return sum(int(info[key]) for info in streams)


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or ["it said nothing"])[-1]
