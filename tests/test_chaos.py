"""An hour of every fault a device can have, through time base, chain and epocher: what comes out is accounted for."""

from collections import defaultdict

import numpy as np
import pytest

from streamnode.montage import make_montage
from streamnode.signal.chain import Chain
from streamnode.signal.channels import Pick
from streamnode.signal.epochs import Epocher
from streamnode.signal.timebase import TimeBase
from streamnode.testing import PER_UNIT, Life, Push, VirtualClock, decode, random_timeline, render
from streamnode.types import Chunk, Epoch, StreamInfo

HIDDEN_S = 0.060  # a loss, a duplicate or a swap up to 1.5 times the jitter looks like it until more stamps have come


class Connection:
    """What a node builds for each process of a source, without LSL.

    Args:
        life: the process.
        clock: LSL clock.
        first_run: number of its first run.
        fill_s: longest gap to fill in.
    """

    def __init__(self, life: Life, clock: VirtualClock, first_run: int, fill_s: float) -> None:
        info = StreamInfo("chaos", "chaos", "EEG", life.sfreq, make_montage(life.ch_names))
        self.timebase = TimeBase(life.sfreq, first_run, round(fill_s * life.sfreq))
        self.received = 0
        self.last_run = first_run
        self._info, self._to_microvolts = info, 1 / PER_UNIT[life.unit]
        self._chain = Chain(info, [Pick(info, life.ch_names[:2])])
        n_times, hop = round(5 * life.sfreq), round(life.sfreq)
        self._epocher = Epocher(self._chain.info, n_times=n_times, hop=hop, clock=clock)

    def __call__(self, push: Push) -> list[Epoch]:
        """Take in one push and return the epochs it completes."""
        self.received += len(push.index)
        epochs: list[Epoch] = []
        for span in self.timebase.add(push.stamps, push.t_push):
            self.last_run = span.run
            data = push.data[span.rows] * self._to_microvolts
            data = np.concatenate((np.repeat(data[:1], span.n_missing, axis=0), data))
            chunk = Chunk(self._info, data, span.start, span.t0, push.t_push, span.run, span.n_missing)
            epochs += self._epocher(self._chain(chunk))
        return epochs


@pytest.mark.slow
@pytest.mark.parametrize(("seed", "fill_s"), [(1, 0.0), (2, 0.0), (3, 0.0), (4, 0.1)])
def test_an_hour_of_chaos_is_accounted_for(seed: int, fill_s: float, virtual_clock: VirtualClock) -> None:
    """Received + lost - stale is what the device captured, to the sample; no epoch holds samples of two runs."""
    script = random_timeline(seed, 3600.0)
    pushes, truth = render(script, virtual_clock())
    connections: list[Connection] = []
    epochs: dict[int, list[Epoch]] = defaultdict(list)
    for push in pushes:
        virtual_clock.advance_to(push.t_push)
        while push.life >= len(connections):
            first_run = connections[-1].last_run + 1 if connections else 0
            connections.append(Connection(truth.lives[len(connections)], virtual_clock, first_run, fill_s))
        epochs[push.life] += connections[push.life](push)

    counted = [c.received + c.timebase.lost - c.timebase.stale for c in connections]
    sent = [life.start + np.flatnonzero(truth.n_sent[life.start : life.stop]) for life in truth.lives]
    assert counted == [int(index[-1] - index[0]) + 1 for index in sent]

    for life in truth.lives:
        for epoch in epochs[life.number]:
            index = decode(epoch.data.T)
            assert life.start <= index.min() <= index.max() < life.stop
            shift = index - np.arange(len(index))
            if not epoch.n_missing:  # what is filled in repeats the sample behind it
                assert np.abs(shift - np.median(shift)).max() <= HIDDEN_S * life.sfreq
    assert any(epoch.n_missing for of_life in epochs.values() for epoch in of_life) == (fill_s > 0)
    assert sum(map(len, epochs.values())) > 2000
