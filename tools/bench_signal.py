"""Measures the signal path: `python tools/bench_signal.py [SECTION ...]`, all sections by default.

    resampler  ripple, rejection and delay of the live chain's resampler, from tones sent through it
    fidelity   how close live epochs, and what LUNA makes of them, come to MNE's preprocessing, per recording
    cost       milliseconds to prepare one 5 s epoch with 20 s of margin, 64 channels
    guard      milliseconds to watch the raw samples of a 5 s epoch and to judge it, 64 channels
    mains      how many windows of 4 s betray which mains frequency, per recording

Tables go to stderr, one JSON object to stdout. Recordings are looked for in `$STREAMNODE_DATA`, or in `shared/data`
beside the repository. Embeddings are those of random weights unless `BENCH_WEIGHTS` says otherwise.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import mne
import numpy as np
from rich.console import Console
from rich.table import Table
from threadpoolctl import threadpool_limits

import streamnode
from streamnode.models.luna import SPEC
from streamnode.montage import make_montage
from streamnode.signal.chain import build_chain
from streamnode.signal.guard import Guard
from streamnode.signal.mains import LISTEN_S, detect_mains
from streamnode.signal.offline import Preprocessing
from streamnode.signal.path import MARGIN_S, Mode, build_epochs
from streamnode.sources.replay import Recording, read
from streamnode.sources.synthetic import CH_NAMES_64, SyntheticEeg
from streamnode.types import Chunk, Epoch, Float64Array, StreamInfo

RATES = (160.0, 200.0, 250.0, 500.0, 512.0, 998.42, 1000.0, 1024.0, 2048.0)
RECORDINGS = {
    "eegmmidb/S001R01.edf": 75.0,
    "eegmmidb/S001R02.edf": 75.0,
    "eeglab/eeglab_data.set": 50.0,  # 128 Hz: the published 75 Hz do not exist in it
    "eeglab/test.edf": 75.0,
    "zuna/sample1_raw.fif": 75.0,
}
NOTCH_HZ = 60.0
_FOLDER = Path(os.environ.get("STREAMNODE_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
_HIGHEST = 600.0  # Hz, of the tones sent: twice what is folded once
N_TIMES, HOP = 1280, 1280
MODES: tuple[tuple[Mode, float], ...] = (("causal", 0.0), ("window", 0.0), ("lookahead", 1.0))


@dataclass(frozen=True, slots=True)
class ResamplerFigures:
    """What tones show of the resampler, with the pass and stop edges the model's band gives it."""

    sfreq: float
    ripple_db: float
    rejection_db: float | None
    delay_ms: float
    label: str


@dataclass(frozen=True, slots=True)
class FidelityFigures:
    """One recording in one mode.

    `segment` compares with MNE on the same window, margin and lookahead; `whole` with MNE on the whole recording.
    """

    recording: str
    mode: str
    n_epochs: int
    segment_error: float | None
    segment_cosine: float | None
    whole_cosine_median: float
    whole_cosine_worst: float
    whole_correlation_median: float


@dataclass(frozen=True, slots=True)
class CostFigures:
    """Fastest of a few."""

    sfreq: float
    n_chans: int
    margin_s: float
    prepare_ms: float


@dataclass(frozen=True, slots=True)
class GuardFigures:
    """Medians per epoch."""

    sfreq: float
    hop_s: float
    watch_ms: float
    raw_quality_ms: float
    judge_ms: float
    sum_ms: float


@dataclass(frozen=True, slots=True)
class MainsFigures:
    """Windows of 4 s by what they betray."""

    recording: str
    windows: int
    found_50: int
    found_60: int


def resampler() -> list[ResamplerFigures]:
    """Send tones through the chain without high-pass, up to 80 % of the band and from the outgoing Nyquist on."""
    return [_resampler(sfreq) for sfreq in RATES]


def _resampler(sfreq: float) -> ResamplerFigures:
    info = StreamInfo("tones", "", "EEG", sfreq, make_montage(["Cz", "Pz"]))
    chain = build_chain(info, replace(SPEC, l_freq=0.0))
    seconds = np.arange(int(4 * sfreq)) / sfreq

    def amplitude(freq: float) -> Float64Array:
        """Of a tone, sample by sample, from its two quadratures."""
        chain.reset()
        turns = 2 * np.pi * freq * seconds
        tone = np.stack([np.cos(turns), np.sin(turns)], axis=1)
        steady = chain(Chunk(info, tone, 0, 0.0, 0.0, 0)).data[256:-64].astype(np.float64)
        return np.hypot(steady[:, 0], steady[:, 1])

    passed = np.concatenate([amplitude(freq) for freq in np.linspace(0.5, 0.8 * SPEC.h_freq, 60)])
    folded = [amplitude(freq).max() for freq in np.arange(SPEC.sfreq / 2, min(sfreq / 2, _HIGHEST), 0.73)]
    return ResamplerFigures(
        sfreq=sfreq,
        ripple_db=round(float(np.abs(20 * np.log10(passed)).max()), 3),
        rejection_db=round(-20 * float(np.log10(max(folded))), 1) if folded else None,
        delay_ms=round(1e3 * chain.delay_s, 2),
        label=chain.describe()[-1],
    )


def fidelity() -> list[FidelityFigures]:
    """Every recording in every mode; those that are not there are left out."""
    there = {name: h_freq for name, h_freq in RECORDINGS.items() if (_FOLDER / name).is_file()}
    return [figures for name, h_freq in there.items() for figures in _fidelity(name, read(_FOLDER / name), h_freq)]


def _fidelity(name: str, recording: Recording, h_freq: float) -> list[FidelityFigures]:
    info = recording.info
    luna = streamnode.load_model(
        "luna-base",
        weights=os.environ.get("BENCH_WEIGHTS", "random:0"),
        ch_names=info.ch_names,
        ch_pos=info.montage.ch_pos,
        outputs=("embedding",),
    )

    def embed(epochs: Float64Array) -> Float64Array:
        embedding = luna.encode(epochs.astype(np.float32)).embedding
        assert embedding is not None
        return embedding.astype(np.float64)

    raw = recording.data.T.astype(np.float64)
    whole = by_mne(raw, info.sfreq, h_freq)
    figures = []
    for mode, lookahead_s in MODES:
        epochs = _epochs(recording, mode, h_freq, lookahead_s)
        live = np.stack([epoch.data for epoch in epochs]).astype(np.float64)
        # where in the whole recording the epoch's own first sample lies, to the nearest sample
        starts = [min(max(0, round(epoch.t0 * SPEC.sfreq)), whole.shape[1] - N_TIMES) for epoch in epochs]
        offline = np.stack([whole[:, start : start + N_TIMES] for start in starts])
        cosines = _similarity(embed(live), embed(offline))
        error = cosine = None
        if mode != "causal":
            segments = np.stack([_segment(raw, info.sfreq, k, h_freq, lookahead_s) for k in range(len(epochs))])
            error = float(np.abs(live - segments).max() / np.abs(segments).max())
            cosine = float(_similarity(embed(live), embed(segments)).min())
        correlations = _similarity(
            live - live.mean(axis=2, keepdims=True), offline - offline.mean(axis=2, keepdims=True)
        )
        figures.append(
            FidelityFigures(
                recording=name,
                mode=mode if not lookahead_s else f"{mode} {lookahead_s:g} s",
                n_epochs=len(epochs),
                segment_error=error,
                segment_cosine=cosine,
                whole_cosine_median=round(float(np.median(cosines)), 4),
                whole_cosine_worst=round(float(cosines.min()), 4),
                whole_correlation_median=round(float(np.median(correlations)), 4),
            )
        )
    return figures


def _epochs(recording: Recording, mode: Mode, h_freq: float, lookahead_s: float) -> list[Epoch]:
    path = build_epochs(
        recording.info,
        SPEC,
        mode,
        n_times=N_TIMES,
        hop=HOP,
        clock=lambda: 0.0,
        lookahead_s=lookahead_s,
        h_freq=h_freq,
        notch_hz=NOTCH_HZ,
    )
    return path(Chunk(recording.info, recording.data, 0, 0.0, 0.0, 0))


def _segment(raw: Float64Array, sfreq: float, number: int, h_freq: float, lookahead_s: float) -> Float64Array:
    """An epoch as MNE makes it from the raw samples that the live one was made of."""
    stop = int(np.ceil((N_TIMES + number * HOP) * sfreq / SPEC.sfreq - 1e-6))
    first = max(0, stop - int(np.ceil(N_TIMES * sfreq / SPEC.sfreq)) - round(MARGIN_S * sfreq))
    ahead = round(lookahead_s * sfreq)
    prepared = by_mne(raw[:, first : stop + ahead], sfreq, h_freq)
    last = max(N_TIMES, prepared.shape[1] - round(ahead * SPEC.sfreq / sfreq))
    return prepared[:, last - N_TIMES : last]


def by_mne(data: Float64Array, sfreq: float, h_freq: float) -> Float64Array:
    """LUNA's preprocessing with MNE, `(n_chans, n_times)` in and out."""
    raw = mne.io.RawArray(data.copy(), mne.create_info(len(data), sfreq, "eeg", verbose="ERROR"), verbose="ERROR")
    raw.filter(SPEC.l_freq, h_freq, verbose="ERROR").notch_filter(NOTCH_HZ, verbose="ERROR")
    prepared: Float64Array = raw.resample(SPEC.sfreq, verbose="ERROR").get_data()
    return prepared


def _similarity(one: Float64Array, other: Float64Array) -> Float64Array:
    """Cosine along the last axis."""
    cosine: Float64Array = (one * other).sum(-1) / np.linalg.norm(one, axis=-1) / np.linalg.norm(other, axis=-1)
    return cosine


def cost() -> list[CostFigures]:
    """Time the preprocessing of one epoch in mode `window`."""
    return [_cost(sfreq) for sfreq in (160.0, 256.0, 500.0, 1000.0, 2048.0)]


def _cost(sfreq: float, n_chans: int = 64) -> CostFigures:
    prepare = Preprocessing(sfreq, SPEC, SPEC.l_freq, SPEC.h_freq, NOTCH_HZ)
    segment = np.random.default_rng(0).standard_normal((n_chans, int((5 + MARGIN_S) * sfreq)))
    taken = []
    for _ in range(5):
        begun = time.perf_counter()
        prepare(segment)
        taken.append(time.perf_counter() - begun)
    return CostFigures(sfreq, n_chans, MARGIN_S, round(1e3 * min(taken), 1))


def guard() -> list[GuardFigures]:
    """Follow a minute of chunks of 50 ms."""
    with threadpool_limits(1, user_api="blas"):  # as a node does
        return [_guard(sfreq, hop_s) for sfreq in (256.0, 1000.0) for hop_s in (0.25, 1.0)]


def _guard(sfreq: float, hop_s: float) -> GuardFigures:
    eeg = SyntheticEeg(CH_NAMES_64, sfreq)
    path = build_epochs(eeg.info, SPEC, n_times=N_TIMES, hop=round(hop_s * SPEC.sfreq), clock=lambda: 0.0)
    guarding = Guard(eeg.info, path.info, "keep", horizon_s=5 + path.delay_s, line_hz=NOTCH_HZ)
    taken, watching, n_times = [], 0.0, round(0.05 * sfreq)
    for start in range(0, round(60 * sfreq), n_times):
        chunk = Chunk(eeg.info, eeg.take(n_times), start, start / sfreq, 0.0, 0)
        begun = time.perf_counter()
        guarding.watch(chunk)
        watching += time.perf_counter() - begun
        for epoch in path(chunk):
            begun = time.perf_counter()
            raw = guarding.raw_quality(epoch)
            asked = time.perf_counter()
            guarding.judge(epoch, raw)
            taken.append((watching, asked - begun, time.perf_counter() - asked))
            watching = 0.0
    steps = np.array(taken[1:])  # the first has watched for a whole epoch
    medians = [round(1e3 * float(seconds), 3) for seconds in (*np.median(steps, axis=0), np.median(steps.sum(axis=1)))]
    return GuardFigures(sfreq, hop_s, *medians)


def mains() -> list[MainsFigures]:
    """Listen to every recording, 4 s at a time; those that are not there are left out."""
    return [_mains(name, read(_FOLDER / name)) for name in RECORDINGS if (_FOLDER / name).is_file()]


def _mains(name: str, recording: Recording) -> MainsFigures:
    n_times = round(LISTEN_S * recording.info.sfreq)
    starts = range(0, len(recording.data) - n_times + 1, n_times)
    found = [detect_mains(recording.data[start : start + n_times].T, recording.info.sfreq) for start in starts]
    return MainsFigures(name, len(found), found.count(50.0), found.count(60.0))


SECTIONS: dict[str, Callable[[], Sequence[Any]]] = {
    "resampler": resampler,
    "fidelity": fidelity,
    "cost": cost,
    "guard": guard,
    "mains": mains,
}


def main() -> None:
    """Run the sections asked for, print their tables and then all figures as JSON."""
    console, figures = Console(stderr=True, width=170), {}
    for name in sys.argv[1:] or SECTIONS:
        rows = [asdict(row) for row in SECTIONS[name]()]
        table = Table(*(rows[0] if rows else ["nothing to measure"]), title=name)
        for row in rows:
            table.add_row(
                *(
                    "-" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
                    for value in row.values()
                )
            )
        console.print(table)
        figures[name] = rows
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
