from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as reference

from ccd.student.transforms import (
    adjust_brightness,
    adjust_contrast,
    adjust_hue,
    adjust_saturation,
    color_jitter,
    random_hflip,
    to_unit,
)

ALL = {"brightness": 0.5, "contrast": 0.5, "saturation": 0.5, "hue": 0.5}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pictures(count: int = 4) -> Tensor:
    """Noise, and pixels with equal channels, primary colours, black and white."""
    pixels = torch.rand(count, 3, 6, 5, generator=generator())
    corners = torch.tensor([[0, 0, 0], [1, 1, 1], [1, 0, 0], [0, 1, 0], [0, 0, 1], [0.5, 0.5, 0.2], [0.3, 0.3, 0.3]])
    pixels[0].view(3, -1)[:, : len(corners)] = corners.T
    return pixels


@pytest.mark.parametrize(
    ("ours", "theirs", "factors"),
    [
        (adjust_brightness, reference.adjust_brightness, [0.5, 1.0, 1.3, 1.5]),
        (adjust_contrast, reference.adjust_contrast, [0.5, 1.0, 1.3, 1.5]),
        (adjust_saturation, reference.adjust_saturation, [0.0, 1.0, 1.3, 1.5]),
        (adjust_hue, reference.adjust_hue, [-0.5, 0.0, 0.13, 0.5]),
    ],
)
def test_agrees_with_torchvision_image_by_image(
    ours: Callable[[Tensor, Tensor], Tensor], theirs: Callable[[Tensor, float], Tensor], factors: list[float]
) -> None:
    pixels = pictures()
    result = ours(pixels, torch.tensor(factors).view(4, 1, 1, 1))
    expected = torch.stack([theirs(image, factor) for image, factor in zip(pixels, factors, strict=True)])
    torch.testing.assert_close(result, expected, atol=1e-4, rtol=0)


def test_hue_by_hand() -> None:
    """A third of a turn takes red to green to blue; grey stays."""
    red = torch.tensor([1.0, 0.25, 0.25]).view(1, 3, 1, 1)
    turned = adjust_hue(red, torch.full((1, 1, 1, 1), 1 / 3))
    torch.testing.assert_close(turned.flatten(), torch.tensor([0.25, 1.0, 0.25]), atol=1e-5, rtol=0)
    grey = torch.full((1, 3, 1, 1), 0.4)
    assert torch.equal(adjust_hue(grey, torch.full((1, 1, 1, 1), 0.2)), grey)


def test_jitter_draws_per_image_and_stays_in_range() -> None:
    image = torch.rand(1, 3, 8, 8, generator=generator(1))
    jittered = color_jitter(image.expand(64, -1, -1, -1), generator(), **ALL)
    assert len(jittered.flatten(1).unique(dim=0)) == 64
    assert float(jittered.min()) >= 0 and float(jittered.max()) <= 1


def test_brightness_factors_fill_the_range() -> None:
    half = torch.full((2000, 3, 1, 1), 0.5)
    jittered = color_jitter(half, generator(), brightness=0.4, contrast=0, saturation=0, hue=0)
    factors = jittered[:, 0, 0, 0] / 0.5
    assert 0.6 <= float(factors.min()) < 0.61
    assert 1.39 < float(factors.max()) <= 1.4 + 1e-6
    assert float(factors.mean()) == pytest.approx(1, abs=0.02)


def test_no_jitter_is_the_identity_and_draws_the_same_numbers() -> None:
    pixels = pictures()
    off = generator()
    on = generator()
    assert torch.equal(color_jitter(pixels, off, brightness=0, contrast=0, saturation=0, hue=0), pixels)
    color_jitter(pixels, on, **ALL)
    assert torch.equal(torch.rand(1, generator=off), torch.rand(1, generator=on))


def test_the_order_of_operations_varies_between_batches() -> None:
    """Contrast and brightness with clipping do not commute, so some seeds must differ in more than the factors."""
    orders = {tuple(torch.randperm(4, generator=_after_factors(seed)).tolist()) for seed in range(20)}
    assert len(orders) > 5
    pixels = pictures(1)
    by_order = [color_jitter(pixels, generator(seed), **ALL) for seed in range(20)]
    assert all(torch.equal(image, color_jitter(pixels, generator(seed), **ALL)) for seed, image in enumerate(by_order))


def _after_factors(seed: int) -> torch.Generator:
    drawn = generator(seed)
    torch.rand(4, 1, generator=drawn)
    return drawn


def test_hflip_mirrors_about_half_of_the_images_whole() -> None:
    pixels = torch.arange(1000 * 3 * 2 * 3).remainder(251).to(torch.uint8).view(1000, 3, 2, 3)
    flipped = random_hflip(pixels, generator())
    mirrored = (flipped == pixels.flip(-1)).flatten(1).all(dim=1)
    untouched = (flipped == pixels).flatten(1).all(dim=1)
    assert (mirrored ^ untouched).all()
    assert 430 < int(mirrored.sum()) < 570
    assert flipped.dtype == torch.uint8


def test_unit_values_by_hand() -> None:
    pixels = torch.tensor([0, 51, 255], dtype=torch.uint8).view(1, 3, 1, 1)
    unit = to_unit(pixels)
    torch.testing.assert_close(unit.flatten(), torch.tensor([0.0, 0.2, 1.0]))
