"""EEG made from a seed: for demos, tests and benchmarks where there is no amplifier and no recording.

It has what one looks for first in real EEG: a 1/f background that neighbouring electrodes share, occipital alpha that
rises when the eyes close, frontal blinks while they are open, and the hum of the mains.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Iterator, Sequence
from functools import partial
from typing import Self

import numpy as np
import scipy

from streamnode.errors import ConfigError
from streamnode.metrics import Metrics
from streamnode.montage import make_montage, position
from streamnode.sources.pacing import Annotation, Block, chunks
from streamnode.types import Chunk, Clock, Float32Array, Float64Array, Montage, StreamInfo

CH_NAMES_32 = (
    *("Fp1", "AF3", "F7", "F3", "FC1", "FC5", "T7", "C3", "CP1", "CP5", "P7", "P3", "Pz", "PO3", "O1", "Oz"),
    *("O2", "PO4", "P4", "P8", "CP6", "CP2", "C4", "T8", "FC6", "FC2", "F4", "F8", "AF4", "Fp2", "Fz", "Cz"),
)
"""The 32 channels of a common 10-20 cap, in its order."""

CH_NAMES_64 = (
    *CH_NAMES_32,
    *("AF7", "F5", "F1", "FT7", "FC3", "C1", "C5", "TP7", "CP3", "P1", "P5", "PO7", "POz", "PO8", "P6", "P2"),
    *("CPz", "CP4", "TP8", "C6", "C2", "FC4", "FT8", "F6", "AF8", "F2", "FCz", "AFz", "Fpz", "Iz", "PO5", "PO6"),
)
"""The same, followed by 32 more of the 10-10 system."""

EYES_PERIOD_S = 20.0
"""The eyes are open for the first half of each period and closed for the second."""

_BACKGROUND_UV = 12.0  # rms
_ALPHA_UV = 20.0  # rms at Oz, eyes closed
_ALPHA_OPEN = 0.15  # of that remains with the eyes open
_BLINK_UV = 120.0  # peak at Fpz
_BLINK_S = 0.35
_BLINKS_PER_S = 0.25
_LINE_UV = 2.0  # amplitude on the average electrode


class SyntheticEeg:
    """Endless EEG that depends on its arguments alone: not on a clock, nor on the chunks it is taken in.

    Args:
        ch_names: any names; electrodes without a known place have background and hum, but no alpha and no blinks.
        sfreq: Hz.
        seed: another seed, another recording.
        line_hz: mains frequency; the hum is left out when `sfreq` cannot carry it.

    Raises:
        ConfigError: `sfreq` is not above 30 Hz.
        ContractError: two names are the same channel.
    """

    annotations: tuple[Annotation, ...] = ()

    def __init__(
        self, ch_names: Sequence[str] = CH_NAMES_32, sfreq: float = 256.0, seed: int = 0, *, line_hz: float = 50.0
    ) -> None:
        if not 30 < sfreq <= 100_000:
            raise ConfigError(f"synthetic EEG cannot be had at {sfreq:g} Hz: choose a rate above 30 Hz, up to 100 kHz")
        montage = make_montage(ch_names)
        self.info = StreamInfo("synthetic", f"streamnode-play:synthetic-{seed}", "EEG", float(sfreq), montage)
        self._seconds = _seconds(montage, float(sfreq), np.random.default_rng(seed), line_hz)
        self._ready: Float32Array = np.empty((0, montage.n_chans), np.float32)

    def take(self, n_times: int) -> Float32Array:
        """The next samples, `(n_times, n_chans)` float32 microvolts, the same however they are divided into calls."""
        parts, n_ready = [self._ready], len(self._ready)
        while n_ready < n_times:
            parts.append(next(self._seconds))
            n_ready += len(parts[-1])
        ready = np.concatenate(parts)
        self._ready = ready[n_times:]
        return ready[:n_times]

    def blocks(self, n_times: int, *, loop: bool) -> Iterator[Block]:  # noqa: ARG002  (endless either way)
        """Endless blocks of `n_times` samples, all of one run."""
        row = 0
        while True:
            yield Block(0, row, self.take(n_times))
            row += n_times


class SyntheticSource:
    """Plays synthetic EEG straight into a pipeline, without LSL. A `Source`.

    Args:
        eeg: what to play; each iteration goes on where the last one stopped.
        clock: the LSL clock.
        speed: times real time; `math.inf` for as fast as possible.
        chunk_s: seconds of EEG in a chunk.
        duration_s: end after so many seconds of EEG; without it, never.
        metrics: where samples are counted; None counts none.
    """

    def __init__(
        self,
        eeg: SyntheticEeg,
        *,
        clock: Clock,
        speed: float = 1.0,
        chunk_s: float = 0.02,
        duration_s: float | None = None,
        metrics: Metrics | None = None,
    ) -> None:
        self._eeg = eeg
        play = partial(chunks, eeg, clock=clock, speed=speed, loop=False, chunk_s=chunk_s)
        self._play = partial(play, duration_s=duration_s, metrics=metrics)

    @property
    def info(self) -> StreamInfo:
        """The EEG as a stream."""
        return self._eeg.info

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None: ...

    def __aiter__(self) -> AsyncIterator[Chunk]:
        """Chunks in order, each when its last sample is due."""
        return self._play()


def _seconds(montage: Montage, sfreq: float, rng: np.random.Generator, line_hz: float) -> Iterator[Float32Array]:
    """The EEG a second at a time: always in one size, so that rounding cannot depend on the chunks of the caller."""
    rngs = rng.spawn(4)
    parts = zip(
        _background(montage, sfreq, rngs[0]),
        _alpha(montage, sfreq, rngs[1]),
        _blinks(montage, sfreq, rngs[2]),
        _hum(montage, sfreq, rngs[3], line_hz),
        strict=True,
    )
    for background, alpha, blinks, hum in parts:
        yield (background + alpha + blinks + hum).astype(np.float32)


def _background(montage: Montage, sfreq: float, rng: np.random.Generator) -> Iterator[Float64Array]:
    """Noise of 1/f power: one source under each electrode, spread over the neighbours."""
    corners = 0.5 * 4.0 ** np.arange(math.ceil(math.log(sfreq, 4)))  # Hz; falling for an octave, flat for an octave
    poles, zeros = np.exp(-2 * np.pi * corners / sfreq), np.exp(-4 * np.pi * corners / sfreq)
    sos = np.array([[1.0, -zero, 0.0, 1.0, -pole, 0.0] for pole, zero in zip(poles, zeros, strict=True)])
    mixing = _BACKGROUND_UV * _gain(sos, sfreq) * _neighbours(montage)
    zi = np.zeros((len(sos), 2, montage.n_chans))
    while True:
        noise, zi = scipy.signal.sosfilt(sos, rng.standard_normal((round(sfreq), montage.n_chans)), axis=0, zi=zi)
        yield noise @ mixing


def _alpha(montage: Montage, sfreq: float, rng: np.random.Generator) -> Iterator[Float64Array]:
    sos = scipy.signal.butter(1, (9.0, 11.0), "bandpass", fs=sfreq, output="sos")
    weights = _ALPHA_UV * _gain(sos, sfreq) * _near("Oz", montage, reach_m=0.06)
    zi = np.zeros((len(sos), 2))
    for times in _times(sfreq):
        wave, zi = scipy.signal.sosfilt(sos, rng.standard_normal(len(times)), zi=zi)
        wave *= _ALPHA_OPEN + (1 - _ALPHA_OPEN) * _eyes_closed(times)
        yield np.outer(wave, weights)


def _blinks(montage: Montage, sfreq: float, rng: np.random.Generator) -> Iterator[Float64Array]:
    lid = scipy.signal.windows.hann(round(_BLINK_S * sfreq))
    weights = _BLINK_UV * _near("Fpz", montage, reach_m=0.045)
    zi = np.zeros(len(lid) - 1)
    for times in _times(sfreq):
        begins = rng.random(len(times)) < _BLINKS_PER_S / sfreq * (1 - _eyes_closed(times))
        wave, zi = scipy.signal.lfilter(lid, [1.0], begins.astype(np.float64), zi=zi)
        yield np.outer(wave, weights)


def _hum(montage: Montage, sfreq: float, rng: np.random.Generator, line_hz: float) -> Iterator[Float64Array]:
    amplitude = _LINE_UV * rng.uniform(0.5, 1.5, montage.n_chans) * (line_hz < sfreq / 2)
    phase = rng.uniform(0, 2 * np.pi, montage.n_chans)
    for times in _times(sfreq):
        yield amplitude * np.sin(2 * np.pi * line_hz * times[:, None] + phase)


def _times(sfreq: float) -> Iterator[Float64Array]:
    """Seconds since the start of the samples of each second."""
    n_times, start = round(sfreq), 0
    while True:
        yield np.arange(start, start + n_times) / sfreq
        start += n_times


def _eyes_closed(times: Float64Array) -> Float64Array:
    """0 while the eyes are open, 1 while they are closed, about 0.3 s between."""
    closed: Float64Array = 1 / (1 + np.exp(40 * np.sin(2 * np.pi * times / EYES_PERIOD_S)))
    return closed


def _gain(sos: Float64Array, sfreq: float) -> float:
    """Factor that makes filtered white noise of unit variance have unit variance again."""
    impulse = np.zeros(round(20 * sfreq))
    impulse[0] = 1.0
    return 1 / float(np.linalg.norm(scipy.signal.sosfilt(sos, impulse)))


def _near(electrode: str, montage: Montage, *, reach_m: float) -> Float64Array:
    """Weights of the channels, `(n_chans,)`: 1 at the electrode, falling off as a Gaussian."""
    distance = np.linalg.norm(montage.ch_pos - position(electrode), axis=1)
    weights: Float64Array = np.nan_to_num(np.exp(-0.5 * (distance / reach_m) ** 2))
    return weights


def _neighbours(montage: Montage, reach_m: float = 0.04) -> Float64Array:
    """`(n_sources, n_chans)` weights, unit power a channel; a channel without a place has a source to itself."""
    distance = np.linalg.norm(montage.ch_pos[:, None] - montage.ch_pos, axis=2)
    weights = np.nan_to_num(np.exp(-0.5 * (distance / reach_m) ** 2))
    np.fill_diagonal(weights, 1.0)
    normalised: Float64Array = weights / np.linalg.norm(weights, axis=0)
    return normalised
