"""One embedding per class from templates and texts."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from ccd.errors import CcdError
from ccd.teacher.clip_teacher import Teacher
from ccd.teacher.encode import TEXTS_PER_BATCH, class_embeddings, load_teacher
from tests.toys.tiny_clip import save_fp16, tiny_clip

KNOWN = {
    "a cat": (1.0, 0.0),
    "the cat": (0.0, 1.0),
    "a kitten": (0.6, 0.8),
    "the kitten": (0.6, 0.8),
    "a dog": (-1.0, 0.0),
}


class Directions:
    """A teacher that knows a few prompts; nothing else of the interface is needed."""

    embed_dim = 2

    def __init__(self) -> None:
        self.batches: list[int] = []

    def encode_text(self, texts: Sequence[str]) -> Tensor:
        """Unit vectors."""
        self.batches.append(len(texts))
        return torch.tensor([KNOWN[text] for text in texts])


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Teacher:
    """A small random model."""
    path = save_fp16(tiny_clip("vit"), tmp_path_factory.mktemp("clip") / "vit.pt")
    return load_teacher("clip", str(path), None, device=torch.device("cpu"))


def test_templates_and_texts_are_averaged_and_normalised() -> None:
    embeddings = class_embeddings(Directions(), [["cat"], ["cat", "kitten"]], ["a {}", "the {}"])  # type: ignore[arg-type]
    # (1,0) + (0,1) -> (1,1) / sqrt 2; with (.6,.8) twice: (2.2, 2.6) / sqrt 11.6
    expected = torch.tensor([[0.70710678, 0.70710678], [0.64594224, 0.76338629]])
    torch.testing.assert_close(embeddings, expected)
    assert embeddings.dtype == torch.float32


def test_many_prompts_are_read_in_bounded_batches() -> None:
    directions = Directions()
    classes = [["dog"], *[["cat"]] * TEXTS_PER_BATCH]
    embeddings = class_embeddings(directions, classes, ["a {}"])  # type: ignore[arg-type]
    assert directions.batches == [TEXTS_PER_BATCH, 1]
    assert embeddings.tolist() == [[-1, 0]] + [[1, 0]] * TEXTS_PER_BATCH


def test_a_thousand_classes(teacher: Teacher) -> None:
    classes = [[f"thing {place}"] for place in range(1000)]
    embeddings = class_embeddings(teacher, classes, ["a photo of the {}"])
    assert embeddings.shape == (1000, 16)
    expected = teacher.encode_text(["a photo of the thing 999"])[0]
    torch.testing.assert_close(embeddings[999], expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("templates", [["no place"], ["{} and {}"], []])
def test_a_template_has_one_place(templates: list[str]) -> None:
    with pytest.raises(CcdError, match="exactly once"):
        class_embeddings(Directions(), [["cat"]], templates)  # type: ignore[arg-type]


@pytest.mark.parametrize("classes", [[["cat"], []], []])
def test_a_class_has_a_text(classes: list[list[str]]) -> None:
    with pytest.raises(CcdError, match="every class needs a text"):
        class_embeddings(Directions(), classes, ["a {}"])  # type: ignore[arg-type]


def test_texts_that_clip_would_cut_are_named(teacher: Teacher) -> None:
    fits = "dog " * 75
    too_long = "cat " * 76
    far_too_long = "cow " * 2000
    assert teacher.encode_text([fits]).shape == (1, 16)
    with pytest.raises(CcdError, match="longer than the 77 tokens") as caught:
        teacher.encode_text([fits, too_long, far_too_long])
    assert "cat cat" in str(caught.value) and "cow cow" in str(caught.value) and "dog" not in str(caught.value)
