"""Boxes, corrections and labels that a study gives to the main stages in place of the method's own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ccd.artifacts import boxes_file, class_table, features_file, image_index, text_file
from ccd.artifacts.class_table import GLOBAL_LABELS, LABELS, PSEUDO_LABELS
from ccd.artifacts.image_index import ImageIndex, rows_of
from ccd.errors import CcdError
from ccd.labels.debias import nobody_decided
from ccd.labels.scores import clip_probs, entropy_nats
from ccd.params.file import PARAMS_FILE, load
from ccd.params.presets import override
from ccd.params.sections import CamBoxesParams, DatasetParams, IndexParams
from ccd.views.boxes import tiles
from studies import cdul
from studies.annotations import require_boxes, true_boxes
from studies.boxes import around_boxes, box_table, random_boxes
from studies.classes import settings
from studies.corrected import give_corrections, known_rows
from studies.run import Run
from studies.spec import Strategy, Study, Variant

GRID = 3


def chosen_images(ids: Sequence[str], count: int | None) -> frozenset[str] | None:
    """``count`` of the training images, the same for every variant and seed; None: all of them."""
    if count is None or count >= len(ids):
        return None
    return frozenset(ids[row] for row in np.random.default_rng(0).choice(len(ids), count, replace=False))


def check(study: Study, data: Path, params: Path) -> None:
    """Refuse at once what a run would refuse only when it is reached.

    Args:
        data: the main pipeline's artifacts.

    Raises:
        CcdError: a parameter that a variant sets does not exist or fit, too few classes are left, no synonym is known,
            or the data set does not have the boxes or the true labels that a variant is given, or not enough of them.
    """
    text = params.read_text(encoding="utf-8")
    variants = study.rows().values()
    for variant in variants:
        override(text, settings(study, variant, study.seeds[0], data, params))
    if any(variant.boxes not in (None, "grid") for variant in variants):
        require_boxes(load(IndexParams, params).adapter)
    if any(variant.labels == "truth" for variant in variants):
        known = class_table.read(data / "labels.parquet", LABELS)
        truth_columns(known, image_index.read(data / "images.parquet").train().ids)
    most = max((variant.corrections.images for variant in variants if variant.corrections), default=0)
    if most:
        known = class_table.read(data / "labels.parquet", LABELS)
        count = len(known_rows(image_index.read(data / "images.parquet").train(), known))
        if count < most:
            raise CcdError(f"a study corrects {most} training images, and only {count} have known labels")


def give(run: Run, variant: Variant, seed: int, index: ImageIndex, ids: frozenset[str] | None) -> None:
    """Put the boxes, corrections and labels that the ``variant`` states into the run; with none it does nothing.

    Args:
        index: the training images.
        ids: those that get boxes; None: all.
    """
    if variant.boxes is not None:
        wanted = index if ids is None else index.take(np.flatnonzero([image in ids for image in index.ids]))
        views = _views(variant.boxes, run.folder, wanted, seed)
        boxes_file.write(run.give("boxes.parquet"), views)
    if variant.corrections is not None:
        give_corrections(run, variant.corrections, seed, index)
    if variant.labels == "cdul":
        run.repro("global_labels", "clip_local")
        whole = class_table.read(run.data / "global_labels.parquet", GLOBAL_LABELS)
        _give_labels(run, whole.ids, whole.classes, cdul_columns(run.data, whole), alpha=0.5)
    elif variant.labels == "truth":
        known = class_table.read(run.data / "labels.parquet", LABELS)
        _give_labels(run, index.ids, known.classes, truth_columns(known, index.ids), alpha=0.0)


def _views(strategy: Strategy, folder: Path, index: ImageIndex, seed: int) -> boxes_file.BoxTable:
    if strategy == "grid":
        boxes_px = tiles(index.sizes_px, GRID)
        return box_table(index.ids, [[""] * GRID**2] * len(index), list(boxes_px))
    params = load(IndexParams, folder / PARAMS_FILE)
    root = load(DatasetParams, folder / PARAMS_FILE).root
    objects = true_boxes(params, folder / root, index)
    offset = load(CamBoxesParams, folder / PARAMS_FILE).offset if strategy == "around" else 0.0
    boxes = [around_boxes(each, size, offset) for each, size in zip(objects, index.sizes_px, strict=True)]
    if strategy == "random":
        return box_table(index.ids, [[""] * len(each) for each in boxes], random_boxes(boxes, index.sizes_px, seed))
    return box_table(index.ids, [[one.name for one in each] for each in objects], boxes)


def cdul_columns(data: Path, whole: class_table.ClassTable) -> dict[str, np.ndarray]:
    """CDUL's initial labels as the columns of ``pseudo_labels.parquet``: the local ones are the tiles' score."""
    views = boxes_file.read(data / "boxes.parquet")
    looked = features_file.read(data / "clip_local.h5", features_file.LOCAL_SCHEMA)
    words = text_file.read(data / "text.h5")
    tile_probs = clip_probs(looked.values, words.values, words.logit_scale)
    rows = rows_of(data / "boxes.parquet", "cam_boxes", views.image_ids, whole.ids)
    prob = whole.columns["prob"]
    local = cdul.tile_score(tile_probs, rows, len(whole.ids))
    label = cdul.initial_labels(prob, local)
    return _columns(prob, local, prob, local, label)


def truth_columns(known: class_table.ClassTable, ids: Sequence[str]) -> dict[str, np.ndarray]:
    """The true labels of the images ``ids`` as the columns of ``pseudo_labels.parquet``; a difficult object is present.

    Raises:
        CcdError: a training image has no known labels.
    """
    place = {image: row for row, image in enumerate(known.ids)}
    missing = [image for image in ids if image not in place]
    if missing:
        raise CcdError(
            f"{len(missing)} training images have no known labels, the first is {missing[0]}: full supervision needs"
            " all; take the variant out of studies/params.yaml"
        )
    label = known.columns["label"][[place[image] for image in ids]].astype(np.float32)
    return _columns(label, label, label, label, label)


def _columns(
    global_prob: np.ndarray,
    local_prob: np.ndarray,
    global_label: np.ndarray,
    local_label: np.ndarray,
    label: np.ndarray,
) -> dict[str, np.ndarray]:
    return {
        "global_prob": global_prob,
        "local_prob": local_prob,
        "global_label": global_label,
        "local_label": local_label,
        "label": label,
        "box_id": np.full(label.shape, -1, np.int64),
        **nobody_decided(label.shape),
    }


def _give_labels(
    run: Run, ids: Sequence[str], classes: tuple[str, ...], columns: dict[str, np.ndarray], alpha: float
) -> None:
    """The same labels to the warm-up and to the final training."""
    label = columns["label"]
    first = {
        "prob": columns["global_prob"],
        "entropy_nats": np.broadcast_to(entropy_nats(columns["global_prob"])[:, None], label.shape),
        "label": label,
    }
    class_table.write(run.give("global_labels.parquet"), GLOBAL_LABELS, class_table.ClassTable(ids, classes, first, {}))
    final = class_table.ClassTable(ids, classes, columns, {"alpha": repr(alpha)})
    class_table.write(run.give("pseudo_labels.parquet"), PSEUDO_LABELS, final)
