"""One run: the main pipeline with other parameters, in a copy of the project that shares its DVC cache.

Stages that the main pipeline or an earlier run computed with the same inputs come from the cache. A file can replace
the stage that makes it, so that a study's labels or boxes go through the main stages unchanged.
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

    ``seconds``: stage -> duration of the stages that were computed and did not come from the cache.
    """

    folder: Path
    name: str
    environment: dict[str, str]
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def data(self) -> Path:
        """The artifacts of the run."""
        return self.folder / "data" / self.name

    def replace_output(self, artifact: str) -> Path:
        """Delete the stage that makes ``artifact`` (e.g. ``boxes.parquet``) and return the path to write it to.

        Raises:
            CcdError: no stage makes it.
        """
        with self._stages() as stages:
            makers = [stage for stage, entry in stages.items() if _path_of(artifact) in entry["outs"]]
            if not makers:
                raise CcdError(f"dvc.yaml: no stage makes {artifact}, so a study cannot replace it; name an artifact")
            del stages[makers[0]]
        self.data.mkdir(parents=True, exist_ok=True)
        return self.data / artifact

    def replace_input(self, stage: str, artifact: str, name: str) -> Path:
        """Let ``stage`` read a file ``name`` in place of ``artifact`` and return the path to write it to.

        Raises:
            CcdError: the stage does not read it.
        """
        old = _path_of(artifact)
        new = _path_of(name)
        with self._stages() as stages:
            entry = stages[stage]
            if old not in entry["deps"]:
                raise CcdError(f"dvc.yaml: stage {stage} does not read {artifact}, so a study cannot replace it there")
            entry["deps"] = [new if dep == old else dep for dep in entry["deps"]]
            entry["cmd"] = " ".join(new if word == old else word for word in entry["cmd"].split())
        return self.data / name

    @contextmanager
    def _stages(self) -> Iterator[dict[str, Any]]:
        """Yield the stages of the copy's ``dvc.yaml``, whose changes are written."""
        path = self.folder / "dvc.yaml"
        round_trip = YAML()
        round_trip.width = 4096
        content = round_trip.load(path.read_text(encoding="utf-8"))
        yield content["stages"]
        with path.open("w", encoding="utf-8") as file:
            round_trip.dump(content, file)

    def repro(self, *stages: str) -> None:
        """Bring the stages and their inputs up to date. Raises CcdError with the end of DVC's output."""
        _dvc(["repro", *stages], self.folder, self.environment)
        self.seconds |= stage_seconds(self.folder)


def _path_of(artifact: str) -> str:
    """Return the path of an artifact as ``dvc.yaml`` writes it."""
    return "data/${dataset.name}/" + artifact


def stage_seconds(folder: Path) -> dict[str, float]:
    """Return stage -> seconds of its last run in ``folder``, without stages that came from DVC's cache."""
    return {timing.stage: timing.seconds for timing in recorded_timings(folder / TIMINGS_LOG).values()}


def shared_cache(project: Path) -> Path:
    """Return the DVC cache of ``project``, which all runs share. Raises CcdError if it is no DVC project."""
    if not (project / ".dvc").is_dir():
        raise CcdError(f"{project} is no DVC project; run this in the project's folder, or make it one: dvc init")
    return (project / _dvc(["cache", "dir"], project, _environment(0)).strip()).resolve()


@contextmanager
def project_copy(project: Path, folder: Path, cache: Path, settings: Mapping[str, str], threads: int) -> Iterator[Run]:
    """Copy ``project`` to ``folder``, with other parameters, for the block; the copy is deleted afterwards.

    Args:
        folder: inside ``project``, so that links can make the parameters' relative paths valid.
        cache: see `shared_cache`.
        settings: ``section.key`` -> value as in YAML.
        threads: CPU threads of a stage; 0: all.

    Raises:
        CcdError: a setting does not fit.
    """
    shutil.rmtree(folder, ignore_errors=True)
    try:
        _copy(project, folder)
        text = (folder / "params.yaml").read_text(encoding="utf-8")
        (folder / "params.yaml").write_text(override(text, settings), encoding="utf-8")
        # Git ignores the folder, and DVC refuses outputs that git ignores, unless no_scm is set.
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
    """Copy people's corrections, so that they apply in a run as in the project."""
    source = project / path_of(name)
    target = folder / path_of(name)
    if source.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, target)
    ensure(target)


def _link_inputs(project: Path, folder: Path, params: Mapping[str, Any]) -> None:
    """Link the inputs, so that relative paths in the parameters lead to the same files as in the project.

    Absolute paths would be other parameters, and DVC would rerun the stages that depend on them.
    """
    for name in PATHS:
        section, key = name.split(".")
        value = params[section][key]
        if not value or Path(value).is_absolute() or not (project / value).exists():
            continue  # empty, or a name and no path
        link = Path(os.path.normpath(folder / value))
        if link.exists():
            continue
        if project not in link.parents:
            raise CcdError(f"params.yaml: {name} = {value} leads too far up for a study; state it as an absolute path")
        link.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileExistsError):  # a parallel run created it
            link.symlink_to((project / value).resolve())


def _environment(threads: int) -> dict[str, str]:
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "DVC_NO_ANALYTICS": "1"}
    for name in ("DVC_ROOT", "DVC_STAGE"):  # set for a stage by the `dvc repro` that may have started this study
        environment.pop(name, None)
    return environment | ({"OMP_NUM_THREADS": str(threads)} if threads else {})


def _dvc(arguments: list[str], folder: Path, environment: Mapping[str, str]) -> str:
    command = [sys.executable, "-m", "dvc", *arguments]
    process = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if process.returncode:
        output = process.stdout[-2000:] + process.stderr[-2000:]
        raise CcdError(f"`dvc {' '.join(arguments)}` failed in {folder}:\n{output}")
    return process.stdout
