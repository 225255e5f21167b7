"""A worker, many streams and a model that says what it was asked: does every answer reach who asked for it?"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING, cast

import numpy as np

from streamnode.inference.worker import Feed, Worker
from streamnode.montage import make_montage
from streamnode.types import Epoch, Float32Array, ModelOutput, ModelSpec, OutputName, StreamInfo, WeightsInfo

if TYPE_CHECKING:
    from streamnode.inference.engine import BoundModel

_MONTAGE = make_montage(["Cz", "Pz"])
_SPEC = ModelSpec(
    "echo",
    sfreq=256.0,
    patch=1,
    durations=(1.0,),
    ch_names=None,
    needs_positions=False,
    l_freq=0.0,
    h_freq=128.0,
    notch=False,
    reference="as_recorded",
    scaling="none",
    outputs=("embedding",),
)
_PLANS = {"plain": 0.81, "masked": 0.1, "late": 0.02, "superseded": 0.05, "cancelled": 0.02}  # shares of the epochs


class Echo:
    """What a worker needs of a bound model; its embedding of an epoch is the first sample of each channel.

    Args:
        name: of the model.

    Attributes:
        SPEC: it leaves out channels that it is not to use.
        batches: how many epochs each pass had.
    """

    SPEC = _SPEC

    def __init__(self, name: str = "echo") -> None:
        self.name = name
        self.weights = WeightsInfo("random:0", untrained=True)
        self.batches: list[int] = []

    def run(self, epochs_uV: Float32Array) -> dict[OutputName, Float32Array]:  # noqa: N803
        """`(n_epochs, n_chans, n_times)` to `(n_epochs, n_chans)`."""
        self.batches.append(len(epochs_uV))
        return {"embedding": epochs_uV[:, :, 0]}

    def run_on(self, rows: tuple[int, ...], epochs_uV: Float32Array) -> dict[OutputName, Float32Array]:  # noqa: N803
        """`run`, with NaN for the channels left out."""
        embedding = self.run(epochs_uV)["embedding"].copy()
        embedding[:, [row for row in range(embedding.shape[1]) if row not in rows]] = np.nan
        return {"embedding": embedding}


@dataclass(slots=True)
class Tally:
    """What became of the epochs of a drill.

    Attributes:
        inferred: came back as they should.
        late: those meant to be, dropped.
        superseded: dropped in favour of a newer one.
        cancelled: given up by their stream.
        astray: anything else, such as the result of another epoch.
        passes: of the model.
        largest: epochs in one pass, at most.
        seconds: all of it took.
    """

    inferred: int = 0
    late: int = 0
    superseded: int = 0
    cancelled: int = 0
    astray: int = 0
    passes: int = 0
    largest: int = 0
    seconds: float = 0.0


async def drill(n_epochs: int, *, n_streams: int = 256, models: Sequence[Echo] = (), seed: int = 0) -> Tally:
    """Submit epochs of many streams as fast as they are answered, and look at every answer.

    What happens to an epoch is drawn from the seed: it passes as it is, or with a channel left out; it is late; it is
    replaced while it waits; its stream goes away.

    Args:
        n_epochs: of all streams together.
        n_streams: at a time.
        models: which they share; three by default.
        seed: of what happens.
    """
    began, tally, models = perf_counter(), Tally(), models or [Echo(f"echo-{number}") for number in range(3)]
    async with Worker(perf_counter) as worker, asyncio.TaskGroup() as streams:
        for number in range(n_streams):
            model, share = models[number % len(models)], len(range(number, n_epochs, n_streams))
            rng = random.Random(f"{seed} {number}")  # noqa: S311  (nothing secret)
            streams.create_task(_Stream(worker, model, number, tally).live(share, rng))
    batches = [size for model in models for size in model.batches]
    tally.passes, tally.largest, tally.seconds = len(batches), max(batches), perf_counter() - began
    return tally


class _Stream:
    """Sends one epoch after the other, each when the one before is answered."""

    def __init__(self, worker: Worker, model: Echo, number: int, tally: Tally) -> None:
        self._worker, self._number, self._tally = worker, number, tally
        self._feed = Feed(cast("BoundModel", model), deadline_s=3600.0)
        self._info = StreamInfo(f"stream {number}", "", "EEG", 256.0, _MONTAGE)

    async def live(self, n_epochs: int, rng: random.Random) -> None:
        plans = rng.choices(list(_PLANS), list(_PLANS.values()), k=n_epochs)
        for seq, plan in enumerate(plans):
            await self._send(seq, plan)

    async def _send(self, seq: int, plan: str) -> None:
        now = perf_counter()
        t_arrived = now - 7200 if plan == "late" else now
        data = np.array([[self._number], [seq]], np.float32)
        epoch = Epoch(self._info, data, seq, seq, now, now, t_arrived, now, run=self._number)
        rows = (1,) if plan == "masked" else None
        answer = self._worker.infer(epoch, self._feed, t_enqueued=now, rows=rows)
        if plan == "superseded":
            self._worker.supersede(self._feed)
        if plan == "cancelled" and answer.cancel():
            self._tally.cancelled += 1
            return
        match await answer:
            case "late" if plan == "late":
                self._tally.late += 1
            case "superseded" if plan == "superseded":
                self._tally.superseded += 1
            case ModelOutput() as output if plan != "late" and _belongs(output, epoch, masked=plan == "masked"):
                self._tally.inferred += 1
            case _:
                self._tally.astray += 1


def _belongs(output: ModelOutput, epoch: Epoch, *, masked: bool) -> bool:
    """Whether a result is that of an epoch, by its labels and by its numbers."""
    expected = epoch.data[:, 0].copy()
    if masked:
        expected[0] = np.nan
    labels = (output.stream, output.seq, output.run) == (epoch.info.name, epoch.seq, epoch.run)
    return labels and output.embedding is not None and np.array_equal(output.embedding, expected, equal_nan=True)
