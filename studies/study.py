"""One study: its variants over its seeds, measured, as tables and a figure.

    python -m studies.study alpha                                   # as `dvc --cd studies repro alpha` does
    python -m studies.study ablation --seeds 3 --jobs 2 --threads 1

Run it in the project's folder. Writes studies/results/<name>/<study>/. Results of earlier runs come from DVC's cache.
"""

from __future__ import annotations

import csv
import shutil
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import click

from ccd.artifacts import image_index
from ccd.artifacts.files import replacing, write_csv, write_text
from ccd.errors import CcdError, user_errors
from ccd.params.file import PARAMS_FILE, load
from ccd.params.sections import DatasetParams
from ccd.runtime.console import StageLog
from studies import figure, spec, table
from studies.classes import drop_classes, settings
from studies.given_run import SKIPPED, check_given, run_given
from studies.inputs import check, chosen_images, with_known_regions, write_inputs
from studies.measure import Finding, measure
from studies.run import Run, project_copy, shared_cache

OUTPUTS = ("runs.csv", "table.csv", "per_class.csv", "table.md", "figure.png")


@dataclass(frozen=True)
class Workspace:
    """Runs happen in copies of ``project`` under ``folder``/.runs, with ``threads`` CPU threads each."""

    project: Path
    folder: Path
    cache: Path
    threads: int
    log: StageLog

    @property
    def work(self) -> Path:
        """The folder of this study's copies."""
        return self.folder / ".runs" / self.log.name


def run_variant(workspace: Workspace, number: int, study: spec.Study, name: str, seed: int) -> Finding:
    """Run the pipeline of variant ``name`` in copy ``number``, measure it, and log its seconds."""
    variant = study.rows()[name]
    changed = settings(
        study, variant, seed, workspace.project / "data" / load(DatasetParams).name, workspace.project / PARAMS_FILE
    )
    with project_copy(
        workspace.project, workspace.work / str(number), workspace.cache, changed, workspace.threads
    ) as run:
        if study.given is not None:
            return _noted(workspace, run, run_given(run, study, name, seed, workspace.threads))
        ids = None
        if study.drop_classes or study.images or variant.boxes or variant.labels or variant.corrections:
            run.repro("index")
            drop_classes(run, study.drop_classes)
            index = image_index.read(run.data / "images.parquet").train()
            ids = chosen_images(index.ids, study.images)
            write_inputs(run, variant, seed, index, ids)
        run.repro(*(variant.stages if study.students else ("aggregate",)))
        finding = measure(run.data, run.folder / PARAMS_FILE, study, name, seed, ids)
    return _noted(workspace, run, finding)


def _noted(workspace: Workspace, run: Run, finding: Finding) -> Finding:
    variant, seed = finding.variant, finding.seed
    note_seconds(workspace.folder / "seconds.csv", workspace.log.name, variant, seed, run.seconds)
    summary = f"{sum(run.seconds.values()):.0f} s in {len(run.seconds)} stages, the rest cached"
    workspace.log.finding(f"{variant}, seed {seed}: {summary}")
    return finding


def note_seconds(path: Path, study: str, variant: str, seed: int, seconds: Mapping[str, float]) -> None:
    """Append the seconds of the computed stages to a log; no artifact, since no two runs take the same time."""
    fresh = not path.exists()
    with path.open("a", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerows([("study", "variant", "seed", "stage", "seconds")] if fresh else [])
        writer.writerows((study, variant, seed, stage, value) for stage, value in seconds.items())


def run_study(workspace: Workspace, study: spec.Study, jobs: int) -> list[Finding]:
    """Do all runs, ``jobs`` at a time, variant by variant, since runs of different seeds share no slow stage."""
    todo = [(variant, seed) for variant in study.rows() for seed in study.seeds]
    workspace.log.reads(f"{len(study.rows())} variants", f"{len(study.seeds)} seeds")

    def one(job: tuple[int, tuple[str, int]]) -> Finding:
        number, (variant, seed) = job
        return run_variant(workspace, number, study, variant, seed)

    with ThreadPoolExecutor(jobs) as pool:
        try:
            return list(workspace.log.progress(pool.map(one, enumerate(todo)), len(todo), "run"))
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)  # else the error is reported only after all other runs
            raise
        finally:
            shutil.rmtree(workspace.work, ignore_errors=True)  # with the links to the project's inputs


def write(folder: Path, study: spec.Study, findings: Sequence[Finding], paper: dict[str, dict[str, float]]) -> None:
    """Write the `OUTPUTS` of a study."""
    if study.given is not None:
        findings = table.paired(findings)
    write_csv(folder / "runs.csv", table.run_rows(findings))
    write_csv(folder / "table.csv", table.table_rows(findings, paper))
    write_csv(folder / "per_class.csv", table.class_rows(findings, paper))
    with replacing(folder / "table.md") as temporary:
        temporary.write_text(
            table.markdown(study.title, study.sweep.key if study.sweep else "", findings, paper), encoding="utf-8"
        )
    if study.curves():
        figure.draw_curves(folder / "figure.png", study.title, findings, study.curves())
    else:
        figure.draw(folder / "figure.png", study.title, findings, paper, study.sweep.key if study.sweep else None)


def write_skipped(folder: Path, study: spec.Study) -> None:
    """Write `OUTPUTS` that say why there is no result, since DVC wants them; those of an earlier run stay."""
    for name in OUTPUTS:
        path = folder / name
        if path.exists():
            continue
        if path.suffix == ".png":
            figure.draw_note(path, study.title, SKIPPED)
        else:
            write_text(path, f"# {study.title}\n\n{SKIPPED}.\n" if path.suffix == ".md" else f"note\n{SKIPPED}\n")


@click.command(help=__doc__)
@click.argument("name", metavar="STUDY")
@click.option("--seeds", type=click.IntRange(1), help="Seeds 0 .. SEEDS - 1 instead of those in studies/params.yaml.")
@click.option("--jobs", type=click.IntRange(1), help="Runs at a time.")
@click.option("--threads", type=click.IntRange(0), help="CPU threads of a run; 0: all.")
def main(name: str, seeds: int | None, jobs: int | None, threads: int | None) -> None:
    with user_errors():
        study = spec.load_study(name)
        how = spec.load_run_params()
        dataset = load(DatasetParams).name
        if seeds is not None:
            study = study.model_copy(update={"seeds": list(range(seeds))})
        project = Path.cwd()
        folder = project / "studies/results" / dataset
        if study.given is not None and study.given.scores is None:
            write_skipped(folder / name, study)
            click.echo(f"{name}: {SKIPPED}")
            return
        data = project / "data" / dataset
        if study.given is None and not (data / "global_labels.parquet").exists():
            raise CcdError("the stages that all runs share have not run; run them with: dvc repro global_labels")
        check(study, data, PARAMS_FILE)
        check_given(study, PARAMS_FILE)
        study, left_out = with_known_regions(study, PARAMS_FILE)
        threads = how.threads if threads is None else threads
        workspace = Workspace(project, folder, shared_cache(project), threads, StageLog(name))
        for each in left_out:
            workspace.log.finding(f"left out: {each}; the teacher's image tower gives no embeddings of patches")
        findings = run_study(workspace, study, jobs or how.jobs)
        write(folder / name, study, findings, spec.paper_numbers(name, dataset))
        click.echo((folder / name / "table.md").read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
