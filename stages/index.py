"""Stage index: the data set's folder becomes a list of images, a list of classes and, where known, labels."""

from __future__ import annotations

from pathlib import Path

from ccd.artifacts import class_table, classes as class_list, image_index, labels as labels_file
from ccd.console import StageLog, stage
from ccd.datasets import load_dataset
from ccd.indexing import scan
from ccd.params.base import load
from ccd.params.dataset import DatasetParams
from ccd.params.index import IndexParams
from ccd.params.runtime import RuntimeParams
from ccd.runtime import worker_count


@stage
def main(images: Path, classes: Path, labels: Path) -> None:
    """Index the data set that params.yaml names."""
    params = load(IndexParams)
    root, log = Path(load(DatasetParams).root), StageLog("index")
    log.reads(f"{params.adapter} data set in {root}")
    found = load_dataset(**params.model_dump(), root=root, progress=log.counter("scene"))
    facts = scan(
        root,
        found.images,
        worker_count(load(RuntimeParams).workers),
        lambda each: log.progress(each, len(found.images), "img"),
    )
    names = tuple(entry.name for entry in found.classes)
    image_index.write(images, facts)
    class_list.write(classes, class_list.ClassList(names, tuple(entry.texts for entry in found.classes)))
    truth = {"label": found.labels, "difficult": found.difficult}
    class_table.write(labels, labels_file.SPEC, class_table.ClassTable(list(found.labelled), names, truth, {}))
    log.wrote((images, len(facts), "images"), (classes, len(names), "classes"), (labels, found.labels.size, "labels"))
    log.found(
        f"{facts.is_train.sum():,} training and {(~facts.is_train).sum():,} test images;"
        f" {len(found.labelled):,} have known labels, for evaluation alone"
    )


if __name__ == "__main__":
    main()
