"""``ccd review export | import``."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from ccd.commands.options import mendable

if TYPE_CHECKING:
    import numpy as np

    from ccd.params.dataset import DatasetParams
    from ccd.review.questions import Evidence, Question

PATH = click.Path(path_type=Path)
Format = Literal["csv", "label-studio"]


@click.group(short_help="Let people decide doubtful labels.")
def review() -> None:
    """Let people decide the most doubtful training images, and take their word into the labels (docs/corrections.md).

    \b
      ccd review export --top 200
      ccd review import reviewed.csv
      dvc repro
    """


@review.command("export", short_help="Write the most doubtful images, to be decided.")
@click.option("--top", "count", type=click.IntRange(1), default=200, show_default=True, help="How many images.")
@click.option("--out", type=PATH, metavar="DIR|FILE", help="Default: the folder review/<dataset.name>.")
@click.option(
    "--format", "kind", type=click.Choice(["csv", "label-studio"]), default="csv", show_default=True,
    help="csv: for a spreadsheet, and a page to look at and click. label-studio: tasks with our labels filled in.",
)  # fmt: skip
@click.option("--random", "at_random", is_flag=True, help="Images drawn evenly instead of the most doubtful.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of --random.")
@click.option("--no-student", is_flag=True, help="Do not ask the student, which takes a look at every image.")
@click.option("--image-url", metavar="PREFIX", help="label-studio: before each path; default: /data/local-files/?d=")
def export_command(
    count: int, out: Path | None, kind: Format, at_random: bool, seed: int, no_student: bool, image_url: str | None
) -> None:
    """Write the training images whose labels are most in doubt, for people to decide.

    In doubt are those where whole image, local views and student disagree most about a class; what a person has decided
    is not asked again. csv writes review.csv, whose column 'label' waits for 1 (there), 0 (not there) or nothing, and
    review.html, on which the same is clicked and saved. label-studio writes tasks.json and labelling_config.xml.
    """
    from ccd.artifacts.corrections import ensure, path_of
    from ccd.params.base import load
    from ccd.params.dataset import DatasetParams
    from ccd.review.questions import most_doubtful_images, random_images, read_evidence

    with mendable():
        dataset = load(DatasetParams)
        data = Path("data") / dataset.name
        ensure(path_of(dataset.name))
        student = None if no_student or not (data / "student.pt").exists() else _student(data, dataset.root)
        evidence = read_evidence(data, path_of(dataset.name), student)
        chosen = random_images(evidence, count, seed) if at_random else most_doubtful_images(evidence, count)
        for path in _write(dataset, evidence, chosen, kind, out, image_url):
            click.echo(f"wrote {path}: {path.stat().st_size / 1e6:.2f} MB")
        asked = sum(len(question.classes) for question in chosen)
        click.echo(f"{len(chosen):,} images, {asked:,} questions; when answered: ccd review import FILE")


@review.command("import", short_help="Take what was decided into corrections/.")
@click.argument("file", type=PATH)
@click.option("--json", "as_json", is_flag=True, help="Print the counts as JSON.")
def import_command(file: Path, as_json: bool) -> None:
    """Merge a reviewed FILE (filled CSV, or Label Studio's JSON export) into corrections/<dataset.name>.csv.

    An answer replaces an older one about the same image and class. In Label Studio a submitted image decides every
    class: those chosen are there, all others are not. A FILE that does not fit is refused as a whole.
    """
    from ccd.artifacts import class_table, corrections
    from ccd.artifacts.pseudo_labels import SPEC
    from ccd.params.base import load
    from ccd.params.dataset import DatasetParams
    from ccd.review.reviewed import merge, read_reviewed

    with mendable():
        name = load(DatasetParams).name
        target = corrections.path_of(name)
        current = class_table.read(Path("data") / name / "pseudo_labels.parquet", SPEC, ["label"])
        answers = read_reviewed(file, current.ids, current.classes)
        corrections.ensure(target)
        found = merge(corrections.read_decisions(target, current.ids, current.classes), answers, current)
        corrections.write(target, found.decisions)
        counts = {key: value for key, value in asdict(found).items() if key != "decisions"}
        if as_json:
            click.echo(json.dumps({"wrote": str(target), **counts, "decisions": len(found.decisions)}))
            return
        said = f"{found.new:,} new, {found.changed:,} changed, {found.unchanged:,} as before"
        click.echo(f"{len(answers):,} answers about {found.images:,} images: {said}")
        click.echo(f"{found.against:,} contradict the current label")
        click.echo(f"wrote {target}: {len(found.decisions):,} decisions; put it into git, then: dvc repro")


def _student(data: Path, root: str) -> np.ndarray:
    from ccd.artifacts import image_index
    from ccd.console import StageLog
    from ccd.review.student import student_probs

    index = image_index.read(data / "images.parquet").train()
    return student_probs(data / "student.pt", root, index, StageLog("review"))


def _write(
    dataset: DatasetParams, evidence: Evidence, chosen: list[Question], kind: Format, out: Path | None, url: str | None
) -> list[Path]:
    from ccd.artifacts.atomic import replacing
    from ccd.export.labelled import read_labelled
    from ccd.export.labels import LOCAL_FILES
    from ccd.review.sheet import to_csv, to_page, to_tasks

    target = out or Path("review") / dataset.name
    ending = ".csv" if kind == "csv" else ".json"
    folder = target.parent if target.suffix == ending else target
    first = target if target.suffix == ending else folder / ("review.csv" if kind == "csv" else "tasks.json")
    if kind == "csv":
        page = to_page(evidence, chosen, dataset.name, Path(dataset.root))
        texts = {first: to_csv(evidence, chosen), first.with_suffix(".html"): page}
    else:
        labels = read_labelled(Path("data") / dataset.name, "train", None)
        tasks = to_tasks(labels, evidence, chosen, LOCAL_FILES if url is None else url)
        texts = {first: tasks["tasks.json"], folder / "labelling_config.xml": tasks["labelling_config.xml"]}
    for path, text in texts.items():
        with replacing(path) as temporary:
            temporary.write_text(text, encoding="utf-8", newline="")
    return list(texts)
