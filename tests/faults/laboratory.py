"""A tiny finished run to measure faults against, and copies of it in which one stage is yet to run."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ccd.artifacts import (
    background_file,
    bias_file,
    boxes_file,
    checkpoint_file,
    class_table,
    classes_file,
    features_file,
    head_file,
    image_index,
    metrics_file,
    text_file,
)
from ccd.artifacts.class_table import GLOBAL_LABELS, LABELS, PREDICTIONS, PSEUDO_LABELS
from ccd.artifacts.corrections_file import ensure, path_of
from ccd.artifacts.sealed import read_parquet
from ccd.errors import CcdError
from ccd.params.presets import apply_preset
from tests.faults.child import Child, Ended, run
from tests.toys.chain import CHAIN, COLOURS, STAGES, run_stage, settings, write_pictures
from tests.toys.tiny_clip import save_fp16, tiny_clip

DATA = Path("data/toy")
LIMIT_S = 300


def _read_regions(path: Path) -> None:
    """Read the whole file, which may hold no regions."""
    with features_file.reading(path, boxes_file.REGIONS_SCHEMA, "clip_global") as file:
        for name in file:
            file[name][...]


READERS: dict[str, Callable[[Path], object]] = {
    "images.parquet": image_index.read,
    "classes.json": classes_file.read,
    "labels.parquet": lambda path: class_table.read(path, LABELS),
    "text.h5": text_file.read,
    "clip_global.h5": lambda path: features_file.read(path, features_file.GLOBAL_SCHEMA),
    "regions.h5": _read_regions,
    "bias.json": bias_file.read,
    "global_labels.parquet": lambda path: class_table.read(path, GLOBAL_LABELS),
    "none_images.parquet": lambda path: background_file.read(
        path, read_parquet(path, background_file.SCHEMA, "global_labels")[0]["image_id"].to_pylist()
    ),
    "warmup.pt": lambda path: checkpoint_file.read(path, "warmup"),
    "warmup_curves.csv": lambda path: metrics_file.read_curve(path, "warmup"),
    "boxes.parquet": boxes_file.read,
    "clip_local.h5": lambda path: features_file.read(path, features_file.LOCAL_SCHEMA),
    "pseudo_labels.parquet": lambda path: class_table.read(path, PSEUDO_LABELS),
    "student.pt": lambda path: checkpoint_file.read(path, "train"),
    "head.h5": head_file.read,
    "train_curves.csv": lambda path: metrics_file.read_curve(path, "train"),
    "metrics.json": metrics_file.read_metrics,
    "per_class.csv": metrics_file.read_per_class,
    "predictions.parquet": lambda path: class_table.read(path, PREDICTIONS),
}
READERS["report.html"] = READERS["overview.png"] = Path.exists  # no reader could refuse them


def outputs(stage: str) -> list[str]:
    """The names of a stage's files."""
    entry = STAGES[stage]
    return [Path(out).name for out in [*entry.get("outs", []), *entry.get("metrics", [])]]


def inputs(stage: str) -> list[str]:
    """The names of the artifacts that it reads."""
    return [Path(dep).name for dep in STAGES[stage]["deps"] if dep.startswith("data/")]


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes()).hexdigest()


@dataclass(frozen=True)
class Laboratory:
    """``folder`` holds the finished run ``reference``; ``seconds`` is how long each stage took there."""

    folder: Path
    digests: dict[str, str]
    seconds: dict[str, float]

    @property
    def reference(self) -> Path:
        return self.folder / "reference"

    @property
    def log(self) -> Path:
        """What the process that ran last said."""
        return self.folder / "log"

    def bytes_of(self, stage: str) -> list[int]:
        """The sizes of its outputs."""
        return [(self.reference / DATA / name).stat().st_size for name in outputs(stage)]

    def fill(self, work: Path, stage: str, workers: int = 0) -> None:
        """Make ``work``, whose folder of artifacts may be there already, what the project was before the stage."""
        (work / DATA).mkdir(parents=True, exist_ok=True)
        for name in ("pictures", "vit.pt", "corrections"):
            (work / name).symlink_to(self.reference / name)
        params = (self.reference / "params.yaml").read_text()
        (work / "params.yaml").write_text(params.replace("workers: 0 ", f"workers: {workers} "))
        assert f"workers: {workers} " in (work / "params.yaml").read_text()
        for name in inputs(stage):
            shutil.copyfile(self.reference / DATA / name, work / DATA / name)

    def start(self, work: Path, stage: str, before: Callable[[], object] = lambda: None) -> Child:
        """Begin the stage; ``before`` is done in its process."""
        words = STAGES[stage]["cmd"].replace("${dataset.name}", "toy").split()[3:]
        return Child(lambda: (before(), CHAIN[stage].main(words)), work, self.log)

    def again(self, work: Path, stage: str) -> Ended:
        """Run the stage to its end."""
        return self.start(work, stage).wait(LIMIT_S)

    def differing(self, work: Path, names: list[str]) -> list[str]:
        """Files that are not what they should be, or not there."""
        paths = {name: work / DATA / name for name in names}
        return [name for name, path in paths.items() if not path.is_file() or md5(path) != self.digests[name]]

    def accepted_but_wrong(self, work: Path, stage: str) -> list[str]:
        """Files at their final path that are not what they should be, and that their reader takes."""
        there = [name for name in [*inputs(stage), *outputs(stage)] if (work / DATA / name).is_file()]
        return [name for name in self.differing(work, there) if self._accepts(work / DATA / name)]

    def _accepts(self, path: Path) -> bool:
        def read() -> None:
            try:
                READERS[path.name](path)
            except CcdError as refused:
                raise SystemExit(3) from refused

        return run(read, path.parent, self.log).code != 3


def leftovers(work: Path) -> list[str]:
    """Temporary files among the artifacts and in the store."""
    return sorted(path.name for place in (work / DATA, work / ".ccd") for path in place.rglob(".*.tmp"))


def build(folder: Path, images: int = 24, **changed: str) -> Laboratory:
    """Make the reference run: two thirds of ``images`` to train on. ``changed``: ``section__key`` -> value in YAML."""
    reference = folder / "reference"
    (reference / "pictures").mkdir(parents=True)
    write_pictures(reference / "pictures", tuple(COLOURS), images * 2 // 3, images - images * 2 // 3)
    values = settings("vit") | {"warmup.backbone": "mobilenet_v3_small", "train.epochs": "2"}
    values |= {key.replace("__", "."): value for key, value in changed.items()}
    (reference / "params.yaml").write_text(apply_preset("folder", "pictures", values))
    ensure(reference / path_of("toy"))
    log = folder / "log"
    ended = run(lambda: save_fp16(tiny_clip("vit"), reference / "vit.pt"), reference, log, LIMIT_S)
    assert ended.code == 0, ended.said
    seconds = {}
    for stage in CHAIN:
        ended = run(lambda stage=stage: run_stage(stage), reference, log, LIMIT_S)  # type: ignore[misc]
        assert ended.code == 0, ended.said
        seconds[stage] = ended.seconds
    return Laboratory(folder, {path.name: md5(path) for path in (reference / DATA).iterdir()}, seconds)
