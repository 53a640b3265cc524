"""Image files to measure with: rendered scenes of the size of ordinary photos, or the user's own photos."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from ccd.artifacts.image_index import ImageIndex
from ccd.demo.scenes import render_scene, scene_rng
from ccd.deploy.stream import expand
from ccd.images.decode import header

SIZE_PX = (500, 375)
DRAWN = 32


def photos_of(images: Path | None, folder: Path, count: int) -> list[Path]:
    """Return the first ``count`` files of the folder ``images``, repeated if it has fewer; None: rendered ones."""
    if images is None:
        return draw_photos(folder, count)
    paths = expand([str(images)], []).paths
    return [paths[number % len(paths)] for number in range(count)]


def draw_photos(folder: Path, count: int) -> list[Path]:
    """Write ``count`` JPEG files of 500 x 375 px, quality 90, to ``folder``; 32 different ones, repeated."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{number:06}.jpg" for number in range(count)]
    for number, path in enumerate(paths[:DRAWN]):
        scene = render_scene(scene_rng(0, "dev", number)).image
        grain = np.random.default_rng(number).normal(0, 6, (SIZE_PX[1], SIZE_PX[0], 3))
        pixels = np.asarray(scene.resize(SIZE_PX, Image.Resampling.BICUBIC), np.float64) + grain
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path, quality=90)
    for number, path in enumerate(paths[DRAWN:], DRAWN):
        path.write_bytes(paths[number % DRAWN].read_bytes())
    return paths


def index_of(paths: list[Path]) -> ImageIndex:
    """Return an index of the files as training images; its paths are absolute."""
    data = [path.read_bytes() for path in paths]
    sizes = [header(content, path.name)[::-1] for content, path in zip(data, paths, strict=True)]
    return ImageIndex(
        [f"{number:06}" for number in range(len(paths))],
        [str(path.resolve()) for path in paths],
        np.ones(len(paths), bool),
        np.asarray(sizes, np.int32),
        np.asarray([len(content) for content in data]),
        [f"{number:032x}" for number in range(len(paths))],
    )


def write_small(folder: Path, start: int, end: int) -> None:
    """Write images ``start`` .. ``end`` - 1: JPEGs of 64 x 48 px.

    All are different: equal ones would share an entry of the store, and tie in every choice of a student.
    """
    for number in range(start, end):
        pixels = np.random.default_rng(number).integers(0, 255, (6, 8, 3), np.uint8)
        path = folder / f"{number // 1000:04}" / f"{number:08}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels.repeat(8, 0).repeat(8, 1)).save(path)
