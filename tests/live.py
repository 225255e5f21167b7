"""A node in this loop and a client of its own on the broker, for tests that watch both."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

import aiomqtt
from aiomqtt import ProtocolVersion

from streamnode import config, node, wire
from streamnode.types import ModelOutput, OutputMeta


@dataclass
class Subscriber:
    """What a client of its own saw on the broker."""

    meta: list[OutputMeta] = field(default_factory=list)
    outputs: list[ModelOutput] = field(default_factory=list)
    topics: list[str] = field(default_factory=list)
    changed: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def take(self, messages: AsyncIterator[aiomqtt.Message]) -> None:
        async for message in messages:
            assert isinstance(message.payload, bytes)
            async with self.changed:
                if message.topic.value.endswith("/meta"):
                    self.meta.append(wire.decode_meta(message.payload))
                elif message.topic.value.endswith("/output"):
                    self.topics.append(message.topic.value)
                    self.outputs.append(wire.decode(message.payload, "cbor"))
                self.changed.notify_all()

    async def until_outputs(self, n_outputs: int) -> None:
        async with asyncio.timeout(30), self.changed:
            await self.changed.wait_for(lambda: len(self.outputs) >= n_outputs)

    async def until_described(self, n_streams: int = 1) -> OutputMeta:
        async with asyncio.timeout(30), self.changed:
            await self.changed.wait_for(lambda: len(self.meta) >= n_streams)
        return self.meta[-1]


@asynccontextmanager
async def subscribed(port: int, version: ProtocolVersion, topic: str = "test/node/#") -> AsyncIterator[Subscriber]:
    async with aiomqtt.Client("127.0.0.1", port, protocol=version) as client:
        await client.subscribe(topic, qos=1)
        subscriber = Subscriber()
        task = asyncio.create_task(subscriber.take(client.messages))
        try:
            yield subscriber
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task


@asynccontextmanager
async def running(node_config: config.NodeConfig) -> AsyncIterator[None]:
    """A node in this loop; an error of the node is raised at the end of the block."""
    task = asyncio.create_task(node.run(node_config))
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
