"""Train the demo's CLIP: OpenAI's architecture, very small, contrastively on captioned renders.

python -m tools.demo.train_clip --out ccd/demo/assets/clip.pt
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import click
import clip
import numpy as np
import torch
import torch.nn.functional as F
from clip.model import CLIP, convert_weights
from torch import Tensor

from ccd.demo.scenes import CLASSES, Box
from ccd.runtime.hardware import keep_freed_memory
from tools.demo.captions import Caption, all_captions, fame, write_caption
from tools.demo.pools import Picture, SceneOrder, SingleOrder, render_pool
from tools.demo.training import cosine_lr, parameter_groups, save_clip_archive

Rng = np.random.Generator
INPUT_PX = 96
SINGLE_PX = 112
LOGIT_SCALE = 100.0
PIXEL_MEAN = torch.tensor([0.48145466, 0.4578275, 0.40821073]).view(3, 1, 1)
PIXEL_STD = torch.tensor([0.26862954, 0.26130258, 0.27577711]).view(3, 1, 1)


@dataclass(frozen=True)
class Batch:
    """uint8 images (B, 3, INPUT_PX, INPUT_PX), caption numbers (B,) and meaning numbers (B,)."""

    images: Tensor
    captions: Tensor
    meanings: Tensor


def new_clip() -> CLIP:
    """Build an untrained CLIP: ModifiedResNet of width 16, text width 64, embeddings of 64 numbers, scale 100."""
    model = CLIP(
        embed_dim=64,
        image_resolution=INPUT_PX,
        vision_layers=(1, 1, 1, 1),
        vision_width=16,
        vision_patch_size=None,
        context_length=77,
        vocab_size=49408,
        transformer_width=64,
        transformer_heads=1,
        transformer_layers=2,
    )
    with torch.no_grad():
        model.logit_scale.fill_(math.log(LOGIT_SCALE))
    model.logit_scale.requires_grad_(False)
    return model


def contrastive_loss(image_features: Tensor, text_features: Tensor, meanings: Tensor, scale: float) -> Tensor:
    """Return the symmetric contrastive loss of unit vectors (B, D), (B, D); equal ``meanings`` (B,) share a target."""
    logits = scale * image_features @ text_features.T  # (B, B)
    same = (meanings[:, None] == meanings[None, :]).float()
    target = same / same.sum(dim=1, keepdim=True)
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


def choose_view(picture: Picture, rng: Rng) -> Box:
    """Draw a view: the whole picture, a window around one object, or a window anywhere, as (x0, y0, x1, y1) pixels."""
    height_px, width_px = picture.pixels.shape[:2]
    dice = rng.random()
    if picture.place and dice < 0.4:
        return 0, 0, width_px, height_px
    if picture.place and picture.objects and dice < 0.85:
        x0, y0, x1, y1 = picture.objects[rng.integers(len(picture.objects))].box_px
        margins = rng.uniform(0, 0.8, 4) * max(x1 - x0, y1 - y0)
        x0 = max(0, round(x0 - margins[0]))
        y0 = max(0, round(y0 - margins[1]))
        return x0, y0, min(width_px, round(x1 + margins[2])), min(height_px, round(y1 + margins[3]))
    shares = rng.uniform(0.8 if not picture.place else 0.4, 1.0, 2)
    wide_px = round(shares[0] * width_px)
    high_px = round(shares[1] * height_px)
    x0 = int(rng.integers(0, width_px - wide_px + 1))
    y0 = int(rng.integers(0, height_px - high_px + 1))
    return x0, y0, x0 + wide_px, y0 + high_px


def batches(pool: list[Picture], captions: tuple[Caption, ...], size: int, rng: Rng) -> Iterator[Batch]:
    """Yield endless batches of random views, each with a caption in a random wording."""
    wordings: dict[tuple[str, ...], list[int]] = {}
    for number, caption in enumerate(captions):
        wordings.setdefault(caption.names, []).append(number)
    meaning_of = {names: number for number, names in enumerate(wordings)}
    while True:
        images = []
        numbers = []
        meanings = []
        for index in rng.integers(0, len(pool), size):
            picture = pool[index]
            view = choose_view(picture, rng)
            names = write_caption(picture, view, rng)
            images.append(_view_pixels(picture, view, flip=bool(rng.random() < 0.5)))
            numbers.append(int(rng.choice(wordings[names])))
            meanings.append(meaning_of[names])
        yield Batch(torch.cat(images), torch.tensor(numbers), torch.tensor(meanings))


def training_step(model: CLIP, batch: Batch, tokens: Tensor, optimiser: torch.optim.Optimizer) -> float:
    """Update the model on one batch; ``tokens`` (K, 77) are those of `all_captions`. Returns the loss."""
    pixels = (batch.images.float() / 255 - PIXEL_MEAN) / PIXEL_STD
    unique, inverse = batch.captions.unique(return_inverse=True)  # type: ignore[no-untyped-call]
    with torch.autocast("cpu", torch.bfloat16):
        image_features = model.visual(pixels.contiguous(memory_format=torch.channels_last)).float()
    text_features = model.encode_text(tokens[unique])[inverse]
    loss = contrastive_loss(
        F.normalize(image_features, dim=-1), F.normalize(text_features, dim=-1), batch.meanings, LOGIT_SCALE
    )
    optimiser.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimiser.step()
    return float(loss.detach())


def train(pool: list[Picture], steps: int, batch_size: int, lr: float, seed: int) -> CLIP:
    """Train a new CLIP on views of the pool; deterministic for one seed, pool, machine and thread count."""
    torch.manual_seed(seed)
    captions = all_captions()
    tokens = clip.tokenize([caption.text for caption in captions])
    model = new_clip().train()
    model.visual.to(memory_format=torch.channels_last)
    optimiser = torch.optim.AdamW(parameter_groups(model, weight_decay=0.05), lr=lr)
    supply = batches(pool, captions, batch_size, np.random.default_rng(seed))
    recent = 0.0
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = cosine_lr(lr, step, steps)
        loss = training_step(model, next(supply), tokens, optimiser)
        recent = loss if step == 0 else 0.98 * recent + 0.02 * loss
        if (step + 1) % 100 == 0 or step + 1 == steps:
            click.echo(f"step {step + 1}/{steps}  loss {recent:.3f}")
    forget_unused_tokens(model, tokens)
    return model.eval()


def forget_unused_tokens(model: CLIP, tokens: Tensor) -> None:
    """Set the embeddings to zero that no caption trained: they hold only initial noise, and zeros compress well."""
    unused = torch.ones(model.vocab_size, dtype=torch.bool)
    unused[tokens.flatten()] = False
    with torch.no_grad():
        model.token_embedding.weight[unused] = 0.0


def render_training_pool(scenes: int, singles: int, seed: int, workers: int) -> list[Picture]:
    """Render scenes, then single objects in the long-tailed frequencies of `fame`; no picture of any demo split."""
    weights = tuple(float(weight) for weight in fame())
    orders: list[SceneOrder | SingleOrder] = [SceneOrder(seed, "clip", index) for index in range(scenes)]
    orders += [SingleOrder(seed, "clip", scenes + index, CLASSES, weights, SINGLE_PX) for index in range(singles)]
    return render_pool(orders, workers)


def _view_pixels(picture: Picture, view_px: Box, flip: bool) -> Tensor:
    x0, y0, x1, y1 = view_px
    window = torch.from_numpy(picture.pixels[y0:y1, x0:x1]).permute(2, 0, 1)[None]
    resized = F.interpolate(window, (INPUT_PX, INPUT_PX), mode="bilinear", antialias=True)
    return resized.flip(-1) if flip else resized


@click.command()
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Where to write the fp16 checkpoint.")
@click.option("--steps", default=3500, show_default=True)
@click.option("--batch-size", default=64, show_default=True)
@click.option("--lr", default=2e-3, show_default=True)
@click.option("--scenes", default=8000, show_default=True, help="Scenes in the pool.")
@click.option("--singles", default=8000, show_default=True, help="Single-object pictures in the pool.")
@click.option("--workers", default=os.cpu_count() or 1, show_default=True, help="Rendering processes (0: none).")
@click.option("--seed", default=0, show_default=True)
def main(out: Path, steps: int, batch_size: int, lr: float, scenes: int, singles: int, workers: int, seed: int) -> None:
    """Train the demo's CLIP on freshly rendered, captioned pictures."""
    keep_freed_memory()
    click.echo(f"rendering {scenes} scenes and {singles} single objects")
    pool = render_training_pool(scenes, singles, seed, workers)
    model = train(pool, steps, batch_size, lr, seed)
    convert_weights(model)
    save_clip_archive(model.state_dict(), out)
    click.echo(f"wrote {out} ({out.stat().st_size / 1e6:.1f} MB)")


if __name__ == "__main__":
    main()
