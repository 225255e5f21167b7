"""The demo, as far as it goes without a rig."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

DEMO = Path(__file__).parents[1] / "tools" / "demo.py"


def test_a_length_that_is_no_number_is_one_sentence() -> None:
    """DEMO_SECONDS that is not a number is told before anything is started."""
    env = {**os.environ, "DEMO_SECONDS": "abc"}
    ended = subprocess.run([sys.executable, DEMO], env=env, capture_output=True, text=True, timeout=50, check=False)
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr == "DEMO_SECONDS is 'abc': give a number of seconds, such as 20\n"
