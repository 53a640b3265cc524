"""Draws how images get their labels: the image with its local views, and its global, local and final labels.

python -m studies.picture --out docs/example.png            # four images, chosen without ground truth
"""

from __future__ import annotations

from pathlib import Path

import click
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from ccd.artifacts import boxes_file, class_table, image_index
from ccd.artifacts.class_table import PSEUDO_LABELS
from ccd.errors import user_errors
from ccd.images.decode import read_image
from ccd.images.remote import located
from ccd.labels.thresholds import LABELLED
from ccd.params.file import load
from ccd.params.sections import DatasetParams

STEPS = (
    ("global_prob", "CLIP, whole image", "#b8c4d6"),
    ("local_label", "best local view", "#e8a33d"),
    ("label", "label", "#2f6db5"),
)


def draw(
    index: image_index.ImageIndex,
    views: boxes_file.BoxTable,
    labels: class_table.ClassTable,
    rows: np.ndarray,
    root: Path,
    out: Path,
) -> None:
    """Draw a column per image of ``rows`` (rows of ``labels``): boxes above, bars of its strongest classes below."""
    figure, axes = plt.subplots(
        2, len(rows), figsize=(3.4 * len(rows), 5.6), height_ratios=(1.25, 1), layout="constrained"
    )
    row_of = {image_id: row for row, image_id in enumerate(index.ids)}
    for column, row in enumerate(rows):
        file = located(root, index.paths[row_of[labels.ids[row]]])
        top = np.argsort(-labels.columns["label"][row], kind="stable")[:4]
        shown = [c for c in top[::-1] if labels.columns["label"][row, c] >= LABELLED]
        winners = {int(labels.columns["box_id"][row, c]): labels.classes[c] for c in shown}
        draw_image(axes[0, column], np.asarray(read_image(file)), views, winners)
        draw_bars(axes[1, column], labels, row, top)
    figure.legend(*axes[1, 0].get_legend_handles_labels(), loc="outside lower center", ncols=len(STEPS), frameon=False)
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=110)
    plt.close(figure)


def draw_image(axis: Axes, pixels: np.ndarray, views: boxes_file.BoxTable, winners: dict[int, str]) -> None:
    """Draw the image and, with class names, the views that gave a strong class its label."""
    axis.imshow(pixels)
    axis.axis("off")
    for box, name in winners.items():
        if box >= 0:
            x0, y0, x1, y1 = views.boxes_px[box]
            axis.add_patch(Rectangle((x0, y0), x1 - x0, y1 - y0, fill=False, edgecolor="#e8a33d", linewidth=1.8))
            axis.text(
                x0 + 2,
                y0 + 2,
                name,
                va="top",
                fontsize=8,
                color="white",
                bbox={"facecolor": "#2b2b2b", "pad": 1.5, "lw": 0},
            )


def draw_bars(axis: Axes, labels: class_table.ClassTable, row: int, top: np.ndarray) -> None:
    """Draw global probability, local label and final label of the ``top`` classes as horizontal bars."""
    for step, (column, title, colour) in enumerate(STEPS):
        values = np.clip(np.nan_to_num(labels.columns[column][row, top]), 0, 1)
        axis.barh(np.arange(len(top)) + (step - 1) * 0.27, values, height=0.25, color=colour, label=title)
    axis.set_yticks(np.arange(len(top)), [labels.classes[c] for c in top])
    axis.invert_yaxis()
    axis.set_xlim(0, 1)
    axis.spines[["top", "right"]].set_visible(False)


def surest_rows(views: boxes_file.BoxTable, labels: class_table.ClassTable) -> np.ndarray:
    """Rank the images on which views raised at least two labels to 0.5, without ground truth.

    An image ranks by its least sure raised label: the warmed-up student's probability of the class that requested the
    winning view, 0 if another class requested it.

    Returns:
        (N,) int64 rows of ``labels``.
    """
    columns = labels.columns
    raised = (columns["label"] >= LABELLED) & (columns["global_label"] < LABELLED)
    boxes = np.maximum(columns["box_id"], 0)
    is_own = np.asarray(views.classes, object)[boxes] == np.asarray(labels.classes, object)
    scores = np.where(is_own & (columns["box_id"] >= 0), views.scores[boxes], 0.0)
    least = np.where(raised, scores, np.inf).min(axis=1)
    least[raised.sum(axis=1) < 2] = -1.0
    return np.argsort(-least, kind="stable")


@click.command(help=__doc__)
@click.option("--out", type=click.Path(path_type=Path), required=True)
@click.option("--count", default=4, show_default=True)
def main(out: Path, count: int) -> None:
    with user_errors():
        dataset = load(DatasetParams)
        folder = Path("data") / dataset.name
        index = image_index.read(folder / "images.parquet")
        views = boxes_file.read(folder / "boxes.parquet")
        labels = class_table.read(folder / "pseudo_labels.parquet", PSEUDO_LABELS)
        draw(index, views, labels, surest_rows(views, labels)[:count], Path(dataset.root), out)
        click.echo(f"wrote {out}: {count} images with two labels or more that local views raised")


if __name__ == "__main__":
    main()
