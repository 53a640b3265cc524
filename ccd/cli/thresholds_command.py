"""``ccd thresholds``."""

from __future__ import annotations

import json
import math
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ccd.cli.options import device_option, force_option, mendable

if TYPE_CHECKING:
    from ccd.deploy.tune import Tuned

PATH = click.Path(path_type=Path)


@click.command(short_help="Tune decision thresholds on some labelled images.")
@click.argument("model", type=PATH)
@click.option("--labels", type=PATH, required=True, help="CSV with columns path and classes (several with ';').")
@click.option("--images", type=PATH, required=True, help="Folder that its paths are relative to.")
@click.option("--out", type=PATH, help="The tuned model; default: MODEL's name with '.tuned', in this directory.")
@force_option
@device_option
@click.option("--json", "as_json", is_flag=True, help="Print the table as JSON.")
def thresholds(
    model: Path, labels: Path, images: Path, out: Path | None, force: bool, device: str, as_json: bool
) -> None:
    """Tune MODEL's decision thresholds on a few labelled images: per class, the one with the largest F1.

    A trained student already has thresholds that need no labels; labelled images can give better ones, the more images
    of a class the better. MODEL (a checkpoint or a folder from `ccd export model`) stays as it is; the tuned copy is
    written into the working directory, since data/ is the pipeline's. Classes that none of the images shows keep their
    threshold.

    The CSV that `ccd predict` writes can be corrected in its column 'labels' and given as --labels.

    \b
    Examples:
      ccd thresholds data/demo/student.pt --labels checked.csv --images photos/
      ccd predict student.tuned.pt photos/ --out labels.csv

    Exit status: 0; 2 after a mistake, with nothing written.
    """
    from ccd.deploy.load import open_model
    from ccd.deploy.tune import check_target, save_tuned, tune
    from ccd.errors import CcdError
    from ccd.runtime.hardware import find_device

    with mendable():
        if model.suffix == ".onnx":
            raise CcdError(f"{model}: tune the checkpoint that it was made of, and export that again")
        target = out or _default_target(model)
        check_target(model, target, [labels], force=force)
        found = tune(open_model(model, find_device(device)), labels, images, batch_size=32, workers=0)
        for copy in save_tuned(model, target, found):
            click.echo(f"kept what was there and is not from an export: {copy}", err=True)
        click.echo(json.dumps(_content(found, target), ensure_ascii=False) if as_json else _text(found, target, images))


def _default_target(model: Path) -> Path:
    """In the working directory: what lies beside the model may be made again by the pipeline."""
    name = model.resolve().name if model.is_dir() else model.name
    return Path(f"{name}.tuned" if model.is_dir() else f"{Path(name).stem}.tuned{Path(name).suffix}")


def _content(found: Tuned, target: Path) -> dict[str, object]:
    rows = [
        {
            "class": name,
            "images": int(found.positives[place]),
            "threshold": float(found.after[place]),
            "threshold_before": float(found.before[place]),
            "f1": None if math.isnan(found.f1_after[place]) else float(found.f1_after[place]),
            "f1_before": None if math.isnan(found.f1_before[place]) else float(found.f1_before[place]),
        }
        for place, name in enumerate(found.classes)
    ]
    return {"out": str(target), "images": found.images, "classes": rows}


def _text(found: Tuned, target: Path, images: Path) -> str:
    from ccd.report.text_table import aligned

    rows = [["class", "images", "threshold before", "after", "F1 % before", "after"]]
    for place, name in enumerate(found.classes):
        cuts = [f"{values[place]:.4f}" for values in (found.before, found.after)]
        scores = [f"{100 * values[place]:.1f}".replace("nan", "-") for values in (found.f1_before, found.f1_after)]
        rows.append([name, str(found.positives[place]), *cuts, *scores])
    note = "F1 is on the images that the thresholds were chosen on, so it flatters them."
    command = f"ccd predict {shlex.quote(str(target))} {shlex.quote(str(images))} --out predicted.csv"
    return f"{aligned(rows)}\n\nwrote {target}: tuned on {found.images:,} images. {note}\nnow run: {command}"
