"""What the final training can do beyond the paper: other views, weights in the loss, a moving average."""

from __future__ import annotations

from math import log

import numpy as np
import pytest
import torch
from torchvision.transforms import v2

from ccd.runtime.hardware import Part
from ccd.student.fit import train
from ccd.student.objectives import LabelLoss, Objective, WeakView, bce
from ccd.student.step import MovingAverage, Optimization
from ccd.student.transforms import paste, rand_augment, random_hflip, random_resized_crop, step_generator, to_unit
from tests.toys.student import batches_of, colour_patches, outcome_of, tiny_student

CPU = torch.device("cpu")


def test_undecided_labels_count_less() -> None:
    """Weights |2y - 1|: 0 and 0.5; the losses are ln 2 each, at logit 0, so their mean is too."""
    logits = torch.tensor([[0.0, 2.0]])
    targets = torch.tensor([[0.5, 0.75]])
    expected = bce(logits[:, 1:], targets[:, 1:])
    torch.testing.assert_close(LabelLoss(doubt_power=1.0)(logits, targets), expected)
    assert float(LabelLoss(doubt_power=1.0)(torch.zeros(1, 2), targets)) == pytest.approx(log(2))
    assert float(LabelLoss(doubt_power=1.0)(logits, torch.full((1, 2), 0.5))) == 0.0, "nothing is decided"


def test_the_largest_losses_of_negatives_are_left_out() -> None:
    """Of three negatives a third is rejected: the one with logit 4; the positive stays whatever its loss."""
    logits = torch.tensor([[4.0, -1.0], [0.0, -9.0]])
    targets = torch.tensor([[0.0, 0.0], [0.0, 1.0]])
    kept = torch.tensor([False, True, True, True])
    expected = bce(logits.flatten()[kept], targets.flatten()[kept])
    torch.testing.assert_close(LabelLoss(rejected_negatives=0.34)(logits, targets), expected)


def test_both_off_is_plain_bce_to_the_last_bit() -> None:
    logits = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    targets = torch.rand(4, 3, generator=torch.Generator().manual_seed(1))
    assert torch.equal(LabelLoss()(logits, targets), bce(logits, targets))


def photos(count: int) -> torch.Tensor:
    """Noise, (count, 3, 30, 25) in [0, 1], each image within a range of its own; as 8-bit files would give it."""
    noise = torch.rand(count, 3, 30, 25, generator=torch.Generator().manual_seed(0))
    scale = torch.linspace(0.3, 0.8, count).view(-1, 1, 1, 1)
    return (noise * scale * 255).round() / 255


def test_rand_augment_draws_from_the_steps_generator_alone() -> None:
    torch.manual_seed(5)
    first = rand_augment(photos(16), torch.Generator().manual_seed(1), 2)
    left = torch.rand(3)
    torch.manual_seed(5)
    assert torch.equal(left, torch.rand(3)), "the global generator is as it was"
    torch.manual_seed(6)
    assert torch.equal(first, rand_augment(photos(16), torch.Generator().manual_seed(1), 2))
    assert not torch.equal(first, rand_augment(photos(16), torch.Generator().manual_seed(2), 2))


def test_rand_augment_changes_an_image_alike_whichever_rank_has_it() -> None:
    whole = rand_augment(photos(9), step_generator(3, Part(0, 9, 9)), 2)
    parts = [rand_augment(photos(9)[a:b], step_generator(3, Part(a, b - a, 9)), 2) for a, b in ((0, 4), (4, 9))]
    assert torch.equal(whole, torch.cat(parts))


@pytest.mark.parametrize("name", sorted(v2.RandAugment._AUGMENTATION_SPACE))
def test_every_operation_keeps_shape_dtype_and_range(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    operation = v2.RandAugment._AUGMENTATION_SPACE[name]
    monkeypatch.setattr(v2.RandAugment, "_AUGMENTATION_SPACE", {name: operation})
    pixels = photos(6)
    before = pixels.clone()
    changed = rand_augment(pixels, torch.Generator().manual_seed(0), 1)
    assert (changed.shape, changed.dtype) == (pixels.shape, torch.float32)
    assert changed.min() >= 0 and changed.max() <= 1 and torch.equal(pixels, before)
    assert torch.equal(changed, pixels) == (name == "Identity")


def test_rand_augment_solarizes_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """Magnitude 9 of 31 inverts what is at least 1 - 9/30 = 0.7 of the range."""
    operation = v2.RandAugment._AUGMENTATION_SPACE["Solarize"]
    monkeypatch.setattr(v2.RandAugment, "_AUGMENTATION_SPACE", {"Solarize": operation})
    grey = torch.tensor([100.0, 178.0, 179.0, 255.0]).view(1, 1, 1, 4).expand(1, 3, 1, 4) / 255
    solarized = rand_augment(grey, torch.Generator(), 1)[0, 0, 0] * 255
    torch.testing.assert_close(solarized, torch.tensor([100.0, 178.0, 76.0, 0.0]))


class Watching(torch.nn.Module):
    """A student of three classes, the colours, that keeps the pixels it has ``seen``."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[torch.Tensor] = []

    def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        self.seen.append(pixels)
        return pixels.mean(dim=(2, 3)), pixels


def test_the_consistency_loss_sees_rand_augment_in_place_of_colour_jitter() -> None:
    student = Watching()
    images = (photos(8) * 255).to(torch.uint8)
    objective = Objective(1.0, 0.5, rand_augment=2)
    outcome_of(objective, student, images, torch.ones(8, 3), torch.Generator().manual_seed(1))
    generator = torch.Generator().manual_seed(1)
    weak = to_unit(random_hflip(images, generator))
    strong = rand_augment(to_unit(random_hflip(images, generator)), generator, 2)
    assert torch.equal(student.seen[0], weak) and torch.equal(student.seen[1], strong)


def test_a_crop_of_the_whole_area_and_aspect_is_the_image() -> None:
    """The share of the area is 1; the aspect differs, but the longer side is cut to the image's."""
    pixels = torch.rand(3, 3, 8, 8)
    cropped = random_resized_crop(pixels, torch.Generator().manual_seed(0), 1.0)
    assert cropped.shape == pixels.shape
    constant = torch.full((2, 3, 6, 6), 0.25)
    torch.testing.assert_close(random_resized_crop(constant, torch.Generator().manual_seed(0), 0.1), constant)


def test_crops_stay_within_the_image_and_have_the_area_asked_for() -> None:
    """A ramp from 0 to 1 across: the crop's spread is its width; likewise down for its height."""
    side = 64
    ramp = torch.linspace(0, 1, side).expand(400, 3, side, side)
    generator = torch.Generator().manual_seed(3)
    wide = random_resized_crop(ramp, generator, 0.25)
    width = (wide.amax(dim=(1, 2, 3)) - wide.amin(dim=(1, 2, 3))) * (side - 1) / (side - 1)
    tall = random_resized_crop(ramp.transpose(2, 3), torch.Generator().manual_seed(3), 0.25)
    height = tall.amax(dim=(1, 2, 3)) - tall.amin(dim=(1, 2, 3))
    area = width * height
    assert wide.min() >= 0 and wide.max() <= 1
    assert 0.2 < float(area.min()) < 0.35 and 0.85 < float(area.max()) <= 1.0
    assert 0.55 < float(area.mean()) < 0.68, "uniform in [1/4, 1]: 0.625, a little less where a side is cut"


def test_a_pasted_neighbour_brings_its_labels() -> None:
    """Images of one colour each: a pasted part is the previous image's colour, and its labels come with it."""
    images = torch.arange(1, 41, dtype=torch.float32).view(40, 1, 1, 1).expand(40, 3, 10, 10) / 40
    targets = torch.zeros(40, 40)
    targets.fill_diagonal_(0.9)
    targets[3] *= 0.1  # not sure enough to be pasted
    pixels, labels = paste(images, targets, torch.Generator().manual_seed(0), scale=0.5, least_label=0.5)
    pasted = (pixels != images).flatten(1).any(dim=1)
    assert 10 < int(pasted.sum()) < 30, "about half"
    for row in range(40):
        before = (row - 1) % 40
        if pasted[row]:
            near = (pixels[row] - images[before]).abs().amax(dim=0) < 1e-6
            assert int(near.sum()) == 25 and before != 3
            torch.testing.assert_close(labels[row], torch.maximum(targets[row], targets[before]))
        else:
            assert torch.equal(pixels[row], images[row]) and torch.equal(labels[row], targets[row])


def test_what_is_pasted_is_in_both_views() -> None:
    student = Watching()
    images = (torch.arange(8).view(8, 1, 1, 1).expand(8, 3, 8, 8) * 30).to(torch.uint8)
    objective = Objective(1.0, 0.0, WeakView(paste_scale=0.5))
    outcome_of(objective, student, images, torch.ones(8, 3), torch.Generator().manual_seed(1))
    weak, strong = student.seen
    torch.testing.assert_close(weak.mean(dim=(2, 3)), strong.mean(dim=(2, 3)))
    assert not torch.equal(weak, images.float() / 255)


def test_the_moving_average_by_hand() -> None:
    """Steps 1 and 2 keep 2/11 and 3/12 of the average, less than the decay of 0.9."""
    model = torch.nn.Linear(1, 1, bias=False)
    model.weight.data.fill_(0.0)
    average = MovingAverage(model, 0.9)
    expected = 0.0
    for step, value in enumerate((1.0, 2.0), start=1):
        model.weight.data.fill_(value)
        average.update(model)
        keep = (1 + step) / (10 + step)
        expected = keep * expected + (1 - keep) * value
    assert float(average.weights["weight"]) == pytest.approx(expected)
    again = MovingAverage(model, 0.9)
    again.load_state_dict(average.state_dict())
    again.update(model)
    average.update(model)
    assert torch.equal(again.weights["weight"], average.weights["weight"])


def test_training_keeps_the_moving_average_only_if_asked() -> None:
    pixels, targets = colour_patches(16)
    found = [
        train(
            tiny_student(),
            batches_of(pixels, 8),
            targets,
            Objective(),
            optimization=Optimization(3, 1e-2, 1.0, ema_decay=decay),
            seed=0,
            device=CPU,
        )
        for decay in (None, 0.5)
    ]
    assert found[0].ema is None and found[1].ema is not None
    assert all(torch.equal(found[0].last[key], found[1].last[key]) for key in found[0].last)
    gap = np.abs((found[1].ema["head.weight"] - found[1].last["head.weight"]).numpy())
    assert 0 < gap.max() < 0.1
