"""The four families of models behind one face: all that catalog, converter and inspector need to know of each."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Protocol, Self

import torch
from torch import Tensor

from streamnode.errors import ConfigError, WeightsError
from streamnode.models import eegdino, eegpt, luna, zuna
from streamnode.models.zuna_flow import ZunaConfig
from streamnode.types import ModelSpec, OutputName

log = logging.getLogger(__name__)

Which = Literal["student", "teacher"]
State = Mapping[str, Tensor]


class Network(Protocol):
    """What every network is, besides an `nn.Module`.

    Attributes:
        SPEC: what it expects of its input.
        config: its sizes.
    """

    SPEC: ClassVar[ModelSpec]
    config: Any

    @property
    def available_outputs(self) -> tuple[OutputName, ...]:
        """What its weights can yield."""
        ...

    @property
    def bind(self) -> Callable[..., Any]:
        """`bind(montage, *, outputs, **options)` computes all that depends on channels and options alone."""
        ...

    @property
    def encode(self) -> Callable[..., dict[OutputName, Tensor]]:
        """`encode(x_uv, binding, outputs)` takes `(n_epochs, n_chans, n_times)` microvolts."""
        ...

    @property
    def spread(self) -> Callable[..., Tensor]:
        """`spread(name, values, rows, n_chans, binding)` puts results of some channels where those of all would be."""
        ...

    def state_dict(self) -> dict[str, Any]: ...  # noqa: D102
    def load_state_dict(self, state: State, /, *, assign: bool) -> Any: ...  # noqa: D102
    def eval(self) -> Self: ...  # noqa: D102
    def requires_grad_(self, requires_grad: bool = True) -> Self: ...  # noqa: D102, FBT001, FBT002
    def to(self, device: torch.device, /) -> Self: ...  # noqa: D102


class Sampled(Network, Protocol):
    """A network that draws its reconstruction step by step."""

    def with_steps(self, binding: Any, steps: int, /) -> Any:
        """A binding for another number of steps; with 0, epochs pass without the sampler."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class Reading:
    """A checkpoint, once it is known of which family it is.

    Attributes:
        state: all tensors of the network, under the names of its module.
        config: sizes of the network.
        form: in whose form the checkpoint is.
        which: of a self-distillation the network that it is; None where nobody knows, or there is only one.
    """

    state: dict[str, Tensor]
    config: Any
    form: str
    which: Which | None


@dataclass(frozen=True, slots=True)
class Family:
    """A kind of model.

    Attributes:
        title: as its authors write it.
        channels: which it takes, in words.
        variants: published sizes by name.
        network: builds an empty network of a size.
        config_of: reads the size off a renamed state; where shapes do not show all of it (`load_options` is not empty),
            also off the metadata of its file and the options.
        rename: brings every published form to one, and drops what inference has no use for.
        form_of: in whose form a state is.
        variant_of: such as `luna-base`, or `luna-custom`.
        manifest: name and shape of every tensor of a size.
        random_state: untrained weights of a size from a seed.
        landmark: a tensor that every state of this family has, and of no other, behind whatever prefix.
        twins: the form that holds a student and a teacher side by side; empty where there is none.
        which: the one of the two that each form yields when nobody says; forms that do not tell are left out.
        untrained: prefix of a head, by the form whose publisher put random numbers there.
        load_options: sizes that no shape shows and that a user may set.
        metadata_of: what a converted file must say of a size, for shapes do not.
    """

    spec: ModelSpec
    title: str
    channels: str
    variants: Mapping[str, Any]
    network: Callable[[Any], Network]
    config_of: Callable[..., Any]
    rename: Callable[..., dict[str, Tensor]]
    form_of: Callable[[State], str]
    variant_of: Callable[[Any], str]
    manifest: Callable[[Any], dict[str, torch.Size]]
    random_state: Callable[[Any, int], dict[str, Tensor]]
    landmark: str
    twins: str = ""
    which: Mapping[str, Which] = field(default_factory=dict)
    untrained: Mapping[str, str] = field(default_factory=dict)
    load_options: tuple[str, ...] = ()
    metadata_of: Callable[[Any], dict[str, str]] = lambda _: {}

    @property
    def default(self) -> Which | None:
        """Which of student and teacher is used when nobody says; None where there is only one network."""
        return self.which.get(self.twins)

    def read(
        self,
        state: State,
        *,
        metadata: Mapping[str, str],
        which: Which | None = None,
        trained_head: bool = False,
        **options: Any,
    ) -> Reading:
        """Make sense of a state in any published form.

        Args:
            state: names and tensors; those of the `meta` device will do.
            metadata: of its file.
            which: of student and teacher; None takes the family's default, or the only one there is.
            trained_head: keep the head of a form whose publisher did not train it, for somebody has.
            options: sizes that neither shapes nor metadata show, of `load_options`.

        Raises:
            WeightsError: it is not of this family, contradicts itself, or lacks the network asked for.
            ConfigError: an option does not fit it, or does not exist.
        """
        self.refuse_unknown(options)
        form = self.form_of(state)
        which = self._which(form, which, metadata)
        if form in self.untrained and not trained_head:
            log.info("left out the head of this %s, which %s publishes untrained", self.title, form)
        renamed = self.renamed(state, form, which, trained_head=trained_head)
        stated = {"metadata": metadata, **options} if self.load_options else {}
        return Reading(renamed, self.config_of(renamed, **stated), form, which)

    def renamed(self, state: State, form: str, which: Which | None, *, trained_head: bool = False) -> dict[str, Tensor]:
        """The tensors of one network, under its own names. Raises `WeightsError` if it is not there."""
        head = self.untrained.get(form)
        if head and not trained_head:
            state = {key: tensor for key, tensor in state.items() if f".{head}" not in f".{key}"}
        return self.rename(state, which) if form == self.twins else self.rename(state)

    def refuse_unknown(self, options: Mapping[str, Any]) -> None:
        """Raise `ConfigError` for options that are none of `load_options`."""
        if unknown := sorted(set(options).difference(self.load_options)):
            has = ", ".join(self.load_options) or "none"
            raise ConfigError(
                f"{self.title} has no option {', '.join(unknown)}: leave it out, or use one of its own ({has})"
            )

    def _which(self, form: str, asked: Which | None, metadata: Mapping[str, str]) -> Which | None:
        """Which of student and teacher a state is to yield."""
        if asked and not self.twins:
            raise ConfigError(f"{self.title} has neither student nor teacher: do not ask for one")
        if form == self.twins:
            return asked or self.default
        held: Any = metadata.get("which") or self.which.get(form)
        if asked and held and asked != held:
            raise WeightsError(f"these weights of {self.title} are the {held}: give others, or do without the {asked}")
        return asked or held


FAMILIES: dict[str, Family] = {
    "luna": Family(
        spec=luna.SPEC,
        title="LUNA",
        variants=luna.VARIANTS,
        network=luna.LUNA,
        config_of=luna.LunaConfig.from_state,
        rename=luna.rename_keys,
        form_of=luna.form_of,
        variant_of=luna.variant_name,
        manifest=luna.manifest,
        random_state=luna.random_state,
        landmark="cross_attn.query_embed",
        channels="any, with positions",
    ),
    "eegdino": Family(
        spec=eegdino.SPEC,
        title="EEG-DINO",
        variants=eegdino.VARIANTS,
        network=eegdino.EegDino,
        config_of=eegdino.EegDinoConfig.from_state,
        rename=eegdino.rename_keys,
        form_of=eegdino.form_of,
        variant_of=eegdino.variant_name,
        manifest=eegdino.manifest,
        random_state=eegdino.random_state,
        landmark="global_tokens",
        channels="any of 19 (10-20 system)",
        twins="original",
        which={"original": "student", "braindecode": "teacher", "eegdino-rs burn": "student"},
        untrained={"braindecode": "final_layer."},
        load_options=("n_heads",),
        metadata_of=lambda config: {
            "num_heads": str(config.n_heads),
            "groups": str(config.groups),
            "global_token_layer": str(config.global_token_layer),
            "channel_order": " ".join(eegdino.SLOTS),
        },
    ),
    "eegpt": Family(
        spec=eegpt.SPEC,
        title="EEGPT",
        variants=eegpt.VARIANTS,
        network=eegpt.Eegpt,
        config_of=eegpt.EegptConfig.from_state,
        rename=eegpt.rename_keys,
        form_of=eegpt.form_of,
        variant_of=eegpt.variant_name,
        manifest=eegpt.manifest,
        random_state=eegpt.random_state,
        landmark="summary_token",
        channels="any of 62 (10-10 system)",
        twins="pretraining",
        which={"pretraining": "teacher", "downstream": "teacher", "braindecode": "teacher"},
        load_options=("n_heads", "patch_stride"),
        metadata_of=lambda config: {"num_heads": str(config.n_heads), "patch_stride": str(config.patch_stride)},
    ),
    "zuna": Family(
        spec=zuna.SPEC,
        title="ZUNA",
        variants=zuna.VARIANTS,
        network=zuna.Zuna,
        config_of=ZunaConfig.from_state,
        rename=zuna.rename_keys,
        form_of=zuna.form_of,
        variant_of=zuna.variant_name,
        manifest=zuna.manifest,
        random_state=zuna.random_state,
        landmark="encoder.tok_embeddings.weight",
        channels="any, with positions",
    ),
}


def recognise(state: State) -> Family | None:
    """The family that a state in any published form is of, by its names alone; None if it is of none."""
    for family in FAMILIES.values():
        if any(f".{key}".endswith(f".{family.landmark}") for key in state):
            return family
    return None
