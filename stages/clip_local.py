"""Stage clip_local: CLIP looks at every local view (method section 6)."""

from __future__ import annotations

from pathlib import Path

from ccd.artifacts import boxes_file, features_file, image_index
from ccd.artifacts.image_index import rows_of
from ccd.images.batches import indexed_files
from ccd.params.file import load
from ccd.params.sections import ClipLocalParams, DatasetParams, TeacherParams
from ccd.runtime.console import StageLog
from ccd.runtime.hardware import from_rank0, merged, on_rank0, set_up_hardware, share
from ccd.runtime.launch import shared_stage
from ccd.runtime.store import open_store
from ccd.teacher.encode import encode_images, encoding, load_teacher
from ccd.views.crops import crop_batches, plan_crops, view_keys


@shared_stage
def main(images: Path, boxes: Path, out: Path) -> None:
    """Embed every box, cut from its image."""
    params = load(ClipLocalParams)
    index = image_index.read(images)
    views = boxes_file.read(boxes)
    count = len(views.image_ids)
    log = StageLog("clip_local")
    hardware = set_up_hardware()
    image_rows = rows_of(boxes, "cam_boxes", views.image_ids, index.ids)
    teacher = load_teacher(**load(TeacherParams).model_dump(), device=hardware.device)
    log.reads(
        f"{count:,} views of {len(set(views.image_ids)):,} images", teacher.description, f"{params.image_size_px} px"
    )
    plan = plan_crops(
        image_rows,
        views.boxes_px,
        index.sizes_px,
        longer_px=params.image_size_px,
        stride_px=teacher.stride_px,
        **params.model_dump(exclude={"image_size_px"}),
    )
    files = indexed_files(load(DatasetParams).root, index)
    keys = view_keys(index.digests, image_rows, views.boxes_px)
    stored = open_store().features(encoding(teacher, **dict(params)), keys)
    attributes = {"teacher": teacher.description, "fingerprint": teacher.fingerprint}
    attributes |= {key: str(value) for key, value in params}
    writing = features_file.writing(out, features_file.LOCAL_SCHEMA, range(count), teacher.embed_dim, attributes)
    with on_rank0(writing) as writer:
        missing = from_rank0(lambda: stored.restore(writer.write))
        batches = crop_batches(files, plan.take(share(missing)), hardware.batch_size, hardware.workers)
        encoded = stored.recording(merged(encode_images(teacher, batches, views.image_ids)))
        for rows, features in log.batches(encoded, len(missing), "view"):
            writer.write(rows, features)
    log.wrote((out, count, "views"))
    log.finding(f"{len(missing):,} encoded, {count - len(missing):,} from the store")


if __name__ == "__main__":
    main()
