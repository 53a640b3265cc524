"""Predict for files and write a table, resumable (``ccd predict`` without its command line)."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import IO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ccd.artifacts.files import replacing
from ccd.deploy import outputs, rows
from ccd.deploy.classifier import Classifier
from ccd.deploy.outputs import BOXES
from ccd.deploy.rows import Pieces
from ccd.deploy.stream import Problem, Scored, scored
from ccd.errors import CcdError
from ccd.images.remote import name_of
from ccd.labels.thresholds import decide

IMAGES_PER_PIECE = 512


@dataclass
class Outcome:
    """The result of a run: ``images`` rows in the output, ``resumed`` of them from the interrupted run, and files left
    out because of ``problems``."""

    images: int = 0
    resumed: int = 0
    problems: list[Problem] = field(default_factory=list)


@dataclass(frozen=True)
class Job:
    """The images to label, and how.

    ``cuts``: thresholds (C,); ``cam_folder``: folder for boxes and overlays, None for neither; ``on_batch``: gets the
    number of files done and the problems among them.
    """

    classifier: Classifier
    paths: Sequence[Path]
    cuts: np.ndarray
    batch_size: int
    workers: int
    cam_folder: Path | None = None
    on_batch: Callable[[int, list[Problem]], None] = lambda files, problems: None

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names in the order of the columns."""
        return self.classifier.description.spec.classes

    @cached_property
    def root(self) -> Path:
        """The deepest folder that contains all images."""
        return outputs.common_folder(self.paths)

    def identity(self) -> dict[str, str]:
        """Return the settings that a run and its continuation must share."""
        cam = "" if self.cam_folder is None else str(self.cam_folder)
        return {"model": self.classifier.sha256, "threshold": json.dumps(self.cuts.tolist()), "--cam folder": cam}


def check_stream(kind: rows.Format) -> None:
    """Check that a format can be written to a stream. Raises CcdError for Parquet, which needs a file."""
    if kind == "parquet":
        raise CcdError("Parquet cannot be written to standard output; give --out FILE.parquet")


def to_stream(job: Job, file: IO[str], kind: rows.Format) -> Outcome:
    """Write CSV or JSON Lines to an open stream, batch by batch. Raises CcdError for Parquet, see `check_stream`."""
    check_stream(kind)
    outcome = Outcome()
    writer = rows.TextWriter(file, kind, job.classes)
    boxes = _box_pieces(job, keep=0)
    for batch in _batches(job, job.paths, outcome):
        writer.write(_table(job, batch))
        file.flush()
        if boxes is not None:
            boxes.add(_localize(job, batch))
    _finish_boxes(job, boxes)
    return outcome


def to_file(job: Job, out: Path, kind: rows.Format, *, resume: bool) -> Outcome:
    """Write a file; if interrupted, the run can be continued with ``resume``.

    Raises:
        CcdError: see `Pieces`.
    """
    pieces = Pieces(out, job.identity(), resume=resume)
    done = pieces.done()
    outcome = Outcome(images=len(done), resumed=len(done))
    boxes = _box_pieces(job, keep=pieces.count)
    pending = _Pending()
    for batch in _batches(job, [path for path in job.paths if name_of(path) not in done], outcome):
        pending.add(_table(job, batch), None if boxes is None else _localize(job, batch))
        if pending.images >= IMAGES_PER_PIECE:
            pending.flush(pieces, boxes)
    pending.flush(pieces, boxes)
    _finish_boxes(job, boxes)
    rows.write(out, kind, pieces.tables(), job.classes)
    pieces.remove()
    return outcome


class _Pending:
    """Batches that will be written as one piece."""

    def __init__(self) -> None:
        self.images = 0
        self._rows: list[pa.Table] = []
        self._boxes: list[pa.Table] = []

    def add(self, rows_of_batch: pa.Table, boxes_of_batch: pa.Table | None) -> None:
        self.images += len(rows_of_batch)
        self._rows.append(rows_of_batch)
        if boxes_of_batch is not None:
            self._boxes.append(boxes_of_batch)

    def flush(self, pieces: Pieces, boxes: Pieces | None) -> None:
        """Write the boxes before the rows: images with rows count as done and are not scored again."""
        if self.images:
            if boxes is not None:
                boxes.add(pa.concat_tables(self._boxes))
            pieces.add(pa.concat_tables(self._rows))
        self.images = 0
        self._rows = []
        self._boxes = []


def _batches(job: Job, paths: Sequence[Path], outcome: Outcome) -> Iterator[Scored]:
    for batch in scored(job.classifier, paths, job.batch_size, job.workers):
        outcome.images += len(batch.paths)
        outcome.problems += batch.problems
        yield batch
        job.on_batch(len(batch.paths) + len(batch.problems), batch.problems)


def _table(job: Job, batch: Scored) -> pa.Table:
    return rows.table(batch.paths, batch.probs, job.cuts, job.classes)


def _localize(job: Job, batch: Scored) -> pa.Table:
    """Write the overlays of a batch; return its boxes."""
    assert job.cam_folder is not None
    decided = decide(batch.probs, job.cuts)
    localized = outputs.localize(batch, decided, job.classifier.description.spec.image_size_px)
    outputs.write_overlays(localized, job.classes, job.cam_folder, job.root)
    return outputs.boxes_table(localized, job.classes)


def _box_pieces(job: Job, keep: int) -> Pieces | None:
    """Open the pieces of boxes and keep the first ``keep``; the interrupted run wrote no rows for later ones.

    Raises:
        CcdError: there are fewer than ``keep`` pieces.
    """
    if job.cam_folder is None:
        return None
    boxes = Pieces(job.cam_folder / BOXES, {}, resume=True)
    if boxes.count < keep:
        raise CcdError(f"{boxes.folder} lacks the boxes of finished images; start over with --force")
    boxes.keep(keep)
    return boxes


def _finish_boxes(job: Job, boxes: Pieces | None) -> None:
    if boxes is None or job.cam_folder is None:
        return
    with (
        replacing(job.cam_folder / BOXES) as temporary,
        pq.ParquetWriter(temporary, outputs.BOXES_SCHEMA, compression="zstd") as writer,
    ):
        for piece in boxes.tables():
            writer.write_table(piece)
    boxes.remove()
