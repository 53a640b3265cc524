"""Bad data sets: folders, lists, annotations and class names, met by stages index and text."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.faults.case import Case, picture, run, set_params
from tests.toys.datasets import VOC_TRAIN, coco_tree, nuswide_tree, voc_annotation, voc_kit
from tests.toys.tiny_clip import save_fp16, tiny_clip

GROUP = "data sets"
NAMES = "write the class names there, one per line"
ENTITIES = '<!DOCTYPE a [<!ENTITY a "cat"><!ENTITY b "&a;&a;">]><annotation>&b;</annotation>'
EXTERNAL = '<!DOCTYPE a SYSTEM "file:///etc/passwd"><annotation/>'


def text(name: str, content: str | bytes) -> Callable[[Path], object]:
    """Replace a file in the folder of pictures."""
    data = content.encode() if isinstance(content, str) else content
    return lambda folder: (folder / "pictures" / name).write_bytes(data)


def classes(content: str | bytes) -> Callable[[Path], object]:
    """Replace the list of classes, and leave the labels out."""

    def make(folder: Path) -> None:
        text("classes.txt", content)(folder)
        (folder / "pictures/labels.csv").unlink()

    return make


def params(**changed: str) -> Callable[[Path], object]:
    return lambda folder: set_params(folder, **changed)


def empty(folder: Path) -> None:
    for path in (folder / "pictures").rglob("*.png"):
        path.unlink()


def all_test(folder: Path) -> None:
    for name in ("a.png", "b.png"):
        (folder / "pictures" / name).rename(folder / "pictures/test" / name)
    (folder / "pictures/labels.csv").unlink()


def in_coco(spoil: Callable[[dict[str, Any]], object], raw: str | None = None) -> Callable[[Path], None]:
    """A tree in COCO's layout with its annotations changed, or replaced by ``raw``."""

    def make(folder: Path) -> None:
        root = coco_tree(folder / "coco", "train2014", {7: [13, 1], 5: [90]})
        path = root / "annotations/instances_train2014.json"
        content = json.loads(path.read_text())
        spoil(content)
        path.write_text(json.dumps(content) if raw is None else raw)
        set_params(
            folder,
            dataset__root="coco",
            index__adapter="coco",
            index__train_split="train2014",
            index__test_split="null",
        )

    return make


def in_voc(spoil: Callable[[Path], object]) -> Callable[[Path], None]:
    """A VOC kit that has its labels in XML alone."""

    def make(folder: Path) -> None:
        spoil(voc_kit(folder / "voc", {"train": VOC_TRAIN}, lists=False))
        set_params(
            folder, dataset__root="voc", index__adapter="voc", index__train_split="train", index__test_split="null"
        )

    return make


def in_nuswide(spoil: Callable[[Path], object]) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        (folder / "nus").mkdir()
        spoil(nuswide_tree(folder / "nus"))
        set_params(
            folder,
            dataset__root="nus",
            index__adapter="nuswide",
            index__train_split="TrainImagelist",
            index__test_split="null",
        )

    return make


def xml(content: str | bytes) -> Callable[[Path], None]:
    data = content.encode() if isinstance(content, str) else content
    return in_voc(lambda home: (home / "Annotations/000001.xml").write_bytes(data))


def asked_of_clip(texts: str) -> Callable[[Path], None]:
    """An indexed project with a tiny CLIP and other ``text.class_texts``."""

    def make(folder: Path) -> None:
        save_fp16(tiny_clip("vit"), folder / "vit.pt")
        set_params(folder, teacher__model="vit.pt", text__class_texts=texts)
        run("index", folder)

    return make


def changed(then: Callable[[Path], object]) -> Callable[[Path], None]:
    """A project whose pictures change after index."""

    def make(folder: Path) -> None:
        asked_of_clip("{}")(folder)
        then(folder / "pictures")

    return make


def _index(name: str, spoil: Callable[[Path], object], *says: str) -> Case:
    return Case(GROUP, name, "index", spoil, says)


CASES = [
    _index("root that is not there", params(dataset__root="gone"), "gone is not a folder; set dataset.root"),
    _index("folder without images", empty, "pictures holds no images", "set dataset.root to their folder"),
    _index("no training image", all_test, "the training split has no images"),
    _index("train and test split the same", params(index__test_split="train"), "both 'train'; they must differ"),
    _index("no list of classes", lambda f: (f / "pictures/classes.txt").unlink(), "classes.txt: No such file", NAMES),
    _index("empty list of classes", classes("# none\n"), "classes.txt holds no class names", NAMES),
    _index("class twice", classes("cat\ncat\n"), "1 class names are not unique: cat"),
    _index("class without a name", classes(": a cat\n"), "1 class names are empty: ''"),
    _index("class without words for CLIP", classes("cat:\n"), "have no text", "for CLIP to read: cat"),
    _index("classes not in UTF-8", classes(b"caf\xe9\n"), "classes.txt: not UTF-8 text", "save it as UTF-8"),
    _index("label of an unknown class", text("labels.csv", "path,classes\na.png,cow\n"), "labels.csv", "line 2", "cow"),
    _index("label of an unknown image", text("labels.csv", "path,classes\nz.png,cat\n"), "line 2: 'z.png' names no"),
    _index("label with ../ in its path", text("labels.csv", "path,classes\n../../etc/passwd,cat\n"), "names no images"),
    _index("labels without columns", text("labels.csv", "a.png,cat\n"), "its columns are a.png, cat; needed:"),
    _index("malformed CSV", text("labels.csv", 'path,classes\na.png,"cat\n'), "cannot be used: line 2: not valid CSV"),
    _index("misspelt split", text("labels.csv", "path,classes,split\na.png,cat,trian\n"), "splits trian are neither"),
    _index("COCO: malformed JSON", in_coco(len, '{"images": ['), "instances_train2014.json: not valid JSON"),
    _index("COCO: JSON nested too deep", in_coco(len, "[" * 200_000), "instances_train2014.json: not valid JSON"),
    _index("COCO: not its format", in_coco(len, '{"images": 3}'), "not COCO's instances format"),
    _index("COCO: infinite id", in_coco(lambda c: c["images"][0].update(id=1e999)), "not COCO's instances format"),
    _index("COCO: id twice", in_coco(lambda c: c["images"][0].update(id=5)), "an id stands for several images"),
    _index("COCO: annotation of no image", in_coco(lambda c: c["annotations"][0].update(image_id=4)), "image 4, cat"),
    _index("COCO: path out of the root", in_coco(lambda c: c["images"][0].update(file_name="../../etc/passwd")),
           "1 image paths lead out of the data set's root: train2014/../../etc/passwd"),
    _index("COCO: image that is not there", in_coco(lambda c: c["images"][0].update(file_name="x.jpg")),
           "1 of 2 images are missing in coco: train2014/x.jpg"),
    _index("VOC: malformed XML", xml("<annotation><object>"), "000001.xml: not well-formed XML"),
    _index("VOC: XML in no encoding", xml(b'<?xml version="1.0" encoding="klingon"?><annotation/>'),
           "000001.xml: not text in its encoding klingon"),
    _index("VOC: entity bomb", xml(ENTITIES), "000001.xml: a document type declaration has no place"),
    _index("VOC: external entity", xml(EXTERNAL), "000001.xml: a document type declaration has no place"),
    _index("VOC: unknown class", xml(voc_annotation({"unicorn": 1})), "'unicorn' is no VOC class; correct it"),
    _index("VOC: list names a missing image", in_voc(lambda h: (h / "JPEGImages/000002.jpg").unlink()),
           "1 of 3 images are missing in voc: JPEGImages/000002.jpg; unpack"),
    _index("VOC: list leads out of the root",
           in_voc(lambda h: (h / "ImageSets/Main/train.txt").write_text("../../../etc/passwd\n")),
           "1 image paths lead out of the data set's root: JPEGImages/../../../etc/passwd.jpg"),
    _index("VOC: NUL in a list", in_voc(lambda h: (h / "ImageSets/Main/train.txt").write_text("a\0/b\n")),
           "1 image paths lead out of the data set's root: JPEGImages/a\\x00/b.jpg"),
    _index("NUS-WIDE: labels cut off",
           in_nuswide(lambda r: (r / "Groundtruth/TrainTestLabels/Labels_sky_Train.txt").write_text("1\n")),
           "Labels_sky_Train.txt must hold 3 lines of 0 or 1"),
    _index("NUS-WIDE: dead links", in_nuswide(lambda r: (r / "Flickr/zoo/0003_13.jpg").unlink()),
           "1 of 3 images are missing", "links to Flickr die; list the images that are there"),
    Case(GROUP, "class text beyond CLIP's 77 tokens", "text", asked_of_clip(f"{{cat: ['{'very ' * 90}big cat']}}"),
         ("longer than the 77 tokens CLIP can read; shorten the class text or template: 'a photo of the very",)),
    Case(GROUP, "words for a class that is none", "text", asked_of_clip("{cow: [a cow]}"),
         ("text.class_texts names cow, not among the classes: cat, dog",)),
    Case(GROUP, "image that vanished after index", "clip_global", changed(lambda root: (root / "b.png").unlink()),
         ("pictures/b.png: cannot be read (No such file or directory)", "run `dvc repro -f -s index`")),
    Case(GROUP, "image that changed after index", "clip_global",
         changed(lambda root: picture(5, 99).save(root / "b.png")),
         ("pictures/b.png: ", "the file changed since index; run `dvc repro -f -s index` and then `dvc repro`")),
]  # fmt: skip
