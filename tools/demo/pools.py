"""Renders pictures once and keeps them in memory, so that training never waits for the renderer."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ccd.demo.scenes import SceneObject, render_scene, render_single, scene_rng


@dataclass(frozen=True)
class Picture:
    """RGB pixels (H, W, 3) uint8, the objects in them, and the place ("" for a single object)."""

    pixels: NDArray[np.uint8]
    objects: tuple[SceneObject, ...]
    place: str


@dataclass(frozen=True)
class SceneOrder:
    """An order of scene number ``index`` of a stream."""

    seed: int
    stream: str
    index: int


@dataclass(frozen=True)
class SingleOrder:
    """An order of single-object picture number ``index`` of a stream, ``size_px`` square.

    The object is drawn from ``names`` with the frequencies ``weights``, whose sum is 1.
    """

    seed: int
    stream: str
    index: int
    names: tuple[str, ...]
    weights: tuple[float, ...]
    size_px: int


def render(order: SceneOrder | SingleOrder) -> Picture:
    """Render the ordered picture, which depends on the order alone."""
    rng = scene_rng(order.seed, order.stream, order.index)
    if isinstance(order, SceneOrder):
        scene = render_scene(rng)
        return Picture(np.array(scene.image), scene.objects, scene.place)
    name = str(rng.choice(order.names, p=order.weights))
    image = render_single(name, rng, order.size_px)
    frame = SceneObject(name, (0, 0, order.size_px, order.size_px))
    return Picture(np.array(image), (frame,), "")


def render_pool(
    orders: Sequence[SceneOrder | SingleOrder], workers: int, progress: Callable[[int, int], None] | None = None
) -> list[Picture]:
    """Render all ordered pictures, in order, with ``workers`` processes (0: in this process).

    ``progress`` is called with (done, total) after each picture.
    """
    pictures: list[Picture] = []

    def keep(picture: Picture) -> None:
        pictures.append(picture)
        if progress is not None:
            progress(len(pictures), len(orders))

    if workers == 0:
        for order in orders:
            keep(render(order))
        return pictures
    with multiprocessing.get_context("spawn").Pool(workers) as processes:
        for picture in processes.imap(render, orders, chunksize=32):
            keep(picture)
    return pictures
