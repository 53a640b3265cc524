from __future__ import annotations

from math import log

import numpy as np
import pytest
import torch
from torch import nn

from ccd.student.model import Student
from ccd.student.objectives import Objective, bce, consistency, lr_factor
from tests.toys.student import outcome_of


def test_bce_by_hand() -> None:
    """s(ln 3) = 3/4; the mean over both classes and images."""
    logits = torch.tensor([[log(3), 0.0], [-log(3), log(3)]])
    targets = torch.tensor([[1.0, 0.5], [1.0, 0.0]])
    expected = (log(4 / 3) + log(2) + log(4) + log(4)) / 4
    assert float(bce(logits, targets)) == pytest.approx(expected, abs=1e-6)


def test_bce_of_soft_target_is_smallest_at_the_target() -> None:
    logits = torch.tensor([[0.3]], requires_grad=True)
    bce(logits, torch.tensor([[0.3]]).sigmoid()).backward()  # type: ignore[no-untyped-call]
    assert logits.grad is not None
    assert float(logits.grad) == pytest.approx(0, abs=1e-7)


def test_bce_stays_finite_at_extreme_logits() -> None:
    assert float(bce(torch.tensor([[1000.0]]), torch.tensor([[0.0]]))) == 1000


def test_consistency_by_hand_and_its_gradient_stops_at_the_weak_view() -> None:
    strong = torch.tensor([[0.0, log(3)]], requires_grad=True)
    weak = torch.tensor([[log(3), log(3)]], requires_grad=True)
    loss = consistency(strong, weak)
    expected = (log(2) + 0.75 * log(4 / 3) + 0.25 * log(4)) / 2
    assert float(loss.detach()) == pytest.approx(expected, abs=1e-6)
    loss.backward()  # type: ignore[no-untyped-call]
    assert weak.grad is None
    assert strong.grad is not None
    # d/dz BCE(s(z), y) = s(z) - y, halved by the mean over two classes
    torch.testing.assert_close(strong.grad, torch.tensor([[(0.5 - 0.75) / 2, 0.0]]), atol=1e-7, rtol=0)


@pytest.fixture
def student() -> Student:
    torch.manual_seed(0)
    return Student(nn.Identity(), channels=3, classes=4, cam_boost=3.0)


def _batch() -> tuple[torch.Tensor, torch.Tensor, torch.Generator]:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (5, 3, 8, 8), dtype=torch.uint8, generator=generator)
    return images, torch.rand(5, 4, generator=generator), generator


def test_final_objective_is_the_weighted_sum_of_its_parts(student: Student) -> None:
    outcome = outcome_of(Objective(consistency_weight=2.0, color_jitter=0.5), student, *_batch())
    expected = outcome.parts["bce"] + 2 * outcome.parts["consistency"]
    assert set(outcome.parts) == {"bce", "consistency"}
    torch.testing.assert_close(outcome.loss.detach(), expected)


def test_consistency_off_is_the_warm_up_objective(student: Student) -> None:
    off = outcome_of(Objective(consistency_weight=0.0, color_jitter=0.5), student, *_batch())
    warmup = outcome_of(Objective(), student, *_batch())
    assert torch.equal(off.loss, warmup.loss)
    assert set(off.parts) == {"bce"}


def test_the_strong_view_has_its_own_flip() -> None:
    """Without jitter, a network that sees left from right disagrees with itself unless both flips agree."""
    student = Student(nn.AvgPool2d((8, 4), (8, 8)), channels=3, classes=1, cam_boost=1.0)  # left half only
    images, targets, _ = _batch()
    gaps = []
    for seed in range(8):
        views: list[torch.Tensor] = []
        hook = student.register_forward_hook(lambda _module, _inputs, output, seen=views: seen.append(output[0]))
        outcome_of(Objective(1.0, 0.0), student, images, targets[:, :1], torch.Generator().manual_seed(seed))
        hook.remove()
        gaps.append((views[0] != views[1]).flatten())
    share = torch.cat(gaps).float().mean()
    assert 0.25 < float(share) < 0.75


def test_learning_rates_follow_half_a_cosine() -> None:
    assert [lr_factor("constant", done) for done in (0.0, 0.5, 0.99)] == [1.0, 1.0, 1.0]
    np.testing.assert_allclose(
        [lr_factor("cosine", done) for done in (0.0, 1 / 3, 0.5, 2 / 3)], [1.0, 0.75, 0.5, 0.25], atol=1e-12
    )
