"""The findings of the report, their figures, and the findings on weak classes and on background images."""

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
    """A remark on one class or image: its ``name``, the ``text``, and the page's element ``anchor`` to link to."""

    name: str
    text: str
    anchor: str = ""


@dataclass(frozen=True)
class Finding:
    """A question, its answer in a sentence, and points about single classes or images.

    ``command``: a shell line to go on with; ``then``: the purpose of the command.
    """

    question: str
    answer: str
    points: tuple[Point, ...]
    then: str
    command: str


def shell_line(*arguments: str) -> str:
    """Return the arguments as one line to paste into a shell, quoted where needed."""
    return shlex.join(arguments)


def inspect_class(name: str) -> str:
    """Return the shell line that lists the images on which the labels of a class are worst."""
    return shell_line("ccd", "inspect", "--class", name, "--worst", "20")


def inspect_image(image_id: str) -> str:
    """Return the shell line that shows how one image got its labels."""
    end_of_options = ["--"] if image_id.startswith("-") else []
    return shell_line("ccd", "inspect", *end_of_options, image_id)


def count_of(number: int, noun: str) -> str:
    """Return the number with its noun: ``1 image``, ``1,200 images``."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def known_images(run: Run, split: str) -> str:
    """Return the base of a figure that needs ground truth: ``500 test images with ground truth``."""
    kind = "training" if split == "train" else "test"
    return f"{count_of(run.metrics[split].images, f'{kind} image')} with ground truth"


WORST = 5


def worst_classes(run: Run) -> Finding | None:
    """Return the classes with the lowest AP; None where no AP is known.

    The AP is that of the student on the test images if those have labels, else that of the training labels. A class
    with too few positives to count in the mean is named only where there is no other.
    """
    split, table, means = (
        ("test", "test_student", "the student's AP")
        if run.metrics["test"].images
        else ("train", "train_aggregated_label", "the AP of the labels as trained on,")
    )
    ap = {name: row[table] for name, row in run.per_class.items() if table in row}
    if not run.metrics[split].images or not ap:
        return None
    left_out = uncounted(run.metrics[split], run.per_class, split)
    row_of = {name: row for row, name in enumerate(run.classes)}
    counted = [name for name in ap if name not in left_out] or list(ap)
    worst = sorted(counted, key=lambda name: (ap[name], row_of[name]))[:WORST]
    points = tuple(Point(name, f"AP {ap[name]:.1f} %: {_reasons(run, name)}") for name in worst)
    answer = f"By {means} on the {known_images(run, split)}, from the lowest:"
    then = "The images on which the labels of the first are worst:"
    command = inspect_class(worst[0])
    return Finding("Which classes are worst, and why?", answer, points, then, command)


def least_certain(run: Run, viewing: Step) -> Finding:
    """Return the classes with the largest share of labels that a local view gives and the whole image does not."""
    labels = viewing.after.labels
    local_only = viewing.added.labels
    share = local_only / np.maximum(labels, 1)
    order = sorted(
        np.flatnonzero(local_only).tolist(),
        key=lambda class_row: (-share[class_row], -local_only[class_row], class_row),
    )[:WORST]
    points = [
        Point(
            run.classes[class_row],
            f"{local_only[class_row]:,} of its {count_of(labels[class_row], 'label')} come from a local view alone",
        )
        for class_row in order
    ]
    unlabelled = np.flatnonzero(labels == 0)
    missing = (
        f" No image at all has a label for {listed(run.classes[class_row] for class_row in unlabelled)}."
        if len(unlabelled)
        else ""
    )
    intro = "Without ground truth nobody knows which are worst; these are the least certain." if points else ""
    class_name = points[0].name if points else run.classes[int(unlabelled[0]) if len(unlabelled) else 0]
    question = "Which classes are least certain, and why?"
    answer = (intro + missing).strip() or "None stands out."
    then = f"The images on which the steps disagree most about {class_name}:"
    return Finding(question, answer, tuple(points), then, inspect_class(class_name))


def _reasons(run: Run, name: str) -> str:
    """Return why a class is weak, from the training images: at most two reasons, the most basic first."""
    class_row = run.classes.index(name)
    row = run.per_class[name]
    truth = run.train_truth[:, class_row]
    labelled = run.pseudo_labels["label"][:, class_row] >= LABELLED
    train = quality(labelled, truth)
    reasons = []
    if (truth >= 0).any() and train.positives == 0:
        reasons.append("no training image with ground truth shows it")
    elif 0 < train.positives < 10:
        shows = "shows" if train.positives == 1 else "show"
        reasons.append(f"only {count_of(train.positives, 'training image')} with ground truth {shows} it")
    if train.positives and train.right < 0.5 * train.positives:
        missed = f"its labels miss {train.positives - train.right} of the {train.positives} that show it"
        reasons.append(missed + _instead(run, truth == 1, class_row))
    if train.labelled and train.right < 0.5 * train.labelled:
        reasons.append(f"of the {train.labelled} that have its label only {train.right} show it")
    if row.get("test_zero_shot", 100.0) < 50:
        reasons.append(f"CLIP itself ranks it badly (zero-shot AP {row['test_zero_shot']:.1f} %)")
    elif not reasons:
        summary = f"its labels find {train.right} of {train.positives}, and {train.right} of {train.labelled} are right"
        reasons.append(f"{summary}; yet the student has not learnt it" if train.positives else "CLIP ranks it well")
    return "; ".join(reasons[:2])


def _instead(run: Run, images: np.ndarray, class_row: int) -> str:
    """Return the class that CLIP puts first on most of these ``images``, if it is another one."""
    first = np.bincount(run.pseudo_labels["global_prob"][images].argmax(axis=1), minlength=len(run.classes))
    first[class_row] = 0
    return f" (there CLIP mostly says {run.classes[int(first.argmax())]})" if first.max() > 1 else ""


QUESTION = "How many images show none of the classes?"
ADVICE = (
    " What one can do: let a rule find them from CLIP's scores (global_labels.none_rule and none_threshold in"
    " params.yaml); give rule 'background' texts of what else the images show"
    " (text.background_texts); or review the images and say that nothing is there."
)


@dataclass(frozen=True)
class BackgroundCount:
    """Of ``known`` images with ground truth, ``empty`` are background images; ``labelled`` of these have a label."""

    known: int
    empty: int
    labelled: int


def count_background(truth: np.ndarray, labelled: Callable[[np.ndarray], np.ndarray]) -> BackgroundCount:
    """Count the background images, which show none of the classes, and those of them that have a label.

    Args:
        truth: (N, C) int8, 1, 0 or -1 (unknown); an image with an unknown class is not known to show none.
        labelled: takes rows (n,) and returns (n,) bool: whether the image has at least one label.
    """
    known = int((truth >= 0).any(axis=1).sum())
    empty = np.flatnonzero((truth == 0).all(axis=1))
    parts = (empty[start : start + IMAGES_AT_ONCE] for start in range(0, len(empty), IMAGES_AT_ONCE))
    return BackgroundCount(known, len(empty), sum(int(labelled(rows).sum()) for rows in parts))


def background_note(run: Run) -> str:
    """Return the note on background images for a table or a list."""
    if run.none_images is None:
        return NOT_LOOKED_FOR
    images = count_of(run.none_images, "training image")
    return f"images without any class: {images} by global_labels.none_rule"


def background_finding(run: Run) -> Finding:
    """Return the number of background images by the rule; without a rule, the advice to set one.

    Where ground truth is known, the true number and how many of them have labels are added.
    """
    if run.none_images is None:
        consequence = "Such images get labels all the same."
        if run.text.background_in_softmax:
            consequence = "Background words share every softmax, so such images keep fewer labels."
        answer = f"Not looked for (global_labels.none_rule: off). {consequence}{_known(run)}{ADVICE}"
        then = "The most doubtful images as a sheet to decide on:"
        command = shell_line("ccd", "review", "export", "--top", "200")
        return Finding(QUESTION, answer, (), then, command)
    share = 100 * run.none_images / max(1, len(run.train))
    images = f"{count_of(run.none_images, 'training image')} ({share:.1f} %), found by their scores"
    answer = f"{images}; see none_images.parquet.{_known(run)}"
    then = "After another global_labels.none_threshold in params.yaml:"
    return Finding(QUESTION, answer, (), then, shell_line("dvc", "repro"))


def _known(run: Run) -> str:
    """Return the number of background images by ground truth; empty where no truth is known."""
    limits = np.asarray([run.per_class.get(name, {}).get("threshold", LABELLED) for name in run.classes])
    train = count_background(run.train_truth, lambda rows: (run.pseudo_labels["label"][rows] >= LABELLED).any(axis=1))
    test = count_background(run.test_truth, lambda rows: (run.predictions["student_prob"][rows] >= limits).any(axis=1))
    consequence = "there is a label of at least 0.5 all the same"
    return _counted(train, "training image", consequence) + _counted(
        test, "test image", "the student says yes to a class"
    )


def _counted(images: BackgroundCount, noun: str, consequence: str) -> str:
    if not images.known:
        return ""
    text = f" Of the {count_of(images.known, noun)} with ground truth, {images.empty:,} show none of the classes"
    return f"{text}; on {images.labelled:,} of these {images.empty:,} {consequence}." if images.empty else f"{text}."
