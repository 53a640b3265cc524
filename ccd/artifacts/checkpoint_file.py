"""``warmup.pt`` and ``student.pt``: everything needed to rebuild the student, loaded without pickle execution."""

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
    """``spec``: what `ccd.student.model.StudentSpec` needs. ``weights``: name (e.g. ``last``) -> state dict.
    ``selected``: the name that is *the* student. ``info``: epochs, how the choice was made and, where the student can
    decide, its `thresholds`: ``values`` (C) and the ``source`` they are from."""

    spec: dict[str, Any]
    weights: dict[str, Weights]
    selected: str
    info: dict[str, Any]


def thresholds(checkpoint: Checkpoint) -> tuple[list[float], str]:
    """The decision threshold of every class, and where they come from; a student without any decides at 0.5."""
    found = checkpoint.info.get("thresholds", {"values": [0.5] * len(checkpoint.spec["classes"]), "source": "0.5"})
    return list(found["values"]), str(found["source"])


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
    """Read what ``stage`` wrote, to the CPU. Raises CcdError if it is missing, damaged or of another version."""
    return _read(path, stage, hashed=False)[0]


def read_hashed(path: Path, stage: str | None) -> tuple[Checkpoint, str]:
    """The same, and the SHA-256 of the very bytes it came from, whatever replaces the file meanwhile."""
    return _read(path, stage, hashed=True)


def _read(path: Path, stage: str | None, hashed: bool) -> tuple[Checkpoint, str]:
    """The file is opened once: a file that is renamed into its place while this reads is another one."""
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
    found = content.get("schema") if isinstance(content, dict) else None
    if found != SCHEMA:
        raise unreadable(path, f"its schema is {found!r}, expected {SCHEMA!r}", stage)
    try:
        return Checkpoint(content["spec"], content["weights"], content["selected"], content["info"]), sha256
    except KeyError as error:
        raise unreadable(path, f"it has no {error}", stage) from None


def _damage(path: Path, error: Exception) -> str:
    """Say what is wrong in our own words: PyTorch's advice, to load without safety, is for nobody here."""
    if isinstance(error, zipfile.BadZipFile):
        return f"no checkpoint of ccd, or damaged ({error})"
    return f"damaged, or no checkpoint of ccd ({type(error).__name__})"


def _check_members(file: BinaryIO) -> None:
    """Raises BadZipFile (or what zipfile makes of damage) unless all checksums hold: torch does not look at them."""
    with zipfile.ZipFile(file) as archive:
        damaged = archive.testzip()
    if damaged is not None:
        raise zipfile.BadZipFile(f"the checksum of its part {damaged} is wrong")
