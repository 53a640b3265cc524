"""Background images, which show none of the classes, told by their scores alone.

A softmax over classes must put its mass somewhere, so that such an image gets labels too. An open question of the
paper, off by default: docs/open_questions.md.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Literal

import numpy as np

from ccd.errors import CcdError, listed
from ccd.labels.scores import entropy_nats

RuleName = Literal["off", "entropy", "max_prob", "background"]

# Scenes and stuff, no objects that one would list as classes: for text.background_words. TagCLIP (AAAI 2024) has the
# idea of background words in the softmax; the words are chosen for any data set.
BACKGROUND_WORDS = (
    "ground", "land", "landscape", "grass", "field", "meadow", "garden", "forest", "wood", "leaves", "soil", "sand",
    "rock", "hill", "mountain", "snow", "sky", "cloud", "fog", "water", "sea", "lake", "river", "beach", "shore",
    "road", "street", "pavement", "city", "building", "wall", "fence", "window", "room", "corridor", "floor",
    "carpet", "ceiling",
)  # fmt: skip

# From this cosine on CLIP reads two words as one, because it knows neither; rows of float32 differ by less.
SAME_COSINE = 1.0 - 1e-5

# Printed everywhere while the rule is off: a share of 0 % would not be a finding.
NOT_LOOKED_FOR = (
    "images without any class: not looked for (global_labels.none_rule: off); such images may get labels all the same"
)


def competing_words(
    words: Sequence[str], embeddings: np.ndarray, classes: np.ndarray, names: Iterable[str], prompts: Sequence[str]
) -> tuple[list[int], str]:
    """Choose the background words that share the softmax with the classes, so that none of them is a class.

    A word is left out as a class if it is a class's name or text, but for case and plural, or if CLIP takes it for a
    synonym: a class is nearer to it than every other word is, and nearer than any two classes are to each other. (The
    cosines of all texts are large, and how large depends on the CLIP: either condition alone leaves out words that no
    class means.) It is left out as repeated if it occurs in a background prompt, which stands for it, or has the
    embedding of an earlier word, as words have that a CLIP does not know: so that nothing counts twice.

    Args:
        words: K words, e.g. `BACKGROUND_WORDS`.
        embeddings: (K, D) of the words, unit rows.
        classes: (C, D) unit rows.
        names: names and texts of all classes.
        prompts: ``text.background_texts``.

    Returns:
        The rows of the words that stay, and a line for the console that names the others.
    """
    class_names = {form for name in names for form in _forms(name)}
    prompt_words = {form for prompt in prompts for part in re.findall(r"\w+", prompt) for form in _forms(part)}
    cosines = embeddings.astype(np.float64) @ embeddings.astype(np.float64).T
    distinct: list[int] = []
    is_class: list[int] = []
    repeated: list[int] = []
    for row, word in enumerate(words):
        if _forms(word) & class_names:
            is_class.append(row)
        elif _forms(word) & prompt_words or (cosines[row, distinct] > SAME_COSINE).any():
            repeated.append(row)
        else:
            distinct.append(row)
    synonyms = _synonyms(embeddings[distinct], classes)
    kept = [row for row, is_synonym in zip(distinct, synonyms, strict=True) if not is_synonym]
    is_class += [row for row in distinct if row not in kept]
    line = f"{len(kept)} background words share the softmax"
    for rows, reason in ((is_class, "as classes"), (repeated, "as repeated")):
        if rows:
            line += f"; {len(rows)} left out {reason}: {listed((words[row] for row in rows), len(words))}"
    return kept, line


def _forms(word: str) -> set[str]:
    """Return a word in lower case with the plurals it may have."""
    plain = " ".join(word.casefold().replace("_", " ").replace("-", " ").split())
    plurals = {plain + "s", plain + "es"}
    if plain.endswith("y"):
        plurals.add(plain[:-1] + "ies")
    if plain.endswith("f"):
        plurals.add(plain[:-1] + "ves")
    return {plain, *plurals}


def _synonyms(words: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """Return (K,) bool: a class is nearer to the word than other words, and than any two classes to each other."""
    among_words = words.astype(np.float64) @ words.astype(np.float64).T
    among_classes = classes.astype(np.float64) @ classes.astype(np.float64).T
    np.fill_diagonal(among_words, -np.inf)
    np.fill_diagonal(among_classes, -np.inf)
    nearest_class = (words.astype(np.float64) @ classes.astype(np.float64).T).max(axis=1)
    limit = np.maximum(among_words.max(axis=1, initial=-np.inf), among_classes.max())
    return np.asarray((nearest_class > limit) & np.isfinite(limit))  # one word and one class: nothing to compare with


def background_line(rule: RuleName, share: float) -> str:
    """Return a line for the console on the ``share`` of images that a rule calls background images."""
    return NOT_LOOKED_FOR if rule == "off" else f"{share:.1%} show no class (rule: {rule})"


def find_background_images(
    rule: RuleName, threshold: float | None, weight: float, probs: np.ndarray, outside: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Find the images that show none of the classes.

    Rule ``entropy``: H_i > threshold (nats). ``max_prob``: max_c p_ic < threshold. ``background``: mass > threshold.

    Each image is judged by itself, so any part of a data set may be given.

    Args:
        threshold: stated unless the rule is ``off``.
        weight: the factor on every label of a background image.
        probs: (M, C) softmax scores of whole images over the classes.
        outside: (M,) of `ccd.labels.scores.Scoring.background_prob`.

    Returns:
        (M,) float64 the value that the rule compares, NaN without a rule; (M,) bool, the background
        images; (M,) float64 ``weight`` for these, else 1.

    Raises:
        CcdError: rule ``background`` without background texts.
    """
    scores = _scores(rule, probs, outside)
    limit = np.nan if threshold is None else threshold
    is_background = scores < limit if rule == "max_prob" else scores > limit  # nothing is above or below NaN
    return scores, is_background, np.where(is_background, weight, 1.0)


def _scores(rule: RuleName, probs: np.ndarray, outside: np.ndarray | None) -> np.ndarray:
    if rule == "entropy":
        return entropy_nats(probs)
    if rule == "max_prob":
        return np.asarray(probs.max(axis=1))
    if rule == "off":
        return np.full(len(probs), np.nan)
    if outside is None:
        raise CcdError(
            "global_labels.none_rule = background compares the classes with background texts, and there are none: set"
            " text.background_words: true for a general list, or list your own in text.background_texts, e.g."
            " ['a photo of a landscape', 'a photo of an empty room'], or take another rule"
        )
    return outside
