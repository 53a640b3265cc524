"""Commands in a working directory with a small model and a few photos, and what they leave there."""

from __future__ import annotations

from pathlib import Path

from click.testing import CliRunner, Result

from ccd.cli.main import main
from tests.toys.deployed import write_photos, write_student

PREDICT = ("predict", "student.pt", "photos", "--workers", "0")
TUNE = ("--labels", "checked.csv", "--images", "photos")


def invoke(*words: object) -> Result:
    """Run ``ccd``; a defect is raised."""
    done = CliRunner().invoke(main, [str(word) for word in words])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done


def a_model() -> None:
    """``student.pt`` and ``photos``."""
    write_student(Path("student.pt"))
    write_photos(Path("photos"), 3)


def a_model_folder() -> None:
    """The same, and ``model``, exported from it."""
    a_model()
    assert invoke("export", "model", "model", "--student", "student.pt").exit_code == 0


def labelled_photos() -> None:
    """The same, and ``checked.csv`` with labels of two photos."""
    a_model_folder()
    Path("checked.csv").write_text("path,classes\n0.png,cat\n2.png,\n")


def contents() -> dict[Path, bytes]:
    """All files below the working directory."""
    return {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()}
