"""Recordings as sources: FIF, EDF, BDF, EEGLAB, XDF and CSV, played in real time or as fast as possible."""

from __future__ import annotations

import io
import itertools
import logging
import math
import os
import struct
import warnings
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, replace
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.io.matlab import MatReadError

from streamnode.errors import ConfigError, ContractError, reaching
from streamnode.metrics import Metrics
from streamnode.montage import make_montage, some
from streamnode.sources.columns import in_metres, microvolts, to_microvolts
from streamnode.sources.csv_table import CsvTable
from streamnode.sources.edf_header import EdfHeader
from streamnode.sources.labels import Labels
from streamnode.sources.pacing import Annotation, Block, chunks
from streamnode.sources.runs import WHOLE, Marked, Run, places_of, runs_of_marks, runs_of_records, runs_of_stamps
from streamnode.sources.xdf_streams import described_columns, markers, the_eeg
from streamnode.types import Chunk, Clock, Float32Array, Float64Array, FloatArray, StreamInfo

_log = logging.getLogger(__name__)

_AT_ONCE = 1 << 16  # samples converted to microvolts at a time: a long recording is in memory once

_EEG_UV = (0.05, 5000.0)  # far beyond what EEG and its artefacts reach, and far within a factor of 1000 or a million

_BEGINS_WITH = {".fif": b"\0\0\0\x64", ".edf": b"0", ".bdf": b"\xffBIOSEMI", ".set": b"MATLAB", ".xdf": b"XDF:"}
"""First bytes of each format; the readers' own messages for foreign files are about anything but that."""

# What MNE and pyxdf raise on damaged files: collected by feeding them hundreds of truncated and overwritten ones.
_UNREADABLE = (
    *(OSError, ValueError, TypeError, AttributeError, LookupError, AssertionError, SyntaxError, RuntimeError),
    *(ArithmeticError, ImportError, struct.error, MatReadError),
)


@dataclass(frozen=True, slots=True, eq=False)
class Recording:
    """The EEG of one file.

    Attributes:
        info: the stream it plays as; `source_id` follows from the file's name.
        data: `(n_times, n_chans)` float32 microvolts, at least one sample.
        annotations: all that lie within the data, in order; their times count interruptions.
        runs: where it goes on after an interruption, and the first.
    """

    info: StreamInfo
    data: Float32Array
    annotations: tuple[Annotation, ...] = ()
    runs: tuple[Run, ...] = WHOLE

    def __post_init__(self) -> None:
        """Refuse what cannot be played."""
        if not len(self.data):
            raise ContractError(f"{self.info.name} has no samples: choose another recording")

    @property
    def duration_s(self) -> float:
        """Seconds from the first sample to the end of the last."""
        return self.spans[-1].stop / self.info.sfreq

    @property
    def spans(self) -> tuple[range, ...]:
        """The indices in time of the samples of each run."""
        stops = [*(run.row for run in self.runs[1:]), len(self.data)]
        return tuple(range(run.start, run.start + stop - run.row) for run, stop in zip(self.runs, stops, strict=True))

    def blocks(self, n_times: int, *, loop: bool) -> Iterator[Block]:
        """All samples in order, at most `n_times` at once; with `loop` again and again. No block spans two runs."""
        for n_passes in itertools.count() if loop else (0,):
            for number, (run, span) in enumerate(zip(self.runs, self.spans, strict=True), n_passes * len(self.runs)):
                data = self.data[run.row : run.row + len(span)]
                for done in range(0, len(span), n_times):
                    yield Block(number, run.start + done, data[done : done + n_times])


def read(
    path: Path | str,
    *,
    picks: Sequence[str] | None = None,
    cap: str | None = None,
    rename: Mapping[str, str] | None = None,
    unit: str = "V",
    sfreq: float | None = None,
    times: str | None = None,
    columns: Sequence[str] | None = None,
) -> Recording:
    """Read a recording whole; FIF, EDF, BDF and EEGLAB SET need MNE, XDF needs pyxdf, CSV is as in `csv_table`.

    Args:
        path: the suffix decides the format.
        picks: channels to take, in this order, spelled in any way; without it all EEG channels.
        cap: one of `streamnode.montage.CAPS`, if the labels are a cap's own.
        rename: label in the file to the label it is read as.
        unit: of the values of a CSV file, which has no place to say it.
        sfreq: of a CSV file; without it the rate follows from its times.
        times: column of a CSV file that holds the times, or `none`; without it the one that is named or rises like it.
        columns: names of the columns of a CSV file that has no line of names.

    Raises:
        ConfigError: the file is missing, unreadable or of an unknown format, or a pick is not in it.
        ContractError: there is no EEG in it, or it has several rates.
    """
    path = Path(path)
    labels = Labels(path, picks, cap, rename or {})
    with reaching(path, ConfigError):
        if not path.is_file():
            raise ConfigError(f"{path} is not a file: give the path of a recording")
    with _reading(path), path.open("rb") as file:
        if not file.read(8).startswith(_BEGINS_WITH.get(path.suffix.lower(), b"")):
            raise ConfigError(f"{path} is no {path.suffix[1:].upper()} file whatever its name says: export it anew")
    match path.suffix.lower():
        case ".fif" | ".set":
            return _read_mne(path, labels)
        case ".edf" | ".bdf":
            return _read_edf(path, labels)
        case ".xdf":
            return _read_xdf(path, labels)
        case ".csv":
            return _read_csv(path, labels, unit=unit, sfreq=sfreq, times=times, columns=columns)
        case suffix:
            raise ConfigError(f"{path} ends in {suffix!r}: recordings end in .fif, .edf, .bdf, .set, .xdf or .csv")


def write_fif(path: Path | str, recording: Recording) -> None:
    """Write a recording as FIF, in float32 volts; a file of this name is replaced.

    What is beyond 2 GB goes on in files beside it, `night-1.fif` and so on, which readers find by themselves.

    Raises:
        ConfigError: MNE is not installed.
        OSError: the file cannot be written.
    """
    mne, info = _package("mne"), recording.info
    header = mne.create_info(list(info.ch_names), info.sfreq, "eeg", verbose="ERROR")
    for channel, place in zip(header["chs"], info.montage.ch_pos, strict=True):
        channel["loc"][:3] = place
    raw = mne.io.RawArray(recording.data.T / 1e6, header, verbose="ERROR")
    if recording.annotations:
        raw.set_annotations(mne.Annotations(*zip(*recording.annotations, strict=True)), verbose="ERROR")
    raw.save(path, fmt="single", overwrite=True, verbose="ERROR")


def _recording(
    labels: Labels,
    names: Sequence[str],
    sfreq: float,
    data: FloatArray,
    *,
    ch_pos: ArrayLike | None = None,
    events: Sequence[Annotation] = (),
    runs: tuple[Run, ...] = WHOLE,
) -> Recording:
    """The recording of these channels, after renaming."""
    path = labels.path
    if not 0 < sfreq < math.inf:
        raise ConfigError(f"{path} cannot be played at {sfreq} Hz: give a sampling frequency above 0")
    with np.errstate(over="ignore"):  # what is beyond float32 is infinite, and no number like others that are
        samples = np.ascontiguousarray(data, dtype=np.float32)
    if not np.isfinite(samples).all():
        row, column = np.argwhere(~np.isfinite(samples))[0]
        raise ConfigError(f"{path} has no number for {names[column]} at {row / sfreq:.3f} s: cut or mend the file")
    montage = make_montage(names, ch_pos, labels.cap)
    name = os.fsencode(path.stem).decode("utf-8", "replace")  # or it could not be sent, nor even printed
    info = StreamInfo(name, f"streamnode-play:{name}", "EEG", float(sfreq), montage)
    recording = Recording(info, samples, runs=runs)
    timed = [event for event in events if math.isfinite(event.t_s)]
    within = [event for event in timed if any(round(event.t_s * sfreq) in span for span in recording.spans)]
    if len(within) < len(events):
        _log.info("%s: left out %d annotations beyond the data", path.name, len(events) - len(within))
    if len(runs) > 1:
        missing_s = recording.duration_s - len(samples) / sfreq
        _log.warning(
            "%s has %d runs, between which %.3g s are missing: no epoch crosses from one to the next",
            *(path.name, len(runs), missing_s),
        )
    _doubt_unit(path, samples)
    return replace(recording, annotations=tuple(sorted(within)))


def _doubt_unit(path: Path, data: Float32Array) -> None:
    """Warn of samples that no EEG has in the unit they are said to have; an offset has no part in it."""
    some_rows = data[:: 1 + len(data) // _AT_ONCE]
    typical_uv = float(np.median(np.abs(some_rows - np.median(some_rows, axis=0))))
    if not _EEG_UV[0] < typical_uv < _EEG_UV[1]:
        _log.warning("%s: samples are typically %.3g µV off their median: is the unit right?", path.name, typical_uv)


def _read_mne(path: Path, labels: Labels) -> Recording:
    """A FIF or EEGLAB file, whose values MNE hands on in volts."""
    with _reading(path):
        raw = _opened(path)
        is_eeg = [kind == "eeg" for kind in raw.get_channel_types()]
    keep = labels.pick(raw.ch_names, is_eeg)
    names = labels.read_as(raw.ch_names)
    with _reading(path):
        taken, runs, events = _parted(path, raw)
        data = _samples(raw, keep, taken, np.full(len(keep), 1e6))
    places = np.array([_place(raw.info["chs"][i]) for i in keep])
    names = [names[i] for i in keep]
    return _recording(labels, names, raw.info["sfreq"], data, ch_pos=places, events=events, runs=runs)


def _read_edf(path: Path, labels: Labels) -> Recording:
    """An EDF or BDF file: at the rate of the channels that are kept, not of any other, and in their own units."""
    with _reading(path):
        raw, header = _opened(path, exclude_after_unique=True), EdfHeader.of(path)
        signals = dict(zip(raw.ch_names, header.signals, strict=True))
        is_eeg = [kind == "eeg" for kind in raw.get_channel_types()]
    kept = {raw.ch_names[i]: header.sfreq(signals[raw.ch_names[i]]) for i in labels.pick(raw.ch_names, is_eeg)}
    sfreq, keep = _of_one_sfreq(path, kept, picked=bool(labels.picks))
    names = [labels.rename.get(label, label) for label in keep]
    factors = to_microvolts(path.name, names, [header.units[signals[label]] for label in keep])
    with _reading(path):
        if raw.info["sfreq"] != sfreq:  # MNE would resample to the fastest signal of the file, part by part
            raw = _opened(path, include=keep, exclude_after_unique=True)
        channels = [raw.ch_names.index(label) for label in keep]
        taken, runs, events = _parted(path, raw)
        in_volts = raw._raw_extras[0]["units"][channels]  # noqa: SLF001  (of some spellings; others MNE takes for volts)
        data = _samples(raw, channels, taken, factors / in_volts)
    return _recording(labels, names, sfreq, data, events=events, runs=runs)


def _of_one_sfreq(path: Path, sfreqs: Mapping[str, float], *, picked: bool) -> tuple[float, list[str]]:
    """The rate that most of these channels have, and which do. Raises `ContractError` if picked ones have several."""
    by_sfreq: dict[float, list[str]] = {}
    for label, sfreq in sfreqs.items():
        by_sfreq.setdefault(sfreq, []).append(label)
    usual = max(by_sfreq, key=lambda sfreq: (len(by_sfreq[sfreq]), sfreq))
    if len(by_sfreq) > 1:
        found = "; ".join(f"{sfreq:g} Hz: {some(labels)}" for sfreq, labels in by_sfreq.items())
        if picked:
            raise ContractError(f"{path} has channels of several rates ({found}): pick those of one")
        _log.warning("%s has channels of several rates (%s): taken are those of %g Hz", path.name, found, usual)
    return usual, by_sfreq[usual]


def _opened(path: Path, **options: Any) -> Any:
    return _package("mne").io.read_raw(path, preload=False, verbose="WARNING", **options)


def _parted(path: Path, raw: Any) -> Marked:
    """The runs of a file that MNE reads."""
    suffix, sfreq = path.suffix.lower(), raw.info["sfreq"]
    runs = runs_of_records(path, sfreq) if suffix in (".edf", ".bdf") else WHOLE
    # Those of a file that was interrupted tell the true time, of which MNE takes the last part for beyond the data.
    marks = raw.annotations if runs == WHOLE else _package("mne").read_annotations(path)
    events = [
        Annotation(float(onset - raw.first_time), float(duration), str(description))
        for onset, duration, description in zip(marks.onset, marks.duration, marks.description, strict=True)
    ]
    if runs == WHOLE:
        return runs_of_marks(events, raw.n_times, sfreq, eeglab=suffix == ".set")
    return Marked(np.ones(raw.n_times, np.bool_), runs, events)


def _samples(raw: Any, keep: Sequence[int], taken: NDArray[np.bool_], scale: Float64Array) -> Float32Array:
    """`(n_times, n_chans)` microvolts of the samples that were taken, each channel scaled, read part by part."""
    data, n_read = np.empty((np.count_nonzero(taken), len(keep)), np.float32), 0
    for row in range(0, len(taken), _AT_ONCE):
        within = taken[row : row + _AT_ONCE]
        part = raw.get_data(picks=keep, start=row, stop=row + len(within), verbose="WARNING")[:, within].T
        data[n_read : n_read + len(part)] = part * scale
        n_read += len(part)
    return data


def _place(channel: Mapping[str, Any]) -> Float64Array:
    """Position in the head frame; MNE leaves unknown ones at NaN or, in old files, at the origin."""
    head_frame = 4
    place: Float64Array = np.asarray(channel["loc"][:3], dtype=np.float64)
    return place if channel["coord_frame"] == head_frame and place.any() else np.full(3, np.nan)


def _read_xdf(path: Path, labels: Labels) -> Recording:
    with _reading(path):
        streams, _ = _package("pyxdf").load_xdf(path, dejitter_timestamps=False)
    eeg = the_eeg(path, streams)
    columns = described_columns(eeg["info"])
    keep = labels.pick([c.label for c in columns], [c.is_eeg for c in columns])
    names = labels.read_as([c.label for c in columns])
    sfreq = float(eeg["info"]["nominal_srate"][0])
    if sfreq <= 0:
        raise ConfigError(f"{path} has EEG of irregular rate: only regularly sampled EEG can be played")
    taken, runs = runs_of_stamps(eeg["time_stamps"], sfreq)
    names, units = [names[i] for i in keep], [columns[i].unit for i in keep]
    data = np.asarray(eeg["time_series"])[taken][:, keep] * to_microvolts(path.name, names, units)
    marks = markers(streams)
    places = places_of([t for t, _ in marks], eeg["time_stamps"][taken], runs, sfreq)
    events = [Annotation(place / sfreq, 0.0, label) for place, (_, label) in zip(places, marks, strict=True)]
    ch_pos = in_metres(np.array([columns[i].position for i in keep]))
    return _recording(labels, names, sfreq, data, ch_pos=ch_pos, events=events, runs=runs)


def _read_csv(
    path: Path, labels: Labels, *, unit: str, sfreq: float | None, times: str | None, columns: Sequence[str] | None
) -> Recording:
    if (scale := microvolts(unit)) is None:
        raise ConfigError(f"{unit!r} is no unit of a CSV file: use V, mV, uV or nV")
    with _reading(path):
        text = path.read_text("utf-8-sig")
    table = CsvTable.of(path, text, columns)
    time = table.time_column(times)
    channels = [i for i in range(len(table.names)) if i != time]
    names = [table.names[i] for i in channels]
    keep = labels.pick(names, [True] * len(names))
    data = table.values([channels[i] for i in keep]) * scale
    names = labels.read_as(names)
    sfreq = table.sfreq(time) if sfreq is None else sfreq
    stamps = table.stamps(time, sfreq)
    taken, runs = (slice(None), WHOLE) if stamps is None else runs_of_stamps(stamps, sfreq)
    return _recording(labels, [names[i] for i in keep], sfreq, data[taken], runs=runs)


def _package(name: str) -> Any:
    try:
        return import_module(name)
    except ImportError as error:
        raise ConfigError(f"this format needs {name}: pip install streamnode[files]") from error


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Says in one sentence that a file cannot be read, and logs what the reader warns of."""
    try:
        with warnings.catch_warnings(record=True) as caught, redirect_stdout(io.StringIO()):  # MNE also prints them
            warnings.simplefilter("always")
            yield
    except _UNREADABLE as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        kind = path.suffix[1:].upper()
        raise ConfigError(f"{path} cannot be read as {kind} ({reason}): copy or export it anew") from error
    for warning in caught:
        _log.info("%s: %s", path.name, warning.message)


class ReplaySource:
    """Plays a recording straight into a pipeline, without LSL. A `Source`; each iteration plays from the start.

    Args:
        recording: what to play.
        clock: the LSL clock.
        speed: times real time; `math.inf` for as fast as possible.
        loop: start again at the end; each pass is a run of its own, so that no epoch crosses the seam.
        chunk_s: seconds of the recording in a chunk.
        metrics: where samples are counted; None counts none.
    """

    def __init__(
        self,
        recording: Recording,
        *,
        clock: Clock,
        speed: float = 1.0,
        loop: bool = False,
        chunk_s: float = 0.02,
        metrics: Metrics | None = None,
    ) -> None:
        self._recording = recording
        self._play = partial(chunks, recording, clock=clock, speed=speed, loop=loop, chunk_s=chunk_s, metrics=metrics)

    @property
    def info(self) -> StreamInfo:
        """The recording as a stream."""
        return self._recording.info

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None: ...

    def __aiter__(self) -> AsyncIterator[Chunk]:
        """Chunks in order, each when its last sample is due."""
        return self._play()
