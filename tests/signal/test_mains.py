"""Promises of `streamnode.signal.mains`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from streamnode.signal.filters import notch
from streamnode.signal.mains import LISTEN_S, MainsListener, detect_mains
from streamnode.sources.synthetic import CH_NAMES_32, SyntheticEeg
from streamnode.types import Chunk, Float64Array
from tests.signal import as_chunk, cut, stream
from tests.signal.test_quality import RECORDINGS, SYNTHETIC, recording

HEARD = [*((us, 60.0) for us in [*RECORDINGS, "zuna/sample1_raw.fif"]), *((eu, 50.0) for eu in SYNTHETIC)]


@pytest.mark.parametrize(("name", "line_hz"), HEARD)
@pytest.mark.parametrize("seconds", [4, 10])
def test_mains_are_detected(name: str, line_hz: float, seconds: int, data_dir: Path) -> None:
    """Recordings made in the United States betray 60 Hz, synthetic EEG its 50, in every window of 4 s and of 10 s."""
    info, data = recording(name, data_dir)
    n_times = round(seconds * info.sfreq)
    windows = [data[i : i + n_times].T for i in range(0, min(len(data), 120 * 256) - n_times, n_times)]
    assert {detect_mains(window, info.sfreq) for window in windows} == {line_hz}


def test_mains_stay_unknown() -> None:
    """None for a notched signal, for less than 4 s, for a rate too low to hold them, for nothing and for no numbers."""
    eeg = SyntheticEeg(CH_NAMES_32, 250.0)
    data = eeg.take(2500)
    assert detect_mains(data[500:].T, 250.0) == 50.0
    notched = notch(eeg.info, 50.0, 30.0)(as_chunk(eeg.info, data)).data
    assert detect_mains(notched[1000:].T, 250.0) is None
    assert detect_mains(data[:900].T, 250.0) is None
    assert detect_mains(data.T, 90.0) is None
    assert detect_mains(np.full((2, 2500), np.nan), 250.0) is None
    assert detect_mains(np.zeros((2, 2500)), 250.0) is None
    assert detect_mains(np.zeros((0, 2500)), 250.0) is None


@pytest.mark.parametrize("n_chans", [1, 2, 8, 32])
def test_noise_has_no_mains(n_chans: int) -> None:
    """Of 20 windows of 4 s of noise, independent or mostly shared by all channels, one at most is taken for a line."""
    rng = np.random.default_rng(n_chans)
    found = []
    for shared in (0, 5):
        noise = rng.standard_normal((10, n_chans, 800)) + shared * rng.standard_normal((10, 1, 800))
        found += [detect_mains(np.cumsum(window, axis=1), 200.0) for window in noise]
    assert len(found) - found.count(None) <= 1


def test_a_line_beneath_the_noise_of_every_channel_is_found() -> None:
    """What 32 channels share shows, where each alone would leave it open; a dead channel does not hide it."""
    rng = np.random.default_rng(0)
    line = 0.25 * np.sin(2 * np.pi * 59.97 * np.arange(1024) / 256)
    data = rng.standard_normal((32, 1024)) + rng.uniform(-1, 1, (32, 1)) * line
    data[3], data[4, 100] = 0, np.nan
    assert detect_mains(data, 256.0) == 60.0
    assert [detect_mains(channel[np.newaxis], 256.0) for channel in data].count(60.0) < 16


def listened(chunks: list[Chunk]) -> MainsListener:
    """A listener that was given chunks until it had heard enough."""
    listener = MainsListener(chunks[0].info)
    while not listener(chunks[len(listener.heard)]):
        assert listener.mains_hz is None
    assert listener.heard == chunks[: len(listener.heard)]
    return listener


def hum(seconds: float, line_hz: float = 50.0, n_chans: int = 4) -> Float64Array:
    """`(n_times, n_chans)` of noise and mains, at 250 Hz."""
    times = np.arange(round(seconds * 250)) / 250
    noise = np.random.default_rng(0).standard_normal((len(times), n_chans))
    signal: Float64Array = noise + 3 * np.sin(2 * np.pi * line_hz * times)[:, np.newaxis]
    return signal


@pytest.mark.parametrize(("name", "line_hz"), HEARD)
def test_the_first_seconds_are_enough(name: str, line_hz: float, data_dir: Path) -> None:
    """After 4 s of a real stream the mains are known, an epoch of 5 s before they are needed; all chunks are kept."""
    info, data = recording(name, data_dir)
    listener = listened(list(cut(as_chunk(info, data), [7, 16])))
    assert listener.mains_hz == line_hz
    heard = np.concatenate([chunk.data for chunk in listener.heard])
    assert LISTEN_S * info.sfreq <= len(heard) < LISTEN_S * info.sfreq + 16
    np.testing.assert_array_equal(heard, data[: len(heard)])


@pytest.mark.parametrize("size", [1, 50, 5000])
def test_chunks_do_not_matter(size: int) -> None:
    """Sample by sample or in one late burst, the answer is the same."""
    assert listened(list(cut(as_chunk(stream(250, list("abcd")), hum(20, 60)), [size]))).mains_hz == 60.0


def test_without_mains_the_answer_is_none() -> None:
    """Clean signals are told after 4 s too: there is nothing to remove."""
    listener = listened(list(cut(as_chunk(stream(250, list("abcd")), hum(20, 0)), [50])))
    assert listener.mains_hz is None
    assert sum(chunk.n_times for chunk in listener.heard) == 1000


def test_a_new_run_is_listened_to_anew() -> None:
    """Samples of different runs are not joined, and those of the broken one are kept nevertheless."""
    info = stream(250, list("abcd"))
    broken = list(cut(as_chunk(info, hum(3, 60), run=0), [125]))
    whole = list(cut(as_chunk(info, hum(8, 50), start=2000, run=1), [125]))
    listener = listened([*broken, *whole])
    assert listener.mains_hz == 50.0
    assert [chunk.run for chunk in listener.heard] == 6 * [0] + 8 * [1]


def test_a_stream_that_keeps_breaking_is_not_waited_for() -> None:
    """After 30 s without 4 s in one piece the answer is None, so that not everything is kept for ever."""
    info = stream(250, list("abcd"))
    chunks = [as_chunk(info, hum(2), start=1000 * run, run=run) for run in range(40)]
    listener = listened(chunks)
    assert listener.mains_hz is None
    assert len(listener.heard) == 15
