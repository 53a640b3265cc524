"""Section ``index``: which adapter reads the data set, and its splits."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from ccd.params.base import Section


class IndexParams(Section):
    """Keys that an adapter does not use stay null. See `ccd.indexing.scan` for the last three."""

    section: ClassVar[str] = "index"
    paths: ClassVar[tuple[str, ...]] = ("classes_file", "labels_file")
    adapter: Literal["demo", "voc", "coco", "nuswide", "folder"]
    train_split: str = Field(min_length=1)
    test_split: str | None
    classes_file: str | None
    labels_file: str | None
    demo_train: int = Field(ge=1, le=1_000_000)
    demo_test: int = Field(ge=0, le=1_000_000)
    demo_seed: int = Field(ge=0)
    on_bad_image: Literal["error", "skip"]
    verify: Literal["decode", "header"]
    follow_links: bool
