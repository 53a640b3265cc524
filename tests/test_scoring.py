"""Scores beyond the paper's softmax: background words, centred and standardised cosines."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor

from ccd.artifacts import bias_file, text_file
from ccd.artifacts.bias_file import BiasFile
from ccd.errors import CcdError
from ccd.labels.background import BACKGROUND_WORDS, competing_words
from ccd.labels.bias import class_bias, top1_of
from ccd.labels.debias import whole_image_labels
from ccd.labels.scores import (
    Scoring,
    background_mass,
    clip_probs,
    decisions_entropy_nats,
    entropy_nats,
    mean_cosines,
    softmax,
)
from ccd.params.file import check_together
from ccd.teacher.encode import class_embeddings
from tests.toys.texts import text_of

LN2 = float(np.log(2))
TEXT = np.eye(3)[:2]
BACKGROUND = np.eye(3)[2:]
IMAGES = np.eye(3, dtype=np.float32)


def test_off_is_the_papers_softmax_to_the_last_bit() -> None:
    features = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    score = Scoring(text_of(TEXT, BACKGROUND))
    assert score.is_plain and np.array_equal(score(features), clip_probs(features, score.text.values, 100.0))
    probs = score(features)
    assert np.array_equal(entropy_nats(probs), -(probs * np.log(probs)).sum(axis=1))
    assert not background_mass(probs).any()


def test_the_background_shares_the_softmax() -> None:
    """Logits ln 2 for the own text and 0 for the others: 2 : 1 : 1, so the third image is background by half."""
    score = Scoring(text_of(TEXT, BACKGROUND, scale=LN2, background_in_softmax=True))
    probs = score(IMAGES)
    np.testing.assert_allclose(probs, [[0.5, 0.25], [0.25, 0.5], [0.25, 0.25]])
    np.testing.assert_allclose(background_mass(probs), [0.25, 0.25, 0.5])
    np.testing.assert_allclose(score.background_prob(IMAGES), [0.25, 0.25, 0.5])
    np.testing.assert_allclose(entropy_nats(probs), [1.5 * LN2] * 3)


def test_an_image_of_background_is_no_evidence_for_a_class() -> None:
    """The third image's top-1 is class a by the order of equals, but its background is larger."""
    probs = np.array([[0.6, 0.2], [0.2, 0.7], [0.3, 0.2]])
    found = class_bias(top1_of(probs), ("a", "b"), 2.0, 0.0)
    np.testing.assert_allclose(found.values, [0.6, 0.7])
    assert found.top1_counts.tolist() == [1, 1] and found.reliable_share == pytest.approx(2 / 3)


def test_images_of_background_alone_leave_no_bias_to_estimate() -> None:
    with pytest.raises(CcdError, match=r"text\.background_words: false, or bias\.enabled: false"):
        class_bias(top1_of(np.full((2, 2), 0.1)), ("a", "b"), 10.0, 1.0)


def test_centred_cosines_favour_no_class() -> None:
    """Class a is 0.5 nearer to every image than class b; what is left after centring is what differs."""
    text = text_of(TEXT, np.empty((0, 3)), scale=1.0)
    features = np.array([[0.9, 0.2, 0.0], [0.7, 0.4, 0.0]])
    means = mean_cosines(text, [features[:1], features[1:]])
    np.testing.assert_allclose(means, [0.8, 0.3])
    logits = np.array([[0.1, -0.1], [-0.1, 0.1]])
    expected = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(Scoring(text, means)(features), expected)


def test_standardised_rows_know_no_scale_and_no_offset() -> None:
    """Two cosines are -1 and 1 standard deviations from their mean, whatever they are: p = 1 / (1 + e^-2k)."""
    text = text_of(TEXT, BACKGROUND, standardized_scale=LN2)
    features = np.array([[0.9, 0.2, 0.1], [0.3, 0.31, 0.9]])
    np.testing.assert_allclose(Scoring(text)(features), [[0.8, 0.2], [0.2, 0.8]])
    flat = Scoring(text)(np.array([[0.5, 0.5, 0.0]]))
    np.testing.assert_allclose(flat, [[0.5, 0.5]], err_msg="no spread: nothing is told apart")


def test_files_keep_the_rules_and_stay_as_they_were_without(tmp_path: Path) -> None:
    plain = text_of(TEXT, BACKGROUND)
    rules = text_of(TEXT, BACKGROUND, background_in_softmax=True, standardized_scale=3.0)
    for name, content in (("plain", plain), ("rules", rules)):
        text_file.write(tmp_path / name, content)
        again = text_file.read(tmp_path / name)
        assert again.background_in_softmax == content.background_in_softmax
        assert again.standardized_scale == content.standardized_scale
    assert b"softmax" not in (tmp_path / "plain").read_bytes() and b"standardized" in (tmp_path / "rules").read_bytes()
    content = BiasFile(("c0",), np.ones(1), np.ones(1, np.int64), 1.0, 2.0, 0.0, True, ())
    bias_file.write(tmp_path / "bias.json", content)
    assert "mean_cosines" not in (tmp_path / "bias.json").read_text()
    assert bias_file.read(tmp_path / "bias.json").mean_cosines is None
    centred = BiasFile(("c0",), np.ones(1), np.ones(1, np.int64), 1.0, 2.0, 0.0, True, (), np.array([0.25, 0.5]))
    bias_file.write(tmp_path / "bias.json", centred)
    found = bias_file.read(tmp_path / "bias.json").mean_cosines
    assert found is not None and found.tolist() == [0.25, 0.5]


def test_a_sigmoid_scores_each_class_by_itself() -> None:
    """Cosines 1 and 0, s = 2 ln 2, b = -ln 2: logits ln 2 and -ln 2, so 2/3 and 1/3; the last image has no class."""
    text = text_of(TEXT, BACKGROUND, scale=2 * LN2, logit_bias=-LN2)
    score = Scoring(text)
    probs = score(IMAGES)
    np.testing.assert_allclose(probs, [[2 / 3, 1 / 3], [1 / 3, 2 / 3], [1 / 3, 1 / 3]])
    assert not score.is_plain and not score.is_distribution
    other = np.delete(TEXT, 0, axis=0)
    alone = Scoring(text_of(other, BACKGROUND, scale=2 * LN2, logit_bias=-LN2))
    np.testing.assert_array_equal(alone(IMAGES)[:, 0], probs[:, 1], err_msg="other classes do not matter")


def test_a_bias_cancels_in_a_softmax() -> None:
    logits = np.array([[3.0, 1.0, -2.0]])
    np.testing.assert_allclose(softmax(logits - 16.5), softmax(logits), rtol=1e-12)


def test_the_entropy_of_decisions() -> None:
    """Two coins have 2 ln 2, a coin and a certain answer ln 2, certain answers none."""
    probs = np.array([[0.5, 0.5], [0.5, 1.0], [0.0, 1.0]])
    np.testing.assert_allclose(decisions_entropy_nats(probs), [2 * LN2, LN2, 0.0])
    sigmoids = Scoring(text_of(TEXT, BACKGROUND, logit_bias=-10.0))
    np.testing.assert_allclose(sigmoids.entropy_nats(probs), [2 * LN2, LN2, 0.0])
    plain = Scoring(text_of(TEXT, BACKGROUND))
    np.testing.assert_array_equal(plain.entropy_nats(probs[:1]), entropy_nats(probs[:1]))
    columns = whole_image_labels(probs, np.ones(2), 0.0, entropy=sigmoids.entropy_nats)
    np.testing.assert_allclose(columns["entropy_nats"][:, 0], [2 * LN2, LN2, 0.0])


def test_no_class_of_a_sigmoid_was_preferred_to_another() -> None:
    top1 = top1_of(np.array([[0.9, 0.1]]), is_distribution=False)
    assert np.isinf(top1.entropies_nats).all() and top1.probs.tolist() == [0.9]


def test_the_text_file_keeps_a_sigmoids_bias_and_refuses_nonsense(tmp_path: Path) -> None:
    text_file.write(tmp_path / "text.h5", text_of(TEXT, BACKGROUND, logit_bias=-16.5))
    assert text_file.read(tmp_path / "text.h5").logit_bias == -16.5
    text_file.write(tmp_path / "text.h5", text_of(TEXT, BACKGROUND, logit_bias=np.inf))
    with pytest.raises(CcdError, match="NaN or Inf"):
        text_file.read(tmp_path / "text.h5")
    text_file.write(tmp_path / "text.h5", text_of(TEXT, BACKGROUND))
    assert b"logit_bias" not in (tmp_path / "text.h5").read_bytes()
    assert text_file.read(tmp_path / "text.h5").logit_bias is None


def test_what_means_something_for_a_softmax_alone_is_refused_with_a_sigmoid() -> None:
    own = {"logit_scale": None, "standardized_scale": None, "background_words": False}
    fitting = {
        "text": {"activation": "sigmoid", **own},
        "bias": {"center_scores": False, "enabled": False},
        "global_labels": {"none_rule": "max_prob"},
    }
    check_together(fitting)
    for section, key, value in (
        ("text", "logit_scale", 100.0), ("text", "standardized_scale", 3.0), ("text", "background_words", True),
        ("bias", "center_scores", True), ("bias", "enabled", True),
        ("global_labels", "none_rule", "entropy"), ("global_labels", "none_rule", "background"),
    ):  # fmt: skip
        wrong = fitting | {section: fitting[section] | {key: value}}
        with pytest.raises(CcdError, match=rf"text\.activation = sigmoid .*set {section}\.{key} to"):
            check_together(wrong)
        check_together(wrong | {"text": wrong["text"] | {"activation": "softmax"}})


class Directions:
    """A teacher that knows a few words; nothing else of the interface is needed."""

    embed_dim = 3
    known: ClassVar[dict[str, tuple[float, float, float]]] = {
        "a couch": (1, 0, 0), "a dog": (0, 1, 0), "a puppy": (0, 0.96, 0.28), "a sofa": (0.96, 0.28, 0),
        "a settee": (0.8, 0.6, 0), "a sky": (0, 0, 1), "a fog": (0, 0, 1),
    }  # fmt: skip

    def encode_text(self, texts: Sequence[str]) -> Tensor:
        """Unit vectors."""
        return torch.tensor([self.known[text] for text in texts])


def chosen(words: list[str], classes: list[str], prompts: Sequence[str] = ()) -> tuple[list[str], str]:
    """The words that stay beside the classes by the toy teacher, and the line for the console."""
    rows, texts = (
        class_embeddings(Directions(), [[each] for each in phrases], ["a {}"]).numpy()  # type: ignore[arg-type]
        for phrases in (words, classes)
    )
    kept, line = competing_words(words, rows, texts, classes, prompts)
    return [words[row] for row in kept], line


def test_a_word_that_names_a_class_is_left_out_in_any_case_and_number() -> None:
    words = ["grass", "sea", "leaves", "sky", "sand"]
    names = ["Grass", "deep_sea", "SEAS", "leaf", "skies", "thousand"]
    kept, line = competing_words(words, np.eye(5, 6), np.eye(6)[5:], names, ())
    assert kept == [4], "part of a name is no name"
    assert line == "1 background words share the softmax; 4 left out as classes: grass, sea, leaves, sky"


def test_a_synonym_of_a_class_is_left_out() -> None:
    """To couch: sofa .96, settee .8; sofa to settee .768 + .168 = .936; couch to dog 0."""
    assert chosen(["sofa", "sky"], ["couch", "dog"]) == (
        ["sky"], "1 background words share the softmax; 1 left out as classes: sofa"
    )  # fmt: skip
    assert chosen(["sofa", "settee", "sky"], ["couch", "dog"])[0] == ["settee", "sky"], "settee is nearer to a word"
    # dog and puppy are classes with a cosine of .96: nothing that is less near than these is a class
    assert chosen(["settee", "sky"], ["couch", "dog", "puppy"])[0] == ["settee", "sky"]
    assert chosen(["settee", "sky"], ["couch"])[0] == ["sky"], "one class: the other words alone are compared"


def test_nothing_is_counted_twice() -> None:
    kept, line = chosen(["sky", "fog"], ["couch", "dog"])
    assert kept == ["sky"] and line.endswith("; 1 left out as repeated: fog"), "the teacher reads both alike"
    assert chosen(["sky", "fog"], ["couch", "dog"], ["a photo of the Skies"])[0] == ["fog"]
    assert chosen(["sky"], ["couch", "dog"]) == (["sky"], "1 background words share the softmax")
    assert chosen(["sky"], ["couch", "dog"], ["sky"])[0] == [], "there may be none left"
    assert chosen(["sofa"], ["couch"])[0] == ["sofa"], "one word, one class: no distance to compare theirs with"


def test_the_words_are_different() -> None:
    rows = np.eye(len(BACKGROUND_WORDS), 1 + len(BACKGROUND_WORDS))
    kept, _ = competing_words(BACKGROUND_WORDS, rows, np.eye(1, rows.shape[1], rows.shape[1] - 1), ["cat"], ())
    assert len(kept) == len(BACKGROUND_WORDS) == len(set(BACKGROUND_WORDS))
