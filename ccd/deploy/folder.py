"""The exported folder: ``model.safetensors`` beside ``model.json``, which states the hash of the weights."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from ccd.artifacts.atomic import replacing, write_json
from ccd.artifacts.checkpoint import Weights
from ccd.artifacts.existing import keep_old
from ccd.checksum import sha256_of
from ccd.deploy.description import SCHEMA, ModelDescription, from_json, to_json
from ccd.errors import CcdError

WEIGHTS, DESCRIPTION = "model.safetensors", "model.json"


def write_folder(folder: Path, description: ModelDescription, weights: Weights) -> None:
    """Write both files; the same content gives the same bytes."""
    plain = {name: value.contiguous() for name, value in weights.items()}
    with replacing(folder / WEIGHTS) as temporary:
        temporary.write_bytes(save(plain))
    write_json(folder / DESCRIPTION, to_json(description) | {"sha256": {WEIGHTS: sha256_of(folder / WEIGHTS)}})


def keep_foreign(folder: Path) -> list[Path]:
    """Copy weights and description beside themselves if no export wrote them, before one does. Returns the copies."""
    try:
        content = _read_description(folder / DESCRIPTION)
        ours, stated = [DESCRIPTION], (content.get("sha256") or {}).get(WEIGHTS)
    except (CcdError, AttributeError):
        ours, stated = [], None
    weights = folder / WEIGHTS
    if stated is not None and weights.is_file() and sha256_of(weights) == stated:
        ours.append(WEIGHTS)
    copies = [keep_old(folder / name) for name in (DESCRIPTION, WEIGHTS) if name not in ours]
    return [copy for copy in copies if copy is not None]


def read_folder(folder: Path) -> tuple[ModelDescription, dict[str, Tensor], str]:
    """The description, the weights and their SHA-256.

    Raises:
        CcdError: a file is missing or damaged, or the weights are not those that ``model.json`` names.
    """
    path = folder / WEIGHTS
    if not path.is_file() or not (folder / DESCRIPTION).is_file():
        raise CcdError(f"{folder}: no {WEIGHTS} with a {DESCRIPTION} in it; make one with: ccd export model FOLDER")
    content = _read_description(folder / DESCRIPTION)
    data = path.read_bytes()  # once, since the file may be replaced
    description, found = from_json(content, str(folder / DESCRIPTION)), hashlib.sha256(data).hexdigest()
    stated = (content.get("sha256") or {}).get(WEIGHTS)
    if stated != found:
        raise CcdError(f"{path}: its SHA-256 is {found}, but {DESCRIPTION} says {stated}; export the model again")
    try:
        return description, load(data), found
    except (SafetensorError, OSError, ValueError) as error:
        raise CcdError(f"{path}: not readable as safetensors ({error}); export the model again") from None


def _read_description(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CcdError(f"{path}: not readable as JSON ({error}); export the model again") from None
    found = content.get("schema") if isinstance(content, dict) else None
    if found != SCHEMA:
        raise CcdError(f"{path}: its schema is {found!r}, expected {SCHEMA!r}; export the model again")
    return content  # type: ignore[no-any-return]
