"""Formats the output of ``ccd inspect`` and ``ccd artifacts``: aligned tables for a terminal, and JSON."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Sequence
from dataclasses import asdict, is_dataclass
from typing import Any

import numpy as np

from ccd.labels.background import NOT_LOOKED_FOR
from ccd.report.inspect import Doubts, Example, ImageStory, Overlap
from ccd.report.text_table import WIDEST, aligned, display_width, shortened, visible
from ccd.runtime.listing import Artifact

VIEWS_A_LINE = 7

TRUTH = {1: "yes", 0: "no", -1: "?"}
TRAIN_LEGEND = """\
CLIP p   {p} of the whole image
b        CLIP's bias of the class
global   max(CLIP p, floor) / b, at most 1: the label of the whole image
view p   the same in the view that won the class (see won by)
local    max(view p, floor) / b, may exceed 1: a view's number here and in the overlay
label    aggregated label, as trained on: global and local mixed, at most 1, and then sharpened
         around t if aggregate.sharpen_width is set"""
TEST_LEGEND = """\
CLIP p     CLIP zero-shot probability of the whole image
debiased   CLIP p / b, at most 1; b: CLIP's bias of the class
student    the student's probability"""


def story_text(story: ImageStory, limit: int | None = 10) -> str:
    """Format the story as aligned tables, at most 100 columns wide: the views, the classes, and a legend.

    ``limit`` classes with the largest result are shown (None: all). Numbers have three digits after the point;
    `story_data` has them in full.
    """
    train = story.split == "train"
    result = story.columns["label"] if train else np.maximum(*_test_values(story))
    order = np.argsort(-result, kind="stable")[:limit]
    parts = [_head(story), _train_table(story, order) if train else _test_table(story, order)]
    if story.views:
        parts.insert(1, _view_table(story))
        parts += ["local label that each view gives to each class", *_view_label_tables(story, order)]
    hidden = len(story.classes) - len(order)
    parts += [f"and {hidden} more classes, with smaller values"] if hidden else []
    parts.append(TRAIN_LEGEND.format(p=story.score_name) if train else TEST_LEGEND)
    if train and not story.has_background_rule:
        parts.append("\n".join(textwrap.wrap(NOT_LOOKED_FOR, WIDEST)))
    return "\n\n".join(parts)


def _head(story: ImageStory) -> str:
    """Return id, split, path and size, on one line where they fit, else on three."""
    height_px, width_px = story.size_px
    size = f"{width_px} x {height_px} px"
    line = visible(f"{story.image_id} ({story.split}), {story.path}, {size}")
    if display_width(line) <= WIDEST:
        return line
    return "\n".join(
        [*(shortened(visible(text), WIDEST) for text in (story.image_id, story.path)), f"{story.split}, {size}"]
    )


def _number(value: float) -> str:
    """Return a number with three digits after the point; a dash for a missing value."""
    return "-" if np.isnan(value) else f"{value:.3f}"


def _view_table(story: ImageStory) -> str:
    rows = [["box", "asked by", "student", "local label, largest", "x0_px", "y0_px", "x1_px", "y1_px"]]
    for view in story.views:
        largest = f"{_number(view.labels[view.first])} {story.classes[view.first]}"
        requested = [view.requested_by, _number(view.score)] if view.requested_by else ["- (no class)", "-"]
        rows.append([str(view.box_id), *requested, largest, *map(_number, view.corners_px)])
    return aligned(rows)


def _view_label_tables(story: ImageStory, order: np.ndarray) -> list[str]:
    """Return tables of the views' local labels, `VIEWS_A_LINE` views side by side in each."""
    tables = []
    for start in range(0, len(story.views), VIEWS_A_LINE):
        views = story.views[start : start + VIEWS_A_LINE]
        rows = [["class", *(f"box {view.box_id}" for view in views)]]
        rows += [
            [story.classes[class_row], *(_number(view.labels[class_row]) for view in views)] for class_row in order
        ]
        tables.append(aligned(rows))
    return tables


def _train_table(story: ImageStory, order: np.ndarray) -> str:
    rows = [["class", "CLIP p", "b", "global", "view p", "local", "won by", "label", "truth"]]
    rows[0] += [] if story.middles is None else ["t"]
    columns = story.columns
    has_corrections = bool((columns["correction"] >= 0).any())
    rows[0] += ["person", "label before"] if has_corrections else []
    for class_row in order:
        box = int(columns["box_id"][class_row])
        global_cells = [
            _number(columns["global_prob"][class_row]),
            _number(story.bias[class_row]),
            _number(columns["global_label"][class_row]),
        ]
        local_cells = ["-", "-", "-"]
        if box >= 0:
            local_cells = [
                _number(columns["local_prob"][class_row]),
                _number(columns["local_label"][class_row]),
                f"box {box}",
            ]
        label_cells = [_number(columns["label"][class_row]), TRUTH[int(story.truth[class_row])]]
        label_cells += [] if story.middles is None else [_number(story.middles[class_row])]
        correction = _correction(columns, class_row) if has_corrections else []
        rows.append([story.classes[class_row], *global_cells, *local_cells, *label_cells, *correction])
    return aligned(rows)


def _correction(columns: dict[str, np.ndarray], class_row: int) -> list[str]:
    """Return the person's decision about a class, and the label before it."""
    decision = {1: "there", 0: "not there", -1: "-"}[int(columns["correction"][class_row])]
    return [decision, "-" if decision == "-" else _number(columns["uncorrected_label"][class_row])]


def _test_table(story: ImageStory, order: np.ndarray) -> str:
    rows = [["class", "CLIP p", "b", "debiased", "student", "truth"]]
    debiased, student = _test_values(story)
    for class_row in order:
        values = (
            story.columns["zero_shot_prob"][class_row],
            story.bias[class_row],
            debiased[class_row],
            student[class_row],
        )
        rows.append([story.classes[class_row], *map(_number, values), TRUTH[int(story.truth[class_row])]])
    return aligned(rows)


def _test_values(story: ImageStory) -> tuple[np.ndarray, np.ndarray]:
    """Return min(p / b, 1) and the student's probability of a test image's classes, both (C,) float32."""
    debiased = np.minimum(story.columns["zero_shot_prob"] / story.bias, 1).astype(np.float32)
    return debiased, story.columns["student_prob"]


def examples_text(examples: Sequence[Example]) -> str:
    """Format images to look at, one per line."""
    rows = [["image", "class", "global", "local", "label", "truth", "why"]]
    for example in examples:
        values = [_number(value) for value in (example.global_label, example.local_label, example.label)]
        rows.append(
            [example.image_id, example.class_name, *values, TRUTH[example.truth], example.why or "views disagree"]
        )
    return aligned(rows) if examples else "no image to show"


def doubts_text(doubts: Doubts) -> str:
    """Format training images, then test images, one per line."""
    rows = [["image", "class", "CLIP, debiased (p / b)", "student", "truth"]]
    for doubt in doubts.test:
        values = [_number(doubt.debiased), _number(doubt.student), TRUTH[doubt.truth]]
        rows.append([doubt.image_id, doubt.class_name, *values])
    train = (
        f"training images: global label (whole image) against local label (best view)\n\n{examples_text(doubts.train)}"
    )
    test = "test images: CLIP's debiased probability against the student's"
    return f"{train}\n\n{test}\n\n{aligned(rows)}" if doubts.test else train


def overlaps_text(overlaps: Sequence[Overlap]) -> str:
    """Format pairs of classes whose boxes coincide, one per line."""
    rows = [["class", "class", "images", "mean IoU", "example"]]
    rows += [[pair.first, pair.second, str(pair.images), f"{pair.mean_iou:.3f}", pair.example] for pair in overlaps]
    return aligned(rows) if overlaps else "no two classes share boxes on enough images"


def artifacts_text(artifacts: Sequence[Artifact]) -> str:
    """Format one line per file, then per stage the parameters that made its files."""
    rows = [["file", "rows", "MB", "schema", "md5", "made by", "seconds"]]
    parameters: dict[str, dict[str, object]] = {}
    for artifact in artifacts:
        count = "" if artifact.rows is None else f"{artifact.rows:,}"
        seconds = f"{artifact.timing.seconds:.1f}" if artifact.timing else ""
        size = f"{artifact.size_bytes / 1e6:.2f}"
        rows.append([artifact.path.name, count, size, artifact.schema, artifact.md5[:8], artifact.made_by, seconds])
        if artifact.parameters:
            parameters[artifact.made_by] = artifact.parameters
    parts = [aligned(rows)]
    if parameters:
        parts.append("parameters they were made with (null: none given)")
        parts.append("\n".join(_parameter_lines(stage, parameters[stage]) for stage in parameters))
    return "\n\n".join(parts)


def _parameter_lines(stage: str, values: dict[str, object]) -> str:
    """Format ``stage  key=value, ...``, wrapped; keys of the stage's own section appear without the section."""
    pairs = [f"{key.removeprefix(f'{stage}.')}={_short(value)}" for key, value in values.items()]
    lines = textwrap.wrap(", ".join(pairs), 100, break_on_hyphens=False)
    return "\n".join(f"{'' if number else stage:15}{line}" for number, line in enumerate(lines))


def _short(value: object) -> str:
    text = "null" if value is None else str(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


def story_data(story: ImageStory) -> dict[str, Any]:
    """Return the story for programs: every number exactly as in the artifacts, None where a file has null."""
    height_px, width_px = story.size_px
    views = [
        {
            "box_id": view.box_id,
            "asked_by": view.requested_by or None,
            "student_score": view.score if view.requested_by else None,
            **dict(zip(("x0_px", "y0_px", "x1_px", "y1_px"), view.corners_px, strict=True)),
            "clip_probs": dict(zip(story.classes, view.probs.tolist(), strict=True)),
            "local_labels": dict(zip(story.classes, view.labels.tolist(), strict=True)),
        }
        for view in story.views
    ]
    classes = {
        name: {
            "bias": float(story.bias[class_row]),
            **{column: _known(values[class_row]) for column, values in story.columns.items()},
            **({} if story.middles is None else {"sharpen_at": float(story.middles[class_row])}),
            "truth": {1: True, 0: False, -1: None}[int(story.truth[class_row])],
        }
        for class_row, name in enumerate(story.classes)
    }
    head = {"image_id": story.image_id, "path": story.path, "split": story.split}
    background = {"none_images_looked_for": story.has_background_rule} if story.split == "train" else {}
    return {**head, "width_px": width_px, "height_px": height_px, **background, "views": views, "classes": classes}


def _known(value: np.generic) -> float | int | None:
    number: float | int = value.item()
    missing = number != number or (isinstance(number, int) and number < 0)
    return None if missing else number


def as_json(content: object) -> str:
    """Format a dataclass, a list of them or plain data as JSON; paths become text."""

    def plain(value: object) -> object:
        return asdict(value) if is_dataclass(value) and not isinstance(value, type) else str(value)

    return json.dumps(content, default=plain, indent=2, ensure_ascii=False, allow_nan=False)
