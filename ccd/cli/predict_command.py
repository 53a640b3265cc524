"""``ccd predict``: label images with a trained model."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click

from ccd.cli.options import device_option, force_option
from ccd.errors import CcdError, user_errors

if TYPE_CHECKING:
    from tqdm import tqdm

    from ccd.deploy.outputs import Outputs
    from ccd.deploy.predict_run import Job, Outcome
    from ccd.deploy.rows import Format
    from ccd.deploy.stream import Inputs, Problem

EXIT_SKIPPED = 3


@click.command(short_help="Label images with a trained model.")
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("inputs", nargs=-1, required=True, metavar="INPUT...")
@click.option("--out", type=click.Path(path_type=Path), help="FILE.csv, .jsonl or .parquet; default: CSV to stdout.")
@click.option("--format", "kind", type=click.Choice(["csv", "jsonl", "parquet"]), help="Default: by the name of --out.")
@click.option("--threshold", type=click.FloatRange(0, 1), help="One for all classes; default: the model's own.")
@click.option("--cam", type=click.Path(path_type=Path), metavar="DIR", help="Write overlays and boxes.parquet to DIR.")
@click.option("--resume", is_flag=True, help="Continue an interrupted run; finished images are not labelled again.")
@force_option
@device_option
@click.option("--batch-size", default=32, show_default=True, type=click.IntRange(1), help="Images at a time.")
@click.option("--workers", type=click.IntRange(0), help="Processes that decode images; default: one per core.")
@click.option("--json", "as_json", is_flag=True, help="Print a summary as JSON to stdout; needs --out.")
def predict(
    model: Path,
    inputs: tuple[str, ...],
    out: Path | None,
    kind: Format | None,
    threshold: float | None,
    cam: Path | None,
    resume: bool,
    force: bool,
    device: str,
    batch_size: int,
    workers: int | None,
    as_json: bool,
) -> None:
    """Label images with a trained MODEL: write the probability of every class and the classes decided present.

    MODEL is a checkpoint (data/NAME/student.pt), a folder from `ccd export model`, or an .onnx file. INPUT is an image,
    a folder (read with all its subfolders), a quoted pattern, or - for a list of files on stdin. CLIP and params.yaml
    are not needed; data/NAME/head.h5 is a MODEL that needs its CLIP, and has no maps for --cam. Existing files at --out
    and in --cam are replaced only with --force.

    \b
    Examples:
      ccd predict data/demo/student.pt photos/ --out labels.csv
      ccd predict model/ 'photos/**/*.jpg' --out labels.parquet --resume
      find photos -name '*.jpg' | ccd predict student.onnx - --format jsonl
      ccd predict data/demo/student.pt a.jpg --cam seen/ --threshold 0.5

    \b
    Exit status:
      0    all images labelled
      2    invalid input; nothing written
      3    done, but files that could not be read were skipped; each is named on stderr
      130  interrupted; continue with --resume
    """
    from ccd.artifacts.files import is_stream
    from ccd.deploy.outputs import Outputs, check_names

    with user_errors():
        if out is None and (resume or as_json):
            raise CcdError("--resume and --json need --out FILE")
        if as_json and out is not None and is_stream(out):
            raise CcdError(f"--json needs --out FILE, and {out} is no regular file")
        outputs = Outputs(out, cam, resume, force)
        check_names(outputs)
        if outputs.is_complete:
            click.echo(f"{out} is complete; to predict again, give --force instead of --resume", err=True)
            if as_json:
                click.echo(json.dumps({"out": str(out), "complete": True}))
            return
        table_format = _table_format(out, kind)
        images = _find_images(outputs, model, inputs)
        settings = _Settings(threshold, cam, device, batch_size, workers)
        outcome = _run(_prepare(model, images, settings), outputs, table_format)
        _print_summary(outcome, images.left_out, out, as_json)
    if outcome.problems:
        raise SystemExit(EXIT_SKIPPED)


@dataclass(frozen=True)
class _Settings:
    """Options of the command that are stated per run, not per file; None stands for the default."""

    threshold: float | None
    cam_folder: Path | None
    device: str
    batch_size: int
    workers: int | None


def _table_format(out: Path | None, kind: Format | None) -> Format:
    from ccd.artifacts.files import is_stream
    from ccd.deploy.predict_run import check_stream
    from ccd.deploy.rows import format_of

    if out is not None and not is_stream(out):
        return kind or format_of(out)
    check_stream(kind or "csv")
    return kind or "csv"


def _find_images(outputs: Outputs, model: Path, inputs: tuple[str, ...]) -> Inputs:
    from ccd.deploy.outputs import check_against_inputs
    from ccd.deploy.stream import expand

    images = expand(inputs, map(os.fsdecode, sys.stdin.buffer))
    for note in check_against_inputs(outputs, model, inputs, images.paths):
        click.echo(f"note: {note}", err=True)
    return images


def _prepare(model: Path, images: Inputs, settings: _Settings) -> Job:
    import numpy as np

    from ccd.deploy.classifier import HeadSpec
    from ccd.deploy.load import open_model
    from ccd.deploy.predict_run import Job
    from ccd.runtime.hardware import worker_count

    classifier = open_model(model, settings.device)
    if settings.cam_folder is not None and isinstance(classifier.description.spec, HeadSpec):
        raise CcdError(f"--cam: {model} is a head on CLIP's features, without class activation maps; leave --cam out")
    own = classifier.description.cuts
    cuts = own if settings.threshold is None else np.full(len(own), settings.threshold)
    workers = settings.workers
    if workers is None:
        batches = -(-len(images.paths) // settings.batch_size)
        workers = min(worker_count(None), batches - 1)  # this process decodes a batch too
    return Job(classifier, images.paths, cuts, settings.batch_size, workers, settings.cam_folder)


def _run(job: Job, outputs: Outputs, kind: Format) -> Outcome:
    import dataclasses

    from ccd.artifacts.files import is_stream
    from ccd.deploy.outputs import keep_finished, start_over
    from ccd.deploy.predict_run import to_file, to_stream
    from ccd.runtime.console import StageLog

    with StageLog("predict").bar(len(job.paths), "img") as bar:
        job_with_bar = dataclasses.replace(job, on_batch=_reporter(bar))
        out = outputs.table
        start_over(outputs)
        if out is None:
            return to_stream(job_with_bar, sys.stdout, kind)
        if is_stream(out):
            with out.open("a", encoding="utf-8", newline="") as file:
                return to_stream(job_with_bar, file, kind)
        backup = keep_finished(outputs)
        if backup is not None:
            click.echo(f"note: {out} already existed; kept as {backup}", err=True)
        return to_file(job_with_bar, out, kind, resume=outputs.resume)


def _reporter(bar: tqdm[NoReturn]) -> Callable[[int, list[Problem]], None]:
    def report(files: int, problems: list[Problem]) -> None:
        for problem in problems:
            line = f"skipped: {problem.reason}"
            if sys.stderr.isatty():
                bar.write(line, file=sys.stderr)
            else:
                click.echo(line, err=True)
        bar.update(files)

    return report


def _print_summary(outcome: Outcome, left_out: Mapping[str, int], out: Path | None, as_json: bool) -> None:
    from ccd.datasets.image_search import left_out_line

    skipped = len(outcome.problems)
    if as_json:
        files = [{"path": problem.path.as_posix(), "reason": problem.reason} for problem in outcome.problems]
        counts = {"images": outcome.images, "resumed": outcome.resumed}
        summary = {"out": str(out), **counts, "skipped": files, "left_out": dict(left_out)}
        click.echo(json.dumps(summary))  # ASCII, since file names need not be UTF-8
    resumed = f" ({outcome.resumed:,} of them from the interrupted run)" if outcome.resumed else ""
    wrote = f"wrote {out}: " if out else ""
    click.echo(f"{wrote}{outcome.images:,} images{resumed}, skipped {skipped:,}", err=True)
    if left_out:
        click.echo(left_out_line(left_out), err=True)
