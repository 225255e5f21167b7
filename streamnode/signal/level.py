"""How large a signal is: one standard deviation of all channels together, for models that divide by it.

Such a model was trained on recordings divided by the standard deviation of their whole. A live stream has no whole yet,
so an epoch takes along that of what there is: of all signal so far, or of what it is prepared with.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from streamnode.montage import clean_name
from streamnode.signal.quality import assess
from streamnode.types import Epoch, Float32Array, FloatArray, StreamInfo

WARM_UP_S = 30.0
"""Of signal, before its standard deviation is believed.

How far so much of it, causally filtered, is off what the authors' preprocessing finds in the whole recording, median
and what 19 of 20 stay below, in six recordings of one to four minutes (PhysioNet's eegmmidb, EEGLAB's sample): 5 s 11
and 32 %, 10 s 8 and 25 %, 20 s 5 and 18 %, 30 s 5 and 14 %, 60 s 4 and 9 %. In a seventh of slow drifts, more of which
pass causal filters, it is twice as large however long one waits.
"""


@dataclass(frozen=True, slots=True)
class Counting:
    """Which channels count.

    Attributes:
        without: names of channels that never do.
        only_good: whether a channel that is bad in an epoch does not count there. Whatever holds a sample that is not
            finite never does.
        line_hz: mains frequency; None watches for 50 and 60 Hz.
    """

    without: tuple[str, ...] = ()
    only_good: bool = False
    line_hz: float | None = None

    def rows(self, data: Float32Array, info: StreamInfo) -> NDArray[np.intp]:
        """Indices of the channels that count in an epoch `(n_chans, n_times)` of microvolts."""
        named = {clean_name(name).casefold() for name in self.without}
        left_out = {row for row, name in enumerate(info.ch_names) if name.casefold() in named}
        if self.only_good:
            left_out.update(assess(data, info.sfreq, line_hz=self.line_hz).bad)
        finite = np.flatnonzero(np.isfinite(data).all(axis=1))
        return finite[[row not in left_out for row in finite.tolist()]]


@dataclass(frozen=True, slots=True)
class Squares:
    """Sum of the squares of a signal in the average reference of its own channels, and of how many numbers.

    As that reference leaves no common mean, the root of their ratio is the standard deviation, without any correction
    for the degrees of freedom, and two of these add up without loss.
    """

    total: float = 0.0
    count: int = 0

    @classmethod
    def of(cls, data: FloatArray, rows: NDArray[np.intp]) -> Squares:
        """Of some channels of `(n_chans, n_times)`; of fewer than two, whose average leaves nothing, there are none."""
        if len(rows) < 2:
            return cls()
        known = data[rows].astype(np.float64)
        known -= known.mean(axis=0)
        return cls(float(np.vdot(known, known)), known.size)

    def __add__(self, other: Squares) -> Squares:
        return Squares(self.total + other.total, self.count + other.count)

    @property
    def std(self) -> float | None:
        """Microvolts; None where nothing was counted."""
        return float(np.sqrt(self.total / self.count)) if self.count else None


class RunningStd:
    """Gives every epoch the standard deviation of all signal up to its end.

    Counted is what the epochs hold, each sample once, from where the filters have settled. Nothing is forgotten: the
    longer a stream lasts, the closer this is to what the whole recording will have. It goes on over gaps, for cap and
    head are the same behind them; a stream with another rate or other channels has a path, and so one of these, of its
    own. Until `WARM_UP_S` are counted epochs are marked as settling; while there is nothing, an epoch has its own.

    Args:
        info: the stream as the model sees it.
        counting: which channels count.
    """

    def __init__(self, info: StreamInfo, counting: Counting) -> None:
        self._info, self._counting = info, counting
        self._squares, self._n_times = Squares(), 0
        self._run, self._end = -1, 0

    @property
    def label(self) -> str:
        """What happens, in words."""
        return f"one standard deviation of all channels so far, settling until it is that of {WARM_UP_S:g} s"

    def __call__(self, epoch: Epoch) -> Epoch:
        """The epoch with its `std_uv`; epochs come in the order in which they were cut."""
        rows, n_times = self._counting.rows(epoch.data, self._info), epoch.data.shape[1]
        if not epoch.settling:
            found = Squares.of(epoch.data[:, n_times - self._count_new(epoch) :], rows)
            self._squares += found
            self._n_times += found.count // max(1, len(rows))
        std_uv = self._squares.std
        return replace(
            epoch,
            std_uv=Squares.of(epoch.data, rows).std if std_uv is None else std_uv,
            settling=epoch.settling or self._n_times < WARM_UP_S * self._info.sfreq,
        )

    def _count_new(self, epoch: Epoch) -> int:
        """How many samples of an epoch no epoch before it had."""
        n_times, stop = epoch.data.shape[1], epoch.start + epoch.data.shape[1]
        if epoch.run < self._run:  # its marker came when the next run had begun
            return 0
        if epoch.run > self._run:
            self._run, self._end = epoch.run, epoch.start
        new: int = min(n_times, max(0, stop - self._end))
        self._end = max(stop, self._end)
        return new
