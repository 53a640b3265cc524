"""What programs and Label Studio get from a running page: predictions now, and annotations that become corrections."""

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
from starlette.testclient import TestClient

from ccd.artifacts import corrections_file, text_file
from ccd.deploy.label_formats import labelling_config
from ccd.deploy.load import load_student
from ccd.errors import CcdError
from ccd.images import decode
from ccd.ui import app as page, backend, live
from ccd.ui.app import create_app
from ccd.ui.backend import interface_problem
from ccd.ui.fetch import Allowed
from ccd.ui.live import LiveModel
from ccd.ui.project_data import ProjectData
from ccd.ui.search import TextTower
from ccd.ui.security import Keys, kept_token
from tests.toys.deployed import write_student
from tests.toys.finished_run import CLASSES, TEST, TRAIN
from tests.toys.servers import http_server
from tests.toys.ui_project import DATA, write_ui_project

TOKEN = "a-token-for-tests"
LABEL_STUDIO_TOKEN = "a-token-for-label-studio"
HOST = "http://127.0.0.1:8000"
LS = f"/label-studio/{LABEL_STUDIO_TOKEN}"
THRESHOLDS = (0.001, 0.001, 0.999)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_ui_project()
    write_student(DATA / "student.pt", classes=CLASSES, thresholds=THRESHOLDS)
    return tmp_path


class Caller(TestClient):
    """A program with the token; ``said``: what the server printed."""

    def __init__(self, allowed: Allowed = "off", **headers: str) -> None:
        self.said: list[str] = []
        keys = Keys(TOKEN, LABEL_STUDIO_TOKEN)
        made = create_app(
            ProjectData(), keys, host="127.0.0.1", port=8000, person="me", allowed=allowed, say=self.said.append
        )
        super().__init__(made, base_url=HOST, headers=headers, raise_server_exceptions=False)


def program(allowed: Allowed = "off") -> Caller:
    return Caller(allowed, Authorization=f"Bearer {TOKEN}")


def predicted(client: TestClient, *images: str) -> list[dict[str, Any]]:
    done = client.post("/predict", json={"images": list(images)})
    assert done.status_code == 200, done.text
    found: list[dict[str, Any]] = done.json()["images"]
    return found


def jpeg(pixels: int = 32) -> bytes:
    buffer = BytesIO()
    Image.new("RGB", (pixels, 40), (200, 30, 60)).save(buffer, "JPEG")
    return buffer.getvalue()


def task(image_id: str, address: str = "") -> dict[str, Any]:
    return {"id": 1, "project": 1, "data": {"image": address or f"/data/{image_id}", "image_id": image_id}}


def annotation(*names: str, **more: Any) -> dict[str, Any]:
    value = {"choices": list(names)}
    result = [{"from_name": "labels", "to_name": "image", "type": "choices", "value": value}]
    return {"result": result, "created_username": " ada@example.org, 7", **more}


def event(image_id: str, *names: str, action: str = "ANNOTATION_CREATED", **more: Any) -> dict[str, Any]:
    return {"action": action, "task": task(image_id), "annotation": annotation(*names, **more), "project": {"id": 1}}


# ---- POST /predict


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


# ---- Label Studio


def test_label_studio_connects_and_gets_a_prediction_per_task(project: Path) -> None:
    client = Caller()
    health = client.get(f"{LS}/health").json()
    assert health["status"] == "UP"
    done = client.post(f"{LS}/setup", json={"schema": labelling_config(CLASSES), "project": "1.1"})
    version = done.json()["model_version"]
    assert done.status_code == 200 and version.startswith("student ")
    assert client.get(f"{LS}/versions").json() == {"versions": [version]}
    tasks = [
        task(TRAIN[0]),
        task("nobody"),
        task("", f"/data/local-files/?d={ProjectData().index().paths[4]}"),
        {"data": None},
    ]
    results = client.post(f"{LS}/predict", json={"tasks": tasks, "label_config": ""}).json()["results"]
    assert len(results) == 4 and all(each["model_version"] == version for each in results)
    assert results[1]["result"] == results[3]["result"] == []
    assert [line for line in client.said if "nobody" in line]
    mine = predicted(program(), TRAIN[0])[0]
    choices, *boxes = results[0]["result"]
    assert choices["value"]["choices"] == mine["labels"] and choices["from_name"] == "labels"
    assert results[0]["score"] == pytest.approx(max(mine["probabilities"][name] for name in mine["labels"]), abs=1e-4)
    for box, own in zip(boxes, mine["boxes"], strict=True):
        assert box["type"] == "rectanglelabels" and box["value"]["rectanglelabels"] == [own["class"]]
        assert box["value"]["x"] == pytest.approx(100 * own["x0_px"] / 400, abs=1e-3)
        assert box["value"]["height"] == pytest.approx(100 * (own["y1_px"] - own["y0_px"]) / 300, abs=1e-3)
    assert len(results[2]["result"]) > 0, "found by the path in its address"


def test_an_annotation_arrives_in_corrections_with_who_made_it(project: Path) -> None:
    client = Caller()
    assert client.post(f"{LS}/webhook", json=event(TRAIN[0], "cup")).json() == {"saved": 3}
    book = ProjectData().book()
    assert book.decisions() == {(TRAIN[0], name): int(name == "cup") for name in CLASSES}
    assert {entry["who"] for entry in book.entries()} == {"ada@example.org"}
    changed = event(TRAIN[0], "tall lamp", action="ANNOTATION_UPDATED")
    assert client.post(f"{LS}/webhook", json=changed).status_code == 200
    assert ProjectData().book().decisions()[TRAIN[0], "cup"] == 0
    assert corrections_file.path_of("toy").read_text().count("\n") == 4


def test_other_events_and_skipped_tasks_decide_nothing(project: Path) -> None:
    client = Caller()
    deleted = {"action": "ANNOTATIONS_DELETED", "annotations": [{"id": 3}]}
    for body in (deleted, {"action": "PROJECT_UPDATED"}, {}, event(TRAIN[0], "cup", was_cancelled=True)):
        assert client.post(f"{LS}/webhook", json=body).json() == {"saved": 0}, body
    assert client.post(f"{LS}/webhook", json={"action": "START_TRAINING"}).json() == {"saved": 0}
    assert "dvc repro" in client.said[0] and ProjectData().book().decisions() == {}


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (event("nobody", "cup"), "no image of this project"),
        (event(TEST[0], "cup"), "no training image"),
        (event(TRAIN[0], "cupp"), "is no class"),
        ({"action": "ANNOTATION_CREATED"}, "must send its payload"),
        ({**event(TRAIN[0]), "annotation": {"result": [{"value": 1}]}}, "not as Label Studio"),
        ({**event(TRAIN[0]), "annotation": {"result": 3}}, "not as Label Studio"),
    ],
)
def test_what_cannot_be_saved_is_refused_and_printed(project: Path, body: dict[str, Any], reason: str) -> None:
    client = Caller()
    done = client.post(f"{LS}/webhook", json=body)
    assert done.status_code == 409 and reason in done.text and reason in client.said[0]
    assert ProjectData().book().decisions() == {}


def test_choices_of_another_interface_are_not_read_as_nothing(project: Path) -> None:
    body = event(TRAIN[0], "cup")
    body["annotation"]["result"][0]["from_name"] = "quality"
    done = Caller().post(f"{LS}/webhook", json=body)
    assert done.status_code == 409 and "quality" in done.text and ProjectData().book().decisions() == {}


def test_an_interface_that_cannot_show_our_labels_is_refused(project: Path) -> None:
    assert interface_problem(labelling_config(CLASSES), CLASSES) is None
    for schema, reason in (
        ("<View>", "not XML"),
        ("<View/>", "has no <Choices"),
        (labelling_config(CLASSES[:1]), "does not offer"),
        (labelling_config(CLASSES).replace("RectangleLabels", "PolygonLabels"), "has no <RectangleLabels"),
    ):
        client = Caller()
        done = client.post(f"{LS}/setup", json={"schema": schema})
        assert done.status_code == 409 and reason in done.text and reason in client.said[0]


def test_label_studios_token_opens_its_calls_alone(project: Path) -> None:
    client = Caller()
    for path in ("/api/project", "/", f"/?token={LABEL_STUDIO_TOKEN}", "/health", "/thumb/0"):
        assert client.get(path).status_code == 403, path
    assert client.get("/label-studio/wrong/health").status_code == 403
    assert client.get("/label-studio//health").status_code == 403
    assert client.get(f"{LS}/../../api/project").status_code == 403
    assert client.get(f"{LS}/api/project").status_code == 404
    assert Caller(Authorization=f"Bearer {LABEL_STUDIO_TOKEN}").get("/health").status_code == 403
    assert client.get(f"{LS}/health", headers={"Host": "evil.example:8000"}).status_code == 421
    cross = {"Origin": "http://evil.example"}
    assert client.post(f"{LS}/webhook", json=event(TRAIN[0], "cup"), headers=cross).status_code == 403


def test_programs_may_send_the_token_as_a_password(project: Path) -> None:
    def basic(user: str, password: str) -> int:
        code = base64.b64encode(f"{user}:{password}".encode()).decode()
        return Caller(Authorization=f"Basic {code}").get("/health").status_code

    assert basic("anybody", TOKEN) == 200 and basic("anybody", "wrong") == 403 and basic(TOKEN, "") == 403
    assert Caller(Authorization="Basic %%%").get("/health").status_code == 403
    assert Caller(Authorization=TOKEN).get("/health").status_code == 403


def test_the_kept_token_is_the_owners_alone_and_stays(tmp_path: Path) -> None:
    path = tmp_path / ".ccd/label_studio_token"
    token = kept_token(path)
    assert len(token) > 40 and kept_token(path) == token and path.stat().st_mode & 0o777 == 0o600
    for content in ("", "short", "x" * 42 + "/é"):
        path.write_text(content)
        with pytest.raises(CcdError, match="delete it"):
            kept_token(path)


def test_global_labels_are_not_needed(project: Path) -> None:
    """The student answers from its own file, whatever else is there."""
    for name in ("pseudo_labels", "predictions", "global_labels"):
        (DATA / f"{name}.parquet").unlink(missing_ok=True)
    assert predicted(program(), TRAIN[0])[0]["labels"] == ["cup", "tall lamp"]
