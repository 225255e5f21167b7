"""Where results go."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from streamnode.config.fields import HOST, PORT, FilePath, Outputs, Positive, Section, Text, refusal, text
from streamnode.errors import ConfigError
from streamnode.types import OutputName


def _without_login(url: object) -> object:
    if isinstance(url, str) and "@" in url:
        raise ValueError("no login in the address; use username and password: {env: NAME}")
    return url


class Secret(Section):
    """Where a secret is found when the node starts: an environment variable or a file, never the secret itself."""

    env: Annotated[str, text("[A-Za-z_][A-Za-z0-9_]*", "the name of an environment variable")] | None = Field(
        default=None, json_schema_extra={"writeOnly": True}
    )
    """Name of the environment variable."""
    file: FilePath | None = Field(default=None, json_schema_extra={"writeOnly": True})
    """File that holds nothing else; a relative path counts from the folder of this YAML file."""

    @model_validator(mode="before")
    @classmethod
    def _never_plain(cls, data: object) -> object:
        # The usual errors would show an unknown key, and to YAML `{hunter2}` is one.
        if isinstance(data, dict) and list(data) in (["env"], ["file"]) and None not in data.values():
            return data
        raise ValueError("never in plain text; use {env: NAME} or {file: PATH}")

    def resolve(self) -> str:
        """The secret, read anew on every call and kept nowhere.

        Raises:
            ConfigError: it is not there, or empty.
        """
        place = self.file or f"the environment variable {self.env}"
        secret = _content(self.file) if self.file else os.environ.get(self.env or "", "")
        if not secret:
            raise ConfigError(f"there is no readable password in {place}; put it there before the start")
        return secret


def _content(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").rstrip("\r\n")
    except (OSError, UnicodeDecodeError):
        return ""


class MqttSinkConfig(Section):
    """Results to an MQTT broker."""

    kind: Literal["mqtt"]
    """MQTT."""
    url: Annotated[
        str,
        text(rf"mqtts?://{HOST}({PORT})?/?", "mqtt://host:port, or mqtts://host:port for TLS"),
        BeforeValidator(_without_login),
    ]
    """Address of the broker: mqtt://host or, with TLS, mqtts://host; ports default to 1883 and 8883."""
    topic: Annotated[str, text(r"[^+#\x00-\x1f\x7f-\x9f]+", "a topic without +, # and control characters")]
    """Topic under which results, description and status are published."""
    payload: Literal["cbor", "json", "raw"] = "cbor"
    """Format of a result: CBOR with typed arrays, JSON, or the bare float32 bytes."""
    qos: Literal[0, 1] = 0
    """0: at most once, 1: at least once."""
    username: Text | None = None
    """User name at the broker."""
    password: Secret | None = Field(default=None, exclude=True, repr=False)
    """Password at the broker: {env: NAME} or {file: PATH}."""
    ca_file: FilePath | None = None
    """Certificates to trust with mqtts, PEM; null trusts those of the system."""
    timeout_s: Positive | None = 10.0
    """How long the first connection may take before the node gives up, seconds; null tries for ever."""
    outputs: Outputs | None = None
    """Which of the model's outputs to publish; null publishes all."""

    @model_validator(mode="after")
    def _certificates_need_tls(self) -> Self:
        if self.ca_file is not None and not self.url.startswith("mqtts:"):
            raise refusal((("ca_file",), "has no effect without TLS; change the url to mqtts://"))
        return self


class LslSinkConfig(Section):
    """Results as LSL streams."""

    kind: Literal["lsl"]
    """Lab Streaming Layer."""
    name: Text
    """Name of the outgoing stream; with several outputs each has its own, such as NAME-embedding."""
    outputs: Outputs | None = None
    """Which of the model's outputs to publish; null publishes all."""
    quality: bool = False
    """Also publish NAME-quality: samples received and lost so far, and which channels were bad, with every result."""


class LslEegSinkConfig(Section):
    """The reconstruction as one continuous LSL stream of EEG, in step with real time."""

    kind: Literal["lsl-eeg"]
    """Lab Streaming Layer, type EEG."""
    name: Text
    """Name of the outgoing stream; NAME-rebuilt beside it tells which channels are rebuilt at what time."""
    blend_s: Annotated[float, Field(ge=0)] = 0.25
    """How long one epoch fades into the next, seconds; so much later a sample leaves."""

    @property
    def outputs(self) -> tuple[OutputName, ...]:
        """What it publishes."""
        return ("reconstruction",)


SinkConfig = Annotated[MqttSinkConfig | LslSinkConfig | LslEegSinkConfig, Field(discriminator="kind")]
