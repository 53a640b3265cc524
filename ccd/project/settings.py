"""Compose the files of a new project: its parameters as the user requests them, its README and the rest."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ccd.artifacts.corrections_file import COLUMNS, path_of
from ccd.artifacts.weights_file import refuse_other
from ccd.errors import CcdError, url_of
from ccd.params.presets import apply_preset, parameters, parsed_value
from ccd.params.recipes import recipe_values
from ccd.params.teachers import HUB, recommended
from ccd.project.pipeline import project_text
from ccd.project.suggest import STUDENTS, TOWERS, Suggestion, local_file, network_of, path_from
from ccd.project.survey import Params
from ccd.student.backbones import backbone_names, check_sides, side_step_px
from ccd.student.pretrained import check_published
from ccd.teacher.open_clip import FOLDER_CONFIG, FOLDER_WEIGHTS, weights_in

_TEXT = """\
# {name}

A multi-label classifier of {classes} classes, made from unlabelled images and class names by `ccd` (Classifier-guided
CLIP Distillation, CVPR 2025).

    dvc repro                     # run everything, or after a change or an interruption, only what is needed
    dvc metrics show              # mAP in %, on the images that have labels in labels.csv

Then open `data/{name}/report.html` in a browser.

    ccd preview                   # after dvc repro text clip_global: does CLIP know the class names?
    ccd open                      # look at every image, search, and decide labels by keyboard
    ccd predict {student} PHOTOS --out labels.csv      # label any images; PHOTOS: files or folders
    ccd export onnx student.onnx  # export the classifier to run it without ccd
    ccd inspect --doubtful        # list the images that are worth a look

## Images that show none of the classes

With `text.background_words: true` in `params.yaml` a list of words (sky, wall, road, ...) competes with the classes,
and most images that show none of them stay without labels. With `false`, and `global_labels.none_rule: off`, they are
not looked for and **get labels all the same**, and the classifier learns from them. To go further:

- find them by a rule: `global_labels.none_rule` and `none_threshold`; with `none_weight: 1.0`, they are reported and
  their labels stay, so that you can check the rule first;
- for the rule `background`, describe what else the images show: `text.background_texts`;
- decide by hand: `ccd review export --top 200`, answer 0, `ccd review import FILE`, `dvc repro`.

## How to change something

- **A parameter**: edit `params.yaml` (every key is explained there), then `dvc repro`.
- **More images**: put them into the folder, then `dvc repro`. CLIP encodes only the new ones.
- **Classes**: edit `classes.txt`, then `dvc repro`. One class per line; `sofa: couch, settee` gives CLIP other words.
  No whole image is encoded again.
- **Labels** for evaluation: `labels.csv` beside the images, with columns `path,classes` (several classes with `;`).
  They are never used for training. Images below `test/` are used for evaluation only.
- **Labels of training images**: `ccd review export`, decide, `ccd review import FILE`, `dvc repro`.
- **ccd itself**: install another version, then `dvc repro`. Only the stages whose code changed run again.

## Files

`params.yaml`: parameters; `dvc.yaml`: stages; `classes.txt`: classes; `inputs.json`: hashes of what DVC cannot track
(the installed code, and the images' names and sizes); `dvc.lock`: hashes of what each stage read and wrote;
`corrections/`: labels that people decided. Keep these in git. `data/` and `.ccd/` can be made again and are not in git.

The images are not copied: `dataset.root` in `params.yaml` is their folder. {where}
"""
_ABSOLUTE = """It is a path on this computer; on another one,
set it to the folder of the same images. Only `index` runs again then, with the same result."""
_RELATIVE = """It is relative to this folder,
so that both can be moved together. git and DVC ignore it."""


def readme(name: str, classes: int, root: str) -> str:
    """Return the README of a project with artifacts in ``data/<name>`` and images in ``root``."""
    where = _ABSOLUTE if root.startswith("/") else _RELATIVE
    student = shlex.quote(f"data/{name}/student.pt")
    return _TEXT.format(name=name, student=student, classes=classes, where=where)


CLASSES_NAME = "classes.txt"
_WEIGHTS = ("imagenet", "timm", "none", "teacher")  # values of warmup.weights that are no files
_SIZED = ("warmup", "cam_boxes", "train")  # sections with an image_size_px for the student
_WEIGHT_SUFFIXES = (".pt", ".pth", ".bin", ".ckpt", ".safetensors")
# Parameters that may name files, and the parameters that hold the files' SHA-256.
_FILES = {
    "teacher.model": "teacher.sha256",
    "teacher.pretrained": "teacher.sha256",
    "warmup.weights": "warmup.weights_sha256",
}


@dataclass(frozen=True)
class ProjectRequest:
    """A user's request for a new project in ``folder``.

    ``labels``: None for ``labels.csv`` beside the images, which stage index finds by itself. ``teacher``: an OpenAI
    name, a checkpoint, or a folder of open_clip; ``student``: a size of `STUDENTS`, or a name of torchvision or timm.
    ``overrides``: ``section.key`` -> text of a value, see `ccd.params.presets.parsed_value`; they take precedence.
    ``recipe``: one of `ccd.params.recipes.RECIPES`; its values replace the suggestion's, and the user's replace both.
    All other values are used as written, since a folder may be called 2024. Files in the project are named by relative
    paths, others by absolute ones, and weights are pinned by their SHA-256.
    """

    folder: Path
    images: Path
    labels: Path | None
    suggestion: Suggestion
    teacher: str | None
    student: str | None
    overrides: Mapping[str, str]
    recipe: str

    @property
    def root(self) -> str:
        """The value of ``dataset.root``."""
        return path_from(self.images, self.folder)

    def params(self, *, skip_bad: bool) -> str:
        """Return the text of ``params.yaml``.

        Args:
            skip_bad: let stage index skip files that cannot be used.

        Raises:
            CcdError: an unknown section, key or model, or a value that does not fit.
        """
        values: dict[str, Any] = {"dataset.name": dataset_name(self.folder), "index.classes_file": CLASSES_NAME}
        if self.labels is not None:
            values["index.labels_file"] = path_from(self.labels, self.folder)
        if url_of(self.images) is not None:
            values["index.verify"] = "header"  # else stage index fetches every file
        if skip_bad:
            values["index.on_bad_image"] = "skip"
        values |= self.suggestion.settings
        values |= recipe_values(self.recipe, "folder")
        values |= {} if self.teacher is None else _teacher(self.teacher)
        values |= {} if self.student is None else _student(self.student)
        values |= {name: parsed_value(name, text) for name, text in self.overrides.items()}
        text = apply_preset("folder", self.root, {}, values=_pinned(values, self.folder), recipe=self.recipe)
        check_models(parameters(text), self.folder)
        return text

    def texts(self, classes: Path, class_count: int, *, skip_bad: bool) -> dict[str, str]:
        """Return file name -> text for the whole project; its list of classes is a copy of ``classes``.

        Raises:
            CcdError: see `params`.
        """
        params = self.params(skip_bad=skip_bad)
        name = parameters(params)["dataset"]["name"]
        return {
            "params.yaml": params,
            "dvc.yaml": project_text(),
            CLASSES_NAME: classes.read_text(encoding="utf-8-sig"),
            "README.md": readme(name, class_count, self.root),
            path_of(name).as_posix(): ",".join(COLUMNS) + "\n",
        }


def check_models(params: Params, folder: Path) -> None:
    """Check the models in ``params`` for a project in ``folder``, except names of open_clip.

    Raises:
        CcdError: ``dvc repro`` would not find a model or its weights, or they are not weights.
    """
    teacher = params["teacher"]
    student = params["warmup"]
    if teacher["backend"] == "clip":
        _check_openai(teacher["model"], folder)
    elif (folder / teacher["model"]).is_dir():
        _check_open_clip_folder(folder / teacher["model"])
    if teacher["pretrained"] and (folder / teacher["pretrained"]).is_file():
        refuse_other(folder / teacher["pretrained"], "teacher.pretrained")
    if student["backbone"].startswith("timm/"):
        _check_timm(params)
    elif student["backbone"] not in (*backbone_names(), "teacher"):
        raise CcdError(_no_backbone(student["backbone"], folder))
    weights = folder / student["weights"]
    if student["weights"] in _WEIGHTS:
        return
    if not weights.is_file():
        raise CcdError(f"warmup.weights {student['weights']!r} is neither imagenet, timm, teacher, none, nor a file")
    refuse_other(weights, "warmup.weights")


def _check_timm(params: Params) -> None:
    """Raise CcdError unless timm is installed and has the network, and the network reads the images' sizes."""
    name = params["warmup"]["backbone"]
    if params["warmup"]["weights"] == "imagenet":
        raise CcdError(f"torchvision has no ImageNet weights for {name}: --set warmup.weights=timm, none or a file")
    if params["warmup"]["weights"] == "timm":
        check_published(name)
    check_sides(name, side_step_px(network_of(name)), *(params[section]["image_size_px"] for section in _SIZED))


def _check_openai(model: str, folder: Path) -> None:
    if model in TOWERS:
        return
    path = folder / model
    if not path.is_file():
        raise CcdError(
            f"teacher {model!r} is neither a file nor one of {', '.join(TOWERS)}; a model of open_clip: --teacher "
            "hf-hub:ORG/NAME, or --teacher NAME --set teacher.backend=open_clip --set teacher.pretrained=TAG"
        )
    if path.suffix == ".json":
        raise CcdError(
            f"teacher {model!r} is a configuration without weights; for open_clip: --set teacher.backend=open_clip "
            "--set teacher.pretrained=FILE"
        )
    refuse_other(path, "teacher.model")


def _check_open_clip_folder(path: Path) -> None:
    weights = weights_in(path)
    missing = [] if (path / FOLDER_CONFIG).is_file() else [FOLDER_CONFIG]
    missing += [FOLDER_WEIGHTS[0]] if weights is None else []
    if weights is None or missing:
        raise CcdError(
            f"teacher: the folder {path} holds no {' and no '.join(missing)}, so it is no model of open_clip; for an "
            "OpenAI checkpoint, give its file: --teacher FILE"
        )
    refuse_other(weights, "teacher.model")


def _no_backbone(name: str, folder: Path) -> str:
    """Explain why ``name`` is no backbone; users often give the file of their weights instead of a network's name."""
    is_file = (folder / name).exists() or Path(name).expanduser().exists()
    if is_file or "/" in name or Path(name).suffix in _WEIGHT_SUFFIXES:
        return (
            f"student {name!r} is a path; --student takes the name of a torchvision network, and its weights go into "
            f"warmup.weights: --student mobilenet_v2 --set {shlex.quote(f'warmup.weights={name}')} (or resnet50, ...)"
        )
    return (
        f"student {name!r} is none of torchvision's {', '.join(backbone_names())}, no size ({', '.join(STUDENTS)}), "
        "and not called timm/NAME"
    )


def dataset_name(folder: Path) -> str:
    """Return the name of the project's folder without the characters that ``dataset.name`` must not have."""
    name = re.sub(r"[^A-Za-z0-9_.-]+", "_", folder.absolute().name).lstrip("_.-")
    return name or "my_images"


def _teacher(name: str) -> dict[str, Any]:
    """Return the settings for a teacher; a ViT gets its native image size, since 640 px may not fit its patches."""
    settings: dict[str, Any] = {"teacher.model": name}
    if name.startswith(HUB) or Path(name).expanduser().is_dir():
        settings["teacher.backend"] = "open_clip"
    row = recommended(name)
    side_px = TOWERS[name].side_px if name.startswith("ViT") and name in TOWERS else None
    side_px = row.image_px if row is not None and name.startswith(HUB) else side_px
    if side_px is not None:
        keys = ("clip_global.image_size_px", "clip_local.image_size_px", "clip_local.resized_px")
        settings |= dict.fromkeys(keys, side_px)
    return settings


def _student(name: str) -> dict[str, Any]:
    """Return the settings for a student: the network of a size, and timm's own weights for a network of timm."""
    backbone = STUDENTS.get(name, name)
    weights = {"warmup.weights": "timm"} if backbone.startswith("timm/") else {}
    return {"warmup.backbone": backbone, **weights}


def _pinned(settings: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Return the settings with files named as the project in ``folder`` names them, and their SHA-256."""
    pinned = dict(settings)
    for key, hash_key in _FILES.items():
        value = settings.get(key)
        if not isinstance(value, str) or value in _WEIGHTS:
            continue
        path_and_hash = local_file(value, folder) if value else None
        if value and path_and_hash is not None:
            pinned[key] = path_and_hash[0]
            if not value.endswith(".json"):  # the config of an open_clip model, whose weights are teacher.pretrained
                pinned.setdefault(hash_key, path_and_hash[1])
        elif value and Path(value).expanduser().is_dir():
            pinned[key] = path_from(Path(value).expanduser(), folder)
    return pinned
