"""Stage inputs of a project that ``ccd init`` made: what DVC cannot see becomes a small file that it can compare.

python -m ccd.project.inputs --out inputs.json
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from ccd.artifacts.atomic import write_json
from ccd.console import StageLog, stage
from ccd.datasets.class_list import CLASSES_FILE
from ccd.datasets.folder import LABELS_FILE
from ccd.datasets.image_search import find_images
from ccd.errors import CcdError
from ccd.params.base import load
from ccd.params.dataset import DatasetParams
from ccd.params.index import IndexParams
from ccd.project.pipeline import check_stages, code_fingerprints


@stage
def main(out: Path) -> None:
    """Look at the installed code, the folder of images and the lists of classes and labels."""
    pipeline = Path("dvc.yaml")
    if not pipeline.is_file():
        raise CcdError("dvc.yaml does not exist here; run `dvc repro` in the project's folder")
    check_stages(pipeline.read_text(encoding="utf-8"))
    content = {"images": None, "lists": None, "code": code_fingerprints()}
    params, root = load(IndexParams), Path(load(DatasetParams).root)
    if params.adapter == "folder" and root.is_dir():  # other data sets do not grow
        content |= {"images": _listing(root), "lists": _lists(root, params)}
    write_json(out, content)
    StageLog("inputs").wrote((out, len(content["code"] or {}), "stages"))


def _listing(root: Path) -> dict[str, Any]:
    """How many images there are, and a hash of their paths and sizes; their content is the index's business."""
    digest, paths = hashlib.sha256(), find_images(root)
    for path in paths:
        try:
            size = (root / path).stat().st_size
        except OSError:  # the index says what is wrong with it
            size = -1
        digest.update(f"{path}\0{size}\0".encode("utf-8", "surrogateescape"))
    return {"files": len(paths), "names_and_sizes": digest.hexdigest()}


def _lists(root: Path, params: IndexParams) -> dict[str, str]:
    """SHA-256 of the list of classes and of the table of labels, "" where there is none."""
    files = {
        "classes": Path(params.classes_file or root / CLASSES_FILE),
        "labels": Path(params.labels_file or root / LABELS_FILE),
    }
    return {
        name: hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "" for name, path in files.items()
    }


if __name__ == "__main__":
    main()
