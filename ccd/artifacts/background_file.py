"""``none_images.parquet``: the background images of the training split, by a rule that uses no ground truth.

A background image shows none of the classes.
"""

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
    """The rule's verdict on N training images.

    ``scores`` (N,) float, NaN without a rule; ``is_background`` (N,) bool; ``weights`` (N,) float in [0, 1]: the factor
    on an image's labels; ``rule``: its name.
    """

    ids: Sequence[str]
    scores: np.ndarray
    is_background: np.ndarray
    weights: np.ndarray
    rule: str

    def summary(self) -> dict[str, str]:
        """Return the number of background images as metadata of ``pseudo_labels.parquet``; empty without a rule."""
        return {} if self.rule == "off" else {"none_images": str(int(self.is_background.sum()))}


def count_in(metadata: Mapping[str, str]) -> int | None:
    """Return the number of background images from metadata by `BackgroundImages.summary`; None without a rule."""
    return int(metadata["none_images"]) if "none_images" in metadata else None


def write(path: Path, images: BackgroundImages) -> None:
    """Write ``none_images.parquet``."""
    columns = [
        Names(images.ids).arrow,
        pa.array(images.scores, pa.float32(), mask=np.isnan(images.scores)),
        pa.array(images.is_background, pa.bool_()),
        pa.array(images.weights, pa.float32()),
    ]
    write_parquet(path, [pa.record_batch(columns, schema=SCHEMA)], SCHEMA, {"rule": images.rule})


def read(path: Path, ids: Sequence[str]) -> BackgroundImages:
    """Read ``none_images.parquet`` of the images ``ids`` (N).

    Raises:
        CcdError: it is missing, damaged, of another version, or of other images.
    """
    table, metadata = read_parquet(path, SCHEMA, "global_labels")
    scores = table["score"].fill_null(np.nan).to_numpy()
    weights = table["weight"].to_numpy()
    file_ids = Names(table["image_id"])
    if not ((weights >= 0) & (weights <= 1)).all():
        raise unreadable(path, "a weight is not in 0..1", "global_labels")
    same_ids(path, "global_labels", file_ids, ids)
    return BackgroundImages(file_ids, scores, table["none"].to_numpy(), weights, metadata.get("rule", "off"))
