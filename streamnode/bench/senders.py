"""A process that plays EEG on many LSL streams: `python -m streamnode.bench.senders SFREQ N_CHANS HOP_S PHASES NAMES`.

One process for all, for on a small machine sixteen of them would be what is measured. A node begins its epochs with the
first sample that it has of a stream, and it comes to many at about the same time. So once it has come to all, every
stream pauses and begins again, each at its own moment of the hop, as headsets do that know nothing of each other; or
all at once, the worst that can happen.
"""

from __future__ import annotations

import heapq
import random
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import replace
from typing import Literal

from streamnode.sinks.lsl import EegOutlet
from streamnode.sources.lsl import local_clock
from streamnode.sources.synthetic import CH_NAMES_64, SyntheticEeg
from streamnode.types import FloatArray

Phases = Literal["apart", "together"]
"""When streams complete their epochs: each at a moment of the hop drawn from a seed, or all at once."""

_CHUNK_S = 0.032
_TAPE_S = 8  # of EEG, over and over
_PAUSE_S = 0.4  # more than a node fills in, less than it takes for a loss


def send(sfreq: float, n_chans: int, hop_s: float, phases: Phases, names: Sequence[str]) -> None:
    """Send until the process is interrupted.

    Args:
        sfreq: of each stream, Hz.
        n_chans: of each, at most 64.
        hop_s: from one epoch to the next.
        phases: when the streams complete theirs.
        names: of the streams, which are also their `source_id`.
    """
    chunk = max(1, round(_CHUNK_S * sfreq))
    eeg = SyntheticEeg(CH_NAMES_64[:n_chans], sfreq)
    tape = [eeg.take(chunk) for _ in range(round(_TAPE_S * sfreq / chunk))]
    with ExitStack() as stack:
        infos = [replace(eeg.info, name=name, source_id=name) for name in names]
        outlets = [stack.enter_context(EegOutlet(info)) for info in infos]
        now = local_clock()
        _play(outlets, tape, chunk / sfreq, [now for _ in names], lambda: all(o.have_consumers for o in outlets))
        again = local_clock() + _PAUSE_S
        begins = [again + share * hop_s for share in shares(len(names), phases)]
        _play(outlets, tape, chunk / sfreq, begins, lambda: False)


def shares(n_streams: int, phases: Phases) -> list[float]:
    """The part of a hop by which each stream is behind; the same at every call."""
    draw = random.Random(0)  # noqa: S311  (nothing secret)
    return [draw.random() if phases == "apart" else 0.0 for _ in range(n_streams)]


def _play(
    outlets: Sequence[EegOutlet],
    tape: Sequence[FloatArray],
    chunk_s: float,
    begins: Sequence[float],
    over: Callable[[], bool],
) -> None:
    """Send the tape on every outlet, each from its own moment on, LSL time, until it is over."""
    due = [(begin + chunk_s, number, 0) for number, begin in enumerate(begins)]
    heapq.heapify(due)
    while not over():
        taken, number, n_sent = due[0]
        time.sleep(max(0.0, taken - local_clock()))
        outlets[number].push(tape[n_sent % len(tape)], taken)
        heapq.heapreplace(due, (begins[number] + (n_sent + 2) * chunk_s, number, n_sent + 1))


if __name__ == "__main__":
    sfreq, n_chans, hop_s, phases, *names = sys.argv[1:]
    with suppress(KeyboardInterrupt):
        send(float(sfreq), int(n_chans), float(hop_s), "together" if phases == "together" else "apart", names)
