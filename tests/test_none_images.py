"""Images that show none of the classes: rules on hand-worked scores, and what becomes of their labels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, strategies as st
from hypothesis.extra.numpy import arrays

from ccd.artifacts import background_file, text_file
from ccd.errors import CcdError
from ccd.labels.background import RuleName, find_background_images
from ccd.labels.debias import LocalViews, WholeImages, global_label, pseudo_labels
from ccd.labels.scores import Scoring
from ccd.params.file import validate
from ccd.params.sections import GlobalLabelsParams
from tests.toys.texts import text_of

N = 4
C = 3
B = 5
PROBS = np.array([[0.98, 0.01, 0.01], [0.5, 0.5, 0.0], [0.4, 0.3, 0.3], [1.0, 0.0, 0.0]])
rows_of_probs = arrays(np.float64, (N, C), elements=st.floats(1e-3, 1.0)).map(
    lambda x: x / x.sum(axis=1, keepdims=True)
)
view_probs = arrays(np.float64, (B, C), elements=st.floats(0.0, 1.0))
owners = arrays(np.int64, B, elements=st.integers(0, N - 1))
biases = arrays(np.float64, C, elements=st.floats(0.05, 1.0))
shares = st.floats(0.0, 1.0)


def test_entropy_counts_nats_and_the_threshold_itself_is_not_above() -> None:
    scores, found, weights = find_background_images("entropy", float(np.log(2)), 0.25, PROBS, None)
    third = -(0.4 * np.log(0.4) + 2 * 0.3 * np.log(0.3))  # 1.0889
    first = -(0.98 * np.log(0.98) + 2 * 0.01 * np.log(0.01))
    np.testing.assert_allclose(scores, [first, np.log(2), third, 0], atol=1e-12)
    assert found.tolist() == [False, False, True, False] and weights.tolist() == [1, 1, 0.25, 1]


def test_max_prob_is_below_the_threshold() -> None:
    scores, found, weights = find_background_images("max_prob", 0.5, 0.0, PROBS, None)
    assert scores.tolist() == [0.98, 0.5, 0.4, 1.0]
    assert found.tolist() == [False, False, True, False] and weights.tolist() == [1, 1, 0, 1]


def test_background_is_the_mass_of_all_its_texts_together() -> None:
    features = np.eye(3)
    outside = Scoring(text_of(np.eye(3)[:1], np.eye(3)[1:], scale=float(np.log(2)))).background_prob(features)
    # cosines of the first row: 1 with the class, 0 with both texts, so e^(s*1) : e^0 : e^0 = 2 : 1 : 1; of the others
    # 0 with the class, 1 with one text, so 1 : 2 : 1
    assert outside is not None
    np.testing.assert_allclose(outside, [0.5, 0.75, 0.75])
    _, found, weights = find_background_images("background", 0.5, 0.0, np.ones((3, 1)), outside)
    assert found.tolist() == [False, True, True] and weights.tolist() == [1, 0, 0]


def test_background_without_texts_says_what_to_write() -> None:
    assert Scoring(text_of(np.eye(2), np.empty((0, 2)))).background_prob(np.eye(2)) is None
    with pytest.raises(CcdError, match=r"text\.background_words.*text\.background_texts"):
        find_background_images("background", 0.5, 0.0, np.ones((2, 1)), None)


@given(rows_of_probs)
def test_off_finds_nothing(probs: np.ndarray) -> None:
    scores, found, weights = find_background_images("off", None, 0.0, probs, None)
    assert np.isnan(scores).all() and not found.any() and (weights == 1).all()


@pytest.mark.parametrize("rule", ["entropy", "max_prob", "background"])
@given(probs=rows_of_probs, outside=arrays(np.float64, N, elements=shares), low=shares, high=shares,
       order=st.permutations(range(N)), part=st.integers(0, N))  # fmt: skip
def test_images_are_judged_one_by_one_and_a_stricter_threshold_finds_fewer(
    rule: RuleName, probs: np.ndarray, outside: np.ndarray, low: float, high: float, order: list[int], part: int
) -> None:
    low, high = sorted((low, high))
    strict, mild = (low, high) if rule == "max_prob" else (high, low)
    found = find_background_images(rule, mild, 0.0, probs, outside)[1]
    assert (find_background_images(rule, strict, 0.0, probs, outside)[1] <= found).all()
    assert (find_background_images(rule, mild, 0.0, probs[order], outside[order])[1] == found[order]).all()
    pieces = [
        find_background_images(rule, mild, 0.0, probs[rows], outside[rows])[1] for rows in (slice(part), slice(part, N))
    ]
    assert (np.concatenate(pieces) == found).all(), "so a data set may be judged in pieces"


@given(rows_of_probs, view_probs, owners, biases, st.floats(0.0, 0.5), shares, arrays(np.float64, N, elements=shares))
def test_every_label_of_an_image_is_multiplied(
    probs: np.ndarray, views: np.ndarray, rows: np.ndarray, b: np.ndarray, floor: float, alpha: float, w: np.ndarray
) -> None:
    whole = global_label(probs, b, floor)
    local = LocalViews(views, rows)
    plain = pseudo_labels(WholeImages(probs, whole), local, b, floor, alpha)
    weighed = pseudo_labels(WholeImages(probs, w[:, None] * whole, w), local, b, floor, alpha)
    for name in ("global_label", "local_label", "label"):
        np.testing.assert_allclose(weighed[name], w[:, None] * plain[name], rtol=1e-12, atol=1e-12, err_msg=name)
    for name in ("global_prob", "local_prob", "box_id"):
        np.testing.assert_array_equal(weighed[name], plain[name], err_msg=name)
    same = pseudo_labels(WholeImages(probs, whole, np.ones(N, np.float32)), local, b, floor, alpha)
    for name, values in plain.items():
        assert same[name].tobytes() == values.tobytes(), f"{name}: nothing found changes nothing"


def values(**changed: object) -> dict[str, object]:
    return {"floor": 0.05, "none_rule": "off", "none_threshold": None, "none_weight": 0.0, **changed}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"none_rule": "entropy"}, "global_labels.none_threshold = None: Value error, none_rule: entropy needs"),
        ({"none_rule": "max_prob", "none_threshold": 1.5}, "compares probabilities, so it is at most 1"),
        ({"none_rule": "background", "none_threshold": 2.0}, "compares probabilities, so it is at most 1"),
        ({"none_rule": False}, "global_labels.none_rule = False"),
        ({"none_weight": 1.1}, "global_labels.none_weight = 1.1"),
    ],
)
def test_parameters_that_do_not_fit_the_rule_are_named(changed: dict[str, object], message: str) -> None:
    with pytest.raises(CcdError) as error:
        validate(GlobalLabelsParams, values(**changed))
    assert message in str(error.value)


def test_nats_may_exceed_1_and_an_idle_threshold_is_accepted() -> None:
    assert validate(GlobalLabelsParams, values(none_rule="entropy", none_threshold=2.5)).none_threshold == 2.5
    assert validate(GlobalLabelsParams, values(none_threshold=7.0)).none_rule == "off"


def test_the_artifact_comes_back_and_belongs_to_its_images(tmp_path: Path) -> None:
    path = tmp_path / "none_images.parquet"
    ids = ["a", "b"]
    scores = np.array([0.25, 0.75])
    found = np.array([False, True])
    weights = np.array([1.0, 0.5])
    background_file.write(path, background_file.BackgroundImages(ids, scores, found, weights, "entropy"))
    back = background_file.read(path, ids)
    assert back.is_background.tolist() == [False, True] and back.weights.tolist() == [1, 0.5] and back.rule == "entropy"
    np.testing.assert_array_equal(back.scores, scores)
    assert back.summary() == {"none_images": "1"}
    with pytest.raises(CcdError, match="not the 2 expected images"):
        background_file.read(path, ["b", "a"])
    background_file.write(path, background_file.BackgroundImages(ids, scores, found, np.array([1.0, 1.5]), "entropy"))
    with pytest.raises(CcdError, match=r"a weight is not in 0\.\.1"):
        background_file.read(path, ids)
    off = background_file.BackgroundImages(ids, np.full(2, np.nan), np.zeros(2, bool), np.ones(2), "off")
    background_file.write(path, off)
    assert np.isnan(background_file.read(path, ids).scores).all() and background_file.read(path, ids).summary() == {}


def test_text_keeps_background_prompts_apart_from_the_classes(tmp_path: Path) -> None:
    plain = text_file.TextEmbeddings(
        ("cat",), np.eye(1, 2, dtype=np.float32), 1.0, (("cat",),), ("a {}",), {"teacher": "t"}
    )
    text_file.write(tmp_path / "plain.h5", plain)
    assert text_file.read(tmp_path / "plain.h5").background.shape == (0, 2)
    outside = np.eye(2, dtype=np.float32)
    full = text_file.TextEmbeddings(*vars(plain).values())
    full = text_file.TextEmbeddings(
        full.classes,
        full.values,
        full.logit_scale,
        full.texts,
        full.templates,
        full.attributes,
        ("sky", "wall"),
        outside,
    )
    text_file.write(tmp_path / "full.h5", full)
    back = text_file.read(tmp_path / "full.h5")
    assert back.background_texts == ("sky", "wall") and back.classes == ("cat",)
    np.testing.assert_array_equal(back.background, outside)
    np.testing.assert_array_equal(back.values, plain.values)
