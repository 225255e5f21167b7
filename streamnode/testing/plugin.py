"""The fixtures of the testbed; installed with streamnode, pytest finds them by itself."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol
from uuid import uuid4

import pytest

from streamnode.testing.isolation import isolate_lsl
from streamnode.testing.process import TimelineProcess
from streamnode.testing.timeline import Timeline, VirtualClock


class LslSourceFixture(Protocol):
    """What `lsl_source` is: a call makes the device, `async with` switches it on."""

    def __call__(self, timeline: Timeline, *, on_go: bool = False, speed: float = 1.0) -> TimelineProcess:
        """Arguments as of `TimelineProcess`; name and source id are new each time."""
        ...


@pytest.fixture(scope="session")
def isolated_lsl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The LSL configuration of this worker: loopback only, in a session of its own.

    liblsl reads it once, at its first use. Where LSL is used while test modules are imported, call `isolate_lsl` in
    `conftest.py` and override this fixture there.
    """
    folder = tmp_path_factory.mktemp("lsl")
    isolate_lsl(folder, session_id=f"pytest-{uuid4().hex[:12]}")
    return folder / "lsl_api.cfg"


@pytest.fixture
def lsl_source(isolated_lsl: Path) -> LslSourceFixture:  # noqa: ARG001  (to be in force)
    """Makes devices that play a timeline over real LSL, each for an `async with` block."""

    def source(timeline: Timeline, *, on_go: bool = False, speed: float = 1.0) -> TimelineProcess:
        name = f"timeline-{uuid4().hex[:8]}"
        return TimelineProcess(timeline, name=name, source_id=name, on_go=on_go, speed=speed)

    return source


@pytest.fixture
def virtual_clock() -> VirtualClock:
    """A clock at 1000 s that goes on when it is told to."""
    return VirtualClock(1000.0)
