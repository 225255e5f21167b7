"""Bad channels made good from their neighbours: spherical splines, and what to do with an epoch that has some.

Perrin, Pernier, Bertrand and Echallier (1989), Spherical splines for scalp potential and current density mapping,
Electroencephalography and Clinical Neurophysiology 72, 184-187; with the order, the number of terms and the
regularisation of MNE-Python, so that a live epoch equals what `interpolate_bads` makes of the recording.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.polynomial.legendre import legval
from numpy.typing import NDArray

from streamnode.errors import ContractError
from streamnode.types import Float32Array, Float64Array, Montage, Quality

Policy = Literal["keep", "mask", "interpolate", "skip"]

FIXED_ORIGIN = (0.0, 0.0, 0.04)
"""Centre of the average head in the head frame, metres."""

MIN_GOOD = 4
"""Fewer channels do not surround a fifth."""

_N_TERMS, _ORDER, _REGULARISATION = 50, 4, 1e-5
_ENOUGH_FOR_A_SPHERE = 10  # electrodes; from fewer, the centre of a sphere is anybody's guess


@dataclass(frozen=True, slots=True, eq=False)
class Repair:
    """What to give to the model in place of an epoch.

    Attributes:
        data: `(n_rows, n_times)` float32 microvolts.
        rows: the channels of the epoch that `data` holds, in order: all of them, unless bad ones were masked.
    """

    data: Float32Array
    rows: NDArray[np.intp]


def repair(data: Float32Array, montage: Montage, quality: Quality, policy: Policy) -> Repair | None:
    """Apply a policy to the bad channels of one epoch.

    `keep` changes nothing, `mask` leaves the bad channels out, `interpolate` replaces them, `skip` gives up the epoch.
    Interpolated data are those of the reference the epoch already has: in an average that included a bad channel,
    that channel remains, divided by their number.

    Args:
        data: `(n_chans, n_times)` microvolts; not changed.
        montage: its channels. For `interpolate` all need positions: call `interpolation_matrix(montage, ())` once,
            when the node is built, so that a montage without them is refused there.
        quality: which are bad.
        policy: what to do about it.

    Returns:
        What to infer from; None when the epoch shall not be inferred, which `mask` decides when no channel is left
        and `interpolate` when fewer than `MIN_GOOD` are.

    Raises:
        ContractError: the policy is `interpolate` and a channel has no position.
    """
    every = np.arange(len(data))
    bad = np.array(quality.bad, dtype=np.intp)
    if not len(bad) or policy == "keep":
        return Repair(data, every)
    good = np.delete(every, bad)
    if policy == "mask":
        return Repair(data[good], good) if len(good) else None
    if policy == "skip" or len(good) < MIN_GOOD:
        return None
    repaired = data.copy()
    repaired[bad] = interpolation_matrix(montage, quality.bad)[np.ix_(bad, good)] @ data[good]
    return Repair(repaired, every)


def interpolation_matrix(montage: Montage, bad: Sequence[int]) -> Float64Array:
    """The matrix that replaces bad channels by spherical splines through the good ones, on `sphere_origin`'s sphere.

    Args:
        montage: channels and positions.
        bad: indices of the bad channels.

    Returns:
        `(n_chans, n_chans)`, to be multiplied by `(n_chans, n_times)`: rows of good channels are those of the unit
        matrix, columns of bad channels are zero. Read-only, and remembered for the next epoch.

    Raises:
        ContractError: a channel has no position, or fewer than `MIN_GOOD` are good.
    """
    return _matrix(montage, tuple(sorted(set(bad))))


def sphere_origin(montage: Montage) -> Float64Array:
    """Centre of the sphere that fits the electrodes best, `(3,)` metres in the head frame: MNE-Python's `auto`.

    Least squares over all electrodes, bad ones too, but those on the face (in front of the ears and below them). With
    no more than ten of these the centre of the average head, `FIXED_ORIGIN`: there MNE-Python still fits, but warns.
    """
    x, y, z = montage.ch_pos.T
    points = montage.ch_pos[np.isfinite(x) & ~((z < -1e-6) & (y > 1e-6))]
    if len(points) <= _ENOUGH_FOR_A_SPHERE:
        return np.array(FIXED_ORIGIN)
    design = np.column_stack([2 * points, np.ones(len(points))])
    centre: Float64Array = np.linalg.lstsq(design, (points**2).sum(axis=1), rcond=1e-6)[0][:3]
    return centre


@lru_cache(maxsize=64)
def _matrix(montage: Montage, bad: tuple[int, ...]) -> Float64Array:
    rows = np.array(bad, dtype=np.intp)
    good = np.delete(np.arange(montage.n_chans), rows)
    _check(montage, len(good))
    matrix = np.zeros((montage.n_chans, montage.n_chans))
    matrix[good, good] = 1.0
    if bad:
        rays = montage.ch_pos - sphere_origin(montage)
        rays /= np.linalg.norm(rays, axis=1, keepdims=True)
        matrix[np.ix_(rows, good)] = _spline(rays[good], rays[rows])
    matrix.flags.writeable = False
    return matrix


def _check(montage: Montage, n_good: int) -> None:
    if lost := [name for name, xyz in zip(montage.ch_names, montage.ch_pos, strict=True) if not np.isfinite(xyz).all()]:
        raise ContractError(
            f"bad channels cannot be interpolated while {', '.join(lost)} has no position: give positions, declare the "
            "cap, pick only channels that have one, or choose the policy mask, skip or keep"
        )
    if n_good < MIN_GOOD:
        raise ContractError(
            f"{n_good} good channels are too few to interpolate from: at least {MIN_GOOD} are needed, so choose the "
            "policy mask, skip or keep"
        )


def _spline(known: Float64Array, wanted: Float64Array) -> Float64Array:
    """`(n_wanted, n_known)` weights from unit vectors to unit vectors."""
    n_known = len(known)
    system = np.ones((n_known + 1, n_known + 1))
    system[:n_known, :n_known] = _kernel(known @ known.T) + _REGULARISATION * np.eye(n_known)
    system[n_known, n_known] = 0.0
    at_wanted = np.ones((n_known + 1, len(wanted)))
    at_wanted[:n_known] = _kernel(known @ wanted.T)
    weights = np.linalg.solve(system, at_wanted)[:n_known].T
    return weights.astype(np.float64, copy=False)


def _kernel(cosine: Float64Array) -> Float64Array:
    """Perrin's g of the cosine between two electrodes."""
    n = np.arange(1, _N_TERMS + 1)
    factors = (2 * n + 1) / (4 * np.pi * (n * (n + 1.0)) ** _ORDER)
    terms: Float64Array = legval(cosine, np.concatenate([[0.0], factors]))
    return terms
