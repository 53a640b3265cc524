"""``classes.json``: the class names, in the order of all (N, C) tables, and the phrases CLIP reads for each."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ccd.artifacts.files import unreadable
from ccd.artifacts.sealed import read_sealed, write_sealed

SCHEMA = "ccd.classes/1"


@dataclass(frozen=True)
class ClassList:
    """C classes: ``names`` are the data set's identifiers, ``texts`` the phrases CLIP reads for each."""

    names: tuple[str, ...]
    texts: tuple[tuple[str, ...], ...]


def write(path: Path, classes: ClassList) -> None:
    """Write ``classes.json``."""
    rows = [{"name": name, "texts": list(texts)} for name, texts in zip(classes.names, classes.texts, strict=True)]
    write_sealed(path, SCHEMA, {"classes": rows})


def read(path: Path) -> ClassList:
    """Read ``classes.json``. Raises CcdError if it is missing, damaged or of another version."""
    content = read_sealed(path, SCHEMA, "index")
    try:
        rows = [(str(row["name"]), tuple(str(text) for text in row["texts"])) for row in content["classes"]]
    except (KeyError, TypeError) as error:
        raise unreadable(path, f"malformed: {error!r}", "index") from None
    return ClassList(tuple(name for name, _ in rows), tuple(texts for _, texts in rows))
