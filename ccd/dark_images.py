"""What a person is told of dark images, and how to convert them."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from ccd.artifacts.image_index import DarkImage
from ccd.errors import printable
from ccd.pixel_range import FULL_16_BIT

NAMED = 5
IN_COMMAND = 20

_GREY_COMMAND = (
    "import sys, pathlib, numpy, PIL.Image as P; [(o := pathlib.Path('../8bit', f)).parent.mkdir(parents=True, "
    "exist_ok=True) or P.fromarray((numpy.asarray(P.open(f)) * (255 / {top})).round().clip(0, 255)"
    ".astype('uint8')).save(o) for f in sys.argv[1:]]"
)


def dark_remark(dark: Sequence[DarkImage]) -> str:
    """How many images are dark, the first names, and what to do; "" where there are none.

    The printed commands are for a shell in the images' folder. They leave the originals as they are.
    """
    if not dark:
        return ""
    top = (1 << max(image.highest for image in dark).bit_length()) - 1
    named = ", ".join(f"{printable(image.path)}: 0..{image.highest}" for image in dark[:NAMED])
    more = f" and {len(dark) - NAMED:,} more" if len(dark) > NAMED else ""
    lines = [
        f"{len(dark):,} images use only the lowest {max(1, round(100 * top / FULL_16_BIT))} % of their 16-bit range, "
        f"0..{FULL_16_BIT} ({named}{more}): they look dark or black to CLIP and to the classifier. A range is not "
        "stretched unasked: convert them in the images' folder, then put the copies in ../8bit in the originals' place"
    ]
    grey = [image.path for image in dark if not image.is_colour]
    colour = [image.path for image in dark if image.is_colour]
    if grey:
        lines.append(shlex.join(["python", "-c", _GREY_COMMAND.format(top=top), *_shown(grey)]))
    if colour:
        command = f"mogrify -path ../8bit -evaluate multiply {FULL_16_BIT / top:.5g} -depth 8"
        lines.append(f"mkdir -p ../8bit && {command} {shlex.join(_shown(colour))}  # ImageMagick, for 16-bit colour")
    return "\n  ".join(lines)


def _shown(paths: Sequence[str]) -> list[str]:
    return [f"./{path}" for path in paths[:IN_COMMAND]]
