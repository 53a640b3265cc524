"""Models of the package ``open_clip`` (an extra): by name and tag, from the Hugging Face hub, or from local files."""

from __future__ import annotations

import copy
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from ccd.artifacts.files import hash_of
from ccd.artifacts.weights_file import StateDict, check_sha256, load_fitting, read_state_dict, without_prefix
from ccd.errors import CcdError, install_advice
from ccd.runtime.hardware import Precision
from ccd.teacher.clip_teacher import ClipTeacher, ImageTower, MeanStd, Normalization, mean_std
from ccd.teacher.openai import FILE_HASH, Remember, unfilled

DEFAULT_STRIDE_PX = 32
HUB = "hf-hub:"
FOLDER_CONFIG = "open_clip_config.json"
FOLDER_WEIGHTS = ("open_clip_model.safetensors", "open_clip_pytorch_model.safetensors", "open_clip_pytorch_model.bin")
"""Names of the weights in folders, in the order in which open_clip looks for them."""


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
            checkpoint path; ``hf-hub:ORG/NAME``, a repository of the Hugging Face hub; or a folder with the files of
            one: ``open_clip_config.json``, one of `FOLDER_WEIGHTS`, and where the model needs them the tokenizer's.

    Raises:
        CcdError: open_clip is not installed, an unknown name or tag, a missing file, a wrong hash, a failed download,
            or an image tower of one fixed size.
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
    mean, std = mean_std(normalization, _own_mean_std(package, source, network))
    config = package.get_model_config(source.name)
    tokenizer = cache(partial(_tokenizer, package, source))  # stages that read images alone never load it
    return ClipTeacher(
        network,
        image_tower(network.visual),
        lambda texts, width: tokenizer()(texts, context_length=width),
        embed_dim=int(config["embed_dim"]),
        mean=mean,
        std=std,
        precision=precision,
        device=device,
        description=f"open_clip {source.label}, {normalization} pixels, {precision}",
        context_length=config["text_cfg"].get("context_length", package.tokenizer.DEFAULT_CONTEXT_LENGTH),
        weights=weights,
        identify=None if source.weights is None else partial(remember, _kind(package, source), source.weights),
    )


def image_tower(visual: Any) -> ImageTower:
    """Find the positional embedding of open_clip's towers; timm's convolutional trunks have none.

    Raises CcdError: the tower takes images of one size alone.
    """
    parameters = {name for name, _ in visual.named_parameters()}
    if "attnpool.positional_embedding" in parameters:
        side = round((visual.attnpool.positional_embedding.shape[0] - 1) ** 0.5)
        return ImageTower(visual, DEFAULT_STRIDE_PX, "attnpool.positional_embedding", (side, side))
    if "positional_embedding" in parameters:
        return ImageTower(visual, visual.patch_size[0], "positional_embedding", tuple(visual.grid_size))
    trunk = getattr(visual, "trunk", None)
    patches = getattr(trunk, "patch_embed", None)
    if trunk is None or patches is None:
        return ImageTower(visual, DEFAULT_STRIDE_PX, None, (0, 0))
    if not hasattr(trunk, "pos_embed"):
        raise CcdError(
            f"the teacher's image tower ({type(trunk).__name__}) takes images of {patches.img_size[0]} px alone, and "
            "local views have other sizes; take another teacher (ccd teachers lists some)"
        )
    stride_px = patches.img_size[0] // patches.grid_size[0]  # more than a patch, if convolutions come first
    if trunk.pos_embed is None or trunk.dynamic_img_size:  # interpolates by itself
        return ImageTower(visual, stride_px, None, (0, 0))
    patches.strict_img_size = False
    computed = None if getattr(trunk, "rope", None) is None else partial(_rotary, trunk)
    return ImageTower(visual, stride_px, "trunk.pos_embed", tuple(patches.grid_size), computed)


def _rotary(trunk: Any, grid: tuple[int, int]) -> Mapping[str, Tensor]:
    """Compute the rotary position embedding of timm's EVA and PE, a buffer of theirs, for another grid."""
    rotary = copy.deepcopy(trunk.rope)
    rotary.update_feat_shape(list(grid))
    return {"trunk.rope.pos_embed": rotary.get_embed()}


@dataclass(frozen=True)
class _Source:
    """``name`` and ``pretrained`` as open_clip reads them, the local file of ``weights`` if any, a ``label``, and parts
    of the model's configuration that are ``replaced``."""

    name: str
    pretrained: str | None
    weights: Path | None
    label: str
    replaced: Mapping[str, Any] = field(default_factory=dict)


def _package() -> ModuleType:
    try:
        import open_clip
    except ImportError as error:
        raise CcdError(f"teacher.backend open_clip is not installed ({error}): {install_advice('openclip')}") from None
    package: ModuleType = open_clip
    return package


def _source(package: ModuleType, model: str, pretrained: str | None) -> _Source:
    if model.startswith(HUB):
        return _hub_source(package, model, pretrained)
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
        raise CcdError(f"teacher.model {model!r} is neither a config JSON, a folder, {HUB}ORG/NAME, nor one of {names}")
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


def _hub_source(package: ModuleType, model: str, pretrained: str | None) -> _Source:
    """Fetch a model of the hub into the hub's own cache, unless it is there."""
    if pretrained is not None:
        raise CcdError(f"teacher.model {model} has weights of its own: leave teacher.pretrained empty")
    repository = model.removeprefix(HUB)
    try:
        package.get_model_config(model)  # first, since it is small
        weights = Path(package.pretrained.download_pretrained_from_hf(repository))
    except Exception as error:
        raise CcdError(
            f"teacher.model {model} cannot be fetched ({_short(error)}); check that it is a model of open_clip (with "
            f"{FOLDER_CONFIG}); without a network, give a folder: hf download {repository} --local-dir FOLDER"
        ) from None
    return _Source(model, None, weights, repository)


def _folder_source(folder: Path, pretrained: str | None) -> _Source:
    if pretrained is not None:
        raise CcdError(f"teacher.model {folder} is a folder with its own weights: leave teacher.pretrained empty")
    weights = weights_in(folder)
    if weights is None or not (folder / FOLDER_CONFIG).is_file():
        raise CcdError(f"teacher.model: the folder {folder} holds no {FOLDER_CONFIG}, or no {FOLDER_WEIGHTS[0]}")
    content = read_config(folder / FOLDER_CONFIG)
    text = content.get("model_cfg", content).get("text_cfg", {})
    replaced = {}
    if "hf_model_name" in text and (folder / "config.json").is_file():  # of the text tower, a model of transformers
        replaced["text_cfg"] = {**text, "hf_model_name": str(folder), "hf_model_pretrained": False}
    return _Source(f"local-dir:{folder}", None, weights, folder.name, replaced)


def weights_in(folder: Path) -> Path | None:
    """Return the file of weights in the folder of an open_clip model, None without one."""
    return next((folder / name for name in FOLDER_WEIGHTS if (folder / name).is_file()), None)


def read_config(path: Path) -> dict[str, Any]:
    """Read a configuration of open_clip. Raises CcdError: it cannot be read."""
    try:
        return dict(json.loads(path.read_text("utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise CcdError(f"cannot read the open_clip config {path}: {error}") from None


def _check_config(path: Path) -> None:
    """Check a local config, since open_clip silently skips one that it cannot use."""
    config = read_config(path)
    missing = [key for key in ("embed_dim", "vision_cfg", "text_cfg") if key not in config]
    if missing:
        raise CcdError(f"the open_clip config {path} has no {', '.join(missing)}; of a model's folder, give the folder")


def _own_mean_std(package: ModuleType, source: _Source, network: Any) -> MeanStd:
    """Return the model's pixel mean and std.

    For a name with a local file open_clip assumes OpenAI's; if all published weights of the name share others, as
    SigLIP's do, these are taken.
    """
    own = network.visual.preprocess_cfg
    tags = [] if source.pretrained is None else package.list_pretrained_tags_by_model(source.name)
    cards = [package.get_pretrained_cfg(source.name, tag) for tag in tags if source.weights is not None]
    published = {(tuple(card["mean"]), tuple(card["std"])) for card in cards}
    return published.pop() if len(published) == 1 else (own["mean"], own["std"])


def _tokenizer(package: ModuleType, source: _Source) -> Any:
    """Return the tokenizer, which cleans texts as the configuration says (SigLIP: lower case, no punctuation)."""
    try:
        return package.get_tokenizer(source.name)
    except MemoryError:
        raise
    except Exception as error:
        files = "its files (tokenizer.json, ...) belong into the folder teacher.model; for a name they are fetched"
        advice = install_advice("openclip") if isinstance(error, ImportError) else files
        raise CcdError(f"the tokenizer of {source.label} cannot be loaded ({_short(error)}): {advice}") from None


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:300]


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
        return package.create_model(source.name, load_weights=False, pretrained_text=False, **source.replaced)
    finally:
        logging.disable(disabled)


def _created(package: ModuleType, source: _Source) -> Any:
    try:
        how: Any = {"require_pretrained": True, "weights_only": True, **source.replaced}
        return package.create_model(source.name, source.pretrained, **how)
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
        raise CcdError(f"open_clip cannot load {source.label}: {_short(error)}") from error
    load_fitting(network, state, f"{source.name} from {weights}")
    return network
