"""The life of a node: everything opened in order, one pipeline run, everything closed in reverse, whatever happens."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Callable
from contextlib import AsyncExitStack
from functools import partial
from typing import TYPE_CHECKING

from threadpoolctl import threadpool_limits

from streamnode import build
from streamnode.config import NodeConfig
from streamnode.errors import StreamLost, StreamnodeError
from streamnode.inference.worker import Worker
from streamnode.metrics import Metrics
from streamnode.pipeline import Pipeline, Session
from streamnode.types import StreamInfo
from streamnode.web.app import NodeView, make_app, serve

if TYPE_CHECKING:
    from streamnode.inference.engine import Engine

log = logging.getLogger(__name__)


async def run(config: NodeConfig, *, on_start: Callable[[Pipeline], None] | None = None) -> None:
    """Run a node until its source ends or the task is cancelled.

    Args:
        config: the node.
        on_start: called with the pipeline just before its first sample, for those who want to watch.

    Raises:
        StreamnodeError: the first thing that went wrong and that waiting cannot mend.
    """
    try:
        async with asyncio.TaskGroup() as tasks:
            # Loading takes seconds and fails often: it runs beside the search for the stream, and ends it on failure.
            loading = tasks.create_task(asyncio.to_thread(build.load_engine, config.model), name="load")

            async def open_session(info: StreamInfo, first_seq: int) -> Session:
                return await asyncio.to_thread(build.open_session, config, await loading, info, first_seq)

            metrics = Metrics()
            async with AsyncExitStack() as stack:
                worker = await stack.enter_async_context(Worker(build.clock))
                sinks = build.build_sinks(config, metrics)
                pipeline = Pipeline(
                    open_source=build.source_opener(config, metrics),
                    open_session=open_session,
                    worker=worker,
                    sinks=sinks,
                    backlog=build.backlog(config),
                    rebuild=build.rebuilds(config),
                    clock=build.clock,
                    metrics=metrics,
                )
                loading.add_done_callback(partial(_note_model, pipeline))
                if config.node.http is not None:
                    view = NodeView(config, pipeline.status, metrics, tuple(sink.name for sink in sinks))
                    url = await stack.enter_async_context(serve(make_app(view), config.node.http))
                    log.info("status page at %s", url)
                for sink in sinks:
                    await stack.enter_async_context(sink)
                if on_start is not None:
                    on_start(pipeline)
                try:
                    await pipeline.run()
                except* StreamLost:
                    await loading  # a model that cannot be loaded is told first: mending it needs no device
                    raise
    except* StreamnodeError as errors:
        raise _first(errors) from None


def _note_model(pipeline: Pipeline, loading: asyncio.Task[Engine]) -> None:
    """Show on the status page that the model is loaded."""
    if not loading.cancelled() and loading.exception() is None:
        pipeline.status.model = loading.result().name


async def run_until_signal(config: NodeConfig) -> None:
    """`run`, ended cleanly by SIGINT or SIGTERM; a second signal ends it at once."""
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None
    signalled = False

    def stop() -> None:
        nonlocal signalled
        signalled = True
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)
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
