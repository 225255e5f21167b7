"""Promises of `streamnode.signal.quality`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from streamnode.montage import make_montage
from streamnode.signal.filters import highpass
from streamnode.signal.quality import RawMonitor, Thresholds, assess, carry
from streamnode.sources.synthetic import CH_NAMES_32, CH_NAMES_64, SyntheticEeg
from streamnode.types import Fault, Float32Array, Float64Array, Quality, StreamInfo
from tests.signal import as_chunk, cut, stream

EPOCH_S, WINDOW_S = 5, 15
EEGMMIDB = ["eegmmidb/S001R01.edf", "eegmmidb/S001R02.edf", "eegmmidb/S001R04.edf"]
RECORDINGS = [*EEGMMIDB, "eeglab/eeglab_data.set"]
SYNTHETIC = ["synthetic 32", "synthetic 64"]
Injector = Callable[[Float32Array, float, np.random.Generator], Float64Array]


def recording(name: str, data_dir: Path) -> tuple[StreamInfo, Float32Array]:
    """The EEG channels of a recording as they were recorded, `(n_times, n_chans)` microvolts."""
    if name in SYNTHETIC:
        eeg = SyntheticEeg(CH_NAMES_64 if name.endswith("64") else CH_NAMES_32, seed=7)
        return eeg.info, eeg.take(60 * 256) + np.float32(3000)  # the offset that amplifiers have
    mne = pytest.importorskip("mne")
    raw = mne.io.read_raw(data_dir / name, preload=True, verbose="error")
    raw.drop_channels([ch for ch in raw.ch_names if ch.startswith("EOG")])
    info = StreamInfo("amp", "amp-1", "EEG", float(raw.info["sfreq"]), make_montage(raw.ch_names))
    data: Float32Array = (1e6 * raw.get_data().T).astype(np.float32)
    return info, data


def flat(x: Float32Array, sfreq: float, rng: np.random.Generator) -> Float64Array:
    """Dead from the start, or for the last one and a half to three seconds."""
    begin = 0 if rng.random() < 0.5 else len(x) - round(rng.uniform(1.5, 3) * sfreq)
    dead = x.astype(np.float64)
    dead[begin:] = dead[begin]
    return dead


def railed(x: Float32Array, sfreq: float, rng: np.random.Generator) -> Float64Array:
    """Cut off above, where it is for 2 to 40 % of the time."""
    rail = float(np.percentile(x[-round(EPOCH_S * sfreq) :], rng.uniform(60, 98)))
    return np.minimum(x.astype(np.float64), rail)


def amplitude(x: Float32Array, sfreq: float, rng: np.random.Generator) -> Float64Array:
    """Seven to thirty times what it should be, or popping by millivolts."""
    signal = x.astype(np.float64)
    if rng.random() < 0.5:
        signal += rng.uniform(6, 29) * (signal - signal.mean())
        return signal
    pops = np.zeros(len(x))
    pops[rng.integers(len(x) - round(EPOCH_S * sfreq), len(x) - round(sfreq), 3)] = rng.uniform(2000, 9000)
    signal += np.convolve(pops, np.exp(-np.arange(0, 1, 1 / sfreq) / 0.2))[: len(x)]
    return signal


def line(x: Float32Array, sfreq: float, rng: np.random.Generator) -> Float64Array:
    """Mains of 30 to 300 microvolts, which are never quite where they should be."""
    phase = 2 * np.pi * rng.choice([49.95, 50.03, 59.97, 60.05]) * np.arange(len(x)) / sfreq
    signal = x.astype(np.float64)
    signal += rng.uniform(30, 300) * np.sin(phase)
    return signal


def correlation(x: Float32Array, sfreq: float, rng: np.random.Generator) -> Float64Array:
    """EEG by its amplitude and spectrum, but nothing that the neighbours know of: backwards, from another moment."""
    return np.roll(x[::-1], rng.integers(len(x))).astype(np.float64)


def not_finite(x: Float32Array, sfreq: float, rng: np.random.Generator) -> Float64Array:
    """Some samples are no numbers."""
    broken = x.astype(np.float64)
    broken[rng.integers(len(x) - round(EPOCH_S * sfreq), len(x), 3)] = rng.choice([np.nan, np.inf, -np.inf])
    return broken


INJECTORS: dict[Fault, Injector] = {
    "flat": flat,
    "railed": railed,
    "amplitude": amplitude,
    "line": line,
    "correlation": correlation,
    "not_finite": not_finite,
}


def judge(info: StreamInfo, data: Float32Array) -> Iterator[Quality]:
    """What is found in each epoch, by both detectors, of a recording that passes a high-pass at 0.5 Hz."""
    monitor = RawMonitor(info, horizon_s=EPOCH_S)
    hop, n_times = round(info.sfreq), round(EPOCH_S * info.sfreq)
    transform = highpass(info, 0.5, 2)
    filtered = np.concatenate([transform(chunk).data for chunk in cut(as_chunk(info, data), [hop])])
    for end, chunk in enumerate(cut(as_chunk(info, data), [hop]), start=1):
        monitor(chunk)
        if end >= 2 * EPOCH_S:
            epoch = np.ascontiguousarray(filtered[end * hop - n_times : end * hop].T.astype(np.float32))
            t0 = chunk.t_last - (n_times - 1) / info.sfreq
            yield monitor.quality(t0, chunk.t_last) | assess(epoch, info.sfreq)


@pytest.mark.parametrize("name", [*SYNTHETIC, *RECORDINGS])
def test_injected_faults_are_found(name: str, data_dir: Path) -> None:
    """Of faults injected at random, F1 over channels is at least 0.9, and nine of ten are named rightly."""
    info, clean = recording(name, data_dir)
    rng = np.random.default_rng(0)
    count, named = Counter[str](), 0
    for _ in range(12):
        begin = rng.integers(0, len(clean) - round(WINDOW_S * info.sfreq))
        data = clean[begin : begin + round(WINDOW_S * info.sfreq)].copy()
        chosen = rng.choice(info.n_chans, size=rng.integers(1, info.n_chans // 5), replace=False)
        faults = {int(channel): rng.choice(list(INJECTORS)) for channel in chosen}
        for channel, fault in faults.items():
            data[:, channel] = INJECTORS[fault](data[:, channel], info.sfreq, rng)
        *_, found = judge(info, data)
        bad = set(found.bad)
        count.update(hit=len(bad & faults.keys()), false=len(bad - faults.keys()), missed=len(faults.keys() - bad))
        named += sum(fault in found.faults[channel] for channel, fault in faults.items())
    f1 = 2 * count["hit"] / (2 * count["hit"] + count["false"] + count["missed"])
    assert f1 >= 0.9, count
    assert named >= 0.9 * (count["hit"] + count["missed"])


@pytest.mark.parametrize("name", [*SYNTHETIC, *RECORDINGS])
def test_false_alarms_are_rare(name: str, data_dir: Path) -> None:
    """On clean recordings, fewer than 1 in 100 channels of an epoch are called bad."""
    info, data = recording(name, data_dir)
    judged = list(judge(info, data[: round(60 * info.sfreq)]))
    rate = sum(len(quality.bad) for quality in judged) / len(judged) / info.n_chans
    assert rate < 0.01, rate


def epoch() -> Float32Array:
    return np.ascontiguousarray(SyntheticEeg(CH_NAMES_32, seed=1).take(1280).T)


def test_each_criterion_names_its_fault() -> None:
    """A flat, a wild, a humming, a lonely and a broken channel are each called what they are, and the rest is good."""
    rng = np.random.default_rng(0)
    data = epoch()
    times = np.arange(1280) / 256
    data[0] = 0.01 * rng.standard_normal(1280)
    data[1] *= 20
    data[2] += (200 * np.sin(2 * np.pi * 60 * times)).astype(np.float32)
    data[3] = 12 * rng.standard_normal(1280)
    data[4, 700] = np.inf
    data[4, 701] = -np.inf
    before = data.copy()
    faults = assess(data, 256.0).faults
    assert [faults[0], faults[3], faults[4]] == [("flat",), ("correlation",), ("not_finite",)]
    assert "amplitude" in faults[1]
    assert "line" in faults[2]
    assert not any(faults[5:])
    np.testing.assert_array_equal(data, before)


def test_the_declared_mains_frequency_is_the_one_watched() -> None:
    """With 50 Hz declared, 60 Hz are not mains; a rate that cannot hold the mains has none."""
    data = epoch()
    data[2] += (200 * np.sin(2 * np.pi * 60 * np.arange(1280) / 256)).astype(np.float32)
    assert "line" in assess(data, 256.0, line_hz=60.0).faults[2]
    assert "line" not in assess(data, 256.0, line_hz=50.0).faults[2]
    assert "line" not in assess(data, 90.0).faults[2]


def test_thresholds_are_obeyed() -> None:
    """A stricter threshold finds what the default lets pass."""
    assert assess(epoch(), 256.0).bad == ()
    assert len(assess(epoch(), 256.0, thresholds=Thresholds(correlation=1.01)).bad) == 32


@pytest.mark.parametrize("n_chans", [1, 2, 3])
def test_few_channels_are_not_compared(n_chans: int) -> None:
    """Fewer than four channels are not bad for being unlike each other."""
    data = (10 * np.random.default_rng(0).standard_normal((n_chans, 1280))).astype(np.float32)
    assert assess(data, 256.0).bad == ()


@pytest.mark.parametrize("shape", [(0, 1280), (4, 0), (4, 1), (4, 7)])
def test_odd_shapes_are_judged(shape: tuple[int, int]) -> None:
    """No channels, no samples and a few samples give a verdict for each channel, never an exception."""
    assert len(assess(np.zeros(shape, np.float32), 256.0).faults) == shape[0]


def test_absurd_values_are_only_bad() -> None:
    """A channel whose squares float32 cannot hold is called wild, without a warning."""
    data = epoch()
    data[3, 5] = 1e30
    assert "amplitude" in assess(data, 256.0).faults[3]


def test_an_epoch_that_is_broken_throughout_is_bad_throughout() -> None:
    """All NaN is not finite, all zero is flat."""
    assert assess(np.full((4, 100), np.nan, np.float32), 256.0) == Quality((("not_finite",),) * 4)
    assert assess(np.zeros((4, 100), np.float32), 256.0) == Quality((("flat",),) * 4)


def monitored(data: Float32Array, sizes: list[int], thresholds: Thresholds | None = None) -> Quality:
    info = stream(250, ("C3", "Cz", "C4"))
    monitor = RawMonitor(info, horizon_s=100, thresholds=thresholds or Thresholds())
    chunk = as_chunk(info, data)
    for part in cut(chunk, sizes):
        monitor(part)
    return monitor.quality(chunk.t0, chunk.t_last)


@pytest.mark.parametrize("sizes", [[1], [7, 1, 300], [10_000]])
def test_monitor_does_not_depend_on_chunks(sizes: list[int]) -> None:
    """A channel frozen for 1.2 s, one that clips and one with loud mains are found in any chunking."""
    rng = np.random.default_rng(0)
    data = (2000 + 20 * rng.standard_normal((1250, 3))).astype(np.float32)
    data[400:700, 0] = data[400, 0]
    data[:, 1] = np.minimum(data[:, 1], 2010)
    data[:, 2] += (100 * np.sin(2 * np.pi * 50 * np.arange(1250) / 250 + 1)).astype(np.float32)
    assert monitored(data, sizes).faults == (("flat",), ("railed",), ("line",))


def test_a_known_rail_is_heeded() -> None:
    """A constant channel is flat; with the rail of the amplifier declared, it is also railed."""
    data = (20 * np.random.default_rng(0).standard_normal((1250, 3))).astype(np.float32)
    data[:, 1] = 187_500
    assert monitored(data, [50]).faults == ((), ("flat",), ())
    assert monitored(data, [50], Thresholds(rail_uv=187_500)).faults == ((), ("flat", "railed"), ())


def test_a_coarse_converter_is_not_railed() -> None:
    """Eight levels repeat their extremes without being at a rail."""
    wave = np.round(4 * np.sin(2 * np.pi * np.arange(1250)[:, np.newaxis] / 250 + np.arange(3)))
    assert monitored(wave.astype(np.float32), [50]).bad == ()


def test_monitor_answers_for_the_span_asked() -> None:
    """What lies before the span is not held against a channel, and nothing is known before the first sample."""
    info = stream(250, ("C3", "Cz", "C4"))
    data = (20 * np.random.default_rng(0).standard_normal((2500, 3))).astype(np.float32)
    data[:500, 0] = np.nan
    monitor = RawMonitor(info, horizon_s=100)
    assert monitor.quality(0, 1e9) == Quality(((), (), ()))
    for chunk in cut(as_chunk(info, data), [50]):
        monitor(chunk)
    last = monitor.t_last
    assert monitor.quality(last - 5, last).bad == ()
    assert monitor.quality(last - 9, last).bad == (0,)
    assert monitor.quality(last - 20, last - 15).bad == ()
    assert monitor.quality(last + 1, last + 5).bad == ()


@pytest.mark.parametrize("sizes", [[50], [2500]])
def test_a_channel_that_thaws_is_good_from_then_on(sizes: list[int]) -> None:
    """The time for which it was frozen is no fault of samples after it, whatever other channels do meanwhile."""
    info = stream(250, ("C3", "Cz", "C4"))
    data = (20 * np.random.default_rng(0).standard_normal((2500, 3))).astype(np.float32)
    data[:1250, 0] = 7.0
    data[9::10, 1] = data[8::10, 1]  # as converters do
    monitor = RawMonitor(info, horizon_s=100)
    for chunk in cut(as_chunk(info, data), sizes):
        monitor(chunk)
    assert monitor.quality(monitor.t_last - 1249 / 250, monitor.t_last).bad == ()
    assert monitor.quality(monitor.t_last - 1275 / 250, monitor.t_last).faults == (("flat",), (), ())


@pytest.mark.parametrize("sizes", [[5], [250], [2000, 1005]])
def test_horizon_counts_from_the_start_of_the_newest_chunk(sizes: list[int]) -> None:
    """However long the newest chunk is, the horizon before it is remembered; what is long behind it is forgotten."""
    info = stream(250, ("C3", "Cz", "C4"))
    data = (20 * np.random.default_rng(0).standard_normal((3005, 3))).astype(np.float32)
    data[:, 0] = np.nan
    monitor = RawMonitor(info, horizon_s=4)
    for chunk in cut(as_chunk(info, data), sizes):
        monitor(chunk)
    assert monitor.quality(chunk.t0 - 4, chunk.t0 - 3.9).bad == (0,)
    assert monitor.quality(chunk.t0 - 7, chunk.t0 - 6).bad == ()


def test_faults_are_carried_to_what_channels_were_made_into() -> None:
    """Picked channels keep their faults, a pair has those of both, a channel of unknown making has none."""
    raw = Quality((("flat",), (), ("line", "flat"), ("railed",)))
    moved = carry(raw, ("Fp1", "F7", "T3", "A-B"), ("T3", "Fp1-F7", "Fp1-T3", "A-B", "Cz"))
    assert moved.faults == (("line", "flat"), ("flat",), ("flat", "line"), ("railed",), ())


def test_qualities_are_joined() -> None:
    """`|` keeps each fault once, in order."""
    assert (Quality((("flat",), ())) | Quality((("flat", "line"), ()))).faults == (("flat", "line"), ())
