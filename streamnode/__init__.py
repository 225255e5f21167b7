"""streamnode: live EEG in, what foundation models say of it out.

`load_model` is the Python face; the daemon is `streamnode run CONFIG.yaml`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from streamnode.errors import ConfigError, ContractError, SinkError, StreamLost, StreamnodeError, WeightsError

if TYPE_CHECKING:
    from streamnode.inference.engine import load_model
    from streamnode.types import ModelOutput, ModelSpec, Montage

__version__ = "0.1.0"
__all__ = [
    "ConfigError",
    "ContractError",
    "ModelOutput",
    "ModelSpec",
    "Montage",
    "SinkError",
    "StreamLost",
    "StreamnodeError",
    "WeightsError",
    "__version__",
    "load_model",
]


_HOMES = {
    "load_model": "streamnode.inference.engine",
    **dict.fromkeys(("ModelOutput", "ModelSpec", "Montage"), "streamnode.types"),
}


def __getattr__(name: str) -> Any:
    """Import NumPy, and torch for `load_model`, only when something that needs them is asked for."""
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'streamnode' has no attribute {name!r}")
