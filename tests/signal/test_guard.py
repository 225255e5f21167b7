"""Promises of `streamnode.signal.guard`, and what becomes of bad input between a source and a model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest

from streamnode.signal.guard import Guard, Refusal, Verdict
from streamnode.signal.interpolate import Policy
from streamnode.signal.path import EpochStream, build_epochs
from streamnode.sources.synthetic import CH_NAMES_32, CH_NAMES_64, SyntheticEeg
from streamnode.types import Chunk, Epoch, Fault, FloatArray, Quality, StreamInfo
from tests.signal import SPEC, as_chunk, cut, stream

SFREQ, EPOCH_S = 256.0, 5.0
ANYWHERE = replace(SPEC, needs_positions=False)
EIGHT = stream(SFREQ, CH_NAMES_32[:8])


def eeg(seconds: float, n_chans: int = 8) -> FloatArray:
    """`(n_times, n_chans)` of synthetic EEG on the offset that amplifiers have."""
    ch_names = CH_NAMES_64[:n_chans] if n_chans > 32 else CH_NAMES_32[:n_chans]
    data: FloatArray = SyntheticEeg(ch_names, SFREQ, seed=3).take(round(seconds * SFREQ)) + np.float32(4000)
    return data


def path_and_guard(
    info: StreamInfo, policy: Policy = "keep", reference: str = "as_recorded", late_s: float = 0.0
) -> tuple[EpochStream, Guard]:
    """What a node puts between a source and a model; an epoch of 5 s every second."""
    path = build_epochs(info, ANYWHERE, n_times=1280, hop=256, clock=lambda: 0.0, reference=reference)
    horizon_s = EPOCH_S + path.delay_s + late_s
    return path, Guard(info, path.info, policy, horizon_s=horizon_s, line_hz=50.0)


def follow(path: EpochStream, guard: Guard, chunks: Iterable[Chunk]) -> Iterator[tuple[Epoch, Quality]]:
    """Every epoch, with what the raw samples say of it."""
    for chunk in chunks:
        guard.watch(chunk)
        for epoch in path(chunk):
            yield epoch, guard.raw_quality(epoch)


def judged(
    data: FloatArray, info: StreamInfo, policy: Policy = "keep", reference: str = "as_recorded"
) -> list[Verdict | Refusal]:
    """What becomes of the epochs of a recording."""
    path, guard = path_and_guard(info, policy, reference)
    return [guard.judge(*seen) for seen in follow(path, guard, cut(as_chunk(info, data), [64]))]


def accepted(verdict: Verdict | Refusal) -> Verdict:
    assert isinstance(verdict, Verdict)
    return verdict


def faults(verdict: Verdict | Refusal) -> tuple[tuple[Fault, ...], ...]:
    """What an accepted epoch says of each of its channels."""
    quality = accepted(verdict).epoch.quality
    assert quality is not None
    return quality.faults


@pytest.mark.parametrize("policy", ["keep", "mask", "interpolate", "skip"])
def test_clean_epochs_pass_as_they_are(policy: Policy) -> None:
    """Without a bad channel every policy hands on the very samples, of all channels."""
    path, guard = path_and_guard(EIGHT, policy)
    seen = list(follow(path, guard, cut(as_chunk(EIGHT, eeg(8)), [64])))
    assert len(seen) == 3
    for epoch, raw in seen:
        verdict = accepted(guard.judge(epoch, raw))
        assert (faults(verdict), verdict.rows) == (((),) * 8, None)
        assert verdict.epoch.data is epoch.data


@pytest.mark.parametrize("sizes", [[1], [7, 64], [256], [5000], [100, 4000]])
def test_every_epoch_of_a_burst_has_its_raw_flags(sizes: list[int]) -> None:
    """A fault that only raw samples show is known of the epochs that hold it, however late and large the chunks."""
    data = eeg(20)
    data[128:480, 2] = 8000
    path, guard = path_and_guard(EIGHT)
    seen = follow(path, guard, cut(as_chunk(EIGHT, data), sizes))
    assert ["railed" in raw.faults[2] for _, raw in seen] == [True, True, *[False] * 13]


@pytest.mark.parametrize("silence_s", [1, 60])
def test_an_epoch_of_a_run_that_is_over_has_its_raw_flags(silence_s: int) -> None:
    """A late marker may ask for samples from before a gap, however long; runs are forgotten by what came after them."""
    data = eeg(6)
    data[256:600, 5] = np.nan
    path, guard = path_and_guard(EIGHT, late_s=10)
    ((epoch, raw),) = follow(path, guard, [as_chunk(EIGHT, data)])
    for run in range(1, 80):
        guard.watch(as_chunk(EIGHT, eeg(0.5), start=2000 + run * silence_s * 256, run=run))
        if run * 0.5 <= 15:
            assert guard.raw_quality(epoch) == raw
    assert raw.faults[5] == ("not_finite",)
    assert len(guard._monitors) < 40


def broken(n_bad: int) -> FloatArray:
    """The first so many of eight channels have a sample that is no number in every second."""
    data = eeg(7)
    data[::256, :n_bad] = np.nan
    return data


@pytest.mark.parametrize(
    ("policy", "n_bad", "refusal"),
    [
        ("keep", 1, "not_finite"),
        ("keep", 8, "not_finite"),
        ("mask", 8, "bad_channels"),
        ("interpolate", 5, "bad_channels"),
        ("skip", 1, "bad_channels"),
    ],
)
def test_a_refusal_has_a_reason(policy: Policy, n_bad: int, refusal: Refusal) -> None:
    """Samples that are no numbers and are kept, and too many bad channels, are different reasons to infer nothing."""
    assert judged(broken(n_bad), EIGHT, policy) == [refusal] * 2


@pytest.mark.parametrize(("counted", "refused"), [((0, 1), True), ((1, 2), False), (None, False)])
def test_an_epoch_is_given_up_when_none_of_the_channels_that_count_is_left(
    counted: tuple[int, ...] | None, *, refused: bool
) -> None:
    """Good channels that the model cannot place anyhow do not save an epoch; one that counts does."""
    path, watching = path_and_guard(EIGHT, "mask")
    guard = Guard(EIGHT, path.info, "mask", horizon_s=EPOCH_S, line_hz=50.0, counted=counted)
    for epoch, raw in follow(path, watching, cut(as_chunk(EIGHT, broken(2)), [64])):
        assert (guard.judge(epoch, raw) == "bad_channels") == refused


def test_bad_channels_are_masked_or_interpolated() -> None:
    """`mask` names the good rows and `interpolate` leaves only numbers; the faults are told with both."""
    lost = (("not_finite",), ("not_finite",), *[()] * 6)
    for masked in judged(broken(2), EIGHT, "mask"):
        assert (faults(masked), accepted(masked).rows) == (lost, (2, 3, 4, 5, 6, 7))
    for interpolated in judged(broken(2), EIGHT, "interpolate"):
        assert (faults(interpolated), accepted(interpolated).rows) == (lost, None)
        assert np.isfinite(accepted(interpolated).epoch.data).all()


def test_judging_elsewhere_changes_nothing() -> None:
    """`judge` may run in other threads while the stream goes on: verdicts are those it gives afterwards, alone."""
    path, guard = path_and_guard(EIGHT, "interpolate")
    data = eeg(60)
    data[::2000, 3] = np.nan
    judging = []
    with ThreadPoolExecutor(4) as threads:
        for epoch, raw in follow(path, guard, cut(as_chunk(EIGHT, data), [16])):
            judging += [(epoch, raw, threads.submit(guard.judge, epoch, raw)) for _ in range(4)]
    assert len(judging) == 4 * 55
    for epoch, raw, elsewhere in judging:
        alone, verdict = accepted(guard.judge(epoch, raw)), accepted(elsewhere.result())
        assert faults(verdict) == faults(alone)
        np.testing.assert_array_equal(verdict.epoch.data, alone.epoch.data)


@pytest.mark.parametrize("reference", ["as_recorded", "average"])
@pytest.mark.parametrize("value", [0.0, 187_500.0])
def test_a_constant_channel_is_flat(reference: str, value: float) -> None:
    """A dead channel is flat, also where a re-reference puts the others' average into it; the others are good."""
    data = eeg(9)
    data[:, 4] = value
    verdicts = judged(data, EIGHT, reference=reference)
    assert len(verdicts) == 4
    for verdict in verdicts:
        assert "flat" in faults(verdict)[4]
        assert not any(faults(verdict)[:4] + faults(verdict)[5:])


def test_a_channel_that_never_has_a_number_harms_no_other() -> None:
    """A column of NaN from the first sample on is masked; the rest is what it would be without it."""
    data, whole = eeg(9), judged(eeg(9), EIGHT)
    data[:, 6] = np.nan
    masked = judged(data, EIGHT, "mask")
    assert [accepted(verdict).rows for verdict in masked] == [(0, 1, 2, 3, 4, 5, 7)] * 4
    for verdict, alike in zip(masked, whole, strict=True):
        rest, expected = (np.delete(accepted(one).epoch.data, 6, axis=0) for one in (verdict, alike))
        np.testing.assert_array_equal(rest, expected)


@pytest.mark.parametrize("policy", ["keep", "mask", "interpolate", "skip"])
def test_all_channels_dead(policy: Policy) -> None:
    """A stream of zeros is flat throughout: kept with its flags, or refused by every other policy."""
    verdicts = judged(np.zeros((1700, 8), np.float32), EIGHT, policy)
    if policy == "keep":
        assert [faults(verdict) for verdict in verdicts] == [(("flat",),) * 8] * 2
    else:
        assert verdicts == ["bad_channels"] * 2


@pytest.mark.parametrize("policy", ["keep", "mask", "interpolate", "skip"])
def test_a_single_channel_is_judged(policy: Policy) -> None:
    """One channel is good or bad by itself; there is nothing that it could be unlike."""
    info = stream(SFREQ, ["Cz"])
    assert [faults(verdict) for verdict in judged(eeg(7, 1), info, policy)] == [((),)] * 2
    if policy != "keep":
        assert judged(np.full((1700, 1), 7, np.float32), info, policy) == ["bad_channels"] * 2


def test_512_channels_without_labels_are_judged() -> None:
    """A high-density amplifier that names nothing gets numbered channels, epochs, and verdicts for each channel."""
    info = stream(SFREQ, [""] * 512)
    assert info.ch_names[::511] == ("ch1", "ch512")
    data = np.tile(eeg(7, 64), (1, 8)) + np.random.default_rng(0).standard_normal((1792, 512)).astype(np.float32)
    data[:, 100], data[300, 200] = 5, np.inf
    for verdict in judged(data, info, "mask"):
        found = {row: why for row, why in enumerate(faults(verdict)) if why}
        assert found == {100: ("flat",), 200: ("not_finite",)}
        assert accepted(verdict).epoch.data.shape == (512, 1280)
        assert len(accepted(verdict).rows or ()) == 510
