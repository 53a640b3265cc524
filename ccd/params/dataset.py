"""Section ``dataset``: where artifacts go and where the images lie."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from ccd.params.base import Section


class DatasetParams(Section):
    """``root`` is tracked by the index stage alone: a moved folder with the same content reruns nothing else."""

    section: ClassVar[str] = "dataset"
    paths: ClassVar[tuple[str, ...]] = ("root",)
    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")
    root: str = Field(min_length=1)
