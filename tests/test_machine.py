"""What the machine refuses: one line with what, where and what to do, status 2, and nothing half-written."""

from __future__ import annotations

import errno
import fcntl
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import ccd.datasets.scan
from ccd.artifacts import (
    bias_file,
    boxes_file,
    checkpoint_file,
    classes_file,
    features_file,
    text_file,
)
from ccd.artifacts.checkpoint_file import Checkpoint
from ccd.artifacts.files import ABANDONED_S, remove_leftovers, replacing, write_csv, writer_token
from ccd.datasets.record import ImageEntry
from ccd.datasets.scan import scan
from ccd.errors import DEBUG_VARIABLE, CcdError, explained, user_errors
from ccd.images.decode import decode
from ccd.runtime.launch import stage
from tests.faults.artifacts import units, views, words
from tests.faults.case import picture
from tests.faults.child import run

REFUSED = [
    (errno.ENOSPC, "No space left on device; free some space"),
    (errno.EROFS, "Read-only file system; mount it writable"),
    (errno.EACCES, "Permission denied; give this user the right"),
    (errno.EMFILE, "Too many open files; raise the limit (`ulimit -n 4096`), or lower runtime.workers"),
    (errno.EIO, "Input/output error; the disk or the network fails"),
    (errno.EISDIR, "Is a directory; fix that (CCD_DEBUG=1"),
]
OUT_OF_MEMORY: list[tuple[BaseException, str]] = [
    (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."), "the GPU's memory ran out"),
    (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling it"), "the GPU's memory ran out"),
    (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried 9 bytes"), "memory ran out"),
    (MemoryError(), "memory ran out"),
    (
        RuntimeError("unable to allocate shared memory(shm) for file </torch_1>: No space"),
        "shared memory (/dev/shm) ran out",
    ),
]


@pytest.mark.parametrize(("number", "says"), REFUSED, ids=[errno.errorcode[number] for number, _ in REFUSED])
@pytest.mark.parametrize("debug", ["", "1"])
def test_a_refusal_is_one_line(
    number: int, says: str, debug: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(DEBUG_VARIABLE, debug)
    with pytest.raises(SystemExit) as stop, user_errors():
        raise OSError(number, os.strerror(number), "data/x.h5")
    said = capsys.readouterr().err
    last = said.splitlines()[-1]
    assert stop.value.code == 2 and last.startswith(f"error: data/x.h5: {says}") and last.endswith("and run it again")
    assert ("Traceback" in said) == bool(debug) and (debug or said.count("\n") == 1)


@pytest.mark.parametrize(("error", "says"), OUT_OF_MEMORY)
def test_memory_that_ran_out_names_what_to_lower(error: BaseException, says: str) -> None:
    anywhere = explained(error)
    of_training = explained(error, "train")
    assert anywhere is not None and anywhere.startswith(says)
    assert of_training is not None and of_training.startswith(says)
    for key in ("runtime.inference_batch_size", "runtime.workers"):
        assert key in anywhere and key in of_training
    for key in ("train.batch_size", "train.image_size_px"):
        assert key not in anywhere and key in of_training


@stage
def hungry(out: Path) -> None:
    """A stage, by its file's name ``test_machine``."""
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


def test_a_stage_says_it_too(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        hungry.main(["--out", "x"], standalone_mode=False)
    assert stop.value.code == 2 and capsys.readouterr().err.startswith("error: the GPU's memory ran out: lower")


@pytest.mark.parametrize("error", [RuntimeError("a bug"), KeyError("x"), OSError("no number"), BrokenPipeError(32, "")])
def test_bugs_stay_bugs(error: Exception) -> None:
    with pytest.raises(type(error)), user_errors():
        raise error


ROWS = 20_000
WRITERS: dict[str, Callable[[Path], object]] = {
    "clip_global.h5": lambda path: features_file.write(
        path, features_file.GLOBAL_SCHEMA, features_file.Features([f"{row}" for row in range(ROWS)], units(ROWS), {})
    ),
    "text.h5": lambda path: text_file.write(path, words()),
    "boxes.parquet": lambda path: boxes_file.write(path, views()),
    "bias.json": lambda path: bias_file.write(
        path,
        bias_file.BiasFile(tuple(map(str, range(50))), np.ones(50), np.ones(50, np.int64), 1.0, 2.0, 1.0, True, ()),
    ),
    "classes.json": lambda path: classes_file.write(path, classes_file.ClassList(("a" * 3000,), (("a",),))),
    "warmup.pt": lambda path: checkpoint_file.write(path, Checkpoint({}, {"a": {"w": torch.ones(999)}}, "a", {})),
    "curves.csv": lambda path: write_csv(path, [{"epoch": row} for row in range(999)]),
}  # fmt: skip


def limited(path: Path, write: Callable[[Path], object], limit: int) -> None:
    """Write with the system's limit on the size of files, which is met by the same calls as a full disk."""
    with user_errors():
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        write(path)


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
def test_a_file_that_may_not_grow_is_refused_whole(name: str, share: float, tmp_path: Path) -> None:
    write = WRITERS[name]
    write(tmp_path / name)
    limit = max(500, int(share * (tmp_path / name).stat().st_size))  # the message goes to a file too
    target = tmp_path / "data" / name
    ended = run(lambda: limited(target, write, limit), tmp_path, tmp_path / "log")
    assert (ended.code, ended.said.count("\n")) == (2, 1), ended
    assert ended.said.startswith(f"error: {target}: File too large; raise the limit (`ulimit -f unlimited`)")
    assert list((tmp_path / "data").iterdir()) == []


FULL = """
import resource, sys
from pathlib import Path
import numpy as np
from ccd.artifacts import features_file
from ccd.errors import user_errors
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
values = features_file.Features(np.arange(20_000), np.ones((20_000, 8), np.float32), {})
with user_errors():
    features_file.write(Path(sys.argv[1]), features_file.LOCAL_SCHEMA, values)
"""


def test_hdf5_ends_in_peace_on_a_full_disk(tmp_path: Path, root: Path) -> None:
    """Its own driver ends the process in a segmentation fault, some time after the error."""
    said = subprocess.run(
        [sys.executable, "-c", FULL, tmp_path / "x.h5"], cwd=root, capture_output=True, text=True, check=False
    )
    assert (said.returncode, said.stderr.count("\n")) == (2, 1), said


def test_hours_of_encoding_stop_when_the_disk_is_full(tmp_path: Path) -> None:
    values = np.ones((100, 512), np.float32)
    done = []

    def write() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        with features_file.writing(tmp_path / "x.h5", features_file.LOCAL_SCHEMA, range(20_000), 512, {}) as writer:
            for start in range(0, 20_000, 100):
                done.append(start)
                writer.write(np.arange(start, start + 100), values)

    def count() -> None:
        with pytest.raises(OSError, match="File too large"):
            write()
        print(len(done))

    ended = run(count, tmp_path, tmp_path / "log")
    assert ended.code == 0 and int(ended.said) < 100, ended  # of 200: HDF5 holds a chunk or two back


def test_a_file_is_not_skipped_for_what_the_machine_lacks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    picture().save(tmp_path / "a.png")

    def refuse(path: Path, name: str) -> bytes:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE), str(path))

    monkeypatch.setattr(ccd.datasets.scan, "read_file", refuse)
    with pytest.raises(OSError, match="Too many open files"):
        scan(tmp_path, [ImageEntry("a", "a.png", "train")], 1, on_bad_image="skip")


def test_an_image_is_not_damaged_for_what_the_machine_lacks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    picture().save(tmp_path / "a.png")

    def refuse(image: object) -> Any:
        raise MemoryError

    monkeypatch.setattr("ccd.images.decode.to_rgb", refuse)
    with pytest.raises(MemoryError):
        decode((tmp_path / "a.png").read_bytes(), "a.png")


def test_an_artifact_is_not_damaged_for_what_the_machine_lacks(tmp_path: Path) -> None:
    boxes_file.write(tmp_path / "boxes.parquet", views())

    def read() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (0, 0))
        with user_errors():
            boxes_file.read(tmp_path / "boxes.parquet")

    ended = run(read, tmp_path, tmp_path / "log")
    assert ended.code == 2 and "Too many open files; raise the limit" in ended.said and "repro" not in ended.said


DEAD = 2**22 + 1  # no process can have that number


def token(process: int) -> str:
    """What names a writer of this system, as `writer_token` does."""
    system, _, letters = writer_token().split("-")
    return f"{system}-{process}-{letters}"


def test_what_dead_processes_left_goes_and_nothing_else(tmp_path: Path) -> None:
    dead = token(DEAD)
    alive = token(os.getpid())
    other = token(DEAD)
    names = [f".x[1].h5.{dead}.tmp", f".x[1].h5.{alive}.tmp", f".other.{other}.tmp", ".x[1].h5.mine.tmp", ".x.tmp"]
    for name in names:
        (tmp_path / name).touch()
    remove_leftovers(tmp_path, "x[1].h5")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names[1:])
    remove_leftovers(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([names[1], *names[3:]])


@pytest.mark.parametrize("writer", ["0123abcd-1-0123abcd", f"0123abcd-{DEAD}-0123abcd", str(DEAD)])
def test_a_file_of_another_machine_or_container_goes_only_when_it_is_old(writer: str, tmp_path: Path) -> None:
    path = tmp_path / f".x.{writer}.tmp"
    path.touch()
    remove_leftovers(tmp_path)
    assert path.exists()
    long_ago = time.time() - 1.1 * ABANDONED_S
    os.utime(path, (long_ago, long_ago))
    remove_leftovers(tmp_path)
    assert not path.exists()


def test_a_stage_clears_what_its_killed_run_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path(f".x.{token(DEAD)}.tmp").touch()
    with pytest.raises(SystemExit):
        hungry.main(["--out", "x"], standalone_mode=False)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [errno.EACCES, errno.EMFILE, errno.ESTALE, errno.ENOLCK, errno.EIO])
@pytest.mark.parametrize("name", ["a.h5", "a.parquet", "a.json", "a.pt"])
def test_a_whole_file_is_not_called_damaged_for_what_the_machine_refuses(
    name: str, number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / name
    path.write_bytes(b"whole")

    def refuse(self: Path, *args: object, **more: object) -> None:
        raise OSError(number, os.strerror(number), str(self))

    monkeypatch.setattr(Path, "open", refuse)
    reader = {
        "h5": text_file.read,
        "parquet": boxes_file.read,
        "json": classes_file.read,
        "pt": lambda p: checkpoint_file.read(p, "train"),
    }
    with pytest.raises(OSError) as caught:
        reader[name.split(".")[1]](path)
    said = explained(caught.value)
    assert said is not None and str(path) in said and "rebuild" not in said


def test_a_locked_hdf5_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "text.h5"
    text_file.write(path, words())
    with path.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        code = "import pathlib, sys; from ccd.artifacts import text_file; text_file.read(pathlib.Path(sys.argv[1]))"
        done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_missing_artifact_is_made_and_not_rebuilt(tmp_path: Path) -> None:
    for read, name in ((text_file.read, "text.h5"), (boxes_file.read, "boxes.parquet")):
        with pytest.raises(CcdError, match=rf"{name}: No such file; run: dvc repro$"):
            read(tmp_path / name)


def test_a_failing_write_is_named_by_where_it_should_have_been(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No space") as caught, replacing(tmp_path / "x"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert caught.value.filename == str(tmp_path / "x")
    with pytest.raises(OSError, match="nothing") as caught, replacing(tmp_path / "x"):
        raise OSError(errno.ENOENT, "nothing", "another file")
    assert caught.value.filename == "another file"
