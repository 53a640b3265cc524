"""Stage train: the final training, with the consistency loss (method section 8)."""

from __future__ import annotations

from pathlib import Path

from ccd.artifacts import checkpoint_file, class_table, image_index
from ccd.artifacts.class_table import PSEUDO_LABELS
from ccd.artifacts.files import write_csv
from ccd.artifacts.image_index import same_ids
from ccd.images.batches import indexed_files
from ccd.params.file import load
from ccd.params.sections import DatasetParams, RuntimeParams, TrainParams
from ccd.runtime.console import StageLog
from ccd.runtime.hardware import end_other_ranks, set_up_hardware
from ccd.runtime.launch import shared_stage
from ccd.runtime.store import open_store
from ccd.student.fit import TrainingData, final_weights, fit, steps_per_epoch, training_name
from ccd.student.inference import label_free_thresholds
from ccd.student.model import StudentSpec, restore_student
from ccd.student.objectives import final_objective


@shared_stage
def main(images: Path, pseudo_labels: Path, warmup: Path, out: Path, curves: Path) -> None:
    """Continue the warmed-up student on the aggregated labels."""
    params = load(TrainParams)
    index = image_index.read(images).train()
    log = StageLog("train")
    start = checkpoint_file.read(warmup, "warmup")
    hardware = set_up_hardware()
    spec = StudentSpec.from_dict(start.spec | {"image_size_px": params.image_size_px})
    targets = class_table.read(pseudo_labels, PSEUDO_LABELS, ["label"], of=spec.classes)
    same_ids(pseudo_labels, "aggregate", targets.ids, index.ids)
    log.reads(f"{len(index):,} images", f"warmed-up {spec.backbone}", f"{params.image_size_px} px")
    student = restore_student(spec, start.weights[start.selected])
    files = indexed_files(load(DatasetParams).root, index, load(RuntimeParams).cache_gb)
    data = TrainingData(files, targets.columns["label"], index)
    objective = final_objective(params)
    slot = open_store().slot(training_name(student, data, objective, params, hardware))
    with log.training(params.epochs, steps_per_epoch(len(data), params.batch_size)) as show:
        result = fit(student, data, objective, params, hardware, state=slot, on_step=show)
    weights, info = final_weights(result)
    info |= {key: start.info[key] for key in ("start", "start_licence") if key in start.info}
    student.load_state_dict(weights[params.checkpoint])
    info["thresholds"] = label_free_thresholds(
        student, data.files, data.labels, params.image_size_px, hardware, log.images, params.precision
    )
    end_other_ranks()
    checkpoint_file.write(out, checkpoint_file.Checkpoint(spec.to_dict(), weights, params.checkpoint, info))
    write_csv(curves, [record.curve_row for record in result.records])
    slot.clear()
    log.wrote((out, len(weights), "sets of weights"), (curves, params.epochs, "epochs"))
    log.finding(f"early stop after epoch {info['early_stop_epoch']}; train.checkpoint keeps '{params.checkpoint}'")


if __name__ == "__main__":
    main()
