"""Comparing models: the arithmetic of rounds, the counting of work, and whole runs on the smallest of them."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from streamnode.bench import contenders, models
from streamnode.bench.contenders import Contender, Subject, build, weights_of
from streamnode.bench.gemm import Gemm
from streamnode.bench.models import alternate, errors, flops, speed_up
from streamnode.bench.plain import without_complex
from streamnode.cli.bench import app
from streamnode.errors import ConfigError
from streamnode.montage import make_montage
from streamnode.types import Float32Array

NAMES = ("Fp1", "Cz", "O2")


@pytest.fixture(scope="module")
def subject() -> Iterator[Subject]:
    """The smallest network there is."""
    with weights_of("eegdino-small", "random:0") as weights:
        yield Subject("eegdino-small", weights, make_montage(NAMES), "cpu")


@pytest.fixture(autouse=True)
def small_products(monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit of the machine is of no interest here."""
    monkeypatch.setattr("streamnode.bench.gemm.SHAPES", ((64, 64, 64),))


# ---- Arithmetic ------------------------------------------------------------------------------------------------------


def test_speed_up_is_the_median_of_pairs() -> None:
    """A round in which the machine was slow counts as one, whichever of the two it hit; medians apart would say 2.5."""
    theirs, ours = np.array([2.0, 20.0, 5.0]), np.array([1.0, 10.0, 2.0])
    assert speed_up(theirs, ours) == 2.0
    assert speed_up(theirs, theirs) == 1.0


def test_errors_are_those_of_the_worst_output() -> None:
    """Largest difference over all outputs; root mean square relative to each output's own."""
    exact = {"embedding": np.array([[3.0, 4.0]]), "tokens": np.array([[100.0, 100.0]])}
    results = {"embedding": np.array([[3.0, 4.5]]), "tokens": np.array([[101.0, 100.0]])}
    max_abs, nrmse = errors(results, exact)  # type: ignore[arg-type]
    assert max_abs == 1.0
    assert nrmse == pytest.approx(0.5 / 5.0)


def test_turns_alternate_and_rotate(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each contender runs twice a round, of which the second is timed, and another goes first each round."""
    now, called = [0.0], []

    def taking(name: str, seconds: float) -> Callable[[Float32Array], Any]:
        def run(_: Float32Array) -> dict[str, Any]:
            called.append(name)
            now[0] += seconds
            return {}

        return run

    monkeypatch.setattr(models, "perf_counter", lambda: now[0])
    both = [Contender("a", "float32", taking("a", 0.25)), Contender("b", "float32", taking("b", 0.5))]
    gemm = Gemm("linear", (2, 2, 2), lambda: torch.ones(1), torch.device("cpu"))
    durations, rates = alternate(both, {"float32": gemm}, subject, rounds=2)
    assert {name: values.tolist() for name, values in durations.items()} == {"a": [250.0] * 2, "b": [500.0] * 2}
    assert "".join(called) == "aabb" + "bbaa"
    assert len(rates["float32"]) == 2


def test_flops_are_those_of_the_formula(subject: Subject) -> None:
    """The layers of a transformer make nearly all of it: 15 tokens, then one more for the whole epoch."""
    alone = flops(subject)
    width, hidden = 200, 512
    layers = sum(
        2 * n_tokens * (4 * width**2 + 2 * width * hidden) + 4 * n_tokens**2 * width for n_tokens in [15] + 11 * [16]
    )
    assert layers < alone < 1.1 * layers
    assert flops(Subject(subject.model, subject.weights, subject.montage, "cpu", batch=2)) == 2 * alone


# ---- Networks in real numbers ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("norm", ["backward", "forward", "ortho"])
def test_spectra_without_complex_numbers(norm: str) -> None:
    """Magnitudes and phases are those of torch, the phase on the negative axis included."""
    x = torch.randn(3, 40, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    spectrum = torch.fft.rfft(x, norm=norm)
    with without_complex():
        pair: Any = torch.fft.rfft(x, norm=norm)
        phase = torch.atan2(torch.tensor([0.0, -1.0, 0.0, 0.0]), torch.tensor([-1.0, -1.0, 0.0, 2.0]))
        magnitude = torch.hypot(pair.real, pair.imag)
    torch.testing.assert_close(pair.abs(), spectrum.abs())
    torch.testing.assert_close(magnitude, spectrum.abs())
    torch.testing.assert_close(pair.imag, spectrum.imag)
    torch.testing.assert_close(phase, torch.tensor([np.pi, -0.75 * np.pi, 0.0, 0.0]))


def test_turns_and_patches_without_complex_numbers() -> None:
    """Complex products of pairs, and patches by index, are the same numbers."""
    generator = torch.Generator().manual_seed(0)
    x, turn = torch.randn(5, 4, 2, generator=generator), torch.randn(4, dtype=torch.complex64, generator=generator)
    expected = torch.view_as_real(torch.view_as_complex(x) * turn), x.flatten(1).unfold(-1, 4, 3)
    with without_complex():
        found = torch.view_as_real(torch.view_as_complex(x) * turn), x.flatten(1).unfold(-1, 4, 3)
    torch.testing.assert_close(found, expected)


# ---- Contenders ------------------------------------------------------------------------------------------------------


def test_eager_and_ours_are_the_same_network(subject: Subject) -> None:
    """Both are within rounding of float64."""
    exact = subject.exact()
    for name in ("eager", "ours"):
        assert errors(build(name, subject).run(subject.epochs), exact)[1] < 1e-5


@pytest.mark.parametrize(
    ("name", "package"), [("openvino", "openvino"), ("openvino-bf16", "openvino"), ("onnx", "onnxruntime")]
)
def test_what_is_not_installed_says_how_to_get_it(
    name: str, package: str, subject: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One sentence with the command."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ConfigError, match=rf"^{package} not installed: pip install 'streamnode\[bench\]'") as refusal:
        build(name, subject)
    assert "\n" not in str(refusal.value)


def test_an_unknown_contender_is_refused(subject: Subject) -> None:
    """With the names of those there are."""
    with pytest.raises(ConfigError, match=r"'tensorrt'.* ours, eager, compile"):
        build("tensorrt", subject)


# ---- Whole runs ------------------------------------------------------------------------------------------------------


def test_models_are_compared_from_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """JSON on stdout has all figures; who is absent is told with the reason; tables go into the file."""
    monkeypatch.setattr(contenders, "_require", _nothing_installed)
    readme = tmp_path / "README.md"
    readme.write_text("# x\n<!-- bench:models -->\nold\n<!-- /bench:models -->\ny\n")
    arguments = ["models", "--model", "eegdino-small", "--against", "eager,onnx", "--rounds", "2", "--channels", "2"]
    result = CliRunner().invoke(app, [*arguments, "--batch", "1,2", "--write", str(readme), "--json"])
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    (comparison,) = report["models"]
    assert [one["contender"] for one in comparison["figures"]] == ["ours", "eager"]
    assert comparison["absent"] == {"onnx": "onnx is not here"}
    assert "eegdino-small: onnx is not here" in result.stderr
    for one in comparison["figures"]:
        assert len(one["rounds_ms"]) == 2
        assert one["nrmse"] < 1e-5
        assert one["gflops"] > 0
    eager = comparison["figures"][1]
    assert eager["speed_up"] == 1.0
    assert [(point["n_chans"], point["batch"]) for point in comparison["by_channels"]] == [(2, 1)]
    assert [(point["n_chans"], point["batch"]) for point in comparison["by_batch"]] == [(19, 1), (19, 2)]
    assert set(report["limits"]) == {"float32"}
    written = readme.read_text()
    assert "old" not in written
    assert "| eegdino-small, 19 |" in written


def _nothing_installed(*_packages: str) -> None:
    raise ConfigError("onnx is not here")


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["--against", "eager,tensorflow"], "--against tensorflow is nobody"),
        (["--channels", "four"], "--channels 'four' is no list"),
        (["--batch", "0,1"], "--batch '0,1' has a number below 1"),
        (["--model", "luna-bas"], "use luna-base"),
        (["--device", "cuda:7"], "cuda:7"),
    ],
)
def test_what_cannot_be_measured_is_refused_at_once(arguments: list[str], why: str) -> None:
    """Before any weights are drawn."""
    result = CliRunner().invoke(app, ["models", *arguments])
    assert isinstance(result.exception, ConfigError)
    assert why in str(result.exception)
