"""Where a student sees what it says: boxes from its class activation maps, and pictures of both."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ccd.artifacts.atomic import replacing
from ccd.artifacts.parquet import schema
from ccd.deploy.stream import Scored
from ccd.images import read_image
from ccd.views.boxes import Boxes, cam_boxes

BOXES_SCHEMA = schema(
    "ccd.predicted_boxes/1",
    [
        ("path", pa.string(), False, "image"),
        ("class", pa.string(), False, "a class decided present in it"),
        ("prob", pa.float32(), False, "its probability"),
        ("cam_peak", pa.float32(), False, "largest activation of the map inside the box"),
        ("x0_px", pa.float32(), False, "left, in pixels of the original image after EXIF orientation"),
        ("y0_px", pa.float32(), False, "top"),
        ("x1_px", pa.float32(), False, "right (exclusive)"),
        ("y1_px", pa.float32(), False, "bottom (exclusive)"),
    ],
)
CAM_THRESHOLD = 0.5
HEAT = (240, 80, 20)


@dataclass(frozen=True)
class Seen:
    """The boxes of a batch: at most one for each decided class of each image, around the component of the map above
    half of its range that has the largest peak."""

    scored: Scored
    decided: np.ndarray
    boxes: Boxes


def see(scored: Scored, decided: np.ndarray, input_px: int) -> Seen:
    """Boxes of the (b, C) ``decided`` classes. Raises CcdError if a map is not finite."""
    boxes = cam_boxes(
        scored.cams, torch.from_numpy(decided), scored.sizes_px, input_px, cam_threshold=CAM_THRESHOLD, offset=0.0,
        connected_components=True, names=[str(path) for path in scored.paths],
    )  # fmt: skip
    return Seen(scored, decided, boxes)


def boxes_table(seen: Seen, classes: Sequence[str]) -> pa.Table:
    """One row per box, as in `BOXES_SCHEMA`."""
    boxes = seen.boxes
    floats = [seen.scored.probs[boxes.rows, boxes.classes], boxes.peaks, *boxes.boxes_px.T]
    names = [
        pa.array([seen.scored.paths[row].as_posix() for row in boxes.rows], pa.string()),
        pa.array([classes[place] for place in boxes.classes], pa.string()),
    ]
    values = [pa.array(np.ascontiguousarray(column, np.float32), pa.float32()) for column in floats]
    return pa.Table.from_arrays([*names, *values], schema=BOXES_SCHEMA)


def write_overlays(seen: Seen, classes: Sequence[str], folder: Path, root: Path) -> None:
    """A JPEG per image under ``folder``, at the image's own path below ``root``: the map of its decided classes in
    orange over the image, and their boxes. Raises CcdError if an image cannot be read any more."""
    for row, path in enumerate(seen.scored.paths):
        places = np.flatnonzero(seen.decided[row])
        image = heated(read_image(path), seen.scored.cams[row, places])
        for box in np.flatnonzero(seen.boxes.rows == row):
            place = int(seen.boxes.classes[box])
            draw_box(image, seen.boxes.boxes_px[box], f"{classes[place]} {seen.scored.probs[row, place]:.2f}")
        with replacing(folder / overlay_name(path, root)) as temporary:
            image.save(temporary, "JPEG", quality=85)


def common_folder(paths: Sequence[Path]) -> Path:
    """The deepest folder that all ``paths`` lie in, absolute."""
    return Path(os.path.commonpath([path.absolute().parent for path in paths]))


def overlay_name(path: Path, root: Path) -> Path:
    """Where an image's overlay lies in the folder: two images never share one, and none lies outside."""
    parts = ["_up_" if part == ".." else part for part in path.absolute().relative_to(root).parts]
    return Path(*parts[:-1], f"{parts[-1]}.jpg")


def heated(image: Image.Image, maps: Tensor) -> Image.Image:
    """The image with the largest of the min-max normalised (k, h, w) ``maps`` laid over it, at most half opaque."""
    low, high = maps.amin(dim=(1, 2), keepdim=True), maps.amax(dim=(1, 2), keepdim=True)
    if not len(maps):
        return image
    unit = ((maps - low) / (high - low).clamp_min(1e-12)).amax(dim=0)
    large = F.interpolate(unit[None, None], size=(image.height, image.width), mode="bilinear", align_corners=False)
    alpha = Image.fromarray((large[0, 0].clamp(0, 1) * 127).round().to(torch.uint8).numpy())
    return Image.composite(Image.new("RGB", image.size, HEAT), image, alpha)


def draw_box(image: Image.Image, corners_px: np.ndarray, text: str) -> None:
    """A white frame with a caption in its upper left corner, onto the image."""
    draw, line_px = ImageDraw.Draw(image), max(2, round(max(image.size) / 300))
    font = ImageFont.load_default(size=max(12, round(max(image.size) / 45)))
    x0, y0, x1, y1 = (float(side) for side in corners_px)
    draw.rectangle((x0, y0, max(x0, x1 - 1), max(y0, y1 - 1)), outline=(255, 255, 255), width=line_px)
    left, top, right, bottom = draw.textbbox((x0 + line_px + 2, y0 + line_px + 1), text, font=font)
    draw.rectangle((left - 2, top - 2, right + 2, bottom + 2), fill=(16, 20, 26))
    draw.text((x0 + line_px + 2, y0 + line_px + 1), text, font=font, fill=(255, 255, 255))
