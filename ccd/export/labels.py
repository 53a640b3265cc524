"""``ccd export labels``: the labels of a finished run in the format of another tool."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Literal, get_args

from ccd.artifacts.atomic import replacing
from ccd.errors import CcdError, listed
from ccd.export.annotation_tools import to_cvat, to_label_studio
from ccd.export.formats import to_coco, to_csv, to_fiftyone, to_hf
from ccd.export.labelled import LabelledSet

Format = Literal["csv", "hf", "coco", "labelstudio", "cvat", "fiftyone"]
FORMATS: tuple[Format, ...] = get_args(Format)
LOCAL_FILES = "/data/local-files/?d="


def export_labels(
    labels: LabelledSet, kind: Format, out: Path, root: Path, *, image_url: str = LOCAL_FILES, copy_images: bool = False
) -> list[Path]:
    """Write the files of a format into the folder ``out``; returns their paths.

    Args:
        root: dataset.root, where the images are.
        image_url: Label Studio: what stands before an image's path.
        copy_images: copy the images into ``out`` too, at the paths that the files name; for CVAT, whose archives have
            them there, into its folder ``images``.

    Raises:
        CcdError: there is nothing to write, or an image that should be copied is not there.
    """
    if not labels.images:
        raise CcdError("there are no images in that split; see --split")
    if copy_images:
        _copy([image.path for image in labels.images], root, out / "images" if kind == "cvat" else out)
    for name, text in _texts(labels, kind, (out if copy_images else root).resolve(), image_url).items():
        with replacing(out / name) as temporary:
            temporary.write_text(text, encoding="utf-8", newline="")
    return [out / name for name in _FILES[kind]]


_FILES: dict[Format, tuple[str, ...]] = {
    "csv": ("labels.csv",),
    "hf": ("metadata.jsonl",),
    "coco": ("annotations.json",),
    "labelstudio": ("tasks.json", "labelling_config.xml"),
    "cvat": ("annotations.xml",),
    "fiftyone": ("labels.json", "data.json"),
}


def _texts(labels: LabelledSet, kind: Format, folder: Path, image_url: str) -> dict[str, str]:
    if kind == "labelstudio":
        return to_label_studio(labels, image_url)
    if kind == "fiftyone":
        return to_fiftyone(labels, folder.as_posix())
    return {"csv": to_csv, "hf": to_hf, "coco": to_coco, "cvat": to_cvat}[kind](labels)


def _copy(paths: list[str], root: Path, out: Path) -> None:
    missing = [path for path in paths if not (root / path).is_file()]
    if missing:
        raise CcdError(f"{len(missing)} images are not in {root}: {listed(missing)}; correct dataset.root")
    for path in paths:
        with replacing(out / path) as temporary:
            shutil.copyfile(root / path, temporary)
