"""What a DVC user looks for: ``dvc plots show`` draws the declared curves, bars and picture of a finished run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from dvc.repo import Repo
from ruamel.yaml import YAML

from ccd.project.create import write_plot_template
from ccd.report.overview import write_overview
from ccd.report.run import RunFiles, read_run
from tests.finished_run import CLASSES, write_run

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, Any]]]:
    """The plots of dvc.yaml, without its stages, on the tiny run."""
    project = tmp_path_factory.mktemp("project")
    data = write_run(project / "data/toy")
    write_overview(read_run(RunFiles.in_folder(data)), "toy", data / "overview.png")
    Repo.init(str(project), no_scm=True).close()
    write_plot_template(project)  # as ccd init does
    declared = YAML(typ="safe").load((ROOT / "dvc.yaml").read_text())["plots"]
    with (project / "dvc.yaml").open("w") as file:
        YAML().dump({"plots": declared}, file)
    (project / "params.yaml").write_text("dataset: {name: toy}\n")
    command = [sys.executable, "-m", "dvc", "plots", "show", "--json"]
    environment = {**os.environ, "DVC_NO_ANALYTICS": "1"}
    done = subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True, check=True)
    content = json.loads(done.stdout)
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
    across, down = content["encoding"]["x"], content["encoding"]["y"]
    assert (across["field"], across["title"], across["scale"]) == ("test_student", "AP, %", {"domainMin": 0})
    assert (down["field"], down["sort"]) == ("class", "-x")
    assert "<DVC_" not in json.dumps(content)


def test_the_clone_and_new_projects_have_one_template(tmp_path: Path) -> None:
    assert write_plot_template(tmp_path).read_bytes() == (ROOT / ".dvc/plots/sorted_bars.json").read_bytes()
