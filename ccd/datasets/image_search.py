"""Finds the images in a folder and its subfolders, and counts all other files by ending."""

from __future__ import annotations

import os
import shlex
import stat
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from ccd.artifacts.image_index import DarkImage
from ccd.errors import CcdError, printable, ran_out
from ccd.images.decode import FULL_16_BIT, HEAD_BYTES, is_available, optional_format

OWN_LISTS = ("classes.txt", "labels.csv", "scenes.json")
NO_ENDING = "(no ending)"
FOLDER = "(folder)"
SHOWN_ENDINGS = 12
NAMED = 5
IN_COMMAND = 20

_JPEG = b"\xff\xd8\xff"
_ENDINGS = frozenset(
    f".{name}"
    for name in (
        *("jpg", "jpeg", "jpe", "jfif", "pjpeg", "pjp", "jpg_large", "mpo", "png", "apng", "bmp", "dib", "webp", "gif"),
        *("tif", "tiff", "ppm", "pgm", "pbm", "pnm", "pfm"),
    )
)
_OPTIONAL_ENDINGS = {".avif": "AVIF", ".heic": "HEIF", ".heif": "HEIF", ".hif": "HEIF"}
_INSTALL = {"AVIF": "Pillow 11.3 or newer", "HEIF": "pillow-heif"}


@dataclass(frozen=True)
class FoundImages:
    """``paths``: relative, sorted, with forward slashes. ``left_out``: counts of other files by ending, largest first.

    ``paths`` also holds folders that cannot be opened, so that reading the images reports them.
    """

    paths: list[str]
    left_out: dict[str, int] = field(default_factory=dict)


def find_images(root: Path) -> list[str]:
    """Return only the paths of `search`."""
    return search(root).paths


def search(root: Path, lists: Iterable[Path] = ()) -> FoundImages:
    """Find all images under ``root``; hidden files and folders are skipped.

    Links to folders are followed, each folder once; `ccd.datasets.scan.FileReader` checks files outside ``root``.

    Args:
        lists: further files of the data set that do not count as left out, beside `OWN_LISTS` in ``root``.

    Raises:
        CcdError: ``root`` cannot be read.
    """
    own = {os.path.realpath(path) for path in (*(root / name for name in OWN_LISTS), *lists)}
    paths: list[str] = []
    left_out: Counter[str] = Counter()
    for folder, names in _walk(root, paths):
        prefix = "" if (relative := Path(folder).relative_to(root).as_posix()) == "." else relative + "/"
        real = os.path.realpath(folder)
        for name in names:
            if is_image(name, partial(_head, f"{folder}{os.sep}{name}")):
                paths.append(prefix + name)
            elif os.path.join(real, name) not in own:  # noqa: PTH118 - as above
                left_out[printable(ending(name)) or NO_ENDING] += 1
    return FoundImages(sorted(paths), by_frequency(left_out))


def is_image(name: str, head: Callable[[], bytes]) -> bool:
    """Tell whether a file is to be opened as an image.

    Args:
        name: the file's name.
        head: reads the first `HEAD_BYTES` of the file; called only where the ending does not decide.
    """
    kind = ending(name)
    if kind in _ENDINGS:
        return True
    needed = _OPTIONAL_ENDINGS.get(kind)
    if needed is None:
        return head().startswith(_JPEG)
    # Phones and converters keep the old ending for new content. Damaged content is left to the decoder's errors.
    return is_available(needed) or not (content := optional_format(head())) or is_available(content)


def ending(name: str) -> str:
    """Return the ending of a file's name in lower case, with its dot; "" if it has none."""
    return os.path.splitext(name)[1].lower()  # noqa: PTH122 - a Path object for each of a million names takes seconds


def hint(file_ending: str) -> str:
    """Return how to read files with this ending; "" if there is no way."""
    if file_ending == FOLDER:
        return "name them, or write ** in the pattern"
    kind = _OPTIONAL_ENDINGS.get(file_ending)
    return "" if kind is None else f"install {_INSTALL[kind]} to read them"


def left_out_line(left_out: Mapping[str, int]) -> str:
    """Format ``left out: 12 .heic (install ... to read them), 3 .mp4``; "" if no file is left out."""
    counts = list(by_frequency(left_out).items())
    parts = [f"{count:,} {kind}" + (f" ({hint(kind)})" if hint(kind) else "") for kind, count in counts[:SHOWN_ENDINGS]]
    rest = counts[SHOWN_ENDINGS:]
    if rest:
        parts.append(f"{sum(count for _, count in rest):,} with {len(rest):,} other endings")
    return f"left out: {', '.join(parts)}" if parts else ""


def by_frequency(left_out: Mapping[str, int]) -> dict[str, int]:
    """Sort the counts: endings with a `hint` first, then the most frequent."""
    return dict(sorted(left_out.items(), key=lambda each: (not hint(each[0]), -each[1], each[0])))


def _walk(root: Path, unreadable: list[str]) -> Iterator[tuple[str, list[str]]]:
    """Yield folders with the names of their visible files; add folders that cannot be opened to ``unreadable``."""

    def failed(error: OSError) -> None:
        folder_path = Path(os.fsdecode(error.filename))
        if folder_path == root or ran_out(error):
            raise error
        unreadable.append(folder_path.relative_to(root).as_posix())

    seen = {os.path.realpath(root)}
    try:
        for folder, subfolders, files in os.walk(root, onerror=failed, followlinks=True):
            subfolders[:] = [name for name in sorted(subfolders) if _is_new(folder, name, seen)]
            yield folder, [name for name in files if not name.startswith(".")]
    except OSError as error:
        if ran_out(error):
            raise
        raise CcdError(
            f"{error.filename or root}: {error.strerror or error}; set dataset.root to a folder of images"
        ) from None


def _is_new(folder: str, name: str, seen: set[str]) -> bool:
    """Tell whether a folder is not hidden and not visited under another name, since links can go in circles."""
    real = os.path.realpath(os.path.join(folder, name))  # noqa: PTH118
    if name.startswith(".") or real in seen:
        return False
    seen.add(real)
    return True


def _head(path: str) -> bytes:
    """Return the first bytes of a file; b"" if it cannot be read, or is no regular file, which may never end."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # noqa: PTH116 - as above
            return b""
        with open(path, "rb", buffering=0) as file:  # noqa: PTH123 - as above
            return file.read(HEAD_BYTES)
    except OSError as error:
        if ran_out(error):
            raise
        return b""


_GREY_COMMAND = (
    "import sys, pathlib, numpy, PIL.Image as P; [(o := pathlib.Path('../8bit', f)).parent.mkdir(parents=True, "
    "exist_ok=True) or P.fromarray((numpy.asarray(P.open(f)) * (255 / {top})).round().clip(0, 255)"
    ".astype('uint8')).save(o) for f in sys.argv[1:]]"
)


def dark_remark(dark: Sequence[DarkImage]) -> str:
    """Return a remark on dark images: their number, the first names, and commands that fix them; "" if there are none.

    The commands are for a shell in the images' folder. They do not change the originals.
    """
    if not dark:
        return ""
    top = (1 << max(image.highest for image in dark).bit_length()) - 1
    named = ", ".join(f"{printable(image.path)}: 0..{image.highest}" for image in dark[:NAMED])
    more = f" and {len(dark) - NAMED:,} more" if len(dark) > NAMED else ""
    lines = [
        f"{len(dark):,} images use only the lowest {max(1, round(100 * top / FULL_16_BIT))} % of their 16-bit range, "
        f"0..{FULL_16_BIT} ({named}{more}): they look dark or black to CLIP and to the classifier. Ranges are never "
        "stretched automatically: convert them in the images' folder, then replace them by the copies in ../8bit"
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
