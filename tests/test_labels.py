"""The label maths against values worked by hand from the paper's formulas, and their properties."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, strategies as st
from hypothesis.extra.numpy import arrays

from ccd.errors import CcdError
from ccd.labels.bias import class_bias, top1_of
from ccd.labels.debias import (
    LEVELS,
    LocalViews,
    Sharpening,
    WholeImages,
    aggregate,
    best_view,
    debiased,
    global_label,
    label_changes,
    local_label,
    prevalence_levels,
    pseudo_labels,
    sharpened,
    sharpening,
    whole_image_labels,
)
from ccd.labels.scores import clip_probs, entropy_nats, softmax

CLASSES = ("a", "b", "c")
PROBS = np.array([[0.8, 0.1, 0.1], [0.6, 0.3, 0.1], [0.2, 0.7, 0.1], [0.34, 0.33, 0.33]])


def test_softmax_by_hand_and_at_scale() -> None:
    assert softmax(np.log([[1.0, 2.0, 5.0]])) == pytest.approx(np.array([[0.125, 0.25, 0.625]]))
    assert softmax(np.array([[1e4, 0.0]])).tolist() == [[1.0, 0.0]]


@pytest.mark.parametrize("shape", [(2,), (1, 2), (3, 1, 2), (2, 2, 2)])
def test_softmax_of_any_shape_is_over_the_classes(shape: tuple[int, ...]) -> None:
    logits = np.broadcast_to([0.0, np.log(3)], shape)
    np.testing.assert_allclose(softmax(logits), np.broadcast_to([0.25, 0.75], shape))


def test_clip_probs_is_softmax_of_scaled_cosines() -> None:
    features = np.array([[1.0, 0.0]], np.float32)
    text = np.array([[0.6, 0.8], [0.0, 1.0]], np.float32)
    expected = 1 / (1 + np.exp(-100 * 0.6))
    assert clip_probs(features, text, 100.0)[0] == pytest.approx([expected, 1 - expected])


def test_entropy_in_nats() -> None:
    assert entropy_nats(np.array([[0.5, 0.5, 0.0]])) == pytest.approx([np.log(2)])
    assert entropy_nats(np.full((1, 20), 0.05)) == pytest.approx([np.log(20)])
    assert entropy_nats(np.array([[1.0, 0.0]])) == pytest.approx([0.0])


def test_bias_is_the_mean_top1_probability_of_reliable_images() -> None:
    # entropies: .639, .898, .802, 1.0985 nats; at 1.0 the last image is out. c is nobody's top-1.
    found = class_bias(top1_of(PROBS), CLASSES, 1.0, shrinkage=1.0)
    mean_b = (0.7 + 0.7) / 2
    assert found.top1_counts.tolist() == [2, 1, 0]
    assert found.reliable_share == 0.75
    assert found.values == pytest.approx([(1.4 + mean_b) / 3, (0.7 + mean_b) / 2, mean_b])


def test_bias_without_shrinkage_is_the_paper_and_names_classes_without_top1() -> None:
    with pytest.raises(CcdError, match=r"no image has c as CLIP's top-1.*bias.shrinkage"):
        class_bias(top1_of(PROBS), CLASSES, 1.0, 0.0)
    two = class_bias(top1_of(np.array([[0.8, 0.2], [0.6, 0.4], [0.3, 0.7]])), CLASSES[:2], 1.0, 0.0)
    assert two.values == pytest.approx([(0.8 + 0.6) / 2, 0.7])


def test_bias_without_a_reliable_image_says_so() -> None:
    with pytest.raises(CcdError, match="max_entropy_nats"):
        class_bias(top1_of(PROBS), CLASSES, 0.1, 1.0)


def test_global_label_floors_divides_and_clips() -> None:
    probs = np.array([[0.01, 0.35, 0.9]])
    bias = np.array([0.5, 0.7, 0.8])
    assert debiased(probs, bias, 0.05)[0] == pytest.approx([0.1, 0.5, 1.125])
    assert global_label(probs, bias, 0.05)[0] == pytest.approx([0.1, 0.5, 1.0])


def test_whole_image_labels_are_the_global_labels_times_a_weight() -> None:
    p = np.array([[0.02, 0.6], [0.9, 0.08]])
    b = np.array([0.5, 0.8])
    found = whole_image_labels(p, b, 0.05)
    np.testing.assert_allclose(found["label"], [[0.1, 0.75], [1.0, 0.1]])
    np.testing.assert_array_equal(found["prob"], p)
    halved = whole_image_labels(p, b, 0.05, np.array([1.0, 0.5]))
    np.testing.assert_allclose(halved["label"], [[0.1, 0.75], [0.5, 0.05]])


def test_best_view_is_the_maximum_and_says_which_view() -> None:
    views = np.array([[0.1, 0.9], [0.7, 0.3], [0.7, 0.2], [0.4, 0.6]])
    largest, winner = best_view(views, np.array([2, 0, 0, 2]), 3)
    np.testing.assert_array_equal(largest, [[0.7, 0.3], [np.nan, np.nan], [0.4, 0.9]])
    np.testing.assert_array_equal(winner, [[1, 1], [-1, -1], [3, 0]])


def test_best_view_of_no_views() -> None:
    largest, winner = best_view(np.empty((0, 2)), np.empty(0, np.int64), 2)
    assert np.isnan(largest).all() and (winner == -1).all()


def test_image_without_views_keeps_its_global_label() -> None:
    q = np.array([[0.3, 1.0], [0.5, 0.2]])
    local = local_label(np.array([[np.nan, np.nan], [0.4, 0.01]]), q, np.array([0.8, 0.5]), 0.05)
    assert local == pytest.approx(np.array([[0.3, 1.0], [0.5, 0.1]]))
    assert aggregate(q, local, 0.4) == pytest.approx(np.array([[0.3, 1.0], [0.5, 0.14]]))


def test_aggregate_by_hand_and_clipped() -> None:
    assert aggregate(np.array([[0.5]]), np.array([[1.0]]), 0.4) == pytest.approx(np.array([[0.8]]))
    assert aggregate(np.array([[1.0]]), np.array([[1.3]]), 0.4).item() == 1.0


probabilities = arrays(np.float64, (4, 3), elements=st.floats(1e-6, 1.0))
biases = arrays(np.float64, 3, elements=st.floats(0.05, 1.0))
unit = st.floats(0.0, 1.0)


@given(probabilities, biases, st.floats(0.0, 0.5), unit)
def test_labels_stay_in_range_and_alpha_1_is_global(p: np.ndarray, b: np.ndarray, floor: float, alpha: float) -> None:
    q = global_label(p, b, floor)
    local = local_label(p[::-1], q, b, floor)
    y = aggregate(q, local, alpha)
    assert ((q >= 0) & (q <= 1) & (y >= 0) & (y <= 1)).all()
    np.testing.assert_allclose(aggregate(q, local, 1.0), q)


@given(probabilities, biases)
def test_dividing_by_a_class_constant_keeps_each_class_in_order(p: np.ndarray, b: np.ndarray) -> None:
    divided = debiased(p, b, 0.0)
    for column in range(3):
        order = np.argsort(p[:, column], kind="stable")
        assert (np.diff(divided[order, column]) >= 0).all()


@given(probabilities, st.lists(st.integers(0, 4), min_size=4, max_size=4))
def test_best_view_equals_the_loop(p: np.ndarray, rows: list[int]) -> None:
    largest, winner = best_view(p, np.asarray(rows), 5)
    for image in range(5):
        own = [view for view in range(4) if rows[view] == image]
        for column in range(3):
            if own:
                assert largest[image, column] == max(p[view, column] for view in own)
                assert winner[image, column] == max(own, key=lambda view: (p[view, column], -view))
            else:
                assert np.isnan(largest[image, column]) and winner[image, column] == -1


def test_label_changes_are_counted_at_one_half() -> None:
    columns = {
        "global_label": np.array([[0.5, 0.6, 0.4], [0.49, 0.1, 0.7]]),
        "label": np.array([[0.5, 0.2, 0.5], [0.9, 0.3, 0.4]]),
    }
    assert label_changes(columns).tolist() == [3, 3, 2, 2], "before, after, raised, lowered"


def test_sharpened_by_hand() -> None:
    labels = np.array([[0.5, 0.6], [0.4, 1.0]])
    found = sharpened(labels, at=0.5, width=0.1)
    np.testing.assert_allclose(found, [[0.5, 1 / (1 + np.exp(-1))], [1 / (1 + np.exp(1)), 1 / (1 + np.exp(-5))]])
    assert (sharpened(labels, at=0.5, width=None) is labels) and (found.argsort(axis=0) == labels.argsort(axis=0)).all()
    weighed = sharpened(labels, 0.5, 0.1, np.array([0.0, 0.5]))
    np.testing.assert_allclose(weighed, [[0.0, 0.0], 0.5 * found[1]])


@pytest.mark.parametrize(
    ("labels", "between"),
    [
        ([0.9, 0.6, 0.3, 0.2], (0.3, 0.6)),  # they add up to 2, so two images are to reach t
        ([0.5, 0.1, 0.5, 0.5], (0.1, 0.5)),  # 1.6: ties allow 0, 3 or 4 images, and 3 is nearest
        ([0.5, 0.5], (0.5, 1.0)),  # 1 is as near to 0 as to 2 images: the smaller
        ([0.0, 0.0, 0.0], (0.0, 1.0)),  # nobody has the class
        ([1.0, 1.0], (0.0, 1.0)),  # everybody has
        ([0.7], (0.0, 0.7)),  # one image
        ([0.2], (0.2, 1.0)),
    ],
)
def test_prevalence_levels_by_hand(labels: list[float], between: tuple[float, float]) -> None:
    column = np.asarray(labels, np.float32)[:, None]
    found = prevalence_levels([column])
    assert found == pytest.approx([sum(between) / 2], abs=1 / LEVELS)
    doubled = np.hstack([column, np.ones_like(column)])
    pieces = prevalence_levels([doubled[:1], doubled[:0], doubled[1:]])
    assert pieces.tolist() == [found[0], 0.5], "class by class, and whatever the pieces"


def test_labels_are_sharpened_around_each_classs_own_middle() -> None:
    labels = np.array([[0.9, 0.1], [0.3, 0.3]])
    found = sharpened(labels, np.array([0.5, 0.2]), 0.1)
    np.testing.assert_allclose(found, 1 / (1 + np.exp([[-4.0, 1.0], [2.0, -1.0]])))


def test_the_middles_are_asked_for_only_by_prevalence() -> None:
    def pieces(labels: np.ndarray | None) -> Iterator[np.ndarray]:
        if labels is None:
            raise AssertionError("nobody reads the labels twice for a number")
        yield labels

    assert sharpening(None, "prevalence", pieces(None)) == Sharpening(None)
    assert sharpening(0.1, 0.4, pieces(None)) == Sharpening(0.1, 0.4) and Sharpening(0.1, 0.4).by_class is None
    found = sharpening(0.1, "prevalence", pieces(np.array([[0.75], [0.25]])))
    assert found.width == 0.1 and found.by_class is not None
    assert found.by_class == pytest.approx([0.5], abs=1 / LEVELS)


def test_pseudo_labels_are_sharpened_after_mixing() -> None:
    """y = 0.4 * 0.5 + 0.6 * 0.75 = 0.65, times the image's weight 0.5; then 0.5 * s((0.325 - 0.125) / 0.1)."""
    images = WholeImages(np.array([[0.5]]), np.array([[0.25]]), np.array([0.5]))
    views = LocalViews(np.array([[0.75]]), np.array([0]))
    one = np.ones(1)
    assert pseudo_labels(images, views, one, 0.0, 0.4)["label"].item() == pytest.approx(0.325)
    sharp = pseudo_labels(images, views, one, 0.0, 0.4, Sharpening(0.1, np.array([0.125])))
    assert sharp["label"].item() == pytest.approx(0.5 / (1 + np.exp(-2)))
    assert sharp["local_label"].item() == pytest.approx(0.375)
