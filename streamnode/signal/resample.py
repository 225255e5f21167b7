"""Causal resampling by a rational ratio with a short, constant, known delay.

A polyphase FIR: a linear-phase low-pass at `up` times the incoming rate, of which only the taps that meet a real sample
are ever multiplied. It is shorter than a windowed one, as errors may be larger in the pass band than in the
stop band. Output sample n lies exactly at input position n * down / up, so indices and times stay on
the axis of the input; the delay is how much later it can be known.
"""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import numpy as np

from streamnode.errors import ContractError
from streamnode.signal.filled import Filled
from streamnode.types import Chunk, Float64Array, StreamInfo

_HALF = 1.6  # half the length of the filter times the width of its transition: enough for 60 dB and 0.1 dB
_PASS_WEIGHT = 0.11  # of an error in the pass band, where ten times as large a one is allowed as in the stop band
_DECAY = 0.6  # how much more an error weighs a transition further on: the images of all rates there add up
_ROUNDS = 6  # of the fit; more change little
_FAR = 20  # transitions beyond the stop band's edge: how far it is watched; further on, what is left decays by itself
_MAX_FACTOR = 4096  # of `up` and `down`: bounds the filter bank; 998.42 -> 256 Hz is off by 5 ppm
_AT_ONCE = 32  # outgoing samples, whose windows of incoming ones are gathered: of a fast stream they are large
_MIN_UP = 8  # the delay is a whole number of samples at the raised rate: let it not be coarse
_MAX_RATE_ERROR = 1e-4  # the crystals of amplifiers are little better


class Resampler:
    """Changes the sampling frequency.

    What lies below `pass_hz` is kept to 0.1 dB, and what lies above `stop_hz` is some 60 dB down, so that nothing is
    folded or mirrored into the pass band. The delay is 1.6 / (stop_hz - pass_hz) seconds. The first sample of a run
    is held for the past, and no output lies before it.

    Args:
        info: the incoming stream.
        sfreq_out: outgoing sampling frequency, Hz.
        pass_hz: up to where the signal is kept, Hz.
        stop_hz: from where on it is removed, Hz; by default as high, and the delay as short, as can be.

    Attributes:
        rate_error: by how much, relatively, the outgoing rate differs from `sfreq_out` where the ratio of the rates
            is not one of small integers; the times of the samples are exact all the same.

    Raises:
        ContractError: the band does not fit the rates, or their ratio is too odd.
    """

    def __init__(self, info: StreamInfo, sfreq_out: float, pass_hz: float, stop_hz: float | None = None) -> None:
        slower = min(info.sfreq, sfreq_out)
        if stop_hz is None:
            stop_hz = slower - pass_hz
        if not 0 < pass_hz < stop_hz <= slower - pass_hz:
            raise ContractError(
                f"stream {info.name!r} cannot go from {info.sfreq:g} to {sfreq_out:g} Hz with a filter that passes "
                f"{pass_hz:g} Hz and stops {stop_hz:g} Hz: choose 0 < pass < stop <= {slower:g} - pass"
            )
        self._up, self._down, self.rate_error = _ratio(info, sfreq_out)
        self._bank, self._lead = _design(self._up, self._up * info.sfreq, pass_hz, stop_hz)
        self._sfreq_in = info.sfreq
        self.info = replace(info, sfreq=sfreq_out)
        self.delay_s = self.settling_s = self._lead / (self._up * info.sfreq)
        self.label = (
            f"resample {info.sfreq:g} -> {sfreq_out:g} Hz, pass {pass_hz:.4g} Hz, stop {stop_hz:.4g} Hz, "
            f"{1e3 * self.delay_s:.1f} ms"
            + (f", rate off by {1e6 * self.rate_error:.2g} ppm" if self.rate_error else "")
        )
        self.reset()

    def reset(self) -> None:
        """Start again from the next sample."""
        self._past: Float64Array | None = None
        self._next = 0
        self._filled = Filled(self._up, self._down)

    def __call__(self, chunk: Chunk) -> Chunk:
        """Resample the next samples, in float64; yields what can be known by now, which may be nothing."""
        if self._past is None:
            self._next = -(-chunk.start * self._up // self._down)
            if chunk.n_times:
                self._past = np.repeat(chunk.data[:1].astype(np.float64), self._bank.shape[1] - 1, axis=0)
        self._filled.add(chunk)
        data = self._filter(chunk)
        position = self._next * self._down - chunk.start * self._up
        out = replace(
            chunk,
            info=self.info,
            data=data,
            start=self._next,
            t0=chunk.t0 + position / (self._up * self._sfreq_in),
            n_missing=self._filled.take(self._next, self._next + len(data)),
        )
        self._next += len(data)
        return out

    def _filter(self, chunk: Chunk) -> Float64Array:
        """`(n_out, n_chans)`: all outputs, from the next on, whose newest tap meets a sample that is here."""
        if self._past is None:
            return np.empty((0, chunk.data.shape[1]))
        data = np.concatenate([self._past, chunk.data])
        n_past, n_taps = len(self._past), self._bank.shape[1]
        end = -(-((chunk.start + chunk.n_times) * self._up - self._lead) // self._down)
        newest = self._next * self._down + self._lead - (chunk.start - n_past) * self._up
        row, phase = np.divmod(newest + self._down * np.arange(max(0, end - self._next)), self._up)
        self._past = data[chunk.n_times :].copy()
        resampled = np.empty((len(row), data.shape[1]))
        for first in range(0, len(row), _AT_ONCE):
            some = slice(first, first + _AT_ONCE)
            windows = data.take(row[some, np.newaxis] + np.arange(1 - n_taps, 1), axis=0)
            np.einsum("nkc,nk->nc", windows, self._bank[phase[some]], out=resampled[some])
        return resampled


def _ratio(info: StreamInfo, sfreq_out: float) -> tuple[int, int, float]:
    """Up and down factors and the relative error of the rate they give."""
    exact = Fraction(sfreq_out) / Fraction(info.sfreq)
    small = exact.limit_denominator(_MAX_FACTOR) if exact < 1 else 1 / (1 / exact).limit_denominator(_MAX_FACTOR)
    error = float(small / exact - 1)
    if abs(error) > _MAX_RATE_ERROR:
        raise ContractError(
            f"{info.sfreq:g} Hz of stream {info.name!r} and {sfreq_out:g} Hz are in no ratio of integers up to "
            f"{_MAX_FACTOR}: have the source state its nominal rate"
        )
    grain = -(-_MIN_UP // small.numerator)
    return grain * small.numerator, grain * small.denominator, error if abs(error) > 1e-12 else 0.0


def _design(up: int, sfreq: float, pass_hz: float, stop_hz: float) -> tuple[Float64Array, int]:
    """Filter bank `(up, n_taps)`, oldest tap first, and the delay in samples at `sfreq`, the raised rate."""
    half_s = _HALF / (stop_hz - pass_hz)
    lead = int(half_s * sfreq)
    terms = _cosine_series(half_s, pass_hz, stop_hz)
    phase = np.pi / half_s / sfreq * np.arange(-lead, lead + 1)
    taps = np.zeros(2 * lead + 1)
    for k, amplitude in enumerate(terms):
        taps += amplitude * np.cos(k * phase)
    bank = np.pad(taps, (0, -len(taps) % up)).reshape(-1, up).T
    # Each phase passes a constant exactly: millivolts of offset would otherwise ripple at the outgoing rate.
    bank = bank / bank.sum(axis=1, keepdims=True)
    return np.ascontiguousarray(bank[:, ::-1]), lead


def _cosine_series(half_s: float, pass_hz: float, stop_hz: float) -> Float64Array:
    """Amplitudes of `cos(pi k t / half_s)`, k = 0, 1, ..., whose sum is the low-pass for `|t| < half_s`.

    A fit to 1 in the pass band and to 0 in the stop band by least squares, repeated with more weight where the error
    was large, which levels it. The spectrum of each term is known in closed form, so it does not matter how high the
    rate is at which the sum is sampled.
    """
    fine = 0.02 * (stop_hz - pass_hz)
    passed, stopped = np.arange(0, pass_hz, fine), np.arange(stop_hz, stop_hz + _FAR * (stop_hz - pass_hz), fine)
    x = 2 * half_s * np.concatenate([passed, stopped])[:, np.newaxis]
    k = np.arange(int(2 * half_s * stop_hz) + 6)
    spectra = half_s * (np.sinc(x - k) + np.sinc(x + k))
    wanted = np.repeat([1.0, 0.0], [len(passed), len(stopped)])
    farther = 1.0 + _DECAY * (stopped - stop_hz) / (stop_hz - pass_hz)
    importance = np.concatenate([np.full(len(passed), _PASS_WEIGHT), farther])
    importance[0] = 1.0  # the gain at 0 Hz will be made 1, and all others with it
    weights, terms = importance, np.zeros(len(k))
    for _ in range(_ROUNDS):
        terms = np.linalg.lstsq(spectra * weights[:, np.newaxis], wanted * weights, rcond=1e-10)[0]
        error = importance * np.abs(spectra @ terms - wanted)
        weights = weights * np.sqrt(error / error.max() + 0.02)
        weights /= weights.max()
    return terms
