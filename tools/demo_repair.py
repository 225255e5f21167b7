"""Shows a repair: a recording with one channel broken on purpose goes over LSL through a node, and comes out whole.

    python tools/demo_repair.py [RECORDING] [--channel C3] [--fault noise|flat] [--weights FILE]

The node runs `configs/zuna-repair.yaml`. The chart shows the channel as it was recorded, as it was sent and as it came
back; the last line is one JSON object. The exit code is 0 if every sample of the broken stretch came back marked as
rebuilt, and all that came back marked as measured is what was sent.

Without a recording it takes one from `$STREAMNODE_DATA`, or from `shared/data` beside the repository, or makes one up.
Without `--weights` it takes the published ones where they are on this machine, else untrained ones: then the path is
real and the signal in the rebuilt stretch means nothing.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import tempfile
import threading
from contextlib import AsyncExitStack, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
import pylsl
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from streamnode import build, config
from streamnode.bench import rig
from streamnode.config import LslEegSinkConfig, NodeConfig
from streamnode.errors import StreamnodeError
from streamnode.models import catalog
from streamnode.models.hub import cached_path
from streamnode.sinks.lsl import EegOutlet
from streamnode.sources.pacing import paced
from streamnode.sources.replay import Recording, read
from streamnode.sources.synthetic import CH_NAMES_32, SyntheticEeg
from streamnode.testing import isolate_lsl
from streamnode.types import Chunk, Float32Array

CONFIG = Path(__file__).parents[1] / "configs" / "zuna-repair.yaml"
DATA = Path(os.environ.get("STREAMNODE_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
MODEL = catalog.find("zuna-1.1")

LENGTH_S = 30.0
BROKEN_S = (12.0, 16.0)
NOISE_UV = 1000.0  # of an electrode that hangs by its cable
NOTICED_S = {"noise": 0.1, "flat": 1.1}  # a signal may stand still for a second before it counts as flat
CONNECT_S = 30.0
PATIENCE_S = 120.0  # that the node may be silent while it rebuilds
SAME_UV = 0.01  # what came back as measured may differ by so much from what was sent


# ---- What is sent ----------------------------------------------------------------------------------------------------


def opened(path: Path | None) -> Recording:
    """The recording to repair, the first half minute of it."""
    default = DATA / "eegmmidb" / "S001R02.edf"
    if path is None and not default.is_file():
        eeg = SyntheticEeg(CH_NAMES_32)
        return Recording(eeg.info, eeg.take(round(LENGTH_S * eeg.info.sfreq)))
    recording = read(path or default)
    return Recording(recording.info, recording.data[: round(LENGTH_S * recording.info.sfreq)])


def around(recording: Recording, channel: str, n_chans: int) -> Recording:
    """A channel and those nearest to it, in the order of the recording."""
    montage = recording.info.montage
    if channel not in montage.ch_names:
        raise SystemExit(f"{recording.info.name} has no channel {channel}: choose one of {', '.join(montage.ch_names)}")
    distance = np.linalg.norm(montage.ch_pos - montage.ch_pos[montage.ch_names.index(channel)], axis=1)
    rows = np.sort(np.argsort(distance)[:n_chans])  # NaN, which is an electrode at an unknown place, comes last
    near = replace(montage, ch_names=tuple(montage.ch_names[row] for row in rows), ch_pos=montage.ch_pos[rows])
    return Recording(replace(recording.info, montage=near), np.ascontiguousarray(recording.data[:, rows]))


def broken(recording: Recording, row: int, fault: str) -> Recording:
    """The same with a channel that is noise, or does not move, for a while."""
    data = recording.data.copy()
    start, stop = (round(t * recording.info.sfreq) for t in BROKEN_S)
    noise = np.random.default_rng(0).normal(0, NOISE_UV, stop - start)
    data[start:stop, row] = noise if fault == "noise" else data[start, row]
    return replace(recording, data=data)


def prepared(recording: Recording, node_config: NodeConfig) -> Float32Array:
    """`(n_chans, n_times)` of a recording as the node's own filters leave it."""
    info = recording.info
    path = build.signal_path(node_config, MODEL.spec, info)
    epochs = path(Chunk(info, recording.data, 0, 0.0, 0.0, 0))
    hop = round(node_config.epoch.hop_s * MODEL.spec.sfreq)
    return np.concatenate([*(epoch.data[:, :hop] for epoch in epochs[:-1]), epochs[-1].data], axis=1)


async def send(recording: Recording, outlet: EegOutlet) -> float:
    """Play in real time, from when somebody listens; returns the stamp of the first sample."""
    while not await asyncio.to_thread(outlet.wait_for_consumers, 0.2):
        pass
    t0, sfreq = float(pylsl.local_clock()), recording.info.sfreq
    async for start, block in paced(recording, speed=1.0, loop=False, chunk_s=0.05):
        outlet.push(block.data, t0 + (start + len(block.data) - 1) / sfreq)
    return t0


# ---- What comes back -------------------------------------------------------------------------------------------------


@dataclass
class Received:
    """Samples and flags as they arrive over LSL."""

    samples: list[list[float]] = field(default_factory=list)
    stamps: list[float] = field(default_factory=list)
    flags: list[list[int]] = field(default_factory=list)
    flag_stamps: list[float] = field(default_factory=list)
    connected: threading.Event = field(default_factory=threading.Event)
    stop: threading.Event = field(default_factory=threading.Event)

    def listen(self) -> None:
        """Take in both streams until told to stop; runs in a thread."""
        inlets = []
        for name in ("repaired", "repaired-rebuilt"):
            found: list[pylsl.StreamInfo] = []
            while not found:
                if self.stop.is_set():
                    return
                found = pylsl.resolve_byprop("name", name, 1, 0.5)
            inlets.append(pylsl.StreamInlet(found[0], recover=False))
            inlets[-1].open_stream(CONNECT_S)
        self.connected.set()
        with suppress(pylsl.util.LostError):  # the node has ended
            while not self.stop.is_set():
                samples, stamps = inlets[0].pull_chunk(timeout=0.2)
                flags, flag_stamps = inlets[1].pull_chunk()
                self.flags += flags
                self.flag_stamps += flag_stamps
                self.samples += samples
                self.stamps += stamps

    async def until_complete(self, n_times: int, node: asyncio.subprocess.Process) -> None:
        """Wait for so many samples, as long as some keep coming."""
        n_before, quiet_s = 0, 0.0
        while len(self.stamps) < n_times and node.returncode is None and quiet_s < PATIENCE_S:
            await asyncio.sleep(0.2)
            quiet_s = 0.0 if len(self.stamps) > n_before else quiet_s + 0.2
            n_before = len(self.stamps)

    def on_the_grid(self, t0: float, n_times: int) -> tuple[Float32Array, NDArray[np.bool_]]:
        """Samples and flags `(n_chans, n_times)` where their stamps put them; NaN where nothing came."""
        n_chans, sfreq = len(self.samples[0]), MODEL.spec.sfreq
        places = np.round((np.array(self.stamps) - t0) * sfreq).astype(int)
        kept = (places >= 0) & (places < n_times)
        signal = np.full((n_chans, n_times), np.nan, np.float32)
        signal[:, places[kept]] = np.array(self.samples, np.float32)[kept].T
        rebuilt = np.zeros((n_chans, n_times), bool)
        begins = np.round((np.array(self.flag_stamps) - t0) * sfreq).astype(int).clip(0, n_times)
        for row, begin in zip(self.flags, begins, strict=True):  # each holds until the next
            rebuilt[:, begin:] = np.array(row, bool)[:, None]
        return signal, rebuilt


@dataclass(frozen=True, slots=True)
class Findings:
    """What came of it.

    Attributes:
        recording: what was sent.
        channel: which was broken.
        fault: how.
        broken_s: from when to when.
        rebuilt_s: from when to when it came back marked as rebuilt; None if it never did.
        n_chans: sent, those around it included.
        weights: of the model.
        untrained: whether they are.
        steps: of the sampler.
        received: share of the samples that came back.
        marked: whether all that was broken was marked as rebuilt.
        measured_off_uv: how far anything marked as measured is from what was sent, at most.
        others_rebuilt: other channels that quality control found bad at some time.
        rmse_uv: of the rebuilt samples, from what was recorded there.
        correlation: likewise.
    """

    recording: str
    channel: str
    fault: str
    broken_s: tuple[float, float]
    rebuilt_s: tuple[float, float] | None
    n_chans: int
    weights: str
    untrained: bool
    steps: int
    received: float
    marked: bool
    measured_off_uv: float
    others_rebuilt: tuple[str, ...]
    rmse_uv: float | None
    correlation: float | None

    @property
    def kept(self) -> bool:
        """Whether marks and samples are what they should be."""
        return self.marked and self.received > 0.99 and self.measured_off_uv < SAME_UV


@dataclass(frozen=True, slots=True, eq=False)
class Traces:
    """The broken channel on the model's grid of samples.

    Attributes:
        recorded: before it was broken.
        sent: after.
        returned: by the node.
        rebuilt: where that is marked as rebuilt.
    """

    recorded: Float32Array
    sent: Float32Array
    returned: Float32Array
    rebuilt: NDArray[np.bool_]

    @property
    def times(self) -> NDArray[np.float64]:
        """Seconds."""
        return np.arange(len(self.returned)) / MODEL.spec.sfreq

    def within(self, start_s: float, stop_s: float) -> NDArray[np.bool_]:
        """Where they lie between two."""
        return (self.times >= start_s) & (self.times < stop_s)


# ---- The demo --------------------------------------------------------------------------------------------------------


async def demo(options: argparse.Namespace) -> tuple[Findings, Traces]:
    """Send, rebuild, receive, compare."""
    whole = around(opened(options.recording), options.channel, options.n_chans)
    row = whole.info.ch_names.index(options.channel)
    sick = broken(whole, row, options.fault)
    weights = str(options.weights or ("hub" if cached_path(MODEL.hub) else "random:0"))
    untrained = weights.startswith("random")
    steps = options.steps or (2 if untrained else 10)
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="streamnode-demo-")))
        isolate_lsl(folder, f"streamnode-demo-{os.getpid()}")
        http_port = rig.port_or_free(8765)
        changes = {
            "node__http": f"127.0.0.1:{http_port}",
            "source__source_id": whole.info.source_id,
            "epoch__policy": "all",  # slow machines are late, rather than leave epochs out
            "signal__notch_hz": None,  # `auto` listens before it starts
            "model__weights": weights,
            "model__steps": steps,
        }
        path = rig.write_config(CONFIG, folder, **changes)
        node_config = config.load(path)
        recorded, sent = (prepared(recording, node_config) for recording in (whole, sick))
        received = Received()
        outlet = stack.enter_context(EegOutlet(whole.info))
        listener = asyncio.create_task(asyncio.to_thread(received.listen), name="listener")
        stack.callback(received.stop.set)
        log = folder / "node.log"
        node = await stack.enter_async_context(rig.streamnode("run", str(path), log=log))
        print("loading the model ...", file=sys.stderr)
        await rig.until_loaded(node, f"http://127.0.0.1:{http_port}")
        if not await asyncio.to_thread(received.connected.wait, CONNECT_S):
            raise SystemExit(await asyncio.to_thread(log.read_text))
        print(f"playing {LENGTH_S:g} s in real time ...", file=sys.stderr)
        t0 = await send(sick, outlet)
        print("waiting for what is still being rebuilt ...", file=sys.stderr)
        (sink,) = node_config.sinks
        assert isinstance(sink, LslEegSinkConfig)
        n_times = recorded.shape[1] - round(sink.blend_s * MODEL.spec.sfreq)  # held back for an epoch that never comes
        await received.until_complete(n_times, node)
        received.stop.set()
        await listener
    signal, rebuilt = received.on_the_grid(t0, n_times)
    recorded, sent = recorded[:, :n_times], sent[:, :n_times]
    traces = Traces(recorded[row], sent[row], signal[row], rebuilt[row])
    ever_rebuilt = [whole.info.ch_names[i] for i in np.flatnonzero(rebuilt.any(axis=1))]
    findings = Findings(
        recording=whole.info.name,
        channel=options.channel,
        fault=options.fault,
        broken_s=BROKEN_S,
        rebuilt_s=span_of(traces.rebuilt, traces.times),
        n_chans=len(whole.info.ch_names),
        weights=weights,
        untrained=untrained,
        steps=steps,
        received=float(np.isfinite(signal).all(axis=0).mean()),
        marked=bool(traces.rebuilt[traces.within(BROKEN_S[0] + NOTICED_S[options.fault], BROKEN_S[1])].all()),
        measured_off_uv=round(float(np.nanmax(np.abs(signal - sent)[~rebuilt], initial=0.0)), 5),
        others_rebuilt=tuple(name for name in ever_rebuilt if name != options.channel),
        **likeness(traces),
    )
    return findings, traces


def span_of(rebuilt: NDArray[np.bool_], times: NDArray[np.float64]) -> tuple[float, float] | None:
    """From the first to the last sample that is marked, seconds."""
    marked = times[rebuilt]
    return (round(float(marked[0]), 2), round(float(marked[-1]), 2)) if len(marked) else None


def likeness(traces: Traces) -> dict[str, float | None]:
    """How close what was rebuilt comes to what was recorded."""
    there = traces.rebuilt & np.isfinite(traces.returned)
    if not there.any():
        return {"rmse_uv": None, "correlation": None}
    recorded, returned = traces.recorded[there], traces.returned[there]
    return {
        "rmse_uv": round(float(np.sqrt(np.mean((recorded - returned) ** 2))), 2),
        "correlation": round(float(np.corrcoef(recorded, returned)[0, 1]), 3),
    }


def draw(findings: Findings, traces: Traces, path: Path) -> None:
    """The channel as it was recorded, sent and returned."""
    from matplotlib.figure import Figure  # noqa: PLC0415  (only here)

    blue, sky, vermilion, grey = "#0072B2", "#56B4E9", "#D55E00", "#666666"
    figure = Figure(figsize=(10.5, 6.2), dpi=150, layout="constrained")
    figure.suptitle(
        f"{findings.channel} of {findings.recording}: broken on purpose, rebuilt live by ZUNA", fontweight="bold"
    )
    panels = figure.subplots(3, 1, sharex=True)
    recorded, sent, returned = panels
    recorded.plot(traces.times, traces.recorded, color=blue, linewidth=0.7)
    sent.plot(traces.times, traces.sent, color=blue, linewidth=0.7)
    measured, rebuilt = (np.where(where, traces.returned, np.nan) for where in (~traces.rebuilt, traces.rebuilt))
    hidden = np.where(traces.rebuilt, traces.recorded, np.nan)
    returned.plot(traces.times, measured, color=blue, linewidth=0.7, label="measured")
    returned.plot(traces.times, rebuilt, color=vermilion, linewidth=0.7, label="rebuilt")
    returned.plot(traces.times, hidden, color=sky, linewidth=0.7, label="as it was recorded", zorder=1)
    titles = ("As it was recorded", f"As it was sent: {findings.fault} in the grey stretch", "As it came back")
    for ax, title in zip(panels, titles, strict=True):
        ax.set_title(title, fontsize="medium", loc="left")
        ax.spines[["top", "right"]].set_visible(False)
        ax.grid(alpha=0.25)
        ax.axvspan(*findings.broken_s, color=grey, alpha=0.25 if ax is sent else 0.1, linewidth=0)
    if findings.rebuilt_s:
        returned.axvspan(*findings.rebuilt_s, color=vermilion, alpha=0.1, linewidth=0)
    returned.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=3, frameon=False, borderaxespad=0)
    reach, reach_back = (1.3 * float(np.nanmax(np.abs(x))) for x in (traces.recorded, traces.returned))
    for ax in panels:
        ax.set_ylim(-reach, reach)
    returned.set_ylim(-max(reach, reach_back), max(reach, reach_back))
    recorded.set_xlim(0, traces.times[-1])
    figure.supylabel("Amplitude (µV)", fontsize="medium")
    panels[-1].set_xlabel("Time (s)")
    if findings.untrained:
        warning = "Untrained weights: the path is real, but the signal in the rebuilt stretch means nothing."
        figure.supxlabel(warning, color=vermilion, fontsize="medium", fontweight="bold")
    else:
        likeness = f"Against the recording: correlation {findings.correlation}, RMSE {findings.rmse_uv} µV"
        figure.supxlabel(likeness, color=grey, fontsize="medium")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def table(findings: Findings) -> Table:
    """The findings, for the terminal."""
    view = Table(title="streamnode: a broken channel, rebuilt live", show_header=False, min_width=72)
    for name, value in asdict(findings).items():
        view.add_row(name.replace("_", " "), ", ".join(map(str, value)) if isinstance(value, tuple) else str(value))
    if findings.untrained:
        view.caption = "untrained weights: the path is real, the rebuilt signal means nothing"
    return view


def main() -> None:
    """Run the demo once."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recording", nargs="?", type=Path, metavar="RECORDING", help="FIF, EDF, BDF, SET, XDF or CSV")
    parser.add_argument("--channel", default="C3", help="the channel to break")
    parser.add_argument("--n-chans", type=int, default=8, help="how many to send, the nearest to it")
    parser.add_argument("--fault", choices=sorted(NOTICED_S), default="noise", help="what is wrong with it")
    parser.add_argument("--weights", metavar="FILE", help="weights of ZUNA 1.1, or random:0")
    parser.add_argument("--steps", type=int, help="of the sampler; 10 by default, 2 with untrained weights")
    parser.add_argument("--chart", type=Path, default=Path("charts", "repair.png"), metavar="PNG", help="where it goes")
    options = parser.parse_args()
    try:
        findings, traces = asyncio.run(demo(options))
    except StreamnodeError as error:
        raise SystemExit(str(error)) from error
    draw(findings, traces, options.chart)
    Console(stderr=True).print(table(findings))
    print(json.dumps({**asdict(findings), "kept": findings.kept, "chart": str(options.chart)}))
    sys.exit(not findings.kept)


if __name__ == "__main__":
    main()
