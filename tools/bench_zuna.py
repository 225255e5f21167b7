"""Measures ZUNA on this machine: `python tools/bench_zuna.py [SECTION ...]`, all sections by default.

    speed     encode, a step and 50 steps of one 5 s epoch of 12 and 22 channels, beside the authors' own code;
              by passes of one and three steps, from which all else follows
    samplers  how far from the exact flow, and from 50 steps of Euler, either sampler ends with 4 to 50 steps
    memory    how long weights take to load, and what they take of memory, in either precision
    channels  encode and step from 4 to 64 channels, and a chart of them in the folder of `--charts`

Tables go to stderr, one JSON object to stdout. Weights are untrained unless `--weights` names a checkpoint: what takes
time and memory is the same, but how samplers fare on trained ones only those can tell.

The authors' code is looked for in the interpreter of `--original-python`, which must have what streamnode needs too,
and for v1 in the checkout of `--zuna-v1` (`tools/parity.py` says how to get them); both codes then run there in turns,
with the same weights. Where it is not found, ours is measured alone.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any, cast

import numpy as np
import parity
import torch
from rich.console import Console
from rich.table import Table
from safetensors.torch import save_file
from torch import Tensor

from streamnode.inference.engine import Engine
from streamnode.inference.precision import Precision
from streamnode.models import catalog, zuna
from streamnode.models.catalog import LoadedModel
from streamnode.models.weights import load_strict
from streamnode.models.zuna import Zuna
from streamnode.models.zuna_flow import NOISE_STD, Generation, Sampler, integrate
from streamnode.montage import make_montage
from streamnode.sources.synthetic import CH_NAMES_64, SyntheticEeg
from streamnode.types import Float32Array, Montage, WeightsInfo

EPOCH_S = 5.0
N_PATCHES = 40  # of 32 samples at 256 Hz
STEPS = 50
FEW = 3  # steps that are timed: each is like the next
SIZES = (12, 22)
TWELVE = ("Fp1", "Fp2", "F3", "F4", "C3", "C4", "P3", "P4", "O1", "O2", "F7", "F8")
CH_NAMES = TWELVE + tuple(name for name in CH_NAMES_64 if name not in TWELVE)
PRECISIONS: dict[str, Precision] = {"ours": "float32", "half": "bfloat16"}
GENERATIONS: tuple[Generation, ...] = ("v1", "1.1")


def montage_of(n_chans: int) -> Montage:
    """So many channels all over the head: first those of ZUNA's own sample recording."""
    return make_montage(CH_NAMES[:n_chans])


def untrained(generation: Generation) -> Zuna:
    """A network of the published size, the same at every call."""
    config = zuna.VARIANTS[generation]
    with torch.device("meta"):
        network = Zuna(config)
    load_strict(network, zuna.random_state(config, 0), path=f"untrained {generation}")
    return network.eval().requires_grad_(requires_grad=False)


def seconds(work: Callable[[], Any]) -> float:
    """What a call takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


# ---- Speed, beside the authors' code ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SpeedFigures:
    """Medians over rounds in which all take turns; `ratio` is that of theirs over ours, round by round.

    Attributes:
        generation: of the network.
        n_chans: of the one epoch of 5 s.
        what: was done.
        ours_s: in float32.
        theirs_s: in float32; None where their code is not here.
        ratio: how many times faster ours is.
        ours_bf16_s: in bfloat16.
    """

    generation: str
    n_chans: int
    what: str
    ours_s: float
    theirs_s: float | None
    ratio: float | None
    ours_bf16_s: float


@dataclass(frozen=True, slots=True, eq=False)
class Original:
    """The authors' network at one montage."""

    network: Any
    places: Tensor
    lengths: Tensor

    @classmethod
    def at(cls, pair: parity.ZunaPair, montage: Montage) -> Original:
        """Tell it where channels are: bins along x, y and z, and the patch, token by token in the order of its own."""
        ch_pos = torch.tensor(montage.ch_pos, dtype=torch.float32)
        bins = pair.to_bins(ch_pos, torch.tensor([[-0.12] * 3, [0.12] * 3]), pair.config.n_bins)
        patches = torch.arange(N_PATCHES)[None, :, None].expand(len(bins), -1, -1)
        places = torch.cat((bins[:, None].expand(-1, N_PATCHES, -1), patches), dim=-1).long()
        if pair.config.generation == "1.1":
            places = places.transpose(0, 1)
        return cls(pair.theirs.eval(), places.flatten(0, 1)[None], torch.tensor([len(bins) * N_PATCHES]))

    def encode(self, tokens: Tensor) -> Tensor:
        """`(1, S, 32)` to latents."""
        latents, *_ = self.network.encoder(token_values=tokens, seq_lens=self.lengths, tok_idx=self.places)
        return cast("Tensor", latents)

    def step(self, tokens: Tensor, latents: Tensor) -> None:
        """One evaluation of its decoder, in float32 as 1.1's own sampler."""
        at = {"seq_lens": self.lengths, "cross_seq_lens": self.lengths}
        places = {"tok_idx": self.places, "cross_tok_idx": self.places}
        moment = tokens.new_full((1, 1, 1), 0.5)
        self.network.decoder(tokens=tokens[:, None], cross_attended=latents, timeD=moment, **at, **places)


def engine_of(network: Zuna, precision: Precision = "float32") -> Engine:
    """The engine that a node runs, with the tensors of a network that stays as it is."""
    with torch.device("meta"):
        own = Zuna(network.config)
    own.load_state_dict(network.state_dict(), assign=True)
    loaded = LoadedModel(own.eval().requires_grad_(requires_grad=False), "zuna", WeightsInfo("random:0"))
    return Engine(loaded, device="cpu", precision=precision, max_batch=1)


def rebuilder(engine: Engine, montage: Montage) -> Callable[[int], object]:
    """What rebuilds the first channel of an epoch as a node does: one pass of the encoder and so many steps."""
    bound = engine.bind(montage, ("reconstruction",), duration_s=EPOCH_S, steps=FEW, keep_known=True)
    others, x_uv = tuple(range(1, montage.n_chans)), epoch_of(montage)
    return lambda steps: bound.with_steps(steps).run_on(others, x_uv)


def epoch_of(montage: Montage) -> Float32Array:
    """`(1, n_chans, n_times)` microvolts."""
    eeg = SyntheticEeg(montage.ch_names, 256.0).take(round(EPOCH_S * 256))
    return np.ascontiguousarray(eeg.T[None])


def beside(generation: Generation, n_chans: str, rounds: str, zuna_v1: str) -> dict[str, Any]:
    """Time both codes in turns; runs in the interpreter that has theirs."""
    warnings.simplefilter("ignore")  # of other people's code
    montage, original, why = montage_of(int(n_chans)), None, ""
    try:
        pair = cast("parity.ZunaPair", next(_pairs(generation, zuna_v1)))
        network = parity.exchange_weights(pair, 0).requires_grad_(requires_grad=False)
        original = Original.at(pair, montage)
    except parity.Missing as missing:
        network, why = untrained(generation), str(missing)
    with torch.inference_mode():
        rows = _in_turns(network, original, montage, rounds=int(rounds))
    return {"rows": [asdict(row) for row in rows], "left_out": why}


def _pairs(generation: Generation, zuna_v1: str) -> Any:
    return parity.zuna_pairs(generation, argparse.Namespace(zuna_v1=Path(zuna_v1) if zuna_v1 else None))


def _in_turns(network: Zuna, original: Original | None, montage: Montage, *, rounds: int) -> list[SpeedFigures]:
    turns: dict[str, Callable[[], Any]] = {}
    for who, precision in PRECISIONS.items():
        rebuild = rebuilder(engine_of(network, precision), montage)
        turns |= {f"{steps} {who}": partial(rebuild, steps) for steps in (1, FEW)}
    if original is not None:
        tokens = 0.1 * torch.randn(1, montage.n_chans * N_PATCHES, 32)
        latents = original.encode(tokens)
        original.step(tokens, latents)  # the first time is slow, as every first time
        turns |= {
            "encode theirs": lambda: original.encode(tokens),
            "step theirs": lambda: original.step(tokens, latents),
        }
    taken = [{name: seconds(work) for name, work in turns.items()} for _ in range(rounds)]
    for took in taken:
        for who in PRECISIONS:
            took[f"step {who}"] = (took[f"{FEW} {who}"] - took[f"1 {who}"]) / (FEW - 1)
            took[f"encode {who}"] = took[f"1 {who}"] - took[f"step {who}"]
        for who in (*PRECISIONS, "theirs") if original else PRECISIONS:
            took[f"{STEPS} steps {who}"] = took[f"encode {who}"] + STEPS * took[f"step {who}"]

    def row(what: str) -> SpeedFigures:
        ours_s, half_s = (median(took[f"{what} {who}"] for took in taken) for who in PRECISIONS)
        theirs_s = median(took[f"{what} theirs"] for took in taken) if original else None
        ratio = median(took[f"{what} theirs"] / took[f"{what} ours"] for took in taken) if original else None
        title = f"{what} (encode + {STEPS} x step)" if "steps" in what else what
        return SpeedFigures(network.config.generation, montage.n_chans, title, ours_s, theirs_s, ratio, half_s)

    return [row("encode"), row("step"), row(f"{STEPS} steps")]


def speed(options: argparse.Namespace) -> list[SpeedFigures]:
    """Both generations, in processes of their own: their codes bring packages of the same names."""
    rows = []
    for generation, n_chans in product(GENERATIONS, SIZES):
        job = "beside", generation, str(n_chans), str(options.rounds), str(options.zuna_v1 or "")
        found = _apart(options.original_python, *job)
        rows += [SpeedFigures(**row) for row in found["rows"]]
        if found["left_out"] and n_chans == SIZES[-1]:
            print(f"ZUNA {generation} of its authors is left out: {found['left_out']}", file=sys.stderr)
    return rows


# ---- Samplers --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SamplerFigures:
    """Relative RMS errors after so many steps.

    Attributes:
        steps: evaluations of the decoder.
        euler_of_50: of Euler, from 50 steps of Euler, which is what the authors publish.
        adams_of_50: of Adams-Bashforth, likewise.
        euler: of Euler, from the exact flow.
        adams: of Adams-Bashforth, likewise.
        euler_gaussian: of Euler, on a flow known in closed form.
        adams_gaussian: of Adams-Bashforth, likewise.
    """

    steps: int
    euler_of_50: float
    adams_of_50: float
    euler: float
    adams: float
    euler_gaussian: float
    adams_gaussian: float


FEW_STEPS = (4, 5, 6, 8, 10, 12, 16, 20, 25, 30, 40, 50)
EXACT_STEPS = 200  # of Adams-Bashforth
DATA_STD = 0.05  # how much the latents leave open of a token, whose own deviation is 0.1
USES = {"live": 0.05, "offline": 0.02, "best": 0.005}
"""The relative error that each use allows the sampler."""


def samplers(options: argparse.Namespace) -> list[SamplerFigures]:
    """A second of four channels, one of them to be rebuilt."""
    network = _network(options)
    names = ("C3", "Cz", "C4", "Pz")
    x_uv = torch.from_numpy(SyntheticEeg(names, 256.0, seed=1).take(256).T.copy())[None]
    with torch.inference_mode():
        plain = network.bind(make_montage(names), outputs={"reconstruction"}, steps=1)
        scaled = zuna.normalise(x_uv, network.config.generation, [0, 1, 3])
        latents = network.encode_tokens(zuna.to_tokens(scaled.x, 32), plain)
        start = NOISE_STD * torch.randn(latents.shape, generator=torch.Generator().manual_seed(0))

        def drawn(steps: int, sampler: Sampler) -> Tensor:
            return network.sample(latents, start, replace(network.with_steps(plain, steps), sampler=sampler))

        published, exact = drawn(STEPS, "euler"), drawn(EXACT_STEPS, "adams")
        rows = []
        for steps in FEW_STEPS:
            euler, adams = drawn(steps, "euler"), drawn(steps, "adams")
            rows.append(
                SamplerFigures(
                    steps,
                    *(parity.nrmse(x, reference) for reference in (published, exact) for x in (euler, adams)),
                    *(_error_on_gaussian(steps, sampler) for sampler in ("euler", "adams")),
                )
            )
    return rows


def _error_on_gaussian(steps: int, sampler: Sampler) -> float:
    """Relative RMS error where data are normal about some mean, as a perfectly trained network would flow.

    The velocity is then the expectation of noise minus data at a state, which is linear in it, and the flow takes noise
    to data by shift and scale alone.
    """
    generator = torch.Generator().manual_seed(0)
    mean = 0.1 * torch.randn(4096, generator=generator, dtype=torch.float64)
    noise = NOISE_STD * torch.randn(4096, generator=generator, dtype=torch.float64)

    def velocity(z: Tensor, step: int) -> Tensor:
        t = 1 - step / steps
        variance = ((1 - t) * DATA_STD) ** 2 + (t * NOISE_STD) ** 2
        return (t * NOISE_STD**2 - (1 - t) * DATA_STD**2) / variance * (z - (1 - t) * mean) - mean

    *_, drawn = integrate(velocity, noise, steps, sampler)
    return parity.nrmse(drawn, mean + DATA_STD / NOISE_STD * noise)


def recommended(rows: Sequence[SamplerFigures]) -> dict[str, str]:
    """For each use the fewest steps that meet its error on both flows, by the better sampler."""
    advice = {}
    for use, allowed in USES.items():
        fit = [
            (row.steps, sampler)
            for row in rows
            for sampler in ("adams", "euler")
            if max(getattr(row, sampler), getattr(row, f"{sampler}_gaussian")) <= allowed
        ]
        advice[use] = f"{fit[0][1]}, {fit[0][0]} steps" if fit else f"more than {rows[-1].steps} steps"
    return advice


# ---- Memory ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class MemoryFigures:
    """A fresh process, on its way from nothing to a working model; megabytes are resident, all of them.

    Attributes:
        generation: of the network.
        precision: of the engine.
        load_s: of a file that was read lately, digest and check for NaN included.
        empty_mb: with interpreter and libraries.
        loaded_mb: after `catalog.load`, which maps the file.
        bound_mb: in an engine, bound to 12 channels and ten steps.
        used_mb: after an epoch with one channel rebuilt, for which the number of steps does not matter.
        highest_mb: the most it ever was.
        promised_mb: what it may be.
    """

    generation: str
    precision: str
    load_s: float
    empty_mb: float
    loaded_mb: float
    bound_mb: float
    used_mb: float
    highest_mb: float
    promised_mb: float


PROMISED_MB: dict[Precision, float] = {"float32": 2200.0, "bfloat16": 1300.0}


def memory(options: argparse.Namespace) -> list[MemoryFigures]:
    """Either precision of both generations, from files made here; or of the checkpoint that was named."""
    rows = []
    with tempfile.TemporaryDirectory(prefix="streamnode-bench-") as folder:
        for generation in (options.generation,) if options.weights else GENERATIONS:
            path = options.weights or Path(folder, f"zuna-{generation}.safetensors")
            if not options.weights:
                save_file(zuna.random_state(zuna.VARIANTS[generation], 0), path)
            path.read_bytes()  # the disk is to be warm
            rows += [
                MemoryFigures(**_apart(sys.executable, "tell", generation, precision, str(path)))
                for precision in PROMISED_MB
            ]
            if not options.weights:
                path.unlink()
    return rows


def tell(generation: Generation, precision: Precision, path: str) -> dict[str, Any]:
    """What a process takes of time and memory; runs in one of its own."""
    empty_mb = resident_mb("VmRSS")
    began = time.perf_counter()
    loaded = catalog.load(f"zuna-{generation}", path)
    load_s, loaded_mb = time.perf_counter() - began, resident_mb("VmRSS")
    engine = Engine(loaded, device="cpu", precision=precision)
    del loaded
    bound = engine.bind(montage_of(12), ("embedding", "reconstruction"), duration_s=0, steps=10)
    bound_mb = resident_mb("VmRSS")
    x_uv = SyntheticEeg(TWELVE, 256.0).take(round(EPOCH_S * 256)).T[None]
    bound.with_steps(1).run_on(tuple(range(1, 12)), x_uv.copy())
    figures = MemoryFigures(
        generation=generation,
        precision=precision,
        load_s=load_s,
        empty_mb=empty_mb,
        loaded_mb=loaded_mb,
        bound_mb=bound_mb,
        used_mb=resident_mb("VmRSS"),
        highest_mb=resident_mb("VmHWM"),
        promised_mb=PROMISED_MB[precision],
    )
    return asdict(figures)


def resident_mb(line: str) -> float:
    """What Linux says of this process: `VmRSS` is now, `VmHWM` the most so far."""
    rows = (row.split() for row in Path("/proc/self/status").read_text("ascii").splitlines())
    return next(int(row[1]) for row in rows if row[0] == f"{line}:") * 1024 / 1e6


# ---- Channels --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ChannelFigures:
    """One epoch of 5 s in float32, median over rounds.

    Attributes:
        n_chans: of the epoch.
        encode_s: the encoder.
        step_s: one step of the sampler.
        encode_gflop: as counted from the shapes, savings included.
        step_gflop: likewise.
        ten_steps_s: encode and ten steps: below the epoch's hop, this machine repairs live.
    """

    n_chans: int
    encode_s: float
    step_s: float
    encode_gflop: float
    step_gflop: float
    ten_steps_s: float


def channels(options: argparse.Namespace) -> list[ChannelFigures]:
    """From 4 to 64 channels, and a chart."""
    engine, rows = engine_of(_network(options)), []
    for n_chans in (4, 8, 12, 22, 32, 64):
        rebuild = rebuilder(engine, montage_of(n_chans))
        pairs = [(seconds(partial(rebuild, 1)), seconds(partial(rebuild, FEW))) for _ in range(options.rounds)]
        step_s = median((more - one) / (FEW - 1) for one, more in pairs)
        encode_s = median(one for one, _ in pairs) - step_s
        print(f"{n_chans} channels: encode {encode_s:.2f} s, step {step_s:.2f} s", file=sys.stderr)
        gflop = gflop_of(n_chans * N_PATCHES)
        rows.append(ChannelFigures(n_chans, encode_s, step_s, *gflop, encode_s + 10 * step_s))
    draw(rows, options.charts / "zuna_channels.png")
    return rows


def gflop_of(n_tokens: int) -> tuple[float, float]:
    """Of an encode and of a step (specification, section 10.6, with the savings of 10.2 and 10.4)."""
    dim, inner, hidden, layers, latent = 1024, 512, 2816, 16, 33
    pairs, rows = 2 * n_tokens, n_tokens
    projection, ffn = dim * inner, 3 * dim * hidden
    of_token = 4 * projection + ffn
    encoder = (layers - 1) * (pairs * of_token + 2 * inner * pairs**2)
    encoder += pairs * 2 * projection + rows * (2 * projection + ffn) + 2 * inner * rows * pairs
    decoder = layers * (rows * (6 * projection + 2 * latent * inner + ffn) + 4 * inner * rows**2)
    return 2e-9 * encoder, 2e-9 * decoder


def draw(rows: Sequence[ChannelFigures], path: Path) -> None:
    """Seconds and GFLOP/s over the number of channels."""
    from matplotlib.figure import Figure  # noqa: PLC0415  (only here)

    figure = Figure(figsize=(10.5, 4.2), dpi=150, layout="constrained")
    figure.suptitle(
        f"ZUNA, one epoch of {EPOCH_S:g} s in float32, {torch.get_num_threads()} threads", fontweight="bold"
    )
    left, right = figure.subplots(1, 2)
    n_chans = [row.n_chans for row in rows]
    curves = {
        "encode": ("#0072B2", [row.encode_s for row in rows], [row.encode_gflop / row.encode_s for row in rows]),
        "one step": ("#D55E00", [row.step_s for row in rows], [row.step_gflop / row.step_s for row in rows]),
        "encode and ten steps": ("#009E73", [row.ten_steps_s for row in rows], None),
    }
    for name, (colour, took, rate) in curves.items():
        left.plot(n_chans, took, marker="o", color=colour, label=name)
        if rate is not None:
            right.plot(n_chans, rate, marker="o", color=colour, label=name)
    left.axhline(EPOCH_S, color="#666666", linestyle="--", linewidth=1, label="length of the epoch")
    left.set(yscale="log", title="Time", ylabel="Seconds")
    left.yaxis.set_major_formatter("{x:g}")
    right.set(ylim=(0, None), title="Work done in it", ylabel="GFLOP/s")
    for ax in (left, right):
        ax.set(xscale="log", xlabel="Channels")
        ax.set_xticks(n_chans, [str(n) for n in n_chans], minor=False)
        ax.minorticks_off()
        ax.spines[["top", "right"]].set_visible(False)
        ax.grid(alpha=0.25)
        ax.legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    print(f"drew {path}", file=sys.stderr)


# ---- Running ---------------------------------------------------------------------------------------------------------


def _network(options: argparse.Namespace) -> Zuna:
    if options.weights is None:
        return untrained(options.generation)
    return cast("Zuna", catalog.load(f"zuna-{options.generation}", str(options.weights)).model)


def _apart(python: str, *job: str) -> Any:
    """What a job yields in a fresh process of some interpreter."""
    here = Path(__file__).resolve()
    path = os.pathsep.join(filter(None, (str(here.parents[1]), os.environ.get("PYTHONPATH"))))
    command = [python, str(here), "--job", *job]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True, env=os.environ | {"PYTHONPATH": path})
    return json.loads(done.stdout.splitlines()[-1])


JOBS: dict[str, Callable[..., Any]] = {"beside": beside, "tell": tell}
SECTIONS: dict[str, Callable[[argparse.Namespace], Sequence[Any]]] = {
    "speed": speed,
    "samplers": samplers,
    "memory": memory,
    "channels": channels,
}


def table_of(name: str, rows: Sequence[dict[str, Any]]) -> Table:
    """All figures of a section."""
    table = Table(*(rows[0] if rows else ["nothing to measure"]), title=name)
    for row in rows:
        cells = ("-" if x is None else f"{x:.3g}" if isinstance(x, float) and x < 100 else x for x in row.values())
        table.add_row(*(f"{x:.0f}" if isinstance(x, float) else str(x) for x in cells))
    return table


def main() -> None:
    """Run the sections asked for, print their tables and then all figures as JSON."""
    logging.disable(logging.WARNING)  # that weights are untrained is said below
    if sys.argv[1:2] == ["--job"]:
        _, _, job, *arguments = sys.argv
        print(json.dumps(JOBS[job](*arguments)))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sections", nargs="*", metavar="SECTION", help=f"all, or some of {', '.join(SECTIONS)}")
    parser.add_argument("--weights", type=Path, metavar="FILE", help="a published checkpoint of --generation")
    parser.add_argument("--generation", choices=GENERATIONS, default="1.1", help="that samplers and channels are of")
    parser.add_argument("--original-python", default=sys.executable, metavar="EXE", help="interpreter that has `zuna`")
    parser.add_argument("--zuna-v1", type=Path, metavar="DIR", help="checkout of ZUNA's repository, for v1")
    parser.add_argument("--rounds", type=int, default=5, help="of which medians are taken")
    parser.add_argument("--charts", type=Path, default=Path("charts"), metavar="DIR", help="where the chart goes")
    options = parser.parse_args()
    if unknown := sorted(set(options.sections).difference(SECTIONS)):
        parser.error(f"no such section: {', '.join(unknown)}; take some of {', '.join(SECTIONS)}")

    console, figures = Console(stderr=True, width=150), dict[str, Any]()
    figures["machine"] = {"threads": torch.get_num_threads(), "torch": torch.__version__}
    figures["weights"] = str(options.weights or "untrained")
    for name in options.sections or SECTIONS:
        rows = SECTIONS[name](options)
        figures[name] = [asdict(row) for row in rows]
        console.print(table_of(name, figures[name]))
        if name == "samplers":
            figures["recommended"] = recommended(rows)
            console.print(f"on {figures['weights']} weights:", figures["recommended"])
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
