"""Questions as files for people: a CSV for a spreadsheet, a page to look at and click, tasks for Label Studio."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from ccd.artifacts.files import csv_line
from ccd.deploy.label_formats import to_label_studio
from ccd.deploy.labelled import LabelledSet
from ccd.deploy.rows import short
from ccd.labels.thresholds import LABELLED
from ccd.report.photos import Photos
from ccd.review.questions import Evidence, Question

TEMPLATES = Path(__file__).parent / "templates"
PHOTO_BUDGET_BYTES = 40_000_000


def to_csv(evidence: Evidence, questions: Sequence[Question]) -> str:
    """A row per image and class: what every step says, the ``suggested`` label, and an empty ``label`` to fill in."""
    lines = [csv_line(["image_id", "path", "class", *evidence.steps, "suggested", "label"])]
    for question in questions:
        about = [evidence.index.ids[question.row], evidence.index.paths[question.row]]
        for place in question.classes:
            values = [short(table[question.row, place]) for table in evidence.steps.values()]
            lines.append(
                csv_line([*about, evidence.classes[place], *values, _suggested(evidence, question, place), ""])
            )
    return "".join(lines)


def to_page(evidence: Evidence, questions: Sequence[Question], name: str, root: Path) -> str:
    """The same as one self-contained HTML page with the photos, on which answers are clicked and saved as CSV.

    Args:
        name: of the data set.
        root: folder of the images.

    Raises:
        CcdError: an image is missing, damaged, or not the one that was indexed.
    """
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    photos = Photos(root, PHOTO_BUDGET_BYTES)
    images = [
        {
            "image_id": evidence.index.ids[question.row],
            "photo": photos.photo(evidence.index, question.row),
            "asked": [
                {
                    "place": place,
                    "name": evidence.classes[place],
                    "numbers": [float(table[question.row, place]) for table in evidence.steps.values()],
                    "suggested": _suggested(evidence, question, place),
                }
                for place in question.classes
            ],
        }
        for question in questions
    ]
    return environment.get_template("page.html").render(name=name, images=images, steps=list(evidence.steps))


def to_tasks(labels: LabelledSet, evidence: Evidence, questions: Sequence[Question], url: str) -> dict[str, str]:
    """``tasks.json`` and ``labelling_config.xml`` of the questions' images, in their order, with our labels and boxes
    as predictions. Label Studio asks about every class.

    Args:
        labels: the labels of all training images.
        url: what stands before an image's path.
    """
    by_id = {image.image_id: image for image in labels.images}
    chosen = tuple(by_id[evidence.index.ids[question.row]] for question in questions)
    return to_label_studio(LabelledSet(labels.classes, chosen), url)


def _suggested(evidence: Evidence, question: Question, place: int) -> int:
    return int(evidence.steps["final"][question.row, place] >= LABELLED)
