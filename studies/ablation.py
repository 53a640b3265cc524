"""What each part of the method adds: the main pipeline with one part off at a time, over several seeds.

    python -m studies.ablation --seeds 3            # on the data set that params.yaml names

Every run is `dvc repro` of the main pipeline in a copy of the project that shares its DVC cache, so that what two runs
have in common is computed once. Writes data/<name>.ablation/runs.csv and table.md; a finished run is not repeated.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import click
import pandas as pd

from ccd.console import user_errors
from ccd.errors import CcdError
from ccd.params.base import load, read_yaml
from ccd.params.dataset import DatasetParams
from ccd.use import override

PROJECT = Path(__file__).resolve().parent.parent
COPIED = ("ccd", "stages", "dvc.yaml", ".dvcignore", ".dvc/config")
VARIANTS: dict[str, dict[str, str]] = {
    "CCD": {},
    "without debiasing": {"bias.enabled": "false"},
    "without local views": {"aggregate.alpha": "1.0"},
    "without consistency": {"train.consistency_weight": "0.0"},
}
LINE = re.compile(r"\[(\w+)\] wrote .*, ([\d.]+) s$", re.M)


def run(variant: str, seed: int, folder: Path, threads: int) -> dict[str, Any]:
    """One `dvc repro` in a copy of the project; its metrics, and the seconds of the stages that were not cached."""
    shutil.rmtree(folder, ignore_errors=True)
    for name in COPIED:
        source, target = PROJECT / name, folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, target)
    if (PROJECT / "datasets").exists():
        (folder / "datasets").symlink_to(PROJECT / "datasets")
    values = VARIANTS[variant] | {"warmup.seed": str(seed), "train.seed": str(seed)}
    text = (PROJECT / "params.yaml").read_text(encoding="utf-8")
    (folder / "params.yaml").write_text(override(text, values | _paths_outside(read_yaml(PROJECT / "params.yaml"))))
    environment = {**_environment(), "OMP_NUM_THREADS": str(threads)}
    _dvc(["config", "--local", "cache.dir", str(PROJECT / ".dvc/cache")], folder, environment)
    _dvc(["config", "--local", "core.no_scm", "true"], folder, environment)  # the copy lies where git ignores all
    said = _dvc(["repro", "evaluate"], folder, environment)
    name = load(DatasetParams, folder / "params.yaml").name
    metrics = json.loads((folder / "data" / name / "metrics.json").read_text(encoding="utf-8"))
    maps = {f"{split}_{key}": value for split, part in metrics.items() for key, value in part["mAP"].items()}
    boxes = len(pd.read_parquet(folder / "data" / name / "boxes.parquet", columns=["box_id"]))
    seconds = {f"seconds_{stage}": float(value) for stage, value in LINE.findall(said)}
    shutil.rmtree(folder)
    return {"variant": variant, "seed": seed, **maps, "boxes": boxes, **seconds}


def _paths_outside(params: dict[str, Any]) -> dict[str, str]:
    """Paths that lead out of the project, made absolute, since the copy lies elsewhere."""
    named = {"dataset.root", "teacher.model", "warmup.weights"}
    values = {name: params[name.split(".")[0]][name.split(".")[1]] for name in named}
    return {name: str((PROJECT / value).resolve()) for name, value in values.items() if value.startswith("..")}


def _environment() -> dict[str, str]:
    return {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "DVC_NO_ANALYTICS": "1"}


def _dvc(words: list[str], folder: Path, environment: dict[str, str]) -> str:
    command = [sys.executable, "-m", "dvc", *words]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise CcdError(f"`dvc {' '.join(words)}` failed in {folder}:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return done.stdout


def table(runs: pd.DataFrame) -> str:
    """Mean and standard deviation over seeds, as Markdown; one row per variant."""
    columns = [name for name in runs.columns if name.startswith(("train_", "test_"))]
    lines = ["| | " + " | ".join(name.replace("_", " ") for name in columns) + " |", "|---" * (len(columns) + 1) + "|"]
    for variant in (name for name in VARIANTS if name in set(runs["variant"])):
        part = runs[runs["variant"] == variant][columns]
        cells = [
            f"{mean:.2f}" if not deviation > 0 else f"{mean:.2f} ± {deviation:.2f}"
            for mean, deviation in zip(part.mean(), part.std(), strict=True)
        ]
        lines.append(f"| {variant} ({len(part)} seeds) | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


@click.command(help=__doc__)
@click.option("--seeds", default=3, show_default=True, help="Seeds 0 .. SEEDS - 1 for warm-up and final training.")
@click.option("--jobs", default=1, show_default=True, help="Runs at a time.")
@click.option("--threads", default=0, show_default=True, help="CPU threads of a run; 0: all.")
def main(seeds: int, jobs: int, threads: int) -> None:
    with user_errors():
        name = load(DatasetParams, PROJECT / "params.yaml").name
        folder = PROJECT / "data" / f"{name}.ablation"
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "runs.csv"
        done = pd.read_csv(path).to_dict("records") if path.exists() else []
        known = {(row["variant"], row["seed"]) for row in done}
        todo = [(variant, seed) for seed in range(seeds) for variant in VARIANTS if (variant, seed) not in known]
        start = time.monotonic()

        def one(job: tuple[str, int]) -> None:
            work = folder / f"{job[0].replace(' ', '_')}.{job[1]}"
            done.append(run(*job, work, threads or os.cpu_count() or 1))
            pd.DataFrame(done).to_csv(path, index=False)
            print(f"{job[0]}, seed {job[1]}: {(time.monotonic() - start) / 60:.1f} min so far", flush=True)

        with ThreadPoolExecutor(jobs) as pool:
            list(pool.map(one, todo))
        text = table(pd.read_csv(path).sort_values("seed"))
        (folder / "table.md").write_text(text, encoding="utf-8")
        print(text)


if __name__ == "__main__":
    main()
