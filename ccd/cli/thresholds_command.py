"""``ccd thresholds``: tune decision thresholds on labelled images."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ccd.cli.options import device_option, force_option, shell_path
from ccd.errors import CcdError, user_errors

if TYPE_CHECKING:
    from ccd.deploy.tune import Tuned

PATH = click.Path(path_type=Path)


@click.command(short_help="Tune decision thresholds on some labelled images.")
@click.argument("model", type=PATH)
@click.option("--labels", type=PATH, required=True, help="CSV with columns path and classes (several with ';').")
@click.option("--images", type=PATH, required=True, help="Folder to which the paths in --labels are relative.")
@click.option("--out", type=PATH, help="The tuned model; default: MODEL's name with '.tuned', in this directory.")
@force_option
@device_option
@click.option("--json", "as_json", is_flag=True, help="Print the table as JSON.")
def thresholds(
    model: Path, labels: Path, images: Path, out: Path | None, force: bool, device: str, as_json: bool
) -> None:
    """Choose for each class of MODEL the decision threshold with the largest F1 on a few labelled images.

    A trained student already has thresholds that need no labels; with enough labelled images of a class, a tuned one is
    better. MODEL (a checkpoint, a folder from `ccd export model`, or a head.h5) is not changed; the tuned copy is
    written into the current directory, since data/ belongs to the pipeline. A class that no image shows keeps its
    threshold.

    To get a file for --labels, correct the column 'labels' of the CSV that `ccd predict` writes.

    \b
    Examples:
      ccd thresholds data/demo/student.pt --labels checked.csv --images photos/
      ccd predict student.tuned.pt photos/ --out labels.csv

    Exit status: 0 done, 2 invalid input and nothing written.
    """
    from ccd.deploy.load import open_model
    from ccd.deploy.tune import check_target, save_tuned, tune

    with user_errors():
        if model.suffix == ".onnx":
            raise CcdError(f"{model}: an ONNX file cannot be tuned; tune its checkpoint and export that again")
        target = out or _default_target(model)
        check_target(model, target, [labels], force=force)
        tuned = tune(open_model(model, device), labels, images, batch_size=32, workers=0)
        for backup in save_tuned(model, target, tuned):
            click.echo(f"kept a file that ccd export did not write: {backup}", err=True)
        click.echo(json.dumps(_content(tuned, target), ensure_ascii=False) if as_json else _text(tuned, target, images))


def _default_target(model: Path) -> Path:
    """Name a file in the current directory, since the pipeline may delete files beside the model."""
    name = model.resolve().name if model.is_dir() else model.name
    return Path(f"{name}.tuned" if model.is_dir() else f"{Path(name).stem}.tuned{Path(name).suffix}")


def _content(tuned: Tuned, target: Path) -> dict[str, object]:
    rows = [
        {
            "class": name,
            "images": int(tuned.positives[column]),
            "threshold": float(tuned.after[column]),
            "threshold_before": float(tuned.before[column]),
            "f1": None if math.isnan(tuned.f1_after[column]) else float(tuned.f1_after[column]),
            "f1_before": None if math.isnan(tuned.f1_before[column]) else float(tuned.f1_before[column]),
        }
        for column, name in enumerate(tuned.classes)
    ]
    return {"out": str(target), "images": tuned.images, "classes": rows}


def _text(tuned: Tuned, target: Path, images: Path) -> str:
    from ccd.report.text_table import aligned

    rows = [["class", "images", "threshold before", "after", "F1 % before", "after"]]
    for column, name in enumerate(tuned.classes):
        cuts = [f"{values[column]:.4f}" for values in (tuned.before, tuned.after)]
        scores = [f"{100 * values[column]:.1f}".replace("nan", "-") for values in (tuned.f1_before, tuned.f1_after)]
        rows.append([name, str(tuned.positives[column]), *cuts, *scores])
    note = "F1 was measured on the images used for tuning, so it is too high."
    command = f"ccd predict {shell_path(target)} {shell_path(images)} --out predicted.csv"
    return f"{aligned(rows)}\n\nwrote {target}: tuned on {tuned.images:,} images. {note}\nnow run: {command}"
