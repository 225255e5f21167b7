"""The mains frequency of a place: what a recording betrays of it, and a listener for the first seconds of a stream.

Mains are one wave that reaches all channels: a line in the spectrum, and a pattern across the head. Power is therefore
measured in units of what the channels have in common around the line, as adaptive radar does (Kelly 1986, An adaptive
detection algorithm, doi:10.1109/TAES.1986.310745): 64 channels then show what none of them would prove.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from streamnode.types import Chunk, Float64Array, FloatArray, StreamInfo

MAINS_HZ = (50.0, 60.0)

LISTEN_S = 4.0
"""What it takes to tell; an epoch of 5 s is not late for it."""

_GIVE_UP_S = 30.0  # of samples without so many in one piece
_LINE_HZ, _AROUND_HZ = 0.25, (1.0, 6.0)  # from the mains frequency: where the line is, and what it is compared with
_CLEAR = 2.5  # times the highest peak around it: of 1000 windows of 4 s of noise, of 1 to 128 channels, one had such
_CLEARER = 2.0  # times what there is at the other frequency: with more channels all such peaks are higher
_TINY = 1e-30


def detect_mains(data: FloatArray, sfreq: float) -> float | None:
    """The mains frequency that a recording betrays.

    Args:
        data: `(n_chans, n_times)` microvolts as recorded, 4 s or more.
        sfreq: Hz.

    Returns:
        50.0 or 60.0, whichever stands out of the spectrum around it, and more clearly than the other; None if neither
        does, if the window is shorter than 4 s, or if `sfreq` is too low to hold it.
    """
    if data.shape[1] < LISTEN_S * sfreq:
        return None
    whole = data[np.isfinite(data).all(axis=1)].astype(np.float64)
    tapered = (whole - whole.mean(axis=1, keepdims=True)) * np.hanning(data.shape[1])
    spectrum: NDArray[np.complex128] = np.fft.rfft(tapered, axis=1)
    freqs: Float64Array = np.fft.rfftfreq(data.shape[1], 1 / sfreq).astype(np.float64)
    (other, _), (best, line_hz) = sorted((_clarity(spectrum, freqs, line_hz), line_hz) for line_hz in MAINS_HZ)
    return line_hz if best > max(_CLEAR, _CLEARER * other) else None


class MainsListener:
    """Listens to the first seconds of a stream, and keeps them for what is built on its answer.

    Args:
        info: the stream.

    Attributes:
        mains_hz: 50.0 or 60.0, or None for neither; final once a call has returned True.
        heard: every chunk so far, in order.
    """

    def __init__(self, info: StreamInfo) -> None:
        self.mains_hz: float | None = None
        self.heard: list[Chunk] = []
        self._sfreq = info.sfreq
        self._n_heard = 0
        self._run: int | None = None
        self._begin = 0

    def __call__(self, chunk: Chunk) -> bool:
        """Take in the next chunk.

        Returns:
            True once enough is heard: 4 s of one run, or 30 s of runs that all broke off before.
        """
        self.heard.append(chunk)
        self._n_heard += chunk.n_times
        if chunk.run != self._run:
            self._run, self._begin = chunk.run, chunk.start
        if chunk.start + chunk.n_times - self._begin < LISTEN_S * self._sfreq:
            return self._n_heard >= _GIVE_UP_S * self._sfreq
        run = np.concatenate([heard.data for heard in self.heard if heard.run == chunk.run])
        self.mains_hz = detect_mains(run.T, self._sfreq)
        return True


def _clarity(spectrum: NDArray[np.complex128], freqs: Float64Array, line_hz: float) -> float:
    """The peak at the mains over the highest around it, of `(n_chans, n_freqs)`; 0 where the spectrum ends before."""
    away = np.abs(freqs - line_hz)
    around = spectrum[:, (away >= _AROUND_HZ[0]) & (away <= _AROUND_HZ[1])]
    if not len(spectrum) or freqs[-1] < line_hz + _AROUND_HZ[0]:
        return 0.0
    scale = np.maximum(np.sqrt(np.mean(np.abs(around) ** 2, axis=1, keepdims=True)), _TINY)
    noise, line = around / scale, spectrum[:, away <= _LINE_HZ] / scale
    shared = noise @ noise.conj().T / noise.shape[1] + np.eye(len(noise))  # the unit keeps few windows from overfitting

    def peak(of: NDArray[np.complex128]) -> float:
        return float(np.sum(of.conj() * np.linalg.solve(shared, of), axis=0).real.max())

    return peak(line) / max(peak(noise), _TINY)
