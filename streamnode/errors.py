"""The five errors of streamnode, one for each remedy. Every message is one sentence that says what to do next."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class StreamnodeError(Exception):
    """Base of all errors a user can act on; the command line prints the message and exits with `exit_code`."""

    exit_code = 1


class ConfigError(StreamnodeError):
    """The configuration is wrong: fix the file."""

    exit_code = 2


class ContractError(StreamnodeError):
    """Stream and model do not fit each other: change one of them."""

    exit_code = 3


class StreamLost(StreamnodeError):  # noqa: N818  (a state of the stream, and the word the field uses)
    """The source went away or was never there: retry."""

    exit_code = 4


class WeightsError(StreamnodeError):
    """The weights file is missing, unreachable or another one than was asked for."""

    exit_code = 5


class SinkError(StreamnodeError):
    """A sink refused or lost what was published: retry, data may be lost."""

    exit_code = 6


@contextmanager
def reaching(path: Path, error: type[StreamnodeError]) -> Iterator[None]:
    """Where the system does not let us at a path, or not even tell whether something is there, say so in our error."""
    try:
        yield
    except OSError as refusal:
        raise error(f"{path} cannot be reached ({refusal.strerror}): check its name and its permissions") from refusal
