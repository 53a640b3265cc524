"""``ccd review export | import``."""

from __future__ import annotations

import json
import shlex
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from ccd.commands.options import force_option, mendable

if TYPE_CHECKING:
    import numpy as np

    from ccd.artifacts.corrections import BadRow
    from ccd.params.dataset import DatasetParams
    from ccd.review.questions import Evidence, Question
    from ccd.review.reviewed import Merged

LEFT_OUT = 3  # exit status
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
@force_option
def export_command(
    count: int, out: Path | None, kind: Format, at_random: bool, seed: int, no_student: bool, image_url: str | None,
    force: bool,
) -> None:  # fmt: skip
    """Write the training images whose labels are most in doubt, for people to decide.

    In doubt are those where whole image, local views and student disagree most about a class; what a person has decided
    is not asked again. csv writes review.csv, whose column 'label' waits for 1 (there), 0 (not there) or nothing, and
    review.html, on which the same is clicked and saved. label-studio writes tasks.json and labelling_config.xml.
    """
    from ccd.artifacts.corrections import ensure, path_of
    from ccd.artifacts.existing import refuse_existing
    from ccd.params.base import load
    from ccd.params.dataset import DatasetParams
    from ccd.review.questions import most_doubtful_images, random_images, read_evidence

    with mendable():
        dataset = load(DatasetParams)
        data = Path("data") / dataset.name
        targets = _targets(dataset, kind, out)
        refuse_existing(targets, force=force)
        ensure(path_of(dataset.name))
        student = None if no_student or not (data / "student.pt").exists() else _student(data, dataset.root)
        evidence = read_evidence(data, path_of(dataset.name), student)
        chosen = random_images(evidence, count, seed) if at_random else most_doubtful_images(evidence, count)
        _write(dataset, evidence, chosen, targets, image_url)
        for path in targets:
            click.echo(f"wrote {path}: {path.stat().st_size / 1e6:.2f} MB")
        asked = sum(len(question.classes) for question in chosen)
        answers = shlex.quote(str(targets[0])) if kind == "csv" else "EXPORT.json"
        click.echo(f"{len(chosen):,} images, {asked:,} questions; when answered, run: ccd review import {answers}")


@review.command("import", short_help="Take what was decided into corrections/.")
@click.argument("file", type=PATH)
@click.option("--json", "as_json", is_flag=True, help="Print the counts as JSON.")
def import_command(file: Path, as_json: bool) -> None:
    """Merge a reviewed FILE (filled CSV, or Label Studio's JSON export) into corrections/<dataset.name>.csv.

    An answer replaces an older one about the same image and class; the older file is kept beside it then. In Label
    Studio a submitted image decides every class: those chosen are there, all others are not. A CSV of `ccd predict`,
    corrected, will do too. Rows that cannot be used are listed and left out.

    \b
    Exit status:
      0  all answers taken
      2  no answer could be used; nothing written
      3  done, but some rows were left out; each is named on stderr
    """
    from ccd.artifacts import class_table, corrections, image_index
    from ccd.artifacts.existing import keep_old
    from ccd.artifacts.pseudo_labels import SPEC
    from ccd.errors import CcdError, listed
    from ccd.params.base import load
    from ccd.params.dataset import DatasetParams
    from ccd.review.reviewed import TrainingImages, merge, read_reviewed

    with mendable():
        dataset = load(DatasetParams)
        target, data = corrections.path_of(dataset.name), Path("data") / dataset.name
        current = class_table.read(data / "pseudo_labels.parquet", SPEC, ["label"])
        index = image_index.read(data / "images.parquet").train()
        images = TrainingImages(index.ids, index.paths, Path(dataset.root))
        answers, bad = read_reviewed(file, images, current.classes)
        if not answers:
            reasons = f": {listed(row.reason for row in bad)}" if bad else "; fill in some and save the file"
            raise CcdError(f"{file}: no answer in it can be used{reasons}")
        corrections.ensure(target)
        found = merge(corrections.read_decisions(target, current.ids, current.classes), answers, current)
        kept = keep_old(target) if found.changed else None
        corrections.write(target, found.decisions)
        _say_imported(found, len(answers), bad, target, kept, as_json)
    if bad:
        raise SystemExit(LEFT_OUT)


def _say_imported(
    found: Merged, answers: int, bad: list[BadRow], target: Path, kept: Path | None, as_json: bool
) -> None:
    from ccd.errors import listed

    for row in bad:
        click.echo(f"left out: {row.reason}", err=True)
    if as_json:
        counts = {**asdict(found), "changed": len(found.changed), "decisions": len(found.decisions)}
        reasons = [row.reason for row in bad]
        click.echo(json.dumps({"wrote": str(target), **counts, "changes": found.changed, "left_out": reasons}))
        return
    said = f"{found.new:,} new, {len(found.changed):,} changed, {found.unchanged:,} as before"
    click.echo(f"{answers:,} answers about {found.images:,} images: {said}")
    if found.changed:
        click.echo(f"changed: {listed(found.changed)}" + (f"; the old file is kept as {kept}" if kept else ""))
    click.echo(f"{found.against:,} contradict the current label")
    click.echo(f"wrote {target}: {len(found.decisions):,} decisions; put it into git")
    click.echo("now run: dvc repro")


@review.command("tidy", short_help="Set corrections aside whose image or class is gone.")
@click.option("--json", "as_json", is_flag=True, help="Print what was set aside as JSON.")
def tidy_command(as_json: bool) -> None:
    """Move rows of corrections/<dataset.name>.csv that cannot be used to corrections/<dataset.name>.set_aside.csv.

    Those are rows about images or classes that the data set has no more, and rows that are wrong. The data set is read
    as `dvc repro index` reads it. Nothing is lost: move a row back by hand once its image or class is there again.
    """
    from ccd.console import StageLog
    from ccd.params.base import load
    from ccd.params.dataset import DatasetParams
    from ccd.params.index import IndexParams
    from ccd.params.runtime import RuntimeParams
    from ccd.review.tidy import current_names, tidy
    from ccd.runtime import worker_count

    with mendable():
        dataset, log = load(DatasetParams), StageLog("review")
        names = current_names(dataset, load(IndexParams), worker_count(load(RuntimeParams).workers), log.progress)
        done = tidy(dataset.name, *names)
        if as_json:
            click.echo(json.dumps({"wrote": str(done.aside), "left": done.left, "set_aside": done.reasons}))
            return
        for reason in done.reasons:
            click.echo(f"set aside: {reason}")
        where = f"; {len(done.reasons):,} rows set aside in {done.aside}" if done.reasons else "; nothing to set aside"
        click.echo(f"{done.left:,} decisions can be used{where}")
        click.echo("now run: dvc repro")


def _student(data: Path, root: str) -> np.ndarray:
    from ccd.artifacts import image_index
    from ccd.console import StageLog
    from ccd.review.student import student_probs

    index = image_index.read(data / "images.parquet").train()
    return student_probs(data / "student.pt", root, index, StageLog("review"))


def _targets(dataset: DatasetParams, kind: Format, out: Path | None) -> list[Path]:
    """The two files that an export writes."""
    target = out or Path("review") / dataset.name
    is_file = target.suffix == (".csv" if kind == "csv" else ".json")
    if kind == "csv":
        sheet = target if is_file else target / "review.csv"
        return [sheet, sheet.with_suffix(".html")]
    tasks = target if is_file else target / "tasks.json"
    return [tasks, tasks.with_name("labelling_config.xml")]


def _write(
    dataset: DatasetParams, evidence: Evidence, chosen: list[Question], targets: list[Path], url: str | None
) -> None:
    from ccd.artifacts.atomic import replacing
    from ccd.export.labelled import read_labelled
    from ccd.export.labels import LOCAL_FILES
    from ccd.review.sheet import to_csv, to_page, to_tasks

    if targets[0].suffix == ".csv":
        page = to_page(evidence, chosen, dataset.name, Path(dataset.root))
        texts = [to_csv(evidence, chosen), page]
    else:
        labels = read_labelled(Path("data") / dataset.name, "train", None)
        tasks = to_tasks(labels, evidence, chosen, LOCAL_FILES if url is None else url)
        texts = [tasks["tasks.json"], tasks["labelling_config.xml"]]
    for path, text in zip(targets, texts, strict=True):
        with replacing(path) as temporary:
            temporary.write_text(text, encoding="utf-8", newline="")
