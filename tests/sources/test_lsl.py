"""The LSL source against real outlets on loopback."""

import asyncio
import gc
import logging
import os
import re
import signal
import subprocess
import sys
import textwrap
import time
import tracemalloc
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from ctypes import c_void_p, memmove, memset
from pathlib import Path
from typing import Any

import numpy as np
import pylsl
import pytest

from streamnode.errors import ContractError, StreamLost
from streamnode.metrics import Metrics
from streamnode.montage import make_montage
from streamnode.signal.quality import RawMonitor
from streamnode.signal.timebase import TimeBase
from streamnode.sinks.lsl import EegOutlet
from streamnode.sources.columns import Column
from streamnode.sources.lsl import Fill, LslQuery, LslSource, _Stream
from streamnode.sources.lsl_resolve import Sighting
from streamnode.testing import UNIX_OFFSET_S, ZERO_STAMP
from streamnode.types import Chunk, Float32Array, StreamInfo

SFREQ = 250.0
CH_NAMES = ("Fp1", "Cz", "O2")


@pytest.fixture(autouse=True)
def _no_rivals(monkeypatch: pytest.MonkeyPatch) -> None:
    """Names are unique here, so nothing is gained by waiting for a second stream that matches."""
    monkeypatch.setattr("streamnode.sources.lsl_resolve._RIVALS_S", 0.0)


def eeg_info(name: str, source_id: str = "device-1") -> StreamInfo:
    return StreamInfo(name, source_id, "EEG", SFREQ, make_montage(CH_NAMES))


def ramp(n_times: int, n_chans: int = 3) -> Float32Array:
    return np.arange(n_times * n_chans, dtype=np.float32).reshape(n_times, n_chans)


def source_of(
    name: str,
    metrics: Metrics | None = None,
    *,
    first_run: int = 0,
    stall_s: float = 5.0,
    fill: Fill = "hold",
    max_missing_s: float = 0.0,
) -> LslSource:
    return LslSource(
        LslQuery(name=name),
        timeout_s=5.0,
        metrics=metrics or Metrics(),
        first_run=first_run,
        stall_s=stall_s,
        fill=fill,
        max_missing_s=max_missing_s,
    )


async def collect(source: LslSource, n_times: int) -> list[Chunk]:
    """Chunks until they hold `n_times` samples."""
    chunks: list[Chunk] = []
    async with asyncio.timeout(10):
        async for chunk in source:
            chunks.append(chunk)
            if sum(c.n_times for c in chunks) >= n_times:
                break
    return chunks


def reading(metrics: Metrics, name: str, stream: str, **labels: str) -> float:
    return metrics.registry.get_sample_value(f"streamnode_{name}", {"stream": stream, **labels}) or 0.0


async def until_reads(metrics: Metrics, name: str, stream: str, value: float) -> None:
    async with asyncio.timeout(10):
        while True:
            if reading(metrics, name, stream) == value:
                return
            await asyncio.sleep(0)


@contextmanager
def raw_outlet(
    name: str,
    channels: Sequence[dict[str, str]],
    *,
    sfreq: float = SFREQ,
    fmt: int = pylsl.cf_float32,
    n_chans: int | None = None,
) -> Iterator[pylsl.StreamOutlet]:
    """An outlet described as badly as the test wants."""
    info = pylsl.StreamInfo(name, "EEG", n_chans or len(channels), sfreq, fmt, source_id=name)
    described = info.desc().append_child("channels")
    for values in channels:
        channel = described.append_child("channel")
        location = channel.append_child("location")
        for key, value in values.items():
            (location if key in "XYZ" else channel).append_child_value(key, value)
    outlet = pylsl.StreamOutlet(info)
    yield outlet
    del outlet


@contextmanager
def sender(name: str) -> Iterator[subprocess.Popen[str]]:
    """Another process that sends a ramp, one sample every 4 ms, once a receiver has come."""
    script = f"""
        import time
        import numpy as np
        from streamnode.montage import make_montage
        from streamnode.sinks.lsl import EegOutlet
        from streamnode.types import StreamInfo
        info = StreamInfo({name!r}, "device-9", "EEG", {SFREQ}, make_montage({CH_NAMES!r}))
        with EegOutlet(info) as outlet:
            print("ready", flush=True)
            outlet.wait_for_consumers(30)
            for i in range(100_000):
                outlet.push(np.full((1, 3), i, np.float32), 0.0)
                time.sleep(0.004)
    """
    process = subprocess.Popen([sys.executable, "-c", textwrap.dedent(script)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    with process:
        try:
            assert process.stdout.readline() == "ready\n"
            yield process
        finally:
            process.kill()


async def test_every_sample_arrives_exactly_with_its_time() -> None:
    """Samples, indices and times come out as they were pushed, whatever the chunks, and are counted."""
    stamps = pylsl.local_clock() + np.arange(500) / SFREQ
    metrics = Metrics()
    with EegOutlet(eeg_info("exact")) as outlet:
        async with source_of("exact", metrics, first_run=4) as source:
            assert outlet.wait_for_consumers(5.0)
            for first, last in ((0, 1), (1, 8), (8, 200), (200, 500)):
                outlet.push(ramp(500)[first:last], stamps[last - 1])
            chunks = await collect(source, 500)
            offset = reading(metrics, "source_clock_offset_seconds", "exact")
            assert reading(metrics, "source_connected", "exact") == 1
    assert reading(metrics, "source_connected", "exact") == 0
    assert reading(metrics, "samples_received_total", "exact") == 500
    np.testing.assert_array_equal(np.concatenate([c.data for c in chunks]), ramp(500))
    assert {c.data.dtype for c in chunks} == {np.dtype(np.float32)}
    assert [c.start for c in chunks] == [0, *np.cumsum([c.n_times for c in chunks])[:-1]]
    assert {c.run for c in chunks} == {4}
    np.testing.assert_allclose([c.t0 - offset for c in chunks], [stamps[c.start] for c in chunks], rtol=0, atol=1e-6)
    assert offset != 0
    assert abs(offset) < 0.005
    assert all(0 <= pylsl.local_clock() - c.t_arrived < 10 for c in chunks)


async def test_stream_is_described_in_our_units() -> None:
    """Names, ids and positions of a well described stream come out as its sender knew them."""
    info = eeg_info("described")
    with EegOutlet(info):
        async with source_of("described") as source:
            assert source.info.ch_names == CH_NAMES
            np.testing.assert_allclose(source.info.montage.ch_pos, info.montage.ch_pos, rtol=0, atol=1e-9)
            assert (source.info.name, source.info.source_id, source.info.stype) == ("described", "device-1", "EEG")
            assert source.info.sfreq == SFREQ


async def test_any_unit_becomes_microvolts(caplog: pytest.LogCaptureFixture) -> None:
    """Each channel is scaled by its own unit; labels are cleaned; only unknown units are warned of, once."""
    units = ["microvolts", "uV", "µV", "\u03bcV", "Volts", "mV", "nV", "-6", "", "furlong"]
    labels = ["EEG Fp1-REF", "Fc5.", "CZ", "o1", "O2", "Pz", "P3", "P4", "C3", "C4"]
    channels = [{"label": lab, "type": "eeg", "unit": unit} for lab, unit in zip(labels, units, strict=True)]
    with raw_outlet("units", channels, fmt=pylsl.cf_double64) as outlet:
        async with source_of("units") as source:
            assert outlet.wait_for_consumers(5.0)
            outlet.push_chunk(np.ones((2, 10)), pylsl.local_clock())
            chunks = await collect(source, 2)
    assert source.info.ch_names == ("Fp1", "FC5", "Cz", "O1", "O2", "Pz", "P3", "P4", "C3", "C4")
    np.testing.assert_allclose(chunks[-1].data[-1], [1, 1, 1, 1, 1e6, 1e3, 1e-3, 1, 1, 1], rtol=1e-6)
    (warning,) = [r.message for r in caplog.records if r.levelno == logging.WARNING]
    assert "C3 ('')" in warning
    assert "C4 ('furlong')" in warning
    assert "P4" not in warning


async def test_poor_description_is_filled_in(caplog: pytest.LogCaptureFixture) -> None:
    """Channels without a label are called by number, metres are recognised, what is no EEG is left out, with a word."""
    caplog.set_level(logging.INFO)
    channels = [
        {"label": "Fp1", "unit": "uV", "X": "-0.03", "Y": "0.09", "Z": "0.02"},
        {"label": "HEOG", "type": "EOG", "unit": "uV"},
        {"label": " ", "unit": "uV", "X": "0", "Y": "0", "Z": "0"},
    ]
    with raw_outlet("poor", channels, fmt=pylsl.cf_int16, n_chans=4) as outlet:
        async with source_of("poor") as source:
            assert outlet.wait_for_consumers(5.0)
            outlet.push_chunk(np.array([[1, 2, 3, 4]]), 5.0)
            (chunk,) = await collect(source, 1)
    assert source.info.ch_names == ("Fp1", "ch3", "ch4")
    np.testing.assert_array_equal(chunk.data, [[1, 3, 4]])
    np.testing.assert_allclose(source.info.montage.ch_pos[0], [-0.03, 0.09, 0.02])
    assert np.isnan(source.info.montage.ch_pos[1:]).all()
    assert "left out, not EEG: HEOG (eog)" in caplog.text


async def test_loss_comes_after_all_that_was_received() -> None:
    """When the outlet closes, what had arrived is still delivered, then `StreamLost` names the stream."""
    metrics = Metrics()
    with EegOutlet(eeg_info("closing")) as outlet:
        source = await source_of("closing", metrics).__aenter__()
        assert outlet.wait_for_consumers(5.0)
        outlet.push(ramp(50), 7.0)
        await until_reads(metrics, "samples_received_total", "closing", 50)
    await until_reads(metrics, "source_connected", "closing", 0)
    chunks = await collect(source, 50)
    np.testing.assert_array_equal(np.concatenate([c.data for c in chunks]), ramp(50))
    with pytest.raises(StreamLost, match=r"'closing'.*went away"):
        await collect(source, 1)
    await source.__aexit__()


async def test_killed_sender_is_lost_at_once() -> None:
    """SIGKILL of the sending process ends in `StreamLost` well before the stall watchdog would notice."""
    with sender("killed") as process:
        async with source_of("killed") as source:
            chunks = await collect(source, 20)
            process.kill()
            killed = time.monotonic()
            with pytest.raises(StreamLost, match="went away"):
                chunks += await collect(source, 10**9)
            assert time.monotonic() - killed < 2
    received = np.concatenate([c.data for c in chunks])[:, 0]
    np.testing.assert_array_equal(received, np.arange(len(received)))


async def test_frozen_sender_is_lost_after_the_stall_time() -> None:
    """A sender that hangs without closing, which LSL never reports, ends in `StreamLost` that tells the silence."""
    with sender("frozen") as process:
        async with source_of("frozen", stall_s=0.5) as source:
            await collect(source, 20)
            os.kill(process.pid, signal.SIGSTOP)
            with pytest.raises(StreamLost, match=r"delivered nothing for 0\.5 s"):
                await collect(source, 10**9)


async def test_unusual_silence_is_flagged_before_it_is_a_loss() -> None:
    """A sender that hangs is shown as not connected and counted; when it goes on, nothing of it is lost."""
    metrics = Metrics()
    with sender("stalled") as process:
        async with source_of("stalled", metrics, stall_s=30.0) as source:
            chunks = await collect(source, 500)
            os.kill(process.pid, signal.SIGSTOP)
            await until_reads(metrics, "source_stalls_total", "stalled", 1)
            assert reading(metrics, "source_connected", "stalled") == 0
            os.kill(process.pid, signal.SIGCONT)
            chunks += await collect(source, 100)
            await until_reads(metrics, "source_connected", "stalled", 1)
    received = np.concatenate([c.data for c in chunks if not c.n_missing])[:, 0]
    np.testing.assert_array_equal(np.unique(received), np.arange(len(received)))


@pytest.mark.parametrize(("fill", "filled"), [("hold", [299] * 15), ("interpolate", range(300, 315))])
async def test_short_gap_is_filled_and_long_gap_breaks_the_run(fill: Fill, filled: Sequence[int]) -> None:
    """A gap within the limit is filled as told, a longer one starts a new run; both are counted, none is hidden."""
    metrics, sfreq, name = Metrics(), 50.0, f"gaps-{fill}"
    sent = np.array([*range(300), *range(315, 600), *range(624, 699)])
    with raw_outlet(name, [{"label": "Cz", "unit": "uV"}], sfreq=sfreq) as outlet:
        async with source_of(name, metrics, fill=fill, max_missing_s=0.3) as source:
            assert outlet.wait_for_consumers(5.0)
            t0 = pylsl.local_clock()
            for n_sent, index in enumerate(sent.reshape(-1, 5), 1):
                outlet.push_chunk(index[:, np.newaxis].astype(np.float32), t0 + index[-1] / sfreq)
                await until_reads(metrics, "samples_received_total", name, 5 * n_sent)
            chunks = await collect(source, 675)
    gap = next(c for c in chunks if c.n_missing)
    assert (gap.start, gap.run, gap.n_missing) == (300, 0, 15)
    np.testing.assert_allclose(gap.data[:15, 0], filled, rtol=1e-6)
    assert next(c.start for c in chunks if c.run == 1) == 624
    assert all(c.data[-1, 0] == c.start + c.n_times - 1 for c in chunks)
    assert reading(metrics, "samples_received_total", name) == 660
    assert reading(metrics, "samples_lost_total", name, reason="gap") == 39


async def test_samples_that_come_twice_are_left_out_and_counted() -> None:
    """A chunk sent again is stale: received, not passed on, counted as dropped."""
    metrics = Metrics()
    with EegOutlet(eeg_info("twice")) as outlet:
        async with source_of("twice", metrics) as source:
            assert outlet.wait_for_consumers(5.0)
            t0 = pylsl.local_clock()
            for n_sent, last in enumerate([*range(50, 2050, 50), 2000, 2050, 2100], 1):
                outlet.push(ramp(2100)[last - 50 : last], t0 + (last - 1) / SFREQ)
                await until_reads(metrics, "samples_received_total", "twice", 50 * n_sent)
            chunks = await collect(source, 2100)
    np.testing.assert_array_equal(np.concatenate([c.data for c in chunks]), ramp(2100))
    assert reading(metrics, "samples_received_total", "twice") == 2150
    assert reading(metrics, "samples_dropped_total", "twice", reason="stale") == 50


async def test_what_changed_while_the_source_was_away_is_read_anew(caplog: pytest.LogCaptureFixture) -> None:
    """One that comes back with another unit is still microvolts, other rates and labels show; the log tells of each."""
    caplog.set_level(logging.INFO)
    seen = []
    for unit, label, sfreq, fmt in (
        ("uV", "Cz", SFREQ, pylsl.cf_float32),
        ("V", "Cz", SFREQ, pylsl.cf_float32),
        ("mV", "Pz", 2 * SFREQ, pylsl.cf_int16),
    ):
        with raw_outlet("back", [{"label": label, "unit": unit}], sfreq=sfreq, fmt=fmt) as outlet:
            async with source_of("back") as source:
                assert outlet.wait_for_consumers(5.0)
                outlet.push_chunk(np.array([[3]]), pylsl.local_clock())
                (chunk,) = await collect(source, 1)
        seen.append((source.info.ch_names, source.info.sfreq, chunk.data[0, 0]))
    assert seen == [(("Cz",), SFREQ, 3.0), (("Cz",), SFREQ, 3e6), (("Pz",), 2 * SFREQ, 3e3)]
    told = re.findall(r"\(source_id 'back'\): (1 of 1 channels at .*)", caplog.text)
    assert told == [
        "1 of 1 channels at 250 Hz, float32 in uV",
        "1 of 1 channels at 250 Hz, float32 in V",
        "1 of 1 channels at 500 Hz, int16 in mV",
    ]


async def test_source_that_comes_back_with_words_is_refused() -> None:
    """A format that is no longer one of numbers is a `ContractError`, not noise."""
    with raw_outlet("words", [{"label": "Cz", "unit": "uV"}]):
        async with source_of("words"):
            pass
    refused = pytest.raises(ContractError, match="'words' sends string values: choose a stream of numbers")
    with raw_outlet("words", [{"label": "Cz"}], fmt=pylsl.cf_string), refused:
        await source_of("words").__aenter__()


@pytest.mark.parametrize("n_chans", [1, 512])
async def test_any_number_of_channels_is_read(n_chans: int) -> None:
    """From one channel to more than any cap has, samples come out as they went in."""
    name = f"wide-{n_chans}"
    with raw_outlet(name, [{"label": f"E{i}", "unit": "uV"} for i in range(n_chans)]) as outlet:
        async with source_of(name) as source:
            assert outlet.wait_for_consumers(5.0)
            outlet.push_chunk(ramp(20, n_chans), pylsl.local_clock())
            chunks = await collect(source, 20)
    np.testing.assert_array_equal(np.concatenate([c.data for c in chunks]), ramp(20, n_chans))


async def test_what_is_no_number_is_passed_on_and_told_by_the_monitor() -> None:
    """NaN and infinities keep their place among good samples, and make their channels bad, nothing else."""
    sent = ramp(50) % 7
    sent[10, 0], sent[20:30, 2] = np.nan, -np.inf
    metrics = Metrics()
    with EegOutlet(eeg_info("holes")) as outlet:
        async with source_of("holes", metrics) as source:
            assert outlet.wait_for_consumers(5.0)
            outlet.push(sent, pylsl.local_clock())
            chunks = await collect(source, 50)
    np.testing.assert_array_equal(np.concatenate([c.data for c in chunks]), sent)
    assert reading(metrics, "samples_received_total", "holes") == 50
    monitor = RawMonitor(source.info, horizon_s=1.0, line_hz=None)
    for chunk in chunks:
        monitor(chunk)
    quality = monitor.quality(chunks[0].t0, chunks[-1].t_last)
    assert ["not_finite" in faults for faults in quality.faults] == [True, False, True]


class Reservoir:
    """An inlet without LSL: 64 samples at every pull; once `lost`, only the one that a pull waits for."""

    obj = None
    lost = False
    _n_sent = 0

    def do_pull_chunk(self, _obj: None, rows: c_void_p, stamps: c_void_p, *sizes_wait_error: Any) -> int:
        _, at_most, wait, error = sizes_wait_error
        if self.lost and not wait.value:
            error._obj.value = -2
            return 0
        n_times: int = min(at_most.value, 64)
        sent = np.arange(self._n_sent, self._n_sent + n_times) / SFREQ + 100.0
        memmove(stamps, sent.ctypes.data, sent.nbytes)
        memset(rows, 0, 4 * len(CH_NAMES) * n_times)
        self._n_sent += n_times
        return len(CH_NAMES) * n_times

    def source(self) -> LslSource:
        """A source that has been entered, as far as reading goes."""
        seen = Sighting("tank", "EEG", "tank", SFREQ, 3, "float32", "", "", 0.0)
        columns = [Column(i, name, "eeg", "uV", ()) for i, name in enumerate(CH_NAMES)]
        source = source_of("tank")
        source._entered = _Stream(self, seen, columns, eeg_info("tank"), TimeBase(SFREQ))
        return source


def test_sample_taken_before_a_loss_is_still_good() -> None:
    """A stream that is lost between the first sample of a pull and the rest yields that one; the next pull says so."""
    tank = Reservoir()
    tank.lost = True
    stream = tank.source()._stream
    pulled = stream.pull(0.1, 0.0)
    assert pulled is not None
    assert pulled.data.shape == (1, 3)
    with pytest.raises(RuntimeError):
        stream.pull(0.0, 0.0)


def test_nothing_grows_with_the_samples_read() -> None:
    """Ten minutes of pulling, conversion and counting leave no more behind than the first half minute did."""
    source = Reservoir().source()
    held = []
    tracemalloc.start()
    for n_pulls in (100, 2300):
        for _ in range(n_pulls):
            pulled = source._stream.pull(0.0, 0.0)
            assert pulled is not None
            for _chunk in source._chunks(pulled):
                pass
        gc.collect()
        held.append(tracemalloc.get_traced_memory()[0])
    tracemalloc.stop()
    assert held[1] - held[0] < 20_000


async def test_samples_the_node_was_too_slow_for_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """When the hand-over is full the oldest go, counted; indices stay true and a new run begins."""
    monkeypatch.setattr("streamnode.sources.lsl._WAITING", 2)
    metrics = Metrics()
    with EegOutlet(eeg_info("slow")) as outlet:
        async with source_of("slow", metrics, first_run=1) as source:
            assert outlet.wait_for_consumers(5.0)
            for i in range(5):
                outlet.push(ramp(5)[i : i + 1], 7.0 + i / SFREQ)
                await until_reads(metrics, "samples_received_total", "slow", i + 1)
            chunks = await collect(source, 2)
    assert reading(metrics, "samples_dropped_total", "slow", reason="reader_full") == 3
    assert [(c.start, c.run) for c in chunks] == [(3, 2), (4, 2)]
    np.testing.assert_array_equal(np.concatenate([c.data for c in chunks]), ramp(5)[3:])


@pytest.mark.parametrize(
    ("fault", "complaint"),
    [
        ({"sfreq": 0.0}, "no regular sampling rate"),
        ({"sfreq": 0.001}, r"claims 0\.001 samples a second, which no EEG has: correct the sender"),
        ({"sfreq": 1e6}, r"claims 1e\+06 samples a second"),
        ({"fmt": pylsl.cf_string}, "sends string values: choose a stream of numbers"),
        ({"channels": [{"label": "Fp1", "type": "ECG"}]}, "no channel of type EEG"),
        ({"channels": [{"label": "Fp1"}, {"label": "FP1-REF"}]}, r"more than one channel is Fp1 .* rename or drop"),
    ],
)
async def test_unusable_stream_is_refused(fault: dict[str, Any], complaint: str) -> None:
    """A stream that cannot be EEG samples is a `ContractError` that says why."""
    outlet = raw_outlet("unusable", **{"channels": [{"label": "Fp1"}], **fault})
    with outlet, pytest.raises(ContractError, match=complaint):
        await source_of("unusable").__aenter__()


def test_reader_outlives_a_closed_loop() -> None:
    """Samples that arrive after the event loop has closed raise nothing in the reader thread."""
    loop = asyncio.new_event_loop()
    with EegOutlet(eeg_info("orphan")) as outlet:
        source = loop.run_until_complete(source_of("orphan").__aenter__())
        assert outlet.wait_for_consumers(5.0)
        loop.close()
        outlet.push(ramp(10), 7.0)
    assert source._tap.left.wait(5.0)  # the closed outlet ends it, after the samples
    source._stop.set()


@pytest.mark.parametrize("stamps", ["of the time of day", "of zero"])
async def test_foreign_clock_is_reported(stamps: str, caplog: pytest.LogCaptureFixture) -> None:
    """Stamps of another clock, or none at all, are warned of, once, and the samples timed by when they arrive."""
    name = f"stamps {stamps}"
    with raw_outlet(name, [{"label": "Cz", "unit": "uV"}]) as outlet:
        async with source_of(name) as source:
            assert outlet.wait_for_consumers(5.0)
            for _ in range(2):
                now = pylsl.local_clock()
                ramp_s = now + UNIX_OFFSET_S - np.arange(9, -1, -1) / SFREQ
                outlet.push_chunk(ramp(10, 1), [ZERO_STAMP] * 10 if stamps == "of zero" else ramp_s.tolist())
                chunks = await collect(source, 10)
                assert chunks[-1].t_last == pytest.approx(chunks[-1].t_arrived, abs=0.1)
    assert caplog.text.count("does not stamp with the LSL clock") == 1


def test_silent_clock_degrades_to_unsynchronised(lsl_on_loopback: Path, tmp_path: Path) -> None:
    """Where the clock probes fail, as behind a firewall, samples flow with stamps as sent; log and metric tell."""
    config = tmp_path / "no_probes.cfg"
    config.write_text(lsl_on_loopback.read_text() + "[tuning]\nTimeUpdateMinProbes = 100\n")
    script = """
        import asyncio
        import numpy as np
        import pylsl
        from streamnode.metrics import Metrics
        from streamnode.montage import make_montage
        from streamnode.sinks.lsl import EegOutlet
        from streamnode.sources.lsl import LslQuery, LslSource
        from streamnode.types import StreamInfo

        async def main():
            with EegOutlet(StreamInfo("mute", "m", "EEG", 250.0, make_montage(["Cz"]))) as outlet:
                metrics, sent = Metrics(), pylsl.local_clock()
                async with LslSource(LslQuery(name="mute"), timeout_s=5, metrics=metrics) as source:
                    outlet.wait_for_consumers(5)
                    outlet.push(np.ones((1, 1)), sent)
                    async for chunk in source:
                        labels = {"stream": "mute"}
                        synchronised = metrics.registry.get_sample_value("streamnode_source_synchronised", labels)
                        print(chunk.t0 - sent, chunk.data, synchronised)
                        return

        asyncio.run(main())
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        env={**os.environ, "LSLAPICFG": str(config)},
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    assert done.stdout == "0.0 [[1.]] 0.0\n"
    assert "unsynchronised" in done.stderr
