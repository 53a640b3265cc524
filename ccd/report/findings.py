"""A finding of the report and its figures, and those on weak classes and on images without any class."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ccd.artifacts.metrics_file import uncounted
from ccd.errors import listed
from ccd.labels.background import NOT_LOOKED_FOR
from ccd.labels.thresholds import LABELLED
from ccd.report.doubt import IMAGES_AT_ONCE
from ccd.report.quality import Step, quality
from ccd.report.run_data import Run


@dataclass(frozen=True)
class Point:
    """What a point is about (a class, or the page's element ``anchor``), and what is said of it."""

    name: str
    text: str
    anchor: str = ""


@dataclass(frozen=True)
class Finding:
    """A question, the answer in a sentence, points about single classes or images, and how to go on: ``then`` says
    what the shell's line ``command`` is for."""

    question: str
    answer: str
    points: tuple[Point, ...]
    then: str
    command: str


def shell_line(*words: str) -> str:
    """The words as one line to paste into a shell, quoted where they need it."""
    return shlex.join(words)


def inspect_class(name: str) -> str:
    """The line that lists the images on which the labels of a class are worst."""
    return shell_line("ccd", "inspect", "--class", name, "--worst", "20")


def inspect_image(image_id: str) -> str:
    """The line that tells how one image got its labels."""
    end_of_options = ["--"] if image_id.startswith("-") else []
    return shell_line("ccd", "inspect", *end_of_options, image_id)


def count_of(number: int, what: str) -> str:
    """``1 image``, ``1,200 images``."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def known_images(run: Run, split: str) -> str:
    """The base of a figure that needs ground truth: ``500 test images with ground truth``."""
    kind = "training" if split == "train" else "test"
    return f"{count_of(run.metrics[split].images, f'{kind} image')} with ground truth"


WORST = 5


def worst_classes(run: Run) -> Finding | None:
    """The classes with the lowest AP, on the test images if those have labels, else of the training labels. A class
    that no mean counts, for lack of positives, is named only where there is no other."""
    split, table, means = (
        ("test", "test_student", "the student's AP")
        if run.metrics["test"].images
        else ("train", "train_aggregated_label", "the AP of the labels as trained on,")
    )
    known = {name: row[table] for name, row in run.per_class.items() if table in row}
    if not run.metrics[split].images or not known:
        return None
    left_out = uncounted(run.metrics[split], run.per_class, split)
    place = {name: row for row, name in enumerate(run.classes)}
    counted = [name for name in known if name not in left_out] or list(known)
    worst = sorted(counted, key=lambda name: (known[name], place[name]))[:WORST]
    points = tuple(Point(name, f"AP {known[name]:.1f} %: {_reasons(run, name)}") for name in worst)
    said = f"By {means} on the {known_images(run, split)}, from the lowest:"
    then = "The images on which the labels of the first are worst:"
    command = inspect_class(worst[0])
    return Finding("Which classes are worst, and why?", said, points, then, command)


def least_certain(run: Run, viewing: Step) -> Finding:
    """The classes whose labels rest most on local views that the whole image does not support."""
    labels = viewing.after.labels
    alone = viewing.added.labels
    share = alone / np.maximum(labels, 1)
    order = sorted(np.flatnonzero(alone).tolist(), key=lambda place: (-share[place], -alone[place], place))[:WORST]
    points = [
        Point(
            run.classes[place],
            f"{alone[place]:,} of its {count_of(labels[place], 'label')} come from a local view alone",
        )
        for place in order
    ]
    never = np.flatnonzero(labels == 0)
    none = f" No image at all has a label for {listed(run.classes[place] for place in never)}." if len(never) else ""
    said = "Without ground truth nobody knows which are worst; these are the least certain." if points else ""
    asked = points[0].name if points else run.classes[int(never[0]) if len(never) else 0]
    question = "Which classes are least certain, and why?"
    answer = (said + none).strip() or "None stands out."
    then = f"The images on which the steps disagree most about {asked}:"
    return Finding(question, answer, tuple(points), then, inspect_class(asked))


def _reasons(run: Run, name: str) -> str:
    """What the training images say about a weak class, at most two reasons, the most basic first."""
    place = run.classes.index(name)
    row = run.per_class[name]
    truth = run.train_truth[:, place]
    labelled = run.made["label"][:, place] >= LABELLED
    found = quality(labelled, truth)
    reasons = []
    if (truth >= 0).any() and found.positives == 0:
        reasons.append("no training image with ground truth shows it")
    elif 0 < found.positives < 10:
        shows = "shows" if found.positives == 1 else "show"
        reasons.append(f"only {count_of(found.positives, 'training image')} with ground truth {shows} it")
    if found.positives and found.right < 0.5 * found.positives:
        missed = f"its labels miss {found.positives - found.right} of the {found.positives} that show it"
        reasons.append(missed + _instead(run, truth == 1, place))
    if found.labelled and found.right < 0.5 * found.labelled:
        reasons.append(f"of the {found.labelled} that have its label only {found.right} show it")
    if row.get("test_zero_shot", 100.0) < 50:
        reasons.append(f"CLIP itself ranks it badly (zero-shot AP {row['test_zero_shot']:.1f} %)")
    elif not reasons:
        learnt = f"its labels find {found.right} of {found.positives}, and {found.right} of {found.labelled} are right"
        reasons.append(f"{learnt}; yet the student has not learnt it" if found.positives else "CLIP ranks it well")
    return "; ".join(reasons[:2])


def _instead(run: Run, images: np.ndarray, place: int) -> str:
    """What CLIP puts first on those images, if it is not the class itself."""
    first = np.bincount(run.made["global_prob"][images].argmax(axis=1), minlength=len(run.classes))
    first[place] = 0
    return f" (there CLIP mostly says {run.classes[int(first.argmax())]})" if first.max() > 1 else ""


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
        said = f"Not looked for (global_labels.none_rule: off). Such images get labels all the same.{_known(run)}{WAYS}"
        then = "The most doubtful images as a sheet to decide on:"
        command = shell_line("ccd", "review", "export", "--top", "200")
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
