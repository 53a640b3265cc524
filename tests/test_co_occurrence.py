"""Views that several classes ask for at one place: merged, or contested. By hand, against loops, and by property."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, strategies as st
from hypothesis.extra.numpy import arrays

from ccd.labels.debias import best_view
from ccd.views.overlap import coinciding_views, contested_probs, iou, pairs_of_classes, unshared_views

N = 3
C = 3
B = 8
SQUARE = [0, 0, 10, 10]
NEAR = [0, 0, 10, 8]
FAR = [50, 50, 60, 60]  # IoU of the first two: 80 / 100
images = arrays(np.int64, B, elements=st.integers(0, N - 1))
askers = arrays(np.int64, B, elements=st.integers(0, C - 1))
scores = arrays(np.float32, B, elements=st.sampled_from([0.25, 0.5, 0.75]))  # ties are common
corners = arrays(np.float32, (B, 4), elements=st.sampled_from([0, 1, 2])).map(
    lambda x: np.concatenate([x[:, :2], x[:, :2] + 8 + x[:, 2:]], axis=1)
)
views = arrays(np.float64, (B, C), elements=st.floats(0.0, 1.0))
whole = arrays(np.float64, (N, C), elements=st.floats(0.0, 1.0))
limits = st.sampled_from([0.3, 0.5, 0.7, 0.9, 1.0])
orders = st.permutations(range(B))


def test_pairs_are_of_one_image_and_of_two_classes() -> None:
    left, right = pairs_of_classes(np.array([1, 0, 1, 1, 0]), np.array([0, 2, 1, 0, 2]))
    assert {frozenset(pair) for pair in zip(left.tolist(), right.tolist(), strict=True)} == {
        frozenset((0, 2)),
        frozenset((2, 3)),
    }
    assert all(len(part) == 0 for part in pairs_of_classes(np.empty(0, np.int64), np.empty(0, np.int64)))


def test_the_threshold_itself_coincides() -> None:
    boxes = np.array([SQUARE, NEAR], np.float32)
    for limit, count in ((0.8, 1), (0.81, 0)):
        assert len(coinciding_views(np.zeros(2, np.int64), np.arange(2), boxes, limit)[0]) == count


def test_of_a_shared_place_the_class_with_the_larger_score_keeps_its_view() -> None:
    boxes = np.array([SQUARE, NEAR, FAR, SQUARE, SQUARE], np.float32)
    image = np.array([0, 0, 0, 1, 0])
    name = np.array([0, 1, 2, 1, 1])
    kept = unshared_views(image, name, np.array([0.5, 0.9, 0.1, 0.1, 0.9]), boxes, 0.7)
    assert kept.tolist() == [False, True, True, True, True], "two views of one class do not take each other out"
    kept = unshared_views(image, name, np.array([0.9, 0.5, 0.1, 0.1, 0.5]), boxes, 0.7)
    assert kept.tolist() == [True, False, True, True, False]


def test_a_view_that_is_gone_takes_nothing_out() -> None:
    """A row of three, each on its neighbour alone: the first takes out the second, so the third stays."""
    boxes = np.array([[0, 0, 10, 1], [2, 0, 12, 1], [4, 0, 14, 1]], np.float32)  # IoU 8/12 and 6/14
    kept = unshared_views(np.zeros(3, np.int64), np.arange(3), np.array([0.9, 0.8, 0.7]), boxes, 0.6)
    assert kept.tolist() == [True, False, True]


def slow_merge(image: np.ndarray, name: np.ndarray, score: np.ndarray, box: np.ndarray, limit: float) -> list[bool]:
    kept: list[int] = []
    for row in sorted(range(B), key=lambda i: (-score[i], name[i], box[i, 3], box[i, 2], box[i, 1], box[i, 0])):
        rivals = [i for i in kept if image[i] == image[row] and name[i] != name[row]]
        if not any(iou(box[[i]].astype(float), box[[row]].astype(float))[0] >= limit for i in rivals):
            kept.append(row)
    return [row in kept for row in range(B)]


@given(images, askers, scores, corners, limits)
def test_merging_is_what_a_loop_does(
    image: np.ndarray, name: np.ndarray, score: np.ndarray, box: np.ndarray, limit: float
) -> None:
    kept = unshared_views(image, name, score, box, limit)
    assert kept.tolist() == slow_merge(image, name, score, box, limit)
    assert len(coinciding_views(image[kept], name[kept], box[kept], limit)[0]) == 0, "no shared place is left"
    assert set(image[kept]) == set(image), "an image that had views has views"


@given(images, askers, scores, corners, limits, orders)
def test_merging_knows_no_order_of_views(
    image: np.ndarray, name: np.ndarray, score: np.ndarray, box: np.ndarray, limit: float, order: list[int]
) -> None:
    def left(rows: list[int]) -> list[tuple[float, ...]]:
        kept = unshared_views(image[rows], name[rows], score[rows], box[rows], limit)
        table = np.column_stack([image, name, score, box])[rows][kept]
        return sorted(map(tuple, table.tolist()))

    assert left(list(range(B))) == left(order)


def test_a_contested_view_raises_only_the_class_that_is_surest_there() -> None:
    """Skis, snowboard, hill. Skis and snowboard ask for nearly one box; CLIP says snowboard .7 in one of the two."""
    probs = np.array([[0.6, 0.3, 0.1], [0.2, 0.7, 0.1], [0.5, 0.1, 0.4]])
    boxes = np.array([SQUARE, NEAR, FAR], np.float32)
    image = np.zeros(3, np.int64)
    first = np.array([[0.3, 0.4, 0.3]])
    asked = ["skis", "snowboard", "hill"]
    found = contested_probs(probs, first, image, asked, boxes, 0.7)
    np.testing.assert_array_equal(found, [[0.3, 0.3, 0.1], [0.2, 0.7, 0.1], [0.5, 0.1, 0.4]])
    best, winner = best_view(found, image, 1)
    assert best.tolist() == [[0.5, 0.7, 0.4]], "skis from the view that nobody contests, not the .6"
    assert winner.tolist() == [[2, 1, 2]]
    alone = best_view(contested_probs(probs[:2], first, image[:2], asked[:2], boxes[:2], 0.7), image[:2], 1)[0]
    assert alone.tolist() == [[0.3, 0.7, 0.1]], "no other view: skis keep the global probability, hill may still fall"


def test_one_class_alone_contests_nothing() -> None:
    probs = np.array([[0.6, 0.4], [0.3, 0.7]])
    boxes = np.array([SQUARE, NEAR], np.float32)
    found = contested_probs(probs, np.array([[0.1, 0.1]]), np.zeros(2, np.int64), ["cup", "cup"], boxes, 0.7)
    np.testing.assert_array_equal(found, probs)


def test_equal_classes_both_win() -> None:
    probs = np.array([[0.5, 0.2], [0.2, 0.5]])
    boxes = np.array([SQUARE, NEAR], np.float32)
    found = contested_probs(probs, np.zeros((1, 2)), np.zeros(2, np.int64), ["a", "b"], boxes, 0.7)
    np.testing.assert_array_equal(found, probs)


def slow_contest(
    probs: np.ndarray, first: np.ndarray, image: np.ndarray, name: np.ndarray, box: np.ndarray, limit: float
) -> np.ndarray:
    found = probs.copy()
    for view in range(B):
        rivals = [
            other
            for other in range(B)
            if image[other] == image[view]
            and name[other] != name[view]
            and iou(box[[view]].astype(float), box[[other]].astype(float))[0] >= limit
        ]
        best = probs[[view, *rivals]].max(axis=0)
        for place in range(C):
            if rivals and best[place] < best.max():
                found[view, place] = min(probs[view, place], first[image[view], place])
    return found


@given(views, whole, images, askers, corners, limits, orders)
def test_a_contest_is_what_a_loop_does_raises_nothing_and_knows_no_order(
    probs: np.ndarray,
    first: np.ndarray,
    image: np.ndarray,
    name: np.ndarray,
    box: np.ndarray,
    limit: float,
    order: list[int],
) -> None:
    asked = [f"class {row}" for row in name]
    found = contested_probs(probs, first, image, asked, box, limit)
    np.testing.assert_array_equal(found, slow_contest(probs, first, image, name, box, limit))
    plain, best = (best_view(each, image, N)[0] for each in (probs, found))
    seen = ~np.isnan(plain)
    assert (best[seen] <= plain[seen]).all(), "never above the value without a contest"
    assert (best[seen] >= np.minimum(plain, first)[seen]).all(), "lowered to the global probability at most"
    moved = contested_probs(probs[order], first, image[order], [asked[row] for row in order], box[order], limit)
    np.testing.assert_array_equal(moved, found[order])
    for number in range(N):
        own = image == number
        names = [asked[row] for row in np.flatnonzero(own)]
        alone = contested_probs(probs[own], first[[number]], image[own] * 0, names, box[own], limit)
        np.testing.assert_array_equal(alone, found[own], err_msg="images may come in pieces")


@given(views, whole, images, askers)
def test_without_overlap_nothing_changes(
    probs: np.ndarray, first: np.ndarray, image: np.ndarray, name: np.ndarray
) -> None:
    box = np.arange(B, dtype=np.float32)[:, None] * 20 + np.array([0, 0, 10, 10], np.float32)
    asked = [f"class {row}" for row in name]
    np.testing.assert_array_equal(contested_probs(probs, first, image, asked, box, 0.1), probs)
    assert contested_probs(probs, first, image, asked, box, None) is probs
    assert unshared_views(image, name, probs[:, 0], box, 0.1).all()


def test_no_view_at_all() -> None:
    none = np.empty(0, np.int64)
    assert contested_probs(np.empty((0, 2)), np.ones((3, 2)), none, [], np.empty((0, 4)), 0.7).shape == (0, 2)
    assert unshared_views(none, none, np.empty(0), np.empty((0, 4)), 0.7).shape == (0,)
    assert best_view(np.empty((0, 2)), none, 3)[1] == pytest.approx(-1)
