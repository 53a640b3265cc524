"""Numbers of the report: steps of mAP, the table of classes, bias and label distribution, training curves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby

import numpy as np

from ccd.report.charts import Chart, Series, line_chart
from ccd.report.choose import LABELLED
from ccd.report.quality import qualities
from ccd.report.run import Run


@dataclass(frozen=True)
class Cell:
    """What a table shows, what it sorts by, and whether it is good (up) or bad (down)."""

    text: str
    key: float | str
    tone: str = ""


@dataclass(frozen=True)
class Column:
    """Heading, the group above it, the hint behind it, and whether it is the first of its group."""

    title: str
    group: str
    hint: str
    first: bool = False


@dataclass(frozen=True)
class Group:
    """A heading over ``size`` columns."""

    title: str
    size: int


@dataclass(frozen=True)
class Step:
    """mAP in % after a step, and the ``gain`` over the first step (None: it is the first). ``written``: of the label as
    written, after floor and clip, where that differs."""

    name: str
    value: float
    written: float | None
    tone: str
    gain: float | None


@dataclass(frozen=True)
class Counts:
    """Training images per class: by ground truth (None: unknown), as CLIP's top-1, with a label >= 0.5."""

    name: str
    truth: int | None
    top1: int
    labelled: int


def steps(run: Run) -> tuple[list[Step], list[Step]]:
    """mAP of the labels of the training images, and of predictions on the test images; empty where unknown."""
    train, test = run.metrics["train"].mean_ap, run.metrics["test"].mean_ap
    made = (
        ("CLIP, whole image", "zero_shot", "global_label", "global"),
        ("best local view", "local_raw", "local_label", "local"),
        ("aggregated", "aggregated_raw", "aggregated_label", "final"),
    )
    said = (
        ("CLIP zero-shot", "zero_shot", "global"),
        ("after warm-up", "warmup", "warm"),
        ("finished student", "student", "student"),
    )
    on_train = [(name, train.get(raw), train.get(written), tone) for name, raw, written, tone in made]
    on_test = [(name, test.get(table), None, tone) for name, table, tone in said]
    return _known_steps(on_train), _known_steps(on_test)


def _known_steps(found: Sequence[tuple[str, float | None, float | None, str]]) -> list[Step]:
    """Those with a value; a gain is the difference of what is shown, to 0.1."""
    known = [(name, value, written, tone) for name, value, written, tone in found if value is not None]
    return [
        Step(name, value, written, tone, round(value, 1) - round(known[0][1], 1) if number else None)
        for number, (name, value, written, tone) in enumerate(known)
    ]


def label_counts(run: Run) -> list[Counts]:
    """Supplement Fig. 10: how often each class is true, CLIP's first choice, and labelled."""
    known = (run.train_truth >= 0).any()
    truth = (run.train_truth == 1).sum(axis=0)
    top1 = np.bincount(run.made["global_prob"].argmax(axis=1), minlength=len(run.classes))
    labelled = (run.made["label"] >= LABELLED).sum(axis=0)
    return [
        Counts(name, int(truth[place]) if known else None, int(top1[place]), int(labelled[place]))
        for place, name in enumerate(run.classes)
    ]


def class_table(run: Run) -> tuple[list[Group], list[Column], list[list[Cell]]]:
    """Headings, and one row per class; columns that need ground truth only where some is known."""
    columns = [
        Column("class", "", "name in the data set"),
        Column("bias", "CLIP", "b: mean probability of the class over the images where it is CLIP's surest choice"),
        Column("top-1", "CLIP", "reliable training images whose first choice it is"),
        Column("raw", "labels ≥ 0.5", "training images with CLIP's probability >= 0.5"),
        Column("debiased", "labels ≥ 0.5", "after division by the bias"),
        Column("final", "labels ≥ 0.5", "after the local views: the training target"),
    ]
    counts = [(run.made[name] >= LABELLED).sum(axis=0) for name in ("global_prob", "global_label", "label")]
    measured = [*_quality_columns(run), *_measured_columns(run), *_decision_columns(run)]
    columns += [column for column, _ in measured]
    rows = []
    for place, name in enumerate(run.classes):
        row = [Cell(name, name), _cell(run.bias.bias[place], 3), _cell(run.bias.top1_counts[place], 0)]
        row += [_cell(count[place], 0) for count in counts]
        rows.append([*row, *(cells[place] for _, cells in measured)])
    grouped = [(title, list(members)) for title, members in groupby(columns, key=lambda column: column.group)]
    groups = [Group(title, len(members)) for title, members in grouped]
    columns = [replace(column, first=place == 0) for _, members in grouped for place, column in enumerate(members)]
    return groups, columns, rows


def _quality_columns(run: Run) -> list[tuple[Column, list[Cell]]]:
    """Precision and recall of the final labels, where truth is known."""
    if not (run.train_truth >= 0).any():
        return []
    found = qualities(run.made["label"] >= LABELLED, run.train_truth)
    group = "labels ≥ 0.5"
    right = Column("right", group, "% of the final labels that are really there")
    there = Column("found", group, "% of the images really showing it that have the label")
    return [(right, [_share(each.precision) for each in found]), (there, [_share(each.recall) for each in found])]


def _share(percent: float | None) -> Cell:
    return Cell("\N{EN DASH}", "") if percent is None else _cell(percent, 0)


def _measured_columns(run: Run) -> list[tuple[Column, list[Cell]]]:
    """Positives, AP and gains of both splits, where they are known."""
    made, said = "AP of training labels, %", "AP on test images, %"
    plan = [
        ("train", "images", made, "train_positives", None, "training images that really show it"),
        ("train", "zero-shot", made, "train_zero_shot", None, "CLIP on the whole image"),
        ("train", "final", made, "train_aggregated_raw", None, "after the local views"),
        ("train", "gain", made, "train_aggregated_raw", "train_zero_shot", "what the local views changed"),
        ("test", "images", said, "test_positives", None, "test images that really show it"),
        ("test", "zero-shot", said, "test_zero_shot", None, "CLIP on the whole image"),
        ("test", "warm-up", said, "test_warmup", None, "student after its first epochs"),
        ("test", "student", said, "test_student", None, "the finished student"),
        ("test", "gain", said, "test_student", "test_zero_shot", "student against zero-shot"),
    ]
    found = []
    for split, title, group, table, against, hint in plan:
        if run.metrics[split].images:
            decimals = 0 if table.endswith("positives") else 1
            cells = [_difference(run, name, table, against, decimals) for name in run.classes]
            found.append((Column(title, group, hint), cells))
    return found


def _decision_columns(run: Run) -> list[tuple[Column, list[Cell]]]:
    """The student's threshold per class and how well it decides, where `evaluate` states them."""
    group = "student's yes or no"
    plan = [
        ("threshold", "threshold", 3, "the student says yes from this probability on; found without ground truth"),
        ("F1 %", "test_f1_thresholds", 1, "of these decisions on the test images"),
    ]
    return [
        (Column(title, group, hint), [_difference(run, name, table, None, decimals) for name in run.classes])
        for title, table, decimals, hint in plan
        if any(table in row for row in run.per_class.values())
    ]


def _difference(run: Run, name: str, table: str, against: str | None, decimals: int) -> Cell:
    row = run.per_class.get(name, {})
    if table not in row or (against is not None and against not in row):
        return Cell("\N{EN DASH}", "")
    if against is None:
        return _cell(row[table], decimals)
    gain = round(row[table] - row[against], 1)
    tone = "up" if gain > 0 else "down" if gain < 0 else ""
    return Cell(f"{gain:+.1f}".replace("-", "\N{MINUS SIGN}") if tone else "0.0", gain, tone)


def _cell(value: float, decimals: int) -> Cell:
    return Cell(f"{value:,.{decimals}f}", round(float(value), 4))


def curve_charts(run: Run) -> list[Chart]:
    """Loss, and how well the student's own predictions fit its targets, per epoch."""
    mark = run.warmup_epochs + 0.5 if len(run.curves) > run.warmup_epochs else None
    names = {
        "Loss per epoch": {"loss": "total", "bce": "against the labels", "consistency": "consistency"},
        "Agreement with the labels it is trained on, mAP %": {"label_map": "predictions on training images"},
    }
    charts = []
    for title, columns in names.items():
        series = [
            Series(said, tuple((row["epoch"], row[column]) for row in run.curves if column in row), tone)
            for tone, (column, said) in enumerate(columns.items())
        ]
        charts.append(line_chart(title, [line for line in series if line.points], mark))
    return charts
