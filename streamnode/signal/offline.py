"""The preprocessing that training data went through: MNE-Python's `filter`, `notch_filter`, `resample`, all defaults.

The same numbers, as plain functions of arrays in float64 (Gramfort et al. 2013, doi 10.3389/fnins.2013.00267). All of
it looks to both sides, so it belongs to whole recordings, or to windows cut out of a stream with a margin. Where a
filter is longer than the signal, MNE warns of distortion and goes on; here it just goes on.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import scipy  # its signal module takes a second to import, which a node spends better on finding its stream

from streamnode.errors import ContractError
from streamnode.types import Float64Array, ModelSpec

_HAMMING = 3.3  # taps of a Hamming-windowed filter: this many, times sfreq, divided by the width of its transition
_NOTCH_WIDTH = 1 / 200  # of the frequency to remove
_NOTCH_TRANSITION_HZ = 0.5
_SAME_RATE = 1e-6
_BLOCK = 8  # channels transformed at once: as many as a processor's vectors and caches hold

Step = Callable[[Float64Array], Float64Array]


def band_taps(sfreq: float, l_freq: float, h_freq: float | None) -> Float64Array:
    """Taps of MNE's default band-pass; without a lower edge (0) of its low-pass, without an upper of its high-pass.

    Raises:
        ContractError: the edges are not in order below the Nyquist frequency.
    """
    nyquist = sfreq / 2
    if h_freq is None:
        return _highpass_taps(sfreq, l_freq)
    if not 0 <= l_freq < h_freq < nyquist:
        raise ContractError(
            f"the offline filter from {l_freq:g} to {h_freq:g} Hz does not fit a rate of {sfreq:g} Hz: set "
            f"signal.h_freq below {nyquist:g} Hz"
        )
    rise, fall = min(max(0.25 * l_freq, 2.0), l_freq), min(max(0.25 * h_freq, 2.0), nyquist - h_freq)
    n_taps = _odd(math.ceil(_HAMMING / (min(rise, fall) if l_freq else fall) * sfreq))
    taps = _lowpass(sfreq, h_freq, h_freq + fall, n_taps)
    return taps - _lowpass(sfreq, l_freq - rise, l_freq, n_taps) if l_freq else taps


def _highpass_taps(sfreq: float, l_freq: float) -> Float64Array:
    if not 0 < l_freq < sfreq / 2:
        raise ContractError(
            f"an offline high-pass at {l_freq:g} Hz does not fit a rate of {sfreq:g} Hz: set signal.l_freq between 0 "
            f"and {sfreq / 2:g} Hz"
        )
    rise = min(max(0.25 * l_freq, 2.0), l_freq)
    n_taps = _odd(math.ceil(_HAMMING / rise * sfreq))
    taps = -_lowpass(sfreq, l_freq - rise, l_freq, n_taps)
    taps[n_taps // 2] += 1.0
    return taps


def notch_taps(sfreq: float, notch_hz: Sequence[float]) -> Float64Array:
    """Taps of MNE's default notch at each of these frequencies.

    Raises:
        ContractError: one is too close to 0 Hz, to the Nyquist frequency or to the next.
    """
    half = _NOTCH_TRANSITION_HZ
    stops = [(f - f * _NOTCH_WIDTH / 2, f + f * _NOTCH_WIDTH / 2) for f in sorted(notch_hz)]
    edges = [0.0, *(edge for low, high in stops for edge in (low - half, high + half)), sfreq / 2]
    if not stops or sorted(edges) != edges:
        raise ContractError(
            f"an offline notch at {', '.join(f'{f:g}' for f in notch_hz)} Hz does not fit a rate of {sfreq:g} Hz: "
            f"choose frequencies at least {2 * half:g} Hz apart and that far from 0 and {sfreq / 2:g} Hz"
        )
    n_taps = _odd(math.ceil(_HAMMING / half * sfreq))
    taps = np.zeros(n_taps)
    taps[n_taps // 2] = 1.0
    for low, high in stops:
        taps += _lowpass(sfreq, low - half, low, n_taps) - _lowpass(sfreq, high, high + half, n_taps)
    return taps


def zero_phase(data: Float64Array, taps: Float64Array) -> Float64Array:
    """Filter without delay; the signal is taken to go on at both ends as its own point reflection, and then as zero.

    Args:
        data: `(n_chans, n_times)`.
        taps: an odd number, symmetric.

    Returns:
        `(n_chans, n_times)`.
    """
    n_times, half = data.shape[1], len(taps) // 2
    edge = min(half, n_times - 1)  # no output reaches further
    n_fft = scipy.fft.next_fast_len(n_times + edge + half, real=True)  # what wraps around stays outside the output
    response = scipy.fft.rfft(taps, n_fft)
    filtered = np.empty_like(data)
    for rows in _blocks(len(data)):
        spectrum = scipy.fft.rfft(_reflect(data[rows], edge, edge), n_fft)
        spectrum *= response
        filtered[rows] = scipy.fft.irfft(spectrum, n_fft)[:, edge + half : edge + half + n_times]
    return filtered


@dataclass(frozen=True, slots=True)
class Grid:
    """Where the samples of a resampled signal lie.

    MNE pads to a power of two and rounds the padding and its length after resampling to whole samples, so the new
    samples are not exactly `1 / sfreq_out` apart and begin up to half of that before or after the old ones.

    Attributes:
        n_times: how many there are.
        first: position of the first, in samples of the incoming signal.
        step: from one to the next, in samples of the incoming signal.
    """

    n_times: int
    first: float
    step: float


def resampled_grid(n_times: int, sfreq: float, sfreq_out: float) -> Grid:
    """Where `resample` puts its samples."""
    if _same(sfreq, sfreq_out):
        return Grid(n_times, 0.0, 1.0)
    n_fft, before, _ = _padding(n_times)
    step = n_fft / _resampled(n_fft, sfreq, sfreq_out)
    return Grid(_resampled(n_times, sfreq, sfreq_out), round(sfreq_out / sfreq * before) * step - before, step)


def resample(data: Float64Array, sfreq: float, sfreq_out: float) -> Float64Array:
    """Change the sampling frequency by cutting or extending the spectrum; at the same rate nothing is done.

    Args:
        data: `(n_chans, n_times)`.
        sfreq: incoming sampling frequency, Hz.
        sfreq_out: outgoing sampling frequency, Hz.

    Returns:
        `(n_chans, n)` with the `n` samples of `resampled_grid`.
    """
    if _same(sfreq, sfreq_out):
        return data
    n_times = data.shape[1]
    n_fft, before, after = _padding(n_times)
    n_new = _resampled(n_fft, sfreq, sfreq_out)
    shared, skip = min(n_fft, n_new), round(sfreq_out / sfreq * before)
    resampled = np.empty((len(data), _resampled(n_times, sfreq, sfreq_out)))
    for rows in _blocks(len(data)):
        spectrum = scipy.fft.rfft(_reflect(data[rows], before, after))
        if shared % 2 == 0:  # the one bin that two halves of the spectrum share
            spectrum[:, shared // 2] *= 2.0 if n_new < n_fft else 0.5
        spectrum *= n_new / n_fft
        resampled[rows] = scipy.fft.irfft(spectrum, n_new)[:, skip : skip + resampled.shape[1]]
    return resampled


class Preprocessing:
    """The published preprocessing of a model's training data, for signals of one rate; filters are designed once.

    Args:
        sfreq: sampling frequency of the signals to come, Hz.
        spec: of the model; `spec.offline` has the steps and their order.
        l_freq: lower edge of the band, Hz.
        h_freq: upper edge of the band, Hz. There is no low-pass where the training data had none and the signal has
            nothing beyond.
        notch_hz: mains frequency to remove, Hz; None leaves that step out.

    Raises:
        ContractError: the band or the notch does not fit the rate, or nothing is published of this model.
    """

    def __init__(self, sfreq: float, spec: ModelSpec, l_freq: float, h_freq: float, notch_hz: float | None) -> None:
        if not spec.offline:
            raise ContractError(f"{spec.name} has no published preprocessing to reproduce: set signal.mode to causal")
        self.sfreq = sfreq
        self.sfreq_out = spec.sfreq
        open_above = 2 * spec.h_freq >= spec.sfreq and 2 * h_freq >= min(sfreq, spec.sfreq)
        labels: list[str] = []
        self._steps: list[Step] = []
        for name in spec.offline:
            match name:
                case "band":
                    taps = band_taps(sfreq, l_freq, None if open_above else h_freq)
                    edges = f"from {l_freq:g} Hz" if open_above else f"{l_freq:g}-{h_freq:g} Hz"
                    labels.append(f"{edges}, zero-phase FIR of {len(taps) / sfreq:.3g} s")
                    self._steps.append(_filter(taps))
                case "notch" if notch_hz is not None:
                    taps = notch_taps(sfreq, [notch_hz])
                    labels.append(f"notch {notch_hz:g} Hz, zero-phase FIR of {len(taps) / sfreq:.3g} s")
                    self._steps.append(_filter(taps))
                case "resample" if not _same(sfreq, spec.sfreq):
                    labels.append(f"resample {sfreq:g} -> {spec.sfreq:g} Hz by FFT")
                    self._steps.append(_resampling(sfreq, spec.sfreq))
                    sfreq = spec.sfreq
        self.labels = tuple(labels)

    def __call__(self, data: Float64Array) -> Float64Array:
        """`(n_chans, n_times)` at the incoming rate to `(n_chans, grid(n_times).n_times)` at the outgoing."""
        for step in self._steps:
            data = step(data)
        return data

    def grid(self, n_times: int) -> Grid:
        """Where the outgoing samples of a signal of `n_times` lie."""
        return resampled_grid(n_times, self.sfreq, self.sfreq_out)


def _filter(taps: Float64Array) -> Step:
    return lambda data: zero_phase(data, taps)


def _resampling(sfreq: float, sfreq_out: float) -> Step:
    return lambda data: resample(data, sfreq, sfreq_out)


def _lowpass(sfreq: float, pass_hz: float, stop_hz: float, n_taps: int) -> Float64Array:
    """As short as its own transition allows, in the middle of `n_taps`."""
    nyquist = sfreq / 2
    low, high = pass_hz / nyquist, stop_hz / nyquist
    own = _odd(round(_HAMMING / ((high - low) / 2)))
    taps: Float64Array = np.pad(scipy.signal.firwin(own, (high + low) / 2, window="hamming"), (n_taps - own) // 2)
    return taps


def _odd(n: int) -> int:
    return n + 1 - n % 2


def _reflect(data: Float64Array, before: int, after: int) -> Float64Array:
    """Extend at both ends by the point reflection, as far as there is signal to reflect, and by zeros beyond."""
    n_times = data.shape[1]
    head = 2 * data[:, :1] - data[:, min(before, n_times - 1) : 0 : -1]
    tail = 2 * data[:, -1:] - data[:, -2 : -min(after, n_times - 1) - 2 : -1]
    padded = np.zeros((len(data), before + n_times + after))
    padded[:, before - head.shape[1] : before] = head
    padded[:, before : before + n_times] = data
    padded[:, before + n_times : before + n_times + tail.shape[1]] = tail
    return padded


def _padding(n_times: int) -> tuple[int, int, int]:
    """The power of two that a signal is padded to, and by how many samples before and after it."""
    n_fft = 2 ** math.ceil(math.log2(n_times + 2 * min(n_times // 8, 100)))
    before = (n_fft - n_times) // 2
    return n_fft, before, n_fft - n_times - before


def _resampled(n_times: int, sfreq: float, sfreq_out: float) -> int:
    return max(round(sfreq_out / sfreq * n_times), 1)


def _same(sfreq: float, sfreq_out: float) -> bool:
    return math.isclose(sfreq, sfreq_out, rel_tol=_SAME_RATE)


def _blocks(n_rows: int) -> list[slice]:
    return [slice(row, row + _BLOCK) for row in range(0, n_rows, _BLOCK)]
