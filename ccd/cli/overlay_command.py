"""Where ``ccd inspect`` writes its overlay: never over something else, and never among the images."""

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
    """Refuse a place that somebody named for an overlay.

    Args:
        root: dataset.root.

    Raises:
        CcdError: something is there and ``force`` is not given, or it lies among the images.
    """
    if is_stream(out):
        return
    if _lies_in(out, root):
        raise CcdError(
            f"{out} lies in {root}, the folder of images, where it would be taken for one of them; give another --out"
        )
    refuse_folders([out])
    refuse_existing([out], force=force)


def save_default_overlay(story: ImageStory, ids: Sequence[str], root: Path, *, force: bool) -> tuple[str, bool]:
    """Write the overlay into the working directory, unless something else has its name there.

    Args:
        ids: of all images of the data set.
        root: dataset.root.

    Returns:
        What to tell, and whether the overlay lies there.
    """
    out = Path(overlay_name(story.image_id, ids))
    if _lies_in(out, root):
        return f"note: no overlay is written among the images; name another place with --out: {out}", False
    if out.is_dir() or ((out.exists() or out.is_symlink()) and not force):
        if out.is_file() and out.read_bytes() == _as_png(story, root):
            return f"{out} is there already, the same", True
        return f"note: {out} is there already and differs; it stays. Give --out FILE, or --force to replace it", False
    write_overlay(story, root, out)
    return f"wrote {out}", True


def overlay_name(image_id: str, ids: Sequence[str]) -> str:
    """The default file name of an image's overlay: its own name where no other image has that, else with its folders;
    no two of ``ids`` share one."""
    name = _own_name(image_id)
    if sum(_own_name(other) == name for other in ids) > 1:
        name = image_id.replace("/", "_")
        if sum(name in (_own_name(other), other.replace("/", "_")) for other in ids) > 1:
            name += f".{hashlib.sha256(image_id.encode()).hexdigest()[:8]}"
    return f"{name}.overlay.png"


def _own_name(image_id: str) -> str:
    return image_id.rpartition("/")[2]


def _lies_in(out: Path, root: Path) -> bool:
    return out.resolve().is_relative_to(root.resolve())


def _as_png(story: ImageStory, root: Path) -> bytes:
    buffer = BytesIO()
    overlay(story, root).save(buffer, "PNG")
    return buffer.getvalue()
