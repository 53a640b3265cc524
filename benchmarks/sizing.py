"""Hours, bytes and memory of a very large set of images, from rates that were measured: the sums of docs/many_gpus.md.

    python -m benchmarks.sizing --images 10000000 --gpus 8

A plan, not a measurement: it takes GPUs for independent of each other, and disks for fast enough.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import click

FLOAT_BYTES = 4
# The first measurement on one H200 (RN50x64 at 640 px in fp16, ResNet-101 at 448 px in bf16), before later work.
EMBEDDED = 216.0  # images/s, the library
VIEWS = 95.0  # views/s, clip_local
ASKED = 114.0  # images/s, cam_boxes
WARMED_UP = 2 * 1002 / 11.6  # images/s, two epochs of a fifth of VOC07
TRAINED = 100.0  # images/s, the library's loop, a weak and a strong view
INDEXED = 1992 / 1.7  # images/s on 16 cores
DECODED = 762 / 16  # images/s of a core, to 640 px
# docs/performance.md: seconds of a million images, 80 classes, 1,024 dimensions, two views an image, on one core
LABELLED_S = {"bias": 39.6, "global_labels": 80.4, "aggregate": 138.3}
MD5_BYTES_S = 0.76e9  # of one core (AMD EPYC, Zen 4)


@dataclass(frozen=True)
class Plan:
    """Numbers of images, GPUs and classes, views an image, dimensions of CLIP, and the price of an hour of a GPU."""

    images: int = 10_000_000
    gpus: int = 8
    classes: int = 80
    views: float = 5.0
    width: int = 1024
    price: float = 3.0

    @property
    def table_bytes(self) -> int:
        """One table of images x classes in memory, float32."""
        return self.images * self.classes * FLOAT_BYTES


def steps(plan: Plan) -> list[dict[str, object]]:
    """Return a row for each heavy stage: hours, cost, bytes written, and cores that decode for it."""
    views = plan.images * plan.views
    work = [
        ("clip_global", plan.images, EMBEDDED, plan.images * plan.width * FLOAT_BYTES, 1.0),
        ("warmup, 2 epochs", plan.images * 2, WARMED_UP, 0, 1.0),
        ("cam_boxes", plan.images, ASKED, views * 40, 1.0),
        ("clip_local", views, VIEWS, views * plan.width * FLOAT_BYTES, 1 / plan.views),
        ("train, 8 epochs", plan.images * 8, TRAINED, 0, 1.0),
    ]
    rows: list[dict[str, object]] = []
    for stage, count, rate, size, decoded in work:
        hours = count / rate / plan.gpus / 3600
        rows.append(
            {
                "stage": stage,
                "a second and GPU": f"{rate:.0f}",
                f"hours on {plan.gpus}": f"{hours:.1f}",
                "cost": f"{hours * plan.gpus * plan.price:,.0f}",
                "written": f"{size / 1e9:.1f} GB" if size else "the weights",
                "cores that decode": f"{rate * plan.gpus * decoded / DECODED:.0f}",
            }
        )
    return rows


def on_one_machine(plan: Plan) -> list[dict[str, object]]:
    """Return a row for each stage of one process: hours."""
    hours = {"index, on 16 cores": plan.images / INDEXED / 3600}
    hours |= {stage: seconds * plan.images / 1e6 / 3600 for stage, seconds in LABELLED_S.items()}
    embedded = plan.images * (1 + plan.views) * plan.width * FLOAT_BYTES
    hours["DVC's md5 of both feature files"] = embedded / MD5_BYTES_S / 3600
    return [{"what": what, "hours": f"{value:.2f}"} for what, value in hours.items()]


def memory(plan: Plan) -> list[dict[str, object]]:
    """Return a row for each thing that stays in memory: bytes, and where, the largest first."""
    views = plan.images * plan.views
    features = plan.images * plan.width * FLOAT_BYTES
    needs = [
        ("head", "features and labels of the training images", features + plan.table_bytes, "one process"),
        ("report", "25 bytes an image and class", 25 * plan.images * plan.classes, "one process"),
        ("warmup, train", "labels and predictions", 2 * plan.table_bytes, "every process"),
        ("clip_local", "a key, a box, a shape and a row of every view, about 200 bytes", 200 * views, "every process"),
        ("cam_boxes", "probabilities, and boxes", plan.table_bytes + 40 * views, "the first process"),
        ("clip_global", "the index and a key of every image, about 160 bytes", 160 * plan.images, "every process"),
    ]
    needs.sort(key=lambda need: -need[2])
    return [{"stage": each[0], "holds": each[1], "GB": f"{each[2] / 1e9:.1f}", "in": each[3]} for each in needs]


def markdown(rows: Sequence[Mapping[str, object]]) -> str:
    """Format rows as a table."""
    lines = [list(rows[0]), ["---"] * len(rows[0]), *([str(cell) for cell in row.values()] for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


@click.command()
@click.option("--images", default=Plan.images, show_default=True)
@click.option("--gpus", default=Plan.gpus, show_default=True)
@click.option("--classes", default=Plan.classes, show_default=True)
@click.option("--price", default=Plan.price, show_default=True, help="Of an hour of a GPU.")
def main(images: int, gpus: int, classes: int, price: float) -> None:
    """Print the tables of docs/many_gpus.md for other numbers."""
    plan = Plan(images, gpus, classes, price=price)
    for rows in (steps(plan), on_one_machine(plan), memory(plan)):
        click.echo(markdown(rows))


if __name__ == "__main__":
    main()
