"""Line charts as geometry: the template draws them as SVG in the colours of the page."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

WIDTH = 460
HEIGHT = 240
LEFT = 44
RIGHT = 12
TOP = 12
BOTTOM = 30


@dataclass(frozen=True)
class Series:
    """A named line: (x, y) points, x ascending. ``tone`` picks a colour."""

    name: str
    points: tuple[tuple[float, float], ...]
    tone: int


@dataclass(frozen=True)
class Tick:
    """A position in pixels of the drawing and its label."""

    at: float
    text: str


@dataclass(frozen=True)
class Line:
    """A series as pixels of the drawing; ``last``: its last value as text, None if it has none."""

    name: str
    tone: int
    dots: tuple[tuple[float, float], ...]
    last: str | None

    @property
    def points(self) -> str:
        """The value of SVG's ``points``."""
        return " ".join(f"{x},{y}" for x, y in self.dots)


@dataclass(frozen=True)
class Chart:
    """A chart of `WIDTH` x `HEIGHT` pixels; ``mark``: x where the warm-up ended, or None."""

    title: str
    lines: tuple[Line, ...]
    across: tuple[Tick, ...]
    up: tuple[Tick, ...]
    mark: float | None
    width: int = WIDTH
    height: int = HEIGHT
    left: int = LEFT
    bottom: int = HEIGHT - BOTTOM
    right: int = WIDTH - RIGHT
    top: int = TOP

    @property
    def said(self) -> str:
        """The chart in words, for screen readers."""
        return "; ".join(f"{line.name} ends at {line.last}" for line in self.lines if line.last is not None)


def line_chart(title: str, series: Sequence[Series], mark: float | None = None) -> Chart:
    """Lay out lines that share their axes; the vertical axis starts at 0."""
    xs = [x for line in series for x, _ in line.points]
    ys = [y for line in series for _, y in line.points if math.isfinite(y)]
    low = min(xs, default=0.0) - 0.5
    high = max(xs, default=1.0) + 0.5
    ticks = nice_ticks(max(ys, default=1.0))
    x_scale = (WIDTH - LEFT - RIGHT) / (high - low)
    y_scale = (HEIGHT - TOP - BOTTOM) / ticks[-1]

    def pixel_x(x: float) -> float:
        return round(LEFT + (x - low) * x_scale, 1)

    def pixel_y(y: float) -> float:
        return round(HEIGHT - BOTTOM - y * y_scale, 1)

    lines = []
    for line in series:
        known = [(x, y) for x, y in line.points if math.isfinite(y)]
        dots = tuple((pixel_x(x), pixel_y(y)) for x, y in known)
        lines.append(Line(line.name, line.tone, dots, f"{known[-1][1]:.3g}" if known else None))
    step = max(1, math.ceil(len(set(xs)) / 12))
    across = tuple(Tick(pixel_x(x), f"{x:g}") for x in sorted(set(xs))[::step])
    up = tuple(Tick(pixel_y(y), f"{y:g}") for y in ticks)
    return Chart(title, tuple(lines), across, up, None if mark is None else pixel_x(mark))


def nice_ticks(high: float) -> list[float]:
    """Return 0 and three to six round steps, the last at or above ``high``."""
    if high <= 0:
        return [0.0, 1.0]
    raw = high / 4
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= raw * (1 - 1e-9))
    return [round(step * number, 10) for number in range(math.ceil(high / step - 1e-9) + 1)]
