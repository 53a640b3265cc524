"""Write the pipeline of a project, and fingerprint the inputs that DVC cannot follow (stage ``inputs``)."""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from ccd.artifacts.files import hash_of, write_json
from ccd.datasets.class_names import CLASSES_FILE
from ccd.datasets.folder import LABELS_FILE
from ccd.datasets.image_search import find_images
from ccd.datasets.manifest import listing_digest
from ccd.errors import CcdError, url_of
from ccd.params.file import load
from ccd.params.sections import DatasetParams, IndexParams
from ccd.runtime.console import StageLog
from ccd.runtime.launch import stage

INPUTS_STAGE = "inputs"
INPUTS_FILE = "inputs.json"
_FOLDER = Path(__file__).resolve().parent
_INSTALLED = _FOLDER.parents[1]
_HEADER = """\
# Written by `ccd init`: the stages of the installed ccd. `dvc repro` runs what changed, `dvc dag` draws it; numbers are
# in params.yaml. Your own stages may stand here too. If another version of ccd has other stages, `dvc repro` asks for
# `ccd init . --upgrade`, which replaces ccd's and keeps yours.
"""


@stage
def main(out: Path) -> None:
    """Write fingerprints of the installed code, the folder of images and the lists of classes and labels to ``out``.

    Raises:
        CcdError: the working directory has no dvc.yaml, or one of another version of ccd.
    """
    pipeline = Path("dvc.yaml")
    if not pipeline.is_file():
        raise CcdError("dvc.yaml does not exist in this folder; run `dvc repro` in the project's folder")
    check_stages(pipeline.read_text(encoding="utf-8"))
    content = {"images": None, "lists": None, "code": code_fingerprints()}
    params = load(IndexParams)
    root = Path(load(DatasetParams).root)
    if url_of(root) is not None:
        content["images"] = {"names_and_versions": listing_digest(root)}
    elif params.adapter == "folder" and root.is_file():
        content["images"] = {"sha256": hash_of(root)}
    elif params.adapter == "folder" and root.is_dir():  # other data sets never change
        content |= {"images": _listing(root), "lists": _lists(root, params)}
    write_json(out, content)
    StageLog("inputs").wrote((out, len(content["code"] or {}), "stages"))


def _listing(root: Path) -> dict[str, Any]:
    """Return the number of images and a hash of their paths and sizes; stage index hashes their content."""
    digest = hashlib.sha256()
    paths = find_images(root) or sorted(path.relative_to(root).as_posix() for path in root.rglob("*.parquet"))
    for path in paths:
        try:
            size = (root / path).stat().st_size
        except OSError:  # stage index reports it
            size = -1
        digest.update(f"{path}\0{size}\0".encode("utf-8", "surrogateescape"))
    return {"files": len(paths), "names_and_sizes": digest.hexdigest()}


def _lists(root: Path, params: IndexParams) -> dict[str, str]:
    """Return the SHA-256 of the list of classes and of the table of labels, "" for a missing file."""
    files = {
        "classes": Path(params.classes_file or root / CLASSES_FILE),
        "labels": Path(params.labels_file or root / LABELS_FILE),
    }
    return {name: hash_of(path) if path.is_file() else "" for name, path in files.items()}


def repository_pipeline() -> Path:
    """Return the path of the repository's ``dvc.yaml``: the copy in the wheel, or the file itself in a clone."""
    packaged = _FOLDER / "pipeline.yaml"
    return packaged if packaged.is_file() else _INSTALLED / "dvc.yaml"


def code_fingerprints() -> dict[str, str]:
    """Return stage -> SHA-256 (hex) of the names and contents of its code files."""
    stages = YAML(typ="safe").load(repository_pipeline().read_text(encoding="utf-8"))["stages"]
    return {name: _fingerprint([dep for dep in entry["deps"] if _is_code(dep)]) for name, entry in stages.items()}


def project_pipeline() -> Any:
    """Return the content of a project's ``dvc.yaml``, a mapping of ruamel.yaml."""
    content = _yaml().load(repository_pipeline().read_text(encoding="utf-8"))
    for name, entry in content["stages"].items():
        entry["deps"] = [dep for dep in entry["deps"] if not _is_code(dep)]
        keys = [f"code.{name}"]
        if name == "index":
            keys += ["images", "lists"]
            del entry["deps"]
        entry["params"].append({INPUTS_FILE: keys})
    content["stages"].insert(0, INPUTS_STAGE, _inputs_stage(content))
    return content


def project_text() -> str:
    """Return the text of a project's ``dvc.yaml``."""
    return _dump(project_pipeline())


def upgraded_text(text: str) -> str:
    """Replace ccd's own stages in the ``text`` of a project's ``dvc.yaml`` by the installed ones; others stay.

    Raises:
        CcdError: ``text`` is no pipeline.
    """
    ours = project_pipeline()
    content = _parsed(text)
    others = {name: entry for name, entry in content["stages"].items() if name not in ours["stages"]}
    content["stages"] = ours["stages"]
    content["stages"].update(others)
    return _dump(content)


def check_stages(text: str) -> None:
    """Check the ``text`` of a project's ``dvc.yaml``.

    Raises:
        CcdError: a version of ccd with other stages wrote it.
    """
    stages = _parsed(text)["stages"]
    ours = project_pipeline()["stages"]
    meta = (stages.get(INPUTS_STAGE) or {}).get("meta")
    if meta != ours[INPUTS_STAGE]["meta"]:
        raise CcdError("dvc.yaml was written by another version of ccd, whose stages differ; run: ccd init . --upgrade")


def _inputs_stage(content: Any) -> dict[str, Any]:
    stages = json.dumps(content["stages"], sort_keys=True)
    return {
        "desc": "look at what DVC cannot see: the images' folder and the installed code (a second, each time)",
        "cmd": f"python -m ccd.project.pipeline --out {INPUTS_FILE}",
        "always_changed": True,
        "outs": [{INPUTS_FILE: {"cache": False}}],
        "meta": {"stages": hashlib.sha256(stages.encode()).hexdigest()[:16]},
    }


def _is_code(dep: str) -> bool:
    return dep.startswith(("ccd/", "stages/"))


def _fingerprint(deps: list[str]) -> str:
    digest = hashlib.sha256()
    for dep in deps:
        path = _INSTALLED / dep
        for file in sorted(each for each in path.rglob("*") if each.is_file()) if path.is_dir() else [path]:
            name = file.relative_to(_INSTALLED).as_posix()
            if "__pycache__" not in name:
                digest.update(f"{name}\0".encode() + hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()


def _parsed(text: str) -> Any:
    try:
        content = _yaml().load(text)
    except (YAMLError, ValueError) as error:
        raise CcdError(f"dvc.yaml is not valid YAML: {' '.join(str(error).split())}; fix it") from None
    if not isinstance(content, dict) or not isinstance(content.get("stages"), dict):
        raise CcdError("dvc.yaml holds no stages; run: ccd init . --force")
    return content


def _dump(content: Any) -> str:
    stream = io.StringIO()
    _yaml().dump(content, stream)
    lines = stream.getvalue().split("\n")
    first = next(number for number, line in enumerate(lines) if not line.startswith("#"))
    return _HEADER + "\n".join(lines[first:])


def _yaml() -> YAML:
    yaml = YAML()
    yaml.width = 200
    yaml.preserve_quotes = True
    yaml.indent(mapping=2, sequence=4, offset=2)
    return yaml


if __name__ == "__main__":
    main()
