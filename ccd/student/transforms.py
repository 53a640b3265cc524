"""Batched image transforms on the device; random numbers come from an explicit CPU generator, one draw per image."""

from __future__ import annotations

import torch
from torch import Tensor

from ccd.student.seeds import per_image

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def to_unit(pixels: Tensor) -> Tensor:
    """(b, 3, H, W) uint8 in 0..255 -> float32 in [0, 1]."""
    return pixels.to(torch.float32, memory_format=torch.channels_last) / 255


def normalize(pixels: Tensor, mean: tuple[float, float, float], std: tuple[float, float, float]) -> Tensor:
    """(b, 3, H, W) float: subtract ``mean`` and divide by ``std`` per channel."""
    shape = (1, 3, 1, 1)
    return (pixels - pixels.new_tensor(mean).view(shape)) / pixels.new_tensor(std).view(shape)


def random_hflip(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Mirror each image of (b, 3, H, W), of any dtype, with probability 1/2."""
    flip = per_image(1, len(pixels), generator)[0] < 0.5
    return torch.where(_per_image(flip, pixels), pixels.flip(-1), pixels)


def color_jitter(
    pixels: Tensor,
    generator: torch.Generator,
    *,
    brightness: float,
    contrast: float,
    saturation: float,
    hue: float,
) -> Tensor:
    """torchvision's ColorJitter for a batch: factors drawn per image, the order of the four operations per batch.

    Args:
        pixels: (b, 3, H, W) float RGB in [0, 1].
        brightness, contrast, saturation: x in [0, 1]; factors are uniform in [1 - x, 1 + x].
        hue: x in [0, 0.5]; shifts are uniform in [-x, x], in turns of the colour circle.

    Returns:
        (b, 3, H, W) float in [0, 1]. The same numbers are drawn whatever the strengths.
    """
    spread = 2 * per_image(4, len(pixels), generator) - 1  # in [-1, 1)
    for operation in torch.randperm(4, generator=generator).tolist():
        if operation == 0 and brightness:
            pixels = adjust_brightness(pixels, _per_image(1 + brightness * spread[0], pixels))
        elif operation == 1 and contrast:
            pixels = adjust_contrast(pixels, _per_image(1 + contrast * spread[1], pixels))
        elif operation == 2 and saturation:
            pixels = adjust_saturation(pixels, _per_image(1 + saturation * spread[2], pixels))
        elif operation == 3 and hue:
            pixels = adjust_hue(pixels, _per_image(hue * spread[3], pixels))
    return pixels


def adjust_brightness(pixels: Tensor, factor: Tensor) -> Tensor:
    """(b, 3, H, W) float in [0, 1] times ``factor`` (b, 1, 1, 1)."""
    return (pixels * factor).clamp(0, 1)


def adjust_contrast(pixels: Tensor, factor: Tensor) -> Tensor:
    """Blend with the image's mean luma by ``factor`` (b, 1, 1, 1): 0 is uniform grey, 1 the image."""
    return torch.lerp(_luma(pixels).mean(dim=(1, 2, 3), keepdim=True), pixels, factor).clamp(0, 1)


def adjust_saturation(pixels: Tensor, factor: Tensor) -> Tensor:
    """Blend with the grey image by ``factor`` (b, 1, 1, 1): 0 is grey, 1 the image."""
    return torch.lerp(_luma(pixels), pixels, factor).clamp(0, 1)


def adjust_hue(pixels: Tensor, shift: Tensor) -> Tensor:
    """Turn the hue by ``shift`` (b, 1, 1, 1) turns at fixed HSV saturation and value."""
    value = pixels.amax(dim=1, keepdim=True)  # (b, 1, H, W)
    chroma = value - pixels.amin(dim=1, keepdim=True)
    red, green, blue = pixels.chunk(3, dim=1)
    sector = torch.where(
        value == red, green - blue, torch.where(value == green, blue - red + 2 * chroma, red - green + 4 * chroma)
    ) / chroma.where(chroma > 0, 1)
    # HSV -> RGB without its six cases; k is the hue in sixths of a turn, counted from the channel's own zero
    offset = pixels.new_tensor([5, 3, 1]).view(1, 3, 1, 1)
    k = (offset + sector + 6 * shift) % 6  # (b, 3, H, W)
    return value - chroma * torch.minimum(k, 4 - k).clamp(0, 1)


def _luma(pixels: Tensor) -> Tensor:
    return (pixels * pixels.new_tensor([0.2989, 0.587, 0.114]).view(1, 3, 1, 1)).sum(dim=1, keepdim=True)


def _per_image(values: Tensor, pixels: Tensor) -> Tensor:
    return values.to(pixels.device, non_blocking=True).view(-1, 1, 1, 1)
