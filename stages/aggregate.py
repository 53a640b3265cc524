"""Stage aggregate: global and local labels become the training targets (method sections 6 and 7)."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ccd.artifacts import bias as bias_file, boxes as box_file, class_table, features, none_images, text as text_file
from ccd.artifacts.align import RowsOfImages, rows_of, same_classes
from ccd.artifacts.global_labels import SPEC as GLOBAL_LABELS
from ccd.artifacts.pseudo_labels import SPEC as PSEUDO_LABELS
from ccd.console import StageLog, stage
from ccd.labels.debias import label_changes, pseudo_labels
from ccd.labels.scores import clip_probs
from ccd.params.aggregate import AggregateParams
from ccd.params.base import load
from ccd.params.global_labels import GlobalLabelsParams
from ccd.views.contest import contested_probs


@stage
def main(global_labels: Path, none: Path, clip_local: Path, text: Path, bias: Path, boxes: Path, out: Path) -> None:
    """Score the local views, take the best of each image, and mix with the global label."""
    params, floor, log = load(AggregateParams), load(GlobalLabelsParams).floor, StageLog("aggregate")
    words, debias, views = text_file.read(text), bias_file.read(bias), box_file.read(boxes)
    same_classes(bias, "bias", debias.classes, words.classes)
    ids = class_table.read(global_labels, GLOBAL_LABELS, [], of=words.classes).ids
    looked = features.open_local(clip_local, len(views.image_ids), words.attributes)
    empty, image_rows = none_images.read(none, ids), rows_of(boxes, "cam_boxes", views.image_ids, ids)
    log.reads(f"{len(ids):,} images", f"{len(image_rows):,} local views")
    asked_by, views_of, start, counts = np.asarray(views.classes), RowsOfImages(image_rows), 0, np.zeros(4, np.int64)
    said = {"alpha": repr(params.alpha), **empty.summary()}
    with class_table.writing(out, PSEUDO_LABELS, words.classes, said) as table:
        for whole in class_table.pieces(global_labels, GLOBAL_LABELS, ["prob", "label"]):
            end, first, label = start + len(whole.ids), whole.columns["prob"], whole.columns["label"]
            mine, here = views_of.between(start, end)
            probs = clip_probs(looked.take(mine), words.values, words.logit_scale)
            probs = contested_probs(probs, first, here, asked_by[mine], views.boxes_px[mine], params.least_contest_iou)
            columns = pseudo_labels(
                first, label, probs, here, debias.bias, floor, params.alpha, mine, empty.weights[start:end]
            )
            table.write(whole.ids, columns)
            counts, start = counts + label_changes(columns), end
    log.wrote((out, len(ids) * len(words.classes), "rows (image x class)"))
    finding = "{:.2f} labels >= 0.5 an image before, {:.2f} after".format(*counts[:2] / len(ids))
    log.found(f"{finding}; local views raised {counts[2]:,} and lowered {counts[3]:,}")


if __name__ == "__main__":
    main()
