"""Target classes that are small in life, each drawn from a handful of random parameters.

Every function draws one object upright and roughly centred in the unit square; pose, light and blur come later.
"""

from __future__ import annotations

import numpy as np

from ccd.demo.pen import INK, Ellipse, Pen, hsv, metal, pale, shade, vivid, wood

Rng = np.random.Generator


def fish(pen: Pen, rng: Rng) -> None:
    """Side view: oval body, tail fin, back fin, eye, sometimes stripes."""
    skin = vivid(rng)
    fat = rng.uniform(0.15, 0.26)
    fin = shade(skin, rng.uniform(0.6, 0.85))
    pen.poly(
        [
            (0.26, 0.5),
            (0.03, 0.5 - rng.uniform(0.16, 0.24)),
            (0.1, 0.5),
            (0.03, 0.5 + rng.uniform(0.16, 0.24)),
        ],
        fin,
    )
    pen.poly([(0.4, 0.5 - 0.8 * fat), (0.52, 0.44 - fat - 0.08), (0.74, 0.5 - 0.7 * fat)], fin)
    pen.poly([(0.48, 0.5 + 0.8 * fat), (0.5, 0.56 + fat), (0.66, 0.5 + 0.8 * fat)], fin)
    pen.disc(0.57, 0.5, 0.37, skin, ry=fat)
    pen.disc(0.57, 0.5 + 0.35 * fat, 0.29, shade(skin, 1.3), ry=0.5 * fat)
    if rng.random() < 0.5:
        for x in (0.4, 0.52, 0.64):
            pen.line([(x, 0.5 - 0.7 * fat), (x - 0.02, 0.5), (x, 0.5 + 0.7 * fat)], 0.035, shade(skin, 0.6))
    pen.arc(Ellipse(0.7, 0.5, 0.07, 0.8 * fat), 270, 90, 0.015, fin)
    pen.disc(0.83, 0.5 - 0.25 * fat, 0.045, (245, 245, 240))
    pen.disc(0.84, 0.5 - 0.25 * fat, 0.023, INK)


def mug(pen: Pen, rng: Rng) -> None:
    """Straight or tapering cup with an ear and a dark drink."""
    clay = vivid(rng) if rng.random() < 0.6 else pale(rng)
    top = rng.uniform(0.16, 0.28)
    foot = rng.uniform(0.84, 0.92)
    ear = rng.uniform(0.15, 0.2)
    taper = rng.uniform(0.0, 0.07)
    pen.ring(0.7, (top + foot) / 2, ear + 0.05, 0.065, shade(clay, 0.85), ry=ear + 0.04)
    pen.poly([(0.14, top), (0.7, top), (0.7 - taper, foot), (0.14 + taper, foot)], clay)
    pen.disc(0.42, foot, 0.28 - taper, clay, ry=0.06)
    if rng.random() < 0.5:
        pen.rect(0.15, 0.45, 0.69, 0.6, vivid(rng))
    pen.disc(0.42, top, 0.28, shade(clay, 1.25), ry=0.075)
    pen.disc(0.42, top + 0.01, 0.24, wood(rng), ry=0.055)


def lamp(pen: Pen, rng: Rng) -> None:
    """Table or floor lamp: conical shade, stem, foot."""
    fabric = hsv(rng.uniform(0.05, 0.17), rng.uniform(0.15, 0.7), 0.97) if rng.random() < 0.6 else vivid(rng)
    stem = metal(rng)
    narrow = rng.uniform(0.1, 0.2)
    wide = rng.uniform(0.26, 0.38)
    low = rng.uniform(0.36, 0.48)
    pen.line([(0.5, low - 0.02), (0.5, 0.9)], rng.uniform(0.025, 0.05), stem)
    if rng.random() < 0.5:
        pen.disc(0.5, rng.uniform(0.65, 0.75), rng.uniform(0.07, 0.13), shade(stem, 1.1))
    pen.disc(0.5, 0.91, rng.uniform(0.15, 0.24), shade(stem, 0.8), ry=0.045)
    pen.poly([(0.5 - narrow, 0.06), (0.5 + narrow, 0.06), (0.5 + wide, low), (0.5 - wide, low)], fabric)
    pen.disc(0.5, low, wide, shade(fabric, 1.2), ry=0.03)
    pen.rect(0.5 - narrow, 0.05, 0.5 + narrow, 0.08, shade(fabric, 0.75))


def flower(pen: Pen, rng: Rng) -> None:
    """Daisy or tulip on a leafy stem."""
    petal = vivid(rng)
    stem = hsv(rng.uniform(0.25, 0.38), 0.7, 0.5)
    pen.line([(0.5, 0.34), (0.5 + rng.uniform(-0.04, 0.04), 0.65), (0.5, 0.97)], 0.032, stem)
    for side in (-1, 1):
        y = rng.uniform(0.7, 0.86)
        pen.poly(
            [(0.5, y), (0.5 + 0.13 * side, y - 0.13), (0.5 + 0.25 * side, y - 0.11), (0.5 + 0.15 * side, y)],
            shade(stem, 1.15),
        )
    if rng.random() < 0.3:
        pen.poly(
            [(0.32, 0.14), (0.41, 0.26), (0.5, 0.1), (0.59, 0.26), (0.68, 0.14), (0.68, 0.36), (0.32, 0.36)],
            petal,
        )
        pen.pie(Ellipse(0.5, 0.35, 0.18, 0.16), 0, 180, petal)
        return
    count = int(rng.integers(5, 10))
    reach = rng.uniform(0.15, 0.18)
    for turn in np.linspace(0, 2 * np.pi, count, endpoint=False) + rng.random():
        tip = (0.5 + reach * np.cos(turn), 0.3 + reach * np.sin(turn))
        pen.disc(*tip, 0.42 / count + 0.05, shade(petal, rng.uniform(0.88, 1.12)))
    pen.disc(0.5, 0.3, rng.uniform(0.08, 0.12), hsv(rng.uniform(0.08, 0.16), 0.85, 0.9))


def mushroom(pen: Pen, rng: Rng) -> None:
    """Domed, spotted cap on a thick pale stalk."""
    cap = hsv(rng.uniform(-0.04, 0.1), rng.uniform(0.6, 0.9), rng.uniform(0.5, 0.85))
    stalk = hsv(0.11, rng.uniform(0.05, 0.25), rng.uniform(0.8, 0.95))
    rim = rng.uniform(0.48, 0.56)
    slim = rng.uniform(0.1, 0.15)
    pen.poly([(0.5 - slim, rim), (0.5 + slim, rim), (0.5 + 1.3 * slim, 0.9), (0.5 - 1.3 * slim, 0.9)], stalk)
    pen.disc(0.5, 0.9, 1.3 * slim, stalk, ry=0.05)
    wide = rng.uniform(0.34, 0.45)
    high = rng.uniform(0.32, 0.45)
    pen.disc(0.5, rim, wide, shade(stalk, 0.8), ry=0.07)
    pen.pie(Ellipse(0.5, rim + 0.01, wide, high), 180, 360, cap)
    if rng.random() < 0.75:
        for x, y, radius in (
            (-0.5, -0.3, 0.05),
            (0.05, -0.65, 0.06),
            (0.5, -0.35, 0.05),
            (-0.05, -0.22, 0.04),
        ):
            pen.disc(0.5 + x * wide, rim + y * high, radius * rng.uniform(0.7, 1.2), (245, 240, 228))


def clock(pen: Pen, rng: Rng) -> None:
    """Round or square wall clock with ticks and two hands."""
    frame = vivid(rng) if rng.random() < 0.5 else wood(rng)
    face = pale(rng)
    rim = rng.uniform(0.05, 0.09)
    if rng.random() < 0.75:
        pen.disc(0.5, 0.5, 0.44, frame)
        pen.disc(0.5, 0.5, 0.44 - rim, face)
    else:
        pen.rect(0.08, 0.08, 0.92, 0.92, frame, radius=0.1)
        pen.rect(0.08 + rim, 0.08 + rim, 0.92 - rim, 0.92 - rim, face, radius=0.06)
    for turn in np.arange(12) * np.pi / 6:
        ray = np.array([np.cos(turn), np.sin(turn)])
        inner = 0.5 + 0.27 * ray
        outer = 0.5 + 0.33 * ray
        pen.line([(inner[0], inner[1]), (outer[0], outer[1])], 0.025, INK)
    for length, width in ((0.27, 0.022), (0.18, 0.034)):
        turn = rng.uniform(0, 2 * np.pi)
        pen.line([(0.5, 0.5), (0.5 + length * np.cos(turn), 0.5 + length * np.sin(turn))], width, INK)
    pen.disc(0.5, 0.5, 0.03, frame)


def bottle(pen: Pen, rng: Rng) -> None:
    """Slim body, sloping shoulders, neck, cap and label."""
    glass = hsv(rng.choice([0.3, 0.36, 0.08, 0.55, rng.random()]), rng.uniform(0.3, 0.85), rng.uniform(0.3, 0.75))
    half = rng.uniform(0.13, 0.19)
    shoulder = rng.uniform(0.36, 0.46)
    neck = rng.uniform(0.045, 0.065)
    pen.rect(0.5 - half, shoulder, 0.5 + half, 0.96, glass, radius=0.05)
    pen.poly(
        [
            (0.5 - neck, 0.24),
            (0.5 + neck, 0.24),
            (0.5 + half, shoulder + 0.04),
            (0.5 - half, shoulder + 0.04),
        ],
        glass,
    )
    pen.rect(0.5 - neck, 0.1, 0.5 + neck, 0.28, glass)
    pen.rect(0.5 - neck - 0.012, 0.05, 0.5 + neck + 0.012, 0.12, vivid(rng))
    if rng.random() < 0.8:
        pen.rect(0.5 - half, 0.55, 0.5 + half, rng.uniform(0.72, 0.82), pale(rng))
    pen.line([(0.5 - 0.6 * half, shoulder + 0.08), (0.5 - 0.6 * half, 0.9)], 0.018, shade(glass, 1.6))
