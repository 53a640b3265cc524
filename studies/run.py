"""One run: the main pipeline with other parameters, in a copy of the project that shares its DVC cache.

What a run has in common with the main pipeline, or with any run before it, is not computed again. A file can take the
place of the stage that would make it, so that labels or boxes from elsewhere go through the main stages unchanged.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from ccd.artifacts.corrections_file import ensure, path_of
from ccd.errors import CcdError
from ccd.params.file import read_yaml
from ccd.params.presets import override
from ccd.runtime.console import TIMINGS_LOG, recorded_timings

COPIED = ("ccd", "stages", "dvc.yaml", "params.yaml", ".dvcignore", ".dvc/config")
PATHS = ("dataset.root", "index.classes_file", "index.labels_file", "teacher.model", "teacher.pretrained",
         "warmup.weights")  # fmt: skip
"""Parameters that may name a file or folder of the project."""


@dataclass
class Run:
    """A copy of the project in ``folder``; the main stages write to ``data``.

    ``seconds``: stage -> duration, of the stages that were computed and not taken from the cache.
    """

    folder: Path
    name: str
    environment: dict[str, str]
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def data(self) -> Path:
        """The artifacts of the run."""
        return self.folder / "data" / self.name

    def give(self, artifact: str) -> Path:
        """Where to write ``artifact`` (e.g. ``boxes.parquet``), which no stage of the copy makes from now on.

        Raises:
            CcdError: no stage makes it.
        """
        path = self.folder / "dvc.yaml"
        round_trip = YAML()
        round_trip.width = 4096
        content = round_trip.load(path.read_text(encoding="utf-8"))
        out = "data/${dataset.name}/" + artifact
        makers = [stage for stage, entry in content["stages"].items() if out in entry["outs"]]
        if not makers:
            raise CcdError(f"dvc.yaml: no stage makes {artifact}, so a study cannot give it; name an artifact")
        del content["stages"][makers[0]]
        with path.open("w", encoding="utf-8") as file:
            round_trip.dump(content, file)
        self.data.mkdir(parents=True, exist_ok=True)
        return self.data / artifact

    def repro(self, *stages: str) -> None:
        """Bring the stages and what they need up to date. Raises CcdError with the end of what was said."""
        _dvc(["repro", *stages], self.folder, self.environment)
        self.seconds |= stage_seconds(self.folder)


def stage_seconds(folder: Path) -> dict[str, float]:
    """Stage -> seconds of its last run in ``folder``; a stage that came from DVC's cache is not among them."""
    return {timing.stage: timing.seconds for timing in recorded_timings(folder / TIMINGS_LOG).values()}


def shared_cache(project: Path) -> Path:
    """The DVC cache of ``project``, which every run shares. Raises CcdError if it is no DVC project."""
    if not (project / ".dvc").is_dir():
        raise CcdError(f"{project} is no DVC project; run this in the project's folder, or make it one: dvc init")
    return (project / _dvc(["cache", "dir"], project, _environment(0)).strip()).resolve()


@contextmanager
def project_copy(project: Path, folder: Path, cache: Path, settings: Mapping[str, str], threads: int) -> Iterator[Run]:
    """A copy of ``project`` in ``folder`` with ``section.key`` -> value (as in YAML) changed; removed in the end.

    Args:
        folder: inside ``project``, so that relative paths in its parameters can be made to hold.
        cache: see `shared_cache`.
        threads: CPU threads of a stage; 0: all.

    Raises:
        CcdError: a setting does not fit.
    """
    shutil.rmtree(folder, ignore_errors=True)
    try:
        _copy(project, folder)
        text = (folder / "params.yaml").read_text(encoding="utf-8")
        (folder / "params.yaml").write_text(override(text, settings), encoding="utf-8")
        # Git ignores the folder, and DVC refuses outputs that git ignores, unless it is told of no git.
        local = f"[core]\n    no_scm = true\n    analytics = false\n[cache]\n    dir = {cache}\n"
        (folder / ".dvc/config.local").write_text(local, encoding="utf-8")
        params = read_yaml(folder / "params.yaml")
        _copy_corrections(project, folder, params["dataset"]["name"])
        _link_inputs(project, folder, params)
        yield Run(folder, params["dataset"]["name"], _environment(threads))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _copy(project: Path, folder: Path) -> None:
    for name in COPIED:
        source = project / name
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, target)


def _copy_corrections(project: Path, folder: Path, name: str) -> None:
    """What people corrected counts in a run as in the project."""
    source = project / path_of(name)
    target = folder / path_of(name)
    if source.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, target)
    ensure(target)


def _link_inputs(project: Path, folder: Path, params: Mapping[str, Any]) -> None:
    """Make relative paths in the parameters lead where they lead in the project.

    Absolute paths instead would be other parameters, and DVC would compute again what depends on them.
    """
    for name in PATHS:
        section, key = name.split(".")
        value = params[section][key]
        if not value or Path(value).is_absolute() or not (project / value).exists():
            continue  # none, or a name
        link = Path(os.path.normpath(folder / value))
        if link.exists():
            continue
        if project not in link.parents:
            raise CcdError(f"params.yaml: {name} = {value} leads too far up for a study; state it as an absolute path")
        link.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileExistsError):  # a run beside this one was faster
            link.symlink_to((project / value).resolve())


def _environment(threads: int) -> dict[str, str]:
    found = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "DVC_NO_ANALYTICS": "1"}
    for name in ("DVC_ROOT", "DVC_STAGE"):  # set for a stage by the `dvc repro` that may have started this study
        found.pop(name, None)
    return found | ({"OMP_NUM_THREADS": str(threads)} if threads else {})


def _dvc(words: list[str], folder: Path, environment: Mapping[str, str]) -> str:
    command = [sys.executable, "-m", "dvc", *words]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise CcdError(f"`dvc {' '.join(words)}` failed in {folder}:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return done.stdout
