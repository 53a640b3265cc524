"""Changes of the labels by people's corrections, per class, and the images on which they changed most."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ccd.labels.debias import before_corrections
from ccd.labels.thresholds import LABELLED
from ccd.report.doubt import Choice
from ccd.report.run_data import Run
from ccd.report.tables import Cell, Column, Group


@dataclass(frozen=True)
class Corrected:
    """People decided ``labels`` labels on ``images`` images.

    Of these, ``added`` rose to at least 0.5 and ``removed`` fell below it. Of the ``known`` ones with ground truth,
    ``agree`` agree with it now, and ``agreed`` did before. ``groups``, ``columns`` and ``rows`` are a table of classes;
    ``choices`` are the corrections to show.
    """

    images: int
    labels: int
    added: int
    removed: int
    known: int
    agree: int
    agreed: int
    groups: list[Group]
    columns: list[Column]
    rows: list[list[Cell]]
    choices: list[Choice]


def corrections(run: Run, shown: int) -> Corrected | None:
    """Return the effect of people's decisions, with at most ``shown`` choices, the largest change first.

    None where nobody decided anything.
    """
    decided = run.pseudo_labels["correction"] >= 0
    if not decided.any():
        return None
    present = run.pseudo_labels["correction"] == 1
    before = before_corrections(run.pseudo_labels) >= LABELLED
    after = run.pseudo_labels["label"] >= LABELLED
    added = decided & after & ~before
    removed = decided & before & ~after
    known = decided & (run.train_truth >= 0)
    truth = run.train_truth == 1
    agree = known & (present == truth)
    agreed = known & (before == truth)
    counts = {"corrected": decided, "there": decided & present, "added": added, "removed": removed}
    counts |= {"known": known, "agree": agree, "agreed before": agreed} if known.any() else {}
    columns = [Column("class", "", "name in the data set", True)]
    columns += [Column(name, "images", HINTS[name], name == "corrected") for name in counts]
    order = np.argsort(-(added | removed).sum(axis=0), kind="stable")
    rows = []
    for class_row in (int(class_row) for class_row in order if decided[:, class_row].any()):
        name = run.classes[class_row]
        sums = [int(table[:, class_row].sum()) for table in counts.values()]
        rows.append([Cell(name, name), *(Cell(f"{value:,}", value) for value in sums)])
    return Corrected(
        int(decided.any(axis=1).sum()),
        int(decided.sum()),
        int(added.sum()),
        int(removed.sum()),
        int(known.sum()),
        int(agree.sum()),
        int(agreed.sum()),
        [Group("", 1), Group("images", len(counts))],
        columns,
        rows,
        _largest_changes(run, decided, shown),
    )


HINTS = {
    "corrected": "training images on which a person decided the class",
    "there": "of these, those where they said that it is there",
    "added": "labels that went from below 0.5 to at least 0.5",
    "removed": "labels that went from at least 0.5 to below it",
    "known": "corrected ones whose truth is known",
    "agree": "of these, those where the person agrees with it",
    "agreed before": "of these, those where the label agreed with it before",
}


def _largest_changes(run: Run, decided: np.ndarray, shown: int) -> list[Choice]:
    """Return the corrected labels with the largest change, at most one an image."""
    before = before_corrections(run.pseudo_labels)
    change = np.where(decided, np.abs(run.pseudo_labels["label"] - before), 0)
    class_rows = change.argmax(axis=1)
    largest = change.max(axis=1)
    choices = []
    for row in (int(row) for row in np.argsort(-largest, kind="stable")[:shown] if largest[row] > 0):
        class_row = int(class_rows[row])
        decision = "there" if run.pseudo_labels["correction"][row, class_row] == 1 else "not there"
        why = f"{run.classes[class_row]}: {decision}, label was {before[row, class_row]:.2f}"
        choices.append(Choice(row, class_row, why))
    return choices
