"""What makes results of samples: the model, and for each stream signal path, guard and model bound to its channels.

torch is imported inside the functions that load a model, so that a node can look for its stream meanwhile.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from streamnode import __version__
from streamnode.config import EpochConfig, ModelConfig, NodeSection, SignalConfig, ZunaConfig
from streamnode.errors import ConfigError, ContractError
from streamnode.inference.pace import Pace
from streamnode.inference.worker import Feed
from streamnode.pipeline import Session
from streamnode.signal.chain import Wishes
from streamnode.signal.channels import BIPOLAR_MONTAGES
from streamnode.signal.guard import Guard
from streamnode.signal.interpolate import interpolation_matrix
from streamnode.signal.level import Counting
from streamnode.signal.path import EpochStream, build_epochs, build_marker_epochs
from streamnode.sources.lsl import local_clock
from streamnode.types import Clock, ModelSpec, OutputMeta, StreamInfo

if TYPE_CHECKING:
    from streamnode.inference.engine import BoundModel, Engine
    from streamnode.models.catalog import LoadedModel

clock: Clock = local_clock
_TELLING_STEPS = 4  # of a sampler, to measure what one takes: all of them may take a minute
_LATE_MARKER_S = 10.0  # as long as its samples are kept: `MarkerEpocher`


class Processing(Protocol):
    """What makes results of samples: the part of a `NodeConfig` that recordings have too."""

    @property
    def node(self) -> NodeSection: ...  # noqa: D102
    @property
    def epoch(self) -> EpochConfig: ...  # noqa: D102
    @property
    def signal(self) -> SignalConfig: ...  # noqa: D102
    @property
    def model(self) -> ModelConfig: ...  # noqa: D102


def load_engine(model: ModelConfig) -> Engine:
    """Weights onto the device; downloads them first if need be. Raises `WeightsError` or `ConfigError`."""
    import scipy.signal  # noqa: F401, PLC0415  (a second that `open_session` need not spend, with samples waiting)

    from streamnode.inference import cpu  # noqa: PLC0415
    from streamnode.inference.engine import Engine  # noqa: PLC0415

    with cpu.usual(1).applied():  # the sums that check them are short: on a busy machine threads wait, for seconds
        loaded = load_weights(model)
    return Engine(
        loaded,
        device=model.device,
        precision=model.precision,
        threads=model.threads,
        compile=model.compile,
        max_batch=model.max_batch,
    )


def load_weights(model: ModelConfig) -> LoadedModel:
    """The model with the weights the configuration asks for. Raises `WeightsError` or `ConfigError`."""
    from streamnode.models import catalog  # noqa: PLC0415

    name, options = model_name(model), model.load_options
    return catalog.load(name, model.weights, revision=model.revision, sha256=model.sha256, **options)


def model_name(model: ModelConfig) -> str:
    """Name in the catalog."""
    return f"{model.kind}-{model.variant}"


def open_session(
    config: Processing, engine: Engine, info: StreamInfo, first_seq: int = 0, *, without: Sequence[str] = ()
) -> Session:
    """Signal path, guard and bound model for a stream. Raises `ContractError` if stream and model do not fit.

    Args:
        config: what happens to it.
        engine: the model.
        info: the stream.
        first_seq: number of the first epoch.
        without: channels that the model will not see in any epoch.
    """
    from streamnode.inference.reuse import PatchCache  # noqa: PLC0415

    signal = config.signal
    path = signal_path(config, engine.spec, info, first_seq, without=without)
    if signal.bad_channels == "interpolate":
        interpolation_matrix(path.info.montage, ())  # refuses channels without a place now, not when one goes bad
    horizon_s = config.epoch.duration_s + path.delay_s + (_LATE_MARKER_S if config.epoch.markers else 0.0)
    model = engine.bind(
        path.info.montage, config.model.outputs, duration_s=config.epoch.duration_s, **config.model.bind_options
    )
    if model.needs_all and (signal.bad_channels == "mask" or without):
        raise ContractError(
            f"these weights of {model.name} mix all of their {model.montage.n_chans} channels and can do without none: "
            "set signal.bad_channels to interpolate, skip or keep, and call no channel bad"
        )
    guard = Guard(
        info,
        path.info,
        signal.bad_channels,
        horizon_s=horizon_s,
        line_hz=_notch_hz(config, info),
        least=least_good(engine.spec),
        counted=model.placed,
    )
    meta = _describe(config, path, model, info)
    stride, reuse = patch_reuse(config, engine.spec, engine.patch_stride)
    patches = None if stride is None else PatchCache(stride)
    feed = Feed(model, meta.hop_s, config.epoch.deadline_s, patches, engine.max_batch)
    return Session(info, path, guard, feed, meta, _pace(config, model), reuse)


def least_good(spec: ModelSpec) -> int:
    """How many channels a model must see; the average reference of one, which such a model takes, leaves nothing."""
    return 2 if spec.rebuilds else 1


def signal_path(
    config: Processing, spec: ModelSpec, info: StreamInfo, first_seq: int = 0, *, without: Sequence[str] = ()
) -> EpochStream:
    """From chunks of a stream to epochs of a model, as of `open_session`."""
    signal, epoch = config.signal, config.epoch
    n_times, counting = _n_times(epoch, spec), _counting(config, info, without)
    wishes: Wishes = {
        "picks": signal.picks,
        "reference": signal.reference,
        "bipolar": pairs_of(signal.bipolar),
        "l_freq": signal.l_freq,
        "h_freq": signal.h_freq,
        "notch_hz": _notch_hz(config, info),
    }
    if epoch.markers is not None:
        labels, tmin_s = epoch.markers.labels, epoch.markers.tmin_s
        return build_marker_epochs(
            info,
            spec,
            labels=labels,
            tmin_s=tmin_s,
            n_times=n_times,
            clock=clock,
            first_seq=first_seq,
            counting=counting,
            **wishes,
        )
    return build_epochs(
        info,
        spec,
        signal.mode,
        n_times=n_times,
        hop=_hop(epoch, spec),
        clock=clock,
        first_seq=first_seq,
        margin_s=signal.margin_s,
        lookahead_s=signal.lookahead_s or 0.0,
        counting=counting,
        **wishes,
    )


def _counting(config: Processing, info: StreamInfo, without: Sequence[str]) -> Counting | None:
    """Whose standard deviation epochs take along: v1 of ZUNA is to divide by that of a whole recording, if not told."""
    model = config.model
    if not isinstance(model, ZunaConfig) or model.variant != "v1" or model.std_uv is not None:
        return None
    return Counting(tuple(without), config.signal.bad_channels != "keep", _notch_hz(config, info))


def _pace(config: Processing, model: BoundModel) -> Pace | None:
    """Decides how many steps of a sampler each epoch has, where fewer are allowed.

    Raises:
        ContractError: epochs could not pass without the sampler.
    """
    zuna, epoch = config.model, config.epoch
    if not isinstance(zuna, ZunaConfig) or zuna.min_steps is None or "reconstruction" not in zuna.outputs:
        return None
    model.with_steps(0)  # refuses too few channels now, not when there is no time
    cost = model.cost(epoch.duration_s, min(zuna.steps, _TELLING_STEPS))
    return Pace(cost, steps=zuna.steps, floor=zuna.min_steps, hop_s=epoch.hop_s)


def patch_reuse(config: Processing, spec: ModelSpec, stride: int | None) -> tuple[int | None, str]:
    """Whether epochs pass on to the next the patches that they share: the stride if so, and the same in words.

    Args:
        config: how epochs are cut and filtered.
        spec: of the model.
        stride: samples from one patch to the next; None where a model does not look at each patch alone.
    """
    if stride is None:
        return None, ""
    n_times, hop = _n_times(config.epoch, spec), _hop(config.epoch, spec)
    n_patches, n_new = 1 + (n_times - spec.patch) // stride, hop // stride
    if config.epoch.markers is not None:
        why_not = "those around markers overlap by chance only"
    elif config.signal.mode != "causal":
        why_not = f"signal.mode {config.signal.mode} prepares the samples of each anew, which causal does not"
    elif hop % stride:
        why_not = (
            f"epoch.hop_s is no multiple of the {stride / spec.sfreq:g} s between patches, "
            f"as {max(1, round(hop / stride)) * stride / spec.sfreq:g} s is"
        )
    elif n_new >= n_patches:
        why_not = "no two of them overlap by a patch"
    else:
        return stride, f"{n_new} of {n_patches} patches of an epoch are computed, the others known from the one before"
    return None, f"every epoch is computed whole: {why_not}"


def _describe(config: Processing, path: EpochStream, model: BoundModel, info: StreamInfo) -> OutputMeta:
    return OutputMeta(
        node=config.node.name,
        version=__version__,
        stream=info,
        model=model.name,
        weights=model.weights,
        ch_names=path.info.ch_names,
        sfreq=path.info.sfreq,
        duration_s=config.epoch.duration_s,
        hop_s=0.0 if config.epoch.markers else config.epoch.hop_s,
        delay_s=path.delay_s,
        signal=path.describe(),
        shapes=model.shapes,
        reconstructed=model.reconstructed,
    )


def _notch_hz(config: Processing, info: StreamInfo) -> float | None:
    """Mains frequency to remove from a stream."""
    return info.mains_hz if config.signal.notch_hz == "auto" else config.signal.notch_hz


def pairs_of(bipolar: str | tuple[str, ...] | None) -> tuple[str, ...] | None:
    """The channels of a bipolar montage, named or listed."""
    return BIPOLAR_MONTAGES[bipolar] if isinstance(bipolar, str) else bipolar


def _n_times(epoch: EpochConfig, spec: ModelSpec) -> int:
    return _whole_samples("epoch.duration_s", epoch.duration_s, spec, spec.patch)


def _hop(epoch: EpochConfig, spec: ModelSpec) -> int:
    return _whole_samples("epoch.hop_s", epoch.hop_s, spec)


def _whole_samples(key: str, seconds: float, spec: ModelSpec, multiple: int = 1) -> int:
    """Seconds as samples at the model's rate. Raises `ConfigError` unless that is a whole number of `multiple`."""
    exact = seconds * spec.sfreq
    n_times = multiple * max(1, round(exact / multiple))
    if abs(n_times - exact) > 1e-6 * spec.sfreq:
        raise ConfigError(
            f"{key}: {seconds:g} s is not a whole number of {spec.name}'s {multiple / spec.sfreq * 1e3:g} ms steps: "
            f"the nearest is {n_times / spec.sfreq:.10g} s"
        )
    return n_times
