"""Checkpoints as each publisher writes them, made from a state under our own names."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from streamnode.models.eegdino import EegDinoConfig
from streamnode.models.eegpt import EegptConfig
from streamnode.models.luna import LunaConfig
from streamnode.models.zuna_flow import ZunaConfig

State = Mapping[str, Tensor]

LUNA = LunaConfig(embed_dim=16, n_queries=2, depth=1)
EEGDINO = EegDinoConfig(maps=(25, 25, 25), groups=5, depth=1, hidden=16)
EEGPT = EegptConfig(embed_dim=64, n_summary=1, depth=2, n_heads=4)
ZUNA = {"dim": 16, "encoder_depth": 1, "decoder_depth": 1, "n_heads": 1, "hidden": 16}

_DINO_HEAD = {"full_linear": "token_proj.0", "channel_linear": "time_proj.0", "classifier": "classifier"}
_EEGPT_HEADS = {
    "chan_conv": "chan_proj.proj",
    "linear_probe1": "final_layer.probe1",
    "linear_probe2": "final_layer.probe2",
}


@dataclass(frozen=True, slots=True)
class Form:
    """A way in which a family's checkpoints are written.

    Attributes:
        family: such as `luna`.
        name: as `Family.form_of` calls it.
        write: makes one of a canonical state.
        sizes: a small network to write.
    """

    family: str
    name: str
    write: Callable[[State], dict[str, Tensor]]
    sizes: Any

    def __str__(self) -> str:
        return f"{self.family} {self.name}"


def prefixed(prefix: str, state: State) -> dict[str, Tensor]:
    """Every tensor behind a prefix."""
    return {prefix + key: tensor for key, tensor in state.items()}


def luna_trainer(state: State) -> dict[str, Tensor]:
    """Lightning: a prefix, and a loss beside it."""
    return prefixed("model.", state) | {"criterion.weight": torch.ones(2)}


def luna_braindecode(state: State) -> dict[str, Tensor]:
    """The library's own names."""
    for ours, theirs in (("embedder.0.", "embedder."), ("temparature", "temperature"), ("classifier.", "final_layer.")):
        state = {key.replace(ours, theirs): tensor for key, tensor in state.items()}
    return dict(state)


def _dino_prefixed(prefix: str, state: State) -> dict[str, Tensor]:
    return {key if key.split(".")[0] in _DINO_HEAD else prefix + key: tensor for key, tensor in state.items()}


def dino_original(state: State) -> dict[str, Tensor]:
    """A pre-training: the student, a teacher that is its negative, and what only training needs."""
    return {
        **prefixed("module.teacher.", {key: -tensor for key, tensor in state.items()}),
        **prefixed("module.student.", state),
        "module.mask_projector.0.weight": torch.ones(2, 2),
        "module.student.encoder_layers.0.attn.relative_position_index": torch.ones(2, 2, dtype=torch.int64),
    }


def dino_braindecode(state: State) -> dict[str, Tensor]:
    """The library's own names of the head; where there is none, one that nobody trained."""
    renamed = {}
    if "full_linear.weight" not in state:
        d = state["global_tokens"].shape[-1]
        head = {"full_linear": (d, d), "channel_linear": (d, d)}
        head |= {"classifier.0": (d // 2, d), "classifier.3": (d // 4, d // 2), "classifier.6": (2, d // 4)}
        state = {**state, **{f"{name}.weight": torch.ones(shape) for name, shape in head.items()}}
        state |= {f"{name}.bias": torch.ones(shape[0]) for name, shape in head.items()}
    for key, tensor in state.items():
        root, _, rest = key.partition(".")
        renamed[f"final_layer.{_DINO_HEAD[root]}.{rest}" if root in _DINO_HEAD else key] = tensor
    return renamed


def dino_burn(state: State) -> dict[str, Tensor]:
    """Eegdino-rs: layers by name, linear weights transposed."""
    renamed = {}
    for key, tensor in state.items():
        parts = key.split(".")
        if "proj_in" in parts:
            number = int(parts[2])
            parts[2] = f"{'norm' if number % 3 else 'conv'}{number // 3 + 1}"
        elif {"spectral_proj", "time_encoding"} & set(parts):
            del parts[2]
        renamed[".".join(parts)] = tensor.T.contiguous() if tensor.ndim == 2 else tensor
    return renamed


def _eegpt_prefixed(state: State) -> dict[str, Tensor]:
    return {key if key.split(".")[0] in _EEGPT_HEADS else f"target_encoder.{key}": t for key, t in state.items()}


def eegpt_pretraining(state: State) -> dict[str, Tensor]:
    """The teacher, a student that is its negative, and two networks with tensors of the same names and shapes."""
    student = {key: -tensor for key, tensor in state.items()}
    return {
        **prefixed("encoder.", student),
        **prefixed("target_encoder.", state),
        "predictor.mask_token": torch.ones(1, 1, 4, 64),
        "reconstructor.chan_embed.weight": torch.ones(62, 64),
    }


def eegpt_braindecode(state: State) -> dict[str, Tensor]:
    """The library's own names of the heads, weights before their norm is bounded, and rows of channels."""
    renamed = {"chans_id": torch.arange(62)[None]}
    for key, tensor in _eegpt_prefixed(state).items():
        root, _, rest = key.partition(".")
        original = rest.replace("weight", "parametrizations.weight.original")
        renamed[f"{_EEGPT_HEADS[root]}.{original}" if root in _EEGPT_HEADS else key] = tensor
    return renamed


def zuna_original(state: State) -> dict[str, Tensor]:
    """A prefix, and in 1.1 norms within norms."""
    if "encoder.layers.0.attention.q_norm.weight" in state:
        state = {re.sub(r"(norm[^.]*)\.weight$", r"\1.norm.weight", key): tensor for key, tensor in state.items()}
    return prefixed("model.", state)


_PROBED = EegptConfig(64, 1, 2, 4, n_classes=2, probe_patches=3, n_proj_in=5)
_CLASSIFIER = EegDinoConfig(maps=(25, 25, 25), groups=5, depth=1, hidden=16, n_classes=3)

FORMS = (
    Form("luna", "published", dict, LUNA),
    Form("luna", "trainer", luna_trainer, LUNA),
    Form("luna", "braindecode", luna_braindecode, LunaConfig(16, 2, 1, 2, 40, 4, 3, False, False, False)),  # noqa: FBT003
    Form("eegdino", "original", dino_original, EEGDINO),
    Form("eegdino", "fine-tuned", lambda state: _dino_prefixed("encoder.", state), _CLASSIFIER),
    Form("eegdino", "braindecode", dino_braindecode, EEGDINO),
    Form("eegdino", "eegdino-rs burn", dino_burn, EEGDINO),
    Form("eegdino", "canonical", dict, _CLASSIFIER),
    Form("eegpt", "pretraining", eegpt_pretraining, EEGPT),
    Form("eegpt", "downstream", _eegpt_prefixed, _PROBED),
    Form("eegpt", "braindecode", eegpt_braindecode, _PROBED),
    Form("eegpt", "canonical", dict, EEGPT),
    Form("zuna", "original", zuna_original, ZunaConfig("v1", **ZUNA)),
    Form("zuna", "original", zuna_original, ZunaConfig("1.1", **ZUNA)),
    Form("zuna", "canonical", dict, ZunaConfig("1.1", **ZUNA)),
)
