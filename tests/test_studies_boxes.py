"""Boxes that studies look at: read from annotations, and made of them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from ccd.artifacts.image_index import ImageIndex
from ccd.demo.scenes import render_scene, scene_rng
from ccd.errors import CcdError
from ccd.params.file import read_yaml, validate
from ccd.params.sections import IndexParams
from studies.annotations import TrueBox, true_boxes
from studies.boxes import around_boxes, box_table, random_boxes

ROOT = Path(__file__).resolve().parent.parent


def index_params(adapter: str, train_split: str = "train") -> IndexParams:
    values = read_yaml(ROOT / "params.yaml")["index"]
    return validate(IndexParams, values | {"adapter": adapter, "train_split": train_split})


def index_of(*paths: str) -> ImageIndex:
    count = len(paths)
    sizes = np.tile(np.array([[60, 90]], np.int32), (count, 1))
    return ImageIndex(list(paths), list(paths), np.ones(count, bool), sizes, np.ones(count, np.int64), [""] * count)


def write_voc(root: Path, image: str, *objects: str) -> Path:
    folder = root / "VOC/Annotations"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{image}.xml").write_text(f"<annotation>{''.join(objects)}</annotation>")
    return folder / f"{image}.xml"


def voc_object(name: str, x0: int, y0: int, x1: int, y1: int) -> str:
    box = f"<xmin>{x0}</xmin><ymin>{y0}</ymin><xmax>{x1}</xmax><ymax>{y1}</ymax>"
    return f"<object><name>{name}</name><difficult>1</difficult><bndbox>{box}</bndbox></object>"


def test_voc_corners_count_from_one_and_include_the_last(tmp_path: Path) -> None:
    write_voc(tmp_path, "1", voc_object("cat", 1, 11, 90, 60), voc_object("dog", 5, 5, 5, 5))
    write_voc(tmp_path, "2")
    index = index_of("VOC/JPEGImages/1.jpg", "VOC/JPEGImages/2.jpg")
    found = true_boxes(index_params("voc"), tmp_path, index)
    assert found == [(TrueBox("cat", (0, 10, 90, 60)), TrueBox("dog", (4, 4, 5, 5))), ()]


@pytest.mark.parametrize("wrong", ["<!DOCTYPE x><annotation/>", "<annotation>", "<annotation><object/></annotation>"])
def test_a_malformed_voc_annotation_is_named(wrong: str, tmp_path: Path) -> None:
    write_voc(tmp_path, "1").write_text(wrong)
    with pytest.raises(CcdError, match=r"1\.xml"):
        true_boxes(index_params("voc"), tmp_path, index_of("VOC/JPEGImages/1.jpg"))


def test_coco_boxes_are_corner_and_size(tmp_path: Path) -> None:
    content = {
        "categories": [{"id": 7, "name": "tall lamp"}],
        "images": [{"id": 1, "file_name": "a.jpg"}, {"id": 2, "file_name": "b.jpg"}],
        "annotations": [{"image_id": 2, "category_id": 7, "bbox": [10, 5, 20.5, 8], "segmentation": [[1, 2]]}],
    }
    (tmp_path / "annotations").mkdir()
    path = tmp_path / "annotations/instances_train2014.json"
    path.write_text(json.dumps(content))
    params = index_params("coco", "train2014")
    index = index_of("train2014/b.jpg", "train2014/a.jpg")
    assert true_boxes(params, tmp_path, index) == [(TrueBox("tall lamp", (10, 5, 30.5, 13)),), ()]
    with pytest.raises(CcdError, match="not COCO's instances"):
        true_boxes(params, tmp_path, index_of("train2014/c.jpg"))


def test_demo_boxes_are_those_of_the_drawn_scene(tmp_path: Path) -> None:
    (found,) = true_boxes(index_params("demo"), tmp_path, index_of("images/train_00003.jpg"))
    scene = render_scene(scene_rng(0, "train", 3))
    assert [(each.name, each.corners_px) for each in found] == [(one.name, one.box_px) for one in scene.objects]
    assert found, "a scene without objects would prove nothing"


def test_a_data_set_without_boxes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CcdError, match=r"index\.adapter = folder.*voc, coco, demo"):
        true_boxes(index_params("folder"), tmp_path, index_of("a.png"))


def test_boxes_are_widened_by_a_share_of_the_image_and_clipped() -> None:
    objects = [TrueBox("cat", (10, 20, 30, 40)), TrueBox("dog", (80, 0, 95, 60))]
    np.testing.assert_allclose(around_boxes(objects, (60, 90), 0.1), [[1, 14, 39, 46], [71, 0, 90, 60]])
    np.testing.assert_allclose(around_boxes(objects, (60, 90), 0.0), [[10, 20, 30, 40], [80, 0, 90, 60]])
    assert around_boxes([], (60, 90), 0.1).shape == (0, 4)


def test_random_boxes_keep_number_and_sizes_and_follow_the_seed() -> None:
    sizes_px = np.array([[60, 90], [50, 50], [100, 40]])
    boxes = [np.array([[0, 0, 45, 30], [0, 0, 9, 60]]), np.empty((0, 4)), np.array([[0, 0, 40, 10.0]])]
    drawn = random_boxes(boxes, sizes_px, seed=3)
    assert [len(each) for each in drawn] == [2, 0, 1]

    def shares(found: list[np.ndarray]) -> list[tuple[float, float]]:
        pairs = [(each[:, 2:] - each[:, :2]) / [w, h] for each, (h, w) in zip(found, sizes_px, strict=True)]
        return sorted((round(float(x), 6), round(float(y), 6)) for x, y in np.concatenate(pairs))

    assert shares(drawn) == shares(boxes) == [(0.1, 1.0), (0.5, 0.5), (1.0, 0.1)]
    for each, (height, width) in zip(drawn, sizes_px, strict=True):
        assert (each >= -1e-9).all() and (each <= np.array([width, height, width, height]) + 1e-9).all()
    np.testing.assert_array_equal(drawn[0], random_boxes(boxes, sizes_px, seed=3)[0])
    assert not np.array_equal(drawn[0], random_boxes(boxes, sizes_px, seed=4)[0])


def test_boxes_become_the_artifact_without_those_of_no_area() -> None:
    boxes = [np.array([[0, 0, 5, 5], [9, 0, 9, 5.0]]), np.empty((0, 4)), np.array([[1, 1, 2, 3.0]])]
    found = box_table(["a", "b", "c"], [["cat", "dog"], [], ["cow"]], boxes)
    assert (found.image_ids, found.classes) == (["a", "c"], ["cat", "cow"])
    np.testing.assert_array_equal(found.boxes_px, np.array([[0, 0, 5, 5], [1, 1, 2, 3]], np.float32))
    assert np.isnan(found.scores).all() and len(found.cam_peaks) == 2
