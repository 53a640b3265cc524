"""The kill of a stage below `dvc repro`, alone or together with DVC."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from random import Random

from tests.faults.child import children_of
from tests.faults.laboratory import CHAIN, DATA, LIMIT_S, Laboratory, leftovers, outputs

NAME = "killed under DVC"
ROOT = Path(__file__).resolve().parent.parent.parent


def project(lab: Laboratory) -> Path:
    """A DVC project with the reference run's data, parameters and artifacts, which DVC takes for its own."""
    folder = lab.folder / "project"
    for name in ("ccd", "stages"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "*.pt"))
    for name in ("dvc.yaml", ".dvcignore"):
        shutil.copy(ROOT / name, folder / name)
    for name in ("pictures", "vit.pt", "params.yaml", "corrections"):
        (folder / name).symlink_to(lab.reference / name)
    shutil.copytree(lab.reference / DATA, folder / DATA)
    for words in (("init", "--no-scm", "-q"), ("commit", "-f")):
        code, said = end(begin(folder, lab.log, *words), lab.log)
        assert code == 0, said
    return folder


def strike(lab: Laboratory, folder: Path, stage: str, random: Random) -> tuple[list[str], list[str]]:
    """Kill the stage; returns what was accepted but wrong then, and what `dvc repro` did not put right."""
    process = begin(folder, lab.log, "repro", "-f", "-s", stage)
    stage_process = process_of(process, stage)
    early = random.random() < 0.3  # while Python is still importing
    until = time.monotonic() + (random.uniform(0, 1) if early else LIMIT_S)
    while time.monotonic() < until and f"[{stage}] reads" not in lab.log.read_text(errors="replace"):
        if process.poll() is not None:
            break
        time.sleep(0.005)
    if not early:
        time.sleep(random.uniform(0, lab.seconds[stage]))
    if random.random() < 0.5:
        os.killpg(process.pid, signal.SIGKILL)
    elif stage_process:
        _kill(stage_process)
    end(process, lab.log)
    wrong = lab.accepted_but_wrong(folder, stage)
    code, said = end(begin(folder, lab.log, "repro"), lab.log)
    if code == 0 and _temporary(folder) and "Running stage" not in said:
        # all came from DVC's cache; a stage tidies up after its own dead processes when it runs
        code, said = end(begin(folder, lab.log, "repro", "-f", "-s", stage), lab.log)
    left = lab.differing(folder, [name for each in CHAIN for name in outputs(each)])
    left += _temporary(folder)
    return wrong, [] if code == 0 and not left else [f"dvc repro: status {code}, differing or left: {left}, {said}"]


def _temporary(folder: Path) -> list[str]:
    return [name for name in leftovers(folder) if (folder / DATA / name).exists()]


def begin(folder: Path, log: Path, *words: str) -> subprocess.Popen[bytes]:
    """A command of DVC in a process group of its own, whose words go to ``log``."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "DVC_NO_ANALYTICS": "1", "PATH": path, "PYTHONPATH": ".", "OMP_NUM_THREADS": "1"}
    with log.open("wb") as file:
        return subprocess.Popen(
            [sys.executable, "-m", "dvc", *words],
            cwd=folder,
            env=environment,
            stdout=file,
            stderr=file,
            start_new_session=True,
        )


def end(process: subprocess.Popen[bytes], log: Path) -> tuple[int, str]:
    """Its exit status and what it said."""
    code = process.wait(timeout=10 * LIMIT_S)
    return code, log.read_text(encoding="utf-8", errors="replace")[-2000:]


def process_of(process: subprocess.Popen[bytes], stage: str) -> int:
    """The stage's own process below DVC's, 0 if DVC ended before there was one."""
    while process.poll() is None:
        waiting = children_of(process.pid)
        while waiting:
            each = waiting.pop()
            try:
                words = Path(f"/proc/{each}/cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if words[1:3] == [b"-m", f"stages.{stage}".encode()]:
                return each
            waiting += children_of(each)
        time.sleep(0.01)
    return 0


def _kill(process: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(process, signal.SIGKILL)
