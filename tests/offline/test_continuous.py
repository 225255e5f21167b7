"""Reconstructed epochs as a recording."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from streamnode.errors import ConfigError
from streamnode.inference.engine import Engine
from streamnode.offline.continuous import reconstruction_of
from streamnode.offline.files import run_file
from streamnode.offline.run import process
from streamnode.signal.path import Mode
from streamnode.sources.pacing import Annotation
from streamnode.sources.replay import read, write_fif
from streamnode.sources.runs import Run
from tests.offline import NAMES, make_plan, make_recording


def test_reconstruction_as_a_recording(engine: Engine, tmp_path: Path) -> None:
    """The epochs of a reconstruction follow each other in a FIF file, with the annotations where they were."""
    recording = replace(make_recording(16.0), annotations=(Annotation(6.5, 0.5, "blink"),))
    write_fif(tmp_path / "demo.fif", recording)
    plan = make_plan("reconstruction", hop_s=5.0)

    it = run_file(tmp_path / "demo.fif", tmp_path / "drawn.fif", engine, plan)

    drawn = read(tmp_path / "drawn.fif")
    assert it is not None
    assert drawn.info.sfreq == 256.0
    assert drawn.info.ch_names == NAMES
    np.testing.assert_allclose(drawn.info.montage.ch_pos, recording.info.montage.ch_pos, atol=1e-6)
    np.testing.assert_allclose(drawn.data.T, np.hstack(list(it.arrays["reconstruction"])), rtol=1e-5)
    assert len(drawn.data) == 3 * 1280
    assert drawn.annotations == (Annotation(6.5, 0.5, "blink"),)
    with pytest.raises(ConfigError, match="was made before: choose another place, or overwrite it"):
        run_file(tmp_path / "demo.fif", tmp_path / "drawn.fif", engine, plan)


@pytest.mark.parametrize("mode", ["causal", "window", "lookahead", "recording"])
def test_epochs_meet_without_a_seam(engine: Engine, mode: Mode) -> None:
    """Whatever the mode, each epoch is in the recording whole, and the next begins with the sample behind it."""
    recording = make_recording(17.0, sfreq=300.0)
    plan = make_plan("reconstruction", hop_s=5.0, mode=mode, lookahead_s=0.5 if mode == "lookahead" else None)

    outcome = process(recording, engine, plan)

    drawn = reconstruction_of(recording, outcome).data
    np.testing.assert_array_equal(drawn.T, np.hstack(list(outcome.arrays["reconstruction"])))


def test_what_was_annotated_before_the_first_epoch(engine: Engine) -> None:
    """What lasts into the first epoch is there for the rest of its time, what is over by then is not."""
    spans = (
        Annotation(0.0, 16.0, "Sleep stage W"),
        Annotation(1.0, 1.0, "over"),
        Annotation(3.0, 4.0, "BAD_muscle"),
        Annotation(4.0, 0.0, "a moment"),
        Annotation(6.5, 0.0, "blink"),
    )
    recording = replace(make_recording(16.0), annotations=spans)
    outcome = process(recording, engine, make_plan("reconstruction", hop_s=5.0))
    without_first = {name: table[1:] for name, table in outcome.results.tables.items()}
    t0 = float(without_first["epoch/t0"][0])
    assert t0 == pytest.approx(5.0, abs=0.1)
    outcome = replace(outcome, results=replace(outcome.results, tables=without_first))
    found = reconstruction_of(recording, outcome).annotations
    assert [event.description for event in found] == ["BAD_muscle", "Sleep stage W", "blink"]
    expected = [(0.0, 7.0 - t0), (0.0, 16.0 - t0), (6.5 - t0, 0.0)]
    np.testing.assert_allclose([event[:2] for event in found], expected, rtol=0, atol=1e-9)


def test_reconstruction_of_a_recording_with_a_gap(engine: Engine, tmp_path: Path) -> None:
    """Where nobody recorded, nothing was drawn: who reads the file finds the same gap."""
    recording = replace(make_recording(12.0), runs=(Run(0, 0), Run(1500, 3000)))
    outcome = process(recording, engine, make_plan("reconstruction", hop_s=5.0))
    write_fif(tmp_path / "drawn.fif", reconstruction_of(recording, outcome))
    drawn = read(tmp_path / "drawn.fif")
    behind_s = float(outcome.results.tables["epoch/t0"][0])
    (first, second), sfreq = drawn.spans, drawn.info.sfreq
    assert first.stop / sfreq == pytest.approx(6.0 - behind_s, abs=1 / sfreq)
    assert second.start / sfreq == pytest.approx(12.0 - behind_s, abs=1 / sfreq)
