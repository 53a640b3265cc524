"""Corrections that no longer fit: said before the first stage, set aside by ``ccd review tidy``, and brought back."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from ccd.artifacts.corrections_file import path_of
from ccd.cli.main import main
from ccd.review import answer_book
from tests.faults.artifacts import finish
from tests.faults.case import fresh, picture, run, set_params

HEADER = "image_id,class,label\n"
TARGET = path_of("toy")
ASIDE = Path("corrections/toy.set_aside.csv")
GOOD = "a.png,cat,1\n"
GONE = "gone.png,cat,1\n"
RENAMED = "a.png,mug,0\n"


@pytest.fixture()
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Images a.png, b.png and test/c.png of the classes cat and dog; nothing has run."""
    monkeypatch.chdir(tmp_path)
    return fresh(tmp_path)


def ccd(*words: str, status: int = 0) -> Result:
    done = CliRunner().invoke(main, list(words))
    assert done.exit_code == status, done.output
    return done


def aside() -> list[str]:
    """The decisions that were set aside."""
    lines = ASIDE.read_text().splitlines()
    assert lines[0] == "image_id,class,label,reason"
    return [",".join(line.split(",")[:3]) + "\n" for line in lines[1:]]


def test_index_stops_before_it_writes_and_tidy_lets_it_pass(project: Path) -> None:
    TARGET.write_text(HEADER + GOOD + GONE + RENAMED + "test/c.png,cat,1\n")
    said = run("index", project)
    assert said.code == 2 and said.written == set() and "\n" not in said.message
    for words in ("corrections/toy.csv: 3 rows", "line 3: 'gone.png'", "line 4: 'mug'", "line 5", "ccd review tidy"):
        assert words in said.message
    done = ccd("review", "tidy")
    assert "moved 3 rows" in done.stdout and "line 3: 'gone.png'" in done.stdout and "dvc repro" in done.stdout
    assert TARGET.read_text() == HEADER + GOOD and aside() == [GONE, RENAMED, "test/c.png,cat,1\n"]
    assert Path("corrections/toy.csv.bak").read_text().count("\n") == 5
    assert run("index", project).code == 0


def test_tidy_holds_the_lock_of_the_page_while_it_rewrites(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    TARGET.write_text(HEADER + GOOD + GONE)
    seen = []

    @contextmanager
    def noted(path: Path) -> Iterator[None]:
        seen.append((path, path.read_text()))
        yield
        seen.append((path, path.read_text()))

    monkeypatch.setattr(answer_book, "locked", noted)
    ccd("review", "tidy")
    assert seen == [(TARGET, HEADER + GOOD + GONE), (TARGET, HEADER + GOOD)]


def test_tidy_with_nothing_to_do_touches_no_file(project: Path) -> None:
    TARGET.write_text("image_id;class;label\r\na.png;cat;1\r\n")  # a person's own way, which is read as well
    before = TARGET.read_bytes()
    assert "dvc repro" in ccd("review", "tidy").stdout
    assert TARGET.read_bytes() == before and [path.name for path in TARGET.parent.iterdir()] == ["toy.csv"]


def test_an_image_that_cannot_be_read_for_a_while_gets_its_decisions_back(project: Path) -> None:
    finish(project)
    set_params(project, index__on_bad_image="skip")
    TARGET.write_text(HEADER + GOOD + "b.png,dog,0\n")
    Path("pictures/b.png").write_bytes(b"damaged")
    assert "ccd review tidy" in run("index", project).message
    ccd("review", "tidy")
    assert TARGET.read_text() == HEADER + GOOD and aside() == ["b.png,dog,0\n"]
    picture(1).save("pictures/b.png")
    ccd("review", "import", str(ASIDE))
    assert TARGET.read_text() == HEADER + GOOD + "b.png,dog,0\n"
    assert run("index", project).code == 0


def test_what_is_set_aside_again_is_not_written_twice_and_nothing_there_is_lost(project: Path) -> None:
    TARGET.write_text(HEADER + GOOD + GONE)
    ccd("review", "tidy")
    TARGET.write_text(HEADER + GONE + RENAMED + RENAMED)
    content = json.loads(ccd("review", "tidy", "--json").stdout)
    assert [each["where"] for each in content["moved"]] == ["line 2", "line 3", "line 4"]
    assert content["decisions"] == 0 and content["set_aside"] == str(ASIDE)
    assert aside() == [GONE, RENAMED]
    ASIDE.write_text("my own notes\n")
    TARGET.write_text(HEADER + GONE)
    assert str(ASIDE) in ccd("review", "tidy", status=2).stderr
    assert ASIDE.read_text() == "my own notes\n" and TARGET.read_text() == HEADER + GONE


def test_malformed_and_contradicting_rows_are_set_aside_whole(project: Path) -> None:
    TARGET.write_text(HEADER + GOOD + "b.png,cat,1,see mail\nb.png,dog\n" + "b.png,cat,1\nb.png,cat,0\n")
    ccd("review", "tidy")
    assert TARGET.read_text() == HEADER + GOOD
    text = ASIDE.read_text()
    assert all(words in text for words in ("b.png,cat,1,see mail", "b.png,dog", "b.png,cat,1,", "b.png,cat,0,"))


def test_the_stages_that_read_corrections_later_name_the_command_too(project: Path) -> None:
    finish(project)
    TARGET.write_text(HEADER + GONE)
    assert "ccd review tidy" in run("aggregate", project).message
    assert "ccd review tidy" in ccd("review", "export", "--no-student", status=2).stderr


def test_index_and_aggregate_understand_the_same_names_of_images(project: Path) -> None:
    finish(project)
    here = project.resolve()
    TARGET.write_text(
        f"Image_ID;Class;Label\n./a.png;cat;1.0\n{here}/pictures/b.png;dog;FALSE\npictures\\b.png;cat;1\n"
    )
    assert run("index", project).code == 0 and run("aggregate", project).code == 0
    ccd("review", "tidy")
    assert not ASIDE.exists()
