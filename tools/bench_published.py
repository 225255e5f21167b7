"""Measures how long models take beside their authors' code, or a port of it, on the same weights and epochs.

    python tools/bench_published.py --biofoundation ../BioFoundation [MODEL ...]

Both classify one epoch, in float32 and by turns: theirs in plain torch, ours as a node runs it, and compiled. What is
not installed is left out; `tools/parity.py` says how to get it, and compares what comes out part by part. ZUNA, which
does not classify, has `tools/bench_zuna.py`.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any

import parity
import torch
from rich.console import Console
from rich.table import Table
from safetensors.torch import save_file
from torch import Tensor

from streamnode.inference.engine import Engine
from streamnode.models import catalog
from streamnode.montage import make_montage

MODELS = tuple(job for job, (contender, _) in parity.JOBS.items() if contender.kind != "zuna")
ROUNDS = 15


@dataclass(frozen=True, slots=True)
class Times:
    """How long a network takes in two codes.

    Attributes:
        model: which network.
        n_chans: of the epoch.
        theirs_ms: the other code, median of all rounds.
        ours_ms: ours as a node runs it.
        compiled_ms: ours compiled for the montage.
        ratio: theirs to ours, median of pairs.
        compiled_ratio: theirs to ours compiled, likewise.
        difference: of the logits of the two, as root mean square, over that of theirs.
    """

    model: str
    n_chans: int
    theirs_ms: float
    ours_ms: float
    compiled_ms: float
    ratio: float
    compiled_ratio: float
    difference: float


def times_of(job: str, options: argparse.Namespace) -> list[Times]:
    """All that classify of what a model is compared with; in a process of its own."""
    warnings.simplefilter("ignore")  # of other people's code
    logging.disable(logging.WARNING)  # that weights are untrained is no news
    contender, variant = parity.JOBS[job]
    return [
        measure(pair, job, options)
        for pair in contender.pairs(variant, options)
        if pair.config.n_classes and not getattr(pair.config, "n_proj_in", 0)
    ]


def measure(pair: parity.Pair, job: str, options: argparse.Namespace) -> Times:
    """Let both codes classify the same epoch, in turns."""
    theirs, ours = pair.theirs.eval(), parity.exchange_weights(pair, options.seed)
    x_uv = parity.AMPLITUDE_UV * torch.randn(1, *pair.shape, generator=torch.Generator().manual_seed(options.seed))
    x_uv -= x_uv.mean(1, keepdim=True)  # as EEGPT wants it, which the others do not mind
    with tempfile.TemporaryDirectory(prefix="streamnode-bench-") as folder:
        path = str(Path(folder) / f"{job}.safetensors")
        save_file(ours.state_dict(), path, metadata=pair.family.metadata_of(pair.config))
        passes: dict[str, Callable[[], Any]] = {"theirs": partial(_logits_of, pair, theirs, x_uv)}
        for name, compile_ in (("ours", False), ("compiled", True)):
            engine = Engine(catalog.load(job, path, **pair.options), device="cpu", compile=compile_)
            duration_s = x_uv.shape[-1] / engine.spec.sfreq
            model = engine.bind(make_montage(pair.ch_names), ("logits",), duration_s=duration_s)
            passes[name] = partial(model.run, x_uv.numpy())
    theirs_s, ours_s, compiled_s = alternate(list(passes.values()), options.rounds)
    return Times(
        model=pair.model,
        n_chans=len(pair.ch_names),
        theirs_ms=1e3 * median(theirs_s),
        ours_ms=1e3 * median(ours_s),
        compiled_ms=1e3 * median(compiled_s),
        ratio=median(a / b for a, b in zip(theirs_s, ours_s, strict=True)),
        compiled_ratio=median(a / b for a, b in zip(theirs_s, compiled_s, strict=True)),
        difference=parity.nrmse(torch.from_numpy(passes["compiled"]()["logits"]), passes["theirs"]()),
    )


@torch.inference_mode()
def _logits_of(pair: parity.Pair, theirs: Any, x_uv: Tensor) -> Tensor:
    return pair.their_parts(theirs, x_uv)["logits"]


def alternate(passes: Sequence[Callable[[], object]], rounds: int) -> list[list[float]]:
    """Seconds that each takes, round by round; the first of each does not count."""

    def taken(run: Callable[[], object]) -> float:
        run()
        began = time.perf_counter()
        run()
        return time.perf_counter() - began

    return [list(column) for column in zip(*([taken(run) for run in passes] for _ in range(rounds)), strict=True)]


def measured(jobs: Sequence[str], options: argparse.Namespace) -> Iterator[Times]:
    """Each model in a process that ends with it; what is not here, or fails, is said, and costs the others nothing."""
    for job in jobs:
        try:
            with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
                yield from pool.submit(times_of, job, options).result()
        except parity.Missing as reason:
            print(f"{job} left out: {reason}: {parity.JOBS[job][0].how_to_get}", file=sys.stderr)
        except Exception as error:  # noqa: BLE001  (of other people's code)
            print(f"{job} failed: {type(error).__name__}: {error}", file=sys.stderr)


def table_of(rows: Sequence[Times]) -> Table:
    """A line a model."""
    table = Table("model", "channels", "theirs, ms", "ours (times)", "compiled", "difference")
    for row in rows:
        ours, compiled = f"{row.ours_ms:.1f} ({row.ratio:.1f})", f"{row.compiled_ms:.1f} ({row.compiled_ratio:.1f})"
        table.add_row(row.model, str(row.n_chans), f"{row.theirs_ms:.1f}", ours, compiled, f"{row.difference:.0e}")
    return table


def main() -> None:
    """A table on stderr, one JSON object on stdout."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", metavar="MODEL", help=f"all, or some of {', '.join(MODELS)}")
    parser.add_argument("--biofoundation", type=Path, metavar="DIR", help="checkout of BioFoundation, for LUNA")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--seed", type=int, default=0, help="of weights and epochs")
    options = parser.parse_args()
    if unknown := sorted(set(options.models).difference(MODELS)):
        parser.error(f"no such model: {', '.join(unknown)}; take some of {', '.join(MODELS)}")
    rows = list(measured(options.models or MODELS, options))
    Console(stderr=True).print(table_of(rows))
    print(json.dumps({"torch": torch.__version__, "threads": torch.get_num_threads(), "rows": [*map(asdict, rows)]}))


if __name__ == "__main__":
    main()
