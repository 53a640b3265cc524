"""Shards of the features: made side by side, they come to the file of one process, or are refused by name."""

from __future__ import annotations

import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest

from ccd.artifacts.features_file import LOCAL_SCHEMA, SHARD_SCHEMA, Shards, read, writing
from ccd.errors import CcdError
from ccd.runtime.store import Store, content_key
from tests.toys.chain import CHAIN, COLOURS, STAGES, artifacts, prepare, run_stage, write_pictures

COUNT, WIDTH = 10, 3
KEYS = [content_key(bytes([number])) for number in range(COUNT)]
VALUES = np.random.default_rng(0).normal(size=(COUNT, WIDTH)).astype(np.float32)


def make(folder: Path, shard: str | None, keys: list[bytes] = KEYS, encoding: str = "features-a") -> list[int]:
    """What a stage does for a shard or for the whole, a row at a time; the rows that it had to encode."""
    shards = Shards(folder / "clip_local.h5", shard, encoding, keys)
    stored = Store(folder / "store", 10**9).features(shards.store_name, keys)
    whole = writing(folder / "clip_local.h5", LOCAL_SCHEMA, range(len(keys)), WIDTH, {})
    with whole if shard is None else shards.writing(WIDTH) as writer:
        missing = shards.restore(stored, writer.write)
        for rows, part in stored.recording((np.array([row]), VALUES[[row]]) for row in missing):
            writer.write(rows, part)
    return [int(row) for row in missing]


def without_store(folder: Path) -> None:
    """Another machine: what it has is the files of the shards."""
    shutil.rmtree(folder / "store", ignore_errors=True)


@pytest.mark.parametrize("count", [1, 3, 4, 12])
def test_shards_are_slices_in_order_and_come_to_the_whole(count: int, tmp_path: Path) -> None:
    encoded = [make(tmp_path, f"{number}/{count}") for number in range(count, 0, -1)][::-1]
    assert [row for rows in encoded for row in rows] == list(range(COUNT))
    assert max(map(len, encoded)) - min(map(len, encoded)) <= 1
    without_store(tmp_path)
    assert make(tmp_path, None) == []
    assert np.array_equal(read(tmp_path / "clip_local.h5", LOCAL_SCHEMA).values, VALUES)
    for path in tmp_path.glob("*.shard-*"):
        path.unlink()
    assert make(tmp_path, None) == [], "the store has learned what the shards held"


def test_a_killed_shard_goes_on_and_shards_do_not_read_each_other(tmp_path: Path) -> None:
    for number in (1, 2):
        make(tmp_path, f"{number}/2")
        (tmp_path / f"clip_local.shard-0000{number}-of-00002.h5").unlink()
    assert make(tmp_path, "1/2") == [] and make(tmp_path, "2/2") == []
    assert make(tmp_path, "1/5") == [0, 1]
    twice = [*KEYS[:2], *KEYS[:2]]  # copies of images, in the other shard
    assert make(tmp_path / "copies", "1/2", twice) == [0, 1]
    (tmp_path / "copies/clip_local.shard-00001-of-00002.h5").unlink()
    assert make(tmp_path / "copies", "1/2", twice) == []


@pytest.mark.parametrize("shard", ["0/4", "5/4", "1", "a/b", "1/4/2", "-1/2", "", "1.0/2"])
def test_what_is_no_shard_is_refused(shard: str, tmp_path: Path) -> None:
    with pytest.raises(CcdError, match=r"--shard.*I/N"):
        make(tmp_path, shard)
    assert list(tmp_path.iterdir()) == []


def lose(folder: Path) -> None:
    (folder / "clip_local.shard-00002-of-00003.h5").unlink()


def divide_again(folder: Path) -> None:
    make(folder, "1/2")


def damage(folder: Path) -> None:
    path = folder / "clip_local.shard-00002-of-00003.h5"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def cut_short(folder: Path) -> None:
    path = folder / "clip_local.shard-00002-of-00003.h5"
    path.write_bytes(path.read_bytes()[:-100])


def rename(folder: Path) -> None:
    shutil.copy(folder / "clip_local.shard-00001-of-00003.h5", folder / "clip_local.shard-00002-of-00003.h5")


def teach_otherwise(folder: Path) -> None:
    make(folder, "2/3", encoding="features-b")


def change_an_image(folder: Path) -> None:
    make(folder, "2/3", [*KEYS[:4], content_key(b"changed"), *KEYS[5:]])


@pytest.mark.parametrize(
    ("spoil", "parts"),
    [
        (lose, ["shards 2 of 3 are missing", "stages.clip_local", "--shard 2/3", "or delete"]),
        (divide_again, ["clip_local.shard-* of 2, 3", "one division"]),
        (damage, ["shard-00002-of-00003.h5", "damaged", "--shard 2/3"]),
        (cut_short, ["shard-00002-of-00003.h5", "damaged", "--shard 2/3"]),
        (rename, ["shard-00002-of-00003.h5", "another shard", "--shard 2/3"]),
        (teach_otherwise, ["shard-00002-of-00003.h5", "teacher, parameters", "--shard 2/3"]),
        (change_an_image, ["shard-00002-of-00003.h5", "other images or views", "--shard 2/3"]),
    ],
)
def test_shards_that_do_not_fit_are_named_and_nothing_is_written(spoil, parts, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    for number in (1, 2, 3):
        make(tmp_path, f"{number}/3")
    spoil(tmp_path)
    without_store(tmp_path)
    with pytest.raises(CcdError) as said:
        make(tmp_path, None)
    assert all(part in str(said.value) for part in parts), said.value
    assert "\n" not in str(said.value) and "dvc repro" not in str(said.value)
    assert not [path.name for path in tmp_path.iterdir() if "shard" not in path.name and path.name != "store"]


def test_shards_are_not_asked_for_what_the_store_has(tmp_path: Path) -> None:
    make(tmp_path, None)
    make(tmp_path, "1/2", encoding="features-b")
    assert make(tmp_path, None) == []


def test_a_shard_tells_what_it_is(tmp_path: Path) -> None:
    make(tmp_path, "2/3")
    with h5py.File(tmp_path / "clip_local.shard-00002-of-00003.h5") as file:
        assert file["row"][...].tolist() == [3, 4, 5] and np.array_equal(file["features"][...], VALUES[3:6])
        assert file.attrs["schema"] == SHARD_SCHEMA and file.attrs["shard"] == "2/3"
        assert file.attrs["encoding"] == "features-a"


def run_shard(stage: str, shard: str) -> None:
    words = STAGES[stage]["cmd"].replace("${dataset.name}", "toy").split()[3:]
    CHAIN[stage].main([*words, "--shard", shard], standalone_mode=False)


@pytest.mark.slow
@pytest.mark.parametrize("views", ["cam", "both"])
def test_two_shards_of_each_stage_give_the_bytes_of_one_process(
    views: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With ``both``, regions come from clip_global's pass, and shards of clip_local hold the other views."""
    prepare(tmp_path, monkeypatch, "vit", cam_boxes__views=views, clip_global__regions="2" if views == "both" else "0")
    (tmp_path / "pictures").mkdir()
    write_pictures(tmp_path / "pictures", tuple(COLOURS))
    for name in ("index", "text", "clip_global", "bias", "global_labels", "warmup", "cam_boxes", "clip_local"):
        run_stage(name)
    expected = artifacts(tmp_path)
    for stage in ("clip_global", "clip_local"):
        shutil.rmtree(".ccd")
        for out in STAGES[stage]["outs"]:
            Path(out.replace("${dataset.name}", "toy")).unlink()
        for shard in ("2/2", "1/2"):
            run_shard(stage, shard)
        assert len(list(Path("data/toy").glob(f"{stage}.shard-*"))) == 2
        assert not Path(f"data/toy/{stage}.h5").exists(), "a shard writes itself alone"
        shutil.rmtree(".ccd")
        capsys.readouterr()
        run_stage(stage)
        assert f"[{stage}] 0 encoded" in (said := capsys.readouterr().out) and "from 2 shards" in said
        for path in Path("data/toy").glob("*.shard-*"):
            path.unlink()
        assert artifacts(tmp_path) == expected
