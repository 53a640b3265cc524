"""Draws the report's main figures as one picture (supplement Fig. 9 and 10, AP per class) for ``dvc plots``."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ccd.report.answers import verdict
from ccd.report.findings import count_of, known_images
from ccd.report.run_data import ZERO_SHOT, Run
from ccd.report.tables import Counts, label_counts

SHOWN_CLASSES = 40
LONGEST_NAME = 22
CLIP = "#8d9fbd"
LABEL = "#2f6db5"
TRUTH = "#3f8d5a"
STUDENT = "#7b5bb5"
RULE = "#e1e5ea"
MUTED = "#586374"
STEPS = {
    "test": ("test_zero_shot", "test_student", "student", STUDENT),
    "train": ("train_zero_shot", "train_aggregated_label", "label as trained on", LABEL),
}
STYLE = {"font.family": "DejaVu Sans", "font.size": 9, "text.parse_math": False, "axes.axisbelow": True}


def write_overview(run: Run, name: str, path: Path) -> None:
    """Write a PNG with a line per class: CLIP's bias, label counts, and AP before and after where labels are known.

    At most 40 classes, those with the lowest AP (or the first, where none is known). The same run gives the same bytes
    on the same machine.
    """
    class_rows = _shown(run)
    split = _split(run)
    # A user's own matplotlib settings must not change the bytes; a glyph the font lacks is drawn as a box.
    with style.context(["default", STYLE]), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        figure = Figure(figsize=(11, 1.7 + 0.27 * len(class_rows)), dpi=110, layout="constrained")
        axes = figure.subplots(1, 3 if split else 2, sharey=True, squeeze=False)[0]
        figure.suptitle(f"{name}: {verdict(run)}", x=0.01, ha="left", fontsize=10, wrap=True)
        _bias(axes[0], run, class_rows)
        _counts(axes[1], run, [label_counts(run)[row] for row in class_rows])
        if split:
            _precision(axes[2], run, class_rows, split)
        names = [run.classes[row] for row in class_rows]
        axes[0].set_yticks(range(len(class_rows)), [_cut(each) for each in names])
        axes[0].invert_yaxis()
        figure.savefig(path, format="png", metadata={"Software": None})


def _split(run: Run) -> str | None:
    """Return the split whose AP is shown: test if its labels are known, else train; None without known labels."""
    return next((split for split in STEPS if run.metrics[split].images), None)


def _shown(run: Run) -> list[int]:
    split = _split(run)
    if split is None:
        return list(range(len(run.classes)))[:SHOWN_CLASSES]
    ap = [run.per_class.get(name, {}).get(STEPS[split][1], 101.0) for name in run.classes]
    return sorted(range(len(run.classes)), key=lambda row: (ap[row], row))[:SHOWN_CLASSES]


def _cut(name: str) -> str:
    return name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 1]}…"


def _bias(axis: Axes, run: Run, class_rows: list[int]) -> None:
    axis.barh(range(len(class_rows)), run.bias.bias[class_rows], height=0.6, color=CLIP)
    axis.set_xlim(0, 1)
    _finish(axis, "CLIP's bias b (mean probability where it comes\nfirst, over reliable training images)")


def _counts(axis: Axes, run: Run, counts: list[Counts]) -> None:
    rows = np.arange(len(counts))
    axis.barh(rows - 0.16, [each.top1 for each in counts], height=0.28, color=CLIP, label="CLIP puts it first")
    axis.barh(
        rows + 0.16, [each.labelled for each in counts], height=0.28, color=LABEL, label="label as trained on ≥ 0.5"
    )
    known = [each.truth for each in counts if each.truth is not None]
    base = count_of(len(run.train), "training image")
    if known:
        axis.scatter(known, rows, marker="|", s=130, color=TRUTH, linewidths=2, label="really shows it", zorder=3)
        base += f"\n(really shows it: of {run.metrics['train'].images:,} with ground truth)"
    axis.set_xlim(left=0)
    _finish(axis, base)


def _precision(axis: Axes, run: Run, class_rows: list[int], split: str) -> None:
    before, after, legend, colour = STEPS[split]
    values = [run.per_class.get(run.classes[row], {}) for row in class_rows]
    old, new = (np.asarray([row.get(column, np.nan) for row in values]) for column in (before, after))
    rows = np.arange(len(class_rows))
    axis.hlines(rows, np.fmin(old, new), np.fmax(old, new), color=RULE, linewidth=3)
    axis.scatter(old, rows, s=26, color=CLIP, label=run.score_name if split == "train" else ZERO_SHOT, zorder=3)
    axis.scatter(new, rows, s=26, color=colour, label=legend, zorder=4)
    axis.set_xlim(0, 102)
    _finish(axis, f"AP in %, {known_images(run, split)}")


def _finish(axis: Axes, title: str) -> None:
    axis.set_title(title, loc="left", fontsize=9, color=MUTED)
    axis.grid(axis="x", color=RULE)
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)
    handles, _ = axis.get_legend_handles_labels()
    if handles:
        axis.legend(
            loc="upper center",
            bbox_to_anchor=(0.5, 0),
            ncols=3,
            frameon=False,
            fontsize=8,
            borderaxespad=2.2,
            handletextpad=0.4,
            columnspacing=1,
        )
