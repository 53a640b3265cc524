"""Properties of the label maths (method sections 1, 2, 3, 6, 7) that hold for every input."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, strategies as st
from hypothesis.extra.numpy import arrays

from ccd.labels.bias import class_bias, top1_of
from ccd.labels.debias import (
    LocalViews,
    WholeImages,
    aggregate,
    best_view,
    debiased,
    global_label,
    local_label,
    pseudo_labels,
)
from ccd.labels.scores import clip_probs, entropy_nats, softmax

N = 5
C = 4
B = 6
D = 3
logits = arrays(np.float64, (N, C), elements=st.floats(-200, 200))
# no ties: a tie goes to the first class, which an order decides
distinct = st.tuples(
    st.lists(st.permutations(range(C)), min_size=N, max_size=N), arrays(np.float64, (N, C), elements=st.floats(0, 0.9))
).map(lambda parts: np.asarray(parts[0]) + parts[1])
positive = arrays(np.float64, (N, C), elements=st.floats(1e-6, 1.0))
views = arrays(np.float64, (B, C), elements=st.floats(0.0, 1.0))
owners = arrays(np.int64, B, elements=st.integers(0, N - 1))
biases = arrays(np.float64, C, elements=st.floats(0.05, 1.0))
floors = st.floats(0.0, 0.5)
alphas = st.floats(0.0, 1.0)
images = st.permutations(range(N))
classes = st.permutations(range(C))
vectors = arrays(np.float64, (N, D), elements=st.floats(-1, 1))


@given(logits)
def test_softmax_is_a_distribution_in_the_logits_order(x: np.ndarray) -> None:
    p = softmax(x)
    assert (p >= 0).all() and np.allclose(p.sum(axis=1), 1)
    for row in range(N):
        assert (np.diff(p[row, np.argsort(x[row], kind="stable")]) >= 0).all()


@given(logits, st.floats(-1e3, 1e3), images, classes)
def test_softmax_ignores_a_shift_and_follows_every_order(
    x: np.ndarray, shift: float, rows: list[int], columns: list[int]
) -> None:
    np.testing.assert_allclose(softmax(x + shift), softmax(x), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(softmax(x[rows][:, columns]), softmax(x)[rows][:, columns], rtol=1e-12)


@given(vectors, arrays(np.float64, (C, D), elements=st.floats(-1, 1)), st.floats(0.1, 200), st.floats(0.1, 10))
def test_scores_depend_on_scale_times_cosine_alone(
    features: np.ndarray, text: np.ndarray, scale: float, factor: float
) -> None:
    """Twice the scale is twice the length: temperature and norm cannot be told apart."""
    np.testing.assert_allclose(
        clip_probs(features * factor, text, scale), clip_probs(features, text, scale * factor), rtol=1e-6, atol=1e-12
    )


@given(logits, images, classes)
def test_entropy_is_bounded_and_knows_no_order_of_classes(x: np.ndarray, rows: list[int], columns: list[int]) -> None:
    p = softmax(x)
    entropy = entropy_nats(p)
    assert (entropy >= -1e-12).all() and (entropy <= np.log(C) + 1e-12).all()
    np.testing.assert_allclose(entropy_nats(p[rows][:, columns]), entropy[rows], rtol=1e-9, atol=1e-12)


@given(distinct, st.floats(0.01, 5.0), images, classes)
def test_bias_is_a_mean_of_top1_probabilities_in_any_order(
    x: np.ndarray, shrinkage: float, rows: list[int], columns: list[int]
) -> None:
    p = softmax(x)
    names = tuple("abcd")
    found = class_bias(top1_of(p), names, 10.0, shrinkage)
    top = p.max(axis=1)
    assert (found.values >= top.min() - 1e-12).all() and (found.values <= top.max() + 1e-12).all()
    assert found.values.min() >= 1 / C - 1e-12 and found.top1_counts.sum() == N
    other = class_bias(top1_of(p[rows][:, columns]), tuple(names[c] for c in columns), 10.0, shrinkage)
    np.testing.assert_allclose(other.values, found.values[columns], rtol=1e-9)
    assert other.top1_counts.tolist() == found.top1_counts[columns].tolist()


@given(logits)
def test_much_shrinkage_gives_every_class_the_mean(x: np.ndarray) -> None:
    found = class_bias(top1_of(softmax(x)), tuple("abcd"), 10.0, 1e12)
    np.testing.assert_allclose(found.values, found.values.mean(), rtol=1e-6)


@given(positive, positive, biases, floors)
def test_a_global_label_rises_with_its_probability(
    p: np.ndarray, more: np.ndarray, b: np.ndarray, floor: float
) -> None:
    q = global_label(p, b, floor)
    assert (global_label(p + more, b, floor) >= q).all()
    assert (q >= min(floor, 1.0) - 1e-12).all() and (q <= 1).all(), "b <= 1, so no label is below the floor"
    assert (q >= np.minimum(p, 1) - 1e-12).all(), "debiasing never lowers a label"


@given(positive, biases, st.floats(0.1, 1.0))
def test_labels_depend_on_the_ratio_to_the_bias_alone(p: np.ndarray, b: np.ndarray, factor: float) -> None:
    np.testing.assert_allclose(debiased(p * factor, b * factor, 0.0), debiased(p, b, 0.0), rtol=1e-9)


@given(positive, positive, biases, floors, alphas)
def test_the_label_lies_between_global_and_local(
    p: np.ndarray, local: np.ndarray, b: np.ndarray, floor: float, alpha: float
) -> None:
    q = global_label(p, b, floor)
    one = np.clip(local_label(local, q, b, floor), 0, 1)
    y = aggregate(q, one, alpha)
    assert (y >= np.minimum(q, one) - 1e-12).all() and (y <= np.maximum(q, one) + 1e-12).all()
    np.testing.assert_allclose(aggregate(q, one, 1.0), q)
    np.testing.assert_allclose(aggregate(q, one, 0.0), one)


def made(
    p: np.ndarray, v: np.ndarray, rows: np.ndarray, b: np.ndarray, floor: float, alpha: float
) -> dict[str, np.ndarray]:
    return pseudo_labels(WholeImages(p, global_label(p, b, floor)), LocalViews(v, rows), b, floor, alpha)


@given(positive, views, owners, biases, floors, images, classes)
def test_pseudo_labels_follow_every_order_of_images_and_classes(
    p: np.ndarray, v: np.ndarray, rows: np.ndarray, b: np.ndarray, floor: float, order: list[int], columns: list[int]
) -> None:
    plain = made(p, v, rows, b, floor, 0.4)
    place = np.argsort(order)  # where an image went
    moved = made(p[order][:, columns], v[:, columns], place[rows], b[columns], floor, 0.4)
    for name, values in plain.items():
        np.testing.assert_array_equal(moved[name], values[order][:, columns], err_msg=name)


@given(positive, views, owners, biases, floors, alphas)
def test_a_further_view_never_lowers_a_label(
    p: np.ndarray, v: np.ndarray, rows: np.ndarray, b: np.ndarray, floor: float, alpha: float
) -> None:
    """The local label is a maximum over views; the first view of an image is what may lower its label."""
    assume((rows[:-1] == rows[-1]).any())
    fewer, all_ = (made(p, v[:end], rows[:end], b, floor, alpha)["label"] for end in (B - 1, B))
    assert (all_ >= fewer - 1e-12).all()


@given(positive, views, owners, biases, floors)
def test_alpha_1_uses_no_view(p: np.ndarray, v: np.ndarray, rows: np.ndarray, b: np.ndarray, floor: float) -> None:
    found = made(p, v, rows, b, floor, 1.0)
    np.testing.assert_array_equal(found["label"], found["global_label"])


@given(views, owners)
def test_the_winning_view_is_the_images_own_and_has_the_largest_probability(v: np.ndarray, rows: np.ndarray) -> None:
    largest, winner = best_view(v, rows, N)
    for image, column in np.argwhere(winner >= 0):
        assert rows[winner[image, column]] == image
        assert v[winner[image, column], column] == largest[image, column] == v[rows == image, column].max()
    assert ((winner < 0).all(axis=1) == ~np.isin(np.arange(N), rows)).all()


@pytest.mark.parametrize("scale", [1.0, 100.0, 1e4])
def test_no_scale_overflows(scale: float) -> None:
    p = clip_probs(np.eye(2, dtype=np.float32), np.array([[1, 0], [-1, 0]], np.float32), scale)
    assert np.isfinite(p).all() and np.allclose(p.sum(axis=1), 1)
