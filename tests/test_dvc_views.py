"""What a DVC user looks for: in a project of ``ccd init``, ``dvc plots show`` draws the declared curves, bars and
picture of a finished run, and ``dvc metrics show`` fits a screen."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from dvc.repo import Repo

from ccd.cli.main import main
from ccd.evaluation.summary import Scores, Truth, evaluate
from ccd.report.overview import write_overview
from ccd.report.run_data import RunFiles, read_run
from tests.toys.chain import COLOURS, write_pictures
from tests.toys.finished_run import CLASSES, write_run
from tests.toys.tiny_clip import checkpoint

ROOT = Path(__file__).resolve().parent.parent


def dvc(project: Path, *words: str) -> str:
    command = [sys.executable, "-m", "dvc", *words]
    environment = {**os.environ, "DVC_NO_ANALYTICS": "1"}
    return subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True, check=True).stdout


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, Any]]]:
    """The plots of the tiny run, in a project as `ccd init` makes it."""
    folder = tmp_path_factory.mktemp("project")
    (folder / "photos").mkdir()
    write_pictures(folder / "photos", tuple(COLOURS))
    (folder / "vit.pt").write_bytes(checkpoint("vit"))
    project = folder / "toy"
    words = [
        "init",
        project,
        "--images",
        folder / "photos",
        "--teacher",
        folder / "vit.pt",
        "--set",
        "warmup.weights=none",
    ]
    assert CliRunner().invoke(main, list(map(str, words))).exit_code == 0
    data = write_run(project / "data/toy")
    write_overview(read_run(RunFiles.in_folder(data)), "toy", data / "overview.png")
    content = json.loads(dvc(project, "plots", "show", "--json"))
    assert not content.get("errors"), content
    return dict(content["data"])


def test_the_picture_is_a_plot(shown: dict[str, list[dict[str, Any]]]) -> None:
    picture = next(plots for name, plots in shown.items() if name.endswith("overview.png"))
    assert picture[0]["type"] == "image"


def test_curves_of_warm_up_and_training(shown: dict[str, list[dict[str, Any]]]) -> None:
    values = shown["loss"][0]["content"]["data"]["values"]
    losses = {(row["filename::field"], row["epoch"]): float(row["dvc_inferred_y_value"]) for row in values}
    assert losses["warmup_curves.csv::loss", "1"] == 0.6 and losses["train_curves.csv::loss", "2"] == 0.4
    assert losses["train_curves.csv::consistency", "1"] == 0.2
    values = shown["label_map"][0]["content"]["data"]["values"]
    assert [row["label_map"] for row in values if row["filename"] == "train_curves.csv"] == ["40", "50"]


def test_sorted_bars_of_average_precision(shown: dict[str, list[dict[str, Any]]]) -> None:
    content = shown["ap_per_class"][0]["content"]
    assert {row["class"] for row in content["data"]["values"]} == set(CLASSES)
    across = content["encoding"]["x"]
    down = content["encoding"]["y"]
    assert (across["field"], across["title"], across["scale"]) == ("test_student", "AP, %", {"domainMin": 0})
    assert (down["field"], down["sort"]) == ("class", "-x")
    assert "<DVC_" not in json.dumps(content)


def test_the_template_of_the_repository_and_of_projects_is_one() -> None:
    """A project is a DVC repository of its own, and reads no other's templates."""
    assert (ROOT / ".dvc/plots/sorted_bars.json").read_bytes() == (ROOT / "ccd/project/sorted_bars.json").read_bytes()


@pytest.mark.parametrize("labelled", [0, 2])
def test_metrics_fit_a_screen_with_any_number_of_classes(labelled: int, tmp_path: Path) -> None:
    classes = tuple(f"a class of some length, number {number}" for number in range(250))
    scores = np.random.default_rng(0).random((5, len(classes)))
    train, test = (
        Scores([f"{split}{row}" for row in range(5)], dict.fromkeys(names, scores))
        for split, names in (("train", ("zero_shot", "aggregated_raw")), ("test", ("zero_shot", "warmup", "student")))
    )
    truth = np.zeros((labelled, len(classes)), np.int8)
    truth[:, 0] = 1
    known = Truth([f"test{row}" for row in range(labelled)], classes, truth, truth > 1)
    found = evaluate(train, test, known, [0.5] * len(classes), "ignore", 1)
    (tmp_path / "metrics.json").write_text(json.dumps(found.metrics))
    (tmp_path / "dvc.yaml").write_text("metrics: [metrics.json]\n")
    with Repo.init(str(tmp_path), no_scm=True):
        lines = dvc(tmp_path, "metrics", "show").splitlines()
    assert len(lines) == 2 and max(map(len, lines)) < (600 if labelled else 170)
    assert "250" not in lines[1] and ("and 244 more" in lines[1]) == bool(labelled)
