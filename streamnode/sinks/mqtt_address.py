"""Where an MQTT broker is and what results are published under, checked before anything connects."""

from __future__ import annotations

import ssl
from pathlib import Path
from urllib.parse import urlsplit

from streamnode.errors import ConfigError
from streamnode.wire import NOT_IN_MQTT

_DEFAULT_PORT = {"mqtt": 1883, "mqtts": 8883}


def parse_url(url: str) -> tuple[str, str, int]:
    """Scheme, host and port of a broker.

    Raises:
        ConfigError: it is not such a url, or holds more.
    """
    if "@" in url:  # before anything that could show a password in its message
        raise ConfigError("the mqtt sink's url holds a user: set username and password: {env: NAME} instead")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise ConfigError(f"the mqtt sink's url cannot be read ({error}): write it as mqtt://host:port") from None
    if parts.scheme not in _DEFAULT_PORT or not parts.hostname:
        raise ConfigError(f"the mqtt sink's url is {url!r}: write it as mqtt://host:port or mqtts://host:port")
    if not _is_host(parts.hostname):
        raise ConfigError(f"the mqtt sink's url {url!r} has no host by that name: labels are 1 to 63 characters long")
    if parts.path not in {"", "/"} or parts.query or parts.fragment:
        raise ConfigError(f"the mqtt sink's url {url!r} goes on after the port: the topic has a key of its own")
    return parts.scheme, parts.hostname, port or _DEFAULT_PORT[parts.scheme]


def _is_host(name: str) -> bool:
    """Whether a name can be looked up at all."""
    try:
        name.encode("idna")
    except UnicodeError:
        return False
    return True


def check_topic(topic: str) -> str:
    """The topic, if results can be published below it.

    Raises:
        ConfigError: they cannot.
    """
    if not topic or topic != topic.strip("/") or NOT_IN_MQTT.search(topic) or set("+#") & set(topic):
        raise ConfigError(
            f"the mqtt sink's topic is {topic!r}: it needs a name without +, #, control characters or a slash at "
            "either end"
        )
    return topic


def tls_for(scheme: str, ca_file: Path | None) -> ssl.SSLContext | None:
    """A context that verifies certificate and host for `mqtts`, None for `mqtt`; `ca_file` None trusts the system's.

    Raises:
        ConfigError: the file cannot be read, holds no certificate, or is not needed.
    """
    if scheme == "mqtts":
        try:
            context = ssl.create_default_context(cafile=ca_file)
        except OSError as error:
            raise ConfigError(f"ca_file {ca_file} cannot be used ({error.strerror}): give a PEM file") from error
        context.sslsocket_class = _TlsSocket
        return context
    if ca_file is not None:
        raise ConfigError("the mqtt sink has a ca_file but its url is not mqtts://: change one of them")
    return None


class _TlsSocket(ssl.SSLSocket):
    """A TLS socket that is closed when the handshake fails; paho just drops it."""

    def do_handshake(self, block: bool = False) -> None:  # noqa: FBT001, FBT002  (the signature of ssl)
        try:
            super().do_handshake(block)
        except OSError:
            self.close()
            raise
