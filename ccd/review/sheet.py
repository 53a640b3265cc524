"""Write questions for people: a CSV for a spreadsheet, a page with the photos, or tasks for Label Studio."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from ccd.artifacts.files import csv_line
from ccd.deploy.label_formats import to_label_studio
from ccd.deploy.labelled import LabelledSet, read_labelled
from ccd.deploy.rows import short
from ccd.labels.thresholds import LABELLED
from ccd.report.environment import template_environment
from ccd.report.photos import Photos
from ccd.review.questions import Evidence, Question

Format = Literal["csv", "label-studio"]
TEMPLATES = Path(__file__).parent / "templates"
PHOTO_BUDGET_BYTES = 40_000_000


def export_paths(name: str, kind: Format, out: Path | None) -> list[Path]:
    """Return the two files of an export; the first is to be filled in, or imported into Label Studio.

    Args:
        name: name of the data set, for the default folder ``review/NAME``.
        out: a folder, or the first file; None: the default.
    """
    target = out or Path("review") / name
    suffix = ".csv" if kind == "csv" else ".json"
    folder = target.parent if target.suffix == suffix else target
    first = target if target.suffix == suffix else folder / ("review.csv" if kind == "csv" else "tasks.json")
    return [first, first.with_suffix(".html") if kind == "csv" else folder / "labelling_config.xml"]


def export_texts(
    evidence: Evidence, questions: Sequence[Question], kind: Format, name: str, root: Path, url: str
) -> list[str]:
    """Return the texts of the files of `export_paths`.

    Args:
        name: name of the data set.
        root: folder of the images.
        url: Label Studio: text in front of an image's path.

    Raises:
        CcdError: see `to_page` and `read_labelled`.
    """
    if kind == "csv":
        return [to_csv(evidence, questions), to_page(evidence, questions, name, root)]
    tasks = to_tasks(read_labelled(Path("data") / name, "train", None), evidence, questions, url)
    return [tasks["tasks.json"], tasks["labelling_config.xml"]]


def to_csv(evidence: Evidence, questions: Sequence[Question]) -> str:
    """Return a row per image and class: the value of every step, the ``suggested`` label and an empty ``label``."""
    lines = [csv_line(["image_id", "path", "class", *evidence.steps, "suggested", "label"])]
    for question in questions:
        image = [evidence.index.ids[question.row], evidence.index.paths[question.row]]
        for column in question.classes:
            values = [short(table[question.row, column]) for table in evidence.steps.values()]
            suggested = _suggested(evidence, question, column)
            lines.append(csv_line([*image, evidence.classes[column], *values, suggested, ""]))
    return "".join(lines)


def to_page(evidence: Evidence, questions: Sequence[Question], name: str, root: Path) -> str:
    """Return a self-contained HTML page with the photos, on which answers are clicked and saved as CSV.

    Args:
        name: name of the data set.
        root: folder of the images.

    Raises:
        CcdError: an image is missing, damaged, or not the one that was indexed.
    """
    environment = template_environment(TEMPLATES)
    photos = Photos(root, PHOTO_BUDGET_BYTES)
    images = [
        {
            "image_id": evidence.index.ids[question.row],
            "photo": photos.photo(evidence.index, question.row),
            "classes": [
                {
                    "column": column,
                    "name": evidence.classes[column],
                    "step_values": [float(table[question.row, column]) for table in evidence.steps.values()],
                    "suggested": _suggested(evidence, question, column),
                }
                for column in question.classes
            ],
        }
        for question in questions
    ]
    return environment.get_template("page.html").render(name=name, images=images, steps=list(evidence.steps))


def to_tasks(labels: LabelledSet, evidence: Evidence, questions: Sequence[Question], url: str) -> dict[str, str]:
    """Return ``tasks.json`` and ``labelling_config.xml`` with our labels and boxes as predictions.

    The tasks are the questions' images, in their order. Label Studio asks about every class.

    Args:
        labels: the labels of all training images.
        url: text in front of an image's path.
    """
    by_id = {image.image_id: image for image in labels.images}
    images = tuple(by_id[evidence.index.ids[question.row]] for question in questions)
    return to_label_studio(LabelledSet(labels.classes, images), url)


def _suggested(evidence: Evidence, question: Question, column: int) -> int:
    return int(evidence.steps["final"][question.row, column] >= LABELLED)
