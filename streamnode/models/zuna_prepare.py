"""What ZUNA's own packages do to a recording before the network, and the way back (sections 5.1 and 5.7).

    recording -> 256 Hz -> from 0.5 Hz -> epochs -> average reference -> scaled -> network -> microvolts

All as they do it, bad channels included. What epochs go through live is `zuna.normalise`, which is the same wherever
no channel is bad.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import torch

from streamnode.errors import ContractError
from streamnode.models.zuna import DATA_NORM, SPEC, V1_1_EPS_UV, Scaled
from streamnode.models.zuna_flow import Generation
from streamnode.signal.offline import Preprocessing
from streamnode.types import Float64Array


def prepare(
    recording_uv: Float64Array,
    sfreq: float,
    generation: Generation,
    *,
    bad: Collection[int] = (),
    n_added: int = 0,
    duration_s: float = SPEC.durations[0],
    data_norm: float = DATA_NORM,
) -> Scaled:
    """From a recording to what the network is given.

    Args:
        recording_uv: `(n_chans, n_times)` microvolts.
        sfreq: Hz.
        generation: `v1` divides by the standard deviation of the recording, and a bad channel is 0 in it; `1.1` divides
            each channel by its own in each epoch, a bad one by that of what it holds, and an added one by that of the
            average.
        bad: rows that the network is not to see. They are in the average all the same.
        n_added: channels to append.
        duration_s: of an epoch. Epochs follow each other; what is left at the end is left out.
        data_norm: standard deviations that are 1 to the network.

    Returns:
        `x` `(n_epochs, n_chans + n_added, n_times)` float64; `unprepare` takes it back.

    Raises:
        ContractError: the recording has a sample that is no number, no good channel, not one whole epoch, or nothing in
            it varies.
    """
    _refuse_useless(recording_uv, bad)
    data = Preprocessing(sfreq, SPEC, SPEC.l_freq, SPEC.h_freq, None)(recording_uv)
    n_times = round(duration_s * SPEC.sfreq)
    n_epochs = data.shape[1] // n_times
    if not n_epochs or n_times % SPEC.patch:
        raise ContractError(
            f"{data.shape[1] / SPEC.sfreq:g} s hold no epoch of {duration_s:g} s: choose a longer recording, or a "
            f"shorter epoch of a multiple of {SPEC.patch / SPEC.sfreq:g} s"
        )
    n_chans = len(data)
    hidden = [*bad, *range(n_chans, n_chans + n_added)]
    data = np.pad(data, ((0, n_added), (0, 0)))
    reference = data[:n_chans].mean(axis=0)
    known = data - reference
    if generation == "v1":
        known[hidden] = 0.0
    epochs, offset = _cut(known, n_times), _cut(np.broadcast_to(reference, known.shape), n_times)
    mean = epochs.mean(axis=2, keepdims=True)
    if generation == "v1":
        std = np.full_like(mean, known[:n_chans].std())
    else:
        std = epochs.std(axis=2, keepdims=True) + V1_1_EPS_UV
    if not std.all():
        raise ContractError("nothing varies in this recording: choose one with a signal in it")
    x = np.clip((epochs - mean) / (data_norm * std), -1, 1)
    x[:, hidden] = 0.0
    return Scaled(*(torch.from_numpy(part) for part in (x, data_norm * std, offset + mean)))


def _refuse_useless(recording_uv: Float64Array, bad: Collection[int]) -> None:
    if not np.isfinite(recording_uv).all():
        row, column = np.argwhere(~np.isfinite(recording_uv))[0]
        raise ContractError(f"sample {column} of row {row} is not a finite number: fill or cut what is missing")
    if len(set(bad)) == len(recording_uv):
        raise ContractError(f"all {len(recording_uv)} channels are bad: leave ZUNA some that are not")


def unprepare(prepared: Scaled, x: torch.Tensor | None = None) -> Float64Array:
    """Back to microvolts, one epoch after the other.

    Args:
        prepared: from `prepare`.
        x: `(n_epochs, n_rows, n_times)` what the network made of it; None takes back what it was given.

    Returns:
        `(n_rows, n_epochs * n_times)`: of what was given, the recording at 256 Hz from 0.5 Hz, as far as it was not
        clamped. The published v1 does not put back the average and the means of epochs; here both are.
    """
    epochs: Float64Array = prepared.undo(prepared.x if x is None else x.double()).numpy()
    return epochs.transpose(1, 0, 2).reshape(epochs.shape[1], -1)


def _cut(data: Float64Array, n_times: int) -> Float64Array:
    """`(n_rows, n)` to `(n_epochs, n_rows, n_times)`."""
    n_epochs = data.shape[1] // n_times
    epochs: Float64Array = data[:, : n_epochs * n_times].reshape(len(data), n_epochs, n_times).transpose(1, 0, 2)
    return epochs
