"""A whole node: real LSL on loopback in, a real broker and a real outlet out."""

from __future__ import annotations

import asyncio
import gc
import threading
from pathlib import Path
from typing import NoReturn

import numpy as np
import pylsl
import pytest
from aiomqtt import ProtocolVersion

from streamnode import build, config, node
from streamnode.errors import ContractError, SinkError, StreamLost, WeightsError
from streamnode.sinks.lsl import EegOutlet
from streamnode.sources.pacing import paced
from streamnode.sources.replay import read
from streamnode.sources.synthetic import SyntheticEeg
from streamnode.types import Chunk, Epoch, Float32Array, StreamInfo
from tests.brokers import Mosquitto, amqtt_broker, free_port, needs_mosquitto
from tests.live import running, subscribed

YAML = """\
node: {{name: test-node, http: null}}
source: {{kind: lsl, source_id: "{source_id}", stall_s: {stall_s}, timeout_s: {timeout_s}}}
epoch: {{hop_s: 1.0, policy: all}}
signal: {{notch_hz: 60}}
model: {{kind: luna, variant: base, weights: "{weights}", outputs: [embedding], threads: 2}}
sinks:
  - {{kind: mqtt, url: "{url}", topic: test/node, timeout_s: 1}}
  - {{kind: lsl, name: "{out}"}}
"""


def write(folder: Path, **values: object) -> config.NodeConfig:
    defaults = {
        "stall_s": 30.0, "timeout_s": 20.0, "weights": "random:0", "url": "mqtt://127.0.0.1:1", "source_id": "none",
        "out": f"out-{folder.name}",
    }  # fmt: skip
    path = folder / "node.yaml"
    path.write_text(YAML.format(**{**defaults, **values}))
    return config.load(path)


def inlet_of(name: str) -> pylsl.StreamInlet:
    (found,) = pylsl.resolve_byprop("name", name, timeout=20)
    inlet = pylsl.StreamInlet(found, recover=False)
    inlet.open_stream(10)
    return inlet


def pull(inlet: pylsl.StreamInlet, n_samples: int) -> tuple[list[list[float]], list[float]]:
    """Exactly so many samples, or fewer if one takes longer than 10 s."""
    rows: list[list[float]] = []
    stamps: list[float] = []
    while len(rows) < n_samples:
        row, stamp = inlet.pull_sample(timeout=10)
        if row is None:
            break
        rows.append(row)
        stamps.append(stamp)
    return rows, stamps


def offline(node_config: config.NodeConfig, info: StreamInfo, data: Float32Array, t0: float) -> list[Epoch]:
    """The same samples through the same chain, in one piece."""
    path = build.signal_path(node_config, build.load_engine(node_config.model).spec, info)
    return path(Chunk(info, data, start=0, t0=t0, t_arrived=0.0, run=0))


def encode(node_config: config.NodeConfig, info: StreamInfo, epochs: list[Epoch]) -> Float32Array:
    """What the model says of the epochs one by one, as a live node asks it."""
    session = build.open_session(node_config, build.load_engine(node_config.model), info)
    rows = [session.model.encode(epoch.data).embedding for epoch in epochs]
    return np.concatenate([row for row in rows if row is not None])


@needs_mosquitto
async def test_live_recording_gives_every_epoch_and_the_same_embeddings_as_offline(
    data_dir: Path, tmp_path: Path
) -> None:
    """50 s of real EEG over LSL: no epoch lost, and LSL and MQTT 5 both carry what `encode` gives offline, to 1e-6."""
    recording = read(data_dir / "eegmmidb" / "S001R02.edf")
    info, data = recording.info, recording.data[: 50 * 160]
    async with Mosquitto(tmp_path) as broker, subscribed(broker.port, ProtocolVersion.V5) as subscriber:
        node_config = write(tmp_path, url=broker.url, source_id=info.source_id)
        with EegOutlet(info) as eeg:
            async with running(node_config):
                await subscriber.until_described()
                inlet = await asyncio.to_thread(inlet_of, f"out-{tmp_path.name}")
                t0 = pylsl.local_clock() - 20  # at five times real time, stamps then stay within 20 s of the clock
                async for start, block in paced(recording, speed=5.0, loop=False, chunk_s=0.05, duration_s=50.0):
                    eeg.push(block.data, t0 + (start + len(block.data) - 1) / info.sfreq)
                expected = offline(node_config, info, data, t0)
                await subscriber.until_outputs(len(expected))
                rows, stamps = await asyncio.to_thread(pull, inlet, len(expected))
                assert inlet.samples_available() == 0
    outputs = subscriber.outputs
    assert len(expected) == 45
    assert [output.seq for output in outputs] == list(range(len(expected)))
    assert {output.run for output in outputs} == {0}
    over_mqtt = np.stack([output.arrays()["embedding"] for output in outputs])
    reference = encode(node_config, info, expected)
    np.testing.assert_allclose(over_mqtt, reference, rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(np.asarray(rows, np.float32), over_mqtt)
    np.testing.assert_array_equal(stamps, [output.t_last for output in outputs])
    truth = [epoch.t_last for epoch in expected]
    np.testing.assert_allclose(stamps, truth, rtol=0, atol=1e-3)


async def test_returning_source_starts_a_run_that_no_epoch_crosses(tmp_path: Path) -> None:
    """A source that dies and comes back is picked up by itself; the epochs of both runs are complete and apart."""
    eeg = SyntheticEeg(sfreq=256.0)
    info = StreamInfo("phoenix", f"phoenix-{tmp_path.name}", "EEG", 256.0, eeg.info.montage)
    async with amqtt_broker() as url, subscribed(int(url.rpartition(":")[2]), ProtocolVersion.V311) as subscriber:
        node_config = write(tmp_path, url=url, source_id=info.source_id)
        async with running(node_config):
            gap_at = 0.0
            for life in range(2):
                with EegOutlet(info) as outlet:
                    await asyncio.to_thread(outlet.wait_for_consumers, 20)
                    t0 = pylsl.local_clock()
                    for second in range(7):  # ahead of the clock: the stamps tell the time, not the arrival
                        outlet.push(eeg.take(256), t0 + second + 255 / 256)
                    await subscriber.until_outputs(2 * (life + 1))
                gap_at = gap_at or t0 + 7
    outputs = subscriber.outputs
    assert [output.seq for output in outputs] == [0, 1, 2, 3]
    assert [output.run for output in outputs] == [0, 0, 1, 1]
    assert all(output.t_last < gap_at for output in outputs[:2])
    for output in outputs:
        assert output.t_last - output.t0 == pytest.approx(1279 / 256, abs=1e-9)


async def test_untrained_weights_are_published_as_such(tmp_path: Path) -> None:
    """Random weights say `untrained` in the description and in every result."""
    eeg = SyntheticEeg(sfreq=256.0)
    info = StreamInfo("untrained", f"untrained-{tmp_path.name}", "EEG", 256.0, eeg.info.montage)
    async with amqtt_broker() as url, subscribed(int(url.rpartition(":")[2]), ProtocolVersion.V311) as subscriber:
        with EegOutlet(info) as outlet:
            async with running(write(tmp_path, url=url, source_id=info.source_id)):
                meta = await subscriber.until_described()
                outlet.push(eeg.take(6 * 256), pylsl.local_clock())
                await subscriber.until_outputs(1)
    assert meta.weights.untrained
    assert meta.weights.source == "random:0"
    assert subscriber.outputs[0].untrained
    assert meta.shapes == {"embedding": (256,)}


async def test_source_that_never_comes_ends_the_node(tmp_path: Path) -> None:
    """Without a stream within `timeout_s` the node ends with what it looked for."""
    async with amqtt_broker() as url:
        with pytest.raises(StreamLost, match=r"no LSL stream matched source_id='none'"):
            await node.run(write(tmp_path, url=url, timeout_s=0.8))


async def test_model_that_cannot_be_loaded_is_told_before_a_stream_that_is_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two errors the one comes first that can be mended without the device, however long it takes to show."""
    given_up = threading.Event()

    class NeverThere:
        async def __aenter__(self) -> NoReturn:
            given_up.set()
            raise StreamLost("no stream")

        async def __aexit__(self, *exc: object) -> None: ...

    def load(_: config.ModelConfig) -> NoReturn:
        assert given_up.wait(10)
        raise WeightsError("no weights")

    monkeypatch.setattr(build, "source_opener", lambda *_: lambda _: NeverThere())
    monkeypatch.setattr(build, "load_engine", load)
    async with amqtt_broker() as url:
        with pytest.raises(WeightsError, match="no weights"):
            await node.run(write(tmp_path, url=url))


async def test_missing_weights_end_the_node_while_it_looks_for_its_stream(tmp_path: Path) -> None:
    """A node does not wait for a stream that it could do nothing with."""
    async with amqtt_broker() as url:
        with pytest.raises(WeightsError, match=r"absent\.safetensors"):
            await node.run(write(tmp_path, url=url, weights="absent.safetensors"))


async def test_broker_that_is_not_there_ends_the_node(tmp_path: Path) -> None:
    """A broker that refuses for `timeout_s` ends the node in one sentence."""
    with pytest.raises(SinkError, match=r"mqtt broker at 127\.0\.0\.1:\d+ .*start it or correct the sink's url"):
        await node.run(write(tmp_path, url=f"mqtt://127.0.0.1:{free_port()}"))


async def test_garbage_is_collected_once_the_model_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While a node starts no time goes into it; from then on what was there at the start is left alone."""
    collecting: list[tuple[bool, bool]] = []

    def load(_: config.ModelConfig) -> None:
        collecting.append((gc.isenabled(), gc.get_freeze_count() > 0))

    def open_session(*_: object) -> NoReturn:
        collecting.append((gc.isenabled(), gc.get_freeze_count() > 0))
        raise ContractError("does not fit")

    monkeypatch.setattr(build, "load_engine", load)
    monkeypatch.setattr(node, "_note_model", lambda *_: None)
    monkeypatch.setattr(build, "open_session", open_session)
    eeg = SyntheticEeg(sfreq=256.0)
    info = StreamInfo("tidy", f"tidy-{tmp_path.name}", "EEG", 256.0, eeg.info.montage)
    async with amqtt_broker() as url:
        with EegOutlet(info), pytest.raises(ContractError, match="does not fit"):
            await node.run_until_signal(write(tmp_path, url=url, source_id=info.source_id))
    assert collecting == [(False, False), (True, True)]
    assert gc.isenabled()
    assert gc.get_freeze_count() == 0


async def test_garbage_of_whoever_does_not_want_it_collected_is_left(tmp_path: Path) -> None:
    """A node within a program that has turned collection off leaves it so."""
    gc.disable()
    try:
        with pytest.raises(SinkError):
            await node.run(write(tmp_path, url=f"mqtt://127.0.0.1:{free_port()}"))
        assert not gc.isenabled()
    finally:
        gc.enable()


@pytest.mark.parametrize(
    ("sfreq", "ch_names", "sentence"),
    [
        (100.0, ("Fp1", "Fp2"), r"100 Hz.*signal\.h_freq"),
        (256.0, ("Fp1", "left ear lobe"), r"left ear lobe.*signal\.picks"),
    ],
    ids=["rate below the band", "channel without a place"],
)
async def test_stream_that_does_not_fit_ends_the_node(
    tmp_path: Path, sfreq: float, ch_names: tuple[str, ...], sentence: str
) -> None:
    """What the model cannot take is refused before the first sample, with what to change."""
    eeg = SyntheticEeg(ch_names, sfreq)
    info = StreamInfo("misfit", f"misfit-{tmp_path.name}", "EEG", sfreq, eeg.info.montage)
    async with amqtt_broker() as url:
        with EegOutlet(info), pytest.raises(ContractError, match=sentence):
            await node.run(write(tmp_path, url=url, source_id=info.source_id))
