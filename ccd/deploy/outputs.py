"""What ``ccd predict`` writes: tables, boxes and pictures; nothing that is there is replaced unasked."""

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
from ccd.errors import CcdError
from ccd.images.decode import read_image
from ccd.images.drawing import LabelledBox, draw_boxes
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
        scored.cams,
        torch.from_numpy(decided),
        scored.sizes_px,
        input_px,
        cam_threshold=CAM_THRESHOLD,
        offset=0.0,
        connected_components=True,
        names=[str(path) for path in scored.paths],
    )
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
    """The deepest folder that all ``paths`` lie in, absolute."""
    return Path(os.path.commonpath([path.absolute().parent for path in paths]))


def overlay_name(path: Path, root: Path) -> Path:
    """Where an image's overlay lies in the folder: two images never share one, and none lies outside."""
    parts = ["_up_" if part == ".." else part for part in path.absolute().relative_to(root).parts]
    return Path(*parts[:-1], f"{parts[-1]}.jpg")


def heated(image: Image.Image, maps: Tensor) -> Image.Image:
    """The image with the largest of the min-max normalised (k, h, w) ``maps`` laid over it, at most half opaque."""
    low = maps.amin(dim=(1, 2), keepdim=True)
    high = maps.amax(dim=(1, 2), keepdim=True)
    if not len(maps):
        return image
    unit = ((maps - low) / (high - low).clamp_min(1e-12)).amax(dim=0)
    large = F.interpolate(unit[None, None], size=(image.height, image.width), mode="bilinear", align_corners=False)
    alpha = Image.fromarray((large[0, 0].clamp(0, 1) * 127).round().to(torch.uint8).numpy())
    return Image.composite(Image.new("RGB", image.size, HEAT), image, alpha)


BOXES = "boxes.parquet"


@dataclass(frozen=True)
class Outputs:
    """``table``: the file of answers, None for standard output; ``cam_folder``: where boxes and overlays go, None for
    neither; ``resume``: continue what was interrupted; ``force``: replace what is there."""

    table: Path | None
    cam_folder: Path | None
    resume: bool
    force: bool

    @property
    def continues(self) -> bool:
        """Whether there is interrupted work to continue, and it shall be."""
        return self.resume and self.table is not None and rows.is_unfinished(self.table)

    @property
    def is_complete(self) -> bool:
        """Whether the run to continue has come to its end already."""
        return self.resume and self.table is not None and self.table.is_file() and not rows.is_unfinished(self.table)

    @property
    def boxes(self) -> Path | None:
        """The table of boxes."""
        return None if self.cam_folder is None else self.cam_folder / BOXES


def check_names(outputs: Outputs) -> None:
    """Refuse what cannot, or may not, be written; needs neither model nor images.

    Raises:
        CcdError: a name that is taken or does not fit, or interrupted work that nobody asked to continue.
    """
    if outputs.resume and outputs.force:
        raise CcdError("--resume continues and --force starts over: give one of them")
    if outputs.table is not None:
        _check_table(outputs.table, outputs)
    if outputs.boxes is not None and not outputs.is_complete:
        _check_boxes(outputs.boxes, outputs)


def _check_table(table: Path, outputs: Outputs) -> None:
    if is_stream(table):
        if outputs.resume:
            raise CcdError(f"{table} keeps nothing that --resume could continue; give --out FILE")
        return
    if is_image(table.name, lambda: b""):
        raise CcdError(f"{table}: a table called like an image; let its name end in .csv, .jsonl or .parquet")
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
        raise CcdError(f"--cam {folder}: a file; give a folder for overlays and boxes")
    refuse_folders([boxes])
    if outputs.continues or outputs.force:
        return
    if rows.is_unfinished(boxes):
        raise CcdError(
            f"{rows.folder_of(boxes)} is left from an interrupted run; continue it with --resume and the same --out, "
            "give another --cam folder, or start over with --force"
        )
    refuse_existing([boxes], force=False)


def check_against_inputs(outputs: Outputs, model: Path, words: Sequence[str], paths: Sequence[Path]) -> list[str]:
    """Refuse outputs that destroy an input or would be taken for one.

    Args:
        words: the inputs as they were named, folders among them.
        paths: the images that they stand for.

    Returns:
        What should be said of places that are allowed and yet unwise.

    Raises:
        CcdError: an output is the model or one of the images, overlays would lie among the images, or are there
            already.
    """
    parts = [model, *(model.iterdir() if model.is_dir() else ())]
    written = [path for path in (outputs.table, outputs.boxes) if path is not None]
    refuse_inputs(written, [*parts, *paths])
    folders = [Path(word).resolve() for word in words if Path(word).is_dir()]
    notes = _about_table(outputs.table, folders)
    if outputs.cam_folder is not None:
        notes += _check_overlays(outputs.cam_folder, folders, paths)
        if not outputs.continues:
            refuse_existing(_overlays(outputs.cam_folder, paths), force=outputs.force)
    return notes


def _about_table(table: Path | None, folders: Iterable[Path]) -> list[str]:
    if table is None or table.name != LABELS_FILE or table.resolve().parent not in folders:
        return []
    return [f"{table} lies beside images, where `ccd init` takes it for what people know about them; better rename it"]


def _overlays(folder: Path, paths: Sequence[Path]) -> list[Path]:
    root = common_folder(paths)
    return [folder / overlay_name(path, root) for path in paths]


def _check_overlays(folder: Path, inputs: Sequence[Path], paths: Sequence[Path]) -> list[str]:
    """Overlays are images: the next look into a folder would find them."""
    place = folder.resolve()
    image_folders = {parent.resolve() for parent in {path.parent for path in paths}}
    inside = any(place.is_relative_to(each) for each in inputs)
    mixed = inside and any(each.is_relative_to(place) for each in image_folders)
    overlay_folders = {parent.resolve() for parent in {path.parent for path in _overlays(folder, paths)}}
    if mixed or overlay_folders & image_folders:
        raise CcdError(
            f"--cam {folder}: images to label lie there, and overlays among them would be taken for images; "
            "choose a folder outside of theirs"
        )
    if inside:
        return [f"--cam {folder} lies in a folder of images: who labels that again labels the overlays too"]
    return []


def start_over(outputs: Outputs) -> None:
    """Delete what interrupted runs left of these outputs, where ``force`` says so."""
    for path in (outputs.table, outputs.boxes):
        if outputs.force and path is not None:
            rows.discard(path)


def keep_finished(outputs: Outputs) -> Path | None:
    """Copy a table that appeared at the place of one that is being continued. Returns the copy, if any."""
    return keep_old(outputs.table) if outputs.continues and outputs.table is not None else None
