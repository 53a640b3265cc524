"""The command line on a finished run: what it prints and what it says of mistakes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from ccd.cli.main import main
from ccd.params.presets import apply_preset
from ccd.project.pipeline import project_text
from tests.toys.finished_run import write_run


def invoke(*words: str) -> tuple[int, str]:
    done = CliRunner().invoke(main, list(words))
    return done.exit_code, done.output


def test_use_writes_params_and_says_what_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    code, said = invoke("use", "voc12", "--root", "VOC", "--set", "aggregate.alpha=0.2")
    assert code == 0 and "wrote params.yaml" in said and "note: VOC " in said and "--root DIR" in said
    assert "no dvc.yaml here" in said and "ccd init DIR" in said and "now run" not in said
    Path("dvc.yaml").write_text("stages: {}\n")
    assert "now run: dvc repro" in invoke("use", "voc12", "--root", "VOC", "--set", "aggregate.alpha=0.2")[1]
    text = Path("params.yaml").read_text()
    assert "# weight of the global label" in text and "alpha: 0.2" in text
    code, said = invoke("use", "voc12", "--root", "VOC")
    assert code == 0 and "aggregate.alpha: 0.2 -> 0.4" in said


def test_use_keeps_values_that_a_person_wrote(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    invoke("use", "voc12", "--root", "VOC")
    assert "kept" not in invoke("use", "coco14", "--root", "COCO")[1], "a preset's own text can be made again"
    for number, copy in enumerate(("params.yaml.bak", "params.yaml.2.bak")):
        mine = Path("params.yaml").read_text().replace("dataset:", f"# my notes {number}\ndataset:", 1)
        Path("params.yaml").write_text(mine)
        assert f"kept the old params.yaml as {copy}" in invoke("use", "voc12")[1]
        assert Path(copy).read_text() == mine and "my notes" not in Path("params.yaml").read_text()
    assert "kept" not in invoke("use", "voc12")[1]
    invoke("use", "voc12", "--set", "train.epochs=3")
    done = CliRunner().invoke(main, ["use", "voc12", "--json"])
    assert json.loads(done.stdout)["kept"] == "params.yaml.3.bak"


def test_use_refuses_a_project_of_init_but_for_force(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("dvc.yaml").write_text(project_text())
    Path("params.yaml").write_text("mine\n")
    code, said = invoke("use", "demo")
    assert code == 2 and "made by ccd init" in said and "dvc exp run -S" in said and "--force" in said
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dvc.yaml", "params.yaml"]
    Path("params.yaml").write_text(apply_preset("folder", "photos", {"train.epochs": "3"}))
    before = Path("params.yaml").read_text()
    assert invoke("use", "folder", "--force")[0] == 0 and Path("params.yaml.bak").read_text() == before


@pytest.mark.parametrize(
    ("files", "advice"),
    [
        ({}, "ccd init DIR --images FOLDER"),
        ({"dvc.yaml": "", "stages/index.py": ""}, "ccd use PRESET"),
        ({"dvc.yaml": "python -m ccd.project.pipeline"}, "git checkout params.yaml"),
    ],
)
def test_without_params_the_advice_fits_the_folder(
    files: dict[str, str], advice: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, text in files.items():
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_text(text)
    code, said = invoke("artifacts")
    assert code == 2 and "params.yaml does not exist here" in said and advice in said
    assert sum(word in said for word in ("ccd init DIR", "ccd use PRESET", "git checkout")) == 1


def test_use_makes_the_file_of_corrections_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    code, said = invoke("use", "voc12")
    path = Path("corrections/voc12.csv")
    assert code == 0 and f"wrote {path}" in said and path.read_text() == "image_id,class,label\n"
    path.write_text("image_id,class,label\n2008_000002,cat,1\n")
    code, said = invoke("use", "voc12")
    assert code == 0 and "corrections" not in said and path.read_text().endswith("cat,1\n")


def test_use_without_preset_lists_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    code, said = invoke("use")
    assert code == 0 and all(name in said for name in ("demo", "voc07", "voc12", "coco14", "nuswide", "folder"))
    assert not Path("params.yaml").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("use", "nope"), "unknown preset 'nope'"),
        (("use", "demo", "--set", "aggregate.alpha"), "write SECTION.KEY=VALUE"),
        (("use", "demo", "--set", "aggregate.beta=1"), "unknown key 'aggregate.beta'"),
        (("use", "demo", "--set", "aggregate.alpha=2"), "less than or equal to 1"),
        (("inspect", "x"), "params.yaml does not exist here"),
        (("artifacts",), "params.yaml does not exist here"),
    ],
)
def test_a_mistake_is_one_line_exit_2_and_writes_nothing(
    words: tuple[str, ...], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, said = invoke(*words)
    assert code == 2 and said.startswith("error: ") and message in said and "Traceback" not in said
    assert list(tmp_path.iterdir()) == []


def test_inspect_lists_and_draws_and_speaks_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    invoke("use", "demo", "--set", "dataset.root=data/demo")
    write_run(tmp_path / "data/demo")
    code, said = invoke("inspect", "train/a")
    assert code == 0 and "wrote a.overlay.png" in said and Path("a.overlay.png").is_file()
    assert json.loads(invoke("inspect", "train/b", "--json")[1])["image_id"] == "train/b"
    assert not Path("b.overlay.png").exists()
    assert invoke("inspect", "--class", "cup", "--worst", "1")[1].count("train/") == 1
    assert set(json.loads(invoke("inspect", "--doubtful", "--json")[1])) == {"train", "test"}
    assert json.loads(invoke("inspect", "--box-overlap", "--json")[1]) == []
    assert {"seconds", "made"} < set(invoke("artifacts")[1].splitlines()[0].split())
    rows = {Path(row["path"]).name: row["rows"] for row in json.loads(invoke("artifacts", "--json")[1])}
    assert rows["boxes.parquet"] == 5 and rows["bias.json"] == 3
    assert invoke("inspect", "train/a", "--doubtful")[0] == 2


def test_inspect_and_artifacts_before_any_run_say_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    invoke("use", "demo")
    assert invoke("inspect")[1].startswith("error: ") and "--class NAME" in invoke("inspect")[1]
    code, said = invoke("inspect", "x")
    assert code == 2 and "dvc repro" in said
    assert invoke("artifacts")[0] == 2
