"""Stage aggregate: global and local labels become the training targets (method sections 6 and 7)."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ccd.artifacts import class_table
from ccd.artifacts.aggregate_inputs import AggregateInputs
from ccd.artifacts.class_table import PSEUDO_LABELS
from ccd.labels.debias import corrected, label_changes, pseudo_labels
from ccd.labels.scores import clip_probs
from ccd.params.file import load
from ccd.params.sections import AggregateParams, DatasetParams, GlobalLabelsParams
from ccd.runtime.console import StageLog
from ccd.runtime.launch import stage
from ccd.views.overlap import contested_probs


@stage
def main(
    global_labels: Path, none: Path, clip_local: Path, text: Path, bias: Path, boxes: Path, corrections: Path, out: Path
) -> None:
    """Score the local views, take the best of each image, mix with the global label, and let people's word count."""
    params = load(AggregateParams)
    floor = load(GlobalLabelsParams).floor
    log = StageLog("aggregate")
    root = Path(load(DatasetParams).root)
    made = AggregateInputs(global_labels, none, clip_local, text, bias, boxes, corrections, root)
    people = len(made.people.labels)
    words = made.words
    counts = np.zeros(4, np.int64)
    log.reads(f"{len(made.ids):,} images", f"{len(made.views.image_ids):,} local views", f"{people:,} corrections")
    with class_table.writing(
        out, PSEUDO_LABELS, words.classes, {"alpha": repr(params.alpha), **made.empty.summary()}
    ) as table:
        for some in made.pieces():
            probs = clip_probs(made.features_of(some), words.values, words.logit_scale)
            rows = some.image_rows
            iou = params.least_contest_iou
            first = some.global_prob
            q = some.global_label
            probs = contested_probs(probs, first, rows, some.asked_by, some.boxes_px, iou)
            columns = pseudo_labels(first, q, probs, rows, made.bias, floor, params.alpha, some.box_ids, some.weights)
            counts += label_changes(columns)
            table.write(some.ids, columns | corrected(columns["label"], some.decided, params.correction_weight))
    log.wrote((out, len(made.ids) * len(words.classes), "rows (image x class)"))
    before, after = counts[:2] / len(made.ids)
    said = f"labels >= 0.5 per training image: {before:.2f} from the whole image, {after:.2f} with local views"
    log.found(
        f"{said}, which raised {counts[2]:,} to 0.5 or more and took {counts[3]:,} below"
        f"{'; corrections come on top' if people else ''}"
    )


if __name__ == "__main__":
    main()
