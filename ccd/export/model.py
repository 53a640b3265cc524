"""``ccd export model``: the student as a folder that stands on its own."""

from __future__ import annotations

from pathlib import Path

from ccd.artifacts.atomic import replacing
from ccd.deploy.folder import DESCRIPTION, WEIGHTS, write_folder
from ccd.export.card import model_card
from ccd.export.provenance import background

CARD = "README.md"


def export_model(student: Path, out: Path, licence: str) -> list[Path]:
    """Write ``model.safetensors``, ``model.json`` and a model card into ``out``; returns their paths.

    Raises:
        CcdError: see `background`.
    """
    about, weights = background(student, licence)
    write_folder(out, about.description, weights)
    with replacing(out / CARD) as temporary:
        temporary.write_text(model_card(about), encoding="utf-8")
    return [out / WEIGHTS, out / DESCRIPTION, out / CARD]
