"""Looks for results that reach another stream: epochs that say whose they are, through a model that says it again."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np

from streamnode import build
from streamnode.inference.worker import Feed, Worker
from streamnode.montage import make_montage
from streamnode.types import Epoch, Float32Array, ModelOutput, OutputName, StreamInfo, WeightsInfo

_INFO = StreamInfo("", "", "EEG", 256.0, make_montage(["Cz", "Pz", "Oz"]))


@dataclass(frozen=True, slots=True)
class Found:
    """What became of epochs thrown at a worker at random.

    Attributes:
        submissions: how many.
        delivered: how many had a result.
        superseded: how many were given up for a newer one of their stream.
        astray: results that were not those of the epoch they came for; must be 0.
    """

    submissions: int
    delivered: int
    superseded: int
    astray: int


class Echo:
    """What a worker needs of a bound model; it gives back the first sample of each channel."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.weights = WeightsInfo("echo", untrained=True)

    def run(self, epochs_uV: Float32Array) -> dict[OutputName, Float32Array]:  # noqa: N803
        """`(n_epochs, n_chans, n_times)` to `(n_epochs, n_chans)`."""
        return {"embedding": epochs_uV[:, :, 0]}


async def search(submissions: int, *, n_streams: int = 64, models: Sequence[Echo] = (), seed: int = 0) -> Found:
    """Throw epochs of many streams at a worker, in bursts of random size and order, some replaced while they wait.

    Args:
        submissions: how many epochs.
        n_streams: on the models in turn.
        models: two of them by default.
        seed: of the bursts.
    """
    models = models or (Echo("echo-0"), Echo("echo-1"))
    draw = random.Random(seed)  # noqa: S311
    feeds = [Feed(cast("Any", models[i % len(models)]), hop_s=1.0) for i in range(n_streams)]
    infos = [replace(_INFO, name=f"stream-{i}") for i in range(n_streams)]
    delivered = superseded = astray = sent = 0
    async with Worker(build.clock) as worker:
        while sent < submissions:
            burst = list[tuple[Epoch, str, asyncio.Future[Any]]]()
            for _ in range(min(draw.randint(1, 4 * n_streams), submissions - sent)):
                i = draw.randrange(n_streams)
                epoch, feed = _marked(infos[i], stream=i, seq=sent, run=draw.randrange(3)), feeds[i]
                worker.supersede(feed)
                burst.append((epoch, feed.model.name, worker.infer(epoch, feed, t_enqueued=epoch.t_epoch)))
                sent += 1
            for epoch, model, inferring in burst:
                output = await inferring
                if isinstance(output, str):
                    superseded += 1
                else:
                    delivered += 1
                    astray += not _belongs(output, epoch, model)
    return Found(sent, delivered, superseded, astray)


def _marked(info: StreamInfo, *, stream: int, seq: int, run: int) -> Epoch:
    """An epoch whose samples say whose it is."""
    high, low = divmod(seq, 1 << 20)  # whole in float32
    data = np.array([[stream], [high], [low]], np.float32)
    now = build.clock()
    return Epoch(info, data, seq, start=seq, t0=now, t_last=now, t_arrived=now, t_epoch=now, run=run)


def _belongs(output: ModelOutput, epoch: Epoch, model: str) -> bool:
    named = (output.model, output.stream, output.seq, output.run) == (model, epoch.info.name, epoch.seq, epoch.run)
    return named and output.embedding is not None and np.array_equal(output.embedding, epoch.data[:, 0])
