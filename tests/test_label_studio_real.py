"""A real Label Studio on loopback: it connects, gets predictions, and its annotations become corrections.

It has many pinned dependencies, so it runs from an environment of its own; name its program to run this test:

    python -m venv ls && ls/bin/pip install label-studio
    CCD_LABEL_STUDIO=ls/bin/label-studio pytest tests/test_label_studio_real.py
"""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import pytest

pytest.importorskip("starlette")
pytest.importorskip("httpx")

import httpx

from ccd.deploy.label_formats import labelling_config
from ccd.ui.project_data import ProjectData
from tests.toys.deployed import write_student
from tests.toys.finished_run import CLASSES, TEST, TRAIN
from tests.toys.ui_project import DATA, ROOT, write_ui_project

PROGRAM = os.environ.get("CCD_LABEL_STUDIO", "")
TOKEN = "0123456789abcdef0123456789abcdef01234567"
PERSON = "ada@example.org"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not PROGRAM, reason="CCD_LABEL_STUDIO names no label-studio"),
]


@contextmanager
def started(command: list[str], environment: dict[str, str], **more: Any) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(command, env={**os.environ, **environment}, text=True, **more)
    try:
        yield process
    finally:
        process.terminate()
        process.wait(20)


@pytest.fixture
def address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """What ``ccd open --label-studio`` prints for Label Studio."""
    monkeypatch.chdir(tmp_path)
    write_ui_project()
    write_student(DATA / "student.pt", classes=CLASSES, thresholds=(0.001, 0.001, 0.999))
    command = [sys.executable, "-m", "ccd.cli.main", "open", "--no-browser", "--label-studio"]
    environment = {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    with started(command, environment, stdout=subprocess.PIPE) as server:
        assert server.stdout is not None
        yield next(found[0] for line in server.stdout if (found := re.search(r"http://\S+/label-studio/\S+", line)))


@pytest.fixture
def label_studio(tmp_path: Path) -> Iterator[Any]:
    """A client of a new Label Studio."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    folder = tmp_path / "label studio"
    folder.mkdir()
    login = ["--username", PERSON, "--password", "a long password 1", "--user-token", TOKEN]
    place = ["--data-dir", str(folder), "--port", str(port), "--internal-host", "127.0.0.1", "--no-browser"]
    environment = {"LABEL_STUDIO_ENABLE_LEGACY_API_TOKEN": "true", "COLLECT_ANALYTICS": "false", "SENTRY_DSN": ""}
    environment |= {"PYTHONPATH": "", "LATEST_VERSION_CHECK": "false"}
    environment |= {"ML_BLOCK_LOCAL_IP": "false", "SSRF_PROTECTION_ENABLED": "false"}  # as docs/review.md says
    with (folder / "log").open("w") as log, started([PROGRAM, "start", *login, *place], environment, **to(log)):
        client = httpx.Client(
            base_url=f"http://127.0.0.1:{port}", headers={"Authorization": f"Token {TOKEN}"}, timeout=120
        )
        until = time.monotonic() + 180
        while not answers(client):
            assert time.monotonic() < until, (folder / "log").read_text()[-3000:]
            time.sleep(1)
        yield client


def to(log: IO[str]) -> dict[str, Any]:
    return {"stdout": log, "stderr": subprocess.STDOUT}


def answers(client: Any) -> bool:
    try:
        return bool(client.get("/api/projects").status_code == 200)
    except httpx.TransportError:
        return False


def done(response: Any) -> Any:
    assert response.status_code < 300, response.text
    return response.json()


def test_ten_tasks_get_predictions_and_an_annotation_arrives(label_studio: Any, address: str) -> None:
    project = done(label_studio.post("/api/projects", json={"title": "toy", "label_config": labelling_config(CLASSES)}))
    images = ([*TRAIN, *TEST] * 2)[:10]
    tasks = [{"data": {"image": f"/photos/{image}.jpg", "image_id": image}} for image in images]
    done(label_studio.post(f"/api/projects/{project['id']}/import", json=tasks))
    connection = done(label_studio.post("/api/ml", json={"project": project["id"], "url": address, "title": "ccd"}))
    assert done(label_studio.get(f"/api/ml/{connection['id']}"))["state"] == "CO"
    asked = {"selectedItems": {"all": True, "excluded": []}, "project": project["id"]}
    done(label_studio.post("/api/dm/actions", params={"id": "retrieve_tasks_predictions", **ids(project)}, json=asked))
    predictions = done(label_studio.get("/api/predictions", params=ids(project)))
    assert len(predictions) == 10 and all(each["model_version"].startswith("student ") for each in predictions)
    for each in predictions:
        kinds = [part["type"] for part in each["result"]]
        assert kinds[0] == "choices" and set(kinds[1:]) == {"rectanglelabels"}
        assert each["result"][0]["value"]["choices"] == ["cup", "tall lamp"]
    first = done(label_studio.get("/api/tasks", params=ids(project)))["tasks"][0]
    result = [{"from_name": "labels", "to_name": "image", "type": "choices", "value": {"choices": ["tall lamp"]}}]
    made = done(label_studio.post(f"/api/tasks/{first['id']}/annotations", json={"result": result}))
    image = first["data"]["image_id"]
    until = time.monotonic() + 10
    while not ProjectData().book().decisions() and time.monotonic() < until:
        time.sleep(0.1)
    assert ProjectData().book().decisions() == {(image, name): int(name == "tall lamp") for name in CLASSES}
    assert {entry["who"] for entry in ProjectData().book().entries()} == {f"Label Studio user {made['completed_by']}"}
    changed = [{**result[0], "value": {"choices": ["cup"]}}]
    done(label_studio.patch(f"/api/annotations/{made['id']}", json={"result": changed}))
    assert ProjectData().book().decisions()[image, "cup"] == 1


def ids(project: dict[str, Any]) -> dict[str, Any]:
    return {"project": project["id"]}
