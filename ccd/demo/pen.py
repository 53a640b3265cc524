"""Draws in the unit square: the pen and the colours of all objects of the demo."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

Rgb = tuple[int, int, int]
Point = tuple[float, float]

INK: Rgb = (38, 36, 42)
GLASS: Rgb = (150, 190, 215)


def hsv(hue: float, saturation: float, value: float) -> Rgb:
    """Return the colour of a hue (taken modulo 1), saturation and value in [0, 1]."""
    red, green, blue = colorsys.hsv_to_rgb(hue % 1.0, saturation, value)
    return round(255 * red), round(255 * green), round(255 * blue)


def shade(colour: Rgb, factor: float) -> Rgb:
    """Return the colour made darker (factor < 1) or lighter (factor > 1)."""
    red, green, blue = (min(255, round(factor * channel)) for channel in colour)
    return red, green, blue


def vivid(rng: np.random.Generator) -> Rgb:
    """Draw a saturated paint colour of any hue."""
    return hsv(rng.random(), rng.uniform(0.45, 0.95), rng.uniform(0.5, 0.95))


def pale(rng: np.random.Generator) -> Rgb:
    """Draw a washed-out light colour: plaster, paper, porcelain."""
    return hsv(rng.random(), rng.uniform(0.03, 0.3), rng.uniform(0.78, 0.97))


def wood(rng: np.random.Generator) -> Rgb:
    """Draw a brown."""
    return hsv(rng.uniform(0.05, 0.1), rng.uniform(0.4, 0.7), rng.uniform(0.3, 0.62))


def metal(rng: np.random.Generator) -> Rgb:
    """Draw a grey with a slight tint."""
    return hsv(rng.random(), rng.uniform(0.0, 0.15), rng.uniform(0.25, 0.8))


@dataclass(frozen=True)
class Ellipse:
    """Centre and half-axes of an ellipse."""

    x: float
    y: float
    rx: float
    ry: float


class Pen:
    """Draws on a transparent square of ``size_px`` pixels; all coordinates and widths are fractions of its side."""

    def __init__(self, size_px: int) -> None:
        self.size_px = size_px
        self.image = Image.new("RGBA", (size_px, size_px))
        self._draw = ImageDraw.Draw(self.image)

    def poly(self, points: Sequence[Point], colour: Rgb) -> None:
        """Fill a polygon."""
        self._draw.polygon([self._pixel(point) for point in points], fill=colour)

    def rect(self, x0: float, y0: float, x1: float, y1: float, colour: Rgb, radius: float = 0.0) -> None:
        """Fill a rectangle whose corners are rounded with ``radius``."""
        corners = (*self._pixel((x0, y0)), *self._pixel((x1, y1)))
        self._draw.rounded_rectangle(corners, radius * self.size_px, fill=colour)

    def disc(self, x: float, y: float, rx: float, colour: Rgb, ry: float | None = None) -> None:
        """Fill an ellipse with half-axes rx and ry (None: a circle)."""
        self._draw.ellipse(self._corners(Ellipse(x, y, rx, rx if ry is None else ry)), fill=colour)

    def pie(self, ellipse: Ellipse, start_deg: float, end_deg: float, colour: Rgb) -> None:
        """Fill a sector, clockwise from start to end; 0 degrees points right."""
        self._draw.pieslice(self._corners(ellipse), start_deg, end_deg, fill=colour)

    def line(self, points: Sequence[Point], width: float, colour: Rgb) -> None:
        """Draw a polyline with round joints and ends."""
        pixels = [self._pixel(point) for point in points]
        width_px = max(1, round(width * self.size_px))
        self._draw.line(pixels, fill=colour, width=width_px, joint="curve")
        if width_px > 3:
            for x_px, y_px in (pixels[0], pixels[-1]):
                reach = width_px / 2 - 0.5
                self._draw.ellipse((x_px - reach, y_px - reach, x_px + reach, y_px + reach), fill=colour)

    def ring(self, x: float, y: float, rx: float, width: float, colour: Rgb, ry: float | None = None) -> None:
        """Draw the outline of an ellipse; the line lies inside it."""
        self.arc(Ellipse(x, y, rx, rx if ry is None else ry), 0, 360, width, colour)

    def arc(self, ellipse: Ellipse, start_deg: float, end_deg: float, width: float, colour: Rgb) -> None:
        """Draw a part of the outline of an ellipse, clockwise from start to end."""
        width_px = max(1, round(width * self.size_px))
        self._draw.arc(self._corners(ellipse), start_deg, end_deg, fill=colour, width=width_px)

    def _corners(self, ellipse: Ellipse) -> tuple[float, float, float, float]:
        upper_left = self._pixel((ellipse.x - ellipse.rx, ellipse.y - ellipse.ry))
        lower_right = self._pixel((ellipse.x + ellipse.rx, ellipse.y + ellipse.ry))
        return *upper_left, *lower_right

    def _pixel(self, point: Point) -> Point:
        return point[0] * self.size_px, point[1] * self.size_px
