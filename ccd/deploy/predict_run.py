"""``ccd predict`` without its command line: files in, a table out, resumable."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
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
from ccd.labels.thresholds import decide

IMAGES_PER_PIECE = 512


@dataclass
class Outcome:
    """What a run did: ``images`` rows in the output, of which ``resumed`` were there before, and files left out."""

    images: int = 0
    resumed: int = 0
    problems: list[Problem] = field(default_factory=list)


@dataclass(frozen=True)
class Job:
    """``paths`` to label; ``cuts`` (C,) thresholds; ``cam_folder``: where boxes and overlays go, None for neither;
    ``on_batch`` is called with the number of files done and the problems among them; ``left_out``: what lies beside the
    images, by ending."""

    classifier: Classifier
    paths: Sequence[Path]
    cuts: np.ndarray
    batch_size: int
    workers: int
    cam_folder: Path | None = None
    on_batch: Callable[[int, list[Problem]], None] = lambda files, problems: None
    left_out: Mapping[str, int] = field(default_factory=dict)

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names in the order of the columns."""
        return self.classifier.description.spec.classes

    @cached_property
    def root(self) -> Path:
        """The folder that all images lie in."""
        return outputs.common_folder(self.paths)

    def identity(self) -> dict[str, str]:
        """What must not change between a run and its continuation."""
        cam = "" if self.cam_folder is None else str(self.cam_folder)
        return {"model": self.classifier.sha256, "threshold": json.dumps(self.cuts.tolist()), "--cam folder": cam}


def check_stream(kind: rows.Format) -> None:
    """Raises CcdError for Parquet, which needs a file."""
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
            boxes.add(_look(job, batch))
    _finish_boxes(job, boxes)
    return outcome


def to_file(job: Job, out: Path, kind: rows.Format, *, resume: bool) -> Outcome:
    """Write a whole file; interrupted, it can be continued.

    Raises:
        CcdError: see `Pieces`.
    """
    pieces = Pieces(out, job.identity(), resume=resume)
    done = pieces.done()
    outcome = Outcome(images=len(done), resumed=len(done))
    boxes = _box_pieces(job, keep=pieces.count)
    waiting = _Waiting()
    for batch in _batches(job, [path for path in job.paths if path.as_posix() not in done], outcome):
        waiting.add(_table(job, batch), None if boxes is None else _look(job, batch))
        if waiting.images >= IMAGES_PER_PIECE:
            waiting.flush(pieces, boxes)
    waiting.flush(pieces, boxes)
    _finish_boxes(job, boxes)
    rows.write(out, kind, pieces.tables(), job.classes)
    pieces.remove()
    return outcome


class _Waiting:
    """Batches on their way into one piece."""

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
        """Boxes first: rows that are kept are done, with all that belongs to them."""
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


def _look(job: Job, batch: Scored) -> pa.Table:
    """Write the overlays of a batch; returns its boxes."""
    assert job.cam_folder is not None
    seen = outputs.see(batch, decide(batch.probs, job.cuts), job.classifier.description.spec.image_size_px)
    outputs.write_overlays(seen, job.classes, job.cam_folder, job.root)
    return outputs.boxes_table(seen, job.classes)


def _box_pieces(job: Job, keep: int) -> Pieces | None:
    """The boxes of the first ``keep`` pieces of rows; any others are of rows that were never kept.

    Raises:
        CcdError: boxes of rows that were kept are gone.
    """
    if job.cam_folder is None:
        return None
    boxes = Pieces(job.cam_folder / BOXES, {}, resume=True)
    if boxes.count < keep:
        raise CcdError(f"{boxes.folder} lacks boxes of images that are done; start over with --force")
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
