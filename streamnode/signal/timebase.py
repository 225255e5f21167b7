"""From the stamps of a source to sample indices and times. Pure: no clock, no LSL.

Samples are counted; stamps are not believed one by one. Over a network they jitter by milliseconds, devices that send
in bursts stamp ten samples within microseconds, and nothing but the stamps tells that samples were lost.

**Line.** On the source's clock sample `n` was taken at `a + n * period`. The line is fitted by a regression that
forgets (a Kalman filter with two states), one point for each block of half a second or more. A sample that another
follows within a quarter of a period was held up, whatever its stamp says: only the last of a burst, its lower
envelope, counts. What is left scatters to both sides; the median of a block is its point.

**Gaps.** Lost samples lift every later stamp above the line for good; a late stamp comes back. So samples are missing

- at once, where a stamp and all that came with it lie higher than any did of late (never below 40 ms). How many is
  then counted low by that scatter, and the next block, measured against the same line, supplies the rest;
- after a block, where its point is off by more than 0.7 samples and five times what points are usually off by. The
  same test finds samples that came twice: then as many of the next are left out.

A gap resets the block but not the line, which needs no relearning: whole samples are missing, so the old line still
holds at the higher index. Up to `max_fill` samples are to be filled in; beyond, a new run begins.

**Stamps of the past.** A sample further behind the line than any was of late came twice or was overtaken: it is left
out (`stale`), and so are all after it until one is up to date. When all are more than half a second behind, or ahead
though no silence preceded them, the source's clock was set: a new run follows it and nothing is lost.

**Mapping.** Only times handed out are mapped to this machine's clock, so that a new clock offset never reads as a gap;
it is approached over five seconds. A clock that starts more than half a minute from ours, or none (stamps of zero, not
a number), is foreign: it is mapped by the least delay between stamp and arrival, a minimum that leaks to follow drift.

So at any time `received + lost == next index + stale`, but for what `skip` was told.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from streamnode.types import Float64Array

_BLOCK_S = 0.5
_LONG_BLOCK_S = (1.0, 5.0)  # where jitter makes its point inexact; and while samples are counted again after a gap
_BAND_S = 0.04  # hiccups of the sender's scheduler stay below; shorter gaps are found by their block
_CLOCK_SET_S = 0.5
_FOREIGN_S = 30.0  # more than any buffer holds back
_SLEW_S = 5.0
_MAX_SLEW_S = 1.0
_LEAK = 1e-4  # seconds a second: no quartz is worse
_FIRST_SD = (0.05, 0.01)  # of the first stamp, seconds; of the rate, relative
_WANDER = 1e-6  # of the rate, relative, in a second
_MEMORY = 16  # blocks over which their scatter is averaged
_NO_STAMP_S = 1e11  # no clock has run so long, and beyond float64 has no digits left to tell samples apart
_TICK_S = 1e-6  # below this stamps are equal: a float64 of Unix time resolves a quarter of it


@dataclass(frozen=True, slots=True)
class Span:
    """Samples that follow each other without a break.

    Attributes:
        rows: which of the stamps given to `TimeBase.add` these are.
        start: absolute index of the first, counting those to fill in.
        t0: LSL time of that first, on this machine's clock.
        run: changes whenever samples are missing before the first and are not to be filled in.
        n_missing: samples to fill in before `rows`.
        n_lost: samples lost before the first and not to be filled in; `start` has jumped by them.
    """

    rows: slice
    start: int
    t0: float
    run: int
    n_missing: int = 0
    n_lost: int = 0


class _Line:
    """Time over index: offset and period, each with its uncertainty (a Kalman filter of constant rate)."""

    def __init__(self, index: int, time: float, period: float) -> None:
        self.period = period
        self._index, self._time, self._nominal = float(index), time, period
        self._var, self._cov, self._period_var = _FIRST_SD[0] ** 2, 0.0, (_FIRST_SD[1] * period) ** 2

    def at(self, index: float) -> float:
        """Time of a sample on the source's clock."""
        return self._time + (index - self._index) * self.period

    def move(self, shift_s: float) -> None:
        """Follow a clock that was set: the rate is known, the offset is not."""
        self._time += shift_s
        self._var, self._cov = _FIRST_SD[0] ** 2, 0.0

    def go_to(self, index: float) -> float:
        """Refer to another sample. Returns the variance of its time."""
        ahead = index - self._index
        self._time = self.at(index)
        self._index = index
        self._var += ahead * (2 * self._cov + ahead * self._period_var)
        self._cov += ahead * self._period_var
        self._period_var += abs(ahead) * self._nominal * (_WANDER * self._nominal) ** 2
        return self._var

    def correct(self, error_s: float, noise_var: float) -> None:
        """Take in that the sample referred to was stamped `error_s` later than thought."""
        gain, period_gain = self._var / (self._var + noise_var), self._cov / (self._var + noise_var)
        self._time += gain * error_s
        self.period += period_gain * error_s
        self._period_var -= period_gain * self._cov
        self._var, self._cov = (1 - gain) * self._var, (1 - gain) * self._cov


class TimeBase:
    """Counts the samples of one connection and gives them times.

    Args:
        sfreq: nominal sampling frequency, Hz.
        first_run: number of the first run.
        max_fill: longest gap to fill in, samples.

    Attributes:
        clock_offset: seconds to add to the source's stamps to reach this machine's LSL clock; may be set at any time.
        foreign: whether the source's clock is another than LSL's, so that arrival tells the time.
        lost: samples found missing so far.
        stale: samples left out so far, because their time had already been covered.
        jitter_s: standard deviation of the chunks' stamps, seconds.
    """

    def __init__(self, sfreq: float, first_run: int = 0, max_fill: int = 0) -> None:
        self.clock_offset = 0.0
        self.foreign = False
        self.lost = self.stale = 0
        self.jitter_s = 0.0
        self._period, self._max_fill = 1 / sfreq, max_fill
        self._next, self._run = 0, first_run
        self._line: _Line | None = None
        self._missing = self._surplus = 0  # found, and not yet seen in a span or left out
        self._broken = self._behind = self._recounting = False
        self._known_offset = 0.0
        self._offset, self._lag, self._t_arrived, self._elapsed_s = 0.0, math.inf, -math.inf, 0.0
        self._point = 0.0
        self._point_sd = self._noise_sd = 1e-3  # of points about the line; from one to the next, where no lag shows
        self._n_settled = 0  # blocks that these two know
        self._reach, self._top = 0.3, 0.0  # how far stamps scatter: at most of late, in the last block
        self._highest = 0.0  # magnitude of the errors of this block
        self._open: float | None = None  # error of the last sample, until the next tells whether it was held up
        self._clear_block()

    @property
    def drift_ppm(self) -> float:
        """How much slower than nominal the source samples, by its own clock."""
        return 0.0 if self._line is None else (self._line.period / self._period - 1) * 1e6

    def add(self, stamps: Float64Array, t_arrived: float) -> list[Span]:
        """Place the next samples.

        Args:
            stamps: `(n_times,)` seconds on the clock of the source; may be empty. NaN, zero and what no clock can
                have reached are no stamps.
            t_arrived: LSL time at which they reached this process.

        Returns:
            The unbroken spans they form, in order; rows in none of them are stale.
        """
        if len(stamps) == 0:
            return []
        if self._line is not None and not self._surplus and not self._behind:
            errors = self._errors(stamps, self._line)
            scatter = _largest(errors)
            if scatter <= self._band:  # as nearly always: nothing is missing, stale or no stamp
                self._map(lag := t_arrived - float(stamps[-1]), t_arrived, stamped=True, anew=False)
                self._lag = min(self._lag, lag)
                return [self._place(0, errors, scatter)]
        return self._add_with_care(stamps, t_arrived)

    def _add_with_care(self, stamps: Float64Array, t_arrived: float) -> list[Span]:
        stamps, stamped = self._without_holes(stamps, t_arrived)
        lag = t_arrived - float(stamps[-1])
        self._map(lag, t_arrived, stamped=stamped, anew=self._line is None)
        line = self._line = self._line or _Line(self._next, float(stamps[0]), self._period)
        row = self._leave_out(min(self._surplus, len(stamps)))
        self._surplus -= row
        spans: list[Span] = []
        while row < len(stamps):
            errors = self._errors(stamps[row:], line)
            ahead, behind = self._breaks(errors)
            n_placed = min(ahead, behind)
            if n_placed:
                spans.append(self._place(row, errors[:n_placed], _largest(errors[:n_placed])))
                row += n_placed  # which may have moved the line: what follows is measured again
            elif ahead < behind:
                self._jump(errors, lag, line)
            elif behind < ahead:
                row += self._fall_back(errors, lag, line)
        self._lag = min(self._lag, lag)
        return spans

    def skip(self, n_times: int) -> None:
        """Count samples that were lost before the next: they keep their indices, and the next one starts a new run."""
        self._next += n_times
        self._broken = True
        self._clear_block()

    def _without_holes(self, stamps: Float64Array, t_arrived: float) -> tuple[Float64Array, bool]:
        """The stamps with what is none replaced: from the others, or else from arrival; and whether there was any."""
        size = np.abs(stamps)
        good = (size > _TICK_S) & (size < _NO_STAMP_S)  # liblsl takes a stamp of exactly zero for "now"
        if good.all():
            return stamps, True
        ramp: Float64Array = np.arange(len(stamps), dtype=np.float64) * self._period
        if not good.any():
            return float(t_arrived - self._offset) - ramp[::-1], False
        return ramp + np.interp(ramp, ramp[good], (stamps - ramp)[good]), True

    def _map(self, lag: float, t_arrived: float, *, stamped: bool, anew: bool) -> None:
        """Move the applied offset towards the right one: at once for a new clock or one long misjudged, else slowly."""
        elapsed, self._t_arrived = max(t_arrived - self._t_arrived, 0.0), t_arrived
        self._elapsed_s = elapsed
        self._lag = lag if math.isinf(self._lag) else self._lag + _LEAK * elapsed
        if anew or abs(self.clock_offset - self._known_offset) > _MAX_SLEW_S:
            self._known_offset = self.clock_offset
            self.foreign = not stamped or abs(lag - self.clock_offset) > _FOREIGN_S
            self._offset = self._lag if self.foreign else self.clock_offset
            self._broken |= self._line is not None
        error = (self._lag if self.foreign else self.clock_offset) - self._offset
        self._offset += error * min(elapsed / _SLEW_S, 1.0)

    @property
    def _band(self) -> float:
        """How far off stamps may be without a meaning, seconds."""
        return max(_BAND_S, 1.5 * self._period, 1.5 * self._reach)

    def _errors(self, stamps: Float64Array, line: _Line) -> Float64Array:
        """How much later than the line says the next samples are stamped."""
        errors: Float64Array = stamps - (line.at(self._next) + line.period * _ramp(len(stamps)))
        return errors

    def _breaks(self, errors: Float64Array) -> tuple[int, int]:
        """Rows from which samples are missing, and from which they are stale; the number of rows where none are."""
        n_times, band = len(errors), self._band
        self._behind &= bool(errors[0] <= -self._period / 2)
        lower = -self._period / 2 if self._behind else -band
        lowest, highest = float(errors.min()), float(errors.max())
        ahead = behind = n_times
        if highest > band:
            from_here_on = np.minimum.accumulate(errors[::-1])[::-1]
            ahead = n_times - int(np.count_nonzero(from_here_on > band))
        if lowest < lower:
            behind = int(np.argmax(errors < lower))
        return ahead, behind

    def _jump(self, errors: Float64Array, lag: float, line: _Line) -> None:
        """Samples are missing, unless the stamps went ahead of arrival: then there was no silence, but a new clock."""
        ahead_s = float(errors.min())
        silent = lag > self._lag - ahead_s / 2 or self._elapsed_s > ahead_s / 20  # a replay may run faster than time
        if ahead_s > _CLOCK_SET_S and not silent:
            self._set_clock(float(errors[0]), lag, line)
        else:
            self._miss(max(round((ahead_s - self._top) / line.period), 1))
            self._clear_block()
            self._recounting = True

    def _fall_back(self, errors: Float64Array, lag: float, line: _Line) -> int:
        """Leave out stale samples until one is up to date. Returns how many."""
        if errors.max() < -_CLOCK_SET_S:
            self._set_clock(float(np.median(errors)), lag, line)
            return 0
        current = errors + line.period * np.arange(len(errors)) > -line.period / 2
        self._behind = not current.any()
        return self._leave_out(len(errors) if self._behind else int(np.argmax(current)))

    def _set_clock(self, shift_s: float, lag: float, line: _Line) -> None:
        line.move(shift_s)
        self._lag = lag
        self._map(lag, self._t_arrived, stamped=True, anew=True)
        self._broken, self._behind, self._recounting = True, False, False
        self._clear_block()

    def _leave_out(self, n_times: int) -> int:
        self.stale += n_times
        return n_times

    def _miss(self, n_times: int) -> None:
        self.lost += n_times
        self._missing += n_times
        self._next += n_times

    def _place(self, row: int, errors: Float64Array, scatter: float) -> Span:
        """The span of these samples, with what is missing before it; the scatter is the largest of the errors."""
        assert self._line is not None
        missing, self._missing = self._missing, 0
        fill = 0 if self._broken or missing > self._max_fill else missing
        self._run += self._broken or missing > fill
        self._broken = False
        start = self._next - fill
        t0 = float(self._line.at(start) + self._offset)
        self._next += len(errors)
        self._highest = max(self._highest, scatter)
        self._learn(errors, self._line)
        return Span(slice(row, row + len(errors)), start, t0, self._run, fill, missing - fill)

    def _clear_block(self) -> None:
        self._points: list[float] = []
        self._first, self._highest = self._next, 0.0
        self._open = None

    def _learn(self, errors: Float64Array, line: _Line) -> None:
        """Take a chunk into the block, and close the block when it says enough."""
        least = (
            line.period / 4 - line.period
        )  # of the steps of errors: below, a sample was held up and its follower not
        before, steps = errors[:-1], errors[1:] - errors[:-1]
        if len(steps) and np.minimum.reduce(steps) < least:
            before = before[(steps < -_TICK_S - line.period) | (steps >= least)]
        total, n_telling = float(np.add.reduce(before)), len(before)
        if self._open is not None and not -_TICK_S - line.period <= float(errors[0]) - self._open < least:
            total, n_telling = total + self._open, n_telling + 1
        if n_telling:
            self._points.append(total / n_telling)
        self._open = float(errors[-1])
        duration_s = (self._next - self._first) * self._period
        if duration_s >= _BLOCK_S and self._points:
            self._weigh(sorted(self._points), duration_s, line)

    def _weigh(self, points: list[float], duration_s: float, line: _Line) -> None:
        """Compare the block with the line: find what is missing or too much, else correct the line."""
        point = points[len(points) // 2]
        spread = 0.74 * (points[(3 * len(points)) // 4] - points[len(points) // 4])
        doubt = 1.25 * max(spread, self.jitter_s) / math.sqrt(len(points))
        index = (self._first + self._next - 1) / 2
        line_sd = math.sqrt(line.go_to(index))
        done = doubt <= max(line.period / 6, line_sd / 2) or duration_s >= _LONG_BLOCK_S[self._recounting]
        if self._recounting:
            limit = 0.5 * line.period + (0 if done else 2.5 * doubt)
        else:
            limit = max(0.7 * line.period, 5 * self._point_sd, 5.6 * line_sd)
        n_off = round(point / line.period) if abs(point) > limit and (done or self._recounting) else 0
        if n_off:
            self._miss(max(n_off, 0))
            self._surplus = max(-n_off, 0)
            self._points = [error - n_off * line.period for error in points]
            self._open = None
            self._first += max(n_off, 0)
        if done or (n_off and not self._recounting):
            if not n_off:
                self._settle(point, spread, doubt, line)
            self._clear_block()

    def _settle(self, point: float, spread: float, doubt: float, line: _Line) -> None:
        """Correct the line by a block that is where it should be, and keep book of how much such blocks scatter."""
        floor = max(doubt, line.period / 50)
        step_sd, self._point = abs(point - self._point) / math.sqrt(2), point
        self._n_settled += 1
        weight = 1 / min(self._n_settled + 1, _MEMORY)  # what was guessed at first counts as one block
        self._noise_sd = _recent(self._noise_sd, min(step_sd, 2 * max(self._noise_sd, floor)), weight)
        self._point_sd = _recent(self._point_sd, min(abs(point), 2 * max(self._point_sd, floor)), weight)
        line.correct(point, max(self._noise_sd, floor) ** 2)
        self.jitter_s += (spread - self.jitter_s) / 8
        self._top = min(self._highest, 1.0)
        self._reach = max(0.9 * self._reach, self._top)
        self._recounting = False


@lru_cache(maxsize=64)
def _ramp(n_times: int) -> Float64Array:
    """0, 1, 2 ..."""
    return np.arange(n_times, dtype=np.float64)


def _largest(errors: Float64Array) -> float:
    """Magnitude of the largest; not a number if any is none."""
    return float(np.maximum.reduce(np.abs(errors)))


def _recent(sd: float, deviation: float, weight: float) -> float:
    """A standard deviation, one more deviation taken in."""
    return math.sqrt((1 - weight) * sd**2 + weight * deviation**2)
