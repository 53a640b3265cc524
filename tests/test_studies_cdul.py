"""CDUL: its initial labels, its label update, and the tables that studies give to the main stages."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from ccd.artifacts.class_table import ClassTable
from ccd.errors import CcdError
from ccd.params.file import read_yaml, validate
from ccd.params.presets import PRESET_FOLDER
from ccd.params.sections import TrainParams
from ccd.student.fit import train
from ccd.student.objectives import Forward, Objective, Outcome, Views, aligned_labels, final_objective
from ccd.student.step import Optimization
from studies.cdul import initial_labels, tile_score
from studies.inputs import chosen_images, truth_columns
from tests.toys.student import batches_of, colour_patches, tiny_student

OPTIMIZATION = Optimization(epochs=2, lr=1e-2, head_lr_multiplier=1.0)


def test_the_best_tile_counts_if_it_is_sure_enough_and_the_worst_if_not() -> None:
    tiles = np.array([[0.7, 0.3], [0.2, 0.45], [0.5, 0.5], [0.1, 0.9]])
    found = tile_score(tiles, np.array([0, 0, 2, 2]), 3)
    np.testing.assert_allclose(found, [[0.7, 0.3], [np.nan, np.nan], [0.5, 0.9]])
    np.testing.assert_allclose(tile_score(tiles, np.array([0, 0, 2, 2]), 3, threshold=0.8)[2], [0.1, 0.9])


def test_initial_labels_are_the_mean_of_whole_image_and_tiles() -> None:
    np.testing.assert_allclose(initial_labels(np.array([[0.5, 0.1]]), np.array([[0.7, 0.3]])), [[0.6, 0.2]])


def test_label_update_by_hand() -> None:
    """y = 0.5 is u = 0, z = 2, sigma = 1: u + psi (z - u) with psi = 1 / sqrt(2 pi) = 0.39894."""
    found = aligned_labels(torch.tensor([[0.5]]), torch.tensor([[2.0]]), sigma=1.0)
    assert found.item() == pytest.approx(1 / (1 + math.exp(-0.39894 * 2)), abs=1e-5)
    narrow = aligned_labels(torch.tensor([[0.9, 0.9]]), torch.tensor([[2.0, -3.0]]), sigma=0.1)
    # u = ln 9 = 2.19722, psi = exp(-8) / (0.1 sqrt(2 pi)) = 0.0013383
    expected = [1 / (1 + math.exp(-(2.19722 + 0.0013383 * (z - 2.19722)))) for z in (2.0, -3.0)]
    np.testing.assert_allclose(narrow[0], expected, atol=1e-5)


def test_label_update_descends_the_gradient_of_the_divergence() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.rand(4, 3, generator=generator)
    logits = 3 * torch.randn(4, 3, generator=generator)
    y = labels.double().requires_grad_()
    p = logits.double().sigmoid()
    divergence = (y * (y / p).log() + (1 - y) * ((1 - y) / (1 - p)).log()).sum()
    (gradient,) = torch.autograd.grad(divergence, y)
    density = torch.distributions.Normal(0.5, 0.7).log_prob(y.detach()).exp()
    expected = torch.sigmoid(torch.logit(y.detach()) - density * gradient)
    torch.testing.assert_close(aligned_labels(labels, logits, sigma=0.7).double(), expected, atol=1e-5, rtol=0)


def test_certain_labels_and_extreme_logits_stay_finite() -> None:
    found = aligned_labels(torch.tensor([[0.0, 1.0, 1.0]]), torch.tensor([[80.0, -80.0, 80.0]]), sigma=1.0)
    assert torch.isfinite(found).all() and (found >= 0).all() and (found <= 1).all()


def test_final_objective_moves_labels_only_if_asked() -> None:
    paper = read_yaml(PRESET_FOLDER / "paper.yaml")["train"]
    assert final_objective(validate(TrainParams, paper)) == Objective(1.0, 0.5)
    moved = validate(TrainParams, paper | {"consistency_weight": 0.0, "label_update_sigma": 0.3})
    assert final_objective(moved) == Objective(0.0, 0.5, label_update_sigma=0.3)


def test_the_loop_trains_on_moved_labels_and_leaves_the_callers_alone() -> None:
    pixels, labels = colour_patches(12)
    given = labels.clone()
    seen = []

    class Watched(Objective):
        def __call__(self, student: Forward, views: Views) -> Outcome:
            seen.append(views.targets.clone())
            return super().__call__(student, views)

    def run(objective: object) -> torch.Tensor:
        result = train(
            tiny_student(),
            batches_of(pixels, 12),
            given,
            objective,  # type: ignore[arg-type]
            optimization=OPTIMIZATION,
            seed=0,
            device=torch.device("cpu"),
        )
        return result.last["head.weight"]

    moved = run(Watched(label_update_sigma=1.0))
    assert torch.equal(given, labels)
    assert ((seen[0] == 0) | (seen[0] == 1)).all()
    assert ((seen[1] > 0) & (seen[1] < 1)).all(), "the second epoch sees what the first left"
    assert not torch.equal(moved, run(Objective()))


def test_true_labels_as_training_targets() -> None:
    known = ClassTable(["b", "a"], ("cup",), {"label": np.array([[1], [0]], np.int8)}, {})
    columns = truth_columns(known, ["a", "b"])
    np.testing.assert_array_equal(columns["label"], [[0.0], [1.0]])
    assert columns["label"].dtype == np.float32 and (columns["box_id"] == -1).all()
    with pytest.raises(CcdError, match="1 training images have no known labels, the first is c"):
        truth_columns(known, ["a", "c"])


def test_the_drawn_images_are_the_same_for_every_run() -> None:
    ids = [f"{number:02d}" for number in range(20)]
    drawn = chosen_images(ids, 5)
    assert drawn == chosen_images(ids, 5) and drawn is not None and len(drawn) == 5 and drawn <= set(ids)
    assert chosen_images(ids, None) is None and chosen_images(ids, 20) is None
