"""``ccd review export | import | tidy``."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from ccd.cli.options import force_option, mendable

if TYPE_CHECKING:
    import numpy as np

    from ccd.params.sections import DatasetParams
    from ccd.review.questions import Evidence, Question
    from ccd.review.reviewed import Merged, Reviewed, Tidied

PATH = click.Path(path_type=Path)
Format = Literal["csv", "label-studio"]
SHOWN = 10
LEFT_OUT = 3  # exit status


@click.group(short_help="Let people decide doubtful labels.")
def review() -> None:
    """Let people decide the most doubtful training images, and take their word into the labels (docs/corrections.md).

    \b
      ccd review export --top 200
      ccd review import reviewed.csv
      dvc repro

    If images went or classes have other names: ccd review tidy.
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
@force_option
@click.option("--image-url", metavar="PREFIX", help="label-studio: before each path; default: /data/local-files/?d=")
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
    """Write the training images whose labels are most in doubt, for people to decide.

    In doubt are those where whole image, local views and student disagree most about a class; what a person has decided
    is not asked again. csv writes review.csv, whose column 'label' waits for 1 (there), 0 (not there) or nothing, and
    review.html, on which the same is clicked and saved. label-studio writes tasks.json and labelling_config.xml.
    Files that are there already may hold somebody's answers: they are replaced with --force alone.
    """
    from ccd.artifacts.corrections_file import ensure, path_of
    from ccd.artifacts.existing import refuse_existing
    from ccd.params.file import load
    from ccd.params.sections import DatasetParams
    from ccd.review.questions import most_doubtful_images, random_images, read_evidence

    with mendable():
        dataset = load(DatasetParams)
        data = Path("data") / dataset.name
        targets = _targets(dataset.name, kind, out)
        refuse_existing(targets, force=force)
        ensure(path_of(dataset.name))
        student = None if no_student or not (data / "student.pt").exists() else _student(data, dataset.root)
        evidence = read_evidence(data, path_of(dataset.name), student, Path(dataset.root))
        chosen = random_images(evidence, count, seed) if at_random else most_doubtful_images(evidence, count)
        _write(dataset, evidence, chosen, kind, targets, image_url)
        for path in targets:
            click.echo(f"wrote {path}: {path.stat().st_size / 1e6:.2f} MB")
        asked = sum(len(question.classes) for question in chosen)
        click.echo(f"{len(chosen):,} images, {asked:,} questions")
        click.echo(f"when answered: ccd review import {_answered(targets[0], kind)}")


def _answered(first: Path, kind: Format) -> str:
    """What to give to `ccd review import` after filling in what was written."""
    if kind == "csv":
        return f"{shlex.quote(str(first))}  (or the reviewed.csv that the page saves)"
    return "FILE.json  (Label Studio: Export, JSON)"


@review.command("import", short_help="Take what was decided into corrections/.")
@click.argument("file", type=PATH)
@click.option("--json", "as_json", is_flag=True, help="Print the counts, changes and rows left out as JSON.")
def import_command(file: Path, as_json: bool) -> None:
    """Merge a reviewed FILE into corrections/<dataset.name>.csv.

    FILE is a filled sheet (.csv, .tsv, .txt: a row per image and class, or a row per image with all its classes, as
    `ccd predict` writes it) or Label Studio's JSON export, in which a submitted image decides every class: those chosen
    are there, all others are not. An answer replaces an older one about the same image and class; what changes is
    named, and the file as it was is kept as corrections/<dataset.name>.csv.bak. Rows that cannot be used are listed and
    left out.

    \b
    Exit status:
      0    all answers taken
      2    a mistake, or no answer that can be used; nothing written
      3    done, but some rows were left out; each is named
    """
    from ccd.artifacts import class_table, corrections_file
    from ccd.artifacts.class_table import PSEUDO_LABELS
    from ccd.artifacts.existing import keep_old
    from ccd.errors import printable
    from ccd.params.file import load
    from ccd.params.sections import DatasetParams
    from ccd.review.reviewed import merge

    with mendable():
        dataset = load(DatasetParams)
        target = corrections_file.path_of(dataset.name)
        data = Path("data") / dataset.name
        current = class_table.read(data / "pseudo_labels.parquet", PSEUDO_LABELS, ["label"])
        found = _reviewed(file, data, Path(dataset.root), current.ids, current.classes)
        corrections_file.ensure(target)
        before = corrections_file.read_decisions(target, current.ids, current.classes, Path(dataset.root))
        merged = merge(before, found.decisions, current)
        kept = keep_old(target) if merged.changes else None
        corrections_file.write(target, merged.decisions)
        if as_json:
            click.echo(json.dumps(_imported_content(found, merged, target, kept)))
        else:
            click.echo("\n".join(map(printable, _imported_lines(found, merged, target, kept))))
        for each in found.left_out:
            click.echo(printable(f"left out: {file}, {each}"), err=True)
    if found.left_out:
        raise SystemExit(LEFT_OUT)


def _reviewed(file: Path, data: Path, root: Path, ids: Sequence[str], classes: Sequence[str]) -> Reviewed:
    from ccd.artifacts import image_index
    from ccd.artifacts.image_keys import ImageKeys
    from ccd.errors import CcdError, listed
    from ccd.review.reviewed import read_reviewed

    index = image_index.read(data / "images.parquet")
    path_of = dict(zip(index.ids, index.paths, strict=True))
    training = ImageKeys(ids, root, [path_of.get(each, each) for each in ids])
    found = read_reviewed(file, training, classes, ImageKeys(index.ids, root, index.paths))
    if not found.decisions:
        reasons = f": {listed(found.left_out)}; correct them" if found.left_out else "; fill in some and save the file"
        raise CcdError(f"{file}: no answer in it can be used{reasons}")
    return found


def _imported_lines(found: Reviewed, merged: Merged, target: Path, kept: Path | None) -> list[str]:
    counts = f"{merged.new:,} new, {len(merged.changes):,} changed, {merged.unchanged:,} as before"
    lines = [f"{len(found.decisions):,} answers about {merged.images:,} images: {counts}"]
    lines += [
        f"  changed: {each.image_id}, {each.name}: {each.before} -> {each.after}" for each in merged.changes[:SHOWN]
    ]
    if len(merged.changes) > SHOWN:
        lines.append(f"  and {len(merged.changes) - SHOWN:,} more")
    lines.append(f"{merged.against:,} contradict the current label")
    if found.left_out:
        lines.append(f"{len(found.left_out):,} rows cannot be used and were left out")
    if kept:
        lines.append(f"kept the file as it was: {kept}")
    return [*lines, f"wrote {target}: {len(merged.decisions):,} decisions; put it into git, then: dvc repro"]


def _imported_content(found: Reviewed, merged: Merged, target: Path, kept: Path | None) -> dict[str, object]:
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
        "kept": None if kept is None else str(kept),
        "left_out": [{"where": each.answer.where, "reason": each.reason} for each in found.left_out],
    }


@review.command("tidy", short_help="Set corrections aside that no longer fit.")
@click.option("--json", "as_json", is_flag=True, help="Print what was moved as JSON.")
def tidy_command(as_json: bool) -> None:
    """Move rows out of corrections/<dataset.name>.csv that cannot be used (any more) into <dataset.name>.set_aside.csv
    beside it: their image went or cannot be read, their class has another name, they are malformed, or contradict each
    other.

    Images and classes are read as stage index reads them, every image once. Nothing is lost: the corrections as they
    were stay as .csv.bak, and `ccd review import corrections/<dataset.name>.set_aside.csv` takes back what fits again.
    """
    from ccd.artifacts import corrections_file
    from ccd.artifacts.image_keys import ImageKeys
    from ccd.params.file import load
    from ccd.params.sections import DatasetParams, IndexParams, RuntimeParams
    from ccd.review.reviewed import set_aside_of, tidy, train_images_and_classes
    from ccd.runtime.console import StageLog
    from ccd.runtime.hardware import worker_count

    with mendable():
        params = load(IndexParams)
        workers = worker_count(load(RuntimeParams).workers)
        dataset = load(DatasetParams, as_written=params.adapter == "demo")  # as stage index does
        target = corrections_file.path_of(dataset.name)
        root = Path(dataset.root)
        corrections_file.ensure(target)
        ids, classes = train_images_and_classes(params, root, workers, StageLog("review"))
        done = tidy(target, ImageKeys(ids, root), classes)
        aside = set_aside_of(target)
        click.echo(
            json.dumps(_tidied_content(done, aside)) if as_json else "\n".join(_tidied_lines(done, target, aside))
        )


def _tidied_lines(done: Tidied, target: Path, aside: Path) -> list[str]:
    if not done.moved:
        return [f"{target}: all {done.kept:,} decisions fit; nothing to do, go on with: dvc repro"]
    lines = [f"moved {len(done.moved):,} rows into {aside}:", *(f"  {each}" for each in done.moved[:SHOWN])]
    if len(done.moved) > SHOWN:
        lines.append(f"  and {len(done.moved) - SHOWN:,} more")
    return [
        *lines,
        f"kept the file as it was: {done.old}",
        f"when they fit again: ccd review import {shlex.quote(str(aside))}",
        f"wrote {target}: {done.kept:,} decisions; go on with: dvc repro",
    ]


def _tidied_content(done: Tidied, aside: Path) -> dict[str, object]:
    moved = [{"where": each.answer.where, "reason": each.reason} for each in done.moved]
    return {
        "decisions": done.kept,
        "moved": moved,
        "set_aside": str(aside) if moved else None,
        "kept": None if done.old is None else str(done.old),
    }


def _student(data: Path, root: str) -> np.ndarray:
    from ccd.artifacts import image_index
    from ccd.images.batches import indexed_files
    from ccd.review.questions import student_probs
    from ccd.runtime.console import StageLog
    from ccd.runtime.hardware import set_up_hardware

    files = indexed_files(root, image_index.read(data / "images.parquet").train())
    return student_probs(data / "student.pt", files, set_up_hardware(), StageLog("review").images)


def _targets(name: str, kind: Format, out: Path | None) -> list[Path]:
    """The two files that an export writes, the one to fill in first."""
    target = out or Path("review") / name
    ending = ".csv" if kind == "csv" else ".json"
    folder = target.parent if target.suffix == ending else target
    first = target if target.suffix == ending else folder / ("review.csv" if kind == "csv" else "tasks.json")
    return [first, first.with_suffix(".html") if kind == "csv" else folder / "labelling_config.xml"]


def _write(
    dataset: DatasetParams,
    evidence: Evidence,
    chosen: list[Question],
    kind: Format,
    targets: list[Path],
    url: str | None,
) -> None:
    from ccd.artifacts.files import write_text
    from ccd.deploy.label_export import LOCAL_FILES
    from ccd.deploy.labelled import read_labelled
    from ccd.review.sheet import to_csv, to_page, to_tasks

    if kind == "csv":
        texts = [to_csv(evidence, chosen), to_page(evidence, chosen, dataset.name, Path(dataset.root))]
    else:
        labels = read_labelled(Path("data") / dataset.name, "train", None)
        tasks = to_tasks(labels, evidence, chosen, LOCAL_FILES if url is None else url)
        texts = [tasks["tasks.json"], tasks["labelling_config.xml"]]
    for path, text in zip(targets, texts, strict=True):
        write_text(path, text)
