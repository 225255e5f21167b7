"""The whole signal path, from the chunks of a source to the epochs of a model, in one of four modes.

`causal`: causal filters as samples come; an epoch is late by their constant delay. `window`: the offline preprocessing
of the model on each epoch and the margin before it; not late at all. `lookahead`: the same with a fixed time after the
epoch too, by which it is late. `recording`: the same on a whole file at once. Epochs around markers are cut from
causally filtered samples.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal, Protocol, Unpack

import numpy as np

from streamnode.errors import ContractError
from streamnode.signal.chain import Chain, Wishes, band, build_chain, build_montage
from streamnode.signal.epochs import Epocher
from streamnode.signal.level import Counting, RunningStd
from streamnode.signal.markers import MarkerEpocher
from streamnode.signal.offline import Preprocessing
from streamnode.signal.window import WindowEpocher
from streamnode.types import Chunk, Clock, Epoch, Marker, ModelSpec, StreamInfo

Mode = Literal["causal", "window", "lookahead", "recording"]
MARGIN_S = 20.0


class EpochStream(Protocol):
    """Turns the chunks of a stream into the epochs of a model."""

    @property
    def info(self) -> StreamInfo:
        """The stream as the model sees it."""
        ...

    @property
    def delay_s(self) -> float:
        """How much older than the newest sample an epoch's last one is; its stamps tell the true time."""
        ...

    @property
    def settling_s(self) -> float:
        """Epochs that begin less than this after the start of their run are marked as settling."""
        ...

    def describe(self) -> tuple[str, ...]:
        """What happens to the signal, in words and in order."""
        ...

    def __call__(self, chunk: Chunk) -> list[Epoch]:
        """Take in the next samples and return the epochs they complete, in order."""
        ...


class CausalEpochs:
    """Causal filters, then epochs.

    Args:
        chain: the transforms.
        n_times: samples in an epoch, at the model's rate.
        hop: samples from one epoch to the next, at the model's rate.
        clock: LSL clock, read when an epoch is cut.
        first_seq: number of the first epoch.
        counting: whose standard deviation so far the epochs take along; None where no model asks for it.
    """

    def __init__(
        self,
        chain: Chain,
        *,
        n_times: int,
        hop: int,
        clock: Clock,
        first_seq: int = 0,
        counting: Counting | None = None,
    ) -> None:
        self.info = chain.info
        self.delay_s = chain.delay_s
        self.settling_s = chain.settling_s
        self._chain = chain
        self._std = None if counting is None else RunningStd(chain.info, counting)
        self._epocher = Epocher(
            chain.info, n_times=n_times, hop=hop, clock=clock, settling_s=chain.settling_s, first_seq=first_seq
        )

    def describe(self) -> tuple[str, ...]:
        """Every step in words, in order."""
        return _with_std(self._chain, self._std)

    def __call__(self, chunk: Chunk) -> list[Epoch]:
        """Take in the next samples and return the epochs they complete, in order."""
        epochs = self._epocher(self._chain(chunk))
        return epochs if self._std is None else list(map(self._std, epochs))


class MarkerEpochs:
    """Causal filters, then an epoch around every marker.

    Args:
        chain: the transforms.
        epocher: cuts, at the model's rate.
        counting: whose standard deviation so far the epochs take along; None where no model asks for it.
    """

    def __init__(self, chain: Chain, epocher: MarkerEpocher, counting: Counting | None = None) -> None:
        self.info = chain.info
        self.delay_s = chain.delay_s
        self.settling_s = chain.settling_s
        self._chain, self._epocher = chain, epocher
        self._std = None if counting is None else RunningStd(chain.info, counting)

    def describe(self) -> tuple[str, ...]:
        """Every step in words, in order."""
        return _with_std(self._chain, self._std)

    def add_marker(self, marker: Marker) -> list[Epoch]:
        """Take in a marker and return its epoch if all the samples are there already."""
        return self._take_along(self._epocher.add_marker(marker))

    def __call__(self, chunk: Chunk) -> list[Epoch]:
        """Take in the next samples and return the epochs they complete, in order."""
        return self._take_along(self._epocher(self._chain(chunk)))

    def end(self, heir: MarkerEpochs | None = None) -> None:
        """No more samples come, but to the heir; see `MarkerEpocher.end`."""
        self._epocher.end(None if heir is None else heir._epocher)  # noqa: SLF001  (one of its kind)

    def _take_along(self, epochs: list[Epoch]) -> list[Epoch]:
        return epochs if self._std is None else list(map(self._std, epochs))

    def take_dropped(self) -> Counter[str]:
        """How many markers got no epoch since this was last asked, by reason (see `MarkerEpocher.dropped`)."""
        dropped, self._epocher.dropped = self._epocher.dropped, Counter()
        return dropped


class WindowEpochs:
    """The channels of the model, then epochs prepared one by one.

    Args:
        montage: what makes the channels.
        prepare: the offline preprocessing.
        epocher: cuts and prepares.
    """

    def __init__(self, montage: Chain, prepare: Preprocessing, epocher: WindowEpocher) -> None:
        self.info = epocher.info
        self.delay_s = epocher.delay_s
        self.settling_s = epocher.settling_s
        self._montage, self._prepare, self._epocher = montage, prepare, epocher

    def describe(self) -> tuple[str, ...]:
        """Every step in words, in order."""
        after = f" and {self.delay_s:g} s after" if self.delay_s else ""
        scope = f"each epoch with {self.settling_s:g} s before{after}"
        std = ("one standard deviation of all channels there",) if self._epocher.measures_std else ()
        return (*self._montage.describe(), scope, *self._prepare.labels, *std)

    def __call__(self, chunk: Chunk) -> list[Epoch]:
        """Take in the next samples and return the epochs they complete, in order."""
        return self._epocher(self._montage(chunk))


class RecordingEpochs:
    """The channels of the model, the offline preprocessing, then epochs; each chunk is a whole recording.

    Args:
        montage: what makes the channels.
        prepare: the offline preprocessing.
        n_times: samples in an epoch, at the model's rate.
        hop: samples from one epoch to the next, at the model's rate.
        clock: LSL clock, read when an epoch is cut.
        first_seq: number of the first epoch.
    """

    delay_s = settling_s = 0.0

    def __init__(
        self, montage: Chain, prepare: Preprocessing, *, n_times: int, hop: int, clock: Clock, first_seq: int = 0
    ) -> None:
        self.info = replace(montage.info, sfreq=prepare.sfreq_out)
        self._montage, self._prepare = montage, prepare
        self._epocher = Epocher(self.info, n_times=n_times, hop=hop, clock=clock, first_seq=first_seq)

    def describe(self) -> tuple[str, ...]:
        """Every step in words, in order."""
        return (*self._montage.describe(), "the recording as a whole", *self._prepare.labels)

    def prepare(self, chunk: Chunk) -> Chunk:
        """All of a recording, before it is cut."""
        picked, sfreq = self._montage(chunk), chunk.info.sfreq
        data = self._prepare(np.ascontiguousarray(picked.data.T, dtype=np.float64)).T
        t0 = chunk.t0 + self._prepare.grid(chunk.n_times).first / sfreq
        return replace(picked, info=self.info, data=data, start=round(chunk.start * self.info.sfreq / sfreq), t0=t0)

    def __call__(self, chunk: Chunk) -> list[Epoch]:
        """Take in a whole recording and return its epochs, in order."""
        return self._epocher(self.prepare(chunk))


def build_epochs(
    info: StreamInfo,
    spec: ModelSpec,
    mode: Mode = "causal",
    *,
    n_times: int,
    hop: int,
    clock: Clock,
    first_seq: int = 0,
    margin_s: float = MARGIN_S,
    lookahead_s: float = 0.0,
    counting: Counting | None = None,
    **wishes: Unpack[Wishes],
) -> CausalEpochs | WindowEpochs | RecordingEpochs:
    """The signal path between a stream and a model.

    Args:
        info: the stream as the source yields it.
        spec: what the model expects.
        mode: see the head of this file.
        n_times: samples in an epoch, at the model's rate.
        hop: samples from one epoch to the next, at the model's rate.
        clock: LSL clock, read when an epoch is cut.
        first_seq: number of the first epoch, for a path that takes over from another.
        margin_s: mode `window` and `lookahead`: how much before an epoch is prepared with it.
        lookahead_s: mode `lookahead`: how much after an epoch is waited for and prepared with it; above 0.
        counting: which channels count into the standard deviation that epochs take along: in mode `causal` of all so
            far, in `window` and `lookahead` of what is prepared with them. None goes without, as a `recording` does.
        wishes: what is asked of the signal.

    Raises:
        ContractError: stream, model, mode and wishes do not fit each other.
    """
    if (mode == "lookahead") != (lookahead_s > 0):
        raise ContractError(f"a lookahead of {lookahead_s:g} s and mode {mode} exclude each other: change one of them")
    if mode == "causal":
        chain = build_chain(info, spec, **wishes)
        return CausalEpochs(chain, n_times=n_times, hop=hop, clock=clock, first_seq=first_seq, counting=counting)
    montage = build_montage(info, spec, **wishes)
    low, high = band(info, spec, **wishes)
    prepare = Preprocessing(info.sfreq, spec, low, high, wishes.get("notch_hz"))
    if mode == "recording":
        return RecordingEpochs(montage, prepare, n_times=n_times, hop=hop, clock=clock, first_seq=first_seq)
    epocher = WindowEpocher(
        montage.info,
        prepare,
        n_times=n_times,
        hop=hop,
        margin_s=margin_s,
        lookahead_s=lookahead_s,
        clock=clock,
        first_seq=first_seq,
        counting=counting,
    )
    return WindowEpochs(montage, prepare, epocher)


def build_marker_epochs(
    info: StreamInfo,
    spec: ModelSpec,
    *,
    labels: Sequence[str],
    tmin_s: float,
    n_times: int,
    clock: Clock,
    first_seq: int = 0,
    counting: Counting | None = None,
    **wishes: Unpack[Wishes],
) -> MarkerEpochs:
    """The signal path between a stream and a model that looks at what happens around markers.

    Args:
        info: the stream as the source yields it.
        spec: what the model expects.
        labels: which markers count, as patterns such as `stim/*`.
        tmin_s: where an epoch begins, seconds after its marker.
        n_times: samples in an epoch, at the model's rate.
        clock: LSL clock, read when an epoch is cut.
        first_seq: number of the first epoch, for a path that takes over from another.
        counting: which channels count into the standard deviation of all epochs so far; None goes without.
        wishes: what is asked of the signal.

    Raises:
        ContractError: stream, model and wishes do not fit each other.
    """
    chain = build_chain(info, spec, **wishes)
    epocher = MarkerEpocher(
        chain.info,
        n_times=n_times,
        tmin_s=tmin_s,
        pattern=labels,
        clock=clock,
        settling_s=chain.settling_s,
        first_seq=first_seq,
    )
    return MarkerEpochs(chain, epocher, counting)


def _with_std(chain: Chain, std: RunningStd | None) -> tuple[str, ...]:
    """The transforms in words, and what epochs take along."""
    return chain.describe() if std is None else (*chain.describe(), std.label)
