"""Settings of the command line for every part of the benchmark."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from ccd.runtime.hardware import Hardware, Precision


@dataclass(frozen=True)
class Settings:
    """``work``: an empty folder for output. ``images``: a folder of photos, None: rendered ones.

    ``count``: photos per run of the models; ``repeats``: rounds; ``sizes``: N of the growth, ``until``: its last
    stage; ``large``: also a million images. ``share``: of VOC07's photos. ``project``: folder of a finished project.
    """

    work: Path
    images: Path | None
    count: int
    batch_size: int
    repeats: int
    sizes: tuple[int, ...]
    until: str
    large: bool
    views: float
    hardware: Hardware
    share: float = 0.2
    teacher_precision: Precision = "fp32"
    student_precision: Precision = "fp32"
    project: Path | None = None

    @property
    def on_gpu(self) -> bool:
        """Whether the models run on a GPU."""
        return self.hardware.device.type == "cuda"

    def wait(self) -> None:
        """Wait until the device has finished."""
        if self.on_gpu:
            torch.cuda.synchronize(self.hardware.device)
