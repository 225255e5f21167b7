"""The MQTT sink against real brokers."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiomqtt
import numpy as np
import pytest
from aiomqtt import ProtocolVersion

from streamnode import wire
from streamnode.errors import ConfigError, SinkError
from streamnode.metrics import Metrics
from streamnode.sinks.mqtt import MqttSink
from streamnode.types import Marker, ModelOutput
from tests.brokers import Mosquitto, amqtt_broker, free_port, issue_certificates, needs_mosquitto
from tests.test_wire import META, RESULT, assert_same

TOPIC = "eeg/lab-3"
PASSWORD = "open sesame"  # noqa: S105  (of brokers that live for one test)
PATIENCE_S = 15.0


def mqtt_sink(url: str, metrics: Metrics | None = None, **options: Any) -> MqttSink:
    """A sink with the options that do not matter filled in."""
    options = {"node": "lab-3", "outputs": ["embedding", "tokens"]} | options
    return MqttSink(url, TOPIC, metrics=metrics or Metrics(), **options)


class Inbox:
    """What a subscriber gets, topic by topic."""

    def __init__(self, client: aiomqtt.Client) -> None:
        self._client = client

    async def get(self, topic: str) -> aiomqtt.Message:
        """The next message on the topic; others are passed over."""
        async with asyncio.timeout(PATIENCE_S):
            async for message in self._client.messages:
                if str(message.topic) == f"{TOPIC}/{topic}":
                    return message
        raise AssertionError("unreachable")

    async def status(self, state: str, of: str = "") -> dict[str, Any]:
        """The next status with this state, `of` a topic below that ends in a slash."""
        while True:
            status: dict[str, Any] = json.loads(bytes((await self.get(f"{of}status")).payload))
            if status["state"] == state:
                return status


@asynccontextmanager
async def subscriber(url: str, version: ProtocolVersion = ProtocolVersion.V5) -> AsyncIterator[Inbox]:
    """A client of its own that listens to all of the sink's topics."""
    parts = urlsplit(url)
    async with aiomqtt.Client(str(parts.hostname), parts.port or 0, protocol=version) as client:
        await client.subscribe(f"{TOPIC}/#", qos=1)
        yield Inbox(client)


@pytest.fixture
async def mosquitto(tmp_path: Path) -> AsyncIterator[Mosquitto]:
    async with Mosquitto(tmp_path) as broker:
        yield broker


def value(metrics: Metrics, name: str) -> float:
    """A metric of the one sink there is."""
    (found,) = (
        sample.value for metric in metrics.registry.collect() for sample in metric.samples if sample.name == name
    )
    return found


@needs_mosquitto
async def test_result_is_sent_at_once(mosquitto: Mosquitto) -> None:
    """With QoS 0 one turn of the event loop passes before the socket has a result, and none is asked for after."""
    async with subscriber(mosquitto.url) as inbox, mqtt_sink(mosquitto.url, Metrics()) as sink:
        publishing = sink.publish(RESULT)
        assert publishing.send(None) is None  # not a future that it would have to wait for
        with pytest.raises(StopIteration):
            publishing.send(None)
        assert_same(wire.decode(bytes((await inbox.get("output")).payload), "cbor"), RESULT)
        assert sink._link is not None
        sock: Any = sink._link._client.socket()
        assert not asyncio.get_running_loop().remove_writer(sock)


@needs_mosquitto
@pytest.mark.parametrize("qos", [0, 1])
@pytest.mark.parametrize("payload", ["cbor", "json"])
async def test_result_arrives_bit_exact(mosquitto: Mosquitto, payload: Any, qos: int) -> None:
    """A subscriber gets the very result, its content type, its expiry and its model."""
    metrics = Metrics()
    async with (
        subscriber(mosquitto.url) as inbox,
        mqtt_sink(mosquitto.url, metrics, payload=payload, qos=qos, expiry_s=9.5) as sink,
    ):
        await sink.publish(RESULT)
        message = await inbox.get("output")
        assert_same(wire.decode(bytes(message.payload), payload), RESULT)
        properties: Any = message.properties
        assert properties.ContentType == wire.CONTENT_TYPE[payload]
        assert properties.MessageExpiryInterval == 10
        assert ("model", "luna-base") in properties.UserProperty
        assert not message.retain
        assert value(metrics, "streamnode_outputs_published_total") == 1
        assert value(metrics, "streamnode_sink_connected") == 1
    assert value(metrics, "streamnode_sink_connected") == 0


@needs_mosquitto
async def test_only_what_was_asked_for_is_published(mosquitto: Mosquitto) -> None:
    """Arrays that are not among `outputs` stay in the node."""
    async with subscriber(mosquitto.url) as inbox, mqtt_sink(mosquitto.url, outputs=["tokens"]) as sink:
        await sink.publish(RESULT)
        decoded = wire.decode(bytes((await inbox.get("output")).payload), "cbor")
        assert_same(decoded, replace(RESULT, embedding=None))


@needs_mosquitto
async def test_raw_has_a_topic_for_each_array(mosquitto: Mosquitto) -> None:
    """Raw payloads are bare float32 on a topic an array, and their user properties give back the result."""
    async with subscriber(mosquitto.url) as inbox, mqtt_sink(mosquitto.url, payload="raw") as sink:
        await sink.publish(RESULT)
        for name, other in (("embedding", "tokens"), ("tokens", "embedding")):
            message = await inbox.get(name)
            properties: Any = message.properties
            only: dict[str, Any] = {other: None}
            assert_same(wire.decode_raw(bytes(message.payload), properties.UserProperty), replace(RESULT, **only))
            assert properties.ContentType == "application/octet-stream"


@needs_mosquitto
async def test_late_subscriber_learns_status_and_meta(mosquitto: Mosquitto) -> None:
    """Who subscribes later still finds the node online and described; after a clean stop, offline since then."""
    async with mqtt_sink(mosquitto.url) as sink:
        await sink.announce(META)
        async with subscriber(mosquitto.url) as inbox:
            message = await inbox.get("meta")
            assert message.retain
            assert wire.decode_meta(bytes(message.payload)) == META
        async with subscriber(mosquitto.url) as inbox:
            online = await inbox.status("online")
            assert online["node"] == "lab-3"
    async with subscriber(mosquitto.url) as inbox:
        offline = await inbox.status("offline")
        assert offline["since"] >= online["since"]


@asynccontextmanager
async def node_process(url: str, topic: str = TOPIC) -> AsyncIterator[asyncio.subprocess.Process]:
    """A process with a sink whose will waits a second, and nothing else; killed when the block ends, if not before."""
    node = (
        "import asyncio\n"
        "from streamnode.metrics import Metrics\n"
        "from streamnode.sinks import mqtt\n"
        "mqtt._WILL_DELAY_S = 1\n"
        "async def main():\n"
        f"    async with mqtt.MqttSink({url!r}, {topic!r}, node='lab-3', outputs=['logits'], metrics=Metrics()):\n"
        "        await asyncio.Event().wait()\n"
        "asyncio.run(main())\n"
    )
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", node)
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        assert await process.wait() == -signal.SIGKILL


@needs_mosquitto
async def test_killed_node_is_reported_offline(mosquitto: Mosquitto) -> None:
    """When the process is killed, the broker publishes the retained `offline` with unknown time."""
    async with subscriber(mosquitto.url) as inbox:
        async with node_process(mosquitto.url):
            await inbox.status("online")
        assert await inbox.status("offline") == {"node": "lab-3", "state": "offline", "since": None}


@needs_mosquitto
@pytest.mark.parametrize("death", [signal.SIGKILL, signal.SIGSTOP])
async def test_restarted_node_is_reported_online(mosquitto: Mosquitto, death: signal.Signals) -> None:
    """The will of a run that was killed, or fell silent in a power cut, does not outlive the start of the next."""
    async with subscriber(mosquitto.url) as inbox, node_process(mosquitto.url) as before:
        await inbox.status("online")
        before.send_signal(death)
        async with node_process(mosquitto.url):
            await inbox.status("online")
            async with node_process(mosquitto.url, f"{TOPIC}/witness"):
                await inbox.status("online", of="witness/")
                if before.returncode is None:
                    before.kill()
            await inbox.status("offline", of="witness/")  # by now the will of `before` had come as well
            async with subscriber(mosquitto.url) as late:
                assert json.loads(bytes((await late.get("status")).payload))["state"] == "online"


def test_client_id_is_that_of_the_node_and_topic() -> None:
    """Another node, or another topic of the same node, is another client; its id fits every broker."""
    sinks = [
        MqttSink("mqtt://127.0.0.1", topic, node=node, outputs=["logits"], metrics=Metrics())
        for topic, node in [("a", "b"), ("a", "b"), ("a", "c"), ("b", "b")]
    ]
    same, again, *others = (sink._client_id for sink in sinks)
    assert same == again
    assert len({same, *others}) == 3
    assert same.isalnum()
    assert len(same) <= 23


@needs_mosquitto
async def test_two_nodes_of_one_name_are_told(mosquitto: Mosquitto, caplog: pytest.LogCaptureFixture) -> None:
    """Nodes that take each other's connection away pause between, and say what may be the cause."""
    async with subscriber(mosquitto.url) as inbox, mqtt_sink(mosquitto.url), mqtt_sink(mosquitto.url):
        for _ in range(6):
            await inbox.status("online")
    assert "reconnecting in 0.1 s; if this goes on, look for another node of this name and topic" in caplog.text


async def until_offline(sink: MqttSink, output: ModelOutput) -> SinkError:
    """Publish until the sink refuses."""
    while True:
        try:
            await sink.publish(output)
        except SinkError as error:
            return error


@needs_mosquitto
@pytest.mark.parametrize("qos", [0, 1])
async def test_broker_dies_and_returns(mosquitto: Mosquitto, qos: int) -> None:
    """A dead broker makes `publish` fail promptly; when it is back, status, meta and results are published again."""
    metrics = Metrics()
    async with mqtt_sink(mosquitto.url, metrics, qos=qos) as sink:
        await sink.announce(META)
        async with asyncio.timeout(2):
            await mosquitto.kill()
            await until_offline(sink, RESULT)
            with pytest.raises(SinkError, match="is offline: the result was dropped and the sink reconnects by itself"):
                await sink.publish(RESULT)
        assert value(metrics, "streamnode_sink_connected") == 0
        await mosquitto.start()
        async with subscriber(mosquitto.url) as inbox:
            await inbox.status("online")
            assert wire.decode_meta(bytes((await inbox.get("meta")).payload)) == META
            await sink.publish(RESULT)
            await inbox.get("output")
        assert value(metrics, "streamnode_sink_connected") == 1


class Fickle:
    """A broker of MQTT 3.1.1 that takes every connection and its first message, and then hangs up.

    Attributes:
        taken: when it took each connection, loop time.
    """

    def __init__(self) -> None:
        self.taken: asyncio.Queue[float] = asyncio.Queue()

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection."""
        with suppress(asyncio.IncompleteReadError):
            while (packet := await self._packet(reader))[0] >> 4 == 1:
                writer.write(b"\x20\x03\0\0\0" if packet[1][6] == ProtocolVersion.V5 else b"\x20\x02\0\0")
            if packet[0] >> 4 == 3:
                self.taken.put_nowait(asyncio.get_running_loop().time())
                behind_topic = 2 + int.from_bytes(packet[1][:2])
                writer.write(b"\x40\x02" + packet[1][behind_topic : behind_topic + 2])
        writer.close()

    async def _packet(self, reader: asyncio.StreamReader) -> tuple[int, bytes]:
        """Type and flags of the next packet, and the rest of it."""
        head, *_ = await reader.readexactly(1)
        length = shift = 0
        more = True
        while more:
            (byte,) = await reader.readexactly(1)
            length, shift, more = length | (byte & 127) << shift, shift + 7, byte > 127
        return head, await reader.readexactly(length)


@asynccontextmanager
async def fickle_broker() -> AsyncIterator[tuple[str, Fickle]]:
    """A `Fickle` and its url."""
    fickle = Fickle()
    async with await asyncio.start_server(fickle, "127.0.0.1", 0) as server:
        yield f"mqtt://127.0.0.1:{server.sockets[0].getsockname()[1]}", fickle


async def test_connections_that_do_not_last_are_made_ever_more_rarely() -> None:
    """A broker that takes the sink and drops it again is asked again at once the first time, then after pauses."""
    async with fickle_broker() as (url, fickle), mqtt_sink(url), asyncio.timeout(PATIENCE_S):
        times = [await fickle.taken.get() for _ in range(5)]
    pauses = [after - before for before, after in pairwise(times)]
    assert pauses[1] > 0.05
    assert pauses[2] > 0.1
    assert pauses[3] > 0.2


async def test_connection_that_lasted_is_made_again_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """However often the broker was restarted before, no pause follows the loss of a connection that lasted."""
    monkeypatch.setattr("streamnode.sinks.mqtt._LASTING_S", 0.0)
    monkeypatch.setattr("streamnode.sinks.mqtt._FIRST_DELAY_S", 1000.0)
    async with fickle_broker() as (url, fickle), mqtt_sink(url), asyncio.timeout(PATIENCE_S):
        for _ in range(5):
            await fickle.taken.get()


@needs_mosquitto
async def test_publish_under_way_fails_with_the_connection(mosquitto: Mosquitto) -> None:
    """Results that wait for an acknowledgement when the broker dies raise at once."""
    async with mqtt_sink(mosquitto.url, qos=1) as sink:
        mosquitto.send_signal(signal.SIGSTOP)
        publishing = [asyncio.ensure_future(sink.publish(RESULT)) for _ in range(3)]
        await asyncio.sleep(0)  # they start
        async with asyncio.timeout(2):
            await mosquitto.kill()
            for error in await asyncio.gather(*publishing, return_exceptions=True):
                assert isinstance(error, SinkError)
                assert "did not take the result (the connection was lost)" in str(error)


@needs_mosquitto
async def test_hung_broker_does_not_hold_up_the_stop(mosquitto: Mosquitto, caplog: pytest.LogCaptureFixture) -> None:
    """A broker that no longer answers delays the end of the block by two seconds at most, and is told of."""
    async with asyncio.timeout(3):
        async with mqtt_sink(mosquitto.url):
            mosquitto.send_signal(signal.SIGSTOP)
        mosquitto.send_signal(signal.SIGCONT)
    assert "left without a goodbye" in caplog.text


@needs_mosquitto
async def test_cancellation_disconnects(mosquitto: Mosquitto) -> None:
    """A cancelled node still says goodbye, and the cancellation is not swallowed."""
    async with subscriber(mosquitto.url) as inbox:

        async def node() -> None:
            async with mqtt_sink(mosquitto.url):
                await asyncio.Event().wait()

        running = asyncio.ensure_future(node())
        await inbox.status("online")
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        await inbox.status("offline")


@needs_mosquitto
async def test_error_in_the_block_passes_unwrapped(mosquitto: Mosquitto) -> None:
    """An error of the node's own reaches the caller as it is, not in a group."""
    with pytest.raises(RuntimeError, match="mine"):
        async with mqtt_sink(mosquitto.url):
            raise RuntimeError("mine")


@pytest.fixture
async def guarded(tmp_path: Path) -> AsyncIterator[Mosquitto]:
    """A broker that knows two users: `writer` may write the status and nothing else, `stranger` nothing at all."""
    passwords, acl = tmp_path / "passwords", tmp_path / "acl"
    acl.write_text(f"user writer\ntopic write {TOPIC}/status\n")
    passwords.touch(0o600)
    passwords.write_text("".join(f"{user}:{PASSWORD}\n" for user in ("writer", "stranger")))
    await asyncio.to_thread(subprocess.run, ["mosquitto_passwd", "-U", str(passwords)], check=True)
    async with Mosquitto(
        tmp_path, ["allow_anonymous false", f"password_file {passwords}", f"acl_file {acl}"]
    ) as broker:
        yield broker


@needs_mosquitto
@pytest.mark.parametrize(
    ("credentials", "who"),
    [({"username": "writer", "password": "wrong-secret"}, "user 'writer'"), ({}, "an anonymous client")],
)
async def test_wrong_credentials_end_the_start(guarded: Mosquitto, credentials: dict[str, Any], who: str) -> None:
    """A refused user is told at once, without the password, and not tried again."""
    async with asyncio.timeout(2):
        with pytest.raises(
            SinkError, match=rf"refused {who} \(Not authorized\): correct the sink's username"
        ) as caught:
            async with mqtt_sink(guarded.url, **credentials):
                pass
    assert "wrong-secret" not in repr(caught.value)


@needs_mosquitto
async def test_forbidden_topics_are_told(guarded: Mosquitto) -> None:
    """What the broker's access list forbids raises, for meta and for results, and is not counted as published."""
    metrics = Metrics()
    async with mqtt_sink(guarded.url, metrics, qos=1, username="writer", password=PASSWORD) as sink:
        with pytest.raises(SinkError, match=r"refused eeg/lab-3/meta \(Not authorized\): allow user 'writer' to write"):
            await sink.announce(META)
        with pytest.raises(
            SinkError, match=r"refused eeg/lab-3/output \(Not authorized\): allow user 'writer' to write"
        ):
            await sink.publish(RESULT)
    assert value(metrics, "streamnode_outputs_published_total") == 0


@needs_mosquitto
async def test_forbidden_status_ends_the_start(guarded: Mosquitto) -> None:
    """A user who may write nothing is told before the first result."""
    with pytest.raises(SinkError, match=r"refused eeg/lab-3/status \(Not authorized\): allow user 'stranger'"):
        async with mqtt_sink(guarded.url, username="stranger", password=PASSWORD):
            pass


@needs_mosquitto
@pytest.mark.parametrize("qos", [0, 1])
async def test_result_larger_than_the_broker_takes_is_refused(tmp_path: Path, qos: int) -> None:
    """All that fits into the largest packet that the broker takes arrives; what does not is told with both sizes."""
    metrics, n_sent = Metrics(), 0
    async with (
        Mosquitto(tmp_path, ["allow_anonymous true", "max_packet_size 2000"]) as broker,
        subscriber(broker.url) as inbox,
        mqtt_sink(broker.url, metrics, qos=qos, outputs=["embedding"]) as sink,
    ):
        refused: SinkError | None = None
        while refused is None:
            try:
                await sink.publish(replace(RESULT, seq=n_sent, embedding=np.zeros(300 + n_sent, np.float32)))
                n_sent += 1
            except SinkError as error:
                refused = error
        told = re.search(
            r"refused eeg/lab-3/output \(a packet of (\d+) bytes, of which it takes 2000\): publish fewer outputs, or "
            "raise the broker's limit$",
            str(refused),
        )
        assert told
        assert 2000 < int(told[1]) <= 2004  # one float more than fits
        with pytest.raises(SinkError, match="refused eeg/lab-3/meta"):
            await sink.announce(replace(META, signal=("x" * 2000,)))
        assert sink._meta is None  # or no later connection would come about
        for seq in range(n_sent):
            assert wire.decode(bytes((await inbox.get("output")).payload), "cbor").seq == seq
    assert n_sent
    assert value(metrics, "streamnode_outputs_published_total") == n_sent


@needs_mosquitto
@pytest.mark.parametrize(
    ("setting", "advice"),
    [
        ("max_qos 0", "let it take QoS 1, with which status and meta are sent"),
        ("retain_available false", "let it keep retained messages, which status and meta are"),
    ],
)
async def test_broker_that_lacks_what_status_needs_ends_the_start(tmp_path: Path, setting: str, advice: str) -> None:
    """A broker without QoS 1 or retained messages is not asked for ever, but told of."""
    async with Mosquitto(tmp_path, ["allow_anonymous true", setting]) as broker:
        with pytest.raises(SinkError, match=rf"refused an anonymous client \(.*\): {advice}"):
            async with mqtt_sink(broker.url, timeout_s=PATIENCE_S):
                pass


@needs_mosquitto
@pytest.mark.parametrize("qos", [0, 1])
async def test_names_that_mqtt_forbids_arrive(mosquitto: Mosquitto, qos: Any) -> None:
    """Control characters in names, markers and channels do not end the connection, as raw payload or not."""
    odd = replace(RESULT, stream="a\tb", bad_channels=("F\x7fz",), marker=Marker("go\x85\uffff", 1.0))
    for payload, stream in (("raw", "a\ufffdb"), ("cbor", "a\tb")):
        async with subscriber(mosquitto.url) as inbox, mqtt_sink(mosquitto.url, payload=payload, qos=qos) as sink:
            await sink.publish(odd)
            message = await inbox.get("embedding" if payload == "raw" else "output")
            properties: Any = message.properties
            body = bytes(message.payload)
            got = wire.decode_raw(body, properties.UserProperty) if payload == "raw" else wire.decode(body, "cbor")
        assert (got.stream, got.bad_channels, got.marker) == (stream, odd.bad_channels, odd.marker)


@needs_mosquitto
async def test_sinks_of_two_brokers_have_two_names(tmp_path: Path) -> None:
    """One topic on two brokers is two sinks: when one broker dies, just its sink is not connected."""
    metrics = Metrics()
    async with (
        Mosquitto(tmp_path) as left,
        Mosquitto(tmp_path) as right,
        mqtt_sink(left.url, metrics) as dying,
        mqtt_sink(right.url, metrics) as living,
    ):
        await left.kill()
        await until_offline(dying, RESULT)
        connected = {
            sink.name: metrics.registry.get_sample_value("streamnode_sink_connected", {"sink": sink.name})
            for sink in (dying, living)
        }
    assert connected == {f"mqtt:127.0.0.1:{left.port}/{TOPIC}": 0, f"mqtt:127.0.0.1:{right.port}/{TOPIC}": 1}


@needs_mosquitto
@pytest.mark.parametrize("payload", ["cbor", "raw"])
async def test_proxy_without_its_broker_is_waited_for(mosquitto: Mosquitto, payload: Any) -> None:
    """Who hangs up because the broker behind is still starting is not taken for a broker of MQTT 3.1.1."""
    turned_away: list[asyncio.StreamWriter] = []

    async def proxy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(turned_away) < 5:
            turned_away.append(writer)
            writer.close()
            return
        there, back = await asyncio.open_connection("127.0.0.1", mosquitto.port)
        await asyncio.gather(_pump(reader, back), _pump(there, writer))

    async with (
        await asyncio.start_server(proxy, "127.0.0.1", 0) as server,
        subscriber(mosquitto.url) as inbox,
        mqtt_sink(f"mqtt://127.0.0.1:{server.sockets[0].getsockname()[1]}", payload=payload) as sink,
    ):
        await sink.publish(RESULT)
        message = await inbox.get("embedding" if payload == "raw" else "output")
    properties: Any = message.properties
    assert properties.ContentType == wire.CONTENT_TYPE[payload]


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(ConnectionError):
        while data := await reader.read(4096):
            writer.write(data)
    writer.close()


@needs_mosquitto
async def test_tls(tmp_path: Path) -> None:
    """TLS works with the authority's file, and every way it cannot work is told in a sentence at once."""
    certificates = issue_certificates(tmp_path)
    async with Mosquitto(tmp_path, ["allow_anonymous true", *certificates.settings]) as broker:
        url = broker.url.replace("mqtt://", "mqtts://")
        async with mqtt_sink(url, ca_file=certificates.ca, qos=1) as sink:
            await sink.publish(RESULT)
        with pytest.raises(SinkError, match=r"certificate that is not trusted \(unable to get .*\): set ca_file"):
            async with mqtt_sink(url):
                pass
        with pytest.raises(SinkError, match=r"not trusted \(Hostname mismatch.*\): .* url to the host it was issued"):
            async with mqtt_sink(url.replace("127.0.0.1", "localhost"), ca_file=certificates.ca):
                pass


async def test_tls_to_a_plain_port_is_told() -> None:
    """A server that does not speak TLS is told as such at once."""

    async def plain(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 this is not TLS\r\n")
        await reader.read()
        writer.close()

    async with await asyncio.start_server(plain, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(SinkError, match=r"does not speak TLS as asked \(.*\): correct the port, or use mqtt://"):
            async with mqtt_sink(f"mqtts://127.0.0.1:{port}"):
                pass


async def test_amqtt_gets_mqtt_3_1_1() -> None:
    """A broker without MQTT 5 gets the same results, status and meta over 3.1.1."""
    async with amqtt_broker() as url, mqtt_sink(url, qos=1, expiry_s=5.0) as sink:
        await sink.announce(META)
        async with subscriber(url, ProtocolVersion.V311) as inbox:
            await inbox.status("online")
            assert wire.decode_meta(bytes((await inbox.get("meta")).payload)) == META
            await sink.publish(RESULT)
            assert_same(wire.decode(bytes((await inbox.get("output")).payload), "cbor"), RESULT)


async def test_raw_needs_mqtt_5() -> None:
    """Raw payloads on a 3.1.1 broker are refused, for nobody could tell what they are."""
    async with amqtt_broker() as url:
        with pytest.raises(ConfigError, match=r"speaks only MQTT 3\.1\.1, .*: use payload cbor"):
            async with mqtt_sink(url, payload="raw"):
                pass


async def test_unreachable_broker_is_told_in_time() -> None:
    """Nobody at the port: the sink tries until its timeout, then says what to do."""
    port = free_port()
    broker = rf"mqtt broker at 127\.0\.0\.1:{port}"
    with pytest.raises(SinkError, match=rf"{broker} did not accept a connection for 0\.3 s \(Connection refused\): st"):
        async with asyncio.timeout(2), mqtt_sink(f"mqtt://127.0.0.1:{port}", timeout_s=0.3):
            pass


async def test_silent_broker_is_told_in_time() -> None:
    """A port that accepts but never answers ends in the same sentence, and no socket is left behind."""
    hung_up = asyncio.Event()

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        hung_up.set()
        writer.close()

    async with await asyncio.start_server(listen, "127.0.0.1", 0) as server, asyncio.timeout(2):
        with pytest.raises(SinkError, match=r"did not accept a connection for 0\.3 s \(no answer\)"):
            async with mqtt_sink(f"mqtt://127.0.0.1:{server.sockets[0].getsockname()[1]}", timeout_s=0.3):
                pass
        await hung_up.wait()


async def test_connection_that_comes_too_late_is_closed(tmp_path: Path) -> None:
    """When a slow broker is through with TLS after the sink has given up, no socket is left behind either."""
    certificates = issue_certificates(tmp_path)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificates.cert, certificates.key)
    given_up = threading.Event()

    def dawdle(server: socket.socket) -> None:
        connection, _ = server.accept()
        given_up.wait(PATIENCE_S)
        with context.wrap_socket(connection, server_side=True) as tls:
            tls.settimeout(PATIENCE_S)
            while tls.recv(4096):
                pass

    with socket.create_server(("127.0.0.1", 0)) as server:
        dawdling = asyncio.ensure_future(asyncio.to_thread(dawdle, server))
        url = f"mqtts://127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(SinkError, match=r"did not accept a connection for 0\.3 s \(no answer\)"):
            async with mqtt_sink(url, ca_file=certificates.ca, timeout_s=0.3):
                pass
        given_up.set()
        await dawdling


async def test_start_waits_for_the_broker() -> None:
    """With no timeout the sink goes on trying until there is a broker that takes it."""
    turned_away = asyncio.Event()

    async def hang_up(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()
        turned_away.set()

    async with asyncio.timeout(PATIENCE_S):
        async with await asyncio.start_server(hang_up, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            sink = mqtt_sink(f"mqtt://127.0.0.1:{port}", timeout_s=None)
            starting = asyncio.ensure_future(sink.__aenter__())
            await turned_away.wait()
        async with amqtt_broker(port):
            await starting
            await sink.publish(RESULT)
            await sink.__aexit__()


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("127.0.0.1:1883", "write it as mqtt://host:port or mqtts://host:port"),
        ("http://127.0.0.1", "write it as mqtt://host:port or mqtts://host:port"),
        ("mqtt://", "write it as mqtt://host:port or mqtts://host:port"),
        ("mqtt://127.0.0.1:seven", "cannot be read .*: write it as mqtt://host:port"),
        ("mqtt://broker..local", "no host by that name"),
        ("mqtts://" + 64 * "a" + ".local", "no host by that name"),
        ("mqtt://127.0.0.1/eeg", "goes on after the port: the topic has a key of its own"),
        ("mqtt://me:hunter2@127.0.0.1", "set username and password: {env: NAME} instead"),
        ("mqtt://me:hunter2/x@127.0.0.1", "set username and password: {env: NAME} instead"),
    ],
)
def test_wrong_url_is_told(url: str, sentence: str) -> None:
    """A url that cannot work is refused with how to write it, and without the password in it."""
    with pytest.raises(ConfigError, match=sentence) as caught:
        mqtt_sink(url)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("topic", ["", "/eeg", "eeg/", "eeg/#", "+/eeg", "eeg\t1", "eeg\x85", "eeg\uffff"])
def test_wrong_topic_is_told(topic: str) -> None:
    """A topic nobody can publish to is refused."""
    with pytest.raises(ConfigError, match="it needs a name without"):
        MqttSink("mqtt://127.0.0.1", topic, node="lab-3", outputs=["embedding"], metrics=Metrics())


@pytest.mark.parametrize(
    ("url", "options", "sentence"),
    [
        ("mqtt://127.0.0.1", {"password": "hunter2"}, "has a password but no username"),
        ("mqtt://127.0.0.1", {"ca_file": Path("ca.pem")}, "has a ca_file but its url is not mqtts://"),
        ("mqtts://127.0.0.1", {"ca_file": Path("absent.pem")}, r"absent.pem cannot be used \(No such file"),
        ("mqtts://127.0.0.1", {"ca_file": Path(__file__)}, "cannot be used .*: give a PEM file"),
    ],
)
def test_options_that_do_not_fit_are_told(url: str, options: dict[str, Any], sentence: str) -> None:
    """Options that contradict each other or name a wrong file are refused before anything connects."""
    with pytest.raises(ConfigError, match=sentence):
        mqtt_sink(url, **options)
