"""Stage evaluate: classifier, teacher and pseudo-labels against the ground truth, which only this stage reads."""

from __future__ import annotations

from pathlib import Path

from ccd.artifacts import checkpoint, class_table, features, image_index, scores, text as text_file
from ccd.artifacts.labels import LABELS
from ccd.artifacts.predictions import PREDICTIONS
from ccd.artifacts.pseudo_labels import PSEUDO_LABELS
from ccd.console import StageLog, shared_stage
from ccd.evaluation import summary
from ccd.labels.scores import clip_probs
from ccd.loading import indexed_files
from ccd.params.base import load
from ccd.params.dataset import DatasetParams
from ccd.params.evaluate import EvaluateParams
from ccd.runtime import hardware
from ccd.student.score import score_checkpoints


@shared_stage
def main(images: Path, labels: Path, clip_global: Path, text: Path, pseudo_labels: Path, warmup: Path, student: Path,
         metrics: Path, per_class: Path, predictions: Path) -> None:  # fmt: skip
    """Measure everything that the pipeline predicts."""
    counted, index, words = load(EvaluateParams).counted(), image_index.read(images), text_file.read(text)
    known, test = class_table.read(labels, LABELS, of=words.classes), index.test()
    made = class_table.read(pseudo_labels, PSEUDO_LABELS, summary.STEPS, of=words.classes)
    first, final, log = checkpoint.read(warmup, "warmup"), checkpoint.read(student, "train"), StageLog("evaluate")
    log.reads(f"{len(test):,} test images", f"{len(known.ids):,} images with known labels")
    looked = features.open_global(clip_global, index.ids, words.attributes).take(index.test_rows)
    said = {"zero_shot": clip_probs(looked, words.values, words.logit_scale)}
    said |= score_checkpoints(first, final, indexed_files(load(DatasetParams).root, test), hardware(), log)
    trained_on = summary.Scores(made.ids, summary.pseudo_tables(made.columns, float(made.metadata["alpha"])))
    tested, truth = summary.Scores(test.ids, said), summary.Truth(known.ids, known.classes, **known.columns)
    found = summary.evaluate(trained_on, tested, truth, checkpoint.thresholds(final)[0], *counted)
    scores.write(metrics, per_class, found.metrics, found.rows)
    table = {"zero_shot_prob": said["zero_shot"], "student_prob": said["student"]}
    class_table.write(predictions, PREDICTIONS, class_table.ClassTable(test.ids, known.classes, table, {}))
    log.wrote((metrics, 2, "splits"), (per_class, len(found.rows), "rows"), (predictions, len(test), "images"))
    log.found(found.headline)


if __name__ == "__main__":
    main()
