"""Stage warmup: the student's first epochs, on the global labels (method section 4)."""

from __future__ import annotations

from pathlib import Path

from ccd.artifacts import checkpoint_file, class_table, image_index
from ccd.artifacts.class_table import GLOBAL_LABELS
from ccd.artifacts.files import write_csv
from ccd.artifacts.image_index import same_ids
from ccd.artifacts.weights_file import check_sha256
from ccd.images.batches import indexed_files
from ccd.params.file import load
from ccd.params.sections import DatasetParams, WarmupParams
from ccd.runtime.console import StageLog
from ccd.runtime.hardware import end_other_ranks, set_up_hardware
from ccd.runtime.launch import shared_stage
from ccd.runtime.store import open_store
from ccd.student.fit import TrainingData, curve_rows, fit, steps_per_epoch, training_name
from ccd.student.model import StudentSpec, build_student
from ccd.student.objectives import warmup_objective


@shared_stage
def main(images: Path, global_labels: Path, out: Path, curves: Path) -> None:
    """Train the student on the debiased labels of the whole images."""
    params = load(WarmupParams)
    index = image_index.read(images).train()
    targets = class_table.read(global_labels, GLOBAL_LABELS, ["label"])
    log = StageLog("warmup")
    same_ids(global_labels, "global_labels", targets.ids, index.ids)
    log.reads(f"{len(index):,} images", f"{params.backbone} from {params.weights}", f"{params.image_size_px} px")
    hardware = set_up_hardware()
    check_sha256(params.weights, params.weights_sha256, "warmup.weights_sha256")
    spec = StudentSpec(params.backbone, targets.classes, params.cam_boost, params.image_size_px)
    student = build_student(spec, params.weights, params.seed)
    data = TrainingData(indexed_files(load(DatasetParams).root, index), targets.columns["label"], index)
    slot = open_store().slot(training_name(student, data, warmup_objective, params, hardware))
    with log.training(params.epochs, steps_per_epoch(len(data), params.batch_size)) as show:
        result = fit(student, data, warmup_objective, params, hardware, state=slot, on_step=show)
    end_other_ranks()
    weights = {"last": result.last}
    info = {"epochs": params.epochs}
    checkpoint_file.write(out, checkpoint_file.Checkpoint(spec.to_dict(), weights, "last", info))
    write_csv(curves, curve_rows(result.records))
    slot.clear()
    log.wrote((out, len(result.last), "tensors"), (curves, params.epochs, "epochs"))
    log.finding(f"{result.records[-1].map_percent:.1f} % mAP against its own labels after {params.epochs} epochs")


if __name__ == "__main__":
    main()
