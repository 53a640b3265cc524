"""Write the labels of a finished run in the format of another tool (``ccd export labels``)."""

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
from ccd.errors import CcdError, listed, url_of
from ccd.images.file_cache import FileCache
from ccd.images.remote import is_remote, located, name_of, read

Format = Literal["csv", "hf", "coco", "labelstudio", "cvat", "fiftyone"]
FORMATS: tuple[Format, ...] = get_args(Format)
LOCAL_FILES = "/data/local-files/?d="
"""URL under which Label Studio serves files of local storage."""
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
    "labelstudio": "in Label Studio: make a project with labelling_config.xml as its interface and import tasks.json; "
    "later, read its JSON export with: ccd review import FILE",
    "cvat": "in CVAT: make a task with these images, then upload annotations.xml as CVAT 1.1",
    "fiftyone": "in Python: fiftyone.Dataset.from_dir({folder!r}, fiftyone.types.FiftyOneImageClassificationDataset, "
    "data_path='data.json')",
}


def image_folder(kind: Format, out: Path) -> Path:
    """Return the folder for copies of the images."""
    return out / "images" if kind == "cvat" else out


def check_files(kind: Format, out: Path, root: Path, read: Sequence[Path], *, force: bool) -> None:
    """Refuse to overwrite files with those of a format; needs no labels.

    Args:
        read: files that the pipeline reads, which are never overwritten.

    Raises:
        CcdError: files exist and ``force`` is false, ``out`` is no folder, or the pipeline would read a file as ground
            truth.
    """
    if out.exists() and not out.is_dir():
        raise CcdError(f"{out} is a file; give a folder")
    files = [out / name for name in _FILES[kind]]
    if LABELS_FILE in _FILES[kind] and out.resolve() == root.resolve():
        raise CcdError(
            f"{out / LABELS_FILE}: stage index reads a file of that name beside the images as ground truth; "
            "give another folder"
        )
    refuse_inputs(files, read)
    refuse_folders(files)
    refuse_existing(files, force=force)


def check_copies(labels: LabelledSet, root: Path, folder: Path, *, force: bool) -> None:
    """Refuse to copy the images over different files, or to a folder where the pipeline would index the copies.

    Raises:
        CcdError: different files exist and ``force`` is false, they are images of the data set, or ``folder`` lies in
            ``root``.
    """
    if folder.resolve() != root.resolve() and folder.resolve().is_relative_to(root.resolve()):
        raise CcdError(
            f"{folder} lies in the folder of images, where copies would be indexed as images; give another folder"
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
    """Write the files of a format into the folder ``out``; return their paths.

    Args:
        root: dataset.root, the folder of the images.
        image_url: Label Studio: text in front of an image's path.
        copy_images: copy the images into `image_folder` too, at the paths that the files name.

    Raises:
        CcdError: there are no images, or one to be copied is missing.
    """
    if not labels.images:
        raise CcdError("the split has no images; see --split")
    if copy_images:
        _copy([image.path for image in labels.images], root, image_folder(kind, out))
    folder = name_of((out if copy_images else root).resolve() if copy_images or url_of(root) is None else root)
    for name, text in _texts(labels, kind, folder, image_url).items():
        write_text(out / name, text)
    return [out / name for name in _FILES[kind]]


def how_to_read(kind: Format, out: Path) -> str:
    """Tell in one line how to read the files of a format."""
    return _READ_WITH[kind].format(folder=str(out))


def _texts(labels: LabelledSet, kind: Format, folder: str, image_url: str) -> dict[str, str]:
    if kind == "labelstudio":
        return to_label_studio(labels, image_url)
    if kind == "fiftyone":
        return to_fiftyone(labels, folder)
    return {"csv": to_csv, "hf": to_hf, "coco": to_coco, "cvat": to_cvat}[kind](labels)


def _copy(paths: list[str], root: Path, out: Path) -> None:
    sources = {path: located(root, path) for path in paths}
    missing = [path for path, source in sources.items() if not is_remote(source) and not source.is_file()]
    if missing:
        raise CcdError(f"{len(missing)} images are not in {root}: {listed(missing)}; correct dataset.root")
    for path, source in sources.items():
        if is_remote(source):
            with replacing(out / path) as temporary:
                temporary.write_bytes(read(source, FileCache()))
        elif not _is_copy(source, out / path):
            with replacing(out / path) as temporary:
                shutil.copyfile(source, temporary)
