"""The page's server: what it answers at every stage of a project, and what it writes."""

from __future__ import annotations

import json
import re
import resource
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("starlette")
pytest.importorskip("httpx")

from click.testing import CliRunner
from PIL import Image
from starlette.testclient import TestClient

from ccd.artifacts import corrections_file
from ccd.cli.main import main
from ccd.errors import CcdError
from ccd.ui.project_data import ProjectData, reruns
from ccd.ui.search import UMAP_MOST, TextTower, _points, map_kind
from ccd.ui.selection import principal_axes
from ccd.ui.server import Serving, serve
from tests.toys.finished_run import CLASSES, TRAIN
from tests.toys.ui_project import DATA, WIDTH, write_ui_project
from tests.toys.visitors import answer, guest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> np.ndarray:
    monkeypatch.chdir(tmp_path)
    return write_ui_project()


def rows(client: TestClient, **query: object) -> list[int]:
    done = client.get("/api/images", params={key: str(value) for key, value in query.items()})
    assert done.status_code == 200, done.text
    return np.frombuffer(done.content, "<i4").tolist()


def test_the_page_and_its_files_are_served(project: np.ndarray) -> None:
    client = guest()
    page = client.get("/")
    assert "<title>toy - ccd</title>" in page.text and "<script>" not in page.text and " style=" not in page.text
    for name in ("app.js", "common.js", "view.js", "map.js", "app.css", "icon.svg"):
        assert client.get(f"/static/{name}").status_code == 200
    facts = client.get("/api/project").json()
    assert facts["classes"] == list(CLASSES) and facts["images"] == 6 and facts["train"] == 4
    assert facts["has"] == ["pseudo_labels", "predictions"] and facts["notes"] == []


def test_filters_choose_and_order_images(project: np.ndarray) -> None:
    client = guest()
    assert rows(client) == [0, 1, 2, 3, 4, 5]
    assert rows(client, split="test") == [4, 5]
    cup = {"class": "cup", "split": "train"}
    assert rows(client, **cup, low=0.5) == [0, 1, 2]
    assert rows(client, **cup, low=0.5, high=0.9) == [1, 2]
    assert rows(client, **cup, sort="low") == [3, 2, 1, 0]
    # |q - l| by hand: 0, 0.5, 0.65, 0
    assert rows(client, **cup, sort="doubt")[:2] == [2, 1] and rows(client, **cup, doubt=0.6) == [2]
    assert rows(client, **cup, disagree="views") == [2], "the view says there, the whole image not"
    # test images: clip 0.2, the student says 0.3 and 0.9 of the lamp
    assert rows(client, **{"class": "tall lamp"}, disagree="student") == [5]


def test_similar_images_and_a_region_of_the_map(project: np.ndarray) -> None:
    client = guest()
    expected = np.argsort(-(project @ project[2]), kind="stable").tolist()
    assert rows(client, like=2) == expected and expected[0] == 2
    content = client.get("/api/map").content
    xy = np.frombuffer(content, "<f4", 12).reshape(6, 2)
    assert len(content) == 6 * (8 + 2 + 1)
    x, y = xy[3]
    assert 3 in rows(client, region=f"{x - 0.01},{y - 0.01},{x + 0.01},{y + 0.01}")
    assert rows(client, region="2,2,3,3") == []


def test_search_by_text_ranks_by_the_cosine(project: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = np.zeros((1, WIDTH), np.float32)
    wanted[0, 5] = 1
    monkeypatch.setattr(TextTower, "_encode", lambda self, texts: wanted)
    assert rows(guest(), text="a red mug") == np.argsort(-project[:, 5], kind="stable").tolist()
    assert guest().get("/api/images", params={"text": "x" * 300}).status_code == 409


@pytest.mark.slow
def test_the_projects_own_clip_reads_the_text(project: np.ndarray) -> None:
    client = guest()
    assert sorted(rows(client, text="a mug")) == [0, 1, 2, 3, 4, 5]
    assert client.get("/api/project").json()["tower"] is True


def test_the_main_axis_is_the_one_of_the_largest_spread() -> None:
    points = np.zeros((101, 4), np.float32)
    points[:, 2] = np.linspace(-5, 5, 101)
    points[:, 1] = np.tile([0.1, -0.1], 51)[:101]
    xy = principal_axes(points)
    assert np.allclose(xy[:, 0], np.linspace(0, 1, 101), atol=0.01)


@pytest.mark.slow  # UMAP compiles itself in every process: a quarter of a minute
def test_umap_makes_the_same_map_twice_without_a_warning(recwarn: pytest.WarningsRecorder) -> None:
    pytest.importorskip("umap")
    rng = np.random.default_rng(0)
    group = np.arange(300) % 3
    features = (np.eye(3, 16)[group] + 0.05 * rng.normal(size=(300, 16))).astype(np.float32)
    assert (map_kind(300), map_kind(15), map_kind(UMAP_MOST + 1)) == ("UMAP", "PCA", "PCA")
    with ThreadPoolExecutor(1) as pool:  # as the server calls it
        one, two = pool.map(_points, [features, features])
    assert np.array_equal(one, two)
    assert one.shape == (300, 2) and one.dtype == np.float32 and one.min() >= 0 and one.max() <= 1
    centres = np.stack([one[group == each].mean(axis=0) for each in range(3)])
    nearest = np.linalg.norm(one[:, None] - centres, axis=2).argmin(axis=1)
    assert (nearest == group).mean() > 0.99, "like images lie together"
    assert [str(warning.message) for warning in recwarn] == []


def test_a_umap_that_does_not_work_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "umap.py").write_text("raise ImportError('Numba needs NumPy 1.0 or less')")
    monkeypatch.delitem(sys.modules, "umap", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(CcdError, match=r"UMAP \(Numba needs NumPy 1.0 or less\): pip install --upgrade umap-learn"):
        _points(np.eye(20, dtype=np.float32))


def test_a_story_is_that_of_inspect(project: np.ndarray) -> None:
    story = guest().get("/api/story?row=0").json()
    told = CliRunner().invoke(main, ["inspect", TRAIN[0], "--json"])
    expected = json.loads(told.stdout)
    assert {key: story[key] for key in expected} == expected
    assert len(story["views"]) == 3 and story["steps"]["cup"]["label"] == 1
    assert guest().get("/api/story?row=6").status_code == 404


def test_it_works_from_clip_global_on(project: np.ndarray) -> None:
    for name in ("bias.json", "boxes.parquet", "clip_local.h5", "pseudo_labels.parquet", "predictions.parquet"):
        (DATA / name).unlink()
    client = guest()
    facts = client.get("/api/project").json()
    assert facts["has"] == [] and facts["classes"] == list(CLASSES)
    assert len(rows(client, sort="doubt")) == 6
    story = client.get("/api/story?row=0").json()
    assert story["views"] == [] and story["steps"]["cup"]["views"] is None and story["steps"]["cup"]["clip"] is not None
    assert answer(client, (TRAIN[0], "cup", 1)).status_code == 200
    (DATA / "clip_global.h5").unlink()
    assert "dvc repro" in guest().get("/api/project").json()["error"]


def test_what_the_pipeline_writes_meanwhile_is_seen(project: np.ndarray) -> None:
    client = guest()
    assert client.get("/api/project").json()["has"] == ["pseudo_labels", "predictions"]
    (DATA / "predictions.parquet").unlink()
    assert client.get("/api/project").json()["has"] == ["pseudo_labels"]


def test_answers_are_written_at_once_and_undone(project: np.ndarray) -> None:
    client = guest()
    path = corrections_file.path_of("toy")
    assert answer(client, (TRAIN[2], "cup", 0)).json() == {"decided": 1, "changed": 1}
    assert path.read_text() == "image_id,class,label\ntrain/c,cup,0\n"
    assert rows(client, **{"class": "cup"}, corrected=1) == [2]
    shown = client.get("/api/rows", params={"rows": "2", "class": "cup"}).json()[0]
    assert shown["labels"][0] == ["cup", 0.0, 0] and shown["doubt"] == 0
    assert "cup" not in client.get("/api/story?row=2").json()["asked"]
    assert client.get("/api/sessions").json()[0]["who"] == ["tester"]
    assert client.post("/api/undo", json={"session": "one"}).json()["images"] == ["train/c"]
    assert path.read_text() == "image_id,class,label\n"
    assert client.post("/api/undo", json={"session": "one"}).status_code == 409


def test_decisions_are_read_again_only_when_somebody_has_answered_and_then_at_once(project: np.ndarray) -> None:
    one = ProjectData()
    before = one.decided()
    assert one.decided() is before and not before.flags.writeable
    answer(guest(), (TRAIN[2], "cup", 0))  # by another server
    assert one.decided()[2, 0] == 0 and (one.decided() >= 0).sum() == 1
    corrections_file.write(corrections_file.path_of("toy"), {(TRAIN[1], "cup"): 1})  # as `ccd review import` does
    after = one.decided()
    assert after[1, 0] == 1 and (after >= 0).sum() == 1 and one.decided() is after
    corrections_file.path_of("toy").unlink()
    assert (one.decided() < 0).all()


def test_an_answer_that_is_none_is_refused(project: np.ndarray) -> None:
    client = guest()
    for image, name, label in (("test/e", "cup", 1), (TRAIN[0], "cow", 1), (TRAIN[0], "cup", 7)):
        assert answer(client, (image, name, label)).status_code == 409
    for label in ("1", True, 1.0):
        assert answer(client, (TRAIN[0], "cup", label)).status_code == 400
    for body in ([], {}, {"answers": []}, {"answers": [{}]}, {"answers": [1]}, {"answers": "x"}):
        assert client.post("/api/answers", json=body).status_code == 400
    assert client.post("/api/answers", content="{", headers={"Content-Type": "application/json"}).status_code == 400
    assert corrections_file.path_of("toy").read_text() == "image_id,class,label\n"


def test_thumbnails_are_made_once_and_kept_out_of_git(project: np.ndarray) -> None:
    client = guest()
    first = client.get("/thumb/0")
    assert first.headers["content-type"] == "image/jpeg"
    kept = list(Path(".ccd/thumbs").rglob("*.jpg"))
    assert len(kept) == 1 and max(Image.open(kept[0]).size) == 220
    (DATA / "train/a.jpg").unlink()
    assert client.get("/thumb/0").content == first.content
    assert client.get("/photo/0").status_code == 409, "a missing image is said to be missing"
    assert client.get("/thumb/6").status_code == 404 and client.get("/thumb/-1").status_code == 404


def test_a_thumbnail_that_does_not_fit_on_the_disk_is_shown_and_leaves_nothing(project: np.ndarray) -> None:
    client = guest()
    usual = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, usual[1]))  # met by the same calls as a full disk
    try:
        done = client.get("/thumb/0")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, usual)
    assert done.status_code == 200 and done.headers["content-type"] == "image/jpeg"
    assert not [path for path in Path(".ccd/thumbs").rglob("*") if path.is_file()]
    assert client.get("/thumb/0").content == done.content and len(list(Path(".ccd/thumbs").rglob("*.jpg"))) == 1


def test_the_reruns_are_those_of_the_projects_pipeline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert reruns("demo") == []
    (tmp_path / "dvc.yaml").write_text((ROOT / "dvc.yaml").read_text())
    assert reruns("demo") == ["aggregate", "train", "head", "evaluate", "report"]


def test_open_says_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = CliRunner().invoke(main, ["open", str(tmp_path), "--no-browser"])
    assert done.exit_code == 2 and "no params.yaml" in done.stderr
    monkeypatch.chdir(tmp_path)
    write_ui_project()
    monkeypatch.setattr("uvicorn.Server.run", lambda self, sockets: sockets[0].close())
    done = CliRunner().invoke(main, ["open", "--no-browser", "--host", "0.0.0.0"])
    assert done.exit_code == 0 and "warning: 0.0.0.0 can be reached" in done.stdout
    done = CliRunner().invoke(main, ["open", "--no-browser"])
    assert "warning" not in done.stdout and "http://127.0.0.1:" in done.stdout and "?token=" in done.stdout


def test_who_comes_as_soon_as_the_address_is_printed_is_not_refused(
    project: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    visits: list[str] = []

    def visit(line: str) -> None:
        address = re.search(r"http://([\d.]+):(\d+)/", line)
        assert address is not None, line
        socket.create_connection((address[1], int(address[2]))).close()
        visits.append(line)

    monkeypatch.setattr("uvicorn.Server.run", lambda self, sockets: sockets[0].close())
    serve(Serving("127.0.0.1", 0, browser=False), visit)
    assert len(visits) == 1


def test_a_port_in_use_is_named(project: np.ndarray) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        done = CliRunner().invoke(main, ["open", "--no-browser", "--port", port])
    assert done.exit_code == 2 and f"cannot listen on 127.0.0.1, port {port}" in done.stderr


@pytest.mark.slow
def test_the_benchmark_runs(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.page", "--images", "80", "--classes", "3", "--repeats", "1"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "80 images, 3 classes" in done.stdout and "text search: median" in done.stdout
