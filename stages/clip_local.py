"""Stage clip_local: CLIP looks at every local view (method section 6)."""

from __future__ import annotations

from pathlib import Path

from ccd.artifacts import boxes_file, features_file, image_index
from ccd.artifacts.image_index import rows_of
from ccd.images.batches import indexed_files
from ccd.params.file import load
from ccd.params.sections import ClipLocalParams, DatasetParams, TeacherParams
from ccd.runtime.console import StageLog
from ccd.runtime.hardware import from_rank0, hardware, merged, on_rank0, share
from ccd.runtime.launch import shared_stage
from ccd.runtime.store import open_store
from ccd.teacher.encode import encode_images, encoding, load_teacher
from ccd.views.crops import view_batches, view_keys


@shared_stage
def main(images: Path, boxes: Path, out: Path) -> None:
    """Embed every box, cut from its image."""
    params = load(ClipLocalParams)
    index = image_index.read(images)
    views = boxes_file.read(boxes)
    log = StageLog("clip_local")
    place = hardware()
    count = len(views.image_ids)
    size_px = params.image_size_px
    owners = rows_of(boxes, "cam_boxes", views.image_ids, index.ids)
    teacher = load_teacher(**load(TeacherParams).model_dump(), device=place.device)
    log.reads(f"{count:,} views of {len(set(views.image_ids)):,} images", teacher.description, f"{size_px} px")
    files = indexed_files(load(DatasetParams).root, index)
    cut = params.model_dump(exclude={"image_size_px"})
    kept = open_store().features(encoding(teacher, **dict(params)), view_keys(index.digests, owners, views.boxes_px))
    about = {"teacher": teacher.description, "fingerprint": teacher.fingerprint} | {k: str(v) for k, v in params}
    with on_rank0(
        features_file.writing(out, features_file.LOCAL_SCHEMA, range(count), teacher.embed_dim, about)
    ) as writer:
        missing = from_rank0(lambda: kept.restore(writer.write))
        batches = view_batches(
            files,
            index.sizes_px,
            owners,
            views.boxes_px,
            share(missing),
            size_px,
            teacher.stride_px,
            place.batch_size,
            place.workers,
            **cut,
        )
        encoded = kept.recording(merged(encode_images(teacher, batches, views.image_ids)))
        for rows, values in log.batches(encoded, len(missing), "view"):
            writer.write(rows, values)
    log.wrote((out, count, "views"))
    log.found(f"{len(missing):,} encoded, {count - len(missing):,} from the store")


if __name__ == "__main__":
    main()
