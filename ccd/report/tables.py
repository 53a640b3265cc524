"""The report's tables: steps of mAP, classes, bias and label distribution, training curves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby

import numpy as np

from ccd.labels.thresholds import LABELLED
from ccd.report.charts import Chart, Series, line_chart
from ccd.report.findings import count_of, known_images
from ccd.report.quality import qualities
from ccd.report.run_data import ZERO_SHOT, Run


@dataclass(frozen=True)
class Cell:
    """A cell: its ``text``, the ``key`` to sort by, and the ``tone``: up for a gain, down for a loss, or empty."""

    text: str
    key: float | str
    tone: str = ""


@dataclass(frozen=True)
class Column:
    """A column: its ``title``, the ``group`` above it, the ``hint`` shown on it; ``first``: it begins its group."""

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
    """mAP in % after a step, and the ``gain`` over the first step (None for the first).

    ``raw``: mAP of the same scores before floor and clip, None where these are not applied.
    """

    name: str
    value: float
    raw: float | None
    tone: str
    gain: float | None


@dataclass(frozen=True)
class Counts:
    """Training images per class.

    ``truth``: those that show it by ground truth (None: unknown); ``top1``: those where CLIP puts it first;
    ``labelled``: those with a label >= 0.5.
    """

    name: str
    truth: int | None
    top1: int
    labelled: int


def steps(run: Run) -> tuple[list[Step], list[Step]]:
    """Return the steps of mAP on the training images (labels) and on the test images (predictions).

    Both begin with CLIP's own probabilities; empty where no truth is known.
    """
    train = run.metrics["train"].mean_ap
    test = run.metrics["test"].mean_ap
    train_plan = (
        (run.score_name, "zero_shot", "", "global"),
        ("global label (whole image)", "global_label", "zero_shot", "global"),
        ("local label (best view)", "local_label", "local_raw", "local"),
        ("aggregated label, as trained on", "aggregated_label", "aggregated_raw", "final"),
    )
    test_plan = (
        (ZERO_SHOT, "zero_shot", "global"),
        ("linear head on CLIP's features", "head", "global"),
        ("student after warm-up", "warmup", "warm"),
        ("finished student", "student", "student"),
    )
    on_train = [(name, train.get(label), train.get(raw), tone) for name, label, raw, tone in train_plan]
    on_test = [(name, test.get(table), None, tone) for name, table, tone in test_plan]
    return _known_steps(on_train), _known_steps(on_test)


def _known_steps(steps: Sequence[tuple[str, float | None, float | None, str]]) -> list[Step]:
    """Return the steps that have a value; a gain is the difference of the rounded values, to 0.1."""
    known = [(name, value, raw, tone) for name, value, raw, tone in steps if value is not None]
    return [
        Step(name, value, raw, tone, round(value, 1) - round(known[0][1], 1) if number else None)
        for number, (name, value, raw, tone) in enumerate(known)
    ]


def first_choices(run: Run) -> np.ndarray:
    """Return for each class the number of training images where CLIP puts it first, (C,) int64."""
    return np.bincount(run.pseudo_labels["global_prob"].argmax(axis=1), minlength=len(run.classes))


def label_counts(run: Run) -> list[Counts]:
    """Return how often each class is present, CLIP's first choice, and labelled (supplement Fig. 10)."""
    known = (run.train_truth >= 0).any()
    truth = (run.train_truth == 1).sum(axis=0)
    top1 = first_choices(run)
    labelled = (run.pseudo_labels["label"] >= LABELLED).sum(axis=0)
    return [
        Counts(name, int(truth[class_row]) if known else None, int(top1[class_row]), int(labelled[class_row]))
        for class_row, name in enumerate(run.classes)
    ]


def class_table(run: Run) -> tuple[list[Group], list[Column], list[list[Cell]]]:
    """Return groups, columns and one row per class; columns that need ground truth only where some is known."""
    clip_group = f"CLIP, {_training_images(run)}"
    group = f"value ≥ 0.5, {_training_images(run)}"
    clips = run.score_name.replace("CLIP ", "CLIP's ", 1)
    columns = [
        Column("class", "", "name in the data set"),
        Column(
            "bias", clip_group, "b: mean probability of the class over the reliable images where it is CLIP's first"
        ),
        Column("first choice", clip_group, "training images where CLIP puts it first, reliable or not"),
        Column("CLIP", group, f"training images with {clips} >= 0.5"),
        Column("global label", group, "training images whose global label is >= 0.5: after division by the bias"),
        Column("label", group, "training images whose aggregated label, as trained on, is >= 0.5"),
    ]
    counts = [(run.pseudo_labels[name] >= LABELLED).sum(axis=0) for name in ("global_prob", "global_label", "label")]
    measured = [*_quality_columns(run), *_measured_columns(run), *_decision_columns(run)]
    columns += [column for column, _ in measured]
    top1 = first_choices(run)
    rows = []
    for class_row, name in enumerate(run.classes):
        row = [Cell(name, name), _cell(run.bias.bias[class_row], 3), _cell(top1[class_row], 0)]
        row += [_cell(count[class_row], 0) for count in counts]
        rows.append([*row, *(cells[class_row] for _, cells in measured)])
    grouped = [(title, list(members)) for title, members in groupby(columns, key=lambda column: column.group)]
    groups = [Group(title, len(members)) for title, members in grouped]
    columns = [replace(column, first=number == 0) for _, members in grouped for number, column in enumerate(members)]
    return groups, columns, rows


def _quality_columns(run: Run) -> list[tuple[Column, list[Cell]]]:
    """Return precision and recall of the labels as trained on, where truth is known."""
    if not (run.train_truth >= 0).any():
        return []
    classes = qualities(run.pseudo_labels["label"] >= LABELLED, run.train_truth)
    group = f"label ≥ 0.5, {known_images(run, 'train')}"
    precision = Column("right %", group, "% of these labels that are really there")
    recall = Column("found %", group, "% of the images really showing it that have the label")
    return [
        (precision, [_share(each.precision) for each in classes]),
        (recall, [_share(each.recall) for each in classes]),
    ]


def _training_images(run: Run) -> str:
    return count_of(len(run.train), "training image")


def _share(percent: float | None) -> Cell:
    return Cell("\N{EN DASH}", "") if percent is None else _cell(percent, 0)


def _measured_columns(run: Run) -> list[tuple[Column, list[Cell]]]:
    """Return positives, AP and gains of both splits, where they are known."""
    train_group, test_group = (f"AP %, {known_images(run, split)}" for split in ("train", "test"))
    clips = run.score_name.replace("CLIP ", "CLIP's ", 1)
    plan = [
        ("train", "show it", train_group, "train_positives", None, "images of these that really show it"),
        ("train", "CLIP", train_group, "train_zero_shot", None, f"{clips} of the whole image"),
        ("train", "label", train_group, "train_aggregated_label", None, "the aggregated label, as trained on"),
        ("train", "gain", train_group, "train_aggregated_label", "train_zero_shot", "label against CLIP"),
        ("test", "show it", test_group, "test_positives", None, "images of these that really show it"),
        ("test", "CLIP", test_group, "test_zero_shot", None, "CLIP's zero-shot probability of the whole image"),
        ("test", "head", test_group, "test_head", None, "linear head on CLIP's features of the whole image"),
        ("test", "warm-up", test_group, "test_warmup", None, "student after its first epochs"),
        ("test", "student", test_group, "test_student", None, "the finished student"),
        ("test", "gain", test_group, "test_student", "test_zero_shot", "student against CLIP"),
    ]
    measured = []
    for split, title, group, table, against, hint in plan:
        if run.metrics[split].images:
            decimals = 0 if table.endswith("positives") else 1
            cells = [_difference(run, name, table, against, decimals) for name in run.classes]
            measured.append((Column(title, group, hint), cells))
    return measured


def _decision_columns(run: Run) -> list[tuple[Column, list[Cell]]]:
    """Return the student's threshold per class and its F1, where ``per_class.csv`` has them."""
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
    """Return charts per epoch: the losses, and the mAP of the student's predictions against its targets."""
    mark = run.warmup_epochs + 0.5 if len(run.curves) > run.warmup_epochs else None
    names = {
        "Loss per epoch": {"loss": "total", "bce": "against the labels", "consistency": "consistency"},
        "Agreement with the labels it is trained on, mAP %": {"label_map": "student on all training images"},
    }
    charts = []
    for title, columns in names.items():
        series = [
            Series(label, tuple((row["epoch"], row[column]) for row in run.curves if column in row), tone)
            for tone, (column, label) in enumerate(columns.items())
        ]
        charts.append(line_chart(title, [line for line in series if line.points], mark))
    return charts
