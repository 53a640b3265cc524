"""Stage aggregate: global and local labels become the training targets (method sections 6 and 7)."""

from __future__ import annotations

from pathlib import Path

from ccd.artifacts import bias as bias_file, boxes as box_file, class_table, features, text as text_file
from ccd.artifacts.align import rows_of, same_classes, same_ids, same_teacher
from ccd.artifacts.corrections import read as read_corrections
from ccd.artifacts.global_labels import SPEC as GLOBAL_LABELS
from ccd.artifacts.pseudo_labels import SPEC as PSEUDO_LABELS
from ccd.console import StageLog, stage
from ccd.labels.corrections import corrected
from ccd.labels.debias import pseudo_labels
from ccd.labels.scores import clip_probs
from ccd.params.aggregate import AggregateParams
from ccd.params.base import load
from ccd.params.global_labels import GlobalLabelsParams


@stage
def main(global_labels: Path, clip_local: Path, text: Path, bias: Path, boxes: Path, corrections: Path,
         out: Path) -> None:  # fmt: skip
    """Score the local views, take the best of each image, mix with the global label, and let people's word count."""
    params, floor, log = load(AggregateParams), load(GlobalLabelsParams).floor, StageLog("aggregate")
    whole, words, debias = class_table.read(global_labels, GLOBAL_LABELS), text_file.read(text), bias_file.read(bias)
    views, looked = box_file.read(boxes), features.read(clip_local, features.LOCAL_SCHEMA)
    same_ids(clip_local, "clip_local", looked.ids, range(len(views.image_ids)))
    same_teacher(clip_local, "clip_local", looked.attributes, words.attributes)
    for path, found in ((bias, debias), (global_labels, whole)):
        same_classes(path, path.stem, found.classes, words.classes)
    image_rows = rows_of(boxes, "cam_boxes", views.image_ids, whole.ids)
    people = read_corrections(corrections, whole.ids, words.classes)
    log.reads(f"{len(whole.ids):,} images", f"{len(image_rows):,} local views", f"{len(people.labels):,} corrections")
    probs, alpha = clip_probs(looked.values, words.values, words.logit_scale), params.alpha
    columns = pseudo_labels(whole.columns["prob"], whole.columns["label"], probs, image_rows, debias.bias, floor, alpha)
    before, after = columns["global_label"] >= 0.5, columns["label"] >= 0.5
    columns |= corrected(columns["label"], people.of_images(0, len(whole.ids)), params.correction_weight)
    table = class_table.ClassTable(whole.ids, words.classes, columns, {"alpha": repr(alpha)})
    class_table.write(out, PSEUDO_LABELS, table)
    log.wrote((out, columns["label"].size, "rows (image x class)"))
    counts = f"{before.sum(axis=1).mean():.2f} labels >= 0.5 an image before, {after.sum(axis=1).mean():.2f} after"
    log.found(f"{counts}; local views raised {(after & ~before).sum():,} and lowered {(before & ~after).sum():,}")


if __name__ == "__main__":
    main()
