"""Joining streams: against signals known at every time, and against themselves in other chunks and orders."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import groupby
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamnode.errors import ContractError
from streamnode.signal.align import Aligner
from streamnode.types import Chunk, Float64Array, StreamInfo
from tests.signal import T0, as_chunk, cut, join, noise, stream

SFREQ = 250.0
A, B, C = stream(SFREQ, ["Fp1", "Fp2"]), stream(SFREQ, ["O1", "O2", "Oz"]), stream(SFREQ, ["Cz"])
Signal = Callable[[Float64Array], Float64Array]
Arrival = tuple[int, Chunk]


def sampled(
    info: StreamInfo, signal: Signal, n_times: int, t0: float = T0, *, rate: float = 1.0, size: int = 25
) -> Iterator[Chunk]:
    """Chunks of a signal that is sampled by a clock `rate` times as fast as it should be, and stamped without error."""
    for start in range(0, n_times, size):
        t = t0 + np.arange(start, min(start + size, n_times)) / (rate * info.sfreq)
        data = np.repeat(signal(t)[:, np.newaxis], info.n_chans, axis=1)
        yield Chunk(info, data, start, float(t[0]), t_arrived=float(t[-1]), run=0)


def tone(freq: float) -> Signal:
    return lambda t: np.sin(2 * np.pi * freq * (t - T0))


def eeg(seed: int = 0) -> Signal:
    """Pink from 1 to 75 Hz, 20 uV rms, on an offset of 5 mV; exact at any time."""
    rng = np.random.default_rng(seed)
    freqs, phases = rng.uniform(1, 75, 200), rng.uniform(0, 2 * np.pi, 200)
    amplitudes = freqs**-0.5 / np.linalg.norm(freqs**-0.5) * 20 * 2**0.5
    return lambda t: 5000 + amplitudes @ np.sin(2 * np.pi * freqs[:, np.newaxis] * (t - T0) + phases[:, np.newaxis])


def feed(aligner: Aligner, arrivals: Iterable[Arrival]) -> list[Chunk]:
    return [joined for i, chunk in arrivals for joined in aligner.add(i, chunk)]


def in_turns(*streams: Iterable[Chunk]) -> list[Arrival]:
    """All chunks in the order in which they arrive."""
    arrivals = [(i, chunk) for i, chunks in enumerate(streams) for chunk in chunks]
    return sorted(arrivals, key=lambda arrival: arrival[1].t_arrived)


def by_run(chunks: Iterable[Chunk]) -> list[Chunk]:
    return [join(run) for _, run in groupby(chunks, key=lambda chunk: chunk.run)]


def counted(arrivals: Iterable[Arrival], i: int = 0) -> int:
    return sum(chunk.n_times for j, chunk in arrivals if i == j)


def reach(run: Chunk) -> tuple[int, int, int]:
    return run.run, run.start, run.start + run.n_times


@pytest.mark.parametrize("offset", [0.0, 0.3, 0.5, 0.999, 17.25, -0.4])
def test_partners_are_taken_at_the_same_time(offset: float) -> None:
    """Wherever the sample grids lie to each other, the other stream is read at the times of the first, within 0.1 %."""
    signal = eeg()
    arrivals = in_turns(sampled(A, signal, 1000), sampled(B, signal, 1000, T0 + offset / SFREQ))
    (joined,) = by_run(feed(Aligner([A, B], max_wait_s=1.0), arrivals))
    assert joined.info.ch_names == ("Fp1", "Fp2", "O1", "O2", "Oz")
    assert joined.t0 == pytest.approx(T0 + joined.start / SFREQ, abs=1e-9)
    truth = signal(T0 + np.arange(joined.start, joined.start + joined.n_times) / SFREQ)
    np.testing.assert_array_equal(joined.data[:, 0], joined.data[:, 1])
    np.testing.assert_allclose(joined.data[:, 0], truth, rtol=0, atol=1e-5)
    assert np.sqrt(np.mean((joined.data[:, 2] - truth) ** 2)) < 0.001 * 20
    np.testing.assert_allclose(joined.data[:, 3:], joined.data[:, 2:4], rtol=0, atol=1e-9)


@pytest.mark.parametrize(("freq", "error"), [(1, 5e-5), (10, 2e-4), (40, 2e-4), (75, 6e-4)])
def test_interpolation_is_as_exact_as_stated(freq: float, error: float) -> None:
    """No value at a frequency of the EEG is off by more than what is stated, at any offset between the grids."""
    worst = 0.0
    for offset in np.linspace(0, 1, 21):
        arrivals = in_turns(sampled(A, tone(freq), 500), sampled(C, tone(freq), 500, T0 + offset / SFREQ))
        (joined,) = by_run(feed(Aligner([A, C], max_wait_s=1.0), arrivals))
        worst = max(worst, float(np.abs(joined.data[:, 2] - joined.data[:, 0]).max()))
    assert 0 < worst < error


def test_equal_grids_are_not_touched() -> None:
    """Streams sampled at the same moments are joined sample by sample, offsets of millivolts and all."""
    a, b = noise(500, 2), noise(500, 3, seed=1)
    arrivals = in_turns(cut(as_chunk(A, a), [20]), cut(as_chunk(B, b), [33]))
    (joined,) = by_run(feed(Aligner([A, B], max_wait_s=1.0), arrivals))
    assert reach(joined) == (0, 5, 494)
    np.testing.assert_allclose(joined.data, np.hstack([a, b])[5:494], rtol=0, atol=1e-6)


@pytest.mark.parametrize("ppm", [100, -100])
def test_drift_does_not_add_up(ppm: float) -> None:
    """In an hour in which the crystals drift 100 ppm apart, by 0.36 s, the streams are never 0.15 ms out of step."""
    one, other = stream(SFREQ, ["Cz"]), stream(SFREQ, ["Pz"])
    n_times = 3600 * int(SFREQ)
    arrivals = in_turns(
        sampled(one, tone(5), n_times, size=250), sampled(other, tone(5), n_times, rate=1 + ppm * 1e-6, size=250)
    )
    aligner, slope, worst_s, n_joined = Aligner([one, other], max_wait_s=3.0), 2 * np.pi * 5, 0.0, 0
    for joined in feed(aligner, arrivals):
        worst_s = max(worst_s, float(np.abs(joined.data[:, 1] - joined.data[:, 0]).max()) / slope)
        n_joined += joined.n_times
    assert worst_s < 0.00015
    assert (joined.run, n_joined) == (0, joined.start + joined.n_times - 5)
    assert n_joined + aligner.unpartnered[0] + aligner.waiting[0] == n_times
    assert n_times - n_joined == (5 + 90 + 5 if ppm > 0 else 5)


def test_offsets_do_not_ripple() -> None:
    """A constant of millivolts stays one while the grids of the streams pass each other."""
    arrivals = in_turns(sampled(A, np.ones_like, 2000), sampled(B, lambda t: np.full_like(t, 5000), 2000, rate=0.999))
    (joined,) = by_run(feed(Aligner([A, B], max_wait_s=1.0), arrivals))
    np.testing.assert_allclose(joined.data[:, 2:], 5000, rtol=1e-14, atol=0)


GAPPED = [[(0, 90, 0), (95, 200, 1)], [(-10, 150, 0), (141, 60, 1), (230, 90, 2)], [(3, 300, 4)]]


def gapped(sizes: Sequence[int], offsets: Sequence[float]) -> list[list[Chunk]]:
    """Three streams with gaps: first sample, samples and run of each stretch, and where each grid lies."""
    streams: list[list[Chunk]] = []
    for info, stretches, offset in zip([A, B, C], GAPPED, offsets, strict=True):
        wholes = [as_chunk(info, noise(n, info.n_chans, seed=run), start, run) for start, n, run in stretches]
        parts = [part for whole in wholes for part in cut(whole, sizes)]
        streams.append([replace(part, t0=part.t0 + offset / SFREQ) for part in parts])
    return streams


@settings(max_examples=100, deadline=None)
@given(
    sizes=st.lists(st.integers(0, 120), min_size=1, max_size=5).filter(any),
    offsets=st.lists(st.sampled_from([0.0, 0.25, 0.5, -0.7]), min_size=3, max_size=3),
    turns=st.lists(st.integers(0, 2), max_size=60),
)
def test_arrival_does_not_matter(sizes: list[int], offsets: list[float], turns: list[int]) -> None:
    """Any chunking and any order of arrival give the same joined runs, samples and counts, and none is unaccounted."""
    one, other = Aligner([A, B, C], max_wait_s=10.0), Aligner([A, B, C], max_wait_s=10.0)
    expected = by_run(feed(one, in_turns(*gapped([300], offsets))))
    queues = [list(reversed(chunks)) for chunks in gapped(sizes, offsets)]
    mixed = [(i, queues[i].pop()) for i in turns if queues[i]]
    mixed += [(i, queue.pop()) for i, queue in enumerate(queues) for _ in range(len(queue))]
    joined = feed(other, mixed)
    runs = by_run(joined)
    assert [reach(run) for run in runs] == [reach(run) for run in expected]
    assert len(runs) == 4
    assert [chunk.t_arrived for chunk in joined] == sorted(chunk.t_arrived for chunk in joined)
    for run, same in zip(runs, expected, strict=True):
        np.testing.assert_allclose(run.data, same.data, rtol=0, atol=1e-6)
    assert (other.unpartnered, other.waiting) == (one.unpartnered, one.waiting)
    assert sum(run.n_times for run in runs) + other.unpartnered[0] + other.waiting[0] == counted(mixed)


def test_the_past_is_untouched_by_the_future() -> None:
    """What has been joined is the same whatever comes later, in either stream."""
    arrivals = in_turns(cut(as_chunk(A, noise(400, 2)), [20]), cut(as_chunk(B, noise(400, 3)), [20]))
    changed = [
        (i, replace(chunk, data=chunk.data + 1e6)) if k >= 20 else (i, chunk) for k, (i, chunk) in enumerate(arrivals)
    ]
    one, other = Aligner([A, B], max_wait_s=1.0), Aligner([A, B], max_wait_s=1.0)
    before, same = join(feed(one, arrivals[:20])), join(feed(other, changed[:20]))
    after, different = join(feed(one, arrivals[20:])), join(feed(other, changed[20:]))
    assert before.n_times == 200 - 11
    np.testing.assert_array_equal(before.data, same.data)
    assert (after.data[12:] < different.data[12:] - 9e5).all()


def test_is_as_late_as_it_says() -> None:
    """A sample is joined with the one that comes `lag_s` after it, and no later."""
    aligner = Aligner([A, B], max_wait_s=1.0)
    arrivals = in_turns(cut(as_chunk(A, noise(300, 2)), [1]), cut(as_chunk(B, noise(300, 3)), [1]))
    lags = [chunk.t_last - joined.t_last for i, chunk in arrivals for joined in aligner.add(i, chunk)]
    assert len(lags) == 300 - 11
    assert max(lags) == pytest.approx(aligner.lag_s)
    assert aligner.lag_s == pytest.approx(0.024)


@pytest.mark.parametrize(
    ("breaks", "runs", "unpartnered"),
    [
        (((0, 200, 0), (200, 200, 1)), [(0, 5, 200), (1, 200, 394)], (5, 5)),  # in the first, without loss
        (((0, 200, 0), (240, 160, 1)), [(0, 5, 200), (1, 240, 394)], (5, 5 + 39)),
    ],
)
def test_a_gap_in_the_first_stream(
    breaks: tuple[tuple[int, int, int], ...], runs: list[tuple[int, int, int]], unpartnered: tuple[int, int]
) -> None:
    """A new run of the first stream begins one of the joined stream; the other's samples in the gap are counted."""
    aligner = Aligner([A, B], max_wait_s=10.0)
    first = [as_chunk(A, noise(n, 2), start, run) for start, n, run in breaks]
    arrivals = [(1, as_chunk(B, noise(400, 3))), *((0, chunk) for chunk in first)]
    assert [reach(run) for run in by_run(feed(aligner, arrivals))] == runs
    assert aligner.unpartnered == unpartnered
    assert aligner.waiting == (6, 5)


def test_a_gap_in_another_stream() -> None:
    """Samples of the first stream in a gap of another, or within six of it, are counted, and a new run begins."""
    aligner = Aligner([A, B], max_wait_s=10.0)
    other = [as_chunk(B, noise(100, 3), 0, 0), as_chunk(B, noise(260, 3), 140, 1)]
    arrivals = [(0, as_chunk(A, noise(400, 2))), *((1, chunk) for chunk in other)]
    assert [reach(run) for run in by_run(feed(aligner, arrivals))] == [(0, 5, 94), (1, 145, 394)]
    assert aligner.unpartnered == (5 + 51, 5 + 5 + 5)
    assert aligner.waiting == (6, 5)


@pytest.mark.parametrize("silent", [1, 2])
def test_a_stream_that_falls_silent(silent: int) -> None:
    """While another stream is silent the joined one waits; when it is back, a new run begins, and all is counted."""
    aligner = Aligner([A, B, C], max_wait_s=0.5)
    streams = [list(cut(as_chunk(info, noise(2000, info.n_chans)), [25])) for info in (A, B, C)]
    back = [replace(chunk, run=1) for chunk in streams[silent] if chunk.start >= 1500]
    streams[silent] = [chunk for chunk in streams[silent] if chunk.start < 500] + back
    arrivals = in_turns(*streams)
    joined = feed(aligner, arrivals)
    first, second = by_run(joined)
    assert (reach(first), reach(second)) == ((0, 5, 494), (1, 1505, 1994))
    assert aligner.unpartnered[0] == 5 + 1505 - 494
    assert aligner.unpartnered[silent] == 5 + 5 + 5
    assert aligner.waiting == (6, 5, 5)
    assert not [chunk for chunk in joined if chunk.start < 494 and chunk.t_arrived > T0 + 500 / SFREQ + 1e-6]


def test_a_stream_that_is_late_is_waited_for() -> None:
    """A stream whose samples arrive within `max_wait_s` loses none, however far it is behind."""
    aligner = Aligner([A, B], max_wait_s=0.5)
    late = [replace(chunk, t_arrived=chunk.t_arrived + 0.45) for chunk in cut(as_chunk(B, noise(1000, 3)), [5])]
    (joined,) = by_run(feed(aligner, in_turns(cut(as_chunk(A, noise(1000, 2)), [5]), late)))
    assert reach(joined) == (0, 5, 994)
    assert aligner.unpartnered == (5, 5)


def test_samples_that_come_too_late_are_not_joined() -> None:
    """After a second without another stream, what it then sends of that second is left out, and a new run begins."""
    aligner = Aligner([A, B], max_wait_s=0.5)
    late = [
        replace(chunk, t_arrived=max(chunk.t_arrived, T0 + 2.0)) if chunk.start >= 250 else chunk
        for chunk in cut(as_chunk(B, noise(1000, 3)), [25])
    ]
    first, second = by_run(feed(aligner, in_turns(cut(as_chunk(A, noise(1000, 2)), [25]), late)))
    assert (reach(first), reach(second)) == ((0, 5, 244), (1, 350, 994))
    assert aligner.unpartnered == (5 + 350 - 244, 5 + 350 - 245)


def test_streams_of_slow_chunks() -> None:
    """Nothing is lost where the first stream is 0.49 s late and another sends large chunks, if that is waited for."""
    aligner = Aligner([A, B], max_wait_s=0.5)
    late = [replace(chunk, t_arrived=chunk.t_arrived + 0.49) for chunk in cut(as_chunk(A, noise(1000, 2)), [1])]
    (joined,) = by_run(feed(aligner, in_turns(late, cut(as_chunk(B, noise(1000, 3)), [100]))))
    assert reach(joined) == (0, 5, 994)


@pytest.mark.parametrize("i", [0, 1])
def test_nothing_piles_up(i: int) -> None:
    """Of a stream that is alone, `max_wait_s` of samples are kept, and the rest is counted as without partner."""
    aligner = Aligner([A, B], max_wait_s=0.5)
    info = (A, B)[i]
    assert feed(aligner, ((i, chunk) for chunk in cut(as_chunk(info, noise(5000, info.n_chans)), [25]))) == []
    assert (aligner.waiting[i], aligner.unpartnered[i]) == (150, 4850)  # six chunks arrived within the half second


def test_jitter_that_is_left_does_no_harm() -> None:
    """Stamps that go back by some samples within a run cost accuracy and nothing else."""
    rng = np.random.default_rng(0)
    jittered = [
        replace(chunk, t0=chunk.t0 + rng.uniform(-2, 2) / SFREQ) for chunk in cut(as_chunk(B, noise(500, 3)), [1])
    ]
    aligner = Aligner([A, B], max_wait_s=1.0)
    (joined,) = by_run(feed(aligner, in_turns(cut(as_chunk(A, noise(500, 2)), [1]), jittered)))
    assert joined.n_times + aligner.unpartnered[0] + aligner.waiting[0] == 500
    assert joined.n_times > 480
    assert np.abs(joined.data[:, 2:] - np.median(joined.data[:, 2:], axis=0)).max() < 200


def test_a_clock_set_back_begins_anew() -> None:
    """When another stream comes back at times it already had, only its new samples find partners."""
    aligner = Aligner([A, B], max_wait_s=10.0)
    old = as_chunk(B, noise(400, 3), 0, 0)
    again = replace(as_chunk(B, noise(300, 3, seed=1), 0, 1), t0=T0 + 100 / SFREQ)
    joined = feed(aligner, [(1, old), (1, again), (0, as_chunk(A, noise(400, 2)))])
    (run,) = by_run(joined)
    assert reach(run) == (0, 105, 394)
    np.testing.assert_allclose(run.data[:, 2:], again.data[5:294], rtol=0, atol=1e-6)
    assert aligner.unpartnered == (105, 400 + 5)


def test_missing_samples_are_carried() -> None:
    """A joined sample is missing when it is in any of the streams; what is not joined does not count."""
    first = [
        replace(chunk, n_missing=k)
        for chunk, k in zip(cut(as_chunk(A, noise(100, 2)), [20]), [7, 0, 3, 0, 0], strict=True)
    ]
    other = [
        replace(chunk, n_missing=k) for chunk, k in zip(cut(as_chunk(B, noise(100, 3)), [50]), [0, 8], strict=True)
    ]
    joined = feed(Aligner([A, B], max_wait_s=10.0), in_turns(first, other))
    assert sum(chunk.n_missing for chunk in joined) == 2 + 3 + 8


def test_missing_samples_are_the_first() -> None:
    """As in a chunk of any source, those of a joined one begin it, so that what comes later knows where they are."""
    other = list(cut(as_chunk(B, noise(100, 3)), [30]))
    other[1] = replace(other[1], n_missing=8)
    joined = feed(Aligner([A, B], max_wait_s=10.0), [(0, as_chunk(A, noise(100, 2))), *((1, chunk) for chunk in other)])
    assert [(chunk.start, chunk.n_missing) for chunk in joined if chunk.n_missing] == [(30, 8)]
    join(joined)


@pytest.mark.parametrize(("offset", "nearest"), [(-0.1, 20), (0.1, 20), (0.6, 21)])
def test_a_missing_sample_is_missing_at_its_time(offset: float, nearest: int) -> None:
    """What another stream lacks is missing from the joined sample nearest in time."""
    other = [replace(chunk, t0=chunk.t0 + offset / SFREQ) for chunk in cut(as_chunk(B, noise(100, 3)), [1])]
    other[20] = replace(other[20], n_missing=1)
    joined = feed(Aligner([A, B], max_wait_s=10.0), in_turns(cut(as_chunk(A, noise(100, 2)), [1]), other))
    assert [chunk.start for chunk in joined if chunk.n_missing] == [nearest]


def test_input_is_not_changed_and_nothing_changes_nothing() -> None:
    """Chunks stay as they were, what comes out owns its memory, and an empty chunk has no effect."""
    a, b = as_chunk(A, noise(50, 2)), as_chunk(B, noise(50, 3))
    kept = a.data.copy(), b.data.copy()
    aligner = Aligner([A, B], max_wait_s=1.0, first_run=3)
    empty = replace(a, data=a.data[:0], run=9, t_arrived=1e9)
    (joined,) = feed(aligner, [(0, empty), (0, a), (1, b), (0, empty)])
    joined.data[:] = 0
    assert (joined.run, joined.n_times, joined.data.dtype) == (3, 39, np.dtype(np.float64))
    np.testing.assert_array_equal(a.data, kept[0])
    np.testing.assert_array_equal(b.data, kept[1])


def test_prefixes_tell_channels_apart() -> None:
    """Equal names are refused with what to do; with prefixes they are joined, each with its position."""
    one, two = replace(A, name="left"), replace(stream(SFREQ, ["Fp2", "Cz"]), name="right")
    with pytest.raises(ContractError, match=r"'left', 'right' has Fp2: set prefixes"):
        Aligner([one, two], max_wait_s=1.0)
    with pytest.raises(ContractError, match="has EMG, emg"):
        Aligner([stream(SFREQ, ["emg"]), stream(SFREQ, ["EMG"])], max_wait_s=1.0)
    info = Aligner([one, two], max_wait_s=1.0, prefixes=["L-", ""]).info
    assert info.ch_names == ("L-Fp1", "L-Fp2", "Fp2", "Cz")
    np.testing.assert_array_equal(info.montage.ch_pos, np.concatenate([one.montage.ch_pos, two.montage.ch_pos]))
    assert (info.name, info.sfreq, info.stype) == ("left&right", SFREQ, "EEG")


@pytest.mark.parametrize(
    ("infos", "options", "remedy"),
    [
        ([A], {}, "name at least two"),
        ([A, stream(500, ["Cz"])], {}, "resample both to one rate"),
        ([stream(0, ["Pz"]), stream(0, ["Cz"])], {}, "resample both to one rate"),
        ([A, B], {"prefixes": ["A"]}, "give one for each"),
        ([A, B], {"max_wait_s": 0.024}, "wait more than 0.024 s"),
    ],
)
def test_refuses_what_cannot_be_joined(infos: list[StreamInfo], options: dict[str, Any], remedy: str) -> None:
    """Streams that cannot be joined are refused with what to do."""
    with pytest.raises(ContractError, match=remedy):
        Aligner(infos, **{"max_wait_s": 1.0, **options})
