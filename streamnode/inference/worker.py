"""The one inference thread of a node, behind `await`."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Self

from streamnode.types import Clock, Epoch, ModelOutput, Trace

if TYPE_CHECKING:  # a node looks for its stream while torch is still being imported
    from streamnode.inference.engine import BoundModel


class Worker:
    """Runs models in one thread of its own, so that neither the event loop nor a reader thread ever waits for one.

    Args:
        clock: LSL clock, for the trace.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="inference")

    async def __aenter__(self) -> Self:
        """The thread starts with the first epoch."""
        return self

    async def __aexit__(self, *exc: object) -> None:
        """Wait for the pass that runs; a forward pass cannot be interrupted."""
        await asyncio.to_thread(self._thread.shutdown, wait=True, cancel_futures=True)

    def infer(
        self,
        epoch: Epoch,
        model: BoundModel,
        *,
        t_enqueued: float,
        rows: tuple[int, ...] | None = None,
        steps: int | None = None,
    ) -> asyncio.Future[ModelOutput]:
        """Begin to infer one epoch; the future has the model's view of it, with the times it passed each station.

        Args:
            epoch: finite in all the channels that are used.
            model: bound to the epoch's channels.
            t_enqueued: when the epoch began to wait, LSL seconds.
            rows: the channels to use; None uses all.
            steps: of the sampler; None leaves it as bound.
        """
        loop = asyncio.get_running_loop()
        return loop.run_in_executor(self._thread, self._infer, epoch, model, t_enqueued, rows, steps)

    def _infer(
        self, epoch: Epoch, model: BoundModel, t_enqueued: float, rows: tuple[int, ...] | None, steps: int | None
    ) -> ModelOutput:
        t_infer0 = self._clock()
        model = model if steps is None else model.with_steps(steps)
        arrays = model.run(epoch.data[None]) if rows is None else model.run_on(rows, epoch.data[None])
        output = ModelOutput(
            model=model.name,
            stream=epoch.info.name,
            seq=epoch.seq,
            run=epoch.run,
            t0=epoch.t0,
            t_last=epoch.t_last,
            n_missing=epoch.n_missing,
            settling=epoch.settling,
            untrained=model.weights.untrained,
            marker=epoch.marker,
            trace=Trace(
                t_last=epoch.t_last,
                t_arrived=epoch.t_arrived,
                t_epoch=epoch.t_epoch,
                t_enqueued=t_enqueued,
                t_infer0=t_infer0,
                t_infer1=self._clock(),
            ),
        )
        return output.with_arrays({name: array[0] for name, array in arrays.items()})
