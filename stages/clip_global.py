"""Stage clip_global: CLIP looks at every image, once (method section 1). Knows no classes and no text."""

from __future__ import annotations

from pathlib import Path

from ccd.artifacts import features_file, image_index
from ccd.images.batches import image_batches, indexed_files
from ccd.params.file import load
from ccd.params.sections import ClipGlobalParams, DatasetParams, TeacherParams
from ccd.runtime.console import StageLog
from ccd.runtime.hardware import from_rank0, merged, on_rank0, set_up_hardware, share
from ccd.runtime.launch import shared_stage
from ccd.runtime.store import open_store
from ccd.teacher.encode import encode_images, encoding, load_teacher


@shared_stage
def main(images: Path, out: Path) -> None:
    """Embed the whole images, squashed to a square."""
    size_px = load(ClipGlobalParams).image_size_px
    index = image_index.read(images)
    log = StageLog("clip_global")
    hardware = set_up_hardware()
    teacher = load_teacher(**load(TeacherParams).model_dump(), device=hardware.device)
    log.reads(f"{len(index):,} images", teacher.description, f"{size_px} px")
    files = indexed_files(load(DatasetParams).root, index)
    name = encoding(teacher, image_size_px=size_px)
    stored = open_store().features(name, [bytes.fromhex(digest) for digest in index.digests])
    attributes = {"teacher": teacher.description, "fingerprint": teacher.fingerprint, "image_size_px": str(size_px)}
    writing = features_file.writing(out, features_file.GLOBAL_SCHEMA, index.ids, teacher.embed_dim, attributes)
    with on_rank0(writing) as writer:
        missing = from_rank0(lambda: stored.restore(writer.write))
        rows_of_rank = share(missing, hardware.batch_size)
        batches = image_batches(files, rows_of_rank, size_px, hardware.batch_size, hardware.workers)
        encoded = stored.recording(merged(encode_images(teacher, batches, index.ids)))
        for rows, features in log.images(encoded, len(missing)):
            writer.write(rows, features)
    log.wrote((out, len(index), "images"))
    log.finding(
        f"{len(missing):,} encoded, {len(index) - len(missing):,} from the store;"
        f" {teacher.embed_dim} dimensions, teacher {teacher.fingerprint[:12]}"
    )


if __name__ == "__main__":
    main()
