"""Renders the report as one self-contained HTML file, with Fig. 8 to 11 of the paper's supplement."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from ccd.labels.thresholds import LABELLED
from ccd.params.recipes import recipe_of, recipe_table
from ccd.report.answers import findings, verdict
from ccd.report.cards import (
    TEST_STEPS,
    TRAIN_STEPS,
    Card,
    pair_boxes,
    pair_card,
    test_card,
    train_card,
    views_shown,
)
from ccd.report.corrected import corrections
from ccd.report.doubt import Choice, class_cases, coinciding_pairs, doubtful_test, doubtful_train
from ccd.report.environment import template_environment
from ccd.report.findings import background_note, known_images
from ccd.report.photos import Photos
from ccd.report.run_data import Run
from ccd.report.tables import class_table, curve_charts, label_counts, steps

TEMPLATES = Path(__file__).parent / "templates"
GALLERY_CLASSES = 80
LISTED_CLASSES = 1000
LISTED_FILES = 200
DOUBTFUL = 12
DOUBTFUL_PER_CLASS = 3
PAIRS = 6
PHOTO_BUDGET_BYTES = 9_000_000
LONGEST_TEXT = 600

Parameters = Mapping[str, Mapping[str, object]]


@dataclass(frozen=True)
class Shelf:
    """One class of the gallery: its ``standing`` (AP or number of labels) and its cards."""

    name: str
    standing: str
    cards: list[Card]


def render(run: Run, name: str, root: Path, parameters: Parameters, versions: Mapping[str, str]) -> str:
    """Return the page; the same run, parameters and versions give the same text.

    Args:
        name: of the data set.
        root: folder of the images; at most 3 per class for 80 classes, and 42 more, are read.
        parameters: section -> key -> value; very long values are cut.
        versions: library -> version on the machine that writes the page.

    Raises:
        CcdError: an image is missing, damaged, or not the one that was indexed.
    """
    environment = template_environment(TEMPLATES)
    environment.filters |= {"percent": lambda value: f"{value:.1f}", "signed": _signed, "short": _short}
    doubts = doubtful_train(run.pseudo_labels, DOUBTFUL, DOUBTFUL_PER_CLASS)
    context = {**_numbers(run, name, doubts), **_pictures(run, Photos(root, PHOTO_BUDGET_BYTES), doubts)}
    backbone = parameters.get("warmup", {}).get("backbone", "a CNN")
    network = "CLIP's own image tower" if backbone == "teacher" else backbone
    recipe = {"recipe": recipe_of(parameters), "recipe_rows": recipe_table(parameters)}
    return environment.get_template("report.html").render(
        name=name, run=run, parameters=parameters, versions=versions, network=network, **recipe, **context
    )


def _signed(value: float) -> str:
    """Return a difference with its sign (a true minus); 0.0 has none."""
    return f"{value:+.1f}".replace("-", "\N{MINUS SIGN}") if round(value, 1) else "0.0"


def _short(value: object) -> str:
    """Return text of bounded length, since a parameter or list of names grows with the number of classes."""
    text = str(value)
    return text if len(text) <= LONGEST_TEXT else f"{text[:LONGEST_TEXT]} … ({len(text):,} characters)"


def _numbers(run: Run, name: str, doubts: Sequence[Choice]) -> dict[str, Any]:
    groups, columns, rows = class_table(run)
    train_steps, test_steps = steps(run)
    bias = zip(run.classes, run.bias.bias.tolist(), run.bias.top1_counts.tolist(), strict=True)
    counts = sorted(label_counts(run), key=lambda count: -max(count.truth or 0, count.labelled, count.top1))
    answers = findings(run, doubts, name)
    return {
        "verdict": verdict(run),
        "findings": answers,
        "opened": answers[0].points[0].name if answers[0].points else "",
        "train_steps": train_steps,
        "test_steps": test_steps,
        "groups": groups,
        "columns": columns,
        "rows": rows[:LISTED_CLASSES],
        "bias": sorted(bias, key=lambda row: row[1])[:LISTED_CLASSES],
        "counts": counts[:LISTED_CLASSES],
        "most": max(1, *(max(count.truth or 0, count.labelled, count.top1) for count in counts)),
        "listed_files": LISTED_FILES,
        "left_out_classes": max(0, len(run.classes) - LISTED_CLASSES),
        "charts": curve_charts(run),
        "label_gain": train_steps[-1].gain if train_steps else None,
        "student_gain": test_steps[-1].gain if test_steps else None,
        "none_note": background_note(run),
        "known": {split: known_images(run, split) for split in run.metrics},
        "all_known": run.metrics["train"].images == len(run.train),
        "train_names": TRAIN_STEPS,
        "test_names": TEST_STEPS,
    }


def _pictures(run: Run, photos: Photos, doubts: Sequence[Choice]) -> dict[str, Any]:
    """Return the context of the page's pictures, made in the order in which they may spend the budget of bytes."""
    requested = run.boxes.requested
    pairs = coinciding_pairs(run.box_rows[requested], run.box_classes[requested], run.boxes.boxes_px[requested], PAIRS)
    gallery = _gallery_order(run)[:GALLERY_CLASSES]
    class_choices = {class_row: class_cases(run.pseudo_labels, run.train_truth, class_row) for class_row in gallery}
    corrected = corrections(run, DOUBTFUL)
    corrected_choices = corrected.choices if corrected else []
    choices = [*doubts, *corrected_choices, *chain.from_iterable(class_choices.values())]
    probs = run.view_probs(
        [
            *(box for choice in choices for box, _ in views_shown(run, choice)),
            *(box for pair in pairs for box in pair_boxes(run, pair)),
        ]
    )
    doubtful = [train_card(run, photos, choice, probs) for choice in doubts]
    corrected_cards = [train_card(run, photos, choice, probs) for choice in corrected_choices]
    disputes = doubtful_test(run.predictions, run.bias.bias, DOUBTFUL, DOUBTFUL_PER_CLASS)
    disputed = [test_card(run, photos, choice) for choice in disputes]
    pair_cards = [pair_card(run, photos, pair, probs) for pair in pairs]
    cards = {
        class_row: [train_card(run, photos, choice, probs) for choice in class_choices[class_row]]
        for class_row in gallery
    }
    return {
        "corrected": corrected,
        "corrected_cards": corrected_cards,
        "listed": LISTED_CLASSES,
        "doubtful": doubtful,
        "disputed": disputed,
        "pairs": pair_cards,
        "gallery": [
            Shelf(run.classes[class_row], _standing(run, class_row), cards[class_row]) for class_row in sorted(cards)
        ],
        "anchors": {run.classes[class_row]: f"class-{class_row}" for class_row in gallery},
    }


def _standing(run: Run, class_row: int) -> str:
    """Return the AP of a class where known, else its number of labels."""
    row = run.per_class.get(run.classes[class_row], {})
    for table, title in (("test_student", "student's AP"), ("train_aggregated_label", "AP of labels")):
        if table in row:
            return f"{title} {row[table]:.1f} %"
    labelled = int((run.pseudo_labels["label"][:, class_row] >= LABELLED).sum())
    return f"{labelled:,} label{'' if labelled == 1 else 's'}"


def _gallery_order(run: Run) -> list[int]:
    """Return the class rows by AP of the training labels, lowest first, then those without an AP."""
    ap = [run.per_class.get(name, {}).get("train_aggregated_label", 101.0) for name in run.classes]
    return sorted(range(len(run.classes)), key=lambda class_row: (ap[class_row], class_row))
