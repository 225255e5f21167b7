"""Measures how samples come in: `python tools/bench_ingest.py [SECTION ...]`, all sections by default.

    peers    one stream, 64 channels at 1 kHz: our source beside a bare pylsl inlet, mne-lsl and ezmsg-lsl
    streams  32 such streams in one process: our source beside bare inlets with a thread each
    memory   what ten minutes of samples, sent as fast as they are taken, leave behind

Sender and receivers are processes on this machine, joined by real LSL on loopback. The receivers take turns at the same
stream, several rounds of it, and the median counts. `BENCH_SECONDS` sets how long a turn is, `BENCH_ROUNDS` how many
there are. CPU is the receiving process's own, all threads, in percent of a core. Latency is from the push to where a
user has the sample: a task on the event loop for ours and ezmsg-lsl, the call-back of mne-lsl, the return of the pull
for pylsl. The last two are no event loop yet. `pylsl at 5 Hz` drains the inlet so seldom that what it costs is liblsl's
own thread. Tables go to stderr, one JSON object to stdout.
"""

from __future__ import annotations

import asyncio
import gc
import importlib
import importlib.util
import json
import multiprocessing
import os
import sys
import tempfile
import threading
import time
import tracemalloc
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pylsl
from rich.console import Console
from rich.table import Table

from streamnode.metrics import Metrics
from streamnode.montage import make_montage
from streamnode.sinks.lsl import EegOutlet
from streamnode.sources.lsl import LslQuery, LslSource, local_clock
from streamnode.testing import isolate_lsl
from streamnode.types import Float64Array, FloatArray, StreamInfo

N_CHANS, SFREQ = 64, 1000.0
CHUNKS = (1, 8, 32)
N_STREAMS, CHUNK_OF_MANY = 32, 16
SECONDS, ROUNDS = float(os.environ.get("BENCH_SECONDS", "5")), int(os.environ.get("BENCH_ROUNDS", "3"))
_WARM_UP_S = 1.5
_PATIENCE_S = 60.0


@dataclass(frozen=True, slots=True)
class Figures:
    """Of one receiver; medians over the rounds."""

    receiver: str
    n_streams: int
    chunk: int
    cpu_percent: float
    p50_ms: float
    p99_ms: float
    deliveries_per_s: float
    lost: int


@dataclass(frozen=True, slots=True)
class Memory:
    """What is still allocated after so many minutes of samples, beyond what was after the first."""

    minutes: int
    python_kb: float
    process_kb: float


class Tape:
    """Notes which samples were delivered and when, once all streams have been warm for a while.

    Args:
        n_streams: how many there are.
        seconds: how long to take notes.

    Attributes:
        done: set when that is over.
    """

    def __init__(self, n_streams: int, seconds: float) -> None:
        self.done = threading.Event()
        self._n_streams, self._seconds = n_streams, seconds
        self._seen: set[int] = set()
        self._warm = 0.0
        self._delivered: list[tuple[int, FloatArray, float]] = []
        self._began, self._busy_s, self._took_s = 0.0, 0.0, 0.0

    def note(self, stream: int, data: FloatArray) -> None:
        """Samples `(n_times, n_chans)`, which the first channel counts, have reached the user."""
        now = local_clock()
        if len(self._seen) < self._n_streams:
            self._seen.add(stream)
            self._warm = now + _WARM_UP_S
        if self.done.is_set() or now < self._warm:
            return
        if not self._began:
            self._began, self._busy_s = now, time.process_time()
        self._delivered.append((stream, data[:, 0].copy(), now))
        if now > self._began + self._seconds:
            self._busy_s, self._took_s = time.process_time() - self._busy_s, now - self._began
            self.done.set()

    def turn(self) -> Turn:
        """What was noted."""
        return Turn(self._busy_s / self._took_s, len(self._delivered) / self._took_s, self._delivered)


@dataclass(frozen=True, slots=True)
class Turn:
    """What a receiver saw: its share of a core, deliveries a second, and what came when on which stream."""

    busy: float
    deliveries_per_s: float
    delivered: list[tuple[int, FloatArray, float]]

    def latencies_ms(self, pushed: Float64Array, chunk: int) -> Float64Array:
        """Of every sample, given when each chunk was pushed, `(n_streams, n_chunks)`."""
        parts = [now - pushed[stream, index.astype(int) // chunk] for stream, index, now in self.delivered]
        return 1e3 * np.concatenate(parts)

    def lost(self) -> int:
        """Samples missing between the first and the last of each stream."""
        n_lost = 0
        for stream in {stream for stream, _, _ in self.delivered}:
            index = np.concatenate([index for of, index, _ in self.delivered if of == stream])
            n_lost += int(index[-1] - index[0]) + 1 - len(np.unique(index))
        return n_lost


def send(pipe: Connection, names: Sequence[str], chunk: int) -> None:
    """Process that sends to all outlets until told to stop; answers with the time of each push."""
    electrodes = [f"E{i}" for i in range(N_CHANS)]
    infos = [StreamInfo(name, name, "EEG", SFREQ, make_montage(electrodes)) for name in names]
    outlets = [EegOutlet(info) for info in infos]
    pipe.send("ready")
    data = np.zeros((chunk, N_CHANS), np.float32)
    pushed: list[list[float]] = [[] for _ in names]
    began = local_clock()
    while not pipe.poll():
        first = chunk * len(pushed[0])
        data[:, 0] = np.arange(first, first + chunk)
        for i, outlet in enumerate(outlets):  # devices are not in step
            taken = began + (first + chunk * (1 + i / len(outlets))) / SFREQ
            time.sleep(max(0.0, taken - local_clock()))
            pushed[i].append(local_clock())
            outlet.push(data, taken)
    pipe.send(np.array(pushed))


def receive(pipe: Connection, receiver: str, names: Sequence[str]) -> None:
    """Process that reads all streams its way and answers with what it saw."""
    tape = Tape(len(names), SECONDS)
    RECEIVERS[receiver](names, tape)
    pipe.send(tape.turn())


def by_streamnode(names: Sequence[str], tape: Tape) -> None:
    """Our source, to a task on the event loop."""

    async def one(i: int, name: str, metrics: Metrics) -> None:
        async with LslSource(
            LslQuery(name=name), timeout_s=_PATIENCE_S, metrics=metrics, stall_s=_PATIENCE_S
        ) as source:
            async for chunk in source:
                tape.note(i, chunk.data)
                if tape.done.is_set():
                    return

    async def every() -> None:
        metrics = Metrics()
        await asyncio.gather(*(one(i, name, metrics) for i, name in enumerate(names)))

    asyncio.run(every())


def by_pylsl(names: Sequence[str], tape: Tape) -> None:
    """Inlets that block for a sample and take all there is, each in a thread."""
    threads = [threading.Thread(target=_pull, args=(i, name, tape, 0.0)) for i, name in enumerate(names)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def by_pylsl_at_5_hz(names: Sequence[str], tape: Tape) -> None:
    """An inlet that is hardly ever looked into."""
    _pull(0, names[0], tape, 0.2)


def _pull(i: int, name: str, tape: Tape, pause_s: float) -> None:
    (found,) = pylsl.resolve_byprop("name", name, timeout=_PATIENCE_S)
    inlet = pylsl.StreamInlet(found, max_buflen=10, recover=False)
    buffer = np.empty((2048, N_CHANS), np.float32)
    while not tape.done.is_set():
        time.sleep(pause_s)
        data, stamps = inlet.pull_chunk(0.2, len(buffer), buffer, min_samples=1, as_numpy=True)
        if len(stamps):
            tape.note(i, data)


def by_mne_lsl(names: Sequence[str], tape: Tape) -> None:
    """`StreamLSL` as it comes, to a call-back."""
    stream = importlib.import_module("mne_lsl.stream").StreamLSL(bufsize=2.0, name=names[0])
    stream.connect(timeout=_PATIENCE_S)

    def note(data: FloatArray, stamps: Float64Array, _: Any) -> tuple[FloatArray, Float64Array]:
        tape.note(0, data)
        return data, stamps

    stream.add_callback(note)
    tape.done.wait()
    stream.disconnect()


def by_ezmsg_lsl(names: Sequence[str], tape: Tape) -> None:
    """`LSLInletUnit` as it comes, to a subscriber on the event loop."""
    ez: Any = importlib.import_module("ezmsg.core")
    lsl: Any = importlib.import_module("ezmsg.lsl.units")

    class Sink(ez.Unit):  # type: ignore[misc]
        INPUT = ez.InputStream(Any)

        @ez.subscriber(INPUT)  # type: ignore[untyped-decorator]
        async def take(self, message: Any) -> None:
            tape.note(0, message.data)
            if tape.done.is_set():
                raise ez.NormalTermination

    inlet = lsl.LSLInletUnit(lsl.LSLInletSettings(info=lsl.LSLInfo(name=names[0])))
    sink = Sink()
    ez.run(INLET=inlet, SINK=sink, connections=((inlet.OUTPUT_SIGNAL, sink.INPUT),), force_single_process=True)


RECEIVERS: dict[str, Callable[[Sequence[str], Tape], None]] = {
    "streamnode": by_streamnode,
    "pylsl": by_pylsl,
    "pylsl at 5 Hz": by_pylsl_at_5_hz,
    "mne-lsl": by_mne_lsl,
    "ezmsg-lsl": by_ezmsg_lsl,
}
PEERS = {"mne-lsl": "mne_lsl", "ezmsg-lsl": "ezmsg.lsl"}


def peers() -> list[Figures]:
    """All receivers that are installed, at every size of chunk."""
    absent = [name for name, module in PEERS.items() if not _is_installed(module)]
    if absent:
        Console(stderr=True).print(f"not installed, left out: {', '.join(absent)}")
    present = [name for name in RECEIVERS if name not in absent]
    return [figures for chunk in CHUNKS for figures in _compare(present, 1, chunk)]


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # of the package it would be in
        return False


def streams() -> list[Figures]:
    """Many streams in one process."""
    return _compare(["streamnode", "pylsl"], N_STREAMS, CHUNK_OF_MANY)


def _compare(receivers: Sequence[str], n_streams: int, chunk: int) -> list[Figures]:
    """Let receivers take turns at the same streams."""
    spawn = multiprocessing.get_context("spawn")
    names = [f"bench-{chunk}-{i}" for i in range(n_streams)]
    ours, theirs = spawn.Pipe()
    sender = spawn.Process(target=send, args=(theirs, names, chunk))
    sender.start()
    ours.recv()
    turns: dict[str, list[Turn]] = {receiver: [] for receiver in receivers}
    for _ in range(ROUNDS):
        for receiver, of_receiver in turns.items():
            here, there = spawn.Pipe()
            process = spawn.Process(target=receive, args=(there, receiver, names))
            process.start()
            of_receiver.append(here.recv())
            process.join()
    ours.send("stop")
    pushed = ours.recv()
    sender.join()
    return [_figures(receiver, n_streams, chunk, of_receiver, pushed) for receiver, of_receiver in turns.items()]


def _figures(receiver: str, n_streams: int, chunk: int, turns: list[Turn], pushed: Float64Array) -> Figures:
    quantiles = np.median([np.quantile(turn.latencies_ms(pushed, chunk), (0.5, 0.99)) for turn in turns], axis=0)
    return Figures(
        receiver=receiver,
        n_streams=n_streams,
        chunk=chunk,
        cpu_percent=round(100 * float(np.median([turn.busy for turn in turns])), 2),
        p50_ms=round(float(quantiles[0]), 3),
        p99_ms=round(float(quantiles[1]), 3),
        deliveries_per_s=round(float(np.median([turn.deliveries_per_s for turn in turns])), 1),
        lost=sum(turn.lost() for turn in turns),
    )


def memory() -> list[Memory]:
    """Ten minutes of one stream, and what they leave."""
    return asyncio.run(_memory(10))


async def _memory(minutes: int, chunk: int = 32) -> list[Memory]:
    info = StreamInfo("bench-memory", "bench-memory", "EEG", SFREQ, make_montage([f"E{i}" for i in range(N_CHANS)]))
    process, data, seen = psutil.Process(), np.zeros((chunk, N_CHANS), np.float32), []
    async with AsyncExitStack() as stack:
        outlet = stack.enter_context(EegOutlet(info))
        query, metrics = LslQuery(name=info.name), Metrics()
        source = await stack.enter_async_context(
            LslSource(query, timeout_s=_PATIENCE_S, metrics=metrics, stall_s=_PATIENCE_S)
        )
        chunks, began, n_sent, n_received = aiter(source), local_clock(), 0, 0
        tracemalloc.start()
        for _ in range(minutes):
            for _ in range(round(60 * SFREQ / chunk)):
                n_sent += chunk
                outlet.push(data, began + n_sent / SFREQ)
                while n_received < n_sent - 4 * SFREQ:  # liblsl drops what it holds for longer than ten seconds
                    n_received += (await anext(chunks)).n_times
            gc.collect()
            seen.append((tracemalloc.get_traced_memory()[0], process.memory_info().rss))
        tracemalloc.stop()
    first, last = seen[0], seen[-1]
    return [Memory(minutes, round((last[0] - first[0]) / 1024, 1), round((last[1] - first[1]) / 1024, 1))]


SECTIONS: dict[str, Callable[[], Sequence[Figures] | Sequence[Memory]]] = {
    "peers": peers,
    "streams": streams,
    "memory": memory,
}


def main() -> None:
    """Print tables, then the figures as JSON."""
    names = sys.argv[1:] or list(SECTIONS)
    figures: dict[str, list[dict[str, Any]]] = {}
    with tempfile.TemporaryDirectory(prefix="streamnode-bench-") as folder:
        isolate_lsl(Path(folder), f"streamnode-bench-{os.getpid()}")
        for name in names:
            rows = [asdict(row) for row in SECTIONS[name]()]
            figures[name] = rows
            table = Table(*rows[0], title=name)
            for row in rows:
                table.add_row(*map(str, row.values()))
            Console(stderr=True, width=120).print(table)
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
