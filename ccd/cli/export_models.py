"""``ccd export model | onnx | torch``: write the model for other programs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ccd.cli.options import force_option, shell_path
from ccd.errors import CcdError, user_errors

if TYPE_CHECKING:
    from ccd.deploy.lower_precision import Precision
    from ccd.deploy.onnx_export import ExportedOnnx

PATH = click.Path(path_type=Path)
student_option = click.option(
    "--student", type=PATH, metavar="FILE", help="Default: student.pt of the data set in params.yaml."
)
licence_option = click.option(
    "--licence", default="not stated", show_default=True, metavar="TEXT", help="Licence of the model."
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print the written files as JSON.")


@click.command(short_help="Write safetensors, a description and a model card.")
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
        source = student or default_student()
        check_folder(source, folder, force=force)
        exported = export_model(source, folder, licence)
        for backup in exported.backups:
            click.echo(f"kept a file that ccd export did not write: {backup}", err=as_json)
        next_step = f"now run: ccd predict {shell_path(folder)} photos/ --out predicted.csv"
        print_result(exported.files, {}, next_step, as_json)


CALIBRATE = 128
OTHER_ANSWERS = 0.05
"""Share of images with other classes than the student's from which on an export warns."""
LOST_POINTS = 1.0
"""Points of mAP lost from which on an export warns."""


@click.command(short_help="Write one ONNX file, checked against PyTorch.")
@click.argument("file", type=PATH)
@student_option
@licence_option
@click.option(
    "--precision",
    default="fp32",
    show_default=True,
    type=click.Choice(["fp32", "fp16", "int8"]),
    help="Of weights and arithmetic; int8 is calibrated on training images.",
)
@click.option(
    "--calibrate",
    type=click.IntRange(1),
    metavar="N",
    help=f"int8: training images to calibrate on; default: {CALIBRATE}.",
)
@click.option(
    "--check",
    default=500,
    show_default=True,
    type=click.IntRange(0),
    metavar="N",
    help="Images to compare with PyTorch on; 0 (fp32): none.",
)
@click.option("--images", type=PATH, metavar="FOLDER", help="Take both from here; default: from the model's project.")
@click.option(
    "--max-difference", type=click.FloatRange(0, 1), metavar="X", help="Refuse if a probability differs by more."
)
@force_option
@json_option
def onnx(
    file: Path,
    student: Path | None,
    licence: str,
    precision: Precision,
    calibrate: int | None,
    check: int,
    images: Path | None,
    max_difference: float | None,
    force: bool,
    as_json: bool,
) -> None:
    """Write the student as one ONNX FILE for any batch and image size, with outputs logits and cam (class activation
    maps).

    The file is kept only if its float32 graph differs from PyTorch by at most 1e-4. Where the images of the project are
    at hand it is then compared with PyTorch on real ones: test images, with mAP where their labels are known. fp16 and
    int8 need such images, the project's or those in --images. Its metadata (key ccd.model) hold classes, preprocessing
    and thresholds, and what was measured (ccd.export). docs/onnx_predict.py runs it with nothing but onnxruntime,
    Pillow and NumPy. If packages are missing, the error tells how to install them.

    With --student data/NAME/head.h5 it is the head on CLIP's features with CLIP's image tower, for one image size and
    without cam.

    \b
    Examples:
      ccd export onnx student.onnx && ccd predict student.onnx photos/
      ccd export onnx student.int8.onnx --precision int8 --max-difference 0.3
    """
    from ccd.deploy.agreement import ImageChoice
    from ccd.deploy.onnx_export import export_onnx

    with user_errors():
        if calibrate is not None and precision != "int8":
            raise CcdError("--calibrate is for --precision int8, which alone is calibrated; leave it out")
        source = _checked_source(file, ".onnx", student, force=force)
        choice = ImageChoice(images, (calibrate or CALIBRATE) if precision == "int8" else 0, check)
        exported = export_onnx(source, file, licence, precision, choice, max_difference)
        _warn(exported)
        figures = {"largest_difference": exported.largest_difference}
        next_step = f"now run: ccd predict {shell_path(file)} photos/ --out predicted.csv"
        if as_json:
            print_result([file], figures | _figures(exported), next_step, as_json)
            return
        print_result([file], figures, f"{_table(exported)}{next_step}", as_json)


@click.command(short_help="Write an archive for PyTorch without ccd.")
@click.argument("file", type=PATH)
@student_option
@licence_option
@force_option
@json_option
def torch(file: Path, student: Path | None, licence: str, force: bool, as_json: bool) -> None:
    """Write the student as one FILE.pt2 that torch.export.load reads where ccd is not installed.

    It takes pixels (images, 3, S, S), any number of images of the student's size S, and returns logits and cam. The
    file is kept only if it differs from the student by at most 1e-5. Its extra file model.json holds classes,
    preprocessing, thresholds, licence and provenance.

    \b
    Example:
      ccd export torch student.pt2 --licence CC-BY-4.0
    """
    from ccd.deploy.model_export import export_torch

    with user_errors():
        source = _checked_source(file, ".pt2", student, force=force)
        difference = export_torch(source, file, licence)
        next_step = f"now, in Python: torch.export.load({str(file)!r}).module()(pixels)"
        print_result([file], {"largest_difference": difference}, next_step, as_json)


def _checked_source(file: Path, ending: str, student: Path | None, *, force: bool) -> Path:
    """Return the model to export. Raises CcdError if ``file`` is unsuitable, or is there and ``force`` is false."""
    from ccd.artifacts.existing import refuse_existing, refuse_folders, refuse_inputs
    from ccd.artifacts.files import is_stream

    if file.suffix != ending and not is_stream(file):
        raise CcdError(f"{file}: the name must end in {ending}")
    source = student or default_student()
    refuse_inputs([file], [source])
    refuse_folders([file])
    refuse_existing([file], force=force)
    return source


def _figures(exported: ExportedOnnx) -> dict[str, object]:
    check = None if exported.agreement is None else exported.agreement.to_json()
    speeds = {name: round(value, 1) for name, value in exported.images_per_s.items()}
    return {
        "precision": exported.precision,
        "check": check,
        "bytes": exported.file_bytes,
        "images_per_second": speeds,
    }


def _warn(exported: ExportedOnnx) -> None:
    """Warn of an export that answers differently from the student in many images, or lost mAP."""
    found = exported.agreement
    if found is None:
        return
    lost = 0.0 if found.mean_ap is None else found.mean_ap[0] - found.mean_ap[1]
    reasons = [f"{found.answers:.0%} of images get other classes"] if found.answers > OTHER_ANSWERS else []
    reasons += [f"mAP is {lost:.1f} points lower"] if lost > LOST_POINTS else []
    if reasons:
        text = f"warning: the {exported.precision} file differs from the student: {' and '.join(reasons)}"
        click.echo(f"{text}; more images to calibrate on may help, or a higher precision", err=True)


def _table(exported: ExportedOnnx) -> str:
    """Format the comparison with PyTorch on real images, "" if there was none."""
    from ccd.report.text_table import aligned

    found = exported.agreement
    if found is None:
        return ""
    means = ("-", "-") if found.mean_ap is None else tuple(f"{value:.2f}" for value in found.mean_ap)
    rows = [["", "MB", "images/s", "mAP %"], ["PyTorch", "-", "-", means[0]]]
    for name, size in exported.file_bytes.items():
        shown = means[1] if name == exported.precision else "-"
        rows.append([f"ONNX {name}", f"{size / 1e6:.2f}", f"{exported.images_per_s[name]:.1f}", shown])
    return (
        f"\n{aligned(rows)}\n\non {found.images:,} {found.images_from} probabilities differ by at most "
        f"{found.largest:.2g}, in the mean by {found.mean:.2g}; {found.decisions:.2%} of all decisions differ "
        f"({found.positives:.1%} are 'present'), and {found.answers:.1%} of images get other classes\n"
    )


def data_folder() -> Path:
    """Return the folder of artifacts of the data set in params.yaml."""
    from ccd.params.file import load
    from ccd.params.sections import DatasetParams

    return Path("data") / load(DatasetParams).name


def default_student() -> Path:
    """Return the student of the data set in params.yaml."""
    return data_folder() / "student.pt"


def print_result(written: list[Path], figures: Mapping[str, object], next_step: str, as_json: bool) -> None:
    """Print the written files and the ``figures``; as text, also the ``next_step``."""
    if as_json:
        click.echo(json.dumps({"wrote": [str(path) for path in written], **figures}, ensure_ascii=False))
        return
    for path in written:
        click.echo(f"wrote {path}: {path.stat().st_size / 1e6:.2f} MB")
    for name, value in figures.items():
        click.echo(f"{name.replace('_', ' ')}: {value:.2e}" if isinstance(value, float) else f"{name}: {value}")
    click.echo(next_step)
