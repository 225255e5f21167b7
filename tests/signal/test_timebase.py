"""Stamps to indices and times, judged against the truth of a virtual device."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pytest

from streamnode.signal.timebase import Span, TimeBase
from streamnode.types import Float64Array

SFREQ = 250.0
T0 = 1000.0
DELAY_S = 0.005


def exact_stamps(n_times: int, first: int = 0, sfreq: float = SFREQ) -> Float64Array:
    stamps: Float64Array = T0 + np.arange(first, first + n_times) / sfreq
    return stamps


def add_exact(timebase: TimeBase, first: int, n_times: int, shift_s: float = 0.0, chunk: int = 10) -> list[Span]:
    """Samples of a device without jitter, `shift_s` added to its stamps but not to their arrival."""
    spans: list[Span] = []
    for i in range(first, first + n_times, chunk):
        stamps = exact_stamps(min(chunk, first + n_times - i), i)
        spans += timebase.add(stamps + shift_s, stamps[-1] + DELAY_S)
    return spans


def n_placed(spans: Sequence[Span]) -> int:
    return sum(span.rows.stop - span.rows.start for span in spans)


@dataclass
class Trial:
    """What a time base made of a device, one row a span.

    Attributes:
        t: true time of the last sample of each span.
        error_s: how far from it the time base puts that sample.
        index_error: how far from its true index.
        spans: as they came.
        n_sent: samples sent, which is without those lost.
    """

    timebase: TimeBase
    t: Float64Array = field(default_factory=lambda: np.empty(0))
    error_s: Float64Array = field(default_factory=lambda: np.empty(0))
    index_error: list[int] = field(default_factory=list)
    spans: list[Span] = field(default_factory=list)
    n_sent: int = 0

    def rms_ms(self, after_s: float) -> float:
        return 1e3 * float(np.sqrt(np.mean(self.error_s[self.t >= after_s] ** 2)))

    def worst_ms(self, after_s: float) -> float:
        return 1e3 * float(np.abs(self.error_s[self.t >= after_s]).max())


def virtual_device(
    duration_s: float,
    *,
    chunk: int,
    sfreq: float = SFREQ,
    true_sfreq: float | None = None,
    jitter_s: float = 0.0,
    burst_s: float | None = None,
    gaps: Sequence[tuple[float, int]] = (),
    max_fill: int = 0,
) -> Trial:
    """Run a device through a time base.

    Args:
        duration_s: by the device's clock.
        chunk: samples it sends at once.
        sfreq: the rate it claims.
        true_sfreq: the rate it has; `sfreq` if None.
        jitter_s: each chunk is stamped up to this much too early or too late.
        burst_s: distance of the stamps in a chunk, the last being right; None for the true one.
        gaps: when, and how many samples are lost.
        max_fill: as of `TimeBase`.
    """
    rng = np.random.default_rng(0)
    rate = true_sfreq or sfreq
    taken = np.ones(round(duration_s * rate), dtype=bool)
    for begins, n_lost in gaps:
        taken[round(begins * rate) : round(begins * rate) + n_lost] = False
    indices = np.flatnonzero(taken)
    trial = Trial(TimeBase(sfreq, max_fill=max_fill))
    t: list[float] = []
    error_s: list[float] = []
    for i in range(0, len(indices) - chunk + 1, chunk):
        truth = indices[i : i + chunk] / rate
        stamps = truth if burst_s is None else truth[-1] - burst_s * np.arange(chunk)[::-1]
        arrived = T0 + truth[-1] + DELAY_S + rng.exponential(0.0005)
        for span in trial.timebase.add(T0 + stamps + rng.uniform(-jitter_s, jitter_s), arrived):
            last = span.n_missing + span.rows.stop - span.rows.start - 1
            t.append(truth[span.rows][-1])
            error_s.append(span.t0 + last / rate - T0 - t[-1])
            trial.index_error.append(span.start + last - int(indices[i + span.rows.stop - 1]))
            trial.spans.append(span)
        trial.n_sent += chunk
    trial.t, trial.error_s = np.array(t), np.array(error_s)
    return trial


@pytest.mark.parametrize("size", [1, 7, 100])
def test_index_counts_every_sample_in_any_chunking(size: int) -> None:
    """The absolute index counts samples and the run stays, however the samples are cut into chunks."""
    timebase = TimeBase(SFREQ, first_run=3)
    stamps = exact_stamps(100)
    spans = [span for i in range(0, 100, size) for span in timebase.add(stamps[i : i + size], T0 + 1)]
    assert [span.start for span in spans] == list(range(0, 100, size))
    assert n_placed(spans) == 100
    assert {span.run for span in spans} == {3}
    np.testing.assert_allclose([span.t0 for span in spans], stamps[::size], rtol=0, atol=1e-9)


def test_no_stamps_make_no_span() -> None:
    """An empty chunk yields nothing and moves nothing."""
    timebase = TimeBase(SFREQ)
    assert timebase.add(np.empty(0), 6.0) == []
    assert timebase.add(np.array([5.0]), 6.0) == [Span(slice(0, 1), 0, 5.0, 0)]


@pytest.mark.parametrize("true_sfreq", [1000.0, 998.42, 995.0, 1005.0])
@pytest.mark.parametrize("chunk", [1, 10, 32])
def test_jitter_is_removed_and_drift_followed(chunk: int, true_sfreq: float) -> None:
    """With 2 ms of jitter, at rates up to half a percent off, times are right to 0.5 ms rms after a minute."""
    trial = virtual_device(90, chunk=chunk, sfreq=1000.0, true_sfreq=true_sfreq, jitter_s=0.002)
    assert trial.rms_ms(60) < 0.5
    assert trial.worst_ms(10) < 2
    assert trial.timebase.drift_ppm == pytest.approx((1000 / true_sfreq - 1) * 1e6, abs=20)
    assert trial.timebase.jitter_s == pytest.approx(0.002 / 3**0.5, rel=0.4)
    assert (trial.timebase.lost, trial.timebase.stale, {s.run for s in trial.spans}) == (0, 0, {0})


@pytest.mark.parametrize(("sfreq", "chunk"), [(250.0, 1), (250.0, 32), (1000.0, 10)])
@pytest.mark.parametrize("gap_s", [0.05, 0.1, 3.0, 60.0])
def test_time_is_right_soon_after_a_gap(gap_s: float, sfreq: float, chunk: int) -> None:
    """With 2 ms of jitter, from one second after any gap on times are right to 2 ms, and the loss is exact."""
    n_lost = round(gap_s * sfreq)
    trial = virtual_device(
        80 + gap_s, chunk=chunk, sfreq=sfreq, jitter_s=0.002, gaps=[(70, n_lost)], max_fill=round(0.2 * sfreq)
    )
    assert trial.worst_ms(71 + gap_s) < 2
    assert trial.timebase.lost == sum(s.n_missing + s.n_lost for s in trial.spans) == n_lost
    assert trial.index_error[-1] == 0
    assert trial.spans[-1].run == (gap_s > 0.2)


@pytest.mark.parametrize("chunk", [1, 10])
def test_gap_is_found_at_the_first_sample_after_it(chunk: int) -> None:
    """Without jitter the loss of 50 ms or more is placed where it was, sample by sample."""
    gaps = [(20.0, 13), (40.0, 25), (60.0, 2500)]
    trial = virtual_device(80, chunk=chunk, gaps=gaps, max_fill=24)
    assert set(trial.index_error) == {0}
    assert trial.worst_ms(0) < 0.01
    told = [(s.n_missing, s.n_lost, s.run) for s in trial.spans if s.n_missing or s.n_lost]
    assert told == [(13, 0, 0), (0, 25, 1), (0, 2500, 2)]


@pytest.mark.parametrize("n_lost", [1, 3, 9])
def test_loss_too_short_to_see_at_once_is_counted_within_a_second_and_a_half(n_lost: int) -> None:
    """A few lost samples are told from jitter of half a sample by what follows them."""
    trial = virtual_device(80, chunk=8, jitter_s=0.002, gaps=[(60, n_lost)], max_fill=25)
    assert trial.timebase.lost == n_lost
    late = [t for t, wrong in zip(trial.t, trial.index_error, strict=True) if wrong]
    assert max(late) < 60 + n_lost / SFREQ + 1.5


@pytest.mark.parametrize("n_short", [4, 6, 8])
def test_gap_soon_after_a_shorter_one_is_counted_alone(n_short: int) -> None:
    """A loss noticed in the very chunk that holds the next one is not counted again, at the cost of later samples."""
    timebase = TimeBase(SFREQ)
    n_settled, n_between, n_long, n_after = 4000, 200, 300, 1000
    sent = np.arange(n_settled + n_between + n_after)
    sent[n_settled:] += n_short
    sent[n_settled + n_between :] += n_long
    for chunk in np.split(T0 + sent / SFREQ, range(64, len(sent), 64)):
        spans = timebase.add(chunk, chunk[-1] + DELAY_S)
    assert (timebase.lost, timebase.stale) == (n_short + n_long, 0)
    assert spans[-1].start + (spans[-1].rows.stop - spans[-1].rows.start) == sent[-1] + 1


@pytest.mark.parametrize(("t", "n_lost"), [(2, 5), (3, 4), (6, 2), (20, 1)])
def test_short_loss_soon_after_the_start_is_counted(t: int, n_lost: int) -> None:
    """Exact stamps at 1 kHz: what they scatter by is known in seconds, and so is what is too much for it."""
    sfreq, chunk, n_before = 1000.0, 20, 1000 * t
    sent = np.arange(n_before + 5000)
    sent[n_before:] += n_lost
    timebase = TimeBase(sfreq)
    for stamps in np.split(T0 + sent / sfreq, range(chunk, len(sent), chunk)):
        timebase.add(stamps, stamps[-1] + DELAY_S)
    assert (timebase.lost, timebase.stale) == (n_lost, 0)


def test_an_hour_of_bursts_has_no_gap() -> None:
    """Nine samples stamped 10 us apart every 30 ms are one run, timed by the last of each burst."""
    trial = virtual_device(3600, chunk=9, sfreq=300.0, burst_s=1e-5)
    assert (trial.timebase.lost, trial.timebase.stale, trial.spans[-1].run) == (0, 0, 0)
    assert trial.worst_ms(2) < 0.5


@pytest.mark.parametrize("n_lost", [9, 30, 3000])
def test_gap_between_bursts_is_counted(n_lost: int) -> None:
    """Among bursts a loss is found within a second and a half, exactly."""
    trial = virtual_device(90, chunk=9, sfreq=300.0, burst_s=1e-5, gaps=[(70, n_lost)], max_fill=30)
    assert trial.timebase.lost == n_lost
    late = [t for t, wrong in zip(trial.t, trial.index_error, strict=True) if wrong]
    assert max(late) < 70 + n_lost / 300 + 1.5


def test_a_split_burst_is_no_gap() -> None:
    """Bursts that come in two parts, as a pull may cut them, are neither gaps nor mistimed."""
    timebase = TimeBase(300.0)
    spans: list[Span] = []
    for i in range(2000):
        last = T0 + 9 * i / 300
        stamps: Float64Array = last + 1e-5 * np.arange(-8, 1, dtype=np.float64)
        cut = i % 9
        for part in (stamps[:cut], stamps[cut:]):
            spans += timebase.add(part, last + DELAY_S)
    assert (timebase.lost, timebase.stale, spans[-1].run) == (0, 0, 0)
    assert spans[-1].t0 == pytest.approx(last - (spans[-1].rows.stop - 1) / 300, abs=0.001)


def test_one_late_chunk_is_no_gap() -> None:
    """A stall of 200 ms that the device catches up in the same chunk neither breaks the run nor moves the times."""
    timebase = TimeBase(SFREQ)
    add_exact(timebase, 0, 5000)
    held_up = exact_stamps(60, 5000)
    held_up[:50] = held_up[50]
    (span,) = timebase.add(held_up, held_up[-1])
    assert (span.start, span.run, timebase.lost) == (5000, 0, 0)
    assert span.t0 == pytest.approx(T0 + 5000 / SFREQ, abs=1e-6)


def test_one_wild_stamp_changes_nothing() -> None:
    """A stamp far in the future amid good ones is overruled by them."""
    timebase = TimeBase(SFREQ)
    add_exact(timebase, 0, 1000)
    stamps = exact_stamps(10, 1000)
    stamps[4] += 1000.0
    spans = timebase.add(stamps, T0 + 1010 / SFREQ) + add_exact(timebase, 1010, 1000)
    assert (n_placed(spans), spans[-1].run, timebase.lost, timebase.stale) == (1010, 0, 0, 0)
    assert spans[-1].t0 == pytest.approx(T0 + 2000 / SFREQ, abs=1e-4)


@pytest.mark.parametrize("first", [-1e300, -1e18, -1e12, -1e6, 1e-3, 1e12, 1e300])
def test_an_absurd_stamp_where_the_clock_is_set_back_loses_nothing(first: float) -> None:
    """The clock is set back and the first stamp after that is nonsense: one sample at most is left out, none lost."""
    timebase = TimeBase(SFREQ)
    add_exact(timebase, 0, 4000)
    stamps = exact_stamps(10, 4000) - 5
    stamps[0] = first
    timebase.add(stamps, exact_stamps(1, 4010)[0])
    add_exact(timebase, 4010, 1000, shift_s=-5)
    assert timebase.lost == 0
    assert timebase.stale <= 1


@pytest.mark.parametrize("n_times", [2, 25])
def test_what_comes_twice_is_left_out(n_times: int) -> None:
    """Repeated samples are stale: as many are left out as came too often, and indices stay those of the clock."""
    timebase = TimeBase(SFREQ)
    add_exact(timebase, 0, 5000)
    spans = add_exact(timebase, 5000 - n_times, n_times + 2000, chunk=n_times)
    assert timebase.stale == n_times
    assert n_placed(spans) == 2000
    assert timebase.lost == 0
    assert spans[-1].t0 == pytest.approx(T0 + spans[-1].start / SFREQ, abs=1e-4)


def test_what_was_overtaken_is_lost_and_left_out() -> None:
    """A chunk that comes after its successor counts as lost when that comes, and is stale itself; the index is true."""
    timebase = TimeBase(SFREQ)
    add_exact(timebase, 0, 5000)
    arrived = T0 + 5060 / SFREQ
    for first in (5020, 5000, 5040):
        spans = timebase.add(exact_stamps(20, first), arrived)
    assert (timebase.lost, timebase.stale) == (20, 20)
    assert (spans[-1].start, spans[-1].run) == (5040, 1)


@pytest.mark.parametrize("shift_s", [-3600.0, -5.0, 5.0, 3600.0])
def test_a_clock_that_is_set_loses_nothing(shift_s: float) -> None:
    """When the source's clock is set back or ahead while samples flow on, a new run follows it and none are lost."""
    timebase = TimeBase(SFREQ)
    add_exact(timebase, 0, 5000)
    spans = add_exact(timebase, 5000, 5000, shift_s)
    assert n_placed(spans) == 5000
    assert (timebase.lost, timebase.stale, {span.run for span in spans}) == (0, 0, {1})
    mapped_by_arrival = abs(shift_s) > 30
    assert timebase.foreign == mapped_by_arrival
    told = T0 + spans[-1].start / SFREQ + (DELAY_S if mapped_by_arrival else shift_s)
    assert spans[-1].t0 == pytest.approx(told, abs=0.04)


@pytest.mark.parametrize("epoch_s", [1.7e9, -900.0])
def test_foreign_clock_is_mapped_by_arrival(epoch_s: float) -> None:
    """Unix time or a clock of the device's own gives times on ours, late by no more than the way takes."""
    timebase = TimeBase(SFREQ)
    spans = add_exact(timebase, 0, 5000, shift_s=epoch_s)
    assert timebase.foreign
    assert (timebase.lost, {span.run for span in spans}) == (0, {0})
    expected = [T0 + span.start / SFREQ + DELAY_S for span in spans]
    np.testing.assert_allclose([span.t0 for span in spans], expected, rtol=0, atol=0.05)


@pytest.mark.parametrize("stamp", [0.0, float("nan"), float("inf")])
def test_no_stamps_at_all_are_replaced_by_arrival(stamp: float) -> None:
    """Stamps that are zero or no number leave arrival to tell the time, and silence to tell of gaps."""
    timebase = TimeBase(SFREQ)
    spans: list[Span] = []
    for i in [*range(0, 5000, 10), *range(5100, 6000, 10)]:
        spans += timebase.add(np.full(10, stamp), T0 + (i + 9) / SFREQ + DELAY_S)
    assert timebase.foreign
    assert timebase.lost == 100
    assert spans[-1].start == 5990
    assert spans[-1].t0 == pytest.approx(T0 + 5990 / SFREQ + DELAY_S, abs=0.001)


def test_single_stamps_that_are_none_take_the_time_of_their_place() -> None:
    """A NaN among good stamps costs neither the sample nor the run."""
    timebase = TimeBase(SFREQ)
    for first in range(0, 1000, 10):
        stamps = exact_stamps(10, first)
        stamps[[0, 4, 9]] = np.nan
        (span,) = timebase.add(stamps, T0 + first / SFREQ)
        assert (span.start, span.run) == (first, 0)
        assert span.t0 == pytest.approx(T0 + first / SFREQ, abs=1e-6)
    assert not timebase.foreign


@pytest.mark.parametrize("step_s", [0.0003, -0.02, 0.5])
def test_new_clock_offset_is_approached_without_a_gap(step_s: float) -> None:
    """A re-probed offset reads as no gap, never turns times back, and is reached."""
    timebase = TimeBase(SFREQ)
    timebase.clock_offset = -50.0
    (first, *_) = add_exact(timebase, 0, 5000, shift_s=50.0)
    assert first.t0 == pytest.approx(T0, abs=1e-6)
    timebase.clock_offset = -50.0 + step_s
    spans = add_exact(timebase, 5000, 12500, shift_s=50.0)
    assert (timebase.lost, {span.run for span in spans}) == (0, {0})
    steps = np.diff([span.t0 for span in spans])
    assert np.abs(steps - 10 / SFREQ).max() < abs(step_s) / 100
    assert spans[-1].t0 == pytest.approx(T0 + spans[-1].start / SFREQ + step_s, abs=1e-4)


def test_offset_that_comes_late_is_taken_at_once() -> None:
    """When the source's clock answers at last and was seconds off, the times follow in a new run."""
    timebase = TimeBase(SFREQ)
    add_exact(timebase, 0, 500, shift_s=20.0)
    timebase.clock_offset = -20.0
    span = add_exact(timebase, 500, 500, shift_s=20.0)[0]
    assert (span.run, span.start, timebase.lost) == (1, 500, 0)
    assert span.t0 == pytest.approx(T0 + 2.0, abs=1e-6)


def test_skipped_samples_keep_their_index_and_start_one_new_run() -> None:
    """Samples lost before the next are counted, and however often some were lost, one new run begins."""
    timebase = TimeBase(SFREQ, first_run=1)
    add_exact(timebase, 0, 10)
    timebase.skip(5)
    timebase.skip(2)
    (after,) = add_exact(timebase, 17, 4)
    assert (after.start, after.run, after.n_lost, timebase.lost) == (17, 2, 0, 0)
    assert after.t0 == pytest.approx(T0 + 17 / SFREQ, abs=1e-6)
    assert add_exact(timebase, 21, 1)[0].run == 2


@pytest.mark.parametrize("seed", range(3))
def test_an_hour_of_faults_is_accounted_to_the_sample(seed: int) -> None:
    """Gaps, repeats, swaps, offsets and drops of our own in random order: the index stays that of the clock."""
    rng = np.random.default_rng(seed)
    timebase = TimeBase(SFREQ, max_fill=25)
    size = 8
    n_received = n_placed_all = n_skipped = n_sent = 0
    spans: list[Span] = []
    while n_sent < 3600 * SFREQ:
        fault = rng.choice(["gap", "repeat", "swap", "offset", "drop"])
        n_sent += int(rng.integers(1, 2000)) if fault == "gap" else 0
        order = list(range(n_sent, n_sent + size * int(rng.integers(200, 1000)), size))
        n_sent = order[-1] + size
        if fault == "repeat":
            order[20:20] = order[int(rng.integers(8, 20)) : 20]
        elif fault == "swap":
            order[20:22] = order[21], order[20]
        elif fault == "offset":
            timebase.clock_offset = float(rng.normal(0, 0.003))
        elif fault == "drop":
            timebase.skip(size)
            n_skipped += size
            order = order[1:]
        for first in order:
            stamps = exact_stamps(size, first) + rng.uniform(-0.001, 0.001)
            new = timebase.add(stamps, T0 + (first + size) / SFREQ + 0.05)
            spans = new or spans
            n_received += size
            n_placed_all += n_placed(new)
    assert n_placed_all + timebase.stale == n_received
    assert n_received - timebase.stale + timebase.lost + n_skipped == n_sent
    assert spans[-1].start + size == n_sent
