"""Judges every epoch before it reaches the model, by the raw samples and by the filtered ones, and applies a policy.

`watch` and `raw_quality` follow the stream and belong to the thread that reads it; they are cheap. `judge` looks at
nothing but what it is given: any thread may call it, also while the others go on.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import numpy as np

from streamnode.signal.interpolate import Policy, repair
from streamnode.signal.quality import RawMonitor, assess, carry
from streamnode.types import Chunk, Epoch, Quality, StreamInfo

Refusal = Literal["not_finite", "bad_channels"]
"""Why an epoch is not inferred: samples are no numbers and the policy leaves them, or it gives up the epoch."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """An epoch that may be inferred.

    Attributes:
        epoch: with its quality, and repaired as the policy says.
        rows: the channels to infer it on; None for all.
    """

    epoch: Epoch
    rows: tuple[int, ...] | None = None

    @property
    def bad_channels(self) -> tuple[str, ...]:
        """Names of the channels that are bad, whatever is done about them."""
        quality = self.epoch.quality
        return () if quality is None else tuple(self.epoch.info.ch_names[row] for row in quality.bad)


class Guard:
    """Watches a stream and judges the epochs that are made of it.

    Args:
        raw: the stream as the source yields it.
        info: the stream as the model sees it.
        policy: what to do about bad channels.
        horizon_s: how much before the start of a chunk an epoch may begin that comes after it, in seconds of samples:
            its own length, the delay of the signal path, and how late a marker may be.
        line_hz: mains frequency; None watches for 50 and 60 Hz.
        least: an epoch with fewer channels left is given up.
        counted: indices of the channels that count as left; None for all.
    """

    def __init__(
        self,
        raw: StreamInfo,
        info: StreamInfo,
        policy: Policy,
        *,
        horizon_s: float,
        line_hz: float | None,
        least: int = 1,
        counted: Collection[int] | None = None,
    ) -> None:
        self._raw, self._info, self._policy, self._least = raw, info, policy, least
        self._counts = np.isin(np.arange(info.n_chans), list(range(info.n_chans) if counted is None else counted))
        self._horizon_s, self._line_hz = horizon_s, line_hz
        self._new_monitor = partial(RawMonitor, raw, horizon_s=horizon_s, line_hz=line_hz)
        self._monitors: dict[int, RawMonitor] = {}  # by run: an epoch may be asked for when its run is already over
        self._ends: dict[int, int] = {}  # of these runs, counted in samples from the first of all, silence left out
        self._n_times = 0

    @property
    def only_flags(self) -> bool:
        """Whether an epoch of finite samples is inferred as it is, whatever the verdict says of its channels."""
        return self._policy == "keep"

    def watch(self, chunk: Chunk) -> None:
        """Take note of raw samples, before the epochs they complete."""
        if chunk.run not in self._monitors:
            first_needed = self._n_times - self._horizon_s * self._raw.sfreq
            self._ends = {run: end for run, end in self._ends.items() if end >= first_needed}
            self._monitors = {run: self._monitors[run] for run in self._ends}
            self._monitors[chunk.run] = self._new_monitor()
        self._n_times += chunk.n_times
        self._ends[chunk.run] = self._n_times
        self._monitors[chunk.run](chunk)

    def raw_quality(self, epoch: Epoch) -> Quality:
        """What the raw samples of an epoch say of its channels; to be asked as soon as the epoch is there."""
        found = self._monitors[epoch.run].quality(epoch.t0, epoch.t_last)
        return carry(found, self._raw.ch_names, self._info.ch_names)

    def judge(self, epoch: Epoch, raw: Quality) -> Verdict | Refusal:
        """The epoch as the policy wants it inferred, or why it must not be.

        Args:
            epoch: as it was cut.
            raw: what `raw_quality` said of it.
        """
        quality = raw | assess(epoch.data, self._info.sfreq, line_hz=self._line_hz)
        repaired = repair(epoch.data, self._info.montage, quality, self._policy)
        if repaired is None or self._counts[repaired.rows].sum() < self._least:
            return "bad_channels"
        epoch = replace(epoch, quality=quality)
        if len(repaired.rows) < self._info.n_chans:
            return Verdict(epoch, tuple(int(row) for row in repaired.rows))
        return Verdict(replace(epoch, data=repaired.data)) if np.isfinite(repaired.data).all() else "not_finite"
