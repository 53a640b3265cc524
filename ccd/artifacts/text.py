"""``text.h5``: CLIP's embedding of each class, and the scale that turns cosines into logits."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from ccd.artifacts.atomic import replacing, unreadable

SCHEMA = "ccd.text/1"


@dataclass(frozen=True)
class TextEmbeddings:
    """``classes`` (C), ``values`` (C, D) float32 with unit rows, ``logit_scale`` s, ``texts`` read per class,
    ``templates``, ``attributes``: teacher and its fingerprint."""

    classes: tuple[str, ...]
    values: np.ndarray
    logit_scale: float
    texts: tuple[tuple[str, ...], ...]
    templates: tuple[str, ...]
    attributes: dict[str, str]


def write(path: Path, text: TextEmbeddings) -> None:
    """Write ``text.h5``."""
    with replacing(path) as temporary, h5py.File(temporary, "w", track_order=False) as file:
        strings = {
            "schema": SCHEMA,
            "templates": json.dumps(list(text.templates), ensure_ascii=False),
            **text.attributes,
        }
        for key, value in sorted(strings.items()):
            file.attrs[key] = value
        file.attrs["logit_scale"] = np.float64(text.logit_scale)
        file.create_dataset("class_name", data=list(text.classes), dtype=h5py.string_dtype())
        phrases = [json.dumps(list(texts), ensure_ascii=False) for texts in text.texts]
        file.create_dataset("texts", data=phrases, dtype=h5py.string_dtype())
        file.create_dataset("embedding", data=text.values.astype(np.float32), chunks=text.values.shape, fletcher32=True)


def read(path: Path) -> TextEmbeddings:
    """Read ``text.h5``. Raises CcdError if it is missing, damaged or of another version."""
    try:
        with h5py.File(path, "r") as file:
            attributes = dict(file.attrs)
            found = attributes.pop("schema", "none")
            if found != SCHEMA:
                raise unreadable(path, f"its schema is {found!r}, expected {SCHEMA!r}", "text")
            classes = tuple(file["class_name"].asstr()[...])
            texts = tuple(tuple(json.loads(row)) for row in file["texts"].asstr()[...])
            values = file["embedding"][...]
            scale = float(attributes.pop("logit_scale"))
            templates = tuple(json.loads(attributes.pop("templates")))
    except (OSError, KeyError, ValueError) as error:
        raise unreadable(path, str(error), "text") from None
    return TextEmbeddings(
        classes, values, scale, texts, templates, {key: str(value) for key, value in attributes.items()}
    )
