"""Several streams in one node: apart, side by side as one, and with epochs around markers; real LSL, a real broker."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import numpy as np
import pylsl
import pytest
from aiomqtt import ProtocolVersion

from streamnode import build, config
from streamnode.inference.engine import BoundModel
from streamnode.montage import make_montage
from streamnode.offline.run import Plan, process
from streamnode.sinks.lsl import EegOutlet
from streamnode.sources.replay import read
from streamnode.sources.synthetic import SyntheticEeg
from streamnode.types import Chunk, Epoch, Float32Array, ModelOutput, StreamInfo
from tests.brokers import amqtt_broker
from tests.live import running, subscribed

NAMES = ("Fp1", "Fp2", "C3", "C4", "P3", "P4", "O1", "O2")
SECOND = 256
YAML = """\
node: {{name: test-streams, http: null}}
{sources}
epoch: {{policy: all, {epoch}}}
model: {{{model}, weights: "random:0", outputs: [embedding], threads: 1}}
sinks: [{{kind: mqtt, url: "{url}", topic: test/streams}}]
"""


def write(
    folder: Path, url: str, sources: str, epoch: str = "hop_s: 1.0", model: str = "kind: luna"
) -> config.NodeConfig:
    path = folder / "node.yaml"
    path.write_text(YAML.format(url=url, sources=sources, epoch=epoch, model=model))
    return config.load(path)


def headset(folder: Path, name: str, ch_names: tuple[str, ...] = NAMES) -> StreamInfo:
    return StreamInfo(name, f"{name}-{folder.name}", "EEG", float(SECOND), make_montage(ch_names))


def recording(seed: int, n_seconds: int) -> Float32Array:
    return SyntheticEeg(NAMES, float(SECOND), seed).take(n_seconds * SECOND)


def offline(node_config: config.NodeConfig, info: StreamInfo, data: Float32Array) -> tuple[list[Epoch], BoundModel]:
    """The epochs of the same samples in one piece, and the model to ask about them."""
    session = build.open_session(node_config, build.load_engine(node_config.model), info)
    return session.path(Chunk(info, data, start=0, t0=0.0, t_arrived=0.0, run=0)), session.model


def embedding(output: ModelOutput) -> Float32Array:
    assert output.embedding is not None
    return output.embedding


async def play(outlets: list[EegOutlet], parts: list[Float32Array], t0: float, second: int = SECOND) -> None:
    """Send second by second to every outlet in turn, stamped ahead of the clock."""
    for outlet in outlets:
        await asyncio.to_thread(outlet.wait_for_consumers, 20)
    for first in range(0, len(parts[0]), second):
        for outlet, data in zip(outlets, parts, strict=True):
            outlet.push(data[first : first + second], t0 + (first + second - 1) / second)


async def test_every_stream_has_its_own_path_and_topic(tmp_path: Path) -> None:
    """Two headsets through one model: each topic carries what its own samples give offline, and nothing else."""
    infos, parts = [headset(tmp_path, name) for name in ("one", "two")], [recording(seed, 8) for seed in (1, 2)]
    sources = "".join(
        f"\n  - {{kind: lsl, source_id: {info.source_id}, label: {label}}}"
        for info, label in zip(infos, ("left", "right"), strict=True)
    )
    async with (
        amqtt_broker() as url,
        subscribed(int(url.rpartition(":")[2]), ProtocolVersion.V311, "test/streams/#") as subscriber,
    ):
        node_config = write(tmp_path, url, f"sources:{sources}")
        with EegOutlet(infos[0]) as one, EegOutlet(infos[1]) as two:
            async with running(node_config):
                await play([one, two], parts, pylsl.local_clock())
                await subscriber.until_outputs(6)
    assert sorted(subscriber.topics) == [f"test/streams/{side}/output" for side in ("left", "right") for _ in range(3)]
    for label, info, data in zip(("left", "right"), infos, parts, strict=True):
        epochs, model = offline(node_config, info, data)
        own = [output for output in subscriber.outputs if output.stream == label]
        assert [output.seq for output in own] == [0, 1, 2]
        for output, epoch in zip(own, epochs, strict=True):
            expected = model.encode(epoch.data).embedding
            assert expected is not None
            np.testing.assert_allclose(embedding(output), expected[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("model", "picks"),
    [
        ("kind: eegdino", "Fp1, Fp2, F3, F4, C3, C4, P3, P4, O1, O2, F7, F8, T7, T8, P7, P8, Fz, Cz, Pz"),
        ("kind: eegpt, patch_stride: 64", "Fp1, Fp2, F7, F3, Fz, F4, F8, T7, C3, Cz, C4, T8, P7, P8, O1, O2"),
    ],
    ids=["eegdino", "eegpt"],
)
async def test_recording_played_live_gives_what_the_file_gives(
    model: str, picks: str, data_dir: Path, tmp_path: Path
) -> None:
    """A recording over LSL and the same one as a file yield the same epochs, and the same embeddings to 1e-6."""
    recording = read(data_dir / "eegmmidb" / "S001R02.edf")
    short, sfreq = replace(recording, data=recording.data[: 9 * 160], annotations=()), 160
    source = f"source: {{kind: lsl, source_id: '{recording.info.source_id}'}}\nsignal: {{picks: [{picks}]}}"
    async with (
        amqtt_broker() as url,
        subscribed(int(url.rpartition(":")[2]), ProtocolVersion.V311, "test/streams/#") as subscriber,
    ):
        node_config = write(tmp_path, url, source, model=model)
        plan = Plan(node_config.model, node_config.epoch, node_config.signal)
        expected = process(short, build.load_engine(node_config.model), plan).results.tables
        with EegOutlet(recording.info) as outlet:
            async with running(node_config):
                await play([outlet], [short.data], pylsl.local_clock(), sfreq)
                await subscriber.until_outputs(len(expected["embedding"]))
    assert len(expected["embedding"]) == 4
    for output, row in zip(subscriber.outputs, expected["embedding"], strict=True):
        np.testing.assert_allclose(embedding(output), row, rtol=1e-6, atol=1e-6)


async def test_two_amplifiers_are_one_montage(tmp_path: Path) -> None:
    """Two streams of four channels, aligned in time, give what one of eight would."""
    data, whole = recording(3, 9), headset(tmp_path, "whole")
    infos = [headset(tmp_path, "front", NAMES[:4]), headset(tmp_path, "back", NAMES[4:])]
    ids = ", ".join(f"{{kind: lsl, source_id: {info.source_id}}}" for info in infos)
    async with (
        amqtt_broker() as url,
        subscribed(int(url.rpartition(":")[2]), ProtocolVersion.V311, "test/streams/#") as subscriber,
    ):
        node_config = write(tmp_path, url, f"source: {{kind: aligned, label: head, sources: [{ids}]}}")
        with EegOutlet(infos[0]) as front, EegOutlet(infos[1]) as back:
            async with running(node_config):
                t0 = pylsl.local_clock()
                await play([front, back], [data[:, :4], data[:, 4:]], t0)
                await subscriber.until_outputs(2)
    meta = subscriber.meta[-1]
    assert (meta.stream.name, meta.ch_names) == ("head", NAMES)
    # The first samples lack the neighbours that the interpolation wants: what is joined begins with a later one.
    begin = round((subscriber.outputs[0].t0 - t0) * SECOND) - round(offline(node_config, whole, data)[0][0].t0 * SECOND)
    assert 0 < begin < 12
    epochs, model = offline(node_config, whole, data[begin:])
    expected = model.encode(epochs[0].data).embedding
    assert expected is not None
    np.testing.assert_allclose(
        embedding(subscriber.outputs[0]), expected[0], atol=0.02
    )  # stamps differ by microseconds


async def test_epochs_are_cut_around_the_markers_that_match(tmp_path: Path) -> None:
    """Each matching marker gets one epoch that begins `tmin_s` after it and carries it into the result."""
    info, data = headset(tmp_path, "marked"), recording(4, 9)
    described = pylsl.StreamInfo("events", "Markers", 1, pylsl.IRREGULAR_RATE, pylsl.cf_string, f"ev-{tmp_path.name}")
    markers = f"{{source_id: ev-{tmp_path.name}, labels: ['stim/*'], tmin_s: -1, tmax_s: 4}}"
    async with (
        amqtt_broker() as url,
        subscribed(int(url.rpartition(":")[2]), ProtocolVersion.V311, "test/streams/#") as subscriber,
    ):
        node_config = write(
            tmp_path, url, f"source: {{kind: lsl, source_id: {info.source_id}}}", epoch=f"markers: {markers}"
        )
        events = pylsl.StreamOutlet(described)
        with EegOutlet(info) as outlet:
            async with running(node_config):
                assert await asyncio.to_thread(events.wait_for_consumers, 20)
                t0 = pylsl.local_clock()
                for label, t in (("stim/left", 2.0), ("rest", 3.0), ("stim/right", 3.5), ("stim/early", 0.5)):
                    events.push_sample([label], t0 + t)
                await play([outlet], [data], t0)
                await subscriber.until_outputs(2)
    assert [output.marker.label for output in subscriber.outputs if output.marker] == ["stim/left", "stim/right"]
    for output, t in zip(subscriber.outputs, (2.0, 3.5), strict=True):
        assert output.t0 == pytest.approx(t0 + t - 1, abs=0.5 / SECOND + 1e-3)
        assert output.t_last - output.t0 == pytest.approx(5 - 1 / SECOND, abs=1e-9)
    assert subscriber.meta[-1].hop_s == 0.0
