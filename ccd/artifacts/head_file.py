"""``head.h5``: a linear head on CLIP's image embeddings, and all that is needed to use it on other images."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ccd.artifacts.files import unreadable
from ccd.artifacts.image_index import read_strings, same_classes, same_teacher
from ccd.artifacts.sealed import attributes_of, creating, reading, write_array, write_strings

SCHEMA = "ccd.head/1"


@dataclass(frozen=True)
class LinearHead:
    """z = W f + o: ``weight`` (C, D) and ``offset`` (C,), float32, for embeddings f as a CLIP gives them."""

    weight: np.ndarray
    offset: np.ndarray

    def logits(self, features: np.ndarray) -> np.ndarray:
        """Return z of ``features`` (M, D), unit rows: (M, C) float64; the probability is its sigmoid."""
        return np.asarray(features.astype(np.float64) @ self.weight.astype(np.float64).T + self.offset)


@dataclass(frozen=True)
class HeadFile:
    """A head for C classes, and its origin.

    ``thresholds`` (C,) float64: a class is present if its probability is at least its threshold; ``thresholds_from``:
    their source. ``image_size_px``: side of the square to which images are squashed before CLIP reads them.
    ``teacher``: the section of ``params.yaml`` that loads this CLIP; ``attributes``: its description ``teacher`` and
    its ``fingerprint``, as in ``clip_global.h5``.
    """

    classes: tuple[str, ...]
    linear: LinearHead
    thresholds: np.ndarray
    thresholds_from: str
    image_size_px: int
    teacher: dict[str, Any]
    attributes: dict[str, str]


def write(path: Path, head: HeadFile) -> None:
    """Write ``head.h5``; the same content gives the same bytes."""
    attributes: dict[str, str | float] = {
        **head.attributes,
        "image_size_px": str(head.image_size_px),
        "teacher_params": json.dumps(head.teacher, sort_keys=True, ensure_ascii=False),
        "thresholds_from": head.thresholds_from,
    }
    with creating(path, SCHEMA, attributes) as (file, _):
        write_strings(file, "class_name", head.classes)
        write_array(file, "weight", head.linear.weight, np.float32)
        write_array(file, "offset", head.linear.offset, np.float32)
        write_array(file, "threshold", head.thresholds, np.float64)


def read(path: Path, *, of: Sequence[str] | None = None, teacher: Mapping[str, str] | None = None) -> HeadFile:
    """Read ``head.h5``.

    Args:
        of: the classes that it must have, in order; None: any.
        teacher: the attributes of ``text.h5``, whose teacher it must be of; None: any.

    Raises:
        CcdError: it is missing, damaged, of another version, of other classes or of another teacher.
    """
    with reading(path, SCHEMA, "head") as file:
        attributes = attributes_of(file)
        head = HeadFile(
            tuple(read_strings(file, "class_name")),
            LinearHead(file["weight"][...], file["offset"][...]),
            file["threshold"][...],
            attributes.pop("thresholds_from"),
            int(attributes.pop("image_size_px")),
            dict(json.loads(attributes.pop("teacher_params"))),
            attributes,
        )
    _check(path, head)
    if of is not None:
        same_classes(path, "head", head.classes, of)
    if teacher is not None:
        same_teacher(path, "head", head.attributes, teacher)
    return head


def _check(path: Path, head: HeadFile) -> None:
    """Raise CcdError unless the parts of the file fit together."""
    parts = (head.linear.weight, head.linear.offset, head.thresholds)
    count = len(head.classes)
    shapes = [values.shape for values in parts]
    if not count or head.linear.weight.ndim != 2 or shapes != [(count, shapes[0][-1]), (count,), (count,)]:
        raise unreadable(path, f"{count} classes, weights, offsets and thresholds of shapes {shapes}", "head")
    if not all(np.isfinite(values).all() for values in parts):
        raise unreadable(path, "it holds NaN or Inf", "head")
    if head.image_size_px < 1:
        raise unreadable(path, f"its image size is {head.image_size_px} px", "head")
