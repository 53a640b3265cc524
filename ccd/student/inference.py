"""The student's inference: maps and logits, probabilities, and decision thresholds without ground truth."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from ccd.artifacts.checkpoint_file import Checkpoint
from ccd.errors import CcdError, listed
from ccd.images.batches import ImageFiles, image_batches
from ccd.labels.thresholds import prevalence_thresholds
from ccd.runtime.hardware import (
    Hardware,
    Precision,
    check_precision,
    computing,
    from_rank0,
    merged,
    one_ahead,
    read_later,
    share,
)
from ccd.student.model import Student, StudentSpec, restore_student
from ccd.student.transforms import to_unit

Batch = TypeVar("Batch", bound=tuple[Any, ...])


class ImageProgress(Protocol):
    """Pass batches on and show how many of ``total`` images are done; the first part of a batch counts its images."""

    def __call__(self, batches: Iterable[Batch], total: int, /) -> Iterator[Batch]:
        """See above."""
        ...


def silent(batches: Iterable[Batch], total: int, /) -> Iterator[Batch]:
    """An `ImageProgress` that shows nothing."""
    return iter(batches)


def predict(
    student: Student, batches: Iterable[tuple[Tensor, Tensor]], device: torch.device, precision: Precision = "fp32"
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Score batches without augmentation; the student is moved to ``device`` and left in evaluation mode.

    Args:
        batches: rows (b,) int64 and pixels (b, 3, H, W) uint8.

    Yields:
        ``rows`` as they came, ``logits`` (b, C) float32 and ``cam`` (b, C, h, w) float32, both on ``device``.

    Raises:
        CcdError: the precision does not fit the device.
    """
    check_precision(device, precision)
    student.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    student.eval()
    for rows, images in batches:
        # entered per batch: held across a yield, these modes would leak into the caller
        with torch.inference_mode(), computing(device, precision):
            logits, cam = student(to_unit(images.to(device, non_blocking=True)))
        yield rows, logits, cam


_FEW_IMAGES = 256
_FEW_BATCH = 32  # not the hardware's batch size, which must not change a result


@torch.no_grad()
def start_as_clip(
    student: Student,
    projection: Mapping[str, Tensor],
    text: np.ndarray,
    logit_scale: float,
    labels: np.ndarray,
    files: ImageFiles,
    size_px: int,
    hardware: Hardware,
) -> None:
    """Start a student whose backbone ends in CLIP's projection, a 1x1 convolution to D channels, as CLIP's classifier.

    The projection is standardised: each channel, averaged over an image, has mean 0 and variance 1 over up to 256
    images, evenly spaced. On it the head is the zero-shot classifier of the texts, around the mean image and the mean
    text: w_c = s / (g n) spread (t_c - mean t), with g the ``cam_boost`` of positive activations and n the mean norm of
    the images' features; its bias is the log-odds of the class's mean label. The student is moved to the device and
    left in evaluation mode.

    Args:
        projection: the convolution's state dict.
        text: t, (C, D) float32 unit rows. logit_scale: s.
        labels: (N, C) in [0, 1], of the images in ``files``.

    Raises:
        CcdError: the texts have another number of dimensions than the projection, or an image cannot be read.
    """
    student.to(hardware.device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
    if text.shape[1] != student.head.in_channels:
        raise CcdError(
            f"text.h5 has {text.shape[1]} dimensions, the teacher's images have {student.head.in_channels}; they are"
            " of different teachers: run stage text again: dvc repro text"
        )
    layer: nn.Conv2d = student.backbone.get_submodule("projection")  # type: ignore[assignment]
    layer.load_state_dict(projection)
    pooled = torch.from_numpy(from_rank0(lambda: _pooled_features(student, files, size_px, hardware)))  # (n, D)
    spread, mean = torch.std_mean(pooled, dim=0, correction=0)
    spread[spread <= 1e-3 * spread.max()] = 1  # what hardly differs between images is left as small as it is
    layer.weight.div_(spread.to(layer.weight)[:, None, None, None])
    layer.bias.sub_(mean.to(layer.bias)).div_(spread.to(layer.bias))  # type: ignore[union-attr]
    scale = logit_scale / student.cam_boost / pooled.norm(dim=1).mean()
    student.head.weight.copy_((scale * spread * torch.from_numpy(text - text.mean(axis=0)))[:, :, None, None])
    prior = torch.from_numpy(labels.mean(axis=0, dtype=np.float64))
    student.head.bias.copy_(torch.logit(prior, eps=1e-3))  # type: ignore[union-attr]


def _pooled_features(student: Student, files: ImageFiles, size_px: int, hardware: Hardware) -> np.ndarray:
    """Return the backbone's features averaged over each of up to 256 images, evenly spaced, (n, D) float32."""
    rows = np.linspace(0, len(files) - 1, min(len(files), _FEW_IMAGES)).round().astype(np.int64)
    batches = (
        images.to(hardware.device) for _, images in image_batches(files, rows, size_px, _FEW_BATCH, hardware.workers)
    )
    maps = (student.features(to_unit(images)) for images in batches)
    return np.concatenate([features.float().mean(dim=(2, 3)).cpu().numpy() for features in maps])


def score(
    students: Mapping[str, Student],
    files: ImageFiles,
    size_px: int,
    hardware: Hardware,
    progress: ImageProgress = silent,
    precision: Precision = "fp32",
) -> dict[str, np.ndarray]:
    """Return sigmoid(logits) of every student, (N, C) float32, on every rank; each image is decoded once.

    Raises:
        CcdError: an image cannot be read, a student gives NaN or Inf for it (the files are named), or the precision
            does not fit the device.
    """
    for student in students.values():
        student.to(hardware.device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
    collected = {name: [np.empty((0, student.head.out_channels), np.float32)] for name, student in students.items()}
    rows = share(np.arange(len(files)), hardware.batch_size)
    pin = hardware.device.type == "cuda"  # so that copies to the GPU need no waiting
    batches = image_batches(files, rows, size_px, hardware.batch_size, hardware.workers, pin_memory=pin)
    scored = merged(_score_batches(students, batches, files.paths, hardware.device, precision))
    for _, probs in progress(scored, len(files)):
        for name, values in probs.items():
            collected[name].append(values)
    return from_rank0(lambda: {name: np.concatenate(parts) for name, parts in collected.items()})


def _score_batches(
    students: Mapping[str, Student],
    batches: Iterable[tuple[Tensor, Tensor]],
    paths: Sequence[Path],
    device: torch.device,
    precision: Precision,
) -> Iterator[tuple[np.ndarray, dict[str, np.ndarray]]]:
    """Yield rows (b,) and every student's probabilities (b, C), read when the next batch has been started."""
    check_precision(device, precision)
    ends = np.cumsum([student.head.out_channels for student in students.values()])[:-1]

    def started() -> Iterator[tuple[np.ndarray, Callable[[], Tensor]]]:
        for rows, images in batches:
            with torch.inference_mode(), computing(device, precision):
                pixels = to_unit(images.to(device, non_blocking=True))
                probs = [student(pixels)[0].sigmoid() for student in students.values()]
                joined = torch.cat(probs, dim=1)  # one copy to the CPU
            yield rows.numpy(), read_later(joined)

    for rows, read in one_ahead(started(), device):
        # copied once more, so that page-locked memory is not kept for the whole pass
        parts = np.split(read().numpy().copy(), ends, axis=1)
        yield rows, {name: finite_probs(part, rows, paths, name) for name, part in zip(students, parts, strict=True)}


def finite_probs(probs: np.ndarray, rows: np.ndarray, paths: Sequence[Path], name: str) -> np.ndarray:
    """Return ``probs`` (b, C), of the student ``name`` for the images ``rows`` (b,) of ``paths``, if they are finite.

    Raises:
        CcdError: NaN or Inf; the files are named.
    """
    broken = rows[~np.isfinite(probs).all(axis=1)].tolist()
    if broken:
        where = listed(paths[row] for row in broken)
        raise CcdError(f"the student '{name}' gives NaN for {where}; train it again, in fp32")
    return probs


def score_checkpoints(
    warmup: Checkpoint,
    final: Checkpoint,
    files: ImageFiles,
    hardware: Hardware,
    progress: ImageProgress = silent,
    precision: Precision = "fp32",
) -> dict[str, np.ndarray]:
    """Score the warmed-up student and every set of weights of the final one; ``student`` is the selected set.

    Equal sets are scored once. Ranks share the pass, and all of them have its result.
    """
    spec = StudentSpec.from_dict(final.spec)
    states = {"warmup": warmup.weights[warmup.selected], **final.weights}
    first = {name: next(other for other in states if _equal(states[other], states[name])) for name in states}
    students = {name: restore_student(spec, states[name]) for name in states if first[name] == name}
    scored = score(students, files, spec.image_size_px, hardware, progress, precision)
    probs = {name: scored[first[name]] for name in states}
    return {**probs, "student": probs[final.selected]}


def _equal(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    """Tell whether two state dicts hold the same numbers."""
    return one is other or (one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one))


def label_free_thresholds(
    student: Student,
    files: ImageFiles,
    labels: np.ndarray,
    size_px: int,
    hardware: Hardware,
    progress: ImageProgress = silent,
    precision: Precision = "fp32",
) -> dict[str, Any]:
    """Score the N training images and match each class's share of (N, C) pseudo-labels.

    A pass of its own: the scores met while training are those of other weights, on mirrored and recoloured images, with
    BatchNorm in training mode. ``precision``: that of the training. Ranks share the pass, and all of them have its
    result.
    """
    probs = score({"student": student}, files, size_px, hardware, progress, precision)["student"]
    return {"values": prevalence_thresholds(probs, labels).tolist(), "source": "pseudo-labels"}
