"""The installed package: what the wheel holds, and a project that runs from it far from the repository."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from PIL import Image

from tests.toys.chain import COLOURS, write_pictures
from tests.toys.tiny_clip import save_fp16, tiny_clip

ROOT = Path(__file__).resolve().parent.parent
SETTINGS = (
    "warmup.weights=none", "warmup.epochs=1", "warmup.batch_size=4", "train.epochs=1", "train.batch_size=4",
    "bias.max_entropy_nats=10.0", "runtime.workers=0", "cam_boxes.views_per_image=1.5",
    *(f"{name}.image_size_px=64" for name in ("clip_global", "clip_local", "warmup", "cam_boxes", "train")),
)  # fmt: skip


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy of the repository."""
    source = tmp_path_factory.mktemp("source")
    for name in ("ccd", "stages"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.py", "setup.cfg", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE", "dvc.yaml"):
        shutil.copy(ROOT / name, source / name)
    code = "from setuptools.build_meta import build_wheel; build_wheel('dist')"
    subprocess.run([sys.executable, "-c", code], cwd=source, check=True, capture_output=True)
    (built,) = (source / "dist").glob("*.whl")
    return built


def test_the_wheel_is_complete(wheel: Path) -> None:
    """Every file of the packages, and dvc.yaml, byte for byte."""
    files = [path for name in ("ccd", "stages") for path in (ROOT / name).rglob("*") if path.is_file()]
    expected = {path.relative_to(ROOT).as_posix(): path for path in files if "__pycache__" not in path.parts}
    expected["ccd/project/pipeline.yaml"] = ROOT / "dvc.yaml"
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
        assert names == set(expected)
        assert all(archive.read(name) == path.read_bytes() for name, path in expected.items())


class Project:
    """A folder in which the unpacked wheel works."""

    def __init__(self, folder: Path, site: Path) -> None:
        self.folder = folder
        self.site = site
        self.environment = {**os.environ, "PYTHONPATH": str(site), "DVC_NO_ANALYTICS": "1"}
        self.environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"

    def run(self, *words: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", *words], cwd=self.folder, env=self.environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr


@pytest.mark.slow
def test_a_project_runs_grows_and_is_upgraded(wheel: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    photos = tmp_path / "photos"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    photos.mkdir()
    write_pictures(photos, tuple(COLOURS))
    save_fp16(tiny_clip("vit"), tmp_path / "vit.pt")
    words = [word for setting in SETTINGS for word in ("--set", setting)]
    options = ["--images", "photos", "--teacher", "vit.pt", "--student", "resnet18", "--no-estimate", *words]
    Project(tmp_path, site).run("ccd.cli.main", "init", "mine", *options)
    project = Project(tmp_path / "mine", site)

    said = project.run("dvc", "repro")
    assert "[clip_global] 9 encoded, 0 from the store" in said
    assert (tmp_path / "mine/data/mine/report.html").is_file()
    assert "Running stage 'index'" not in project.run("dvc", "repro")

    with (tmp_path / "mine/classes.txt").open("a") as file:
        file.write("yellow: lemon, sun\n")
    said = project.run("dvc", "repro", "text", "clip_global")
    assert "[index] wrote data/mine/classes.json: 4 classes" in said and "[text] reads 4 classes" in said
    assert "Stage 'clip_global' didn't change" in said, "a class changes no image"
    waiting = project.run("dvc", "status")
    assert all(f"{stage}:\n" in waiting for stage in ("bias", "global_labels", "aggregate", "report"))

    Image.new("RGB", (50, 40), (20, 200, 90)).save(photos / "more.png")
    assert "[clip_global] 1 encoded, 9 from the store" in project.run("dvc", "repro", "clip_global")

    with (site / "ccd/evaluation/summary.py").open("a") as file:
        file.write("# another version\n")
    project.run("dvc", "repro", "inputs")
    assert "code.evaluate" in (status := project.run("dvc", "status", "evaluate")) and "code.index" not in status
    assert "code." not in project.run("dvc", "status", "clip_global", "warmup", "report")


@pytest.mark.slow
def test_the_demo_starts_from_the_wheel_far_from_a_clone(wheel: Path, tmp_path: Path) -> None:
    """Installed by pip, without its requirements, which this environment has; up to the first stage that loads CLIP."""
    site = tmp_path / "site"
    install = ["install", "--quiet", "--no-deps", "--no-index", "--target", str(site), str(wheel)]
    subprocess.run([sys.executable, "-m", "pip", *install], check=True, capture_output=True)
    said = Project(tmp_path, site).run("ccd.cli.main", "demo", "mine")
    assert "now run: cd mine && dvc repro" in said and (tmp_path / "mine/.dvc").is_dir()
    params = tmp_path / "mine/params.yaml"
    text = params.read_text().replace("demo_train: 1000", "demo_train: 6").replace("demo_test: 500", "demo_test: 2")
    params.write_text(text)
    said = Project(tmp_path / "mine", site).run("dvc", "repro", "text")
    assert "[index] wrote data/demo/images.parquet: 8 images" in said and "[text] wrote data/demo/text.h5" in said
    assert str(ROOT) not in (tmp_path / "mine/dvc.lock").read_text()


EXTRAS = ("timm", "open_clip", "onnx", "onnxruntime", "onnxscript", "pillow_heif", "s3fs", "gcsfs", "adlfs", "aiohttp",
          "huggingface_hub", "transformers", "sentencepiece", "openvino", "datasets")  # fmt: skip


def test_a_bare_install_asks_for_nothing_of_the_extras(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (each for each in archive.namelist() if each.endswith(".dist-info/METADATA"))
        lines = archive.read(name).decode().splitlines()
    required = [line.removeprefix("Requires-Dist: ") for line in lines if line.startswith("Requires-Dist: ")]
    plain = {re.split(r"[ <>=!~;\[]", each)[0].lower() for each in required if "extra ==" not in each}
    optional = {re.split(r"[ <>=!~;\[]", each)[0].lower() for each in required if "extra ==" in each}
    assert {"torch", "dvc", "click"} <= plain and {"timm", "onnx", "open_clip_torch"} <= optional
    assert not plain & optional


@pytest.mark.slow
def test_every_module_and_the_help_do_without_the_extras() -> None:
    """Every module is imported, as all of them are reached by some command or stage; extras are imported in use."""
    modules = [
        path.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".").removesuffix(".__init__")
        for name in ("ccd", "stages")
        for path in sorted((ROOT / name).rglob("*.py"))
    ]
    code = (
        "import importlib, sys\n"
        f"sys.modules.update(dict.fromkeys({EXTRAS!r}))\n"  # None: an import of it fails
        f"for name in {modules!r}: importlib.import_module(name)\n"
        "from click.testing import CliRunner\nfrom ccd.cli.main import main\n"
        "for words in (['--help'], ['init', '--help'], ['demo', '--help'], ['predict', '--help'], ['use']):\n"
        "    done = CliRunner().invoke(main, words)\n"
        "    assert done.exit_code == 0, done.output\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
