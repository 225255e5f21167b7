"""The LSL outlets, seen by plain pylsl inlets on loopback."""

import asyncio
from dataclasses import replace

import numpy as np
import pylsl
import pytest

from streamnode.errors import ConfigError, SinkError
from streamnode.metrics import Metrics
from streamnode.montage import make_montage
from streamnode.sinks.lsl import EegOutlet, LslSink, MarkersOutlet, channel_labels
from streamnode.types import ModelOutput, OutputMeta, OutputName, StreamInfo, WeightsInfo

CH_NAMES = ("Fp1", "Cz", "O2")
META = OutputMeta(
    node="lab-3",
    version="1.2.3",
    stream=StreamInfo("Kappe µ", "ant-0042", "EEG", 500.0, make_montage(CH_NAMES), uid="run-1"),
    model="luna-base",
    weights=WeightsInfo("hub:a/b.safetensors", revision="abc", sha256="123", untrained=False),
    ch_names=CH_NAMES,
    sfreq=256.0,
    duration_s=5.0,
    hop_s=0.5,
    delay_s=0.0175,
    signal=("band-pass 0.1-75 Hz", "notch 50 Hz"),
    shapes={"embedding": (4,), "attention": (2, 2, 3)},
)
OUTPUT = ModelOutput(
    model="luna-base",
    stream="Kappe µ",
    seq=7,
    run=0,
    t0=1000.0,
    t_last=1004.99609375,
    embedding=np.array([1.5, -2.0, 0.1, 4.0], np.float32),
    attention=np.arange(12, dtype=np.float32).reshape(2, 2, 3),
)


def connect(name: str) -> pylsl.StreamInlet:
    """An inlet that is subscribed to the stream of this name."""
    (found,) = pylsl.resolve_byprop("name", name, 1, 5.0)
    inlet = pylsl.StreamInlet(found, recover=False)
    inlet.open_stream(5.0)
    return inlet


def values(element: pylsl.info.XMLElement, tag: str) -> list[str]:
    """Texts of all children with this tag, in order."""
    texts, child = [], element.child(tag)
    while not child.empty():
        texts.append(str(child.child_value()))
        child = child.next_sibling(tag)
    return texts


def test_eeg_outlet_describes_itself_as_xdf_asks() -> None:
    """Label, type, unit and place in millimetres of each channel are in the description, an unknown place is not."""
    info = StreamInfo("eeg-out", "dev", "EEG", 256.0, make_montage(["Cz", "my electrode"]))
    with EegOutlet(info):
        described = connect("eeg-out").info(5.0)
    assert (described.type(), described.nominal_srate(), described.source_id()) == ("EEG", 256.0, "dev")
    assert described.get_channel_labels() == ["Cz", "my electrode"]
    assert described.get_channel_types() == ["EEG", "EEG"]
    assert described.get_channel_units() == ["microvolts", "microvolts"]
    first = described.desc().child("channels").child("channel")
    place = [float(first.child("location").child_value(axis)) for axis in "XYZ"]
    np.testing.assert_allclose(place, 1000 * info.montage.ch_pos[0], rtol=1e-9)
    assert first.next_sibling().child("location").empty()


def test_eeg_outlet_sends_samples_with_the_time_of_the_last() -> None:
    """Pushed samples arrive unchanged, the last with the given stamp and the others at the nominal rate before it."""
    data = np.arange(20, dtype=np.float32).reshape(10, 2)
    with EegOutlet(StreamInfo("eeg-data", "dev", "EEG", 250.0, make_montage(["Cz", "Pz"]))) as outlet:
        assert not outlet.have_consumers
        inlet = connect("eeg-data")
        assert outlet.wait_for_consumers(5.0)
        assert outlet.have_consumers
        outlet.push(data, 100.0)
        received, stamps = inlet.pull_chunk(timeout=5.0, max_samples=10, as_numpy=True)
    np.testing.assert_array_equal(received, data)
    np.testing.assert_allclose(stamps, 100.0 + np.arange(-9, 1) / 250.0, rtol=0, atol=1e-9)


def test_markers_keep_text_and_time() -> None:
    """An event arrives with its label, in any script, and exactly its time."""
    with MarkersOutlet("events", "events-1") as markers:
        inlet = connect("events")
        assert markers._outlet.wait_for_consumers(5.0)
        markers.push("Übung µ", 12.25)
        assert inlet.pull_sample(5.0) == (["Übung µ"], 12.25)
    assert (inlet.channel_format, inlet.channel_count) == (pylsl.cf_string, 1)


async def test_sink_publishes_values_with_the_time_of_the_last_sample() -> None:
    """Each output goes to a stream of its own, flattened, exact, stamped with `t_last`, and is counted."""
    metrics = Metrics()
    async with LslSink("both", node="lab-3", outputs=("embedding", "attention"), metrics=metrics) as sink:
        await sink.announce(META)
        assert metrics.registry.get_sample_value("streamnode_sink_connected", {"sink": "lsl:both"}) == 1
        inlets = {name: connect(f"both-{name}") for name in sink._outputs}
        assert all(outlet.wait_for_consumers(5.0) for outlet in sink._outlets.values())
        await sink.publish(OUTPUT)
        for name, inlet in inlets.items():
            sample, stamp = inlet.pull_sample(5.0)
            np.testing.assert_array_equal(np.float32(sample), OUTPUT.arrays()[name].ravel())
            assert stamp == OUTPUT.t_last
    assert metrics.registry.get_sample_value("streamnode_outputs_published_total", {"sink": "lsl:both"}) == 1
    assert metrics.registry.get_sample_value("streamnode_sink_connected", {"sink": "lsl:both"}) == 0


async def test_sink_tells_how_its_numbers_came_about() -> None:
    """A receiver can read model, weights, signal chain, input and the meaning of stamps from the stream itself."""
    async with LslSink("told", node="lab-3", outputs=("embedding",), metrics=Metrics()) as sink:
        await sink.announce(META)
        info = connect("told").info(5.0)
    assert (info.type(), info.nominal_srate(), info.channel_count()) == ("Features", 0.0, 4)
    assert info.source_id() == "streamnode:lab-3:told:embedding"
    assert info.get_channel_labels() == ["e0", "e1", "e2", "e3"]
    assert info.desc().child("synchronization").child_value("can_drop_samples") == "true"
    block = info.desc().child("streamnode")
    assert block.child_value("version") == "1.2.3"
    assert block.child_value("model") == "luna-base"
    assert block.child_value("shape") == "4"
    assert [float(block.child_value(key)) for key in ("window_s", "hop_s", "delay_s")] == [5.0, 0.5, 0.0175]
    assert block.child_value("timestamp_meaning") == "time of the last sample of the epoch"
    assert block.child("weights").child_value("sha256") == "123"
    assert block.child("weights").child_value("untrained") == "false"
    assert block.child("input").child_value("name") == "Kappe µ"
    assert block.child("input").child_value("uid") == "run-1"
    assert values(block.child("signal"), "step") == ["band-pass 0.1-75 Hz", "notch 50 Hz"]
    assert values(block.child("channels"), "channel") == list(CH_NAMES)


async def test_quality_stream_accounts_for_every_sample() -> None:
    """Samples received, lost and dropped so far, what is known of the epoch, and a flag for each channel."""
    metrics = Metrics()
    metrics.samples.labels(META.stream.name).inc(2**25 + 1)
    metrics.samples_lost.labels(META.stream.name, "gap").inc(30)
    metrics.samples_dropped.labels(META.stream.name, "reader_full").inc(2)
    metrics.samples_dropped.labels(META.stream.name, "stale").inc(5)
    sink = LslSink("flagged", node="n", outputs=("embedding",), metrics=metrics, quality=True)
    async with sink:
        await sink.announce(META)
        inlet = connect("flagged-quality")
        await sink.publish(replace(OUTPUT, bad_channels=("Cz",), n_missing=3, settling=True))
        row, stamp = inlet.pull_sample(5.0)
        info = inlet.info()
    assert row == [2**25 + 1, 30, 7, 7, 0, 3, 1, 0, 1, 0]
    assert stamp == OUTPUT.t_last
    assert (info.type(), info.get_channel_labels()[-3:]) == ("Quality", ["bad/Fp1", "bad/Cz", "bad/O2"])


async def test_sink_keeps_its_outlet_when_the_source_only_reconnects() -> None:
    """A new run of the source leaves the outlet alone; a new shape replaces it under the same source id."""
    async with LslSink("steady", node="lab-3", outputs=("embedding",), metrics=Metrics()) as sink:
        await sink.announce(META)
        first = sink._outlets["embedding"].get_info()
        await sink.announce(replace(META, stream=replace(META.stream, uid="run-2")))
        assert sink._outlets["embedding"].get_info().uid() == first.uid()
        await sink.announce(replace(META, shapes={"embedding": (6,)}))
        second = sink._outlets["embedding"].get_info()
        assert (second.uid() != first.uid(), second.channel_count()) == (True, 6)
        assert second.source_id() == first.source_id()


async def test_sink_refuses_outputs_the_model_does_not_yield() -> None:
    """An output that the model has not is a `ConfigError` that lists those it has."""
    async with LslSink("greedy", node="lab-3", outputs=("logits",), metrics=Metrics()) as sink:
        with pytest.raises(ConfigError, match="logits, but luna-base yields only embedding, attention"):
            await sink.announce(META)


async def test_sink_refuses_what_was_not_announced() -> None:
    """A result before any announcement, without the output or of another size is a `SinkError`, and nothing is sent."""
    metrics = Metrics()
    async with LslSink("strict", node="lab-3", outputs=("embedding",), metrics=metrics) as sink:
        with pytest.raises(SinkError, match="embedding of epoch 7"):
            await sink.publish(OUTPUT)
        await sink.announce(META)
        for embedding in (None, np.zeros(5, np.float32)):
            with pytest.raises(SinkError, match="embedding of epoch 7"):
                await sink.publish(replace(OUTPUT, embedding=embedding))
    assert not metrics.registry.get_sample_value("streamnode_outputs_published_total", {"sink": "lsl:strict"})


@pytest.mark.parametrize(
    ("output", "shape", "first", "last"),
    [
        ("embedding", (3,), "e0", "e2"),
        ("logits", (2,), "class0", "class1"),
        ("tokens", (2, 4), "token0/d0", "token1/d3"),
        ("reconstruction", (3, 5), "Fp1/t0", "O2/t4"),
        ("attention", (2, 4, 3), "patch0/q0/Fp1", "patch1/q3/O2"),
        ("attention", (2, 4, 5), "patch0/q0/channel0", "patch1/q3/channel4"),
        ("attention", (2, 2), "i0/i0", "i1/i1"),
    ],
)
def test_every_value_has_a_label(output: OutputName, shape: tuple[int, ...], first: str, last: str) -> None:
    """Labels follow the axes in C order, one a value, all different."""
    labels = channel_labels(output, shape, CH_NAMES)
    assert (labels[0], labels[-1]) == (first, last)
    assert len(set(labels)) == len(labels) == np.prod(shape)


async def test_added_channels_of_a_reconstruction_have_their_names() -> None:
    """Rows of a reconstruction are named as its own channels are, not as those the model was given."""
    rows = make_montage((*CH_NAMES, "Pz"))
    meta = replace(META, shapes={"reconstruction": (4, 2)}, reconstructed=rows)
    async with LslSink("rebuilt", node="lab-3", outputs=("reconstruction",), metrics=Metrics()) as sink:
        await sink.announce(meta)
        info = (await asyncio.to_thread(connect, "rebuilt")).info(5.0)
    assert info.get_channel_labels() == [f"{name}/t{i}" for name in rows.ch_names for i in range(2)]
