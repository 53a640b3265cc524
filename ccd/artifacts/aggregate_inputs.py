"""Reads the inputs of stage ``aggregate``, row-aligned, a bounded number of images at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ccd.artifacts import (
    background_file,
    bias_file,
    boxes_file,
    class_table,
    corrections_file,
    features_file,
    text_file,
)
from ccd.artifacts.class_table import GLOBAL_LABELS
from ccd.artifacts.image_index import RowsOfImages, rows_of, same_classes


@dataclass(frozen=True)
class Piece:
    """M training images and their b local views, which are crops that CLIP reads by themselves.

    Of the images: ``ids`` (M); ``global_prob`` and ``global_label`` (M, C) float32; ``weights`` (M,): the factor on an
    image's labels; ``decided`` (M, C) int8: people's decisions, -1 where nobody decided. Of the views: ``box_ids`` (b,)
    int64; ``image_rows`` (b,) int64 in 0..M - 1; ``requested_by`` (b,) class names; ``boxes_px`` (b, 4) float32 as x0,
    y0, x1, y1. `AggregateInputs.features_of` reads the views' embeddings.
    """

    ids: Sequence[str]
    global_prob: np.ndarray
    global_label: np.ndarray
    weights: np.ndarray
    decided: np.ndarray
    box_ids: np.ndarray
    image_rows: np.ndarray
    requested_by: np.ndarray
    boxes_px: np.ndarray


class AggregateInputs:
    """The opened files.

    ``ids`` (N) of the training images, ``text`` embeddings, ``bias`` (C,), ``mean_cosines`` of `BiasFile`, ``views``
    (B), people's ``corrections``, ``background``: the images that show no class.
    """

    def __init__(
        self,
        global_labels: Path,
        background: Path,
        clip_local: Path,
        text: Path,
        bias: Path,
        boxes: Path,
        corrections: Path,
        root: Path | None = None,
    ) -> None:
        """Open and check the files.

        Args:
            root: folder of the images, for corrections that name images by a path under it.

        Raises:
            CcdError: a file is missing, damaged, or of other images, classes, boxes or another teacher.
        """
        bias_content = bias_file.read(bias)
        self.text = text_file.read(text)
        self.bias = bias_content.bias
        self.mean_cosines = bias_content.mean_cosines
        self.views = boxes_file.read(boxes)
        same_classes(bias, "bias", bias_content.classes, self.text.classes)
        self.ids = class_table.read(global_labels, GLOBAL_LABELS, [], of=self.text.classes).ids
        self.background = background_file.read(background, self.ids)
        self.corrections = corrections_file.read(corrections, self.ids, self.text.classes, root)
        self._global_labels = global_labels
        self._features = features_file.open_local(clip_local, len(self.views.image_ids), self.text.attributes)
        self._views_of = RowsOfImages(rows_of(boxes, "cam_boxes", self.views.image_ids, self.ids))

    def pieces(self) -> Iterator[Piece]:
        """Yield all images in order. Raises CcdError for a damaged file."""
        requested_by = np.asarray(self.views.classes, object)
        start = 0
        for labels in class_table.pieces(self._global_labels, GLOBAL_LABELS, ["prob", "label"]):
            end = start + len(labels.ids)
            box_ids, image_rows = self._views_of.between(start, end)
            yield Piece(
                labels.ids,
                labels.columns["prob"],
                labels.columns["label"],
                self.background.weights[start:end],
                self.corrections.of_images(start, end),
                box_ids,
                image_rows,
                requested_by[box_ids],
                self.views.boxes_px[box_ids],
            )
            start = end

    def features_of(self, piece: Piece) -> np.ndarray:
        """Read the embeddings (b, D) float32 of a piece's views; not part of `Piece`, as they are large and used once.

        Raises:
            CcdError: they hold NaN or Inf.
        """
        return self._features.take(piece.box_ids)
