"""The artifacts in a data folder: rows, size, schema and hash of each, and the stage that made it."""

from __future__ import annotations

import json
import re
import zipfile
from dataclasses import dataclass
from pathlib import Path

import h5py
import pyarrow as pa
import pyarrow.parquet as pq
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from ccd.artifacts.files import unreadable
from ccd.runtime.console import TIMINGS_LOG, Timing, md5_of, recorded_timings

ENDINGS = (".parquet", ".h5", ".json", ".csv", ".pt", ".html", ".png")


@dataclass(frozen=True)
class Artifact:
    """One file. ``rows`` is None where the format has none, ``schema`` "" where it declares none. ``made_by``: the
    stage in ``dvc.lock`` that wrote these very bytes, "" if unknown; ``parameters``: those it ran with;
    ``timing`` of that run, None where this machine's log does not know it."""

    path: Path
    rows: int | None
    size_bytes: int
    schema: str
    md5: str
    made_by: str
    parameters: dict[str, object]
    timing: Timing | None


@dataclass(frozen=True)
class _Made:
    stage: str
    md5: str
    parameters: dict[str, object]


def artifact_list(data_dir: Path, lock: Path = Path("dvc.lock"), log: Path = TIMINGS_LOG) -> list[Artifact]:
    """List every artifact in ``data_dir``, by name. A file whose content is unreadable is listed with schema "damaged".

    Args:
        lock: DVC's record of stages and outputs; it may be absent.
        log: the stages' own record of their time; it may be absent.

    Raises:
        CcdError: the folder does not exist.
    """
    if not data_dir.is_dir():
        raise unreadable(data_dir, "no such folder", "index")
    outputs = _locked(lock)
    taken = recorded_timings(log)
    artifacts = []
    for path in sorted(entry for entry in data_dir.iterdir() if entry.suffix in ENDINGS and entry.is_file()):
        md5 = md5_of(path)
        (rows, schema) = _content(path)
        origin = outputs.get(path.as_posix())
        if origin is None or origin.md5 != md5:
            origin = _Made("", md5, {})
        timing = taken.get((origin.stage, md5))
        artifacts.append(
            Artifact(path, rows, path.stat().st_size, schema, md5, origin.stage, origin.parameters, timing)
        )
    return artifacts


def _content(path: Path) -> tuple[int | None, str]:
    try:
        return _READERS[path.suffix](path)
    except (OSError, ValueError, KeyError, StopIteration, pa.ArrowException, zipfile.BadZipFile):
        return None, "damaged"


def _parquet(path: Path) -> tuple[int, str]:
    with pq.ParquetFile(path) as file:
        return file.metadata.num_rows, (file.schema_arrow.metadata or {}).get(b"schema", b"").decode()


def _hdf5(path: Path) -> tuple[int, str]:
    with h5py.File(path, "r") as file:
        rows = max(len(dataset) for dataset in file.values())
        return rows, str(file.attrs.get("schema", ""))


def _json(path: Path) -> tuple[int | None, str]:
    content = json.loads(path.read_text(encoding="utf-8"))
    classes = content.get("classes") if isinstance(content, dict) else None
    schema = content.get("schema", "") if isinstance(content, dict) else ""
    return (None if classes is None else len(classes)), str(schema)


def _csv(path: Path) -> tuple[int, str]:
    with path.open("rb") as file:
        return max(0, sum(1 for _ in file) - 1), ""


def _checkpoint(path: Path) -> tuple[None, str]:
    """Read the schema's name from the pickle's text; nothing is unpickled."""
    with zipfile.ZipFile(path) as archive:
        name = next(name for name in archive.namelist() if name.endswith("data.pkl"))
        match = re.search(rb"ccd\.checkpoint/\d+", archive.read(name))
    return None, match[0].decode() if match else ""


def _opaque(path: Path) -> tuple[None, str]:
    return None, ""


_READERS = {
    ".parquet": _parquet,
    ".h5": _hdf5,
    ".json": _json,
    ".csv": _csv,
    ".pt": _checkpoint,
    ".html": _opaque,
    ".png": _opaque,
}


def _locked(lock: Path) -> dict[str, _Made]:
    """Return what ``dvc.lock`` records of every output, by path."""
    if not lock.is_file():
        return {}
    try:
        stages = YAML(typ="safe").load(lock.read_text(encoding="utf-8"))["stages"]
        return {
            out["path"]: _Made(stage, out["md5"], dict(entry.get("params", {}).get("params.yaml", {})))
            for stage, entry in stages.items()
            for out in entry["outs"]
        }
    except (YAMLError, KeyError, TypeError, AttributeError) as error:
        raise unreadable(lock, f"not as DVC writes it: {error!r}", "index") from None
