"""What was measured, for people: tables, the README's marked section, and charts."""

from __future__ import annotations

import re
from collections.abc import Sequence
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from streamnode.bench.hop import Reuse
from streamnode.bench.models import Comparison, Figures, ModelsReport, Point
from streamnode.bench.streams import StreamsReport
from streamnode.charts.drawing import LINES, add_note, entitle, new_figure, save_figure
from streamnode.errors import ConfigError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Table = tuple[list[str], list[list[str]]]
"""Names of columns, and rows."""

_COLOURS = {
    "ours": LINES[0],
    "compile": LINES[1],
    "bfloat16": LINES[2],
    "compile-bf16": "#44546A",
    "int8": LINES[3],
    "float16": LINES[3],
    "tf32": "#F0E442",
    "eager": LINES[4],
    "onnx": "#56B4E9",
    "openvino": "#999999",
    "openvino-bf16": "#F0E442",
}
_ORDER = tuple(_COLOURS)


# ---- Tables ----------------------------------------------------------------------------------------------------------


def contender_table(comparison: Comparison) -> Table:
    """A row for each contender of one model."""
    columns = ["contender", "p50 ms", "p95 ms", "x eager", "GFLOP/s", "of limit", "max error", "NRMSE", "load s", "MB"]
    rows = [
        [
            one.contender,
            f"{one.p50_ms:.2f}",
            f"{one.p95_ms:.2f}",
            _or_dash(one.speed_up, ".2f"),
            f"{one.gflops:.0f}",
            _or_dash(one.limit_share, ".0%"),
            f"{one.max_abs:.1e}",
            f"{one.nrmse:.1e}",
            f"{one.load_s:.1f}",
            _or_dash(one.rss_mb, ".0f"),
        ]
        for one in _in_order(comparison.figures)
    ]
    return columns, rows


def scaling_table(comparison: Comparison) -> Table:
    """A row for each number of channels, and of epochs in a pass."""
    points = comparison.by_channels + comparison.by_batch
    names = list(points[0].ms) if points else []
    rows = [
        [
            str(point.n_chans),
            str(point.batch),
            *(f"{ms:.2f}" for ms in point.ms.values()),
            _or_dash(point.speed_up, ".2f"),
        ]
        for point in points
    ]
    return ["channels", "epochs", *(f"{name}, ms an epoch" for name in names), "ours x eager"], rows


def streams_table(report: StreamsReport) -> Table:
    """A row for each number of streams that was tried."""
    columns = ["streams", "pass together", "epochs", "dropped", "wait p50 ms", "p99", "latency p50 ms", "p99", "busy"]
    rows = [
        [
            str(trial.n_streams),
            "yes" if trial.batched else "no",
            str(trial.epochs),
            str(trial.dropped),
            f"{trial.wait_p50_ms:.1f}",
            f"{trial.wait_p99_ms:.1f}",
            f"{trial.latency_p50_ms:.1f}",
            f"{trial.latency_p99_ms:.1f}",
            f"{trial.busy:.0%}",
        ]
        for trial in report.trials
    ]
    return columns, rows


def markdown(report: ModelsReport) -> str:
    """Two tables, contender by contender, and what they are of."""
    names = [name for name in _ORDER if any(_find(one, name) for one in report.models)]
    limits = ", ".join(f"{rate:.0f} in {precision}" for precision, rate in report.limits.items())
    speeds = [[f"{one.model}, {one.n_chans}", *(_speed(_find(one, name)) for name in names)] for one in report.models]
    costs = [[one.model, *(_error(_find(one, name)) for name in names), *_costs(one)] for one in report.models]
    lines = [
        f"Milliseconds of one pass, median of {report.rounds} alternating rounds in one process; in brackets, times as",
        "fast as the same network in plain eager torch, median over rounds.",
        f"{report.machine}, torch {report.torch}; the fastest large matrix product reached {limits} GFLOP/s meanwhile.",
        "",
        *_rows(["model, channels", *names], speeds),
        "",
        "Error against the same network in float64 (root mean square, in parts of that of the output; the worse of",
        "embedding and tokens), and what a pass of ours is made of:",
        "",
        *_rows(["model", *names, "GFLOP", "of the limit", "loads in", "takes"], costs),
    ]
    for one in report.models:
        for reuse in one.reuse:
            lines += ["", reuse_sentence(one.model, reuse)]
    if absent := dict.fromkeys(why for one in report.models for why in one.absent.values()):
        lines += ["", *(f"- {why}" for why in absent)]
    return "\n".join(lines)


def reuse_sentence(model: str, reuse: Reuse) -> str:
    """What is gained where epochs share patches."""
    alike = f"differ by {reuse.max_abs:.0e} at most" if reuse.max_abs else "are equal to the bit"
    return (
        f"{model} ({reuse.contender}), with an epoch every {reuse.hop_s:g} s of which only the new patch is computed: "
        f"{reuse.new_ms:.3g} ms in place of {reuse.whole_ms:.3g}, {reuse.speed_up:.1f} times as fast; "
        f"the results {alike}."
    )


def write_section(path: Path, name: str, text: str) -> None:
    """Put text between `<!-- name -->` and `<!-- /name -->` of a file, in place of what is there.

    Raises:
        ConfigError: the file cannot be read or written, or has not exactly one such section.
    """
    pattern = re.compile(rf"(<!-- {re.escape(name)} -->\n).*?(<!-- /{re.escape(name)} -->)", re.DOTALL)
    try:
        before = path.read_text("utf-8")
        after, n_found = pattern.subn(lambda marks: f"{marks[1]}{text}\n{marks[2]}", before)
        if n_found != 1:
            marks = f"<!-- {name} --> and <!-- /{name} -->"
            raise ConfigError(f"{path} has {n_found} sections between {marks}: put these two lines in it, once")
        if after != before:
            path.write_text(after, "utf-8")
    except OSError as error:
        raise ConfigError(f"{path} cannot be written ({error.strerror}): give the path of a Markdown file") from error


def _rows(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(row)} |" for row in (columns, ["---"] * len(columns), *rows)]


def _find(one: Comparison, contender: str) -> Figures | None:
    return next((figures for figures in one.figures if figures.contender == contender), None)


def _in_order(figures: Sequence[Figures]) -> list[Figures]:
    return sorted(figures, key=lambda one: _ORDER.index(one.contender))


def _speed(one: Figures | None) -> str:
    if one is None:
        return "-"
    factor = "" if one.speed_up is None or one.contender == "eager" else f" ({one.speed_up:.2f})"
    return f"{one.p50_ms:.3g}{factor}"


def _error(one: Figures | None) -> str:
    return "-" if one is None else f"{one.nrmse:.1e}"


def _costs(comparison: Comparison) -> list[str]:
    ours = _find(comparison, "ours")
    if ours is None:
        return [f"{comparison.gflop:.3g}", "-", "-", "-"]
    memory = "-" if ours.rss_mb is None else f"{ours.rss_mb:.0f} MB"
    return [f"{comparison.gflop:.3g}", _or_dash(ours.limit_share, ".0%"), f"{ours.load_s:.1f} s", memory]


def _or_dash(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


# ---- Charts ----------------------------------------------------------------------------------------------------------


def draw_models(folder: Path, report: ModelsReport) -> list[Path]:
    """Draw the rounds of every contender, speed against error, and how ours scales.

    Returns:
        The PNG files.

    Raises:
        ConfigError: matplotlib is not installed, or the folder cannot be written.
    """
    drawn = {"latency": _latency(report), "error": _trade_off(report)}
    if any(one.by_channels or one.by_batch for one in report.models):
        drawn["scaling"] = _scaling(report)
    paths = []
    for name, figure in drawn.items():
        paths.append(folder / f"{name}.png")
        save_figure(figure, paths[-1])
    return paths


def draw_streams(folder: Path, report: StreamsReport) -> list[Path]:
    """Draw what happens as streams become more. Returns and raises as `draw_models`."""
    figure = new_figure(f"{report.model}: {report.n_chans} channels, an epoch every {report.hop_s:g} s", height=4.2)
    panels = figure.subplots(1, 2)
    left = entitle(panels[0], "How much of the time the model runs", "Streams", "Share of time (%)")
    right = entitle(panels[1], "From the last sample to the result", "Streams", "99th percentile (ms)")
    for batched, name, colour in ((True, "together", LINES[0]), (False, "one by one", LINES[1])):
        trials = sorted((one for one in report.trials if one.batched == batched), key=lambda one: one.n_streams)
        if not trials:
            continue
        n_streams = [one.n_streams for one in trials]
        left.plot(n_streams, [100 * one.busy for one in trials], color=colour, marker="o", label=name)
        right.plot(n_streams, [one.latency_p99_ms for one in trials], color=colour, marker="o", label=name)
        lossy = [one for one in trials if one.dropped]
        for ax, heights in ((left, [100 * one.busy for one in lossy]), (right, [one.latency_p99_ms for one in lossy])):
            label = f"{name}, epochs dropped" if lossy else None
            ax.plot([one.n_streams for one in lossy], heights, "x", color=colour, markersize=12, label=label)
    for ax in (left, right):
        ax.set_ylim(bottom=0)
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=4)
    save_figure(figure, path := folder / "streams.png")
    return [path]


def _latency(report: ModelsReport) -> Figure:
    """The duration of every pass, contender by contender."""
    figure = new_figure(
        f"Duration of a pass: {report.rounds} alternating rounds", height=3.4 * ceil(len(report.models) / 2) + 0.6
    )
    for ax, comparison in _panels(figure, report):
        figures = _in_order(comparison.figures)[::-1]
        parts = ax.boxplot(
            [one.rounds_ms for one in figures],
            orientation="horizontal",
            whis=(5, 95),
            widths=0.6,
            patch_artist=True,
            showfliers=False,
            medianprops={"color": "black"},
            tick_labels=[one.contender for one in figures],
        )
        for box, one in zip(parts["boxes"], figures, strict=True):
            box.set_facecolor(_COLOURS[one.contender])
        reaches = [max((ms for ms in one.rounds_ms if ms <= one.p95_ms), default=one.p95_ms) for one in figures]
        for place, (one, reach) in enumerate(zip(figures, reaches, strict=True), start=1):
            ax.annotate(
                f"{one.p50_ms:.3g} ms",
                (reach, place),
                (5, 0),
                textcoords="offset points",
                va="center",
                fontsize="small",
            )
        ax.set_xlim(0, 1.25 * max(reaches))
        entitle(ax, f"{comparison.model}, {comparison.n_chans} channels", "Duration (ms)", "")
    add_note(
        figure, f"Box: quartiles and median. Whiskers: 5th and 95th percentile. {report.machine}, torch {report.torch}"
    )
    return figure


def _trade_off(report: ModelsReport) -> Figure:
    """How much faster than eager each contender is, and what it costs in accuracy."""
    figure = new_figure("Speed and accuracy", height=3.6 * ceil(len(report.models) / 2) + 0.8)
    for ax, comparison in _panels(figure, report):
        for one in _in_order(comparison.figures):
            if one.speed_up is not None:
                style: dict[str, Any] = {
                    "color": _COLOURS[one.contender],
                    "edgecolors": "black",
                    "label": one.contender,
                }
                ax.scatter(one.speed_up, one.nrmse, s=70, zorder=4 if one.contender == "ours" else 3, **style)
        ax.set_yscale("log")
        ax.axvline(1, color="black", linewidth=0.8, linestyle=":")
        ax.margins(0.15)
        entitle(ax, comparison.model, "Times as fast as eager", "NRMSE against float64")
    handles = {text: handle for ax in figure.axes for handle, text in zip(*ax.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=len(handles))
    return figure


def _scaling(report: ModelsReport) -> Figure:
    """How the duration grows with channels, and what an epoch costs in a batch."""
    figure = new_figure("Scaling", height=3.2 * len(report.models) + 0.4)
    panels = figure.subplots(len(report.models), 2, squeeze=False)
    for (left, right), comparison in zip(panels, report.models, strict=True):
        _curves(left, comparison.by_channels, [point.n_chans for point in comparison.by_channels])
        _curves(right, comparison.by_batch, [point.batch for point in comparison.by_batch])
        entitle(left, f"{comparison.model}, one epoch", "Channels", "Duration (ms)")
        entitle(
            right, f"{comparison.model}, {comparison.n_chans} channels", "Epochs in a pass", "Duration an epoch (ms)"
        )
    return figure


def _curves(ax: Axes, points: Sequence[Point], x: Sequence[int]) -> None:
    for name in points[0].ms if points else ():
        ax.plot(x, [point.ms[name] for point in points], marker="o", color=_COLOURS[name], label=name)
    if points:
        ax.set_xscale("log", base=2)
        ax.set_xticks(x, [str(n) for n in x])
        ax.minorticks_off()
        ax.set_ylim(0, 1.1 * max(max(point.ms.values()) for point in points))
        ax.legend()


def _panels(figure: Figure, report: ModelsReport) -> list[tuple[Axes, Comparison]]:
    """A panel for each model, two side by side."""
    n_columns = min(2, len(report.models))
    axes = list(figure.subplots(ceil(len(report.models) / n_columns), n_columns, squeeze=False).flat)
    for ax in axes[len(report.models) :]:
        ax.set_visible(False)
    return list(zip(axes, report.models, strict=False))
