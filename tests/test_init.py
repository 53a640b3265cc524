"""`ccd init`: what it writes, what it refuses, and that its arithmetic is right."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image
from ruamel.yaml import YAML

from ccd.artifacts.files import replacing
from ccd.cli.main import main
from ccd.errors import CcdError
from ccd.params.presets import PRESET_FOLDER, apply_preset, parameters, upgraded_params
from ccd.params.recipes import HARDWARE, own_values, recipe_of
from ccd.params.sections import SECTIONS
from ccd.project import create, pipeline, survey
from ccd.project.settings import dataset_name
from tests.toys.chain import COLOURS, write_pictures
from tests.toys.tiny_clip import checkpoint

FILES = {"corrections", ".dvcignore", ".gitignore", "README.md", "classes.txt", "dvc.yaml", "params.yaml"}
STAGES: dict[str, Any] = YAML(typ="safe").load(pipeline.repository_pipeline().read_text())["stages"]


@pytest.fixture()
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Nine pictures of three classes with labels, and a teacher beside them; seen from the working directory."""
    monkeypatch.chdir(tmp_path)
    Path("photos").mkdir()
    write_pictures(Path("photos"), tuple(COLOURS))
    Path("vit.pt").write_bytes(checkpoint("vit"))
    return Path("photos")


def invoke(*words: object) -> Result:
    done = CliRunner().invoke(main, ["init", *map(str, words)])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done


@pytest.fixture()
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without git and DVC, whose start takes seconds."""
    monkeypatch.setattr(create, "prepare_version_control", lambda folder: [])


def quick(*words: object) -> Result:
    return invoke(*words, "--no-estimate", "--teacher", "vit.pt", "--set", "warmup.weights=none")


def params(folder: str | Path) -> dict[str, Any]:
    return dict(YAML(typ="safe").load(Path(folder, "params.yaml").read_text()))


def test_a_project_has_all_it_needs(photos: Path) -> None:
    done = quick("my cats", "--images", photos)
    assert done.exit_code == 0, done.output
    assert "6 to train on, 3 under test/" in done.output and "now run: cd my cats" in done.output.replace("'", "")
    assert {path.name for path in Path("my cats").iterdir()} == FILES | {".dvc", ".git"}
    found = params("my cats")
    assert found["dataset"] == {"name": "my_cats", "root": str(photos.absolute())}
    assert found["index"]["adapter"] == "folder" and found["index"]["on_bad_image"] == "error"
    assert found["index"]["labels_file"] is None, "labels.csv is found beside the images, wherever these are"
    assert found["teacher"]["model"] == str(Path("vit.pt").absolute()) and len(found["teacher"]["sha256"]) == 64
    assert "# weight of the global label" in Path("my cats/params.yaml").read_text()
    assert Path("my cats/classes.txt").read_text() == "red\ngreen\nblue\n"
    assert "data/my_cats/report.html" in Path("my cats/README.md").read_text()


@pytest.mark.usefixtures("bare")
def test_images_inside_the_project_are_named_relative_and_not_walked(photos: Path) -> None:
    Path("project").mkdir()
    shutil.move("photos", "project/photos")
    Path("project/.gitignore").write_text("*.log\n/data/\n")
    assert quick("project", "--images", "project/photos").exit_code == 0
    assert params("project")["dataset"]["root"] == "photos"
    for name in (".gitignore", ".dvcignore"):
        assert "/photos/" in Path("project", name).read_text().splitlines()
    assert Path("project/.gitignore").read_text().splitlines()[:2] == ["*.log", "/data/"]


def test_a_project_inside_a_git_repository_belongs_to_it(photos: Path) -> None:
    subprocess.run(["git", "init", "--quiet"], check=True)
    assert quick("sub", "--images", photos).exit_code == 0
    assert Path("sub/.dvc").is_dir() and not Path("sub/.git").exists()


def test_without_git_dvc_works_alone(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(create.shutil, "which", lambda name: None)
    assert quick("project", "--images", photos).exit_code == 0
    assert Path("project/.dvc/config").read_text().split() == ["[core]", "no_scm", "=", "True"]
    assert not Path("project/.git").exists()


@pytest.mark.usefixtures("bare")
def test_bad_files_are_named_and_left_out(photos: Path) -> None:
    (photos / "page.jpg").write_text("<html></html>")
    (photos / "empty.png").touch()
    done = quick("project", "--images", photos)
    assert done.exit_code == 0 and "2 of 11 images cannot be used" in done.output
    assert "page.jpg: not an image" in done.output and "empty.png: " in done.output
    assert params("project")["index"]["on_bad_image"] == "skip"


@pytest.mark.usefixtures("bare")
def test_files_that_are_no_images_are_counted(photos: Path) -> None:
    for name in ("a.mp4", "b.MP4", "notes.md"):
        (photos / name).touch()
    Image.open(photos / "0.png").convert("RGB").save(photos / "IMG_1.HEIC", "JPEG")
    done = quick("project", "--images", photos)
    assert done.exit_code == 0 and "left out: 2 .mp4, 1 .md\n" in done.output and "10 images" in done.output
    assert params("project")["index"]["on_bad_image"] == "error", "what is no image does not stop the index"
    found = json.loads(quick("other", "--images", photos, "--json").stdout)
    assert found["left_out"] == {".mp4": 2, ".md": 1} and found["images"]["formats"] == {"png": 9, "heic": 1}


@pytest.mark.usefixtures("bare")
def test_dark_images_are_named(photos: Path) -> None:
    Image.fromarray(np.arange(4096, dtype=np.uint16).reshape(64, 64)).save(photos / "xray.png")
    done = quick("project", "--images", photos)
    assert done.exit_code == 0 and "xray.png: 0..4095" in done.output and "python -c" in done.output
    (said,) = json.loads(quick("other", "--images", photos, "--json").stdout)["remarks"]
    assert "xray.png" in said


@pytest.mark.usefixtures("bare")
def test_json_says_it_all_for_programs(photos: Path) -> None:
    (photos / "empty.png").touch()
    small = [f"{section}.image_size_px=32" for section in ("clip_global", "clip_local", "warmup", "cam_boxes", "train")]
    words = [word for setting in (*small, "warmup.backbone=resnet18") for word in ("--set", setting)]
    done = invoke(
        "project", "--images", photos, "--teacher", "vit.pt", "--set", "warmup.weights=none", *words, "--json"
    )
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found["images"]["train"] == 6 and found["images"]["formats"] == {"png": 9}
    assert [each["path"] for each in found["bad_files"]] == ["empty.png"]
    assert found["classes"] == list(COLOURS) and found["next"] == ["cd project", "dvc repro"]
    assert set(found["disk_bytes"]) == {"artifacts", "cache", "store", "weights"} and found["downloads"] == []
    assert found["disk_bytes"]["cache"] > 4 * 40_000_000 and found["disk_bytes"]["weights"] == 0
    assert {Path(path).relative_to("project").parts[0] for path in found["wrote"]} == FILES


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("project",), "--images FOLDER is missing"),
        (("project", "--images", "nowhere"), "nowhere is not a folder"),
        (("project", "--images", "none", "--classes", "photos/classes.txt"), "none holds no images"),
        (("project", "--images", "photos", "--classes", "gone.txt"), "error: gone.txt "),
        (("project", "--images", "photos", "--classes", "twice.txt"), "twice.txt: 1 class names are not unique: red"),
        (("project", "--images", "photos", "--classes", "empty.txt"), "empty.txt holds no class names"),
        (("project", "--images", "photos", "--classes", "blank.txt"), "classes have no text"),
        (("project", "--images", "photos", "--classes", "long.txt"), "longer than the 77 tokens CLIP can read: 'very"),
        (("project", "--images", "photos", "--classes", "other.txt"), "unknown class red"),
        (("project", "--images", "photos", "--teacher", "RN5"), "teacher 'RN5' is neither a file nor one of RN50"),
        (("project", "--images", "photos", "--student", "vgg16"), "student 'vgg16' is none of torchvision's"),
        (
            ("project", "--images", "photos", "--student", "vit.pt"),
            "--student mobilenet_v2 --set warmup.weights=vit.pt",
        ),
        (("project", "--images", "photos", "--student", "no/x y.pth"), "--set 'warmup.weights=no/x y.pth'"),
        (("project", "--images", "photos", "--teacher", "lfs.pt"), "lfs.pt holds no weights, it is a Git LFS"),
        (
            ("project", "--images", "photos", "--set", "warmup.weights=lfs.pt"),
            "lfs.pt holds no weights, it is a Git LFS",
        ),
        (("project", "--images", "photos", "--teacher", "photos"), "holds no open_clip_config.json"),
        (("project", "--images", "photos", "--teacher", "conf.json"), "--set teacher.pretrained=FILE"),
        (("project", "--images", "photos", "--teacher", "ViT-B-32"), "--set teacher.backend=open_clip"),
        (("project", "--images", "photos", "--set", "warmup.weights=x.pt"), "warmup.weights 'x.pt' is neither"),
        (("project", "--images", "photos", "--set", "train.epoch=1"), "unknown key 'train.epoch'"),
        (("project", "--images", "photos", "--set", "train"), "write SECTION.KEY=VALUE"),
        (("project", "--images", "photos", "--device", "cuda:99"), "CUDA devices; use auto or cpu"),
        (("photos", "--images", "photos"), "photos lies in the folder of images"),
        (("photos/new", "--images", "photos"), "photos/new lies in the folder of images"),
        (("vit.pt", "--images", "photos"), "vit.pt is a file"),
        (("own", "--images", "photos"), "own already holds dvc.yaml; --force replaces them"),
        (("listed", "--images", "photos"), "listed/classes.txt holds no class names"),
        (
            ("listed", "--images", "photos", "--classes", "photos/classes.txt"),
            "listed/classes.txt already exists and differs",
        ),
        (("hiding", "--images", "photos"), "Python packages called stages, which hide ccd's"),
        (("project", "--upgrade"), "project/dvc.yaml does not exist"),
    ],
)
def test_a_mistake_is_one_line_and_writes_nothing(photos: Path, words: tuple[str, ...], message: str) -> None:
    texts = {
        "twice": "red\nred\n",
        "empty": "# no\n",
        "blank": "red: ,\n",
        "long": f"red: {'very ' * 80}\ngreen\n",
        "other": "a\nb\n",
    }
    for name, text in texts.items():
        Path(f"{name}.txt").write_text(text)
    for name in ("none/x.txt", "own/dvc.yaml", "listed/classes.txt", "hiding/stages/__init__.py"):
        Path(name).parent.mkdir(parents=True)
        Path(name).touch()
    Path("lfs.pt").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n")
    Path("conf.json").write_text("{}")
    before = sorted(Path().rglob("*"))
    done = invoke(*words, "--no-estimate")
    assert done.exit_code == 2 and message in done.stderr and "Traceback" not in done.stderr
    assert done.stderr.split("error: ")[1].count("\n") == 1
    assert sorted(Path().rglob("*")) == before


@pytest.mark.usefixtures("bare")
@pytest.mark.parametrize(
    "name",
    ["2024", "007", "1e3", "true", "null", "2024-05-01", "~", "[a]", "a: b", "#x", "$HOME", "-", "my pets", "it's"],
)
def test_any_name_is_a_name_and_printed_commands_work_as_they_stand(photos: Path, name: str) -> None:
    Path(f"images {name}").mkdir()
    root = photos.rename(Path(f"images {name}") / name)
    done = quick(name, "--images", root)
    assert done.exit_code == 0, done.output
    found = params(name)
    assert found["dataset"] == {"root": str(root.absolute()), "name": dataset_name(Path(name))}
    if name.isalnum():
        assert found["dataset"]["name"] == name
    line = done.stdout.splitlines()[-1].removeprefix("now run: ").removesuffix(" && dvc repro")
    went = subprocess.run(["bash", "-c", f"{line} && pwd"], check=True, capture_output=True, text=True).stdout.strip()
    assert Path(went) == Path(name).absolute()


def test_the_commit_that_experiments_start_from_is_told(photos: Path) -> None:
    done = quick("project", "--images", photos)
    (told,) = [line for line in done.output.splitlines() if "git commit" in line]
    assert "dvc exp run" in told
    environment = {
        **os.environ,
        **{f"GIT_{who}_{what}": "a@b" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")},
    }
    command = told[told.index("git ") :]
    subprocess.run(["bash", "-c", command], cwd="project", env=environment, check=True, capture_output=True)
    left = subprocess.run(["git", "status", "--porcelain"], cwd="project", check=True, capture_output=True, text=True)
    assert left.stdout == ""


def test_a_full_disk_is_a_warning(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(create, "prepare_version_control", lambda folder: [])
    monkeypatch.setattr(survey.shutil, "disk_usage", lambda path: SimpleNamespace(free=1_000_000))
    done = quick("project", "--images", photos)
    assert done.exit_code == 0 and "1 MB are free" in done.stderr and "disk: about" in done.stdout


def test_what_fails_half_way_is_taken_back(photos: Path) -> None:
    Path("project/.gitignore").mkdir(parents=True)
    done = quick("project", "--images", photos)
    assert done.exit_code == 2 and ".gitignore" in done.stderr
    assert [path.name for path in Path("project").iterdir()] == [".gitignore"]


@pytest.mark.usefixtures("bare")
def test_what_fails_half_way_leaves_what_was_there(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert quick("project", "--images", photos).exit_code == 0
    before = {path: path.read_bytes() for path in Path("project").iterdir() if path.is_file()}

    def failing(path: Path) -> Any:
        if path.name == "classes.txt":
            raise CcdError("no space")
        return replacing(path)

    monkeypatch.setattr(create, "replacing", failing)
    (photos / "classes.txt").write_text("blue\n")
    (photos / "labels.csv").unlink()
    words = ("--classes", photos / "classes.txt", "--set", "train.epochs=3", "--force")
    assert quick("project", "--images", photos, *words).exit_code == 2
    assert {path: path.read_bytes() for path in before} == before


@pytest.mark.usefixtures("bare")
def test_force_replaces_and_upgrade_keeps(photos: Path) -> None:
    assert quick("project", "--images", photos, "--set", "aggregate.alpha=0.3").exit_code == 0
    whole = Path("project/dvc.yaml").read_text()
    path = Path("project/dvc.yaml")
    old = YAML().load(whole)
    old["stages"]["inputs"]["meta"]["stages"] = "older"
    old["stages"]["text"]["cmd"] = "python -m stages.text --older"
    old["stages"]["mine"] = {"cmd": "wc data/project/per_class.csv", "deps": ["data/project/per_class.csv"]}
    with path.open("w") as file:
        YAML().dump(old, file)
    text = Path("project/params.yaml").read_text()
    Path("project/params.yaml").write_text(text.replace("  alpha: 0.3", "  alpha: 0.3\n  gone_since: 7"))
    with pytest.raises(CcdError, match=r"run: ccd init \. --upgrade"):
        pipeline.check_stages(path.read_text())
    done = invoke("project", "--upgrade")
    assert done.exit_code == 0 and done.output.count("to this version") == 2
    pipeline.check_stages(path.read_text())
    stages = YAML(typ="safe").load(path.read_text())["stages"]
    assert stages.pop("mine")["cmd"].startswith("wc") and stages == YAML(typ="safe").load(whole)["stages"]
    assert Path("project/params.yaml").read_text() == text
    assert "nothing to change" in invoke("project", "--upgrade").output
    mine = {name: Path("project", name).read_text() for name in ("params.yaml", "dvc.yaml", "classes.txt")}
    assert path.with_name("dvc.yaml.bak").is_file(), "the upgrade kept what it replaced"
    (photos / "classes.txt").write_text("blue\nred\ngreen\n")
    done = quick("project", "--images", photos, "--classes", photos / "classes.txt", "--force")
    assert done.exit_code == 0 and "kept the old files as project/params.yaml" in done.output
    assert path.read_text() == whole and params("project")["aggregate"]["alpha"] == 0.4
    for name, text in mine.items():
        assert text in {copy.read_text() for copy in Path("project").glob(f"{name}*.bak")}, name
    assert "*.bak" in Path("project/.gitignore").read_text().splitlines()
    copies = sorted(Path("project").glob("*.bak"))
    assert "kept" not in quick("project", "--images", photos, "--force").output
    assert sorted(Path("project").glob("*.bak")) == copies, "what does not change needs no copy"


@pytest.mark.usefixtures("bare")
def test_recipes(photos: Path) -> None:
    """Values of the user win over the recipe's, and the recipe's over those that suit the hardware."""
    paper = parameters(apply_preset("folder", None, {}, values=HARDWARE["cpu"]))
    names = own_values(paper, "recommended")
    assert names and recipe_of(paper) == "paper"
    done = quick("a", "--images", photos, "--device", "cpu")
    assert done.exit_code == 0 and "\nrecipe: recommended\n" in done.stdout
    assert recipe_of(params("a")) == "recommended" and params("a")["train"]["lr"] == 1e-4
    header = Path("a/params.yaml").read_text().split("\n\n")[0]
    assert "# Recipe: recommended; values that differ" in header and all(name in header for name in names)
    assert quick("b", "--images", photos, "--device", "cpu", "--recipe", "paper").exit_code == 0
    assert own_values(params("b"), "recommended") == names and "# Recipe" not in Path("b/params.yaml").read_text()
    done = quick("c", "--images", photos, "--set", "train.epochs=99", "--json")
    told = json.loads(done.stdout)
    assert (told["recipe"], told["own_values"]) == ("recommended", ["train.epochs"])
    assert params("c")["train"]["epochs"] == 99


@pytest.mark.usefixtures("bare")
def test_an_upgrade_changes_no_recipe(photos: Path) -> None:
    assert quick("pets", "--images", photos).exit_code == 0
    before = Path("pets/params.yaml").read_text()
    assert "params.yaml: nothing to change" in invoke("pets", "--upgrade").output
    done = invoke("pets", "--upgrade", "--recipe", "paper")
    assert done.exit_code == 2 and "ccd init pets --images FOLDER --force --recipe paper" in done.stderr
    assert Path("pets/params.yaml").read_text() == before


def test_an_upgrade_of_params_adds_and_drops_keys() -> None:
    current = apply_preset("voc07", "VOC", {"train.epochs": "3"})
    assert upgraded_params(current) == current
    older = current.replace("  consistency_weight", "  consistency")
    assert params_of(upgraded_params(older)) == params_of(current)
    with pytest.raises(CcdError, match=r"train\.epochs = 'three'"):
        upgraded_params(current.replace("epochs: 3 ", "epochs: three "))
    assert {model.section for model in SECTIONS} == set(params_of((PRESET_FOLDER / "paper.yaml").read_text()))


def params_of(text: str) -> dict[str, Any]:
    return dict(YAML(typ="safe").load(text))


def look() -> dict[str, Any]:
    pipeline.main.main(["--out", "inputs.json"], standalone_mode=False)
    return dict(json.loads(Path("inputs.json").read_text()))


@pytest.mark.usefixtures("bare")
def test_inputs_see_images_and_lists_that_change(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert quick("project", "--images", photos).exit_code == 0
    monkeypatch.chdir("project")
    first = look()
    assert first["images"]["files"] == 9 and set(first["code"]) == set(STAGES) and look() == first
    shutil.copy("../photos/0.png", "../photos/new.png")
    second = look()
    assert second["images"]["files"] == 10 and second["lists"] == first["lists"]
    with Path("../photos/new.png").open("ab") as file:
        file.write(b"\0")
    assert look()["images"] not in (first["images"], second["images"])
    Path("classes.txt").write_text("red\n")
    assert look()["lists"]["classes"] != first["lists"]["classes"]
    text = Path("dvc.yaml").read_text()
    Path("dvc.yaml").write_text(text.replace("      stages: ", "      stages: 0"))
    with pytest.raises(SystemExit, match="2"):
        look()
    Path("dvc.yaml").write_text(text)
    Path("params.yaml").write_text(Path("params.yaml").read_text().replace("adapter: folder", "adapter: voc"))
    assert look() == {"images": None, "lists": None, "code": first["code"]}


def test_force_and_upgrade_keep_what_a_person_wrote(photos: Path) -> None:
    assert quick("pets", "--images", photos).exit_code == 0
    for number, words in enumerate((("--images", str(photos), "--force"), ("--upgrade",))):
        for file in ("params.yaml", "dvc.yaml"):
            path = Path("pets", file)
            path.write_text(path.read_text() + f"# mine {number}\n")
        done = quick("pets", *words) if "--force" in words else invoke("pets", *words)
        assert done.exit_code == 0, done.output
        for file in ("params.yaml", "dvc.yaml"):
            assert any(f"# mine {number}" in copy.read_text() for copy in Path("pets").glob(f"{file}*")), file


def test_a_file_of_weights_is_no_student(photos: Path) -> None:
    done = invoke("pets", "--images", photos, "--teacher", "vit.pt", "--student", "vit.pt")
    assert done.exit_code == 2 and "--set warmup.weights=vit.pt" in done.stderr
