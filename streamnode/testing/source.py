"""Plays one life of a timeline over real LSL, and writes down what it does: `python -m streamnode.testing.source`.

Every line on standard output is a JSON object with `life` and `event`: `open` when the stream can be found, `play` with
`t0` (LSL time at which the timeline begins), `push` with the time `t` and the `ranges` of sample numbers just sent,
`end`. The first life begins with its first consumer, or with a line on standard input; the later ones read `t0` there.

Deadlines count from `t0`, so that lateness never adds up. A life that is to be killed ends without a goodbye.
"""

from __future__ import annotations

import argparse
import ctypes
import heapq
import json
import os
import socket
import struct
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pylsl

from streamnode.errors import ConfigError, StreamLost, StreamnodeError
from streamnode.testing.render import Indices, Life, Push, render
from streamnode.testing.timeline import BlockedProbes, Timeline

_LEAD_S = 0.1  # from the decision to play to the first sample
_PATIENCE_S = 60.0
_LINGER_S = (
    2.0  # an outlet takes along what it has not delivered: after the end it stays until all have gone, or so long
)
_LOOK_S = 0.01
_KILLED = 137

_SO_ATTACH_FILTER = 26  # of Linux; the socket module does not name it
_DROP_PROBES = (  # classic BPF on a UDP datagram: 8 bytes of header, then "LSL:timedata" for a probe
    (0x20, 0, 0, 12),  # load the four bytes after "LSL:"
    (0x15, 0, 1, int.from_bytes(b"time", "big")),  # go on if they are equal, else skip one
    (0x06, 0, 0, 0),  # drop
    (0x06, 0, 0, 0xFFFFFFFF),  # pass
)
_PASS_ALL = _DROP_PROBES[-1:]

Step = tuple[float, int, Callable[[], None]]


def play(timeline: Timeline, *, life: int, name: str, source_id: str, on_line: bool, speed: float) -> None:
    """Play one life from start to death or end.

    Args:
        timeline: what to play.
        life: which of its lives.
        name: LSL name of the stream.
        source_id: LSL source id of the stream.
        on_line: begin with a line on standard input instead of the first consumer.
        speed: times real time; the stamps stay those of the timeline.

    Raises:
        ConfigError: `speed` is not above 0.
        StreamLost: no consumer came, or the standard input ended before a line.
    """
    if not speed > 0:
        raise ConfigError(f"a speed of {speed:g} plays nothing: give a number above 0, 1 for real time")
    this = render(timeline)[1].lives[life]
    say = partial(_say, life)
    if life > 0:
        t0 = float(_line())
        _sleep_until(t0 + this.begin_s / speed)
    outlet = _open(this, name, source_id)
    if _is_blocked(timeline, this.begin_s):
        block_probes(blocked=True)
    say("open", uid=outlet.get_info().uid())
    if life == 0:
        _await_begin(outlet, on_line=on_line)
        t0 = pylsl.local_clock() + _LEAD_S
    say("play", t0=t0)
    for t, _, step in _steps(timeline, this, t0, partial(_send, outlet, say)):
        _sleep_until(t0 + (t - t0) / speed)
        step()
    if this.end_s < timeline.duration_s:
        _sleep_until(t0 + this.end_s / speed)
        os._exit(_KILLED)
    say("end")
    _linger(outlet)


def _steps(timeline: Timeline, life: Life, t0: float, send: Callable[[Push], None]) -> Iterator[Step]:
    """What to do and when, in LSL seconds at speed 1."""
    pushes = (push for push in render(timeline, t0)[0] if push.life == life.number)
    sends = ((push.t_push, 1, partial(send, push)) for push in pushes)
    probes = [event for event in timeline.events if isinstance(event, BlockedProbes)]
    changes = sorted(time for event in probes for time in (event.at_s, event.at_s + event.duration_s))
    toggles = (
        (t0 + t, 0, partial(block_probes, blocked=_is_blocked(timeline, t)))
        for t in changes
        if life.begin_s <= t < min(life.end_s, timeline.duration_s)
    )
    return heapq.merge(sends, toggles, key=lambda step: step[:2])


def _is_blocked(timeline: Timeline, t: float) -> bool:
    return any(
        event.at_s <= t < event.at_s + event.duration_s for event in timeline.events if isinstance(event, BlockedProbes)
    )


def block_probes(*, blocked: bool) -> None:
    """Have all UDP sockets of this process drop LSL's clock probes and nothing else, or no longer.

    Raises:
        ConfigError: this is not Linux.
    """
    if sys.platform != "linux":
        raise ConfigError("clock probes can be blocked on Linux only: leave BlockedProbes out of the timeline")
    steps = _DROP_PROBES if blocked else _PASS_ALL
    program = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in steps))
    attach = struct.pack("HL", len(steps), ctypes.addressof(program))
    for descriptor in sorted(Path("/proc/self/fd").iterdir()):
        try:
            own = socket.socket(fileno=os.dup(int(descriptor.name)))
        except OSError:  # a file, or no longer there
            continue
        with own:
            if own.type == socket.SOCK_DGRAM and own.family in {socket.AF_INET, socket.AF_INET6}:
                own.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, attach)


def _open(life: Life, name: str, source_id: str) -> pylsl.StreamOutlet:
    info = pylsl.StreamInfo(name, life.stype, len(life.ch_names), life.sfreq, pylsl.cf_float32, source_id=source_id)
    channels = info.desc().append_child("channels")
    for label in life.ch_names:
        channel = channels.append_child("channel")
        for key, value in (("label", label), ("type", "EEG"), ("unit", life.unit)):
            channel.append_child_value(key, value)
    return pylsl.StreamOutlet(info)


def _await_begin(outlet: pylsl.StreamOutlet, *, on_line: bool) -> None:
    if on_line:
        _line()
    elif not outlet.wait_for_consumers(_PATIENCE_S):
        raise StreamLost(f"nobody has connected for {_PATIENCE_S:g} s: start the receiver, or ask for a line instead")


def _line() -> str:
    line = sys.stdin.readline()
    if not line:
        raise StreamLost("the standard input ended before it said when to begin: keep it open, or write a line to it")
    return line


def _send(outlet: pylsl.StreamOutlet, say: Callable[..., None], push: Push) -> None:
    outlet.push_chunk(push.data, push.stamps.tolist())
    say("push", t=pylsl.local_clock(), ranges=_ranges(push.index))


def _ranges(index: Indices) -> list[list[int]]:
    """Unbroken stretches as their first number and the one after their last."""
    parts = np.split(index, np.flatnonzero(np.diff(index) != 1) + 1)
    return [[int(part[0]), int(part[-1]) + 1] for part in parts]


def _linger(outlet: pylsl.StreamOutlet) -> None:
    until = pylsl.local_clock() + _LINGER_S
    while outlet.have_consumers() and pylsl.local_clock() < until:
        time.sleep(_LOOK_S)


def _sleep_until(t: float) -> None:
    time.sleep(max(0.0, t - pylsl.local_clock()))


def _say(life: int, event: str, **facts: object) -> None:
    sys.stdout.write(json.dumps({"life": life, "event": event, **facts}) + "\n")
    sys.stdout.flush()


def main() -> None:
    """Read the command line and play."""
    parser = argparse.ArgumentParser(prog="python -m streamnode.testing.source", description=__doc__)
    parser.add_argument("timeline", type=Path, help="JSON file, as written by Timeline.to_json")
    parser.add_argument("--life", type=int, default=0, help="which process of the timeline to be, from 0")
    parser.add_argument("--name", default="timeline", help="LSL name")
    parser.add_argument("--source-id", default="timeline", help="LSL source id")
    parser.add_argument("--on-line", action="store_true", help="begin with a line on stdin, not the first consumer")
    parser.add_argument("--speed", type=float, default=1.0, help="times real time")
    options = vars(parser.parse_args())
    try:
        play(Timeline.from_json(options.pop("timeline").read_text("utf-8")), **options)
    except StreamnodeError as error:
        sys.exit(f"{error}")


if __name__ == "__main__":
    main()
