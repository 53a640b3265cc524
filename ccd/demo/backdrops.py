"""Renders objects from flat drawings (pose, bevelled light, grain, shadow), and empty backdrops for them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from ccd.demo import large_objects, other_objects, small_objects
from ccd.demo.pen import Pen, Rgb, hsv

SUPERSAMPLING = 2


@dataclass(frozen=True)
class Kind:
    """A kind of object: its drawing function, size, tilt and habitat.

    ``relative_size`` multiplies the side that the scene chooses; ``tilt_deg``: standard deviation of its rotation;
    ``habitat``: "ground", "air" or "any".
    """

    draw: Callable[[Pen, Rng], None]
    relative_size: float = 1.0
    tilt_deg: float = 5.0
    habitat: str = "ground"


TARGETS = MappingProxyType(
    {
        "house": Kind(large_objects.house, 1.2, 2),
        "tree": Kind(large_objects.tree, 1.2, 3),
        "car": Kind(large_objects.car, 1.1, 4),
        "boat": Kind(large_objects.boat, 1.1, 7),
        "fish": Kind(small_objects.fish, 0.85, 18, "any"),
        "umbrella": Kind(large_objects.umbrella, 1.0, 22, "any"),
        "mug": Kind(small_objects.mug, 0.75, 5),
        "lamp": Kind(small_objects.lamp, 1.0, 4),
        "flower": Kind(small_objects.flower, 0.85, 12),
        "mushroom": Kind(small_objects.mushroom, 0.7, 8),
        "kite": Kind(large_objects.kite, 0.85, 40, "air"),
        "clock": Kind(small_objects.clock, 0.7, 6, "air"),
        "bottle": Kind(small_objects.bottle, 0.7, 6),
        "bicycle": Kind(large_objects.bicycle, 1.05, 5),
    }
)
OTHERS = MappingProxyType(
    {
        "ladder": Kind(other_objects.ladder, tilt_deg=15),
        "rocket": Kind(other_objects.rocket, tilt_deg=30),
        "guitar": Kind(other_objects.guitar, tilt_deg=30),
        "key": Kind(other_objects.key, tilt_deg=60),
        "crown": Kind(other_objects.crown, tilt_deg=10),
        "butterfly": Kind(other_objects.butterfly, tilt_deg=40),
        "snowman": Kind(other_objects.snowman),
        "cactus": Kind(other_objects.cactus),
        "candle": Kind(other_objects.candle),
        "bell": Kind(other_objects.bell, tilt_deg=15),
        "drum": Kind(other_objects.drum, tilt_deg=10),
        "pencil": Kind(other_objects.pencil, tilt_deg=60),
        "apple": Kind(other_objects.apple, tilt_deg=15),
        "hammer": Kind(other_objects.hammer, tilt_deg=50),
        "chair": Kind(other_objects.chair),
        "book": Kind(other_objects.book, tilt_deg=10),
        "windmill": Kind(other_objects.windmill),
        "ice cream": Kind(other_objects.icecream, tilt_deg=20),
    }
)


def render_sprite(kind: Kind, rng: Rng, side_px: int) -> Image.Image:
    """Render a lit, tilted, tightly cropped RGBA picture of an object; its longer side is about ``side_px``."""
    pen = Pen(SUPERSAMPLING * side_px)
    kind.draw(pen, rng)
    drawn = pen.image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if rng.random() < 0.5 else pen.image
    squeeze = rng.uniform(0.85, 1.0)
    wide_px, high_px = (squeeze, 1.0) if rng.random() < 0.6 else (1.0, squeeze)
    drawn = drawn.rotate(rng.normal(0, kind.tilt_deg), Image.Resampling.BICUBIC, expand=True)
    drawn = drawn.crop(drawn.getbbox())
    scale = side_px / max(drawn.size)
    size = (max(4, round(drawn.width * scale * wide_px)), max(4, round(drawn.height * scale * high_px)))
    return _light(drawn.resize(size, Image.Resampling.LANCZOS), rng)


def shadow_of(sprite: Image.Image, rng: Rng) -> tuple[Image.Image, tuple[int, int]]:
    """Return the blurred, padded shadow mask (mode L) of a sprite, and its (x, y) offset from the sprite in pixels."""
    pad_px = max(2, round(0.08 * max(sprite.size)))
    mask = Image.new("L", (sprite.width + 2 * pad_px, sprite.height + 2 * pad_px))
    strength = rng.uniform(0.2, 0.55)
    mask.paste(sprite.getchannel("A").point(lambda alpha: round(strength * alpha)), (pad_px, pad_px))
    drop_px = round(rng.uniform(-0.4, 0.8) * pad_px), round(rng.uniform(0.2, 0.9) * pad_px)
    return mask.filter(ImageFilter.BoxBlur(pad_px / 2)), (drop_px[0] - pad_px, drop_px[1] - pad_px)


def _light(sprite: Image.Image, rng: Rng) -> Image.Image:
    """Round the edges with a directional light, lay a gradient over the body and add grain."""
    alpha = sprite.getchannel("A")
    soft = np.asarray(alpha.filter(ImageFilter.BoxBlur(0.06 * max(sprite.size))), dtype=np.float32) / 255
    turn = rng.uniform(0, 2 * np.pi)
    rise, run = np.gradient(soft)
    bevel = rng.uniform(0.6, 1.4) * 0.06 * max(sprite.size) * (np.cos(turn) * run + np.sin(turn) * rise)
    rows = np.linspace(-1, 1, sprite.height, dtype=np.float32)[:, None]
    columns = np.linspace(-1, 1, sprite.width, dtype=np.float32)[None, :]
    slope = rng.uniform(0, 0.22) * (np.cos(turn) * columns + np.sin(turn) * rows)
    grain = rng.normal(0, rng.uniform(0.01, 0.045), soft.shape).astype(np.float32)
    gain = rng.uniform(0.88, 1.18) - slope + np.clip(bevel, -0.4, 0.4) + grain
    colours = np.asarray(sprite.convert("RGB"), dtype=np.float32) * gain[..., None]
    lit = Image.fromarray(np.clip(colours, 0, 255).astype(np.uint8))
    lit.putalpha(alpha)
    return lit


Rng = np.random.Generator
Pixels = NDArray[np.float32]


@dataclass(frozen=True)
class Backdrop:
    """An empty place: its RGB picture, and the row of pixels where the ground begins."""

    image: Image.Image
    horizon_px: int


@dataclass(frozen=True)
class Paint:
    """Ranges of hue, saturation and value from which a surface takes its colour."""

    hue: tuple[float, float]
    saturation: tuple[float, float]
    value: tuple[float, float]

    def mix(self, rng: Rng) -> Rgb:
        """Draw one colour of this surface."""
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
    """Paint an empty ``place``, a key of `SURFACES`, of ``size_px`` (width, height)."""
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
    """Apply a camera's effects: exposure, contrast, colour cast, vignette, defocus and sensor noise."""
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
    """Return a vertical gradient between two colours of one paint, (height, width, 3) float32."""
    first = np.asarray(paint.mix(rng), np.float32)
    second = 0.5 * first + 0.5 * np.asarray(paint.mix(rng), np.float32)
    ramp = np.linspace(0, 1, shape[0], dtype=np.float32)[:, None, None]
    return np.broadcast_to(first * (1 - ramp) + second * ramp, (*shape, 3)).astype(np.float32)


def _noise(rng: Rng, shape: tuple[int, int], cells: int) -> Pixels:
    """Return smooth noise, (height, width) float32, of unit variance at the nodes of a ``cells`` x ``cells`` grid."""
    grid = Image.fromarray(rng.standard_normal((cells, cells), dtype=np.float32))
    return np.asarray(grid.resize((shape[1], shape[0]), Image.Resampling.BICUBIC), dtype=np.float32)


def _ground_texture(rng: Rng, shape: tuple[int, int]) -> Pixels:
    """Return the relative brightness of the ground: grain, long streaks (water, boards) or receding tiles."""
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
    """Scatter small shapes that show no class: clouds, stones, posts, frames, boxes."""
    draw = ImageDraw.Draw(image, "RGBA")
    short_px = min(image.size)
    for _ in range(int(rng.integers(3, 11))):
        x = rng.uniform(0, image.width)
        y = rng.uniform(0, image.height)
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
        x = rng.uniform(0, image.width)
        y = rng.uniform(0, 0.7 * image.height)
        radius = rng.uniform(0.02, 0.08) * min(image.size)
        draw.ellipse(
            (x - radius, y - radius, x + radius, y + radius),
            fill=hsv(rng.random(), 0.35, rng.uniform(0.2, 0.6)),
        )
    lights = lights.filter(ImageFilter.BoxBlur(1.5))
    summed = np.asarray(image, dtype=np.int16) + np.asarray(lights, dtype=np.int16)
    return Image.fromarray(np.minimum(summed, 255).astype(np.uint8))
