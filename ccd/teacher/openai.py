"""OpenAI's CLIP models, by name or from a local checkpoint, through the package ``clip``."""

from __future__ import annotations

from http.client import HTTPException
from pathlib import Path

import clip
import torch
from clip.clip import _MODELS as DOWNLOAD_URLS
from clip.model import CLIP, ModifiedResNet, build_model
from torch import Tensor

from ccd.artifacts.weights_file import StateDict, check_sha256, is_torchscript, read_state_dict, without_prefix
from ccd.errors import CcdError, listed
from ccd.runtime.hardware import Precision
from ccd.teacher.clip_teacher import CLIP_MEAN_STD, ClipTeacher, ImageTower, Normalization, mean_std

RESNET_STRIDE_PX = 32
_ANCHORS = ("visual.conv1.weight", "token_embedding.weight", "text_projection", "logit_scale")  # every kind has them


def load(
    model: str, *, sha256: str | None, normalization: Normalization, precision: Precision, device: torch.device
) -> ClipTeacher:
    """Load ``model``: a name of ``clip.available_models()``, or the path of a checkpoint: TorchScript, or a
    state dict (see `ccd.artifacts.weights_file.read_state_dict`).

    Raises:
        CcdError: neither a name nor a file, a failed download, a wrong hash, or a file that holds no CLIP.
    """
    network = _from_name(model, sha256) if model in DOWNLOAD_URLS else _from_file(model, sha256)
    mean, std = mean_std(normalization, CLIP_MEAN_STD)
    label = model if model in DOWNLOAD_URLS else Path(model).name
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
    )


def tokenize(texts: list[str], width: int) -> Tensor:
    """Return token ids (T, width) int32, padded with 0; longer texts are truncated."""
    tokens: Tensor = clip.tokenize(texts, width, truncate=True)
    return tokens


def image_tower(network: CLIP) -> ImageTower:
    """Find the positional embedding of OpenAI's two kinds of tower."""
    visual = network.visual
    is_resnet = isinstance(visual, ModifiedResNet)
    stride_px = RESNET_STRIDE_PX if is_resnet else visual.conv1.kernel_size[0]
    side = visual.input_resolution // stride_px
    name = "attnpool.positional_embedding" if is_resnet else "positional_embedding"
    return ImageTower(visual, stride_px, name, (side, side))


def _from_name(name: str, sha256: str | None) -> CLIP:
    if sha256 is not None:
        raise CcdError(f"teacher.sha256 is for local checkpoints; the package clip checks {name!r} itself: remove it")
    try:
        network, _ = clip.load(name, device="cpu", jit=False)
    except (OSError, HTTPException, RuntimeError) as error:
        raise CcdError(
            f"cannot download CLIP {name} ({error}). Get {DOWNLOAD_URLS[name]} on a machine with a network "
            "and give the file's path as teacher.model"
        ) from None
    return network


def _from_file(model: str, sha256: str | None) -> CLIP:
    path = Path(model).expanduser()
    if not path.is_file():
        raise CcdError(f"teacher.model {model!r} is neither a file nor one of {', '.join(DOWNLOAD_URLS)}")
    check_sha256(path, sha256, "teacher.sha256")
    if not is_torchscript(path):
        return _built(read_state_dict(path, "teacher.model"), path)
    try:
        network, _ = clip.load(str(path), device="cpu", jit=False)
    except MemoryError:
        raise
    except Exception as error:
        raise CcdError(f"{path} is not a checkpoint of OpenAI's CLIP architecture: {_first_line(error)}") from error
    return network


def _built(state: StateDict, path: Path) -> CLIP:
    """Build the network that the shapes of the weights describe."""
    weights = without_prefix(state, _ANCHORS, f"teacher.model: {path}")
    missing = [name for name in _ANCHORS if name not in weights]
    if missing:
        raise CcdError(
            f"teacher.model: {path} is not a checkpoint of OpenAI's CLIP architecture; missing: {listed(missing)}; it "
            f"holds {listed(weights, 5)}; models in another layout: teacher.backend open_clip"
        )
    try:
        network = build_model(dict(weights)).float()
        # build_model rounds to fp16: read once more for checkpoints that hold more than that
        network.load_state_dict({name: weights[name] for name in network.state_dict()})
    except MemoryError:
        raise
    except Exception as error:
        raise CcdError(f"{path} is not a checkpoint of OpenAI's CLIP architecture: {_first_line(error)}") from error
    return network


def _first_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
