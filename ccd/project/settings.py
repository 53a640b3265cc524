"""The numbers of a new project: what the hardware suggests, then what the user asks for."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from ccd.errors import CcdError
from ccd.project.rates import TOWERS, Params
from ccd.project.suggest import Suggestion, local_file, path_from
from ccd.student.backbones import backbone_names

CLASSES_NAME = "classes.txt"
# Values that may be files, and the parameter that pins their content.
_FILES = {
    "teacher.model": "teacher.sha256",
    "teacher.pretrained": "teacher.sha256",
    "warmup.weights": "warmup.weights_sha256",
}


def project_settings(
    folder: Path,
    labels: Path | None,
    suggestion: Suggestion,
    teacher: str | None,
    student: str | None,
    chosen: Mapping[str, str],
    *,
    skip_bad: bool,
) -> dict[str, str]:
    """``section.key`` -> value as in YAML, for `ccd.use.apply_preset`.

    Args:
        folder: of the project; files are named relative to it where they lie in it, else by absolute paths, and pinned
            by their SHA-256.
        teacher: an OpenAI name, a checkpoint, or a folder of open_clip; ``student``: a torchvision name.
        chosen: the user's own, which win.
        skip_bad: there are files that cannot be used; the user has been told.
    """
    settings = {"dataset.name": dataset_name(folder), "index.classes_file": CLASSES_NAME}
    if labels is not None:
        settings["index.labels_file"] = path_from(labels, folder)
    if skip_bad:
        settings["index.on_bad_image"] = "skip"
    settings |= suggestion.settings
    if teacher is not None:
        settings |= _teacher(teacher)
    if student is not None:
        settings["warmup.backbone"] = student
    return settings | _pinned({**settings, **chosen}, folder)


def check_models(params: Params, folder: Path) -> None:
    """Raises CcdError for a teacher or student that ``dvc repro`` would not find; names of open_clip are not checked."""
    model, backbone, weights = params["teacher"]["model"], params["warmup"]["backbone"], params["warmup"]["weights"]
    if params["teacher"]["backend"] == "clip" and model not in TOWERS and not (folder / model).is_file():
        raise CcdError(f"teacher {model!r} is neither a file nor one of {', '.join(TOWERS)}")
    if backbone not in backbone_names():
        raise CcdError(f"student {backbone!r} is none of torchvision's {', '.join(backbone_names())}")
    if weights not in ("imagenet", "none") and not (folder / weights).is_file():
        raise CcdError(f"warmup.weights {weights!r} is neither imagenet, nor none, nor a file")


def dataset_name(folder: Path) -> str:
    """The project's folder's name, as far as artifacts can be called so."""
    name = re.sub(r"[^A-Za-z0-9_.-]+", "_", folder.absolute().name).lstrip("_.-")
    return name or "my_images"


def _teacher(name: str) -> dict[str, str]:
    """A ViT looks at images of the size it was trained on; 640 px need not be a multiple of its patch."""
    settings = {"teacher.model": name}
    if Path(name).expanduser().is_dir():
        settings["teacher.backend"] = "open_clip"
    if name.startswith("ViT") and name in TOWERS:
        keys = ("clip_global.image_size_px", "clip_local.image_size_px", "clip_local.resized_px")
        settings |= dict.fromkeys(keys, str(TOWERS[name][1]))
    return settings


def _pinned(settings: Mapping[str, str], folder: Path) -> dict[str, str]:
    pinned = dict(settings)
    for key, hash_key in _FILES.items():
        value = settings.get(key)
        found = local_file(value, folder) if value else None
        if value and found is not None:
            pinned[key] = found[0]
            if not value.endswith(".json"):  # an open_clip config; the weights are in teacher.pretrained
                pinned.setdefault(hash_key, found[1])
        elif value and Path(value).expanduser().is_dir():
            pinned[key] = path_from(Path(value).expanduser(), folder)
    return pinned
