"""Bad channels, epoch by epoch: which they are, and what is wrong with them.

The criteria are those of the PREP pipeline (Bigdely-Shamlo et al. 2015, doi:10.3389/fninf.2015.00016) and of EEGLAB's
clean_rawdata, fitted to a window of a few seconds. Each wants its own input:

- `flat`, `railed`, `line` and `not_finite` want what the amplifier sent: a high-pass turns a railed channel into a
  decaying one, a notch hides the mains. `RawMonitor` watches the chunks as they arrive.
- `amplitude` and `correlation` want what the model sees: behind the high-pass, whose absence makes every drifting
  electrode an outlier. `assess` looks at the epoch, for these and again for the first four.

`Quality` of both are joined with `|`, after `carry` has moved the raw one to the channels of the model:

    monitor(chunk)  # every chunk of the source, before the chain
    raw = carry(monitor.quality(epoch.t0, epoch.t_last), source.info.ch_names, epoch.info.ch_names)
    quality = raw | assess(epoch.data, epoch.info.sfreq)
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from streamnode.signal.mains import MAINS_HZ
from streamnode.types import Chunk, Fault, Float32Array, Float64Array, FloatArray, Quality, StreamInfo

BoolArray = NDArray[np.bool_]

_SEGMENT_S = 0.5  # a blink spoils one or two of the ten that an epoch has, and so not their median
_CORRELATED_UP_TO_HZ = 30.0  # where neighbours share most of their EEG
_BLOCK_S = 0.1  # what `RawMonitor` sums up, and so the grain of its answers
_PATIENCE_S = 1.0  # it does so when asked, or at the latest when so much is waiting: fewer calls, each for more samples
_MIN_LEVELS = 64  # of a converter; a coarser one repeats its extremes by itself
_MIN_CORRELATED = 4  # channels; among fewer, being alone proves nothing
_TINY = np.float32(1e-30)


@dataclass(frozen=True, slots=True)
class Thresholds:
    """When a channel is bad.

    Attributes:
        flat_uv: `flat` if the whole window spans less, microvolts peak to peak: a few steps of the converter.
        flat_s: `flat` if exactly one value lasts longer, seconds (clean_rawdata: 5 s, as long as our whole window).
        railed_share: `railed` if more of the samples repeat the highest or the lowest value of the window.
        rail_uv: `railed` if a sample is as far from zero; only the maker of an amplifier knows it, so infinite.
        peak_to_peak_uv: `amplitude` if the window spans more; blinks reach 300, loose electrodes thousands.
        deviation: `amplitude` if the typical standard deviation is so many times the median channel's; a ratio, as
            PREP's robust z explodes where all channels are alike.
        line_share: `line` if the mains make up more of the window's power.
        line_uv: `line` on raw data if the mains exceed this, microvolts rms ...
        line_ratio: ... and so many times those of the median channel: what all share, the notch removes.
        correlation: `correlation` if no other channel correlates so well (PREP: 0.4 in windows of 1 s).
    """

    flat_uv: float = 0.2
    flat_s: float = 1.0
    railed_share: float = 0.01
    rail_uv: float = float("inf")
    peak_to_peak_uv: float = 1000.0
    deviation: float = 5.0
    line_share: float = 0.5
    line_uv: float = 10.0
    line_ratio: float = 5.0
    correlation: float = 0.4


DEFAULT = Thresholds()


@np.errstate(invalid="ignore", over="ignore")
def assess(
    data: Float32Array, sfreq: float, *, line_hz: float | None = None, thresholds: Thresholds = DEFAULT
) -> Quality:
    """Find the bad channels of one epoch.

    Args:
        data: `(n_chans, n_times)` microvolts, high-passed; not changed.
        sfreq: Hz.
        line_hz: mains frequency; None watches both 50 and 60 Hz.
        thresholds: when a channel is bad.
    """
    if data.size == 0:
        return Quality(((),) * len(data))
    mean, mains = _mean_and_mains(data, _lines(line_hz, sfreq), sfreq)
    lost = ~np.isfinite(mean)
    if lost.any():
        data, mean = np.where(lost[:, np.newaxis], np.float32(0), data), np.where(lost, np.float32(0), mean)
    centred = data - mean[:, np.newaxis]
    span = centred.max(axis=1) - centred.min(axis=1)
    power = _segment_power(centred, sfreq)
    deviation = np.sqrt(np.sort(power, axis=1)[:, power.shape[1] // 2])
    flat = ~lost & (span < thresholds.flat_uv)
    good = ~(lost | flat)
    loud = (span > thresholds.peak_to_peak_uv) | (deviation > thresholds.deviation * _median(deviation[good]))
    humming = mains > thresholds.line_share * power.mean(axis=1)
    alone = _best_correlation(centred, sfreq) < thresholds.correlation
    return _quality(
        {
            "not_finite": lost,
            "flat": flat,
            "amplitude": good & loud,
            "line": good & humming,
            "correlation": good & alone & (np.count_nonzero(good) >= _MIN_CORRELATED),
        }
    )


def carry(quality: Quality, ch_names: Sequence[str], onto: Sequence[str]) -> Quality:
    """Move the faults of a stream to channels made of it: picked ones by name, a pair `A-B` has those of both.

    Args:
        quality: of the stream.
        ch_names: its channels.
        onto: names of the channels it was made into; one that is not made of `ch_names` has no faults.
    """
    if not any(quality.faults):
        return Quality(((),) * len(onto))
    found = dict(zip(ch_names, quality.faults, strict=True))

    def of(name: str) -> tuple[Fault, ...]:
        parts = [name] if name in found else name.split("-")
        return tuple(dict.fromkeys(fault for part in parts for fault in found.get(part, ())))

    return Quality(tuple(of(name) for name in onto))


class RawMonitor:
    """Watches the chunks of one run, as they arrive, for what filters would hide: O(n), and remembers only sums.

    Args:
        info: the stream.
        horizon_s: how long before the start of the newest chunk a span may begin that is asked for.
        line_hz: mains frequency; None watches both 50 and 60 Hz.
        thresholds: when a channel is bad.
    """

    def __init__(
        self,
        info: StreamInfo,
        *,
        horizon_s: float,
        line_hz: float | None = None,
        thresholds: Thresholds = DEFAULT,
    ) -> None:
        self._sfreq = info.sfreq
        self._horizon = horizon_s * info.sfreq
        self._thresholds = thresholds
        self._turns = np.array(_lines(line_hz, info.sfreq)) / info.sfreq  # of the mains, from one sample to the next
        self._waiting: list[Chunk] = []
        self._newest: Chunk | None = None
        self._sums = _no_sums(info.n_chans, len(self._turns))
        self._edges: list[int] = []  # block i holds the samples edges[i] to edges[i + 1]
        self._last: FloatArray = np.full((1, info.n_chans), np.nan, np.float32)
        self._held: NDArray[np.intp] = np.zeros(info.n_chans, np.intp)  # for so many samples nothing has changed

    @property
    def t_last(self) -> float:
        """LSL time of the newest sample; before the first, minus infinity."""
        return -math.inf if self._newest is None else self._newest.t_last

    def __call__(self, chunk: Chunk) -> None:
        """Take note of the next chunk."""
        if chunk.n_times == 0:
            return
        self._newest = chunk
        self._waiting.append(chunk)
        if chunk.start + chunk.n_times - self._waiting[0].start >= _PATIENCE_S * self._sfreq:
            self._digest()

    @np.errstate(invalid="ignore", over="ignore")
    def quality(self, t0: float, t_last: float) -> Quality:
        """The channels that were bad in this span, LSL seconds, give or take a block."""
        self._digest()
        first, stop = self._blocks(t0, t_last)
        if first == stop:
            return Quality(((),) * len(self._held))
        limits, sums, n_times = self._thresholds, self._sums[first:stop], self._edges[stop] - self._edges[first]
        extremes = sums["extremes"].max(axis=0)
        span = extremes.sum(axis=0)
        lost = ~np.isfinite(span)
        still = sums["held"].max(axis=0) > limits.flat_s * self._sfreq
        flat = ~lost & (still | (span < limits.flat_uv))
        repeats = np.sum(sums["repeats"] * (sums["extremes"] == extremes), axis=0).max(axis=0)
        fine = span >= _MIN_LEVELS * np.fmin.reduce(sums["step"])
        railed = (fine & (repeats > limits.railed_share * n_times)) | (extremes.max(axis=0) >= limits.rail_uv)
        mains = self._rms_of_mains(first, stop)
        loud = (mains > limits.line_uv) & (mains > limits.line_ratio * _median(mains[~lost]))
        return _quality({"not_finite": lost, "flat": flat, "railed": ~lost & railed, "line": ~(lost | flat) & loud})

    def _blocks(self, t0: float, t_last: float) -> tuple[int, int]:
        """The first block that reaches into this span, and the one after the last."""
        if not len(self._sums):
            return 0, 0
        begin, end = (self._edges[-1] - 1 + round((t - self.t_last) * self._sfreq) for t in (t0, t_last))
        first = max(bisect_right(self._edges, begin) - 1, 0)
        return first, max(first, min(bisect_right(self._edges, end), len(self._sums)))

    @np.errstate(invalid="ignore", over="ignore")
    def _digest(self) -> None:
        """Sum up what is waiting, and forget what is behind the horizon."""
        if not self._waiting:
            return
        start = self._waiting[0].start
        rows = np.concatenate([self._last, *(chunk.data for chunk in self._waiting)])
        self._waiting.clear()
        self._last = rows[-1:]
        n_times, length = len(rows) - 1, max(1, round(_BLOCK_S * self._sfreq))
        waves, whole = self._waves(start, n_times), n_times // length * length
        cuts = [*range(length, whole + 1, length), *([n_times] if whole < n_times else [])]
        forgotten = max(bisect_right(self._edges, start - self._horizon) - 1, 0)
        kept = self._sums[forgotten:]
        self._sums = np.zeros(len(kept) + len(cuts), kept.dtype)
        self._sums[: len(kept)] = kept
        if whole:
            self._sum_up(self._sums[len(kept) :][: whole // length], rows[: whole + 1], waves[:, :whole])
        if whole < n_times:
            self._sum_up(self._sums[-1:], rows[whole:], waves[:, whole:])
        self._edges = [*(self._edges[forgotten:] or [start]), *(start + cut for cut in cuts)]

    def _waves(self, start: int, n_times: int) -> Float32Array:
        """One, and cosine and sine of the mains, `(1 + 2 * n_lines, n_times)`."""
        phase = 2 * np.pi * (np.outer(self._turns, np.arange(start, start + n_times)) % 1)
        return np.concatenate([np.ones((1, n_times)), np.cos(phase), np.sin(phase)]).astype(np.float32)

    def _sum_up(self, sums: NDArray[np.void], rows: FloatArray, waves: Float32Array) -> None:
        """Write down what will be needed of blocks of one length; the first of the rows is that before them."""
        data = rows[1:].reshape(len(sums), -1, rows.shape[1])
        extremes = np.stack([data.max(axis=1), -data.min(axis=1)], axis=1)
        sums["extremes"] = extremes
        sums["waves"] = waves.reshape(len(waves), len(sums), -1).swapaxes(0, 1) @ data
        changed = (rows[1:] != rows[:-1]).reshape(data.shape)
        if changed.all():
            sums["step"] = np.inf
            self._held[:] = 0
            return
        steps = np.abs(rows[1:] - rows[:-1]).reshape(data.shape)
        sums["step"] = np.fmin.reduce(np.where(changed, steps, np.inf), axis=1)
        for number, extreme in enumerate((extremes[:, 0], -extremes[:, 1])):
            sums["repeats"][:, number] = np.count_nonzero(~changed & (data == extreme[:, np.newaxis]), axis=1)
        self._note_held(sums, changed)

    def _note_held(self, sums: NDArray[np.void], changed: BoolArray) -> None:
        """How long nothing changed, across the blocks `(n_blocks, n_times, n_chans)` that it may span."""
        n_times = changed.shape[1]
        all_along = np.logical_not(changed.any(axis=1))
        first, last = (np.where(all_along, n_times, way.argmax(axis=1)) for way in (changed, changed[:, ::-1]))
        for block, still in enumerate(all_along):
            held = np.where(first[block] > 0, self._held + first[block], 0)  # else it ended with the block before
            self._held = np.where(still, held, last[block])
            sums["held"][block] = np.maximum(held, self._held)

    def _rms_of_mains(self, first: int, stop: int) -> Float64Array:
        """Microvolts at the louder of the mains frequencies, the millivolts of offset taken out."""
        begin, end, n_lines = self._edges[first], self._edges[stop], len(self._turns)
        waves = self._sums["waves"][first:stop].sum(axis=0)
        turn = np.exp(-2j * np.pi * self._turns[:, np.newaxis])
        of_one = (turn**begin - turn**end) / (1 - turn)  # a geometric series: what they make of an offset of 1 uV
        mains = waves[1 : 1 + n_lines] - 1j * waves[1 + n_lines :] - of_one * (waves[0] / (end - begin))
        rms: Float64Array = np.abs(mains).max(axis=0, initial=0.0) * (np.sqrt(2) / (end - begin))
        return rms


def _no_sums(n_chans: int, n_lines: int) -> NDArray[np.void]:
    """What `RawMonitor` remembers of blocks of samples, one a row; here of none."""
    return np.zeros(
        0,
        [
            ("extremes", np.float32, (2, n_chans)),  # the highest value, and the lowest with its sign changed
            ("repeats", np.float32, (2, n_chans)),  # samples that repeat the one before and are extreme
            ("step", np.float32, n_chans),  # the smallest between two samples, where any repeat
            ("held", np.float32, n_chans),  # the most samples for which nothing has changed
            ("waves", np.float32, (1 + 2 * n_lines, n_chans)),  # products with 1, and with cosine and sine of the mains
        ],
    )


def _quality(found: Mapping[Fault, BoolArray]) -> Quality:
    masks = np.array(list(found.values()))
    faults: list[tuple[Fault, ...]] = [()] * masks.shape[1]
    for channel in np.flatnonzero(masks.any(axis=0)):
        faults[channel] = tuple(fault for fault, mask in zip(found, masks, strict=True) if mask[channel])
    return Quality(tuple(faults))


def _median(values: FloatArray) -> float:
    """As numpy's, which takes ten times as long over so few; 0 of none."""
    ordered, middle = np.sort(values), len(values) // 2
    return float(ordered[middle] + ordered[~middle]) / 2 if len(values) else 0.0


def _lines(line_hz: float | None, sfreq: float) -> tuple[float, ...]:
    """The mains frequencies to watch that `sfreq` can hold."""
    return tuple(hz for hz in (MAINS_HZ if line_hz is None else (line_hz,)) if hz < sfreq / 2 - 1)


def _segment_power(centred: Float32Array, sfreq: float) -> Float32Array:
    """Mean square of each of the short segments of an epoch, `(n_chans, n_segments)`."""
    n_chans, n_times = centred.shape
    length = min(n_times, round(_SEGMENT_S * sfreq))
    count = n_times // length
    segments = centred[:, : count * length].reshape(n_chans, count, length)
    power: Float32Array = np.einsum("csn,csn->cs", segments, segments) / np.float32(length)
    return power


def _mean_and_mains(data: Float32Array, lines: tuple[float, ...], sfreq: float) -> tuple[Float32Array, Float32Array]:
    """The mean, and the mean square of the louder of the mains frequencies, `(n_chans,)` each, in one pass."""
    n_chans, n_times = data.shape
    products = data @ _one_and_waves(lines, n_times, sfreq)
    pairs = products[:, 1 : 1 + 2 * len(lines)].reshape(n_chans, len(lines), 2)
    power: Float32Array = np.square(pairs).sum(axis=2).max(axis=1, initial=0.0) * np.float32(8 / n_times**2)
    return products[:, 0], power


@lru_cache(maxsize=16)
def _one_and_waves(lines: tuple[float, ...], n_times: int, sfreq: float) -> Float32Array:
    """What makes a mean, and cosine and sine of each frequency under a Hann window, `(n_times, 8)`, zeros at the end.

    Of a sine with amplitude a the waves see a quarter of `a * n_times`, half of it if its frequency is one bin away;
    of an offset, nothing. The products with 8 columns take a third less time than those with the 5 that matter.
    """
    phase = 2 * np.pi * np.outer(np.arange(n_times) / sfreq, lines)
    waves = np.stack([np.cos(phase), np.sin(phase)], axis=-1).reshape(n_times, -1) * np.hanning(n_times)[:, np.newaxis]
    columns = np.zeros((n_times, 8), np.float32)
    columns[:, 0] = 1 / n_times
    columns[:, 1 : 1 + waves.shape[1]] = waves - waves.mean(axis=0)
    return columns


def _best_correlation(centred: Float32Array, sfreq: float) -> Float32Array:
    """The highest absolute correlation of each channel with another, `(n_chans,)`."""
    group = max(1, min(int(sfreq / 2 / _CORRELATED_UP_TO_HZ), centred.shape[1]))
    n_times = centred.shape[1] // group * group
    slow = sum((centred[:, first:n_times:group] for first in range(1, group)), start=centred[:, :n_times:group])
    covariance = slow @ slow.T
    scale = 1 / np.sqrt(np.maximum(covariance.diagonal(), _TINY))
    np.fill_diagonal(covariance, 0)
    best: Float32Array = (np.abs(covariance) * scale).max(axis=1) * scale
    return best
