"""`ccd demo`: a project in a folder that holds all it needs, and is never put over another one."""

from __future__ import annotations

import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner, Result
from ruamel.yaml import YAML

from ccd.cli.main import main
from ccd.demo import scenes
from ccd.params.presets import apply_preset
from ccd.project import create


@pytest.fixture(autouse=True)
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A working directory of its own, without git and DVC, whose start takes seconds."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(create, "prepare_version_control", lambda folder: [])


def invoke(*words: str) -> Result:
    done = CliRunner().invoke(main, ["demo", *words])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done


def values(text: str) -> dict[str, Any]:
    content: dict[str, Any] = YAML(typ="safe").load(text)
    return content


def test_the_project_is_the_demo_with_its_own_copy_of_clip() -> None:
    done = invoke()
    assert done.exit_code == 0 and "cd ccd-demo && dvc repro" in done.output
    expected = values(apply_preset("demo", None, {}, recipe="recommended"))
    expected["teacher"]["model"] = "clip.pt"
    assert values(Path("ccd-demo/params.yaml").read_text()) == expected
    assert (
        Path("ccd-demo/clip.pt").read_bytes()
        == Path(scenes.__file__).with_name("assets").joinpath("clip.pt").read_bytes()
    )
    stages = values(Path("ccd-demo/dvc.yaml").read_text())["stages"]
    assert {"inputs", "index", "train", "report"} <= set(stages)
    assert not [
        dep for stage in stages.values() for dep in stage.get("deps", []) if dep.startswith(("ccd/", "stages/"))
    ]
    assert "/datasets/demo/" in Path("ccd-demo/.gitignore").read_text().split()


def test_a_folder_with_a_pipeline_is_left_alone_unless_forced() -> None:
    Path("mine").mkdir()
    Path("mine/params.yaml").write_text("mine: true\n")
    done = invoke("mine")
    assert done.exit_code == 2 and "params.yaml" in done.output and "--force" in done.output
    assert [path.name for path in Path("mine").iterdir()] == ["params.yaml"]
    assert invoke("mine", "--force").exit_code == 0
    assert Path("mine/params.yaml.bak").read_text() == "mine: true\n"


def test_run_starts_dvc_in_the_folder_and_ends_as_it_does(monkeypatch: pytest.MonkeyPatch) -> None:
    started = []

    def run(command: list[str], **options: Any) -> SimpleNamespace:
        started.append((command[1:], options["cwd"]))
        return SimpleNamespace(returncode=7, stdout="")

    monkeypatch.setattr(create, "commit_command", lambda folder: None)
    monkeypatch.setattr(subprocess, "run", run)
    assert invoke("there", "--run").exit_code == 7
    assert started == [(["-m", "dvc", "repro"], Path("there"))]
