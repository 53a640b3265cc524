"""Stage aggregate: global and local labels become the training targets (method sections 6 and 7)."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ccd.artifacts import class_table
from ccd.artifacts.aggregate_inputs import AggregateInputs, Piece
from ccd.artifacts.class_table import PSEUDO_LABELS
from ccd.labels import debias
from ccd.labels.debias import LocalViews, Sharpening, WholeImages
from ccd.labels.scores import Scoring
from ccd.params.file import load
from ccd.params.sections import AggregateParams, DatasetParams, GlobalLabelsParams
from ccd.runtime.console import StageLog
from ccd.runtime.launch import stage
from ccd.views.overlap import contested_probs


@stage
def main(
    global_labels: Path, none: Path, clip_local: Path, text: Path, bias: Path, boxes: Path, corrections: Path, out: Path
) -> None:
    """Score the local views, take the best of each image, mix with the global label, and apply human corrections."""
    params = load(AggregateParams)
    floor = load(GlobalLabelsParams).floor
    log = StageLog("aggregate")
    root = Path(load(DatasetParams).root)
    inputs = AggregateInputs(global_labels, none, clip_local, text, bias, boxes, corrections, root)
    classes = inputs.text.classes
    corrected_count = len(inputs.corrections.labels)
    view_count = len(inputs.views.image_ids)
    log.reads(f"{len(inputs.ids):,} images", f"{view_count:,} local views", f"{corrected_count:,} corrections")
    score = Scoring(inputs.text, inputs.mean_cosines)

    def columns_of(piece: Piece, sharpen: Sharpening = debias.MIXED) -> dict[str, np.ndarray]:
        probs = score(inputs.features_of(piece))
        probs = contested_probs(
            probs, piece.global_prob, piece.image_rows, piece.requested_by, piece.boxes_px, params.least_contest_iou
        )
        images = WholeImages(piece.global_prob, piece.global_label, piece.weights)
        views = LocalViews(probs, piece.image_rows, piece.box_ids)
        return debias.pseudo_labels(images, views, inputs.bias, floor, params.alpha, sharpen)

    mixed = (columns_of(piece)["label"] for piece in inputs.pieces())
    sharpen = debias.sharpening(params.sharpen_width, params.sharpen_at, mixed)
    middles = class_table.middles_metadata(classes, sharpen.by_class)
    metadata = {"alpha": repr(params.alpha), **inputs.background.summary(), **middles}
    changes = np.zeros(4, np.int64)
    with class_table.writing(out, PSEUDO_LABELS, classes, metadata) as table:
        for piece in inputs.pieces():
            columns = columns_of(piece, sharpen)
            changes += debias.label_changes(columns)
            columns |= debias.corrected(columns["label"], piece.decided, params.correction_weight)
            table.write(piece.ids, columns)
    log.wrote((out, len(inputs.ids) * len(classes), "rows (image x class)"))
    before, after, raised, lowered = changes
    log.finding(
        f"labels >= 0.5 per training image: {before / len(inputs.ids):.2f} from the whole image,"
        f" {after / len(inputs.ids):.2f} with local views,"
        f" which raised {raised:,} to 0.5 or more and took {lowered:,} below"
        f"{'; corrections come on top' if corrected_count else ''}"
    )


if __name__ == "__main__":
    main()
