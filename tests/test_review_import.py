"""``ccd review import``: good answers are taken, the others are listed, and no hand work is lost."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from click.testing import CliRunner, Result

from ccd.artifacts.corrections_file import path_of
from ccd.cli.main import main
from ccd.deploy.rows import RESERVED, class_columns
from tests.toys.deployed import write_student
from tests.toys.finished_run import write_project

CLASSES = ("cup", "tall lamp", "car")
HEADER = "image_id,class,label\n"
TARGET = path_of("toy")


@pytest.fixture()
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A finished run of a data set called toy, whose images lie under data/toy/train and data/toy/test."""
    monkeypatch.chdir(tmp_path)
    write_project(CLASSES)
    Path("corrections").mkdir()
    TARGET.write_text(HEADER)
    return tmp_path


def ccd(*words: str) -> Result:
    done = CliRunner().invoke(main, list(words))
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    assert "Traceback" not in done.output
    return done


def imported(name: str, content: str | bytes) -> Result:
    """Import a file of this content."""
    Path(name).write_bytes(content.encode() if isinstance(content, str) else content)
    return ccd("review", "import", name)


def decided() -> dict[str, int]:
    """``image class`` -> label, as the file of corrections has it."""
    rows = pd.read_csv(TARGET, dtype={"label": int})
    return {f"{image[-1]} {name}": label for image, name, label in rows.itertuples(index=False)}


def test_good_rows_are_taken_and_the_others_listed_with_their_reasons(project: Path) -> None:
    done = imported(
        "r.csv",
        f"{HEADER}train/a,cup,1\ntrain/z,cup,1\ntrain/a,cow,1\ntrain/b,cup,maybe\ntrain/c,cup\ntrain/d,cup,1\n"
        "train/d,cup,0\ntrain/d,car,0\n",
    )
    assert done.exit_code == 3 and decided() == {"a cup": 1, "d car": 0}
    reasons = {
        "line 3": "'train/z' is no training image",
        "line 4": "'cow' is no class",
        "line 5": "'maybe' is neither",
        "line 6": "train/c,cup",
        "line 7": "contradicts another row",
        "line 8": "contradicts another row",
    }
    listed = done.stderr.splitlines()
    assert all(f"r.csv, {where}: " in line for where, line in zip(reasons, listed, strict=True))
    assert all(reason in line for reason, line in zip(reasons.values(), listed, strict=True))
    assert "6 rows cannot be used" in done.stdout
    left_out = json.loads(ccd("review", "import", "r.csv", "--json").stdout)["left_out"]
    assert [each["where"] for each in left_out] == list(reasons)


def test_labels_are_read_as_people_and_programs_write_them(project: Path) -> None:
    words = ["1", "1.0", "TRUE", "Yes", "y", "1,0", " 1 "], ["0", "0.0", "False", "no", "N", "0,00"]
    for label, spellings in zip((1, 0), words, strict=True):
        for word in spellings:
            TARGET.write_text(HEADER)
            assert imported("r.csv", f"image_id;class;label\ntrain/a;cup;{word}\n").exit_code == 0, word
            assert decided() == {"a cup": label}, word
    for word in ("", " ", "nan", "NaN", "<NA>"):
        TARGET.write_text(HEADER)
        assert imported("r.csv", f"{HEADER}train/a,cup,{word}\ntrain/a,car,0\n").exit_code == 0
        assert decided() == {"a car": 0}, word
    for word in ("10", "-1", "2", "0.5", "01", "?", "ja"):
        assert imported("r.csv", f"{HEADER}train/a,cup,{word}\n").exit_code == 2, word


@pytest.mark.parametrize("name", ["r.csv", "r.tsv", "r.TXT"])
def test_a_sheet_that_a_spreadsheet_saved_as_unicode_text_is_read(name: str, project: Path) -> None:
    text = "Image_ID\tpath\tCLASS \tnote\tLabel\r\ntrain/a\tx\tcup\tsure, yes\t1\r\n\t\t\t\t\r\n"
    assert imported(name, text.encode("utf-16")).exit_code == 0 and decided() == {"a cup": 1}


def test_a_row_per_image_decides_every_class(project: Path) -> None:
    root = Path("data/toy").resolve()
    done = imported(
        "r.csv",
        f"path,labels,cup,tall lamp,car\n{root}/train/a.jpg,cup;car,0.9,0.1,0.8\ndata/toy/train/b.jpg,,0,0,0\n"
        "train\\c.jpg,cow,0,0,0\ndata/toy/test/e.jpg,cup,1,0,0\n",
    )
    assert done.exit_code == 3
    assert decided() == {"a cup": 1, "a tall lamp": 0, "a car": 1, "b cup": 0, "b tall lamp": 0, "b car": 0}
    assert "line 4: 'cow' is no class" in done.stderr and "line 5" in done.stderr and "no training image" in done.stderr


def test_a_test_image_is_never_taken_for_a_training_image_of_its_name(project: Path) -> None:
    done = imported("r.csv", "path,classes\nelsewhere/test/e.jpg,cup\n")
    assert done.exit_code == 2 and "no training image" in done.stderr and decided() == {}


def test_what_predict_wrote_is_corrected_and_read_back(project: Path) -> None:
    student = str(write_student(Path("student.pt")))
    assert ccd("predict", student, "data/toy/train", "--out", "said.csv", "--workers", "0").exit_code == 0
    said = pd.read_csv("said.csv", keep_default_na=False)
    said["labels"] = ["cup;car", "", "tall lamp", "cup"]
    said.to_csv("said.csv", index=False)
    assert ccd("review", "import", "said.csv").exit_code == 0
    assert {key for key, label in decided().items() if label} == {"a cup", "a car", "c tall lamp", "d cup"}
    assert len(decided()) == 4 * 3


def test_no_class_gets_a_column_that_readers_take_for_something_else() -> None:
    names = ["Path", "split", "classes", "classes_", "Image_ID", "class", "cat"]
    columns = class_columns(names)
    assert len(set(columns)) == len(names) and columns[-1] == "cat"
    assert not RESERVED & {column.casefold() for column in columns}


def ticked(*names: str, control: str = "labels", kind: str = "choices") -> dict[str, Any]:
    """A part of an annotation, as Label Studio exports it."""
    return {"id": "x", "from_name": control, "to_name": "image", "type": kind, "value": {kind: list(names)}}


def export(*tasks: tuple[str, list[list[dict[str, Any]]]]) -> str:
    """Tasks: the image, and the parts of each annotation."""
    return json.dumps(
        [
            {"data": {"image_id": image}, "annotations": [{"was_cancelled": False, "result": each} for each in made]}
            for image, made in tasks
        ]
    )


def test_where_annotators_differ_only_the_classes_that_they_differ_about_are_left_out(project: Path) -> None:
    differ = ("train/a", [[ticked("cup", "car")], [ticked("car")]])
    done = imported("r.json", export(differ, ("train/b", [[ticked("cup")]]), ("train/z", [[]])))
    assert done.exit_code == 3
    assert decided() == {"a car": 1, "a tall lamp": 0, "b cup": 1, "b car": 0, "b tall lamp": 0}
    assert done.stderr.count("task 1: ") == 1 and "'train/a' and 'cup'" in done.stderr
    assert done.stderr.count("task 3: ") == 1


def test_only_our_control_counts(project: Path) -> None:
    relation = {"type": "relation", "from_id": "x", "to_id": "y", "direction": "right"}
    others = [ticked("car", control="absent"), ticked("tall lamp", kind="taxonomy"), ticked("good", control="review")]
    text = ticked("cup", control="boxes", kind="rectanglelabels")
    content = export(("train/a", [[*others, ticked("cup"), text, relation]]), ("train/b", [[*others]]))
    assert imported("r.json", content).exit_code == 0
    assert decided() == {f"{image} {name}": int((image, name) == ("a", "cup")) for image in "ab" for name in CLASSES}


def test_choices_given_as_one_text_are_one_class(project: Path) -> None:
    part = ticked() | {"value": {"choices": "tall lamp"}}
    assert imported("r.json", export(("train/a", [[part]]))).exit_code == 0
    assert decided() == {"a cup": 0, "a tall lamp": 1, "a car": 0}


@pytest.mark.parametrize("part", [ticked("cup", control="objects"), ticked("cup", kind="taxonomy")])
def test_an_export_without_our_control_is_refused_and_the_controls_that_it_has_are_named(
    part: dict[str, Any], project: Path
) -> None:
    done = imported("r.json", export(("train/a", [[part]]), ("train/b", [[]])))
    assert done.exit_code == 2 and decided() == {}
    assert f"{part['from_name']} ({part['type']})" in done.stderr and "'labels'" in done.stderr


def test_boxes_alone_or_nothing_say_that_no_class_is_there(project: Path) -> None:
    boxes = ticked("cup", control="boxes", kind="rectanglelabels")
    assert imported("r.json", export(("train/a", [[boxes]]), ("train/b", [[]]))).exit_code == 0
    assert set(decided().values()) == {0} and len(decided()) == 6


def test_a_malformed_task_costs_no_other_and_an_unknown_class_its_annotation(project: Path) -> None:
    tasks = [*json.loads(export(("train/a", [[ticked("cup", "mug")]]), ("train/b", [[ticked("cup")]]))), {"id": 3}, 4]
    done = imported("r.json", json.dumps(tasks))
    assert done.exit_code == 3 and {key[0] for key in decided()} == {"b"}
    assert "task 1: 'mug' is no class" in done.stderr
    assert "task 3: not as Label Studio writes it" in done.stderr and "task 4: not as" in done.stderr


def test_decisions_that_change_are_named_and_the_old_file_is_kept(project: Path) -> None:
    before = HEADER + "".join(f"train/{image},{name},1\n" for image in "abcd" for name in CLASSES)
    TARGET.write_text(before)
    done = imported("r.csv", before.replace(",1\n", ",0\n"))
    assert done.exit_code == 0 and "12 changed" in done.stdout and "and 2 more" in done.stdout
    assert done.stdout.count("1 -> 0") == 10
    assert Path("corrections/toy.csv.bak").read_text() == before and set(decided().values()) == {0}
    content = json.loads(imported("r.csv", before).stdout and ccd("review", "import", "r.csv", "--json").stdout)
    assert content["changes"] == [] and content["kept"] is None
    assert len(list(Path("corrections").glob("*.bak"))) == 2


def test_an_import_that_changes_nothing_keeps_no_copy(project: Path) -> None:
    for _ in range(2):
        assert imported("r.csv", f"{HEADER}train/a,cup,1\n").exit_code == 0
    assert [path.name for path in Path("corrections").iterdir()] == ["toy.csv"]


def test_an_import_into_a_file_with_rows_that_do_not_fit_stops_and_names_the_remedy(project: Path) -> None:
    TARGET.write_text(f"{HEADER}train/gone,cup,1\n")
    done = imported("r.csv", f"{HEADER}train/a,cup,1\n")
    assert done.exit_code == 2 and "corrections/toy.csv" in done.stderr and "ccd review tidy" in done.stderr
    assert TARGET.read_text() == f"{HEADER}train/gone,cup,1\n"


@pytest.mark.parametrize(
    ("words", "files"),
    [
        ((), ("review/toy/review.csv", "review/toy/review.html")),
        (("--out", "mine.csv"), ("mine.csv", "mine.html")),
        (("--format", "label-studio"), ("review/toy/tasks.json", "review/toy/labelling_config.xml")),
    ],
)
def test_an_export_never_replaces_what_somebody_filled_in(
    words: tuple[str, ...], files: tuple[str, ...], project: Path
) -> None:
    done = ccd("review", "export", "--no-student", *words)
    assert done.exit_code == 0 and "ccd review import " in done.stdout.splitlines()[-1]
    for file in files:
        Path(file).write_text("hours of work")
        done = ccd("review", "export", "--no-student", *words)
        assert done.exit_code == 2 and file in done.stderr and "--force" in done.stderr
        assert Path(file).read_text() == "hours of work"
    assert ccd("review", "export", "--no-student", *words, "--force").exit_code == 0
    assert all(Path(file).read_text() != "hours of work" for file in files)
