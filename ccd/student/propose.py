"""The local views that a student asks for, image by image (method section 5)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch

from ccd import ranks
from ccd.artifacts.boxes import BoxTable
from ccd.artifacts.image_index import ImageIndex
from ccd.console import StageLog
from ccd.loading import ImageFiles, image_batches
from ccd.runtime import Hardware
from ccd.student.model import Student
from ccd.student.predict import predict
from ccd.views.boxes import Boxes, cam_boxes
from ccd.views.shared import unshared_views


def propose_views(
    student: Student,
    files: ImageFiles,
    index: ImageIndex,
    classes: tuple[str, ...],
    probs: np.ndarray,
    tau: float,
    size_px: int,
    hardware: Hardware,
    log: StageLog,
    how: Mapping[str, Any],
    shared_iou: float | None = None,
) -> BoxTable:
    """The CAM boxes of every class with probability >= ``tau``, image by image; ``how`` goes to `cam_boxes`.

    ``shared_iou``: merge views of several classes from this IoU on, see `unshared_views`; None: all stay.

    A second pass over the images that ask for a view: the maps of all of them would not fit in memory, and tau is
    known only after the first. Ranks share it, and end here but for the first.
    """
    asked = probs >= tau  # (N, C)
    order = np.flatnonzero(asked.any(axis=1))
    mine = ranks.share(order, hardware.batch_size)
    batches = image_batches(files, mine, size_px, hardware.batch_size, hardware.workers)

    def boxes_of_batches() -> Iterator[tuple[np.ndarray, Boxes]]:
        for rows, _, cams in predict(student, batches, hardware.device):
            here = rows.numpy()
            wanted, sizes_px = torch.from_numpy(asked[here]).to(cams.device), torch.from_numpy(index.sizes_px[here])
            yield here, cam_boxes(cams, wanted, sizes_px, size_px, names=[index.ids[row] for row in here], **how)

    rows_found, class_found, peaks, boxes_px = [[array] for array in _NO_BOX]
    for here, found in log.batches(ranks.merged(boxes_of_batches()), len(order), "img"):
        rows_found.append(here[found.rows])
        class_found.append(found.classes)
        peaks.append(found.peaks)
        boxes_px.append(found.boxes_px)
    ranks.others_leave()
    image_rows, class_rows = np.concatenate(rows_found), np.concatenate(class_found)
    scores, peak, corners = probs[image_rows, class_rows], np.concatenate(peaks), np.concatenate(boxes_px)
    if shared_iou is not None:
        kept = unshared_views(image_rows, class_rows, scores, corners, shared_iou)
        image_rows, class_rows, scores = image_rows[kept], class_rows[kept], scores[kept]
        peak, corners = peak[kept], corners[kept]
    return BoxTable(
        [index.ids[row] for row in image_rows],
        [classes[row] for row in class_rows],
        scores,
        peak,
        corners,
        {"tau": repr(tau)},
    )


_NO_BOX = (np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float32), np.empty((0, 4), np.float32))
