"""Playing over real LSL on loopback."""

import asyncio
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pylsl
import pytest
from pylsl.util import LostError

from streamnode.errors import ConfigError
from streamnode.montage import make_montage
from streamnode.play import PlayReport, play, play_file
from streamnode.sources.pacing import Annotation
from streamnode.sources.replay import Recording, read
from streamnode.sources.runs import Run
from streamnode.sources.synthetic import SyntheticEeg
from streamnode.types import Float32Array, Float64Array, StreamInfo


@dataclass
class Received:
    data: Float32Array
    stamps: Float64Array
    markers: list[tuple[str, float]]


def make_recording(n_times: int, *annotations: Annotation) -> Recording:
    info = StreamInfo("demo", "streamnode-play:demo", "EEG", 200.0, make_montage(["Fp1", "Cz", "O2"]))
    data = np.random.default_rng(1).normal(0, 30, (n_times, 3)).astype(np.float32)
    return Recording(info, data, annotations)


async def inlet_of(name: str) -> pylsl.StreamInlet:
    """An open inlet on the stream of that name."""
    found = await asyncio.to_thread(pylsl.resolve_byprop, "name", name, 1, 10.0)
    inlet = pylsl.StreamInlet(found[0], recover=False)
    await asyncio.to_thread(inlet.open_stream, 10.0)
    return inlet


def pull(inlet: pylsl.StreamInlet, n_times: int) -> tuple[Float32Array, Float64Array]:
    """The next `n_times` samples, as one array."""
    parts, stamps = [np.empty((0, inlet.channel_count), np.float32)], [np.empty(0)]
    while (missing := n_times - sum(map(len, stamps))) > 0:
        data, times = inlet.pull_chunk(timeout=10.0, max_samples=missing, min_samples=1, as_numpy=True)
        if not len(times):
            raise TimeoutError(f"{missing} of {n_times} samples did not come")
        parts.append(np.array(data))
        stamps.append(np.array(times))
    return np.concatenate(parts), np.concatenate(stamps)


async def receive(name: str, n_times: int, n_markers: int) -> Received:
    """Everything a receiver gets; the EEG is opened last, for that is what starts the player."""
    events = await inlet_of(f"{name}-markers") if n_markers else None
    eeg = await inlet_of(name)
    data, stamps = await asyncio.to_thread(pull, eeg, n_times)
    markers = [await asyncio.to_thread(events.pull_sample, 10.0) for _ in range(n_markers)] if events else []
    return Received(data, stamps, [(sample[0], stamp) for sample, stamp in markers])


@asynccontextmanager
async def playing(recording: Recording, name: str) -> AsyncIterator[asyncio.Task[PlayReport]]:
    """A player that loops for ever, until the block is left."""
    async with asyncio.timeout(20), asyncio.TaskGroup() as group:
        task = group.create_task(play(recording, name=name, loop=True, wait_for_consumer=True))
        yield task
        task.cancel()


def assert_on_grid(stamps: Float64Array, sfreq: float) -> None:
    np.testing.assert_allclose(stamps - stamps[0], np.arange(len(stamps)) / sfreq, rtol=0, atol=1e-9)


async def test_every_sample_and_marker_arrives() -> None:
    """At 20 times the speed all samples arrive bit by bit, on the declared grid, each marker on its sample."""
    recording = make_recording(
        6001, Annotation(0.0, 0.0, "start"), Annotation(1.2349, 0.5, "T1"), Annotation(30.0, 0.0, "last")
    )
    async with asyncio.timeout(20):
        received, report = await asyncio.gather(
            receive("exact", 6001, 3), play(recording, name="exact", speed=20.0, wait_for_consumer=True)
        )

    np.testing.assert_array_equal(received.data, recording.data)
    assert_on_grid(received.stamps, 200.0)
    assert [label for label, _ in received.markers] == ["start", "T1", "last"]
    np.testing.assert_allclose(
        [stamp for _, stamp in received.markers], received.stamps[[0, 247, 6000]], rtol=0, atol=1e-9
    )
    assert (report.n_times, report.n_markers, report.n_passes) == (6001, 3, 1)


async def test_loop_goes_on_without_a_seam() -> None:
    """Two and a half passes are one stream: stamps go on, samples and markers come again."""
    recording = make_recording(100, Annotation(0.1, 0.0, "T1"), Annotation(0.4, 0.0, "T2"))
    async with asyncio.timeout(20):
        received, report = await asyncio.gather(
            receive("loop", 250, 5),
            play(recording, name="loop", speed=5.0, loop=True, duration_s=1.25, wait_for_consumer=True),
        )

    np.testing.assert_array_equal(received.data, np.tile(recording.data, (3, 1))[:250])
    assert_on_grid(received.stamps, 200.0)
    assert [label for label, _ in received.markers] == ["T1", "T2", "T1", "T2", "T1"]
    rows = np.rint((np.array([t for _, t in received.markers]) - received.stamps[0]) * 200)
    assert rows.tolist() == [20, 80, 120, 180, 220]
    assert (report.n_times, report.n_markers, report.n_passes) == (250, 5, 3)


async def test_stream_is_interrupted_where_the_recording_was() -> None:
    """Samples and markers behind a gap are stamped, and come, as much later as it lasted."""
    whole = make_recording(100, Annotation(0.1, 0.0, "before"), Annotation(2.3, 0.0, "after"))
    recording = replace(whole, runs=(Run(0, 0), Run(60, 440)))
    async with asyncio.timeout(20):
        played = play(recording, name="gap", speed=5.0, wait_for_consumer=True)
        received, _ = await asyncio.gather(receive("gap", 100, 2), played)

    indices = np.concatenate((np.arange(60), np.arange(440, 480)))
    np.testing.assert_array_equal(received.data, recording.data)
    np.testing.assert_allclose(received.stamps - received.stamps[0], indices / 200, rtol=0, atol=1e-9)
    places = [stamp - received.stamps[0] for _, stamp in received.markers]
    np.testing.assert_allclose(places, [0.1, 2.3], rtol=0, atol=1e-9)


async def test_stream_describes_the_recording() -> None:
    """The outlet carries the name asked for, a source id that lasts, the rate and the channels of the recording."""
    async with playing(make_recording(200), "described"):
        found = await asyncio.to_thread(pylsl.resolve_byprop, "name", "described", 1, 10.0)
        inlet = pylsl.StreamInlet(found[0], recover=False)
        info = await asyncio.to_thread(inlet.info, 10.0)

    assert info.type() == "EEG"
    assert info.source_id() == "streamnode-play:demo"
    assert info.nominal_srate() == 200.0
    assert info.get_channel_labels() == ["Fp1", "Cz", "O2"]


async def test_real_time() -> None:
    """At speed 1 no sample comes before its time, and the stamps are those of the LSL clock."""
    async with playing(make_recording(200), "live"):
        inlet = await inlet_of("live")
        for _ in range(20):
            _, stamps = await asyncio.to_thread(pull, inlet, 5)
            assert 0 <= pylsl.local_clock() - stamps[-1] < 1.0


async def test_cancelled_player_closes_its_streams() -> None:
    """Cancelling ends the streams at once: a receiver learns that they are gone."""
    async with playing(make_recording(200), "cancelled") as task:
        inlet = await inlet_of("cancelled")
        await asyncio.to_thread(pull, inlet, 10)
    assert task.cancelled()

    def drain() -> None:
        while True:
            inlet.pull_chunk(timeout=10.0, min_samples=1)

    with pytest.raises(LostError):
        await asyncio.wait_for(asyncio.to_thread(drain), 10.0)


async def test_cancelled_while_nobody_has_come() -> None:
    """A player that waits for its first consumer can be cancelled too."""
    async with playing(make_recording(200), "lonely") as task:
        await asyncio.to_thread(pylsl.resolve_byprop, "name", "lonely", 1, 10.0)
        assert not task.done()
    assert task.cancelled()


async def test_progress_is_told() -> None:
    """After every push the counts so far are told; nobody has to be connected."""
    reports: list[PlayReport] = []
    recording = make_recording(50, Annotation(0.1, 0.0, "T1"))
    final = await play(recording, speed=20.0, chunk_s=0.1, on_progress=reports.append)

    assert [r.n_times for r in reports] == [20, 40, 50]
    assert [r.n_markers for r in reports] == [0, 1, 1]
    assert reports[-1] == final


async def test_markers_can_be_left_out() -> None:
    """Without markers the annotations stay at home."""
    final = await play(make_recording(50, Annotation(0.1, 0.0, "T1")), speed=50.0, markers=False)

    assert (final.n_times, final.n_markers) == (50, 0)


@pytest.mark.parametrize("speed", [0.0, -2.0, math.inf, math.nan])
async def test_impossible_speeds(speed: float) -> None:
    """LSL is live: a speed must be finite and above 0."""
    with pytest.raises(ConfigError, match="cannot be played at speed"):
        await play(make_recording(10), speed=speed)


@pytest.mark.parametrize("seconds", [0.0, -2.0, math.inf, math.nan])
async def test_impossible_lengths(seconds: float) -> None:
    """What is to be played of a recording must be finite and above 0."""
    with pytest.raises(ConfigError, match="seconds cannot be played"):
        await play(make_recording(10), duration_s=seconds)


@pytest.mark.parametrize("sfreq", [0.0, -256.0, 1e300, math.nan])
async def test_impossible_rates(sfreq: float) -> None:
    """Synthetic EEG at a rate that it cannot have is refused, and never played at another."""
    with pytest.raises(ConfigError, match=r"cannot be had at .* Hz: choose a rate above 30 Hz"):
        await play_file(Path("synthetic"), sfreq=sfreq)


async def test_synthetic_by_name() -> None:
    """The word `synthetic` in place of a file plays the seeded EEG."""
    async with asyncio.timeout(20):
        received, _ = await asyncio.gather(
            receive("made-up", 512, 0),
            play_file(Path("synthetic"), name="made-up", speed=8.0, seconds=2.0, wait_for_consumer=True),
        )

    np.testing.assert_array_equal(received.data, SyntheticEeg().take(512))


async def test_file_with_annotations(data_dir: Path) -> None:
    """An EEGMMIDB file plays with its 64 channels, and its cues on their samples."""
    path = data_dir / "eegmmidb" / "S001R04.edf"
    async with asyncio.timeout(20):
        received, report = await asyncio.gather(
            receive("S001R04", 1600, 3), play_file(path, speed=10.0, seconds=10.0, wait_for_consumer=True)
        )

    recording = read(path)
    np.testing.assert_array_equal(received.data, recording.data[:1600])
    cues = [(a.description, round(a.t_s * 160)) for a in recording.annotations if a.t_s < 10]
    assert [(label, round((t - received.stamps[0]) * 160)) for label, t in received.markers] == cues
    assert report.n_markers == len(cues) == 3
