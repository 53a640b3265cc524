"""Answers to a reader's questions: worst classes and why, the changes of each step, the images to review."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ccd.labels.debias import before_corrections
from ccd.report.doubt import Choice
from ccd.report.findings import (
    WORST,
    Finding,
    Point,
    background_finding,
    count_of,
    inspect_image,
    known_images,
    least_certain,
    shell_line,
    worst_classes,
)
from ccd.report.quality import Step, Tally, step
from ccd.report.run_data import Run


def verdict(run: Run) -> str:
    """Return the result of the run in one sentence."""
    test = run.metrics["test"].mean_ap
    train = run.metrics["train"].mean_ap
    student = test.get("student")
    teacher = test.get("zero_shot")
    if student is not None and teacher is not None:
        gain = round(student, 1) - round(teacher, 1)
        comparison = f"{abs(gain):.1f} points {'above' if gain > 0 else 'below'}" if round(gain, 1) else "level with"
        result = f"On the {known_images(run, 'test')} the student reaches {student:.1f} % mAP"
        return f"{result}, {comparison} CLIP zero-shot, and needs no CLIP."
    before = train.get("zero_shot")
    after = train.get("aggregated_label")
    if before is not None and after is not None:
        labels = f"On the {known_images(run, 'train')} the labels that are trained on have {after:.1f} % mAP"
        return f"{labels}; {run.scores_name} have {before:.1f} %."
    return "No image has known labels: this page shows what was decided, not how right it is."


def findings(run: Run, doubts: Sequence[Choice] = (), name: str = "NAME") -> list[Finding]:
    """Return the report's findings.

    They are: the worst classes (without ground truth: the least certain), the changes by debiasing and by local views,
    background images, the images to review first, and how to use the classifier.

    Args:
        doubts: the images to review, which the page shows as ``review-0`` and so on.
        name: of the data set.
    """
    pseudo_labels = run.pseudo_labels
    truth = run.train_truth
    debiasing = step(pseudo_labels["global_prob"], pseudo_labels["global_label"], truth)
    viewing = step(pseudo_labels["global_label"], before_corrections(pseudo_labels), truth)
    worst = worst_classes(run) or least_certain(run, step(pseudo_labels["global_label"], pseudo_labels["label"], truth))
    answers = [worst, _debiasing(run, debiasing), _local_views(run, viewing), background_finding(run)]
    return [*answers, _review(run, doubts), _use(run, name)]


def _debiasing(run: Run, change: Step) -> Finding:
    question = "What did debiasing change?"
    images = max(1, len(run.train))
    b = run.bias.bias
    repro = shell_line("dvc", "repro")
    if not run.bias.enabled:
        answer = "Nothing: it is switched off, b is 1 for every class."
        return Finding(question, answer, (), "To switch it on, set bias.enabled: true in params.yaml, then:", repro)
    least = int(b.argmin())
    most = int(b.argmax())
    bias_text = (
        f"CLIP is least sure of {run.classes[least]} (b = {b[least]:.2f}) and surest of {run.classes[most]}"
        f" ({b[most]:.2f}). Dividing by b takes that out of the targets; the order of images within a class, and so"
        " its AP, cannot change."
        f" Per training image, values of at least 0.5 went from {change.before.labels.sum() / images:.2f}"
        f" ({run.score_name}) to {change.after.labels.sum() / images:.2f} (global label)."
    )
    answer = bias_text + _hits(change.added, "added") + _quality(run, change)
    then = "To compare, set bias.enabled: false in params.yaml, then:"
    return Finding(question, answer, _most_changed(run, change), then, repro)


def _local_views(run: Run, change: Step) -> Finding:
    raised = change.added
    lowered = change.removed
    answer = (
        f"They raised {count_of(raised.labels.sum(), 'label')} of training images to at least 0.5 and took"
        f" {lowered.labels.sum():,} below it."
        + _hits(raised, "raised")
        + _hits(lowered, "lowered")
        + _quality(run, change)
        + _gain(run)
    )
    then = "Classes whose views lie at one place:"
    command = shell_line("ccd", "inspect", "--box-overlap")
    return Finding("What did the local views add?", answer, _most_changed(run, change), then, command)


def _review(run: Run, doubts: Sequence[Choice]) -> Finding:
    question = "Which images should I review first?"
    export = shell_line("ccd", "review", "export", "--top", "200")
    if not doubts:
        answer = "None stands out: no two views disagree."
        return Finding(question, answer, (), "To look at some all the same:", export)
    points = []
    for number, choice in enumerate(doubts[:WORST]):
        steps = (
            run.pseudo_labels[name][choice.row, choice.class_row] for name in ("global_label", "local_label", "label")
        )
        global_label, local_label, label = map(float, steps)
        values = f"global label {global_label:.2f}, local label {local_label:.2f}, label as trained on {label:.2f}"
        name = run.classes[choice.class_row]
        points.append(Point(run.train.ids[choice.row], f"{name}: {values}", f"review-{number}"))
    answer = "Those where whole image and local views contradict each other most; a look at them teaches most."
    inspect = inspect_image(run.train.ids[doubts[0].row])
    then = "The story of the first, and then the most doubtful ones as a sheet to decide on:"
    return Finding(question, answer, tuple(points), then, f"{inspect}\n{export}")


def _use(run: Run, name: str) -> Finding:
    student_map = run.metrics["test"].mean_ap.get("student")
    measured = "" if student_map is None else f" On the {known_images(run, 'test')} it reaches {student_map:.1f} % mAP."
    answer = f"Label any images with it; it needs no CLIP, and knows the classes of this run alone.{measured}"
    answer += _with_clip(run, name)
    arguments = ("ccd", "predict", f"data/{name}/student.pt", "PHOTOS", "--out", "labels.csv")
    return Finding("How do I use the classifier?", answer, (), "PHOTOS: files or folders.", shell_line(*arguments))


def _with_clip(run: Run, name: str) -> str:
    """Return a sentence where the head on CLIP's features, or CLIP itself, beats the student on test images."""
    means = run.metrics["test"].mean_ap
    student, head, plain = (means.get(table) for table in ("student", "head", "zero_shot"))
    if student is None or head is None or plain is None:
        return ""
    if round(plain, 1) > round(max(student, head), 1):
        return (
            f" There CLIP zero-shot is better than student and head on CLIP's features ({plain:.1f} against"
            f" {student:.1f} and {head:.1f} % mAP): for such images asking CLIP itself is better."
        )
    if round(head, 1) <= round(student, 1):
        return ""
    command = shell_line("ccd", "predict", f"data/{name}/head.h5", "PHOTOS", "--out", "labels.csv")
    return (
        f" There the head on CLIP's features is better than the student ({head:.1f} against {student:.1f} % mAP): if"
        f" you may keep CLIP at inference, use it: {command}"
    )


def _hits(labels: Tally, verb: str) -> str:
    known_count = labels.known.sum()
    if not known_count:
        return ""
    percent = 100 * (labels.right.sum() / known_count)
    return f" Of the {known_count:,} {verb} ones whose truth is known, {percent:.0f} % are really there."


def _quality(run: Run, change: Step) -> str:
    """Return precision and recall of labels >= 0.5, before and after a step, where truth is known."""
    old = change.before.quality(change.positives)
    new = change.after.quality(change.positives)
    if old.precision is None or new.precision is None or old.recall is None or new.recall is None:
        return ""
    return (
        f" Of all labels of at least 0.5 on the {known_images(run, 'train')},"
        f" {new.precision:.0f} % are right (before: {old.precision:.0f} %);"
        f" they find {new.recall:.0f} % of what is there (before: {old.recall:.0f} %)."
    )


def _gain(run: Run) -> str:
    means = run.metrics["train"].mean_ap
    before, after, plain = (means.get(name) for name in ("global_label", "aggregated_label", "zero_shot"))
    if before is None or after is None or plain is None:
        return ""
    return (
        f" Their mAP went from {before:.1f} % (global label) to {after:.1f} % (aggregated label, as trained on);"
        f" {run.scores_name} have {plain:.1f} %."
    )


def _most_changed(run: Run, change: Step) -> tuple[Point, ...]:
    """Return the classes with most changed labels, and how many of these changes were right where truth is known."""
    raised = change.added.labels
    lowered = change.removed.labels
    added = change.added
    order = [int(class_row) for class_row in np.argsort(-(raised + lowered), kind="stable")[:WORST]]
    points = []
    for class_row in order:
        if raised[class_row] + lowered[class_row]:
            right = (
                f" ({added.right[class_row]:,} of {added.known[class_row]:,} right)" if added.known[class_row] else ""
            )
            points.append(
                Point(run.classes[class_row], f"{raised[class_row]:,} more{right}, {lowered[class_row]:,} fewer")
            )
    return tuple(points)
