"""A process that plays EEG on many LSL streams: `python -m streamnode.bench.senders SFREQ N_CHANS NAME ...`.

One process for all, for on a small machine sixteen of them would be what is measured. The streams send in turn, as
headsets do that know nothing of each other.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import replace

from streamnode.sinks.lsl import EegOutlet
from streamnode.sources.lsl import local_clock
from streamnode.sources.synthetic import CH_NAMES_64, SyntheticEeg

_CHUNK_S = 0.032
_TAPE_S = 8  # of EEG, over and over


def send(sfreq: float, n_chans: int, names: Sequence[str]) -> None:
    """Send until the process is interrupted.

    Args:
        sfreq: of each stream, Hz.
        n_chans: of each, at most 64.
        names: of the streams, which are also their `source_id`.
    """
    chunk = max(1, round(_CHUNK_S * sfreq))
    eeg = SyntheticEeg(CH_NAMES_64[:n_chans], sfreq)
    tape = [eeg.take(chunk) for _ in range(round(_TAPE_S * sfreq / chunk))]
    with ExitStack() as stack:
        infos = [replace(eeg.info, name=name, source_id=name) for name in names]
        outlets = [stack.enter_context(EegOutlet(info)) for info in infos]
        began, n_sent = local_clock(), 0
        while True:
            for i, outlet in enumerate(outlets):
                taken = began + (n_sent + chunk * (1 + i / len(outlets))) / sfreq
                time.sleep(max(0.0, taken - local_clock()))
                outlet.push(tape[n_sent // chunk % len(tape)], taken)
            n_sent += chunk


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        send(float(sys.argv[1]), int(sys.argv[2]), sys.argv[3:])
