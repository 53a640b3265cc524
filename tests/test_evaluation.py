"""Average precision by hand and against scikit-learn; what is left out of a mean."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, strategies as st
from sklearn.metrics import average_precision_score

from ccd.evaluation.average_precision import average_precision
from ccd.evaluation.measure import measure


def test_by_hand() -> None:
    # ranked: hit, miss, hit -> (1/1 + 2/3) / 2
    scores, positives = np.array([[0.9], [0.8], [0.7]]), np.array([[True], [False], [True]])
    assert average_precision(scores, positives) == pytest.approx([(1 + 2 / 3) / 2])


def test_ties_are_one_threshold_whatever_their_order() -> None:
    positives = np.array([[True], [False], [False], [True]])
    assert average_precision(np.ones((4, 1)), positives) == pytest.approx([0.5])
    assert average_precision(np.ones((4, 1)), positives[::-1]) == pytest.approx([0.5])


def test_no_positive_is_nan_and_ignored_pairs_do_not_count() -> None:
    scores, positives = np.array([[0.9, 0.1], [0.8, 0.2]]), np.array([[False, False], [True, False]])
    ap = average_precision(scores, positives, np.array([[True, False], [False, False]]))
    assert ap[0] == 1.0 and np.isnan(ap[1])


@given(st.integers(1, 40), st.integers(0, 2**31))
def test_agrees_with_scikit_learn(rows: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    scores, positives = rng.integers(0, 6, (rows, 3)) / 5, rng.random((rows, 3)) < 0.4
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
        {"s": np.zeros((2, 1))}, np.zeros((2, 1), np.int8), np.zeros((2, 1), bool), ("a",),
        treat_difficult="ignore", min_positives=1,
    )  # fmt: skip
    assert empty.mean_ap == {"s": None} and empty.left_out == ("a",)
