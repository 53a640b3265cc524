"""``text.h5``: CLIP's embedding of each class, and the scale that turns cosines into logits."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ccd.artifacts.files import unreadable
from ccd.artifacts.image_index import read_strings
from ccd.artifacts.sealed import attributes_of, creating, reading, write_array, write_strings

SCHEMA = "ccd.text/1"


@dataclass(frozen=True)
class TextEmbeddings:
    """CLIP's text embeddings of C classes: ``values`` (C, D) float32, rows of unit length.

    ``logit_scale``: s. ``texts``: the phrases of each class, put into the ``templates``. ``attributes``: teacher and
    its fingerprint. ``background_texts`` (K): complete prompts of background images; ``background`` (K, D) float32:
    their embeddings. The file has neither where K = 0. ``background_in_softmax``, ``standardized_scale`` and
    ``logit_bias``: see `ccd.labels.scores.Scoring`; attributes of the file where they are not False and None.
    """

    classes: tuple[str, ...]
    values: np.ndarray
    logit_scale: float
    texts: tuple[tuple[str, ...], ...]
    templates: tuple[str, ...]
    attributes: dict[str, str]
    background_texts: tuple[str, ...] = ()
    background: np.ndarray = field(default_factory=lambda: np.empty((0, 0), np.float32))
    background_in_softmax: bool = False
    standardized_scale: float | None = None
    logit_bias: float | None = None


def write(path: Path, text: TextEmbeddings) -> None:
    """Write ``text.h5``."""
    templates = json.dumps(list(text.templates), ensure_ascii=False)
    attributes = {"templates": templates, "logit_scale": np.float64(text.logit_scale), **text.attributes}
    if text.background_in_softmax:
        attributes["background_in_softmax"] = "true"
    if text.standardized_scale is not None:
        attributes["standardized_scale"] = np.float64(text.standardized_scale)
    if text.logit_bias is not None:
        attributes["logit_bias"] = np.float64(text.logit_bias)
    with creating(path, SCHEMA, attributes) as (file, _):
        write_strings(file, "class_name", text.classes)
        write_strings(file, "texts", [json.dumps(list(texts), ensure_ascii=False) for texts in text.texts])
        write_array(file, "embedding", text.values, np.float32)
        if text.background_texts:
            write_strings(file, "background_text", text.background_texts)
            write_array(file, "background", text.background, np.float32)


def read(path: Path) -> TextEmbeddings:
    """Read ``text.h5``. Raises CcdError if it is missing, damaged or of another version."""
    with reading(path, SCHEMA, "text") as file:
        attributes = attributes_of(file)
        classes = tuple(read_strings(file, "class_name"))
        texts = tuple(tuple(json.loads(row)) for row in read_strings(file, "texts"))
        values = file["embedding"][...]
        background_texts = tuple(read_strings(file, "background_text")) if "background_text" in file else ()
        background = file["background"][...] if background_texts else np.empty((0, values.shape[1]), np.float32)
        scale = float(attributes.pop("logit_scale"))
        templates = tuple(json.loads(attributes.pop("templates")))
        in_softmax = attributes.pop("background_in_softmax", "false") == "true"
        standardized = attributes.pop("standardized_scale", None)
        bias = attributes.pop("logit_bias", None)
    if background.shape != (len(background_texts), values.shape[1]):
        raise unreadable(
            path, f"{len(background_texts)} background texts, embeddings of shape {background.shape}", "text"
        )
    if not len(classes) == len(texts) == len(values):
        raise unreadable(path, f"{len(classes)} classes, {len(texts)} texts, {len(values)} embeddings", "text")
    numbers = (values, background, scale, 0.0 if bias is None else float(bias))
    if not all(np.isfinite(each).all() for each in numbers):
        raise unreadable(path, "it holds NaN or Inf", "text")
    return TextEmbeddings(
        classes,
        values,
        scale,
        texts,
        templates,
        attributes,
        background_texts,
        background,
        in_softmax,
        None if standardized is None else float(standardized),
        None if bias is None else float(bias),
    )
