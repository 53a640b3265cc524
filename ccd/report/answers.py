"""The questions a reader brings, answered in words: worst classes and why, what each step changed, what to review."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ccd.labels.debias import before_corrections
from ccd.report.doubt import Choice
from ccd.report.findings import (
    WORST,
    Finding,
    Point,
    count_of,
    inspect_image,
    known_images,
    least_certain,
    none_finding,
    shell_line,
    worst_classes,
)
from ccd.report.quality import Step, Tally, step
from ccd.report.run_data import Run


def verdict(run: Run) -> str:
    """The run in one sentence."""
    test = run.metrics["test"].mean_ap
    train = run.metrics["train"].mean_ap
    student = test.get("student")
    teacher = test.get("zero_shot")
    if student is not None and teacher is not None:
        gap = round(student, 1) - round(teacher, 1)
        side = f"{abs(gap):.1f} points {'above' if gap > 0 else 'below'}" if round(gap, 1) else "level with"
        reached = f"On the {known_images(run, 'test')} the student reaches {student:.1f} % mAP"
        return f"{reached}, {side} CLIP zero-shot, and needs no CLIP."
    before = train.get("zero_shot")
    after = train.get("aggregated_label")
    if before is not None and after is not None:
        made = f"On the {known_images(run, 'train')} the labels that are trained on have {after:.1f} % mAP"
        return f"{made}; CLIP's zero-shot probabilities have {before:.1f} %."
    return "No image has known labels: this page shows what was decided, not how right it is."


def findings(run: Run, doubts: Sequence[Choice] = (), name: str = "NAME") -> list[Finding]:
    """Worst classes (without ground truth: the least certain), what debiasing and local views changed, images without
    any class, the images to review first, of which the page shows ``doubts`` as ``review-0`` and so on, and how to use
    the classifier of data set ``name``."""
    made = run.made
    truth = run.train_truth
    debiasing = step(made["global_prob"], made["global_label"], truth)
    viewing = step(made["global_label"], before_corrections(made), truth)
    worst = worst_classes(run) or least_certain(run, step(made["global_label"], made["label"], truth))
    answers = [worst, _debiasing(run, debiasing), _local_views(run, viewing), none_finding(run)]
    return [*answers, _review(run, doubts), _use(run, name)]


def _debiasing(run: Run, made: Step) -> Finding:
    question = "What did debiasing change?"
    images = max(1, len(run.train))
    b = run.bias.bias
    repro = shell_line("dvc", "repro")
    if not run.bias.enabled:
        said = "Nothing: it is switched off, b is 1 for every class."
        return Finding(question, said, (), "To switch it on, set bias.enabled: true in params.yaml, then:", repro)
    low = int(b.argmin())
    high = int(b.argmax())
    spread = (
        f"CLIP is least sure of {run.classes[low]} (b = {b[low]:.2f}) and surest of {run.classes[high]}"
        f" ({b[high]:.2f}). Dividing by b takes that out of the targets; the order of images within a class, and so"
        " its AP, cannot change."
        f" Per training image, values of at least 0.5 went from {made.before.labels.sum() / images:.2f} (CLIP zero-shot"
        f" probability) to {made.after.labels.sum() / images:.2f} (global label)."
    )
    said = spread + _hits(made.added, "added") + _quality(run, made)
    then = "To compare, set bias.enabled: false in params.yaml, then:"
    return Finding(question, said, _most_changed(run, made), then, repro)


def _local_views(run: Run, made: Step) -> Finding:
    raised = made.added
    lowered = made.removed
    said = (
        f"They raised {count_of(raised.labels.sum(), 'label')} of training images to at least 0.5 and took"
        f" {lowered.labels.sum():,} below it."
        + _hits(raised, "raised")
        + _hits(lowered, "lowered")
        + _quality(run, made)
        + _gain(run)
    )
    then = "Classes whose views lie at one place:"
    command = shell_line("ccd", "inspect", "--box-overlap")
    return Finding("What did the local views add?", said, _most_changed(run, made), then, command)


def _review(run: Run, doubts: Sequence[Choice]) -> Finding:
    question = "Which images should I review first?"
    export = shell_line("ccd", "review", "export", "--top", "200")
    if not doubts:
        said = "None stands out: no two views disagree."
        return Finding(question, said, (), "To look at some all the same:", export)
    points = []
    for number, choice in enumerate(doubts[:WORST]):
        steps = (run.made[name][choice.row, choice.class_row] for name in ("global_label", "local_label", "label"))
        whole, best, label = map(float, steps)
        values = f"global label {whole:.2f}, local label {best:.2f}, label as trained on {label:.2f}"
        name = run.classes[choice.class_row]
        points.append(Point(run.train.ids[choice.row], f"{name}: {values}", f"review-{number}"))
    said = "Those where whole image and local views contradict each other most; a look at them teaches most."
    first = inspect_image(run.train.ids[doubts[0].row])
    then = "The story of the first, and then the most doubtful ones as a sheet to decide on:"
    return Finding(question, said, tuple(points), then, f"{first}\n{export}")


def _use(run: Run, name: str) -> Finding:
    reached = run.metrics["test"].mean_ap.get("student")
    known = "" if reached is None else f" On the {known_images(run, 'test')} it reaches {reached:.1f} % mAP."
    said = f"Label any images with it; it needs no CLIP, and knows the classes of this run alone.{known}"
    words = ("ccd", "predict", f"data/{name}/student.pt", "PHOTOS", "--out", "labels.csv")
    return Finding("How do I use the classifier?", said, (), "PHOTOS: files or folders.", shell_line(*words))


def _hits(changed: Tally, verb: str) -> str:
    known = changed.known.sum()
    if not known:
        return ""
    present = 100 * (changed.right.sum() / known)
    return f" Of the {known:,} {verb} ones whose truth is known, {present:.0f} % are really there."


def _quality(run: Run, made: Step) -> str:
    """Precision and recall of labels >= 0.5, before and after a step, where truth is known."""
    old = made.before.quality(made.positives)
    new = made.after.quality(made.positives)
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
        f" Their mAP went from {before:.1f} % (global label) to {after:.1f} % (aggregated label, as trained on); CLIP's"
        f" zero-shot probabilities have {plain:.1f} %."
    )


def _most_changed(run: Run, made: Step) -> tuple[Point, ...]:
    """The classes with most changed labels, and how many of those changes were right where that is known."""
    more = made.added.labels
    fewer = made.removed.labels
    up = made.added
    order = [int(place) for place in np.argsort(-(more + fewer), kind="stable")[:WORST]]
    points = []
    for place in order:
        if more[place] + fewer[place]:
            known = f" ({up.right[place]:,} of {up.known[place]:,} right)" if up.known[place] else ""
            points.append(Point(run.classes[place], f"{more[place]:,} more{known}, {fewer[place]:,} fewer"))
    return tuple(points)
