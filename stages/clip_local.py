"""Stage clip_local: CLIP looks at the local views (method section 6); regions have their embeddings already."""

from __future__ import annotations

from pathlib import Path

from ccd.artifacts import boxes_file, features_file, image_index
from ccd.artifacts.image_index import rows_of
from ccd.images.batches import indexed_files
from ccd.params.file import load
from ccd.params.sections import ClipLocalParams, DatasetParams, TeacherParams
from ccd.runtime.console import StageLog
from ccd.runtime.hardware import end_other_ranks, from_rank0, merged, on_rank0, set_up_hardware, share
from ccd.runtime.launch import shared_stage
from ccd.runtime.store import open_store
from ccd.teacher.encode import encode_images, encoding, load_teacher
from ccd.views.crops import crop_batches, plan_crops, view_keys


@shared_stage
def main(images: Path, boxes: Path, regions: Path, out: Path) -> None:
    """Embed every box that is no region, cut from its image, and copy the regions' embeddings."""
    params = load(ClipLocalParams)
    index = image_index.read(images)
    views = boxes_file.read(boxes)
    count = len(views.image_ids)
    log = StageLog("clip_local")
    hardware = set_up_hardware()
    image_rows = rows_of(boxes, "cam_boxes", views.image_ids, index.ids)
    known = boxes_file.embedded_views(regions, boxes, views, image_rows, index.ids)
    attributes = known.teacher | params.attributes()
    if known.all_views:
        end_other_ranks()
        with features_file.writing(out, features_file.LOCAL_SCHEMA, range(count), known.width, attributes) as writer:
            known.copy(writer.write)
        log.wrote((out, count, "views"))
        log.finding("0 encoded, 0 from the store; all are regions, embedded by clip_global")
        return
    store = open_store()
    teacher = load_teacher(**load(TeacherParams).model_dump(), device=hardware.device, store=store)
    settings = params.attributes(params.image_size_px // teacher.stride_px)
    attributes |= settings | {"teacher": teacher.description, "fingerprint": teacher.fingerprint}
    known.check_teacher(attributes)
    cut = known.others  # rows of boxes.parquet
    names = image_index.Names(views.image_ids).take(cut)
    log.reads(f"{len(cut):,} views of {len(set(names)):,} images", teacher.description, f"{params.image_size_px} px")
    plan = plan_crops(
        image_rows[cut], views.boxes_px[cut], index.sizes_px, stride_px=teacher.stride_px, **params.of_crops
    )
    files = indexed_files(load(DatasetParams).root, index)
    keys = view_keys(index.digests, plan.image_rows, plan.boxes_px)
    stored = store.features(encoding(teacher, (), **settings), keys)
    writing = features_file.writing(out, features_file.LOCAL_SCHEMA, range(count), teacher.embed_dim, attributes)
    with on_rank0(writing) as writer:
        from_rank0(lambda: known.copy(writer.write))
        missing = from_rank0(lambda: stored.restore(lambda rows, features: writer.write(cut[rows], features)))
        on_gpu = hardware.device.type == "cuda"
        plan_of_rank = plan.take(share(missing))
        batches = crop_batches(files, plan_of_rank, hardware.batch_size, hardware.workers, pin_memory=on_gpu)
        encoded = stored.recording(merged(encode_images(teacher, batches, names)))
        for rows, features in log.batches(encoded, len(missing), "view"):
            writer.write(cut[rows], features)
    log.wrote((out, count, "views"))
    log.finding(f"{len(missing):,} encoded, {len(cut) - len(missing):,} from the store")


if __name__ == "__main__":
    main()
