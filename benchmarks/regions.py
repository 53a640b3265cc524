"""Measures what views cost: regions from clip_global's own pass, and crops, which clip_local encodes one by one."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np
import torch

from benchmarks.measure import Watch, Work, interleaved, ratio, typical
from benchmarks.networks import SHAPES, teacher_of
from benchmarks.photos import index_of, photos_of
from benchmarks.settings import Settings
from benchmarks.tables import Table, speed
from benchmarks.teacher import VIEWS_PER_IMAGE, boxes_on, write_features
from ccd.artifacts import boxes_file, features_file
from ccd.images.batches import ImageFiles, image_batches
from ccd.teacher.clip_teacher import Teacher
from ccd.teacher.dense import Attention, WithRegions
from ccd.teacher.encode import encode_images
from ccd.views.crops import crop_batches, plan_crops
from ccd.views.regions import unpacked

MODELS = ("ViT-B/16", "RN50")
REGIONS = 6
PLAIN = "no regions"
REGIONS_OF: dict[str, tuple[int, Attention]] = {
    PLAIN: (0, "sclip"),
    f"{REGIONS} regions": (REGIONS, "sclip"),
    f"{REGIONS} regions, sc_clip": (REGIONS, "sc_clip"),
}
CROPS = f"{VIEWS_PER_IMAGE} crops an image, a pass of their own"
COLUMNS = ("model", "pass", "per run", "images /s", "time, no regions = 100%", "processor time")
NOTE = (
    "From files on disk to feature files, by the library. The last row of a model is the second pass alone, which "
    "comes on top of the first; regions are made in the first. Processor time is this process's, of whole runs, which "
    "other work on the machine changes least; without decoding where other processes do that. Batches of {}, {} "
    "processes that decode; {} interleaved rounds; medians of rates and of the rounds' own ratios. A run's first batch "
    "counts in no rate."
)


def measure_regions(settings: Settings) -> Table:
    """Measure the pass of clip_global without and with regions, and that of clip_local."""
    paths = photos_of(settings.images, settings.work / "photos", settings.count)
    rows = [row for name in MODELS for row in _passes(settings, name, paths)]
    note = NOTE.format(settings.batch_size, settings.hardware.workers, settings.repeats)
    return Table("What views cost", note, COLUMNS, rows)


def _passes(settings: Settings, name: str, paths: list[Path]) -> list[list[str]]:
    teacher, tower = teacher_of(name, settings.hardware.device, settings.teacher_precision)
    size_px = SHAPES[name][-1]
    variants: dict[str, Work] = {
        title: partial(_whole, settings, WithRegions(teacher, *options), paths, size_px)
        for title, options in REGIONS_OF.items()
        if options[1] == "sclip" or hasattr(tower.module, "transformer")
    }
    variants[CROPS] = partial(_crops, settings, teacher, paths, size_px)
    spent_s: dict[str, list[float]] = {title: [] for title in variants}

    def clocked(work: Work, spent: list[float], watch: Watch) -> int:
        begun = time.process_time()
        count = work(watch)
        spent.append(time.process_time() - begun)
        return count

    timed: dict[str, Work] = {title: partial(clocked, work, spent_s[title]) for title, work in variants.items()}
    teacher.encode_image(torch.zeros((1, 3, size_px, size_px), dtype=torch.uint8))  # initialises the device
    rounds = interleaved(timed, settings.repeats)
    rows = []
    for title, found in rounds.items():
        each = VIEWS_PER_IMAGE if title == CROPS else 1
        share = each * ratio(rounds[PLAIN], found)
        rate = speed(typical(found).rate / each)
        spent = median(one / plain for one, plain in zip(spent_s[title], spent_s[PLAIN], strict=True))
        head = [f"{name} at {size_px} px", title, f"{len(paths)} images"]
        rows.append([*head, rate, f"{share:.0%}", f"{spent:.0%}"])
    return rows


def _whole(settings: Settings, encoder: WithRegions, paths: list[Path], size_px: int, watch: Watch) -> int:
    """Encode whole images as stage clip_global does."""
    teacher = encoder.teacher
    count = len(paths)
    ids = [str(number) for number in range(count)]
    sizes_px = index_of(paths).sizes_px
    batches = image_batches(ImageFiles(paths), range(count), size_px, settings.batch_size, settings.hardware.workers)
    width = teacher.embed_dim
    writing = features_file.writing(settings.work / "features.h5", features_file.GLOBAL_SCHEMA, ids, width, {})
    with (
        writing as writer,
        boxes_file.writing_regions(settings.work / "regions.h5", ids, encoder.regions, width, {}) as region_writer,
    ):
        for rows, encoded in encode_images(encoder, batches, ids):
            features, boxes_px, region_features = unpacked(encoded, encoder.regions, sizes_px[rows])
            writer.write(rows, features)
            region_writer.write(rows, boxes_px, region_features)
            watch.batch(len(rows))
    return count


def _crops(settings: Settings, teacher: Teacher, paths: list[Path], size_px: int, watch: Watch) -> int:
    """Encode crops as stage clip_local does; the watch counts crops."""
    sizes_px = index_of(paths).sizes_px
    owners = np.repeat(np.arange(len(paths)), VIEWS_PER_IMAGE)
    plan = plan_crops(
        owners,
        boxes_on(sizes_px[owners]),
        sizes_px,
        longer_px=size_px,
        stride_px=teacher.stride_px,
        source="original",
        resized_px=size_px,
    )
    batches = crop_batches(ImageFiles(paths), plan, settings.batch_size, settings.hardware.workers)
    return write_features(settings, teacher, batches, len(owners), watch)
