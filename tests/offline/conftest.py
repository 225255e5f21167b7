"""What tests of recordings run on."""

from __future__ import annotations

from pathlib import Path

import pytest

from streamnode import build
from streamnode.inference.engine import Engine
from tests.offline import make_plan, make_recording, write_csv


@pytest.fixture(scope="session")
def engine() -> Engine:
    return build.load_engine(make_plan().model)


@pytest.fixture
def csv(tmp_path: Path) -> Path:
    return write_csv(tmp_path / "demo.csv", make_recording(6.0))
