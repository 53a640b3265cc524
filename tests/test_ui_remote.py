"""The page over images in a bucket, behind a manifest of URLs and inside Parquet: shown as from disk, and no others."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

pytest.importorskip("starlette")
pytest.importorskip("httpx")
pytest.importorskip("moto")
pytest.importorskip("s3fs")

import s3fs

from ccd.artifacts import image_index
from ccd.artifacts.sealed import short_digest
from ccd.images import remote
from ccd.ui.project_data import ProjectData
from ccd.ui.thumbs import Thumbnails
from tests.toys.finished_run import TEST, TRAIN
from tests.toys.servers import KEY_ID, SECRET, Traffic, http_server, s3_environment, s3_server, upload
from tests.toys.ui_project import DATA, write_ui_project
from tests.toys.visitors import program

NAMES = [f"{image}.jpg" for image in (*TRAIN, *TEST)]
BUCKET = "page"


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, Traffic]]:
    s3fs.S3FileSystem.clear_instance_cache()  # those of other servers
    monkeypatch.setattr(remote, "WAIT_S", 0.01)
    with s3_server() as (endpoint, traffic):
        for name, value in s3_environment(endpoint).items():
            monkeypatch.setenv(name, value)
        yield endpoint, traffic
    s3fs.S3FileSystem.clear_instance_cache()


@pytest.fixture
def pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """A project on disk, the working directory from now on, whose index has the digests; path -> content."""
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    write_ui_project()
    contents = {name: (DATA / name).read_bytes() for name in NAMES}
    change_index(digests=[short_digest(content) for content in contents.values()])
    return contents


def change_index(**changed: object) -> None:
    path = DATA / "images.parquet"
    image_index.write(path, replace(image_index.read(path), **changed))  # type: ignore[arg-type]


def set_root(root: object) -> None:
    lines = Path("params.yaml").read_text().splitlines(keepends=True)
    Path("params.yaml").write_text(
        "".join(f"  root: {root}\n" if line.startswith("  root:") else line for line in lines)
    )


def shown() -> list[bytes]:
    """All photos, and all thumbnails, made anew."""
    shutil.rmtree(".ccd", ignore_errors=True)
    client = program()
    answers = [client.get(f"/{kind}/{row}") for kind in ("photo", "thumb") for row in range(len(NAMES))]
    assert [answer.status_code for answer in answers] == [200] * len(answers), answers[0].text
    return [answer.content for answer in answers]


def in_bucket(s3: tuple[str, Traffic], pictures: dict[str, bytes]) -> None:
    """Move the images from the disk into a bucket."""
    upload(s3[0], {f"pets/{name}": content for name, content in pictures.items()}, BUCKET)
    for name in NAMES:
        (DATA / name).unlink()
    set_root(f"s3://{BUCKET}/pets")


def refusal(row: int = 0) -> str:
    done = program().get(f"/photo/{row}")
    assert done.status_code == 409
    return str(done.json()["error"])


def test_images_in_a_bucket_are_shown_as_those_on_disk(s3: tuple[str, Traffic], pictures: dict[str, bytes]) -> None:
    from_disk = shown()
    in_bucket(s3, pictures)
    assert shown() == from_disk
    s3[1].clear()
    assert program().get("/thumb/0").content == from_disk[len(NAMES)]
    assert not s3[1].requests, "a thumbnail is made once"
    answers = [{"image_id": TRAIN[0], "class": "cup", "label": 1}]
    assert program().post("/api/answers", json={"answers": answers}).status_code == 200
    assert program().get("/api/story?row=0").json()["decided"] == {"cup": 1}


def test_what_was_fetched_is_kept_within_the_limit_of_the_cache(
    s3: tuple[str, Traffic], pictures: dict[str, bytes]
) -> None:
    in_bucket(s3, pictures)
    project = ProjectData()
    thumbs = Thumbnails(project.root, cache=project.cache)
    for _ in range(2):
        for row in range(len(NAMES)):
            thumbs.photo(project.index(), row)
    assert s3[1].of("GET") == len(NAMES)
    assert s3[1].body_bytes == sum(map(len, pictures.values()))


def test_an_object_that_changed_or_cannot_be_reached_is_named_without_secrets(
    s3: tuple[str, Traffic], pictures: dict[str, bytes]
) -> None:
    in_bucket(s3, pictures)
    other = bytearray(pictures[NAMES[0]])
    other[-3] ^= 1
    upload(s3[0], {f"pets/{NAMES[0]}": bytes(other)}, BUCKET)
    assert f"s3://{BUCKET}/pets/train/a.jpg: another content than when indexed" in refusal()
    s3[1].fault = lambda method, path: "403"
    told = refusal(1)
    assert "access denied" in told and KEY_ID not in told and SECRET not in told


def test_no_name_leads_from_a_bucket_to_the_disk_another_bucket_or_another_server(
    s3: tuple[str, Traffic], pictures: dict[str, bytes], tmp_path: Path
) -> None:
    in_bucket(s3, pictures)
    upload(s3[0], {"secret.jpg": pictures[NAMES[0]]}, BUCKET)
    (tmp_path / "secret.jpg").write_bytes(pictures[NAMES[0]])
    with http_server(tmp_path) as (url, asked):
        outside = ["../secret.jpg", f"s3://{BUCKET}/secret.jpg", str(tmp_path / "secret.jpg"), f"{url}/secret.jpg"]
        change_index(paths=[*outside, *NAMES[4:]], file_bytes=np.full(len(NAMES), len(pictures[NAMES[0]])))
        s3[1].clear()
        for row, name in enumerate(outside):
            assert refusal(row) == f"{name}: leads out of the folder of the images, so it is not shown"
        set_root(DATA)
        assert "leads out" in refusal(1) and "leads out" in refusal(3), "a folder names no addresses"
    assert not asked.requests and not s3[1].requests


def test_a_manifest_of_signed_urls_is_shown_and_its_signature_is_not(
    pictures: dict[str, bytes], tmp_path: Path
) -> None:
    from_disk = shown()
    shutil.copytree(DATA, tmp_path / "web")
    with http_server(tmp_path / "web", token="planted%2Ftoken") as (url, traffic):
        rows = [f"{url}/{name}?token=planted%2Ftoken" for name in NAMES]
        (tmp_path / "list.csv").write_text("\n".join(["url", *rows]))
        set_root(tmp_path / "list.csv")
        change_index(paths=[f"{url}/{name}" for name in NAMES])
        remote._remember_manifest.cache_clear()
        assert shown() == from_disk
        traffic.fault = lambda method, path: "403"
        assert program().get("/photo/0").status_code == 200, "kept"
        kept = [path.read_bytes() for path in Path(".ccd").rglob("*") if path.is_file()]
        shutil.rmtree(".ccd")
        assert "access denied" in refusal() and "planted" not in refusal()
    assert kept and not any(b"planted%2Ftoken" in content for content in kept)


def test_images_inside_parquet_are_shown_and_a_link_that_leads_out_is_not(
    pictures: dict[str, bytes], tmp_path: Path
) -> None:
    from_disk = shown()
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    images = pa.array([{"bytes": content, "path": name} for name, content in pictures.items()], kind)
    pq.write_table(pa.table({"image": images}), DATA / "set.parquet")
    change_index(paths=[f"set.parquet#{row}" for row in range(len(NAMES))])
    assert shown() == from_disk
    (DATA / "set.parquet").rename(tmp_path / "set.parquet")
    (DATA / "set.parquet").symlink_to(tmp_path / "set.parquet")
    assert "leads out" in refusal()


def test_a_link_beside_a_manifest_that_leads_out_is_refused(pictures: dict[str, bytes], tmp_path: Path) -> None:
    (DATA / "list.csv").write_text("\n".join(["path", *NAMES]))
    set_root(DATA / "list.csv")
    assert program().get("/photo/0").status_code == 200
    (DATA / NAMES[0]).rename(tmp_path / "secret.jpg")
    (DATA / NAMES[0]).symlink_to(tmp_path / "secret.jpg")
    assert "leads out" in refusal()
