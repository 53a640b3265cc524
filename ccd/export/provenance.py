"""What a student was made of, as far as the artifacts beside it say."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path, PurePath
from typing import Any

import numpy as np

from ccd import __version__
from ccd.artifacts import checkpoint, class_table, image_index, measured, text as text_file
from ccd.artifacts.listing import artifact_list
from ccd.artifacts.pseudo_labels import PSEUDO_LABELS
from ccd.deploy.description import ModelDescription, describe
from ccd.deploy.load import read_student

SECTIONS = ("text", "clip_global", "bias", "global_labels", "cam_boxes", "clip_local", "aggregate", "warmup", "train")
WEIGHT_FILES = frozenset({".pt", ".pth", ".bin", ".safetensors"})


@dataclass(frozen=True)
class Background:
    """``description`` with provenance and licence; ``label_share`` (C,) of the training images that the pseudo-labels
    give each class, None if unknown; ``test`` and ``per_class``: what evaluate measured, None and {} if nothing."""

    description: ModelDescription
    label_share: np.ndarray | None
    test: measured.SplitMetrics | None
    per_class: dict[str, dict[str, float]]


def background(student: Path, licence: str, lock: Path = Path("dvc.lock")) -> tuple[Background, checkpoint.Weights]:
    """Read ``student.pt`` and whatever lies beside it; what is missing is left out, nothing is guessed.

    Raises:
        CcdError: the student, or an artifact beside it, is damaged.
    """
    (found, sha256), folder = read_student(student), student.parent
    known = describe(found)
    story: dict[str, Any] = {
        "made_with": f"ccd {__version__} (Classifier-guided CLIP Distillation, CVPR 2025, arXiv:2503.16873)",
        "source_sha256": sha256,
        **known.provenance,
        **_teacher(folder / "text.h5"),
        **_images(folder / "images.parquet"),
        "parameters": _parameters(student, lock),
    }
    test, per_class = _measured(folder)
    described = replace(known, licence=licence, provenance=story)
    share = _label_share(folder / "pseudo_labels.parquet", described.spec.classes)
    return Background(described, share, test, per_class), found.weights[found.selected]


def _teacher(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    words = text_file.read(path)
    backend, _, model = words.attributes.get("teacher", "unknown").partition(" ")
    return {
        "teacher": f"{backend} {_name_only(model)}".strip(),
        "teacher_fingerprint": words.attributes.get("fingerprint", "unknown"),
        "templates": list(words.templates),
        "class_texts": [list(texts) for texts in words.texts],
    }


def _images(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    is_train = image_index.read(path).is_train
    return {"images": {"train": int(is_train.sum()), "test": int((~is_train).sum())}}


def _parameters(student: Path, lock: Path) -> dict[str, Any]:
    """What DVC recorded for these very bytes and those of the artifacts beside them; no folders of this machine."""
    if not lock.is_file():
        return {}
    made = [artifact.parameters for artifact in artifact_list(student.parent, lock) if artifact.made_by]
    merged = {key: value for parameters in made for key, value in parameters.items()}
    chosen = {key: value for key, value in sorted(merged.items()) if key.split(".")[0] in (*SECTIONS, "teacher")}
    return {key: _name_only(value) if isinstance(value, str) else value for key, value in chosen.items()}


def _name_only(name: str) -> str:
    """A local file's name without its folder; names of models, like ViT-B/32, stay."""
    return PurePath(name).name if PurePath(name).suffix in WEIGHT_FILES else name


def _label_share(path: Path, classes: tuple[str, ...]) -> np.ndarray | None:
    if not path.is_file():
        return None
    made = class_table.read(path, PSEUDO_LABELS, ["label"])
    return (made.columns["label"] >= 0.5).mean(axis=0) if made.classes == classes and made.ids else None


def _measured(folder: Path) -> tuple[measured.SplitMetrics | None, dict[str, dict[str, float]]]:
    if not (folder / "metrics.json").is_file() or not (folder / "per_class.csv").is_file():
        return None, {}
    test = measured.read_metrics(folder / "metrics.json")["test"]
    return (test, measured.read_per_class(folder / "per_class.csv")) if test.images else (None, {})
