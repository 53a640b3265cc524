"""Stage clip_global: CLIP looks at every image, once (method section 1). Knows no classes and no text."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

import numpy as np

from ccd.artifacts import boxes_file, features_file, image_index
from ccd.images.batches import image_batches, indexed_files
from ccd.params.file import load
from ccd.params.sections import ClipGlobalParams, DatasetParams, RuntimeParams, TeacherParams
from ccd.runtime.console import StageLog
from ccd.runtime.hardware import from_rank0, merged, on_rank0, set_up_hardware, share
from ccd.runtime.launch import shared_stage
from ccd.runtime.store import open_store
from ccd.teacher.dense import WithRegions
from ccd.teacher.encode import encode_images, load_teacher
from ccd.views.regions import unpacked


@shared_stage
def main(images: Path, out: Path, regions: Path, shard: str | None = None) -> None:
    """Embed the whole images, squashed to a square, and their regions from the same pass; or --shard I/N of them."""
    params = load(ClipGlobalParams)
    size_px = params.image_size_px
    index = image_index.read(images)
    log = StageLog("clip_global")
    hardware = set_up_hardware()
    store = open_store()
    teacher = load_teacher(**load(TeacherParams).model_dump(), device=hardware.device, store=store)
    encoder = WithRegions(teacher, params.regions, params.region_attention)
    log.reads(f"{len(index):,} images", teacher.description, f"{size_px} px")
    files = indexed_files(load(DatasetParams).root, index, load(RuntimeParams).cache_gb)
    keys = [bytes.fromhex(digest) for digest in index.digests]
    shards = features_file.Shards(out, shard, encoder.encoding(image_size_px=size_px), keys)
    stored = store.features(shards.store_name, keys)
    attributes = {"teacher": teacher.description, "fingerprint": teacher.fingerprint, "image_size_px": str(size_px)}
    writing = features_file.writing(out, features_file.GLOBAL_SCHEMA, index.ids, teacher.embed_dim, attributes)
    writing_regions = boxes_file.writing_regions(regions, index.ids, params.regions, teacher.embed_dim, attributes)
    part = None if shard is None else shards.writing(encoder.width)  # of rows with an image and its regions
    with on_rank0(part or writing) as writer, on_rank0(nullcontext() if part else writing_regions) as region_writer:

        def write(rows: np.ndarray, encoded: np.ndarray) -> None:
            if region_writer is None:
                return writer.write(rows, encoded)
            features, boxes_px, region_features = unpacked(encoded, params.regions, index.sizes_px[rows])
            writer.write(rows, features)
            region_writer.write(rows, boxes_px, region_features)

        missing = from_rank0(lambda: shards.restore(stored, write))
        rows_of_rank = share(missing, hardware.batch_size)
        on_gpu = hardware.device.type == "cuda"
        batches = image_batches(files, rows_of_rank, size_px, hardware.batch_size, hardware.workers, pin_memory=on_gpu)
        encoded = stored.recording(merged(encode_images(encoder, batches, index.ids)))
        for rows, features in log.images(encoded, len(missing)):
            write(rows, features)
    regions_written = [] if shard else [(regions, params.regions, "regions an image at most")]
    log.wrote((shards.path, len(shards.rows), "images"), *regions_written)
    log.finding(
        f"{len(missing):,} encoded, {len(shards.rows) - len(missing):,} from {shards.source};"
        f" {teacher.embed_dim} dimensions, teacher {teacher.fingerprint[:12]}"
    )


if __name__ == "__main__":
    main()
