"""``ccd review``: doubtful images go out, and what people answer comes back."""

from __future__ import annotations

import csv
import html
import io
import json
import re
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

from ccd.artifacts import image_index
from ccd.artifacts.corrections_file import path_of
from ccd.artifacts.image_keys import ImageKeys
from ccd.cli.main import main
from ccd.params.presets import apply_preset
from ccd.report.doubt import disagreement
from ccd.review.questions import Evidence, most_doubtful_images, random_images
from ccd.review.reviewed import Reviewed, read_reviewed
from ccd.review.sheet import to_csv
from tests.toys.finished_run import CLASSES, EVIL, TRAIN, write_project
from tests.toys.pages import BROWSER

HEADER = "image_id,class,label\n"


@pytest.fixture()
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A finished run of a data set called toy whose images lie beside its artifacts; its student is not there."""
    monkeypatch.chdir(tmp_path)
    write_project()
    return tmp_path


def review(*words: str) -> tuple[int, str]:
    done = CliRunner().invoke(main, ["review", *words])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.exit_code, done.output


def test_the_doubt_is_the_largest_difference_between_any_two_steps() -> None:
    made = {
        "global_label": np.array([[0.2, 0.9, 0.5]]),
        "local_label": np.array([[1.4, 0.8, 0.5]]),  # before the clip
        "correction": np.array([[-1, -1, 1]], np.int8),
    }
    np.testing.assert_allclose(disagreement(made), [[0.8, 0.1, 0.0]])
    student = np.array([[0.5, 0.1, 0.0]])
    np.testing.assert_allclose(disagreement(made, student), [[0.8, 0.8, 0.0]])


def evidence_of(gap: list[list[float]], label: list[list[float]], decided: list[list[int]]) -> Evidence:
    return Evidence(None, ("a", "b", "c", "d", "e"), {"final": np.array(label)}, np.array(gap), np.array(decided))  # type: ignore[arg-type]


def test_what_is_asked_is_undecided_and_disputed_or_likely() -> None:
    evidence = evidence_of(
        [[0.1, 0.5, 0.2, 0.0, 0.05], [0.0, 0.0, 0.0, 0.0, 0.9], [0.3, 0.0, 0.0, 0.0, 0.0]],
        [[0.1, 0.1, 0.1, 0.9, 0.1], [0.1, 0.1, 0.1, 0.1, 0.1], [0.9, 0.1, 0.1, 0.4, 0.3]],
        [[-1, -1, -1, -1, -1], [1, 0, 0, 1, -1], [-1, 0, -1, -1, -1]],
    )
    found = most_doubtful_images(evidence, 5)
    assert [(question.row, question.classes) for question in found] == [
        (1, (4,)),  # all others are decided
        (0, (1, 2, 0, 3)),  # three most disputed, then the one with a label
        (2, (0, 2, 3, 4)),  # two with a label of at least 0.3 beside the disputed ones
    ]
    assert [question.row for question in most_doubtful_images(evidence, 1)] == [1]


def test_random_images_follow_the_seed_and_leave_out_what_is_decided() -> None:
    decided = np.full((50, 5), -1)
    decided[10:20] = 1
    evidence = evidence_of([[0.0] * 5] * 50, [[0.1] * 5] * 50, decided.tolist())
    drawn = [question.row for question in random_images(evidence, 45, seed=1)]
    assert len(drawn) == len(set(drawn)) == 40 and not set(drawn) & set(range(10, 20))
    assert drawn == [question.row for question in random_images(evidence, 45, seed=1)]
    assert drawn != [question.row for question in random_images(evidence, 45, seed=2)]
    assert all(len(question.classes) == 3 for question in random_images(evidence, 9, seed=0))


def test_a_sheet_goes_out_is_filled_and_comes_back(project: Path) -> None:
    code, said = review("export", "--top", "2")
    assert code == 0 and "2 images" in said, said
    sheet = pd.read_csv("review/toy/review.csv", keep_default_na=False, dtype=str)
    assert list(sheet.columns) == ["image_id", "path", "class", "global", "local", "final", "suggested", "label"]
    made = pd.read_parquet("data/toy/pseudo_labels.parquet")
    gap = abs(made["global_label"] - made["local_label"].clip(upper=1)).groupby(made["image_id"], observed=True).max()
    assert list(dict.fromkeys(sheet["image_id"])) == gap.nlargest(2).index.tolist() == ["train/c", "train/b"]
    assert sheet.iloc[0].tolist() == ["train/c", "train/c.jpg", "cup", "0.2", "0.85", "0.55", "1", ""]
    sheet["label"] = ["0", "1", "", "1", "", "0"]
    sheet.to_csv("filled.csv", index=False, sep=";", encoding="utf-8-sig")  # as a spreadsheet may save it
    code, said = review("import", "filled.csv", "--json")
    assert code == 0, said
    counts = {"images": 2, "new": 4, "changed": 0, "unchanged": 0, "against": 2, "decisions": 4}
    nothing = {"changes": [], "kept": None, "left_out": []}
    assert json.loads(said) == {"wrote": "corrections/toy.csv", **counts, **nothing}
    rows = [f"train/b,{EVIL},0", "train/b,cup,1", "train/c,cup,0", "train/c,tall lamp,1"]
    assert path_of("toy").read_text().splitlines() == [HEADER.strip(), *rows]


def test_what_is_decided_is_not_asked_again_and_answers_replace_older_ones(project: Path) -> None:
    Path("corrections").mkdir()
    path_of("toy").write_text(f"{HEADER}train/c,cup,1\ntrain/a,cup,0\n")
    assert review("export", "--top", "2")[0] == 0
    sheet = pd.read_csv("review/toy/review.csv", keep_default_na=False)
    pairs = list(zip(sheet["image_id"], sheet["class"], strict=True))
    assert pairs[0] == ("train/b", "cup") and ("train/c", "cup") not in pairs
    Path("filled.csv").write_text(f"{HEADER}train/c,cup,0\ntrain/a,cup,0\ntrain/b,cup,1\n")
    code, said = review("import", "filled.csv")
    assert code == 0 and "3 answers about 3 images: 1 new, 1 changed, 1 as before" in said
    assert "train/c, cup: 1 -> 0" in said and "corrections/toy.csv.bak" in said and "dvc repro" in said
    assert Path("corrections/toy.csv.bak").read_text() == f"{HEADER}train/c,cup,1\ntrain/a,cup,0\n"
    assert "2 contradict the current label" in said
    assert path_of("toy").read_text() == f"{HEADER}train/a,cup,0\ntrain/b,cup,1\ntrain/c,cup,0\n"


def annotated(tasks: list[dict[str, Any]], *chosen: list[str] | None) -> list[dict[str, Any]]:
    """Tasks as Label Studio exports them; None: nobody looked at it."""
    for number, (task, names) in enumerate(zip(tasks, chosen, strict=True), start=1):
        choice = {"from_name": "labels", "to_name": "image", "type": "choices", "value": {"choices": names}}
        box = {"from_name": "boxes", "type": "rectanglelabels", "value": {"rectanglelabels": ["cup"], "x": 1.0}}
        result = [box, *([choice] if names else [])]
        annotation = {"id": number, "was_cancelled": False, "result": result, "completed_by": 1}
        task |= {"id": number, "annotations": [] if names is None else [annotation]}
    return tasks


def test_label_studio_round_trip_decides_every_class_of_a_submitted_image(project: Path) -> None:
    code, said = review("export", "--top", "3", "--format", "label-studio", "--image-url", "http://x/")
    assert code == 0, said
    tasks = json.loads(Path("review/toy/tasks.json").read_text())
    assert [task["data"] for task in tasks[:2]] == [
        {"image": f"http://x/train/{name}.jpg", "image_id": f"train/{name}"} for name in "cb"
    ]
    (choice,) = (part for part in tasks[0]["predictions"][0]["result"] if part["type"] == "choices")
    assert choice["value"] == {"choices": ["cup"]}
    assert "&lt;script" in Path("review/toy/labelling_config.xml").read_text()
    unseen = {"data": {"image_id": "train/d"}}
    Path("out.json").write_text(json.dumps(annotated([*tasks, unseen], ["tall lamp", EVIL], [], None)))
    assert review("import", "out.json")[0] == 0
    decided = pd.read_csv(path_of("toy")).set_index(["image_id", "class"])["label"].to_dict()
    assert decided == {
        ("train/c", "cup"): 0,
        ("train/c", "tall lamp"): 1,
        ("train/c", EVIL): 1,
        ("train/b", "cup"): 0,
        ("train/b", "tall lamp"): 0,
        ("train/b", EVIL): 0,
    }


def ticked(*names: str, control: str = "labels", kind: str = "choices") -> dict[str, Any]:
    """A part of an annotation, as Label Studio exports it."""
    return {"from_name": control, "to_name": "image", "type": kind, "value": {"choices": list(names)}}


CUP = {"result": [ticked("cup")]}
DOG = {"result": [ticked("dog")]}


def task(image: str = "train/a", annotations: object = (CUP,)) -> str:
    return json.dumps([{"data": {"image_id": image}, "annotations": annotations}])


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("r.xlsx", "", "the name must end in .csv"),
        ("r.csv", None, "r.csv: No such file"),
        (
            "r.csv",
            "image_id,class\ntrain/a,cup\n",
            "line 1: its columns are image_id, class; needed: image_id or path, class, label; or",
        ),
        (
            "r.csv",
            f"{HEADER}train/z,cup,1\n",
            "no answer in it can be used: line 2: 'train/z' is no training image",
        ),
        ("r.csv", f"{HEADER}train/a,cup,maybe\n", "line 2: label 'maybe' is neither 0 nor 1"),
        ("r.csv", f"{HEADER}train/a,cup,1\ntrain/a,cup,0\n", "line 3: contradicts another row"),
        ("r.csv", HEADER, "no answer in it can be used; fill in some"),
        ("r.json", None, "r.json: No such file"),
        ("r.json", "{", "r.json: not JSON"),
        ("r.json", "{}", "holds no list of tasks; in Label Studio choose Export, JSON"),
        ("r.json", '[{"image_id": "train/a", "labels": "cup"}]', "task 1: not as Label Studio writes it"),
        ("r.json", task("train/z"), "task 1: 'train/z' is no training image"),
        ("r.json", task(annotations=3), "task 1: not as Label Studio writes it"),
        ("r.json", task(annotations=[CUP | {"result": None}]), "task 1: not as Label Studio writes it"),
        ("r.json", task(annotations=[DOG]), "task 1: 'dog' is no class"),
    ],
)
def test_where_nothing_can_be_used_nothing_is_written(
    name: str, content: str | None, message: str, project: Path
) -> None:
    if content is not None:
        Path(name).write_text(content)
    Path("corrections").mkdir()
    path_of("toy").write_text(f"{HEADER}train/b,cup,1\n")
    code, said = review("import", name)
    assert code == 2 and said.startswith("error: ") and message in said and "Traceback" not in said
    assert path_of("toy").read_text() == f"{HEADER}train/b,cup,1\n"


def test_a_skipped_annotation_and_an_unanswered_row_decide_nothing(tmp_path: Path) -> None:
    (tmp_path / "r.json").write_text(task(annotations=[CUP | {"was_cancelled": True}]))
    assert read_reviewed(tmp_path / "r.json", ImageKeys(TRAIN), CLASSES) == Reviewed({}, ())
    (tmp_path / "r.csv").write_text("class,note,label,image_id\ncup,?,,train/a\ncup,sure, 1,train/b\n")
    assert read_reviewed(tmp_path / "r.csv", ImageKeys(TRAIN), CLASSES).decisions == {("train/b", "cup"): 1}


def test_names_that_a_spreadsheet_would_calculate_survive_the_round_trip(tmp_path: Path) -> None:
    ones = np.ones((1, 2), np.int32)
    index = image_index.ImageIndex(["=1+1"], ["@x.jpg"], np.ones(1, bool), ones, np.ones(1, np.int64), [""])
    evidence = Evidence(index, ("-cat",), {"final": np.array([[0.9]])}, np.array([[0.5]]), np.array([[-1]]))
    text = to_csv(evidence, most_doubtful_images(evidence, 1))
    assert not any(cell.startswith(("=", "@", "-")) for row in csv.reader(io.StringIO(text)) for cell in row)
    (tmp_path / "r.csv").write_text(text.rstrip("\n") + "1\n")
    assert read_reviewed(tmp_path / "r.csv", ImageKeys(["=1+1"]), ("-cat",)).decisions == {("=1+1", "-cat"): 1}


def test_the_page_shows_photos_escapes_names_and_needs_nothing_else(project: Path) -> None:
    assert review("export", "--top", "4", "--out", "sheets/mine.csv")[0] == 0
    page = Path("sheets/mine.html").read_text()
    assert Path("sheets/mine.csv").exists()
    assert page.count('src="data:image/jpeg;base64,') == page.count("<article>") == 2
    assert EVIL not in page and "&lt;script&gt;alert(1)" in page
    assert not re.findall(r'(?:src|href)="(?!data:)', page)
    names = re.findall(r'name="(q\d+-\d+)" value="1"', page)
    assert len(names) == len(set(names)) == page.count("<fieldset")


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="no Chromium here")
def test_answers_clicked_in_a_browser_are_the_csv_that_is_imported(project: Path) -> None:
    assert review("export", "--top", "2")[0] == 0
    page = Path("review/toy/review.html").read_text()
    click = """<script>
      document.querySelectorAll('input[value="1"]')[0].click();
      document.querySelectorAll('input[value="0"]')[1].click();
      const said = document.createElement("pre");
      said.id = "said"; said.textContent = csv(); document.body.append(said);
    </script></body>"""
    Path("clicked.html").write_text(page.replace("</body>", click))
    command = [str(BROWSER), "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"]
    done = subprocess.run(
        [*command, f"file://{project}/clicked.html"], capture_output=True, text=True, check=True, timeout=300
    )
    said = re.search(r'<pre id="said">(.*?)</pre>', done.stdout, re.S)
    assert said is not None and "2 answers" in done.stdout
    Path("answers.csv").write_text(html.unescape(said[1]))
    answers = read_reviewed(Path("answers.csv"), ImageKeys(TRAIN), CLASSES).decisions
    assert answers == {("train/c", "cup"): 1, ("train/c", "tall lamp"): 0}


def test_without_params_or_a_run_the_error_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    code, said = review("export")
    assert code == 2 and "params.yaml does not exist here" in said
    Path("params.yaml").write_text(apply_preset("folder", "data/toy", {"dataset.name": "toy"}))
    code, said = review("export")
    assert code == 2 and "images.parquet: No such file" in said and not Path("review").exists()
