"""The pipeline's wiring: deps are what is imported, params are what is read, and a change reruns what depends on it."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from dvc.repo import Repo
from ruamel.yaml import YAML

from ccd.artifacts.corrections_file import ensure, path_of
from ccd.params.sections import SECTIONS
from ccd.runtime.store import closure

ROOT = Path(__file__).resolve().parent.parent
STAGES: dict[str, Any] = YAML(typ="safe").load((ROOT / "dvc.yaml").read_text())["stages"]
PARAMS: dict[str, Any] = YAML(typ="safe").load((ROOT / "params.yaml").read_text())
CHAIN = tuple(STAGES)
KEYS = [f"{section}.{key}" for section, values in PARAMS.items() for key in values]

DATA = ("data/", "corrections/")  # what stages make, and what people write
HAND_WORK = "corrections/${dataset.name}.csv"


def data_deps(stage: str) -> list[str]:
    return [dep for dep in STAGES[stage].get("deps", []) if dep.startswith(DATA)]


def covers(dep: str, name: str) -> bool:
    """Whether a dependency, a file or a folder, holds the file called ``name``."""
    return name == dep or name.startswith(f"{dep}/")


def outs(stage: str) -> list[str]:
    return [*STAGES[stage].get("outs", []), *STAGES[stage].get("metrics", [])]


def after(stages: set[str]) -> set[str]:
    """The stages and all that depend on their artifacts."""
    made = {out for stage in stages for out in outs(stage)}
    grown = stages | {stage for stage in CHAIN if made & set(data_deps(stage))}
    return grown if grown == stages else after(grown)


# For every parameter, the stages it is written into; docs/pipeline.md shows this table and what follows from it.
DIRECT: dict[str, set[str]] = {
    "dataset.root": {"index"},
    "dataset.name": set(CHAIN),  # every artifact has another path
    "index.*": {"index"},
    "teacher.backend": {"text", "clip_global", "warmup", "clip_local", "head"},
    "teacher.model": {"text", "clip_global", "warmup", "clip_local", "head"},
    "teacher.pretrained": {"text", "clip_global", "warmup", "clip_local", "head"},
    "teacher.sha256": {"text", "clip_global", "warmup", "clip_local", "head"},
    "teacher.normalization": {"clip_global", "warmup", "clip_local", "head"},
    "teacher.precision": {"clip_global", "clip_local", "head"},
    "text.*": {"text"},
    "clip_global.*": {"clip_global"},
    "bias.*": {"bias"},
    "global_labels.floor": {"global_labels", "aggregate"},
    "global_labels.*": {"global_labels"},
    "warmup.*": {"warmup"},
    "cam_boxes.*": {"cam_boxes"},
    "clip_local.*": {"clip_local"},
    "aggregate.*": {"aggregate"},
    "train.*": {"train"},
    "head.*": {"head"},
    "evaluate.*": {"evaluate"},
    "runtime.*": set(),
}


def expected(key: str) -> set[str]:
    """The report prints every parameter but those of `dataset` and `runtime`, so it depends on them too."""
    direct = DIRECT[key] if key in DIRECT else DIRECT[key.split(".")[0] + ".*"]
    return direct | ({"report"} if key.split(".")[0] not in ("dataset", "runtime") else set())


@pytest.mark.parametrize("stage", CHAIN)
def test_code_deps_cover_what_is_imported_and_nothing_else(stage: str) -> None:
    deps = [dep for dep in STAGES[stage]["deps"] if not dep.startswith(DATA)]
    needed = closure([ROOT / f"stages/{stage}.py"])
    assert {name for name in needed if not any(covers(dep, name) for dep in deps)} == set(), "add these to dvc.yaml"
    code = [dep for dep in deps if not dep.endswith(".yaml")]
    assert {dep for dep in code if not any(covers(dep, name) for name in needed)} == set(), "no longer needed"


@pytest.mark.parametrize("stage", CHAIN)
def test_stage_script_and_command_agree(stage: str) -> None:
    words = STAGES[stage]["cmd"].split()
    assert words[:3] == ["python", "-m", f"stages.{stage}"]
    paths = dict(zip(words[3::2], words[4::2], strict=True))
    assert sorted(paths.values()) == sorted([*data_deps(stage), *outs(stage)])
    source = (ROOT / f"stages/{stage}.py").read_text()
    signature = re.search(r"def main\((.*?)\) -> None", source, re.S)
    assert signature is not None
    declared = [f"--{name.replace('_', '-')}" for name in re.findall(r"(\w+): Path", signature[1])]
    assert sorted(declared) == sorted(paths)


def test_every_parameter_belongs_to_a_model_and_is_tracked_where_it_is_read() -> None:
    models = {model.section: set(model.model_fields) for model in SECTIONS}
    assert {section: set(values) for section, values in PARAMS.items()} == models
    sections = {key: key.split(".")[0] for key in KEYS}
    tracked = {
        key: {stage for stage in CHAIN if {key, sections[key]} & set(STAGES[stage].get("params", []))} for key in KEYS
    }
    for key in KEYS:
        if key != "dataset.name":
            assert tracked[key] == expected(key), key
    assert {key for stage in CHAIN for key in STAGES[stage]["params"]} <= {*KEYS, *PARAMS}


def test_a_stage_reads_only_sections_it_tracks() -> None:
    untracked = {"runtime", "dataset"}
    for stage in CHAIN:
        tracked = {key.split(".")[0] for key in STAGES[stage]["params"]}
        loaded = re.findall(r"\bload\((\w+)", (ROOT / f"stages/{stage}.py").read_text())
        read = {model.section for model in SECTIONS if model.__name__ in loaded}
        if stage != "report":  # it prints all of them
            assert read - untracked == tracked - {"dataset"}, stage


def test_ground_truth_reaches_evaluation_alone() -> None:
    truth = "data/${dataset.name}/labels.parquet"
    assert truth in outs("index")
    assert [stage for stage in CHAIN if truth in data_deps(stage)] == ["evaluate", "report"]
    assert after({"evaluate"}) == {"evaluate", "report"}, "what evaluation wrote must not flow back"
    for stage in set(CHAIN) - {"index", "evaluate", "report"}:
        assert not {"ccd/datasets", "ccd/evaluation"} & set(STAGES[stage]["deps"]), stage


def test_every_artifact_is_made_once_and_used_or_final() -> None:
    made = [out for stage in CHAIN for out in outs(stage)]
    assert len(made) == len(set(made))
    assert {dep for stage in CHAIN for dep in data_deps(stage)} <= {*made, HAND_WORK}


def test_no_cmd_names_a_launcher_or_a_runtime_knob() -> None:
    assert not any(word in STAGES[stage]["cmd"] for stage in CHAIN for word in ("torchrun", "runtime", "device"))


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A copy of the project whose artifacts are stand-ins that DVC holds for up to date."""
    folder = tmp_path_factory.mktemp("project")
    for name in ("ccd", "stages"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "*.pt"))
    for name in ("dvc.yaml", "params.yaml", ".dvcignore"):
        shutil.copy(ROOT / name, folder / name)
    ensure(folder / path_of(PARAMS["dataset"]["name"]))
    for out in (out.replace("${dataset.name}", PARAMS["dataset"]["name"]) for stage in CHAIN for out in outs(stage)):
        (folder / out).parent.mkdir(parents=True, exist_ok=True)
        (folder / out).write_text(out)
    before = Path.cwd()
    os.chdir(folder)  # DVC's commit resolves paths against it
    try:
        with Repo.init(str(folder), no_scm=True) as repo:
            repo.commit(force=True)
        with Repo(str(folder)) as repo:
            assert repo.status() == {}
        yield folder
    finally:
        os.chdir(before)


def changed_stages(folder: Path) -> set[str]:
    with Repo(str(folder)) as repo:
        return {name.split(":")[-1] for name in repo.status()}


def altered(value: object) -> object:
    if isinstance(value, bool):
        return not value
    if isinstance(value, (int, float)):
        return value + 1
    return ["other"] if isinstance(value, list) else {"a": ["b"]} if isinstance(value, dict) else "other"


ASKED = ("teacher.model", "aggregate.*", "runtime.*")  # of DVC before every commit


@pytest.mark.parametrize(
    "row",
    [pytest.param(row, marks=[] if row in ASKED else [pytest.mark.slow]) for row in DIRECT if row != "dataset.name"],
)
def test_dvc_reruns_exactly_what_the_table_says(row: str, project: Path) -> None:
    """One key of the row; that all keys of a row are tracked alike is proven above."""
    path = project / "params.yaml"
    yaml = YAML()
    original = path.read_text()
    key = next(key for key in reversed(KEYS) if key == row or (key.split(".")[0] + ".*" == row and key not in DIRECT))
    section, name = key.split(".")
    content = yaml.load(original)
    content[section][name] = altered(content[section][name])
    try:
        with path.open("w") as file:
            yaml.dump(content, file)
        assert changed_stages(project) == expected(key), key
    finally:
        path.write_text(original)


@pytest.mark.parametrize(
    ("file", "directly"),
    [
        ("ccd/labels/debias.py", {"global_labels", "aggregate", "report"}),
        ("ccd/student/objectives.py", {"warmup", "train"}),
        ("ccd/evaluation/summary.py", {"evaluate"}),
        ("ccd/datasets/coco.py", {"index"}),
        ("ccd/runtime/console.py", set()),
        ("ccd/params/sections.py", set()),
    ],
)
def test_a_change_of_code_reruns_what_imports_it(project: Path, file: str, directly: set[str]) -> None:
    original = (project / file).read_text()
    (project / file).write_text(original + "\n# changed\n")
    try:
        assert changed_stages(project) == directly
    finally:
        (project / file).write_text(original)


def test_an_edited_correction_reruns_aggregate_train_evaluate_and_report(project: Path) -> None:
    path = project / path_of(PARAMS["dataset"]["name"])
    original = path.read_text()
    path.write_text(original + "train_00003.jpg,mug,1\n")
    try:
        assert changed_stages(project) == {"aggregate"}
    finally:
        path.write_text(original)
    assert [stage for stage in CHAIN if HAND_WORK in STAGES[stage]["deps"]] == ["aggregate"]
    assert after({"aggregate"}) == {"aggregate", "train", "head", "evaluate", "report"}


def test_the_demos_corrections_are_in_git_and_nothing_ignores_them() -> None:
    assert (ROOT / path_of("demo")).read_text() == "image_id,class,label\n"
    for name in (".gitignore", ".dvcignore"):
        assert "corrections" not in (ROOT / name).read_text(), name


def test_alpha_reruns_aggregate_train_evaluate_and_prompts_no_image_stage() -> None:
    assert after(DIRECT["aggregate.*"]) == {"aggregate", "train", "head", "evaluate", "report"}
    assert not {"clip_global"} & after(DIRECT["text.*"])


def rerun_table() -> str:
    """The table of docs/pipeline.md."""
    lines = ["| change | reruns |", "|---|---|"]
    for key, direct in DIRECT.items():
        reruns = after(direct) if key != "dataset.root" else {"index"}
        names = [stage for stage in CHAIN if stage in reruns]
        said = "everything" if len(names) == len(CHAIN) else ", ".join(names) or "nothing"
        lines.append(f"| `{key}` | {said} |")
    lines.append(
        f"| an edit of `{HAND_WORK}` | {', '.join(stage for stage in CHAIN if stage in after({'aggregate'}))} |"
    )
    return "\n".join(lines)


def test_the_docs_show_the_table() -> None:
    assert rerun_table() in (ROOT / "docs/pipeline.md").read_text(), "\n" + rerun_table()
