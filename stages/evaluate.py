"""Stage evaluate: classifier, teacher and pseudo-labels against the ground truth, which only this stage reads."""

from __future__ import annotations

from pathlib import Path

from ccd.artifacts import (
    checkpoint_file,
    class_table,
    features_file,
    image_index,
    metrics_file,
    text_file,
)
from ccd.artifacts.class_table import LABELS, PREDICTIONS, PSEUDO_LABELS
from ccd.evaluation import summary
from ccd.images.batches import indexed_files
from ccd.labels.scores import clip_probs
from ccd.params.file import load
from ccd.params.sections import DatasetParams, EvaluateParams
from ccd.runtime.console import StageLog
from ccd.runtime.hardware import hardware
from ccd.runtime.launch import shared_stage
from ccd.student.inference import score_checkpoints


@shared_stage
def main(
    images: Path,
    labels: Path,
    clip_global: Path,
    text: Path,
    pseudo_labels: Path,
    warmup: Path,
    student: Path,
    metrics: Path,
    per_class: Path,
    predictions: Path,
) -> None:
    """Measure everything that the pipeline predicts."""
    counted = load(EvaluateParams).counted()
    index = image_index.read(images)
    words = text_file.read(text)
    known = class_table.read(labels, LABELS, of=words.classes)
    test = index.test()
    made = class_table.read(pseudo_labels, PSEUDO_LABELS, summary.STEPS, of=words.classes)
    first = checkpoint_file.read(warmup, "warmup")
    final = checkpoint_file.read(student, "train")
    log = StageLog("evaluate")
    log.reads(f"{len(test):,} test images", f"{len(known.ids):,} images with known labels")
    looked = features_file.open_global(clip_global, index.ids, words.attributes).take(index.test_rows)
    said = {"zero_shot": clip_probs(looked, words.values, words.logit_scale)}
    said |= score_checkpoints(first, final, indexed_files(load(DatasetParams).root, test), hardware(), log)
    trained_on = summary.Scores(made.ids, summary.pseudo_tables(made.columns, float(made.metadata["alpha"])))
    tested = summary.Scores(test.ids, said)
    truth = summary.Truth(known.ids, known.classes, **known.columns)
    found = summary.evaluate(trained_on, tested, truth, checkpoint_file.thresholds(final)[0], *counted)
    metrics_file.write(metrics, per_class, found.metrics, found.rows)
    table = {"zero_shot_prob": said["zero_shot"], "student_prob": said["student"]}
    class_table.write(predictions, PREDICTIONS, class_table.ClassTable(test.ids, known.classes, table, {}))
    log.wrote((metrics, 2, "splits"), (per_class, len(found.rows), "rows"), (predictions, len(test), "images"))
    log.found(found.headline)


if __name__ == "__main__":
    main()
