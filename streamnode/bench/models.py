"""The models side by side: one pass of each contender in every round, and what the rounds say of them.

The contenders share a process and take turns, in another order each round, so that whatever else the machine does hits
all alike. Before each timed pass goes one that is not: the threads of who ran before have gone to sleep after it. What
counts is the median over rounds of the ratio within a round.
"""

from __future__ import annotations

import gc
import logging
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from streamnode.bench import hop
from streamnode.bench.contenders import Arrays, Contender, Subject, build, montage_of, weights_of
from streamnode.bench.gemm import Gemm, fastest
from streamnode.errors import StreamnodeError
from streamnode.inference.engine import find_device
from streamnode.models import catalog
from streamnode.sources.synthetic import CH_NAMES_64
from streamnode.types import Float64Array, OutputName

log = logging.getLogger(__name__)

DEFAULT_MODELS = ("luna-base", "luna-large", "eegdino-medium", "eegpt-large")
N_CHANS = 22
"""Channels in the main comparison, or as many as the model takes."""

_LIMITS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_REUSING = ("ours", "compile")
_SCALED = ("eager", "ours")

OnStep = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Figures:
    """What came of one contender.

    Attributes:
        contender: who it is.
        precision: of its matrix products.
        p50_ms: median duration of a pass.
        p95_ms: 95th percentile.
        speed_up: times as fast as eager: median over rounds of the ratio within a round; None without eager.
        gflops: GFLOP/s at the median.
        limit_share: of the fastest large matrix product in this precision, in the same rounds; None where nobody knows.
        max_abs: largest difference from float64 over all outputs.
        nrmse: root mean square of these, over that of the output; of the worst output.
        load_s: from the weights file to the first result.
        rss_mb: what that added to the memory of the process; None where nobody can tell.
        rounds_ms: duration of the pass of each round.
    """

    contender: str
    precision: str
    p50_ms: float
    p95_ms: float
    speed_up: float | None
    gflops: float
    limit_share: float | None
    max_abs: float
    nrmse: float
    load_s: float
    rss_mb: float | None
    rounds_ms: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Point:
    """Passes of another size.

    Attributes:
        n_chans: channels.
        batch: epochs in the pass.
        ms: median duration an epoch, by contender.
        speed_up: of ours against eager, as in `Figures`; None without eager.
    """

    n_chans: int
    batch: int
    ms: dict[str, float]
    speed_up: float | None


@dataclass(frozen=True, slots=True)
class Comparison:
    """One model.

    Attributes:
        model: name in the catalog.
        n_params: numbers in the network, heads included.
        n_chans: channels of the epochs.
        duration_s: of an epoch.
        gflop: operations of the matrix products of a pass; a multiplication and an addition are two.
        figures: of each contender that ran.
        absent: why the others did not, a sentence each.
        by_channels: the same model on fewer and more channels.
        by_batch: on more epochs at a time.
        reuse: of patches from one epoch to the next; none where the model does not look at each alone.
    """

    model: str
    n_params: int
    n_chans: int
    duration_s: float
    gflop: float
    figures: tuple[Figures, ...]
    absent: dict[str, str]
    by_channels: tuple[Point, ...] = ()
    by_batch: tuple[Point, ...] = ()
    reuse: tuple[hop.Reuse, ...] = ()


@dataclass(frozen=True, slots=True)
class ModelsReport:
    """All models, and the machine.

    Attributes:
        machine: processor and number of threads, in words.
        device: where the models ran.
        torch: its version.
        weights: what was asked for.
        rounds: how many.
        limits: GFLOP/s of the fastest large matrix product, median of all rounds, by precision.
        models: the comparisons.
    """

    machine: str
    device: str
    torch: str
    weights: str
    rounds: int
    limits: dict[str, float]
    models: tuple[Comparison, ...] = field(default=())


@dataclass(frozen=True, slots=True)
class Plan:
    """What to measure.

    Attributes:
        models: names in the catalog.
        against: contenders, besides ours.
        weights: as a configuration has them; how fast a network is does not depend on them.
        rounds: passes of each contender.
        channels: other numbers of channels to try ours and eager with.
        batches: other numbers of epochs likewise.
        device: `cpu`, `cuda`, `cuda:N` or `auto`.
    """

    models: Sequence[str]
    against: Sequence[str]
    weights: str
    rounds: int
    channels: Sequence[int]
    batches: Sequence[int]
    device: str


def compare(plan: Plan, on_step: OnStep = lambda _: None) -> ModelsReport:
    """Measure all that a plan asks for.

    Args:
        plan: what.
        on_step: told in a few words what is being done.

    Raises:
        ConfigError: there is no such model or device.
        WeightsError: weights cannot be had.
    """
    device = find_device(plan.device)
    entries = [catalog.find(model) for model in plan.models]
    on_step("matrix products")
    wanted = {"float32", *("bfloat16" if "bf" in name else name for name in plan.against)}
    gemms = {precision: fastest(dtype, device) for precision, dtype in _LIMITS.items() if precision in wanted}
    rates: dict[str, list[float]] = {precision: [] for precision in gemms}
    comparisons = []
    for model, entry in zip(plan.models, entries, strict=True):
        with weights_of(model, plan.weights) as weights:
            montage = montage_of(entry.spec.name, N_CHANS)
            subject = Subject(model, weights, montage, str(device))
            comparison, met = _compare_one(subject, plan, gemms, _speaking_of(model, on_step))
        comparisons.append(comparison)
        for precision, values in met.items():
            rates[precision] += values
    return ModelsReport(
        machine=_machine(device),
        device=str(device),
        torch=torch.__version__,
        weights=plan.weights,
        rounds=plan.rounds,
        limits={precision: float(np.median(values)) for precision, values in rates.items()},
        models=tuple(comparisons),
    )


def _speaking_of(model: str, on_step: OnStep) -> OnStep:
    return lambda what: on_step(f"{model}: {what}")


def _compare_one(
    subject: Subject, plan: Plan, gemms: Mapping[str, Gemm], on_step: OnStep
) -> tuple[Comparison, dict[str, list[float]]]:
    """One model, and the rates of matrix products in its rounds."""
    entry = catalog.find(subject.model)
    on_step("float64")
    exact = subject.exact()
    ready, absent = list[_Ready](), dict[str, str]()
    for name in ("ours", *plan.against):
        on_step(f"{name} loads")
        try:
            ready.append(_made_ready(name, subject, exact))
        except StreamnodeError as error:
            absent[name] = str(error)
        except Exception as error:  # a converter that fails takes nothing with it but its own row
            absent[name] = f"{name} cannot run this model ({_cause(error)}): leave it out of --against"
            log.debug("%s", absent[name], exc_info=True)
    on_step(f"{plan.rounds} rounds")
    durations, rates = alternate([one.contender for one in ready], gemms, subject, plan.rounds)
    flop = flops(subject)
    figures = tuple(_figures(one, durations, rates, flop) for one in ready)
    comparison = Comparison(
        model=subject.model,
        n_params=entry.n_params,
        n_chans=subject.montage.n_chans,
        duration_s=subject.n_times / entry.spec.sfreq,
        gflop=flop / 1e9,
        figures=figures,
        absent=absent,
    )
    del ready
    scaled = [name for name in _SCALED if name == "ours" or name in plan.against]
    limit = montage_of(entry.spec.name, len(CH_NAMES_64)).n_chans
    channels = sorted({min(n, limit) for n in plan.channels})
    by_channels = [
        _point(replace(subject, montage=montage_of(entry.spec.name, n)), scaled, plan.rounds, on_step) for n in channels
    ]
    by_batch = [_point(replace(subject, batch=n), scaled, plan.rounds, on_step) for n in plan.batches]
    ways = [name for name in _REUSING if name == "ours" or name in plan.against]
    reuse = tuple(one for name in ways if (one := hop.measure(name, subject, plan.rounds, on_step)) is not None)
    return replace(comparison, by_channels=tuple(by_channels), by_batch=tuple(by_batch), reuse=reuse), rates


# ---- Turns -----------------------------------------------------------------------------------------------------------


def alternate(
    contenders: Sequence[Contender], gemms: Mapping[str, Gemm], subject: Subject, rounds: int
) -> tuple[dict[str, Float64Array], dict[str, list[float]]]:
    """Let contenders take turns.

    Returns:
        `(rounds,)` milliseconds of each contender, and GFLOP/s of each matrix product.
    """
    taken: dict[str, list[float]] = {contender.name: [] for contender in contenders}
    rates: dict[str, list[float]] = {precision: [] for precision in gemms}
    for number in range(rounds):
        turn = number % max(1, len(contenders))
        for contender in (*contenders[turn:], *contenders[:turn]):
            contender.run(subject.epochs)
            began = perf_counter()
            contender.run(subject.epochs)
            taken[contender.name].append(1e3 * (perf_counter() - began))
        for precision, gemm in gemms.items():
            rates[precision].append(gemm.rate())
    return {name: np.array(values) for name, values in taken.items()}, rates


def speed_up(theirs_ms: Float64Array, ours_ms: Float64Array) -> float:
    """How many times as fast as theirs ours is: the median over rounds of the ratio within each."""
    return float(np.median(theirs_ms / ours_ms))


def errors(results: Arrays, exact: Mapping[OutputName, NDArray[Any]]) -> tuple[float, float]:
    """Largest difference from the truth over all outputs, and the largest root mean square in parts of the truth's."""
    differences = {name: results[name].astype(np.float64) - truth for name, truth in exact.items()}
    worst = max(float(np.abs(difference).max()) for difference in differences.values())
    return worst, max(_rms(difference) / _rms(exact[name]) for name, difference in differences.items())


def flops(subject: Subject) -> int:
    """Floating-point operations of the matrix products of a pass, counted while the plain network runs."""
    network: Any = subject.network()
    binding, x = subject.bind(network), torch.from_numpy(subject.epochs)
    # Not every fused attention is known to the counter; its plain form is made of products that are.
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        network.encode(x, binding, frozenset(subject.outputs))
    return int(counter.get_total_flops())


@dataclass(frozen=True, slots=True, eq=False)
class _Ready:
    """A contender that has run once."""

    contender: Contender
    load_s: float
    rss_mb: float | None
    max_abs: float
    nrmse: float


def _made_ready(name: str, subject: Subject, exact: Mapping[OutputName, NDArray[Any]]) -> _Ready:
    gc.collect()
    before, began = _resident_mb(), perf_counter()
    contender = build(name, subject)
    results = contender.run(subject.epochs)
    load_s = perf_counter() - began
    gc.collect()
    after = _resident_mb()
    # Where memory of an earlier contender is given back meanwhile, nobody can tell.
    added = None if before is None or after is None or after < before else after - before
    return _Ready(contender, load_s, added, *errors(results, exact))


def _figures(
    one: _Ready, durations: Mapping[str, Float64Array], rates: Mapping[str, list[float]], flop: int
) -> Figures:
    name, precision = one.contender.name, one.contender.precision
    ms = durations[name]
    p50, p95 = np.percentile(ms, [50, 95])
    gflops = flop / 1e6 / ms
    return Figures(
        contender=name,
        precision=precision,
        p50_ms=float(p50),
        p95_ms=float(p95),
        speed_up=speed_up(durations["eager"], ms) if "eager" in durations else None,
        gflops=float(np.median(gflops)),
        limit_share=float(np.median(gflops / np.array(rates[precision]))) if precision in rates else None,
        max_abs=one.max_abs,
        nrmse=one.nrmse,
        load_s=one.load_s,
        rss_mb=one.rss_mb,
        rounds_ms=tuple(float(value) for value in ms),
    )


def _point(subject: Subject, names: Sequence[str], rounds: int, on_step: OnStep) -> Point:
    on_step(f"{subject.montage.n_chans} channels, {subject.batch} epochs")
    durations, _ = alternate([build(name, subject) for name in names], {}, subject, max(2, rounds // 6))
    return Point(
        n_chans=subject.montage.n_chans,
        batch=subject.batch,
        ms={name: float(np.median(ms)) / subject.batch for name, ms in durations.items()},
        speed_up=speed_up(durations["eager"], durations["ours"]) if "eager" in durations else None,
    )


# ---- The machine -----------------------------------------------------------------------------------------------------


def _machine(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{_processor()}, {torch.get_num_threads()} threads"


def _processor() -> str:
    with suppress(OSError):
        for line in _lines(Path("/proc/cpuinfo")):
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _lines(path: Path) -> Iterator[str]:
    with path.open(encoding="utf-8") as file:
        yield from file


def _resident_mb() -> float | None:
    try:
        import psutil  # noqa: PLC0415
    except ImportError:
        return None
    return float(psutil.Process().memory_info().rss) / 1e6


def _rms(values: NDArray[Any]) -> float:
    return float(np.sqrt(np.mean(np.square(values))))


def _cause(error: BaseException) -> str:
    """The first line of what lies behind all else."""
    while error.__cause__ is not None:
        error = error.__cause__
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200].rstrip(". ")
