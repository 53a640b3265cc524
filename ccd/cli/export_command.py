"""``ccd export``: write the model or the labels for other programs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from ccd.cli.export_models import PATH, data_folder, json_option, model, onnx, print_result, torch
from ccd.cli.options import force_option
from ccd.errors import user_errors

if TYPE_CHECKING:
    from ccd.deploy.label_export import Format
    from ccd.deploy.labelled import Split


@click.group(short_help="Write the model or the labels for other programs.")
def export() -> None:
    """Write the model to ship it (model, onnx, torch), or the labels for another tool (labels)."""


export.add_command(model)
export.add_command(onnx)
export.add_command(torch)


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
        labelled = read_labelled(data or data_folder(), split, min_label)
        if copy_images:
            check_copies(labelled, root, image_folder(kind, folder), force=force)
        written = export_labels(labelled, kind, folder, root, image_url=url, copy_images=copy_images)
        counts = {"images": len(labelled.images), "labels": sum(len(image.present) for image in labelled.images)}
        counts["boxes"] = sum(len(image.boxes) for image in labelled.images)
        print_result(written, counts, how_to_read(kind, folder), as_json)


def _pipeline_lists() -> list[Path]:
    """Return the files of class names and labels that params.yaml names."""
    from ccd.params.file import load
    from ccd.params.sections import IndexParams

    params = load(IndexParams)
    return [Path(name) for name in (params.classes_file, params.labels_file) if name]
