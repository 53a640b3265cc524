"""From a flat drawing to a picture of an object: pose, bevelled light, texture, and the cast shadow."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from PIL import Image, ImageFilter

from ccd.demo import large_objects, other_objects, small_objects
from ccd.demo.pen import Pen

SUPERSAMPLING = 2


@dataclass(frozen=True)
class Kind:
    """How a kind of object appears: its drawing, its typical size, and where and how it stands.

    relative_size multiplies the side the scene asks for; habitat is "ground", "air" or "any".
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
    """One lit, tilted, tightly cropped RGBA picture of an object whose longer side is about `side_px`."""
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
    """Blurred shadow mask (mode L) of a sprite, padded all round, and its (x, y) offset from the sprite in pixels."""
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
