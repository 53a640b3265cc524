"""Eighteen object kinds that are not among the demo's classes: what the student backbone is pretrained on."""

from __future__ import annotations

import numpy as np

from ccd.demo.pen import INK, Pen, hsv, metal, pale, shade, vivid, wood

Rng = np.random.Generator


def ladder(pen: Pen, rng: Rng) -> None:
    colour = wood(rng) if rng.random() < 0.5 else metal(rng)
    half = rng.uniform(0.13, 0.2)
    for y in np.linspace(0.14, 0.88, rng.integers(5, 8)):
        pen.line([(0.5 - half, y), (0.5 + half, y)], 0.035, shade(colour, 1.2))
    for x in (0.5 - half, 0.5 + half):
        pen.line([(x, 0.04), (x, 0.96)], 0.045, colour)


def rocket(pen: Pen, rng: Rng) -> None:
    body = pale(rng)
    fin = vivid(rng)
    half = rng.uniform(0.11, 0.16)
    for side in (-1, 1):
        pen.poly([(0.5 + side * half, 0.6), (0.5 + side * 0.33, 0.88), (0.5 + side * 0.5 * half, 0.8)], fin)
    pen.poly([(0.42, 0.8), (0.5, 0.98), (0.58, 0.8)], (240, 160, 40))
    pen.disc(0.5, 0.45, half, body, ry=0.4)
    pen.disc(0.5, 0.38, 0.5 * half, (120, 170, 210))


def guitar(pen: Pen, rng: Rng) -> None:
    body = wood(rng) if rng.random() < 0.5 else vivid(rng)
    pen.line([(0.5, 0.1), (0.5, 0.6)], 0.06, wood(rng))
    pen.rect(0.45, 0.03, 0.55, 0.14, INK)
    pen.disc(0.5, 0.56, rng.uniform(0.15, 0.19), body)
    pen.disc(0.5, 0.76, rng.uniform(0.19, 0.24), body, ry=0.2)
    pen.disc(0.5, 0.64, 0.06, INK)
    pen.rect(0.42, 0.82, 0.58, 0.85, INK)


def key(pen: Pen, rng: Rng) -> None:
    colour = metal(rng) if rng.random() < 0.6 else hsv(0.12, 0.7, 0.8)
    pen.ring(0.22, 0.5, rng.uniform(0.14, 0.19), 0.065, colour)
    pen.line([(0.38, 0.5), (0.95, 0.5)], 0.06, colour)
    for x in (0.76, 0.87):
        pen.rect(x, 0.5, x + 0.05, rng.uniform(0.6, 0.7), colour)


def crown(pen: Pen, rng: Rng) -> None:
    gold = hsv(rng.uniform(0.1, 0.16), 0.75, 0.9)
    high = rng.uniform(0.2, 0.34)
    pen.poly(
        [(0.1, high), (0.3, 0.55), (0.5, high - 0.1), (0.7, 0.55), (0.9, high), (0.82, 0.8), (0.18, 0.8)],
        gold,
    )
    pen.rect(0.17, 0.72, 0.83, 0.82, shade(gold, 0.75))
    for x, y in ((0.1, high), (0.5, high - 0.1), (0.9, high)):
        pen.disc(x, y, 0.05, vivid(rng))


def butterfly(pen: Pen, rng: Rng) -> None:
    upper = vivid(rng)
    lower = vivid(rng)
    for side in (-1, 1):
        pen.disc(0.5 + side * 0.23, 0.33, 0.2, upper, ry=rng.uniform(0.18, 0.26))
        pen.disc(0.5 + side * 0.18, 0.68, 0.15, lower, ry=0.18)
        pen.disc(0.5 + side * 0.26, 0.32, 0.09, shade(upper, 1.4))
        pen.line([(0.5, 0.25), (0.5 + side * 0.1, 0.06)], 0.014, INK)
    pen.disc(0.5, 0.5, 0.04, INK, ry=0.3)


def snowman(pen: Pen, rng: Rng) -> None:
    snow = hsv(0.58, rng.uniform(0.02, 0.12), 0.96)
    for y, radius in ((0.76, 0.21), (0.46, 0.16), (0.24, 0.12)):
        pen.disc(0.5, y, radius * rng.uniform(0.9, 1.08), snow)
    pen.rect(0.4, 0.02, 0.6, 0.14, INK)
    pen.rect(0.34, 0.13, 0.66, 0.16, INK)
    pen.poly([(0.5, 0.23), (0.66, 0.26), (0.5, 0.28)], (235, 130, 40))
    pen.line([(0.4, 0.34), (0.6, 0.34)], 0.05, vivid(rng))


def cactus(pen: Pen, rng: Rng) -> None:
    green = hsv(rng.uniform(0.27, 0.42), 0.6, rng.uniform(0.4, 0.65))
    pen.line([(0.5, 0.12), (0.5, 0.75)], 0.17, green)
    for side in (-1, 1):
        y = rng.uniform(0.4, 0.55)
        pen.line([(0.5, y), (0.5 + side * 0.24, y), (0.5 + side * 0.24, y - 0.2)], 0.09, shade(green, 0.9))
    pot = hsv(0.04, 0.65, 0.7)
    pen.poly([(0.3, 0.74), (0.7, 0.74), (0.64, 0.96), (0.36, 0.96)], pot)


def candle(pen: Pen, rng: Rng) -> None:
    wax = vivid(rng) if rng.random() < 0.5 else pale(rng)
    half = rng.uniform(0.08, 0.15)
    top = rng.uniform(0.3, 0.4)
    pen.rect(0.5 - half, top, 0.5 + half, 0.9, wax)
    pen.disc(0.5, top, half, shade(wax, 1.2), ry=0.03)
    pen.line([(0.5, top), (0.5, top - 0.07)], 0.016, INK)
    pen.disc(0.5, top - 0.13, 0.05, (250, 200, 60), ry=0.1)
    pen.disc(0.5, 0.91, 0.28, metal(rng), ry=0.045)


def bell(pen: Pen, rng: Rng) -> None:
    brass = hsv(rng.uniform(0.08, 0.15), 0.7, 0.8)
    wide = rng.uniform(0.3, 0.38)
    pen.disc(0.5, 0.85, 0.08, shade(brass, 0.6))
    pen.disc(0.5, 0.36, 0.2, brass)
    pen.poly([(0.3, 0.36), (0.7, 0.36), (0.5 + wide, 0.8), (0.5 - wide, 0.8)], brass)
    pen.rect(0.48 - wide, 0.76, 0.52 + wide, 0.83, shade(brass, 0.75), radius=0.03)
    pen.ring(0.5, 0.12, 0.06, 0.025, shade(brass, 0.7))


def drum(pen: Pen, rng: Rng) -> None:
    side = vivid(rng)
    skin = pale(rng)
    low = rng.uniform(0.68, 0.82)
    pen.rect(0.1, 0.3, 0.9, low, side)
    pen.disc(0.5, low, 0.4, side, ry=0.11)
    for x in np.linspace(0.12, 0.76, 5):
        pen.line([(x, 0.34), (x + 0.08, low + 0.05), (x + 0.14, 0.34)], 0.014, skin)
    pen.disc(0.5, 0.3, 0.4, shade(skin, 0.8), ry=0.13)
    pen.disc(0.5, 0.29, 0.36, skin, ry=0.1)


def pencil(pen: Pen, rng: Rng) -> None:
    paint = vivid(rng)
    half = rng.uniform(0.05, 0.08)
    pen.rect(0.16, 0.5 - half, 0.76, 0.5 + half, paint)
    pen.rect(0.03, 0.5 - half, 0.1, 0.5 + half, (235, 140, 150))
    pen.rect(0.1, 0.5 - half, 0.16, 0.5 + half, metal(rng))
    pen.poly([(0.76, 0.5 - half), (0.97, 0.5), (0.76, 0.5 + half)], (228, 196, 150))
    pen.poly([(0.9, 0.5 - 0.3 * half), (0.97, 0.5), (0.9, 0.5 + 0.3 * half)], INK)


def apple(pen: Pen, rng: Rng) -> None:
    skin = hsv(rng.choice([0.0, 0.02, 0.2, 0.28]), 0.75, rng.uniform(0.6, 0.85))
    pen.disc(0.37, 0.57, 0.27, skin, ry=0.32)
    pen.disc(0.63, 0.57, 0.27, skin, ry=0.32)
    pen.line([(0.5, 0.36), (0.54, 0.12)], 0.035, wood(rng))
    pen.poly([(0.54, 0.24), (0.68, 0.1), (0.82, 0.14), (0.7, 0.25)], hsv(0.3, 0.6, 0.55))


def hammer(pen: Pen, rng: Rng) -> None:
    pen.line([(0.5, 0.25), (0.5, 0.95)], rng.uniform(0.06, 0.09), wood(rng))
    steel = metal(rng)
    high = rng.uniform(0.16, 0.22)
    pen.rect(0.2, 0.08, 0.62, 0.08 + high, steel)
    pen.poly([(0.62, 0.08), (0.85, 0.2), (0.62, 0.08 + high)], shade(steel, 0.85))


def chair(pen: Pen, rng: Rng) -> None:
    colour = wood(rng) if rng.random() < 0.6 else vivid(rng)
    seat = rng.uniform(0.52, 0.6)
    for x in (0.25, 0.72):
        pen.line([(x, seat), (x, 0.96)], 0.05, shade(colour, 0.75))
    pen.line([(0.25, 0.05), (0.25, seat)], 0.05, colour)
    pen.line([(0.72, 0.05), (0.72, seat)], 0.05, colour)
    for y in np.linspace(0.1, seat - 0.12, 3):
        pen.rect(0.25, y, 0.72, y + 0.07, colour)
    pen.poly([(0.2, seat), (0.76, seat), (0.84, seat + 0.1), (0.14, seat + 0.1)], shade(colour, 1.15))


def book(pen: Pen, rng: Rng) -> None:
    cover = vivid(rng)
    page = pale(rng)
    droop = rng.uniform(0.03, 0.12)
    pen.poly([(0.04, 0.26), (0.5, 0.26 + droop), (0.96, 0.26), (0.96, 0.8), (0.5, 0.8 + droop), (0.04, 0.8)], cover)
    for side in (-1, 1):
        pen.poly(
            [(0.5, 0.26 + droop), (0.5 + side * 0.42, 0.24), (0.5 + side * 0.42, 0.76), (0.5, 0.78 + droop)],
            page,
        )
        for y in np.linspace(0.36, 0.68, 5):
            pen.line([(0.5 + side * 0.08, y + 0.8 * droop), (0.5 + side * 0.36, y)], 0.012, INK)


def windmill(pen: Pen, rng: Rng) -> None:
    wall = pale(rng)
    turn = rng.uniform(0, np.pi / 2)
    pen.poly([(0.42, 0.35), (0.58, 0.35), (0.66, 0.97), (0.34, 0.97)], wall)
    pen.poly([(0.38, 0.37), (0.5, 0.24), (0.62, 0.37)], vivid(rng))
    for quarter in turn + np.arange(4) * np.pi / 2:
        x = 0.32 * np.cos(quarter)
        y = 0.32 * np.sin(quarter)
        pen.line([(0.5, 0.37), (0.5 + x, 0.37 + y)], 0.03, wood(rng))
        pen.line(
            [(0.5 + 0.4 * x - 0.1 * y, 0.37 + 0.4 * y + 0.1 * x), (0.5 + x - 0.1 * y, 0.37 + y + 0.1 * x)],
            0.07,
            wall,
        )


def icecream(pen: Pen, rng: Rng) -> None:
    cone = hsv(0.09, 0.6, 0.8)
    rim = rng.uniform(0.42, 0.5)
    pen.poly([(0.27, rim), (0.73, rim), (0.5, 0.97)], cone)
    for shift in (-0.1, 0.05):
        pen.line([(0.5 + shift - 0.08, rim), (0.5 + shift + 0.06, rim + 0.28)], 0.014, shade(cone, 0.7))
    pen.disc(0.39, rim - 0.06, 0.15, vivid(rng))
    pen.disc(0.61, rim - 0.06, 0.15, vivid(rng))
    if rng.random() < 0.6:
        pen.disc(0.5, rim - 0.2, 0.15, pale(rng))
