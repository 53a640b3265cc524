"""The report as one self-contained HTML file (paper Fig. 8 to 11 of the supplement, as a page)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from ccd.labels.thresholds import LABELLED
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
from ccd.report.findings import known_images, none_note
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
    """One class of the gallery: how it stands, and its cards."""

    name: str
    standing: str
    cards: list[Card]


def render(run: Run, name: str, root: Path, parameters: Parameters, versions: Mapping[str, str]) -> str:
    """The page as text; the same run, parameters and versions give the same text.

    Args:
        name: of the data set.
        root: folder of the images; at most 3 per class for 80 classes, and 42 more, are read.
        parameters: section -> key -> value, shown as they are, cut where they are very long.
        versions: library -> version on the machine that writes the page.

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
    environment.filters |= {"percent": lambda value: f"{value:.1f}", "signed": _signed, "short": _short}
    doubts = doubtful_train(run.made, DOUBTFUL, DOUBTFUL_PER_CLASS)
    context = {**_numbers(run, name, doubts), **_pictures(run, Photos(root, PHOTO_BUDGET_BYTES), doubts)}
    return environment.get_template("report.html").render(
        name=name, run=run, parameters=parameters, versions=versions, **context
    )


def _signed(value: float) -> str:
    """A difference with its sign, the true minus; 0.0 has none."""
    return f"{value:+.1f}".replace("-", "\N{MINUS SIGN}") if round(value, 1) else "0.0"


def _short(value: object) -> str:
    """Text of bounded length: a parameter or a list of names may be as long as a data set has classes."""
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
        "none_note": none_note(run),
        "known": {split: known_images(run, split) for split in run.metrics},
        "all_known": run.metrics["train"].images == len(run.train),
        "train_names": TRAIN_STEPS,
        "test_names": TEST_STEPS,
    }


def _pictures(run: Run, photos: Photos, doubts: Sequence[Choice]) -> dict[str, Any]:
    """In the order in which they may spend the budget of bytes."""
    asked = run.boxes.requested
    pairs = coinciding_pairs(run.box_rows[asked], run.box_classes[asked], run.boxes.boxes_px[asked], PAIRS)
    shown = _gallery_order(run)[:GALLERY_CLASSES]
    cases = {place: class_cases(run.made, run.train_truth, place) for place in shown}
    corrected = corrections(run, DOUBTFUL)
    moved = corrected.choices if corrected else []
    choices = [*doubts, *moved, *chain.from_iterable(cases.values())]
    probs = run.view_probs(
        [
            *(box for choice in choices for box, _ in views_shown(run, choice)),
            *(box for pair in pairs for box in pair_boxes(run, pair)),
        ]
    )
    doubtful = [train_card(run, photos, choice, probs) for choice in doubts]
    corrected_cards = [train_card(run, photos, choice, probs) for choice in moved]
    disputes = doubtful_test(run.tested, run.bias.bias, DOUBTFUL, DOUBTFUL_PER_CLASS)
    disputed = [test_card(run, photos, choice) for choice in disputes]
    pair_cards = [pair_card(run, photos, pair, probs) for pair in pairs]
    cards = {place: [train_card(run, photos, choice, probs) for choice in cases[place]] for place in shown}
    return {
        "corrected": corrected,
        "corrected_cards": corrected_cards,
        "listed": LISTED_CLASSES,
        "doubtful": doubtful,
        "disputed": disputed,
        "pairs": pair_cards,
        "gallery": [Shelf(run.classes[place], _standing(run, place), cards[place]) for place in sorted(cards)],
        "anchors": {run.classes[place]: f"class-{place}" for place in shown},
    }


def _standing(run: Run, place: int) -> str:
    """A class in a few words: its AP where known, else how many labels it has."""
    row = run.per_class.get(run.classes[place], {})
    for table, what in (("test_student", "student's AP"), ("train_aggregated_label", "AP of labels")):
        if table in row:
            return f"{what} {row[table]:.1f} %"
    labelled = int((run.made["label"][:, place] >= LABELLED).sum())
    return f"{labelled:,} label{'' if labelled == 1 else 's'}"


def _gallery_order(run: Run) -> list[int]:
    """Classes by what is worth looking at first: lowest AP of the training labels, then those without one."""
    ap = [run.per_class.get(name, {}).get("train_aggregated_label", 101.0) for name in run.classes]
    return sorted(range(len(run.classes)), key=lambda place: (ap[place], place))
