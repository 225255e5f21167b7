"""Epochs prepared offline, one by one, out of a stream; and the path that all three modes share."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import streamnode
from streamnode.errors import ContractError
from streamnode.models.luna import SPEC as LUNA
from streamnode.signal.path import CausalEpochs, Mode, RecordingEpochs, WindowEpochs, build_epochs
from streamnode.sources.replay import read
from streamnode.types import Chunk, Epoch, Float64Array, FloatArray, StreamInfo
from tests.signal import SPEC, T0, as_chunk, cut, stream
from tests.signal.test_offline import by_mne

OFFLINE = replace(SPEC, offline=("band", "notch", "resample"))
each_mode = pytest.mark.parametrize("mode", ["causal", "window", "lookahead"])


def path(
    info: StreamInfo, mode: str = "window", n_times: int = 256, hop: int = 64, **changes: Any
) -> CausalEpochs | WindowEpochs:
    changes = {"margin_s": 2.0, "lookahead_s": 0.5 if mode == "lookahead" else 0.0, "notch_hz": 50, **changes}
    epochs = build_epochs(info, OFFLINE, cast("Mode", mode), n_times=n_times, hop=hop, clock=lambda: 0.0, **changes)
    assert not isinstance(epochs, RecordingEpochs)
    return epochs


def run(cut_epochs: Callable[[Chunk], list[Epoch]], chunks: Iterable[Chunk]) -> list[Epoch]:
    return [epoch for chunk in chunks for epoch in cut_epochs(chunk)]


def assert_same(actual: list[Epoch], expected: list[Epoch]) -> None:
    assert [epoch.seq for epoch in actual] == [epoch.seq for epoch in expected]
    for one, other in zip(actual, expected, strict=True):
        assert (one.start, one.run, one.n_missing, one.settling) == (
            other.start,
            other.run,
            other.n_missing,
            other.settling,
        )
        assert (one.t0, one.t_last) == pytest.approx((other.t0, other.t_last), abs=1e-6)
        np.testing.assert_array_equal(one.data, other.data)


def walk(n_times: int, n_chans: int = 3) -> FloatArray:
    steps = np.random.default_rng(3).standard_normal((n_times, n_chans))
    return (steps.cumsum(axis=0) + 5000).astype(np.float32)


@pytest.mark.parametrize("sfreq", [160.0, 250.0, 256.0, 500.0, 998.42])
@pytest.mark.parametrize("lookahead_s", [0.0, 0.5])
def test_an_epoch_is_the_end_of_the_segment_prepared_by_mne(sfreq: float, lookahead_s: float) -> None:
    """Each epoch is cut from MNE's preprocessing of margin, window and lookahead; the first ones have less margin."""
    info, raw = stream(sfreq), walk(int(6.2 * sfreq))
    mode = "lookahead" if lookahead_s else "window"
    epochs = run(path(info, mode, hop=256, notch_hz=60), cut(as_chunk(info, raw), [37]))
    assert len(epochs) >= 5
    for number, epoch in enumerate(epochs):
        stop = int(np.ceil((number + 1) * sfreq - 1e-6))
        begin = max(0, stop - int(np.ceil(sfreq)) - round(2 * sfreq))
        ahead = round(lookahead_s * sfreq)
        prepared = by_mne(raw[begin : stop + ahead].T.astype(np.float64), sfreq, 75)
        last = max(256, prepared.shape[1] - round(ahead * 256 / sfreq))
        expected = prepared[:, last - 256 : last]
        np.testing.assert_allclose(epoch.data, expected, rtol=0, atol=1e-6 * np.abs(expected).max())
        assert epoch.settling == (number < 2)


@pytest.mark.parametrize("sfreq", [160.0, 250.0, 256.0, 500.0, 1000.0, 998.42])
@pytest.mark.parametrize("start", [0, 12_345])
def test_stamps_are_exact(sfreq: float, start: int) -> None:
    """A tone read off between `t0` and `t_last` has the phase that went in, and `t_last` is the newest time."""
    info = stream(sfreq, ["Cz"])
    times = (start + np.arange(int(12 * sfreq))) / sfreq
    raw = np.sin(2 * np.pi * 21.7 * times)[:, np.newaxis]
    epoch = run(path(info, margin_s=8.0, notch_hz=None), cut(as_chunk(info, raw, start), [1]))[-1]
    seconds = (
        np.linspace(epoch.t0, epoch.t_last, 256)[:192] - T0
    )  # at its end a segment rings, as it is reflected there
    turns = 2 * np.pi * 21.7 * seconds
    waves = np.stack([np.sin(turns), np.cos(turns), np.ones(192), seconds - seconds[0]], axis=1)  # and drifts a little
    in_phase, quadrature, *_ = np.linalg.lstsq(waves, epoch.data[0, :192])[0]
    assert in_phase == pytest.approx(1, abs=0.01)
    assert abs(quadrature) < 0.01  # half a sample off would be 0.27
    newest = epoch.t_arrived - 1 / sfreq
    assert epoch.t_last == pytest.approx(newest, abs=1.5 / min(sfreq, 256))
    assert epoch.t_last - epoch.t0 == pytest.approx(255 / 256, abs=1e-3)
    assert epoch.start == pytest.approx((epoch.t0 - T0) * 256, abs=2.01)


@pytest.mark.parametrize("mode", ["window", "lookahead"])
@pytest.mark.parametrize("sfreq", [160.0, 250.0, 256.0, 300.0, 500.0, 998.42, 2000.0])
def test_epochs_start_a_hop_apart_to_the_sample(mode: str, sfreq: float) -> None:
    """In a run `start` goes on by the hop; the first is where the run begins, behind all epochs of the one before."""
    info, used = stream(sfreq), path(stream(sfreq), mode, hop=256, notch_hz=None)
    begin = 4567
    for number, n_times in enumerate((int(9.3 * sfreq), int(3.3 * sfreq))):
        epochs = run(used, cut(as_chunk(info, walk(n_times), begin, number), [777]))
        first = round(begin * 256 / sfreq)
        begin += n_times
        assert len(epochs) >= 2
        assert [epoch.start for epoch in epochs] == list(range(first, first + 256 * len(epochs), 256))
        assert epochs[-1].start + 256 <= round(begin * 256 / sfreq)


@each_mode
@settings(max_examples=8, deadline=None)
@given(sizes=st.lists(st.integers(1, 4096), min_size=1, max_size=6))
def test_any_chunking_is_the_whole(mode: str, sizes: list[int]) -> None:
    """However a run is cut into chunks, every bit of every epoch is the same."""
    info, raw = stream(160.0), walk(900)
    whole = as_chunk(info, raw, start=99)
    expected = run(path(info, mode), [whole])
    assert len(expected) > 10
    assert_same(run(path(info, mode), cut(whole, sizes)), expected)


@each_mode
def test_sample_by_sample_is_the_whole(mode: str) -> None:
    """Chunks of one sample, and empty ones between, give the same epochs."""
    info, whole = stream(250.0), as_chunk(stream(250.0), walk(700))
    assert_same(run(path(info, mode), cut(whole, [1, 0])), run(path(info, mode), [whole]))


@each_mode
def test_no_epoch_crosses_a_run(mode: str) -> None:
    """A new run begins anew: its epochs hold nothing of the run before, and their numbers go on."""
    info, raw = stream(160.0), walk(500)
    used, new = path(info, mode, first_seq=7), path(info, mode, first_seq=7)
    before = run(used, [as_chunk(info, 1e3 * raw, run=0)])
    after = run(used, cut(as_chunk(info, raw, start=650, run=1), [40]))
    assert before
    assert [epoch.seq for epoch in before + after] == list(range(7, 7 + len(before + after)))
    expected = run(new, [as_chunk(info, raw, start=650, run=1)])
    assert_same([replace(epoch, seq=epoch.seq - len(before)) for epoch in after], expected)
    assert after[0].settling


@each_mode
def test_the_past_is_untouched_by_the_future(mode: str) -> None:
    """An epoch depends on nothing that comes after it was cut."""
    info, raw = stream(160.0), walk(800)
    other = raw.copy()
    other[500:] *= -3
    early = run(path(info, mode), [as_chunk(info, raw[:500])])
    assert_same(run(path(info, mode), [as_chunk(info, other)])[: len(early)], early)


def test_lookahead_is_declared() -> None:
    """`lookahead` waits as long as it says and is late by that; `window` is not late at all."""
    info, raw = stream(500.0), walk(2000)
    ahead, now = path(info, "lookahead", lookahead_s=0.3), path(info)
    assert (ahead.delay_s, now.delay_s, ahead.settling_s) == (0.3, 0.0, 2.0)
    late, prompt = (run(each, cut(as_chunk(info, raw), [1])) for each in (ahead, now))
    for one, other in zip(late, prompt, strict=False):
        assert one.t_arrived == pytest.approx(other.t_arrived + 0.3, abs=1e-6)
        assert one.t_last == pytest.approx(other.t_last, abs=2 / 256)


def test_missing_samples_are_counted() -> None:
    """Of 500 samples of an epoch 50 were filled in: 26 of its 256 are missing; those of the margin do not count."""
    info, raw = stream(500.0), walk(1500)
    chunks = [replace(chunk, n_missing=50 if chunk.start == 100 else 0) for chunk in cut(as_chunk(info, raw), [50])]
    assert [epoch.n_missing for epoch in run(path(info, hop=256), chunks)] == [26, 0, 0]


def test_a_sample_that_is_not_a_number_spoils_only_its_epochs() -> None:
    """An epoch that holds a NaN has that channel NaN; the others, in whose margin it lies, are whole."""
    info, raw = stream(160.0), walk(1200)
    raw[200, 1] = np.nan
    epochs = run(path(info, hop=256), [as_chunk(info, raw)])
    spoilt = [np.isnan(epoch.data).all(axis=1).tolist() for epoch in epochs]
    assert spoilt == [[False, number == 1, False] for number in range(len(epochs))]
    assert all(np.isfinite(epoch.data[[0, 2]]).all() for epoch in epochs)


def test_describes_itself() -> None:
    """A path says what it does, in order."""
    assert path(stream(500.0), "lookahead", picks=["C4", "C3"]).describe() == (
        "pick 2 of 3 channels",
        "each epoch with 2 s before and 0.5 s after",
        "0.1-75 Hz, zero-phase FIR of 33 s",
        "notch 50 Hz, zero-phase FIR of 6.6 s",
        "resample 500 -> 256 Hz by FFT",
    )
    assert path(stream(500.0)).info == replace(stream(500.0), sfreq=256.0)


def test_reference_comes_before() -> None:
    """Average reference and preprocessing can be exchanged, as both are linear: an epoch sums to zero over channels."""
    epoch = run(path(stream(160.0), reference="average"), [as_chunk(stream(160.0), walk(400))])[0]
    np.testing.assert_allclose(epoch.data.sum(axis=0), 0, atol=1e-4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mode": "lookahead", "lookahead_s": 0.0}, "a lookahead of 0 s and mode lookahead exclude each other"),
        ({"mode": "window", "lookahead_s": 1.0}, "a lookahead of 1 s and mode window exclude each other"),
        ({"margin_s": -1.0}, "at least 1 and the others at least 0"),
        ({"n_times": 0}, "at least 1 and the others at least 0"),
        ({"h_freq": 80.0}, r"set signal\.h_freq below 80 Hz"),
        ({"h_freq": 90.0}, "wants frequencies up to 90 Hz"),
    ],
)
def test_refusals(changes: dict[str, Any], message: str) -> None:
    """What cannot be cut or prepared is refused in one sentence."""
    with pytest.raises(ContractError, match=message):
        path(stream(160.0), **changes)


@pytest.mark.parametrize(
    ("file", "h_freq"),
    [
        ("eegmmidb/S001R01.edf", 75),
        ("eegmmidb/S001R02.edf", 75),
        ("eeglab/eeglab_data.set", 50),
        ("eeglab/test.edf", 75),
        ("zuna/sample1_raw.fif", 75),
    ],
)
def test_fidelity(data_dir: Path, file: str, h_freq: float) -> None:
    """On real recordings, epochs are MNE's to 1e-6, and LUNA's embeddings of both point the same way (cosine 0.999)."""
    recording = read(data_dir / file)
    info, raw, sfreq = recording.info, recording.data, recording.info.sfreq
    window = build_epochs(
        info, LUNA, "window", n_times=1280, hop=5 * 256, clock=lambda: 0.0, margin_s=5.0, h_freq=h_freq, notch_hz=50
    )
    epochs = run(window, cut(Chunk(info, raw[: int(15 * sfreq)], 0, 0.0, 0.0, 0), [32]))
    assert len(epochs) == 3
    stops = [round(5 * (number + 1) * sfreq) for number in range(3)]
    segments = [raw[max(0, stop - round(10 * sfreq)) : stop].T.astype(np.float64) for stop in stops]
    expected: Float64Array = np.stack([by_mne(segment, sfreq, h_freq, 50)[:, -1280:] for segment in segments])
    actual = np.stack([epoch.data for epoch in epochs])
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-6 * np.abs(expected).max())
    luna = streamnode.load_model(
        "luna-base", weights="random:0", ch_names=info.ch_names, ch_pos=info.montage.ch_pos, outputs=("embedding",)
    )
    ours, theirs = (luna.encode(data.astype(np.float32)).embedding for data in (actual, expected))
    assert ours is not None
    assert theirs is not None
    cosines = (ours * theirs).sum(axis=1) / np.linalg.norm(ours, axis=1) / np.linalg.norm(theirs, axis=1)
    assert cosines.min() >= 0.999
