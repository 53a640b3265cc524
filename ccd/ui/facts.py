"""What the page's routes answer with, as plain data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from starlette.exceptions import HTTPException

from ccd.errors import CcdError
from ccd.ui.project_data import ProjectData, Tables, reruns
from ccd.ui.search import Search, TextTower, map_kind
from ccd.ui.thumbs import Thumbnails

MOST_ROWS = 400
MOST_ANSWERS = 2000
TOP_LABELS = 3
SHOWN_LABEL = 0.3


@dataclass(frozen=True)
class Service:
    """What the routes share: the project, its thumbnails and its search; ``person``: who answers unless told."""

    project: ProjectData
    thumbs: Thumbnails
    search: Search
    tower: TextTower
    person: str


def project_facts(service: Service) -> dict[str, Any]:
    """Return what the page needs to begin with; ``error`` where the pipeline has not come far enough."""
    project = service.project
    facts: dict[str, Any] = {"name": project.name, "person": service.person, "reruns": reruns(project.name)}
    facts |= {"corrections": str(project.corrections), "tower": service.tower.is_loaded, "classes": [], "images": 0}
    try:
        index = project.index()
        facts |= {"images": len(index), "train": len(index.train_rows), "map": map_kind(len(index))}
        tables = project.tables()
        facts |= {"classes": tables.classes, "has": tables.has, "notes": tables.notes}
        facts |= {"decided": len(project.book().decisions()), "sessions": project.book().sessions()}
    except CcdError as error:
        facts["error"] = str(error)
    return facts


def row_of(query: Mapping[str, str], tables: Tables, key: str) -> int:
    """Read the row of an image from a query. Raises HTTPException if there is no such image."""
    text = query.get(key, "")
    if not text.isascii() or not text.isdigit() or int(text[:12]) >= len(tables.index):
        raise HTTPException(404, "no such image")
    return int(text)


def rows_facts(service: Service, query: Mapping[str, str]) -> list[dict[str, Any]]:
    """Return id, split, largest labels, doubt and decisions of the images ``rows`` (``1,2,3``), for the grid."""
    tables = service.project.tables()
    decided = service.project.decided()
    texts = [text for text in query.get("rows", "").split(",") if text][:MOST_ROWS]
    rows = [row_of({"row": text}, tables, "row") for text in texts]
    name = query.get("class", "")
    column = tables.classes.index(name) if name in tables.classes else -1
    return [_row_facts(tables, decided, row, column) for row in rows]


def _row_facts(tables: Tables, decided: np.ndarray, row: int, column: int) -> dict[str, Any]:
    labels = np.where(decided[row] >= 0, decided[row], tables.steps["label"][row])
    order = np.argsort(-labels, kind="stable")[:TOP_LABELS]
    shown = [int(each) for each in order if labels[each] >= SHOWN_LABEL and each != column]
    shown = [column, *shown[: TOP_LABELS - 1]] if column >= 0 else shown or [int(order[0])]
    doubt = np.where(decided[row] >= 0, 0.0, tables.doubt[row])
    return {
        "row": row,
        "id": tables.index.ids[row],
        "train": bool(tables.index.is_train[row]),
        "labels": [[tables.classes[each], round(float(labels[each]), 3), int(decided[row, each])] for each in shown],
        "doubt": round(float(doubt.max() if column < 0 else doubt[column]), 3),
        "decided": int((decided[row] >= 0).sum()),
    }


def story_facts(service: Service, query: Mapping[str, str]) -> dict[str, Any]:
    """Return one image's story, with the decisions as they are now and the classes to ask about."""
    project = service.project
    tables = project.tables()
    row = row_of(query, tables, "row")
    decided = project.decided()
    steps = {
        name: {step: _plain(values[row, column]) for step, values in tables.steps.items()}
        for column, name in enumerate(tables.classes)
    }
    asked = [tables.classes[column] for column in project.asked(row, decided)]
    decisions = {name: int(label) for name, label in zip(tables.classes, decided[row], strict=True) if label >= 0}
    return {**project.story(row), "row": row, "steps": steps, "asked": asked, "decided": decisions}


def _plain(value: np.floating[Any]) -> float | None:
    return None if np.isnan(value) else round(float(value), 4)


def save_answers(service: Service, body: Mapping[str, Any]) -> dict[str, Any]:
    """Save ``answers`` ([{image_id, class, label}]) of ``who`` in ``session``; on disk before this returns."""
    answers = body.get("answers")
    if not isinstance(answers, list) or not 0 < len(answers) <= MOST_ANSWERS:
        raise HTTPException(400, f"1 to {MOST_ANSWERS} answers are needed")
    try:
        labels = {(str(each["image_id"]), str(each["class"])): each["label"] for each in answers}
    except (TypeError, KeyError):
        raise HTTPException(400, "an answer has image_id, class and label") from None
    if any(label is not None and type(label) is not int for label in labels.values()):
        raise HTTPException(400, "a label is 1, 0 or null")
    book = service.project.book()
    saved = book.save(labels, str(body.get("session", "review")), str(body.get("who") or service.person))
    return {"decided": saved.decided, "changed": len(saved.changed)}


def undo_answers(service: Service, body: Mapping[str, Any]) -> dict[str, Any]:
    """Take back the last action of ``session``."""
    book = service.project.book()
    saved = book.undo(str(body.get("session", "review")), str(body.get("who") or service.person))
    images = sorted({image for image, _ in saved.changed})
    rows = [service.project.row_of()[image] for image in images]
    return {"decided": saved.decided, "changed": len(saved.changed), "images": images, "rows": rows}
