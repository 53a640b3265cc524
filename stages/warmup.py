"""Stage warmup: the student's first epochs, on the global labels (method section 4)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from ccd.artifacts import checkpoint_file, class_table, files, image_index, text_file
from ccd.artifacts.weights_file import check_sha256
from ccd.images.batches import indexed_files
from ccd.params.file import load
from ccd.params.sections import DatasetParams, RuntimeParams, TeacherParams, WarmupParams
from ccd.runtime.console import StageLog
from ccd.runtime.hardware import Hardware, end_other_ranks, set_up_hardware
from ccd.runtime.launch import shared_stage
from ccd.runtime.store import open_store
from ccd.student.fit import TrainingData, fit, steps_per_epoch, training_name
from ccd.student.inference import start_as_clip
from ccd.student.model import Student, StudentSpec, build_student
from ccd.student.objectives import Objective
from ccd.student.pretrained import start_student
from ccd.teacher.encode import load_teacher
from ccd.teacher.student_start import student_start


@shared_stage
def main(images: Path, global_labels: Path, text: Path, out: Path, curves: Path) -> None:
    """Train the student on the debiased labels of the whole images."""
    params = load(WarmupParams)
    index = image_index.read(images).train()
    targets = class_table.read(global_labels, class_table.GLOBAL_LABELS, ["label"])
    log = StageLog("warmup")
    image_index.same_ids(global_labels, "global_labels", targets.ids, index.ids)
    hardware = set_up_hardware()
    check_sha256(params.weights, params.weights_sha256, "warmup.weights_sha256")
    spec = StudentSpec(params.backbone, targets.classes, params.cam_boost, params.image_size_px)
    images_read = indexed_files(load(DatasetParams).root, index, load(RuntimeParams).cache_gb)
    data = TrainingData(images_read, targets.columns["label"], index)
    student, spec, origin, recorded = _started(params, spec, text, data, hardware)
    log.reads(f"{len(index):,} images", f"{spec.backbone} from {origin}", f"{params.image_size_px} px")
    slot = open_store().slot(training_name(student, data, Objective(), params, hardware))
    with log.training(params.epochs, steps_per_epoch(len(data), params.batch_size)) as show:
        result = fit(student, data, Objective(), params, hardware, state=slot, on_step=show)
    end_other_ranks()
    info = {"epochs": params.epochs, **recorded}
    checkpoint_file.write(out, checkpoint_file.Checkpoint(spec.to_dict(), {"last": result.last}, "last", info))
    files.write_csv(curves, [record.curve_row for record in result.records])
    slot.clear()
    log.wrote((out, len(result.last), "tensors"), (curves, params.epochs, "epochs"))
    log.finding(f"{result.records[-1].map_percent:.1f} % mAP against its own labels after {params.epochs} epochs")


def _started(
    params: WarmupParams, spec: StudentSpec, text: Path, data: TrainingData, hardware: Hardware
) -> tuple[Student, StudentSpec, str, dict[str, str]]:
    if params.weights != "teacher":
        return start_student(spec, params.weights, params.seed)
    start = student_start(load_teacher(**load(TeacherParams).model_dump(), device=hardware.device, store=open_store()))
    spec = replace(spec, backbone=start.backbone, mean=start.mean, std=start.std)
    student = build_student(spec, start.weights, params.seed)
    if start.projection is not None:
        content = text_file.read(text)
        image_index.same_classes(text, "text", content.classes, spec.classes)
        clip = (start.projection, content.values, content.logit_scale)
        start_as_clip(student, *clip, data.labels, data.files, spec.image_size_px, hardware)
    return student, spec, start.origin, {"start": start.origin}


if __name__ == "__main__":
    main()
