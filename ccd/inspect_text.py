"""What ``ccd inspect`` prints and draws: tables in full digits, and the image with its boxes."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Sequence
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ccd.artifacts.atomic import replacing
from ccd.artifacts.listing import Artifact
from ccd.images import read_image
from ccd.inspect import Doubts, Example, ImageStory, Overlap

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
        corners = [str(np.float32(side)) for side in view.corners_px]
        asked = [view.asked, str(np.float32(view.score))] if view.asked else ["- (tile)", "-"]
        rows.append([str(view.box_id), *asked, said, *corners])
    return aligned(rows)


def _train_table(story: ImageStory, order: np.ndarray) -> str:
    boxes = [f"box {view.box_id}" for view in story.views]
    rows = [["class", "whole image", "bias", "global", *boxes, "best view", "won by", "local", "label", "truth"]]
    made = story.columns
    people = bool((made["correction"] >= 0).any())
    rows[0] += ["person"] if people else []
    for place in order:
        views = [str(view.probs[place]) for view in story.views]
        none = made["box_id"][place] < 0
        best = ["-", "-"] if none else [str(made["local_prob"][place]), f"box {made['box_id'][place]}"]
        first = [str(made["global_prob"][place]), repr(float(story.bias[place])), str(made["global_label"][place])]
        last = [str(made["local_label"][place]), str(made["label"][place]), TRUTH[int(story.truth[place])]]
        said = [_correction(made, place)] if people else []
        rows.append([story.classes[place], *first, *views, *best, *last, *said])
    return aligned(rows)


def _correction(made: dict[str, np.ndarray], place: int) -> str:
    """What a person decided about a class, and the label before."""
    said = {1: "there", 0: "not there", -1: "-"}[int(made["correction"][place])]
    return said if said == "-" else f"{said}, label was {made['uncorrected_label'][place]!s}"


def _test_table(story: ImageStory, order: np.ndarray) -> str:
    rows = [["class", "CLIP", "bias", "debiased", "student", "truth"]]
    debiased, student = _tested(story)
    for place in order:
        prob, bias = str(story.columns["zero_shot_prob"][place]), repr(float(story.bias[place]))
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


def doubts_text(doubts: Doubts) -> str:
    """Training images, then test images, one per line."""
    rows = [["image", "class", "CLIP, debiased", "student", "truth"]]
    for found in doubts.test:
        values = [f"{found.debiased:.3f}", f"{found.student:.3f}", TRUTH[found.truth]]
        rows.append([found.image_id, found.class_name, *values])
    train = f"training images: whole image against local views\n\n{examples_text(doubts.train)}"
    return f"{train}\n\ntest images: CLIP against the student\n\n{aligned(rows)}" if doubts.test else train


def overlaps_text(overlaps: Sequence[Overlap]) -> str:
    """Pairs of classes whose boxes coincide, one per line."""
    rows = [["class", "class", "images", "mean IoU", "example"]]
    rows += [[pair.first, pair.second, str(pair.images), f"{pair.mean_iou:.3f}", pair.example] for pair in overlaps]
    return aligned(rows) if overlaps else "no two classes share boxes on enough images"


def artifacts_text(found: Sequence[Artifact]) -> str:
    """One line per file, then one per stage with the parameters that made its files."""
    rows = [["file", "rows", "MB", "schema", "md5", "made by", "seconds"]]
    made: dict[str, dict[str, object]] = {}
    for each in found:
        count = "" if each.rows is None else f"{each.rows:,}"
        seconds = f"{each.timing.seconds:.1f}" if each.timing else ""
        size = f"{each.size_bytes / 1e6:.2f}"
        rows.append([each.path.name, count, size, each.schema, each.md5[:8], each.made_by, seconds])
        if each.parameters:
            made[each.made_by] = each.parameters
    parts = [aligned(rows)]
    if made:
        parts.append("parameters they were made with (null: none given)")
        parts.append("\n".join(_parameter_lines(stage, made[stage]) for stage in made))
    return "\n\n".join(parts)


def _parameter_lines(stage: str, values: dict[str, object]) -> str:
    """``stage  key=value, ...``, wrapped; a key of the stage's own section without its name."""
    words = [f"{key.removeprefix(f'{stage}.')}={_short(value)}" for key, value in values.items()]
    lines = textwrap.wrap(", ".join(words), 100, break_on_hyphens=False)
    return "\n".join(f"{'' if number else stage:15}{line}" for number, line in enumerate(lines))


def _short(value: object) -> str:
    text = "null" if value is None else str(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


def story_data(story: ImageStory) -> dict[str, Any]:
    """The story for programs: class by class, every number exactly as in the artifacts; None where a file has null."""
    height_px, width_px = story.size_px
    views = [
        {
            "box_id": view.box_id,
            "asked_by": view.asked or None,
            "student_score": view.score if view.asked else None,
            **dict(zip(("x0_px", "y0_px", "x1_px", "y1_px"), view.corners_px, strict=True)),
            "clip_probs": dict(zip(story.classes, view.probs.tolist(), strict=True)),
        }
        for view in story.views
    ]
    classes = {
        name: {
            "bias": float(story.bias[place]),
            **{column: _known(values[place]) for column, values in story.columns.items()},
            "truth": {1: True, 0: False, -1: None}[int(story.truth[place])],
        }
        for place, name in enumerate(story.classes)
    }
    head = {"image_id": story.image_id, "path": story.path, "split": story.split}
    return {**head, "width_px": width_px, "height_px": height_px, "views": views, "classes": classes}


def _known(value: np.generic) -> float | int | None:
    number: float | int = value.item()
    missing = number != number or (isinstance(number, int) and number < 0)
    return None if missing else number


def as_json(content: object) -> str:
    """A dataclass, a list of them or plain data as JSON; paths become text."""

    def plain(value: object) -> object:
        return asdict(value) if is_dataclass(value) and not isinstance(value, type) else str(value)

    return json.dumps(content, default=plain, indent=2, ensure_ascii=False, allow_nan=False)


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Rows of cells as text columns, two blanks apart; the first row is the heading."""
    clean = [["".join(c if c.isprintable() else "?" for c in cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*clean, strict=True)]
    return "\n".join("  ".join(c.ljust(width) for c, width in zip(row, widths, strict=True)).rstrip() for row in clean)


def overlay(story: ImageStory, root: Path) -> Image.Image:
    """The image in its own size with its boxes, each with its number, the class that asked (of a tile: CLIP's first)
    and CLIP's probability of that class; those that won a label of at least 0.5 stand out. Raises CcdError if the file
    changed since index."""
    image = read_image(root / story.path, expected_bytes=story.file_bytes)
    draw, line_px = ImageDraw.Draw(image), max(2, round(max(image.size) / 300))
    font = ImageFont.load_default(size=max(12, round(max(image.size) / 45)))
    winners = set(story.columns["box_id"][story.columns["label"] >= 0.5].tolist()) if story.views else set()
    for view in sorted(story.views, key=lambda view: view.box_id in winners):
        colour = WON if view.box_id in winners else OTHER
        x0, y0, x1, y1 = view.corners_px
        draw.rectangle((x0, y0, x1 - 1, y1 - 1), outline=colour, width=line_px)
        place = story.classes.index(view.asked) if view.asked else int(view.probs.argmax())
        at = (x0 + line_px + 2, y0 + line_px + 1)
        text = f"{view.box_id} {story.classes[place]} {view.probs[place]:.2f}"
        left, top, right, bottom = draw.textbbox(at, text, font=font)
        draw.rectangle((left - 2, top - 2, right + 2, bottom + 2), fill=(16, 20, 26))
        draw.text(at, text, font=font, fill=colour)
    return image


def write_overlay(story: ImageStory, root: Path, out: Path) -> None:
    """Write `overlay` as PNG, whatever the name's ending."""
    image = overlay(story, root)
    with replacing(out) as temporary:
        image.save(temporary, "PNG")
