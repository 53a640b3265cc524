"""Stage clip_local: CLIP looks at every local view (method section 6)."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ccd.artifacts import boxes as box_file, features, image_index
from ccd.artifacts.align import rows_of
from ccd.console import StageLog, stage
from ccd.loading import indexed_files
from ccd.params.base import load
from ccd.params.clip_local import ClipLocalParams
from ccd.params.dataset import DatasetParams
from ccd.params.teacher import TeacherParams
from ccd.runtime import hardware
from ccd.teacher import encode_images, load_teacher
from ccd.views.crops import view_batches


@stage
def main(images: Path, boxes: Path, out: Path) -> None:
    """Embed every box, cut from its image."""
    params, index, views = load(ClipLocalParams), image_index.read(images), box_file.read(boxes)
    log, place, count = StageLog("clip_local"), hardware(), len(views.image_ids)
    image_rows = rows_of(boxes, "cam_boxes", views.image_ids, index.ids)
    teacher = load_teacher(**load(TeacherParams).model_dump(), device=place.device)
    log.reads(
        f"{count:,} views of {len(np.unique(image_rows)):,} images", teacher.description, f"{params.image_size_px} px"
    )
    batches = view_batches(
        indexed_files(load(DatasetParams).root, index), index.sizes_px, image_rows, views.boxes_px,
        params.image_size_px, teacher.stride_px, place.batch_size, place.workers,
        source=params.source, resized_px=params.resized_px,
    )  # fmt: skip
    attributes = {"teacher": teacher.description, "fingerprint": teacher.fingerprint} | {k: str(v) for k, v in params}
    with features.writing(out, features.LOCAL_SCHEMA, np.arange(count), teacher.embed_dim, attributes) as writer:
        for rows, values in log.batches(encode_images(teacher, batches), count, "view"):
            writer.write(rows, values)
    log.wrote((out, count, "views"))


if __name__ == "__main__":
    main()
