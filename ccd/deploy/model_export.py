"""Export a model: a folder of safetensors with a model card, or one archive of `torch.export`."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from ccd.artifacts.existing import keep_old, refuse_existing, refuse_folders
from ccd.artifacts.files import replacing, write_text
from ccd.deploy.classifier import to_json
from ccd.deploy.export_graph import example, graph_of, parity
from ccd.deploy.load import DESCRIPTION, WEIGHTS, keep_foreign, write_folder
from ccd.deploy.model_card import is_model_card, model_card, read_facts
from ccd.errors import CcdError

CARD = "README.md"
TORCH_TOLERANCE = 1e-5


def export_torch(model: Path, out: Path, licence: str) -> float:
    """Write a student, or a head with its CLIP, as an archive that `torch.export.load` reads without this package.

    Inputs and outputs: see `ccd.deploy.export_graph.graph_of`, but images of the model's own size alone, any number of
    them. The description is the extra file ``model.json``.

    Returns:
        The largest difference from PyTorch, see `parity`.

    Raises:
        CcdError: the difference is above `TORCH_TOLERANCE` (nothing is written), or see `graph_of`.
    """
    graph, description = graph_of(model, licence)
    graph = replace(graph, axes={0: "images"})  # a varying size would depend on the network's strides
    pixels, sizes = example(graph)
    program = torch.export.export(graph.network, (pixels,), dynamic_shapes=sizes, strict=False)
    for node in program.graph.nodes:  # paths of this machine
        for key in ("stack_trace", "nn_module_stack", "source_fn_stack", "torch_fn"):
            node.meta.pop(key, None)
    text = json.dumps(to_json(description), ensure_ascii=False)
    with replacing(out) as temporary:
        with temporary.open("wb") as file:
            torch.export.save(program, file, extra_files={DESCRIPTION: text})
        with temporary.open("rb") as file:
            loaded = torch.export.load(file).module()
        difference = parity(graph, lambda batch: [value.detach().numpy() for value in loaded(batch)])
        if not difference <= TORCH_TOLERANCE:
            raise CcdError(
                f"the archive differs from the student by {difference:.2e}, more than {TORCH_TOLERANCE:g}; nothing was "
                "written; use another version of PyTorch"
            )
    return difference


@dataclass(frozen=True)
class ExportedModel:
    """The ``files`` written, and ``backups`` of replaced files that no export wrote."""

    files: list[Path]
    backups: list[Path]


def check_folder(student: Path, out: Path, *, force: bool) -> None:
    """Refuse an unsuitable folder for the exported model.

    Raises:
        CcdError: ``out`` is no folder, is the folder of ``student``, or holds files of the same names and ``force`` is
            false.
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

    Replaced files that no export wrote are backed up.

    Raises:
        CcdError: see `read_facts`.
    """
    facts, weights = read_facts(student, licence)
    backups = [*keep_foreign(out), *_keep_readme(out / CARD)]
    write_folder(out, facts.description, weights)
    write_text(out / CARD, model_card(facts))
    return ExportedModel(_files(out), backups)


def _keep_readme(path: Path) -> list[Path]:
    if not path.is_file() or is_model_card(path.read_text(encoding="utf-8", errors="replace")):
        return []
    backup = keep_old(path)
    return [] if backup is None else [backup]
