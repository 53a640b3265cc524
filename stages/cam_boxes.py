"""Stage cam_boxes: the student's class activation maps propose local views (method section 5)."""

from __future__ import annotations

from pathlib import Path

from ccd.artifacts import boxes_file, checkpoint_file, image_index
from ccd.images.batches import indexed_files
from ccd.params.file import load
from ccd.params.sections import CamBoxesParams, DatasetParams
from ccd.runtime.console import StageLog
from ccd.runtime.hardware import hardware
from ccd.runtime.launch import shared_stage
from ccd.student.model import StudentSpec, restore_student
from ccd.student.propose import Ask, propose_views


@shared_stage
def main(images: Path, warmup: Path, out: Path) -> None:
    """Ask for views where the warmed-up student sees a class, and box the peaks of its maps."""
    params = load(CamBoxesParams)
    index = image_index.read(images).train()
    log = StageLog("cam_boxes")
    place = hardware()
    files = indexed_files(load(DatasetParams).root, index)
    found = checkpoint_file.read(warmup, "warmup")
    spec = StudentSpec.from_dict(found.spec)
    student = restore_student(spec, found.weights[found.selected])
    log.reads(f"{len(index):,} images", f"warmed-up {spec.backbone}", f"{params.image_size_px} px")
    ask = Ask(params.tau, params.views_per_image)
    how = params.model_dump(
        include={"cam_threshold", "offset", "connected_components", "boxes_per_class", "min_side_px"}
    )
    size_px = params.image_size_px
    merge = params.least_shared_iou
    views = propose_views(student, files, index, spec.classes, ask, size_px, place, log, how, merge, params.tiles)
    boxes_file.write(out, views)
    log.wrote((out, len(views.image_ids), "boxes"))
    tau = float(views.metadata["tau"])
    bare = len(index) - views.asking_images
    log.found(f"tau = {tau:.4f}: {len(views.asked) / len(index):.2f} views an image; {bare:,} images have none")


if __name__ == "__main__":
    main()
