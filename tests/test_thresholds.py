"""Decision thresholds by hand: matching the labels' shares, and the best F1 on labelled images."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from sklearn.metrics import f1_score

from ccd.evaluation.metrics import f1
from ccd.labels.thresholds import best_f1_thresholds, decide, prevalence_thresholds


def column(*values: float) -> np.ndarray:
    return np.array(values, np.float32)[:, None]


def test_a_threshold_lies_half_way_between_the_last_yes_and_the_first_no() -> None:
    scores = column(0.75, 0.125, 0.5, 0.25)
    labels = column(1.0, 0.0, 0.5, 0.49)  # two of them say that the class is there
    assert prevalence_thresholds(scores, labels) == pytest.approx([(0.5 + 0.25) / 2], abs=0)
    assert decide(scores, prevalence_thresholds(scores, labels))[:, 0].tolist() == [True, False, True, False]


def test_none_and_all_images_can_be_asked_for() -> None:
    scores = column(0.5, 0.25, 1.0)
    never, always = (prevalence_thresholds(scores, column(*[y] * 3)) for y in (0.0, 1.0))
    assert not decide(scores, never).any() and never[0] > 1
    assert decide(scores, always).all() and always[0] == 0.125


@pytest.mark.parametrize(("wanted", "decided"), [(1, 0), (2, 3), (3, 3)])
def test_equal_scores_are_decided_alike_and_the_nearest_number_is_taken(wanted: int, decided: int) -> None:
    """Three equal scores: only 0, 3 or 4 are possible."""
    scores = column(0.5, 0.5, 0.5, 0.25)
    labels = column(*[1.0] * wanted, *[0.0] * (4 - wanted))
    assert decide(scores, prevalence_thresholds(scores, labels)).sum() == decided


@settings(deadline=None)
@given(st.integers(1, 60), st.integers(0, 2**31))
def test_distinct_scores_give_exactly_the_labels_count(images: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    scores = rng.permutation(np.arange(1, 3 * images + 1)).reshape(images, 3).astype(np.float32) / (3 * images)
    labels = rng.random((images, 3))
    decided = decide(scores, prevalence_thresholds(scores, labels))
    assert decided.sum(axis=0).tolist() == (labels >= 0.5).sum(axis=0).tolist()


def test_neighbouring_numbers_are_told_apart_whatever_their_precision() -> None:
    for kind in (np.float32, np.float64):
        low = kind(0.3)
        scores = np.array([[low], [np.nextafter(low, kind(1))]])
        labels = column(0.0, 1.0)
        assert decide(scores, prevalence_thresholds(scores, labels))[:, 0].tolist() == [False, True]


def test_best_f1_by_hand_and_a_class_without_positives_keeps_its_threshold() -> None:
    """Ranked yes, no, yes, no: cuts after 1, 2, 3, 4 give F1 2/3, 1/2, 4/5, 2/3."""
    scores = np.array([[0.8, 0.1], [0.6, 0.2], [0.4, 0.3], [0.2, 0.4]], np.float32)
    positives = np.array([[True, False], [False, False], [True, False], [False, False]])
    found = best_f1_thresholds(scores, positives, np.array([0.9, 0.7]))
    assert found == pytest.approx([0.3, 0.7])


def test_of_equally_good_cuts_the_highest_is_taken() -> None:
    """Ranked yes, no, no, yes: deciding the first and deciding all give 2/3 each."""
    positives = np.array([[True], [False], [False], [True]])
    assert best_f1_thresholds(column(0.9, 0.8, 0.7, 0.6), positives, np.array([0.5])) == pytest.approx([0.85])


@settings(deadline=None)
@given(st.integers(2, 30), st.integers(0, 2**31))
def test_no_threshold_beats_the_best_one(images: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    scores = (rng.integers(0, 8, (images, 2)) / 8).astype(np.float32)
    positives = rng.random((images, 2)) < 0.5
    positives[0] = True
    best = f1(decide(scores, best_f1_thresholds(scores, positives, np.zeros(2))), positives)
    for threshold in np.linspace(0.01, 1.01, 17):
        assert (best >= f1(scores >= threshold, positives) - 1e-12).all()


@settings(deadline=None)
@given(st.integers(1, 40), st.integers(0, 2**31))
def test_f1_agrees_with_scikit_learn(images: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    decided, positives = rng.random((2, images, 3)) < 0.4
    for place, value in enumerate(f1(decided, positives)):
        if positives[:, place].any():
            assert value == pytest.approx(f1_score(positives[:, place], decided[:, place]))
        else:
            assert np.isnan(value)
