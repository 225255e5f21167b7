"""The plugin from the outside: tests of a stranger who has only installed streamnode."""

import subprocess
import sys
import textwrap
from pathlib import Path

import streamnode.testing

OTHERS = """
def test_lsl_stays_here(isolated_lsl):
    text = isolated_lsl.read_text()
    assert "SessionID = pytest-" in text and "KnownPeers = {127.0.0.1}" in text

def test_clock(virtual_clock):
    virtual_clock.advance(60)
    assert virtual_clock() == 1060
"""


def run_pytest(folder: Path, text: str) -> str:
    (folder / "test_mine.py").write_text(text)
    options = ["-q", "-p", "no:cacheprovider", "-o", "asyncio_mode=auto", "-W", "error"]
    command = [sys.executable, "-m", "pytest", *options, "-o", "asyncio_default_fixture_loop_scope=function"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=50, check=False).stdout


def test_example_of_the_documentation_runs(tmp_path: Path) -> None:
    """The example in the package's docstring is a whole test file that passes, fixtures found by pytest itself."""
    assert streamnode.testing.__doc__ is not None
    paragraphs = streamnode.testing.__doc__.split("\n\n")
    example = "\n\n".join(part for part in paragraphs if part.startswith("    "))
    assert "1 passed" in run_pytest(tmp_path, textwrap.dedent(example))


def test_other_fixtures_need_nothing_else(tmp_path: Path) -> None:
    """Isolation and virtual clock work in a file that imports nothing."""
    assert "2 passed" in run_pytest(tmp_path, OTHERS)


def test_plugin_is_light() -> None:
    """Loaded into every run of pytest, the plugin brings neither LSL nor scipy nor torch with it."""
    code = "import sys, streamnode.testing.plugin; sys.exit(bool({'pylsl', 'torch', 'scipy'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], timeout=30, check=False).returncode == 0
