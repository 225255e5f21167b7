"""The life of a node: everything opened in order, one pipeline run, everything closed in reverse, whatever happens."""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Self

from threadpoolctl import threadpool_limits

from streamnode import build
from streamnode.aside import aside
from streamnode.config import NodeConfig, SourceConfig
from streamnode.errors import StreamLost, StreamnodeError
from streamnode.inference.worker import Worker
from streamnode.metrics import Metrics
from streamnode.pipeline import Pipeline, Session
from streamnode.types import Sink, StreamInfo
from streamnode.web.app import NodeView, make_app, serve

if TYPE_CHECKING:
    from streamnode.inference.engine import Engine

log = logging.getLogger(__name__)


async def run(config: NodeConfig, *, on_start: Callable[[Sequence[Pipeline]], None] | None = None) -> None:
    """Run a node until its sources end or the task is cancelled.

    Args:
        config: the node.
        on_start: called with the pipeline of each stream just before the first sample, for those who want to watch.

    Raises:
        StreamnodeError: the first thing that went wrong and that waiting cannot mend.
    """
    try:
        async with asyncio.TaskGroup() as tasks:
            # Loading takes seconds and fails often: it runs beside the search for the stream, and ends it on failure.
            loading = tasks.create_task(aside(build.load_engine, config.model), name="load")
            metrics = Metrics()
            async with AsyncExitStack() as stack:
                loading.add_done_callback(stack.enter_context(_garbage_put_off()))
                worker = await stack.enter_async_context(Worker(build.clock, metrics))
                pipelines = [_pipeline(config, source, loading, worker, metrics) for source in config.streams]
                loading.add_done_callback(partial(_note_model, pipelines))
                if config.node.http is not None:
                    view = NodeView(config, [pipeline.status for pipeline in pipelines], metrics)
                    url = await stack.enter_async_context(serve(make_app(view), config.node.http))
                    log.info("status page at %s", url)
                sinks = await stack.enter_async_context(_ClosedTogether())
                for sink in (sink for pipeline in pipelines for sink in pipeline.sinks):
                    await sinks.open(sink)
                if loading.done():
                    await loading  # its failure has cancelled this task, which asyncio.wait_for of 3.11 may swallow
                if on_start is not None:
                    on_start(pipelines)
                try:
                    async with asyncio.TaskGroup() as streams:
                        for pipeline in pipelines:
                            streams.create_task(pipeline.run())
                except* StreamLost:
                    await loading  # a model that cannot be loaded is told first: mending it needs no device
                    raise
    except* StreamnodeError as errors:
        raise _first(errors) from None


class _ClosedTogether:
    """Sinks opened one by one and closed all at once, for each may have to wait for a broker that is silent."""

    def __init__(self) -> None:
        self._open: list[Sink] = []

    async def __aenter__(self) -> Self:
        return self

    async def open(self, sink: Sink) -> None:
        """Open another."""
        await sink.__aenter__()
        self._open.append(sink)

    async def __aexit__(self, *exc: object) -> None:
        """Close all. Raises the first error of any, once all are closed."""
        errors = await asyncio.gather(
            *(sink.__aexit__(None, None, None) for sink in self._open), return_exceptions=True
        )
        for error in filter(None, errors):
            raise error


def _pipeline(
    config: NodeConfig, source: SourceConfig, loading: asyncio.Task[Engine], worker: Worker, metrics: Metrics
) -> Pipeline:
    """What one stream passes through; model and thread are shared by all."""

    async def open_session(info: StreamInfo, first_seq: int) -> Session:
        session = await aside(build.open_session, config, await loading, info, first_seq)
        worker.warm_up(session.feed, len(config.streams))
        return session

    return Pipeline(
        open_source=build.source_opener(config, source, metrics),
        open_markers=build.marker_opener(config.epoch),
        open_session=open_session,
        worker=worker,
        sinks=build.build_sinks(config, source.label if config.sources else None, metrics),
        backlog=build.backlog(config),
        rebuild=build.rebuilds(source),
        label=source.label or "",
        clock=build.clock,
        metrics=metrics,
    )


def _note_model(pipelines: Sequence[Pipeline], loading: asyncio.Task[Engine]) -> None:
    """Show on the status page that the model is loaded."""
    if not loading.cancelled() and loading.exception() is None:
        for pipeline in pipelines:
            pipeline.status.model = loading.result().name


@contextmanager
def _garbage_put_off() -> Iterator[Callable[[object], None]]:
    """Garbage is left alone until the yielded function is called, and what is there by then until the end.

    Nothing of what is imported is garbage, and to look takes half a second of a start; to look through all of it
    later, as Python does every so often, would keep epochs waiting for a third of one.
    """
    if not gc.isenabled():  # somebody else has decided about it
        yield lambda _: None
        return

    def go_on(_: object) -> None:
        if not gc.isenabled():
            gc.freeze()
            gc.enable()

    gc.disable()
    try:
        yield go_on
    finally:
        gc.unfreeze()
        gc.enable()


async def run_until_signal(config: NodeConfig) -> None:
    """`run`, ended cleanly by SIGINT or SIGTERM; a second signal ends the process at once."""
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None
    signalled = False

    def stop() -> None:
        nonlocal signalled
        signalled = True
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)
            signal.signal(number, signal.SIG_DFL)
        task.cancel()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop)
    try:
        # The small products of the signal path gain nothing from NumPy's threads, whose idling takes a whole core.
        with threadpool_limits(1, user_api="blas"):
            await run(config)
    except asyncio.CancelledError:
        if not signalled:
            raise
        log.info("stopped")


def _first(errors: BaseExceptionGroup[StreamnodeError]) -> StreamnodeError:
    """The first leaf of a group of errors, nested or not."""
    error: BaseException = errors
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    assert isinstance(error, StreamnodeError)
    return error
