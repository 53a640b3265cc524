"""The report as one self-contained HTML file (paper Fig. 8 to 11 of the supplement, as a page)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from ccd.report.cards import TEST_STEPS, TRAIN_STEPS, pair_card, test_card, train_card
from ccd.report.choose import class_cases, doubtful_test, doubtful_train
from ccd.report.findings import findings
from ccd.report.overlap import coinciding_pairs
from ccd.report.photos import Photos
from ccd.report.run import Run
from ccd.report.tables import class_table, curve_charts, label_counts, steps

TEMPLATES = Path(__file__).parent / "templates"
GALLERY_CLASSES = 80
LISTED_CLASSES = 1000
DOUBTFUL = 12
DOUBTFUL_PER_CLASS = 3
PAIRS = 6
PHOTO_BUDGET_BYTES = 9_000_000

Parameters = Mapping[str, Mapping[str, object]]


def render(run: Run, name: str, root: Path, parameters: Parameters) -> str:
    """The page as text; the same run gives the same text.

    Args:
        name: of the data set.
        root: folder of the images; at most 3 per class for 80 classes, and 30 more, are read.
        parameters: section -> key -> value, shown as they are.

    Raises:
        CcdError: an image is missing, damaged, or not the one that was indexed.
    """
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["percent"] = lambda value: f"{value:.1f}"
    context = {**_numbers(run), **_pictures(run, Photos(root, PHOTO_BUDGET_BYTES))}
    return environment.get_template("report.html").render(name=name, run=run, parameters=parameters, **context)


def _numbers(run: Run) -> dict[str, Any]:
    groups, columns, rows = class_table(run)
    train_steps, test_steps = steps(run)
    bias = zip(run.classes, run.bias.bias.tolist(), run.bias.top1_counts.tolist(), strict=True)
    counts = sorted(label_counts(run), key=lambda count: -max(count.truth or 0, count.labelled, count.top1))
    return {
        "findings": findings(run),
        "train_steps": train_steps,
        "test_steps": test_steps,
        "groups": groups,
        "columns": columns,
        "rows": rows[:LISTED_CLASSES],
        "bias": sorted(bias, key=lambda row: row[1])[:LISTED_CLASSES],
        "counts": counts[:LISTED_CLASSES],
        "most": max(1, *(max(count.truth or 0, count.labelled, count.top1) for count in counts)),
        "left_out_classes": max(0, len(run.classes) - LISTED_CLASSES),
        "charts": curve_charts(run),
        "train_names": TRAIN_STEPS,
        "test_names": TEST_STEPS,
    }


def _pictures(run: Run, photos: Photos) -> dict[str, Any]:
    """In the order in which they may spend the budget of bytes."""
    doubtful = [train_card(run, photos, choice) for choice in doubtful_train(run.made, DOUBTFUL, DOUBTFUL_PER_CLASS)]
    disputed = [
        test_card(run, photos, choice)
        for choice in doubtful_test(run.tested, run.bias.bias, DOUBTFUL, DOUBTFUL_PER_CLASS)
    ]
    pairs = [
        pair_card(run, photos, pair)
        for pair in coinciding_pairs(run.box_rows, run.box_classes, run.boxes.boxes_px, PAIRS)
    ]
    shown = sorted(_gallery_order(run)[:GALLERY_CLASSES])
    cases = {run.classes[place]: class_cases(run.made, run.train_truth, place) for place in shown}
    gallery = [(name, [train_card(run, photos, choice) for choice in chosen]) for name, chosen in cases.items()]
    anchors = {run.classes[place]: f"class-{place}" for place in shown}
    return {"doubtful": doubtful, "disputed": disputed, "pairs": pairs, "gallery": gallery, "anchors": anchors}


def _gallery_order(run: Run) -> list[int]:
    """Classes by what is worth looking at first: lowest AP of the training labels, then those without one."""
    ap = [run.per_class.get(name, {}).get("train_aggregated_raw", 101.0) for name in run.classes]
    return sorted(range(len(run.classes)), key=lambda place: (ap[place], place))
