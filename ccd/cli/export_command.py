"""``ccd export model | onnx | labels``."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ccd.cli.options import force_option, mendable

if TYPE_CHECKING:
    from ccd.deploy.label_export import Format
    from ccd.deploy.labelled import Split

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
@click.option("--force", is_flag=True, help="Replace these files; a README.md of your own is kept as README.md.bak.")
@json_option
def model(folder: Path, student: Path | None, licence: str, force: bool, as_json: bool) -> None:
    """Write the student into FOLDER: model.safetensors, model.json and a model card (README.md).

    model.json states classes, preprocessing, thresholds, licence, what the model was made of, and the weights' SHA-256.
    `ccd predict FOLDER ...` and `ccd.load_student` open it. A FOLDER that holds files of these names is refused.

    \b
    Examples:
      ccd export model model/ --licence CC-BY-4.0
      ccd export model model/ --student student.tuned.pt
    """
    from ccd.deploy.model_export import check_folder, export_model

    with mendable():
        source = student or _student()
        check_folder(source, folder, force=force)
        written = export_model(source, folder, licence)
        _say_kept(written.kept, as_json)
        _say(written.files, {}, f"now run: ccd predict {_quoted(folder)} photos/ --out predicted.csv", as_json)


@export.command(short_help="One ONNX file, checked against PyTorch.")
@click.argument("file", type=PATH)
@student_option
@licence_option
@force_option
@json_option
def onnx(file: Path, student: Path | None, licence: str, force: bool, as_json: bool) -> None:
    """Write the student as one ONNX FILE: any batch, any size; outputs logits and cam (class activation maps).

    It is compared with PyTorch before it is kept: the largest difference may be 1e-4. Classes, preprocessing and
    thresholds are in its metadata (key ccd.model). docs/onnx_predict.py runs it with onnxruntime, Pillow and NumPy
    alone. If packages are missing, the error says how to install them.

    \b
    Example:
      ccd export onnx student.onnx && ccd predict student.onnx photos/
    """
    from ccd.artifacts.existing import refuse_existing, refuse_folders, refuse_inputs
    from ccd.artifacts.files import is_stream
    from ccd.deploy.model_export import export_onnx
    from ccd.errors import CcdError

    with mendable():
        if file.suffix != ".onnx" and not is_stream(file):
            raise CcdError(f"{file}: the name must end in .onnx")
        source = student or _student()
        refuse_inputs([file], [source])
        refuse_folders([file])
        refuse_existing([file], force=force)
        difference = export_onnx(source, file, licence)
        next_step = f"now run: ccd predict {_quoted(file)} photos/ --out predicted.csv"
        _say([file], {"largest_difference": difference}, next_step, as_json)


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
@force_option
@json_option
def labels(
    folder: Path,
    kind: Format,
    split: Split,
    min_label: float | None,
    copy_images: bool,
    image_url: str | None,
    data: Path | None,
    force: bool,
    as_json: bool,
) -> None:
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
    Files that are there already are not replaced without --force; copies of images that are the same stay.

    
    Examples:
      ccd export labels out/ --format csv --split all
      ccd export labels out/ --format hf --copy-images
      ccd export labels out/ --format labelstudio --image-url 'http://localhost:8000/' --min-label 0.7
    """
    from ccd.deploy.label_export import LOCAL_FILES, check_copies, check_files, export_labels, how_to_read, image_folder
    from ccd.deploy.labelled import read_labelled
    from ccd.params.file import load
    from ccd.params.sections import DatasetParams

    with mendable():
        root = Path(load(DatasetParams).root)
        url = LOCAL_FILES if image_url is None else image_url
        check_files(kind, folder, root, _lists(), force=force)
        chosen = read_labelled(data or _data_folder(), split, min_label)
        if copy_images:
            check_copies(chosen, root, image_folder(kind, folder), force=force)
        written = export_labels(chosen, kind, folder, root, image_url=url, copy_images=copy_images)
        counts = {"images": len(chosen.images), "labels": sum(len(image.present) for image in chosen.images)}
        counts["boxes"] = sum(len(image.boxes) for image in chosen.images)
        _say(written, counts, how_to_read(kind, folder), as_json)


def _lists() -> list[Path]:
    """The lists of classes and labels that params.yaml names."""
    from ccd.params.file import load
    from ccd.params.sections import IndexParams

    params = load(IndexParams)
    return [Path(name) for name in (params.classes_file, params.labels_file) if name]


def _data_folder() -> Path:
    from ccd.params.file import load
    from ccd.params.sections import DatasetParams

    return Path("data") / load(DatasetParams).name


def _student() -> Path:
    return _data_folder() / "student.pt"


def _quoted(path: Path) -> str:
    return shlex.quote(str(path))


def _say_kept(copies: list[Path], as_json: bool) -> None:
    for copy in copies:
        click.echo(f"kept what was there and is not from an export: {copy}", err=as_json)


def _say(written: list[Path], more: Mapping[str, float], next_step: str, as_json: bool) -> None:
    """Say what was written and counted, and in a last line for people what to do next."""
    if as_json:
        click.echo(json.dumps({"wrote": [str(path) for path in written], **more}, ensure_ascii=False))
        return
    for path in written:
        click.echo(f"wrote {path}: {path.stat().st_size / 1e6:.2f} MB")
    for name, value in more.items():
        click.echo(f"{name.replace('_', ' ')}: {value:.2e}" if isinstance(value, float) else f"{name}: {value}")
    click.echo(next_step)
