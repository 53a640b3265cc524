"""Average precision by hand and against scikit-learn; what is left out of a mean."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from sklearn.metrics import average_precision_score

from ccd.evaluation.metrics import average_precision, calibration_error, f1, measure
from ccd.evaluation.summary import Scores, Truth, evaluate


def test_by_hand() -> None:
    # ranked: hit, miss, hit -> (1/1 + 2/3) / 2
    scores = np.array([[0.9], [0.8], [0.7]])
    positives = np.array([[True], [False], [True]])
    assert average_precision(scores, positives) == pytest.approx([(1 + 2 / 3) / 2])


def test_ties_are_one_threshold_whatever_their_order() -> None:
    positives = np.array([[True], [False], [False], [True]])
    assert average_precision(np.ones((4, 1)), positives) == pytest.approx([0.5])
    assert average_precision(np.ones((4, 1)), positives[::-1]) == pytest.approx([0.5])


def test_no_positive_is_nan_and_ignored_pairs_do_not_count() -> None:
    scores = np.array([[0.9, 0.1], [0.8, 0.2]])
    positives = np.array([[False, False], [True, False]])
    ap = average_precision(scores, positives, np.array([[True, False], [False, False]]))
    assert ap[0] == 1.0 and np.isnan(ap[1])


@settings(deadline=None)
@given(st.integers(1, 40), st.integers(0, 2**31))
def test_agrees_with_scikit_learn(rows: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, 6, (rows, 3)) / 5
    positives = rng.random((rows, 3)) < 0.4
    for column, value in enumerate(average_precision(scores, positives)):
        if positives[:, column].any():
            assert value == pytest.approx(average_precision_score(positives[:, column], scores[:, column]))


def test_measure_leaves_rare_classes_out_and_treats_difficult_as_told() -> None:
    labels = np.array([[1, 0, 0], [0, 1, 0], [1, 0, 0], [0, 0, 0]], np.int8)
    difficult = np.zeros((4, 3), bool)
    difficult[3, 0] = True
    scores = {"s": np.array([[0.9, 0.5, 0.1], [0.1, 0.9, 0.1], [0.3, 0.2, 0.3], [0.5, 0.1, 0.2]])}
    by_rule = {
        rule: measure(scores, labels, difficult, ("a", "b", "c"), treat_difficult=rule, min_positives=2)
        for rule in ("ignore", "positive", "negative")
    }
    assert by_rule["ignore"].left_out == ("b", "c")
    assert by_rule["ignore"].mean_ap["s"] == pytest.approx(100.0)
    assert by_rule["negative"].mean_ap["s"] == pytest.approx(100 * (1 + 2 / 3) / 2)
    assert by_rule["positive"].positives.tolist() == [3, 1, 0]
    assert by_rule["positive"].mean_ap["s"] == pytest.approx(100.0)


def test_measure_without_any_class_has_no_mean() -> None:
    empty = measure(
        {"s": np.zeros((2, 1))},
        np.zeros((2, 1), np.int8),
        np.zeros((2, 1), bool),
        ("a",),
        treat_difficult="ignore",
        min_positives=1,
    )
    assert empty.mean_ap == {"s": None} and empty.left_out == ("a",)


def test_calibration_error_by_hand() -> None:
    """Two bins: 0.2 and 0.4, none there (0.3 off), 0.75 and 1.0, both there (0.125 off): (2 * 0.3 + 2 * 0.125) / 4."""
    probs = np.array([[0.2], [0.4], [0.75], [1.0]])
    positives = np.array([[False], [False], [True], [True]])
    assert calibration_error(probs, positives, bins=2) == pytest.approx([0.2125])
    ignored = np.array([[True], [True], [False], [False]])
    assert calibration_error(probs, positives, ignored, bins=2) == pytest.approx([0.125])
    assert np.isnan(calibration_error(probs, positives, np.ones((4, 1), bool))[0])


def test_ignored_pairs_count_neither_as_hit_nor_as_miss() -> None:
    decided = np.array([[True], [True], [False]])
    positives = np.array([[True], [False], [True]])
    assert f1(decided, positives) == pytest.approx([0.5])
    assert f1(decided, positives, np.array([[False], [True], [True]])) == pytest.approx([1.0])


def test_decisions_on_the_test_images_and_the_keys_they_add() -> None:
    """At 0.5 the student finds one of two cats; at its own threshold 0.3 both."""
    student = np.array([[0.9, 0.6], [0.4, 0.1], [0.2, 0.2]])
    teacher = np.full((3, 2), 0.5)
    known = np.array([[1, 0], [1, 0], [0, 0]], np.int8)
    truth = Truth(["a", "b", "c"], ("cat", "dog"), known, np.zeros((3, 2), bool))
    empty = Scores([], {"zero_shot": np.empty((0, 2)), "aggregated_raw": np.empty((0, 2))})
    tables = {"zero_shot": teacher, "warmup": teacher, "student": student}
    found = evaluate(
        empty, Scores(["c", "b", "a"], {k: v[::-1] for k, v in tables.items()}), truth, [0.3, 0.7], "ignore", 1
    )
    assert found.metrics["test"]["F1"] == {"thresholds": 100.0, "half": 66.67}
    assert found.metrics["test"]["ECE"] == {"zero_shot": 16.67, "student": 30.0}
    assert "F1" not in found.metrics["train"]
    cat, dog = found.rows
    assert (cat["threshold"], cat["test_f1_thresholds"], cat["test_f1_half"]) == (0.3, 100.0, 66.67)
    assert dog["test_f1_thresholds"] == "" and dog["test_ece_student"] == 30.0


def test_without_labelled_test_images_there_is_no_f1() -> None:
    nothing = {name: np.empty((0, 1)) for name in ("zero_shot", "aggregated_raw", "warmup", "student")}
    truth = Truth([], ("cat",), np.empty((0, 1), np.int8), np.empty((0, 1), bool))
    found = evaluate(Scores([], nothing), Scores([], nothing), truth, [0.5], "ignore", 1)
    assert found.metrics["test"] == {"mAP": {}, "labelled_images": 0, "classes_counted": 0, "classes_left_out": "all"}
    assert found.rows[0]["test_ece_student"] == ""
