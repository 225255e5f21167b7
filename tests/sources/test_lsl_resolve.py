"""Finding the one stream that is meant, among real outlets on loopback."""

import asyncio
import logging
import math
import time
from typing import Any

import pylsl
import pytest

from streamnode.errors import ConfigError, StreamLost
from streamnode.metrics import Metrics
from streamnode.montage import make_montage
from streamnode.sinks.lsl import EegOutlet
from streamnode.sources.lsl import LslSource
from streamnode.sources.lsl_markers import LslMarkers
from streamnode.sources.lsl_resolve import LslQuery, Sighting, connect, resolve, streams_in_sight
from streamnode.types import StreamInfo


def outlet(name: str, source_id: str = "device-1") -> EegOutlet:
    return EegOutlet(StreamInfo(name, source_id, "EEG", 250.0, make_montage(["Cz"])))


async def test_stream_that_answers_is_described() -> None:
    """What is in sight and what is found tell the same of a stream."""
    with outlet("described"):
        (seen,) = [s for s in streams_in_sight(0.7) if s.name == "described"]
        assert Sighting.of(await resolve(LslQuery(name="described"), 5.0)) == seen
    assert (seen.stype, seen.source_id, seen.sfreq) == ("EEG", "device-1", 250.0)
    assert (seen.n_chans, seen.format) == (1, "float32")


@pytest.mark.parametrize("wait_s", [-1.0, math.inf, math.nan])
def test_listening_for_no_length_of_time_is_refused(wait_s: float) -> None:
    """A wait that would have no end is told at once."""
    with pytest.raises(ConfigError, match="cannot be listened for"):
        streams_in_sight(wait_s)


async def test_no_stream_says_what_was_looked_for_and_what_is_there(caplog: pytest.LogCaptureFixture) -> None:
    """Without a match the log, while waiting, and then `StreamLost` name the condition and the streams in sight."""
    caplog.set_level(logging.INFO)
    query = LslQuery(name='Bob\'s "cap"', predicate="channel_count=99")
    said = r"within 1\.2 s .*in sight: name='bystander'.*start the source"
    with outlet("bystander"), pytest.raises(StreamLost, match=said) as lost:
        await resolve(query, 1.2)
    assert query.xpath in str(lost.value)
    assert f"looking for an LSL stream with {query.xpath} (in sight: name='bystander'" in caplog.text


@pytest.mark.parametrize("name", ["plain", "O'Brien", 'a "cap"', "O'Brien's \"cap\""])
async def test_any_name_can_be_asked_for(name: str) -> None:
    """Quotes in names neither break the query nor widen it."""
    with outlet(name), outlet("another"):
        (found,) = pylsl.resolve_bypred(LslQuery(name=name, stype="EEG", source_id="device-1").xpath, 1, 5.0)
        assert found.name() == name


async def test_two_streams_are_refused() -> None:
    """Where two sources match, `ConfigError` names both and the keys that tell them apart."""
    query = LslQuery(stype="EEG", predicate="starts-with(name,'twin')")
    refused = pytest.raises(ConfigError, match=r"'twin-a'.*'twin-b'.*adding source_id or name")
    with outlet("twin-a", "left"), outlet("twin-b", "right"), refused:
        await resolve(query, 5.0)


async def test_streams_of_one_device_are_not_confused() -> None:
    """Two streams that share a device's source id but not their name are two, and refused."""
    query = LslQuery(source_id="serial-7")
    refused = pytest.raises(ConfigError, match=r"'accel'.*'cap'.*adding name to")
    with outlet("cap", "serial-7"), outlet("accel", "serial-7"), refused:
        await resolve(query, 5.0)


async def test_newest_start_of_one_source_wins() -> None:
    """Of two streams with the same source id, as a restart leaves them, the one created last is found."""
    with outlet("restart"), outlet("restart"):
        newest = max(pylsl.resolve_byprop("name", "restart", 2, 5.0), key=lambda info: float(info.created_at()))
        assert (await resolve(LslQuery(name="restart"), 5.0)).uid() == newest.uid()


async def test_waiting_can_be_cancelled_at_once() -> None:
    """Cancelling the wait for a stream takes less than half a second."""
    began = time.monotonic()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.3):
            await resolve(LslQuery(name="nobody"), None)
    assert time.monotonic() - began < 0.8


async def test_stream_that_comes_later_is_found() -> None:
    """Without a time limit the wait lasts until the stream appears."""
    resolving = asyncio.create_task(resolve(LslQuery(name="later"), None))
    await asyncio.sleep(0)
    with outlet("later"):
        async with asyncio.timeout(10):
            assert (await resolving).name() == "later"


@pytest.mark.parametrize("stype", ["EEG", "Markers"])
async def test_stream_that_goes_before_it_is_open_is_looked_for_again(
    stype: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A device that is seen and gone before it can be opened is waited for like one never seen, with one warning."""
    name = f"fleeting {stype}"
    described = pylsl.StreamInfo(name, stype, 1, 250.0, source_id=name)
    described.set_channel_labels(["Cz"])
    outlets, opened, inlet_of = [pylsl.StreamOutlet(described)], list[str](), pylsl.StreamInlet

    def inlet(found: pylsl.StreamInfo, **options: Any) -> pylsl.StreamInlet:
        if not opened:
            outlets.pop()  # which closes it
            outlets.append(pylsl.StreamOutlet(described))
        opened.append(found.uid())
        return inlet_of(found, **options)

    monkeypatch.setattr(pylsl, "StreamInlet", inlet)
    query = LslQuery(name=name)
    source = LslMarkers(query) if stype == "Markers" else LslSource(query, timeout_s=None, metrics=Metrics())
    async with asyncio.timeout(20), source:
        assert opened == [opened[0], outlets[0].get_info().uid()]
    assert caplog.text.count("looking for it again") == 1


async def test_stream_that_cannot_be_opened_in_time_is_lost() -> None:
    """The time limit is one for all attempts, and what is raised tells of the last."""
    tried = list[float]()

    def refused(_: pylsl.StreamInfo) -> None:
        tried.append(time.monotonic())
        raise StreamLost(f"attempt {len(tried)}")

    began = time.monotonic()
    with outlet("closed"), pytest.raises(StreamLost, match="attempt") as lost:
        await connect(LslQuery(name="closed"), 2.0, refused)
    assert str(lost.value) == f"attempt {len(tried)}"
    assert len(tried) > 1
    assert tried[-1] - began >= 2.0
