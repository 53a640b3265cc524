"""Exported labels, read back by Label Studio's SDK, datumaro (for CVAT) and FiftyOne, too large for every installation.

`pip install label-studio-sdk datumaro fiftyone`; a test whose package is not there is skipped, and so is FiftyOne's
`Dataset.from_dir` where FiftyOne finds no database (docs/deploy.md).
"""

from __future__ import annotations

import json
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
from PIL import Image

from ccd.deploy.label_export import Format, export_labels
from ccd.deploy.labelled import Box, LabelledImage, LabelledSet, read_labelled
from tests.toys.finished_run import EVIL, write_project

ODD_CLASSES = ("cup", EVIL, 'a "b"', 'x name="image"', "ü & 'ö'", "$image", "12", "two\nlines", " {{idx}} ")
ODD_PATHS = ('train/<b> & "ü" 50%20? #1.2.jpg', "data/same.jpg", "data/same 2.jpg", "v1.5/no ending.png")


def import_or_skip(module: str, package: str):
    return pytest.importorskip(module, reason=f"{package} is not installed: pip install {package}")


def odd_set(root: Path) -> LabelledSet:
    """Four images in ``root``, named as the folder adapter does, with every class, several boxes, and no label."""
    rng = np.random.default_rng(0)
    images = []
    for number, path in enumerate(ODD_PATHS):
        width = 40 + number
        height = 31
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (width, height)).save(root / path)
        values = rng.random(len(ODD_CLASSES)).astype(np.float32)
        present = tuple(range(number, len(ODD_CLASSES))) if number < 3 else ()
        corners = [(0, 0, width, height), (1.25, 2.5, 7.75, 30.5)] if number < 2 else []
        boxes = [Box(present[0], float(np.float32(0.1 * turn)), *box) for turn, box in enumerate(corners, 1)]
        images.append(LabelledImage(path, path, "train", width, height, values, present, tuple(boxes)))
    return LabelledSet(ODD_CLASSES, tuple(images))


@pytest.fixture(params=["from 0.5 on", "all", "odd"])
def labels(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LabelledSet:
    """The labels of a finished run, those of at least 0.5 or each of them, or a set with hostile names. The images are
    in data/toy."""
    monkeypatch.chdir(tmp_path)
    if request.param == "odd":
        return odd_set(Path("data/toy"))
    write_project()
    return read_labelled(Path("data/toy"), "train", 0 if request.param == "all" else None)


def written(labels: LabelledSet, kind: Format, **options: object) -> None:
    """Export into the folder out."""
    export_labels(labels, kind, Path("out"), Path("data/toy"), **options)


def boxes_of(labels: LabelledSet, image: LabelledImage) -> list[tuple[str, tuple[float, ...]]]:
    """Class and x, y, width, height in pixels of each box."""
    return [(labels.classes[b.place], (b.x0_px, b.y0_px, b.x1_px - b.x0_px, b.y1_px - b.y0_px)) for b in image.boxes]


def test_label_studio_accepts_the_interface_and_the_predictions(labels: LabelledSet) -> None:
    """`validate_task` of version 2.1 cannot take predictions, so these are validated by themselves."""
    module = import_or_skip("label_studio_sdk.label_interface", "label-studio-sdk")
    from label_studio_sdk.label_interface.objects import TaskValue

    written(labels, "labelstudio")
    interface = module.LabelInterface(Path("out/labelling_config.xml").read_text(encoding="utf-8"))
    interface.validate()
    for name, tag in (("labels", "Choices"), ("boxes", "RectangleLabels")):
        control = interface.get_control(name)
        assert (control.tag, control.to_name, list(control.labels)) == (tag, ["image"], list(labels.classes))
    tasks = json.loads(Path("out/tasks.json").read_text(encoding="utf-8"))
    assert len(tasks) == len(labels.images)
    for task, image in zip(tasks, labels.images, strict=True):
        assert interface.validate_task({"data": task["data"]}) and task["data"]["image_id"] == image.image_id
        (prediction,) = TaskValue.model_validate(task).predictions
        assert interface.validate_prediction(task["predictions"][0], return_errors=True) == []
        assert np.float32(prediction.score) == max((image.values[place] for place in image.present), default=0)
        scores = [region["score"] for region in prediction.result if region["type"] == "rectanglelabels"]
        assert np.array_equal(np.float32(scores), np.float32([box.score for box in image.boxes]))
    strange = {"result": [{"from_name": "labels", "to_name": "image", "type": "choices", "value": {"choices": ["?"]}}]}
    assert not interface.validate_prediction(strange)


def test_label_studio_exports_what_it_was_given(labels: LabelledSet) -> None:
    """Its converter reads tasks once the server has numbered them and a person has accepted our predictions."""
    module = import_or_skip("label_studio_sdk.converter", "label-studio-sdk")
    written(labels, "labelstudio", image_url="/data/local-files/?d=my photos/")
    tasks = json.loads(Path("out/tasks.json").read_text(encoding="utf-8"))
    kept = [
        {"id": number, "data": task["data"], "annotations": task["predictions"]} for number, task in enumerate(tasks)
    ]
    Path("kept.json").write_text(json.dumps(kept))
    converter = module.Converter("out/labelling_config.xml", ".", download_resources=False)
    items = list(converter.iter_from_json_file("kept.json"))
    assert len(items) == len(labels.images)
    for item, image in zip(items, labels.images, strict=True):
        assert unquote(item["input"]["image"]) == f"/data/local-files/?d=my photos/{image.path}"
        assert [choice for each in item["output"].get("labels", []) for choice in each["choices"]] == labels.names(
            image
        )
    converter.convert_to_coco("kept.json", "coco", is_dir=False)
    coco = json.loads(Path("coco/result.json").read_text(encoding="utf-8"))
    names = {entry["id"]: entry["name"] for entry in coco["categories"]}
    assert set(names.values()) == set(labels.classes)
    said = [(names[each["category_id"]], tuple(each["bbox"])) for each in coco["annotations"]]
    expected = [box for image in labels.images for box in boxes_of(labels, image)]
    assert [name for name, _ in said] == [name for name, _ in expected]
    for (_, found), (_, box) in zip(said, expected, strict=True):
        assert found == pytest.approx(box, abs=1e-9)


def test_cvat_in_datumaro(labels: LabelledSet) -> None:
    """CVAT's own files, too, have corners of two decimals."""
    datumaro = import_or_skip("datumaro", "datumaro")
    written(labels, "cvat", copy_images=True)
    found = datumaro.Dataset.import_from("out", "cvat")
    kinds = datumaro.AnnotationType
    assert [label.name for label in found.categories()[kinds.label]] == list(labels.classes)
    items = {item.id: item for item in found}
    assert len(items) == len(labels.images)
    for number, image in enumerate(labels.images):
        item = items[str(Path(image.path).with_suffix(""))]
        assert item.attributes == {"frame": number} and item.media.size == (image.height_px, image.width_px)
        assert item.media.data.shape[:2] == (image.height_px, image.width_px)
        tags = [each for each in item.annotations if each.type == kinds.label]
        boxes = [each for each in item.annotations if each.type == kinds.bbox]
        assert len(tags) + len(boxes) == len(item.annotations)
        assert [labels.classes[each.label] for each in tags] == labels.names(image)
        assert [(labels.classes[each.label], tuple(each.get_bbox())) for each in boxes] == boxes_of(labels, image)
        assert all(each.attributes == {"occluded": False} and each.z_order == 0 for each in boxes)


def check_fiftyone(labels: LabelledSet, folder: str, samples: list[tuple[str, object]]) -> None:
    """Each image's path, which is in the folder, and classifications, in any order."""
    by_path = {str(Path(folder, image.path).resolve()): image for image in labels.images}
    assert sorted(path for path, _ in samples) == sorted(by_path)
    for path, label in samples:
        image = by_path[path]
        said = label.classifications
        assert [each.label for each in said] == labels.names(image)
        assert np.array_equal(np.float32([each.confidence for each in said]), image.values[list(image.present)])


def test_fiftyone_importer(labels: LabelledSet) -> None:
    """What `Dataset.from_dir` reads with; needs no database."""
    module = import_or_skip("fiftyone.utils.data.importers", "fiftyone")
    written(labels, "fiftyone", copy_images=True)
    with module.FiftyOneImageClassificationDatasetImporter("out", data_path="data.json") as importer:
        assert importer.get_dataset_info() == {"classes": list(labels.classes)}
        check_fiftyone(labels, "out", [(path, label) for path, _, label in importer])


def test_fiftyone_dataset(labels: LabelledSet) -> None:
    fiftyone = import_or_skip("fiftyone", "fiftyone")
    try:
        fiftyone.list_datasets()
    except fiftyone.core.config.FiftyOneConfigError as error:
        pytest.skip(f"FiftyOne has no database: {error}")
    written(labels, "fiftyone")
    kind = fiftyone.types.FiftyOneImageClassificationDataset
    found = fiftyone.Dataset.from_dir("out", kind, data_path="data.json", progress=False)
    assert found.default_classes == list(labels.classes)
    check_fiftyone(labels, "data/toy", [(sample.filepath, sample.ground_truth) for sample in found])
