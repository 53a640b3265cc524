"""Measures one GPU in less than ten minutes: ``make bench-gpu``, or ``python -m benchmarks.gpu``.

Prints the networks of the paper beside the bare models in the presets' precision, and VOC07 from start to report. It
needs this repository and its packages alone, draws its photos, and says which packages a bare machine lacks.
"""

from __future__ import annotations

import configparser
import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TEACHER_AND_STUDENT = [
    "--only", "teacher", "--only", "student", "--count", "512", "--batch-size", "64", "--repeats", "1",
    "--teacher-precision", "fp16", "--student-precision", "bf16",
]  # fmt: skip
NOT_NEEDED = ("dvc",)  # the stages are started by their commands
VOC07 = ["--only", "voc07", "--share", "0.2"]


def missing() -> list[str]:
    """Return the packages of setup.cfg that this needs and that are not installed."""
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg", encoding="utf-8")
    required = config["options"]["install_requires"].split()
    names = [match.group() for match in (re.match(r"[\w.-]+", line) for line in required) if match]
    return [name for name in names if name not in NOT_NEEDED and not _installed(name)]


def _installed(name: str) -> bool:
    try:
        version(name)
    except PackageNotFoundError:
        return False
    return True


def main() -> None:
    """Check the packages and the GPU, and measure."""
    lacking = missing()
    if lacking:
        sys.exit(f"{sys.executable} lacks packages; install them with: pip install {' '.join(lacking)}")
    import torch

    if not torch.cuda.is_available() and "--cpu" not in sys.argv:
        sys.exit("torch sees no GPU here; --cpu tries the last part with tiny networks")
    parts = [TEACHER_AND_STUDENT, VOC07] if torch.cuda.is_available() else [["--only", "voc07", "--share", "0.01"]]
    for part in parts:
        subprocess.run([sys.executable, "-u", "-m", "benchmarks", *part], cwd=ROOT, check=True)


if __name__ == "__main__":
    main()
