"""What needs no network never imports torch, not even while it runs: it starts at once and fits into little memory."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.synthetic import write_artifacts
from ccd.artifacts import corrections_file
from ccd.report.run_data import RunFiles
from tests.toys.finished_run import write_run

ROOT = Path(__file__).resolve().parent.parent
HEAVY = ("torch", "torchvision", "clip", "open_clip")
TWO = "--clip-global clip_global.h5 --text text.h5"
FILES = {
    "bias": f"--images images.parquet {TWO} --out bias.json",
    "global_labels": f"--images images.parquet {TWO} --bias bias.json --out global_labels.parquet"
    " --none none_images.parquet",
    "aggregate": "--global-labels global_labels.parquet --clip-local clip_local.h5 --text text.h5 --bias bias.json"
    " --boxes boxes.parquet --none none_images.parquet --corrections corrections.csv --out pseudo_labels.parquet",
}


def imported(folder: Path, module: str, words: list[str]) -> list[str]:
    """Run a command in a new process, in ``folder``; what of `HEAVY` it had imported at its end."""
    code = (
        f"import sys; from {module} import main\n"
        f"main({words!r}, standalone_mode=False)\n"
        f"print('imported', *(name for name in {HEAVY!r} if name in sys.modules))"
    )
    run = subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        env={"PYTHONPATH": str(ROOT), "PATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    return run.stdout.splitlines()[-1].split()[1:]


def test_label_stages(tmp_path: Path) -> None:
    write_artifacts(tmp_path, images=9, classes=3, width=8, views=1.0)
    corrections_file.ensure(tmp_path / "corrections.csv")
    (tmp_path / "params.yaml").write_text((ROOT / "params.yaml").read_text())
    for name, words in FILES.items():
        assert imported(tmp_path, f"stages.{name}", words.split()) == [], name


def test_report(tmp_path: Path) -> None:
    data = write_run(tmp_path)
    parameters = (ROOT / "params.yaml").read_text().replace("root: datasets/demo", f"root: {tmp_path}")
    (tmp_path / "params.yaml").write_text(parameters)
    inputs = [
        word
        for name, path in vars(RunFiles.in_folder(data)).items()
        for word in (f"--{name.replace('_', '-')}", str(path))
    ]
    words = [*inputs, "--out", "report.html", "--overview", "overview.png"]
    assert imported(tmp_path, "stages.report", words) == []


@pytest.mark.parametrize(
    "words", [["artifacts"], ["artifacts", "--json"], ["store"], ["inspect", "--doubtful"], ["use"]]
)
def test_commands(words: list[str], tmp_path: Path) -> None:
    write_run(tmp_path / "data/demo")
    (tmp_path / "params.yaml").write_text((ROOT / "params.yaml").read_text())
    assert imported(tmp_path, "ccd.cli.main", words) == []


def test_help_imports_next_to_nothing() -> None:
    code = "import sys; import ccd.cli.main; print(*sorted({name.split('.')[0] for name in sys.modules}))"
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    slow = {"torch", "numpy", "pandas", "pyarrow", "h5py", "pydantic", "matplotlib", "PIL", "ruamel", "tqdm", "jinja2"}
    assert not slow & set(run.stdout.split())
