"""``ccd export model | onnx | labels``: write the model or the labels for other programs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ccd.cli.options import force_option, shell_path
from ccd.errors import CcdError, user_errors

if TYPE_CHECKING:
    from ccd.deploy.label_export import Format
    from ccd.deploy.labelled import Split

PATH = click.Path(path_type=Path)
student_option = click.option(
    "--student", type=PATH, metavar="FILE", help="Default: student.pt of the data set in params.yaml."
)
licence_option = click.option(
    "--licence", default="not stated", show_default=True, metavar="TEXT", help="Licence of the model."
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print the written files as JSON.")


@click.group(short_help="Write the model or the labels for other programs.")
def export() -> None:
    """Write the model to ship it (model, onnx), or the labels for another tool (labels)."""


@export.command(short_help="Write safetensors, a description and a model card.")
@click.argument("folder", type=PATH)
@student_option
@licence_option
@click.option("--force", is_flag=True, help="Replace existing files; a README.md of your own is kept as .bak.")
@json_option
def model(folder: Path, student: Path | None, licence: str, force: bool, as_json: bool) -> None:
    """Write the student into FOLDER: model.safetensors, model.json and a model card (README.md).

    model.json states classes, preprocessing, thresholds, licence, provenance and the weights' SHA-256. `ccd predict
    FOLDER ...` and `ccd.load_student` open the folder. If FOLDER already holds files of these names, --force is needed.

    \b
    Examples:
      ccd export model model/ --licence CC-BY-4.0
      ccd export model model/ --student student.tuned.pt
    """
    from ccd.deploy.model_export import check_folder, export_model

    with user_errors():
        source = student or _default_student()
        check_folder(source, folder, force=force)
        exported = export_model(source, folder, licence)
        for backup in exported.backups:
            click.echo(f"kept a file that ccd export did not write: {backup}", err=as_json)
        next_step = f"now run: ccd predict {shell_path(folder)} photos/ --out predicted.csv"
        _print_result(exported.files, {}, next_step, as_json)


@export.command(short_help="Write one ONNX file, checked against PyTorch.")
@click.argument("file", type=PATH)
@student_option
@licence_option
@force_option
@json_option
def onnx(file: Path, student: Path | None, licence: str, force: bool, as_json: bool) -> None:
    """Write the student as one ONNX FILE for any batch and image size, with outputs logits and cam (class activation
    maps).

    The file is kept only if it differs from PyTorch by at most 1e-4. Its metadata (key ccd.model) hold classes,
    preprocessing and thresholds. docs/onnx_predict.py runs it with nothing but onnxruntime, Pillow and NumPy. If
    packages are missing, the error tells how to install them.

    With --student data/NAME/head.h5 it is the head on CLIP's features with CLIP's image tower in float32, for one image
    size and without cam.

    \b
    Example:
      ccd export onnx student.onnx && ccd predict student.onnx photos/
    """
    from ccd.artifacts.existing import refuse_existing, refuse_folders, refuse_inputs
    from ccd.artifacts.files import is_stream
    from ccd.deploy.model_export import export_onnx

    with user_errors():
        if file.suffix != ".onnx" and not is_stream(file):
            raise CcdError(f"{file}: the name must end in .onnx")
        source = student or _default_student()
        refuse_inputs([file], [source])
        refuse_folders([file])
        refuse_existing([file], force=force)
        difference = export_onnx(source, file, licence)
        next_step = f"now run: ccd predict {shell_path(file)} photos/ --out predicted.csv"
        _print_result([file], {"largest_difference": difference}, next_step, as_json)


@export.command(short_help="Write labels for pandas, COCO, Label Studio, CVAT, ...")
@click.argument("folder", type=PATH)
@click.option(
    "--format",
    "kind",
    required=True,
    type=click.Choice(["csv", "hf", "coco", "labelstudio", "cvat", "fiftyone"]),
    help="Format of the labels, see above.",
)
@click.option(
    "--split", default="train", show_default=True, type=click.Choice(["train", "test", "all"]), help="Images to export."
)
@click.option(
    "--min-label", type=click.FloatRange(0, 1), help="Lowest label of a class that is present; default: see above."
)
@click.option("--copy-images", is_flag=True, help="Copy the images into FOLDER too (cvat: into its images/).")
@click.option(
    "--image-url", metavar="PREFIX", help="labelstudio: put this before each path; default: /data/local-files/?d="
)
@click.option(
    "--data", type=PATH, metavar="DIR", help="Folder of artifacts; default: that of the data set in params.yaml."
)
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
    """Write the labels of a finished run into FOLDER, in the format of another tool.

    \b
      csv          labels.csv: a spreadsheet, pandas
      hf           metadata.jsonl: Hugging Face datasets, imagefolder
      coco         annotations.json: COCO detection; the boxes are the views
      labelstudio  tasks.json and labelling_config.xml: Label Studio, as predictions to correct
      cvat         annotations.xml: CVAT for images 1.1
      fiftyone     labels.json and data.json: FiftyOneImageClassificationDataset

    Training images have their pseudo-labels: a class is present if its label is at least 0.5. Test images have the
    student's probabilities: a class is present if its probability is at least its threshold. Boxes are views, the crops
    of an image that CLIP read by themselves: they show where a class was detected, but are no tight object boxes. CSV
    cells that a spreadsheet would calculate (= + - @) get an apostrophe in front. Existing files are replaced only with
    --force; identical copies of images stay.

    \b
    Examples:
      ccd export labels out/ --format csv --split all
      ccd export labels out/ --format hf --copy-images
      ccd export labels out/ --format labelstudio --image-url 'http://localhost:8000/' --min-label 0.7
    """
    from ccd.deploy.label_export import LOCAL_FILES, check_copies, check_files, export_labels, how_to_read, image_folder
    from ccd.deploy.labelled import read_labelled
    from ccd.params.file import load
    from ccd.params.sections import DatasetParams

    with user_errors():
        root = Path(load(DatasetParams).root)
        url = LOCAL_FILES if image_url is None else image_url
        check_files(kind, folder, root, _pipeline_lists(), force=force)
        labelled = read_labelled(data or _data_folder(), split, min_label)
        if copy_images:
            check_copies(labelled, root, image_folder(kind, folder), force=force)
        written = export_labels(labelled, kind, folder, root, image_url=url, copy_images=copy_images)
        counts = {"images": len(labelled.images), "labels": sum(len(image.present) for image in labelled.images)}
        counts["boxes"] = sum(len(image.boxes) for image in labelled.images)
        _print_result(written, counts, how_to_read(kind, folder), as_json)


def _pipeline_lists() -> list[Path]:
    """Return the files of class names and labels that params.yaml names."""
    from ccd.params.file import load
    from ccd.params.sections import IndexParams

    params = load(IndexParams)
    return [Path(name) for name in (params.classes_file, params.labels_file) if name]


def _data_folder() -> Path:
    from ccd.params.file import load
    from ccd.params.sections import DatasetParams

    return Path("data") / load(DatasetParams).name


def _default_student() -> Path:
    return _data_folder() / "student.pt"


def _print_result(written: list[Path], figures: Mapping[str, float], next_step: str, as_json: bool) -> None:
    """Print the written files and the ``figures``; as text, also the ``next_step``."""
    if as_json:
        click.echo(json.dumps({"wrote": [str(path) for path in written], **figures}, ensure_ascii=False))
        return
    for path in written:
        click.echo(f"wrote {path}: {path.stat().st_size / 1e6:.2f} MB")
    for name, value in figures.items():
        click.echo(f"{name.replace('_', ' ')}: {value:.2e}" if isinstance(value, float) else f"{name}: {value}")
    click.echo(next_step)
