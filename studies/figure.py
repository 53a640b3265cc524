"""Draws the figure of a study: lines over a swept parameter, or bars of the variants and their AP per class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ccd.artifacts.files import replacing
from studies.measure import Finding
from studies.table import TITLES, Spread, classes, means

COLOURS = {
    "train_zero_shot": "#9db0cd", "train_local_raw": "#e0a040", "train_aggregated_raw": "#2f6db5",
    "train_aggregated_label": "#4e9a67", "result": "#7b5bb5",
}  # fmt: skip
"""As in the report: global, local, final, truth, student."""
TEXT = "#1d2430"
MUTED = "#5d6878"
WITH_STUDENTS = ("train_aggregated_raw", "train_aggregated_label", "result")
STYLE: Any = {
    "font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "axes.edgecolor": MUTED,
    "axes.labelcolor": TEXT, "text.color": TEXT, "xtick.color": MUTED, "ytick.color": MUTED, "axes.titlesize": 10,
    "axes.titlelocation": "left", "legend.frameon": False,
}  # fmt: skip
MOST_CLASSES = 20


def draw(
    path: Path, title: str, findings: Sequence[Finding], paper: Mapping[str, Mapping[str, float]], axis: str | None
) -> None:
    """Write a PNG; ``axis``: the swept parameter, whose values are the variants' names, or None."""
    with mpl.rc_context(STYLE):
        rows = means(findings)
        columns = WITH_STUDENTS if any("result" in cells for cells in rows.values()) else COLOURS
        shown = [name for name in columns if any(name in cells and cells[name].count for cells in rows.values())]
        figure = _lines(rows, shown, axis) if axis else _bars(rows, shown, findings, paper)
        figure.suptitle(title, x=0.01, ha="left", fontsize=11)
        with replacing(path) as temporary:
            figure.savefig(temporary, format="png", dpi=150, metadata={"Software": None})


def _lines(rows: Mapping[str, Mapping[str, Spread]], shown: Sequence[str], axis: str) -> Figure:
    figure = Figure(figsize=(6.2, 3.6), layout="constrained")
    plot = figure.add_subplot()
    values = np.asarray([float(name) for name in rows])
    for name in shown:
        centre = np.asarray([cells[name].mean for cells in rows.values()])
        width = np.nan_to_num([cells[name].deviation for cells in rows.values()])
        plot.plot(values, centre, marker="o", markersize=3.5, color=COLOURS[name], label=TITLES[name])
        plot.fill_between(values, centre - width, centre + width, color=COLOURS[name], alpha=0.18, linewidth=0)
    plot.set_xlabel(axis)
    plot.set_ylabel("mAP (%)")
    close = len(values) > 1 and np.diff(np.sort(values)).min() < 0.08 * np.ptp(values)
    plot.set_xticks(values, list(rows), rotation=90 if close else 0)
    plot.grid(axis="y", color="#e1e5ea", linewidth=0.7)
    figure.legend(loc="outside right center")
    return figure


def draw_note(path: Path, title: str, note: str) -> None:
    """Write a PNG that shows only a title and a note."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(6.2, 1.2))
        figure.suptitle(title, x=0.01, ha="left", fontsize=11)
        figure.text(0.01, 0.3, note, fontsize=7)
        with replacing(path) as temporary:
            figure.savefig(temporary, format="png", dpi=150, metadata={"Software": None})


def draw_curves(path: Path, title: str, findings: Sequence[Finding], curves: Mapping[str, Mapping[str, int]]) -> None:
    """Write a PNG of mAP against the number of corrected images, a line for each order of ``curves``.

    Solid lines are the student's mAP, dashed ones that of the labels it is trained on.

    Args:
        curves: order -> variant -> number of images.
    """
    with mpl.rc_context(STYLE):
        rows = means(findings)
        figure = Figure(figsize=(6.8, 3.8), layout="constrained")
        plot = figure.add_subplot()
        for number, (order, counts) in enumerate(curves.items()):
            variants = sorted((name for name in counts if name in rows), key=lambda name: counts[name])
            colour = mpl.colormaps["viridis"](0.1 + 0.75 * number / max(1, len(curves) - 1))
            for column, line in (("result", "-"), ("train_aggregated_label", "--")):
                cells = [(counts[name], rows[name][column]) for name in variants if column in rows[name]]
                centre = np.asarray([cell.mean for _, cell in cells])
                width = np.nan_to_num([cell.deviation for _, cell in cells])
                values = [value for value, _ in cells]
                if cells:
                    label = f"{order}: {TITLES[column]}"
                    plot.plot(values, centre, line, marker="o", markersize=3.5, color=colour, label=label)
                    plot.fill_between(values, centre - width, centre + width, color=colour, alpha=0.15, linewidth=0)
        plot.set_xlabel("corrected training images")
        plot.set_ylabel("mAP (%)")
        plot.grid(axis="y", color="#e1e5ea", linewidth=0.7)
        figure.legend(loc="outside right center", fontsize=8)
        figure.suptitle(title, x=0.01, ha="left", fontsize=11)
        with replacing(path) as temporary:
            figure.savefig(temporary, format="png", dpi=150, metadata={"Software": None})


def _bars(
    rows: Mapping[str, Mapping[str, Spread]],
    shown: Sequence[str],
    findings: Sequence[Finding],
    paper: Mapping[str, Mapping[str, float]],
) -> Figure:
    per_class = classes(findings)
    has_classes = len(per_class) > 1 and len(rows) > 1
    height = 2.2 + 0.22 * len(rows) * len(shown)
    if has_classes:
        height = max(height, 0.24 * min(len(per_class), MOST_CLASSES) + 1.4)
    figure = Figure(figsize=(10 if has_classes else 6.2, height), layout="constrained")
    plots = figure.subplots(1, 2, width_ratios=(1, 1)) if has_classes else [figure.add_subplot()]
    _mean_bars(plots[0], rows, shown, paper)
    if has_classes:
        _class_dots(plots[1], per_class)
    return figure


def _mean_bars(
    plot: Axes,
    rows: Mapping[str, Mapping[str, Spread]],
    shown: Sequence[str],
    paper: Mapping[str, Mapping[str, float]],
) -> None:
    positions = np.arange(len(rows))
    step = 0.8 / len(shown)
    for number, name in enumerate(shown):
        centre = np.asarray([cells[name].mean for cells in rows.values()])
        width = np.asarray([cells[name].deviation for cells in rows.values()])
        bar_positions = positions + (number - (len(shown) - 1) / 2) * step
        plot.barh(bar_positions, centre, height=step * 0.9, color=COLOURS[name], label=TITLES[name])
        plot.errorbar(centre, bar_positions, xerr=width, fmt="none", ecolor=TEXT, elinewidth=0.8, capsize=2)
        for y, value in zip(bar_positions, centre, strict=True):
            if not np.isnan(value):
                plot.text(1, y, f"{value:.1f}", va="center", color="white", fontsize=7)
    paper_means = [(y, paper[name]["mean"]) for y, name in enumerate(rows) if "mean" in paper.get(name, {})]
    if paper_means:
        plot.plot(
            [value for _, value in paper_means],
            [position for position, _ in paper_means],
            "D",
            color=TEXT,
            markersize=4,
            label="the paper",
        )
    plot.set_yticks(positions, list(rows))
    plot.invert_yaxis()
    plot.set_xlim(0, 100)
    plot.set_xlabel("mAP (%)")
    plot.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, fontsize=8)


def _class_dots(plot: Axes, per_class: Mapping[str, Mapping[str, Spread]]) -> None:
    """Draw the AP of each class minus that of the first variant; of many classes those that differ most."""
    variants = list(next(iter(per_class.values())))
    gains = {
        name: [cells[variant].mean - cells[variants[0]].mean for variant in variants[1:]]
        for name, cells in per_class.items()
    }
    names = [name for name in gains if not np.isnan(gains[name]).all()]
    if len(names) > MOST_CLASSES:
        kept = sorted(names, key=lambda name: -np.nanmax(np.abs(gains[name])))[:MOST_CLASSES]
        names = [name for name in names if name in kept]
    rows = np.arange(len(names))
    for number, variant in enumerate(variants[1:]):
        shade = mpl.colormaps["viridis"](0.1 + 0.75 * number / max(1, len(variants) - 2))
        shift = (number - (len(variants) - 2) / 2) / max(1, len(variants) - 1)
        positions = rows + 0.5 * shift  # equal values stay visible
        plot.plot([gains[name][number] for name in names], positions, "o", color=shade, markersize=4, label=variant)
    plot.axvline(0, color=MUTED, linewidth=0.8)
    plot.hlines(rows, *plot.get_xlim(), color="#e1e5ea", linewidth=0.5, zorder=0)
    plot.set_yticks(rows, names)
    plot.invert_yaxis()
    plot.set_xlabel(f"AP of a class less that of {variants[0]} (points)")
    plot.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, fontsize=8)
