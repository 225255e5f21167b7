"""The source of markers against real outlets on loopback."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pylsl
import pytest

from streamnode.sources.lsl import LslQuery
from streamnode.sources.lsl_markers import LslMarkers
from streamnode.testing import UNIX_OFFSET_S
from streamnode.types import Marker


@pytest.fixture(autouse=True)
def _no_rivals(monkeypatch: pytest.MonkeyPatch) -> None:
    """Names are unique here, so nothing is gained by waiting for a second stream that matches."""
    monkeypatch.setattr("streamnode.sources.lsl_resolve._RIVALS_S", 0.0)


@contextmanager
def marker_outlet(name: str, fmt: int = pylsl.cf_string) -> Iterator[pylsl.StreamOutlet]:
    yield pylsl.StreamOutlet(pylsl.StreamInfo(name, "Markers", 1, 0, fmt, source_id=name))


async def first_of(markers: LslMarkers) -> Marker:
    async with asyncio.timeout(10):
        async for marker in markers:
            return marker
    raise AssertionError("markers end only with an error")


async def test_a_clock_that_does_not_answer_holds_up_no_marker(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """While a probe of the sender's clock waits for its answer, markers come with the stamps they were sent with."""
    asked, answer = threading.Event(), threading.Event()
    offsets: list[float | None] = [None]

    def probe(_: pylsl.StreamInlet) -> float | None:
        if offsets:
            return offsets.pop()
        asked.set()
        answer.wait()
        return None

    monkeypatch.setattr("streamnode.sources.lsl_markers.probe", probe)
    monkeypatch.setattr("streamnode.sources.lsl_markers.PROBE_S", 0.0)
    with marker_outlet("unanswered") as outlet:
        async with LslMarkers(LslQuery(name="unanswered"), timeout_s=5) as markers:
            assert outlet.wait_for_consumers(5.0)
            assert await asyncio.to_thread(asked.wait, 5.0)
            for label in ("left", "right"):
                outlet.push_sample([label], sent := pylsl.local_clock())
                assert await first_of(markers) == Marker(label, sent)
            assert not answer.is_set()
        answer.set()
    assert caplog.text.count("is unsynchronised") == 1


async def test_stamps_of_another_clock_are_replaced_by_arrival(caplog: pytest.LogCaptureFixture) -> None:
    """A sender that stamps with the time of day has its markers timed by when they come, the first one, too."""
    with marker_outlet("time of day") as outlet:
        async with LslMarkers(LslQuery(name="time of day"), timeout_s=5) as markers:
            assert outlet.wait_for_consumers(5.0)
            for _ in range(2):
                sent = pylsl.local_clock()
                outlet.push_sample(["go"], sent + UNIX_OFFSET_S)
                assert (await first_of(markers)).t == pytest.approx(sent, abs=0.2)
    assert caplog.text.count("not of LSL's clock") == 1


@pytest.mark.parametrize(
    ("fmt", "value", "label"),
    [
        (pylsl.cf_int64, 12345678901, "12345678901"),
        (pylsl.cf_int32, 7, "7"),
        (pylsl.cf_double64, 2.5, "2.5"),
        (pylsl.cf_string, "Übung", "Übung"),
        (pylsl.cf_string, "Übung".encode("latin-1"), "\N{REPLACEMENT CHARACTER}bung"),
    ],
)
async def test_labels_are_as_sent(fmt: int, value: float | str | bytes, label: str) -> None:
    """Whole numbers are labels in full, however long; text that is no UTF-8 is a marker all the same."""
    name = f"labels {label}"
    with marker_outlet(name, fmt) as outlet:
        async with LslMarkers(LslQuery(name=name), timeout_s=5) as markers:
            assert outlet.wait_for_consumers(5.0)
            outlet.push_sample([value])
            assert (await first_of(markers)).label == label
