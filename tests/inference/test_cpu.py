"""Settings of the CPU: applied and taken back, chosen by what is measured, refused where digits would be lost."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from streamnode.inference import cpu
from streamnode.inference.cpu import Setting


def present() -> Setting:
    matmul: Any = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    return Setting("bf16" if matmul.fp32_precision == "bf16" else "ieee", torch.get_num_threads())


@pytest.fixture
def forgotten() -> Iterator[None]:
    """The self-check has not been made yet, nor will have been afterwards."""
    cpu.permission_is_harmless.cache_clear()
    yield
    cpu.permission_is_harmless.cache_clear()


def test_a_setting_holds_inside_only() -> None:
    """Inside all of torch follows it; afterwards, after an error too, all is as it was."""
    before, setting = present(), Setting("bf16", 1)

    def fail() -> None:
        with setting.applied():
            assert present() == setting
            raise LookupError

    with pytest.raises(LookupError):
        fail()
    assert present() == before


@pytest.mark.parametrize(
    ("seconds", "chosen"),
    [
        ({"ieee": 1.0, "bf16": 0.5}, "bf16"),
        ({"ieee": 1.0, "bf16": 0.95}, "ieee"),
        ({"ieee": 0.8, "bf16": 1.0}, "ieee"),
    ],
)
def test_the_clearly_faster_way_is_chosen(
    monkeypatch: pytest.MonkeyPatch, seconds: dict[str, float], chosen: str
) -> None:
    """OneDNN's products are used where they are clearly faster, and not where that may be noise."""
    now = 0.0

    def run() -> None:
        nonlocal now
        now += seconds[present().products]

    monkeypatch.setattr(cpu, "perf_counter", lambda: now)
    monkeypatch.setattr(cpu, "permission_is_harmless", lambda: True)
    assert cpu.choose(run, threads=2) == Setting(chosen, 2)  # type: ignore[arg-type]


@pytest.mark.parametrize(("best", "chosen"), [(8, 8), (4, 4), (3, 2), (1, 1)])
def test_threads_are_fewer_unless_that_is_clearly_slower(
    monkeypatch: pytest.MonkeyPatch, best: int, chosen: int
) -> None:
    """From all threads on their number is halved until a pass takes a fifth longer; a number that was given stays."""
    now = 0.0

    def run() -> None:
        nonlocal now
        now += 1e-3 * max(present().threads / best, best / present().threads)

    monkeypatch.setattr(cpu, "perf_counter", lambda: now)
    monkeypatch.setattr(cpu, "permission_is_harmless", lambda: False)
    monkeypatch.setattr(cpu, "usual", lambda threads: Setting("ieee", threads or 8))
    assert cpu.choose(run).threads == chosen
    assert cpu.choose(run, threads=3).threads == 3


def test_what_is_alike_is_chosen_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second model of a kind runs as the first, whatever a measurement would say of it by then."""
    settings = iter((Setting("bf16", 2), Setting("ieee", 2), Setting("ieee", 1)))
    monkeypatch.setattr(cpu, "_chosen", {})
    monkeypatch.setattr(cpu, "choose", lambda *_: next(settings))
    assert cpu.choose_once("luna", lambda: None) == cpu.choose_once("luna", lambda: None) == Setting("bf16", 2)
    assert cpu.choose_once("eegpt", lambda: None) == Setting("ieee", 2)
    assert cpu.choose_once("luna", lambda: None, threads=1) == Setting("ieee", 1)


def test_a_long_pass_keeps_all_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a pass takes long, nothing is tried with fewer threads: it would take longer still."""
    now, seen = 0.0, set[int]()

    def run() -> None:
        nonlocal now
        now += 0.1
        seen.add(present().threads)

    monkeypatch.setattr(cpu, "perf_counter", lambda: now)
    monkeypatch.setattr(cpu, "usual", lambda _: Setting("ieee", 4))
    assert cpu.choose(run).threads == 4
    assert seen == {4}


@pytest.mark.usefixtures("forgotten")
def test_permission_is_used_only_if_float32_stays_float32() -> None:
    """On this machine either the products keep their digits, or the permission is not used."""
    a, b = torch.randn(64, 300, generator=torch.Generator().manual_seed(1)), torch.eye(300) / 3
    harmless = cpu.permission_is_harmless()
    with Setting("bf16" if harmless else "ieee", 1).applied():
        assert cpu.relative_error(a @ b, a.double() @ b.double()) < 1e-6


@pytest.mark.usefixtures("forgotten")
def test_no_digit_is_lost(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """Where the permission costs digits, as with matrix tiles, it is not used, which is told once and is no warning."""
    monkeypatch.setattr(cpu, "relative_error", lambda *_: 5e-3)
    with caplog.at_level(logging.INFO):
        assert not cpu.permission_is_harmless()
        assert cpu.choose(lambda: None, threads=1) == Setting("ieee", 1)
    told = "float32 products keep all their digits: this CPU would round them (by 5e-03) if bfloat16 were permitted"
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [("INFO", told)]


def test_an_error_that_is_no_number_is_infinite() -> None:
    """NaN and other shapes count as wrong, whatever is compared with them."""
    assert cpu.relative_error(torch.tensor([float("nan")]), torch.ones(1)) == float("inf")
    assert cpu.relative_error(torch.ones(2), torch.ones(1)) == float("inf")
    assert cpu.relative_error(torch.tensor([1.1]), torch.ones(1)) == pytest.approx(0.1)
