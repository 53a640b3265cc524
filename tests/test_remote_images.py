"""Images behind URLs, in manifests and inside Parquet: the artifacts are those from disk, every fault is answered."""

from __future__ import annotations

import io
import json
import os
import resource
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from ccd.artifacts import image_index
from ccd.artifacts.image_index import ImageIndex
from ccd.datasets import load_dataset
from ccd.datasets.manifest import listing_digest
from ccd.datasets.scan import scan_dataset
from ccd.errors import CcdError, redacted
from ccd.images import remote
from ccd.images.batches import image_batches, indexed_files
from ccd.images.decode import decode
from ccd.images.file_cache import FileCache
from ccd.params.file import load
from ccd.params.sections import DatasetParams, IndexParams
from ccd.project import pipeline
from tests.toys.chain import CHAIN, artifacts, prepare, run_stage, write_pictures
from tests.toys.commands import invoke
from tests.toys.deployed import write_student
from tests.toys.servers import (
    BUCKET,
    KEY_ID,
    SECRET,
    Traffic,
    http_server,
    s3_client,
    s3_environment,
    s3_server,
    s3_server_apart,
    upload,
)

pytest.importorskip("moto")
s3fs = pytest.importorskip("s3fs")


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


@pytest.fixture(autouse=True)
def quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "WAIT_S", 0.01)


def picture(number: int, side_px: int = 40) -> bytes:
    buffer = io.BytesIO()
    pixels = np.random.default_rng(number).integers(0, 255, (side_px, side_px + 8, 3), np.uint8)
    Image.fromarray(pixels).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


PICTURES = {f"{folder}/{number}.jpg": picture(number) for number, folder in enumerate(("train", "train", "test"))}
CLASSES = b"cat\ndog\n"


def write_all(folder: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def indexed(root: str, classes: Path, verify: str = "decode", cache_gb: float = 1.0, **more: object) -> ImageIndex:
    params = {**INDEX, "classes_file": str(classes), "verify": verify, **more}
    _, index = scan_dataset(IndexParams.model_validate(params), Path(root), 1, cache_gb=cache_gb)
    return index


INDEX: dict[str, object] = dict.fromkeys(IndexParams.model_fields) | {
    **{"adapter": "folder", "train_split": "train", "test_split": "test", "on_bad_image": "error", "verify": "decode"},
    **{"follow_links": False, "demo_train": 1, "demo_test": 0, "demo_seed": 0},
}


def clear_cache() -> None:
    shutil.rmtree(".ccd", ignore_errors=True)


@pytest.fixture
def classes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A list of classes; the working directory, where the cache will be, is empty."""
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return write_all(tmp_path, {"classes.txt": CLASSES}) / "classes.txt"


@pytest.fixture
def web(tmp_path: Path) -> Iterator[tuple[str, Traffic]]:
    """A web server with three pictures and a manifest of them."""
    lines = ["url,split,labels", *(f"{name},{name.partition('/')[0]},cat" for name in PICTURES)]
    write_all(tmp_path / "web", {**PICTURES, "list.csv": "\n".join(lines).encode()})
    with http_server(tmp_path / "web") as (url, traffic):
        yield url, traffic


def stored(s3: tuple[str, Traffic], bucket: str, files: dict[str, bytes] = PICTURES) -> str:
    upload(s3[0], files, bucket)
    s3[1].clear()
    return f"s3://{bucket}"


def read_all(root: str, index: ImageIndex, cache_gb: float = 1.0) -> list[bytes]:
    files = indexed_files(root, index, cache_gb)
    return [image.tobytes() for image in files.read_all(range(len(index)), 8)]


def test_an_index_of_s3_is_that_of_the_same_files_on_disk(s3: tuple[str, Traffic], classes: Path) -> None:
    root = stored(s3, "same", {**PICTURES, "notes.txt": b"x", "train/.hidden.jpg": b"x", "train/odd": picture(7)})
    write_all(classes.parent / "disk", {**PICTURES, "notes.txt": b"x", "train/odd": picture(7)})
    assert_same(indexed(root, classes), indexed(str(classes.parent / "disk"), classes))


def assert_same(one: ImageIndex, other: ImageIndex) -> None:
    assert list(one.ids) == list(other.ids)
    assert list(one.digests) == list(other.digests)
    assert one.is_train.tolist() == other.is_train.tolist()
    assert one.sizes_px.tolist() == other.sizes_px.tolist()
    assert one.file_bytes.tolist() == other.file_bytes.tolist()


def test_headers_suffice_for_an_index_and_five_passes_fetch_every_image_once(
    s3: tuple[str, Traffic], classes: Path
) -> None:
    large = {f"{number}.jpg": picture(number, 400) for number in range(3)}
    root = stored(s3, "headers", large)
    index = indexed(root, classes, "header", test_split=None)
    assert index.sizes_px.tolist() == [[400, 408]] * 3
    assert index.file_bytes.tolist() == [len(content) for content in large.values()]
    assert s3[1].body_bytes < 3 * 65_537 + 5_000 < sum(map(len, large.values()))
    s3[1].clear()
    passes = [read_all(root, index) for _ in range(5)]
    assert all(each == passes[0] for each in passes)
    assert s3[1].body_bytes == sum(map(len, large.values()))
    assert s3[1].of("GET") == 3 and s3[1].of("HEAD") == 0, "the ETag is the content's MD5: nothing else is asked"
    s3[1].clear()
    assert indexed(root, classes, "header", test_split=None).digests == index.digests
    assert {path for _, path in s3[1].requests} == {"/headers", "/headers/labels.csv"}, "the listing, no image"


def test_without_a_cache_every_pass_fetches_every_image(s3: tuple[str, Traffic], classes: Path) -> None:
    root = stored(s3, "uncached")
    index = indexed(root, classes, cache_gb=0.0)
    s3[1].clear()
    for _ in range(2):
        read_all(root, index, 0.0)
    assert s3[1].body_bytes == 2 * sum(map(len, PICTURES.values()))
    assert not Path(".ccd").exists()


@pytest.mark.parametrize("fault", ["503", "short"])
def test_what_passes_is_survived(s3: tuple[str, Traffic], classes: Path, fault: str) -> None:
    root = stored(s3, f"passes-{fault}")
    traffic = s3[1]
    traffic.fault = lambda method, path: fault if path.endswith("jpg") and traffic.requests[method, path] == 1 else ""
    index = indexed(root, classes)
    assert [traffic.requests["GET", f"/passes-{fault}/{name}"] for name in sorted(PICTURES)] == [2, 2, 2]
    assert_same(index, indexed(str(write_all(classes.parent / "disk", PICTURES)), classes))


def test_what_does_not_pass_is_named_and_skips_no_image(s3: tuple[str, Traffic], classes: Path) -> None:
    """An expired token is no fault of the images, even where bad images are skipped."""
    root = stored(s3, "expired")
    s3[1].fault = lambda method, path: "403" if path.endswith("0.jpg") else ""
    with pytest.raises(CcdError, match=r"s3://expired/train/0\.jpg: access denied \(.*expired.*renew the token"):
        indexed(root, classes, on_bad_image="skip")


@pytest.mark.slow  # botocore waits between its own tries
def test_a_server_that_stays_busy_is_named(s3: tuple[str, Traffic], classes: Path) -> None:
    root = stored(s3, "busy")
    s3[1].fault = lambda method, path: "503" if path.endswith("0.jpg") else ""
    with pytest.raises(CcdError, match=r"0\.jpg: no whole answer in 5 tries"):
        indexed(root, classes, on_bad_image="skip")


def test_a_bucket_that_is_not_there_is_named(s3: tuple[str, Traffic], classes: Path) -> None:
    with pytest.raises(CcdError, match=r"s3://nowhere.*(not found|no images)"):
        indexed("s3://nowhere/x", classes)


@pytest.mark.parametrize("verify", ["decode", "header"])
def test_an_object_that_changed_or_vanished_after_index_is_named(
    s3: tuple[str, Traffic], classes: Path, verify: str
) -> None:
    root = stored(s3, f"changes-{verify}")
    index = indexed(root, classes, verify, cache_gb=0.0)
    other = bytearray(PICTURES["train/0.jpg"])
    other[-3] ^= 1
    upload(s3[0], {"train/0.jpg": bytes(other)}, f"changes-{verify}")
    with pytest.raises(CcdError, match=r"train/0\.jpg: another content than when indexed.*dvc repro -f -s index"):
        read_all(root, index)
    upload(s3[0], {"train/0.jpg": bytes(other) + b"12"}, f"changes-{verify}")
    with pytest.raises(CcdError, match=r"train/0\.jpg: \d+ bytes, but \d+ when indexed"):
        read_all(root, index)
    upload(s3[0], {"train/0.jpg": bytes(other)[:100]}, f"changes-{verify}")
    with pytest.raises(CcdError, match=r"train/0\.jpg: \d+ bytes, but \d+ when indexed"):
        read_all(root, index)
    delete(s3[0], f"changes-{verify}", "train/0.jpg")
    with pytest.raises(CcdError, match=r"train/0\.jpg: not found"):
        read_all(root, index)


def test_bad_images_behind_urls_are_skipped_or_refused_as_on_disk(s3: tuple[str, Traffic], classes: Path) -> None:
    bad = {"train/bad.jpg": PICTURES["train/0.jpg"][:-300], "train/empty.jpg": b""}
    root = stored(s3, "bad", {**PICTURES, **bad})
    index = indexed(root, classes, on_bad_image="skip")
    local = indexed(str(write_all(classes.parent / "disk", {**PICTURES, **bad})), classes, on_bad_image="skip")
    assert [each.path for each in index.skipped] == [each.path for each in local.skipped] == sorted(bad)
    with pytest.raises(CcdError, match=r"s3:/+bad: 2 of 5 images cannot be used"):
        indexed(root, classes)


def test_a_manifest_on_a_web_server_is_read_with_its_splits_and_labels(web: tuple[str, Traffic], classes: Path) -> None:
    dataset = load_dataset(
        "folder", Path(f"{web[0]}/list.csv"), train_split="train", test_split="test", classes_file=str(classes)
    )
    assert [(entry.image_id, entry.split) for entry in dataset.images] == [
        (name, name.partition("/")[0]) for name in PICTURES
    ]
    assert dataset.labels.tolist() == [[1, 0]] * 3
    index = indexed(f"{web[0]}/list.csv", classes)
    local = indexed(str(write_all(classes.parent / "disk", PICTURES)), classes)
    assert sorted(index.digests) == sorted(local.digests)
    web[1].clear()
    read_all(f"{web[0]}/list.csv", index)
    assert web[1].of("GET") == 0


@pytest.mark.parametrize("fault", ["503", "short", "slow"])
def test_a_web_servers_passing_faults_are_survived(
    web: tuple[str, Traffic], classes: Path, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "TIMEOUT_S", 0.5)
    url, traffic = web
    traffic.slow_s = 2.0
    traffic.fault = lambda method, path: fault if path.endswith("0.jpg") and traffic.requests[method, path] == 1 else ""
    index = indexed(f"{url}/list.csv", classes)
    assert len(index) == 3 and traffic.requests["GET", "/train/0.jpg"] >= 2


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("503", r"0\.jpg: no whole answer in 5 tries \(.*503"),
        ("short", r"0\.jpg: (no whole answer in 5 tries|\d+ bytes, but \d+ when indexed)"),
        ("403", r"0\.jpg: access denied \(.*renew the token"),
        ("404", r"0\.jpg: not found"),
    ],
)
def test_a_web_servers_lasting_faults_are_one_line(
    web: tuple[str, Traffic], classes: Path, fault: str, message: str
) -> None:
    url, traffic = web
    index = indexed(f"{url}/list.csv", classes, cache_gb=0.0)
    traffic.fault = lambda method, path: fault if path.endswith("0.jpg") else ""
    with pytest.raises(CcdError, match=message) as raised:
        read_all(f"{url}/list.csv", index)
    assert "\n" not in str(raised.value)


def test_a_web_server_is_not_listed(web: tuple[str, Traffic], classes: Path) -> None:
    with pytest.raises(CcdError, match=r"does not list its files; set dataset\.root to a manifest"):
        indexed(f"{web[0]}/train", classes)


def test_opaque_etags_are_asked_again_where_no_content_is_known(web: tuple[str, Traffic], classes: Path) -> None:
    """nginx's ETag is a time and a size: two files of one size may share it, so the URL belongs to the version."""
    index = indexed(f"{web[0]}/list.csv", classes, "header", cache_gb=0.0)
    assert len(set(index.digests)) == 3
    assert len(read_all(f"{web[0]}/list.csv", index, 0.0)) == 3
    file = classes.parent / "web/train/0.jpg"
    file.write_bytes(file.read_bytes())
    os.utime(file, (1, 1))
    with pytest.raises(CcdError, match=r"0\.jpg: another content than when indexed"):
        read_all(f"{web[0]}/list.csv", index, 0.0)


def test_signed_urls_are_opened_and_their_signatures_kept_nowhere(tmp_path: Path, classes: Path) -> None:
    write_all(tmp_path / "web", PICTURES)
    with http_server(tmp_path / "web", token="planted%2Ftoken") as (url, _):
        rows = [f"{url}/{name}?token=planted%2Ftoken,{name.partition('/')[0]}" for name in PICTURES]
        (tmp_path / "list.csv").write_text("\n".join(["url,split", *rows]))
        index = indexed(str(tmp_path / "list.csv"), classes)
        assert list(index.ids) == [f"{url}/{name}" for name in PICTURES]
        image_index.write(Path("images.parquet"), index)
        remote._signed.clear()  # another process
        remote._remember_manifest.cache_clear()
        assert len(read_all(str(tmp_path / "list.csv"), image_index.read(Path("images.parquet")), 0.0)) == 3
        (tmp_path / "list.csv").write_text(
            "\n".join(["url,split", *rows]).replace("planted%2Ftoken", "expired%2Ftoken")
        )
        remote._signed.clear()
        remote._remember_manifest.cache_clear()
        clear_cache()
        with pytest.raises(CcdError, match="access denied") as raised:
            read_all(str(tmp_path / "list.csv"), index, 0.0)
        assert "expired%2Ftoken" not in str(raised.value)
    assert not any(b"planted%2Ftoken" in content for content in contents(Path.cwd()).values())


@pytest.mark.parametrize(
    "root",
    ["https://user:planted@host/list.csv", "https://host/list.csv?X-Amz-Signature=planted&a=1", "s3://a:planted@b"],
)
def test_a_root_with_a_secret_is_refused_without_showing_it(root: str, classes: Path) -> None:
    with pytest.raises(CcdError, match=r"holds a password or a signature, which dvc\.lock would keep") as raised:
        indexed(root, classes)
    assert "planted" not in str(raised.value)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("reading s3:// needs a package", "reading s3:// needs a package"),
        ("https://u:p@h/a.jpg: x", "https://...@h/a.jpg: x"),
        ("see https:/h/a.jpg?sig=abc&se=1 now", "see https://h/a.jpg?... now"),
        ("https://h/a.jpg?id=12", "https://h/a.jpg?id=12"),
        ("url='https://h/a?X-Goog-Signature=1'", "url='https://h/a?...'"),
        ("abfs://container@account.dfs.core.windows.net/x", "abfs://container@account.dfs.core.windows.net/x"),
        ("s3:/bucket/a.jpg and /home/a.jpg", "s3://bucket/a.jpg and /home/a.jpg"),
    ],
)
def test_messages_hide_what_opens_a_url(text: str, shown: str) -> None:
    assert redacted(text) == shown


def test_a_parquet_manifest_on_s3_with_lists_of_labels(s3: tuple[str, Traffic], classes: Path) -> None:
    table = pa.table(
        {"path": list(PICTURES), "split": ["train", "train", "test"], "labels": [["cat", "dog"], [], None]}
    )
    pq.write_table(table, buffer := pa.BufferOutputStream())
    root = stored(
        s3,
        "parquet",
        {**{f"x/{name}": each for name, each in PICTURES.items()}, "x/list.parquet": buffer.getvalue().to_pybytes()},
    )
    dataset = load_dataset(
        "folder", Path(f"{root}/x/list.parquet"), train_split="train", test_split="test", classes_file=str(classes)
    )
    assert list(dataset.labelled) == ["train/0.jpg", "train/1.jpg"]
    assert dataset.labels.tolist() == [[1, 1], [0, 0]]
    assert len(indexed(f"{root}/x/list.parquet", classes)) == 3


def hugging_face(folder: Path) -> Path:
    """A data set as `datasets` writes it: images inside Parquet, class names in the metadata."""
    features = {"image": {"_type": "Image"}, "label": {"names": ["red_fox", "owl"], "_type": "ClassLabel"}}
    for split, numbers in (("train", range(10)), ("test", range(10, 14))):
        images = [{"bytes": picture(number), "path": f"{number}.jpg"} for number in numbers]
        kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
        table = pa.table({"image": pa.array(images, kind), "label": pa.array([number % 2 for number in numbers])})
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
        (folder / "data").mkdir(parents=True, exist_ok=True)
        pq.write_table(table, folder / f"data/{split}-00000-of-00001.parquet", row_group_size=4)
    return folder


@pytest.mark.parametrize("where", ["disk", "s3"])
def test_images_inside_parquet_are_read_without_unpacking(where: str, s3: tuple[str, Traffic], classes: Path) -> None:
    folder = hugging_face(classes.parent / "set")
    root = str(folder) if where == "disk" else stored(s3, "set", contents(folder))
    dataset = load_dataset("folder", Path(root), train_split="train", test_split="test")
    assert [(info.name, info.texts) for info in dataset.classes] == [("red_fox", ("red fox",)), ("owl", ("owl",))]
    assert dataset.labels.argmax(1).tolist() == [number % 2 for number in (*range(10, 14), *range(10))]
    index = indexed_of(root)
    assert index.ids[0] == "data/test-00000-of-00001.parquet#0" and int(index.is_train.sum()) == 10
    images = indexed_files(root, index, 1.0)
    expected = [decode(picture(number), "x").tobytes() for number in (*range(10, 14), *range(10))]
    order = np.random.default_rng(0).permutation(14)
    assert [images.read(row).tobytes() for row in order] == [expected[row] for row in order]
    s3[1].clear()
    remote._row_group.cache_clear()
    assert [images.read(row).tobytes() for row in order] == [expected[row] for row in order]
    assert s3[1].of("GET") == 0, "rows that were read together are in the cache"


def indexed_of(root: str) -> ImageIndex:
    return scan_dataset(IndexParams.model_validate(INDEX), Path(root), 2, cache_gb=1.0)[1]


def test_hugging_faces_own_library_writes_what_is_read(tmp_path: Path, classes: Path) -> None:
    datasets = pytest.importorskip("datasets")
    (tmp_path / "hf").mkdir()
    rows = {"image": [Image.open(io.BytesIO(picture(number))) for number in range(3)], "label": [0, 1, 1]}
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b"])})
    datasets.Dataset.from_dict(rows, features=features).to_parquet(str(tmp_path / "hf/train.parquet"))
    dataset = load_dataset("folder", tmp_path / "hf/train.parquet", train_split="train", test_split=None)
    assert [info.name for info in dataset.classes] == ["a", "b"]
    assert dataset.labels.tolist() == [[1, 0], [0, 1], [0, 1]]
    assert len(indexed_of(str(tmp_path / "hf/train.parquet"))) == 3


def test_a_full_cache_keeps_what_it_has_and_forgets_what_nobody_read(tmp_path: Path) -> None:
    cache = FileCache(100_000, tmp_path / "cache")
    for number in range(20):
        cache.put(f"{number}", "", bytes([number]) * 10_000)
    kept = [number for number in range(20) if cache.get(f"{number}", None, "") is not None]
    assert kept == list(range(9)), "the limit, less what was not counted yet"
    assert sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file()) <= 100_000
    for path in (path for path in tmp_path.rglob("*") if path.is_file()):
        os.utime(path, (1, 1))
    cache.get("8", None, "")
    for number in range(20, 23):
        cache.put(f"{number}", "", bytes([number]) * 10_000)
    assert cache.get("8", None, "") is not None and cache.get("22", None, "") is not None
    assert sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file()) <= 100_000


def test_a_damaged_file_in_the_cache_counts_as_absent(tmp_path: Path) -> None:
    cache = FileCache(10_000, tmp_path)
    cache.put("a", "", b"content")
    (file,) = (path for path in tmp_path.rglob("*") if path.is_file())
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    assert cache.get("a", None, "") is None
    file.write_bytes(b"")
    assert cache.get("a", None, "") is None


def test_a_file_that_does_not_fit_on_the_disk_is_not_kept_and_leaves_nothing(tmp_path: Path) -> None:
    cache = FileCache(1_000_000, tmp_path / "cache")
    usual = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5_000, usual[1]))  # met by the same calls as a full disk
    try:
        cache.put("a", "", b"x" * 10_000)
        cache.put("b", "", b"x" * 1_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, usual)
    assert cache.get("a", None, "") is None and cache.get("b", None, "") is not None
    assert len([path for path in tmp_path.rglob("*") if path.is_file()]) == 1


def test_a_missing_package_is_named_with_the_command_that_installs_it(classes: Path) -> None:
    with pytest.raises(CcdError, match=r"gs://b\S*: reading gs:// needs a package: pip install 'gcsfs>="):
        indexed("gs://b", classes)


def delete(endpoint: str, bucket: str, key: str) -> None:
    s3_client(endpoint).delete_object(Bucket=bucket, Key=key)


def test_predict_labels_urls_manifests_and_parquet(s3: tuple[str, Traffic], classes: Path, tmp_path: Path) -> None:
    """Among them signed URLs: the table and the messages have neither their signatures nor any key."""
    root = stored(s3, "new", {**PICTURES, "train/bad.jpg": b"no image"})
    write_student(Path("student.pt"))
    write_all(tmp_path / "local", PICTURES)
    hugging_face(tmp_path / "set")
    rows = [f"{name}" for name in PICTURES]
    (tmp_path / "local/list.csv").write_text("\n".join(["path", *rows]))
    with http_server(write_all(tmp_path / "web", PICTURES), token="planted%2Ftoken") as (url, _):
        given = [
            f"{root}/train",
            f"{url}/test/2.jpg?token=planted%2Ftoken",
            f"{url}/train/1.jpg?token=planted{'x' * 300}",
        ]
        result = invoke(
            "predict", "student.pt", *given, str(tmp_path / "local/list.csv"), str(tmp_path / "set"), "--out", "out.csv"
        )
    assert result.exit_code == 3, result.stderr
    lines = Path("out.csv").read_text().splitlines()
    names = [line.split(",")[0] for line in lines[1:]]
    assert names[:3] == ["s3://new/train/0.jpg", "s3://new/train/1.jpg", f"{url}/test/2.jpg"]
    assert names[3:6] == [f"{tmp_path}/local/{name}" for name in PICTURES]
    assert len(names) == 6 + 14 and names[6].endswith("set/data/test-00000-of-00001.parquet#0")
    assert lines[3].split(",")[1:] == lines[6].split(",")[1:], "the same picture from the web and from disk"
    assert "s3://new/train/bad.jpg: not an image" in result.stderr
    assert f"{url}/train/1.jpg: access denied" in result.stderr
    everything = result.stdout + result.stderr + "\n".join(lines)
    assert not any(secret in everything for secret in ("planted", KEY_ID, SECRET))


def test_a_project_notices_new_objects_and_a_new_manifest(s3: tuple[str, Traffic], classes: Path) -> None:
    root = Path(stored(s3, "listed"))
    before = listing_digest(root)
    assert listing_digest(root) == before
    upload(s3[0], {"train/9.jpg": picture(9)}, "listed")
    assert listing_digest(root) != before
    upload(s3[0], {"list.csv": b"path\ntrain/0.jpg\n"}, "listed")
    manifest = listing_digest(root / "list.csv")
    upload(s3[0], {"list.csv": b"path\ntrain/1.jpg\n"}, "listed")
    assert listing_digest(root / "list.csv") != manifest


def test_a_project_for_a_bucket_names_it_and_reads_headers_alone(
    s3: tuple[str, Traffic], classes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    large = {f"{folder}/{number}.jpg": picture(number, 400) for number, folder in enumerate(("a", "test"))}
    root = stored(s3, "project", large)
    result = invoke("init", "pets", "--images", root, "--classes", str(classes))
    assert result.exit_code == 0, result.stderr
    assert "2 images" in result.stdout and s3[1].body_bytes < sum(map(len, large.values()))
    monkeypatch.chdir("pets")
    assert load(DatasetParams).root == root
    assert load(IndexParams).verify == "header"
    pipeline.main(["--out", "inputs.json"], standalone_mode=False)
    before = Path("inputs.json").read_text()
    upload(s3[0], {"a/9.jpg": picture(9)}, "project")
    pipeline.main(["--out", "inputs.json"], standalone_mode=False)
    assert Path("inputs.json").read_text() != before


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
    written = contents(tmp_path / "s3").values()
    assert not any(secret.encode() in content for content in written for secret in (KEY_ID, SECRET))


@pytest.mark.slow
@pytest.mark.shared
def test_real_photos_from_s3_have_the_index_and_the_pixels_of_those_on_disk(
    s3: tuple[str, Traffic], classes: Path, shared_dir: Path
) -> None:
    found = sorted(path for path in (shared_dir / "data/coco_photos").rglob("*.jpg"))[:200]
    photos = {path.name: path.read_bytes() for path in found}
    root = stored(s3, "coco", photos)
    disk = str(write_all(classes.parent / "disk", photos))
    image_index.write(Path("disk.parquet"), indexed(disk, classes, test_split=None))
    image_index.write(Path("s3.parquet"), index := indexed(root, classes, test_split=None))
    assert Path("s3.parquet").read_bytes() == Path("disk.parquet").read_bytes()
    fetched = [s3[1].body_bytes]
    for _ in range(4):
        s3[1].clear()
        batches = list(image_batches(indexed_files(root, index, 1.0), range(len(index)), 64, 50, 0))
        fetched.append(s3[1].body_bytes)
    local = image_batches(indexed_files(disk, index), range(len(index)), 64, 50, 0)
    assert all(torch.equal(one[1], other[1]) for one, other in zip(batches, local, strict=True))
    print(f"{len(photos)} photos of {sum(map(len, photos.values())):,} bytes; fetched by pass: {fetched}")
    assert fetched[1:] == [0, 0, 0, 0]


@pytest.mark.slow
def test_ten_thousand_objects_are_listed_once(classes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The seconds that it prints, with -s, mean something on a machine with nothing else to do."""
    s3fs.S3FileSystem.clear_instance_cache()  # that of another server
    with s3_server_apart("many", 10_000, picture(0)) as endpoint:
        for name, value in s3_environment(endpoint).items():
            monkeypatch.setenv(name, value)
        start = (time.monotonic(), time.process_time())
        index = indexed("s3://many", classes, "header", cache_gb=0.0, test_split=None)
        elapsed_s = time.monotonic() - start[0]
        cpu_s = time.process_time() - start[1]
    print(f"{elapsed_s:.1f} s, {cpu_s:.1f} s of a core")
    assert index.ids[0] == "00000.jpg" and index.ids[-1] == "09999.jpg" and len(index) == 10_000
    s3fs.S3FileSystem.clear_instance_cache()
