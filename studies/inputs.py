"""Boxes, corrections and labels of a study that replace those of the method in the main stages."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ccd.artifacts import bias_file, boxes_file, class_table, features_file, image_index, text_file
from ccd.artifacts.class_table import GLOBAL_LABELS, LABELS, PSEUDO_LABELS
from ccd.artifacts.image_index import ImageIndex, rows_of
from ccd.errors import CcdError
from ccd.labels.debias import nobody_decided
from ccd.labels.scores import Scoring, entropy_nats
from ccd.params.file import PARAMS_FILE, load
from ccd.params.presets import override
from ccd.params.sections import CamBoxesParams, DatasetParams, IndexParams, TeacherParams
from ccd.runtime.hardware import set_up_hardware
from ccd.student.propose import tiles
from ccd.teacher.dense import WithRegions
from ccd.teacher.encode import load_teacher
from studies import cdul
from studies.annotations import require_boxes, true_boxes
from studies.boxes import around_boxes, box_table, random_boxes
from studies.classes import settings
from studies.corrected import known_rows, write_corrections
from studies.run import Run
from studies.spec import Strategy, Study, Variant

GRID = 3


def chosen_images(ids: Sequence[str], count: int | None) -> frozenset[str] | None:
    """Draw ``count`` training images, the same for every variant and seed. None: all of them."""
    if count is None or count >= len(ids):
        return None
    return frozenset(ids[row] for row in np.random.default_rng(0).choice(len(ids), count, replace=False))


def check(study: Study, data: Path, params: Path) -> None:
    """Check before the first run that all runs are possible.

    Args:
        data: the main pipeline's artifacts.

    Raises:
        CcdError: a variant's parameter does not exist or fit, too few classes are left, no synonym is known, or the
            data set lacks the true boxes or labels that a variant needs.
    """
    text = params.read_text(encoding="utf-8")
    variants = study.rows().values()
    for variant in variants:
        override(text, settings(study, variant, study.seeds[0], data, params))
    if study.given is not None:  # its index is not made yet
        return
    if any(variant.boxes not in (None, "grid", "second_round") for variant in variants):
        require_boxes(load(IndexParams, params).adapter)
    if any(variant.labels == "truth" for variant in variants):
        labels = class_table.read(data / "labels.parquet", LABELS)
        truth_columns(labels, image_index.read(data / "images.parquet").train().ids)
    most = max((variant.corrections.images for variant in variants if variant.corrections), default=0)
    if most:
        labels = class_table.read(data / "labels.parquet", LABELS)
        count = len(known_rows(image_index.read(data / "images.parquet").train(), labels))
        if count < most:
            raise CcdError(f"a study corrects {most} training images, and only {count} have known labels")


def with_known_regions(study: Study, params: Path) -> tuple[Study, list[str]]:
    """Leave out the variants that set ``clip_global.regions`` where the teacher's image tower gives no regions.

    Returns:
        The study, and the names of the variants that are left out.
    """
    wanting = [name for name, variant in (study.variants or {}).items() if variant.set.get("clip_global.regions")]
    if study.given is not None or not wanting:
        return study, []
    teacher = load_teacher(**load(TeacherParams, params).model_dump(), device=set_up_hardware().device)
    try:
        WithRegions(teacher, 1)
    except CcdError:
        kept = {name: variant for name, variant in study.rows().items() if name not in wanting}
        return study.model_copy(update={"variants": kept}), wanting
    return study, []


def write_inputs(run: Run, variant: Variant, seed: int, index: ImageIndex, ids: frozenset[str] | None) -> None:
    """Write the boxes, corrections and labels of the ``variant``, if it has any, into the run.

    Args:
        index: the training images.
        ids: the images that get boxes; None: all. A second round gives all images boxes.
    """
    if variant.boxes == "second_round":
        run.repro("train")
        shutil.copyfile(run.data / "student.pt", run.replace_input("cam_boxes", "warmup.pt", "first_student.pt"))
    elif variant.boxes is not None:
        images = index if ids is None else index.take(np.flatnonzero([image in ids for image in index.ids]))
        views = _views(variant.boxes, run.folder, images, seed)
        boxes_file.write(run.replace_output("boxes.parquet"), views)
    if variant.corrections is not None:
        write_corrections(run, variant.corrections, seed, index)
    if variant.labels == "cdul":
        run.repro("global_labels", "clip_local")
        global_labels = class_table.read(run.data / "global_labels.parquet", GLOBAL_LABELS)
        _write_labels(run, global_labels.ids, global_labels.classes, cdul_columns(run.data, global_labels), alpha=0.5)
    elif variant.labels == "truth":
        labels = class_table.read(run.data / "labels.parquet", LABELS)
        _write_labels(run, index.ids, labels.classes, truth_columns(labels, index.ids), alpha=0.0)


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
    return box_table(index.ids, [[item.name for item in each] for each in objects], boxes)


def cdul_columns(data: Path, global_labels: class_table.ClassTable) -> dict[str, np.ndarray]:
    """Return CDUL's initial labels as columns of ``pseudo_labels.parquet``; local labels are the tiles' scores."""
    views = boxes_file.read(data / "boxes.parquet")
    features = features_file.read(data / "clip_local.h5", features_file.LOCAL_SCHEMA)
    text = text_file.read(data / "text.h5")
    tile_probs = Scoring(text, bias_file.read(data / "bias.json").mean_cosines)(features.values)
    rows = rows_of(data / "boxes.parquet", "cam_boxes", views.image_ids, global_labels.ids)
    prob = global_labels.columns["prob"]
    local = cdul.tile_score(tile_probs, rows, len(global_labels.ids))
    label = cdul.initial_labels(prob, local)
    return _columns(prob, local, prob, local, label)


def truth_columns(labels: class_table.ClassTable, ids: Sequence[str]) -> dict[str, np.ndarray]:
    """Return the true labels of the images ``ids`` as columns of ``pseudo_labels.parquet``.

    A difficult object counts as present.

    Raises:
        CcdError: a training image has no known labels.
    """
    row_of = {image: row for row, image in enumerate(labels.ids)}
    missing = [image for image in ids if image not in row_of]
    if missing:
        raise CcdError(
            f"{len(missing)} training images have no known labels, the first is {missing[0]}: full supervision needs"
            " all; take the variant out of studies/params.yaml"
        )
    label = labels.columns["label"][[row_of[image] for image in ids]].astype(np.float32)
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


def _write_labels(
    run: Run, ids: Sequence[str], classes: tuple[str, ...], columns: dict[str, np.ndarray], alpha: float
) -> None:
    """Write the same labels for the warm-up and for the final training."""
    label = columns["label"]
    global_columns = {
        "prob": columns["global_prob"],
        "entropy_nats": np.broadcast_to(entropy_nats(columns["global_prob"])[:, None], label.shape),
        "label": label,
    }
    first = class_table.ClassTable(ids, classes, global_columns, {})
    class_table.write(run.replace_output("global_labels.parquet"), GLOBAL_LABELS, first)
    final = class_table.ClassTable(ids, classes, columns, {"alpha": repr(alpha)})
    class_table.write(run.replace_output("pseudo_labels.parquet"), PSEUDO_LABELS, final)
