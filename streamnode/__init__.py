"""streamnode: live EEG in, what foundation models say of it out.

`load_model` is the Python face; the daemon is `streamnode run CONFIG.yaml`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from streamnode.errors import ConfigError, ContractError, SinkError, StreamLost, StreamnodeError, WeightsError
from streamnode.types import ModelOutput, ModelSpec, Montage

if TYPE_CHECKING:
    from streamnode.inference.engine import load_model

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


def __getattr__(name: str) -> Any:
    """Import `load_model`, and torch with it, only when it is asked for."""
    if name == "load_model":
        from streamnode.inference.engine import load_model  # noqa: PLC0415

        return load_model
    raise AttributeError(f"module 'streamnode' has no attribute {name!r}")
