"""What the report and ``ccd inspect`` say of labels that people corrected."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ccd.artifacts import class_table
from ccd.artifacts.class_table import PSEUDO_LABELS
from ccd.labels.debias import corrected
from ccd.report.answers import findings
from ccd.report.corrected import corrections
from ccd.report.doubt import doubtful_train
from ccd.report.inspect import image_story
from ccd.report.inspect_text import story_data, story_text
from ccd.report.page import render
from ccd.report.run_data import Run, RunFiles, read_run
from tests.toys.finished_run import EVIL, write_run
from tests.toys.pages import Page

# train/b's cup is denied (it was 0.8, and is there), train/d's is seen (0.1, there), train/a's confirmed (1.0, there);
# train/c is said to show the class with the evil name (0.1, not there).
DECIDED = {(1, 0): 0, (3, 0): 1, (0, 0): 1, (2, 2): 1}


def write_corrected(folder: Path, *, labelled: bool = True) -> Path:
    write_run(folder, labelled=labelled)
    table = class_table.read(folder / "pseudo_labels.parquet", PSEUDO_LABELS)
    decided = np.full(table.columns["label"].shape, -1, np.int8)
    for at, label in DECIDED.items():
        decided[at] = label
    columns = table.columns | corrected(table.columns["label"], decided, weight=1.0)
    class_table.write(folder / "pseudo_labels.parquet", PSEUDO_LABELS, replace(table, columns=columns))
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corrected(tmp_path_factory.mktemp("corrected"))


@pytest.fixture(scope="module")
def run(folder: Path) -> Run:
    return read_run(RunFiles.in_folder(folder))


def test_corrections_are_counted_over_all_and_per_class(run: Run) -> None:
    found = corrections(run, shown=3)
    assert found is not None
    assert (found.images, found.labels, found.added, found.removed) == (4, 4, 2, 1)
    assert (found.known, found.agree, found.agreed) == (4, 2, 3)
    assert [column.title for column in found.columns[1:]] == [
        "corrected",
        "there",
        "added",
        "removed",
        "known",
        "agree",
        "agreed before",
    ]
    assert [[cell.text for cell in row] for row in found.rows] == [
        ["cup", "3", "2", "1", "1", "3", "2", "2"],
        [EVIL, "1", "1", "1", "0", "1", "0", "1"],
    ]
    assert [(choice.row, choice.class_row) for choice in found.choices] == [(2, 2), (3, 0), (1, 0)]
    assert "cup" in found.choices[2].why and "not there" in found.choices[2].why and "0.80" in found.choices[2].why


def test_the_section_is_there_and_escapes(run: Run, folder: Path) -> None:
    page = render(run, "toy", folder, {}, {})
    Page(page)
    assert 'id="corrections"' in page and 'href="#corrections"' in page
    assert "People decided 4 labels of 4 training images: 2 went" in page and "2 agree with it; before, 3 did" in page
    assert "cup: not there, label was 0.80" in page
    assert EVIL not in page and "&lt;script&gt;alert(1)&lt;/script&gt;: there, label was 0.10" in page


def test_without_corrections_there_is_no_section_and_without_truth_no_agreement(tmp_path: Path) -> None:
    plain = write_run(tmp_path / "plain")
    run = read_run(RunFiles.in_folder(plain))
    assert corrections(run, 3) is None and "orrections" not in render(run, "toy", plain, {}, {})
    unknown = write_corrected(tmp_path / "unknown", labelled=False)
    page = render(read_run(RunFiles.in_folder(unknown)), "toy", unknown, {}, {})
    assert (
        "People decided 4 labels" in page
        and "agree" not in page[page.index('id="corrections"') :].split("</section>")[0]
    )


def test_what_local_views_did_is_told_without_the_corrections(run: Run, tmp_path: Path) -> None:
    plain = read_run(RunFiles.in_folder(write_run(tmp_path)))
    assert findings(run)[2].answer == findings(plain)[2].answer


def test_what_a_person_decided_is_not_in_doubt(run: Run) -> None:
    assert [(choice.row, choice.class_row) for choice in doubtful_train(run.pseudo_labels, 4)] == [(2, 0)]


def test_inspect_shows_what_the_person_said_and_the_label_before(folder: Path) -> None:
    story = image_story(folder, "train/b")
    lines = story_text(story).splitlines()
    assert next(line for line in lines if line.startswith("class ")).endswith("person     label before")
    cup = next(line for line in lines if line.startswith("cup "))
    assert cup.split()[-5:] == ["0.000", "yes", "not", "there", "0.800"]
    assert next(line for line in lines if line.startswith("tall lamp ")).split()[-2:] == ["-", "-"]
    said = story_data(story)["classes"]["cup"]
    assert (said["label"], said["correction"]) == (0.0, 0) and said["uncorrected_label"] == pytest.approx(0.8)
    assert story_data(story)["classes"]["tall lamp"]["correction"] is None
