"""Promises of `streamnode.inference.batching`: who passes together, and when; all on a clock of the test's own."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamnode.inference.batching import Lobby, Request


def request(
    stream: str,
    t: float = 0.0,
    *,
    group: str = "luna",
    hop_s: float = 1.0,
    expires: float = math.inf,
    max_batch: int = 8,
) -> Request[str]:
    t_next = t + hop_s if hop_s else math.inf
    return Request(f"{stream} at {t:g}", stream, group, t, t_next, hop_s, expires, max_batch)


def test_all_of_a_group_pass_with_its_oldest() -> None:
    """Whoever waits longest decides the group, of which all pass in order, up to the largest batch."""
    lobby: Lobby[str] = Lobby()
    for stream, group in zip("abcdef", ("x", "y", "x", "x", "x", "y"), strict=True):
        lobby.add(request(stream, group=group, max_batch=3))
    taken = [lobby.take() for _ in range(4)]
    assert taken == [["a at 0", "c at 0", "d at 0"], ["b at 0", "f at 0"], ["e at 0"], []]


def test_lone_stream_never_waits() -> None:
    """A stream that has its group to itself is not held up, epoch after epoch."""
    lobby: Lobby[str] = Lobby()
    for hop in range(5):
        lobby.add(request("a", float(hop)))
        assert lobby.wait_s(float(hop)) == 0
        assert lobby.take() == [f"a at {hop}"]


def test_nothing_to_do_waits_for_ever() -> None:
    """Without a request there is no time at which to look again."""
    lobby: Lobby[str] = Lobby()
    assert lobby.wait_s(0.0) == math.inf
    assert lobby.take() == []


def together_at_first(*streams: str, hop_s: float = 1.0) -> Lobby[str]:
    """A lobby that has seen an epoch of each stream at time 0, and none that waits."""
    lobby: Lobby[str] = Lobby()
    for stream in streams:
        lobby.add(request(stream, hop_s=hop_s))
    lobby.take()
    return lobby


@pytest.mark.parametrize(("hop_s", "patience"), [(1.0, 0.00075), (0.005, 0.0005)])
def test_company_that_is_due_is_waited_for_a_little(hop_s: float, patience: float) -> None:
    """0.75 ms if nobody comes, and no more than a tenth of the hop; then the pass goes without."""
    lobby = together_at_first("a", "b", hop_s=hop_s)
    lobby.add(request("a", hop_s, hop_s=hop_s))
    assert lobby.wait_s(hop_s) == pytest.approx(patience)
    assert lobby.wait_s(hop_s + patience / 2) == pytest.approx(patience / 2)
    assert lobby.wait_s(hop_s + patience) == 0


def test_company_that_keeps_coming_is_waited_for_longer() -> None:
    """Each that comes has the others waited for anew, but the first waits for 2 ms at most."""
    lobby = together_at_first("a", "b", "c", "d", "e")
    for stream, t, wait_s in (("a", 1.0, 0.00075), ("b", 1.0007, 0.00075), ("c", 1.0014, 0.0006), ("d", 1.002, 0.0)):
        lobby.add(request(stream, t))
        assert lobby.wait_s(t) == pytest.approx(wait_s)
    assert lobby.take() == ["a at 1", "b at 1.0007", "c at 1.0014", "d at 1.002"]


def test_pass_begins_when_all_are_there() -> None:
    """The last one that is due ends the wait."""
    lobby = together_at_first("a", "b", "c")
    for stream, wait_s in (("c", 0.00075), ("a", 0.00025), ("b", 0.0)):
        lobby.add(request(stream, 1.0))
        assert lobby.wait_s(1.0005 if stream == "a" else 1.0) == pytest.approx(wait_s)
    assert lobby.take() == ["c at 1", "a at 1", "b at 1"]


def test_full_pass_waits_for_nobody() -> None:
    """As many as may pass together are as many as there need be."""
    lobby: Lobby[str] = Lobby()
    for stream in "abc":
        lobby.add(request(stream, max_batch=2))
    while lobby.take():
        pass
    lobby.add(request("a", 1.0, max_batch=2))
    lobby.add(request("b", 1.0, max_batch=2))
    assert lobby.wait_s(1.0) == 0


def test_only_company_is_waited_for() -> None:
    """Not for a stream of another group, one that is due at another time, one without rhythm, or one that is gone."""
    lobby: Lobby[str] = Lobby()
    for known in (request("a"), request("other", group="eegpt"), request("later", 0.5), request("marked", hop_s=0)):
        lobby.add(known)
    while lobby.take():
        pass
    lobby.add(request("a", 1.0))
    assert lobby.wait_s(1.0) == 0

    lobby = together_at_first("a", "gone")
    for hop in (1.0, 2.0):
        lobby.add(request("a", hop))
        assert lobby.wait_s(hop) == pytest.approx(0.00075 if hop == 1 else 0)
        lobby.take()


def test_wait_leaves_time_before_a_deadline() -> None:
    """An epoch that is worth little more time does not spend it on company."""
    lobby = together_at_first("a", "b")
    lobby.add(request("a", 1.0, expires=1.0025))
    assert lobby.wait_s(1.0) == pytest.approx(0.0005)
    lobby = together_at_first("a", "b")
    lobby.add(request("a", 1.0, expires=1.001))
    assert lobby.wait_s(1.0) == 0


def test_late_ones_leave_exactly_after_their_time() -> None:
    """At its last moment an epoch still passes; a moment later it does not, whatever its group."""
    lobby: Lobby[str] = Lobby()
    lobby.add(request("a", expires=1.0))
    lobby.add(request("b", expires=2.0, group="eegpt"))
    lobby.add(request("c"))
    assert lobby.take_late(1.0) == []
    assert lobby.take_late(1.5) == ["a at 0"]
    assert lobby.take_late(2.5) == ["b at 0"]
    assert lobby.take() == ["c at 0"]


def test_newer_epoch_takes_the_place_of_the_older() -> None:
    """Replaced while it waits, a stream keeps its turn, however often; what has begun cannot be withdrawn."""
    lobby: Lobby[str] = Lobby()
    lobby.add(request("a", group="x"))
    lobby.add(request("b", group="y"))
    for hop in (1.0, 2.0):
        assert lobby.withdraw("a") is not None
        lobby.add(request("a", hop, group="x"))
    assert lobby.take() == ["a at 2"]
    assert lobby.withdraw("a") is None


@given(st.data())
def test_no_stream_starves(data: st.DataObject) -> None:
    """With a model for each stream, passes of nearly a hop and only the latest epoch of each, every stream has turns.

    As many passes go by before a stream has its turn as there are streams, whatever the order of arrival.
    """
    n_streams = data.draw(st.integers(2, 6))
    lobby: Lobby[int] = Lobby()
    waits = [0] * n_streams
    for hop in range(30):
        for stream in data.draw(st.permutations(range(n_streams))):
            lobby.withdraw(stream)
            lobby.add(Request(stream, stream, f"model {stream}", float(hop), hop + 1.0, 1.0))
        (passes,) = lobby.take()
        waits = [0 if stream == passes else wait + 1 for stream, wait in enumerate(waits)]
        assert max(waits) <= n_streams


def test_streams_that_went_away_are_forgotten() -> None:
    """What is remembered of streams does not grow with all that ever were."""
    lobby: Lobby[str] = Lobby()
    for number in range(100):
        lobby.add(request(f"stream {number}", 10.0 * number))
        lobby.withdraw(f"stream {number}")
        lobby.add(request(f"stream {number}", 10.0 * number + 0.5))
        lobby.take()
    assert len(lobby._expected) + len(lobby._kept) <= 2
