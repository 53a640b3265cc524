"""Counts the shapes of local views, and measures how few lengths of their sides change CLIP's answers.

A view is a crop of an image that CLIP reads by itself; ``clip_local.shorter_sides`` is the number of lengths.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from benchmarks.measure import ROOT, working_in
from benchmarks.settings import Settings
from benchmarks.tables import Table
from ccd.artifacts import boxes_file, image_index, text_file
from ccd.demo.scenes import CLASSES, render_scene, scene_rng
from ccd.images.batches import ImageFiles, indexed_files
from ccd.labels.scores import clip_probs
from ccd.params.file import load
from ccd.params.sections import ClipLocalParams, DatasetParams, TeacherParams
from ccd.teacher.clip_teacher import Teacher
from ccd.teacher.encode import class_embeddings, encode_images, load_teacher
from ccd.views.crops import crop_batches, plan_crops, target_sizes

LENGTHS = 7
OFFSET = 0.125  # boxes of the demo's objects are widened by this share of the image's sides, as `cam_boxes.offset`
MOVED = 0.03
DEMO_SIZES_PX = (96, 224, 448)
GEOMETRY = (640, 32)  # RN50x64's views and stride; its weights are not needed to count shapes
SCALE = 100.0
COLUMNS = (
    "views", "px", "strides", "shapes, all lengths", f"shapes, {LENGTHS} lengths", "compared", "cosine, mean",
    "cosine, lowest", "scores, mean change", "largest change of a view, mean", "largest of all", "other top class",
)  # fmt: skip
NOTE = (
    "Shapes: over all boxes. The other columns compare views of {} images whose sides have {} lengths with the same "
    "views at every multiple of the stride: the cosine between their features, and the difference of the class "
    "probabilities at scale 100, over views and classes. For comparison: every multiple of the stride, but each box "
    "moved by {:.0%} of its sides in a random direction."
)


@dataclass(frozen=True)
class Views:
    """Boxes (B, 4) in px on N images of sizes (N, 2) height, width; ``rows`` (B,): their images. ``text`` (C, D)."""

    title: str
    teacher: Teacher
    text: np.ndarray
    files: ImageFiles
    sizes_px: np.ndarray
    rows: np.ndarray
    boxes_px: np.ndarray
    shown_px: tuple[int, ...]


def measure_shapes(settings: Settings) -> Table:
    """Measure views of the demo's scenes, or of a finished project at its size and at twice its size."""
    views = _demo(settings) if settings.project is None else _of_project(settings, settings.project)
    images = np.unique(views.rows)
    chosen = images[np.linspace(0, len(images) - 1, min(settings.count, len(images))).astype(int)]
    some = np.flatnonzero(np.isin(views.rows, chosen))
    compared = replace(views, rows=views.rows[some], boxes_px=views.boxes_px[some])
    rows = []
    for size_px in views.shown_px:
        head = _shapes(views, size_px, views.teacher.stride_px)
        full = _features(settings, compared, size_px, None)
        few = _features(settings, compared, size_px, LENGTHS)
        moved = _features(settings, _moved(compared), size_px, None)
        rows.append([*head, f"{LENGTHS} lengths", *_changes(full, few, views.text)])
        rows.append([*head[:3], "", "", "moved", *_changes(full, moved, views.text)])
    rows.append([*_shapes(views, *GEOMETRY), *[""] * (len(COLUMNS) - 5)])
    return Table("Shapes of views", NOTE.format(len(chosen), LENGTHS, MOVED), COLUMNS, rows)


def _demo(settings: Settings) -> Views:
    """Render scenes; a view is an object's box, widened."""
    device = settings.hardware.device
    teacher = load_teacher("clip", str(ROOT / "ccd/demo/assets/clip.pt"), None, device=device)
    paths = []
    sizes_px = []
    rows = []
    boxes_px = []
    for number in range(settings.count):
        scene = render_scene(scene_rng(0, "dev", number))
        paths.append(settings.work / f"{number:06}.png")
        scene.image.save(paths[-1])
        width_px, height_px = scene.image.size
        sizes_px.append((height_px, width_px))
        for each in scene.objects:
            x0_px, y0_px, x1_px, y1_px = each.box_px
            low = (max(0, x0_px - OFFSET * width_px), max(0, y0_px - OFFSET * height_px))
            high = (min(width_px, x1_px + OFFSET * width_px), min(height_px, y1_px + OFFSET * height_px))
            rows.append(number)
            boxes_px.append((*low, *high))
    text = class_embeddings(teacher, [[name] for name in CLASSES], ["a photo of a {}"]).numpy()
    corners = np.asarray(boxes_px, np.float32)
    return Views(
        "demo", teacher, text, ImageFiles(paths), np.asarray(sizes_px), np.asarray(rows), corners, DEMO_SIZES_PX
    )


def _of_project(settings: Settings, folder: Path) -> Views:
    """Read the boxes, images and texts of the project in ``folder``, which ran up to stage cam_boxes."""
    with working_in(folder):
        dataset = load(DatasetParams)
        data = Path("data", dataset.name)
        index = image_index.read(data / "images.parquet")
        boxes = boxes_file.read(data / "boxes.parquet")
        rows = image_index.rows_of(data / "boxes.parquet", "cam_boxes", boxes.image_ids, index.ids)
        text = text_file.read(data / "text.h5").values
        teacher = load_teacher(**load(TeacherParams).model_dump(), device=settings.hardware.device)
        size_px = load(ClipLocalParams).image_size_px
        files = indexed_files(str(Path(dataset.root).resolve()), index)
    shown_px = (size_px, 2 * size_px)
    return Views(dataset.name, teacher, text, files, index.sizes_px, rows, boxes.boxes_px, shown_px)


def _shapes(views: Views, size_px: int, stride_px: int) -> list[str]:
    """Return the first columns: the views, their size, and how many shapes they have."""
    counts = [
        len(Counter(map(tuple, target_sizes(views.boxes_px, size_px, stride_px, lengths).tolist())))
        for lengths in (None, LENGTHS)
    ]
    return [f"{views.title}, {len(views.rows):,}", str(size_px), str(size_px // stride_px), *map(str, counts)]


def _features(settings: Settings, views: Views, size_px: int, lengths: int | None) -> np.ndarray:
    """Encode the views, (B, D) float32."""
    plan = plan_crops(
        views.rows,
        views.boxes_px,
        views.sizes_px,
        longer_px=size_px,
        stride_px=views.teacher.stride_px,
        source="original",
        resized_px=size_px,
        shorter_sides=lengths,
    )
    batches = crop_batches(views.files, plan, settings.batch_size, settings.hardware.workers)
    features = np.empty((len(views.rows), views.teacher.embed_dim), np.float32)
    for rows, values in encode_images(views.teacher, batches, [str(row) for row in range(len(features))]):
        features[rows] = values
    return features


def _moved(views: Views) -> Views:
    """Move every box by `MOVED` of its sides in a random direction; parts outside the image are not read."""
    angles = np.random.default_rng(0).uniform(0, 2 * np.pi, len(views.rows))
    sides_px = views.boxes_px[:, 2:] - views.boxes_px[:, :2]
    shifts_px = MOVED * sides_px * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    return replace(views, boxes_px=(views.boxes_px + np.tile(shifts_px, 2)).astype(np.float32))


def _changes(features: np.ndarray, others: np.ndarray, text: np.ndarray) -> list[str]:
    """Return the columns of the comparison of two encodings (B, D) of the same views."""
    cosines = (features * others).sum(axis=1)
    probs = clip_probs(features, text, SCALE)
    other_probs = clip_probs(others, text, SCALE)
    changes = np.abs(probs - other_probs)
    turned = (probs.argmax(axis=1) != other_probs.argmax(axis=1)).mean()
    numbers = (cosines.mean(), cosines.min(), changes.mean(), changes.max(axis=1).mean(), changes.max())
    return [*(f"{number:.4f}" for number in numbers), f"{turned:.1%}"]
