"""Finds the images of a data set that is no plain folder: behind a URL, in a manifest, or inside Parquet.

A manifest is CSV or Parquet with a column ``path`` or ``url``, and maybe ``split`` and ``classes`` (or ``labels``,
``label``). Paths are relative to it. Parquet with a column of images (structs with ``bytes``), as Hugging Face data
sets have it, is read without unpacking: image ``FILE.parquet#ROW``.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from ccd.artifacts.csv_files import classes_in, read_sheet
from ccd.artifacts.image_index import Version
from ccd.artifacts.sealed import short_digest
from ccd.datasets.image_search import NO_ENDING, OWN_LISTS, by_frequency, ending, is_image, search
from ccd.datasets.label_table import LabelRow
from ccd.errors import CcdError, listed, redacted, url_of
from ccd.images import remote
from ccd.images.decode import HEAD_BYTES, MAX_FILE_BYTES, header
from ccd.images.file_cache import FileCache

PATH_COLUMNS = ("path", "url", "image_id")
LABEL_COLUMNS = ("classes", "labels", "label")
HEADER_BYTES = 1 << 16
LISTING_THREADS = 32
_SPLITS = ("train", "test", "validation", "valid", "val", "dev")
_HIDDEN = re.compile(r"(^|/)\.")


@dataclass(frozen=True)
class Found:
    """The images of a data set, by their paths in the index.

    ``left_out``: counts of other files by ending. ``versions``: of remote files, as far as a listing states them.
    ``splits`` and ``labels`` (classes separated by ``;``): as far as a manifest states them. ``class_names``: those
    that Parquet of Hugging Face states.
    """

    paths: list[str]
    left_out: Mapping[str, int] = field(default_factory=dict)
    versions: Mapping[str, Version] = field(default_factory=dict)
    splits: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    class_names: tuple[str, ...] = ()

    def rows(self, root: Path, names: Sequence[str]) -> dict[str, LabelRow]:
        """Return the labels as rows of a label table; ``names``: the classes. Raises CcdError for unknown ones."""
        column = {name: place for place, name in enumerate(names)}
        rows = {}
        problems = []
        for path, cell in self.labels.items():
            known, unknown = classes_in(cell, column)
            rows[path] = LabelRow(self.splits.get(path, ""), tuple(column[name] for name in known))
            problems += [f"{path}: unknown class {listed(unknown)}"] if unknown else []
        if problems:
            raise CcdError(
                f"{root}: {len(problems):,} rows cannot be used: {listed(problems)} (classes: {listed(names)}); "
                "correct them, or the list of classes"
            )
        return rows


def find(root: Path, lists: Iterable[Path] = ()) -> Found:
    """Find all images of a folder, local or behind a URL, of a manifest, or inside Parquet.

    Args:
        lists: see `ccd.datasets.image_search.search`.

    Raises:
        CcdError: ``root`` cannot be read or holds a secret, or a manifest has no column of paths.
    """
    check_root(root)
    if remote.is_table(root):
        return _of_table(root)
    found = _listing(url_of(root) or "") if url_of(root) else _local(root, lists)
    tables = sorted(path for path in found.versions if path.endswith(".parquet"))
    images = [path for path in found.paths if not path.endswith(".parquet")]
    if images or not tables:
        return Found(images, found.left_out, {path: found.versions[path] for path in images if path in found.versions})
    parts = [_embedded(root, path) for path in tables]
    return Found(
        [path for part in parts for path in part.paths],
        found.left_out,
        splits={path: split for part in parts for path, split in part.splits.items()},
        labels={path: cell for part in parts for path, cell in part.labels.items()},
        class_names=parts[0].class_names,
    )


def check_root(root: Path | str) -> None:
    """Raise CcdError if a root holds a password or a signature: ``dvc.lock`` would keep it."""
    text = url_of(root) or str(root)
    if redacted(text) != text:
        raise CcdError(
            f"dataset.root = {redacted(text)} holds a password or a signature, which dvc.lock would keep; leave it "
            "out, and give credentials where fsspec looks for them (docs/remote_images.md)"
        )


def listing_digest(root: Path) -> str:
    """Return a hash of the names, sizes and versions of what lies behind a URL; no file is read."""
    url = url_of(root) or ""
    if remote.is_table(root):
        return remote.version_of(url).digest(url)
    infos = remote.attempt(url, lambda system, path: system.find(path, detail=True))
    lines = [f"{name}\0{Version.stated(info)}\n" for name, info in sorted(infos.items())]
    return short_digest("".join(lines).encode("utf-8", "surrogateescape"))


def _local(root: Path, lists: Iterable[Path]) -> Found:
    images = search(root, lists)
    if images.paths or ".parquet" not in images.left_out:
        return Found(images.paths, images.left_out)
    files = sorted(path.relative_to(root).as_posix() for path in root.rglob("*.parquet"))
    left_out = {kind: count for kind, count in images.left_out.items() if kind != ".parquet"}
    return Found([], left_out, {path: Version(-1, "") for path in files})


def _listing(url: str) -> Found:
    """List what lies below a URL, with one request per thousand objects or so; hidden names are skipped."""
    if url.startswith(("http:", "https:")):
        raise CcdError(
            f"{url}: a web server does not list its files; set dataset.root to a manifest, CSV or Parquet with a "
            "column url (docs/remote_images.md)"
        )

    def find_all(system: Any, path: str) -> tuple[str, dict[str, Any]]:
        return path.rstrip("/"), system.find(path, detail=True)

    base, infos = remote.attempt(url, find_all)
    names = {name[len(base) :].lstrip("/"): info for name, info in infos.items() if not name.endswith("/")}
    versions = {
        name: Version.stated(info)
        for name, info in sorted(names.items())
        if name and not _HIDDEN.search(name) and name not in OWN_LISTS
    }
    with ThreadPoolExecutor(LISTING_THREADS) as pool:
        are_images = list(pool.map(lambda name: is_image(name, lambda: _head(url, name, versions[name])), versions))
    paths = [name for name, image in zip(versions, are_images, strict=True) if image]
    others = set(versions).difference(paths)
    tables = {name for name in others if name.endswith(".parquet")}
    left_out = Counter(ending(name) or NO_ENDING for name in others - tables)
    kept = {name: version for name, version in versions.items() if name not in others or name in tables}
    return Found(paths, by_frequency(left_out), kept)


def _head(url: str, name: str, version: Version) -> bytes:
    return b"" if ending(name) else remote.fetch(f"{url.rstrip('/')}/{name}", version.size, HEAD_BYTES)


def _of_table(root: Path) -> Found:
    """Read a manifest, or the images inside one Parquet file."""
    name = remote.name_of(root)
    if name.lower().endswith(".parquet"):
        parquet = remote.open_parquet(name, os.getpid())
        if remote.image_column(parquet):
            return _embedded(remote.located(root, ""), root.name)
        columns = _columns(parquet, name, _known(parquet))
    else:
        with local_copy(root) as file:
            sheet = read_sheet(file, [(PATH_COLUMNS,)], "set dataset.root to a folder, a URL or a manifest")
        problems = [f"line {row.line}: {row.problem}" for row in sheet.rows if row.problem]
        if problems:
            raise CcdError(f"{name}: {len(problems):,} rows cannot be used: {listed(problems)}; correct or delete them")
        columns = {column: [row.cells.get(column, "") for row in sheet.rows] for column in sheet.columns}
    key = next((column for column in ("path", "url", "image_id") if column in columns), None)
    if key is None:
        raise CcdError(f"{name}: neither a column of images nor one called path or url; add one")
    paths = [_path_in_index(root, str(cell).strip()) for cell in columns[key]]
    class_names = () if not name.lower().endswith(".parquet") else _class_names(parquet)
    return _with_columns(paths, columns, class_names)


def _path_in_index(root: Path, cell: str) -> str:
    """Return a manifest's path as the index has it: a URL without secrets, or relative to the manifest."""
    if (url := url_of(cell)) is not None:
        return remote.public(url)
    folder = f"{root.parent.as_posix()}/"
    return PurePosixPath(cell.removeprefix(folder)).as_posix() if cell.startswith(folder) else cell.removeprefix("./")


def _with_columns(paths: list[str], columns: Mapping[str, Sequence[Any]], class_names: tuple[str, ...]) -> Found:
    label = next((column for column in LABEL_COLUMNS if column in columns), None)
    splits = {path: str(cell).strip() for path, cell in zip(paths, columns.get("split", ()), strict=False) if cell}
    cells = zip(paths, columns[label], strict=True) if label else ()
    labels = {path: _cell(value, class_names) for path, value in cells if value is not None}
    return Found(paths, splits=splits, labels=labels, class_names=class_names)


def _cell(value: Any, class_names: Sequence[str]) -> str:
    if isinstance(value, list):
        return ";".join(_cell(each, class_names) for each in value)
    return class_names[value] if isinstance(value, int) and 0 <= value < len(class_names) else str(value)


def _known(parquet: Any) -> list[str]:
    return [name for name in parquet.schema_arrow.names if name in (*PATH_COLUMNS, *LABEL_COLUMNS, "split")]


def _columns(parquet: Any, file: str, names: list[str]) -> dict[str, list[Any]]:
    table = parquet.read(names) if url_of(file) is None else remote.attempt(file, lambda *_: parquet.read(names))
    return {name: table[name].to_pylist() for name in names}


def _embedded(root: Path, file: str) -> Found:
    """Return the rows of one Parquet file with images. Its name tells the split: ``train-00000-of-00004.parquet``."""
    parquet = remote.open_parquet(remote.name_of(root / file), os.getpid())
    if not remote.image_column(parquet):
        raise CcdError(f"{remote.name_of(root / file)}: no column of images; remove the file, or write a manifest")
    paths = [f"{file}#{row}" for row in range(parquet.metadata.num_rows)]
    stated = [name for name in _known(parquet) if name not in PATH_COLUMNS]
    columns = _columns(parquet, remote.name_of(root / file), stated)
    split = next((part for part in re.split(r"[^a-z]+", file.lower()) if part in _SPLITS), None)
    columns.setdefault("split", [split] * len(paths))
    return _with_columns(paths, columns, _class_names(parquet))


def _class_names(parquet: Any) -> tuple[str, ...]:
    """Return the class names in the metadata that Hugging Face's library writes; none if there are none."""
    try:
        features = json.loads((parquet.schema_arrow.metadata or {})[b"huggingface"])["info"]["features"]
    except (KeyError, ValueError):
        return ()
    for name in LABEL_COLUMNS:
        feature = features.get(name, {})
        feature = feature[0] if isinstance(feature, list) else feature.get("feature", feature)
        if isinstance(feature, dict) and "names" in feature:
            return tuple(feature["names"])
    return ()


@contextmanager
def local_copy(path: Path) -> Iterator[Path]:
    """Yield a local file with the content of a small one, which may lie behind a URL; errors name the URL."""
    if url_of(path) is None:
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / path.name
        copy.write_bytes(remote.read(path, FileCache()))
        try:
            yield copy
        except CcdError as error:
            raise CcdError(str(error).replace(str(copy), remote.name_of(path))) from None


def is_one_file(path: Path) -> bool:
    """Tell whether a URL is that of a file, and of no folder. A web server has only files."""
    return str(path).startswith("http") or exists(path)


def exists(path: Path) -> bool:
    """Tell whether a file is there, locally or behind a URL."""
    url = url_of(path)
    return path.is_file() if url is None else bool(remote.attempt(url, lambda system, name: system.isfile(name)))


def content(file: Path, version: Version | None, verify: str, cache: FileCache) -> tuple[bytes, int, str]:
    """Return a remote image, its size in bytes, and the digest for the index.

    ``verify: decode`` reads the whole file, and the digest is its content's. ``header`` reads its first `HEADER_BYTES`,
    all of it where they do not suffice, and the digest is its version's.
    """
    url = url_of(file)
    if url is None or "#" in file.name:  # inside Parquet
        data = remote.read(file, cache)
        return data, len(data), short_digest(data)
    stated = version or remote.version_of(url)
    if stated.size > MAX_FILE_BYTES:
        raise CcdError(f"{url}: {stated.size} bytes, the limit is {MAX_FILE_BYTES}; make it smaller or remove it")
    size = stated.size if stated.size >= 0 else None
    digest = stated.digest(url)
    if verify == "decode" or size is None:
        data = remote.read(file, cache, size, digest)
        return data, len(data), short_digest(data)
    data = cache.get(url, size, digest) or remote.fetch(url, size, HEADER_BYTES)
    try:
        header(data, url)
    except CcdError:
        data = data if len(data) >= size else remote.read(file, cache, size, digest)
    return data, size, digest
