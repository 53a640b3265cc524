"""Random numbers of (seed, epoch, step), and batched image transforms that draw from them on the device."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ccd.errors import CcdError
from ccd.runtime.hardware import Part, rank_count, this_rank, to_device


def derived_seed(*keys: int) -> int:
    """Derive a 63-bit seed from non-negative integers; unlike with their sum, (0, 1) and (1, 0) are unrelated."""
    return int(np.random.SeedSequence(keys).generate_state(1, np.uint64)[0] >> np.uint64(1))


class BatchGenerator(torch.Generator):
    """The random numbers of a step on a batch of which this process may hold a part; see `per_image`."""

    part: Part | None = None


def step_generator(seed: int, part: Part) -> BatchGenerator:
    """Return a generator from which every rank draws the numbers that its images would have in one process."""
    generator = BatchGenerator()
    generator.manual_seed(seed)
    generator.part = part
    return generator


def per_image(draws: int, images: int, generator: torch.Generator) -> Tensor:
    """Draw uniform numbers in [0, 1) for the whole batch and return this process's part, (draws, images)."""
    part = generator.part if isinstance(generator, BatchGenerator) else None
    first, total = (part.first, part.total) if part is not None else (0, images)
    return torch.rand(draws, total, generator=generator)[:, first : first + images]


def epoch_order(images: int, seed: int, epoch: int) -> Tensor:
    """Return the order of training in an epoch: a permutation of the rows, (images,) int64."""
    generator = torch.Generator().manual_seed(derived_seed(seed, epoch))
    return torch.randperm(images, generator=generator)


IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def to_unit(pixels: Tensor) -> Tensor:
    """Convert (b, 3, H, W) uint8 in 0..255 to float32 in [0, 1]."""
    return pixels.to(torch.float32, memory_format=torch.channels_last) / 255


def random_hflip(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Mirror each image of (b, 3, H, W), of any dtype, with probability 1/2."""
    flip = per_image(1, len(pixels), generator)[0] < 0.5
    return torch.where(_per_image(flip, pixels), pixels.flip(-1), pixels)


def random_resized_crop(pixels: Tensor, generator: torch.Generator, least_area: float) -> Tensor:
    """Crop each image at random and resize the crop to the image's size, as torchvision's RandomResizedCrop does.

    Args:
        pixels: (b, 3, H, W) float.
        least_area: in (0, 1]; the crop's share of the area is uniform in [least_area, 1], the logarithm of its aspect
            relative to the image's uniform in [ln 3/4, ln 4/3]; sides that would leave the image are cut to it.

    Returns:
        (b, 3, H, W), resized bilinearly.
    """
    area, ratio, *centre = to_device(per_image(4, len(pixels), generator), pixels.device)  # (b,) each
    area = least_area + (1 - least_area) * area
    root = torch.exp((2 * ratio - 1) * math.log(4 / 3) / 2)
    width = (area.sqrt() * root).clamp(max=1)
    height = (area.sqrt() / root).clamp(max=1)
    zero = torch.zeros_like(width)
    across = torch.stack([width, zero, (2 * centre[0] - 1) * (1 - width)], dim=1)
    down = torch.stack([zero, height, (2 * centre[1] - 1) * (1 - height)], dim=1)
    grid = F.affine_grid(torch.stack([across, down], dim=1), list(pixels.shape), align_corners=False)
    cropped = F.grid_sample(pixels, grid, mode="bilinear", padding_mode="border", align_corners=False)
    return cropped.contiguous(memory_format=torch.channels_last)


def paste(
    pixels: Tensor, targets: Tensor, generator: torch.Generator, *, scale: float, least_label: float
) -> tuple[Tensor, Tensor]:
    """Paste a shrunken neighbour onto half of the images, at a random place; the labels become the larger of both.

    The neighbour is the next image of the batch (of this process's part of it), and must have a label of at least
    ``least_label``. After TailorCLIP (2026), which pastes one of each class's surest photos.

    Args:
        pixels: (b, 3, H, W) float.
        targets: (b, C) float in [0, 1].
        scale: side of the pasted image, as a share of the side.

    Returns:
        The pixels and the targets; the arguments are left as they are.
    """
    height, width = (max(1, round(scale * side)) for side in pixels.shape[-2:])
    chosen, down, across = to_device(per_image(3, len(pixels), generator), pixels.device)  # (b,) each
    neighbour = targets.roll(1, 0)
    pasted = (chosen < 0.5) & (neighbour.amax(dim=1) >= least_label)
    small = F.interpolate(pixels.roll(1, 0), (height, width), mode="bilinear", align_corners=False, antialias=True)
    rows, inside_rows = _cells_of_pasted(down, pixels.shape[-2], height)
    columns, inside_columns = _cells_of_pasted(across, pixels.shape[-1], width)
    each = torch.arange(len(pixels), device=pixels.device)
    spread = small.movedim(1, -1)[each[:, None, None], rows[:, :, None], columns[:, None, :]].movedim(-1, 1)
    inside = inside_rows[:, :, None] & inside_columns[:, None, :] & pasted[:, None, None]  # (b, H, W)
    mixed = torch.where(pasted[:, None], torch.maximum(targets, neighbour), targets)
    return torch.where(inside[:, None], spread, pixels), mixed


def _cells_of_pasted(place: Tensor, side: int, pasted_side: int) -> tuple[Tensor, Tensor]:
    """Return, for each cell of a side, the cell of the pasted image that lies on it, and whether one does, (b, side).

    ``place``: (b,) in [0, 1), from the first possible place of the pasted image to the last.
    """
    start = (place * (side - pasted_side + 1)).long()
    cells = torch.arange(side, device=place.device) - start[:, None]
    return cells.clamp(0, pasted_side - 1), (cells >= 0) & (cells < pasted_side)


def color_jitter(
    pixels: Tensor,
    generator: torch.Generator,
    *,
    brightness: float,
    contrast: float,
    saturation: float,
    hue: float,
) -> Tensor:
    """Jitter colours as torchvision's ColorJitter does: factors per image, the order of the four operations per batch.

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


def rand_augment(pixels: Tensor, generator: torch.Generator, operations: int) -> Tensor:
    """Apply torchvision's RandAugment to each image: random operations of its 14, at its magnitude 9 of 31.

    It draws from torch's global generator, which is seeded for every image from ``generator`` and restored after all.

    Args:
        pixels: (b, 3, H, W) float RGB in [0, 1]; RandAugment sees them rounded to 8 bits.
        operations: how many are applied to an image, one after the other.

    Returns:
        (b, 3, H, W) float in [0, 1]; black where an operation moved the image away.
    """
    from torchvision.transforms.v2 import RandAugment

    augment = RandAugment(num_ops=operations, magnitude=9)
    seeds = (per_image(1, len(pixels), generator)[0] * 2**24).long().tolist()  # a float32 has 24 random bits
    augmented = (pixels * 255).round().to(torch.uint8)
    with torch.random.fork_rng(devices=[]):
        for row, seed in enumerate(seeds):
            torch.default_generator.manual_seed(seed)  # not torch.manual_seed, which seeds every GPU too
            augmented[row] = augment(augmented[row])
    return to_unit(augmented)


def adjust_brightness(pixels: Tensor, factor: Tensor) -> Tensor:
    """Multiply (b, 3, H, W) float in [0, 1] by ``factor`` (b, 1, 1, 1)."""
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
    offset = _channels((5.0, 3.0, 1.0), pixels.device)
    k = (offset + sector + 6 * shift) % 6  # (b, 3, H, W)
    return value - chroma * torch.minimum(k, 4 - k).clamp(0, 1)


def _luma(pixels: Tensor) -> Tensor:
    return (pixels * _channels((0.2989, 0.587, 0.114), pixels.device)).sum(dim=1, keepdim=True)


def _per_image(values: Tensor, pixels: Tensor) -> Tensor:
    return to_device(values, pixels.device).view(-1, 1, 1, 1)


@lru_cache(maxsize=8)
def _channels(values: tuple[float, float, float], device: torch.device) -> Tensor:
    """Return a number for each channel, (1, 3, 1, 1) float32; kept, since a copy to a GPU waits for its work."""
    return torch.tensor(values, device=device).view(1, 3, 1, 1)


@dataclass(frozen=True)
class BatchRows:
    """Function of a step's number, counted over all epochs from ``first_epoch``, to this rank's rows (b,) int64.

    Parts of a batch are contiguous and differ by one image at most; the last batch of an epoch may leave a rank none.
    Picklable, and the same in every process.
    """

    images: int
    batch_size: int
    seed: int
    first_epoch: int
    rank: int
    world: int

    def __call__(self, index: int) -> Tensor:
        epoch, step = divmod(index, -(-self.images // self.batch_size))
        order = _recent_order(self.images, self.seed, self.first_epoch + epoch)
        batch = order[step * self.batch_size : (step + 1) * self.batch_size]
        return batch.tensor_split(self.world)[self.rank].clone()


_recent_order = lru_cache(maxsize=1)(epoch_order)


def batch_rows(images: int, batch_size: int, seed: int, first_epoch: int) -> BatchRows:
    """Return the batches of this rank.

    Raises:
        CcdError: a batch has fewer images than there are ranks.
    """
    if batch_size < rank_count():
        raise CcdError(
            f"a batch of {batch_size} images cannot be shared by {rank_count()} processes: lower runtime.processes, "
            "or enlarge batch_size"
        )
    return BatchRows(images, batch_size, seed, first_epoch, this_rank(), rank_count())
