"""The life of a sample between source and sinks: acquire -> infer -> publish, each a task, joined by bounded channels.

Acquisition never waits for inference and inference never waits for a sink; what cannot be kept up with is dropped
oldest first, and every drop is counted with its reason. A lost source is opened again for as long as it takes; its
samples start a new run, so that no epoch crosses the gap.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from streamnode.channel import Channel
from streamnode.errors import ContractError, SinkError, StreamLost
from streamnode.inference.pace import Decision, Pace
from streamnode.inference.worker import Feed, Worker
from streamnode.metrics import Metrics, Timings
from streamnode.signal.guard import Guard, Refusal, Verdict
from streamnode.signal.path import EpochStream, MarkerEpochs
from streamnode.types import (
    Clock,
    Epoch,
    Marker,
    MarkerSource,
    ModelOutput,
    OutputMeta,
    Quality,
    Sink,
    Source,
    StreamInfo,
)

if TYPE_CHECKING:  # a node looks for its stream while torch is still being imported
    from streamnode.inference.engine import BoundModel

log = logging.getLogger(__name__)

_SINK_BACKLOG = 64
_DRAIN_S = 2.0
_RETRY_S = (0.1, 0.25, 0.5, 1.0, 2.0, 5.0)


@dataclass(frozen=True, slots=True)
class Session:
    """All that is built from one `StreamInfo`: the same stream coming back finds its session again.

    Attributes:
        info: the stream.
        path: from its chunks to epochs.
        guard: judges them.
        feed: takes them to the model that is bound to their channels.
        meta: describes what comes out.
        pace: decides how much of the sampler an epoch has; None where there is none, or it always runs whole.
        reuse: whether an epoch passes on to the next what the two share, or why not; empty where no model could.
    """

    info: StreamInfo
    path: EpochStream
    guard: Guard
    feed: Feed
    meta: OutputMeta
    pace: Pace | None = None
    reuse: str = ""

    @property
    def model(self) -> BoundModel:
        """The model, bound to the channels of the epochs."""
        return self.feed.model


@dataclass(slots=True)
class Status:
    """What is going on with one stream right now, for the status page and the readiness check."""

    label: str = ""
    sinks: tuple[str, ...] = ()
    source: str = "starting"
    model: str | None = None
    session: Session | None = None
    last: ModelOutput | None = None
    epochs: int = 0
    dropped: int = 0
    timings: dict[str, Timings] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Waiting:
    """An epoch on its way to the model, and what raw samples say of it unless that is still to be asked."""

    epoch: Epoch
    raw: Quality | None
    session: Session
    t_enqueued: float


@dataclass(frozen=True, slots=True)
class _Result:
    """An output and the description it belongs to; without an output it only announces the description."""

    meta: OutputMeta
    output: ModelOutput | None


class Pipeline:
    """Runs one stream through one model to all sinks.

    Args:
        open_source: makes a new source whose first run has the given number; called again after each loss.
        open_markers: makes a new source of the markers that epochs are cut around; None where they are not.
        open_session: builds signal path, guard and bound model for a stream, given the number of its first epoch;
            called when the stream is new or has changed.
        worker: the inference thread.
        sinks: open sinks.
        backlog: how many epochs may wait for inference: 1 is latest-wins.
        rebuild: whether a stream that comes back changed is taken as it is, or ends the pipeline.
        clock: LSL clock.
        metrics: where everything is counted.
        label: of the stream, as far as it is known before the stream is.

    Attributes:
        status: what is going on.
        sinks: as given.
    """

    def __init__(
        self,
        *,
        open_source: Callable[[int], Source],
        open_session: Callable[[StreamInfo, int], Awaitable[Session]],
        worker: Worker,
        sinks: Sequence[Sink],
        backlog: int,
        rebuild: bool = True,
        clock: Clock,
        metrics: Metrics,
        open_markers: Callable[[], MarkerSource] | None = None,
        label: str = "",
    ) -> None:
        self.status = Status(label, tuple(sink.name for sink in sinks))
        self.sinks = tuple(sinks)
        self._open_source = open_source
        self._open_markers = open_markers
        self._opened = asyncio.Event()
        self._open_session = open_session
        self._worker = worker
        self._rebuild = rebuild
        self._clock = clock
        self._metrics = metrics
        self._only_latest = backlog == 1
        self._inferring = False
        reason = "superseded" if self._only_latest else "backlog"
        self._slot: Channel[_Waiting] = Channel(backlog, lambda waiting: self._drop(waiting.epoch, reason))
        self._channels = [(sink, self._channel_to(sink)) for sink in sinks]

    async def run(self) -> None:
        """Run until a finite source ends. Raises the first error that retrying cannot mend."""
        async with asyncio.TaskGroup() as sinks:
            publishing = [
                sinks.create_task(self._publish(sink, channel), name=f"publish {sink.name}")
                for sink, channel in self._channels
            ]
            try:
                async with asyncio.TaskGroup() as tasks:
                    acquiring = tasks.create_task(self._acquire(), name="acquire")
                    if self._open_markers is not None:
                        marking = tasks.create_task(self._mark(self._open_markers), name="mark")
                        acquiring.add_done_callback(lambda _: marking.cancel())
                    tasks.create_task(self._infer(), name="infer")
                await asyncio.gather(*publishing)
            except BaseException:  # an error, or whoever runs this has had enough
                await self._drain(publishing)
                raise

    async def _drain(self, publishing: Sequence[asyncio.Task[None]]) -> None:
        """Nothing more is inferred: leave sinks a moment to take what has been, and count what they do not."""
        for _, channel in self._channels:
            channel.close()
        if publishing:
            await asyncio.wait(publishing, timeout=_DRAIN_S)
        for (sink, channel), task in zip(self._channels, publishing, strict=True):
            if not task.done():
                n_left = len(channel) + 1  # the one it was about to take
                log.warning("%s did not take its last %d results within %g s", sink.name, n_left, _DRAIN_S)
                self._metrics.outputs_dropped.labels(sink.name, "stopped").inc(n_left)

    async def _acquire(self) -> None:
        """Open the source, and again after every loss; end the slot when it ends for good."""
        run, losses = -1, 0
        while True:
            self.status.source = "waiting" if losses == 0 else "lost"
            try:
                async with self._open_source(run + 1) as source:
                    session = await self._session_for(source.info)
                    if losses:
                        log.warning("stream %s is back", source.info.name)
                        self._metrics.reconnects.labels(source.info.name).inc()
                    self.status.source = "running"
                    async for chunk in source:
                        run, losses = chunk.run, 0
                        session.guard.watch(chunk)
                        for epoch in session.path(chunk):
                            self._enqueue(epoch, session)
                        self._count_markers(session)
                        await asyncio.sleep(0)  # the guard is asked of an epoch before it hears of newer samples
            except StreamLost as lost:
                if self.status.session is None:
                    raise  # it was never there: the source has waited as long as it was told to
                self._metrics.connected.labels(self.status.session.info.name).set(0)
                losses = await _back_off(lost, losses)
            else:
                self.status.source = "ended"
                self._end_markers()
                self._slot.close()
                return

    async def _mark(self, open_markers: Callable[[], MarkerSource]) -> None:
        """Open the source of markers, and again after every loss, until there are no more samples."""
        found, losses = False, 0
        while True:
            try:
                async with open_markers() as markers:
                    found = True
                    await self._opened.wait()  # meanwhile LSL keeps the markers
                    async for marker in markers:
                        losses = 0
                        self._take_marker(marker)
            except StreamLost as lost:
                if not found:
                    raise
                losses = await _back_off(lost, losses)

    def _take_marker(self, marker: Marker) -> None:
        session = self.status.session
        assert session is not None
        assert isinstance(session.path, MarkerEpochs)
        for epoch in session.path.add_marker(marker):
            self._enqueue(epoch, session)
        self._count_markers(session)

    def _count_markers(self, session: Session) -> None:
        if isinstance(session.path, MarkerEpochs):
            for reason, n_markers in session.path.take_dropped().items():
                self._metrics.markers_dropped.labels(session.info.name, reason).inc(n_markers)

    def _end_markers(self, heir: EpochStream | None = None) -> None:
        """Hand on the markers that are ahead of their samples, and count those whose samples will not come."""
        session = self.status.session
        if session is not None and isinstance(session.path, MarkerEpochs):
            session.path.end(heir if isinstance(heir, MarkerEpochs) else None)
            self._count_markers(session)

    async def _session_for(self, info: StreamInfo) -> Session:
        """The present session if the stream has not changed, else a new one.

        The first is announced to all sinks at once; another by its first result, behind those of the one before it.
        """
        before = session = self.status.session
        if session is None or _changed(session.info, info) or _mains_found(session.info, info):
            if session is not None and _changed(session.info, info):
                if not self._rebuild:
                    raise ContractError(
                        f"stream {info.name} came back with another rate or other channels, which source.on_change "
                        "rejects: restore the device, or set it to rebuild"
                    )
                log.warning("stream %s came back with another rate or other channels: rebuilding", info.name)
            session = await self._open_session(info, self.status.epochs)
            self._end_markers(session.path)
            self.status.session = session
            self._opened.set()
            log.info("stream %s (%d channels, %g Hz): %s", info.name, info.n_chans, info.sfreq, _words(session.meta))
            if session.reuse:
                log.info("stream %s: %s", info.name, session.reuse)
            for _, channel in self._channels if before is None else ():
                channel.put(_Result(session.meta, None))
        return session

    def _enqueue(self, epoch: Epoch, session: Session) -> None:
        self.status.epochs += 1
        self._metrics.epochs.labels(epoch.info.name).inc()
        # One that goes on at once is asked about while the model runs; one that has to wait, before that is forgotten.
        goes_on = epoch.marker is None and not self._inferring and not len(self._slot)
        raw = None if goes_on else session.guard.raw_quality(epoch)
        self._slot.put(_Waiting(epoch, raw, session, self._clock()))
        if self._only_latest:
            self._worker.supersede(session.feed)

    async def _infer(self) -> None:
        async for waiting in self._slot:
            self._inferring = True
            output = await self._output_of(waiting)
            self._inferring = False
            if output is None:
                continue
            self._metrics.inferred.labels(output.stream).inc()
            self.status.last = output
            for _, channel in self._channels:
                channel.put(_Result(waiting.session.meta, output))
        for _, channel in self._channels:
            channel.close()

    async def _output_of(self, waiting: _Waiting) -> ModelOutput | None:
        """What the model says of an epoch, or None, counted, if guard or worker drop it."""
        epoch, session, t_enqueued = waiting.epoch, waiting.session, waiting.t_enqueued
        decision: Decision | None = None
        if session.guard.only_flags and session.pace is None and np.isfinite(epoch.data).all():
            inferring = self._worker.infer(epoch, session.feed, t_enqueued=t_enqueued)
            verdict = _judge(waiting)  # while the model runs: nothing depends on it
        else:
            verdict = _judge(waiting)
            if not isinstance(verdict, Verdict):
                self._drop(epoch, verdict)
                return None
            decision = self._paced(verdict, session, t_enqueued)
            if decision is not None and decision.action == "drop":
                self._drop(epoch, "pace")
                return None
            inferring = self._worker.infer(
                verdict.epoch,
                session.feed,
                t_enqueued=t_enqueued,
                rows=verdict.rows,
                steps=None if decision is None else decision.steps,
                as_cut=verdict.epoch.data is epoch.data,
            )
        output = await inferring
        if not isinstance(output, ModelOutput):
            self._drop(epoch, output)
            return None
        if not isinstance(verdict, Verdict):
            return output
        if decision is not None:
            _learn(session, decision, verdict, output)
        return replace(output, bad_channels=verdict.bad_channels)

    def _paced(self, verdict: Verdict, session: Session, t_enqueued: float) -> Decision | None:
        """How much of the sampler an epoch is to have."""
        if session.pace is None:
            return None
        decision = session.pace.decide(late_s=self._clock() - t_enqueued, bad=bool(verdict.bad_channels))
        self._metrics.pace.labels(session.info.name, decision.action).inc()
        self._metrics.pace_steps.labels(session.info.name).set(decision.steps)
        return decision

    async def _publish(self, sink: Sink, channel: Channel[_Result]) -> None:
        announced: OutputMeta | None = None
        failing = False
        async for result in channel:
            try:
                if result.meta is not announced:
                    await sink.announce(result.meta)
                    announced = result.meta
                if result.output is not None:
                    await sink.publish(result.output)
                    self._observe(result.output, sink)
                failing = False
            except SinkError as error:
                log.log(logging.DEBUG if failing else logging.WARNING, "%s", error)  # one outage, one warning
                failing = True
                if result.output is not None:
                    self._metrics.outputs_dropped.labels(sink.name, "sink_error").inc()

    def _observe(self, output: ModelOutput, sink: Sink) -> None:
        """Account for the time this result took, now that the sink has it."""
        if output.trace is None:
            return
        trace = replace(output.trace, t_published=self._clock())
        self._metrics.latency.labels(output.stream, sink.name).observe(trace.latency_s)
        self._metrics.wait.labels(output.stream, sink.name).observe(trace.wait_s)
        self._metrics.overhead.labels(output.stream, sink.name).observe(trace.overhead_s)
        timings = self.status.timings.get(sink.name) or Timings()
        timings.add(trace)
        self.status.timings[sink.name] = timings  # once there is something in it, for other threads look

    def _channel_to(self, sink: Sink) -> Channel[_Result]:
        def count(result: _Result) -> None:
            if result.output is not None:
                self._metrics.outputs_dropped.labels(sink.name, "sink_full").inc()

        return Channel(_SINK_BACKLOG, count)

    def _drop(self, epoch: Epoch, reason: str) -> None:
        self.status.dropped += 1
        self._metrics.epochs_dropped.labels(epoch.info.name, reason).inc()


def _learn(session: Session, decision: Decision, verdict: Verdict, output: ModelOutput) -> None:
    """Tell the pace what a pass has taken, and for how many steps: a good epoch may have needed none."""
    steps = session.model.steps_run(decision.steps, bad=verdict.rows is not None)
    if session.pace is not None and output.trace is not None and steps is not None:
        session.pace.took(steps, output.trace.t_infer1 - output.trace.t_infer0)


def _judge(waiting: _Waiting) -> Verdict | Refusal:
    guard, raw = waiting.session.guard, waiting.raw
    return guard.judge(waiting.epoch, guard.raw_quality(waiting.epoch) if raw is None else raw)


async def _back_off(lost: StreamLost, losses: int) -> int:
    """Wait before the next attempt, the longer the more attempts in a row were in vain; returns their number."""
    log.warning("%s; trying to get it back", lost)
    await asyncio.sleep(_RETRY_S[min(losses, len(_RETRY_S) - 1)])
    return losses + 1


def _changed(before: StreamInfo, now: StreamInfo) -> bool:
    return (before.sfreq, before.montage) != (now.sfreq, now.montage)


def _mains_found(before: StreamInfo, now: StreamInfo) -> bool:
    """Whether the mains are known now of a stream that at first was not there long enough to tell."""
    return before.mains_hz is None and now.mains_hz is not None


def _words(meta: OutputMeta) -> str:
    """What happens to a stream, for the log."""
    when = f"every {meta.hop_s:g} s" if meta.hop_s else "around every marker"
    window = f"{meta.duration_s:g} s of {len(meta.ch_names)} channels {when}"
    return f"{'; '.join(meta.signal)}; {meta.model} on {window}"
