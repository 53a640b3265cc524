"""Where ``ccd predict`` may write: nothing that is there is replaced unasked, and nothing that it reads at all."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ccd.artifacts.atomic import is_stream
from ccd.artifacts.existing import keep_old, refuse_existing, refuse_folders, refuse_inputs
from ccd.datasets.folder import LABELS_FILE
from ccd.datasets.image_search import is_image
from ccd.deploy import pieces
from ccd.deploy.cams import common_folder, overlay_name
from ccd.errors import CcdError

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
        return self.resume and self.table is not None and pieces.is_unfinished(self.table)

    @property
    def is_complete(self) -> bool:
        """Whether the run to continue has come to its end already."""
        return self.resume and self.table is not None and self.table.is_file() and not pieces.is_unfinished(self.table)

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
        pieces.refuse_unfinished(table)
        refuse_existing([table], force=False)
    pieces.refuse_other_folder(table)


def _check_boxes(boxes: Path, outputs: Outputs) -> None:
    folder = boxes.parent
    if folder.exists() and not folder.is_dir():
        raise CcdError(f"--cam {folder}: a file; give a folder for overlays and boxes")
    refuse_folders([boxes])
    if outputs.continues or outputs.force:
        return
    if pieces.is_unfinished(boxes):
        raise CcdError(
            f"{pieces.folder_of(boxes)} is left from an interrupted run; continue it with --resume and the same --out, "
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
        raise CcdError(f"--cam {folder}: images to label lie there, and overlays among them would be taken for images; "
                       "choose a folder outside of theirs")  # fmt: skip
    if inside:
        return [f"--cam {folder} lies in a folder of images: who labels that again labels the overlays too"]
    return []


def start_over(outputs: Outputs) -> None:
    """Delete what interrupted runs left of these outputs, where ``force`` says so."""
    for path in (outputs.table, outputs.boxes):
        if outputs.force and path is not None:
            pieces.discard(path)


def keep_finished(outputs: Outputs) -> Path | None:
    """Copy a table that appeared at the place of one that is being continued. Returns the copy, if any."""
    return keep_old(outputs.table) if outputs.continues and outputs.table is not None else None
