"""A node from outside: overhead, latency, CPU and memory, with real LSL in and real LSL and MQTT out.

Senders, node and broker are processes on this machine. Three times are told of all results, of all streams together,
that were published while the node was watched, which begins when it has warmed up:

    latency   last sample to result taken by the sink; the delay that the filters declare is part of it
    wait      last sample arrived to result taken by the sink, less the forward pass
    overhead  the same less the passes of other epochs that it had to wait for: what the node itself adds

The node takes these times; `streamnode.types.Trace` has the stations between them.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from streamnode.bench import rig
from streamnode.bench.rig import Memory, memory, total
from streamnode.bench.senders import Phases
from streamnode.errors import StreamLost
from streamnode.sources.lsl import local_clock
from streamnode.types import Float64Array
from streamnode.web.app import percentiles_ms

if TYPE_CHECKING:
    import psutil

_WARM_UP_S = 10.0

OnStep = Callable[[str], None]
Results = Mapping[str, Float64Array]
"""The fields of `streamnode.metrics.Timings`, one value each for every result."""


@dataclass(frozen=True, slots=True)
class Load:
    """What a node is given to do.

    Attributes:
        model: name in the catalog, which runs on random weights.
        n_streams: headsets.
        n_chans: of each, at most 64.
        sfreq: of each, Hz.
        hop_s: from one epoch to the next.
        phases: whether streams complete their epochs at moments of their own, or all at once.
        compiled: whether the model is, for one thread, as many streams want it.
    """

    model: str
    n_streams: int
    n_chans: int
    sfreq: float
    hop_s: float
    phases: Phases = "apart"
    compiled: bool = False


@dataclass(frozen=True, slots=True)
class Times:
    """How long results took to one kind of sink.

    Attributes:
        results: how many there were.
        overhead_ms: `p50`, `p99` and `p99.9` of what the head of this file calls so.
        wait_ms: likewise.
        latency_ms: likewise.
        queued: the part of all waiting that was for passes of other epochs.
    """

    results: int
    overhead_ms: dict[str, float]
    wait_ms: dict[str, float]
    latency_ms: dict[str, float]
    queued: float


@dataclass(frozen=True, slots=True)
class NodeReport:
    """What a node did.

    Attributes:
        load: what it had to do.
        seconds: how long it was watched.
        ready_s: from the start of its process to `/readyz` saying that model, streams and sinks are there.
        first_result_s: to its first result, for which there must be a whole epoch.
        epochs: how many it cut.
        expected: how many there were to cut.
        dropped: how many had no result.
        times: by the kind of sink.
        delay_ms: of the filters, which is part of the latency.
        cpu_percent_of_a_core: of its process, and of the event loop, through which all streams have to pass.
        rss_mb: its memory.
    """

    load: Load
    seconds: float
    ready_s: float
    first_result_s: float
    epochs: int
    expected: int
    dropped: int
    times: dict[str, Times]
    delay_ms: float
    cpu_percent_of_a_core: dict[str, float]
    rss_mb: Memory


async def measure(load: Load, *, seconds: float, on_step: OnStep = lambda _: None) -> NodeReport:
    """Run sources, broker and node, and watch the node.

    Args:
        load: what it has to do.
        seconds: how long to watch, after a warm-up.
        on_step: told in a few words what is being done.

    Raises:
        ConfigError: a package that this needs is not installed.
        StreamLost: the node ended before it should.
    """
    names = [f"bench-{number}" for number in range(load.n_streams)]
    async with AsyncExitStack() as stack:
        here = await stack.enter_async_context(rig.opened("bench"))
        node = here.node_file(load.model, names, hop_s=load.hop_s)
        node["model"] |= {"compile": True, "threads": 1} if load.compiled else {}
        on_step("sources")
        played = str(load.sfreq), str(load.n_chans), str(load.hop_s), load.phases, *names
        senders = rig.python("streamnode.bench.senders", *played, log=here.folder / "senders.log")
        await stack.enter_async_context(senders)
        started = time.monotonic()
        watched = await stack.enter_async_context(here.running(node))
        on_step("node")
        await rig.until_ready(watched.process, watched.url)
        ready_s = time.monotonic() - started
        on_step("first results")
        while any(info["last"] is None for info in await watched.streams() or [{"last": None}]):  # noqa: ASYNC110
            await asyncio.sleep(0.05)
        first_result_s = time.monotonic() - started

        on_step("warm-up")
        await asyncio.sleep(_WARM_UP_S)
        before, t_begin = await rig.stream_infos(watched.url), local_clock()
        cpu_s, rss = watched.figure(_cpu_s), [watched.rss_mb]
        while (passed := local_clock() - t_begin) < seconds:
            on_step(f"{passed:.0f} of {seconds:.0f} s")
            await asyncio.sleep(min(1.0, seconds - passed))
            rss.append(watched.rss_mb)
        t_end, cpu_s = local_clock(), {part: s - cpu_s[part] for part, s in watched.figure(_cpu_s).items()}
        after, timings = await rig.stream_infos(watched.url), await rig.timings(watched.url)
    if not before or not after or not timings:
        raise StreamLost("the node did not answer while it was watched: give it fewer streams, or a longer hop")
    took_s = t_end - t_begin
    return NodeReport(
        load=load,
        seconds=seconds,
        ready_s=ready_s,
        first_result_s=first_result_s,
        epochs=total(after, "epochs") - total(before, "epochs"),
        expected=round(load.n_streams * took_s / load.hop_s),
        dropped=total(after, "dropped") - total(before, "dropped"),
        times={kind: times(results) for kind, results in pooled(timings, t_begin, t_end).items()},
        delay_ms=1e3 * after[0]["outputs"]["delay_s"],
        cpu_percent_of_a_core={part: 100 * s / took_s for part, s in cpu_s.items()},
        rss_mb=memory(rss, took_s),
    )


def _cpu_s(process: psutil.Process) -> dict[str, float]:
    """CPU time so far of a process and of its first thread, which in a node runs the event loop."""
    loop = next(thread for thread in process.threads() if thread.id == process.pid)
    return {"all": sum(process.cpu_times()[:2]), "event loop": loop.user_time + loop.system_time}


def pooled(streams: Sequence[Mapping[str, Any]], t_begin: float, t_end: float) -> dict[str, Results]:
    """The results of all streams that were published between two LSL times, by the kind of the sink.

    Args:
        streams: as `/timings` has them, sinks by name, such as `mqtt:127.0.0.1:1883/bench/left`.
        t_begin: the earliest.
        t_end: the latest.
    """
    found: dict[str, list[dict[str, Float64Array]]] = {}
    for sink, of_sink in ((name, one) for stream in streams for name, one in stream["sinks"].items()):
        figures = {name: np.array(values) for name, values in of_sink.items()}
        within = (figures["t_published"] >= t_begin) & (figures["t_published"] <= t_end)
        found.setdefault(sink.partition(":")[0], []).append({name: one[within] for name, one in figures.items()})
    return {
        kind: {name: np.concatenate([one[name] for one in parts]) for name in parts[0]} for kind, parts in found.items()
    }


def times(results: Results) -> Times:
    """Percentiles of some results; of none, all are 0."""
    waits, overheads = results["waits_s"], results["overheads_s"]
    return Times(
        results=len(waits),
        overhead_ms=_percentiles(overheads),
        wait_ms=_percentiles(waits),
        latency_ms=_percentiles(results["latencies_s"]),
        queued=float((waits - overheads).sum() / max(waits.sum(), 1e-9)),
    )


def _percentiles(durations_s: Float64Array) -> dict[str, float]:
    return percentiles_ms(durations_s if len(durations_s) else [0.0])
