"""``ccd export model | onnx | labels``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ccd.commands.options import mendable

if TYPE_CHECKING:
    from ccd.export.labelled import Split
    from ccd.export.labels import Format

PATH = click.Path(path_type=Path)
student_option = click.option(
    "--student", type=PATH, metavar="FILE", help="Default: student.pt of the data set that params.yaml names."
)
licence_option = click.option(
    "--licence", default="not stated", show_default=True, metavar="TEXT", help="Licence of the model."
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print what was written as JSON.")


@click.group(short_help="Write the model or the labels for other programs.")
def export() -> None:
    """Write a model to ship (model, onnx), or the labels for another tool (labels)."""


@export.command(short_help="Safetensors with a description and a model card.")
@click.argument("folder", type=PATH)
@student_option
@licence_option
@json_option
def model(folder: Path, student: Path | None, licence: str, as_json: bool) -> None:
    """Write the student into FOLDER: model.safetensors, model.json and a model card (README.md).

    model.json states classes, preprocessing, thresholds, licence, what the model was made of, and the weights' SHA-256.
    `ccd predict FOLDER ...` and ccd.predict.load_student open it.

    \b
    Examples:
      ccd export model model/ --licence CC-BY-4.0
      ccd export model model/ --student data/demo/student.tuned.pt
    """
    from ccd.export.model import export_model

    with mendable():
        written = export_model(student or _student(), folder, licence)
        _say(written, {}, as_json)


@export.command(short_help="One ONNX file, checked against PyTorch.")
@click.argument("file", type=PATH)
@student_option
@licence_option
@json_option
def onnx(file: Path, student: Path | None, licence: str, as_json: bool) -> None:
    """Write the student as one ONNX FILE: any batch, any size; outputs logits and cam (class activation maps).

    It is compared with PyTorch before it is kept: the largest difference may be 1e-4. Classes, preprocessing and
    thresholds are in its metadata (key ccd.model). docs/onnx_predict.py runs it with onnxruntime, Pillow and NumPy
    alone. If packages are missing, the error says how to install them.

    \b
    Example:
      ccd export onnx student.onnx && ccd predict student.onnx photos/
    """
    from ccd.errors import CcdError
    from ccd.export.onnx_file import export_onnx

    with mendable():
        if file.suffix != ".onnx":
            raise CcdError(f"{file}: the name must end in .onnx")
        difference = export_onnx(student or _student(), file, licence)
        _say([file], {"largest_difference": difference}, as_json)


@export.command(short_help="Labels for pandas, COCO, Label Studio, CVAT, ...")
@click.argument("folder", type=PATH)
@click.option(
    "--format", "kind", required=True, type=click.Choice(["csv", "hf", "coco", "labelstudio", "cvat", "fiftyone"]),
    help="What reads them.",
)  # fmt: skip
@click.option(
    "--split", default="train", show_default=True, type=click.Choice(["train", "test", "all"]), help="Which images."
)
@click.option("--min-label", type=click.FloatRange(0, 1), help="A class is present from this on; default: see above.")
@click.option("--copy-images", is_flag=True, help="Copy the images into FOLDER too (cvat: into its images/).")
@click.option("--image-url", metavar="PREFIX", help="labelstudio: before each path; default: /data/local-files/?d=")
@click.option("--data", type=PATH, metavar="DIR", help="Default: the artifacts of the data set that params.yaml names.")
@json_option
def labels(
    folder: Path, kind: Format, split: Split, min_label: float | None, copy_images: bool, image_url: str | None,
    data: Path | None, as_json: bool,
) -> None:  # fmt: skip
    """Write the labels of a finished run into FOLDER, as another tool reads them.

    
      csv          labels.csv: a spreadsheet, pandas
      hf           metadata.jsonl: Hugging Face datasets, imagefolder
      coco         annotations.json: COCO detection, with the boxes of the local views
      labelstudio  tasks.json and labelling_config.xml: Label Studio, as predictions to correct
      cvat         annotations.xml: CVAT for images 1.1
      fiftyone     labels.json and data.json: FiftyOneImageClassificationDataset

    Training images carry their pseudo-labels: a class is present from 0.5 on. Test images carry the student's
    probabilities: a class is present from its own threshold on. Boxes are local views: where a class was seen, no tight
    object boxes. In CSV, cells that a spreadsheet would calculate (= + - @) get an apostrophe in front.

    
    Examples:
      ccd export labels out/ --format csv --split all
      ccd export labels out/ --format hf --copy-images
      ccd export labels out/ --format labelstudio --image-url 'http://localhost:8000/' --min-label 0.7
    """
    from ccd.export.labelled import read_labelled
    from ccd.export.labels import LOCAL_FILES, export_labels
    from ccd.params.base import load
    from ccd.params.dataset import DatasetParams

    with mendable():
        found = read_labelled(data or _data_folder(), split, min_label)
        root, url = Path(load(DatasetParams).root), LOCAL_FILES if image_url is None else image_url
        written = export_labels(found, kind, folder, root, image_url=url, copy_images=copy_images)
        counts = {"images": len(found.images), "labels": sum(len(image.present) for image in found.images)}
        _say(written, {**counts, "boxes": sum(len(image.boxes) for image in found.images)}, as_json)


def _data_folder() -> Path:
    from ccd.params.base import load
    from ccd.params.dataset import DatasetParams

    return Path("data") / load(DatasetParams).name


def _student() -> Path:
    return _data_folder() / "student.pt"


def _say(written: list[Path], more: dict[str, object], as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps({"wrote": [str(path) for path in written], **more}, ensure_ascii=False))
        return
    for path in written:
        click.echo(f"wrote {path}: {path.stat().st_size / 1e6:.2f} MB")
    for name, value in more.items():
        click.echo(f"{name.replace('_', ' ')}: {value:.2e}" if isinstance(value, float) else f"{name}: {value}")
