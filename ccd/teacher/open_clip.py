"""Models of the package ``open_clip`` (an extra), by name and tag, or from local files."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from ccd.artifacts.files import hash_of
from ccd.artifacts.weights_file import StateDict, check_sha256, load_fitting, read_state_dict, without_prefix
from ccd.errors import CcdError, install_advice
from ccd.runtime.hardware import Precision
from ccd.teacher.clip_teacher import ClipTeacher, ImageTower, Normalization, mean_std
from ccd.teacher.openai import FILE_HASH, Remember, unfilled

DEFAULT_STRIDE_PX = 32
DIRECTORY_CONFIG = "open_clip_config.json"
DIRECTORY_WEIGHTS = "open_clip_model.safetensors"


def load(
    model: str,
    pretrained: str | None,
    *,
    sha256: str | None,
    normalization: Normalization,
    precision: Precision,
    device: torch.device,
    remember: Remember,
) -> ClipTeacher:
    """Load an open_clip model.

    Args:
        model: a name with ``pretrained`` = tag or checkpoint path; the path of a config JSON with ``pretrained`` =
            checkpoint path; or a folder with ``open_clip_config.json`` and ``open_clip_model.safetensors``.

    Raises:
        CcdError: open_clip is not installed, an unknown name or tag, a missing file, a wrong hash, a failed download.
    """
    package = _package()
    source = _source(package, model, pretrained)
    if sha256 is not None and source.weights is None:
        raise CcdError("teacher.sha256 is for local checkpoints: remove it, or give the path of the weights")
    if source.weights is not None:
        check_sha256(
            source.weights, sha256, "teacher.sha256", lambda path: remember(FILE_HASH, path, partial(hash_of, path))
        )
    lean = None if source.weights is None else _unfilled(package, source, source.weights)
    network, weights = (_created(package, source), None) if lean is None else lean
    tokenizer = package.get_tokenizer(source.name)
    own = network.visual.preprocess_cfg
    mean, std = mean_std(normalization, (own["mean"], own["std"]))

    def tokenize(texts: list[str], width: int) -> Tensor:
        tokens: Tensor = tokenizer(texts, context_length=width)
        return tokens

    return ClipTeacher(
        network,
        image_tower(network.visual),
        tokenize,
        embed_dim=int(package.get_model_config(source.name)["embed_dim"]),
        mean=mean,
        std=std,
        precision=precision,
        device=device,
        description=f"open_clip {source.label}, {normalization} pixels, {precision}",
        weights=weights,
        identify=None if source.weights is None else partial(remember, _kind(package, source), source.weights),
    )


def image_tower(visual: nn.Module) -> ImageTower:
    """Find the positional embedding of open_clip's towers; timm's convolutional trunks have none."""
    parameters = {name for name, _ in visual.named_parameters()}
    module: Any = visual
    if "attnpool.positional_embedding" in parameters:
        side = round((module.attnpool.positional_embedding.shape[0] - 1) ** 0.5)
        return ImageTower(visual, DEFAULT_STRIDE_PX, "attnpool.positional_embedding", (side, side))
    if "positional_embedding" in parameters:
        return ImageTower(visual, module.patch_size[0], "positional_embedding", tuple(module.grid_size))
    if "trunk.pos_embed" in parameters:
        patches = module.trunk.patch_embed
        if module.trunk.dynamic_img_size:  # interpolates by itself
            return ImageTower(visual, patches.patch_size[0], None, (0, 0))
        patches.strict_img_size = False
        return ImageTower(visual, patches.patch_size[0], "trunk.pos_embed", tuple(patches.grid_size))
    return ImageTower(visual, DEFAULT_STRIDE_PX, None, (0, 0))


@dataclass(frozen=True)
class _Source:
    """``name`` and ``pretrained`` as open_clip reads them, the local file of ``weights`` if any, a ``label``."""

    name: str
    pretrained: str | None
    weights: Path | None
    label: str


def _package() -> ModuleType:
    try:
        import open_clip
    except ImportError as error:
        raise CcdError(f"teacher.backend open_clip is not installed ({error}): {install_advice('openclip')}") from None
    package: ModuleType = open_clip
    return package


def _source(package: ModuleType, model: str, pretrained: str | None) -> _Source:
    path = Path(model).expanduser()
    if path.is_dir():
        return _folder_source(path, pretrained)
    name = model
    if path.suffix == ".json":
        _check_config(path)
        package.add_model_config(path)
        name = path.stem
    elif model not in package.list_models():
        names = ", ".join(package.list_models())
        raise CcdError(f"teacher.model {model!r} is neither a config JSON, nor a folder, nor one of {names}")
    tags = package.list_pretrained_tags_by_model(name)
    if pretrained in tags:
        return _Source(name, pretrained, None, f"{name} {pretrained}")
    weights = Path(pretrained or "").expanduser()
    if not weights.is_file():
        raise CcdError(
            f"teacher.pretrained {pretrained!r} is neither a file of weights nor a tag of {name}; "
            f"tags: {', '.join(tags) or 'none'}"
        )
    return _Source(name, str(weights), weights, f"{name} {weights.name}")


def _folder_source(folder: Path, pretrained: str | None) -> _Source:
    if pretrained is not None:
        raise CcdError(f"teacher.model {folder} is a folder with its own weights: leave teacher.pretrained empty")
    for name in (DIRECTORY_CONFIG, DIRECTORY_WEIGHTS):
        if not (folder / name).is_file():
            raise CcdError(f"teacher.model: the folder {folder} holds no {name}")
    return _Source(f"local-dir:{folder}", None, folder / DIRECTORY_WEIGHTS, folder.name)


def _check_config(path: Path) -> None:
    """Check a local config, since open_clip silently skips one that it cannot use."""
    try:
        config = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise CcdError(f"cannot read the open_clip config {path}: {error}") from None
    missing = [key for key in ("embed_dim", "vision_cfg", "text_cfg") if key not in config]
    if missing:
        raise CcdError(f"the open_clip config {path} has no {', '.join(missing)}")


def _kind(package: ModuleType, source: _Source) -> str:
    """Return what, besides the file of weights, decides which of them the network has."""
    return json.dumps(["open_clip", source.name, package.get_model_config(source.name)], sort_keys=True, default=str)


def _unfilled(package: ModuleType, source: _Source, weights: Path) -> tuple[Any, StateDict] | None:
    """Return the network without values, and the weights for it; None if open_clip must convert or refuse the file."""
    try:
        state = read_state_dict(weights, "teacher", mapped=True)
        network = unfilled(partial(_without_weights, package, source))
        expected = network.state_dict()
        fitting = without_prefix(state, expected, "teacher")
    except MemoryError:
        raise
    except Exception:  # what is wrong is found once more, and named, on the longer way
        return None
    is_same = fitting.keys() == expected.keys() and all(
        fitting[name].shape == value.shape and fitting[name].is_floating_point() == value.is_floating_point()
        for name, value in expected.items()
    )
    return (network, fitting) if is_same else None


def _without_weights(package: ModuleType, source: _Source) -> Any:
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)  # that the network has no weights
    try:
        return package.create_model(source.name, load_weights=False, pretrained_text=False)
    finally:
        logging.disable(disabled)


def _created(package: ModuleType, source: _Source) -> Any:
    try:
        return package.create_model(source.name, source.pretrained, require_pretrained=True, weights_only=True)
    except MemoryError:
        raise
    except Exception as error:
        if source.weights is None:
            raise CcdError(
                f"open_clip cannot load {source.label}: {error}; a network is needed, or the path of a local file as "
                "teacher.pretrained"
            ) from error
        return _created_by_hand(package, source, source.weights)


def _created_by_hand(package: ModuleType, source: _Source, weights: Path) -> Any:
    """Load a checkpoint that wraps the state dict deeper than open_clip looks; name any other file in the error."""
    what = f"teacher.{'model' if source.pretrained is None else 'pretrained'}"
    state = read_state_dict(weights, what)
    try:
        network = _without_weights(package, source)
    except Exception as error:
        raise CcdError(f"open_clip cannot load {source.label}: {' '.join(str(error).split())[:300]}") from error
    load_fitting(network, state, f"{source.name} from {weights}")
    return network
