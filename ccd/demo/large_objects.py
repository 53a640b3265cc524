"""Target classes that are large in life, each drawn from a handful of random parameters.

Every function draws one object upright and roughly centred in the unit square; pose, light and blur come later.
"""

from __future__ import annotations

import numpy as np

from ccd.demo.pen import GLASS, INK, Ellipse, Pen, Point, hsv, metal, pale, shade, vivid, wood

Rng = np.random.Generator


def house(pen: Pen, rng: Rng) -> None:
    """Gabled front with a door, windows and sometimes a chimney."""
    wall = pale(rng) if rng.random() < 0.6 else vivid(rng)
    roof = hsv(rng.uniform(-0.05, 0.08), 0.65, 0.6)
    door = wood(rng)
    half = rng.uniform(0.28, 0.42)
    eaves = rng.uniform(0.42, 0.55)
    ridge = rng.uniform(0.06, 0.2)
    if rng.random() < 0.6:
        x = 0.5 + rng.uniform(0.1, half - 0.06)
        pen.rect(x - 0.05, ridge, x + 0.05, eaves, shade(roof, 0.7))
    pen.rect(0.5 - half, eaves, 0.5 + half, 0.95, wall)
    over = rng.uniform(0.03, 0.08)
    pen.poly([(0.5 - half - over, eaves + 0.03), (0.5, ridge), (0.5 + half + over, eaves + 0.03)], roof)
    shift = rng.uniform(-0.12, 0.12)
    pen.rect(0.5 + shift - 0.07, rng.uniform(0.66, 0.73), 0.5 + shift + 0.07, 0.95, door)
    for x in (0.5 - 0.62 * half, 0.5 + 0.62 * half):
        if abs(x - 0.5 - shift) > 0.14:
            pen.rect(x - 0.075, eaves + 0.11, x + 0.075, eaves + 0.27, shade(wall, 0.6))
            pen.rect(x - 0.055, eaves + 0.13, x + 0.055, eaves + 0.25, GLASS)


def tree(pen: Pen, rng: Rng) -> None:
    """A leafy crown of overlapping discs, or a fir of stacked triangles, on a trunk."""
    green = hsv(rng.uniform(0.2, 0.4), rng.uniform(0.45, 0.8), rng.uniform(0.35, 0.65))
    if rng.random() < 0.2:
        green = hsv(rng.uniform(0.03, 0.14), 0.75, 0.75)
    width = rng.uniform(0.035, 0.06)
    pen.poly(
        [(0.5 - width, 0.5), (0.5 + width, 0.5), (0.5 + 1.5 * width, 0.97), (0.5 - 1.5 * width, 0.97)],
        wood(rng),
    )
    if rng.random() < 0.4:
        half = rng.uniform(0.22, 0.34)
        for tier in range(3):
            top = 0.03 + 0.21 * tier
            reach = half * (0.6 + 0.2 * tier)
            pen.poly(
                [(0.5, top), (0.5 + reach, top + 0.36), (0.5 - reach, top + 0.36)],
                shade(green, 1.15 - 0.12 * tier),
            )
        return
    for turn in np.linspace(0, 2 * np.pi, rng.integers(8, 12), endpoint=False) + rng.random():
        x = 0.5 + 0.22 * np.cos(turn)
        y = 0.34 + 0.17 * np.sin(turn)
        pen.disc(x, y, rng.uniform(0.12, 0.18), shade(green, rng.uniform(0.8, 1.2)))
    for _ in range(8):
        x = rng.normal(0.47, 0.1)
        y = rng.normal(0.3, 0.08)
        pen.disc(x, y, rng.uniform(0.05, 0.11), shade(green, rng.uniform(0.85, 1.35)))


def car(pen: Pen, rng: Rng) -> None:
    """Side view: body, cabin with windows, two wheels."""
    paint = vivid(rng) if rng.random() < 0.75 else metal(rng)
    roof = rng.uniform(0.26, 0.36)
    rear = rng.uniform(0.1, 0.26)
    front = rng.uniform(0.68, 0.8)
    pen.poly([(rear, 0.52), (rear + 0.1, roof), (front - 0.16, roof), (front, 0.52)], paint)
    middle = (rear + front - 0.06) / 2
    glass = shade(GLASS, rng.uniform(0.55, 1.0))
    pen.poly(
        [
            (rear + 0.05, 0.51),
            (rear + 0.12, roof + 0.04),
            (middle - 0.015, roof + 0.04),
            (middle - 0.015, 0.51),
        ],
        glass,
    )
    pen.poly(
        [
            (middle + 0.015, 0.51),
            (middle + 0.015, roof + 0.04),
            (front - 0.18, roof + 0.04),
            (front - 0.05, 0.51),
        ],
        glass,
    )
    pen.rect(0.03, 0.5, 0.97, 0.71, paint, radius=0.06)
    pen.rect(0.04, 0.64, 0.96, 0.71, shade(paint, 0.65), radius=0.03)
    pen.disc(0.93, 0.565, 0.025, (250, 240, 190))
    pen.rect(0.03, 0.54, 0.06, 0.6, (200, 40, 40))
    radius = rng.uniform(0.095, 0.125)
    for x in (0.24, 0.76):
        pen.disc(x, 0.71, radius, INK)
        pen.disc(x, 0.71, 0.5 * radius, (180, 182, 188))


def boat(pen: Pen, rng: Rng) -> None:
    """Hull with one or two sails on a mast."""
    hull = vivid(rng)
    sail = pale(rng)
    mast = rng.uniform(0.42, 0.56)
    deck = rng.uniform(0.7, 0.76)
    pen.line([(mast, 0.05), (mast, deck)], 0.022, wood(rng))
    bulge = rng.uniform(0.3, 0.4)
    pen.poly(
        [
            (mast + 0.02, 0.07),
            (mast + 0.02 + 0.5 * bulge, 0.36),
            (mast + bulge, deck - 0.05),
            (mast + 0.02, deck - 0.05),
        ],
        sail,
    )
    if rng.random() < 0.75:
        pen.poly([(mast - 0.02, 0.13), (mast - 0.02, deck - 0.05), (mast - 0.3, deck - 0.05)], shade(sail, 0.86))
    pen.poly([(0.05, deck), (0.96, deck), (0.82, 0.93), (0.22, 0.93)], hull)
    pen.poly([(0.05, deck), (0.96, deck), (0.93, deck + 0.045), (0.085, deck + 0.045)], shade(hull, 1.3))


def umbrella(pen: Pen, rng: Rng) -> None:
    """Open canopy in two colours with a scalloped rim and a crook handle."""
    first = vivid(rng)
    second = shade(first, 0.72) if rng.random() < 0.5 else vivid(rng)
    high = rng.uniform(0.38, 0.5)
    rim = rng.uniform(0.47, 0.53)
    pen.line([(0.5, 0.07), (0.5, 0.9)], 0.025, metal(rng))
    pen.arc(Ellipse(0.56, 0.88, 0.07, 0.08), 0, 180, 0.028, wood(rng))
    pen.pie(Ellipse(0.5, rim, 0.46, high), 180, 360, first)
    pen.pie(Ellipse(0.5, rim, 0.28, high), 180, 360, second)
    pen.pie(Ellipse(0.5, rim, 0.1, high), 180, 360, first)
    for x, colour in ((0.13, first), (0.31, second), (0.5, first), (0.69, second), (0.87, first)):
        pen.pie(Ellipse(x, rim, 0.092, 0.05), 0, 180, shade(colour, 0.85))


def kite(pen: Pen, rng: Rng) -> None:
    """Diamond in quarters with a tail of bows."""
    colours = [vivid(rng) for _ in range(2)]
    half = rng.uniform(0.22, 0.32)
    waist = rng.uniform(0.22, 0.3)
    top = (0.5, 0.03)
    left = (0.5 - half, waist)
    right = (0.5 + half, waist)
    low = (0.5, 0.64)
    centre = (0.5, waist)
    for index, (a, b) in enumerate(((top, left), (left, low), (low, right), (right, top))):
        pen.poly([a, b, centre], colours[index % 2])
    pen.line([top, low], 0.014, wood(rng))
    pen.line([left, right], 0.014, wood(rng))
    sway = rng.uniform(-0.14, 0.14)
    tail: list[Point] = [(0.5 + sway * np.sin(5 * t), 0.64 + 0.33 * t) for t in np.linspace(0, 1, 8)]
    pen.line(tail, 0.014, INK)
    for x, y in tail[2::2]:
        pen.poly(
            [(x - 0.055, y - 0.03), (x + 0.055, y + 0.03), (x + 0.055, y - 0.03), (x - 0.055, y + 0.03)],
            colours[0],
        )


def bicycle(pen: Pen, rng: Rng) -> None:
    """Side view: two spoked wheels, diamond frame, saddle, handlebar."""
    paint = vivid(rng)
    tyre = shade(metal(rng), 0.4)
    radius = rng.uniform(0.185, 0.215)
    rear = (0.24, 0.68)
    front = (0.76, 0.68)
    crank = (0.47, 0.68)
    for x, y in (rear, front):
        for turn in np.arange(4) * np.pi / 4 + rng.random():
            dx = radius * np.cos(turn)
            dy = radius * np.sin(turn)
            pen.line([(x - dx, y - dy), (x + dx, y + dy)], 0.008, (170, 172, 178))
        pen.ring(x, y, radius, rng.uniform(0.026, 0.04), tyre)
    seat = (0.39, rng.uniform(0.34, 0.4))
    head = (0.68, rng.uniform(0.34, 0.4))
    for a, b in ((rear, seat), (seat, crank), (crank, rear), (crank, head), (seat, head), (head, front)):
        pen.line([a, b], 0.03, paint)
    pen.line([(seat[0] - 0.07, seat[1] - 0.05), (seat[0] + 0.06, seat[1] - 0.05)], 0.045, INK)
    pen.line([seat, (seat[0], seat[1] - 0.05)], 0.024, INK)
    pen.line([head, (0.67, head[1] - 0.1), (0.75, head[1] - 0.12)], 0.028, INK)
    pen.disc(*crank, 0.04, shade(paint, 0.6))
