"""Check and write the outputs of ``ccd predict``: the table, boxes and overlays."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from ccd.artifacts.existing import keep_old, refuse_existing, refuse_folders, refuse_inputs
from ccd.artifacts.files import is_stream, replacing
from ccd.artifacts.sealed import schema
from ccd.datasets.folder import LABELS_FILE
from ccd.datasets.image_search import is_image
from ccd.deploy import rows
from ccd.deploy.stream import Scored
from ccd.errors import CcdError, url_of
from ccd.images.decode import read_image
from ccd.images.drawing import LabelledBox, draw_boxes
from ccd.images.remote import name_of
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
BOXES = "boxes.parquet"


@dataclass(frozen=True)
class Localized:
    """A scored batch and its boxes: at most one for each decided class of each image.

    A box surrounds one component of the class activation map above half of its range, the one with the largest peak.
    """

    scored: Scored
    decided: np.ndarray
    boxes: Boxes


def localize(scored: Scored, decided: np.ndarray, input_px: int) -> Localized:
    """Find the boxes of the ``decided`` classes, (b, C) bool.

    Args:
        input_px: side of the network's input.

    Raises:
        CcdError: a class activation map is not finite.
    """
    boxes = cam_boxes(
        scored.cams,
        torch.from_numpy(decided),
        scored.sizes_px,
        input_px,
        cam_threshold=CAM_THRESHOLD,
        offset=0.0,
        connected_components=True,
        names=[str(path) for path in scored.paths],
    )
    return Localized(scored, decided, boxes)


def boxes_table(localized: Localized, classes: Sequence[str]) -> pa.Table:
    """Return a table with one row per box, see `BOXES_SCHEMA`."""
    scored = localized.scored
    boxes = localized.boxes
    floats = [scored.probs[boxes.rows, boxes.classes], boxes.peaks, *boxes.boxes_px.T]
    names = [
        pa.array([name_of(scored.paths[row]) for row in boxes.rows], pa.string()),
        pa.array([classes[index] for index in boxes.classes], pa.string()),
    ]
    values = [pa.array(np.ascontiguousarray(column, np.float32), pa.float32()) for column in floats]
    return pa.Table.from_arrays([*names, *values], schema=BOXES_SCHEMA)


def write_overlays(seen: Localized, classes: Sequence[str], folder: Path, root: Path) -> None:
    """Write a JPEG per image: the image with the maps of its decided classes in orange, and their boxes. Its path below
    ``folder`` is the image's path below ``root``. Raises CcdError if an image cannot be read any more."""
    for row, path in enumerate(seen.scored.paths):
        places = np.flatnonzero(seen.decided[row])
        image = heated(read_image(path), seen.scored.cams[row, places])
        labelled = []
        for box in np.flatnonzero(seen.boxes.rows == row):
            class_row = int(seen.boxes.classes[box])
            x0, y0, x1, y1 = (float(side) for side in seen.boxes.boxes_px[box])
            prob = f"{seen.scored.probs[row, class_row]:.2f}"
            labelled.append(LabelledBox((x0, y0, x1, y1), [f"{classes[class_row]} {prob}", prob]))
        draw_boxes(image, labelled)
        with replacing(folder / overlay_name(path, root)) as temporary:
            image.save(temporary, "JPEG", quality=85)


def common_folder(paths: Sequence[Path]) -> Path:
    """Return the deepest folder that contains all ``paths``, absolute."""
    return Path(os.path.commonpath([path.absolute().parent for path in paths]))


def overlay_name(path: Path, root: Path) -> Path:
    """Return the path of an image's overlay in the folder of overlays: unique per image, and never outside."""
    parts = ["_up_" if part == ".." else part for part in path.absolute().relative_to(root).parts]
    return Path(*parts[:-1], f"{parts[-1]}.jpg")


def heated(image: Image.Image, maps: Tensor) -> Image.Image:
    """Lay the maximum of the min-max normalised (k, h, w) ``maps`` over the image, at most half opaque."""
    low = maps.amin(dim=(1, 2), keepdim=True)
    high = maps.amax(dim=(1, 2), keepdim=True)
    if not len(maps):
        return image
    unit = ((maps - low) / (high - low).clamp_min(1e-12)).amax(dim=0)
    large = F.interpolate(unit[None, None], size=(image.height, image.width), mode="bilinear", align_corners=False)
    alpha = Image.fromarray((large[0, 0].clamp(0, 1) * 127).round().to(torch.uint8).numpy())
    return Image.composite(Image.new("RGB", image.size, HEAT), image, alpha)


@dataclass(frozen=True)
class Outputs:
    """The outputs of a run. ``table``: file of predictions, None for standard output; ``cam_folder``: folder for boxes
    and overlays, None for neither; ``resume``: continue an interrupted run; ``force``: replace existing files."""

    table: Path | None
    cam_folder: Path | None
    resume: bool
    force: bool

    @property
    def continues(self) -> bool:
        """Whether this run continues an interrupted one."""
        return self.resume and self.table is not None and rows.is_unfinished(self.table)

    @property
    def is_complete(self) -> bool:
        """Whether the run to continue has finished already."""
        return self.resume and self.table is not None and self.table.is_file() and not rows.is_unfinished(self.table)

    @property
    def boxes(self) -> Path | None:
        """The file of boxes, None without ``cam_folder``."""
        return None if self.cam_folder is None else self.cam_folder / BOXES


def check_names(outputs: Outputs) -> None:
    """Refuse outputs that cannot be written or would replace files; needs neither model nor images.

    Raises:
        CcdError: a file exists or its name is unsuitable, or there is interrupted work and neither ``resume`` nor
            ``force`` is set.
    """
    if outputs.resume and outputs.force:
        raise CcdError("--resume continues and --force starts over; give only one of them")
    if outputs.table is not None:
        _check_table(outputs.table, outputs)
    if outputs.boxes is not None and not outputs.is_complete:
        _check_boxes(outputs.boxes, outputs)


def _check_table(table: Path, outputs: Outputs) -> None:
    if is_stream(table):
        if outputs.resume:
            raise CcdError(f"{table} is no file that --resume could continue; give --out FILE")
        return
    if is_image(table.name, lambda: b""):
        raise CcdError(f"{table}: this is the name of an image; the name must end in .csv, .jsonl or .parquet")
    refuse_folders([table])
    if outputs.boxes is not None and table.resolve() == outputs.boxes.resolve():
        raise CcdError(f"{table} is where --cam {outputs.cam_folder} writes its boxes; choose another --out")
    if not outputs.resume and not outputs.force:
        rows.refuse_unfinished(table)
        refuse_existing([table], force=False)
    rows.refuse_other_folder(table)


def _check_boxes(boxes: Path, outputs: Outputs) -> None:
    folder = boxes.parent
    if folder.exists() and not folder.is_dir():
        raise CcdError(f"--cam {folder} is a file; give a folder for overlays and boxes")
    refuse_folders([boxes])
    if outputs.continues or outputs.force:
        return
    if rows.is_unfinished(boxes):
        raise CcdError(
            f"{rows.folder_of(boxes)} is left from an interrupted run; continue it with --resume and the same --out, "
            "give another --cam folder, or start over with --force"
        )
    refuse_existing([boxes], force=False)


def check_against_inputs(outputs: Outputs, model: Path, inputs: Sequence[str], paths: Sequence[Path]) -> list[str]:
    """Refuse outputs that would destroy an input or be used as one.

    Args:
        inputs: the inputs as the user gave them, including folders.
        paths: the images in them.

    Returns:
        Warnings about outputs that are allowed but unwise.

    Raises:
        CcdError: an output is the model or one of the images, overlays would lie among the images, or overlays exist.
    """
    parts = [model, *(model.iterdir() if model.is_dir() else ())]
    written = [path for path in (outputs.table, outputs.boxes) if path is not None]
    refuse_inputs(written, [*parts, *paths])
    folders = [Path(name).resolve() for name in inputs if url_of(name) is None and Path(name).is_dir()]
    warnings = _table_warnings(outputs.table, folders)
    if outputs.cam_folder is not None:
        warnings += _check_overlays(outputs.cam_folder, folders, paths)
        if not outputs.continues:
            refuse_existing(_overlays(outputs.cam_folder, paths), force=outputs.force)
    return warnings


def _table_warnings(table: Path | None, folders: Iterable[Path]) -> list[str]:
    if table is None or table.name != LABELS_FILE or table.resolve().parent not in folders:
        return []
    return [f"{table} lies beside images, where `ccd init` would read it as their ground truth; better rename it"]


def _overlays(folder: Path, paths: Sequence[Path]) -> list[Path]:
    root = common_folder(paths)
    return [folder / overlay_name(path, root) for path in paths]


def _check_overlays(folder: Path, inputs: Sequence[Path], paths: Sequence[Path]) -> list[str]:
    """Keep overlays apart from the images, since they are images themselves and the next run would find them."""
    cam_folder = folder.resolve()
    image_folders = {parent.resolve() for parent in {path.parent for path in paths}}
    is_inside = any(cam_folder.is_relative_to(each) for each in inputs)
    is_mixed = is_inside and any(each.is_relative_to(cam_folder) for each in image_folders)
    overlay_folders = {parent.resolve() for parent in {path.parent for path in _overlays(folder, paths)}}
    if is_mixed or overlay_folders & image_folders:
        raise CcdError(
            f"--cam {folder}: images to label lie there, and the next run would label overlays among them too; "
            "choose a folder outside of theirs"
        )
    if is_inside:
        return [f"--cam {folder} lies in a folder of images; the next run on that folder will label the overlays too"]
    return []


def start_over(outputs: Outputs) -> None:
    """With ``force``, delete the unfinished work of interrupted runs for these outputs."""
    for path in (outputs.table, outputs.boxes):
        if outputs.force and path is not None:
            rows.discard(path)


def keep_finished(outputs: Outputs) -> Path | None:
    """Back up a table that was put in the way of the run to be continued. Return the backup, if any."""
    return keep_old(outputs.table) if outputs.continues and outputs.table is not None else None
