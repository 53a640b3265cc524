"""Stage report: what the pipeline decided and how well it did, as one HTML file to look at and one picture."""

from __future__ import annotations

from pathlib import Path

from ccd.artifacts.files import replacing
from ccd.params.file import load
from ccd.params.sections import SECTIONS, DatasetParams, EvaluateParams, RuntimeParams
from ccd.report.overview import write_overview
from ccd.report.page import render
from ccd.report.run_data import RunFiles, read_run
from ccd.runtime.console import StageLog, library_versions
from ccd.runtime.launch import stage


@stage
def main(
    images: Path,
    labels: Path,
    text: Path,
    bias: Path,
    boxes: Path,
    clip_local: Path,
    pseudo_labels: Path,
    predictions: Path,
    metrics: Path,
    per_class: Path,
    warmup_curves: Path,
    train_curves: Path,
    out: Path,
    overview: Path,
) -> None:
    """Draw the report from all artifacts and a bounded number of images."""
    log = StageLog("report")
    dataset = load(DatasetParams)
    run = read_run(
        RunFiles(
            images,
            labels,
            text,
            bias,
            boxes,
            clip_local,
            pseudo_labels,
            predictions,
            metrics,
            per_class,
            warmup_curves,
            train_curves,
        ),
        load(EvaluateParams).difficult,
    )
    log.reads(f"{len(run.train):,} training and {len(run.test):,} test images", f"{len(run.classes):,} classes")
    # Where the images lie and which hardware looked at them is no property of the run.
    parameters = {
        model.section: load(model, as_written=True).model_dump()
        for model in SECTIONS
        if model not in (DatasetParams, RuntimeParams)
    }
    page = render(run, dataset.name, Path(dataset.root), parameters, library_versions())
    with replacing(out) as temporary:
        temporary.write_text(page, encoding="utf-8", newline="\n")
    with replacing(overview) as temporary:
        write_overview(run, dataset.name, temporary)
    log.wrote((out, len(run.classes), "classes"), (overview, 1, "picture"))
    log.found(f"open {out} in a browser")


if __name__ == "__main__":
    main()
