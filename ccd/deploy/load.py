"""Opening a model from any of its forms: a checkpoint, an exported folder, an ONNX file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from ccd.artifacts import checkpoint
from ccd.checksum import sha256_of
from ccd.deploy.classifier import Classifier, OnnxClassifier, TorchClassifier, onnx_session
from ccd.deploy.description import ModelDescription, describe, from_json
from ccd.deploy.folder import read_folder
from ccd.errors import CcdError, listed

ONNX_KEY = "ccd.model"


def open_model(path: Path, device: torch.device) -> Classifier:
    """The classifier in ``path``.

    Raises:
        CcdError: nothing there, not a model, or damaged.
    """
    check_exists(path)
    if path.suffix == ".onnx":
        session = onnx_session(path, device)
        return OnnxClassifier(_onnx_description(session, path), session, sha256_of(path))
    if path.is_dir():
        description, weights, sha256 = read_folder(path)
        return TorchClassifier(description, weights, sha256, device)
    if path.suffix != ".pt":
        raise CcdError(f"{path}: no model; give a checkpoint (student.pt), an exported folder, or an .onnx file")
    found, sha256 = read_student(path)
    return TorchClassifier(describe(found), found.weights[found.selected], sha256, device)


def check_exists(path: Path) -> None:
    """Raises CcdError if a person named a model that is not there; the models that are nearby are listed."""
    if path.exists():
        return
    near = sorted(str(each) for folder in {path.parent, Path("data")} for each in folder.glob("**/student*.pt"))
    raise CcdError(f"{path}: no such file; " + (f"models here: {listed(near)}" if near else "check its name"))


def read_student(path: Path) -> tuple[checkpoint.Checkpoint, str]:
    """A checkpoint that a person named, and its SHA-256. A stage is named to rebuild it only if a stage made it.

    Raises:
        CcdError: it is not there, damaged, or no student.
    """
    check_exists(path)
    made_here = path.resolve().is_relative_to(Path("data").resolve())
    return checkpoint.read_hashed(path, "train" if made_here else None)


def _onnx_description(session: Any, path: Path) -> ModelDescription:
    """The description in the metadata of an ONNX file that ccd exported."""
    metadata = session.get_modelmeta().custom_metadata_map
    try:
        return from_json(json.loads(metadata[ONNX_KEY]), str(path))
    except (KeyError, ValueError):
        raise CcdError(f"{path}: not exported by ccd (no metadata '{ONNX_KEY}'); use: ccd export onnx FILE") from None
