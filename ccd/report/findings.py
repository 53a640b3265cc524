"""The questions a reader brings, answered in words: worst classes and why, what each step changed, what to review."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ccd.artifacts.measured import uncounted
from ccd.errors import listed
from ccd.labels.corrections import before_corrections
from ccd.report.choose import LABELLED, Choice
from ccd.report.quality import Step, Tally, quality, step
from ccd.report.run import Run

WORST = 5


@dataclass(frozen=True)
class Point:
    """What a point is about (a class, or the page's element ``anchor``), and what is said of it."""

    name: str
    text: str
    anchor: str = ""


@dataclass(frozen=True)
class Finding:
    """A question, the answer in a sentence, and points about single classes or images."""

    question: str
    answer: str
    points: tuple[Point, ...]


def verdict(run: Run) -> str:
    """The run in one sentence."""
    test, train = run.metrics["test"].mean_ap, run.metrics["train"].mean_ap
    student, teacher = test.get("student"), test.get("zero_shot")
    if student is not None and teacher is not None:
        gap = round(student, 1) - round(teacher, 1)
        side = f"{abs(gap):.1f} points {'above' if gap > 0 else 'below'}" if round(gap, 1) else "level with"
        return f"On the test images the student reaches {student:.1f} % mAP, {side} CLIP itself, and needs no CLIP."
    before, after = train.get("zero_shot"), train.get("aggregated_raw")
    if before is not None and after is not None:
        return f"The labels of the training images have {after:.1f} % mAP; CLIP's first look had {before:.1f} %."
    return "No image has known labels: this page shows what was decided, not how right it is."


def findings(run: Run, doubts: Sequence[Choice] = ()) -> list[Finding]:
    """Worst classes (without ground truth: the least certain), what debiasing and local views changed, and the images
    to review first, of which the page shows ``doubts`` as ``review-0`` and so on."""
    made, truth = run.made, run.train_truth
    debiasing = step(made["global_prob"], made["global_label"], truth)
    viewing = step(made["global_label"], before_corrections(made), truth)
    worst = _worst_classes(run) or _least_certain(run, step(made["global_label"], made["label"], truth))
    return [worst, _debiasing(run, debiasing), _local_views(run, viewing), *_none_images(run), _review(run, doubts)]


def _debiasing(run: Run, made: Step) -> Finding:
    question, images, b = "What did debiasing change?", max(1, len(run.train)), run.bias.bias
    if not run.bias.enabled:
        return Finding(question, "Nothing: it is switched off, b is 1 for every class.", ())
    low, high = int(b.argmin()), int(b.argmax())
    spread = (
        f"CLIP is least sure of {run.classes[low]} (b = {b[low]:.2f}) and surest of {run.classes[high]}"
        f" ({b[high]:.2f}). Dividing by b takes that out of the targets; the order of images within a class, and so"
        " its AP, cannot change."
        f" Labels of at least 0.5 went from {made.before.labels.sum() / images:.2f} to"
        f" {made.after.labels.sum() / images:.2f} per image."
    )
    return Finding(question, spread + _hits(made.added, "added") + _quality(made), _most_changed(run, made))


def _local_views(run: Run, made: Step) -> Finding:
    raised, lowered = made.added, made.removed
    said = (
        f"They raised {_count(raised.labels.sum(), 'label')} above 0.5 and took {lowered.labels.sum():,} below it."
        + _hits(raised, "raised")
        + _hits(lowered, "lowered")
        + _quality(made)
        + _gain(run)
    )
    return Finding("What did the local views add?", said, _most_changed(run, made))


def _none_images(run: Run) -> list[Finding]:
    if run.none_images is None:
        return []
    share = 100 * run.none_images / max(1, len(run.train))
    said = (
        f"{_count(run.none_images, 'training image')} ({share:.1f} %), found by their scores; see none_images.parquet."
    )
    return [Finding("How many images show none of the classes?", said, ())]


def _review(run: Run, doubts: Sequence[Choice]) -> Finding:
    if not doubts:
        return Finding("Which images should I review first?", "None stands out: no two views disagree.", ())
    points = []
    for number, choice in enumerate(doubts[:WORST]):
        steps = (run.made[name][choice.row, choice.class_row] for name in ("global_label", "local_label", "label"))
        whole, best, label = (min(float(value), 1.0) for value in steps)
        values = f"whole image {whole:.2f}, best view {best:.2f}, label {label:.2f}"
        name = run.classes[choice.class_row]
        points.append(Point(run.train.ids[choice.row], f"{name}: {values}", f"review-{number}"))
    return Finding(
        "Which images should I review first?",
        "Those where whole image and local views contradict each other most; a look at them teaches most.",
        tuple(points),
    )


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def _hits(changed: Tally, verb: str) -> str:
    known = changed.known.sum()
    if not known:
        return ""
    present = 100 * (changed.right.sum() / known)
    return f" Of the {verb} ones, {present:.0f} % are really there."


def _quality(made: Step) -> str:
    """Precision and recall of labels >= 0.5, before and after a step, where truth is known."""
    old, new = made.before.quality(made.positives), made.after.quality(made.positives)
    if old.precision is None or new.precision is None or old.recall is None or new.recall is None:
        return ""
    return (
        f" Of all labels of at least 0.5, {new.precision:.0f} % are right (before: {old.precision:.0f} %);"
        f" they find {new.recall:.0f} % of what is there (before: {old.recall:.0f} %)."
    )


def _gain(run: Run) -> str:
    means = run.metrics["train"].mean_ap
    before, after = means.get("zero_shot"), means.get("aggregated_raw")
    if before is None or after is None:
        return ""
    return f" The mAP of the training labels went from {before:.1f} to {after:.1f} %."


def _most_changed(run: Run, made: Step) -> tuple[Point, ...]:
    """The classes with most changed labels, and how many of those changes were right where that is known."""
    more, fewer, up = made.added.labels, made.removed.labels, made.added
    order = [int(place) for place in np.argsort(-(more + fewer), kind="stable")[:WORST]]
    points = []
    for place in order:
        if more[place] + fewer[place]:
            known = f" ({up.right[place]:,} of {up.known[place]:,} right)" if up.known[place] else ""
            points.append(Point(run.classes[place], f"{more[place]:,} more{known}, {fewer[place]:,} fewer"))
    return tuple(points)


def _worst_classes(run: Run) -> Finding | None:
    """The classes with the lowest AP, on the test images if those have labels, else of the training labels. A class
    that no mean counts, for lack of positives, is named only where there is no other."""
    split, table, means = (
        ("test", "test_student", "the student's AP on the test images")
        if run.metrics["test"].images
        else ("train", "train_aggregated_raw", "the AP of the training labels")
    )
    known = {name: row[table] for name, row in run.per_class.items() if table in row}
    if not run.metrics[split].images or not known:
        return None
    left_out = uncounted(run.metrics[split], run.per_class, split)
    place = {name: row for row, name in enumerate(run.classes)}
    counted = [name for name in known if name not in left_out] or list(known)
    worst = sorted(counted, key=lambda name: (known[name], place[name]))[:WORST]
    points = tuple(Point(name, f"AP {known[name]:.1f} %: {_reasons(run, name)}") for name in worst)
    return Finding("Which classes are worst, and why?", f"By {means}, from the lowest:", points)


def _least_certain(run: Run, viewing: Step) -> Finding:
    """The classes whose labels rest most on local views that the whole image does not support."""
    labels, alone = viewing.after.labels, viewing.added.labels
    share = alone / np.maximum(labels, 1)
    order = sorted(np.flatnonzero(alone).tolist(), key=lambda place: (-share[place], -alone[place], place))[:WORST]
    points = [
        Point(
            run.classes[place], f"{alone[place]:,} of its {_count(labels[place], 'label')} come from a local view alone"
        )
        for place in order
    ]
    never = np.flatnonzero(labels == 0)
    none = f" No image at all has a label for {listed(run.classes[place] for place in never)}." if len(never) else ""
    said = "Without ground truth nobody knows which are worst; these are the least certain." if points else ""
    return Finding(
        "Which classes are least certain, and why?", (said + none).strip() or "None stands out.", tuple(points)
    )


def _reasons(run: Run, name: str) -> str:
    """What the training images say about a weak class, at most two reasons, the most basic first."""
    place, row = run.classes.index(name), run.per_class[name]
    truth, labelled = run.train_truth[:, place], run.made["label"][:, place] >= LABELLED
    found = quality(labelled, truth)
    reasons = []
    if (truth >= 0).any() and found.positives == 0:
        reasons.append("no training image shows it")
    elif 0 < found.positives < 10:
        shows = "shows" if found.positives == 1 else "show"
        reasons.append(f"only {_count(found.positives, 'training image')} {shows} it")
    if found.positives and found.right < 0.5 * found.positives:
        missed = f"its labels miss {found.positives - found.right} of {found.positives}"
        reasons.append(missed + _instead(run, truth == 1, place))
    if found.labelled and found.right < 0.5 * found.labelled:
        reasons.append(f"only {found.right} of the {found.labelled} images labelled with it show it")
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
