"""What a file that should hold weights is instead, told by its first bytes. PyTorch is not needed, nothing is run."""

from __future__ import annotations

import zipfile
from pathlib import Path

from ccd.errors import printable

_HEAD_BYTES = 1024
_PYTORCH_ZIP = "data.pkl"
_TORCHSCRIPT_ZIP = "constants.pkl"
_AGAIN = "download the file itself again"
_UNPACK = "unpack it and give the file of weights in it"
# First bytes -> what the file is, and what to do.
_MAGIC: tuple[tuple[bytes, str, str], ...] = (
    (b"\x1f\x8b", "a gzip archive", _UNPACK),
    (b"BZh", "a bzip2 archive", _UNPACK),
    (b"\xfd7zXZ", "an xz archive", _UNPACK),
    (b"\x28\xb5\x2f\xfd", "a Zstandard archive", _UNPACK),
    (b"7z\xbc\xaf", "a 7-Zip archive", _UNPACK),
    (b"Rar!", "a RAR archive", _UNPACK),
    (b"\x89HDF", "an HDF5 file, as Keras writes them", "give a PyTorch state dict or safetensors"),
    (b"\x89PNG", "a picture", _AGAIN),
    (b"\xff\xd8\xff", "a picture", _AGAIN),
    (b"%PDF", "a PDF document", _AGAIN),
    (b"GGUF", "a GGUF file", "give a PyTorch state dict or safetensors"),
)


def not_weights(path: Path) -> str | None:
    """What the file is and what to do, if it is certainly no file of weights; None if it may be one.

    Raises:
        OSError: it cannot be read.
    """
    if path.is_dir():
        return "a folder; give the file of weights in it"
    with path.open("rb") as file:
        head = file.read(_HEAD_BYTES)
    if not head:
        return f"an empty file; {_AGAIN}"
    for magic, what, advice in _MAGIC:
        if head.startswith(magic):
            return f"{what}; {advice}"
    if head[257:262] == b"ustar":
        return f"a tar archive; {_UNPACK}"
    if head.startswith(b"PK\x03\x04"):
        return _other_zip(path)
    return _as_text(head)


def is_safetensors(path: Path) -> bool:
    """Whether the file begins as safetensors do: the header's length (8 bytes, little-endian), then JSON."""
    with path.open("rb") as file:
        head = file.read(9)
    return len(head) == 9 and head[8:] == b"{" and head[5:8] == b"\0\0\0"


def is_torchscript(path: Path) -> bool:
    """Whether the file is a TorchScript archive, which holds a program."""
    return any(name.endswith(f"/{_TORCHSCRIPT_ZIP}") for name in _zip_names(path))


def is_pickle(path: Path) -> bool:
    """Whether the file begins as pickles do, alone or in PyTorch's archives."""
    with path.open("rb") as file:
        return file.read(4).startswith((b"PK\x03\x04", b"\x80"))


def _zip_names(path: Path) -> list[str]:
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.namelist()
    except zipfile.BadZipFile:
        return []


def _other_zip(path: Path) -> str | None:
    names = _zip_names(path)
    if not names:
        return f"a damaged or incomplete archive; {_AGAIN}"
    if any(name.rpartition("/")[2] == _PYTORCH_ZIP for name in names):
        return None
    return f"a ZIP archive of {printable(names[0])} and others ({len(names)} entries); {_UNPACK}"


def _as_text(head: bytes) -> str | None:
    try:
        text = head.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        if error.start < len(head) - 4 or len(head) < _HEAD_BYTES:  # else a letter is cut off at the end
            return None
        text = head[: error.start].decode("utf-8-sig")
    if any(ord(each) < 32 and not each.isspace() for each in text):
        return None
    start = text.strip().lower()
    if start.startswith("version https://git-lfs") or "/annex/objects/" in start[:300]:
        return "a Git LFS or git-annex pointer, not the weights themselves; fetch them: git lfs pull (or git annex get)"
    if start.startswith(("<!doctype html", "<html", "<head", "<body")):
        return f"a web page, perhaps a server's error or log-in page; {_AGAIN}"
    if start.startswith("<"):
        return f"XML or HTML text, perhaps a server's error message; {_AGAIN}"
    first = printable(text.strip().partition("\n")[0][:60])
    if start.startswith(("{", "[")):
        return f"JSON text, perhaps a server's error message ({first}); {_AGAIN}"
    return f"text ({first}); {_AGAIN}"
