"""The numbers of a new project: what the hardware suggests, then what the user asks for."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ccd.artifacts.corrections import COLUMNS, path_of
from ccd.errors import CcdError
from ccd.project.disk import Params
from ccd.project.pipeline import project_text
from ccd.project.readme import readme
from ccd.project.suggest import TOWERS, Suggestion, local_file, path_from
from ccd.student.backbones import backbone_names
from ccd.use import apply_preset, parameters, parsed_value

CLASSES_NAME = "classes.txt"
# Values that may be files, and the parameter that pins their content.
_FILES = {
    "teacher.model": "teacher.sha256",
    "teacher.pretrained": "teacher.sha256",
    "warmup.weights": "warmup.weights_sha256",
}


@dataclass(frozen=True)
class Asked:
    """What a user asks of a new project in ``folder``.

    ``labels``: None for ``labels.csv`` beside the images, where index looks by itself. ``teacher``: an OpenAI name, a
    checkpoint, or a folder of open_clip; ``student``: a torchvision name. ``chosen``: ``section.key`` -> value as in
    YAML; they win.
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
        settings: dict[str, Any] = {"dataset.name": dataset_name(self.folder), "index.classes_file": CLASSES_NAME}
        if self.labels is not None:
            settings["index.labels_file"] = path_from(self.labels, self.folder)
        if skip_bad:
            settings["index.on_bad_image"] = "skip"
        settings |= self.suggestion.settings
        settings |= {} if self.teacher is None else _teacher(self.teacher)
        settings |= {} if self.student is None else {"warmup.backbone": self.student}
        chosen = {key: parsed_value(key, text) for key, text in self.chosen.items()}
        text = apply_preset("folder", self.root, {}, values=_pinned({**settings, **chosen}, self.folder))
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
    """Raises CcdError for models that ``dvc repro`` would not find; names of open_clip are not checked."""
    model, backbone, weights = params["teacher"]["model"], params["warmup"]["backbone"], params["warmup"]["weights"]
    if params["teacher"]["backend"] == "clip" and model not in TOWERS and not (folder / model).is_file():
        raise CcdError(f"teacher {model!r} is neither a file nor one of {', '.join(TOWERS)}")
    if backbone not in backbone_names():
        if (folder / backbone).is_file() or Path(backbone).expanduser().is_file():
            weights_of = f"--student NAME --set warmup.weights={shlex.quote(backbone)}"
            raise CcdError(
                f"student {backbone!r} is a file; name the network, and the file as its weights: {weights_of}"
            )
        raise CcdError(f"student {backbone!r} is none of torchvision's {', '.join(backbone_names())}")
    if weights not in ("imagenet", "none") and not (folder / weights).is_file():
        raise CcdError(f"warmup.weights {weights!r} is neither imagenet, nor none, nor a file")


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
