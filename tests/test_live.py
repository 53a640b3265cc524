"""What programs get from a running page: predictions, now."""

from __future__ import annotations

import base64
import time
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("starlette")
pytest.importorskip("httpx")

from PIL import Image

from ccd.artifacts import text_file
from ccd.deploy.load import load_student
from ccd.images import decode
from ccd.ui import app as page, backend, live
from ccd.ui.live import LiveModel
from ccd.ui.project_data import ProjectData
from ccd.ui.search import TextTower
from tests.toys.deployed import write_student
from tests.toys.finished_run import CLASSES, TEST, TRAIN
from tests.toys.servers import http_server
from tests.toys.ui_project import DATA, write_ui_project, write_ui_project_with_student
from tests.toys.visitors import predicted, program


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_ui_project_with_student()
    return tmp_path


def jpeg(pixels: int = 32) -> bytes:
    buffer = BytesIO()
    Image.new("RGB", (pixels, 40), (200, 30, 60)).save(buffer, "JPEG")
    return buffer.getvalue()


def test_images_of_the_project_are_labelled_as_by_the_student(project: Path) -> None:
    found = predicted(program(), TRAIN[0], ProjectData().index().paths[5], "train/nobody")
    student = load_student(DATA / "student.pt")
    paths = {name: index_path(name) for name in (TRAIN[0], TEST[1])}
    table = student.predict(list(paths.values()))
    for image, row in zip(found[:2], range(2), strict=True):
        probabilities = [image["probabilities"][name] for name in CLASSES]
        np.testing.assert_allclose(probabilities, table.iloc[row, 1:].to_numpy(float), atol=6e-5)
        assert image["labels"] == table["labels"].iloc[row] == ["cup", "tall lamp"]
        assert [box["class"] for box in image["boxes"]] == image["labels"]
    assert (found[0]["width_px"], found[0]["height_px"]) == (400, 300)
    for box in found[0]["boxes"]:
        assert 0 <= box["x0_px"] < box["x1_px"] <= 400 and 0 <= box["y0_px"] < box["y1_px"] <= 300
    assert found[2] == {"image": "train/nobody", "error": "no image of this project"}


def index_path(image_id: str) -> Path:
    index = ProjectData().index()
    return ProjectData().root / index.paths[index.ids.index(image_id)]


def test_bytes_are_labelled_as_the_file_they_come_from(project: Path) -> None:
    client = program()
    content = index_path(TRAIN[1]).read_bytes()
    by_name = predicted(client, TRAIN[1])[0]
    done = client.post("/predict", content=content, headers={"Content-Type": "image/png"}).json()
    assert done["model"] == "student" and done["images"] == [{**by_name, "image": "image"}]
    sent = "data:image/png;base64," + base64.b64encode(content).decode()
    assert predicted(client, sent)[0] == {**by_name, "image": "data:image/png;base64"}


def test_what_is_no_image_is_told_and_costs_the_others_nothing(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = [
        "data:image/png;base64," + base64.b64encode(b"no image").decode(),
        "data:image/png,abc",
        "data:image/png;base64,%%%",
        "/etc/passwd",
        "../../etc/passwd",
        "file:///etc/passwd",
    ]
    found = predicted(program(), *wrong, TRAIN[0])
    assert all("error" in each for each in found[:-1]) and "labels" in found[-1]
    assert all("/tmp" not in each["error"] for each in found[:-1])
    monkeypatch.setattr(decode, "MAX_PIXELS", 100)
    done = program().post("/predict", content=jpeg(), headers={"Content-Type": "image/jpeg"})
    assert "pixels" in done.json()["images"][0]["error"], "a decompression bomb"


def test_no_address_is_fetched_unless_asked_for(project: Path) -> None:
    folder = project / "elsewhere"
    folder.mkdir()
    (folder / "a.jpg").write_bytes(jpeg())
    with http_server(folder) as (address, traffic):
        url = f"{address}/a.jpg"
        assert "--fetch public" in predicted(program(), url)[0]["error"]
        assert "private or of this machine" in predicted(program("public"), url)[0]["error"]
        assert not traffic.requests
        fetched = predicted(program("loopback"), url)[0]
        assert fetched["image"] == url and fetched["width_px"] == 32 and set(fetched["probabilities"]) == set(CLASSES)


def test_count_and_size_are_limited(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    client = program()
    names = [TRAIN[0]] * (backend.MOST_IMAGES + 1)
    assert client.post("/predict", json={"images": names}).status_code == 413
    for body in ({"images": []}, {"images": [1]}, {"images": "a"}, {}):
        assert client.post("/predict", json=body).status_code in (400, 413), body
    assert client.post("/predict", content=b"a=1").status_code == 415
    monkeypatch.setattr(page, "LARGEST_BYTES", 100)
    assert client.post("/predict", content=b"x" * 101, headers={"Content-Type": "image/png"}).status_code == 413
    monkeypatch.setattr(page, "LARGEST_LIST_BYTES", 100)
    assert client.post("/predict", json={"images": ["x" * 101]}).status_code == 413


def test_time_is_limited_and_what_was_done_is_kept(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "BATCH", 1)
    monkeypatch.setattr(backend, "LONGEST_S", 0.0)
    monkeypatch.setattr(live.LiveModel, "_current", slow(live.LiveModel._current))
    client = program()
    done = client.post("/predict", json={"images": TRAIN[:2]})
    assert done.status_code == 504 and "after 1 images" in done.text
    assert client.post("/predict", json={"images": TRAIN[:2]}).status_code == 200, "the first one is kept"


def slow(own: Any) -> Any:
    def get(self: LiveModel) -> Any:
        time.sleep(0.01)
        return own(self)

    return get


def test_who_waits_too_long_for_others_is_told_to_come_again(project: Path) -> None:
    model = LiveModel(ProjectData(), TextTower())
    with model._lock, pytest.raises(Exception, match="503"):
        model.label([index_path(TRAIN[0])], time.monotonic() + 0.05)


def test_a_new_student_answers_at_once(project: Path) -> None:
    client = program()
    first = client.post("/predict", json={"images": [TRAIN[0]]}).json()
    write_student(DATA / "student.pt", classes=CLASSES, thresholds=(0.999, 0.999, 0.999))
    second = client.post("/predict", json={"images": [TRAIN[0]]}).json()
    assert first["version"] != second["version"] and second["images"][0]["labels"] == []
    assert first["images"][0]["probabilities"] == second["images"][0]["probabilities"]


@pytest.mark.slow
def test_without_a_student_clip_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The demo's CLIP on the toy's images: min(p / b, 1), as stage global_labels has it above the floor."""
    from ccd.artifacts import bias_file
    from ccd.labels.scores import Scoring
    from ccd.teacher.encode import encode_images

    monkeypatch.chdir(tmp_path)
    write_ui_project()
    teacher = TextTower().teacher()
    text = text_file.read(DATA / "text.h5")
    attributes = {**text.attributes, "fingerprint": teacher.fingerprint}
    text_file.write(DATA / "text.h5", replace(text, attributes=attributes))
    done = program().post("/predict", json={"images": [TRAIN[0]]}).json()
    assert done["model"] == "clip" and done["images"][0]["boxes"] == []
    import torch

    from ccd.images.decode import read_image, squash
    from ccd.params.file import load
    from ccd.params.sections import ClipGlobalParams

    size_px = load(ClipGlobalParams).image_size_px
    pixels = torch.from_numpy(squash(read_image(index_path(TRAIN[0])), size_px, size_px))[None]
    _, features = next(encode_images(teacher, [(torch.arange(1), pixels)], ["a"]))
    expected = np.minimum(Scoring(text)(features)[0] / bias_file.read(DATA / "bias.json").bias, 1)
    got = [done["images"][0]["probabilities"][name] for name in CLASSES]
    np.testing.assert_allclose(got, expected, atol=6e-5)
    text_file.write(DATA / "text.h5", text)
    assert "dvc repro text" in program().post("/predict", json={"images": [TRAIN[0]]}).json()["error"]


def test_global_labels_are_not_needed(project: Path) -> None:
    """The student answers from its own file, whatever else is there."""
    for name in ("pseudo_labels", "predictions", "global_labels"):
        (DATA / f"{name}.parquet").unlink(missing_ok=True)
    assert predicted(program(), TRAIN[0])[0]["labels"] == ["cup", "tall lamp"]
