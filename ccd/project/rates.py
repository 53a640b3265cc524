"""How long this machine takes for one image: the real architectures and some of the real images, for a few seconds."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from clip.model import CLIP
from torch import Tensor

from ccd.artifacts.image_index import ImageIndex
from ccd.console import StageLog
from ccd.errors import CcdError
from ccd.loading import image_batches, indexed_files
from ccd.runtime import keep_freed_memory
from ccd.student.loop import Batches, Optimization, train
from ccd.student.model import Student, StudentSpec, build_student
from ccd.student.objectives import Objective, final_objective, warmup_objective
from ccd.student.predict import predict
from ccd.teacher import Teacher, load_teacher
from ccd.teacher.clip_teacher import ClipTeacher
from ccd.teacher.openai import image_tower, tokenize
from ccd.teacher.pixels import CLIP_MEAN_STD

Params = Mapping[str, Mapping[str, Any]]

# Embedding width, native size, layers, width and patch of OpenAI's image towers, and the size of the file (MiB).
TOWERS: dict[str, tuple[int, int, int | tuple[int, int, int, int], int, int | None, int]] = {
    "RN50": (1024, 224, (3, 4, 6, 3), 64, None, 244),
    "RN101": (512, 224, (3, 4, 23, 3), 64, None, 278),
    "RN50x4": (640, 288, (4, 6, 10, 6), 80, None, 402),
    "RN50x16": (768, 384, (6, 8, 18, 8), 96, None, 630),
    "RN50x64": (1024, 448, (3, 15, 36, 10), 128, None, 1290),
    "ViT-B/32": (512, 224, 12, 768, 32, 338),
    "ViT-B/16": (512, 224, 12, 768, 16, 335),
    "ViT-L/14": (768, 224, 24, 1024, 14, 890),
    "ViT-L/14@336px": (768, 336, 24, 1024, 14, 891),
}
_BUDGET_S = 2.0
_SAMPLE = 32
_CLASSES = 20  # the head is a small part of a student


@dataclass(frozen=True)
class Rates:
    """Seconds per image: ``read`` decodes and resizes in one process; the others compute. ``embed_dim``: of the
    teacher; ``student_bytes``: of one set of weights."""

    read: float
    teacher_global: float
    teacher_local: float
    warmup_step: float
    propose: float
    train_step: float
    score: float
    embed_dim: int
    student_bytes: int


def measure(params: Params, index: ImageIndex, folder: Path, device: torch.device, log: StageLog) -> Rates:
    """Time everything that the pipeline does with an image, with random weights where the real ones are not here.

    Args:
        params: sections of ``params.yaml``.
        folder: where the project will lie: paths in ``params`` are relative to it.

    Raises:
        CcdError: the teacher or student cannot be built, or does not fit the GPU's memory.
    """
    keep_freed_memory()
    try:
        return _measured(params, index, folder, device, log)
    except torch.cuda.OutOfMemoryError:
        raise CcdError(
            f"{device}: its memory does not hold these models at these sizes; choose smaller ones with --teacher and "
            "--student, or smaller image_size_px and batch_size with --set"
        ) from None


def _measured(params: Params, index: ImageIndex, folder: Path, device: torch.device, log: StageLog) -> Rates:
    size_px = {
        section: int(params[section]["image_size_px"]) for section in params if "image_size_px" in params[section]
    }
    with log.bar(4, "part") as bar:
        read = _reading(index, folder / params["dataset"]["root"], size_px["clip_global"])
        bar.update()
        teacher = open_teacher(params, folder, device)
        looks = {px: _looking(teacher, px) for px in {size_px["clip_global"], size_px["clip_local"]}}
        bar.update()
        spec = StudentSpec(params["warmup"]["backbone"], tuple(map(str, range(_CLASSES))), 3.0, size_px["train"])
        student = build_student(spec, "none", 0)
        scores = {px: _scoring(student, px, device) for px in {size_px["cam_boxes"], size_px["train"]}}
        bar.update()
        final = params["train"]
        objective = final_objective(final["consistency_weight"], final["color_jitter"], final["label_update_sigma"])
        first = _stepping(student, warmup_objective, params["warmup"], device)
        second = _stepping(student, objective, final, device)
        bar.update()
    weights = sum(value.numel() * value.element_size() for value in student.state_dict().values())
    return Rates(
        read, looks[size_px["clip_global"]], looks[size_px["clip_local"]], first, scores[size_px["cam_boxes"]], second,
        scores[size_px["train"]], teacher.embed_dim, weights,
    )  # fmt: skip


def can_measure(params: Params, folder: Path) -> bool:
    """Whether the teacher can be timed without a download."""
    model, pretrained = params["teacher"]["model"], params["teacher"]["pretrained"]
    if params["teacher"]["backend"] == "clip" or (folder / model).is_dir():
        return True
    return bool(pretrained) and (folder / pretrained).is_file()


def open_teacher(params: Params, folder: Path, device: torch.device) -> Teacher:
    """The teacher of ``params``; one of OpenAI's names stands for random weights, so that nothing is downloaded."""
    wanted = dict(params["teacher"])
    if wanted["backend"] != "clip" or wanted["model"] not in TOWERS:
        for key in ("model", "pretrained"):
            if wanted[key] and (folder / wanted[key]).exists():
                wanted[key] = str(folder / wanted[key])
        return load_teacher(**wanted, device=device)
    width, native_px, layers, channels, patch_px, _ = TOWERS[wanted["model"]]
    network = CLIP(width, native_px, layers, channels, patch_px, 77, 49408, 64, 1, 1)
    mean, std = CLIP_MEAN_STD
    return ClipTeacher(
        network, image_tower(network), tokenize, embed_dim=width, mean=mean, std=std,
        precision=wanted["precision"], device=device, description="random",
    )  # fmt: skip


def _reading(index: ImageIndex, root: Path, size_px: int) -> float:
    rows = list(range(0, len(index), -(-len(index) // _SAMPLE)))
    start = time.perf_counter()
    for _ in image_batches(indexed_files(str(root), index), rows, size_px, len(rows), workers=0):
        pass
    return (time.perf_counter() - start) / len(rows)


def _looking(teacher: Teacher, size_px: int) -> float:
    return _per_image(lambda count: teacher.encode_image(_pixels(count, size_px)))


def _scoring(student: Student, size_px: int, device: torch.device) -> float:
    def run(count: int) -> None:
        for _, logits, _ in predict(student, [(torch.arange(count), _pixels(count, size_px))], device):
            logits.cpu()

    return _per_image(run)


def _stepping(student: Student, objective: Objective, params: Mapping[str, Any], device: torch.device) -> float:
    """Seconds per image of a training step, in the real loop."""
    size_px, batch_size = int(params["image_size_px"]), int(params["batch_size"])
    start = time.perf_counter()
    next(iter(predict(student, [(torch.arange(1), _pixels(1, size_px))], device)))
    affordable = int(_BUDGET_S / (6 * (time.perf_counter() - start)))
    batch_size = max(2, min(batch_size, affordable))
    pixels, ends = _pixels(batch_size, size_px), [time.perf_counter()]

    def batches(epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        while len(ends) < 3 or ends[-1] - ends[0] < _BUDGET_S:
            yield torch.arange(batch_size), pixels

    def endless(epoch: int) -> Batches:
        return batches(epoch)

    how = Optimization(1, float(params["lr"]), 1.0, params["precision"])
    train(
        student, endless, torch.full((batch_size, _CLASSES), 0.5), objective, optimization=how, seed=0, device=device,
        on_step=lambda epoch, step, loss: ends.append(time.perf_counter()),
    )  # fmt: skip
    steps = sorted(end - begin for begin, end in pairwise(ends[1:]))  # the first one warms up
    return steps[len(steps) // 2] / batch_size


def _per_image(run: Callable[[int], object]) -> float:
    """Seconds of ``run(count)`` per image, in batches where one image is quick."""
    run(1)  # warms up
    start = time.perf_counter()
    run(1)
    single = time.perf_counter() - start
    count = max(1, min(16, int(_BUDGET_S / (4 * single))))
    times: list[float] = []
    begun = time.perf_counter()
    while not times or time.perf_counter() - begun < _BUDGET_S / 2:
        start = time.perf_counter()
        run(count)
        times.append(time.perf_counter() - start)
    return sorted(times)[len(times) // 2] / count


def _pixels(count: int, size_px: int) -> Tensor:
    return torch.randint(0, 256, (count, 3, size_px, size_px), dtype=torch.uint8)
