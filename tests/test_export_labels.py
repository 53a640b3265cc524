"""Exported labels, read back by small packages that are meant to, else as the format is published; see also
test_export_consumers.py."""

from __future__ import annotations

import csv
import json
import xml.etree.ElementTree as ET
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner, Result

from ccd.artifacts import checkpoint_file
from ccd.cli.main import main
from ccd.deploy.label_formats import to_cvat, to_label_studio
from ccd.deploy.labelled import Box, LabelledImage, LabelledSet
from ccd.errors import CcdError
from tests.toys.finished_run import CLASSES, EVIL, TEST, TRAIN, write_project

CUPS = {"train/a": 1.0, "train/b": 0.8, "train/c": 0.55}  # the only labels of at least 0.5
BOXES = {"train/a": (0, 0, 200, 150), "train/b": (0, 0, 300, 500)}  # of the class cup, as corners
SIZES = {"train/a": (400, 300), "train/b": (300, 500), "train/c": (400, 300), "train/d": (300, 500)}


@pytest.fixture()
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A finished run of a data set called toy whose images lie beside its artifacts."""
    monkeypatch.chdir(tmp_path)
    write_project()
    return tmp_path


def export(kind: str, *words: str) -> Result:
    done = CliRunner().invoke(main, ["export", "labels", "out", "--format", kind, *words])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done


def exported(kind: str, *words: str) -> dict[str, int]:
    """Export, assert that it worked, and return the counts it states."""
    done = export(kind, *words, "--json")
    assert done.exit_code == 0, done.output
    return {key: value for key, value in json.loads(done.stdout).items() if key != "wrote"}


def test_csv_in_pandas(project: Path) -> None:
    assert exported("csv") == {"images": 4, "labels": 3, "boxes": 2}
    table = pd.read_csv("out/labels.csv", keep_default_na=False)
    assert list(table.columns) == ["image_id", "path", "split", "classes", *(f"label of {name}" for name in CLASSES)]
    assert (
        table["image_id"].tolist() == TRAIN and table["path"][0] == "train/a.jpg" and set(table["split"]) == {"train"}
    )
    assert table["classes"].tolist() == ["cup", "cup", "cup", ""]
    made = pd.read_parquet("data/toy/pseudo_labels.parquet")
    for name in CLASSES:
        expected = made.loc[made["class"] == name, "label"].to_numpy()
        assert table[f"label of {name}"].astype(np.float32).tolist() == expected.tolist()


def test_min_label_decides(project: Path) -> None:
    assert exported("csv", "--min-label", "0.6")["labels"] == 2
    assert exported("csv", "--min-label", "0", "--force")["labels"] == 4 * 3


def test_test_images_are_decided_by_the_students_thresholds(project: Path) -> None:
    """The student gives lamps 0.3 and 0.9 and everything else 0.1."""
    done = export("csv", "--split", "test")
    assert done.exit_code == 2 and "student.pt" in done.stderr and not Path("out").exists()
    info = {"thresholds": {"values": [0.5, 0.2, 0.5], "source": "pseudo-labels"}}
    content = checkpoint_file.Checkpoint({"classes": list(CLASSES)}, {"last": {}}, "last", info)
    checkpoint_file.write(Path("data/toy/student.pt"), content)
    assert exported("csv", "--split", "all") == {"images": 6, "labels": 5, "boxes": 2}
    table = pd.read_csv("out/labels.csv", keep_default_na=False)
    assert table["split"].tolist() == ["train"] * 4 + ["test"] * 2
    assert table["image_id"].tolist() == [*TRAIN, *TEST] and table["classes"].tolist()[4:] == ["tall lamp"] * 2
    assert exported("csv", "--split", "test", "--min-label", "0.5", "--force")["labels"] == 1


def test_hf_in_datasets(project: Path) -> None:
    datasets = pytest.importorskip("datasets")
    exported("hf", "--copy-images")
    found = datasets.load_dataset(
        "imagefolder", data_dir="out", data_files="**", split="train", cache_dir=str(project / "cache")
    )
    rows = sorted(found, key=lambda row: row["label_values"], reverse=True)
    assert len(rows) == 4
    for row, image_id in zip(rows, TRAIN, strict=True):
        assert row["labels"] == (["cup"] if image_id in CUPS else []) and row["image"].size == SIZES[image_id]
        assert row["label_values"][0] == pytest.approx(CUPS.get(image_id, 0.1)) and row["split"] == "train"
        x0, y0, x1, y1 = BOXES.get(image_id, (0, 0, 0, 0))
        assert row["objects"]["bbox"] == ([[x0, y0, x1 - x0, y1 - y0]] if image_id in BOXES else [])
        assert row["objects"]["category"] == (["cup"] if image_id in BOXES else [])


def test_hf_lines_name_the_images_where_they_are(project: Path) -> None:
    exported("hf")
    lines = [json.loads(line) for line in Path("out/metadata.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [line["file_name"] for line in lines] == [f"{image_id}.jpg" for image_id in TRAIN]
    assert sorted(path.name for path in Path("out").iterdir()) == ["metadata.jsonl"]


def test_coco_in_pycocotools(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    coco_module = pytest.importorskip("pycocotools.coco")
    exported("coco")
    coco = coco_module.COCO("out/annotations.json")
    assert [entry["name"] for entry in coco.loadCats(coco.getCatIds())] == list(CLASSES)
    images = {entry["file_name"]: entry for entry in coco.loadImgs(coco.getImgIds())}
    assert len(images) == 4
    for image_id in TRAIN:
        entry = images[f"{image_id}.jpg"]
        assert (entry["width"], entry["height"]) == SIZES[image_id]
        assert entry["labels"] == ({"cup": CUPS[image_id]} if image_id in CUPS else {})
        found = coco.loadAnns(coco.getAnnIds(imgIds=entry["id"]))
        corners = [(x, y, x + w, y + h) for x, y, w, h in (each["bbox"] for each in found)]
        assert corners == ([BOXES[image_id]] if image_id in BOXES else [])
        for each in found:
            assert coco.cats[each["category_id"]]["name"] == "cup" and each["label"] == CUPS[image_id]
            assert each["area"] == each["bbox"][2] * each["bbox"][3] and each["iscrowd"] == 0


def check_label_studio_task(task: dict, config: ET.Element) -> None:
    """The parts of a task with pre-annotations that Label Studio's guide requires, checked against the interface."""
    controls = {element.get("name"): element for element in config if element.tag != "Image"}
    assert config.tag == "View" and config.find("Image").get("value") == "$image" and "image" in task["data"]
    (prediction,) = task["predictions"]
    assert isinstance(prediction["model_version"], str) and 0 <= prediction["score"] <= 1
    ids = [region["id"] for region in prediction["result"]]
    assert len(set(ids)) == len(ids)
    for region in prediction["result"]:
        control = controls[region["from_name"]]
        assert control.tag.lower() == region["type"] and control.get("toName") == region["to_name"] == "image"
        known = {option.get("value") for option in control}
        assert set(region["value"][region["type"]]) <= known
        if region["type"] == "rectanglelabels":
            value = region["value"]
            assert 0 <= value["x"] <= value["x"] + value["width"] <= 100 + 1e-4
            assert 0 <= value["y"] <= value["y"] + value["height"] <= 100 + 1e-4 and value["rotation"] == 0
            assert region["original_width"] > 0 and region["original_height"] > 0


def test_label_studio_as_published(project: Path) -> None:
    exported("labelstudio", "--image-url", "http://host/?d=my photos/")
    tasks = json.loads(Path("out/tasks.json").read_text())
    config = ET.parse("out/labelling_config.xml").getroot()
    assert [option.get("value") for option in config.find("Choices")] == list(CLASSES)
    for task, image_id in zip(tasks, TRAIN, strict=True):
        check_label_studio_task(task, config)
        assert unquote(task["data"]["image"]) == f"http://host/?d=my photos/{image_id}.jpg"
        by_type = {region["type"]: region for region in task["predictions"][0]["result"]}
        assert ("choices" in by_type) == (image_id in CUPS) and ("rectanglelabels" in by_type) == (image_id in BOXES)
        if image_id in BOXES:
            region = by_type["rectanglelabels"]
            (width, height) = SIZES[image_id]
            value = region["value"]
            corners = (value["x"] * width, value["y"] * height, value["width"] * width, value["height"] * height)
            assert [corner / 100 for corner in corners] == pytest.approx(BOXES[image_id])
            assert (region["original_width"], region["original_height"]) == (width, height)


def test_cvat_as_published(project: Path) -> None:
    """Elements and attributes as in CVAT's description of its XML format 1.1 for images."""
    exported("cvat", "--copy-images")
    assert all(Path("out/images", f"{image_id}.jpg").is_file() for image_id in TRAIN)
    root = ET.parse("out/annotations.xml").getroot()
    assert root.tag == "annotations" and root.findtext("version") == "1.1"
    task = root.find("meta/task")
    assert task.findtext("size") == "4" and task.findtext("mode") == "annotation"
    assert [label.findtext("name") for label in task.find("labels")] == list(CLASSES)
    images = root.findall("image")
    assert [image.get("name") for image in images] == [f"{image_id}.jpg" for image_id in TRAIN]
    for number, (image, image_id) in enumerate(zip(images, TRAIN, strict=True)):
        assert image.get("id") == str(number)
        assert (int(image.get("width")), int(image.get("height"))) == SIZES[image_id]
        assert [tag.get("label") for tag in image.findall("tag")] == (["cup"] if image_id in CUPS else [])
        boxes = image.findall("box")
        assert [box.get("label") for box in boxes] == (["cup"] if image_id in BOXES else [])
        for box in boxes:
            assert set(box.keys()) == {"label", "source", "occluded", "xtl", "ytl", "xbr", "ybr", "z_order"}
            assert tuple(float(box.get(side)) for side in ("xtl", "ytl", "xbr", "ybr")) == BOXES[image_id]


@pytest.mark.parametrize("copied", [False, True])
def test_fiftyone_as_published(project: Path, copied: bool) -> None:
    """labels.json: class names and, per image, targets with a class number; data.json: where each image is."""
    exported("fiftyone", *(["--copy-images"] if copied else []))
    content, places = (json.loads(Path(f"out/{name}.json").read_text()) for name in ("labels", "data"))
    assert content["classes"] == list(CLASSES) and list(content["labels"]) == TRAIN
    assert list(places) == [f"{image_id}.jpg" for image_id in TRAIN]
    for image_id, targets in content["labels"].items():
        said = {content["classes"][target["label"]]: target["confidence"] for target in targets}
        assert said == ({"cup": CUPS[image_id]} if image_id in CUPS else {})
        place = Path(places[f"{image_id}.jpg"])
        assert place.is_absolute() and place.is_file() and (project / "out" in place.parents) == copied


def odd_set(name: str, path: str) -> LabelledSet:
    image = LabelledImage(path, path, "train", 10, 20, np.array([0.75], np.float32), (0,), (Box(0, 0.5, 1, 2, 3, 4),))
    return LabelledSet((name,), (image,))


@pytest.mark.parametrize("name", [EVIL, 'a"b', 'x name="image"', "a & b", "<!ENTITY x>", "ü\n"])
def test_odd_names_come_back_from_xml(name: str) -> None:
    root = ET.fromstring(to_cvat(odd_set(name, f"{name}.jpg"))["annotations.xml"].encode())
    assert root.find("image/tag").get("label") == root.findtext("meta/task/labels/label/name") == name
    assert root.find("image").get("name") == f"{name}.jpg"
    text = to_label_studio(odd_set(name, "x"), "")["labelling_config.xml"]
    assert text.count(' name="image"') == 1  # Label Studio counts them in the text
    config = ET.fromstring(text)
    assert config.find("Choices/Choice").get("value") == name
    for refused in ("a\x00", "a\r"):
        with pytest.raises(CcdError, match="control characters"):
            to_cvat(odd_set(refused, "x"))


def test_cells_that_a_spreadsheet_would_calculate_are_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_project(("=1+1", "b", "c"))
    exported("csv")
    with Path("out/labels.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows[0]["classes"] == "'=1+1" and rows[0]["label of =1+1"] == "1.0"


def test_mistakes_are_one_message_and_write_nothing(project: Path) -> None:
    for path in Path("data/toy/train").iterdir():
        path.unlink()
    done = export("hf", "--copy-images")
    assert done.exit_code == 2 and "4 images are not in data/toy: train/a.jpg" in done.stderr
    Path("data/toy/boxes.parquet").write_bytes(b"x")
    done = export("coco")
    assert done.exit_code == 2 and "dvc repro -f -s cam_boxes" in done.stderr
    assert not Path("out").exists()
