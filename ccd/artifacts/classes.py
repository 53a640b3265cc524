"""``classes.json``: the class names, in the order of every column, and what CLIP reads for each."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ccd.artifacts.atomic import read_json, write_json

SCHEMA = "ccd.classes/1"


@dataclass(frozen=True)
class ClassList:
    """C classes: ``names`` are the data set's identifiers, ``texts`` the phrases CLIP reads for each."""

    names: tuple[str, ...]
    texts: tuple[tuple[str, ...], ...]


def write(path: Path, classes: ClassList) -> None:
    """Write ``classes.json``."""
    rows = [{"name": name, "texts": list(texts)} for name, texts in zip(classes.names, classes.texts, strict=True)]
    write_json(path, {"schema": SCHEMA, "classes": rows})


def read(path: Path) -> ClassList:
    """Read ``classes.json``. Raises CcdError if it is missing, damaged or of another version."""
    rows = read_json(path, SCHEMA, "index")["classes"]
    return ClassList(tuple(row["name"] for row in rows), tuple(tuple(row["texts"]) for row in rows))
