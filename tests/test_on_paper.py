"""The method worked out by hand on two images and three classes; every number below is a fraction made on paper.

Classes: cat, dog, owl. CLIP's text embeddings are the three axes, so an image's cosines are its coordinates. The scale
s is such that 0.2 more cosine doubles a score: e^(0.2 s) = 2, that is s = 5 ln 2.

    image 1  cosines (0.8, 0.6, 0)  e^(s cos) = (16, 8, 1)   p = (16, 8, 1) / 25 = (0.64, 0.32, 0.04)
    image 2  cosines (0, 1, 0)      e^(s cos) = (1, 32, 1)   p = (1, 32, 1) / 34
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor

from ccd.errors import CcdError
from ccd.labels.bias import class_bias, top1_of
from ccd.labels.debias import LocalViews, WholeImages, best_view, global_label, pseudo_labels
from ccd.labels.scores import clip_probs, entropy_nats
from ccd.student.objectives import Objective, bce, consistency
from ccd.views.boxes import cam_boxes, view_threshold
from tests.toys.student import outcome_of

CLASSES = ("cat", "dog", "owl")
TEXT = np.eye(3)
SCALE = 5 * math.log(2)
FLOOR = 1 / 20
ALPHA = 0.4
P = np.array([[16 / 25, 8 / 25, 1 / 25], [1 / 34, 32 / 34, 1 / 34]])
BIAS = np.array([304 / 425, 368 / 425, 336 / 425])
Q = np.array([[17 / 19, 17 / 46, 85 / 1344], [85 / 1216, 1, 85 / 1344]])


def test_scores_and_entropy() -> None:
    """H = -sum p ln p.

    H_1 = 0.64 * 0.446287 + 0.32 * 1.139434 + 0.04 * 3.218876 = 0.285624 + 0.364619 + 0.128755
    H_2 = ln 34 - 32/34 ln 32 = 3.526361 - 3.261869
    """
    p = clip_probs(np.array([[0.8, 0.6, 0.0], [0.0, 1.0, 0.0]]), TEXT, SCALE)
    np.testing.assert_allclose(p, P, rtol=1e-12)
    np.testing.assert_allclose(entropy_nats(p), [0.778998, 0.264492], atol=1e-6)


def test_reliable_images_and_bias() -> None:
    """b_c = (sum of p_ic over reliable images whose first choice is c + k mean) / (count + k), with k = 1.

    Both images are reliable: the paper's limit of 2.0 nats is above ln 3. Cat is the first choice of image 1, dog of
    image 2, owl of none. The mean is that of cat and dog, (16/25 + 16/17) / 2 = (272 + 400) / 850 = 336/425.

    b_cat = (16/25 + 336/425) / 2 = (272 + 336) / 850 = 304/425
    b_dog = (16/17 + 336/425) / 2 = (400 + 336) / 850 = 368/425
    b_owl = (0 + 336/425) / (0 + 1)
    """
    found = class_bias(top1_of(P), CLASSES, max_entropy_nats=2.0, shrinkage=1.0)
    assert found.top1_counts.tolist() == [1, 1, 0] and found.reliable_share == 1
    np.testing.assert_allclose(found.values, [304 / 425, 368 / 425, 336 / 425], rtol=1e-12)


def test_an_image_above_the_entropy_limit_does_not_count() -> None:
    """Of H = (0.779, 0.264) one is at most 0.5, so dog's 16/17 is the mean, and the bias of all."""
    found = class_bias(top1_of(P), CLASSES, max_entropy_nats=0.5, shrinkage=1.0)
    assert found.top1_counts.tolist() == [0, 1, 0] and found.reliable_share == 0.5
    np.testing.assert_allclose(found.values, [16 / 17] * 3, rtol=1e-12)


def test_the_papers_bias_needs_a_first_choice_of_every_class() -> None:
    with pytest.raises(CcdError, match="owl"):
        class_bias(top1_of(P), CLASSES, max_entropy_nats=2.0, shrinkage=0.0)


def test_global_label() -> None:
    """q = clip(max(p, 1/20) / b, 0, 1).

    image 1  cat 16/25 * 425/304 = 272/304 = 17/19   dog 8/25 * 425/368 = 136/368 = 17/46   owl 1/20 * 425/336 = 85/1344
    image 2  cat 1/20 * 425/304 = 85/1216            dog 16/17 * 425/368 = 400/368, so 1    owl 1/20 * 425/336 = 85/1344
    """
    expected = [[17 / 19, 17 / 46, 85 / 1344], [85 / 1216, 1, 85 / 1344]]
    np.testing.assert_allclose(global_label(P, BIAS, FLOOR), expected, rtol=1e-12)


def test_classes_that_get_a_view() -> None:
    """One view an image, on average: the two largest of six probabilities, and both are image 1's.

    sigmoid(2) = 0.880797, sigmoid(1) = 0.731059, sigmoid(0) = 0.5.
    """
    logits = torch.tensor([[2.0, 1.0, -1.0], [-2.0, 0.0, -3.0]])
    tau = view_threshold(logits.sigmoid(), views_per_image=1.0)
    assert tau == pytest.approx(0.731059, abs=1e-6)
    assert (logits.sigmoid() >= tau).tolist() == [[True, True, False], [False, False, False]]


def test_from_a_map_to_a_box() -> None:
    """Image 1 is 80 wide and 40 high; the student sees it as 4 x 4, so a pixel of its map is 20 x 10 of the image.

    cat  min 0, max 6; min-max 1 in row 3, column 0, and 5/6 or less elsewhere. Above 0.95: that pixel, x 0..20,
         y 30..40. An offset of 1/8 of the side, 10 and 5: x -10..30, y 25..45. Inside the image: x 0..30, y 25..40.
    dog  min 2, max 10; min-max 1 in (1, 2), (9.7 - 2) / 8 = 0.9625 in (1, 3), (9.5 - 2) / 8 = 0.9375 in (2, 1). Above
         0.95: the first two, x 40..80, y 10..20. With the offset: x 30..90, y 5..25. Inside: x 30..80, y 5..25.
    """
    cat = [[0, 0, 0, 0], [0, 0, 0, 0], [3, 0, 0, 0], [6, 5, 0, 0]]
    dog = [[2, 2, 2, 2], [2, 2, 10, 9.7], [2, 9.5, 4, 2], [2, 2, 2, 2]]
    owl = [[0, 0, 0, 0], [0, 9, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]
    found = cam_boxes(
        torch.tensor([[cat, dog, owl]]),
        torch.tensor([[True, True, False]]),
        torch.tensor([[40, 80]]),
        4,
        cam_threshold=0.95,
        offset=0.125,
    )
    assert found.classes.tolist() == [0, 1] and found.peaks.tolist() == [6, 10]
    assert found.boxes_px.tolist() == [[0, 25, 30, 40], [30, 5, 80, 25]]


def test_best_view_of_each_class() -> None:
    """View 0, cat's box, has cosines (0.6, 0, 0.8): (8, 1, 16) / 25. View 1, dog's box, (0, 1, 0): (1, 32, 1) / 34.

    Cat: 8/25 against 1/34. Dog: 1/25 against 16/17. Owl: 16/25 against 1/34. Image 2 has no view.
    """
    views = clip_probs(np.array([[0.6, 0.0, 0.8], [0.0, 1.0, 0.0]]), TEXT, SCALE)
    np.testing.assert_allclose(views, [[8 / 25, 1 / 25, 16 / 25], [1 / 34, 32 / 34, 1 / 34]], rtol=1e-12)
    largest, view = best_view(views, np.array([0, 0]), image_count=2)
    np.testing.assert_allclose(largest, [[8 / 25, 16 / 17, 16 / 25], [np.nan] * 3], rtol=1e-12)
    assert view.tolist() == [[0, 1, 0], [-1, -1, -1]]


def test_aggregated_label() -> None:
    """l = max(l, 1/20) / b, y = clip(0.4 q + 0.6 l, 0, 1); image 2 has no view and keeps q.

    l of image 1  cat 8/25 * 425/304 = 17/38   dog 16/17 * 425/368 = 25/23   owl 16/25 * 425/336 = 17/21
    y of image 1  cat 0.4 * 17/19 + 0.6 * 17/38 = 23.8/38
                  dog 0.4 * 17/46 + 0.6 * 25/23 = 36.8/46 = 0.8
                  owl 0.4 * 85/1344 + 0.6 * 17/21 = (34 + 652.8) / 1344
    """
    views = np.array([[8 / 25, 1 / 25, 16 / 25], [1 / 34, 32 / 34, 1 / 34]])
    found = pseudo_labels(WholeImages(P, Q), LocalViews(views, np.array([0, 0])), BIAS, FLOOR, ALPHA)
    local = [[17 / 38, 25 / 23, 17 / 21], [85 / 1216, 1, 85 / 1344]]
    np.testing.assert_allclose(found["local_label"], local, rtol=1e-12)
    label = [[0.626316, 0.8, 0.511012], [0.069901, 1, 0.063244]]
    np.testing.assert_allclose(found["label"], label, atol=1e-6)
    assert found["box_id"].tolist() == [[0, 1, 0], [-1, -1, -1]]


# Dog's logits in both images: weak view (ln 3, 0), so s = (3/4, 1/2); strong view (0, ln 3), so s = (1/2, 3/4).
# Dog's labels are y = (0.8, 1).
#     BCE          image 1  -(0.8 ln 3/4 + 0.2 ln 1/4) = 0.230146 + 0.277259 = 0.507405
#                  image 2  -ln 1/2 = 0.693147                                         mean 0.600276
#     consistency  image 1  -(3/4 ln 1/2 + 1/4 ln 1/2) = 0.693147
#                  image 2  -(1/2 ln 3/4 + 1/2 ln 1/4) = 0.836988                      mean 0.765068
#     loss, with lambda = 1                                                            sum  1.365344
LABELS = torch.tensor([[0.8], [1.0]])


def logits_of_both_views() -> tuple[Tensor, Tensor]:
    weak = torch.tensor([[math.log(3)], [0.0]], requires_grad=True)
    strong = torch.tensor([[0.0], [math.log(3)]], requires_grad=True)
    return weak, strong


def test_losses() -> None:
    weak, strong = logits_of_both_views()
    assert bce(weak, LABELS).item() == pytest.approx(0.600276, abs=1e-6)
    assert consistency(strong, weak).item() == pytest.approx(0.765068, abs=1e-6)


def test_one_step_of_the_final_training() -> None:
    """BCE: gradient (s - y) / 2 in the weak logits. Consistency: (s_strong - s_weak) / 2 in the strong ones alone.

    weak    (3/4 - 0.8) / 2 = -0.025   (1/2 - 1) / 2 = -0.25
    strong  (1/2 - 3/4) / 2 = -0.125   (3/4 - 1/2) / 2 = 0.125
    """
    weak, strong = logits_of_both_views()
    answers: Iterator[Tensor] = iter([weak, strong])
    images = torch.zeros(2, 3, 4, 4, dtype=torch.uint8)
    objective = Objective(consistency_weight=1.0, color_jitter=0.5)
    outcome = outcome_of(objective, lambda pixels: (next(answers), pixels), images, LABELS, torch.Generator())
    assert outcome.loss.item() == pytest.approx(1.365344, abs=1e-6)
    assert outcome.parts["bce"].item() == pytest.approx(0.600276, abs=1e-6)
    assert outcome.parts["consistency"].item() == pytest.approx(0.765068, abs=1e-6)
    outcome.loss.backward()
    assert weak.grad is not None and weak.grad[:, 0].tolist() == pytest.approx([-0.025, -0.25], abs=1e-6)
    assert strong.grad is not None and strong.grad[:, 0].tolist() == pytest.approx([-0.125, 0.125], abs=1e-6)
