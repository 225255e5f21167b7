"""LSL kept on this machine, apart from every other LSL network."""

from __future__ import annotations

import os
from pathlib import Path

_LOOPBACK = """\
[log]
level = -3
[ports]
IPv6 = disable
PortRange = 512
[multicast]
ResolveScope = machine
AddressesOverride = {{127.0.0.1}}
Interfaces = {{127.0.0.1}}
ListenAddress = 127.0.0.1
TTLOverride = 0
[lab]
KnownPeers = {{127.0.0.1}}
SessionID = {session_id}
"""


def isolate_lsl(folder: Path, session_id: str) -> None:
    """Keep LSL of this process and its children on loopback, in a session of its own.

    Call it before anything uses LSL: liblsl reads its configuration once, on first use.

    Args:
        folder: where the configuration file is written; it must outlive the processes.
        session_id: streams are seen only by processes with the same id.
    """
    path = folder / "lsl_api.cfg"
    path.write_text(_LOOPBACK.format(session_id=session_id), "utf-8")
    os.environ["LSLAPICFG"] = str(path)
