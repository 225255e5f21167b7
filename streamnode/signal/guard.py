"""Judges every epoch before it reaches the model, by the raw samples and by the filtered ones, and applies a policy."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from streamnode.signal.interpolate import Policy, repair
from streamnode.signal.quality import RawMonitor, assess, carry
from streamnode.types import Chunk, Epoch, StreamInfo


@dataclass(frozen=True, slots=True)
class Verdict:
    """An epoch that may be inferred.

    Attributes:
        epoch: with its quality, and repaired as the policy says.
        rows: the channels to infer it on; None for all.
    """

    epoch: Epoch
    rows: tuple[int, ...] | None = None


class Guard:
    """Watches a stream and judges the epochs that are made of it.

    Args:
        raw: the stream as the source yields it.
        info: the stream as the model sees it.
        policy: what to do about bad channels.
        horizon_s: how far back an epoch reaches behind the newest raw sample.
        line_hz: mains frequency; None watches for 50 and 60 Hz.
    """

    def __init__(
        self, raw: StreamInfo, info: StreamInfo, policy: Policy, *, horizon_s: float, line_hz: float | None
    ) -> None:
        self._raw, self._info, self._policy, self._line_hz = raw, info, policy, line_hz
        self._monitor = RawMonitor(raw, horizon_s=horizon_s, line_hz=line_hz)

    def watch(self, chunk: Chunk) -> None:
        """Take note of raw samples, before the epochs they complete are judged."""
        self._monitor(chunk)

    def judge(self, epoch: Epoch) -> Verdict | None:
        """The epoch as the policy wants it inferred, or None if it must not be."""
        raw = carry(self._monitor.quality(epoch.t0, epoch.t_last), self._raw.ch_names, self._info.ch_names)
        quality = raw | assess(epoch.data, self._info.sfreq, line_hz=self._line_hz)
        repaired = repair(epoch.data, self._info.montage, quality, self._policy)
        if repaired is None:
            return None
        epoch = replace(epoch, quality=quality)
        if len(repaired.rows) < self._info.n_chans:
            return Verdict(epoch, tuple(int(row) for row in repaired.rows))
        return Verdict(replace(epoch, data=repaired.data)) if np.isfinite(repaired.data).all() else None
