"""Measures the student: training beside bare steps; proposing views and predicting beside bare forward passes.

A view is a crop of an image that CLIP reads by itself.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from tqdm import tqdm

from benchmarks.measure import ROOT, Watch, Work, interleaved, ratio, typical, working_in
from benchmarks.networks import CLASSES, ready, save_student, student_of
from benchmarks.photos import index_of, photos_of
from benchmarks.settings import Settings
from benchmarks.tables import Table, speed
from ccd.deploy.load import open_model
from ccd.deploy.predict_run import Job, to_file
from ccd.images.batches import ImageFiles
from ccd.params.file import read_yaml, validate
from ccd.params.sections import TrainParams, WarmupParams
from ccd.runtime.console import StageLog
from ccd.runtime.hardware import Precision, computing
from ccd.runtime.store import open_store
from ccd.student.fit import TrainingData, fit, steps_per_epoch, training_name
from ccd.student.inference import score
from ccd.student.objectives import Objective, bce, consistency
from ccd.student.propose import ViewOptions, ViewQuota, choose_views, find_candidates
from ccd.student.step import CapturedStep

STUDENTS = (("mobilenet_v2", 224),)
STUDENTS_ON_GPU = (("resnet50", 224), ("resnet101", 448))
CAM_BOXES_PX = {"resnet101": 640}  # as the paper; others propose at the size they are trained at
EPOCHS_ON_GPU = 4  # the state of an epoch is written while the next one trains
EVALUATED = 3  # sets of weights
BATCH = 16
COLUMNS = (
    "stage", "student", "per run", "library images/s", "bare model images/s", "efficiency", "library, first batch, s",
)  # fmt: skip
NOTE = (
    "Images a second. Library: from files on disk. warmup and train, {} in batches of {}, up to the last step, beside "
    "bare training steps on ready tensors (forward, backward, Adam; train: weak and strong view), launched kernel by "
    "kernel. "
    "cam_boxes, evaluate ({} students) and predict (it writes a Parquet file, and computes in fp32) look at every "
    "image once, beside bare forward passes of as many students. All else, library and bare, in {}. {} interleaved "
    "rounds: rates are medians, efficiency (library / bare model) is the median of the rounds' own ratios. A run's "
    "first batch, in which processes start and memory is claimed, counts in no rate; on a GPU neither do the first {} "
    "steps, up to the first replay of the captured step."
)


@dataclass(frozen=True)
class Case:
    """One student on photos; ``targets``: (N, C) random labels."""

    settings: Settings
    backbone: str
    size_px: int
    paths: list[Path]
    targets: np.ndarray

    @property
    def precision(self) -> Precision:
        """Of training and inference, library and bare model, but for predict."""
        return self.settings.student_precision

    @property
    def epochs(self) -> int:
        """Of training."""
        return EPOCHS_ON_GPU if self.settings.on_gpu else 1


def measure_student(settings: Settings) -> Table:
    """Measure training and inference for every backbone that fits the device."""
    paths = photos_of(settings.images, settings.work / "photos", 2 * settings.count)
    targets = np.random.default_rng(0).random((len(paths), len(CLASSES)), np.float32)
    (settings.work / "params.yaml").write_text((ROOT / "params.yaml").read_text())
    rows = []
    with working_in(settings.work):
        for backbone, size_px in STUDENTS + STUDENTS_ON_GPU * settings.on_gpu:
            case = Case(settings, backbone, size_px, paths, targets)
            at_px = CAM_BOXES_PX.get(backbone, size_px)
            rows += [_training(case, "warmup"), _training(case, "train"), _proposing(replace(case, size_px=at_px))]
            rows += [_evaluating(case), _predicting(case)]
    epochs = f"{case.epochs} epochs" if case.epochs > 1 else "one epoch"
    rounds = (settings.student_precision, settings.repeats)
    note = NOTE.format(epochs, BATCH, EVALUATED, *rounds, CapturedStep.WARM_UPS + 2)
    return Table("Student", note, COLUMNS, rows)


def _training(case: Case, stage: str) -> list[str]:
    model = WarmupParams if stage == "warmup" else TrainParams
    defaults: dict[str, Any] = read_yaml(ROOT / "params.yaml")[stage]
    changes = {
        "image_size_px": case.size_px, "epochs": case.epochs, "batch_size": BATCH, "precision": case.precision,
        "frozen_backbone": False,
    }  # fmt: skip
    params = validate(model, {**defaults, **changes})
    objective = Objective(1.0, 0.5) if stage == "train" else Objective()
    data = TrainingData(ImageFiles(case.paths), case.targets, index_of(case.paths))

    def library(watch: Watch) -> int:
        student = student_of(case.backbone, case.size_px)
        hardware = case.settings.hardware
        slot = open_store().slot(training_name(student, data, objective, params, hardware))
        if case.settings.on_gpu:
            watch.start_batches = CapturedStep.WARM_UPS + 2  # the graph is captured, and replayed once
        with WatchedLog(stage, watch, BATCH).training(case.epochs, steps_per_epoch(len(data), BATCH)) as show:

            def on_step(epoch: int, step: int, loss: float) -> None:
                show(epoch, step, loss)
                watch.ended = time.perf_counter()

            fit(student, data, objective, params, hardware, state=slot, on_step=on_step)
        slot.clear()
        return case.epochs * len(case.paths)

    return _row(case, stage, library, _bare_steps(case, strong=stage == "train"))


def _bare_steps(case: Case, strong: bool) -> Work:
    device = case.settings.hardware.device
    student = student_of(case.backbone, case.size_px).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.Adam(student.parameters(), lr=1e-5)
    pixels = ready(BATCH, (case.size_px, case.size_px), device)
    targets = torch.from_numpy(case.targets).to(device)

    def work(watch: Watch) -> int:
        student.train()
        for start in range(0, len(targets), BATCH):
            batch_targets = targets[start : start + BATCH]
            optimizer.zero_grad(set_to_none=True)
            with computing(device, case.precision):
                logits, _ = student(pixels[: len(batch_targets)])
                loss = bce(logits, batch_targets)
                if strong:
                    loss = loss + consistency(student(pixels[: len(batch_targets)])[0], logits.detach())
            with computing(device, "tf32" if case.precision == "tf32" else "fp32"):
                torch.autograd.backward(loss)
            optimizer.step()
            watch.batch(len(batch_targets))
        case.settings.wait()
        return len(targets)

    return work


def _proposing(case: Case) -> list[str]:
    student = student_of(case.backbone, case.size_px)
    files = ImageFiles(case.paths)
    index = index_of(case.paths)
    hardware = case.settings.hardware
    box_options = {"cam_threshold": 0.95, "offset": 0.125, "connected_components": False, "boxes_per_class": 1}

    def library(watch: Watch) -> int:
        log = WatchedLog("cam_boxes", watch, 1)
        boxes = {**box_options, "min_side_px": 8.0}
        options = ViewOptions(ViewQuota(None, 5.0), case.size_px, boxes, precision=case.precision)
        choose_views(find_candidates(student, files, index, options, hardware, log.images), index, CLASSES, options)
        return len(files)

    return _row(case, "cam_boxes", library, _bare_forward(case))


def _evaluating(case: Case) -> list[str]:
    students = {str(number): student_of(case.backbone, case.size_px) for number in range(EVALUATED)}
    files = ImageFiles(case.paths)

    def library(watch: Watch) -> int:
        log = WatchedLog("evaluate", watch, 1)
        score(students, files, case.size_px, case.settings.hardware, log.images, case.precision)
        return len(files)

    return _row(case, "evaluate", library, _bare_forward(case, EVALUATED))


def _predicting(case: Case) -> list[str]:
    save_student(case.settings.work / "student.pt", case.backbone, case.size_px)
    hardware = case.settings.hardware
    classifier = open_model(case.settings.work / "student.pt", hardware.device.type)

    def library(watch: Watch) -> int:
        job = Job(
            classifier,
            case.paths,
            classifier.description.cuts,
            case.settings.batch_size,
            hardware.workers,
            on_batch=lambda files, problems: watch.batch(files),
        )
        return to_file(job, case.settings.work / "predictions.parquet", "parquet", resume=False).images

    return _row(case, "predict", library, _bare_forward(case, precision="fp32"))


def _bare_forward(case: Case, passes: int = 1, precision: Precision | None = None) -> Work:
    """Return forward passes on ready tensors, ``passes`` for every photo."""
    count = len(case.paths)
    device = case.settings.hardware.device
    batch_size = case.settings.batch_size
    student = student_of(case.backbone, case.size_px).to(device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
    pixels = ready(min(batch_size, count), (case.size_px, case.size_px), device)

    @torch.inference_mode()
    def work(watch: Watch) -> int:
        for start in range(0, count, batch_size):
            with computing(device, precision or case.precision):
                for _ in range(passes):
                    student(pixels[: count - start])
            watch.batch(min(batch_size, count - start))
        case.settings.wait()
        return count

    return work


class WatchedLog(StageLog):
    """A stage's console that reports every step of its progress bar, of ``items`` images each, to the watch."""

    def __init__(self, name: str, watch: Watch, items: int) -> None:
        super().__init__(name)
        self._watch = watch
        self._items = items

    def bar(self, total: int, unit: str) -> tqdm[NoReturn]:
        """Return the usual progress bar, which also reports to the watch."""
        bar = super().bar(total, unit)
        move = bar.update

        def update(steps: float | None = 1) -> bool | None:
            self._watch.batch(int(steps or 0) * self._items)
            return bool(move(steps))

        bar.update = update
        return bar


def _row(case: Case, stage: str, library: Work, bare: Work) -> list[str]:
    bare(Watch())  # the first pass initialises the device
    rounds = interleaved({"library": library, "bare": bare}, case.settings.repeats)
    values = [speed(typical(rounds[name]).rate) for name in ("library", "bare")]
    efficiency = ratio(rounds["library"], rounds["bare"])
    start = f"{typical(rounds['library']).start_s:.1f}"
    images = f"{len(case.paths)} images"
    return [stage, f"{case.backbone} at {case.size_px} px", images, *values, f"{efficiency:.0%}", start]
