"""``warmup.pt`` and ``student.pt``: all that is needed to rebuild the student, loaded without running pickled code."""

from __future__ import annotations

import io
import pickle
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch

from ccd.artifacts.files import hash_of_rest, replacing, unreadable
from ccd.errors import is_refusal

SCHEMA = "ccd.checkpoint/1"
Weights = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Checkpoint:
    """A student and its origin.

    ``spec``: the fields of `ccd.student.model.StudentSpec`. ``weights``: name (e.g. ``last``) -> state dict.
    ``selected``: the name of the weights to use. ``info``: epochs, the rule of selection and, if there are any,
    ``thresholds``: ``values`` (C) and their ``source``.
    """

    spec: dict[str, Any]
    weights: dict[str, Weights]
    selected: str
    info: dict[str, Any]


def thresholds(checkpoint: Checkpoint) -> tuple[list[float], str]:
    """Return the decision threshold of every class and their source; 0.5 for a student without thresholds."""
    content = checkpoint.info.get("thresholds", {"values": [0.5] * len(checkpoint.spec["classes"]), "source": "0.5"})
    return list(content["values"]), str(content["source"])


def write(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint; the same content gives the same bytes."""
    content = {
        "schema": SCHEMA,
        "spec": checkpoint.spec,
        "weights": checkpoint.weights,
        "selected": checkpoint.selected,
        "info": checkpoint.info,
    }
    buffer = io.BytesIO()  # a path's name would become part of the archive
    torch.save(content, buffer)
    with replacing(path) as temporary:
        temporary.write_bytes(buffer.getbuffer())


def read(path: Path, stage: str) -> Checkpoint:
    """Read the checkpoint that ``stage`` wrote, to the CPU.

    Raises:
        CcdError: it is missing, damaged or of another version.
    """
    return _read(path, stage, hashed=False)[0]


def read_hashed(path: Path, stage: str | None) -> tuple[Checkpoint, str]:
    """Read a checkpoint as `read` does, and the SHA-256 of its bytes, even if the file is replaced meanwhile."""
    return _read(path, stage, hashed=True)


def _read(path: Path, stage: str | None, hashed: bool) -> tuple[Checkpoint, str]:
    """Open the file once, so that a file renamed to this path meanwhile does not mix with it."""
    try:
        with path.open("rb") as file:
            _check_members(file)
            file.seek(0)
            sha256 = hash_of_rest(file) if hashed else ""
            file.seek(0)
            content = torch.load(file, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, ValueError, pickle.UnpicklingError, zipfile.BadZipFile) as error:
        if is_refusal(error):
            raise
        raise unreadable(path, error if isinstance(error, OSError) else _damage(path, error), stage) from None
    schema = content.get("schema") if isinstance(content, dict) else None
    if schema != SCHEMA:
        raise unreadable(path, f"its schema is {schema!r}, expected {SCHEMA!r}", stage)
    try:
        return Checkpoint(content["spec"], content["weights"], content["selected"], content["info"]), sha256
    except KeyError as error:
        raise unreadable(path, f"it has no {error}", stage) from None


def _damage(path: Path, error: Exception) -> str:
    """Describe the damage. PyTorch's own message advises to load unsafely, so it is not passed on."""
    if isinstance(error, zipfile.BadZipFile):
        return f"no checkpoint of ccd, or damaged ({error})"
    return f"damaged, or no checkpoint of ccd ({type(error).__name__})"


def _check_members(file: BinaryIO) -> None:
    """Raise BadZipFile (or another error of zipfile) unless all checksums hold; torch does not check them."""
    with zipfile.ZipFile(file) as archive:
        damaged = archive.testzip()
    if damaged is not None:
        raise zipfile.BadZipFile(f"the checksum of its part {damaged} is wrong")
