"""``ccd export labels``: the labels of a finished run in the format of another tool."""

from __future__ import annotations

import filecmp
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, get_args

from ccd.artifacts.existing import refuse_existing, refuse_folders, refuse_inputs
from ccd.artifacts.files import replacing, write_text
from ccd.datasets.folder import LABELS_FILE
from ccd.deploy.label_formats import to_coco, to_csv, to_cvat, to_fiftyone, to_hf, to_label_studio
from ccd.deploy.labelled import LabelledSet
from ccd.errors import CcdError, listed

Format = Literal["csv", "hf", "coco", "labelstudio", "cvat", "fiftyone"]
FORMATS: tuple[Format, ...] = get_args(Format)
LOCAL_FILES = "/data/local-files/?d="


def image_folder(kind: Format, out: Path) -> Path:
    """Where ``copy_images`` puts the images."""
    return out / "images" if kind == "cvat" else out


def check_files(kind: Format, out: Path, root: Path, read: Sequence[Path], *, force: bool) -> None:
    """Refuse to write the files of a format over others; needs no labels.

    Args:
        read: lists that the pipeline reads, which are never written over.

    Raises:
        CcdError: files are there and ``force`` is not given, ``out`` is no folder, or a file would be read as ground
            truth from now on.
    """
    if out.exists() and not out.is_dir():
        raise CcdError(f"{out} is a file; give a folder")
    files = [out / name for name in _FILES[kind]]
    if LABELS_FILE in _FILES[kind] and out.resolve() == root.resolve():
        raise CcdError(
            f"{out / LABELS_FILE}: the stage index takes a list of that name beside the images for ground truth; "
            "give another folder"
        )
    refuse_inputs(files, read)
    refuse_folders(files)
    refuse_existing(files, force=force)


def check_copies(labels: LabelledSet, root: Path, folder: Path, *, force: bool) -> None:
    """Refuse to copy the images over files of other content, or to where the pipeline would take the copies for images.

    Raises:
        CcdError: other files are there and ``force`` is not given, they are images of the data set, or ``folder`` lies
            in ``root``.
    """
    if folder.resolve() != root.resolve() and folder.resolve().is_relative_to(root.resolve()):
        raise CcdError(
            f"{folder} lies in the folder of images, where copies would be taken for more of them; give another folder"
        )
    paths = [image.path for image in labels.images]
    different = [folder / path for path in paths if not _is_copy(root / path, folder / path)]
    refuse_folders(different)
    refuse_inputs(different, [root / path for path in paths])
    refuse_existing(different, force=force)


def _is_copy(source: Path, target: Path) -> bool:
    return target.is_file() and source.is_file() and filecmp.cmp(source, target, shallow=False)


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
        _copy([image.path for image in labels.images], root, image_folder(kind, out))
    for name, text in _texts(labels, kind, (out if copy_images else root).resolve(), image_url).items():
        write_text(out / name, text)
    return [out / name for name in _FILES[kind]]


_FILES: dict[Format, tuple[str, ...]] = {
    "csv": ("labels.csv",),
    "hf": ("metadata.jsonl",),
    "coco": ("annotations.json",),
    "labelstudio": ("tasks.json", "labelling_config.xml"),
    "cvat": ("annotations.xml",),
    "fiftyone": ("labels.json", "data.json"),
}


_READ_WITH: dict[Format, str] = {
    "csv": "in Python: pandas.read_csv({folder!r} + '/labels.csv', keep_default_na=False)",
    "hf": "in Python: datasets.load_dataset('imagefolder', data_dir={folder!r}, data_files='**', split='train')",
    "coco": "in Python: pycocotools.coco.COCO({folder!r} + '/annotations.json')",
    "labelstudio": "in Label Studio: a project with labelling_config.xml as its interface, import tasks.json; its JSON "
    "export goes into: ccd review import FILE",
    "cvat": "in CVAT: a task with these images, then upload annotations.xml as CVAT 1.1",
    "fiftyone": "in Python: fiftyone.Dataset.from_dir({folder!r}, fiftyone.types.FiftyOneImageClassificationDataset, "
    "data_path='data.json')",
}


def how_to_read(kind: Format, out: Path) -> str:
    """What to do with the files of a format, in one line."""
    return _READ_WITH[kind].format(folder=str(out))


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
        if not _is_copy(root / path, out / path):
            with replacing(out / path) as temporary:
                shutil.copyfile(root / path, temporary)
