"""The command line: one verb per job. Every foreseen error is one sentence on stderr and an exit code, no traceback.

Each module here has the verbs of one subject. What a verb needs is imported when it runs: `--help` is instant.
"""

from __future__ import annotations

import errno
import os
import signal
import sys
from collections.abc import Callable

from streamnode.errors import StreamnodeError


def main() -> None:
    """Entry point of the `streamnode` command."""
    usual = signal.signal(signal.SIGINT, signal.SIG_DFL)  # what is interrupted while imported fails in its own words
    from streamnode.aside import leave  # noqa: PLC0415
    from streamnode.cli.app import app  # noqa: PLC0415

    signal.signal(signal.SIGINT, usual)
    leave(_exit_code(app))


def _exit_code(app: Callable[[], None]) -> int:
    try:
        try:
            app()
        finally:
            print(end="", flush=True)  # noqa: T201  (now, while it can be told that it fails)
    except StreamnodeError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        return error.exit_code
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python tries once more when it ends
        why = f"there is no room for what was to be written ({error.strerror}): make some, or write it elsewhere"
        print(f"error: {why}", file=sys.stderr)  # noqa: T201
        return 1
    except SystemExit as done:
        return int(done.code or 0)
    return 0
