"""One connection to an MQTT broker: what aiomqtt 2.5 lacks for a sink that must never hang or lose an error."""

from __future__ import annotations

import asyncio
import math
import socket
import ssl
from typing import Any, Self

import aiomqtt
import paho.mqtt.client as paho
from aiomqtt import ProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

_KEEPALIVE_S = 15
_ANSWER_S = 5.0  # for CONNACK and PUBACK
_UNSUPPORTED_VERSION = 0x84
_TOO_LARGE = 0x95
_WHAT_TO_DO_ABOUT = {
    # client id, user or password, not authorized, banned, method
    **dict.fromkeys((0x85, 0x86, 0x87, 0x8A, 0x8C), "correct the sink's username, password or client_id"),
    0x9A: "let it keep retained messages, which status and meta are",
    0x9B: "let it take QoS 1, with which status and meta are sent",
}


class Refused(aiomqtt.MqttError):
    """The broker acknowledged a message and refused it, or had said that it takes none so large."""

    def __init__(self, topic: str, reason: str, *, too_large: bool) -> None:
        super().__init__(reason)
        self.topic, self.too_large = topic, too_large


class HungUp(aiomqtt.MqttError):
    """The broker closed the connection before it answered."""


class Link(aiomqtt.Client):
    """One connection, from being entered to being lost or abandoned; never entered twice.

    It replaces what aiomqtt 2.5 does not do: `send` fails as soon as the connection does and tells a refusal, a broker
    that hangs up instead of answering is noticed at once, and no failure or cancellation leaves a socket behind.
    """

    def __init__(self, host: str, port: int, version: ProtocolVersion, **options: Any) -> None:
        nodelay = [(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)]
        super().__init__(
            host,
            port,
            protocol=version,
            timeout=_ANSWER_S,
            keepalive=_KEEPALIVE_S,
            socket_options=nodelay,
            **options,
        )
        self.version = version
        self._abandoned = False
        self._largest: int | None = None  # packet that the broker takes, bytes
        self._acknowledged: dict[int, asyncio.Future[ReasonCode]] = {}

    async def __aenter__(self) -> Self:
        try:
            return await super().__aenter__()
        except BaseException:
            self.abandon()
            raise

    async def send(
        self, topic: str, payload: bytes, *, qos: int, properties: Properties | None, retain: bool = False
    ) -> None:
        """Return once the broker has the message (QoS 1) or the socket has (QoS 0).

        Raises:
            aiomqtt.MqttError: the connection was lost, no acknowledgement came, or (`Refused`) a bad one, or the
                message is larger than the broker said it takes.
        """
        size = self._packet_size(topic, payload, qos, properties)
        if self._largest is not None and size > self._largest:
            raise Refused(topic, f"a packet of {size} bytes, of which it takes {self._largest}", too_large=True)
        info = self._client.publish(topic, payload, qos, retain, properties)
        if info.rc != paho.MQTT_ERR_SUCCESS:
            raise aiomqtt.MqttError(paho.error_string(info.rc))
        acknowledged = self._acknowledged[info.mid] = self._loop.create_future()
        try:
            await asyncio.sleep(0)  # the other sinks of this result go first, lest they wait for a system call
            self._client.loop_write()  # not when the loop finds the socket writable, for which it takes several turns
            async with asyncio.timeout(_ANSWER_S):
                reason = await acknowledged
        except TimeoutError:
            raise aiomqtt.MqttError(f"no acknowledgement within {_ANSWER_S:g} s") from None
        finally:
            del self._acknowledged[info.mid]
        if reason.is_failure:
            raise Refused(topic, str(reason), too_large=reason.value == _TOO_LARGE)

    def _packet_size(self, topic: str, payload: bytes, qos: int, properties: Properties | None) -> int:
        """Bytes of the whole packet that a message is sent as."""
        made = properties or Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]  # as below
        described = made.pack() if self.version is ProtocolVersion.V5 else b""  # type: ignore[no-untyped-call]
        size = 2 + len(topic.encode()) + 2 * (qos > 0) + len(described) + len(payload)
        return 1 + math.ceil(size.bit_length() / 7) + size

    async def lost(self) -> str:
        """Wait for the end of the connection and tell its reason."""
        try:
            async for _ in self.messages:  # none come, for nothing is subscribed; but a disconnection ends the loop
                pass
        except aiomqtt.MqttError as error:
            return reason_of(error.__cause__ or error)
        return "closed"

    def abandon(self) -> None:
        """Close the socket without a goodbye, so that the broker publishes the will; harmless when already closed."""
        self._abandoned = True
        self._fail_sends()
        # Later, because the connecting thread may just have asked the loop to watch the socket.
        self._loop.call_soon(self._client._sock_close)  # noqa: SLF001  (paho has no public way to close at once)

    def _client_connect(self) -> None:
        """Connect, in a thread; if nobody waits for it any more, close again."""
        super()._client_connect()
        if self._abandoned:
            self._loop.call_soon_threadsafe(self._client._sock_close)  # noqa: SLF001  (as in `abandon`)

    def _on_connect(
        self,
        client: paho.Client,
        userdata: Any,
        flags: paho.ConnectFlags,
        reason_code: ReasonCode,
        properties: Properties | None = None,
    ) -> None:
        """Called by paho at CONNACK; the base class drops what the broker says of itself."""
        self._largest = getattr(properties, "MaximumPacketSize", None)
        super()._on_connect(client, userdata, flags, reason_code, properties)

    def _on_disconnect(self, client: paho.Client, userdata: Any, *details: Any) -> None:
        """Called by paho; the base class ignores a broker that closes instead of answering, and waits on."""
        if not self._abandoned and not self._connected.done():
            self._connected.set_exception(HungUp("it closed the connection without an answer"))
        super()._on_disconnect(client, userdata, *details)
        if self._disconnected.done() and not self._disconnected.cancelled():
            self._disconnected.exception()  # seen; or asyncio complains that nobody did
        self._fail_sends()

    def _fail_sends(self) -> None:
        for acknowledged in self._acknowledged.values():
            if not acknowledged.done():
                acknowledged.set_exception(aiomqtt.MqttError("the connection was lost"))

    def _on_publish(self, _client: paho.Client, _userdata: Any, mid: int, reason_code: ReasonCode, *_: Any) -> None:
        """Called by paho at PUBACK (QoS 1) or when sent (QoS 0); the base class drops the reason."""
        acknowledged = self._acknowledged.get(mid)
        if acknowledged is not None and not acknowledged.done():
            acknowledged.set_result(reason_code)

    def _on_socket_register_write(self, client: paho.Client, _userdata: Any, sock: Any) -> None:
        """Called by paho; the base class watches the descriptor even if it was closed, or reused, meanwhile.

        Nor is there anything to watch for once `send` has written all: paho would not say again that it is done.
        """

        def watch() -> None:
            if sock.fileno() != -1 and client.want_write():
                self._loop.add_writer(sock, client.loop_write)

        self._loop.call_soon_threadsafe(watch)


def properties(packet_type: int, **values: object) -> Properties:
    """MQTT 5 properties by their names in the standard; None is left out."""
    made = Properties(packet_type)  # type: ignore[no-untyped-call]  # paho's constructor has no annotations
    for name, value in values.items():
        if value is not None:
            setattr(made, name, value)
    return made


def reason_of(error: BaseException) -> str:
    """The error in the words of the operating system or the broker."""
    if isinstance(error, aiomqtt.MqttCodeError) and isinstance(error.rc, ReasonCode):
        return str(error.rc)
    cause = error.__context__  # aiomqtt hides what it wraps from tracebacks, but it is there
    if isinstance(cause, ssl.SSLCertVerificationError):
        return cause.verify_message.rstrip(".")
    if isinstance(cause, OSError) and cause.strerror:
        return cause.strerror
    return str(error)


def hopeless(error: aiomqtt.MqttError) -> bool:
    """Whether trying again cannot help until somebody has changed something."""
    hostile = isinstance(error.__context__, ssl.SSLError) and not isinstance(error.__context__, ssl.SSLEOFError)
    return hostile or isinstance(error, Refused) or bool(what_to_do(error))


def what_to_do(error: aiomqtt.MqttError) -> str:
    """About a connection that the broker refused and always will; empty if it may take it another time."""
    if isinstance(error, aiomqtt.MqttCodeError) and isinstance(error.rc, ReasonCode):
        return _WHAT_TO_DO_ABOUT.get(error.rc.value, "")
    return ""


def asks_for_older(error: aiomqtt.MqttError) -> bool:
    """Whether the broker may know only MQTT 3.1.1: some say so, some just hang up."""
    if isinstance(error, aiomqtt.MqttCodeError) and isinstance(error.rc, ReasonCode):
        return bool(error.rc.value == _UNSUPPORTED_VERSION)
    return isinstance(error, HungUp)
