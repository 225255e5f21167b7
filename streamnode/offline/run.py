"""One recording through signal path, guard and model."""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import groupby, islice
from time import perf_counter
from typing import TYPE_CHECKING, Any, TypeVar, get_args

import numpy as np
from numpy.typing import NDArray

from streamnode import build
from streamnode.config import EpochConfig, ModelConfig, NodeSection, SignalConfig, ZunaConfig
from streamnode.errors import ConfigError, ContractError
from streamnode.montage import clean_name, some
from streamnode.pipeline import Session
from streamnode.results import Results
from streamnode.signal.guard import Verdict
from streamnode.signal.level import Squares
from streamnode.signal.mains import MainsListener
from streamnode.signal.path import EpochStream, MarkerEpochs, RecordingEpochs
from streamnode.sources.replay import Recording
from streamnode.types import Chunk, Epoch, Fault, Float32Array, Float64Array, Marker, ModelSpec, OutputName, StreamInfo

if TYPE_CHECKING:
    from streamnode.inference.engine import BoundModel, Engine

log = logging.getLogger(__name__)

T = TypeVar("T")
OnEpochs = Callable[[int, int], None]

_CHUNK_S = 5.0  # of a recording, handed to the signal path at once
_HEARD_S = 0.02  # of it, listened to at once: what a node hears that it is played to
_SAMPLE = 8  # epochs that `fewer_channels` looks at
_NO_DATA = np.empty((0, 0), np.float32)
_TABLES = {
    "seq": np.int64,
    "t0": np.float64,
    "t_last": np.float64,
    "start": np.int64,
    "run": np.int64,
    "n_missing": np.int64,
    "settling": np.bool_,
}


@dataclass(frozen=True, slots=True)
class Plan:
    """What happens to recordings.

    Attributes:
        model: the model and its weights. Where v1 of ZUNA is to divide by the standard deviation of the recording and
            `signal.mode` is `recording`, leave `std_uv` out.
        epoch: the windows it is given. Around markers, these are the annotations of the recording.
        signal: what happens to the signal before.
        reading: keywords of `streamnode.sources.replay.read`.
        bad: channels that the model does not see in any epoch, whatever `signal.bad_channels` makes of the others.
        batch: epochs in a forward pass; more than one is faster on a GPU, and changes the last digits.
        node: who says so, in the description of the results.
    """

    model: ModelConfig
    epoch: EpochConfig = field(default_factory=EpochConfig)
    signal: SignalConfig = field(default_factory=SignalConfig)
    reading: Mapping[str, Any] = field(default_factory=dict)
    bad: tuple[str, ...] = ()
    batch: int = 1
    node: NodeSection = field(default_factory=lambda: NodeSection(name="offline", http=None))


@dataclass(frozen=True, slots=True, eq=False)
class Outcome:
    """What came of one recording.

    Attributes:
        results: as they are saved.
        model: bound to the recording's channels.
        epoch_ms: `(n_epochs,)` duration of the forward pass, an equal share of it for all epochs of a batch.
        seconds: wall time of each phase.
        sample: `(n, n_chans, n_times)` microvolts, the first epochs as the model saw them.
    """

    results: Results
    model: BoundModel
    epoch_ms: Float64Array
    seconds: Mapping[str, float]
    sample: Float32Array

    @property
    def arrays(self) -> dict[OutputName, Float32Array]:
        """What the model said, stacked over epochs."""
        return {name: self.results.tables[name] for name in self.model.outputs}


class Stopwatch:
    """Adds up wall time by phase.

    Attributes:
        seconds: of each phase, in the order in which they were first met.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        """Time a block."""
        began = perf_counter()
        try:
            yield
        finally:
            self.seconds[phase] = self.seconds.get(phase, 0.0) + perf_counter() - began

    def each(self, phase: str, items: Iterator[T]) -> Iterator[T]:
        """The same items; the time is that which they were waited for."""
        while True:
            with self(phase):
                item = next(items, None)
            if item is None:
                return
            yield item


def process(
    recording: Recording,
    engine: Engine,
    plan: Plan,
    *,
    watch: Stopwatch | None = None,
    on_epochs: OnEpochs = lambda *_: None,
) -> Outcome:
    """Take one recording through signal path and model.

    Args:
        recording: from `streamnode.sources.replay.read`.
        engine: the model of the plan.
        plan: what happens to it; `reading` has happened already.
        watch: times the phases `prepare`, `signal` (as far as inference waits for it) and `inference`.
        on_epochs: called after every forward pass with the number of epochs done and expected.

    Raises:
        ContractError: recording and model do not fit, too few channels are not called bad, or the recording has not one
            whole epoch.
        ConfigError: the plan does not fit the model.
    """
    watch = watch or Stopwatch()
    _refuse_idle(plan)
    with watch("prepare"):
        info = _heard(recording, plan.signal)
        plan, measured = _scaled(recording, engine, plan, info)
        session = build.open_session(plan, engine, info, without=plan.bad)
        bad = _rows_of(plan.bad, session.path.info)
        _refuse_too_few(bad, session.path.info, engine.spec)
    expected = _expected(recording, session, plan)
    epochs, epoch_ms, data = list[Epoch](), list[float](), list[Float32Array]()
    said: dict[OutputName, list[Float32Array]] = {name: [] for name in session.model.outputs}
    draws = "reconstruction" in said
    rebuilds = draws and engine.spec.rebuilds
    rebuilt = list[NDArray[np.bool_]]()
    verdicts = (_without(verdict, bad) for verdict in _verdicts(recording, session, plan))
    least = build.least_good(engine.spec)
    verdicts = (one for one in verdicts if one.rows is None or len(one.rows) >= least)
    for batch in _batches(watch.each("signal", _ahead(verdicts)), plan.batch):
        x, std_uv, began = np.stack([verdict.epoch.data for verdict in batch]), _std_of(batch), perf_counter()
        with watch("inference"):
            rows = batch[0].rows
            arrays = session.model.run(x, std_uv) if rows is None else session.model.run_on(rows, x, std_uv)
        epoch_ms += [1e3 * (perf_counter() - began) / len(batch)] * len(batch)
        for name, parts in said.items():
            parts.append(arrays[name])
        if rebuilds:
            rebuilt += [_rebuilt(rows, session)] * len(batch)
        if draws or len(epochs) < _SAMPLE:
            data.append(x)
        epochs += [replace(verdict.epoch, data=_NO_DATA) for verdict in batch]
        on_epochs(len(epochs), max(len(epochs), expected))
    if not epochs:
        raise ContractError(_without_epochs(recording, session, plan))
    tables, original = _tables(epochs), np.concatenate(data)
    tables |= {name: np.concatenate(parts) for name, parts in said.items()}
    if draws:
        tables |= {"original": original, "rmse_uv": _rmse(tables["reconstruction"], original)}
    if rebuilds:
        tables["rebuilt"] = np.stack(rebuilt)
    results = Results(session.meta, session.path.info.montage, measured, tables)
    return Outcome(results, session.model, np.array(epoch_ms), watch.seconds, original[:_SAMPLE])


def _refuse_idle(plan: Plan) -> None:
    """Raise `ConfigError` if the sampler would have nothing to do."""
    model, policy = plan.model, plan.signal.bad_channels
    if not isinstance(model, ZunaConfig) or "reconstruction" not in model.outputs or not model.keep_known:
        return
    if not (model.add or plan.bad or policy == "mask"):
        raise ConfigError(
            "ZUNA has nothing to draw where all channels are kept: name bad ones, set signal.bad_channels to mask, add "
            "some with model.add, or set model.keep_known to false"
        )


def _heard(recording: Recording, signal: SignalConfig) -> StreamInfo:
    """The recording as a stream that was listened to, as a live one is, until enough was heard."""
    info = recording.info
    if signal.notch_hz != "auto":
        return info
    listener = MainsListener(info)
    any(map(listener, _chunks(recording, info, max(1, round(_HEARD_S * info.sfreq)))))
    return replace(info, mains_hz=listener.mains_hz)


def _scaled(recording: Recording, engine: Engine, plan: Plan, info: StreamInfo) -> tuple[Plan, dict[str, Any]]:
    """The plan with what its model must know of a recording as a whole, and the same for the results."""
    model = plan.model
    asked = isinstance(model, ZunaConfig) and model.variant == "v1" and model.std_uv is None
    path = build.signal_path(plan, engine.spec, info) if asked else None
    if not isinstance(path, RecordingEpochs):
        return plan, {}
    good = np.delete(np.arange(path.info.n_chans), _rows_of(plan.bad, path.info))
    squares = Squares()
    for chunk in _chunks(recording, info, len(recording.data)):
        squares += Squares.of(path.prepare(chunk).data.T, good)
    std_uv = squares.std
    if not std_uv:
        return plan, {}
    return replace(plan, model=model.model_copy(update={"std_uv": std_uv})), {"measured": {"std_uv": std_uv}}


def _rows_of(names: Sequence[str], info: StreamInfo) -> list[int]:
    """Indices of channels, each once. Raises `ConfigError` if one is not there."""
    known = {name.casefold(): row for row, name in enumerate(info.ch_names)}
    if absent := [name for name in names if clean_name(name).casefold() not in known]:
        raise ConfigError(
            f"{info.name} has no {', '.join(absent)} to call bad: name some of its channels, {', '.join(info.ch_names)}"
        )
    return sorted({known[clean_name(name).casefold()] for name in names})


def _refuse_too_few(bad: Sequence[int], info: StreamInfo, spec: ModelSpec) -> None:
    """Raise `ContractError` if too few channels are left that are not called bad."""
    n_good, least = info.n_chans - len(bad), build.least_good(spec)
    if n_good < least:
        raise ContractError(
            f"{n_good} of {info.n_chans} channels are good once {some([info.ch_names[row] for row in bad])} are called "
            f"bad, and {spec.name} needs {least} at least: call fewer of them bad"
        )


def _without(verdict: Verdict, bad: Sequence[int]) -> Verdict:
    """The verdict with these channels left out of what is inferred."""
    if not bad:
        return verdict
    rows = range(verdict.epoch.info.n_chans) if verdict.rows is None else verdict.rows
    return replace(verdict, rows=tuple(row for row in rows if row not in bad))


def _rebuilt(rows: Sequence[int] | None, session: Session) -> NDArray[np.bool_]:
    """Which channels of a reconstruction have nothing but the model behind them."""
    drawn, n_chans = session.meta.reconstructed, session.path.info.n_chans
    assert drawn is not None
    seen = np.isin(np.arange(drawn.n_chans), range(n_chans) if rows is None else rows)
    return ~seen


def _verdicts(recording: Recording, session: Session, plan: Plan) -> Iterator[Verdict]:
    """The epochs that may be inferred; times count from the first sample of the recording."""
    for epoch in _cut(recording, session, plan):
        verdict = session.guard.judge(epoch, session.guard.raw_quality(epoch))
        if isinstance(verdict, Verdict):
            yield verdict


def _chunks(recording: Recording, info: StreamInfo, n_times: int) -> Iterator[Chunk]:
    """A recording as a stream, run by run, at most so many samples at once."""
    for block in recording.blocks(n_times, loop=False):
        t0 = block.row / info.sfreq
        yield Chunk(info, block.data, block.row, t0, t0 + len(block.data) / info.sfreq, block.run)


def _cut(recording: Recording, session: Session, plan: Plan) -> Iterator[Epoch]:
    """The epochs of a recording, each as soon as the guard has seen its samples."""
    whole = plan.signal.mode == "recording"
    n_times = len(recording.data) if whole else max(1, round(_CHUNK_S * recording.info.sfreq))
    markers = deque(Marker(event.description, event.t_s) for event in recording.annotations)
    for chunk in _chunks(recording, session.info, n_times):
        session.guard.watch(chunk)
        yield from _mark(session.path, markers, until=chunk.t_last)
        yield from session.path(chunk)
    yield from _mark(session.path, markers, until=math.inf)
    _tell_dropped(recording, session.path)


def _mark(path: EpochStream, markers: deque[Marker], *, until: float) -> Iterator[Epoch]:
    """The epochs that markers complete, which are taken from the queue up to this time."""
    while isinstance(path, MarkerEpochs) and markers and markers[0].t <= until:
        yield from path.add_marker(markers.popleft())


def _tell_dropped(recording: Recording, path: EpochStream) -> None:
    """Say how many annotations got no epoch, and why; no samples follow."""
    if not isinstance(path, MarkerEpochs):
        return
    path.end()
    if dropped := +path.take_dropped():
        reasons = ", ".join(f"{n_markers} {reason}" for reason, n_markers in sorted(dropped.items()))
        log.warning("%s: annotations that got no epoch: %s", recording.info.name, reasons)


def _ahead(items: Iterator[T]) -> Iterator[T]:
    """The same items, the next of which is made in another thread while one is worked on."""
    with ThreadPoolExecutor(1, thread_name_prefix="signal") as thread:
        coming = thread.submit(next, items, None)
        while (item := coming.result()) is not None:
            coming = thread.submit(next, items, None)
            yield item


def _batches(verdicts: Iterator[Verdict], size: int) -> Iterator[list[Verdict]]:
    """At most so many in a row that are inferred on the same channels."""
    for _, alike in groupby(verdicts, key=lambda verdict: verdict.rows):
        while batch := list(islice(alike, size)):
            yield batch


def _std_of(batch: Sequence[Verdict]) -> Float64Array | None:
    """`(n_epochs,)` what the epochs of a pass take along; all of them do, or none."""
    found = [verdict.epoch.std_uv for verdict in batch if verdict.epoch.std_uv is not None]
    return np.array(found) if found else None


def _expected(recording: Recording, session: Session, plan: Plan) -> int:
    """How many epochs there will be."""
    if plan.epoch.markers is not None:
        return len(recording.annotations)
    needed_s, hop_s = _needed_s(session, plan), plan.epoch.hop_s
    return sum(max(0, 1 + math.floor((run_s - needed_s) / hop_s)) for run_s in _runs_s(recording))


def _runs_s(recording: Recording) -> list[float]:
    """How long each run lasts."""
    return [len(span) / recording.info.sfreq for span in recording.spans]


def _without_epochs(recording: Recording, session: Session, plan: Plan) -> str:
    """Why a recording gave no epoch."""
    name, markers = recording.info.name, plan.epoch.markers
    if markers is not None:
        labels = some(sorted({event.description for event in recording.annotations})) or "none at all"
        return (
            f"{name} has no whole epoch around an annotation like {', '.join(markers.labels)} (there is {labels}): "
            "choose others in epoch.markers.labels, or shorter epochs"
        )
    longest_s, n_runs = max(_runs_s(recording)), len(recording.runs)
    if longest_s >= _needed_s(session, plan):
        return f"every epoch of {name} has channels that signal.bad_channels gives up: choose keep, or mend them"
    what = name if n_runs == 1 else f"the longest of the {n_runs} runs of {name}"
    return (
        f"{what} lasts {longest_s:g} s, and one epoch takes {_needed_s(session, plan):.4g} s "
        "with the delay of the signal chain: choose a longer recording, or a shorter epoch.duration_s"
    )


def _needed_s(session: Session, plan: Plan) -> float:
    """How much of a recording its first epoch takes."""
    return plan.epoch.duration_s + session.path.delay_s


def _tables(epochs: list[Epoch]) -> dict[str, NDArray[Any]]:
    of_epochs: dict[str, NDArray[Any]] = {
        f"epoch/{name}": np.array([getattr(e, name) for e in epochs], kind) for name, kind in _TABLES.items()
    }
    if epochs[0].std_uv is not None:
        of_epochs["epoch/std_uv"] = np.array([epoch.std_uv for epoch in epochs])
    faults = [epoch.quality.faults for epoch in epochs if epoch.quality is not None]
    of_channels = {
        f"quality/{fault}": np.array([[fault in found for found in channels] for channels in faults])
        for fault in get_args(Fault)
    }
    return of_epochs | of_channels


def _rmse(drawn: Float32Array, original: Float32Array) -> Float32Array:
    """`(n_epochs, n_chans)`; channels that only the model knows of have nothing to be compared with."""
    rmse: Float32Array = np.sqrt(np.mean((drawn[:, : original.shape[1]] - original) ** 2, axis=2))
    return rmse
