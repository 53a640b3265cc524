"""Section ``cam_boxes``: from class activation maps to views (method section 5)."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from ccd.params.base import Section


class CamBoxesParams(Section):
    """``tau`` fixes the probability from which a class asks for a view; null: the quantile for ``views_per_image``.

    ``shared_*``: see `ccd.views.shared`; merged views are missing from ``views_per_image``. ``tiles``: see
    `ccd.views.tiles`; they come on top.
    """

    section: ClassVar[str] = "cam_boxes"
    image_size_px: int = Field(ge=16, le=4096)
    views_per_image: float = Field(gt=0)
    tau: float | None = Field(ge=0, le=1)
    cam_threshold: float = Field(ge=0, lt=1)
    offset: float = Field(ge=0, le=1)
    connected_components: bool
    boxes_per_class: int = Field(ge=1, le=100)
    min_side_px: float = Field(ge=1)
    shared_views: Literal["keep", "merge"]
    shared_iou: float = Field(gt=0, le=1)
    tiles: int = Field(ge=0, le=8)

    @property
    def least_shared_iou(self) -> float | None:
        """``shared_iou`` where shared views are merged, else None."""
        return self.shared_iou if self.shared_views == "merge" else None
