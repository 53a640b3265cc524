"""Stage clip_local: CLIP looks at the local views (method section 6); regions have their embeddings already."""

from __future__ import annotations

from pathlib import Path

from ccd.artifacts import boxes_file, features_file, image_index
from ccd.images.batches import indexed_files
from ccd.params.file import load
from ccd.params.sections import ClipLocalParams, DatasetParams, RuntimeParams, TeacherParams
from ccd.runtime.console import StageLog
from ccd.runtime.hardware import end_other_ranks, from_rank0, merged, on_rank0, set_up_hardware, share
from ccd.runtime.launch import shared_stage
from ccd.runtime.store import open_store
from ccd.teacher.encode import encode_images, encoding, load_teacher
from ccd.views.crops import crop_batches, plan_crops, view_keys


@shared_stage
def main(images: Path, boxes: Path, regions: Path, out: Path, shard: str | None = None) -> None:
    """Embed every box that is no region and copy the regions' embeddings; or, of these boxes, embed --shard I/N."""
    params = load(ClipLocalParams)
    index = image_index.read(images)
    views = boxes_file.read(boxes)
    count = len(views.image_ids)
    log = StageLog("clip_local")
    hardware = set_up_hardware()
    image_rows = image_index.rows_of(boxes, "cam_boxes", views.image_ids, index.ids)
    known = boxes_file.embedded_views(regions, boxes, views, image_rows, index.ids)
    attributes = known.teacher | params.attributes()
    if known.all_views and shard is None:
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
    files = indexed_files(load(DatasetParams).root, index, load(RuntimeParams).cache_gb)
    places = cut if shard is None else plan.ids  # rows of the file to write
    keys = view_keys(index.digests, plan.image_rows, plan.boxes_px)
    shards = features_file.Shards(out, shard, encoding(teacher, (), **settings), keys)
    stored = store.features(shards.store_name, keys)
    writing = features_file.writing(out, features_file.LOCAL_SCHEMA, range(count), teacher.embed_dim, attributes)
    with on_rank0(writing if shard is None else shards.writing(teacher.embed_dim)) as writer:
        from_rank0(lambda: known.copy(writer.write) if shard is None else None)
        missing = from_rank0(lambda: shards.restore(stored, lambda rows, each: writer.write(places[rows], each)))
        on_gpu = hardware.device.type == "cuda"
        batches = crop_batches(
            files, plan.take(share(missing)), hardware.batch_size, hardware.workers, pin_memory=on_gpu
        )
        encoded = stored.recording(merged(encode_images(teacher, batches, names)))
        for rows, features in log.batches(encoded, len(missing), "view"):
            writer.write(places[rows], features)
    log.wrote((shards.path, count if shard is None else len(shards.rows), "views"))
    log.finding(f"{len(missing):,} encoded, {len(shards.rows) - len(missing):,} from {shards.source}")


if __name__ == "__main__":
    main()
