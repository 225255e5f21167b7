"""A device that misbehaves on purpose: scripted faults, over real LSL or on paper, and the truth to hold against them.

As a pytest plugin it gives `lsl_source`, `virtual_clock` and `isolated_lsl`. A receiver under test, in ten lines:

    import asyncio, pylsl
    from streamnode.testing import Gap, Timeline, decode

    async def test_receiver_knows_what_it_missed(lsl_source):
        async with lsl_source(Timeline(sfreq=250, duration_s=1.0, events=(Gap(0.5, 0.1),))) as source:
            (found,) = pylsl.resolve_byprop("source_id", source.source_id, timeout=10)
            inlet = pylsl.StreamInlet(found, recover=False)
            n_sent = source.truth.expected - source.truth.lost
            data, stamps = await asyncio.to_thread(inlet.pull_chunk, 10, n_sent, as_numpy=True)
            assert (decode(data) == source.truth.n_sent.nonzero()[0]).all()

Without LSL, `render` gives the pushes of a timeline and the truth at once: hours of faults, fed in seconds to whatever
is pure, with a `VirtualClock` for what asks for the time. `random_timeline` draws every fault there is.
"""

from streamnode.testing.isolation import isolate_lsl
from streamnode.testing.process import TimelineProcess
from streamnode.testing.render import PER_UNIT, UNIX_OFFSET_S, ZERO_STAMP, Life, Push, Truth, decode, encode, render
from streamnode.testing.timeline import (
    BlockedProbes,
    Bursts,
    Drift,
    Duplicate,
    Event,
    Freeze,
    Gap,
    Jitter,
    NotFinite,
    OutOfOrder,
    Restart,
    Timeline,
    UnixStamps,
    VirtualClock,
    ZeroStamps,
    random_timeline,
)

__all__ = [
    "PER_UNIT",
    "UNIX_OFFSET_S",
    "ZERO_STAMP",
    "BlockedProbes",
    "Bursts",
    "Drift",
    "Duplicate",
    "Event",
    "Freeze",
    "Gap",
    "Jitter",
    "Life",
    "NotFinite",
    "OutOfOrder",
    "Push",
    "Restart",
    "Timeline",
    "TimelineProcess",
    "Truth",
    "UnixStamps",
    "VirtualClock",
    "ZeroStamps",
    "decode",
    "encode",
    "isolate_lsl",
    "random_timeline",
    "render",
]
