"""Measures clip_global and clip_local, from files to features, beside two references.

They are the bare model, and the published code's procedure: decode, resize and encode one picture at a time. A view is
a crop of an image that CLIP reads by itself.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from benchmarks.measure import Watch, Work, interleaved, ratio, typical
from benchmarks.networks import SHAPES, ready, teacher_of
from benchmarks.photos import index_of, photos_of
from benchmarks.settings import Settings
from benchmarks.tables import Table, speed
from ccd.artifacts import features_file
from ccd.images.batches import ImageFiles, image_batches
from ccd.teacher.clip_teacher import ImageTower, Teacher
from ccd.teacher.encode import encode_images
from ccd.views.crops import crop_batches, plan_crops

MODELS = ("ViT-B/32", "RN50")
MODELS_ON_GPU = ("RN50x64",)
VIEWS_PER_IMAGE = 4
ASPECTS = ((1.0, 1.0), (1.0, 0.75), (0.75, 1.0), (1.0, 0.5))  # width, height
COLUMNS = (
    "stage", "model", "per run", "library /s", "bare model /s", "efficiency", "one at a time /s", "speed-up",
    "library, first batch, s",
)  # fmt: skip
NOTE = (
    "Images (views) a second. Library: from files on disk to the feature file. Bare model: the image tower alone, on "
    "ready tensors of the same shapes and batch sizes. One at a time, as the published code does it: decode, resize, "
    "encode, next. Views have four shapes, so that batches fill as in a long run (a last batch of fewer than 16 is "
    "filled up with copies). Batches of {}, {} processes that decode; {} interleaved rounds. Rates are medians; "
    "efficiency (library / bare model) and speed-up (library / one at a time) are medians of the rounds' own ratios. A "
    "run's first batch, in which processes start and memory is claimed, counts in no rate."
)


def measure_teacher(settings: Settings) -> Table:
    """Measure both stages for every model that fits the device."""
    paths = photos_of(settings.images, settings.work / "photos", settings.count)
    rows = []
    for name in MODELS + MODELS_ON_GPU * settings.on_gpu:
        teacher, tower = teacher_of(name, settings.hardware.device)
        rows.append(_images(settings, name, paths, teacher, tower))
        rows.append(_views(settings, name, paths, teacher, tower))
    return Table(
        "clip_global and clip_local",
        NOTE.format(settings.batch_size, settings.hardware.workers, settings.repeats),
        COLUMNS,
        rows,
    )


def _images(settings: Settings, name: str, paths: list[Path], teacher: Teacher, tower: ImageTower) -> list[str]:
    size_px = SHAPES[name][-1]
    count = len(paths)
    hardware = settings.hardware

    def library(watch: Watch) -> int:
        batches = image_batches(ImageFiles(paths), range(count), size_px, settings.batch_size, hardware.workers)
        return write_features(settings, teacher, batches, count, watch)

    def one_at_a_time(watch: Watch) -> int:
        for path in paths:
            picture = Image.open(path).convert("RGB").resize((size_px, size_px), Image.Resampling.BICUBIC)
            _encode_one(tower, picture, hardware.device)
            watch.batch(1)
        return count

    sizes = [min(settings.batch_size, count - start) for start in range(0, count, settings.batch_size)]
    bare = _bare(settings, tower, Counter(((size_px, size_px), size) for size in sizes))
    return _row(settings, f"clip_global | {name} at {size_px} px", f"{count} images", library, bare, one_at_a_time)


def _views(settings: Settings, name: str, paths: list[Path], teacher: Teacher, tower: ImageTower) -> list[str]:
    size_px = SHAPES[name][-1]
    index = index_of(paths)
    hardware = settings.hardware
    owners = np.repeat(np.arange(len(paths)), VIEWS_PER_IMAGE)
    boxes_px = boxes_on(index.sizes_px[owners])
    count = len(owners)
    files = ImageFiles(paths)

    plan = plan_crops(
        owners,
        boxes_px,
        index.sizes_px,
        longer_px=size_px,
        stride_px=teacher.stride_px,
        source="original",
        resized_px=size_px,
    )

    def batches() -> Iterable[tuple[Tensor, Tensor]]:
        return crop_batches(files, plan, settings.batch_size, hardware.workers)

    shapes: Counter[tuple[tuple[int, int], int]] = Counter()
    shape_of = np.empty((count, 2), np.int64)
    for rows, pixels in batches():
        shapes[(pixels.shape[2], pixels.shape[3]), len(pixels)] += 1
        shape_of[rows.numpy()] = pixels.shape[2:]

    def library(watch: Watch) -> int:
        return write_features(settings, teacher, batches(), count, watch)

    def one_at_a_time(watch: Watch) -> int:
        for row, path in enumerate(paths):
            picture = Image.open(path).convert("RGB")
            for view in np.flatnonzero(owners == row):
                height_px, width_px = (int(side) for side in shape_of[view])
                crop = picture.crop(tuple(boxes_px[view].tolist()))
                _encode_one(tower, crop.resize((width_px, height_px), Image.Resampling.BICUBIC), hardware.device)
                watch.batch(1)
        return count

    bare = _bare(settings, tower, shapes)
    return _row(settings, f"clip_local | {name} at {size_px} px", f"{count} views", library, bare, one_at_a_time)


def boxes_on(sizes_px: np.ndarray) -> np.ndarray:
    """Draw random boxes (B, 4) float32, with `ASPECTS` in turn, on images of ``sizes_px`` (B, 2) height, width."""
    rng = np.random.default_rng(0)
    image_sizes = sizes_px[:, ::-1].astype(np.float64)
    sides = image_sizes.min(axis=1, keepdims=True) * np.resize(ASPECTS, image_sizes.shape) * 0.6
    corners = rng.random(image_sizes.shape) * (image_sizes - sides)
    return np.concatenate([corners, corners + sides], axis=1).astype(np.float32)


def write_features(
    settings: Settings, teacher: Teacher, batches: Iterable[tuple[Tensor, Tensor]], count: int, watch: Watch
) -> int:
    """Encode ``count`` images or views in batches, write their features, and return their number."""
    with features_file.writing(
        settings.work / "features.h5", features_file.LOCAL_SCHEMA, range(count), teacher.embed_dim, {}
    ) as file:
        for rows, values in encode_images(teacher, batches, list(map(str, range(count)))):
            file.write(rows, values)
            watch.batch(len(rows))
    return count


def _bare(settings: Settings, tower: ImageTower, shapes: Counter[tuple[tuple[int, int], int]]) -> Work:
    """Return a pass of the model over batches of these (height, width) and sizes."""
    largest = {shape: max(size for other, size in shapes if other == shape) for shape, _ in shapes}
    tensors = {shape: ready(size, shape, settings.hardware.device) for shape, size in largest.items()}

    @torch.no_grad()
    def work(watch: Watch) -> int:
        for (shape, size), times in shapes.items():
            for _ in range(times):
                tower(tensors[shape][:size])
                watch.batch(size)
        settings.wait()
        return sum(size * times for (_, size), times in shapes.items())

    return work


@torch.no_grad()
def _encode_one(tower: ImageTower, picture: Image.Image, device: torch.device) -> Tensor:
    pixels = torch.from_numpy(np.asarray(picture, np.float32).transpose(2, 0, 1)[None] / 255)
    return tower(((pixels - 0.45) / 0.27).to(device)).float().cpu()


def _row(settings: Settings, head: str, per_run: str, library: Work, bare: Work, one_at_a_time: Work) -> list[str]:
    bare(Watch())  # the first pass initialises the device
    rounds = interleaved({"library": library, "bare": bare, "one": one_at_a_time}, settings.repeats)
    values = [speed(typical(rounds[name]).rate) for name in ("library", "bare", "one")]
    efficiency = ratio(rounds["library"], rounds["bare"])
    faster = ratio(rounds["library"], rounds["one"])
    start = f"{typical(rounds['library']).start_s:.1f}"
    return [*head.split(" | "), per_run, values[0], values[1], f"{efficiency:.0%}", values[2], f"{faster:.2f}x", start]
