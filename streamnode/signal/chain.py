"""From a stream to what a model expects of it: which transforms, in which order, with what delay.

pick -> reference or bipolar pairs -> high-pass -> notch -> resample or low-pass. Offline, training data are filtered
over minutes to both sides; live, the shape of the signal within an epoch is what can be kept. So the high-pass is of
first order and far below the band, the notch is narrow, and what limits the band above is linear in phase.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import groupby
from typing import Protocol, TypedDict, Unpack

import numpy as np

from streamnode.errors import ContractError
from streamnode.montage import clean_name, some
from streamnode.signal.channels import Bipolar, Pick, Rereference
from streamnode.signal.filters import LinearPhaseLowpass, SosFilter, cascade, highpass, notch
from streamnode.signal.resample import Resampler
from streamnode.types import Chunk, ModelSpec, StreamInfo, Transform

_NOTCH_Q = 75.0
_EDGE = 1.125  # of h_freq: where MNE's default low-pass, which most training data went through, has a gain of one half
_TRANSITION = 0.5  # of h_freq: a steeper filter is later, and its output no closer to the offline signal
_PASS, _STOP = 0.8, 1.67  # of h_freq: as steep as the resampler's filter can be with less than 25 ms at 75 Hz


class Step(Transform, Protocol):
    """A transform that can say what it does."""

    @property
    def label(self) -> str:
        """The transform in words."""
        ...


Build = Callable[[StreamInfo], Step]


class Chain:
    """Transforms in order, themselves one transform; a new run finds all of them as if newly built.

    Args:
        info: the incoming stream.
        steps: each built from the outgoing stream of the one before it.
    """

    def __init__(self, info: StreamInfo, steps: Sequence[Step]) -> None:
        self.info = steps[-1].info if steps else info
        self.delay_s = sum(step.delay_s for step in steps)
        self.settling_s = sum(step.settling_s for step in steps)  # each rings on with what those before it let in
        self._labels = tuple(step.label for step in steps)
        self._steps = tuple(_in_fewer_calls(steps))
        self._run: int | None = None

    def describe(self) -> tuple[str, ...]:
        """The transforms in words, in order."""
        return self._labels

    def reset(self) -> None:
        """Forget all past samples."""
        self._run = None
        for step in self._steps:
            step.reset()

    def __call__(self, chunk: Chunk) -> Chunk:
        """Transform the next samples; the first of a new run are not touched by any before."""
        if chunk.run != self._run:
            self.reset()
            self._run = chunk.run
        for step in self._steps:
            chunk = step(chunk)
        return chunk


def _in_fewer_calls(steps: Iterable[Step]) -> Iterator[Step]:
    """The same transforms, neighbours that are second-order sections as one: of short chunks, the call is the cost."""
    for are_sections, neighbours in groupby(steps, lambda step: isinstance(step, SosFilter)):
        if are_sections:
            yield cascade([step for step in neighbours if isinstance(step, SosFilter)])
        else:
            yield from neighbours


class Wishes(TypedDict, total=False):
    """What may be asked of the signal; what is None or left out follows from the model.

    Attributes:
        picks: the channels to use, in this order; without it those the model is fixed to, or all.
        reference: `as_recorded`, `average`, or channels, which need not be picked. Without effect on bipolar pairs,
            whose differences no reference changes.
        bipolar: pairs to form, such as `Fp1-F7`.
        l_freq: lower edge of the band, Hz.
        h_freq: upper edge of the band, Hz.
        notch_hz: mains frequency to remove, Hz; without it none is removed.
    """

    picks: Sequence[str] | None
    reference: str | Sequence[str] | None
    bipolar: Sequence[str] | None
    l_freq: float | None
    h_freq: float | None
    notch_hz: float | None


def build_chain(info: StreamInfo, spec: ModelSpec, **wishes: Unpack[Wishes]) -> Chain:
    """The transforms between a stream and a model.

    Args:
        info: the stream as the source yields it.
        spec: what the model expects.
        wishes: what is asked of the signal.

    Raises:
        ContractError: stream, model and these wishes do not fit each other.
    """
    low, high = band(info, spec, **wishes)
    return _chain(info, spec, [*_montage(info, spec, wishes), *_band(info, spec, low, high, wishes.get("notch_hz"))])


def build_montage(info: StreamInfo, spec: ModelSpec, **wishes: Unpack[Wishes]) -> Chain:
    """The part of `build_chain` that makes the channels of the model; the band and the rate stay the stream's."""
    return _chain(info, spec, _montage(info, spec, wishes))


def band(info: StreamInfo, spec: ModelSpec, **wishes: Unpack[Wishes]) -> tuple[float, float]:
    """Lower and upper edge of the band, Hz. Raises `ContractError` if the stream does not have it, or the mains."""
    low, high = wishes.get("l_freq"), wishes.get("h_freq")
    if high is None:  # where training knew no low-pass, any stream has what there was
        high = min(spec.h_freq, info.sfreq / 2) if 2 * spec.h_freq >= spec.sfreq else spec.h_freq
    _check_rates(info, spec, high, wishes.get("notch_hz"))
    return spec.l_freq if low is None else low, high


def _chain(info: StreamInfo, spec: ModelSpec, builds: Iterable[Build]) -> Chain:
    steps: list[Step] = []
    for build in builds:
        steps.append(build(steps[-1].info if steps else info))
    chain = Chain(info, steps)
    _check_positions(chain.info, spec)
    return chain


def _montage(info: StreamInfo, spec: ModelSpec, wishes: Wishes) -> Iterator[Build]:
    """What makes the channels of the model out of those of the stream."""
    picks, bipolar, reference = wishes.get("picks"), wishes.get("bipolar"), wishes.get("reference")
    reference = spec.reference if reference is None else reference
    if bipolar is not None:
        if picks is not None:
            yield partial(Pick, ch_names=picks)
        yield partial(Bipolar, pairs=_fixed(spec, bipolar, "signal.bipolar"))
        return
    if spec.ch_names is not None:
        offered, where = (info.ch_names, f"stream {info.name!r}") if picks is None else (picks, "signal.picks")
        picks = _fixed(spec, offered, where)
    if reference not in ("as_recorded", "average"):
        yield partial(Rereference, reference=reference)
    if picks is not None:
        yield partial(Pick, ch_names=picks)
    if reference == "average":
        yield _average


def _average(info: StreamInfo) -> Step:
    if info.n_chans == 1:
        raise ContractError(
            f"{info.ch_names[0]} alone has no average to refer to: use more channels, or set signal.reference to "
            "as_recorded"
        )
    return Rereference(info, "average")


def _band(info: StreamInfo, spec: ModelSpec, low: float, high: float, notch_hz: float | None) -> Iterator[Build]:
    """What makes the band and the rate of the model out of those of the stream."""
    slower = min(info.sfreq, spec.sfreq)
    if low > 0:
        yield partial(highpass, l_freq=low / 2, order=1)
    if notch_hz is not None:
        yield partial(notch, notch_hz=notch_hz, q=_NOTCH_Q, harmonics=max(1, int(_STOP * high / notch_hz)))
    if info.sfreq != spec.sfreq:
        top = min(high, slower / 2)
        stop_hz = min(_STOP * top, slower - _PASS * top)
        yield partial(Resampler, sfreq_out=spec.sfreq, pass_hz=_PASS * top, stop_hz=stop_hz)
    elif _EDGE * high < slower / 2:
        yield partial(LinearPhaseLowpass, edge_hz=_EDGE * high, transition_hz=_TRANSITION * high)


def _fixed(spec: ModelSpec, offered: Sequence[str], where: str) -> Sequence[str]:
    """The channels a model is fixed to, in its order, or else all that are offered."""
    if spec.ch_names is None:
        return offered
    known = {clean_name(name).casefold() for name in offered}
    if lost := [name for name in spec.ch_names if clean_name(name).casefold() not in known]:
        raise ContractError(
            f"{spec.name} needs {some(lost)}, which {where} does not have: add what is missing, or choose a model "
            "that takes any channels"
        )
    return spec.ch_names


def _check_rates(info: StreamInfo, spec: ModelSpec, high: float, notch_hz: float | None) -> None:
    if not info.sfreq > 0:
        raise ContractError(
            f"stream {info.name!r} has no fixed sampling frequency, which {spec.name} needs: choose a stream of "
            "samples rather than of events"
        )
    nyquist = info.sfreq / 2
    if nyquist < high:
        raise ContractError(
            f"{spec.name} wants frequencies up to {high:g} Hz and stream {info.name!r}, at {info.sfreq:g} Hz, has them "
            f"only up to {nyquist:g} Hz: record faster, or set signal.h_freq to {nyquist:g} or less"
        )
    if notch_hz is not None and not 0 < notch_hz < nyquist:
        raise ContractError(
            f"signal.notch_hz of {notch_hz:g} Hz is not between 0 and the {nyquist:g} Hz that stream {info.name!r} "
            "reaches: set it to the mains frequency, or leave it out"
        )


def _check_positions(info: StreamInfo, spec: ModelSpec) -> None:
    lost = [name for name, xyz in zip(info.ch_names, info.montage.ch_pos, strict=True) if not np.isfinite(xyz).all()]
    if spec.needs_positions and lost:
        raise ContractError(
            f"{spec.name} needs to know where every electrode is, and of {some(lost)} it is not known: leave them out "
            "with signal.picks, declare the cap with source.cap, or have the source give their positions"
        )
