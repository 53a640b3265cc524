"""Stage cam_boxes: the student's class activation maps propose local views (method section 5), and regions are some."""

from __future__ import annotations

from pathlib import Path

from ccd.artifacts import boxes_file, checkpoint_file, image_index
from ccd.images.batches import indexed_files
from ccd.params.file import load
from ccd.params.sections import CamBoxesParams, DatasetParams, RuntimeParams
from ccd.runtime.console import StageLog
from ccd.runtime.hardware import end_other_ranks, set_up_hardware
from ccd.runtime.launch import shared_stage
from ccd.student.model import StudentSpec, restore_student
from ccd.student.propose import ViewOptions, ViewQuota, choose_views, find_candidates


@shared_stage
def main(images: Path, warmup: Path, regions: Path, out: Path) -> None:
    """Ask for views where the warmed-up student sees a class, and box the peaks of its maps; add regions."""
    params = load(CamBoxesParams)
    every = image_index.read(images)
    index = every.train()
    log = StageLog("cam_boxes")
    hardware = set_up_hardware()
    options = ViewOptions(
        quota=ViewQuota(params.tau, params.views_per_image),
        size_px=params.image_size_px,
        boxes=params.model_dump(
            include={"cam_threshold", "offset", "connected_components", "boxes_per_class", "min_side_px"}
        ),
        shared_iou=params.least_shared_iou,
        tiles=params.tiles,
        kind=params.views,
        precision=params.precision,
    )
    regions_px = None
    if params.views != "cam":
        regions_px = boxes_file.RegionFile(regions, every.ids).boxes_px[every.train_rows]
    candidates = None
    classes: tuple[str, ...] = ()
    if params.views != "dense":
        checkpoint = checkpoint_file.read(warmup, "warmup")
        spec = StudentSpec.from_dict(checkpoint.spec)
        classes = spec.classes
        student = restore_student(spec, checkpoint.weights[checkpoint.selected])
        log.reads(f"{len(index):,} images", f"warmed-up {spec.backbone}", f"{params.image_size_px} px")
        files = indexed_files(load(DatasetParams).root, index, load(RuntimeParams).cache_gb)
        candidates = find_candidates(student, files, index, options, hardware, log.images)
    end_other_ranks()
    views = choose_views(candidates, index, classes, options, regions_px)
    boxes_file.write(out, views)
    log.wrote((out, len(views.image_ids), "boxes"))
    if params.views != "cam":
        log.finding(f"{(len(views.image_ids) - len(views.requested)) / len(index):.2f} regions and tiles an image")
    if candidates is not None:
        tau = float(views.metadata["tau"])
        without = len(index) - views.images_with_requests
        log.finding(
            f"tau = {tau:.4f}: {len(views.requested) / len(index):.2f} views an image; {without:,} images have none"
        )


if __name__ == "__main__":
    main()
