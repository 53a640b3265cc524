"""What people's corrections changed in the labels, per class, and the images on which they changed most."""

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
    """``labels`` of ``images`` were decided by people; at 0.5, ``added`` went up over it and ``removed`` down below it.
    Of the ``known`` ones whose truth is known, ``agree`` with it, and ``agreed`` labels did before. Then a table of
    classes and the ``choices`` to show."""

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
    """None where nobody decided anything. At most ``shown`` choices, the labels that moved most first."""
    decided = run.made["correction"] >= 0
    if not decided.any():
        return None
    there = run.made["correction"] == 1
    before = before_corrections(run.made) >= LABELLED
    after = run.made["label"] >= LABELLED
    added = decided & after & ~before
    removed = decided & before & ~after
    known = decided & (run.train_truth >= 0)
    truth = run.train_truth == 1
    agree = known & (there == truth)
    agreed = known & (before == truth)
    counts = {"corrected": decided, "there": decided & there, "added": added, "removed": removed}
    counts |= {"known": known, "agree": agree, "agreed before": agreed} if known.any() else {}
    columns = [Column("class", "", "name in the data set", True)]
    columns += [Column(name, "images", HINTS[name], name == "corrected") for name in counts]
    order = np.argsort(-(added | removed).sum(axis=0), kind="stable")
    rows = []
    for place in (int(place) for place in order if decided[:, place].any()):
        name = run.classes[place]
        sums = [int(table[:, place].sum()) for table in counts.values()]
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
        _moved_most(run, decided, shown),
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


def _moved_most(run: Run, decided: np.ndarray, shown: int) -> list[Choice]:
    """The corrected labels that moved most, an image once."""
    before = before_corrections(run.made)
    moved = np.where(decided, np.abs(run.made["label"] - before), 0)
    place = moved.argmax(axis=1)
    largest = moved.max(axis=1)
    choices = []
    for row in (int(row) for row in np.argsort(-largest, kind="stable")[:shown] if largest[row] > 0):
        column = int(place[row])
        said = "there" if run.made["correction"][row, column] == 1 else "not there"
        why = f"{run.classes[column]}: {said}, label was {before[row, column]:.2f}"
        choices.append(Choice(row, column, why))
    return choices
