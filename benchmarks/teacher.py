"""Measures clip_global and clip_local, from files to features, beside two references.

They are the bare model, and the published code's procedure: decode, resize and encode one picture at a time. A view is
a crop of an image that CLIP reads by itself.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
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
from ccd.runtime.hardware import computing
from ccd.teacher.clip_teacher import ImageTower, Teacher
from ccd.teacher.encode import encode_images
from ccd.views.crops import crop_batches, plan_crops

MODELS = ("ViT-B/32", "RN50")
MODELS_ON_GPU = ("RN50x64",)
VIEWS_PER_IMAGE = 4
SHORTER_SIDES = 7
ONE_AT_A_TIME = 96  # images at most: it is slow, and a rate
# of a box over its image's, in both directions: as those of class activation maps on 1,738 photos, whose aspects have
# a standard deviation of 0.38 in the logarithm
MEDIAN_SHARE = 0.45
LEAST_SHARE = 0.27
LOG_SPREAD = 0.45
CORRELATION = 0.5
COLUMNS = (
    "stage", "model", "per run", "library /s", "bare model /s", "efficiency", "whole squares /s", "one at a time /s",
    "speed-up", "library, first batch, s",
)  # fmt: skip
NOTE = (
    "Images (views) a second. Library: from files on disk to the feature file. Bare model: the image tower alone, on "
    "ready tensors of the same shapes and batch sizes, copies that fill up a last batch included. Whole squares: the "
    "tower on full batches of the largest shape. One at a time, as the published code does it: decode, resize, encode, "
    "next. Views have the sizes and aspects that boxes on photos have, and so their many shapes: with few images most "
    "batches are last ones. All in {}; batches of {}, {} processes that decode; {} interleaved rounds. Rates are "
    "medians; efficiency (library / bare model) and speed-up (library / one at a time) are medians of the rounds' own "
    "ratios. A run's first batch, in which processes start and memory is claimed, counts in no rate."
)


def measure_teacher(settings: Settings) -> Table:
    """Measure both stages for every model that fits the device."""
    paths = photos_of(settings.images, settings.work / "photos", settings.count)
    rows = []
    for name in MODELS + MODELS_ON_GPU * settings.on_gpu:
        teacher, tower = teacher_of(name, settings.hardware.device, settings.teacher_precision)
        rows.append(_images(settings, name, paths, teacher, tower))
        rows.append(_views(settings, name, paths, teacher, tower))
    return Table(
        "clip_global and clip_local",
        NOTE.format(settings.teacher_precision, settings.batch_size, settings.hardware.workers, settings.repeats),
        COLUMNS,
        rows,
    )


def _images(settings: Settings, name: str, paths: list[Path], teacher: Teacher, tower: ImageTower) -> list[str]:
    size_px = SHAPES[name][-1]
    count = len(paths)
    hardware = settings.hardware

    def library(watch: Watch) -> int:
        batches = image_batches(
            ImageFiles(paths),
            range(count),
            size_px,
            settings.batch_size,
            hardware.workers,
            pin_memory=settings.on_gpu,
        )
        return write_features(settings, teacher, batches, count, watch)

    def one_at_a_time(watch: Watch) -> int:
        for path in paths[:ONE_AT_A_TIME]:
            picture = Image.open(path).convert("RGB").resize((size_px, size_px), Image.Resampling.BICUBIC)
            _encode_one(settings, tower, picture)
            watch.batch(1)
        return min(count, ONE_AT_A_TIME)

    sizes = [min(settings.batch_size, count - start) for start in range(0, count, settings.batch_size)]
    ready_made = ((torch.arange(size), torch.empty(size, 3, size_px, size_px, dtype=torch.uint8)) for size in sizes)
    bare = _bare(settings, tower, _sent(settings, ready_made), count)
    works = {"library": library, "bare": bare, "one": one_at_a_time}
    return _row(settings, f"clip_global | {name} at {size_px} px", f"{count} images", works)


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
        shorter_sides=SHORTER_SIDES,
    )

    def batches() -> Iterator[tuple[Tensor, Tensor]]:
        return crop_batches(files, plan, settings.batch_size, hardware.workers, pin_memory=settings.on_gpu)

    def library(watch: Watch) -> int:
        return write_features(settings, teacher, batches(), count, watch)

    def one_at_a_time(watch: Watch) -> int:
        for row, path in enumerate(paths[:ONE_AT_A_TIME]):
            picture = Image.open(path).convert("RGB")
            for view in np.flatnonzero(owners == row):
                height_px, width_px = (int(side) for side in plan.shapes_px[view])
                crop = picture.crop(tuple(boxes_px[view].tolist()))
                _encode_one(settings, tower, crop.resize((width_px, height_px), Image.Resampling.BICUBIC))
                watch.batch(1)
        return min(len(paths), ONE_AT_A_TIME) * VIEWS_PER_IMAGE

    square: Sent = Counter({((size_px, size_px), settings.batch_size): -(-count // settings.batch_size)})
    works = {
        "library": library,
        "bare": _bare(settings, tower, _sent(settings, batches()), count),
        "squares": _bare(settings, tower, square, square.total() * settings.batch_size),
        "one": one_at_a_time,
    }
    shapes = len(np.unique(plan.shapes_px, axis=0))
    head = f"clip_local | {name} at {size_px} px, {shapes} shapes"
    return _row(settings, head, f"{count} views", works)


def boxes_on(sizes_px: np.ndarray) -> np.ndarray:
    """Draw boxes (B, 4) float32 of the spread of those on photos, on images of ``sizes_px`` (B, 2) height, width.

    The shares of both sides in the image's are log-normal and go together, within `LEAST_SHARE` and 1.
    """
    rng = np.random.default_rng(0)
    image_sizes = sizes_px[:, ::-1].astype(np.float64)
    common = rng.standard_normal((len(sizes_px), 1))
    own = rng.standard_normal(image_sizes.shape)
    logs = np.log(MEDIAN_SHARE) + LOG_SPREAD * (np.sqrt(CORRELATION) * common + np.sqrt(1 - CORRELATION) * own)
    sides = image_sizes * np.exp(logs).clip(LEAST_SHARE, 1)
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


Sent = Counter[tuple[tuple[int, int], int]]
"""How many batches of each (height, width) and size."""


@dataclass(frozen=True)
class _Counter:
    """An encoder that computes nothing and counts the batches that it gets."""

    device: torch.device
    sent: Sent

    def embed_image(self, pixels: Tensor) -> Tensor:
        """Count a batch."""
        self.sent[(pixels.shape[2], pixels.shape[3]), len(pixels)] += 1
        return torch.zeros(len(pixels), 1)


def _sent(settings: Settings, batches: Iterable[tuple[Tensor, Tensor]]) -> Sent:
    """Return the batches that a teacher gets; copies that fill up a batch count."""
    counter = _Counter(settings.hardware.device, Counter())
    for _ in encode_images(counter, batches, ()):
        pass
    return counter.sent


def _bare(settings: Settings, tower: ImageTower, sent: Sent, count: int) -> Work:
    """Return a pass of the model over ready tensors of these batches, in which are ``count`` images."""
    largest = {shape: max(size for other, size in sent if other == shape) for shape, _ in sent}
    tensors = {shape: ready(size, shape, settings.hardware.device) for shape, size in largest.items()}
    share = count / sum(size * times for (_, size), times in sent.items())

    @torch.no_grad()
    def work(watch: Watch) -> int:
        for number, (shape, size) in enumerate(sent.elements()):
            with computing(settings.hardware.device, settings.teacher_precision):
                tower(tensors[shape][:size])
            if number == 0:
                settings.wait()  # the first batch, whose end starts the clock
            watch.batch(round(size * share))
        settings.wait()
        return count

    return work


@torch.no_grad()
def _encode_one(settings: Settings, tower: ImageTower, picture: Image.Image) -> Tensor:
    pixels = torch.from_numpy(np.asarray(picture, np.float32).transpose(2, 0, 1)[None] / 255)
    with computing(settings.hardware.device, settings.teacher_precision):
        return tower(((pixels - 0.45) / 0.27).to(settings.hardware.device)).float().cpu()


def _row(settings: Settings, head: str, per_run: str, works: dict[str, Work]) -> list[str]:
    for name in {"bare", "squares"} & set(works):
        works[name](Watch())  # the first pass initialises the device
    rounds = interleaved(works, settings.repeats)
    values = {name: speed(typical(found).rate) for name, found in rounds.items()}
    efficiency = f"{ratio(rounds['library'], rounds['bare']):.0%}"
    faster = f"{ratio(rounds['library'], rounds['one']):.2f}x"
    start = f"{typical(rounds['library']).start_s:.1f}"
    cells = [values["library"], values["bare"], efficiency, values.get("squares", ""), values["one"], faster, start]
    return [*head.split(" | "), per_run, *cells]
