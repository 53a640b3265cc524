"""Renders the demo's scenes, with true labels: a dominant object and its companions in a matching place."""

from __future__ import annotations

import csv
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
from PIL import Image

from ccd.demo.backdrops import OTHERS, TARGETS, Backdrop, Kind, develop, render_backdrop, render_sprite, shadow_of
from ccd.errors import CcdError

Rng = np.random.Generator
Box = tuple[int, int, int, int]

CLASSES: tuple[str, ...] = tuple(TARGETS)
PRETRAIN_CLASSES: tuple[str, ...] = tuple(OTHERS)
STREAMS = {"train": 0, "test": 1, "dev": 2, "clip": 3, "backbone": 4}
LONG_SIDE_PX = 160
ASPECTS = (0.8, 0.8, 0.75, 1.0, 1.25, 1.33)
"""Height over width: mostly landscape, some square and portrait."""

COMPANY: dict[str, tuple[str, ...]] = {
    "shore": ("boat", "fish", "umbrella", "bottle", "house", "kite"),
    "beach": ("umbrella", "kite", "bottle", "boat", "bicycle", "fish"),
    "meadow": ("tree", "flower", "kite", "mushroom", "bicycle", "house"),
    "wood": ("mushroom", "tree", "flower", "house", "bottle"),
    "street": ("car", "house", "bicycle", "tree", "umbrella", "clock"),
    "yard": ("bicycle", "car", "lamp", "flower", "clock", "umbrella"),
    "room": ("lamp", "clock", "mug", "bottle", "flower", "fish"),
    "desk": ("mug", "bottle", "lamp", "clock", "flower", "mushroom"),
}
"""Place -> its classes, the commonest first; one object in ten is out of place."""


@dataclass(frozen=True)
class SceneObject:
    """A visible target object: class name and tight box (x0, y0, x1, y1) in pixels, right and bottom exclusive."""

    name: str
    box_px: Box


@dataclass(frozen=True)
class Scene:
    """An RGB image, its target objects in the order of painting, and its place, a key of `COMPANY`."""

    image: Image.Image
    objects: tuple[SceneObject, ...]
    place: str


def scene_rng(seed: int, stream: str, index: int) -> Rng:
    """Return the random generator of one picture; pictures of different streams (keys of `STREAMS`) never share one."""
    return np.random.default_rng(np.random.SeedSequence(entropy=seed, spawn_key=(STREAMS[stream], index)))


def render_scene(rng: Rng) -> Scene:
    """Draw one scene of 1-4 target objects; its longer side is 160 px."""
    place = str(rng.choice(list(COMPANY)))
    aspect = float(rng.choice(ASPECTS))
    size_px = (LONG_SIDE_PX, round(LONG_SIDE_PX * aspect))
    if aspect > 1:
        size_px = (round(LONG_SIDE_PX / aspect), LONG_SIDE_PX)
    backdrop = render_backdrop(place, size_px, rng)
    image = backdrop.image
    placed = list[SceneObject]()
    count = int(rng.choice([1, 2, 3, 4], p=[0.22, 0.34, 0.28, 0.16]))
    dominant = rng.random() < 0.7
    for order in range(count):
        name = _pick(place, rng)
        share = rng.uniform(0.45, 0.7) if dominant and order == 0 else rng.uniform(0.2, 0.36)
        kind = TARGETS[name]
        side_px = round(np.clip(share * kind.relative_size, 0.15, 0.75) * min(size_px))
        sprite = render_sprite(kind, rng, side_px)
        box = _place(sprite.size, kind, backdrop, [one.box_px for one in placed], rng)
        if box is not None:
            _paste(image, sprite, box, rng)
            placed.append(SceneObject(name, box))
    return Scene(develop(image, rng), tuple(placed), place)


def render_single(name: str, rng: Rng, size: int) -> Image.Image:
    """Render a ``size`` x ``size`` RGB picture of one object, target or other, that fills 45-95 % of the frame.

    Raises:
        CcdError: no object has this name.
    """
    kind = TARGETS.get(name) or OTHERS.get(name)
    if kind is None:
        raise CcdError(f"the demo cannot draw {name!r}; it knows {', '.join((*CLASSES, *PRETRAIN_CLASSES))}")
    image = render_backdrop(str(rng.choice(list(COMPANY))), (size, size), rng).image
    sprite = render_sprite(kind, rng, round(size * rng.uniform(0.45, 0.95)))
    x0_px, y0_px = (int(rng.integers(0, size - side + 1)) for side in sprite.size)
    _paste(image, sprite, (x0_px, y0_px, x0_px + sprite.width, y0_px + sprite.height), rng)
    return develop(image, rng)


def write_scenes(
    root: Path, n_train: int, n_test: int, seed: int, progress: Callable[[int, int], None] | None = None
) -> None:
    """Write ``root``/images/*.jpg and ``root``/labels.csv (image_id, split, classes joined by ';').

    Image i of a split depends on (seed, split, i) alone. The folder appears whole or not at all.
    ``progress`` is called with (done, total) after each image.

    Raises:
        CcdError: ``root`` is not empty, or a count is negative.
    """
    if n_train < 0 or n_test < 0:
        raise CcdError(f"cannot render {n_train} train and {n_test} test scenes: counts must not be negative")
    if root.exists() and any(root.iterdir()):
        raise CcdError(f"{root} is not empty: remove it, or render the scenes into another folder")
    root.parent.mkdir(parents=True, exist_ok=True)
    wanted = [("train", i) for i in range(n_train)] + [("test", i) for i in range(n_test)]
    with tempfile.TemporaryDirectory(prefix=f".{root.name}-", dir=root.parent) as scratch:
        draft = Path(scratch) / "scenes"
        (draft / "images").mkdir(parents=True)
        with (draft / "labels.csv").open("w", newline="", encoding="utf-8") as table:
            writer = csv.writer(table, lineterminator="\n")
            writer.writerow(("image_id", "split", "classes"))
            for done, (split, index) in enumerate(wanted, start=1):
                writer.writerow(_write_scene(draft / "images", split, index, seed))
                if progress is not None:
                    progress(done, len(wanted))
        if root.exists():
            root.rmdir()
        shutil.move(draft, root)


def _write_scene(folder: Path, split: str, index: int, seed: int) -> tuple[str, str, str]:
    rng = scene_rng(seed, split, index)
    scene = render_scene(rng)
    image_id = f"{split}_{index:05d}"
    scene.image.save(folder / f"{image_id}.jpg", quality=int(rng.integers(75, 93)))
    present = {one.name for one in scene.objects}
    return image_id, split, ";".join(name for name in CLASSES if name in present)


def _pick(place: str, rng: Rng) -> str:
    """Draw a class that suits the place, the commonest twice as often as the rarest."""
    if rng.random() < 0.1:
        return str(rng.choice(CLASSES))
    names = COMPANY[place]
    weights = np.linspace(2, 1, len(names))
    return str(rng.choice(names, p=weights / weights.sum()))


def _place(size: tuple[int, int], kind: Kind, backdrop: Backdrop, taken: list[Box], rng: Rng) -> Box | None:
    """Draw a box of this size inside the picture that hides at most a quarter of any object; None if none fits."""
    width_px, height_px = backdrop.image.size
    room_px = width_px - size[0], height_px - size[1]
    if min(room_px) < 0:
        return None
    for _ in range(12):
        x0 = int(rng.integers(0, room_px[0] + 1))
        foot = rng.uniform(backdrop.horizon_px, height_px)
        if kind.habitat == "air":
            foot = rng.uniform(size[1], max(size[1], backdrop.horizon_px) + 0.15 * height_px)
        elif kind.habitat == "any":
            foot = rng.uniform(size[1], height_px)
        y0 = int(np.clip(foot - size[1], 0, room_px[1]))
        box = (x0, y0, x0 + size[0], y0 + size[1])
        if all(_hidden_share(box, other) <= 0.25 for other in taken):
            return box
    return None


def _hidden_share(box: Box, other: Box) -> float:
    """Return the overlap of two boxes over the area of the smaller."""
    wide = min(box[2], other[2]) - max(box[0], other[0])
    high = min(box[3], other[3]) - max(box[1], other[1])
    areas = [(b[2] - b[0]) * (b[3] - b[1]) for b in (box, other)]
    return max(0, wide) * max(0, high) / min(areas)


def _paste(image: Image.Image, sprite: Image.Image, box: Box, rng: Rng) -> None:
    shadow, (dx_px, dy_px) = shadow_of(sprite, rng)
    image.paste((20, 18, 25), (box[0] + dx_px, box[1] + dy_px), shadow)
    image.paste(sprite, box[:2], sprite)


@click.command()
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder to create.")
@click.option("--n-train", default=1200, show_default=True)
@click.option("--n-test", default=400, show_default=True)
@click.option("--seed", default=0, show_default=True)
def main(out: Path, n_train: int, n_test: int, seed: int) -> None:
    """Render the demo's scenes and their label table."""
    try:
        write_scenes(out, n_train, n_test, seed)
    except CcdError as error:
        raise click.ClickException(str(error)) from error
    click.echo(f"wrote {n_train} train and {n_test} test scenes to {out}")


if __name__ == "__main__":
    main()
