"""The reconstruction as a live EEG stream, seen by plain pylsl inlets on loopback."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pylsl
import pytest

from streamnode.errors import ConfigError, SinkError
from streamnode.metrics import Metrics
from streamnode.montage import make_montage
from streamnode.sinks.lsl_eeg import EegSink
from streamnode.types import Float32Array, FloatArray, ModelOutput, OutputMeta, StreamInfo, WeightsInfo
from tests.signal import noise
from tests.sinks.test_lsl import connect

SFREQ, N_TIMES, HOP, BLEND = 256.0, 256, 64, 32
IN, OUT = make_montage(("Fp1", "Cz", "O2")), make_montage(("Fp1", "Cz", "O2", "Pz"))
META = OutputMeta(
    node="lab-3",
    version="1.2.3",
    stream=StreamInfo("Kappe µ", "ant-0042", "EEG", 500.0, IN, uid="run-1"),
    model="zuna-1.1",
    weights=WeightsInfo("random:0", untrained=True),
    ch_names=IN.ch_names,
    sfreq=SFREQ,
    duration_s=1.0,
    hop_s=0.25,
    delay_s=0.0175,
    signal=("high-pass 0.5 Hz",),
    shapes={"embedding": (4,), "reconstruction": (4, N_TIMES)},
    reconstructed=OUT,
)
DATA = noise(2000, 4).T.copy()


def epoch(
    seq: int, *, run: int = 0, t_run: float = 1000.0, step_s: float = 1 / SFREQ, bad: tuple[str, ...] = ()
) -> ModelOutput:
    """An epoch of `DATA`, whose sample i was taken at `t_run + i * step_s`."""
    start = seq * HOP
    t_last = t_run + (start + N_TIMES - 1) * step_s
    return ModelOutput(
        model="zuna-1.1",
        stream="Kappe µ",
        seq=seq,
        run=run,
        t0=t_last - (N_TIMES - 1) / SFREQ,  # as epochs are stamped
        t_last=t_last,
        reconstruction=DATA[:, start : start + N_TIMES],
        bad_channels=bad,
    )


def make(name: str, metrics: Metrics | None = None, *, keeps_known: bool = True) -> EegSink:
    return EegSink(name, node="lab-3", metrics=metrics or Metrics(), blend_s=BLEND / SFREQ, keeps_known=keeps_known)


@dataclass
class Received:
    """All that an inlet of its own has got."""

    data: Float32Array
    stamps: FloatArray


def pull(inlet: pylsl.StreamInlet, n_samples: int) -> Received:
    data, stamps = inlet.pull_chunk(timeout=5.0, max_samples=n_samples, as_numpy=True)
    assert len(stamps) == n_samples
    more, _ = inlet.pull_chunk(timeout=0.0, max_samples=1, as_numpy=True)
    assert not len(more)
    return Received(data, stamps)


async def test_every_sample_arrives_once_at_its_time() -> None:
    """Epochs, one of them dropped, become one signal; the next run follows; values are exact, and so are times."""
    metrics, step_s = Metrics(), (1 + 100e-6) / SFREQ  # a device that is 100 ppm slow
    async with make("joined", metrics) as sink:
        await sink.announce(META)
        inlet = connect("joined")
        for seq in (0, 1, 2, 4, 5):
            await sink.publish(epoch(seq, step_s=step_s))
        await sink.publish(epoch(9, run=1, t_run=2000.0, step_s=step_s))
        last_run, next_run = np.arange(5 * HOP + N_TIMES), np.arange(9 * HOP, 9 * HOP + N_TIMES - BLEND)
        got = pull(inlet, len(last_run) + len(next_run))
    np.testing.assert_array_equal(got.data.T, DATA[:, [*last_run, *next_run]])
    truth = np.concatenate([1000.0 + last_run * step_s, 2000.0 + next_run * step_s])
    np.testing.assert_allclose(got.stamps, truth, rtol=0, atol=1e-4)  # within a block it is the nominal rate
    assert metrics.registry.get_sample_value("streamnode_outputs_published_total", {"sink": "lsl:joined"}) == 6


async def test_samples_leave_with_the_epoch_that_finishes_them() -> None:
    """After each epoch all samples but the newest of the fade are out, and the last is stamped by that epoch."""
    async with make("in-step") as sink:
        await sink.announce(META)
        inlet = connect("in-step")
        for seq, n_new in ((0, N_TIMES - BLEND), (1, HOP), (2, HOP)):
            output = epoch(seq, step_s=1.0001 / SFREQ)
            await sink.publish(output)
            got = pull(inlet, n_new)
            assert got.stamps[-1] == pytest.approx(output.t_last - BLEND / SFREQ, abs=1e-9)


async def test_stamps_off_the_grid_cost_no_sample() -> None:
    """Epochs whose times are up to a sample off, as prepared windows may be, are still joined sample by sample."""
    async with make("off-grid") as sink:
        await sink.announce(META)
        inlet = connect("off-grid")
        for seq in range(6):
            await sink.publish(epoch(seq, t_run=1000.0 + 0.9 * (seq % 2) / SFREQ))
        n_samples = 5 * HOP + N_TIMES - BLEND
        np.testing.assert_array_equal(pull(inlet, n_samples).data.T, DATA[:, :n_samples])


async def test_flags_tell_measured_from_rebuilt() -> None:
    """Added channels are always rebuilt, bad ones from the first sample that such an epoch is in to the last."""
    async with make("flagged") as sink:
        await sink.announce(META)
        inlet = connect("flagged-rebuilt")
        for seq, bad in enumerate([(), ("Cz",), (), ()]):
            await sink.publish(epoch(seq, bad=bad))
        got = pull(inlet, 5)
    first_in, first_out = N_TIMES - BLEND, N_TIMES + HOP
    assert got.data.tolist() == [[0, 0, 0, 1], [0, 1, 0, 1], [0, 1, 0, 1], [0, 0, 0, 1], [0, 0, 0, 1]]
    blocks = [0, first_in, first_in + HOP, first_out, first_in + 2 * HOP]
    np.testing.assert_allclose(got.stamps, 1000.0 + np.array(blocks) / SFREQ, rtol=0, atol=1e-9)


async def test_all_is_rebuilt_where_the_model_draws_good_channels_too() -> None:
    """A model that does not keep good channels as they were measured has all its channels flagged."""
    async with make("drawn", keeps_known=False) as sink:
        await sink.announce(META)
        inlet = connect("drawn-rebuilt")
        await sink.publish(epoch(0))
        assert pull(inlet, 1).data.tolist() == [[1, 1, 1, 1]]


async def test_streams_describe_themselves() -> None:
    """Type, rate, labels, units, places, delay, weights and meaning of stamps can be read from the streams."""
    async with make("told") as sink:
        await sink.announce(META)
        eeg, flags = (connect(name).info(5.0) for name in ("told", "told-rebuilt"))
    assert (eeg.type(), eeg.nominal_srate(), eeg.channel_format()) == ("EEG", SFREQ, pylsl.cf_float32)
    assert (flags.type(), flags.nominal_srate()) == ("Quality", pylsl.IRREGULAR_RATE)
    assert (eeg.source_id(), flags.source_id()) == ("streamnode:lab-3:told:eeg", "streamnode:lab-3:told:rebuilt")
    assert eeg.get_channel_labels() == list(OUT.ch_names)
    assert eeg.get_channel_units() == ["microvolts"] * 4
    assert flags.get_channel_labels() == [f"rebuilt/{name}" for name in OUT.ch_names]
    added = [eeg.desc().child("channels").last_child().child("location").child_value(axis) for axis in "XYZ"]
    np.testing.assert_allclose([float(value) for value in added], 1000 * OUT.ch_pos[3], rtol=1e-9)
    for info, meaning in ((eeg, "time of each sample"), (flags, "time of the first sample that the flags hold for")):
        assert info.desc().child("synchronization").child_value("can_drop_samples") == "true"
        block = info.desc().child("streamnode")
        assert block.child_value("model") == "zuna-1.1"
        assert block.child("weights").child_value("untrained") == "true"
        assert block.child_value("timestamp_meaning") == meaning
        delays = [float(block.child_value(key)) for key in ("delay_s", "blend_s", "lag_s")]
        assert delays == pytest.approx([0.0175, 0.125, 0.0175 + 0.125 + 0.25])


async def test_outlets_stay_when_the_source_only_reconnects() -> None:
    """A new run of the source leaves the outlets alone; other channels replace them under the same source ids."""

    def published() -> list[pylsl.StreamInfo]:
        assert sink._live is not None
        return [sink._live.eeg.get_info(), sink._live.flags.get_info()]

    async with make("steady") as sink:
        await sink.announce(META)
        before = published()
        await sink.announce(replace(META, stream=replace(META.stream, uid="run-2")))
        assert [info.uid() for info in published()] == [info.uid() for info in before]
        await sink.announce(replace(META, reconstructed=IN, shapes={"reconstruction": (3, N_TIMES)}))
        after = published()
    assert {info.uid() for info in after}.isdisjoint(info.uid() for info in before)
    assert [info.source_id() for info in after] == [info.source_id() for info in before]
    assert [info.channel_count() for info in after] == [3, 3]


@pytest.mark.parametrize(
    ("change", "remedy"),
    [
        ({"reconstructed": None}, "add reconstruction to model.outputs"),
        ({"hop_s": 0.0}, "leave out epoch.markers"),
        ({"hop_s": 0.9}, "share only 0.1 s"),
        ({"hop_s": 2.0}, "share only 0 s"),
    ],
)
async def test_refuses_what_makes_no_signal(change: dict[str, float | None], remedy: str) -> None:
    """Without a reconstruction, or where epochs cannot be blended, the announcement is a `ConfigError`."""
    async with make("refused") as sink:
        with pytest.raises(ConfigError, match=remedy):
            await sink.announce(replace(META, **change))  # type: ignore[arg-type]


async def test_refuses_what_was_not_announced() -> None:
    """A result before any announcement, without reconstruction or of another shape is a `SinkError`; none is sent."""
    metrics = Metrics()
    async with make("strict", metrics) as sink:
        with pytest.raises(SinkError, match="epoch 0"):
            await sink.publish(epoch(0))
        await sink.announce(META)
        for drawn in (None, np.zeros((3, N_TIMES), np.float32)):
            with pytest.raises(SinkError, match="epoch 0"):
                await sink.publish(replace(epoch(0), reconstruction=drawn))
    assert not metrics.registry.get_sample_value("streamnode_outputs_published_total", {"sink": "lsl:strict"})
    assert metrics.registry.get_sample_value("streamnode_sink_connected", {"sink": "lsl:strict"}) == 0
