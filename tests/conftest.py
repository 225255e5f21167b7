"""What all tests share: LSL that never leaves loopback, and the real recordings.

liblsl reads its configuration at the first use, so it is put in place while this file is imported, before any test
module is; subprocesses and other LSL libraries inherit it.
"""

import logging
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from streamnode.testing import isolate_lsl

_lsl_folder = tempfile.TemporaryDirectory(prefix="streamnode-lsl-")
isolate_lsl(Path(_lsl_folder.name), session_id=f"test-{os.getpid()}")


@pytest.fixture(scope="session", autouse=True)
def lsl_on_loopback() -> Iterator[Path]:
    """The LSL configuration in force: loopback only, a SessionID of this process."""
    yield Path(os.environ["LSLAPICFG"])
    _lsl_folder.cleanup()


@pytest.fixture(autouse=True)
def log_level() -> Iterator[None]:
    """Every test begins with the log as it is without the command line, which sets what it shows for the process."""
    yield
    logging.getLogger("streamnode").setLevel(logging.NOTSET)


@pytest.fixture(scope="session")
def isolated_lsl(lsl_on_loopback: Path) -> Path:
    """The same, in place of the plugin's, which would come after the imports."""
    return lsl_on_loopback


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Folder of the real recordings: `$STREAMNODE_DATA`, or `shared/data` beside the repository."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("STREAMNODE_DATA", beside))
    if not folder.is_dir():
        pytest.skip(f"the real recordings are not at {folder}: set STREAMNODE_DATA to their folder")
    return folder
