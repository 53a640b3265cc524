"""``none_images.parquet``: which training images show none of the classes, by a rule that knows no labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from ccd.artifacts.files import unreadable
from ccd.artifacts.image_index import Names, same_ids
from ccd.artifacts.sealed import read_parquet, schema, write_parquet

SCHEMA = schema(
    "ccd.none_images/1",
    [
        ("image_id", pa.string(), False, "training image, as in images.parquet"),
        ("score", pa.float32(), True, "what global_labels.none_rule compares with none_threshold; null: rule off"),
        ("none", pa.bool_(), False, "found to show none of the classes"),
        ("weight", pa.float32(), False, "factor on the image's labels: none_weight where found, else 1"),
    ],
)


@dataclass(frozen=True)
class BackgroundImages:
    """``ids`` (N), ``scores`` (N,) float with NaN without a rule, ``found`` (N,) bool, ``weights`` (N,) float in
    [0, 1]; ``rule``: its name."""

    ids: Sequence[str]
    scores: np.ndarray
    found: np.ndarray
    weights: np.ndarray
    rule: str

    def summary(self) -> dict[str, str]:
        """For the metadata of ``pseudo_labels.parquet``: how many were found; empty without a rule."""
        return {} if self.rule == "off" else {"none_images": str(int(self.found.sum()))}


def count_in(metadata: Mapping[str, str]) -> int | None:
    """Return how many images were found, from metadata that `BackgroundImages.summary` wrote; None without a rule."""
    return int(metadata["none_images"]) if "none_images" in metadata else None


def write(path: Path, images: BackgroundImages) -> None:
    """Write ``none_images.parquet``."""
    columns = [
        Names(images.ids).arrow,
        pa.array(images.scores, pa.float32(), mask=np.isnan(images.scores)),
        pa.array(images.found, pa.bool_()),
        pa.array(images.weights, pa.float32()),
    ]
    write_parquet(path, [pa.record_batch(columns, schema=SCHEMA)], SCHEMA, {"rule": images.rule})


def read(path: Path, wanted: Sequence[str]) -> BackgroundImages:
    """Read ``none_images.parquet``. Raises CcdError if it is missing, damaged, of another version, or of other images
    than the ``wanted``."""
    table, metadata = read_parquet(path, SCHEMA, "global_labels")
    scores = table["score"].fill_null(np.nan).to_numpy()
    weights = table["weight"].to_numpy()
    ids = Names(table["image_id"])
    if not ((weights >= 0) & (weights <= 1)).all():
        raise unreadable(path, "a weight is not in 0..1", "global_labels")
    same_ids(path, "global_labels", ids, wanted)
    return BackgroundImages(ids, scores, table["none"].to_numpy(), weights, metadata.get("rule", "off"))
