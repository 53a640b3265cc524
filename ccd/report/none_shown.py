"""Images that show none of the classes: what is said of them where nobody looked for them, and what is known."""

from __future__ import annotations

from collections.abc import Mapping

NOT_LOOKED_FOR = (
    "images without any class: not looked for (global_labels.none_rule: off); such images get labels all the same"
)


def none_count(metadata: Mapping[str, str]) -> int | None:
    """How many training images were found to show none of the classes, from the metadata of
    ``pseudo_labels.parquet``; None where none was looked for."""
    return int(metadata["none_images"]) if "none_images" in metadata else None
