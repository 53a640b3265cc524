"""``ccd review export | import | tidy``: let people decide doubtful labels."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ccd.cli.options import force_option, shell_path
from ccd.errors import CcdError, listed, printable, user_errors

if TYPE_CHECKING:
    import numpy as np

    from ccd.review.reviewed import Merged, Reviewed, Tidied
    from ccd.review.sheet import Format

PATH = click.Path(path_type=Path)
LINES_SHOWN = 10
EXIT_LEFT_OUT = 3


@click.group(short_help="Let people decide doubtful labels.")
def review() -> None:
    """Let people decide the labels of the most doubtful training images (docs/corrections.md).

    \b
      ccd review export --top 200
      ccd review import reviewed.csv
      dvc repro

    After images were removed or classes renamed, run ccd review tidy.
    """


@review.command("export", short_help="Write the most doubtful images for review.")
@click.option("--top", "count", type=click.IntRange(1), default=200, show_default=True, help="Number of images.")
@click.option("--out", type=PATH, metavar="DIR|FILE", help="Default: the folder review/<dataset.name>.")
@click.option(
    "--format",
    "kind",
    type=click.Choice(["csv", "label-studio"]),
    default="csv",
    show_default=True,
    help="csv: a spreadsheet, and a page with the photos. label-studio: tasks with our labels filled in.",
)
@click.option("--random", "at_random", is_flag=True, help="Draw images at random instead of the most doubtful.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Seed of --random.")
@click.option("--no-student", is_flag=True, help="Leave out the student, which has to read every training image.")
@force_option
@click.option(
    "--image-url", metavar="PREFIX", help="label-studio: put this before each path; default: /data/local-files/?d="
)
def export_command(
    count: int,
    out: Path | None,
    kind: Format,
    at_random: bool,
    seed: int,
    no_student: bool,
    force: bool,
    image_url: str | None,
) -> None:
    """Write the training images with the most doubtful labels for people to decide.

    A label is doubtful if the whole image, its views (crops that CLIP read by themselves) and the student disagree
    about a class. Labels that a person has decided are not asked about again.

    csv writes review.csv, whose column 'label' is to be filled with 1 (there), 0 (not there) or left empty, and
    review.html, a page with the photos on which answers are clicked and saved. label-studio writes tasks.json and
    labelling_config.xml. Existing files may hold answers: they are replaced only with --force.
    """
    from ccd.artifacts.corrections_file import ensure, path_of
    from ccd.artifacts.existing import refuse_existing
    from ccd.artifacts.files import write_text
    from ccd.deploy.label_export import LOCAL_FILES
    from ccd.params.file import load
    from ccd.params.sections import DatasetParams
    from ccd.review.questions import most_doubtful_images, random_images, read_evidence
    from ccd.review.sheet import export_paths, export_texts

    with user_errors():
        dataset = load(DatasetParams)
        data = Path("data") / dataset.name
        targets = export_paths(dataset.name, kind, out)
        refuse_existing(targets, force=force)
        ensure(path_of(dataset.name))
        probs = None if no_student or not (data / "student.pt").exists() else _student_probs(data, dataset.root)
        evidence = read_evidence(data, path_of(dataset.name), probs, Path(dataset.root))
        questions = random_images(evidence, count, seed) if at_random else most_doubtful_images(evidence, count)
        url = LOCAL_FILES if image_url is None else image_url
        texts = export_texts(evidence, questions, kind, dataset.name, Path(dataset.root), url)
        for path, text in zip(targets, texts, strict=True):
            write_text(path, text)
            click.echo(f"wrote {path}: {path.stat().st_size / 1e6:.2f} MB")
        class_count = sum(len(question.classes) for question in questions)
        click.echo(f"{len(questions):,} images, {class_count:,} questions")
        click.echo(f"when answered: ccd review import {_import_argument(targets[0], kind)}")


def _import_argument(first: Path, kind: Format) -> str:
    """Return the file for `ccd review import` after the exported ``first`` file was answered, and a hint."""
    if kind == "csv":
        return f"{shell_path(first)}  (or the reviewed.csv that the page saves)"
    return "FILE.json  (Label Studio: Export, JSON)"


@review.command("import", short_help="Merge a reviewed file into corrections/.")
@click.argument("file", type=PATH)
@click.option("--json", "as_json", is_flag=True, help="Print the counts, changes and rows left out as JSON.")
def import_command(file: Path, as_json: bool) -> None:
    """Merge a reviewed FILE into corrections/<dataset.name>.csv.

    FILE is a filled sheet (.csv, .tsv or .txt) or a JSON export of Label Studio. A sheet has a row per image and class,
    or, as `ccd predict` writes it, a row per image with all its classes. In Label Studio's export, a submitted image
    decides every class: the chosen ones are there, all others are not.

    An answer replaces an older one about the same image and class. The changes are printed, and the old file is kept as
    corrections/<dataset.name>.csv.bak. Rows that cannot be used are listed and left out.

    \b
    Exit status:
      0    all answers merged
      2    invalid input, or no usable answer; nothing written
      3    done, but some rows were left out; each is named
    """
    from ccd.artifacts import class_table, corrections_file
    from ccd.artifacts.class_table import PSEUDO_LABELS
    from ccd.artifacts.existing import keep_old
    from ccd.params.file import load
    from ccd.params.sections import DatasetParams
    from ccd.review.answer_book import locked
    from ccd.review.reviewed import merge

    with user_errors():
        dataset = load(DatasetParams)
        target = corrections_file.path_of(dataset.name)
        data = Path("data") / dataset.name
        current = class_table.read(data / "pseudo_labels.parquet", PSEUDO_LABELS, ["label"])
        reviewed = _reviewed(file, data, Path(dataset.root), current.ids, current.classes)
        with locked(target):  # `ccd open` may be writing to it
            corrections_file.ensure(target)
            before = corrections_file.read_decisions(target, current.ids, current.classes, Path(dataset.root))
            merged = merge(before, reviewed.decisions, current)
            backup = keep_old(target) if merged.changes else None
            corrections_file.write(target, merged.decisions)
        if as_json:
            click.echo(json.dumps(_imported_content(reviewed, merged, target, backup)))
        else:
            click.echo("\n".join(map(printable, _imported_lines(reviewed, merged, target, backup))))
        for left_out in reviewed.left_out:
            click.echo(printable(f"left out: {file}, {left_out}"), err=True)
    if reviewed.left_out:
        raise SystemExit(EXIT_LEFT_OUT)


def _reviewed(file: Path, data: Path, root: Path, ids: Sequence[str], classes: Sequence[str]) -> Reviewed:
    from ccd.artifacts import image_index
    from ccd.artifacts.image_keys import ImageKeys
    from ccd.review.reviewed import read_reviewed

    index = image_index.read(data / "images.parquet")
    path_of = dict(zip(index.ids, index.paths, strict=True))
    training = ImageKeys(ids, root, [path_of.get(image_id, image_id) for image_id in ids])
    reviewed = read_reviewed(file, training, classes, ImageKeys(index.ids, root, index.paths))
    if not reviewed.decisions:
        left_out = reviewed.left_out
        advice = f": {listed(left_out)}; correct them" if left_out else "; fill in some and save the file"
        raise CcdError(f"{file}: no answer in it can be used{advice}")
    return reviewed


def _first_lines(items: Sequence[object]) -> list[str]:
    """Return the first `LINES_SHOWN` items as indented lines, and a line with the number of the others."""
    lines = [f"  {item}" for item in items[:LINES_SHOWN]]
    more = len(items) - len(lines)
    return [*lines, f"  and {more:,} more"] if more else lines


def _imported_lines(reviewed: Reviewed, merged: Merged, target: Path, backup: Path | None) -> list[str]:
    counts = f"{merged.new:,} new, {len(merged.changes):,} changed, {merged.unchanged:,} as before"
    lines = [f"{len(reviewed.decisions):,} answers about {merged.images:,} images: {counts}"]
    lines += _first_lines(
        [f"changed: {each.image_id}, {each.name}: {each.before} -> {each.after}" for each in merged.changes]
    )
    lines.append(f"{merged.against:,} contradict the current label")
    if reviewed.left_out:
        lines.append(f"{len(reviewed.left_out):,} rows cannot be used and were left out")
    if backup:
        lines.append(f"kept the old file as {backup}")
    return [*lines, f"wrote {target}: {len(merged.decisions):,} decisions; add it to git, then run: dvc repro"]


def _imported_content(reviewed: Reviewed, merged: Merged, target: Path, backup: Path | None) -> dict[str, object]:
    return {
        "wrote": str(target),
        "images": merged.images,
        "new": merged.new,
        "changed": len(merged.changes),
        "unchanged": merged.unchanged,
        "against": merged.against,
        "decisions": len(merged.decisions),
        "changes": [
            {"image_id": each.image_id, "class": each.name, "before": each.before, "after": each.after}
            for each in merged.changes
        ],
        "kept": None if backup is None else str(backup),
        "left_out": [{"where": each.answer.where, "reason": each.reason} for each in reviewed.left_out],
    }


@review.command("tidy", short_help="Set aside corrections that no longer fit.")
@click.option("--json", "as_json", is_flag=True, help="Print the moved rows as JSON.")
def tidy_command(as_json: bool) -> None:
    """Move rows that cannot be used from corrections/<dataset.name>.csv to <dataset.name>.set_aside.csv beside it.

    Such rows are malformed, contradict each other, or name a class or a training image that does not exist (any more)
    or cannot be read. To find out, every image is read once, as in stage index.

    Nothing is lost: the old corrections are kept as .csv.bak, and `ccd review import
    corrections/<dataset.name>.set_aside.csv` takes back the rows that fit again.
    """
    from ccd.artifacts import corrections_file
    from ccd.artifacts.image_keys import ImageKeys
    from ccd.params.file import load
    from ccd.params.sections import DatasetParams, IndexParams, RuntimeParams
    from ccd.review.answer_book import locked
    from ccd.review.reviewed import set_aside_path, tidy, train_ids_and_classes
    from ccd.runtime.console import StageLog
    from ccd.runtime.hardware import worker_count

    with user_errors():
        params = load(IndexParams)
        workers = worker_count(load(RuntimeParams).workers)
        dataset = load(DatasetParams, as_written=params.adapter == "demo")  # as stage index does
        target = corrections_file.path_of(dataset.name)
        root = Path(dataset.root)
        corrections_file.ensure(target)
        ids, classes = train_ids_and_classes(params, root, workers, StageLog("review"))
        with locked(target):  # `ccd open` may be writing to it
            tidied = tidy(target, ImageKeys(ids, root), classes)
        aside = set_aside_path(target)
        click.echo(
            json.dumps(_tidied_content(tidied, aside)) if as_json else "\n".join(_tidied_lines(tidied, target, aside))
        )


def _tidied_lines(tidied: Tidied, target: Path, aside: Path) -> list[str]:
    if not tidied.moved:
        return [f"{target}: all {tidied.kept:,} decisions fit; nothing to do; now run: dvc repro"]
    return [
        f"moved {len(tidied.moved):,} rows into {aside}:",
        *_first_lines(tidied.moved),
        f"kept the old file as {tidied.backup}",
        f"when they fit again: ccd review import {shell_path(aside)}",
        f"wrote {target}: {tidied.kept:,} decisions; now run: dvc repro",
    ]


def _tidied_content(tidied: Tidied, aside: Path) -> dict[str, object]:
    moved = [{"where": each.answer.where, "reason": each.reason} for each in tidied.moved]
    return {
        "decisions": tidied.kept,
        "moved": moved,
        "set_aside": str(aside) if moved else None,
        "kept": None if tidied.backup is None else str(tidied.backup),
    }


def _student_probs(data: Path, root: str) -> np.ndarray:
    from ccd.artifacts import image_index
    from ccd.images.batches import indexed_files
    from ccd.review.questions import student_probs
    from ccd.runtime.console import StageLog
    from ccd.runtime.hardware import set_up_hardware

    files = indexed_files(root, image_index.read(data / "images.parquet").train())
    return student_probs(data / "student.pt", files, set_up_hardware(), StageLog("review").images)
