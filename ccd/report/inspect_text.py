"""What ``ccd inspect`` prints: aligned tables for a terminal."""

from __future__ import annotations

import json
import textwrap
import unicodedata
from collections.abc import Sequence
from dataclasses import asdict, is_dataclass
from typing import Any

import numpy as np

from ccd.labels.background import NOT_LOOKED_FOR
from ccd.report.inspect import Doubts, Example, ImageStory, Overlap
from ccd.runtime.listing import Artifact

WIDEST = 100
_GAP = "  "
_ELLIPSIS = "…"


def aligned(rows: Sequence[Sequence[str]], widest: int = WIDEST) -> str:
    """Rows of cells as text columns, two blanks apart; the first row is the heading.

    A line takes at most ``widest`` places of a terminal: of columns that are too wide together, the widest are cut,
    each cell in its middle. With more columns than fit even so, lines are longer.
    """
    clean = [[visible(cell) for cell in row] for row in rows]
    widths = [max(map(display_width, column)) for column in zip(*clean, strict=True)]
    limits = _limits(widths, widest - len(_GAP) * (len(widths) - 1))
    lines = []
    for row in clean:
        cells = [shortened(cell, limit) for cell, limit in zip(row, limits, strict=True)]
        padded = [cell + " " * (limit - display_width(cell)) for cell, limit in zip(cells, limits, strict=True)]
        lines.append(_GAP.join(padded).rstrip())
    return "\n".join(lines)


def visible(text: str) -> str:
    """``text`` with a question mark for every character that a terminal would obey or not show."""
    return "".join(each if each.isprintable() else "?" for each in text)


def display_width(text: str) -> int:
    """How many places of a terminal ``text`` takes: East Asian wide characters take two, combining ones none."""
    return sum(_places(each) for each in text)


def shortened(text: str, limit: int) -> str:
    """``text`` in at most ``limit`` places (at least 1), with an ellipsis for its middle where it is longer: names of
    files often differ at their ends alone."""
    if display_width(text) <= limit:
        return text
    tail_limit = (limit - 1) // 2
    tail = _fitting(text[::-1], tail_limit)[::-1].lstrip()
    while tail and not _places(tail[0]):  # a combining mark without its letter
        tail = tail[1:]
    return _fitting(text, limit - 1 - tail_limit) + _ELLIPSIS + tail


def _fitting(text: str, limit: int) -> str:
    """The longest beginning of ``text`` that takes at most ``limit`` places."""
    taken = 0
    for number, each in enumerate(text):
        taken += _places(each)
        if taken > limit:
            return text[:number]
    return text


def _limits(widths: Sequence[int], room: int) -> list[int]:
    """``widths``, the largest of them cut to one common width so that their sum is at most ``room``."""
    limits = list(widths)
    while sum(limits) > room and max(limits) > 1:
        limits[limits.index(max(limits))] -= 1
    return limits


def _places(character: str) -> int:
    if unicodedata.category(character) in ("Mn", "Me") or "\u1160" <= character <= "\u11ff":  # second part of a Hangul
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


VIEWS_A_LINE = 7

TRUTH = {1: "yes", 0: "no", -1: "?"}
TRAIN_LEGEND = """\
CLIP p   CLIP zero-shot probability of the whole image
b        CLIP's bias of the class
global   max(CLIP p, floor) / b, at most 1: the label of the whole image
view p   CLIP zero-shot probability in the view that won the class (see won by)
local    max(view p, floor) / b, may exceed 1: a view's number here and in the overlay
label    aggregated label, as trained on: global and local mixed, at most 1"""
TEST_LEGEND = """\
CLIP p     CLIP zero-shot probability of the whole image
debiased   CLIP p / b, at most 1; b: CLIP's bias of the class
student    the student's probability"""


def story_text(story: ImageStory, limit: int | None = 10) -> str:
    """The story as aligned tables of at most 100 columns: the views, and the ``limit`` classes with the largest result
    (None: all), and what the columns are.

    Numbers are those of the artifacts, to three digits after the point; `story_data` has them in full.
    """
    train = story.split == "train"
    result = story.columns["label"] if train else np.maximum(*_tested(story))
    order = np.argsort(-result, kind="stable")[:limit]
    parts = [_head(story), _train_table(story, order) if train else _test_table(story, order)]
    if story.views:
        parts.insert(1, _view_table(story))
        parts += ["local label that each view gives to each class", *_said_tables(story, order)]
    hidden = len(story.classes) - len(order)
    parts += [f"and {hidden} more classes, with smaller values"] if hidden else []
    parts.append(TRAIN_LEGEND if train else TEST_LEGEND)
    if train and not story.none_rule:
        parts.append("\n".join(textwrap.wrap(NOT_LOOKED_FOR, WIDEST)))
    return "\n\n".join(parts)


def _head(story: ImageStory) -> str:
    """Id, split, path and size, on one line where they fit, else on a line each."""
    height_px, width_px = story.size_px
    size = f"{width_px} x {height_px} px"
    whole = visible(f"{story.image_id} ({story.split}), {story.path}, {size}")
    if display_width(whole) <= WIDEST:
        return whole
    return "\n".join(
        [*(shortened(visible(text), WIDEST) for text in (story.image_id, story.path)), f"{story.split}, {size}"]
    )


def _number(value: float) -> str:
    """Three digits after the point; a dash for a missing value."""
    return "-" if np.isnan(value) else f"{value:.3f}"


def _view_table(story: ImageStory) -> str:
    rows = [["box", "asked by", "student", "local label, largest", "x0_px", "y0_px", "x1_px", "y1_px"]]
    for view in story.views:
        said = f"{_number(view.labels[view.first])} {story.classes[view.first]}"
        asked = [view.requested_by, _number(view.score)] if view.requested_by else ["- (tile)", "-"]
        rows.append([str(view.box_id), *asked, said, *map(_number, view.corners_px)])
    return aligned(rows)


def _said_tables(story: ImageStory, order: np.ndarray) -> list[str]:
    """The views side by side, as many as fit on a line, then the next ones."""
    tables = []
    for start in range(0, len(story.views), VIEWS_A_LINE):
        some = story.views[start : start + VIEWS_A_LINE]
        rows = [["class", *(f"box {view.box_id}" for view in some)]]
        rows += [[story.classes[place], *(_number(view.labels[place]) for view in some)] for place in order]
        tables.append(aligned(rows))
    return tables


def _train_table(story: ImageStory, order: np.ndarray) -> str:
    rows = [["class", "CLIP p", "b", "global", "view p", "local", "won by", "label", "truth"]]
    made = story.columns
    people = bool((made["correction"] >= 0).any())
    rows[0] += ["person", "label before"] if people else []
    for place in order:
        box = int(made["box_id"][place])
        first = [_number(made["global_prob"][place]), _number(story.bias[place]), _number(made["global_label"][place])]
        best = ["-", "-", "-"]
        if box >= 0:
            best = [_number(made["local_prob"][place]), _number(made["local_label"][place]), f"box {box}"]
        last = [_number(made["label"][place]), TRUTH[int(story.truth[place])]]
        rows.append([story.classes[place], *first, *best, *last, *(_correction(made, place) if people else [])])
    return aligned(rows)


def _correction(made: dict[str, np.ndarray], place: int) -> list[str]:
    """What a person decided about a class, and the label before."""
    said = {1: "there", 0: "not there", -1: "-"}[int(made["correction"][place])]
    return [said, "-" if said == "-" else _number(made["uncorrected_label"][place])]


def _test_table(story: ImageStory, order: np.ndarray) -> str:
    rows = [["class", "CLIP p", "b", "debiased", "student", "truth"]]
    debiased, student = _tested(story)
    for place in order:
        values = (story.columns["zero_shot_prob"][place], story.bias[place], debiased[place], student[place])
        rows.append([story.classes[place], *map(_number, values), TRUTH[int(story.truth[place])]])
    return aligned(rows)


def _tested(story: ImageStory) -> tuple[np.ndarray, np.ndarray]:
    """min(p / b, 1) and the student's probability of a test image's classes, float32."""
    debiased = np.minimum(story.columns["zero_shot_prob"] / story.bias, 1).astype(np.float32)
    return debiased, story.columns["student_prob"]


def examples_text(examples: Sequence[Example]) -> str:
    """Images to look at, one per line."""
    rows = [["image", "class", "global", "local", "label", "truth", "why"]]
    for found in examples:
        values = [_number(value) for value in (found.global_label, found.local_label, found.label)]
        rows.append([found.image_id, found.class_name, *values, TRUTH[found.truth], found.why or "views disagree"])
    return aligned(rows) if examples else "no image to show"


def doubts_text(doubts: Doubts) -> str:
    """Training images, then test images, one per line."""
    rows = [["image", "class", "CLIP, debiased (p / b)", "student", "truth"]]
    for found in doubts.test:
        values = [_number(found.debiased), _number(found.student), TRUTH[found.truth]]
        rows.append([found.image_id, found.class_name, *values])
    train = (
        f"training images: global label (whole image) against local label (best view)\n\n{examples_text(doubts.train)}"
    )
    test = "test images: CLIP's debiased probability against the student's"
    return f"{train}\n\n{test}\n\n{aligned(rows)}" if doubts.test else train


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
            "bias": float(story.bias[place]),
            **{column: _known(values[place]) for column, values in story.columns.items()},
            "truth": {1: True, 0: False, -1: None}[int(story.truth[place])],
        }
        for place, name in enumerate(story.classes)
    }
    head = {"image_id": story.image_id, "path": story.path, "split": story.split}
    looked = {"none_images_looked_for": story.none_rule} if story.split == "train" else {}
    return {**head, "width_px": width_px, "height_px": height_px, **looked, "views": views, "classes": classes}


def _known(value: np.generic) -> float | int | None:
    number: float | int = value.item()
    missing = number != number or (isinstance(number, int) and number < 0)
    return None if missing else number


def as_json(content: object) -> str:
    """A dataclass, a list of them or plain data as JSON; paths become text."""

    def plain(value: object) -> object:
        return asdict(value) if is_dataclass(value) and not isinstance(value, type) else str(value)

    return json.dumps(content, default=plain, indent=2, ensure_ascii=False, allow_nan=False)
