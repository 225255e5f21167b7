"""What the demo of a repair makes of a recording, and of what comes back; the node between has tests of its own."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from PIL import Image

from streamnode import config
from streamnode.sources.replay import Recording
from streamnode.sources.synthetic import CH_NAMES_32, SyntheticEeg

TOOL = Path(__file__).parents[1] / "tools" / "demo_repair.py"
SFREQ = 256


@pytest.fixture(scope="module")
def demo() -> ModuleType:
    spec = importlib.util.spec_from_file_location("demo_repair", TOOL)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules["demo_repair"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def recording() -> Recording:
    eeg = SyntheticEeg(CH_NAMES_32, float(SFREQ))
    return Recording(eeg.info, eeg.take(30 * SFREQ))


def test_only_neighbours_are_sent(demo: ModuleType, recording: Recording) -> None:
    """The channel itself and those around it, in the order of the recording, each with its own samples."""
    near = demo.around(recording, "C3", 5)
    assert set(near.info.ch_names) == {"C3", "FC1", "FC5", "CP1", "CP5"}
    rows = [recording.info.ch_names.index(name) for name in near.info.ch_names]
    assert rows == sorted(rows)
    np.testing.assert_array_equal(near.data, recording.data[:, rows])


def test_a_channel_that_is_not_there_is_refused_by_name(demo: ModuleType, recording: Recording) -> None:
    """The sentence says which channels there are."""
    with pytest.raises(SystemExit, match="no channel C33: choose one of Fp1"):
        demo.around(recording, "C33", 5)


@pytest.mark.parametrize("fault", ["noise", "flat"])
def test_a_fault_stays_in_its_place(demo: ModuleType, recording: Recording, fault: str) -> None:
    """Four seconds of one channel are broken, and not a sample besides."""
    sick = demo.broken(recording, 3, fault)
    start, stop = (round(t * SFREQ) for t in demo.BROKEN_S)
    changed = sick.data != recording.data
    assert changed[start + 1 : stop, 3].mean() > 0.99
    changed[start:stop, 3] = False
    assert not changed.any()


def test_what_the_node_prepares_is_known_beforehand(demo: ModuleType, recording: Recording) -> None:
    """Epoch by epoch, the filters of the node's configuration leave one signal as long as its epochs reach."""
    signal = demo.prepared(demo.around(recording, "C3", 4), config.load(demo.CONFIG))
    assert signal.shape == (4, 30 * SFREQ)
    assert np.isfinite(signal).all()
    assert abs(signal[:, 5 * SFREQ :].mean()) < 1  # the high-pass has done its work


def test_samples_go_where_their_stamps_say(demo: ModuleType) -> None:
    """Flags hold until the next ones; what never came is NaN, and what lies outside is left out."""
    t0 = 1000.0
    received = demo.Received(
        samples=[[1.0, 10.0], [2.0, 20.0], [4.0, 40.0], [9.0, 90.0]],
        stamps=[t0 + i / SFREQ for i in (0, 1, 3, 77)],
        flags=[[0, 0], [0, 1], [0, 0]],
        flag_stamps=[t0 + i / SFREQ for i in (0, 1, 3)],
    )
    signal, rebuilt = received.on_the_grid(t0, 4)
    np.testing.assert_array_equal(signal, [[1, 2, np.nan, 4], [10, 20, np.nan, 40]])
    np.testing.assert_array_equal(rebuilt, [[0, 0, 0, 0], [0, 1, 1, 0]])


@pytest.fixture
def findings(demo: ModuleType) -> Any:
    return demo.Findings(
        recording="night",
        channel="C3",
        fault="noise",
        broken_s=(12.0, 16.0),
        rebuilt_s=(9.75, 20.0),
        n_chans=8,
        weights="random:0",
        untrained=True,
        steps=2,
        received=1.0,
        marked=True,
        measured_off_uv=0.0,
        others_rebuilt=(),
        rmse_uv=12.0,
        correlation=0.5,
    )


@pytest.mark.parametrize(
    ("changes", "kept"),
    [({}, True), ({"marked": False}, False), ({"measured_off_uv": 1.0}, False), ({"received": 0.9}, False)],
)
def test_a_demo_that_went_wrong_says_so(
    demo: ModuleType, findings: Any, changes: dict[str, object], *, kept: bool
) -> None:
    """Broken samples without a mark, measured ones that differ, or too few: each makes the demo fail."""
    assert replace(findings, **changes).kept is kept


@pytest.mark.parametrize("untrained", [True, False])
def test_the_chart_says_what_the_weights_are(
    demo: ModuleType, findings: Any, tmp_path: Path, *, untrained: bool
) -> None:
    """Rebuilt samples are drawn in another colour; untrained weights put a line of warning in it as well."""
    times = np.arange(30 * SFREQ) / SFREQ
    wave = 50 * np.sin(times, dtype=np.float32)
    traces = demo.Traces(wave, wave, -wave, (times > 9.75) & (times < 20))
    demo.draw(replace(findings, untrained=untrained), traces, tmp_path / "new" / "repair.png")
    pixels = np.array(Image.open(tmp_path / "new" / "repair.png").convert("RGB")).astype(int)
    is_vermilion = np.asarray((np.abs(pixels - (0xD5, 0x5E, 0x00)) < 12).all(axis=2))
    assert is_vermilion[: -len(pixels) // 4].any()
    assert is_vermilion[-40:].any() == untrained
