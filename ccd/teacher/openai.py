"""OpenAI's CLIP models, by name or from a local checkpoint, through the package ``clip``.

The package's own modules ``model`` and ``simple_tokenizer`` are imported without the package, and its `clip.load` for
downloads alone: the package imports torchvision, which takes longer than all else at the start of a stage.
"""

from __future__ import annotations

import mmap
import pickle
import sys
import zipfile
from collections.abc import Callable, Iterator
from functools import cache
from http.client import HTTPException
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ccd.artifacts.files import hash_of
from ccd.artifacts.weights_file import StateDict, check_sha256, is_torchscript, read_state_dict, without_prefix
from ccd.errors import CcdError, listed
from ccd.runtime.hardware import Precision
from ccd.teacher.clip_teacher import CLIP_MEAN_STD, ClipTeacher, ImageTower, Normalization, mean_std

FILE_HASH = "sha256"  # kind of what is remembered: the SHA-256 of the file itself
Remember = Callable[[str, Path, Callable[[], str]], str]
"""(kind, file, compute) -> the text that ``compute()`` derives from the file's content, or did so in an earlier run."""

RESNET_STRIDE_PX = 32
_ANCHORS = ("visual.conv1.weight", "token_embedding.weight", "text_projection", "logit_scale")  # every kind has them
_NO_WEIGHTS = {"input_resolution", "context_length", "vocab_size"}  # numbers that archives hold beside them

_SERVER = "https://openaipublic.azureedge.net/clip/models"
DOWNLOAD_URLS = {
    "RN50": f"{_SERVER}/afeb0e10f9e5a86da6080e35cf09123aca3b358a0c3e3b6c78a7b63bc04b6762/RN50.pt",
    "RN101": f"{_SERVER}/8fa8567bab74a42d41c5915025a8e4538c3bdbe8804a470a72f30b0d94fab599/RN101.pt",
    "RN50x4": f"{_SERVER}/7e526bd135e493cef0776de27d5f42653e6b4c8bf9e0f653bb11773263205fdd/RN50x4.pt",
    "RN50x16": f"{_SERVER}/52378b407f34354e150460fe41077663dd5b39c54cd0bfd2b27167a4a06ec9aa/RN50x16.pt",
    "RN50x64": f"{_SERVER}/be1cfb55d75a9666199fb2206c106743da0f6468c9d327f3e0d0a543a9919d9c/RN50x64.pt",
    "ViT-B/32": f"{_SERVER}/40d365715913c9da98579312b702a82c18be219cc2a73407c4526f58eba950af/ViT-B-32.pt",
    "ViT-B/16": f"{_SERVER}/5806e77cd80f8b59890b7e101eabd078d9fb84e6937f9e85e4ecb61988df416f/ViT-B-16.pt",
    "ViT-L/14": f"{_SERVER}/b8cca3fd41ae0c99ba7e8951adf17d267cdb84cd88be6f7c2e0eca1737a03836/ViT-L-14.pt",
    "ViT-L/14@336px": f"{_SERVER}/3035c92b350959924f9f00213499208652fc7ea050643e8b385c2dac08641f02/ViT-L-14-336px.pt",
}
"""The package's own table of names; the last folder is the file's SHA-256."""
_DOWNLOADS = Path("~/.cache/clip")  # where the package puts them


def load(
    model: str,
    *,
    sha256: str | None,
    normalization: Normalization,
    precision: Precision,
    device: torch.device,
    remember: Remember,
) -> ClipTeacher:
    """Load ``model``: a name of ``clip.available_models()``, or the path of a checkpoint: TorchScript, or a
    state dict (see `ccd.artifacts.weights_file.read_state_dict`).

    Raises:
        CcdError: neither a name nor a file, a failed download, a wrong hash, or a file that holds no CLIP.
    """
    if model in DOWNLOAD_URLS:
        label = model
        path = _named_file(model, sha256, remember)
    else:
        path = Path(model).expanduser()
        label = path.name
        if not path.is_file():
            raise CcdError(f"teacher.model {model!r} is neither a file nor one of {', '.join(DOWNLOAD_URLS)}")
        check_sha256(path, sha256, "teacher.sha256", lambda file: remember(FILE_HASH, file, lambda: hash_of(file)))
    network, weights = _read(path)
    mean, std = mean_std(normalization, CLIP_MEAN_STD)
    return ClipTeacher(
        network,
        image_tower(network),
        tokenize,
        embed_dim=network.text_projection.shape[1],
        mean=mean,
        std=std,
        precision=precision,
        device=device,
        description=f"clip {label}, {normalization} pixels, {precision}",
        weights=weights,
        identify=lambda compute: remember("clip", path, compute),
    )


def tokenize(texts: list[str], width: int) -> Tensor:
    """Return token ids (T, width) int32, padded with 0; longer texts are truncated, and end in the end's token."""
    tokens = torch.zeros((len(texts), width), dtype=torch.int32)
    vocabulary = _vocabulary()
    start, end = (vocabulary.encoder[mark] for mark in ("<|startoftext|>", "<|endoftext|>"))
    for row, text in enumerate(texts):
        ids = [start, *vocabulary.encode(text)[: width - 2], end]
        tokens[row, : len(ids)] = torch.tensor(ids)
    return tokens


def image_tower(network: Any) -> ImageTower:
    """Find the positional embedding of OpenAI's two kinds of tower."""
    visual = network.visual
    is_resnet = hasattr(visual, "attnpool")
    stride_px = RESNET_STRIDE_PX if is_resnet else visual.conv1.kernel_size[0]
    side = visual.input_resolution // stride_px
    name = "attnpool.positional_embedding" if is_resnet else "positional_embedding"
    return ImageTower(visual, stride_px, name, (side, side))


def unfilled(build: Callable[[], Any]) -> Any:
    """Return the network that ``build()`` makes, its weights on the meta device: shapes without values or memory.

    No start values are drawn, none are copied, nothing is rounded to fp16. (To build on the meta device itself makes
    PyTorch import its compiler, which takes a second.)
    """
    with torch.no_grad(), _NoValues():
        network = build().float().eval()
    network.load_state_dict({name: value.to("meta") for name, value in network.state_dict().items()}, assign=True)
    return network


class _NoValues(TorchFunctionMode):
    """Leaves out what gives parameters their values, and casts to fp16."""

    VALUES = ("normal_", "uniform_", "kaiming_uniform_", "constant_", "fill_", "zero_", "copy_")
    ARITHMETIC = ("erfinv_", "mul_", "add_", "clamp_")  # of truncated normal distributions

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call ``function``, or return its first argument."""
        given = args[0] if args else (kwargs or {}).get("tensor")
        name = getattr(function, "__name__", "")
        gives_values = name in (*self.VALUES, *self.ARITHMETIC) and isinstance(given, nn.Parameter)
        return given if gives_values or name == "half" else function(*args, **(kwargs or {}))


def _named_file(name: str, sha256: str | None, remember: Remember) -> Path:
    """Return the file of a name, after the download if need be."""
    if sha256 is not None:
        raise CcdError(f"teacher.sha256 is for local checkpoints; the file of {name!r} is checked anyway: remove it")
    url = DOWNLOAD_URLS[name]
    expected, file_name = url.split("/")[-2:]
    path = _DOWNLOADS.expanduser() / file_name
    if not path.is_file() or remember(FILE_HASH, path, lambda: hash_of(path)) != expected:
        import clip

        try:
            clip.load(name, device="cpu", jit=False)
        except (OSError, HTTPException, RuntimeError) as error:
            raise CcdError(
                f"cannot download CLIP {name} ({error}). Get {url} on a machine with a network "
                "and give the file's path as teacher.model"
            ) from None
    return path


def _read(path: Path) -> tuple[Any, StateDict]:
    """Return the network that the shapes of a checkpoint describe, without values, and the weights for it."""
    if not is_torchscript(path):
        return _built(read_state_dict(path, "teacher.model", mapped=True), path)
    try:
        return _built(_archived(path), path)
    except MemoryError:
        raise
    except Exception:  # an archive of another make: PyTorch's own reader is slower, and knows them all
        return _built(_archived_of_any_make(path), path)


def _built(state: StateDict, path: Path) -> tuple[Any, StateDict]:
    state = {name: value for name, value in state.items() if name not in _NO_WEIGHTS}
    weights = without_prefix(state, _ANCHORS, f"teacher.model: {path}")
    missing = [name for name in _ANCHORS if name not in weights]
    if missing:
        raise CcdError(
            f"teacher.model: {path} is not a checkpoint of OpenAI's CLIP architecture; missing: {listed(missing)}; it "
            f"holds {listed(weights, 5)}; models in another layout: teacher.backend open_clip"
        )
    try:
        network = unfilled(lambda: _module("model").build_model(dict(weights)))  # checks names and shapes
        own = {name: _as(weights[name], value) for name, value in network.state_dict().items()}
    except MemoryError:
        raise
    except Exception as error:
        raise _no_clip(path, error) from error
    return network, own


def _as(value: Tensor, expected: Tensor) -> Tensor:
    """Return integers where integers are expected, and floating numbers of any precision elsewhere."""
    fits = value.is_floating_point() == expected.is_floating_point()
    return value if fits else value.to(expected.dtype)


def _no_clip(path: Path, error: Exception) -> CcdError:
    first_line = " ".join(str(error).split())[:300] or type(error).__name__
    return CcdError(f"{path} is not a checkpoint of OpenAI's CLIP architecture: {first_line}")


@cache
def _module(name: str) -> Any:
    """Import a module of the package ``clip`` without the package, see the top; `sys.modules` stays as it is."""
    full = f"clip.{name}"
    if full in sys.modules:
        return sys.modules[full]
    package = find_spec("clip")
    folder = Path((package.submodule_search_locations or [""])[0]) if package is not None else Path()
    spec = spec_from_file_location(full, folder / f"{name}.py")
    if spec is None or spec.loader is None:
        raise ModuleNotFoundError(full)
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@cache
def _vocabulary() -> Any:
    return _module("simple_tokenizer").SimpleTokenizer()


def _archived(path: Path) -> StateDict:
    """Read the weights in a TorchScript archive without its program, as views of the file."""
    with zipfile.ZipFile(path) as archive, path.open("rb") as file:
        return _Archive(archive, file).weights()


def _archived_of_any_make(path: Path) -> StateDict:
    try:
        state: StateDict = torch.jit.load(str(path), map_location="cpu").state_dict()  # type: ignore[no-untyped-call]
    except MemoryError:
        raise
    except Exception as error:
        raise _no_clip(path, error) from error
    return state


_DTYPES = {
    "HalfStorage": torch.float16,
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "IntStorage": torch.int32,
    "LongStorage": torch.int64,
}


class _Scripted:
    """Stands for a module of a program: it takes the attributes, and none of the code."""


class _Archive(pickle.Unpickler):
    """Reads the tensors of a TorchScript archive as views of its ``file``; what the archive would run is refused."""

    def __init__(self, archive: zipfile.ZipFile, file: IO[bytes]) -> None:
        self._records = {info.filename.partition("/")[2]: info for info in archive.infolist()}
        super().__init__(archive.open(self._records["data.pkl"]))
        self._bytes = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)  # kept by the tensors

    def weights(self) -> StateDict:
        """Return the tensors by the names that a state dict gives them."""
        return dict(_tensors(self.load(), ""))

    def find_class(self, module: str, name: str) -> Any:
        """Return what a pickle of TorchScript needs."""
        if module.startswith("__torch__"):
            return _Scripted
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return lambda storage, offset, size, stride, *_: storage.as_strided(size, stride, offset)
        if module == "torch" and name in _DTYPES:
            return _DTYPES[name]
        if (module, name) == ("collections", "OrderedDict"):
            return dict
        if module == "torch.jit._pickle":
            return lambda value, *_: value
        raise pickle.UnpicklingError(f"{module}.{name}")

    def persistent_load(self, pid: Any) -> Tensor:
        """Return the numbers of a storage, (n,)."""
        _, dtype, key, _, count = pid
        info = self._records[f"data/{key}"]
        if info.compress_type != zipfile.ZIP_STORED:
            raise pickle.UnpicklingError("compressed")
        header = self._bytes[info.header_offset : info.header_offset + 30]
        name_and_extra = int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little")
        start = info.header_offset + len(header) + name_and_extra
        return torch.frombuffer(self._bytes, dtype=dtype, count=count, offset=start)


def _tensors(module: _Scripted, prefix: str) -> Iterator[tuple[str, Tensor]]:
    for name, value in vars(module).items():
        if isinstance(value, Tensor):
            yield prefix + name, value
        elif isinstance(value, _Scripted):
            yield from _tensors(value, f"{prefix}{name}.")
