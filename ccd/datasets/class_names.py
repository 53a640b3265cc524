"""The class names of data sets and the phrases that CLIP reads for them; reads ``classes.txt``.

COCO's names need no list: its annotations hold them, and they are ordinary words. ``text.class_texts`` in params.yaml
replaces any of these.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Sequence
from pathlib import Path

from ccd.datasets.record import ClassInfo, check_choice, check_classes, read_lines
from ccd.errors import CcdError, listed

VOC_TEXTS: dict[str, tuple[str, ...]] = {
    "aeroplane": ("aeroplane",),
    "bicycle": ("bicycle",),
    "bird": ("bird",),
    "boat": ("boat",),
    "bottle": ("bottle",),
    "bus": ("bus",),
    "car": ("car",),
    "cat": ("cat",),
    "chair": ("chair",),
    "cow": ("cow",),
    "diningtable": ("dining table",),
    "dog": ("dog",),
    "horse": ("horse",),
    "motorbike": ("motorbike",),
    "person": ("person",),
    "pottedplant": ("potted plant",),
    "sheep": ("sheep",),
    "sofa": ("sofa",),
    "train": ("train",),
    "tvmonitor": ("tv monitor",),
}

NUS_WIDE: tuple[str, ...] = (
    *("airport", "animal", "beach", "bear", "birds", "boats", "book", "bridge", "buildings", "cars"),
    *("castle", "cat", "cityscape", "clouds", "computer", "coral", "cow", "dancing", "dog", "earthquake"),
    *("elk", "fire", "fish", "flags", "flowers", "food", "fox", "frost", "garden", "glacier"),
    *("grass", "harbor", "horses", "house", "lake", "leaf", "map", "military", "moon", "mountain"),
    *("nighttime", "ocean", "person", "plane", "plants", "police", "protest", "railroad", "rainbow", "reflection"),
    *("road", "rocks", "running", "sand", "sign", "sky", "snow", "soccer", "sports", "statue"),
    *("street", "sun", "sunset", "surf", "swimmers", "tattoo", "temple", "tiger", "tower", "town"),
    *("toy", "train", "tree", "valley", "vehicle", "water", "waterfall", "wedding", "whales", "window"),
    "zebra",
)


CLASSES_FILE = "classes.txt"
_SHOWN = 5
_HEADERS = {"class", "classes", "class name", "class names", "name", "names", "label", "labels", "category"}
_NUMBER_FIRST = r"^(?P<number>\d+)\s*[:.,;)\t ]\s*(?P<name>\S.*)$"
_NUMBER_LAST = r"^(?P<name>\S.*?)\s*[:,;\t ]\s*(?P<number>\d+)$"
_INVISIBLE = re.compile("[\u200b-\u200f\u2060\ufeff\u00ad]")
_QUOTED = re.compile(r"""^(["'])(.*)\1$""")


def read_classes(path: Path) -> tuple[ClassInfo, ...]:
    """Read a list of classes. For a class without phrases CLIP reads the name, underscores as blanks.

    Raises:
        CcdError: the file is missing, no text, or empty; it is another kind of list (JSON, numbered, with commas,
            quoted, ...), and the message shows the lines to write; names or phrases are empty, repeated or alike;
            there is a single class.
    """
    hint = "write the class names there, one per line, or set index.classes_file to the list"
    lines = [_visible(line) for line in read_lines(path, hint) if not line.startswith("#")]
    lines = [line for line in lines if line]
    if not lines:
        raise CcdError(f"{path} holds no class names; {hint}")
    _refuse_other_lists(path, lines)
    classes = tuple(_read_class(line) for line in lines)
    wrong = [info.name for info in classes if ";" in info.name]
    if wrong:
        raise CcdError(f"{path}: class names must not contain ';': {listed(wrong)}; rename them")
    wrong = [repr(info.name) for info in classes if "," in info.name]
    if wrong:
        raise CcdError(f"{path}: class names must not contain ',': {listed(wrong)}; write: name: phrase, phrase")
    wrong = [ascii(line) for line in lines if not line.isprintable()]
    if wrong:
        raise CcdError(f"{path}: lines with control characters or tabs: {listed(wrong)}; write one class name a line")
    check_classes(classes, path)
    check_choice(classes, path)
    return classes


def _visible(line: str) -> str:
    return _INVISIBLE.sub("", line).replace("\u00a0", " ").strip()


def _read_class(line: str) -> ClassInfo:
    name, colon, phrases = (part.strip() for part in line.partition(":"))
    texts = tuple(phrase.strip() for phrase in phrases.split(",")) if colon else (name.replace("_", " "),)
    return ClassInfo(name, texts)


def _refuse_other_lists(path: Path, lines: Sequence[str]) -> None:
    """Raise CcdError for a list of another kind, with the first lines to write instead."""
    kinds: tuple[tuple[str, Callable[[Sequence[str]], list[str] | None]], ...] = (
        ("a list of a programming language, or JSON", _bracketed),
        ("a YAML list", _dashed),
        ("numbered lines", _numbered),
        ("names in quotes", _in_quotes),
        ("a header line", _headed),
        ("several names on one line", _on_one_line),
        ("several words for a class", _with_synonyms),
    )
    for kind, meaning in kinds:
        names = meaning(lines)
        if names is not None:
            shown = [f"    {name}" for name in names[:_SHOWN]]
            more = [f"    ... ({len(names) - _SHOWN} more)"] if len(names) > _SHOWN else []
            form = ", e.g. with a colon before other words" if kind == "several words for a class" else ""
            advice = f"{path}: this looks like {kind}; write one class a line{form}:"
            raise CcdError("\n".join([advice, *shown, *more]))


def _bracketed(lines: Sequence[str]) -> list[str] | None:
    text = " ".join(lines)
    if text[0] not in "[({" and not re.match(r"^\w+\s*[=:]\s*\[", text):
        return None
    inner = text[text.index(next(mark for mark in text if mark in "[({")) :]
    try:
        value = ast.literal_eval(inner)
        if isinstance(value, dict):
            values = value.values()
            value = next((item for item in values if isinstance(item, list)), list(values))
        return [str(item) for item in value]
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
        return _parts(inner.strip("[](){} "))


def _dashed(lines: Sequence[str]) -> list[str] | None:
    body = lines[1:] if lines[0].endswith(":") and len(lines) > 1 else lines
    if not all(re.match(r"^[-*\u2022]\s+\S", line) for line in body):
        return None
    return [_unquoted(line[1:].strip()) for line in body]


def _numbered(lines: Sequence[str]) -> list[str] | None:
    body = lines[1:] if re.fullmatch(r"\w+:", lines[0]) and len(lines) > 1 else lines
    for pattern in (_NUMBER_FIRST, _NUMBER_LAST):
        matches = [re.match(pattern, line) for line in body]
        numbers = [int(match["number"]) for match in matches if match is not None]
        if numbers in (list(range(first, first + len(body))) for first in (0, 1)):
            return [_unquoted(match["name"].strip()) for match in matches if match is not None]
    return None


def _in_quotes(lines: Sequence[str]) -> list[str] | None:
    bare = [line.rstrip(",").strip() for line in lines]
    if all(_QUOTED.match(line) for line in bare) or (len(lines) > 1 and all(line.endswith(",") for line in lines[:-1])):
        return [_unquoted(line) for line in bare]
    return None


def _headed(lines: Sequence[str]) -> list[str] | None:
    first = lines[0].casefold().replace("_", " ").rstrip(":").strip()
    return list(lines[1:]) if first in _HEADERS and len(lines) > 1 else None


def _on_one_line(lines: Sequence[str]) -> list[str] | None:
    if len(lines) > 1 or ":" in lines[0] or not re.search(r"[,;|\t]", lines[0]):
        return None
    return _parts(lines[0])


def _with_synonyms(lines: Sequence[str]) -> list[str] | None:
    """Read lines like ImageNet's ``tench, Tinca tinca`` as a name and its phrases."""
    if not any("," in line and ":" not in line for line in lines):
        return None
    return [f"{line.partition(',')[0].strip()}: {line}" if "," in line and ":" not in line else line for line in lines]


def _parts(text: str) -> list[str]:
    return [name for part in re.split(r"[,;|\t]", text) if (name := _unquoted(part.strip()))]


def _unquoted(text: str) -> str:
    match = _QUOTED.match(text.rstrip(",").strip())
    return match[2].strip() if match else text
