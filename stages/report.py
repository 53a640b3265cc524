"""Stage report: what the pipeline decided and how well it did, as one HTML file to look at and one picture."""

from __future__ import annotations

from pathlib import Path

from ccd.artifacts.files import replacing, write_text
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
    files = RunFiles(
        images=images,
        labels=labels,
        text=text,
        bias=bias,
        boxes=boxes,
        clip_local=clip_local,
        pseudo_labels=pseudo_labels,
        predictions=predictions,
        metrics=metrics,
        per_class=per_class,
        warmup_curves=warmup_curves,
        train_curves=train_curves,
    )
    run = read_run(files, load(EvaluateParams).difficult)
    log.reads(f"{len(run.train):,} training and {len(run.test):,} test images", f"{len(run.classes):,} classes")
    # Where the images lie and which hardware looked at them is no property of the run.
    parameters = {
        model.section: load(model, as_written=True).model_dump()
        for model in SECTIONS
        if model not in (DatasetParams, RuntimeParams)
    }
    page = render(run, dataset.name, Path(dataset.root), parameters, library_versions())
    write_text(out, page)
    with replacing(overview) as temporary:
        write_overview(run, dataset.name, temporary)
    log.wrote((out, len(run.classes), "classes"), (overview, 1, "picture"))
    log.finding(f"open {out} in a browser")


if __name__ == "__main__":
    main()
