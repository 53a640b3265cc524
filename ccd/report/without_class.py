"""Images that show none of the classes: whether anybody looked for them, and how many get labels all the same."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ccd.labels.none_images import NOT_LOOKED_FOR
from ccd.report.choose import IMAGES_AT_ONCE, LABELLED
from ccd.report.finding import Finding, count_of, shell_line
from ccd.report.run import Run

QUESTION = "How many images show none of the classes?"
WAYS = (
    " What one can do: let a rule find them from CLIP's scores (global_labels.none_rule and none_threshold in"
    " params.yaml); give rule 'background' texts of what else the images show"
    " (text.background_texts); or review the images and say that nothing is there."
)


@dataclass(frozen=True)
class WithoutClass:
    """Of ``known`` images with ground truth, ``empty`` show none of the classes, of which ``labelled`` have a label."""

    known: int
    empty: int
    labelled: int


def without_class(truth: np.ndarray, labelled: Callable[[np.ndarray], np.ndarray]) -> WithoutClass:
    """Count the images that show none of the classes, and those of them that have a label all the same.

    Args:
        truth: (N, C) int8, 1, 0 or -1 (unknown); an image with an unknown class is not known to show none.
        labelled: rows (n,) -> (n,) bool, which of these images have at least one label.
    """
    known = int((truth >= 0).any(axis=1).sum())
    empty = np.flatnonzero((truth == 0).all(axis=1))
    parts = (empty[start : start + IMAGES_AT_ONCE] for start in range(0, len(empty), IMAGES_AT_ONCE))
    return WithoutClass(known, len(empty), sum(int(labelled(rows).sum()) for rows in parts))


def none_note(run: Run) -> str:
    """What a table or a list says of images without any class."""
    if run.none_images is None:
        return NOT_LOOKED_FOR
    found = count_of(run.none_images, "training image")
    return f"images without any class: {found} by global_labels.none_rule"


def none_finding(run: Run) -> Finding:
    """Without a rule: that nobody looked, and what one can do. Where ground truth is known, how many there are and how
    many of them have labels."""
    if run.none_images is None:
        said, then, command = (
            f"Not looked for (global_labels.none_rule: off). Such images get labels all the same.{_known(run)}{WAYS}",
            "The most doubtful images as a sheet to decide on:",
            shell_line("ccd", "review", "export", "--top", "200"),
        )
        return Finding(QUESTION, said, (), then, command)
    share = 100 * run.none_images / max(1, len(run.train))
    found = f"{count_of(run.none_images, 'training image')} ({share:.1f} %), found by their scores"
    said = f"{found}; see none_images.parquet.{_known(run)}"
    then = "After another global_labels.none_threshold in params.yaml:"
    return Finding(QUESTION, said, (), then, shell_line("dvc", "repro"))


def _known(run: Run) -> str:
    """What ground truth says of them; empty where it is unknown or knows none."""
    limits = np.asarray([run.per_class.get(name, {}).get("threshold", LABELLED) for name in run.classes])
    train = without_class(run.train_truth, lambda rows: (run.made["label"][rows] >= LABELLED).any(axis=1))
    test = without_class(run.test_truth, lambda rows: (run.tested["student_prob"][rows] >= limits).any(axis=1))
    yes = "there is a label of at least 0.5 all the same"
    return _counted(train, "training image", yes) + _counted(test, "test image", "the student says yes to a class")


def _counted(found: WithoutClass, what: str, yes: str) -> str:
    if not found.known:
        return ""
    said = f" Of the {count_of(found.known, what)} with ground truth, {found.empty:,} show none of the classes"
    return f"{said}; on {found.labelled:,} of these {found.empty:,} {yes}." if found.empty else f"{said}."
