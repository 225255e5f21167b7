"""Causal filters that keep their state: IIR in second-order sections, and a short linear-phase low-pass.

State starts as if the first sample had been there for ever, so that the millivolts of offset every EEG amplifier has
do not ring. A sample that is not finite comes out as NaN but is bridged inside the filter, which would otherwise
never recover; each channel starts with its own first finite sample, so that a dead one harms no other.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np
import scipy  # its signal module takes a second to import, which a node spends better on finding its stream
from numpy.typing import NDArray

from streamnode.errors import ContractError
from streamnode.signal.filled import Filled
from streamnode.types import Chunk, Float64Array, StreamInfo

BoolArray = NDArray[np.bool_]

_SETTLED = 0.05  # of a transient: what is left of the slowest mode when a filter counts as settled


class SosFilter:
    """An IIR filter, as second-order sections.

    Args:
        info: the incoming stream.
        sos: `(n_sections, 6)` coefficients as `scipy.signal` has them.
        label: the filter in words.
    """

    delay_s = 0.0

    def __init__(self, info: StreamInfo, sos: Float64Array, label: str) -> None:
        self.info = info
        self.label = label
        self.settling_s = _settling_samples(sos) / info.sfreq
        self.sos = sos
        self._unit_state = scipy.signal.sosfilt_zi(sos)[:, :, np.newaxis]
        self.reset()

    def reset(self) -> None:
        """Start again from the next sample."""
        self._state: Float64Array = np.zeros((len(self.sos), 2, self.info.n_chans))
        self._held: Float64Array = np.full(self.info.n_chans, np.nan)  # the last finite sample of each channel
        self._all_started = False  # and seen to have: each channel has had a finite sample

    def __call__(self, chunk: Chunk) -> Chunk:
        """Filter the next samples, in float64."""
        data = chunk.data.astype(np.float64)
        if not len(data):
            return replace(chunk, info=self.info, data=data)
        finite = np.isfinite(data)
        if finite.all() and self._all_started:  # as nearly always
            self._held = data[-1].copy()  # lest a long chunk stay in memory for it
            data, self._state = scipy.signal.sosfilt(self.sos, data, axis=0, zi=self._state)
            return replace(chunk, info=self.info, data=data)
        bridged = self._bridge(data, finite)
        for rows in self._stretches(bridged, finite):
            data[rows], self._state = scipy.signal.sosfilt(self.sos, bridged[rows], axis=0, zi=self._state)
        data[~finite] = np.nan
        self._all_started = not np.isnan(self._held).any()
        return replace(chunk, info=self.info, data=data)

    def _stretches(self, bridged: Float64Array, finite: BoolArray) -> Iterator[slice]:
        """The rows between which no channel starts; one that does gets the state of its first sample."""
        waiting = np.isnan(self._held)
        if not waiting.any():
            self._held = bridged[-1].copy()  # before the output takes its place
            yield slice(None)
            return
        starts = np.where(waiting & finite.any(axis=0), finite.argmax(axis=0), len(finite))
        self._held = np.where(waiting & (starts == len(finite)), np.nan, bridged[-1])
        for start, end in pairwise(sorted({0, *starts.tolist(), len(finite)})):
            new = starts == start
            self._state[:, :, new] = self._unit_state * bridged[start, new]
            yield slice(start, end)

    def _bridge(self, data: Float64Array, finite: BoolArray) -> Float64Array:
        """Hold each channel's last finite sample where there is none, and zero before its first."""
        held = np.nan_to_num(self._held)[np.newaxis]
        source = np.where(finite, np.arange(1, len(data) + 1)[:, np.newaxis], 0)
        return np.take_along_axis(np.concatenate([held, data]), np.maximum.accumulate(source, axis=0), axis=0)


def cascade(filters: Sequence[SosFilter]) -> SosFilter:
    """Filters one behind the other as one: the same sections in the same order, for the cost of one call of scipy.

    Each sees samples that are no numbers as the first of them does; `settling_s` is that of the slowest.

    Args:
        filters: at least one, each of the stream that comes out of the one before it.
    """
    sections = np.concatenate([each.sos for each in filters])
    return SosFilter(filters[-1].info, sections, ", ".join(each.label for each in filters))


def highpass(info: StreamInfo, l_freq: float, order: int) -> SosFilter:
    """Butterworth high-pass, -3 dB at `l_freq` Hz. Raises `ContractError` if that does not fit the stream."""
    _check_edge(info, "high-pass", l_freq)
    sos = scipy.signal.butter(order, l_freq, "highpass", output="sos", fs=info.sfreq)
    return SosFilter(info, sos, f"high-pass {l_freq:g} Hz, Butterworth {order}")


def notch(info: StreamInfo, notch_hz: float, q: float, harmonics: int | None = None) -> SosFilter:
    """Remove the mains frequency and its harmonics.

    Args:
        info: the incoming stream.
        notch_hz: mains frequency, Hz.
        q: quality of every notch: its frequency divided by its width at -3 dB.
        harmonics: how many multiples of `notch_hz` to remove, itself included; None, or more than lie below the
            Nyquist frequency, removes all that do.

    Raises:
        ContractError: `notch_hz` does not fit the stream.
    """
    _check_edge(info, "notch", notch_hz)
    below_nyquist = math.ceil(info.sfreq / 2 / notch_hz) - 1
    count = below_nyquist if harmonics is None else min(harmonics, below_nyquist)
    sections = [np.concatenate(scipy.signal.iirnotch(notch_hz * k, q, fs=info.sfreq)) for k in range(1, count + 1)]
    also = " + harmonics" if count > 1 else ""
    return SosFilter(info, np.array(sections), f"notch {notch_hz:g} Hz{also}, Q {q:g}")


class LinearPhaseLowpass:
    """A short symmetric FIR low-pass (Hamming window): all frequencies are late by the same, known time.

    The first sample is held for the past, and no output lies before it.

    Args:
        info: the incoming stream.
        edge_hz: where the gain is one half, Hz.
        transition_hz: width of the transition band around it, Hz; the delay is `1.65 / transition_hz`.

    Raises:
        ContractError: `edge_hz` does not fit the stream.
    """

    def __init__(self, info: StreamInfo, edge_hz: float, transition_hz: float) -> None:
        _check_edge(info, "low-pass", edge_hz)
        n_taps = math.ceil(3.3 * info.sfreq / transition_hz) | 1
        self.info = info
        self._taps = scipy.signal.firwin(n_taps, edge_hz, window="hamming", fs=info.sfreq)
        self._delay = n_taps // 2
        self.delay_s = self.settling_s = self._delay / info.sfreq
        self.label = f"low-pass {edge_hz:.4g} Hz, linear phase, {1e3 * self.delay_s:.1f} ms"
        self.reset()

    def reset(self) -> None:
        """Start again from the next sample."""
        self._past: Float64Array | None = None
        self._filled = Filled()

    def __call__(self, chunk: Chunk) -> Chunk:
        """Filter the next samples, in float64; the output carries the indices and times of the input it stands for."""
        if self._past is None:
            if chunk.n_times == 0:
                return replace(chunk, info=self.info, data=chunk.data.astype(np.float64))
            self._past = np.repeat(chunk.data[:1].astype(np.float64), self._delay, axis=0)
        start = chunk.start + self._delay - len(self._past)
        data = np.concatenate([self._past, chunk.data])
        n_out = max(0, len(data) - 2 * self._delay)
        if n_out:
            filtered = np.einsum("nck,k->nc", _windows(data, len(self._taps)), self._taps)
        else:
            filtered = np.empty((0, data.shape[1]))
        self._past = data[n_out:].copy()
        self._filled.add(chunk)
        return replace(
            chunk,
            info=self.info,
            data=filtered,
            start=start,
            t0=chunk.t0 + (start - chunk.start) / self.info.sfreq,
            n_missing=self._filled.take(start, start + n_out),
        )


def _windows(data: Float64Array, n_times: int) -> Float64Array:
    """All windows of so many samples, `(n_windows, n_chans, n_times)`: a view, as numpy's `sliding_window_view`.

    That one takes longer than to multiply what a short chunk has of them.
    """
    data = np.ascontiguousarray(data)
    rows, columns = data.strides
    return np.ndarray((len(data) - n_times + 1, data.shape[1], n_times), data.dtype, data, 0, (rows, columns, rows))


def _check_edge(info: StreamInfo, kind: str, edge_hz: float) -> None:
    nyquist = info.sfreq / 2
    if not 0 < edge_hz < nyquist:
        raise ContractError(
            f"a {kind} at {edge_hz:g} Hz does not fit stream {info.name!r} of {info.sfreq:g} Hz: choose a frequency "
            f"between 0 and {nyquist:g} Hz"
        )


def _settling_samples(sos: Float64Array) -> float:
    """Samples until the slowest mode has all but died away."""
    radius = max(float(np.abs(np.roots(section[3:])).max()) for section in sos)
    return math.log(_SETTLED) / math.log(radius)
