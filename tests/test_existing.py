"""Files that are there already are refused, or kept beside the new ones."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from ccd.artifacts.existing import keep_old, refuse_existing, refuse_folders, refuse_inputs
from ccd.artifacts.files import is_stream, replacing
from ccd.errors import CcdError


def test_a_file_that_is_there_is_refused_and_named(tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text("mine")
    with pytest.raises(CcdError, match=r"labels\.csv.*--force") as refused:
        refuse_existing([tmp_path / "labels.csv", tmp_path / "new.csv"], force=False)
    assert "new.csv" not in str(refused.value)


def test_a_broken_link_counts_as_there(tmp_path: Path) -> None:
    (tmp_path / "labels.csv").symlink_to(tmp_path / "gone")
    with pytest.raises(CcdError, match="already there"):
        refuse_existing([tmp_path / "labels.csv"], force=False)


def test_force_and_new_names_pass(tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text("mine")
    refuse_existing([tmp_path / "labels.csv"], force=True)
    refuse_existing([tmp_path / "new.csv"], force=False)


def test_every_content_is_kept_once(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    assert keep_old(path) is None
    for text, kept in (("one", "params.yaml.bak"), ("two", "params.yaml.2.bak"), ("one", "params.yaml.bak")):
        path.write_text(text)
        assert keep_old(path) == tmp_path / kept
        assert (tmp_path / kept).read_text() == text
    assert sorted(item.name for item in tmp_path.iterdir()) == ["params.yaml", "params.yaml.2.bak", "params.yaml.bak"]


def test_an_input_is_known_under_all_of_its_names(tmp_path: Path) -> None:
    (tmp_path / "student.pt").write_text("mine")
    (tmp_path / "link.csv").symlink_to(tmp_path / "student.pt")
    (tmp_path / "same.csv").hardlink_to(tmp_path / "student.pt")
    for name in ("student.pt", "link.csv", "same.csv", "../" + tmp_path.name + "/student.pt"):
        with pytest.raises(CcdError, match="would overwrite it"):
            refuse_inputs([tmp_path / "new.csv", tmp_path / name], [tmp_path / "gone", tmp_path / "student.pt"])
    refuse_inputs([tmp_path / "new.csv", Path("/dev/null")], [tmp_path / "student.pt", Path("/dev/null")])


def test_a_file_is_not_written_where_a_folder_is(tmp_path: Path) -> None:
    with pytest.raises(CcdError, match="a folder"):
        refuse_folders([tmp_path / "new", tmp_path])


@pytest.mark.parametrize("name", ["/dev/null", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1", "/dev/../dev/stderr"])
def test_devices_and_descriptors_hold_nothing_and_pass(name: str) -> None:
    assert is_stream(Path(name))
    refuse_existing([Path(name)], force=False)


def test_files_folders_and_what_is_not_there_are_no_streams(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert not any(is_stream(path) for path in (tmp_path, tmp_path / "file", tmp_path / "gone", tmp_path / "a/b"))


def test_a_pipe_is_written_into_and_stays_one(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    received = []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: received.append(pipe.read_bytes()))
    reader.start()
    refuse_existing([pipe], force=False)
    with replacing(pipe) as temporary:
        temporary.write_bytes(b"whole")
    reader.join(10)
    assert received == [b"whole"] and pipe.is_fifo() and [path.name for path in tmp_path.iterdir()] == ["pipe"]


def test_a_redirected_output_keeps_what_was_printed_before(tmp_path: Path) -> None:
    code = (
        "from pathlib import Path; from ccd.artifacts.files import replacing\n"
        "print('before', flush=True)\n"
        "with replacing(Path('/dev/stdout')) as temporary: temporary.write_text('after')"
    )
    with (tmp_path / "log").open("wb") as file:
        subprocess.run([sys.executable, "-c", code], check=True, stdout=file)
    assert (tmp_path / "log").read_text() == "before\nafter"
