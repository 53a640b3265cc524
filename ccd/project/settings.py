"""The files of a new project: its parameters as the user asks for them, and its README."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ccd.artifacts.corrections_file import COLUMNS, path_of
from ccd.artifacts.weights_file import refuse_other
from ccd.errors import CcdError
from ccd.params.presets import apply_preset, parameters, parsed_value
from ccd.project.pipeline import project_text
from ccd.project.suggest import TOWERS, Suggestion, local_file, path_from
from ccd.project.survey import Params
from ccd.student.model import backbone_names

_TEXT = """\
# {name}

A multi-label classifier of {classes} classes, made from unlabelled images and class names by `ccd` (Classifier-guided
CLIP Distillation, CVPR 2025).

    dvc repro                     # everything; afterwards, what changed; interrupted, what is left
    dvc metrics show              # mAP in %, on the images that have labels in labels.csv

Then open `data/{name}/report.html` in a browser.

    ccd predict {student} PHOTOS --out labels.csv      # label any images; PHOTOS: files or folders
    ccd export onnx student.onnx  # the same classifier without ccd; it says which packages it needs
    ccd inspect --doubtful        # which images to look at

## Images that show none of the classes

They are not looked for by default (`global_labels.none_rule: off` in `params.yaml`), so **images that show none of
the classes still get labels**, and the classifier learns from them. If some of your images are like that:

- let a rule find them: `global_labels.none_rule` and `none_threshold`; with `none_weight: 1.0` it finds without
  touching a label, to look first;
- give the rule `background` texts of what else the images show: `text.background_texts`;
- decide by hand: `ccd review export --top 200`, answer 0, `ccd review import FILE`, `dvc repro`.

## Changing it

- **A parameter**: edit `params.yaml` (every key is explained there), `dvc repro`.
- **More images**: put them into the folder, `dvc repro`. CLIP looks at the new ones alone.
- **Classes**: edit `classes.txt`, `dvc repro`. One class a line; `sofa: couch, settee` gives CLIP other words. No whole
  image is encoded again.
- **Labels**, to measure with: `labels.csv` beside the images, columns `path,classes` (several classes with `;`). They
  are never trained on. Images below `test/` are kept for measuring.
- **Labels of training images**: `ccd review export`, decide, `ccd review import FILE`, `dvc repro`.
- **ccd itself**: install another version, `dvc repro`. What its code changes is done again, nothing else.

## What is here

`params.yaml`: numbers; `dvc.yaml`: stages; `classes.txt`: classes; `inputs.json`: what DVC cannot see (hashes of the
installed code, and of the images' names and sizes); `dvc.lock`: what was made from what; `corrections/`:
what people decided. Keep these in git. `data/` and
`.ccd/` can be made again and are not in git.

The images are not copied: `dataset.root` in `params.yaml` says where they are. {where}
"""
_ABSOLUTE = """That is a path of this computer; elsewhere
set it to where the same images lie. Only `index` runs again then, and finds nothing changed."""
_RELATIVE = """It is relative to this folder,
so that both can be moved together. git and DVC do not look into it."""


def readme(name: str, classes: int, root: str) -> str:
    """The text, for artifacts in ``data/<name>`` and images in ``root``."""
    where = _ABSOLUTE if root.startswith("/") else _RELATIVE
    student = shlex.quote(f"data/{name}/student.pt")
    return _TEXT.format(name=name, student=student, classes=classes, where=where)


CLASSES_NAME = "classes.txt"
_OF_WEIGHTS = (".pt", ".pth", ".bin", ".ckpt", ".safetensors")
# Values that may be files, and the parameter that pins their content.
_FILES = {
    "teacher.model": "teacher.sha256",
    "teacher.pretrained": "teacher.sha256",
    "warmup.weights": "warmup.weights_sha256",
}


@dataclass(frozen=True)
class ProjectRequest:
    """What a user asks of a new project in ``folder``.

    ``labels``: None for ``labels.csv`` beside the images, where index looks by itself. ``teacher``: an OpenAI name, a
    checkpoint, or a folder of open_clip; ``student``: a torchvision name. ``chosen``: ``section.key`` -> text of a
    value, see `ccd.params.presets.parsed_value`; they win. All else is taken as written: a folder may be called 2024.
    Files are named relative to the project where they lie in it, else by absolute paths, and weights pinned by SHA-256.
    """

    folder: Path
    images: Path
    labels: Path | None
    suggestion: Suggestion
    teacher: str | None
    student: str | None
    chosen: Mapping[str, str]

    @property
    def root(self) -> str:
        """``dataset.root``."""
        return path_from(self.images, self.folder)

    def params(self, *, skip_bad: bool) -> str:
        """The text of ``params.yaml``.

        Args:
            skip_bad: there are files that cannot be used; the user has been told.

        Raises:
            CcdError: an unknown section, key or model, or a value that does not fit.
        """
        values: dict[str, Any] = {"dataset.name": dataset_name(self.folder), "index.classes_file": CLASSES_NAME}
        if self.labels is not None:
            values["index.labels_file"] = path_from(self.labels, self.folder)
        if skip_bad:
            values["index.on_bad_image"] = "skip"
        values |= self.suggestion.settings
        values |= {} if self.teacher is None else _teacher(self.teacher)
        values |= {} if self.student is None else {"warmup.backbone": self.student}
        values |= {name: parsed_value(name, text) for name, text in self.chosen.items()}
        text = apply_preset("folder", self.root, {}, values=_pinned(values, self.folder))
        check_models(parameters(text), self.folder)
        return text

    def texts(self, classes: Path, class_count: int, *, skip_bad: bool) -> dict[str, str]:
        """File name -> text of the whole project; its list of classes is a copy of ``classes``."""
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
    """Raises CcdError for models that ``dvc repro`` would not find or read; names of open_clip are not checked."""
    teacher = params["teacher"]
    student = params["warmup"]
    if teacher["backend"] == "clip":
        _check_openai(teacher["model"], folder)
    elif (folder / teacher["model"]).is_dir():
        _check_open_clip_folder(folder / teacher["model"])
    if teacher["pretrained"] and (folder / teacher["pretrained"]).is_file():
        refuse_other(folder / teacher["pretrained"], "teacher.pretrained")
    if student["backbone"] not in backbone_names():
        raise CcdError(_no_backbone(student["backbone"], folder))
    weights = folder / student["weights"]
    if student["weights"] in ("imagenet", "none"):
        return
    if not weights.is_file():
        raise CcdError(f"warmup.weights {student['weights']!r} is neither imagenet, nor none, nor a file")
    refuse_other(weights, "warmup.weights")


def _check_openai(model: str, folder: Path) -> None:
    if model in TOWERS:
        return
    path = folder / model
    if not path.is_file():
        raise CcdError(
            f"teacher {model!r} is neither a file nor one of {', '.join(TOWERS)}; a model of open_clip: --teacher NAME "
            "--set teacher.backend=open_clip --set teacher.pretrained=TAG"
        )
    if path.suffix == ".json":
        raise CcdError(
            f"teacher {model!r} is a configuration without weights; for open_clip: --set teacher.backend=open_clip "
            "--set teacher.pretrained=FILE"
        )
    refuse_other(path, "teacher.model")


def _check_open_clip_folder(path: Path) -> None:
    needed = ("open_clip_config.json", "open_clip_model.safetensors")
    missing = [name for name in needed if not (path / name).is_file()]
    if missing:
        raise CcdError(
            f"teacher: the folder {path} holds no {' and no '.join(missing)}, so it is no model of open_clip; give the "
            "file of an OpenAI checkpoint: --teacher FILE"
        )
    refuse_other(path / needed[1], "teacher.model")


def _no_backbone(name: str, folder: Path) -> str:
    """A person who has weights gives their file as the student; the network's name is needed as well."""
    if (folder / name).exists() or Path(name).expanduser().exists() or "/" in name or Path(name).suffix in _OF_WEIGHTS:
        return (
            f"student {name!r} is a path; --student takes the name of a torchvision network, and its weights go into "
            f"warmup.weights: --student mobilenet_v2 --set {shlex.quote(f'warmup.weights={name}')} (or resnet50, ...)"
        )
    return f"student {name!r} is none of torchvision's {', '.join(backbone_names())}"


def dataset_name(folder: Path) -> str:
    """The project's folder's name, as far as artifacts can be called so."""
    name = re.sub(r"[^A-Za-z0-9_.-]+", "_", folder.absolute().name).lstrip("_.-")
    return name or "my_images"


def _teacher(name: str) -> dict[str, Any]:
    """A ViT looks at images of the size it was trained on; 640 px need not be a multiple of its patch."""
    settings: dict[str, Any] = {"teacher.model": name}
    if Path(name).expanduser().is_dir():
        settings["teacher.backend"] = "open_clip"
    if name.startswith("ViT") and name in TOWERS:
        keys = ("clip_global.image_size_px", "clip_local.image_size_px", "clip_local.resized_px")
        settings |= dict.fromkeys(keys, TOWERS[name].side_px)
    return settings


def _pinned(settings: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    pinned = dict(settings)
    for key, hash_key in _FILES.items():
        value = settings.get(key)
        if not isinstance(value, str):
            continue
        found = local_file(value, folder) if value else None
        if value and found is not None:
            pinned[key] = found[0]
            if not value.endswith(".json"):  # an open_clip config; the weights are in teacher.pretrained
                pinned.setdefault(hash_key, found[1])
        elif value and Path(value).expanduser().is_dir():
            pinned[key] = path_from(Path(value).expanduser(), folder)
    return pinned
