"""Numbers of the report: steps of mAP, the table of classes, bias and label distribution, training curves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby

import numpy as np

from ccd.labels.thresholds import LABELLED
from ccd.report.charts import Chart, Series, line_chart
from ccd.report.findings import count_of, known_images
from ccd.report.quality import qualities
from ccd.report.run_data import Run


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
    """mAP in % after a step, and the ``gain`` over the first step (None: it is the first). ``raw``: of the same scores
    before floor and clip, where there is such a thing."""

    name: str
    value: float
    raw: float | None
    tone: str
    gain: float | None


@dataclass(frozen=True)
class Counts:
    """Images per class: those that show it by ground truth (None: unknown), of the training images with ground truth;
    those where CLIP puts it first and those with a label >= 0.5, of all training images."""

    name: str
    truth: int | None
    top1: int
    labelled: int


def steps(run: Run) -> tuple[list[Step], list[Step]]:
    """mAP of the labels of the training images, as trained on, and of predictions on the test images, each after CLIP's
    own probabilities; empty where unknown."""
    train = run.metrics["train"].mean_ap
    test = run.metrics["test"].mean_ap
    made = (
        ("CLIP zero-shot probability", "zero_shot", "", "global"),
        ("global label (whole image)", "global_label", "zero_shot", "global"),
        ("local label (best view)", "local_label", "local_raw", "local"),
        ("aggregated label, as trained on", "aggregated_label", "aggregated_raw", "final"),
    )
    said = (
        ("CLIP zero-shot probability", "zero_shot", "global"),
        ("student after warm-up", "warmup", "warm"),
        ("finished student", "student", "student"),
    )
    on_train = [(name, train.get(label), train.get(raw), tone) for name, label, raw, tone in made]
    on_test = [(name, test.get(table), None, tone) for name, table, tone in said]
    return _known_steps(on_train), _known_steps(on_test)


def _known_steps(found: Sequence[tuple[str, float | None, float | None, str]]) -> list[Step]:
    """Those with a value; a gain is the difference of what is shown, to 0.1."""
    known = [(name, value, raw, tone) for name, value, raw, tone in found if value is not None]
    return [
        Step(name, value, raw, tone, round(value, 1) - round(known[0][1], 1) if number else None)
        for number, (name, value, raw, tone) in enumerate(known)
    ]


def first_choices(run: Run) -> np.ndarray:
    """(C,) int64: on how many of all training images CLIP puts the class first."""
    return np.bincount(run.made["global_prob"].argmax(axis=1), minlength=len(run.classes))


def label_counts(run: Run) -> list[Counts]:
    """Supplement Fig. 10: how often each class is true, CLIP's first choice, and labelled."""
    known = (run.train_truth >= 0).any()
    truth = (run.train_truth == 1).sum(axis=0)
    top1 = first_choices(run)
    labelled = (run.made["label"] >= LABELLED).sum(axis=0)
    return [
        Counts(name, int(truth[place]) if known else None, int(top1[place]), int(labelled[place]))
        for place, name in enumerate(run.classes)
    ]


def class_table(run: Run) -> tuple[list[Group], list[Column], list[list[Cell]]]:
    """Headings, and one row per class; columns that need ground truth only where some is known."""
    first = f"CLIP, {_training_images(run)}"
    group = f"value ≥ 0.5, {_training_images(run)}"
    columns = [
        Column("class", "", "name in the data set"),
        Column("bias", first, "b: mean probability of the class over the reliable images where it is CLIP's first"),
        Column("first choice", first, "training images where CLIP puts it first, reliable or not"),
        Column("CLIP", group, "training images with CLIP's zero-shot probability >= 0.5"),
        Column("global label", group, "training images whose global label is >= 0.5: after division by the bias"),
        Column("label", group, "training images whose aggregated label, as trained on, is >= 0.5"),
    ]
    counts = [(run.made[name] >= LABELLED).sum(axis=0) for name in ("global_prob", "global_label", "label")]
    measured = [*_quality_columns(run), *_measured_columns(run), *_decision_columns(run)]
    columns += [column for column, _ in measured]
    top1 = first_choices(run)
    rows = []
    for place, name in enumerate(run.classes):
        row = [Cell(name, name), _cell(run.bias.bias[place], 3), _cell(top1[place], 0)]
        row += [_cell(count[place], 0) for count in counts]
        rows.append([*row, *(cells[place] for _, cells in measured)])
    grouped = [(title, list(members)) for title, members in groupby(columns, key=lambda column: column.group)]
    groups = [Group(title, len(members)) for title, members in grouped]
    columns = [replace(column, first=place == 0) for _, members in grouped for place, column in enumerate(members)]
    return groups, columns, rows


def _quality_columns(run: Run) -> list[tuple[Column, list[Cell]]]:
    """Precision and recall of the labels as trained on, where truth is known."""
    if not (run.train_truth >= 0).any():
        return []
    found = qualities(run.made["label"] >= LABELLED, run.train_truth)
    group = f"label ≥ 0.5, {known_images(run, 'train')}"
    right = Column("right %", group, "% of these labels that are really there")
    there = Column("found %", group, "% of the images really showing it that have the label")
    return [(right, [_share(each.precision) for each in found]), (there, [_share(each.recall) for each in found])]


def _training_images(run: Run) -> str:
    return count_of(len(run.train), "training image")


def _share(percent: float | None) -> Cell:
    return Cell("\N{EN DASH}", "") if percent is None else _cell(percent, 0)


def _measured_columns(run: Run) -> list[tuple[Column, list[Cell]]]:
    """Positives, AP and gains of both splits, where they are known."""
    made, said = (f"AP %, {known_images(run, split)}" for split in ("train", "test"))
    plan = [
        ("train", "show it", made, "train_positives", None, "images of these that really show it"),
        ("train", "CLIP", made, "train_zero_shot", None, "CLIP's zero-shot probability of the whole image"),
        ("train", "label", made, "train_aggregated_label", None, "the aggregated label, as trained on"),
        ("train", "gain", made, "train_aggregated_label", "train_zero_shot", "label against CLIP"),
        ("test", "show it", said, "test_positives", None, "images of these that really show it"),
        ("test", "CLIP", said, "test_zero_shot", None, "CLIP's zero-shot probability of the whole image"),
        ("test", "warm-up", said, "test_warmup", None, "student after its first epochs"),
        ("test", "student", said, "test_student", None, "the finished student"),
        ("test", "gain", said, "test_student", "test_zero_shot", "student against CLIP"),
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
    group = "student's yes or no, test images"
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
        "Agreement with the labels it is trained on, mAP %": {"label_map": "student on all training images"},
    }
    charts = []
    for title, columns in names.items():
        series = [
            Series(said, tuple((row["epoch"], row[column]) for row in run.curves if column in row), tone)
            for tone, (column, said) in enumerate(columns.items())
        ]
        charts.append(line_chart(title, [line for line in series if line.points], mark))
    return charts
