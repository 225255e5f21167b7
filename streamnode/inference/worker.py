"""The one inference thread of a node, behind `await`; epochs of all streams that share a model pass it together."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Hashable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from threading import Condition
from typing import TYPE_CHECKING, Literal, Self

import numpy as np

from streamnode.inference.batching import Lobby, Request
from streamnode.metrics import Metrics
from streamnode.types import Clock, Epoch, Float32Array, ModelOutput, OutputName, Trace

if TYPE_CHECKING:  # a node looks for its stream while torch is still being imported
    from streamnode.inference.engine import BoundModel
    from streamnode.inference.reuse import PatchCache

log = logging.getLogger(__name__)

Dropped = Literal["late", "superseded", "not_finite"]
"""Why an epoch has no output: it waited too long, a newer one took its place, or what came out was no numbers."""
Arrays = Mapping[OutputName, Float32Array]
_Outcome = ModelOutput | Dropped | Exception


@dataclass(frozen=True, slots=True, eq=False)
class Feed:
    """What a worker has to know of a stream; two feeds are never equal.

    Attributes:
        model: bound to its channels; the epochs of streams with the same bound model pass together.
        hop_s: time from one epoch to the next; 0 where nobody knows when the next one comes.
        deadline_s: how long after its last sample came an epoch is still worth a pass; None for ever.
        patches: what is kept of one epoch for the next; None where every epoch passes whole.
        max_batch: how many epochs of this model pass together at most.
    """

    model: BoundModel
    hop_s: float = 0.0
    deadline_s: float | None = None
    patches: PatchCache | None = None
    max_batch: int = 64


@dataclass(frozen=True, slots=True, eq=False)
class _Job:
    """An epoch that waits, and who waits for it: they stay together, so that no result can reach another stream."""

    feed: Feed
    epoch: Epoch
    t_enqueued: float
    rows: tuple[int, ...] | None
    steps: int | None
    patches: PatchCache | None
    result: asyncio.Future[ModelOutput | Dropped]

    @property
    def group(self) -> Hashable:
        """Equal for all that can be computed by one call."""
        plain = self.patches is None, self.epoch.std_uv is None
        return self.feed.model, self.epoch.data.shape, self.rows, self.steps, plain


class Worker:
    """Runs models in one thread of its own, so that neither the event loop nor a reader thread ever waits for one.

    Args:
        clock: LSL clock.
        metrics: where passes are counted.
        max_batch: the most epochs in one pass, whatever the model; None goes by the model.
    """

    def __init__(self, clock: Clock, metrics: Metrics | None = None, *, max_batch: int | None = None) -> None:
        self._clock = clock
        self._metrics = metrics or Metrics()
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="inference")
        self._lobby: Lobby[_Job] = Lobby()
        self._max_batch = max_batch
        self._changed = Condition()  # guards the lobby and the flag
        self._busy = False
        self._t_done = -math.inf  # of the latest pass

    async def __aenter__(self) -> Self:
        """The thread starts with the first epoch."""
        return self

    async def __aexit__(self, *exc: object) -> None:
        """Give up what waits, and wait for the pass that runs; a forward pass cannot be interrupted."""
        with self._changed:
            given_up = self._lobby.take_all()
            self._changed.notify()
        for job in given_up:
            job.result.cancel()
        await asyncio.to_thread(self._thread.shutdown, wait=True)

    def infer(
        self,
        epoch: Epoch,
        feed: Feed,
        *,
        t_enqueued: float,
        rows: tuple[int, ...] | None = None,
        steps: int | None = None,
        as_cut: bool = True,
    ) -> asyncio.Future[ModelOutput | Dropped]:
        """Begin to infer one epoch.

        Args:
            epoch: finite in all the channels that are used.
            feed: of its stream.
            t_enqueued: when the epoch began to wait, LSL seconds.
            rows: the channels to use; None uses all.
            steps: of the sampler; None leaves it as bound.
            as_cut: whether its samples are those of the stream, none of them mended for this epoch alone.

        Returns:
            A future of the model's view of the epoch, with the times it passed each station; or of why it has none.
        """
        loop = asyncio.get_running_loop()
        patches = feed.patches if as_cut and rows is None and steps is None else None
        job = _Job(feed, epoch, t_enqueued, rows, steps, patches, loop.create_future())
        request = Request(
            item=job,
            stream=feed,
            group=job.group,
            t_added=self._clock(),
            t_next=t_enqueued + feed.hop_s if feed.hop_s else math.inf,
            hop_s=feed.hop_s,
            expires=math.inf if feed.deadline_s is None else epoch.t_arrived + feed.deadline_s,
            max_batch=min(feed.max_batch, self._max_batch or feed.max_batch),
        )
        with self._changed:
            self._lobby.add(request)
            if self._busy:
                self._changed.notify()
            else:
                self._busy = True
                loop.run_in_executor(self._thread, self._work)
        return job.result

    def warm_up(self, feed: Feed, n_streams: int) -> None:
        """Have the thread pass made-up epochs, of as many streams as there may be, before the first real ones come.

        Returns at once. What goes wrong will do so again, and then be told, with real ones.
        """
        self._thread.submit(feed.model.warm_up_batches, min(n_streams, self._max_batch or n_streams, feed.max_batch))

    def supersede(self, feed: Feed) -> None:
        """Drop what a stream has waiting, unless its pass has begun: something newer is there, and gets its place."""
        with self._changed:
            job = self._lobby.withdraw(feed)
        if job is not None:
            _resolve([job], ["superseded"])

    def _work(self) -> None:
        """Pass after pass, until nothing waits."""
        while jobs := self._next_batch():
            self._run(jobs)

    def _next_batch(self) -> list[_Job]:
        """The epochs of the next pass, once they are together; none when nothing waits any more."""
        began = self._clock()
        with self._changed:
            while (wait_s := self._lobby.wait_s(now := self._clock())) < math.inf:
                if wait_s > 0:
                    self._changed.wait(wait_s)
                    continue
                if late := self._lobby.take_late(now):
                    _hand_over(late, ["late"] * len(late))
                if jobs := [job for job in self._lobby.take() if not job.result.cancelled()]:
                    self._metrics.batch_wait.labels(jobs[0].feed.model.name).observe(now - began)
                    return jobs
            self._busy = False
        return []

    def _run(self, jobs: Sequence[_Job]) -> None:
        """One pass, and each result to whom it belongs; where it fails, one by one, so that only the guilty fails."""
        try:
            outcomes = self._infer(jobs)
        except Exception as error:  # noqa: BLE001  (whoever waits for the result is told)
            if len(jobs) > 1 and not _is_out_of_memory(error):
                for job in jobs:
                    self._run([job])
                return
            outcomes = [error] * len(jobs)
        _hand_over(jobs, outcomes)

    def _infer(self, jobs: Sequence[_Job]) -> list[_Outcome]:
        name = jobs[0].feed.model.name
        t_infer0 = self._clock()
        arrays = _forward(jobs)
        t_infer1, t_done = self._clock(), self._t_done
        self._t_done = t_infer1
        self._metrics.inference.labels(name).observe(t_infer1 - t_infer0)
        self._metrics.batch.labels(name).observe(len(jobs))
        rows = ({name: array[i].copy() for name, array in arrays.items()} for i in range(len(jobs)))
        return [_outcome(job, row, t_done, t_infer0, t_infer1) for job, row in zip(jobs, rows, strict=True)]


def _forward(jobs: Sequence[_Job]) -> Arrays:
    """One pass of epochs that go together."""
    model, rows, steps = jobs[0].feed.model, jobs[0].rows, jobs[0].steps
    if caches := [job.patches for job in jobs if job.patches is not None]:
        return model.run_overlapping([job.epoch for job in jobs], caches)
    x = np.stack([job.epoch.data for job in jobs])
    std_uv = [job.epoch.std_uv for job in jobs if job.epoch.std_uv is not None]
    scale = {"std_uv": np.array(std_uv)} if std_uv else {}
    model = model if steps is None else model.with_steps(steps)
    return model.run(x, **scale) if rows is None else model.run_on(rows, x, **scale)


def _outcome(job: _Job, arrays: Arrays, t_done: float, t_infer0: float, t_infer1: float) -> ModelOutput | Dropped:
    """What the model said of one epoch, unless that is no numbers; what belongs to a channel left out never is.

    `t_done` is when the pass before was over.
    """
    leaves_out = job.rows is not None and not job.feed.model.SPEC.rebuilds
    enough = np.any if leaves_out else np.all  # what a model says of some channels is numbers throughout, or nowhere
    if not all(enough(np.isfinite(array)) for array in arrays.values()):
        return "not_finite"
    epoch = job.epoch
    output = ModelOutput(
        model=job.feed.model.name,
        stream=epoch.info.name,
        seq=epoch.seq,
        run=epoch.run,
        t0=epoch.t0,
        t_last=epoch.t_last,
        n_missing=epoch.n_missing,
        settling=epoch.settling,
        untrained=job.feed.model.weights.untrained,
        marker=epoch.marker,
        trace=Trace(
            t_last=epoch.t_last,
            t_arrived=epoch.t_arrived,
            t_epoch=epoch.t_epoch,
            t_enqueued=job.t_enqueued,
            t_turn=max(job.t_enqueued, t_done),
            t_infer0=t_infer0,
            t_infer1=t_infer1,
        ),
    )
    return output.with_arrays(arrays)


def _is_out_of_memory(error: Exception) -> bool:
    return isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"  # torch's; without torch here


def _hand_over(jobs: Sequence[_Job], outcomes: Sequence[_Outcome]) -> None:
    """From the thread to the event loop that waits."""
    jobs[0].result.get_loop().call_soon_threadsafe(_resolve, jobs, outcomes)


def _resolve(jobs: Sequence[_Job], outcomes: Sequence[_Outcome]) -> None:
    for job, outcome in zip(jobs, outcomes, strict=True):
        if job.result.done():  # cancelled: its stream is gone
            continue
        if isinstance(outcome, Exception):
            job.result.set_exception(outcome)
        else:
            job.result.set_result(outcome)
