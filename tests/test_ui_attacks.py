"""Who the page refuses, and what it does not do for anybody."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("starlette")
pytest.importorskip("httpx")

from PIL import Image

from ccd.artifacts import corrections_file, image_index
from ccd.images import decode
from ccd.ui.app import LARGEST_BODY_BYTES
from ccd.ui.security import CONTENT_SECURITY_POLICY, is_loopback
from tests.toys.finished_run import EVIL, TRAIN
from tests.toys.ui_project import DATA, write_ui_project
from tests.toys.visitors import HOST, TOKEN, Visitor, answer, guest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> np.ndarray:
    monkeypatch.chdir(tmp_path)
    return write_ui_project()


def test_without_the_token_nothing_is_told(project: np.ndarray) -> None:
    for client in (Visitor(), Visitor(Cookie="ccd_8000=wrong"), Visitor(Authorization="Bearer wrong")):
        for path in ("/", "/?token=wrong", "/static/app.js", "/api/project", "/thumb/0", "/nonsense"):
            done = client.get(path)
            assert done.status_code == 403 and "toy" not in done.text, path
        assert answer(client, (TRAIN[0], "cup", 1)).status_code == 403
    assert guest().get("/api/project").status_code == 200
    assert Visitor(Authorization=f"Bearer {TOKEN}").get("/api/project").status_code == 200


def test_the_token_is_good_for_the_cookie_alone_which_scripts_and_other_sites_do_not_get(project: np.ndarray) -> None:
    assert Visitor().get(f"/api/project?token={TOKEN}").status_code == 403, "addresses end up in logs"
    cookie = Visitor().get(f"/?token={TOKEN}").headers["set-cookie"]
    assert "HttpOnly" in cookie and "SameSite=Strict" in cookie and "ccd_8000=" in cookie


def test_another_name_for_this_address_is_refused(project: np.ndarray) -> None:
    """DNS rebinding: a page of evil.example whose name leads to 127.0.0.1 later."""
    client = guest()
    for host in (
        "evil.example:8000",
        "evil.example",
        "127.0.0.1:9999",
        "127.0.0.1.evil.example:8000",
        "a@127.0.0.1:8000",
        "",
    ):
        assert client.get("/api/project", headers={"Host": host}).status_code == 421, host
    for host in ("localhost:8000", "127.0.0.1:8000", "[::1]:8000"):
        assert client.get("/api/project", headers={"Host": host, "Origin": f"http://{host}"}).status_code == 200, host


def test_other_sites_cannot_write_or_read(project: np.ndarray) -> None:
    client = guest()
    for origin in ("http://evil.example", "null", "http://127.0.0.1:9999", "https://127.0.0.1:8000"):
        client.headers["Origin"] = origin
        assert answer(client, (TRAIN[0], "cup", 1)).status_code == 403, origin
    del client.headers["Origin"]
    assert answer(client, (TRAIN[0], "cup", 1)).status_code == 403, "browsers name the origin of what writes"
    for path in ("/api/project", "/thumb/0", "/"):
        assert client.get(path, headers={"Sec-Fetch-Site": "cross-site"}).status_code == 403
    assert client.get("/thumb/0", headers={"Sec-Fetch-Site": "same-site"}).status_code == 403, "another port"
    client.headers["Origin"] = HOST
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    assert client.post("/api/answers", content="a=1", headers=form).status_code == 415
    assert corrections_file.path_of("toy").read_text() == "image_id,class,label\n"


def test_no_path_leads_out_of_the_images(project: np.ndarray, tmp_path: Path) -> None:
    client = guest()
    for path in ("/static/../app.py", "/static/..%2fapp.py", "/static/%2e%2e/app.py", "/thumb/..%2f..%2fparams.yaml"):
        assert client.get(path).status_code == 404, path
    secret = tmp_path.parent / "secret.png"
    Image.new("RGB", (8, 8)).save(secret)
    (DATA / "train/link.png").symlink_to(secret)
    index = image_index.read(DATA / "images.parquet")
    outside = ["../../../secret.png", str(secret), "train/link.png"]
    image_index.write(
        DATA / "images.parquet",
        image_index.ImageIndex(
            index.ids, [*outside, *index.paths[3:]], index.is_train, index.sizes_px,
            np.full(6, secret.stat().st_size), index.digests,
        ),
    )  # fmt: skip
    client = guest()
    for row in range(3):
        done = client.get(f"/thumb/{row}")
        assert done.status_code == 409 and "leads out" in done.text, outside[row]


def test_a_decompression_bomb_is_refused(project: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decode, "MAX_PIXELS", 1000)
    done = guest().get("/photo/0")
    assert done.status_code == 409 and "the limit is" in done.text


def test_a_flood_is_cut_off(project: np.ndarray) -> None:
    client = guest()
    done = client.post(
        "/api/answers", content=b" " * (LARGEST_BODY_BYTES + 1), headers={"Content-Type": "application/json"}
    )
    assert done.status_code == 413
    assert client.get("/api/rows", params={"rows": ",".join("0" * 5000)}).json()[399:] != []
    assert len(client.get("/api/rows", params={"rows": ",".join("0" * 5000)}).json()) == 400
    deep = "[" * 100_000
    assert client.post("/api/answers", content=deep, headers={"Content-Type": "application/json"}).status_code == 400


@pytest.mark.parametrize(
    "query",
    [{"low": "nan"}, {"low": "x"}, {"region": "1,2"}, {"split": "all"}, {"sort": "x"}, {"class": "cow"},
     {"corrected": "9"}, {"disagree": "label"}],
)  # fmt: skip
def test_a_filter_that_is_none_is_refused(project: np.ndarray, query: dict[str, str]) -> None:
    assert guest().get("/api/images", params=query).status_code == 400


def test_names_reach_the_page_as_data_alone_under_a_strict_policy(project: np.ndarray) -> None:
    client = guest()
    done = client.get("/")
    assert done.headers["content-security-policy"] == CONTENT_SECURITY_POLICY
    assert "unsafe" not in CONTENT_SECURITY_POLICY and "default-src 'none'" in CONTENT_SECURITY_POLICY
    assert EVIL not in done.text
    assert done.headers["x-content-type-options"] == "nosniff" and done.headers["cache-control"] == "no-store"
    facts = client.get("/api/project")
    assert EVIL in facts.json()["classes"] and facts.headers["content-type"] == "application/json"
    assert Visitor().get("/").headers["content-security-policy"] == CONTENT_SECURITY_POLICY


def test_scripts_write_no_markup() -> None:
    for path in sorted((ROOT / "ccd/ui/static").glob("*.js")):
        text = path.read_text()
        for unsafe in (
            "innerHTML",
            "outerHTML",
            "insertAdjacentHTML",
            "document.write",
            "eval(",
            "http://",
            "https://",
        ):
            assert unsafe not in text, (path.name, unsafe)


def test_only_loopback_addresses_are_loopback() -> None:
    assert all(map(is_loopback, ("127.0.0.1", "localhost", "::1", "127.8.8.8")))
    assert not any(map(is_loopback, ("0.0.0.0", "192.168.1.4", "::", "example.org", "localhost.example.org")))
