from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from ccd.artifacts.files import writer_token
from ccd.runtime.store import KEY_BYTES, Store, content_key, files_of, fingerprint

KEYS = [content_key(bytes([number])) for number in range(6)]
VALUES = np.arange(12, dtype=np.float32).reshape(6, 2)


class Written:
    """Takes rows as `features.FeatureWriter.write` does; a row that comes twice is an error."""

    def __init__(self) -> None:
        self.rows: dict[int, list[float]] = {}

    def __call__(self, rows: np.ndarray, values: np.ndarray) -> None:
        for row, value in zip(rows.tolist(), values.tolist(), strict=True):
            assert row not in self.rows
            self.rows[row] = value


def encode(store: Store, name: str, keys: list[bytes], values: np.ndarray) -> tuple[Written, list[int]]:
    """What a stage does: take what is known, compute the rest one row at a time, keep it."""
    kept = store.features(name, keys)
    written = Written()
    missing = kept.restore(written)
    for rows, part in kept.recording((np.array([row]), values[[row]]) for row in missing):
        written(rows, part)
    return written, missing.tolist()


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store", 10**9)


def test_only_what_is_not_known_is_computed_and_the_rows_are_right(store: Store) -> None:
    first, missing = encode(store, "features-a", KEYS[:4], VALUES[:4])
    assert missing == [0, 1, 2, 3] and first.rows == dict(enumerate(VALUES[:4].tolist()))
    order = [5, 3, 0, 4, 1]  # other order, two of them new
    again, missing = encode(store, "features-a", [KEYS[row] for row in order], VALUES[order])
    assert missing == [0, 3] and again.rows == {place: VALUES[row].tolist() for place, row in enumerate(order)}
    assert encode(store, "features-a", KEYS, VALUES)[1] == []
    assert encode(store, "features-b", KEYS, VALUES)[1] == list(range(6))


def test_copies_of_one_image_share_their_features(store: Store) -> None:
    keys = [KEYS[0], KEYS[1], KEYS[0], KEYS[1]]
    encode(store, "features-a", keys, VALUES[[0, 1, 0, 1]])
    again, missing = encode(store, "features-a", keys, VALUES[[0, 1, 0, 1]])
    assert missing == [] and again.rows[2] == again.rows[0] == VALUES[0].tolist()


def test_an_interrupted_encoding_keeps_whole_chunks(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ccd.runtime.store._ROWS_PER_CHUNK", 2)
    kept = store.features("features-a", KEYS)
    for rows, _ in kept.recording((np.array([row]), VALUES[[row]]) for row in range(6)):
        if rows[0] == 4:  # 0-1 and 2-3 are on disk; 4 was computed and is lost
            break
    _, missing = encode(store, "features-a", KEYS, VALUES)
    assert missing == [4, 5]


@pytest.mark.parametrize("damage", ["truncated", "flipped", "not an archive"])
def test_a_damaged_chunk_is_computed_again(damage: str, store: Store) -> None:
    encode(store, "features-a", KEYS, VALUES)
    (path,) = (store.folder / "features-a").glob("*.npz")
    content = bytearray(path.read_bytes())
    if damage == "truncated":
        content = content[:-40]
    elif damage == "flipped":
        content[content.index(VALUES[0].tobytes()) + 5] ^= 1
    else:
        content = bytearray(b"nothing")
    path.write_bytes(content)
    written, missing = encode(store, "features-a", KEYS, VALUES)
    assert missing == list(range(6)) and written.rows == dict(enumerate(VALUES.tolist()))


def test_half_written_files_of_dead_processes_are_cleared_away(store: Store) -> None:
    folder = store.folder / "features-a"
    folder.mkdir(parents=True)
    system, process, letters = writer_token().split("-")
    dead = folder / f".00000000.npz.{system}-999999999-{letters}.tmp"
    alive = folder / f".00000001.npz.{system}-{process}-{letters}.tmp"
    dead.touch()
    alive.touch()
    store.features("features-a", KEYS)
    assert not dead.exists() and alive.exists()


def test_the_least_recently_used_go_first_and_the_one_in_use_stays(tmp_path: Path) -> None:
    store = Store(tmp_path, 10**9)
    for age, name in enumerate(("training-new", "training-middle", "training-old")):
        store.slot(name).save(bytes(100))
        os.utime(tmp_path / name, (1e9 - age, 1e9 - age))
    assert [(entry.path.name, entry.size_bytes) for entry in store.entries()] == [
        ("training-old", 100),
        ("training-middle", 100),
        ("training-new", 100),
    ]
    assert [entry.path.name for entry in store.prune(250)] == ["training-old"]
    small = Store(tmp_path, 50)
    small.slot("training-middle")
    assert [entry.path.name for entry in small.entries()] == ["training-middle"]


def test_a_store_of_size_zero_keeps_nothing(tmp_path: Path) -> None:
    store = Store(tmp_path / "store", 0)
    for _ in range(2):
        assert encode(store, "features-a", KEYS, VALUES)[1] == list(range(6))
    store.slot("training-a").save(b"state")
    assert store.slot("training-a").read() is None and not (tmp_path / "store").exists()


def test_a_slot_is_replaced_and_cleared(store: Store) -> None:
    slot = store.slot("training-a")
    assert slot.read() is None
    slot.save(b"one")
    slot.save(b"two")
    assert store.slot("training-a").read() == b"two"
    slot.clear()
    assert store.slot("training-a").read() is None


def test_names_depend_on_kind_and_every_fact() -> None:
    base = fingerprint("features", ["ccd.images.decode"], size=1, model="a")
    assert base == fingerprint("features", ["ccd.images.decode"], model="a", size=1) and base.startswith("features-")
    others = {
        fingerprint("features", ["ccd.images.decode"], size=2, model="a"),
        fingerprint("training", [], size=1, model="a"),
    }
    assert len({base, *others}) == 3


def test_keys_tell_parts_apart() -> None:
    assert len(content_key(b"a")) == KEY_BYTES
    assert content_key(b"ab", b"c") != content_key(b"a", b"bc")


def test_a_name_covers_everything_that_is_imported_and_nothing_that_only_talks() -> None:
    encoded = ("ccd.teacher.encode", "ccd.views.crops", "ccd.images.batches", "ccd.runtime.hardware")
    for modules in (encoded, ("ccd.student.fit",)):
        names = set(files_of(modules))
        assert {
            "ccd/runtime/hardware.py",
            "ccd/images/decode.py",
            "ccd/images/batches.py",
        } <= names
        assert not {"ccd/runtime/console.py", "ccd/runtime/launch.py"} & names
    assert "ccd/teacher/open_clip.py" in files_of(("ccd.teacher.encode",)), "imports inside functions count"


def test_an_edit_of_any_imported_file_gives_another_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    edited = tmp_path / "ranks.py"
    edited.write_text("pass\n")
    before = fingerprint("features", ["ccd.teacher.encode"])
    files = {**files_of(("ccd.teacher.encode",)), "ccd/runtime/hardware.py": edited}
    monkeypatch.setattr("ccd.runtime.store.files_of", lambda modules: files)
    assert fingerprint("features", ["ccd.teacher.encode"]) != before


def test_another_version_of_a_library_gives_another_name(monkeypatch: pytest.MonkeyPatch) -> None:
    before = fingerprint("features", ["ccd.images.decode"])
    monkeypatch.setattr("ccd.runtime.store.library_versions", lambda: {"rf-clip": "9"})
    assert fingerprint("features", ["ccd.images.decode"]) != before
