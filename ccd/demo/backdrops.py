"""Photo-like places: wall and floor, sky and land, sea and sand, with texture, clutter and out-of-focus lights."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from ccd.demo.pen import Rgb, hsv

Rng = np.random.Generator
Pixels = NDArray[np.float32]


@dataclass(frozen=True)
class Backdrop:
    """An empty place: its RGB picture and the row where the ground begins."""

    image: Image.Image
    horizon_px: int


@dataclass(frozen=True)
class Paint:
    """Ranges of hue, saturation and value from which a surface takes its colour."""

    hue: tuple[float, float]
    saturation: tuple[float, float]
    value: tuple[float, float]

    def mix(self, rng: Rng) -> Rgb:
        """One colour of this surface."""
        return hsv(rng.uniform(*self.hue), rng.uniform(*self.saturation), rng.uniform(*self.value))


SKY = Paint((0.52, 0.64), (0.1, 0.55), (0.7, 0.98))
GRASS = Paint((0.18, 0.36), (0.3, 0.65), (0.35, 0.7))
SEA = Paint((0.48, 0.62), (0.3, 0.7), (0.4, 0.75))
SAND = Paint((0.08, 0.13), (0.15, 0.45), (0.65, 0.9))
ASPHALT = Paint((0.0, 1.0), (0.0, 0.1), (0.3, 0.6))
PLASTER = Paint((0.0, 1.0), (0.03, 0.35), (0.5, 0.92))
BOARDS = Paint((0.04, 0.11), (0.25, 0.6), (0.3, 0.75))
FOREST = Paint((0.2, 0.42), (0.2, 0.6), (0.2, 0.5))

SURFACES: dict[str, tuple[Paint, Paint]] = {
    "shore": (SKY, SEA),
    "beach": (SKY, SAND),
    "meadow": (SKY, GRASS),
    "wood": (FOREST, GRASS),
    "street": (SKY, ASPHALT),
    "yard": (PLASTER, ASPHALT),
    "room": (PLASTER, BOARDS),
    "desk": (PLASTER, PLASTER),
}


def render_backdrop(place: str, size_px: tuple[int, int], rng: Rng) -> Backdrop:
    """Paint an empty `place` (a key of SURFACES) of the given (width, height)."""
    width_px, height_px = size_px
    upper, lower = SURFACES[place]
    horizon_px = round(rng.uniform(0.3, 0.62) * height_px)
    canvas = np.empty((height_px, width_px, 3), np.float32)
    canvas[:horizon_px] = _surface(upper, (horizon_px, width_px), rng)
    canvas[horizon_px:] = _surface(lower, (height_px - horizon_px, width_px), rng)
    canvas *= 1 + rng.uniform(0.03, 0.13) * _noise(rng, canvas.shape[:2], int(rng.integers(4, 9)))[..., None]
    canvas[horizon_px:] *= 1 + _ground_texture(rng, (height_px - horizon_px, width_px))[..., None]
    image = Image.fromarray(np.clip(canvas, 0, 255).astype(np.uint8))
    _clutter(image, horizon_px, rng)
    image = image.filter(ImageFilter.BoxBlur(rng.uniform(0.3, 2.2)))
    if rng.random() < 0.3:
        image = _bokeh(image, rng)
    return Backdrop(image, horizon_px)


def develop(image: Image.Image, rng: Rng) -> Image.Image:
    """The camera: exposure, contrast, colour cast, vignette, defocus and sensor noise."""
    if rng.random() < 0.4:
        image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0.2, 0.9)))
    pixels = np.asarray(image, dtype=np.float32)
    height_px, width_px = pixels.shape[:2]
    cast = rng.normal(1.0, 0.04, 3) * rng.uniform(0.85, 1.18)
    contrast = rng.uniform(0.75, 1.2)
    rows = np.linspace(-1, 1, height_px, dtype=np.float32)[:, None] ** 2
    columns = np.linspace(-1, 1, width_px, dtype=np.float32)[None, :] ** 2
    vignette = 1 - rng.uniform(0, 0.16) * (rows + columns)
    grain = rng.standard_normal(pixels.shape, dtype=np.float32) * np.float32(rng.uniform(1, 6))
    exposed = ((pixels - 118) * contrast + 118) * vignette[..., None] * cast.astype(np.float32) + grain
    return Image.fromarray(np.clip(exposed, 0, 255).astype(np.uint8))


def _surface(paint: Paint, shape: tuple[int, int], rng: Rng) -> Pixels:
    """Vertical gradient between two colours of one paint, (height, width, 3)."""
    first = np.asarray(paint.mix(rng), np.float32)
    second = 0.5 * first + 0.5 * np.asarray(paint.mix(rng), np.float32)
    ramp = np.linspace(0, 1, shape[0], dtype=np.float32)[:, None, None]
    return np.broadcast_to(first * (1 - ramp) + second * ramp, (*shape, 3)).astype(np.float32)


def _noise(rng: Rng, shape: tuple[int, int], cells: int) -> Pixels:
    """Smooth noise of unit variance at the nodes of a `cells` x `cells` grid."""
    grid = Image.fromarray(rng.standard_normal((cells, cells), dtype=np.float32))
    return np.asarray(grid.resize((shape[1], shape[0]), Image.Resampling.BICUBIC), dtype=np.float32)


def _ground_texture(rng: Rng, shape: tuple[int, int]) -> Pixels:
    """Relative brightness of the ground: grain, long streaks (water, boards) or receding tiles."""
    style = rng.random()
    if style < 0.4:
        return np.asarray(rng.uniform(0.03, 0.1) * rng.standard_normal(shape), dtype=np.float32)
    if style < 0.8:
        streaks = Image.fromarray(rng.standard_normal((max(4, shape[0] // 2), 5), dtype=np.float32))
        smooth = np.asarray(streaks.resize((shape[1], shape[0]), Image.Resampling.BILINEAR))
        return np.asarray(rng.uniform(0.04, 0.14) * smooth, dtype=np.float32)
    depth = np.linspace(0.35, 1, shape[0], dtype=np.float32)[:, None]
    across = np.linspace(-1, 1, shape[1], dtype=np.float32)[None, :] / depth
    tiles = (np.floor(across * rng.uniform(2, 5)) + np.floor(rng.uniform(3, 6) / depth)) % 2
    return np.asarray(rng.uniform(0.05, 0.2) * (tiles - 0.5), dtype=np.float32)


def _clutter(image: Image.Image, horizon_px: int, rng: Rng) -> None:
    """Scatter small shapes that are nothing in particular: clouds, stones, posts, frames, boxes."""
    draw = ImageDraw.Draw(image, "RGBA")
    short_px = min(image.size)
    for _ in range(int(rng.integers(3, 11))):
        x, y = rng.uniform(0, image.width), rng.uniform(0, image.height)
        colour = (
            *hsv(rng.random(), rng.uniform(0.05, 0.7), rng.uniform(0.2, 0.95)),
            int(rng.integers(110, 256)),
        )
        wide, high = rng.uniform(0.02, 0.13, 2) * short_px
        style = rng.random()
        if style < 0.3:
            draw.rectangle((x - wide, y - high, x + wide, y + high), fill=colour)
        elif style < 0.6:
            draw.ellipse((x - wide, y - 0.7 * high, x + wide, y + 0.7 * high), fill=colour)
        elif style < 0.8:
            corners = rng.uniform(-1.2, 1.2, (int(rng.integers(3, 6)), 2)) * (wide, high) + (x, y)
            draw.polygon([(float(a), float(b)) for a, b in corners], fill=colour)
        else:
            lean = rng.normal(0, 0.15) * short_px
            length = rng.uniform(0.1, 0.5) * short_px
            draw.line(
                (x, y, x + lean, max(y - length, 0.3 * horizon_px)),
                fill=colour,
                width=int(rng.integers(1, 5)),
            )


def _bokeh(image: Image.Image, rng: Rng) -> Image.Image:
    """Lay soft discs of light over the picture."""
    lights = Image.new("RGB", image.size)
    draw = ImageDraw.Draw(lights)
    for _ in range(int(rng.integers(3, 9))):
        x, y = rng.uniform(0, image.width), rng.uniform(0, 0.7 * image.height)
        radius = rng.uniform(0.02, 0.08) * min(image.size)
        draw.ellipse(
            (x - radius, y - radius, x + radius, y + radius),
            fill=hsv(rng.random(), 0.35, rng.uniform(0.2, 0.6)),
        )
    lights = lights.filter(ImageFilter.BoxBlur(1.5))
    summed = np.asarray(image, dtype=np.int16) + np.asarray(lights, dtype=np.int16)
    return Image.fromarray(np.minimum(summed, 255).astype(np.uint8))
