"""Which classes are worst, or without ground truth the least certain, and why."""

from __future__ import annotations

import numpy as np

from ccd.artifacts.measured import uncounted
from ccd.errors import listed
from ccd.report.choose import LABELLED
from ccd.report.finding import Finding, Point, count_of, inspect_class, known_images
from ccd.report.quality import Step, quality
from ccd.report.run import Run

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
    then, command = "The images on which the labels of the first are worst:", inspect_class(worst[0])
    return Finding("Which classes are worst, and why?", said, points, then, command)


def least_certain(run: Run, viewing: Step) -> Finding:
    """The classes whose labels rest most on local views that the whole image does not support."""
    labels, alone = viewing.after.labels, viewing.added.labels
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
    question, answer = "Which classes are least certain, and why?", (said + none).strip() or "None stands out."
    then = f"The images on which the steps disagree most about {asked}:"
    return Finding(question, answer, tuple(points), then, inspect_class(asked))


def _reasons(run: Run, name: str) -> str:
    """What the training images say about a weak class, at most two reasons, the most basic first."""
    place, row = run.classes.index(name), run.per_class[name]
    truth, labelled = run.train_truth[:, place], run.made["label"][:, place] >= LABELLED
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
