"""What each fault does to the wire, and that the truth about it is true."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamnode.testing import (
    PER_UNIT,
    UNIX_OFFSET_S,
    ZERO_STAMP,
    BlockedProbes,
    Bursts,
    Drift,
    Duplicate,
    Event,
    Freeze,
    Gap,
    Jitter,
    NotFinite,
    OutOfOrder,
    Push,
    Restart,
    Timeline,
    Truth,
    UnixStamps,
    ZeroStamps,
    decode,
    encode,
    random_timeline,
    render,
)
from streamnode.types import Float64Array

T0 = 1000.0
ABOVE = (1 << 20) + 7


def rendered(*events: Event, chunk: int = 10) -> tuple[list[Push], Truth]:
    """Four seconds at 250 Hz with these faults."""
    return render(Timeline(duration_s=4.0, chunk=chunk, events=events), T0)


def joined(pushes: list[Push]) -> tuple[Float64Array, Float64Array]:
    """Numbers and stamps of all that was sent."""
    index = np.concatenate([push.index for push in pushes])
    return index.astype(np.float64), np.concatenate([push.stamps for push in pushes])


@pytest.mark.parametrize("unit", PER_UNIT)
@pytest.mark.parametrize("n_chans", [1, 2, 5, 512])
def test_samples_tell_their_number(unit: str, n_chans: int) -> None:
    """A sample says which one it is, in every unit and as float32."""
    index = np.array([0, 1, 999, ABOVE - 8, ABOVE, 5_000_001])
    factor = {**PER_UNIT}[unit]  # type: ignore[index]
    data = (encode(index, n_chans) * factor).astype(np.float32)
    assert data.shape == (6, n_chans)
    np.testing.assert_array_equal(decode(data / factor), index % (1 << 20) if n_chans == 1 else index)


def test_a_healthy_device_sends_everything_on_time() -> None:
    """Without faults each sample is sent once, stamped with its capture, when the last of its chunk is there."""
    pushes, truth = rendered()
    index, stamps = joined(pushes)
    np.testing.assert_array_equal(index, np.arange(1000))
    np.testing.assert_allclose(stamps, T0 + np.arange(1000) / 250, rtol=0, atol=1e-9)
    np.testing.assert_array_equal(stamps, truth.t)
    assert [push.t_push for push in pushes] == [push.stamps[-1] for push in pushes]
    assert (truth.expected, truth.lost, truth.duplicated, truth.runs) == (1000, 0, 0, ((0, 1000),))


def test_gap_loses_what_was_captured_in_it() -> None:
    """A gap takes exactly its samples; all others keep number and stamp."""
    pushes, truth = rendered(Gap(1.0, 0.1))
    index, stamps = joined(pushes)
    np.testing.assert_array_equal(index, np.r_[:250, 275:1000])
    np.testing.assert_allclose(stamps, T0 + index / 250, rtol=0, atol=1e-9)
    assert (truth.lost, truth.runs) == (25, ((0, 250), (275, 1000)))


def test_jitter_shifts_chunks_within_bounds() -> None:
    """Stamps of a chunk are off by one number, both ways, at most as far as said, and none lies in the future."""
    pushes, truth = rendered(Jitter(1.0, 2.0, 2.0))
    errors = [push.stamps - truth.t[push.index] for push in pushes]
    assert max(np.ptp(error) for error in errors) < 1e-9
    shifts = np.array([error[0] for error in errors])
    assert np.abs(shifts).max() <= 2.001e-3
    assert shifts.min() < -1e-3
    assert shifts.max() > 1e-3
    assert not np.abs(shifts[:25]).max() > 1e-9
    assert all(push.stamps[-1] <= push.t_push + 1e-9 for push in pushes)


def test_bursts_stamp_on_arrival() -> None:
    """In a burst, stamps are 10 µs apart and end at the capture of the last sample; before it all is as ever."""
    pushes, truth = rendered(Bursts(2.0, 9))
    bursts = [push for push in pushes if push.index[0] >= 500]
    assert {len(push.index) for push in bursts[:-1]} == {9}
    for push in bursts:
        np.testing.assert_allclose(np.diff(push.stamps), 10e-6, rtol=0, atol=1e-9)
        assert push.stamps[-1] == truth.t[push.index[-1]]
    assert {len(push.index) for push in pushes[:50]} == {10}


def test_drift_stretches_time() -> None:
    """A device that is 1000 ppm fast captures as many samples more, evenly; drifts add up."""
    _, truth = rendered(Drift(0.0, 1000.0), Drift(2.0, 1000.0))
    np.testing.assert_allclose(np.diff(truth.t[:500]), 0.004 / 1.001, rtol=0, atol=1e-9)
    np.testing.assert_allclose(np.diff(truth.t[502:]), 0.004 / 1.002, rtol=0, atol=1e-9)
    assert truth.expected == 1002


def test_duplicates_come_right_after_themselves() -> None:
    """A duplicated chunk is sent twice in a row, alike to the bit."""
    pushes, truth = rendered(Duplicate(1.0))
    first, again = (push for push in pushes if 250 in push.index)
    assert pushes.index(again) == pushes.index(first) + 1
    np.testing.assert_array_equal(first.stamps, again.stamps)
    np.testing.assert_array_equal(first.data, again.data)
    assert (truth.duplicated, truth.lost) == (10, 0)


def test_out_of_order_swaps_two_chunks() -> None:
    """A chunk out of order follows the next one, at the time of that, and nothing is lost."""
    pushes, truth = rendered(OutOfOrder(1.0))
    assert [int(push.index[0]) for push in pushes[24:28]] == [240, 260, 250, 270]
    assert pushes[25].t_push == pushes[26].t_push
    assert (truth.lost, truth.duplicated) == (0, 0)


@pytest.mark.parametrize(("keeps_s", "lost"), [(math.inf, 0), (0.2, 78), (0.0, 125)])
def test_freeze_is_silent_then_sends_what_it_kept(keeps_s: float, lost: int) -> None:
    """Nothing is sent in the silence, then at once all that is left, with the stamps of its capture."""
    pushes, truth = rendered(Freeze(0.99, 0.5, keeps_s=keeps_s), chunk=5)
    assert not [push for push in pushes if T0 + 0.99 <= push.t_push < T0 + 1.4899]
    burst = [push for push in pushes if abs(push.t_push - T0 - 1.49) < 1e-9]
    assert sum(len(push.index) for push in burst) == 125 - lost
    index, stamps = joined(pushes)
    np.testing.assert_allclose(stamps, T0 + index / 250, rtol=0, atol=1e-9)
    assert truth.lost == lost


def test_restart_loses_what_it_was_away_for() -> None:
    """A killed source loses what it had not sent and what it was away for, and counts on with its clock."""
    pushes, truth = rendered(Restart(1.01, 0.5, sfreq=500.0, unit="volts", ch_names=("A", "B"), stype="Other"))
    before, after = truth.lives
    assert (before.begin_s, before.end_s, after.begin_s, after.end_s) == (0.0, 1.01, 1.51, math.inf)
    assert (after.sfreq, after.unit, after.ch_names, after.stype) == (500.0, "volts", ("A", "B"), "Other")
    assert truth.runs == ((0, 250), (378, truth.expected))
    assert {push.life for push in pushes if push.index[0] < 250} == {0}
    assert {push.life for push in pushes if push.index[0] >= 378} == {1}
    np.testing.assert_allclose(np.diff(truth.t[380:]), 0.002, rtol=0, atol=1e-9)
    last = pushes[-1]
    assert last.data.shape[1] == 2
    np.testing.assert_array_equal(decode(last.data / 1e-6), last.index)


def test_restart_beyond_the_end_is_a_death() -> None:
    """A source that would return after the end of the timeline never does."""
    pushes, truth = rendered(Restart(1.0, 5.0))
    assert len(truth.lives) == 1
    assert pushes[-1].t_push < T0 + 1.0
    assert truth.lost == 750


def test_foreign_and_missing_stamps() -> None:
    """Unix stamps are off by a constant, zero stamps are zero but for liblsl, and both end when they should."""
    pushes, truth = rendered(UnixStamps(1.0, 1.0), ZeroStamps(3.0))
    _, stamps = joined(pushes)
    np.testing.assert_allclose(stamps[250:500] - truth.t[250:500], UNIX_OFFSET_S, rtol=0, atol=1e-6)
    assert set(stamps[750:]) == {ZERO_STAMP}
    np.testing.assert_array_equal(stamps[500:750], truth.t[500:750])


def test_bad_values_stay_where_they_belong() -> None:
    """NaN and infinities fill one channel for a time; the sample still tells its number."""
    pushes, _ = rendered(NotFinite(1.0, 0.1), NotFinite(2.0, 0.1, math.inf, 1))
    data = np.concatenate([push.data for push in pushes])
    np.testing.assert_array_equal(np.flatnonzero(np.isnan(data[:, 3])), np.arange(250, 275))
    np.testing.assert_array_equal(np.flatnonzero(np.isinf(data[:, 1])), np.arange(500, 525))
    assert np.isfinite(data[:, [0, 2]]).all()
    np.testing.assert_array_equal(decode(data), np.arange(1000))


def test_blocked_probes_change_nothing_that_is_sent() -> None:
    """Whether clock probes are answered is none of the samples' business."""
    healthy, blocked = rendered()[0], rendered(BlockedProbes(0.0))[0]
    assert [push.stamps.tolist() for push in healthy] == [push.stamps.tolist() for push in blocked]


def test_same_timeline_same_wire() -> None:
    """Rendering is repeatable to the bit, and another seed jitters otherwise."""
    script = random_timeline(5, 60.0)
    (first, truth), (again, _) = render(script), render(Timeline.from_json(script.to_json()))
    for a, b in zip(first, again, strict=True):
        assert (a.t_push, a.life, a.data.tobytes(), a.stamps.tobytes()) == (
            *(b.t_push, b.life, b.data.tobytes(), b.stamps.tobytes()),
        )
    shifted, _ = render(script, T0)
    assert [push.t_push - T0 for push in shifted] == pytest.approx([push.t_push for push in first], abs=1e-9)
    assert len(truth.lives) > 1
    others = [render(Timeline(seed=seed, events=(Jitter(0, 2),)))[0][0].t_push for seed in (1, 2)]
    assert others[0] != others[1]


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), duration_s=st.floats(2.0, 200.0), sfreq=st.sampled_from([128.0, 250.0, 998.42]))
def test_truth_is_what_was_sent(seed: int, duration_s: float, sfreq: float) -> None:
    """Of any timeline: counts match the pushes, order is that of time, values tell numbers, runs are unbroken."""
    pushes, truth = render(random_timeline(seed, duration_s, sfreq=sfreq))
    index = np.concatenate([push.index for push in pushes])
    np.testing.assert_array_equal(np.bincount(index, minlength=truth.expected), truth.n_sent)
    assert truth.expected + truth.duplicated == truth.lost + len(index)
    assert (np.diff([push.t_push for push in pushes]) >= 0).all()
    assert np.isfinite(truth.t).all()
    assert (np.diff(truth.t) > 0).all()
    for push in pushes:
        life = truth.lives[push.life]
        assert life.start <= push.index[0] <= push.index[-1] < life.stop
        assert truth.t[push.index[-1]] <= push.t_push + 1e-9
        assert life.begin_s <= push.t_push < life.end_s
        np.testing.assert_array_equal(decode(push.data / PER_UNIT[life.unit]), push.index)
    in_runs = np.zeros(truth.expected, np.bool_)
    for start, stop in truth.runs:
        in_runs[start:stop] = True
        assert any(life.start <= start < stop <= life.stop for life in truth.lives)
    np.testing.assert_array_equal(in_runs, truth.n_sent > 0)
