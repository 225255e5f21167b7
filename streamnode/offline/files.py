"""From a file to a file: results of the same settings are not computed again, and no others are written over."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from streamnode.config import SignalConfig
from streamnode.errors import ConfigError, SinkError, StreamnodeError, reaching
from streamnode.montage import clean_name
from streamnode.offline.continuous import reconstruction_of
from streamnode.offline.run import OnEpochs, Outcome, Plan, Stopwatch, process
from streamnode.results import load_settings, write, written_whole
from streamnode.sources.replay import Recording, read, write_fif

if TYPE_CHECKING:
    from streamnode.inference.engine import Engine

log = logging.getLogger(__name__)


def run_file(
    path: Path,
    target: Path,
    engine: Engine,
    plan: Plan,
    *,
    overwrite: bool = False,
    on_epochs: OnEpochs = lambda *_: None,
) -> Outcome | None:
    """Read a recording, take it through signal path and model, and write what came of it.

    Args:
        path: of the recording.
        target: `.safetensors` or `.parquet` for results, `.fif` for the reconstruction alone.
        engine: the model of the plan.
        plan: what happens.
        overwrite: replace what is there, unless it is what would be written.
        on_epochs: called after every forward pass with the number of epochs done and expected.

    Returns:
        None where the results are there already.

    Raises:
        ConfigError: the file cannot be read, the plan does not fit, or other results are in the way.
        ContractError: recording and model do not fit, or the recording has not one whole epoch.
        SinkError: the target cannot be written.
    """
    settings, watch = settings_of(path, engine, plan), Stopwatch()
    with reaching(target, SinkError):
        if target.exists() and _is_done(target, settings, overwrite=overwrite):
            return None
    with watch("read"):
        recording = _read(path, plan)
    outcome = process(recording, engine, plan, watch=watch, on_epochs=on_epochs)
    with watch("write"), written_whole(target) as part:
        if target.suffix == ".fif":
            write_fif(part, reconstruction_of(recording, outcome))
        else:
            write(part, replace(outcome.results, settings={**settings, **outcome.results.settings}))
    return outcome


def settings_of(path: Path, engine: Engine, plan: Plan) -> dict[str, Any]:
    """All that the results of a file follow from, as JSON; device, threads and batch change only the last digits.

    Raises:
        ConfigError: there is no such file.
    """
    files = [path, path.with_suffix(".fdt")]  # where EEGLAB keeps the samples
    try:
        stats = [(file.name, file.stat()) for file in files if file == path or file.is_file()]
    except OSError as error:
        raise ConfigError(f"{path} is not a file: give the path of a recording") from error
    settings = {
        "source": [(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats],
        "weights": engine.weights.sha256 or engine.weights.source,
        "model": plan.model.model_dump(
            mode="json", exclude={"device", "threads", "compile", "max_batch", "weights", "revision", "sha256"}
        ),
        "epoch": plan.epoch.model_dump(mode="json"),
        "signal": plan.signal.model_dump(mode="json"),
        "reading": dict(plan.reading),
        "bad": plan.bad,
    }
    as_read_back: dict[str, Any] = json.loads(json.dumps(settings))
    return as_read_back


def _is_done(target: Path, settings: Mapping[str, Any], *, overwrite: bool) -> bool:
    """Whether the file that is there follows from these settings; if not, it must be one to overwrite."""
    try:
        found = {} if target.suffix == ".fif" else load_settings(target)
    except ConfigError:
        if not overwrite:
            raise
        return False
    others = list(_differences(settings, found))
    if others and not overwrite:
        why = f"with other settings ({', '.join(others)})" if found else "before"
        raise ConfigError(f"{target} was made {why}: choose another place, or overwrite it")
    return not others


def _differences(settings: Mapping[str, Any], found: Mapping[str, Any]) -> Iterator[str]:
    """Where the file that is there follows from something else, such as `signal.notch_hz`."""
    for key, value in settings.items():
        other = found.get(key)
        if isinstance(value, dict) and isinstance(other, dict):
            yield from (f"{key}.{name}" for name in value if other.get(name) != value[name])
        elif other != value:
            yield key


def _read(path: Path, plan: Plan) -> Recording:
    """All EEG, by which a node judges and listens, too, whatever it picks; and what is picked besides.

    Where other channels are in the way, as a column of text is, or have another rate, those that are picked come alone.
    """
    picks = _picks(plan.signal)
    try:
        recording = read(path, **plan.reading)
        known = {name.casefold() for name in recording.info.ch_names}
        besides = [pick for pick in picks if clean_name(pick, plan.reading.get("cap")).casefold() not in known]
        return read(path, picks=(*recording.info.ch_names, *besides), **plan.reading) if besides else recording
    except StreamnodeError as error:
        if not picks:
            raise
        recording = read(path, picks=picks, **plan.reading)
        log.info("%s: only what is picked was read (%s)", path.name, error)
        return recording


def _picks(signal: SignalConfig) -> tuple[str, ...]:
    """The channels that are asked for by name, a reference included; none where all EEG is."""
    if signal.picks is None:
        return ()
    reference = signal.reference if isinstance(signal.reference, tuple) else ()
    return tuple(dict.fromkeys(signal.picks + reference))
