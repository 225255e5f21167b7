"""Publishes results to an MQTT broker and stays connected to it.

Below the configured topic lie:

    status     retained JSON, {"node": ..., "state": "online" or "offline", "since": Unix seconds}. The broker itself
               puts `offline` with `since` null there (the will) when the node vanishes without a goodbye.
    meta       retained JSON, what is published: `streamnode.wire.encode_meta`.
    output     each result with the arrays asked for, CBOR or JSON; or, with `payload="raw"`,
    <output>   one topic an array: its bare float32 bytes, described by MQTT 5 user properties.

MQTT 5 is spoken where the broker knows it, 3.1.1 elsewhere. MQTT 5 adds the content type, an expiry, the reason for a
refusal (with QoS 1), and a will that waits for a short outage to pass.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import json
import logging
import math
import secrets
import ssl
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, NoReturn, Self, get_args

import aiomqtt
from aiomqtt import ProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from streamnode import wire
from streamnode.errors import ConfigError, SinkError
from streamnode.metrics import Metrics
from streamnode.sinks.mqtt_address import check_topic, parse_url, tls_for
from streamnode.sinks.mqtt_link import (
    Link,
    Refused,
    asks_for_older,
    hopeless,
    properties,
    reason_of,
    what_to_do,
)
from streamnode.types import ModelOutput, OutputMeta, OutputName

logger = logging.getLogger(__name__)

_GOODBYE_S = 2.0
_FIRST_DELAY_S, _LONGEST_DELAY_S = 0.1, 30.0
_LASTING_S = 2 * _LONGEST_DELAY_S  # two clients that take each other's connection away never come to it
_WILL_DELAY_S = 5  # a reconnection within it is not reported as offline


class MqttSink:
    """One node's results on one broker.

    Args:
        url: `mqtt://host:port` or `mqtts://host:port`; the ports default to 1883 and 8883.
        topic: where everything is published, such as `eeg/lab-3`.
        node: name of the node, for `status`.
        outputs: the arrays to publish.
        payload: `cbor`, `json`, or `raw` (one topic an array, needs MQTT 5).
        qos: 0 sends and forgets; 1 waits for the broker's acknowledgement and so learns of a refusal.
        username: for the broker; None connects without.
        password: for `username`.
        ca_file: PEM file of the authority that signed the broker's certificate; None trusts the system's authorities.
        timeout_s: how long the first connection may take, seconds; None tries for ever.
        expiry_s: seconds after which the broker discards an undelivered result (MQTT 5); None keeps it.
        client_id: id of the connection, unique on the broker; None makes one of `node` and `topic`, the same after
            every restart, so that the will of a run that was killed never overwrites the `online` of the next.
        metrics: where results and connections are counted.

    Raises:
        ConfigError: an argument cannot work.
    """

    def __init__(
        self,
        url: str,
        topic: str,
        *,
        node: str,
        outputs: Sequence[OutputName],
        metrics: Metrics,
        payload: wire.PayloadFormat = "cbor",
        qos: Literal[0, 1] = 0,
        username: str | None = None,
        password: str | None = None,
        ca_file: Path | None = None,
        timeout_s: float | None = 10.0,
        expiry_s: float | None = None,
        client_id: str | None = None,
    ) -> None:
        scheme, self._host, self._port = parse_url(url)
        self._address = f"{f'[{self._host}]' if ':' in self._host else self._host}:{self._port}"
        self._broker = f"mqtt broker at {self._address}"
        self._topic = check_topic(topic)
        if password is not None and username is None:
            raise ConfigError("the mqtt sink has a password but no username: add the username")
        self._tls = tls_for(scheme, ca_file)
        self._node, self._outputs, self._payload, self._qos = node, tuple(outputs), payload, qos
        self._username, self._password = username, password
        self._timeout_s, self._expiry_s = timeout_s, expiry_s
        self._client_id = client_id or _client_id(node, topic)
        self._connected = metrics.sink_connected.labels(sink=self.name)
        self._published = metrics.published.labels(sink=self.name)
        self._version: ProtocolVersion | None = None  # None until the broker has shown which it speaks
        self._link: Link | None = None
        self._last_failure = "no answer"
        self._meta: OutputMeta | None = None

    @property
    def name(self) -> str:
        """Such as `mqtt:broker.local:1883/eeg/lab-3`."""
        return f"mqtt:{self._address}/{self._topic}"

    async def __aenter__(self) -> Self:
        """Connect, and keep the connection until the block ends.

        Raises:
            SinkError: the broker was not reached within `timeout_s`, or it is certain that it never will take us.
            ConfigError: raw payloads on a broker without MQTT 5.
        """
        try:
            async with asyncio.timeout(self._timeout_s):
                link = await self._connect(first=True)
        except TimeoutError:
            raise SinkError(
                f"{self._broker} did not accept a connection for {self._timeout_s:g} s ({self._last_failure}): "
                "start it or correct the sink's url"
            ) from None
        self._tasks = await asyncio.TaskGroup().__aenter__()
        self._keeper = self._tasks.create_task(self._keep_connected(link), name=f"{self.name} connection")
        return self

    async def __aexit__(self, *exc: object) -> None:
        """Say goodbye and disconnect, or just disconnect if the broker does not listen."""
        self._keeper.cancel()
        try:
            # Without the exception: the group would wrap it, and it is not the sink's.
            await self._tasks.__aexit__(None, None, None)
        finally:
            await self._say_goodbye()

    async def _say_goodbye(self) -> None:
        if self._link is None:
            return
        try:
            async with asyncio.timeout(_GOODBYE_S):
                await self._send_status(self._link, "offline")
                await self._link.__aexit__(None, None, None)
        except (aiomqtt.MqttError, TimeoutError) as error:
            logger.warning("%s: left without a goodbye (%s), the broker will report it offline", self.name, error)
        finally:
            self._hang_up()

    async def announce(self, meta: OutputMeta) -> None:
        """Publish the retained description, now and after every reconnection.

        Raises:
            SinkError: the broker refuses it.
        """
        self._meta = meta
        try:
            if self._link is not None:
                await self._send_meta(self._link)
        except Refused as error:
            self._meta = None  # not at every reconnection
            raise SinkError(self._sentence(error)) from error
        except aiomqtt.MqttError as error:
            logger.warning("%s: meta waits for the next connection (%s)", self.name, error)

    async def publish(self, output: ModelOutput) -> None:
        """Publish one result; with QoS 1, wait until the broker has it.

        Raises:
            SinkError: the sink is offline (at once), the broker refused it, or the connection was lost under way.
        """
        link = self._link
        if link is None:
            raise SinkError(f"{self._broker} is offline: the result was dropped and the sink reconnects by itself")
        try:
            for topic, payload, described in self._messages(output):
                await link.send(f"{self._topic}/{topic}", payload, qos=self._qos, properties=described)
        except aiomqtt.MqttError as error:
            raise SinkError(self._sentence(error)) from error
        self._published.inc()

    def _messages(self, output: ModelOutput) -> Iterator[tuple[str, bytes, Properties | None]]:
        """Topic, payload and properties of all that one result becomes."""
        if self._payload == "raw":
            for name in self._outputs:
                payload, user = wire.encode_raw(output, name)
                yield name, payload, self._properties("raw", user, self._expiry_s)
            return
        others: dict[str, Any] = dict.fromkeys(set(get_args(OutputName)).difference(self._outputs))
        user = [("v", str(wire.VERSION)), ("model", output.model)]
        payload = wire.encode(replace(output, **others), self._payload)
        yield "output", payload, self._properties(self._payload, user, self._expiry_s)

    def _properties(
        self, fmt: wire.PayloadFormat, user: list[tuple[str, str]] | None = None, expiry_s: float | None = None
    ) -> Properties | None:
        if self._version is not ProtocolVersion.V5:
            return None
        return properties(
            PacketTypes.PUBLISH,
            ContentType=wire.CONTENT_TYPE[fmt],
            PayloadFormatIndicator=int(fmt == "json"),  # 1 is UTF-8
            MessageExpiryInterval=None if expiry_s is None else math.ceil(expiry_s),
            UserProperty=user,
        )

    async def _send_status(self, link: Link, state: Literal["online", "offline"]) -> None:
        payload = self._status(state, time.time())
        await link.send(f"{self._topic}/status", payload, qos=1, retain=True, properties=self._properties("json"))

    async def _send_meta(self, link: Link) -> None:
        if self._meta is not None:
            payload = wire.encode_meta(self._meta)
            await link.send(f"{self._topic}/meta", payload, qos=1, retain=True, properties=self._properties("json"))

    def _status(self, state: Literal["online", "offline"], since: float | None) -> bytes:
        return json.dumps({"node": self._node, "state": state, "since": since}).encode()

    async def _keep_connected(self, link: Link) -> NoReturn:
        """Reconnect after every loss: at once, or after a pause where connections do not last."""
        pauses = _pauses()
        while True:
            connected = time.monotonic()
            why = await link.lost()
            self._hang_up()
            if time.monotonic() - connected > _LASTING_S:
                pauses = _pauses()
            pause_s = next(pauses)
            advice = "; if this goes on, look for another node of this name and topic" if pause_s else ""
            logger.warning(
                "%s: lost the %s (%s), reconnecting in %.1f s%s", self.name, self._broker, why, pause_s, advice
            )
            await asyncio.sleep(pause_s)
            link = await self._connect(first=False)
            logger.info("%s: connected again to the %s", self.name, self._broker)

    async def _connect(self, *, first: bool) -> Link:
        """Try until it works; at the first connection, only as long as there is hope."""
        delays = _delays()
        while True:
            try:
                return await self._open()
            except aiomqtt.MqttError as error:
                if first and hopeless(error):
                    raise SinkError(self._sentence(error)) from error
                self._last_failure = reason_of(error)
            delay_s = next(delays)
            logger.warning("%s: no %s (%s), again in %.1f s", self.name, self._broker, self._last_failure, delay_s)
            await asyncio.sleep(delay_s)

    async def _open(self) -> Link:
        self._link = link = await self._dial()
        self._connected.set(1)
        try:
            await self._send_status(link, "online")
            await self._send_meta(link)
        except BaseException:
            self._hang_up()
            raise
        return link

    async def _dial(self) -> Link:
        version = self._version or await self._spoken_version()
        if self._payload == "raw" and version is not ProtocolVersion.V5:
            raise ConfigError(
                f"{self._broker} speaks only MQTT 3.1.1, which cannot describe raw payloads: use payload cbor"
            )
        link = await self._new_link(version, **self._last_will(version)).__aenter__()
        self._version = version
        return link

    async def _spoken_version(self) -> ProtocolVersion:
        """Ask with bare connections, for some older brokers fall silent over a will of MQTT 5.

        Others hang up on MQTT 5. So does a proxy whose broker is still starting, but on 3.1.1 as well.
        """
        if await self._speaks_5():
            return ProtocolVersion.V5
        async with self._new_link(ProtocolVersion.V311):
            pass
        return ProtocolVersion.V5 if await self._speaks_5() else ProtocolVersion.V311

    async def _speaks_5(self) -> bool:
        try:
            async with self._new_link(ProtocolVersion.V5):
                return True
        except aiomqtt.MqttError as error:
            if not asks_for_older(error):
                raise
            return False

    def _new_link(self, version: ProtocolVersion, **options: Any) -> Link:
        return Link(
            self._host,
            self._port,
            version,
            username=self._username,
            password=self._password,
            identifier=self._client_id,
            tls_context=self._tls,
            **options,
        )

    def _last_will(self, version: ProtocolVersion) -> dict[str, Any]:
        topic, offline = f"{self._topic}/status", self._status("offline", None)
        if version is not ProtocolVersion.V5:
            return {"will": aiomqtt.Will(topic, offline, qos=1, retain=True)}
        # The will waits only as long as the session lives, and a connection that takes the session up calls it off.
        delay = properties(PacketTypes.WILLMESSAGE, WillDelayInterval=_WILL_DELAY_S)
        return {
            "will": aiomqtt.Will(topic, offline, qos=1, retain=True, properties=delay),
            "properties": properties(PacketTypes.CONNECT, SessionExpiryInterval=2 * _WILL_DELAY_S),
            "clean_start": self._version is None,
        }

    def _hang_up(self) -> None:
        self._connected.set(0)
        if self._link is not None:
            self._link.abandon()
            self._link = None

    def _sentence(self, error: aiomqtt.MqttError) -> str:
        """What went wrong and what to do."""
        reason, cause = reason_of(error), error.__context__
        if isinstance(error, Refused):
            allow = f"allow {self._who} to write it on the broker"
            advice = "publish fewer outputs, or raise the broker's limit" if error.too_large else allow
            return f"{self._broker} refused {error.topic} ({reason}): {advice}"
        if isinstance(cause, ssl.SSLCertVerificationError):
            return (
                f"{self._broker} shows a certificate that is not trusted ({reason}): "
                "set ca_file to the authority that signed it, or the url to the host it was issued for"
            )
        if isinstance(cause, ssl.SSLError):
            return f"{self._broker} does not speak TLS as asked ({reason}): correct the port, or use mqtt://"
        if advice := what_to_do(error):
            return f"{self._broker} refused {self._who} ({reason}): {advice}"
        return f"{self._broker} did not take the result ({reason}): it was dropped"

    @property
    def _who(self) -> str:
        return "an anonymous client" if self._username is None else f"user {self._username!r}"


def _client_id(node: str, topic: str) -> str:
    """22 letters and digits, for 23 are what every broker must take."""
    digest = hashlib.sha256(f"{node}\n{topic}".encode()).hexdigest()
    return f"streamnode{digest[:12]}"


def _pauses() -> Iterator[float]:
    """Seconds between a loss and the next attempt, for losses in quick succession: none, then as `_delays`."""
    return itertools.chain([0.0], _delays())


def _delays() -> Iterator[float]:
    """Seconds between attempts: doubling, capped, and spread so that nodes do not return as one."""
    for attempt in itertools.count():
        longest = min(_FIRST_DELAY_S * 2 ** min(attempt, 16), _LONGEST_DELAY_S)
        yield longest * secrets.SystemRandom().uniform(0.5, 1.0)
