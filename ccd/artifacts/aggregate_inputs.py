"""What stage ``aggregate`` reads, row-aligned, a bounded number of images at a time."""

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
    """M training images and the b views on them.

    ``ids`` (M); ``global_prob`` and ``global_label`` (M, C) float32; ``weights`` (M,): the factor on an image's labels;
    ``decided`` (M, C) int8: what people decided, -1 where nobody did. Of the views: ``box_ids`` (b,) int64,
    ``image_rows`` (b,) int64 in 0..M - 1, ``requested_by`` (b,) names of classes, ``boxes_px`` (b, 4)
    float32; their embeddings: `AggregateInputs.features_of`.
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
    """The opened files: ``ids`` (N) of the training images, ``text`` and ``bias`` (C,), ``views`` (B), ``corrections``
    by people, ``background``: the images that show no class."""

    def __init__(
        self,
        global_labels: Path,
        none: Path,
        clip_local: Path,
        text: Path,
        bias: Path,
        boxes: Path,
        corrections: Path,
        root: Path | None = None,
    ) -> None:
        """``root``: folder of the images, for corrections that name them by a path that leads there.

        Raises CcdError: a file is missing, damaged, or not of the same images, classes, boxes and teacher."""
        debias = bias_file.read(bias)
        self.text = text_file.read(text)
        self.bias = debias.bias
        self.views = boxes_file.read(boxes)
        same_classes(bias, "bias", debias.classes, self.text.classes)
        self.ids = class_table.read(global_labels, GLOBAL_LABELS, [], of=self.text.classes).ids
        self.background = background_file.read(none, self.ids)
        self.corrections = corrections_file.read(corrections, self.ids, self.text.classes, root)
        self._global_labels = global_labels
        self._features = features_file.open_local(clip_local, len(self.views.image_ids), self.text.attributes)
        self._views_of = RowsOfImages(rows_of(boxes, "cam_boxes", self.views.image_ids, self.ids))

    def pieces(self) -> Iterator[Piece]:
        """All images in order. Raises CcdError for a damaged file."""
        requested_by = np.asarray(self.views.classes, object)
        start = 0
        for whole in class_table.pieces(self._global_labels, GLOBAL_LABELS, ["prob", "label"]):
            end = start + len(whole.ids)
            mine, here = self._views_of.between(start, end)
            yield Piece(
                whole.ids,
                whole.columns["prob"],
                whole.columns["label"],
                self.background.weights[start:end],
                self.corrections.of_images(start, end),
                mine,
                here,
                requested_by[mine],
                self.views.boxes_px[mine],
            )
            start = end

    def features_of(self, piece: Piece) -> np.ndarray:
        """The embeddings (b, D) float32 of its views; no part of it, since they are large and needed once.

        Raises:
            CcdError: NaN or Inf in them.
        """
        return self._features.take(piece.box_ids)
