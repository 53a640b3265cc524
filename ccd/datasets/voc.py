"""Reads PASCAL VOC in the layout of its development kit: JPEGImages/, Annotations/, ImageSets/Main/.

A split is a list in ImageSets/Main. Labels come from the per-class lists there, or from Annotations/ where a split has
no such lists; a split with neither (VOC2012's test) is unlabelled. An object marked difficult counts as present, and
the class is flagged difficult where it has no other object.
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ccd.artifacts.files import split_byte_order_mark
from ccd.datasets.class_names import VOC_TEXTS
from ccd.datasets.record import (
    ClassInfo,
    Dataset,
    ImageEntry,
    Split,
    Truth,
    assemble,
    read_bytes,
    read_lines,
    require_present,
)
from ccd.errors import CcdError, listed

CLASSES = tuple(VOC_TEXTS)
HINT = (
    "unpack the archives over one another, so that VOCdevkit/VOC<year> holds JPEGImages, Annotations and ImageSets: "
    "VOCtrainval_06-Nov-2007.tar and VOCtest_06-Nov-2007.tar from host.robots.ox.ac.uk/pascal/VOC/voc2007/, or "
    "VOCtrainval_11-May-2012.tar from host.robots.ox.ac.uk/pascal/VOC/voc2012/"
)


def load_voc(root: Path, train_split: str, test_split: str | None) -> Dataset:
    """Read a VOC folder, or a parent of exactly one.

    Raises:
        CcdError: an archive is missing or incomplete, a list is malformed, or ``root`` holds several VOC folders.
    """
    home = _find_home(root)
    prefix = home.relative_to(root).as_posix() + "/" if home != root else ""
    parts = [_read_split(root, home, prefix, train_split, "train")]
    if test_split is not None:
        parts.append(_read_split(root, home, prefix, test_split, "test"))
    return assemble(root, (ClassInfo(name, texts) for name, texts in VOC_TEXTS.items()), parts)


def _find_home(root: Path) -> Path:
    if (root / "ImageSets" / "Main").is_dir():
        return root
    homes = sorted(
        path.parent.parent for pattern in ("VOC*", "VOCdevkit/VOC*") for path in root.glob(pattern + "/ImageSets/Main")
    )
    if len(homes) == 1:
        return homes[0]
    if homes:
        raise CcdError(f"{root} holds several VOC folders; set dataset.root to one of: {listed(homes)}")
    raise CcdError(f"{root} holds no ImageSets/Main: it is not a VOC folder; {HINT}")


def _read_split(root: Path, home: Path, prefix: str, name: str, split: Split) -> tuple[list[ImageEntry], Truth | None]:
    lists = home / "ImageSets" / "Main"
    if not (lists / f"{name}.txt").is_file():
        raise CcdError(f"{lists} has no list {name}.txt; it has: {listed(_splits(lists), 20) or 'none'}; {HINT}")
    ids = [line.split()[0] for line in read_lines(lists / f"{name}.txt", HINT)]
    entries = [ImageEntry(image_id, f"{prefix}JPEGImages/{image_id}.jpg", split) for image_id in ids]
    require_present(root, (entry.path for entry in entries), HINT)
    return entries, _from_lists(lists, name, ids) or _from_annotations(home / "Annotations", ids)


def _splits(lists: Path) -> list[str]:
    per_class = tuple(f"{name}_" for name in CLASSES)
    return sorted(path.stem for path in lists.glob("*.txt") if not path.stem.startswith(per_class))


def _from_lists(lists: Path, split: str, ids: list[str]) -> Truth | None:
    """Read the per-class lists (1 present, -1 absent, 0 difficult only); None unless all exist and hold labels."""
    paths = [lists / f"{name}_{split}.txt" for name in CLASSES]
    if not all(path.is_file() for path in paths):
        return None
    flags = np.stack([_flags(path, ids) for path in paths], axis=1)
    if not flags.any():
        return None
    return Truth((flags >= 0).astype(np.int8), flags == 0)


def _flags(path: Path, ids: list[str]) -> NDArray[np.int8]:
    """Read the flags of one class, (N,) int8 in the order of ``ids``."""
    rows = [line.split() for line in read_lines(path, HINT)]
    wrong = [" ".join(row) for row in rows if len(row) != 2 or row[1] not in ("1", "0", "-1")]
    if wrong:
        raise CcdError(
            f"{path}: {len(wrong)} lines are not '<image> 1', '<image> -1' or '<image> 0': {listed(wrong)}; {HINT}"
        )
    flags = dict(rows)
    absent = [image_id for image_id in ids if image_id not in flags]
    if absent or len(flags) != len(set(ids)):
        raise CcdError(
            f"{path} lists {len(flags)} images, its split {len(ids)}; not listed: {listed(absent) or 'none'}; {HINT}"
        )
    return np.asarray([int(flags[image_id]) for image_id in ids], np.int8)


def _from_annotations(folder: Path, ids: list[str]) -> Truth | None:
    """Read labels from the XML of each image; None if no image of the split has one."""
    paths = [folder / f"{image_id}.xml" for image_id in ids]
    absent = [path.name for path in paths if not path.is_file()]
    if len(absent) == len(paths):
        return None
    if absent:
        raise CcdError(f"{folder}: {len(absent)} of {len(paths)} annotations are missing: {listed(absent)}; {HINT}")
    labels, has_easy_object = np.zeros((2, len(ids), len(CLASSES)), np.bool_)
    for row, path in enumerate(paths):
        for item in annotated_objects(path):
            name = (item.findtext("name") or "").strip()
            if name not in VOC_TEXTS:
                raise CcdError(f"{path}: '{name}' is no VOC class; correct it to one of: {', '.join(CLASSES)}")
            labels[row, CLASSES.index(name)] = True
            has_easy_object[row, CLASSES.index(name)] |= (item.findtext("difficult") or "0").strip() != "1"
    return Truth(labels.astype(np.int8), labels & ~has_easy_object)


_DECLARATION = re.compile(r"^\s*<\?xml[^>]*\?>")
_ENCODING = re.compile(rb"""^\s*<\?xml[^>]*encoding\s*=\s*["']([A-Za-z0-9._-]+)["']""")


def xml_text(path: Path) -> str:
    """Read the text of an XML file in the encoding of its byte order mark or declaration; UTF-8 otherwise.

    Raises:
        CcdError: the file is missing, its encoding is unknown, or its bytes are not in that encoding.
    """
    data = read_bytes(path, HINT)
    encoding, body = split_byte_order_mark(data)
    declared = _ENCODING.match(body)
    if encoding is None:
        encoding = "utf-8" if declared is None else declared[1].decode("ascii")
    try:
        return body.decode(encoding)
    except (UnicodeError, LookupError) as error:
        raise CcdError(f"{path}: not text in its encoding {encoding} ({error}); save it as UTF-8") from None


def annotated_objects(path: Path) -> list[ET.Element]:
    """Return the ``object`` elements of one annotation; a document type is refused, since it can define entities.

    Raises:
        CcdError: the file is missing, no text, not well-formed, or has a document type.
    """
    text = xml_text(path)
    if "<!DOCTYPE" in text:
        raise CcdError(f"{path}: a document type declaration has no place in a VOC annotation; remove it")
    try:
        return ET.fromstring(_DECLARATION.sub("", text, count=1)).findall("object")
    except ET.ParseError as error:
        raise CcdError(f"{path}: not well-formed XML ({error}); {HINT}") from None
