"""Reads CSV as people and spreadsheets write it.

Accepted are commas, semicolons or tabs, with or without a line ``sep=;``; UTF-8 with or without a byte order mark,
UTF-16 ("Unicode text"); any line end; names of columns in any case, with blanks around them, and `SYNONYMS`.
"""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ccd.artifacts.files import FORMULA_MARKS, split_byte_order_mark
from ccd.errors import CcdError, listed, printable

DELIMITERS = (",", ";", "\t")
SYNONYMS = {"classes": ("labels",), "path": ("file", "filename", "file_name", "image")}
"""Column -> its other names. One counts if the file has neither the column, nor a substitute, nor a second synonym."""
IMAGE = ("image_id", "path")
"""Columns that name an image; one is enough."""

Layout = tuple[tuple[str, ...], ...]
"""The required columns; of each tuple one is enough."""

_SHOWN = 80
_WORKBOOKS = (b"PK\x03\x04", b"\xd0\xcf\x11\xe0")
_AS_UTF8 = "save it as UTF-8 (in a spreadsheet: 'CSV UTF-8'), or convert it: iconv -f WINDOWS-1252 -t UTF-8 FILE > NEW"


@dataclass(frozen=True)
class Row:
    """A row: the ``line`` it begins on, its ``cells`` by column, and its ``text`` as written.

    ``problem``: the reason why it cannot be used; empty if there is a cell in each required column.
    """

    line: int
    cells: Mapping[str, str]
    text: str
    problem: str = ""


@dataclass(frozen=True)
class Sheet:
    """A table: ``columns`` by their usual names, in order; its ``rows`` without blank ones; the ``layout`` it fits."""

    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    layout: Layout


def read_sheet(path: Path, layouts: Sequence[Layout], hint: str = "") -> Sheet:
    """Read a table that people write. Malformed rows have a `Row.problem`; the caller decides about them.

    Args:
        layouts: the columns it may have; the first layout that fits is taken. Further columns are kept.
        hint: advice for a missing file.

    Raises:
        CcdError: the file is missing, is no text, or has no header with the columns of a layout.
    """
    lines = list(io.StringIO(_text(path, hint), newline=""))
    start, delimiters = _preamble(lines)
    for layout in layouts:
        for delimiter in delimiters:
            header, end = _header(lines, start, delimiter)
            columns = _usual_names(header)
            if all(set(names) & set(columns) for names in layout):
                _refuse_repeated(path, start, columns, layout)
                return Sheet(columns, tuple(_rows(lines, end, delimiter, columns, layout)), layout)
    raise CcdError(_no_header(path, lines, start, delimiters, layouts))


def shown(text: str) -> str:
    """Return a row's text for a message: short, on one line, control characters escaped."""
    line = printable(text.rstrip("\r\n"))
    return line if len(line) <= _SHOWN else f"{line[:_SHOWN]}..."


def meant(text: str, known: Collection[str]) -> str | None:
    """Return the ``known`` name that a cell stands for, or None.

    Blanks around the name and the apostrophe that `neutral` puts in front are ignored.
    """
    return next((name for name in spellings(text) if name in known), None)


def spellings(text: str) -> tuple[str, ...]:
    """Return the texts that a cell may stand for, the likeliest first."""
    stripped = text.strip()
    bare = tuple(each[1:] for each in (text, stripped) if each.startswith("'") and each[1:].startswith(FORMULA_MARKS))
    return tuple(dict.fromkeys((text, stripped, *bare)))


def classes_in(cell: str, known: Collection[str]) -> tuple[list[str], list[str]]:
    """Split a cell at ``;`` into the classes that are ``known`` and the others.

    A class whose own name holds ``;`` is recognised; so are commas between classes if that explains all names.
    """
    options = [_split_names(text, known, ";") for text in spellings(cell)]
    commas = [_split_names(text, known, ",") for text in spellings(cell)]
    return min((*options, *(option for option in commas if not option[1])), key=lambda option: len(option[1]))


def _split_names(cell: str, known: Collection[str], between: str) -> tuple[list[str], list[str]]:
    parts = cell.split(between)
    good = []
    bad = []
    while parts:
        ends = (end for end in range(len(parts), 0, -1) if between.join(parts[:end]).strip() in known)
        end = next(ends, 0)
        name = between.join(parts[: end or 1]).strip()
        if end:
            good.append(name)
        elif name:
            bad.append(name)
        parts = parts[end or 1 :]
    return list(dict.fromkeys(good)), bad


def _text(path: Path, hint: str) -> str:
    """Read the file as text in the encoding of its byte order mark, or UTF-8."""
    try:
        content = path.read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise CcdError(f"{path}: {reason}{hint and f'; {hint}'}") from None
    if content.startswith(_WORKBOOKS):
        raise CcdError(f"{path}: a spreadsheet's workbook, not CSV; save it as 'CSV UTF-8' and give that file")
    encoding, body = split_byte_order_mark(content)
    try:
        text = body.decode(encoding or "utf-8")
    except UnicodeDecodeError as error:
        raise CcdError(_not_text(path, body, encoding or "utf-8", error)) from None
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise CcdError(f"{path}, line {line}: holds NUL characters, so it is no text in UTF-8; {_AS_UTF8}")
    return text


def _not_text(path: Path, content: bytes, encoding: str, error: UnicodeDecodeError) -> str:
    """Return a message with the line that is no text, and its content as far as it can be shown."""
    line = len(io.StringIO(content[: error.start].decode(encoding, "replace") + "x", newline="").readlines())
    row = ""
    if encoding == "utf-8":
        start = max(content.rfind(end, 0, error.start) for end in (b"\n", b"\r")) + 1
        row = shown(re.split(rb"[\r\n]", content[start:], maxsplit=1)[0].decode("cp1252", "replace"))
    reason = f"{error.reason} in '{row}'" if row else error.reason
    return f"{path}, line {line}: not {encoding.upper()} text ({reason}); {_AS_UTF8}"


def _preamble(lines: Sequence[str]) -> tuple[int, tuple[str, ...]]:
    """Return the line of the header, and the delimiters to try: that of a line ``sep=`` first, then `DELIMITERS`."""
    start = _next_row(lines, 0)
    stated = re.fullmatch(r'"?sep=([^"\r\n])"?', lines[start].rstrip("\r\n"), re.I) if start < len(lines) else None
    return (_next_row(lines, start + 1), (stated[1], *DELIMITERS)) if stated else (start, DELIMITERS)


def _next_row(lines: Sequence[str], start: int) -> int:
    """Return the first line with anything but blanks and delimiters."""
    return next((at for at in range(start, len(lines)) if lines[at].strip(' \t\r\n",;')), len(lines))


def _header(lines: Sequence[str], start: int, delimiter: str) -> tuple[list[str], int]:
    """Return the cells of the header and the line after it; no cells if it is no CSV with this delimiter."""
    reader = _reader(lines, start, delimiter)
    try:
        return next(reader, []), start + reader.line_num
    except csv.Error:
        return [], start


def _reader(lines: Sequence[str], start: int, delimiter: str) -> Any:
    return csv.reader((lines[at] for at in range(start, len(lines))), delimiter=delimiter, strict=True)


def _usual_names(header: Sequence[str]) -> tuple[str, ...]:
    """Return the names of columns in lower case, with underscores; synonyms are replaced by the usual name."""
    names = [re.sub(r"[\s_-]+", "_", name.strip("\ufeff \t\xa0").casefold()) for name in header]
    for usual, others in SYNONYMS.items():
        synonyms = [name for name in names if name in others]
        if len(synonyms) == 1 and not {usual, *(IMAGE if usual in IMAGE else ())} & set(names):
            names[names.index(synonyms[0])] = usual
    return tuple(names)


def _refuse_repeated(path: Path, start: int, columns: Sequence[str], layout: Layout) -> None:
    needed = {name for alternatives in layout for name in alternatives}
    repeated = [name for name, count in Counter(columns).items() if count > 1 and name in needed]
    if repeated:
        names = shown(listed(columns))
        raise CcdError(
            f"{path}, line {start + 1}: its columns are {names}: {listed(repeated)} more than once; delete one"
        )


def _rows(lines: Sequence[str], at: int, delimiter: str, columns: Sequence[str], layout: Layout) -> Iterator[Row]:
    """Yield the rows from line ``at`` (counted from 0) on; after a malformed row, continue with the next line."""
    while at < len(lines):
        reader = _reader(lines, at, delimiter)
        base = at
        try:
            for cells in reader:
                end = base + reader.line_num
                fits = _fits(cells, columns, layout)
                if not fits and end > at + 1:  # a quote that was never closed may have taken whole rows in
                    break
                if any(cell.strip() for cell in cells):
                    text = "".join(lines[at:end])
                    problem = "" if fits else f"{len(cells)} cells under {len(columns)} columns: '{shown(text)}'"
                    yield Row(at + 1, dict(zip(columns, cells, strict=False)), text, problem)
                at = end
            else:
                return
            reason = "a quote is never closed"
        except csv.Error as error:
            reason = str(error)
        yield Row(at + 1, {}, lines[at], f"not valid CSV ({reason}): '{shown(lines[at])}'")
        at += 1


def _fits(cells: Sequence[str], columns: Sequence[str], layout: Layout) -> bool:
    """Tell whether a row has a cell in each required column; beyond the last column there may be empty cells."""
    present = set(columns[: len(cells)])
    return all(present & set(names) for names in layout) and not any(cell.strip() for cell in cells[len(columns) :])


def _no_header(
    path: Path, lines: Sequence[str], start: int, delimiters: Sequence[str], layouts: Sequence[Layout]
) -> str:
    header = max((_header(lines, start, delimiter)[0] for delimiter in delimiters), key=len)
    columns = shown(listed(name.strip("\ufeff ") for name in header)) or "none"
    needed = "; or: ".join(", ".join(" or ".join(map(_with_synonym, names)) for names in layout) for layout in layouts)
    rivals = _rivals(_usual_names(header))
    advice = (
        f"{' and '.join(rivals)} may mean the same: rename one to '{_usual_of(rivals[0])}'"
        if rivals
        else "correct the header, and separate the cells by commas, semicolons or tabs"
    )
    return f"{path}, line {start + 1}: its columns are {columns}; needed: {needed}; {advice}"


def _with_synonym(name: str) -> str:
    """Return a column with the other name that `ccd predict` gives it."""
    return "classes or labels" if name == "classes" else name


def _rivals(columns: Sequence[str]) -> list[str]:
    """Return columns that are synonyms of each other, so that none of them counts."""
    groups = ([name for name in columns if name in others] for others in SYNONYMS.values())
    return next((names for names in groups if len(names) > 1), [])


def _usual_of(synonym: str) -> str:
    return next(usual for usual, others in SYNONYMS.items() if synonym in others)
