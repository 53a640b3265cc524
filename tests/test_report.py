"""The report: one valid, closed, escaped, bounded and repeatable page; what it says is what the artifacts say."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ccd.artifacts.image_index import SkippedImage
from ccd.artifacts.metrics_file import SplitMetrics, uncounted
from ccd.errors import CcdError
from ccd.params.presets import apply_preset, parameters
from ccd.report import quality as quality_module
from ccd.report.answers import findings, verdict
from ccd.report.charts import Series, line_chart, nice_ticks
from ccd.report.doubt import class_cases, coinciding_pairs, doubtful_test, doubtful_train, worst_of_class
from ccd.report.page import render
from ccd.report.photos import CROP_PX, PHOTO_PX, Photos
from ccd.report.quality import Quality, qualities, quality, step
from ccd.report.run_data import Run, RunFiles, read_run, score_name
from ccd.report.tables import class_table, label_counts, steps
from ccd.views.overlap import iou
from tests.toys.finished_run import CLASSES, EVIL, write_run
from tests.toys.pages import Page

PARAMETERS = {"warmup": {"backbone": "mobilenet_v2", "weights": None}}
VERSIONS = {"torch": "2.0"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("labelled"))


@pytest.fixture(scope="module")
def run(folder: Path) -> Run:
    return read_run(RunFiles.in_folder(folder))


@pytest.fixture(scope="module")
def page(run: Run, folder: Path) -> str:
    return render(run, "toy", folder, PARAMETERS, VERSIONS)


def test_page_is_balanced_and_reaches_for_nothing_outside(page: str) -> None:
    parsed = Page(page)
    assert parsed.scripts == 1
    assert not re.search(r"https?://|@import|url\(", page)
    sources = [value for _, attrs in parsed.tags for key, value in attrs.items() if key in ("src", "href", "srcset")]
    assert sources and all(value and value.startswith(("data:image/jpeg;base64,", "#")) for value in sources)
    assert "default-src 'none'" in page


def test_links_lead_to_something(page: str) -> None:
    tags = Page(page).tags
    names = [attrs["id"] for _, attrs in tags if attrs.get("id")]
    assert len(names) == len(set(names))
    assert {attrs["href"][1:] for tag, attrs in tags if tag == "a" and attrs["href"]} <= set(names)


def test_a_class_named_script_stays_text(page: str) -> None:
    assert EVIL not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page


def test_the_recipe_is_told_from_the_values(run: Run, folder: Path) -> None:
    for settings, recipe, told in (
        ({}, "paper", "paper"),
        ({}, "recommended", "recommended"),
        ({"train.epochs": "999"}, "recommended", "own values"),
    ):
        values = parameters(apply_preset("voc12", None, settings, recipe=recipe))
        del values["dataset"], values["runtime"]
        page = render(run, "toy", folder, values, VERSIONS)
        assert f"<p>Recipe: {told}." in page
        floor = values["global_labels"]["floor"]
        assert f"<tr><td>global_labels.floor</td><td>{floor}</td><td>0.05</td><td>0.0</td></tr>" in page


def test_the_network_is_named_for_a_person(run: Run, folder: Path) -> None:
    for backbone, told in (("resnet50", "resnet50 was trained"), ("teacher", "CLIP&#39;s own image tower was trained")):
        assert told in render(run, "toy", folder, PARAMETERS | {"warmup": {"backbone": backbone}}, VERSIONS)


def test_same_run_same_bytes(run: Run, folder: Path, page: str) -> None:
    assert render(run, "toy", folder, PARAMETERS, VERSIONS) == page


def test_without_labels_it_says_so_and_shows_no_precision(tmp_path: Path) -> None:
    folder = write_run(tmp_path, labelled=False)
    run = read_run(RunFiles.in_folder(folder))
    text = render(run, "toy", folder, {}, {})
    Page(text)
    assert not run.labelled and "No image has known labels" in text
    assert "mAP %, " not in text.replace("trained on, mAP %", "") and "really there:" not in text
    assert [column.title for column in class_table(run)[1]] == [
        "class",
        "bias",
        "first choice",
        "CLIP",
        "global label",
        "label",
    ]
    assert steps(run) == ([], []) and {count.truth for count in label_counts(run)} == {None}


def test_files_that_were_left_out_are_listed(run: Run, folder: Path, page: str) -> None:
    skipped = tuple(SkippedImage(f"bad/{number}<b>.jpg", "it is empty") for number in range(201))
    shown = render(replace(run, train=replace(run.train, skipped=skipped)), "toy", folder, PARAMETERS, VERSIONS)
    Page(shown)
    assert "201 files that could not be used" in shown and "bad/0&lt;b&gt;.jpg</code>: it is empty" in shown
    assert "bad/200" not in shown and "and 1 more" in shown
    assert "could not be used" not in page


def test_pictures_keep_to_their_budget(run: Run, folder: Path) -> None:
    first = Photos(folder, 10_000_000)
    photo = first.photo(run.train, 0)
    assert photo is not None and len(photo) < 100_000
    spent = Photos(folder, 1)
    assert spent.photo(run.train, 0) == photo and spent.photo(run.train, 1) is None
    assert PHOTO_PX <= 320 and CROP_PX <= 320


def test_a_changed_image_is_refused(run: Run, folder: Path) -> None:
    index = replace(run.train, file_bytes=run.train.file_bytes + 1)
    with pytest.raises(CcdError, match="changed since index"):
        Photos(folder, 1000).photo(index, 0)


def test_class_table_is_what_the_files_say(run: Run) -> None:
    groups, columns, rows = class_table(run)
    assert sum(group.size for group in groups) == len(columns) == len(rows[0])
    cup = {(column.group, column.title): cell for column, cell in zip(columns, rows[0], strict=True)}
    made = "AP %, 4 training images with ground truth"
    said = "AP %, 2 test images with ground truth"
    assert cup["", "class"].text == "cup" and cup["CLIP, 4 training images", "bias"].text == "0.500"
    values = [cup["value ≥ 0.5, 4 training images", title].text for title in ("CLIP", "global label", "label")]
    assert values == ["1", "2", "3"]
    assert [cup[made, title].text for title in ("CLIP", "label", "gain")] == ["50.0", "70.0", "+20.0"]
    assert cup[said, "gain"].text == "\N{MINUS SIGN}10.0" and cup[said, "gain"].tone == "down"
    right = "label ≥ 0.5, 4 training images with ground truth"
    assert cup[right, "right %"].text == "67" and cup[right, "found %"].text == "67"
    assert rows[2][-1].text == "\N{EN DASH}"  # no positives: no AP


def test_thresholds_are_shown_where_evaluation_states_them(run: Run) -> None:
    stated = {name: {**row, "threshold": 0.25, "test_f1_thresholds": 80.0} for name, row in run.per_class.items()}
    _, columns, rows = class_table(replace(run, per_class=stated))
    assert [column.title for column in columns[-2:]] == ["threshold", "F1 %"]
    assert [cell.text for cell in rows[0][-2:]] == ["0.250", "80.0"]


def test_cases_and_doubts_by_hand(run: Run) -> None:
    # cup: labels 1.0, 0.8, 0.55, 0.1; truth present, present, absent, present
    cases = class_cases(run.pseudo_labels, run.train_truth, 0)
    assert [(case.row, case.why) for case in cases] == [(0, "best"), (1, "typical"), (3, "missed")]
    unknown = np.full_like(run.train_truth, -1)
    cases = class_cases(run.pseudo_labels, unknown, 0)
    assert [(case.row, case.why) for case in cases] == [(0, "surest"), (1, "typical"), (2, "most disputed")]
    assert [choice.row for choice in worst_of_class(run.pseudo_labels, run.train_truth, 0, 2)] == [3, 2]
    first = doubtful_train(run.pseudo_labels, 1)[0]
    assert (first.row, first.class_row) == (2, 0)
    assert (
        len(doubtful_train(run.pseudo_labels, 4)) == 2 and len(doubtful_train(run.pseudo_labels, 4, per_class=1)) == 1
    )
    first = doubtful_test(run.predictions, run.bias.bias, 1)[0]
    assert (first.row, first.class_row) == (1, 1)


def test_findings_count_what_changed(run: Run) -> None:
    worst, debias, views, _, review, _ = findings(run, doubtful_train(run.pseudo_labels, 1))
    assert worst.points[0].name == "cup" and "only 3 training images with ground truth show it" in worst.points[0].text
    assert "0.25 (CLIP zero-shot probability) to 0.50 (global label)" in debias.answer
    assert "raised 1 label of training images" in views.answer and "took 0 below" in views.answer
    assert "0 % are really there" in views.answer and "45.0 % (global label) to 70.0 %" in views.answer
    # cup's labels >= 0.5: a; a and b; a, b and c. It is on a, b and d.
    assert "100 % are right (before: 100 %); they find 67 % of what is there (before: 33 %)" in debias.answer
    assert "67 % are right (before: 100 %); they find 67 % of what is there (before: 67 %)" in views.answer
    assert [(point.name, point.text) for point in views.points] == [("cup", "1 more (0 of 1 right), 0 fewer")]
    assert [(point.name, point.anchor) for point in review.points] == [("train/c", "review-0")]
    assert re.match("cup: .* 0.20, .* 0.85, .* 0.55$", review.points[0].text)
    reached = "On the 2 test images with ground truth the student reaches 30.0 % mAP, 10.0 points below CLIP"
    assert verdict(run).startswith(reached)


@pytest.mark.parametrize(
    ("student", "head", "zero_shot", "says"),
    [
        (60.0, 61.2, 58.6, "There the head on CLIP's features is better than the student (61.2 against 60.0 % mAP)"),
        (
            60.0,
            61.2,
            62.0,
            "There CLIP zero-shot is better than student and head on CLIP's features (62.0 against 60.0",
        ),
        (60.0, 60.04, 58.6, ""),  # both are shown as 60.0
        (61.2, 60.0, 62.0, "There CLIP zero-shot is better than student and head"),
        (61.2, 60.0, 58.6, ""),
        (61.2, None, 62.0, ""),  # a run of an earlier version
    ],
)
def test_the_reader_is_told_where_keeping_clip_is_better(
    student: float, head: float | None, zero_shot: float, says: str, run: Run
) -> None:
    means = {"student": student, "head": head, "zero_shot": zero_shot}
    test = replace(run.metrics["test"], mean_ap=means)
    answer = findings(replace(run, metrics={**run.metrics, "test": test}), name="toy")[-1].answer
    assert says in answer and ("There" in answer) == bool(says)
    command = "use it: ccd predict data/toy/head.h5 PHOTOS --out labels.csv"
    assert (command in answer) == says.startswith("There the head")


def test_the_steps_on_test_images_end_with_the_student(run: Run) -> None:
    found = [(step.name, step.value, step.gain) for step in steps(run)[1]]
    assert found[1] == ("linear head on CLIP's features", 35.0, -5.0) and found[-1][0] == "finished student"


def test_training_scores_are_named_by_what_shares_them(run: Run, folder: Path, page: str) -> None:
    assert run.score_name == "CLIP zero-shot probability" and "CLIP zero-shot, training" in page
    shared = replace(run, text=replace(run.text, background_in_softmax=True))
    told = render(shared, "toy", folder, PARAMETERS, VERSIONS)
    assert "CLIP with background words, training" in told and "CLIP zero-shot, test" in told
    train, test = steps(shared)
    assert (train[0].name, test[0].name) == ("CLIP probability with background words", "CLIP zero-shot probability")
    assert "0.25 (CLIP probability with background words) to 0.50" in findings(shared)[1].answer
    assert "CLIP&#39;s probabilities with background words have" in told and "zero-shot probabilities" not in told
    centred = replace(run.bias, mean_cosines=np.zeros(3))
    every = score_name(replace(shared.text, standardized_scale=3.0), centred)
    assert every == "CLIP probability with background words and centring and standardising"


def test_worst_classes_are_those_that_the_means_count(run: Run) -> None:
    low = {**run.per_class, "tall lamp": {**run.per_class["cup"], "test_student": 1.0}}
    assert findings(replace(run, per_class=low))[0].points[0].name == "cup"
    alone = {"tall lamp": low["tall lamp"]}
    assert findings(replace(run, per_class=alone))[0].points[0].name == "tall lamp"


def test_left_out_classes_are_told_by_their_positives_whatever_their_names() -> None:
    """metrics.json names the first of them alone, and a name may hold a comma."""
    rows = {name: {"test_positives": count} for name, count in (("a", 1.0), ("b, c", 0.0), ("d", 7.0), ("e", 2.0))}
    assert uncounted(SplitMetrics({}, 9, 2, "a and 1 more"), rows, "test") == {"a", "b, c"}
    assert uncounted(SplitMetrics({}, 9, 4, ""), rows, "test") == set()


def test_verdict_without_test_labels_and_without_any(run: Run, tmp_path: Path) -> None:
    nothing = replace(run.metrics["test"], mean_ap={})
    said = verdict(replace(run, metrics={**run.metrics, "test": nothing}))
    assert "4 training images" in said and "trained on have 70.0 % mAP" in said and "have 50.0 %" in said
    unlabelled = read_run(RunFiles.in_folder(write_run(tmp_path, labelled=False)))
    assert verdict(unlabelled).startswith("No image has known labels")
    answers = findings(unlabelled)
    assert not any("right" in answer.answer or "really" in answer.answer for answer in answers)
    assert answers[0].points[0].name == "cup"
    assert answers[0].points[0].text.startswith("1 of its 3 labels")  # c, q = 0.2 and y = 0.55
    assert answers[0].answer.endswith(f"No image at all has a label for tall lamp, {EVIL}.")


def test_switched_off_debiasing_says_so(run: Run) -> None:
    off = replace(run, bias=replace(run.bias, enabled=False))
    assert findings(off)[1].answer.startswith("Nothing: it is switched off")


def test_quality_by_hand() -> None:
    labelled = np.array([[True, True], [True, False], [True, False]])
    truth = np.array([[1, -1], [0, 1], [-1, 1]])
    assert quality(labelled, truth) == Quality(2, 1, 3)
    first, second = qualities(labelled, truth)
    assert (first.precision, first.recall) == (50.0, 100.0) and (second.precision, second.recall) == (None, 0.0)
    assert Quality(0, 0, 0).recall is None


def test_iou_and_pairs_by_hand() -> None:
    one = np.array([[0.0, 0, 2, 2]])
    other = np.array([[1.0, 1, 3, 3]])
    assert iou(one, other) == pytest.approx([1 / 7])
    square = [0, 0, 4, 4]
    shifted = [0, 0, 4, 2]
    rows = np.array([0, 0, 1, 1, 2, 2, 2, 3])
    names = np.array([1, 0, 0, 1, 0, 1, 2, 0])
    boxes = np.array([square, square, square, shifted, square, square, [9, 9, 10, 10], square], np.float32)
    pairs = coinciding_pairs(rows, names, boxes, 5)
    assert [(pair.first, pair.second, pair.images.tolist()) for pair in pairs] == [(0, 1, [0, 1, 2])]
    assert pairs[0].mean_iou == pytest.approx((1 + 0.5 + 1) / 3) and pairs[0].example == 0
    assert coinciding_pairs(rows[:0], names[:0], boxes[:0], 5) == []


def test_charts_have_round_ticks_and_stay_inside() -> None:
    assert nice_ticks(0.58) == [0.0, 0.2, 0.4, 0.6] and nice_ticks(100) == [0, 25, 50, 75, 100]
    assert nice_ticks(0.0) == [0.0, 1.0]
    chart = line_chart("loss", [Series("a", ((1, 0.5), (2, float("nan")), (3, 0.0)), 0)], 1.5)
    assert [len(line.dots) for line in chart.lines] == [2]
    assert all(chart.left <= x <= chart.right and chart.top <= y <= chart.bottom for x, y in chart.lines[0].dots)


def test_missing_or_foreign_artifact_is_named(tmp_path: Path) -> None:
    folder = write_run(tmp_path)
    files = RunFiles.in_folder(folder)
    with pytest.raises(CcdError, match=r"pseudo_labels\.parquet: its schema.*evaluate"):
        read_run(replace(files, predictions=files.pseudo_labels))
    files.metrics.write_text("{}")
    with pytest.raises(CcdError, match=r"metrics\.json.*evaluate"):
        read_run(files)


def test_many_classes_and_images_stay_small(tmp_path: Path) -> None:
    names = (*CLASSES, *(f"class {number}" for number in range(1200)))
    folder = write_run(tmp_path, classes=names)
    text = render(read_run(RunFiles.in_folder(folder)), "toy", folder, {}, {})
    assert len(text.encode()) < 15_000_000 and "203 more classes" in text


@pytest.mark.parametrize("at_once", [1, 2, 8192])
def test_a_step_is_tallied_in_pieces_of_any_size(monkeypatch: pytest.MonkeyPatch, at_once: int) -> None:
    monkeypatch.setattr(quality_module, "IMAGES_AT_ONCE", at_once)
    before = np.array([[0.9, 0.1], [0.5, 0.6], [0.2, 0.7]])
    after = np.array([[0.9, 0.8], [0.4, 0.6], [0.5, 0.1]])
    made = step(before, after, np.array([[1, 1], [0, -1], [0, 1]], np.int8))
    assert made.positives == 3
    assert made.before.labels.tolist() == [2, 2] and made.after.labels.tolist() == [2, 2]
    assert made.added.labels.tolist() == [1, 1] and made.removed.labels.tolist() == [1, 1]
    assert made.added.known.tolist() == [1, 1] and made.added.right.tolist() == [0, 1]
    assert made.removed.known.tolist() == [1, 1] and made.removed.right.tolist() == [0, 1]
    assert made.before.quality(made.positives) == Quality(3, 2, 3)  # the unknown one is not counted
