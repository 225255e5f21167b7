"""What overlapping epochs cost where their patches are shared, beside whole ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter

import numpy as np

from streamnode.bench.contenders import Subject
from streamnode.inference.engine import Engine
from streamnode.inference.reuse import PatchCache
from streamnode.models import catalog
from streamnode.types import Epoch, StreamInfo

OnStep = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Reuse:
    """Overlapping epochs of one stream, each a patch further on than the one before.

    Attributes:
        contender: how they pass: `ours` or `compile`.
        hop_s: a patch, or what lies between two.
        whole_ms: median duration where every epoch is computed whole.
        new_ms: where only the new patch is.
        speed_up: median over epochs of the ratio.
        max_abs: largest difference between the two.
    """

    contender: str
    hop_s: float
    whole_ms: float
    new_ms: float
    speed_up: float
    max_abs: float


def measure(contender: str, subject: Subject, rounds: int, on_step: OnStep) -> Reuse | None:
    """How much an epoch costs that shares all but one patch with the one before.

    Args:
        contender: `ours` or `compile`.
        subject: what passes.
        rounds: how many epochs to time, each whole and by its new patch.
        on_step: told in a few words what is being done.

    Returns:
        None for a model that does not look at each patch alone.
    """
    loaded = catalog.load(subject.model, subject.weights)
    engine = Engine(loaded, device=subject.device, compile=contender == "compile")
    stride = engine.patch_stride
    if stride is None:
        return None
    on_step(f"a hop of one patch, {contender}")
    spec, n_times = engine.spec, subject.n_times
    bound = engine.bind(subject.montage, subject.outputs, duration_s=n_times / spec.sfreq)
    info, cache = StreamInfo("bench", "", "EEG", spec.sfreq, subject.montage), PatchCache(stride)
    signal = 20 * np.random.default_rng(0).standard_normal((info.n_chans, n_times + rounds * stride), np.float32)
    whole_ms, new_ms, max_abs = list[float](), list[float](), 0.0
    for seq in range(rounds + 1):
        start = seq * stride
        data = np.ascontiguousarray(signal[:, start : start + n_times])
        epoch = Epoch(info, data, seq, start, t0=0.0, t_last=0.0, t_arrived=0.0, t_epoch=0.0, run=0)
        began = perf_counter()
        whole = bound.run(data[None])
        between = perf_counter()
        new = bound.run_overlapping([epoch], [cache])
        if seq:  # the first has nothing to take over
            whole_ms.append(1e3 * (between - began))
            new_ms.append(1e3 * (perf_counter() - between))
            max_abs = max(max_abs, *(float(np.abs(new[name] - whole[name]).max()) for name in whole))
    return Reuse(
        contender=contender,
        hop_s=stride / spec.sfreq,
        whole_ms=float(np.median(whole_ms)),
        new_ms=float(np.median(new_ms)),
        speed_up=float(np.median(np.array(whole_ms) / np.array(new_ms))),
        max_abs=max_abs,
    )
