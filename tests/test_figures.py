"""Every figure says what it is of, the headline is what is trained on, and nobody claims to have looked who has not."""

from __future__ import annotations

import re
import shlex
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from ccd.artifacts import class_table
from ccd.artifacts.class_table import LABELS
from ccd.evaluation.summary import Scores, Truth, evaluate
from ccd.labels.background import background_line
from ccd.project.settings import readme
from ccd.report.answers import findings
from ccd.report.doubt import doubtful_train
from ccd.report.findings import BackgroundCount, background_finding, count_background
from ccd.report.page import render
from ccd.report.run_data import Run, RunFiles, read_run
from ccd.report.tables import class_table as table_of_classes, label_counts, steps
from tests.toys.finished_run import CLASSES, EVIL, write_run


class Commands(HTMLParser):
    """The text of every panel's last element, where that is a command."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self._inside = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "pre" and ("class", "command") in attrs:
            self.found.append("")
            self._inside = True

    def handle_endtag(self, tag: str) -> None:
        self._inside = self._inside and tag != "pre"

    def handle_data(self, data: str) -> None:
        if self._inside:
            self.found[-1] += data


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def run(folder: Path) -> Run:
    return read_run(RunFiles.in_folder(folder))


def headline(train: dict[str, np.ndarray], test: dict[str, np.ndarray], known: list[str]) -> str:
    """What evaluate prints of one class, in images a and b (training), c and d (test); a and c show it."""
    there = {"a": 1, "b": 0, "c": 1, "d": 0}
    label = np.array([[there[name]] for name in known], np.int8).reshape(-1, 1)
    truth = Truth(known, ("cup",), label, np.zeros(label.shape, bool))
    return evaluate(Scores(["a", "b"], train), Scores(["c", "d"], test), truth, [0.5], "ignore", 1).headline


RIGHT, WRONG, TIED = (np.array(values)[:, None] for values in ([0.9, 0.1], [0.1, 0.9], [0.5, 0.5]))
TRAIN_SCORES = {"zero_shot": WRONG, "aggregated_raw": RIGHT, "aggregated_label": TIED}
TEST_SCORES = {"zero_shot": TIED, "warmup": WRONG, "student": RIGHT}


def test_the_headline_is_of_the_labels_that_are_trained_on_and_says_of_which_images() -> None:
    """Ranked right before floor and clip, tied by them: 100 % is not what is trained on."""
    said = headline(TRAIN_SCORES, TEST_SCORES, ["a", "b", "c", "d"])
    assert "aggregated labels, as trained on 50.0 (before floor and clip 100.0)" in said
    assert said.index("2 training images with known labels") < said.index("as trained on")
    assert "2 test images with known labels: CLIP zero-shot probability 50.0" in said and "finished 100.0" in said
    assert "head" not in said
    said = headline(TRAIN_SCORES, TEST_SCORES | {"head": RIGHT}, ["a", "b", "c", "d"])
    assert "probability 50.0, head on its features 100.0, student after warm-up" in said


def test_the_headline_leaves_out_a_split_that_nobody_labelled() -> None:
    assert "training" not in headline(TRAIN_SCORES, TEST_SCORES, ["c", "d"])
    assert "test image" not in headline(TRAIN_SCORES, TEST_SCORES, ["a", "b"])
    assert headline(TRAIN_SCORES, TEST_SCORES, []).startswith("no image has known labels")


def test_the_main_figure_of_the_report_is_that_of_the_labels_trained_on(run: Run, folder: Path) -> None:
    """The fixture has 70.0 for them, 75.0 before floor and clip, 50.0 for CLIP's probabilities."""
    page = render(run, "toy", folder, {}, {})
    tile = re.search(r'<div class="tile final">.*?</div>', page, re.S)
    assert tile is not None and ">70.0 <" in tile[0] and "+20.0" in tile[0] and "75.0" not in tile[0]
    assert "as trained on" in tile[0] and "4 training images with ground truth" in tile[0]
    train, _ = steps(run)
    assert [(step.name.split()[0], step.value, step.raw) for step in train] == [
        ("CLIP", 50.0, None),
        ("global", 45.0, 50.0),
        ("local", 55.0, 60.0),
        ("aggregated", 70.0, 75.0),
    ]
    raw = ["".join(text) for text in re.findall(r">([^<>]*75\.0[^<>]*)<|title=\"([^\"]*75\.0[^\"]*)\"", page)]
    assert raw and all("before floor and clip" in text for text in raw if "reliable" not in text)


def test_every_group_of_figures_in_the_table_names_its_images(run: Run) -> None:
    groups, _, _ = table_of_classes(run)
    assert groups[0].title == ""
    assert all(re.search(r"\b[42] (training|test) images|test images", group.title) for group in groups[1:])


@pytest.mark.parametrize(("rule", "positives"), [("ignore", 3), ("positive", 4), ("negative", 3)])
def test_a_class_has_one_count_in_all_tables_whatever_is_difficult(rule: str, positives: int, tmp_path: Path) -> None:
    """train/c's cup is difficult; evaluate counts it by evaluate.difficult, and so does the report."""
    path = write_run(tmp_path) / "labels.parquet"
    table = class_table.read(path, LABELS)
    table.columns["difficult"][table.ids.index("train/c"), 0] = True
    class_table.write(path, LABELS, table)
    run = read_run(RunFiles.in_folder(tmp_path), rule)  # type: ignore[arg-type]
    assert label_counts(run)[0].truth == positives
    assert f"only {positives} training images with ground truth show it" in findings(run)[0].points[0].text


def test_first_choices_are_the_same_number_in_both_tables(run: Run) -> None:
    _, columns, rows = table_of_classes(run)
    place = [column.title for column in columns].index("first choice")
    assert [row[place].text for row in rows] == [str(count.top1) for count in label_counts(run)]


def test_without_a_rule_nobody_says_how_many_images_show_no_class(run: Run, folder: Path) -> None:
    assert re.match("25.0%.*entropy", background_line("entropy", 0.25))
    assert "%" not in background_line("off", 0.0)
    page = render(run, "toy", folder, {}, {})
    for said in (background_line("off", 0.0), background_finding(run).answer, page, readme("toy", 3, "images")):
        plain = " ".join(said.split())
        assert "not looked for" in plain.lower() and "none_rule" in plain
        assert re.search(r"get labels all the same|still get labels", plain)
    assert (
        "text.background_texts" in readme("toy", 3, "images")
        and "text.background_texts" in background_finding(run).answer
    )
    for section in ("steps", "classes", "counts"):
        assert "not looked for" in page[page.index(f'id="{section}"') :].split("</section>")[0], section


def test_with_background_words_nobody_says_that_such_images_get_labels_all_the_same(run: Run) -> None:
    worded = replace(run, text=replace(run.text, background_in_softmax=True))
    answer = background_finding(worded).answer
    assert "share every softmax, so such images keep fewer labels" in answer and "get labels all the same" not in answer


def test_with_a_rule_the_number_is_said_and_nothing_else(run: Run, folder: Path) -> None:
    looked = replace(run, none_images=1)
    assert background_finding(looked).answer.startswith("1 training image (25.0 %), found by their scores")
    assert "not looked for" not in render(looked, "toy", folder, {}, {}).lower()


def test_ground_truth_tells_how_many_images_show_no_class_and_have_labels_all_the_same(run: Run) -> None:
    truth = np.array([[0, 0], [0, 0], [1, 0], [0, -1], [-1, -1]], np.int8)
    labelled = np.array([True, False, True, True, True])
    assert count_background(truth, lambda rows: labelled[rows]) == BackgroundCount(4, 2, 1)
    answer = background_finding(
        run
    ).answer  # train/c alone shows nothing, cup's label there is 0.55; of the tests test/e
    assert "4 training images with ground truth, 1 show none of the classes; on 1 of these 1 there is a label" in answer
    assert "2 test images with ground truth, 1 show none of the classes; on 0 of these 1 the student" in answer


def test_every_answer_ends_with_a_command_that_a_shell_takes_as_it_is(tmp_path: Path) -> None:
    names = ("it's a cup; rm -rf ~", "$HOME", EVIL)
    run = read_run(RunFiles.in_folder(write_run(tmp_path, classes=names)))
    ids = ["-a b", "it's", "train/c d", "$x"]
    run = replace(run, train=replace(run.train, ids=ids))
    doubts = doubtful_train(run.pseudo_labels, 1)
    answers = findings(run, doubts, "toy")
    page = render(run, "toy", tmp_path, {}, {})
    assert Commands(page).found == [answer.command for answer in answers] and len(answers) == 6
    panels = page[page.index('id="answers"') :].split("</section>")[0].split('<div class="panel">')[1:]
    assert all(panel.split("</div>")[0].rstrip().endswith("</code></pre>") for panel in panels)
    lines = [shlex.split(line) for answer in answers for line in answer.command.splitlines()]
    assert ["ccd", "inspect", "--class", names[0], "--worst", "20"] in lines
    assert ["ccd", "inspect", ids[doubts[0].row]] in lines and ["ccd", "review", "export", "--top", "200"] in lines
    assert ["ccd", "predict", "data/toy/student.pt", "PHOTOS", "--out", "labels.csv"] in lines
    assert ["dvc", "repro"] in lines and all(line[0] in ("ccd", "dvc") for line in lines)


def test_an_id_that_looks_like_an_option_is_no_option() -> None:
    from ccd.report.findings import inspect_image

    assert shlex.split(inspect_image("-a b")) == ["ccd", "inspect", "--", "-a b"]


def test_the_page_is_built_so_that_nothing_is_cut_off(run: Run, folder: Path) -> None:
    """What a browser shows is in test_report_browser.py; these hold without one."""
    page = render(run, "toy", folder, {}, {})
    style = page[page.index("<style>") : page.index("</style>")]
    nav = re.search(r"^nav \.wide \{(.*?)\}", style, re.M)
    assert nav is not None and "flex-wrap: wrap" in nav[1] and "overflow" not in nav[1]
    assert "scrollbar-width: none" not in style
    assert page.count('<div class="scroll"') == page.count('class="more-cue"') == 1
    assert CLASSES[1] in page
