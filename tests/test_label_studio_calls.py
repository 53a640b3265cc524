"""What Label Studio gets from a running page: predictions, and annotations that become corrections; who gets in."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("starlette")
pytest.importorskip("httpx")

from ccd.artifacts import corrections_file
from ccd.deploy.label_formats import labelling_config
from ccd.errors import CcdError
from ccd.ui.backend import interface_problem
from ccd.ui.project_data import ProjectData
from ccd.ui.security import kept_token
from tests.toys.finished_run import CLASSES, TEST, TRAIN
from tests.toys.ui_project import write_ui_project_with_student
from tests.toys.visitors import LABEL_STUDIO_TOKEN, TOKEN, Visitor, predicted, program

LS = f"/label-studio/{LABEL_STUDIO_TOKEN}"


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_ui_project_with_student()
    return tmp_path


def task(image_id: str, address: str = "") -> dict[str, Any]:
    return {"id": 1, "project": 1, "data": {"image": address or f"/data/{image_id}", "image_id": image_id}}


def annotation(*names: str, **more: Any) -> dict[str, Any]:
    value = {"choices": list(names)}
    result = [{"from_name": "labels", "to_name": "image", "type": "choices", "value": value}]
    return {"result": result, "created_username": " ada@example.org, 7", **more}


def event(image_id: str, *names: str, action: str = "ANNOTATION_CREATED", **more: Any) -> dict[str, Any]:
    return {"action": action, "task": task(image_id), "annotation": annotation(*names, **more), "project": {"id": 1}}


def test_label_studio_connects_and_gets_a_prediction_per_task(project: Path) -> None:
    client = Visitor()
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
    client = Visitor()
    assert client.post(f"{LS}/webhook", json=event(TRAIN[0], "cup")).json() == {"saved": 3}
    book = ProjectData().book()
    assert book.decisions() == {(TRAIN[0], name): int(name == "cup") for name in CLASSES}
    assert {entry["who"] for entry in book.entries()} == {"ada@example.org"}
    changed = event(TRAIN[0], "tall lamp", action="ANNOTATION_UPDATED")
    assert client.post(f"{LS}/webhook", json=changed).status_code == 200
    assert ProjectData().book().decisions()[TRAIN[0], "cup"] == 0
    assert corrections_file.path_of("toy").read_text().count("\n") == 4


def test_other_events_and_skipped_tasks_decide_nothing(project: Path) -> None:
    client = Visitor()
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
    client = Visitor()
    done = client.post(f"{LS}/webhook", json=body)
    assert done.status_code == 409 and reason in done.text and reason in client.said[0]
    assert ProjectData().book().decisions() == {}


def test_choices_of_another_interface_are_not_read_as_nothing(project: Path) -> None:
    body = event(TRAIN[0], "cup")
    body["annotation"]["result"][0]["from_name"] = "quality"
    done = Visitor().post(f"{LS}/webhook", json=body)
    assert done.status_code == 409 and "quality" in done.text and ProjectData().book().decisions() == {}


def test_an_interface_that_cannot_show_our_labels_is_refused(project: Path) -> None:
    assert interface_problem(labelling_config(CLASSES), CLASSES) is None
    for schema, reason in (
        ("<View>", "not XML"),
        ("<View/>", "has no <Choices"),
        (labelling_config(CLASSES[:1]), "does not offer"),
        (labelling_config(CLASSES).replace("RectangleLabels", "PolygonLabels"), "has no <RectangleLabels"),
    ):
        client = Visitor()
        done = client.post(f"{LS}/setup", json={"schema": schema})
        assert done.status_code == 409 and reason in done.text and reason in client.said[0]


def test_label_studios_token_opens_its_calls_alone(project: Path) -> None:
    client = Visitor()
    for path in ("/api/project", "/", f"/?token={LABEL_STUDIO_TOKEN}", "/health", "/thumb/0"):
        assert client.get(path).status_code == 403, path
    assert client.get("/label-studio/wrong/health").status_code == 403
    assert client.get("/label-studio//health").status_code == 403
    assert client.get(f"{LS}/../../api/project").status_code == 403
    assert client.get(f"{LS}/api/project").status_code == 404
    assert Visitor(Authorization=f"Bearer {LABEL_STUDIO_TOKEN}").get("/health").status_code == 403
    assert client.get(f"{LS}/health", headers={"Host": "evil.example:8000"}).status_code == 421
    cross = {"Origin": "http://evil.example"}
    assert client.post(f"{LS}/webhook", json=event(TRAIN[0], "cup"), headers=cross).status_code == 403


def test_programs_may_send_the_token_as_a_password(project: Path) -> None:
    def basic(user: str, password: str) -> int:
        code = base64.b64encode(f"{user}:{password}".encode()).decode()
        return Visitor(Authorization=f"Basic {code}").get("/health").status_code

    assert basic("anybody", TOKEN) == 200 and basic("anybody", "wrong") == 403 and basic(TOKEN, "") == 403
    assert Visitor(Authorization="Basic %%%").get("/health").status_code == 403
    assert Visitor(Authorization=TOKEN).get("/health").status_code == 403


def test_the_kept_token_is_the_owners_alone_and_stays(tmp_path: Path) -> None:
    path = tmp_path / ".ccd/label_studio_token"
    token = kept_token(path)
    assert len(token) > 40 and kept_token(path) == token and path.stat().st_mode & 0o777 == 0o600
    for content in ("", "short", "x" * 42 + "/é"):
        path.write_text(content)
        with pytest.raises(CcdError, match="delete it"):
            kept_token(path)
