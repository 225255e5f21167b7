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

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from streamnode.types import Chunk, Fault, Float32Array, Float64Array, FloatArray, Quality, StreamInfo

BoolArray = NDArray[np.bool_]

MAINS_HZ = (50.0, 60.0)

_SEGMENT_S = 0.5  # a blink spoils one or two of the ten that an epoch has, and so not their median
_CORRELATED_UP_TO_HZ = 30.0  # where neighbours share most of their EEG
_BLOCK_S = 0.1  # what `RawMonitor` digests at once, however small the chunks
_MIN_LEVELS = 64  # of a converter; a coarser one repeats its extremes by itself
_MIN_CORRELATED = 4  # channels; among fewer, being alone proves nothing
_TINY = np.float32(1e-30)
_MAINS_SNR = 10.0
_FLOOR_HZ = (2.0, 6.0)  # from the mains frequency: what the spectrum would be without it


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
    centred, lost = _centred(data)
    span = centred.max(axis=1) - centred.min(axis=1)
    power = _segment_power(centred, sfreq)
    deviation = np.sqrt(np.sort(power, axis=1)[:, power.shape[1] // 2])
    flat = ~lost & (span < thresholds.flat_uv)
    good = ~(lost | flat)
    ordinary = np.median(deviation[good]) if good.any() else 0.0
    loud = (span > thresholds.peak_to_peak_uv) | (deviation > thresholds.deviation * ordinary)
    mains = _mains_power(centred, _lines(line_hz, sfreq), sfreq)
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
    found = dict(zip(ch_names, quality.faults, strict=True))

    def of(name: str) -> tuple[Fault, ...]:
        parts = [name] if name in found else name.split("-")
        return tuple(dict.fromkeys(fault for part in parts for fault in found.get(part, ())))

    return Quality(tuple(of(name) for name in onto))


def detect_mains(data: FloatArray, sfreq: float) -> float | None:
    """The mains frequency that a recording betrays.

    Args:
        data: `(n_chans, n_times)` microvolts as recorded, 4 s or more.
        sfreq: Hz.

    Returns:
        50.0 or 60.0, whichever stands out of the spectrum around it more and in most channels; None if neither does,
        if the window is shorter than 4 s, or if `sfreq` is too low to hold it.
    """
    if data.shape[1] < 4 * sfreq:
        return None
    whole = data[np.isfinite(data).all(axis=1)].astype(np.float64)
    if not len(whole):
        return None
    centred = (whole - whole.mean(axis=1, keepdims=True)) * np.hanning(whole.shape[1])
    power: Float64Array = np.abs(np.fft.rfft(centred, axis=1)) ** 2
    freqs = np.fft.rfftfreq(data.shape[1], 1 / sfreq)
    snr = {line_hz: _stands_out(power, freqs, line_hz) for line_hz in MAINS_HZ}
    other, best = sorted(snr, key=lambda line_hz: snr[line_hz])
    return best if snr[best] > max(_MAINS_SNR, 2 * snr[other]) else None


class RawMonitor:
    """Watches the chunks of a stream, as they arrive, for what filters would hide: O(n), and remembers only sums.

    Args:
        info: the stream.
        horizon_s: how far back `quality` may ask.
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
        self._info = info
        self._horizon_s = horizon_s
        self._thresholds = thresholds
        self._omega = np.array([2 * np.pi * hz / info.sfreq for hz in _lines(line_hz, info.sfreq)])
        self.reset()

    def reset(self) -> None:
        """Forget all past samples, as if newly built."""
        self._run: int | None = None
        self._waiting: list[Chunk] = []
        self._seen: deque[_Sums] = deque()
        self._last: Float64Array = np.full((1, self._info.n_chans), np.nan)
        self._changed_at: NDArray[np.int64] = np.zeros(self._info.n_chans, np.int64)

    def __call__(self, chunk: Chunk) -> None:
        """Take note of a chunk; one of another run than the last makes it forget."""
        if chunk.run != self._run:
            self.reset()
            self._run = chunk.run
        if chunk.n_times == 0:
            return
        self._waiting.append(chunk)
        if chunk.start + chunk.n_times - self._waiting[0].start >= _BLOCK_S * self._info.sfreq:
            self._digest()

    def quality(self, t0: float, t_last: float) -> Quality:
        """The channels that were bad in this span, LSL seconds, to a block of 0.1 s or a chunk."""
        self._digest()
        seen = [sums for sums in self._seen if sums.t_last >= t0 and sums.t0 <= t_last]
        if not seen:
            return Quality(((),) * self._info.n_chans)
        limits = self._thresholds
        low, high = np.min([s.low for s in seen], axis=0), np.max([s.high for s in seen], axis=0)
        n_low = np.sum([s.n_low * (s.low == low) for s in seen], axis=0)
        n_high = np.sum([s.n_high * (s.high == high) for s in seen], axis=0)
        n_times = sum(s.n_times for s in seen)
        lost = np.any([s.lost for s in seen], axis=0)
        constant = np.max([s.constant_s for s in seen], axis=0)
        flat = ~lost & ((high - low < limits.flat_uv) | (constant > limits.flat_s))
        fine = high - low >= _MIN_LEVELS * np.min([s.step for s in seen], axis=0)
        stuck = ~lost & fine & (np.maximum(n_low, n_high) > limits.railed_share * n_times)
        beyond = np.maximum(np.abs(low), np.abs(high)) >= limits.rail_uv
        mains = _rms_of_mains(seen)
        loud = (mains > limits.line_uv) & (mains > limits.line_ratio * np.median(mains))
        return _quality({"not_finite": lost, "flat": flat, "railed": stuck | beyond, "line": ~(lost | flat) & loud})

    def _digest(self) -> None:
        if not self._waiting:
            return
        self._seen.append(self._sums(self._waiting))
        self._waiting = []
        while self._seen[0].t_last < self._seen[-1].t_last - self._horizon_s:
            self._seen.popleft()

    def _sums(self, chunks: Sequence[Chunk]) -> _Sums:
        block = np.concatenate([chunk.data for chunk in chunks])
        lost = np.any(~np.isfinite(block), axis=0)
        data = np.where(lost, 0.0, block).astype(np.float64)
        start = chunks[0].start
        index = np.arange(start, start + len(data))[:, np.newaxis]
        steps = np.abs(np.diff(data, axis=0, prepend=self._last))
        same = steps == 0
        changed_at = np.maximum.accumulate(np.where(same, self._changed_at, index), axis=0)
        self._last, self._changed_at = data[-1:], changed_at[-1]
        low, high = data.min(axis=0), data.max(axis=0)
        waves = np.exp(-1j * self._omega[:, np.newaxis] * index.T)
        return _Sums(
            t0=chunks[0].t0,
            t_last=chunks[-1].t_last,
            n_times=len(data),
            lost=lost,
            low=low,
            high=high,
            step=np.where(steps > 0, steps, np.inf).min(axis=0),
            n_low=np.count_nonzero(same & (data == low), axis=0),
            n_high=np.count_nonzero(same & (data == high), axis=0),
            constant_s=(index - changed_at).max(axis=0) / self._info.sfreq,
            total=data.sum(axis=0),
            waves=waves.sum(axis=1, keepdims=True),
            mains=np.matmul(waves, data, dtype=np.complex128),
        )


class _Sums(NamedTuple):
    """What is remembered of a block of samples; arrays are `(n_chans,)`, of the mains `(n_lines, n_chans)`."""

    t0: float
    t_last: float
    n_times: int
    lost: BoolArray
    low: Float64Array
    high: Float64Array
    step: Float64Array
    n_low: NDArray[np.intp]
    n_high: NDArray[np.intp]
    constant_s: Float64Array
    total: Float64Array
    waves: NDArray[np.complex128]
    mains: NDArray[np.complex128]


def _rms_of_mains(seen: Sequence[_Sums]) -> Float64Array:
    """Microvolts at the louder of the mains frequencies, the millivolts of offset taken out."""
    n_times = sum(s.n_times for s in seen)
    mean = np.sum([s.total for s in seen], axis=0) / n_times
    mains = np.sum([s.mains for s in seen], axis=0) - np.sum([s.waves for s in seen], axis=0) * mean
    rms: Float64Array = np.abs(mains).max(axis=0, initial=0.0) * np.sqrt(2) / n_times
    return rms


def _quality(found: Mapping[Fault, BoolArray]) -> Quality:
    masks = np.array(list(found.values()))
    faults: list[tuple[Fault, ...]] = [()] * masks.shape[1]
    for channel in np.flatnonzero(masks.any(axis=0)):
        faults[channel] = tuple(fault for fault, mask in zip(found, masks, strict=True) if mask[channel])
    return Quality(tuple(faults))


def _lines(line_hz: float | None, sfreq: float) -> tuple[float, ...]:
    """The mains frequencies to watch that `sfreq` can hold."""
    return tuple(hz for hz in (MAINS_HZ if line_hz is None else (line_hz,)) if hz < sfreq / 2 - 1)


def _centred(data: Float32Array) -> tuple[Float32Array, BoolArray]:
    """The data without their means, zero in channels that are not finite, and which those are."""
    n_times = data.shape[1]
    mean = data @ np.full(n_times, 1 / n_times, np.float32)
    lost = np.logical_not(np.isfinite(mean))
    if lost.any():
        data, mean = np.where(lost[:, np.newaxis], np.float32(0), data), np.where(lost, np.float32(0), mean)
    return data - mean[:, np.newaxis], lost


def _segment_power(centred: Float32Array, sfreq: float) -> Float32Array:
    """Mean square of each of the short segments of an epoch, `(n_chans, n_segments)`."""
    n_chans, n_times = centred.shape
    length = min(n_times, round(_SEGMENT_S * sfreq))
    count = n_times // length
    segments = centred[:, : count * length].reshape(n_chans, count, length)
    power: Float32Array = np.einsum("csn,csn->cs", segments, segments) / np.float32(length)
    return power


def _mains_power(centred: Float32Array, lines: tuple[float, ...], sfreq: float) -> Float32Array:
    """Mean square of the louder of the mains frequencies, `(n_chans,)`."""
    n_chans, n_times = centred.shape
    waves = (centred @ _mains_waves(lines, n_times, sfreq)).reshape(n_chans, len(lines), 2)
    power: Float32Array = np.square(waves).sum(axis=2).max(axis=1, initial=0.0) * np.float32(8 / n_times**2)
    return power


@lru_cache(maxsize=16)
def _mains_waves(lines: tuple[float, ...], n_times: int, sfreq: float) -> Float32Array:
    """Cosine and sine of each frequency under a Hann window, `(n_times, n_lines * 2)`.

    Of a sine with amplitude a they see a quarter of `a * n_times`, half of it if its frequency is one bin away.
    """
    phase = 2 * np.pi * np.outer(np.arange(n_times) / sfreq, lines)
    waves = np.stack([np.cos(phase), np.sin(phase)], axis=-1) * np.hanning(n_times)[:, np.newaxis, np.newaxis]
    return waves.reshape(n_times, -1).astype(np.float32)


def _best_correlation(centred: Float32Array, sfreq: float) -> Float32Array:
    """The highest absolute correlation of each channel with another, `(n_chans,)`."""
    group = max(1, min(int(sfreq / 2 / _CORRELATED_UP_TO_HZ), centred.shape[1]))
    n_times = centred.shape[1] // group * group
    slow = sum((centred[:, first:n_times:group] for first in range(1, group)), start=centred[:, :n_times:group])
    covariance = slow @ slow.T
    norm = np.sqrt(np.maximum(covariance.diagonal(), _TINY))
    correlation = np.abs(covariance / norm / norm[:, np.newaxis])
    np.fill_diagonal(correlation, 0)
    best: Float32Array = correlation.max(axis=1)
    return best


def _stands_out(power: Float64Array, freqs: FloatArray, line_hz: float) -> float:
    """Peak at the mains over the spectrum around it, in the median channel; 0 where the spectrum ends before."""
    away = np.abs(freqs - line_hz)
    if freqs[-1] < line_hz + 1:
        return 0.0
    peak = power[:, away <= 0.5].max(axis=1)
    around = np.median(power[:, (away >= _FLOOR_HZ[0]) & (away <= _FLOOR_HZ[1])], axis=1)
    return float(np.median(peak / np.maximum(around, _TINY)))
