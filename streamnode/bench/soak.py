"""A node for hours in minutes: whether its memory stays what it is.

Recordings are played faster than time, since headsets cannot be; all else is as ever: signal path, passes of several
epochs, results over MQTT and LSL. What LSL inlets need of memory is seen by `e2e`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from streamnode.bench import rig
from streamnode.bench.rig import Memory, memory, total
from streamnode.sources.synthetic import CH_NAMES_64, SyntheticEeg

_WARM_UP_H = 0.1  # until every size of batch has passed, and every buffer has been full once
_TAPE_S = 120  # of EEG, over and over: each time is a new run
_SFREQ = 256.0
_LOOK_S = 1.0

OnStep = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class SoakReport:
    """What became of a node's memory.

    Attributes:
        model: name in the catalog.
        n_streams: how many it had.
        n_chans: of each.
        hop_s: from one epoch to the next.
        speed: times real time.
        hours: of each stream, after a warm-up.
        epochs: how many were cut in these.
        dropped: how many of them had no result, for want of time.
        rss_mb: its memory, `per_hour` of the streams.
    """

    model: str
    n_streams: int
    n_chans: int
    hop_s: float
    speed: float
    hours: float
    epochs: int
    dropped: int
    rss_mb: Memory


async def measure(
    model: str,
    *,
    n_streams: int,
    n_chans: int,
    hop_s: float,
    hours: float,
    speed: float,
    on_step: OnStep = lambda _: None,
) -> SoakReport:
    """Run a broker and a node, and watch the memory of the node.

    Args:
        model: name in the catalog, which runs on random weights.
        n_streams: recordings that are played at once.
        n_chans: of each, at most 64.
        hop_s: from one epoch to the next.
        hours: of each stream to watch, after a warm-up of six minutes of it.
        speed: times real time.
        on_step: told in a few words what is being done.

    Raises:
        ConfigError: a package that this needs is not installed.
        StreamLost: the node ended before it should.
    """
    names = [f"soak-{number}" for number in range(n_streams)]
    async with rig.opened("soak") as here:
        tape = await asyncio.to_thread(write_tape, here.folder / "tape.csv", n_chans)
        node = played(here.node_file(model, names, hop_s=hop_s), names, tape, speed)
        async with here.running(node) as watched:

            async def until(passed_h: float, what: str) -> tuple[list[float], Sequence[Mapping[str, Any]]]:
                """Memory, MB, once a second until so much of each stream is cut to epochs; and what was last told."""
                rss = [watched.rss_mb]
                while True:
                    infos = await watched.streams()
                    here_h = total(infos, "epochs") * hop_s / 3600 / n_streams
                    if here_h >= passed_h:
                        return rss, infos
                    on_step(f"{what}, {60 * here_h:.0f} of {60 * passed_h:.0f} minutes")
                    await asyncio.sleep(_LOOK_S)
                    rss.append(watched.rss_mb)

            _, before = await until(_WARM_UP_H, "warm-up")
            rss, after = await until(_WARM_UP_H + hours, "node")
    epochs, dropped = (total(after, key) - total(before, key) for key in ("epochs", "dropped"))
    return SoakReport(
        model=model,
        n_streams=n_streams,
        n_chans=n_chans,
        hop_s=hop_s,
        speed=speed,
        hours=epochs * hop_s / 3600 / n_streams,
        epochs=epochs,
        dropped=dropped,
        rss_mb=memory(rss, 3600 * hours),
    )


def write_tape(path: Path, n_chans: int) -> Path:
    """Two minutes of made-up EEG as a CSV file: times in seconds, samples in volts."""
    eeg = SyntheticEeg(CH_NAMES_64[:n_chans], _SFREQ)
    samples = 1e-6 * eeg.take(round(_TAPE_S * _SFREQ))
    rows = np.column_stack((np.arange(len(samples)) / _SFREQ, samples))
    header = ",".join(("time", *eeg.info.ch_names))
    np.savetxt(path, rows, "%.9g", delimiter=",", header=header, comments="")
    return path


def played(node: Mapping[str, Any], labels: Sequence[str], tape: Path, speed: float) -> dict[str, Any]:
    """A node, as its YAML file has it, that plays a recording for each of its streams."""
    source = {"kind": "replay", "file": str(tape), "speed": speed, "loop": True}
    without = {key: value for key, value in node.items() if key not in {"source", "sources"}}
    return {**without, "sources": [{**source, "label": label} for label in labels]}
