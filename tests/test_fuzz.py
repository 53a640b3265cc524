"""Damaged files, given to everything that reads files: the answer is the right content or a `CcdError`, soon.

Never another exception, a hang, or gigabytes of memory. A sealed artifact must be read exactly as it was written.
"""

from __future__ import annotations

import dataclasses
import json
import re
import resource
import signal
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import Phase, given, settings, strategies as st
from PIL import Image

from ccd.artifacts import (
    bias_file,
    boxes_file,
    checkpoint_file,
    class_table,
    classes_file,
    corrections_file,
    features_file,
    image_index,
    metrics_file,
    sealed,
    text_file,
)
from ccd.artifacts.class_table import PSEUDO_LABELS
from ccd.artifacts.image_keys import ImageKeys
from ccd.datasets import load_dataset
from ccd.datasets.class_names import NUS_WIDE
from ccd.datasets.scan import FileReader
from ccd.datasets.voc import CLASSES as VOC
from ccd.errors import CcdError
from ccd.params.file import read_yaml, validate
from ccd.params.sections import SECTIONS
from ccd.review.reviewed import read_reviewed
from tests.toys.finished_run import CLASSES, TRAIN, write_run

HANG_S = 10
MEMORY_BYTES = 2 << 30  # beyond what the process has; the largest image that is decoded takes less
PAPER = Path(__file__).parent.parent / "ccd/params/paper.yaml"
WORD = re.compile(rb'"[^"\n]*"|[\w.+-]+')
"""What is exchanged for a token: a JSON or YAML scalar, a cell, a name."""
COMMON = ("", "-1", "0.5", "1e999", "9" * 5000, "a" * 5000, "\0", "\ufeff", "é", "\x1b[2J", "../../x", "/etc/passwd")
TOKENS = {
    ".json": ("null", "true", "NaN", "Infinity", "[]", "{}", '""', '"\\ud800"', "[" * 3000, '{"a":' * 3000, '"', "}"),
    ".yaml": ("~", ".nan", "-.inf", "1_000", "yes", "2024-02-30", "!!python/name:os.system", "!!float x", "&a [*a]",
              "*a", "<<: *a", "[" * 200, "{a: " * 200, "---\n", "? ", "|\n", "\t", "'", "#"),
    ".xml": ("<!DOCTYPE a>", '<!ENTITY b "c">', "&b;", "&#0;", "<![CDATA[", "<!--", "<?x?>", "<object>", "</name>",
             "<a>" * 3000),
    ".csv": (",", ";", "\t", '"', '"""', "\r", "\n\n", "\u2028", "=1+1", "nan", "2", "cup;cup", "train/a"),
    ".txt": ("\r", "\n\n", "\u2028", ":", ",", "#", " ", "2", "000001"),
}  # fmt: skip


@dataclass(frozen=True)
class Subject:
    """``read`` gives the content of ``file``, or raises CcdError. ``exact``: never any other content."""

    file: str
    read: Callable[[Path], object]
    name: str = ""
    exact: bool = False


def _sections(path: Path) -> object:
    content = read_yaml(path)
    return [validate(model, content.get(model.section)) for model in SECTIONS]


def _resealed(read: Callable[[Path], object], path: Path) -> object:
    """Damage by somebody who can seal."""
    path.write_bytes(re.sub(rb"ccd-seal:[0-9a-f]{32}", sealed.BLANK.encode(), path.read_bytes()))
    sealed.stamp(path)
    return read(path)


def _image(path: Path) -> object:
    facts = FileReader(path.parent, "decode", False)(path.name)
    if facts.problem:
        raise CcdError(facts.problem)
    return facts


def _data_set(file: str, split: str = "train") -> Subject:
    adapter = file.partition("/")[0]

    def read(path: Path) -> object:
        root = path.parents[file.count("/") - 1]
        return load_dataset(adapter.partition("_")[0], root, train_split=split, test_split=None)

    return Subject(file, read)


EXACT: dict[str, Callable[[Path], object]] = {
    "images.parquet": image_index.read,
    "classes.json": classes_file.read,
    "text.h5": text_file.read,
    "clip_local.h5": partial(features_file.read, schema=features_file.LOCAL_SCHEMA),
    "bias.json": bias_file.read,
    "boxes.parquet": boxes_file.read,
    "pseudo_labels.parquet": partial(class_table.read, spec=PSEUDO_LABELS),
    "student.pt": partial(checkpoint_file.read, stage="train"),
}
REVIEWED = partial(read_reviewed, training=ImageKeys(TRAIN), classes=CLASSES)
IMAGES = ("a.jpg", "progressive.jpg", "a.png", "a.webp", "a.gif", "a.tiff", "a.bmp")
SUBJECTS = [
    Subject("params.yaml", _sections),
    *[Subject(f"artifacts/{name}", read, exact=True) for name, read in EXACT.items()],
    *[Subject(f"artifacts/{name}", partial(_resealed, EXACT[name]), f"{name}, resealed")
      for name in ("classes.json", "bias.json")],
    Subject("artifacts/metrics.json", metrics_file.read_metrics),
    Subject("artifacts/per_class.csv", metrics_file.read_per_class),
    Subject("artifacts/train_curves.csv", partial(metrics_file.read_curve, stage="train")),
    Subject("corrections.csv", partial(corrections_file.read, ids=TRAIN, classes=CLASSES)),
    *[Subject(name, REVIEWED) for name in ("sheet.csv", "table.csv", "tasks.json")],
    *[_data_set(f"folder/{name}") for name in ("classes.txt", "labels.csv")],
    _data_set("coco/annotations/instances_train.json"),
    *[_data_set(f"voc/{name}") for name in ("Annotations/000001.xml", "ImageSets/Main/train.txt")],
    _data_set("voc_lists/ImageSets/Main/cat_train.txt"),
    *[_data_set(f"nuswide/{name}", "TrainImagelist")
      for name in ("ImageList/TrainImagelist.txt", "Groundtruth/TrainTestLabels/Labels_sky_Train.txt")],
    *[Subject(f"images/{name}", _image) for name in IMAGES],
]  # fmt: skip


def _write_artifacts(folder: Path) -> None:
    write_run(folder)
    classes_file.write(folder / "classes.json", classes_file.ClassList(CLASSES, tuple((name,) for name in CLASSES)))
    state = {"w": torch.arange(4.0), "n": torch.tensor(3)}
    checkpoint_file.write(
        folder / "student.pt", checkpoint_file.Checkpoint({"classes": ["cup"]}, {"last": state}, "last", {})
    )


def _write_answers(folder: Path) -> None:
    rows = "image_id,class,label\ntrain/a,cup,1\ntrain/b,tall lamp,0\n"
    (folder / "corrections.csv").write_text(rows)
    (folder / "sheet.csv").write_text(rows + "train/c,cup,\n")
    (folder / "table.csv").write_text("path;classes\na.jpg;cup,tall lamp\nb.jpg;\n")
    chosen = {"from_name": "labels", "type": "choices", "value": {"choices": ["cup"]}}
    (folder / "tasks.json").write_text(
        json.dumps(
            [
                {"data": {"image_id": "train/a"}, "annotations": [{"was_cancelled": False, "result": [chosen]}]},
                {"data": {"image_id": "train/b"}, "annotations": []},
            ]
        )
    )


def _write_data_sets(folder: Path) -> None:
    coco = {
        "categories": [{"id": 1, "name": "person"}, {"id": 13, "name": "stop sign"}],
        "images": [{"id": 7, "file_name": "7.jpg"}, {"id": 2, "file_name": "2.jpg"}],
        "annotations": [{"image_id": 7, "category_id": 13, "iscrowd": 0}, {"image_id": 7, "category_id": 1}],
    }
    note = "<annotation><object><name>cat</name><difficult>1</difficult></object></annotation>"
    files = {
        "folder/classes.txt": "# classes\ncat\ndog: hound, puppy\n",
        "folder/labels.csv": "path,classes,split\na.jpg,cat;dog,train\nb,,\n",
        "coco/annotations/instances_train.json": json.dumps(coco),
    }
    for part, photo in (("Train", 1), ("Test", 2)):
        files[f"nuswide/ImageList/{part}Imagelist.txt"] = f"zoo\\{photo}.jpg\r\nzoo\\{photo + 2}.jpg\r\n"
        files |= {f"nuswide/Groundtruth/TrainTestLabels/Labels_{name}_{part}.txt": "0\r\n1\r\n" for name in NUS_WIDE}
    files |= {f"voc/Annotations/00000{number}.xml": note for number in (1, 2)}
    files |= {f"{kit}/ImageSets/Main/train.txt": "000001\n000002\n" for kit in ("voc", "voc_lists")}
    files |= {f"voc_lists/ImageSets/Main/{name}_train.txt": "000001 -1\n000002  1\n" for name in VOC}
    pictures = [f"{kit}/JPEGImages/00000{number}.jpg" for kit in ("voc", "voc_lists") for number in (1, 2)]
    pictures += ["folder/a.jpg", "folder/b.jpg", "coco/train/7.jpg", "coco/train/2.jpg"]
    files |= dict.fromkeys(
        [*pictures, *(f"nuswide/Flickr/zoo/{number}.jpg" for number in range(1, 5))], "not read here"
    )
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content.encode())


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a good file of each subject, and what it needs around it."""
    folder = tmp_path_factory.mktemp("good")
    _write_artifacts(folder / "artifacts")
    _write_answers(folder)
    _write_data_sets(folder)
    (folder / "params.yaml").write_bytes(PAPER.read_bytes())
    (folder / "images").mkdir()
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (30, 40, 3), np.uint8))
    for name in IMAGES:
        noise.save(folder / "images" / name, **({"progressive": True} if name == "progressive.jpg" else {}))
    return folder


@st.composite
def damaged(draw: st.DrawFn, content: bytes, tokens: tuple[str, ...]) -> bytes:
    """One to four bit flips, truncations, blocks that are gone, zero, twice or elsewhere; in text also tokens."""
    kinds = ["flip", "flip", "cut", "delete", "repeat", "zero", "move"] + ["exchange", "insert"] * (2 * bool(tokens))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(0, len(content) - 1)))
        end = at + draw(st.sampled_from((1, 2, 8, 64, 512)))
        head = content[:at]
        block = content[at:end]
        tail = content[end:]
        kind = draw(st.sampled_from(kinds))
        if kind == "flip" and block:
            content = head + bytes([block[0] ^ 1 << draw(st.integers(0, 7))]) + block[1:] + tail
        elif kind == "move":
            to = draw(st.integers(0, len(head + tail)))
            content = (head + tail)[:to] + block + (head + tail)[to:]
        elif kind == "exchange" and (word := WORD.search(content, at)):
            content = content[: word.start()] + draw(st.sampled_from(tokens)).encode() + content[word.end() :]
        elif kind == "insert":
            content = head + draw(st.sampled_from(tokens)).encode() + block + tail
        else:
            middle = {"cut": b"", "delete": tail, "repeat": block + block + tail, "zero": bytes(len(block)) + tail}
            content = head + middle.get(kind, block + tail)
    return content


@contextmanager
def limits() -> Iterator[None]:
    """Time and memory of one read; what takes more raises TimeoutError or MemoryError."""

    def stop(*_: object) -> None:
        raise TimeoutError(f"took more than {HANG_S} s")

    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    before = signal.signal(signal.SIGALRM, stop)
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY_BYTES, hard))
    signal.alarm(HANG_S)
    try:
        yield
    finally:
        signal.alarm(0)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
        signal.signal(signal.SIGALRM, before)


def plain(content: object) -> str:
    """Content as text that is equal where the content is."""
    if dataclasses.is_dataclass(content):
        return repr([(field.name, plain(getattr(content, field.name))) for field in dataclasses.fields(content)])
    if isinstance(content, dict):
        return repr([(key, plain(value)) for key, value in content.items()])
    if isinstance(content, Sequence) and not isinstance(content, str):
        return repr([plain(value) for value in content])
    return repr((str(content.dtype), content.tolist())) if hasattr(content, "tolist") else repr(content)


def fuzz(subject: Subject, path: Path, data: st.DataObject) -> None:
    """Read the file whole, damaged, and put it back."""
    content = path.read_bytes()
    expected = plain(subject.read(path))
    path.write_bytes(data.draw(damaged(content, TOKENS.get(path.suffix, ()))))
    try:
        with limits(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = subject.read(path)
    except CcdError as refused:
        assert "Traceback" not in str(refused) and len(str(refused)) < 20_000
    else:
        assert not subject.exact or plain(found) == expected, "damage was accepted"
    finally:
        path.write_bytes(content)


QUICK = settings(max_examples=40, derandomize=True, deadline=None, phases=[Phase.generate])
BY_NAME: Any = pytest.mark.parametrize("subject", [pytest.param(each, id=each.name or each.file) for each in SUBJECTS])


@BY_NAME
@settings(QUICK)
@given(data=st.data())
def test_damage_is_refused_or_harmless(subject: Subject, good: Path, data: st.DataObject) -> None:
    fuzz(subject, good / subject.file, data)


@pytest.mark.slow
@BY_NAME
@settings(QUICK, max_examples=500)
@given(data=st.data())
def test_much_damage_is_refused_or_harmless(subject: Subject, good: Path, data: st.DataObject) -> None:
    fuzz(subject, good / subject.file, data)
