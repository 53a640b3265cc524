"""More than one process at once: a reader gets one whole file, old or new, and the store's users lose time at worst."""

from __future__ import annotations

import hashlib
import os
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import ccd.artifacts.checkpoint_file
import ccd.artifacts.sealed
from ccd.artifacts import (
    bias_file,
    boxes_file,
    checkpoint_file,
    class_table,
    features_file,
    text_file,
)
from ccd.artifacts.features_file import reading
from ccd.artifacts.sealed import open_parquet
from ccd.deploy.load import WEIGHTS, open_model, read_folder, write_folder
from ccd.errors import CcdError
from ccd.labels.debias import nobody_decided
from ccd.runtime.store import Store, content_key
from tests.faults import under_dvc
from tests.faults.artifacts import SPECS, units, views, words
from tests.faults.child import Child
from tests.faults.laboratory import build
from tests.toys.deployed import write_student

CPU = torch.device("cpu")


def filled(value: float) -> checkpoint_file.Checkpoint:
    """Weights that are all the same number."""
    return checkpoint_file.Checkpoint({}, {"last": {name: torch.full((300, 300), value) for name in "abc"}}, "last", {})


def value_of(found: checkpoint_file.Checkpoint) -> float:
    """That number; an error if there are two."""
    (value,) = torch.unique(torch.stack(list(found.weights["last"].values()))).tolist()
    return float(value)


def test_a_checkpoint_that_is_replaced_all_the_time_is_old_or_new(tmp_path: Path) -> None:
    path = tmp_path / "student.pt"
    digests = {}
    for value in (1.0, 0.0):
        checkpoint_file.write(path, filled(value))
        digests[hashlib.sha256(path.read_bytes()).hexdigest()] = value

    def rewrite() -> None:
        until = time.monotonic() + 60
        while time.monotonic() < until and not (tmp_path / "stop").exists():
            for value in (1.0, 0.0):
                checkpoint_file.write(path, filled(value))

    child = Child(rewrite, tmp_path, tmp_path / "log")
    seen = set()
    for _ in range(40):
        found, sha256 = checkpoint_file.read_hashed(path, "train")
        seen.add(value_of(found))
        assert digests[sha256] == value_of(found)
    (tmp_path / "stop").touch()
    assert child.wait(60).code == 0 and seen == {0.0, 1.0}


def test_a_model_that_is_replaced_while_it_is_opened_stays_what_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the check of its parts and the loading of its weights."""
    path = write_student(tmp_path / "student.pt")
    old = path.read_bytes()
    check = ccd.artifacts.checkpoint_file._check_members

    def replaced(file: object) -> None:
        check(file)  # type: ignore[arg-type]
        write_student(path, thresholds=None)

    monkeypatch.setattr(ccd.artifacts.checkpoint_file, "_check_members", replaced)
    found = open_model(path, "cpu")
    assert path.read_bytes() != old
    assert found.sha256 == hashlib.sha256(old).hexdigest() and found.description.thresholds == (0.5, 0.25, 0.999)


def test_an_exported_folder_that_is_half_replaced_is_refused(tmp_path: Path) -> None:
    model = open_model(write_student(tmp_path / "student.pt"), "cpu")
    weights = {"w": torch.zeros(3)}
    write_folder(tmp_path / "old", model.description, weights)
    write_folder(tmp_path / "new", model.description, {"w": torch.ones(3)})
    assert torch.equal(read_folder(tmp_path / "old")[1]["w"], torch.zeros(3))
    (tmp_path / "new" / WEIGHTS).rename(tmp_path / "old" / WEIGHTS)
    with pytest.raises(CcdError, match="export the model again"):
        read_folder(tmp_path / "old")


def swapped(value: str) -> class_table.ClassTable:
    label = np.float32([[0.25, 0.75]]) if value == "old" else np.float32([[0.75, 0.25]])
    columns = dict.fromkeys(("global_prob", "local_prob", "global_label", "local_label", "label"), label)
    return class_table.ClassTable(
        ["a"], ("x", "y"), columns | {"box_id": np.int64([[0, 0]])} | nobody_decided((1, 2)), {"alpha": value}
    )


def label_version(path: Path) -> str:
    found = class_table.read(path, SPEC)
    value = found.metadata["alpha"]
    return value if (found.columns["label"] == swapped(value).columns["label"]).all() else "a mixture"


SPEC = SPECS["pseudo_labels.parquet"]
VERSIONS: dict[str, tuple[Callable[[Path, str], object], Callable[[Path], str]]] = {
    "text.h5": (
        lambda path, value: text_file.write(path, replace(words(), attributes={"teacher": value})),
        lambda path: text_file.read(path).attributes["teacher"],
    ),
    "boxes.parquet": (
        lambda path, value: boxes_file.write(path, replace(views(), metadata={"tau": value})),
        lambda path: boxes_file.read(path).metadata["tau"],
    ),
    "pseudo_labels.parquet": (
        lambda path, value: class_table.write(path, SPEC, swapped(value)),
        label_version,
    ),
    "bias.json": (
        lambda path, value: bias_file.write(
            path, bias_file.BiasFile((value,), np.ones(1), np.ones(1, np.int64), 1.0, 2.0, 1.0, True, ())
        ),
        lambda path: bias_file.read(path).classes[0],
    ),
}


@pytest.mark.parametrize("name", VERSIONS)
def test_an_artifact_that_is_rewritten_while_it_is_read_is_whole(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the check of its seal and the parser."""
    path = tmp_path / name
    (write, read) = VERSIONS[name]
    verify = ccd.artifacts.sealed.verify
    write(path, "old")
    assert read(path) == "old"

    def replaced(path: Path, stage: str) -> None:
        verify(path, stage)
        write(path, "new")

    monkeypatch.setattr(ccd.artifacts.sealed, "verify", replaced)
    assert read(path) == "new"


def test_a_reader_that_is_open_keeps_the_old_file(tmp_path: Path) -> None:
    h5 = tmp_path / "clip_global.h5"
    parquet = tmp_path / "pseudo_labels.parquet"
    old = units(3)
    new = units(4)[:3]
    features_file.write(h5, features_file.GLOBAL_SCHEMA, features_file.Features(list("abc"), old, {}))
    class_table.write(parquet, SPEC, swapped("old"))
    with (
        reading(h5, features_file.GLOBAL_SCHEMA, "clip_global") as file,
        open_parquet(parquet, SPEC.schema, "x") as table,
    ):
        features_file.write(h5, features_file.GLOBAL_SCHEMA, features_file.Features(list("abc"), new, {}))
        class_table.write(parquet, SPEC, swapped("new"))
        np.testing.assert_array_equal(file["features"][...], old)
        assert table.read()["label"].to_pylist() == [0.25, 0.75]
    np.testing.assert_array_equal(features_file.read(h5, features_file.GLOBAL_SCHEMA).values, new)
    assert class_table.read(parquet, SPEC).metadata["alpha"] == "new"


@pytest.mark.slow
def test_a_second_dvc_repro_waits_for_nothing_and_spoils_nothing(tmp_path: Path) -> None:
    """DVC locks files, not the project: what touches those of the running stage is refused, the rest goes on."""
    lab = build(tmp_path)
    folder = under_dvc.project(lab)
    logs = [tmp_path / "first", tmp_path / "second"]
    first = under_dvc.begin(folder, logs[0], "repro", "-f", "-s", "warmup")
    stage = under_dvc.process_of(first, "warmup")
    os.kill(stage, signal.SIGSTOP)  # in the middle of its work for as long as it takes
    for name, code in (("warmup", 255), ("cam_boxes", 255), ("bias", 0)):
        ended, said = under_dvc.end(under_dvc.begin(folder, logs[1], "repro", "-f", "-s", name), logs[1])
        assert ended == code, said
        assert code == 0 or (f"failed to reproduce '{name}'" in said and "is busy, it is being blocked by" in said)
    os.kill(stage, signal.SIGCONT)
    ended, said = under_dvc.end(first, logs[0])
    assert ended == 0, said
    assert lab.differing(folder, list(lab.digests)) == []


KEYS = [content_key(number.to_bytes(2, "big")) for number in range(300)]
VALUES = np.arange(600, dtype=np.float32).reshape(300, 2)


def encode(folder: Path, rows: range, seconds: float = 0.0) -> None:
    """What a stage does, a row at a time, with a file of the store for every few rows."""
    kept = Store(folder, 10**9).features("features-a", [KEYS[row] for row in rows])
    missing = kept.restore(lambda places, values: None)
    for _ in kept.recording((np.array([place]), VALUES[[rows[place]]]) for place in missing):
        time.sleep(seconds)


def known(folder: Path) -> dict[int, list[float]]:
    found: dict[int, list[float]] = {}
    Store(folder, 10**9).features("features-a", KEYS).restore(
        lambda rows, values: found.update(zip(rows.tolist(), values.tolist(), strict=True))
    )
    return found


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ccd.runtime.store._ROWS_PER_CHUNK", 3)


def test_processes_that_share_an_entry_of_the_store_lose_nothing(tmp_path: Path) -> None:
    ranges = [range(0, 150), range(100, 250), range(150, 300)]
    children = [
        Child(lambda rows=rows: encode(tmp_path / "store", rows), tmp_path, tmp_path / f"log{place}")  # type: ignore[misc]
        for place, rows in enumerate(ranges)
    ]
    for child in children:
        ended = child.wait(60)
        assert ended.code == 0, ended.said
    assert known(tmp_path / "store") == dict(enumerate(VALUES.tolist()))
    assert not list((tmp_path / "store").rglob("*.tmp"))


def test_an_entry_that_is_deleted_while_it_is_filled_costs_time_alone(tmp_path: Path) -> None:
    store = Store(tmp_path / "store", 10**9)

    def train() -> None:
        slot = store.slot("training-a")
        for _ in range(100):
            slot.save(b"whole" * 1000)
            assert slot.read() in (b"whole" * 1000, None)

    children = [
        Child(lambda: encode(tmp_path / "store", range(300), 0.001), tmp_path, tmp_path / "log0"),
        Child(train, tmp_path, tmp_path / "log1"),
    ]
    while not (children[0].ended() and children[1].ended()):
        store.prune(0)
    for child in children:
        ended = child.wait(60)
        assert ended.code == 0, ended.said
    found = known(tmp_path / "store")
    assert found == {row: VALUES[row].tolist() for row in found}
