"""Tests of `streamnode.offline`, and what they share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from streamnode.config import EpochConfig, LunaConfig, SignalConfig
from streamnode.montage import make_montage
from streamnode.offline.run import Plan
from streamnode.sources.replay import Recording
from streamnode.sources.synthetic import SyntheticEeg
from streamnode.types import OutputName, StreamInfo

NAMES = ("Fp1", "Cz", "Oz", "T7")


def make_plan(*outputs: OutputName, hop_s: float = 1.0, batch: int = 1, **signal: Any) -> Plan:
    return Plan(
        LunaConfig(kind="luna", weights="random:0", outputs=outputs or ("embedding",), vocabulary="alias"),
        EpochConfig(hop_s=hop_s),
        SignalConfig(**signal),
        batch=batch,
    )


def make_recording(seconds: float = 8.0, sfreq: float = 250.0, ch_names: Sequence[str] = NAMES) -> Recording:
    """EEG in whole microvolts, which every format can hold."""
    eeg = SyntheticEeg(ch_names, sfreq, seed=1)
    data = eeg.take(round(seconds * sfreq)).round()
    return Recording(StreamInfo("demo", "demo-1", "EEG", sfreq, make_montage(ch_names)), data)


def write_csv(path: Path, recording: Recording) -> Path:
    rows = [",".join(f"{value:.0f}" for value in row) for row in recording.data]
    path.write_text("\n".join([",".join(recording.info.ch_names), *rows]))
    return path


def csv_plan(**signal: Any) -> Plan:
    return replace(make_plan(**signal), reading={"unit": "uV", "sfreq": 250.0, "columns": None})
