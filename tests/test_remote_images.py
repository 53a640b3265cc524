"""Images behind URLs, in manifests and inside Parquet: the same artifacts as from disk, and an answer to every fault."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.toys.chain import CHAIN, artifacts, prepare, run_stage, write_pictures
from tests.toys.servers import BUCKET, Traffic, s3_environment, s3_server, upload

pytest.importorskip("moto")
pytest.importorskip("s3fs")


@pytest.fixture(scope="module")
def server() -> Iterator[tuple[str, Traffic]]:
    with s3_server() as started:
        yield started


@pytest.fixture
def s3(server: tuple[str, Traffic], monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, Traffic]]:
    for name, value in s3_environment(server[0]).items():
        monkeypatch.setenv(name, value)
    server[1].clear()
    yield server
    server[1].fault = lambda method, path: ""


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.slow
def test_the_chain_makes_the_same_artifacts_from_s3_and_fetches_every_image_once(
    s3: tuple[str, Traffic], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    endpoint, traffic = s3
    prepare(tmp_path / "disk", monkeypatch, "vit")
    (tmp_path / "disk/pictures").mkdir()
    write_pictures(tmp_path / "disk/pictures", ("red", "green", "blue"))
    files = contents(tmp_path / "disk/pictures")
    upload(endpoint, {f"toy/{name}": content for name, content in files.items()})
    for name in CHAIN:
        run_stage(name)
    prepare(tmp_path / "s3", monkeypatch, "vit", dataset__root=f"s3://{BUCKET}/toy")
    fetched = {}
    for name in CHAIN:
        traffic.clear()
        run_stage(name)
        fetched[name] = traffic.body_bytes
    images = sum(len(content) for name, content in files.items() if name.endswith(".png"))
    assert artifacts(tmp_path / "s3") == artifacts(tmp_path / "disk")
    assert images <= fetched.pop("index") < images + 10_000  # the lists, and XML
    assert not any(fetched.values()), fetched
