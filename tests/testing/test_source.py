"""The testbed over real LSL: an independent inlet receives what the truth says, for every fault."""

import asyncio
import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pylsl
import pytest

from streamnode.errors import StreamLost
from streamnode.testing import (
    PER_UNIT,
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
    Restart,
    Timeline,
    TimelineProcess,
    UnixStamps,
    ZeroStamps,
    decode,
)
from streamnode.testing.plugin import LslSourceFixture
from streamnode.types import FloatArray

FAULTS: list[Event] = [
    Jitter(0.0, 2.0),
    Bursts(0.0, 9),
    Drift(0.0, 5000.0),
    Gap(0.2, 0.1),
    Duplicate(0.2),
    OutOfOrder(0.2),
    Freeze(0.2, 0.2),
    Freeze(0.2, 0.2, keeps_s=0.05),
    UnixStamps(0.2),
    ZeroStamps(0.2, 0.2),
    NotFinite(0.2, 0.1, -math.inf),
]


class Receiver:
    """All that comes from one process of a source, by pylsl alone."""

    def __init__(self, source_id: str, but: str = "") -> None:
        found: list[pylsl.StreamInfo] = []
        while not found:
            found = [i for i in pylsl.resolve_byprop("source_id", source_id, timeout=10) if i.uid() != but]
        self.uid = found[0].uid()
        self.inlet = pylsl.StreamInlet(found[0], recover=False, processing_flags=0)
        self.info = self.inlet.info(5)
        self.data: list[FloatArray] = []
        self.stamps: list[float] = []
        self.inlet.open_stream(5)

    def pull(self) -> bool:
        """Whether anything came."""
        data, stamps = self.inlet.pull_chunk(timeout=0.1, max_samples=512, min_samples=1, as_numpy=True)
        self.data += list(data.copy())
        self.stamps += stamps.tolist()
        return len(stamps) > 0

    def pull_the_rest(self) -> None:
        while self.pull():
            pass

    def pull_until_death(self) -> None:
        try:
            while True:
                self.pull()
        except pylsl.util.LostError:
            pass

    def pull_up_to(self, stamp: float) -> None:
        while not self.stamps or self.stamps[-1] < stamp - 1e-3:
            self.pull()

    def pull_samples(self, n_times: int) -> None:
        while len(self.stamps) < n_times:
            self.pull()


def n_sent(source: TimelineProcess) -> int:
    return sum(len(push.index) for push in source.pushes)


def logged(source: TimelineProcess, life: int = 0) -> list[int]:
    """The numbers of the samples that a process says it has sent, in order."""
    ranges = [r for entry in source.log if entry["event"] == "push" and entry["life"] == life for r in entry["ranges"]]
    return [number for start, stop in ranges for number in range(start, stop)]


@pytest.mark.parametrize("fault", FAULTS, ids=repr)
async def test_inlet_receives_the_truth(fault: Event, lsl_source: LslSourceFixture) -> None:
    """Values, stamps, order and number of all samples are those of the script, and so is the written record."""
    script = Timeline(duration_s=0.6, events=(fault,))
    async with lsl_source(script) as source:
        receiver = await asyncio.to_thread(Receiver, source.source_id)
        t0 = await source.begun()
        await asyncio.to_thread(receiver.pull_samples, n_sent(source))
        await source.finished()
        receiver.pull_the_rest()
    index = np.concatenate([push.index for push in source.pushes])
    stamps = np.concatenate([push.stamps for push in source.pushes])
    np.testing.assert_array_equal(decode(np.array(receiver.data)), index)
    np.testing.assert_array_equal(receiver.data, np.concatenate([push.data for push in source.pushes]))
    expected = np.where(stamps == ZERO_STAMP, stamps, stamps + t0)
    np.testing.assert_allclose(receiver.stamps, expected, rtol=0, atol=1e-6)
    assert logged(source) == index.tolist()


async def test_pushes_keep_their_deadlines(lsl_source: LslSourceFixture) -> None:
    """No push is early, at twice the speed in half the time, and stamps stay those of the script."""
    script = Timeline(duration_s=1.0, events=(Freeze(0.3, 0.3),))
    async with lsl_source(script, speed=2.0) as source:
        receiver = await asyncio.to_thread(Receiver, source.source_id)
        t0 = await source.begun()
        await asyncio.to_thread(receiver.pull_samples, 250)
        await source.finished()
    times = [entry["t"] for entry in source.log if entry["event"] == "push"]
    late = np.array(times) - t0 - np.array([push.t_push for push in source.pushes]) / 2
    assert (late >= -1e-6).all()
    assert np.median(late) < 0.1
    np.testing.assert_allclose(receiver.stamps, t0 + np.arange(250) / 250, rtol=0, atol=1e-9)


async def test_killed_source_comes_back_changed(lsl_source: LslSourceFixture) -> None:
    """At its death the inlet is lost; a stream with the same source id, but what was to change changed, follows."""
    back = Restart(0.575, 0.3, sfreq=500.0, unit="volts", ch_names=("Fp1", "Cz", "A2"))
    async with lsl_source(Timeline(duration_s=2.0, events=(back,))) as source:
        first = await asyncio.to_thread(Receiver, source.source_id)
        t0 = await source.begun()
        await asyncio.to_thread(first.pull_until_death)
        again = await asyncio.to_thread(Receiver, source.source_id, first.uid)
        await source.finished()
        await asyncio.to_thread(again.pull_up_to, t0 + source.truth.t[-1])
    before, after = source.truth.lives
    np.testing.assert_array_equal(decode(np.array(first.data)), logged(source, 0))
    index = decode(np.array(again.data) / PER_UNIT[after.unit])
    assert 220 <= index[0] < 1000  # what is sent before the receiver has connected is not for it
    np.testing.assert_array_equal(index, logged(source, 1)[-len(index) :])
    assert index[-1] == source.truth.expected - 1
    np.testing.assert_allclose(again.stamps, t0 + source.truth.t[index], rtol=0, atol=1e-6)
    assert (first.info.nominal_srate(), again.info.nominal_srate()) == (before.sfreq, 500.0)
    assert (again.info.get_channel_labels(), again.info.get_channel_units()) == (["Fp1", "Cz", "A2"], ["volts"] * 3)
    assert min(entry["t"] for entry in source.log if entry["life"] == 1 and entry["event"] == "push") >= t0 + 0.875


@pytest.mark.skipif(sys.platform != "linux", reason="filters packets as Linux does")
async def test_clock_probes_can_be_blocked(lsl_source: LslSourceFixture) -> None:
    """While probes are blocked the clock does not answer though samples flow; afterwards it does."""
    async with lsl_source(Timeline(duration_s=20.0, events=(BlockedProbes(0.0, 1.5),))) as source:
        receiver = await asyncio.to_thread(Receiver, source.source_id)
        with pytest.raises(pylsl.util.TimeoutError):
            await asyncio.to_thread(receiver.inlet.time_correction, 1.0)
        await asyncio.to_thread(receiver.pull_samples, 200)
        assert abs(await asyncio.to_thread(receiver.inlet.time_correction, 10.0)) < 0.01


async def test_begins_when_told(lsl_source: LslSourceFixture) -> None:
    """With `on_go` a source that has a consumer stays silent until `go`."""
    async with lsl_source(Timeline(duration_s=0.2), on_go=True) as source:
        receiver = await asyncio.to_thread(Receiver, source.source_id)
        await asyncio.to_thread(receiver.pull)
        assert receiver.stamps == []
        assert math.isnan(source.t0)
        await source.go()
        await asyncio.to_thread(receiver.pull_samples, 50)
        await source.finished()
    assert [entry["event"] for entry in source.log] == ["open", "play", *["push"] * 5, "end"]


async def test_a_source_that_fails_says_so(isolated_lsl: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """A process that ends before its stream can be found is a `StreamLost`, and its reason is on standard error."""
    source = TimelineProcess(Timeline(), name="x", source_id="x", speed=0.0)
    with pytest.raises(StreamLost, match="ended before its 'open'"):
        await source.__aenter__()
    assert "speed" in capfd.readouterr().err


def test_command_line_plays_and_ends_by_itself(isolated_lsl: Path, tmp_path: Path) -> None:
    """A timeline in a file plays without any parent, says what it sends and ends with 0; a wrong file is a sentence."""
    path = tmp_path / "timeline.json"
    path.write_text(Timeline(duration_s=0.1, events=(Gap(0.04, 0.04),)).to_json())
    command = [sys.executable, "-m", "streamnode.testing.source", str(path), "--on-line"]
    done = subprocess.run(command, input="go\n", capture_output=True, text=True, timeout=30, check=True)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["event"] for line in lines] == ["open", "play", "push", "push", "end"]
    assert [line["ranges"] for line in lines[2:4]] == [[[0, 10]], [[20, 25]]]
    path.write_text("{}}")
    wrong = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert wrong.returncode == 1
    assert wrong.stderr.startswith("this is not the JSON of a timeline")
