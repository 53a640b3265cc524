"""The questions a reader brings, answered in words: worst classes and why, what each step changed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ccd.report.choose import LABELLED
from ccd.report.run import Run

WORST = 5


@dataclass(frozen=True)
class Point:
    """A class and what is said of it."""

    name: str
    text: str


@dataclass(frozen=True)
class Finding:
    """A question, the answer in a sentence, and points about single classes."""

    question: str
    answer: str
    points: tuple[Point, ...]


def findings(run: Run) -> list[Finding]:
    """Worst classes (with ground truth only), what debiasing changed, what local views changed."""
    raw, debiased, final = (run.made[name] >= LABELLED for name in ("global_prob", "global_label", "label"))
    images = len(run.train)
    debias = (
        f"Labels of at least 0.5 went from {raw.sum() / images:.2f} to {debiased.sum() / images:.2f} per image."
        + _hits(run, debiased & ~raw, "added")
        + (" Debiasing is switched off: b is 1 for every class." if not run.bias.enabled else "")
    )
    views = (
        f"They raised {_count((final & ~debiased).sum(), 'label')} above 0.5"
        f" and took {(debiased & ~final).sum():,} below it."
        + _hits(run, final & ~debiased, "raised")
        + _hits(run, debiased & ~final, "lowered")
        + _gain(run)
    )
    asked = [
        Finding("What did debiasing change?", debias, _most_changed(run, debiased & ~raw, raw & ~debiased)),
        Finding("What did the local views change?", views, _most_changed(run, final & ~debiased, debiased & ~final)),
    ]
    worst = _worst_classes(run, final)
    return [worst, *asked] if worst else asked


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def _hits(run: Run, changed: np.ndarray, verb: str) -> str:
    known = changed & (run.train_truth >= 0)
    if not known.any():
        return ""
    present = (run.train_truth[known] == 1).mean()
    return f" Of the {verb} ones, {present:.0%} are really there."


def _gain(run: Run) -> str:
    means = run.metrics["train"].mean_ap
    before, after = means.get("zero_shot"), means.get("aggregated_raw")
    if before is None or after is None:
        return ""
    return f" The mAP of the training labels went from {before:.1f} to {after:.1f} %."


def _most_changed(run: Run, up: np.ndarray, down: np.ndarray) -> tuple[Point, ...]:
    more, fewer = up.sum(axis=0), down.sum(axis=0)
    order = [int(place) for place in np.argsort(-(more + fewer), kind="stable")[:WORST]]
    return tuple(
        Point(run.classes[place], f"{more[place]:,} more, {fewer[place]:,} fewer")
        for place in order
        if more[place] + fewer[place]
    )


def _worst_classes(run: Run, final: np.ndarray) -> Finding | None:
    """The classes with the lowest AP, on the test images if those have labels, else of the training labels."""
    split, table, means = (
        ("test", "test_student", "the student's AP on the test images")
        if run.metrics["test"].images
        else ("train", "train_aggregated_raw", "the AP of the training labels")
    )
    known = {name: row[table] for name, row in run.per_class.items() if table in row}
    if not run.metrics[split].images or not known:
        return None
    worst = sorted(known, key=lambda name: (known[name], run.classes.index(name)))[:WORST]
    points = tuple(Point(name, f"AP {known[name]:.1f} %: {_reasons(run, name, final)}") for name in worst)
    return Finding("Which classes are worst, and why?", f"By {means}, from the lowest:", points)


def _reasons(run: Run, name: str, final: np.ndarray) -> str:
    """What the training images say about a weak class, at most two reasons, the most basic first."""
    place, row = run.classes.index(name), run.per_class[name]
    truth, labelled = run.train_truth[:, place], final[:, place]
    positives, right = int((truth == 1).sum()), int((labelled & (truth == 1)).sum())
    known_labelled = int((labelled & (truth >= 0)).sum())
    reasons = []
    if (truth >= 0).any() and positives == 0:
        reasons.append("no training image shows it")
    elif 0 < positives < 10:
        reasons.append(f"only {_count(positives, 'training image')} {'shows' if positives == 1 else 'show'} it")
    if positives and right < 0.5 * positives:
        reasons.append(f"its labels miss {positives - right} of {positives}{_instead(run, truth == 1, place)}")
    if known_labelled and right < 0.5 * known_labelled:
        reasons.append(f"only {right} of the {known_labelled} images labelled with it show it")
    if row.get("test_zero_shot", 100.0) < 50:
        reasons.append(f"CLIP itself ranks it badly (zero-shot AP {row['test_zero_shot']:.1f} %)")
    elif not reasons:
        found = f"its labels find {right} of {positives}, and {right} of {known_labelled} are right"
        reasons.append(f"{found}; yet the student has not learnt it" if positives else "CLIP ranks it well")
    return "; ".join(reasons[:2])


def _instead(run: Run, images: np.ndarray, place: int) -> str:
    """What CLIP puts first on those images, if it is not the class itself."""
    first = np.bincount(run.made["global_prob"][images].argmax(axis=1), minlength=len(run.classes))
    first[place] = 0
    return f" (there CLIP mostly says {run.classes[int(first.argmax())]})" if first.max() > 1 else ""
