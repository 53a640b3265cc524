"""What ``ccd inspect`` prints and draws: tables in full digits, and the image with its boxes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ccd.artifacts.atomic import replacing
from ccd.images import read_image
from ccd.inspect import Example, ImageStory, Overlap

TRUTH = {1: "yes", 0: "no", -1: "?"}
WON, OTHER = (240, 167, 47), (255, 255, 255)


def story_text(story: ImageStory, limit: int | None = 10) -> str:
    """The story as two aligned tables: the views, and the ``limit`` classes with the largest result (None: all).

    Numbers are those of the artifacts, in the fewest digits that identify them.
    """
    height_px, width_px = story.size_px
    head = f"{story.image_id} ({story.split}), {story.path}, {width_px} x {height_px} px"
    result = story.columns["label"] if story.split == "train" else np.maximum(*_tested(story))
    order = np.argsort(-result, kind="stable")[:limit]
    parts = [head, _train_table(story, order) if story.split == "train" else _test_table(story, order)]
    if story.views:
        parts.insert(1, _view_table(story))
    hidden = len(story.classes) - len(order)
    return "\n\n".join([*parts, f"and {hidden} more classes, with smaller values"] if hidden else parts)


def _view_table(story: ImageStory) -> str:
    rows = [["box", "asked by", "student", "CLIP says", "x0_px", "y0_px", "x1_px", "y1_px"]]
    for view in story.views:
        top = int(view.probs.argmax())
        said = f"{story.classes[top]} {view.probs[top]!s}"
        corners = [f"{side:.1f}" for side in view.corners_px]
        rows.append([str(view.box_id), view.asked, str(np.float32(view.score)), said, *corners])
    return aligned(rows)


def _train_table(story: ImageStory, order: np.ndarray) -> str:
    boxes = [f"box {view.box_id}" for view in story.views]
    rows = [["class", "whole image", "bias", "global", *boxes, "best view", "won by", "local", "label", "truth"]]
    made = story.columns
    for place in order:
        views = [str(view.probs[place]) for view in story.views]
        none = made["box_id"][place] < 0
        best = ["-", "-"] if none else [str(made["local_prob"][place]), f"box {made['box_id'][place]}"]
        first = [str(made["global_prob"][place]), f"{story.bias[place]:.6f}", str(made["global_label"][place])]
        last = [str(made["local_label"][place]), str(made["label"][place]), TRUTH[int(story.truth[place])]]
        rows.append([story.classes[place], *first, *views, *best, *last])
    return aligned(rows)


def _test_table(story: ImageStory, order: np.ndarray) -> str:
    rows = [["class", "CLIP", "bias", "debiased", "student", "truth"]]
    debiased, student = _tested(story)
    for place in order:
        prob, bias = str(story.columns["zero_shot_prob"][place]), f"{story.bias[place]:.6f}"
        values = [prob, bias, str(debiased[place]), str(student[place])]
        rows.append([story.classes[place], *values, TRUTH[int(story.truth[place])]])
    return aligned(rows)


def _tested(story: ImageStory) -> tuple[np.ndarray, np.ndarray]:
    """min(p / b, 1) and the student's probability of a test image's classes, float32."""
    debiased = np.minimum(story.columns["zero_shot_prob"] / story.bias, 1).astype(np.float32)
    return debiased, story.columns["student_prob"]


def examples_text(examples: Sequence[Example]) -> str:
    """Images to look at, one per line."""
    rows = [["image", "class", "global", "local", "label", "truth", "why"]]
    for found in examples:
        values = [f"{value:.3f}" for value in (found.global_label, found.local_label, found.label)]
        rows.append([found.image_id, found.class_name, *values, TRUTH[found.truth], found.why or "views disagree"])
    return aligned(rows) if examples else "no image to show"


def overlaps_text(overlaps: Sequence[Overlap]) -> str:
    """Pairs of classes whose boxes coincide, one per line."""
    rows = [["class", "class", "images", "mean IoU", "example"]]
    rows += [[pair.first, pair.second, str(pair.images), f"{pair.mean_iou:.3f}", pair.example] for pair in overlaps]
    return aligned(rows) if overlaps else "no two classes share boxes on enough images"


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Rows of cells as text columns, two blanks apart; the first row is the heading."""
    clean = [["".join(c if c.isprintable() else "?" for c in cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*clean, strict=True)]
    return "\n".join("  ".join(c.ljust(width) for c, width in zip(row, widths, strict=True)).rstrip() for row in clean)


def overlay(story: ImageStory, root: Path) -> Image.Image:
    """The image in its own size with its boxes, each with its number, the class that asked and CLIP's probability of
    that class; those that won a label of at least 0.5 stand out. Raises CcdError if the file changed since index."""
    image = read_image(root / story.path, expected_bytes=story.file_bytes)
    draw, line_px = ImageDraw.Draw(image), max(2, round(max(image.size) / 300))
    font = ImageFont.load_default(size=max(12, round(max(image.size) / 45)))
    winners = set(story.columns["box_id"][story.columns["label"] >= 0.5].tolist()) if story.views else set()
    for view in sorted(story.views, key=lambda view: view.box_id in winners):
        colour = WON if view.box_id in winners else OTHER
        x0, y0, x1, y1 = view.corners_px
        draw.rectangle((x0, y0, x1 - 1, y1 - 1), outline=colour, width=line_px)
        prob = view.probs[story.classes.index(view.asked)]
        at = (x0 + line_px + 2, y0 + line_px + 1)
        text = f"{view.box_id} {view.asked} {prob:.2f}"
        left, top, right, bottom = draw.textbbox(at, text, font=font)
        draw.rectangle((left - 2, top - 2, right + 2, bottom + 2), fill=(16, 20, 26))
        draw.text(at, text, font=font, fill=colour)
    return image


def write_overlay(story: ImageStory, root: Path, out: Path) -> None:
    """Write `overlay` as PNG, whatever the name's ending."""
    image = overlay(story, root)
    with replacing(out) as temporary:
        image.save(temporary, "PNG")
