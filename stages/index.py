"""Stage index: the data set's folder becomes a list of images, a list of classes and, where known, labels."""

from __future__ import annotations

from pathlib import Path

from ccd.artifacts import class_table, classes_file, corrections_file, image_index
from ccd.artifacts.class_table import LABELS
from ccd.datasets.image_search import left_out_line
from ccd.datasets.scan import known_labels, remarks, scan_dataset
from ccd.images.remote import name_of
from ccd.params.file import load
from ccd.params.sections import DatasetParams, IndexParams, RuntimeParams
from ccd.runtime.console import StageLog
from ccd.runtime.hardware import worker_count
from ccd.runtime.launch import stage


@stage
def main(images: Path, classes: Path, labels: Path) -> None:
    """Index the data set that params.yaml names."""
    params = load(IndexParams)
    # The demo renders its scenes into its root: an experiment's copy gets its own, and never changes the project's.
    root = Path(load(DatasetParams, as_written=params.adapter == "demo").root)
    log = StageLog("index")
    log.reads(f"{params.adapter} data set in {name_of(root)}")
    dataset, index = scan_dataset(
        params,
        root,
        worker_count(load(RuntimeParams).workers),
        cache_gb=load(RuntimeParams).cache_gb,
        scene_progress=log.counter("scene"),
        image_progress=lambda facts, count: log.progress(facts, count, "img"),
    )
    names = tuple(entry.name for entry in dataset.classes)
    known_ids, label, difficult = known_labels(dataset, index)
    corrections_file.check(corrections_file.path_of(load(DatasetParams).name), index.train().ids, names, root)
    image_index.write(images, index)
    classes_file.write(classes, classes_file.ClassList(names, tuple(entry.texts for entry in dataset.classes)))
    truth = class_table.ClassTable(known_ids, names, {"label": label, "difficult": difficult}, {})
    class_table.write(labels, LABELS, truth)
    log.wrote((images, len(index), "images"), (classes, len(names), "classes"), (labels, label.size, "labels"))
    for remark in filter(None, (left_out_line(dataset.left_out), *remarks(index))):
        log.finding(remark)
    log.finding(
        f"{index.is_train.sum():,} training and {(~index.is_train).sum():,} test images;"
        f" {len(known_ids):,} have known labels, for evaluation alone"
    )


if __name__ == "__main__":
    main()
