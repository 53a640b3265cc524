"""``ccd export model``: the student as a folder that stands on its own."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ccd.artifacts.atomic import replacing
from ccd.artifacts.existing import keep_old, refuse_existing, refuse_folders
from ccd.deploy.folder import DESCRIPTION, WEIGHTS, keep_foreign, write_folder
from ccd.errors import CcdError
from ccd.export.card import is_model_card, model_card
from ccd.export.provenance import background

CARD = "README.md"


@dataclass(frozen=True)
class ExportedModel:
    """``files`` that were written; ``kept``: copies of others' files that lay in their place."""

    files: list[Path]
    kept: list[Path]


def check_folder(student: Path, out: Path, *, force: bool) -> None:
    """Refuse a folder that is not the model's own.

    Raises:
        CcdError: files of these names are there and ``force`` is not given, it is the folder of ``student``, or no
            folder.
    """
    if out.exists() and not out.is_dir():
        raise CcdError(f"{out} is a file; give a folder for the model")
    if out.resolve() == student.resolve().parent:
        raise CcdError(f"{out} is the folder of {student.name}; give the model a folder of its own")
    files = _files(out)
    refuse_folders(files)
    refuse_existing(files, force=force)


def _files(out: Path) -> list[Path]:
    return [out / name for name in (WEIGHTS, DESCRIPTION, CARD)]


def export_model(student: Path, out: Path, licence: str) -> ExportedModel:
    """Write ``model.safetensors``, ``model.json`` and a model card into ``out``; see `check_folder`.

    What no export wrote is kept beside what replaces it.

    Raises:
        CcdError: see `background`.
    """
    about, weights = background(student, licence)
    kept = [*keep_foreign(out), *_keep_readme(out / CARD)]
    write_folder(out, about.description, weights)
    with replacing(out / CARD) as temporary:
        temporary.write_text(model_card(about), encoding="utf-8")
    return ExportedModel(_files(out), kept)


def _keep_readme(path: Path) -> list[Path]:
    if not path.is_file() or is_model_card(path.read_text(encoding="utf-8", errors="replace")):
        return []
    copy = keep_old(path)
    return [] if copy is None else [copy]
