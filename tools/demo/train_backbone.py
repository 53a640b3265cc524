"""Pretrain the demo student's backbone on objects outside the demo's classes, as ImageNet is used for VOC.

python -m tools.demo.train_backbone --out ccd/demo/assets/mobilenet_v2.pt
"""

from __future__ import annotations

import os
from pathlib import Path

import click
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.models import MobileNetV2, mobilenet_v2

from ccd.demo.scenes import PRETRAIN_CLASSES
from ccd.runtime.hardware import keep_freed_memory
from tools.demo.pools import Picture, SingleOrder, render_pool
from tools.demo.training import cosine_lr, parameter_groups, save_state_dict

Rng = np.random.Generator
RENDERED_PX = 128
PIXEL_MEAN = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
PIXEL_STD = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)


def render_training_pool(count: int, seed: int, workers: int) -> list[Picture]:
    """Render single objects of `PRETRAIN_CLASSES`, all equally frequent, 128 px square."""
    even = (1 / len(PRETRAIN_CLASSES),) * len(PRETRAIN_CLASSES)
    orders = [SingleOrder(seed, "backbone", index, PRETRAIN_CLASSES, even, RENDERED_PX) for index in range(count)]
    return render_pool(orders, workers)


def random_views(pictures: list[Picture], input_px: int, rng: Rng) -> Tensor:
    """Return a random crop per picture, flipped and brightened: (B, 3, input_px, input_px), normalised float32."""
    views = []
    for picture in pictures:
        side_px = picture.pixels.shape[0]
        wide_px, high_px = (round(share * side_px) for share in rng.uniform(0.65, 1.0, 2))
        x0 = int(rng.integers(0, side_px - wide_px + 1))
        y0 = int(rng.integers(0, side_px - high_px + 1))
        window = torch.from_numpy(picture.pixels[y0 : y0 + high_px, x0 : x0 + wide_px]).permute(2, 0, 1)[None]
        view = F.interpolate(window, (input_px, input_px), mode="bilinear", antialias=True)
        views.append(view.flip(-1) if rng.random() < 0.5 else view)
    gains = torch.from_numpy(rng.uniform(0.7, 1.3, (len(views), 3, 1, 1)).astype(np.float32))
    pixels = (torch.cat(views).float() / 255 * gains).clamp(0, 1)
    return ((pixels - PIXEL_MEAN) / PIXEL_STD).contiguous(memory_format=torch.channels_last)


def train(pool: list[Picture], steps: int, batch_size: int, lr: float, input_px: int, seed: int) -> MobileNetV2:
    """Train a MobileNetV2 on `PRETRAIN_CLASSES`; deterministic for one seed, pool, machine and thread count."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    model = mobilenet_v2(num_classes=len(PRETRAIN_CLASSES)).train().to(memory_format=torch.channels_last)
    optimiser = torch.optim.AdamW(parameter_groups(model, weight_decay=0.02), lr=lr)
    label_of = {name: index for index, name in enumerate(PRETRAIN_CLASSES)}
    loss_mean = 0.0
    accuracy_mean = 0.0
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = cosine_lr(lr, step, steps)
        pictures = [pool[index] for index in rng.integers(0, len(pool), batch_size)]
        labels = torch.tensor([label_of[picture.objects[0].name] for picture in pictures])
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(random_views(pictures, input_px, rng)).float()
        loss = F.cross_entropy(logits, labels, label_smoothing=0.05)
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        accuracy = float((logits.argmax(1) == labels).float().mean())
        blend = 1.0 if step == 0 else 0.02
        loss_mean += blend * (float(loss.detach()) - loss_mean)
        accuracy_mean += blend * (accuracy - accuracy_mean)
        if (step + 1) % 100 == 0 or step + 1 == steps:
            click.echo(f"step {step + 1}/{steps}  loss {loss_mean:.3f}  right {100 * accuracy_mean:.1f} %")
    return model.eval()


@click.command()
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Where to write features.* in fp16.")
@click.option("--steps", default=3000, show_default=True)
@click.option("--batch-size", default=48, show_default=True)
@click.option("--lr", default=2e-3, show_default=True)
@click.option("--pictures", default=8000, show_default=True, help="Pictures in the pool.")
@click.option("--input-px", default=64, show_default=True)
@click.option("--workers", default=os.cpu_count() or 1, show_default=True, help="Rendering processes (0: none).")
@click.option("--seed", default=0, show_default=True)
def main(
    out: Path, steps: int, batch_size: int, lr: float, pictures: int, input_px: int, workers: int, seed: int
) -> None:
    """Pretrain MobileNetV2 on renders of single objects; the classifier is not saved."""
    keep_freed_memory()
    click.echo(f"rendering {pictures} single objects")
    pool = render_training_pool(pictures, seed, workers)
    model = train(pool, steps, batch_size, lr, input_px, seed)
    weights = {name: tensor for name, tensor in model.state_dict().items() if name.startswith("features.")}
    save_state_dict(weights, out)
    click.echo(f"wrote {out} ({out.stat().st_size / 1e6:.1f} MB)")


if __name__ == "__main__":
    main()
