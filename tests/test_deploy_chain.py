"""From the pipeline to the user: a student that the real stages trained, used and exported through the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
from click.testing import CliRunner

from ccd.artifacts import checkpoint_file
from ccd.cli.main import main
from tests.toys.chain import CHAIN, COLOURS, prepare, run_stage, write_pictures

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a project after all stages but the report."""
    folder = tmp_path_factory.mktemp("chain")
    with pytest.MonkeyPatch.context() as patch:
        prepare(folder, patch, "vit")
        (folder / "pictures").mkdir()
        write_pictures(folder / "pictures", tuple(COLOURS), train_count=9)
        for name in CHAIN:
            if name != "report":
                run_stage(name)
    return folder


def run(*words: str) -> str:
    done = CliRunner().invoke(main, list(words))
    assert done.exit_code == 0, done.output
    return done.stdout


def test_training_images_are_decided_as_often_as_their_pseudo_labels_say(
    finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(finished)
    labels = pd.read_parquet("data/toy/pseudo_labels.parquet")
    wanted = (labels["label"] >= 0.5).groupby(labels["class"].astype(str)).sum().to_dict()
    trained_on = [f"pictures/{name}" for name in labels["image_id"].astype(str).unique()]
    run("predict", "data/toy/student.pt", *trained_on, "--out", "said.parquet", "--workers", "0")
    said = pd.read_parquet("said.parquet")["labels"]
    assert {name: sum(name in row for row in said) for name in COLOURS} == wanted
    assert sum(wanted.values()) > 0


def test_evaluate_reports_decisions_at_these_thresholds(finished: Path) -> None:
    folder = finished / "data/toy"
    cuts, source = checkpoint_file.thresholds(checkpoint_file.read(folder / "student.pt", "train"))
    rows = pd.read_csv(folder / "per_class.csv")
    assert source == "pseudo-labels" and rows["threshold"].tolist() == pytest.approx(cuts)
    test = json.loads((folder / "metrics.json").read_text())["test"]
    for key, column in (("F1", "test_f1"), ("ECE", "test_ece")):
        for name, value in test[key].items():
            assert rows[f"{column}_{name}"].mean() == pytest.approx(value, abs=0.01)
    assert set(test["F1"]) == {"thresholds", "half"} and set(test["ECE"]) == {"zero_shot", "student"}


def test_model_and_labels_are_exported_from_where_params_yaml_points(
    finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(finished)
    run("export", "model", "model")
    card = Path("model/README.md").read_text()
    content = json.loads(Path("model/model.json").read_text())
    assert "On 3 labelled test images" in card and content["provenance"]["teacher"] == "clip vit.pt"
    assert content["provenance"]["images"] == {"train": 9, "test": 3}
    assert str(finished) not in json.dumps(content)
    table = json.loads(run("export", "labels", "labels", "--format", "csv", "--split", "all", "--json"))
    assert table["images"] == 12 and len(pd.read_csv("labels/labels.csv")) == 12


def test_the_students_word_counts_in_what_is_reviewed_and_the_answers_in_what_is_trained(
    finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(finished)
    run("review", "export", "--top", "9")
    sheet = pd.read_csv("review/toy/review.csv")
    pictures = [f"pictures/{name}" for name in sheet["image_id"].unique()]
    run("predict", "data/toy/student.pt", *pictures, "--out", "students.parquet", "--workers", "0")
    said = pd.read_parquet("students.parquet").set_index("path")
    for row in sheet.to_dict("records"):
        assert row["student"] == pytest.approx(said.loc[f"pictures/{row['image_id']}", row["class"]], abs=1e-5)
    steps = sheet[["global", "local", "student"]]
    doubt = (steps.max(axis=1) - steps.min(axis=1)).groupby(sheet["image_id"], sort=False).max()
    assert doubt.round(3).is_monotonic_decreasing and len(doubt) == 9  # closer ones go by the sum over classes
    sheet["label"] = 1 - sheet["suggested"]
    sheet.to_csv("filled.csv", index=False)
    counts = json.loads(run("review", "import", "filled.csv", "--json"))
    assert counts["new"] == counts["against"] == len(sheet)
    run_stage("aggregate")
    labels = pd.read_parquet("data/toy/pseudo_labels.parquet").set_index(["image_id", "class"])["label"]
    assert [labels[row["image_id"], row["class"]] for row in sheet.to_dict("records")] == sheet["label"].tolist()
    run_stage("train")
