"""What is said of measurements: tables, the marked section of a file, charts."""

from __future__ import annotations

from pathlib import Path

import pytest

from streamnode.bench import report
from streamnode.bench.drill import Tally
from streamnode.bench.hop import Reuse
from streamnode.bench.models import Comparison, Figures, ModelsReport, Point
from streamnode.bench.streams import StreamsReport, Trial
from streamnode.errors import ConfigError


def figures(contender: str, p50_ms: float, **changes: float | None) -> Figures:
    values = {
        "p95_ms": p50_ms + 1,
        "speed_up": 10 / p50_ms,
        "gflops": 100.0,
        "limit_share": 0.5,
        "max_abs": 1e-5,
        "nrmse": 2e-6,
        "load_s": 1.25,
        "rss_mb": 40.0,
    }
    rounds = (p50_ms - 1, p50_ms, p50_ms + 1)
    return Figures(contender=contender, precision="float32", p50_ms=p50_ms, rounds_ms=rounds, **values | changes)  # type: ignore[arg-type]


LUNA = Comparison(
    model="luna-base",
    n_params=7,
    n_chans=22,
    duration_s=5.0,
    gflop=0.5,
    figures=(figures("eager", 10.0), figures("ours", 4.0), figures("int8", 2.0, limit_share=None, rss_mb=None)),
    absent={"onnx": "onnx not installed: pip install it"},
    by_channels=(Point(4, 1, {"eager": 2.0, "ours": 1.0}, 2.0), Point(64, 1, {"eager": 9.0, "ours": 3.0}, 3.0)),
    by_batch=(Point(22, 1, {"eager": 4.0, "ours": 2.0}, 2.0),),
    reuse=(Reuse("compile", 0.125, 90.0, 4.5, 20.0, 2e-7),),
)
DINO = Comparison("eegdino-small", 4, 19, 5.0, 0.25, (figures("ours", 3.0, speed_up=None),), {})
REPORT = ModelsReport("a machine", "cpu", "2.13", "random:0", 3, {"float32": 440.0, "bfloat16": 880.0}, (LUNA, DINO))


def test_markdown_has_a_column_for_every_contender() -> None:
    """Ours first, a dash for who did not take part, times as fast as eager in brackets; the absent say why."""
    lines = report.markdown(REPORT).splitlines()
    assert "| model, channels | ours | int8 | eager |" in lines
    assert "| luna-base, 22 | 4 (2.50) | 2 (5.00) | 10 |" in lines
    assert "| eegdino-small, 19 | 3 | - | - |" in lines
    assert "| luna-base | 2.0e-06 | 2.0e-06 | 2.0e-06 | 0.5 | 50% | 1.2 s | 40 MB |" in lines
    assert "- onnx not installed: pip install it" in lines
    assert any(
        "4.5 ms in place of 90, 20.0 times as fast; the results differ by 2e-07 at most." in line for line in lines
    )
    assert any("440 in float32, 880 in bfloat16" in line for line in lines)


def test_tables_have_as_many_cells_as_columns() -> None:
    """What nobody knows is a dash."""
    for columns, rows in (report.contender_table(LUNA), report.scaling_table(LUNA)):
        assert {len(row) for row in rows} == {len(columns)}
    _, rows = report.contender_table(LUNA)
    assert [row[0] for row in rows] == ["ours", "int8", "eager"]
    assert rows[1][-1] == "-"


def test_a_section_is_replaced_whole_and_once(tmp_path: Path) -> None:
    """All else of the file stays, and writing the same again changes nothing."""
    path = tmp_path / "README.md"
    path.write_text("before\n<!-- bench:models -->\n<!-- /bench:models -->\nafter <!-- other -->\n")
    report.write_section(path, "bench:models", "| a |\\1\n| b |")
    expected = "before\n<!-- bench:models -->\n| a |\\1\n| b |\n<!-- /bench:models -->\nafter <!-- other -->\n"
    assert path.read_text() == expected
    stamp = path.stat().st_mtime_ns
    report.write_section(path, "bench:models", "| a |\\1\n| b |")
    assert (path.read_text(), path.stat().st_mtime_ns) == (expected, stamp)
    report.write_section(path, "bench:models", "c")
    assert path.read_text() == "before\n<!-- bench:models -->\nc\n<!-- /bench:models -->\nafter <!-- other -->\n"


@pytest.mark.parametrize("text", ["no marks", "<!-- bench:models -->\n<!-- /bench:models -->\n" * 2])
def test_a_file_without_one_section_is_left_alone(tmp_path: Path, text: str) -> None:
    """The message says which lines to put in it."""
    path = tmp_path / "README.md"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"sections between <!-- bench:models --> and .*put these two lines"):
        report.write_section(path, "bench:models", "x")
    assert path.read_text() == text


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    """In one sentence."""
    with pytest.raises(ConfigError, match="cannot be written"):
        report.write_section(tmp_path / "none.md", "bench:models", "x")


def test_charts_are_drawn(tmp_path: Path) -> None:
    """One of the rounds, one of speed and error, and one of scaling where that was measured; one of streams."""
    trials = [
        Trial(n, together, 10, 0 if together else n, 1.5, 0.2, 1.0, 5.0, 8.0, 30.0)
        for n in (8, 16)
        for together in (True, False)
    ]
    streams = StreamsReport("luna-base", 22, 1.0, 5.0, tuple(trials), 16, 0, None, Tally(1))
    drawn = report.draw_models(tmp_path, REPORT) + report.draw_streams(tmp_path, streams)
    assert [path.name for path in drawn] == ["latency.png", "error.png", "scaling.png", "streams.png"]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in drawn)
    assert report.streams_table(streams)[1][0][:4] == ["8", "yes", "10", "0"]
