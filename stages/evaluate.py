"""Stage evaluate: classifier, teacher and pseudo-labels against the ground truth, which only this stage reads."""

from __future__ import annotations

from pathlib import Path

from ccd.artifacts import checkpoint_file, class_table, features_file, head_file, image_index, metrics_file, text_file
from ccd.artifacts.class_table import LABELS, PREDICTIONS, PSEUDO_LABELS
from ccd.evaluation import summary
from ccd.images.batches import indexed_files
from ccd.labels.scores import clip_probs, sigmoid
from ccd.params.file import load
from ccd.params.sections import DatasetParams, EvaluateParams, RuntimeParams
from ccd.runtime.console import StageLog
from ccd.runtime.hardware import end_other_ranks, set_up_hardware
from ccd.runtime.launch import shared_stage
from ccd.student.inference import score_checkpoints


@shared_stage
def main(
    images: Path,
    labels: Path,
    clip_global: Path,
    text: Path,
    pseudo_labels: Path,
    head: Path,
    warmup: Path,
    student: Path,
    metrics: Path,
    per_class: Path,
    predictions: Path,
) -> None:
    """Measure everything that the pipeline predicts."""
    params = load(EvaluateParams)
    index = image_index.read(images)
    test = index.test()
    classes = text_file.read(text)
    truth = class_table.read(labels, LABELS, of=classes.classes)
    trained_on = class_table.read(pseudo_labels, PSEUDO_LABELS, summary.STEPS, of=classes.classes)
    warmed_up = checkpoint_file.read(warmup, "warmup")
    final = checkpoint_file.read(student, "train")
    log = StageLog("evaluate")
    log.reads(f"{len(test):,} test images", f"{len(truth.ids):,} images with known labels")
    features = features_file.open_global(clip_global, index.ids, classes.attributes).take(index.test_rows)
    # zero-shot is the plain softmax over the classes, whatever the labels are made with: the baseline of every recipe
    probs = {"zero_shot": clip_probs(features, classes.values, classes.logit_scale)}
    linear = head_file.read(head, of=classes.classes, teacher=classes.attributes).linear
    probs["head"] = sigmoid(linear.logits(features))
    hardware = set_up_hardware()
    files = indexed_files(load(DatasetParams).root, test, load(RuntimeParams).cache_gb)
    probs |= score_checkpoints(warmed_up, final, files, hardware, log.images, params.precision)
    end_other_ranks()
    alpha = float(trained_on.metadata["alpha"])
    results = summary.evaluate(
        summary.Scores(trained_on.ids, summary.pseudo_tables(trained_on.columns, alpha)),
        summary.Scores(test.ids, probs),
        summary.Truth(truth.ids, truth.classes, **truth.columns),
        checkpoint_file.thresholds(final)[0],
        *params.counted(),
    )
    metrics_file.write(metrics, per_class, results.metrics, results.rows)
    columns = {"zero_shot_prob": probs["zero_shot"], "student_prob": probs["student"]}
    class_table.write(predictions, PREDICTIONS, class_table.ClassTable(test.ids, truth.classes, columns, {}))
    log.wrote((metrics, 2, "splits"), (per_class, len(results.rows), "rows"), (predictions, len(test), "images"))
    log.finding(results.headline)


if __name__ == "__main__":
    main()
