"""Reads weights that other programs wrote: tells the kind of a file by its first bytes, and loads its state dict.

No code in such a file is run: tensors and plain containers are read, pickled objects are refused.
"""

from __future__ import annotations

import pickle
import re
import warnings
import zipfile
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ccd.artifacts.files import hash_of
from ccd.errors import CcdError, explained, listed, printable

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
    """Return the kind of a file and advice if it certainly holds no weights; None if it may hold some.

    Raises:
        OSError: the file cannot be read.
    """
    if path.is_dir():
        return "a folder; give the file of weights in it"
    with path.open("rb") as file:
        head = file.read(_HEAD_BYTES)
    if not head:
        return f"an empty file; {_AGAIN}"
    for magic, kind, advice in _MAGIC:
        if head.startswith(magic):
            return f"{kind}; {advice}"
    if head[257:262] == b"ustar":
        return f"a tar archive; {_UNPACK}"
    if head.startswith(b"PK\x03\x04"):
        return _other_zip(path)
    return _as_text(head)


def is_safetensors(path: Path) -> bool:
    """Tell whether the file begins like safetensors: the header's length (8 bytes, little-endian), then JSON."""
    with path.open("rb") as file:
        head = file.read(9)
    return len(head) == 9 and head[8:] == b"{" and head[5:8] == b"\0\0\0"


def is_torchscript(path: Path) -> bool:
    """Tell whether the file is a TorchScript archive, which holds a program."""
    return any(name.endswith(f"/{_TORCHSCRIPT_ZIP}") for name in _zip_names(path))


def is_pickle(path: Path) -> bool:
    """Tell whether the file begins like a pickle, alone or in PyTorch's archives."""
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


StateDict = dict[str, Tensor]

# Names under which training programs keep the state dict, names of the complete model first.
_WRAPPERS = ("state_dict", "model_state_dict", "model_state", "model", "student", "net", "network", "module", "weights",
             "params", "backbone")  # fmt: skip
_LEVELS = 3
_DAMAGED = "is damaged, incomplete or no PyTorch file; download it again"
_SAVE = "save its state dict where it was made: torch.save(model.state_dict(), 'weights.pt')"


def read_state_dict(path: Path, key: str, *, mapped: bool = False) -> StateDict:
    """Read the state dict in a PyTorch or safetensors file, also inside a training program's checkpoint.

    Args:
        key: the parameter that names the file, for messages, e.g. ``warmup.weights``.
        mapped: tensors are views of a PyTorch file, whose checksums are not looked at.

    Raises:
        CcdError: the file is missing, of another kind (which is named), holds pickled objects, is damaged, or holds
            no state dict or several.
    """
    if not path.exists():
        raise CcdError(f"{key}: {path} does not exist; give the path of a file of weights")
    refuse_other(path, key)
    content = _safetensors(path, key) if is_safetensors(path) else _pytorch(path, key, mapped)
    return _unwrapped(content, f"{key}: {path}")


def refuse_other(path: Path, key: str) -> None:
    """Raise CcdError if the file, named by ``key``, certainly holds no weights; only its start is read."""
    other = not_weights(path)
    if other is not None:
        raise CcdError(f"{key}: {path} holds no weights, it is {other}")


def without_prefix(state: Mapping[str, Tensor], expected: Collection[str], what: str) -> StateDict:
    """Return ``state`` under the names that a network expects, without a prefix such as ``module.`` of wrappers.

    Keys outside the prefix (other parts of a larger model) are left out. If no prefix gives all of the ``expected``
    names, the one that gives most is taken, and the caller finds the missing ones.

    Raises:
        CcdError: several prefixes give all of them (a student and a teacher, say); they are named.
    """
    counts = {prefix: sum(prefix + name in state for name in expected) for prefix in _prefixes(state, expected)}
    complete = [prefix for prefix, count in counts.items() if count == len(expected)]
    if "" in complete:
        return dict(state)
    if len(complete) > 1:
        raise CcdError(
            f"{what} holds several networks that fit, under {listed(sorted(complete))}; save one of them alone"
        )
    best = max(counts, key=lambda prefix: counts[prefix], default="")
    return {name.removeprefix(best): value for name, value in state.items() if name.startswith(best)}


def load_fitting(network: nn.Module, state: Mapping[str, Tensor], what: str, ignored: tuple[str, ...] = ()) -> None:
    """Load ``state`` into ``network``; keys that start with one of ``ignored`` may be missing or have other shapes.

    Raises:
        CcdError: other names or shapes differ; the message lists some.
    """
    parameters = {key: value for key, value in network.state_dict().items() if not key.startswith(ignored)}
    needed = [key for key in parameters if not key.endswith("num_batches_tracked")]
    fitting = without_prefix(state, needed, f"{what}: the file")
    used = {key: value for key, value in fitting.items() if not key.startswith(ignored)}
    reshaped = [
        f"{key} ({_shape(used[key])} instead of {_shape(parameters[key])})"
        for key in used
        if key in parameters and used[key].shape != parameters[key].shape
    ]
    if reshaped:
        raise CcdError(
            f"weights of {what} have other shapes than the network: {listed(reshaped, 5)}; "
            "give the weights of this very network"
        )
    missing = [key for key in needed if key not in used]
    unexpected = [key for key in used if key not in parameters]
    if missing or unexpected:
        raise CcdError(
            f"weights of {what} do not fit the network; missing: {listed(missing, 5) or 'none'}; "
            f"unexpected: {listed(unexpected, 5) or 'none'}; give the weights of this very network"
        )
    network.load_state_dict(used, strict=False)


def _shape(value: Tensor) -> str:
    return " x ".join(map(str, value.shape)) or "a number"


def _prefixes(state: Mapping[str, Tensor], expected: Collection[str]) -> list[str]:
    """Return the prefixes under which the state has some of the expected names, the empty one first."""
    prefixes = {""}
    for name in expected:
        prefixes |= {key[: -len(name)] for key in state if key.endswith(f".{name}")}
    return sorted(prefixes)


def _safetensors(path: Path, key: str) -> StateDict:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except SafetensorError as error:
        raise CcdError(
            f"{key}: {path} is a damaged or incomplete safetensors file ({error}); download it again"
        ) from None


def _pytorch(path: Path, key: str, mapped: bool) -> Any:
    if is_torchscript(path):
        raise CcdError(f"{key}: {path} is a TorchScript archive, a program, which is not run for safety; {_SAVE}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about details of pickling, which the user cannot change
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped and zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        raise CcdError(f"{key}: {path} {_pickled(str(error)) if is_pickle(path) else _DAMAGED}") from None
    except (RuntimeError, EOFError, ValueError, KeyError, AttributeError, IndexError, TypeError) as error:
        if explained(error) is not None:  # the machine ran out of memory: no fault of the file
            raise
        raise CcdError(f"{key}: {path} {_DAMAGED}") from None


def _pickled(refusal: str) -> str:
    """Explain PyTorch's refusal; PyTorch's own advice is to run the code in the file."""
    match = re.search(r"(?:GLOBAL|global|function|class) '?([A-Za-z_][\w.]*\.[\w.]+)", refusal)
    name = f" ({match[1]})" if match is not None else ""
    return f"holds a pickled object{name}, not tensors alone; it is not loaded, since that could run code; {_SAVE}"


def _unwrapped(content: object, what: str) -> StateDict:
    state_dicts = list(_state_dicts(content, "", _LEVELS))
    if len(state_dicts) == 1:
        return state_dicts[0][1]
    if state_dicts:
        raise CcdError(
            f"{what} holds several state dicts: {listed(name for name, _ in state_dicts)}; save one of them alone"
        )
    content_text = f"; it holds {listed(map(str, content), 5)}" if isinstance(content, Mapping) and content else ""
    raise CcdError(f"{what} holds no state dict (a mapping of names to tensors){content_text}; {_SAVE}")


def _state_dicts(content: object, name: str, levels: int) -> Iterator[tuple[str, StateDict]]:
    """Yield ``content`` if it is a state dict, else those under the first of `_WRAPPERS` that has any."""
    if not isinstance(content, Mapping) or not content:
        return
    if all(isinstance(key, str) and isinstance(value, Tensor) for key, value in content.items()):
        yield name, dict(content)
        return
    if levels == 0:
        return
    selected = content.get("selected")  # ccd's own checkpoints hold several and name one
    weights = content.get("weights")
    if isinstance(selected, str) and isinstance(weights, Mapping) and selected in weights:
        yield from _state_dicts(weights[selected], f"weights.{selected}", levels - 1)
        return
    for wrapper in (each for each in _WRAPPERS if each in content):
        yield from _state_dicts(content[wrapper], f"{name}.{wrapper}".lstrip("."), levels - 1)


def check_sha256(path: str | Path, expected: str | None, key: str, hashed: Callable[[Path], str] = hash_of) -> None:
    """Raise CcdError unless the file has the ``expected`` SHA-256 that ``key`` states (None: any), by ``hashed``."""
    if expected is None:
        return
    if not Path(path).is_file():
        raise CcdError(f"{key} is set, but {path} is no local file; correct the path, or leave {key} empty")
    actual = hashed(Path(path))
    if actual != expected:
        other = not_weights(Path(path))
        reason = "not the same weights" if other is None else f"the file is {other}"
        raise CcdError(f"{path} has SHA-256 {actual}, but {key} says {expected}: {reason}")
