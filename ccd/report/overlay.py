"""Draws the picture that ``ccd inspect`` writes: an image with its local views."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from ccd.artifacts.files import replacing
from ccd.images.decode import read_image
from ccd.images.drawing import WHITE, LabelledBox, draw_boxes
from ccd.images.remote import located
from ccd.labels.thresholds import LABELLED
from ccd.report.inspect import ImageStory, View
from ccd.report.text_table import shortened, visible

WON = (240, 167, 47)
OTHER = WHITE
SMALLEST_PX = 320  # the longer side of the picture: smaller images are enlarged, else no label could be read
_NAME_LENGTHS = (1000, 24, 16, 10, 6)


def overlay(story: ImageStory, root: Path) -> Image.Image:
    """Return the image with its boxes, which are orange if they won a label of at least 0.5.

    A box's label has its number, the class that asked for it (of a tile: the class with its largest local label), and
    the local label it gives to that class. The picture has the image's own size; an image whose longer side is below
    320 px is enlarged by a whole number. Raises CcdError if the file changed since index.
    """
    image = read_image(located(root, story.path), expected_bytes=story.file_bytes)
    times = max(1, -(-SMALLEST_PX // max(image.size))) if max(image.size) < SMALLEST_PX else 1
    if times > 1:
        image = image.resize((image.width * times, image.height * times), Image.Resampling.NEAREST)
    winners = set(story.columns["box_id"][story.columns["label"] >= LABELLED].tolist()) if story.views else set()
    views = sorted(story.views, key=lambda view: view.box_id not in winners)
    boxes = []
    for view in views:
        x0, y0, x1, y1 = (side * times for side in view.corners_px)
        colour = WON if view.box_id in winners else OTHER
        boxes.append(LabelledBox((x0, y0, x1, y1), _texts(story, view), colour))
    draw_boxes(image, boxes)
    return image


def write_overlay(story: ImageStory, root: Path, out: Path) -> None:
    """Write `overlay` as PNG, whatever the name's ending."""
    image = overlay(story, root)
    with replacing(out) as temporary:
        image.save(temporary, "PNG")


def _texts(story: ImageStory, view: View) -> list[str]:
    """Return the wordings of a view's label, from the fullest to its number alone."""
    class_row = story.classes.index(view.requested_by) if view.requested_by else view.first
    name = visible(story.classes[class_row])
    value = f"{view.labels[class_row]:.3f}"
    full = [f"{view.box_id} {shortened(name, length)} {value}" for length in _NAME_LENGTHS]
    return [*dict.fromkeys(full), f"{view.box_id} {value}", str(view.box_id)]
