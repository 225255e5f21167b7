"""Many streams through one worker: how many a machine keeps up with, and that no result ever reaches another stream.

Each stream has its own session, as in a node: its epochs are judged by its guard and inferred by the worker that all
share. They come when their time has come, streams at random moments of the hop, as devices do that know nothing of each
other. A newer epoch replaces one that still waits; that, and one that is late by a hop, counts as dropped.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import count
from typing import Any

import numpy as np

from streamnode import build
from streamnode.bench.contenders import montage_of
from streamnode.bench.drill import Tally, drill
from streamnode.config import EpochConfig, ModelConfig, SignalConfig
from streamnode.inference.engine import Engine
from streamnode.inference.worker import Worker
from streamnode.metrics import Metrics
from streamnode.offline.run import Plan
from streamnode.pipeline import Session
from streamnode.sources.synthetic import SyntheticEeg
from streamnode.types import Chunk, Epoch, ModelOutput

_WARM_UP_S = 1.0
_FEWEST = 8
_FULL = 0.97  # of the time; where the model runs longer, a longer trial would drop some
_FINE = 8  # of the largest number of streams found, the part by which it may be off

OnStep = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Trial:
    """So many streams for a while.

    Attributes:
        n_streams: how many.
        batched: whether their epochs could pass the model together.
        epochs: how many came.
        dropped: of these, how many had no result.
        batch: mean number of epochs in a pass.
        busy: share of the time in which the model ran.
        wait_p50_ms: from the epoch being there to its pass; median. 0, as the others, where nothing had a result.
        wait_p99_ms: 99th percentile.
        latency_p50_ms: from the epoch being there to its result.
        latency_p99_ms: 99th percentile.
    """

    n_streams: int
    batched: bool
    epochs: int
    dropped: int
    batch: float
    busy: float
    wait_p50_ms: float
    wait_p99_ms: float
    latency_p50_ms: float
    latency_p99_ms: float


@dataclass(frozen=True, slots=True)
class Added:
    """What passing together adds to the time from an epoch being there to its result; below 0 it saves.

    The same streams complete their epochs at the same moments in two trials of one run, together and one by one. It is
    the difference of their percentiles: what an epoch waits for company, and that a pass of many takes longer, less
    what it no longer queues behind the passes of others.

    Attributes:
        n_streams: the largest number that keeps up both ways.
        p50_ms: to the median.
        p99_ms: to the 99th percentile.
    """

    n_streams: int
    p50_ms: float
    p99_ms: float


@dataclass(frozen=True, slots=True)
class StreamsReport:
    """How many streams a machine keeps up with.

    Attributes:
        model: name in the catalog.
        n_chans: of each stream.
        hop_s: time between epochs.
        seconds: length of a trial.
        trials: all of them.
        most: the largest number of streams with no epoch dropped and time to spare, epochs passing together.
        most_one_by_one: the same with one epoch in a pass.
        added: by passing together; None where not even one stream keeps up.
        cross_talk: what became of epochs thrown at a worker at random; `astray` must be 0.
    """

    model: str
    n_chans: int
    hop_s: float
    seconds: float
    trials: tuple[Trial, ...]
    most: int
    most_one_by_one: int
    added: Added | None
    cross_talk: Tally


async def measure(
    model: ModelConfig,
    *,
    n_chans: int,
    hop_s: float,
    seconds: float,
    limit: int,
    submissions: int,
    on_step: OnStep = lambda _: None,
) -> StreamsReport:
    """Find the largest number of streams, with and without batches, and look for results gone astray.

    Args:
        model: what the streams go through.
        n_chans: of each stream, or as many as the model takes.
        hop_s: time between the epochs of a stream.
        seconds: length of each trial.
        limit: the most streams to try.
        submissions: how many epochs to throw at the worker in search of cross-talk.
        on_step: told in a few words what is being done.
    """
    on_step("model")
    engine = await asyncio.to_thread(build.load_engine, model)
    names = montage_of(engine.spec.name, n_chans).ch_names
    epoch = EpochConfig(duration_s=engine.spec.durations[0], hop_s=hop_s, deadline_s=hop_s)
    plan = Plan(model=model, epoch=epoch, signal=SignalConfig())
    streams = Streams(engine, plan, names)
    trials: dict[tuple[bool, int], Trial] = {}

    async def sustained(n_streams: int, *, batched: bool) -> bool:
        on_step(f"{n_streams} streams {'together' if batched else 'one by one'}")
        trial = await streams.trial(n_streams, batched=batched, seconds=seconds)
        trials[batched, n_streams] = trial
        return not trial.dropped and trial.busy < _FULL

    most = {batched: await largest(partial(sustained, batched=batched), limit) for batched in (True, False)}
    both = min(most.values())
    for batched in (True, False):
        if both and (batched, both) not in trials:
            await sustained(both, batched=batched)
    on_step(f"{submissions:,} submissions")
    return StreamsReport(
        model=f"{model.kind}-{model.variant}",
        n_chans=len(names),
        hop_s=hop_s,
        seconds=seconds,
        trials=tuple(trials[key] for key in sorted(trials, reverse=True)),
        most=most[True],
        most_one_by_one=most[False],
        added=added(trials[True, both], trials[False, both]) if both else None,
        cross_talk=await drill(submissions),
    )


def added(together: Trial, one_by_one: Trial) -> Added:
    """What the one adds to the other, of as many streams."""
    return Added(
        together.n_streams,
        together.latency_p50_ms - one_by_one.latency_p50_ms,
        together.latency_p99_ms - one_by_one.latency_p99_ms,
    )


async def largest(works: Callable[[int], Any], limit: int) -> int:
    """The largest number up to a limit that works, found by doubling, then halving the rest; 0 if none does.

    Args:
        works: a coroutine function that tells of a number whether it does.
        limit: the largest to try.
    """
    good, bad = 0, limit + 1
    n = min(_FEWEST, limit)
    while good < n < bad:
        if await works(n):
            good, n = n, min(2 * n, limit)
        else:
            bad = n
    while bad - good > max(1, good // _FINE):
        n = (good + bad) // 2
        if await works(n):
            good = n
        else:
            bad = n
    return good


# ---- Trials ----------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Log:
    """What came of the epochs of a trial."""

    waits_s: list[float] = field(default_factory=list)
    latencies_s: list[float] = field(default_factory=list)
    passes: set[tuple[float, float]] = field(default_factory=set)
    epochs: int = 0
    dropped: int = 0


class Streams:
    """Streams of made-up EEG that share an engine.

    Args:
        engine: the model.
        plan: how epochs are made of the streams.
        ch_names: channels of each.
    """

    def __init__(self, engine: Engine, plan: Plan, ch_names: Sequence[str]) -> None:
        self._engine, self._plan = engine, plan
        self._eeg = SyntheticEeg(ch_names, engine.spec.sfreq)
        self._ready: list[tuple[Session, Epoch]] = []

    async def trial(self, n_streams: int, *, batched: bool, seconds: float) -> Trial:
        """Run so many of them for a while."""
        while len(self._ready) < n_streams:
            self._ready.append(await asyncio.to_thread(self._open, len(self._ready)))
        metrics = Metrics()
        options = {} if batched else {"max_batch": 1}
        log, draw = _Log(), random.Random(0)  # noqa: S311
        async with Worker(build.clock, metrics, **options) as worker:
            worker.warm_up(self._ready[0][0].feed, n_streams)
            began = build.clock() + _WARM_UP_S
            hop_s = self._plan.epoch.hop_s
            async with asyncio.TaskGroup() as tasks:
                for session, epoch in self._ready[:n_streams]:
                    phase = draw.random() * hop_s
                    tasks.create_task(self._play(session, epoch, worker, log, due=began + phase, end=began + seconds))
        waits, latencies = (1e3 * np.array(values or [0.0]) for values in (log.waits_s, log.latencies_s))
        end = began + seconds
        busy_s = sum(max(0.0, min(t1, end) - max(t0, began)) for t0, t1 in log.passes)
        return Trial(
            n_streams=n_streams,
            batched=batched,
            epochs=log.epochs,
            dropped=log.dropped,
            batch=len(log.waits_s) / max(1, len(log.passes)),
            busy=busy_s / seconds,
            wait_p50_ms=float(np.percentile(waits, 50)),
            wait_p99_ms=float(np.percentile(waits, 99)),
            latency_p50_ms=float(np.percentile(latencies, 50)),
            latency_p99_ms=float(np.percentile(latencies, 99)),
        )

    def _open(self, number: int) -> tuple[Session, Epoch]:
        """A session, and an epoch that came through its path."""
        info = replace(self._eeg.info, name=f"stream-{number}", source_id=f"stream-{number}")
        session = build.open_session(self._plan, self._engine, info)
        epochs, taken = list[Epoch](), 0
        while not epochs:
            data = self._eeg.take(round(info.sfreq))
            t0 = taken / info.sfreq
            chunk = Chunk(info, data, taken, t0, t0 + 1, run=0)
            session.guard.watch(chunk)
            epochs, taken = list(session.path(chunk)), taken + len(data)
        return session, epochs[0]

    async def _play(self, session: Session, epoch: Epoch, worker: Worker, log: _Log, *, due: float, end: float) -> None:
        """One stream: an epoch each hop."""
        raw, hop_s = session.guard.raw_quality(epoch), self._plan.epoch.hop_s
        hop = round(hop_s * epoch.info.sfreq)
        pending: list[asyncio.Future[Any]] = []
        for number in count():
            t = due + number * hop_s
            if t >= end:
                break
            await asyncio.sleep(t - build.clock())
            now = build.clock()
            latest = replace(epoch, seq=number, start=number * hop, t_last=t, t_arrived=t, t_epoch=now)
            worker.supersede(session.feed)
            inferring = worker.infer(latest, session.feed, t_enqueued=now)
            session.guard.judge(latest, raw)  # while the model runs, as in a node
            log.epochs += 1
            inferring.add_done_callback(partial(_note, log, t))
            pending.append(inferring)
        await asyncio.gather(*pending)


def _note(log: _Log, t_due: float, done: asyncio.Future[Any]) -> None:
    outcome: ModelOutput | str = done.result()
    if isinstance(outcome, str):
        log.dropped += 1
        return
    trace = outcome.trace
    assert trace is not None
    log.waits_s.append(trace.t_infer0 - trace.t_enqueued)
    log.latencies_s.append(build.clock() - t_due)
    log.passes.add((trace.t_infer0, trace.t_infer1))
