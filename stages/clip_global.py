"""Stage clip_global: CLIP looks at every image, once (method section 1). Knows no classes and no text."""

from __future__ import annotations

from pathlib import Path

from ccd.artifacts import features_file, image_index
from ccd.images.batches import image_batches, indexed_files
from ccd.params.file import load
from ccd.params.sections import ClipGlobalParams, DatasetParams, TeacherParams
from ccd.runtime.console import StageLog
from ccd.runtime.hardware import from_rank0, hardware, merged, on_rank0, share
from ccd.runtime.launch import shared_stage
from ccd.runtime.store import open_store
from ccd.teacher.encode import encode_images, encoding, load_teacher


@shared_stage
def main(images: Path, out: Path) -> None:
    """Embed the whole images, squashed to a square."""
    size_px = load(ClipGlobalParams).image_size_px
    index = image_index.read(images)
    log = StageLog("clip_global")
    place = hardware()
    teacher = load_teacher(**load(TeacherParams).model_dump(), device=place.device)
    log.reads(f"{len(index):,} images", teacher.description, f"{size_px} px")
    files = indexed_files(load(DatasetParams).root, index)
    name = encoding(teacher, image_size_px=size_px)
    kept = open_store().features(name, [bytes.fromhex(each) for each in index.digests])
    origin = {"teacher": teacher.description, "fingerprint": teacher.fingerprint, "image_size_px": str(size_px)}
    with on_rank0(
        features_file.writing(out, features_file.GLOBAL_SCHEMA, index.ids, teacher.embed_dim, origin)
    ) as writer:
        missing = from_rank0(lambda: kept.restore(writer.write))
        batches = image_batches(files, share(missing, place.batch_size), size_px, place.batch_size, place.workers)
        encoded = kept.recording(merged(encode_images(teacher, batches, index.ids)))
        for rows, values in log.batches(encoded, len(missing), "img"):
            writer.write(rows, values)
    log.wrote((out, len(index), "images"))
    log.found(
        f"{len(missing):,} encoded, {len(index) - len(missing):,} from the store;"
        f" {teacher.embed_dim} dimensions, teacher {teacher.fingerprint[:12]}"
    )


if __name__ == "__main__":
    main()
