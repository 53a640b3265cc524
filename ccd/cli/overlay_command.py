"""Choose and check the file to which ``ccd inspect`` writes its overlay."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

from ccd.artifacts.existing import refuse_existing, refuse_folders
from ccd.artifacts.files import is_stream
from ccd.errors import CcdError
from ccd.report.inspect import ImageStory
from ccd.report.overlay import overlay, write_overlay


def check_overlay(out: Path, root: Path, *, force: bool) -> None:
    """Refuse an unsuitable ``--out`` of an overlay.

    Args:
        root: dataset.root.

    Raises:
        CcdError: the file exists and ``force`` is false, it is a folder, or it lies in ``root``.
    """
    if is_stream(out):
        return
    if _lies_in(out, root):
        raise CcdError(
            f"{out} lies in {root}, the folder of images, where it would be indexed as an image; give another --out"
        )
    refuse_folders([out])
    refuse_existing([out], force=force)


def save_default_overlay(story: ImageStory, ids: Sequence[str], root: Path, *, force: bool) -> tuple[str, bool]:
    """Write the overlay into the working directory, unless a different file has its name.

    Args:
        ids: ids of all images of the data set.
        root: dataset.root.

    Returns:
        A message for the user, and whether the overlay exists now.
    """
    out = Path(overlay_name(story.image_id, ids))
    if _lies_in(out, root):
        return f"note: {out} was not written, since this is the folder of images; give another file with --out", False
    if out.is_dir() or ((out.exists() or out.is_symlink()) and not force):
        if out.is_file() and out.read_bytes() == _as_png(story, root):
            return f"{out} already exists with the same content", True
        return f"note: {out} already exists and differs; give --out FILE, or --force to replace it", False
    write_overlay(story, root, out)
    return f"wrote {out}", True


def overlay_name(image_id: str, ids: Sequence[str]) -> str:
    """Return the default file name of an image's overlay, different for each of ``ids``.

    It is the image's own file name, with its folders in front if another image has the same file name.
    """
    name = _file_name(image_id)
    if sum(_file_name(other) == name for other in ids) > 1:
        name = image_id.replace("/", "_")
        if sum(name in (_file_name(other), other.replace("/", "_")) for other in ids) > 1:
            name += f".{hashlib.sha256(image_id.encode()).hexdigest()[:8]}"
    return f"{name}.overlay.png"


def _file_name(image_id: str) -> str:
    return image_id.rpartition("/")[2]


def _lies_in(out: Path, root: Path) -> bool:
    return out.resolve().is_relative_to(root.resolve())


def _as_png(story: ImageStory, root: Path) -> bytes:
    buffer = BytesIO()
    overlay(story, root).save(buffer, "PNG")
    return buffer.getvalue()
