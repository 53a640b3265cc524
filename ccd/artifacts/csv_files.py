"""CSV files that people open: no cell runs as a formula, and whatever a spreadsheet saves is read back.

One reader for every list that people write (labels, review sheets, corrections): cells parted by commas, semicolons or
tabs, also as a first line ``sep=;`` says; UTF-8, or UTF-16 with its byte order mark; any line ends; column names in any
case, with blanks around them.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ccd.artifacts.atomic import replacing
from ccd.errors import CcdError, listed, printable

_FORMULA = ("=", "+", "-", "@", "\t", "\r")
_DELIMITERS = (",", ";", "\t")
_UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")
_SHOWN = 80

Record = dict[str, str]
"""Column name, as it was asked for, -> cell."""


def write(path: Path, rows: Sequence[Mapping[str, float | int | str]]) -> None:
    """Write a CSV artifact with the first row's keys as header; numbers in full."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    with replacing(path) as temporary:
        temporary.write_text(buffer.getvalue(), encoding="utf-8")


def csv_line(cells: Sequence[Any]) -> str:
    """One line of CSV. Text that a spreadsheet would run as a formula gets an apostrophe in front."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\r\n")  # whose characters are those that get quoted
    writer.writerow([neutral(cell) if isinstance(cell, str) else cell for cell in cells])
    return buffer.getvalue().removesuffix("\r\n") + "\n"


def neutral(text: str) -> str:
    """``text`` as a spreadsheet shows it instead of calculating it."""
    return f"'{text}" if text.startswith(_FORMULA) else text


def meant(text: str, known: Collection[str]) -> str | None:
    """Tell which of the ``known`` names a cell stands for, also without the apostrophe that `neutral` puts in front, or
    the blanks around it; None: none of them."""
    for name in (text, text.strip()):
        if name in known:
            return name
        if name.startswith("'") and name[1:].startswith(_FORMULA) and name[1:] in known:
            return name[1:]
    return None


def slashed(path: str) -> str:
    """A path as data sets write it: forward slashes, no ``./`` in front."""
    plain = path.strip().replace("\\", "/")
    while plain.startswith("./"):
        plain = plain[2:]
    return plain


def records(
    path: Path,
    wanted: Sequence[str | tuple[str, ...]],
    optional: Sequence[str | tuple[str, ...]] = (),
    *,
    others: bool = True,
    on_bad_row: Callable[[int, str, str], None] | None = None,
) -> Iterator[tuple[int, Record]]:
    """Yield the rows of a CSV file with their line numbers; blank lines are passed over.

    Args:
        wanted: columns that there must be. Of several names for one column (a tuple) the first that is there is taken,
            and the cell is found under the first name.
        optional: columns that there may be.
        others: whether there may be more columns, which are passed over.
        on_bad_row: told the line, the reason and the text of a row that cannot be read; without it that is an error.

    Raises:
        CcdError: missing, no text, not CSV, without a wanted column or with one too many, or a bad row, which is shown.
    """
    text = _text(path)
    lines = io.StringIO(text, newline=None).read().split("\n")
    stated = _stated_delimiter(lines[0])
    skipped = 1 if stated else 0
    body = "\n".join(lines[skipped:])
    delimiter = stated or _likely_delimiter(body, wanted)
    reader = csv.reader(io.StringIO(body, newline=None), delimiter=delimiter, strict=True)
    columns: list[str] = []
    started = False
    while True:
        first = reader.line_num
        try:
            cells = next(reader, None)
        except csv.Error as error:
            line = max(first + 1, reader.line_num) + skipped
            _bad(path, line, f"not valid CSV ({error}): {_shown(lines, line)}", "", None)
            return
        if cells is None:
            break
        line = reader.line_num + skipped
        if not started:
            columns = _columns(path, line, cells, wanted, optional, others)
            started = True
        elif any(cell.strip() for cell in cells):
            while len(cells) > len(columns) and not cells[-1].strip():
                cells.pop()
            if len(cells) != len(columns):
                said = f"{len(cells)} cells under {len(columns)} columns: {_shown(lines, line)}"
                _bad(path, line, said, lines[line - 1], on_bad_row)
                continue
            yield line, {name: cell for name, cell in zip(columns, cells, strict=True) if name}
    if not started:
        _columns(path, 1 + skipped, [], wanted, optional, others)


def _bad(path: Path, line: int, reason: str, row: str, on_bad_row: Callable[[int, str, str], None] | None) -> None:
    if on_bad_row is None:
        raise CcdError(f"{path}, line {line}: {reason}; correct or delete it")
    on_bad_row(line, reason, row)


def _shown(lines: Sequence[str], line: int) -> str:
    text = printable(lines[line - 1]) if line <= len(lines) else ""
    return f"'{text[:_SHOWN]}{'...' if len(text) > _SHOWN else ''}'"


def _stated_delimiter(first: str) -> str | None:
    """That of a line ``sep=;``, by which spreadsheets say it."""
    text = first.strip(" \r\n").strip('"')
    return text[4] if text[:4].casefold() == "sep=" and len(text) == 5 else None


def _names(column: str | tuple[str, ...]) -> tuple[str, ...]:
    return (column,) if isinstance(column, str) else column


def _plain(name: str) -> str:
    return "_".join(name.strip().strip("'").casefold().split())


def _likely_delimiter(text: str, wanted: Sequence[str | tuple[str, ...]]) -> str:
    """The one that parts the header into most of the wanted columns, then into most cells."""

    def worth(delimiter: str) -> tuple[int, int]:
        try:
            cells = next(csv.reader(io.StringIO(text, newline=None), delimiter=delimiter), [])
        except csv.Error:
            return (0, 0)
        plain = {_plain(cell) for cell in cells}
        return (sum(any(name in plain for name in _names(column)) for column in wanted), len(cells))

    return max(_DELIMITERS, key=worth)


def _columns(
    path: Path, line: int, header: list[str], wanted: Sequence[str | tuple[str, ...]],
    optional: Sequence[str | tuple[str, ...]], others: bool,
) -> list[str]:  # fmt: skip
    """The name of every column as it was asked for; "" for one that was not."""
    while header and not header[-1].strip():
        header.pop()
    plain = [_plain(cell) for cell in header]
    columns = [""] * len(header)
    missing = []
    for column in (*wanted, *optional):
        names = [name for name in _names(column) if name in plain]
        places = [place for place, name in enumerate(plain) if names and name == names[0]]
        if len(places) > 1 or (not places and column in wanted):
            missing.append(_names(column)[0])
        elif places:
            columns[places[0]] = _names(column)[0]
    if missing or (not others and "" in columns):
        needed = ", ".join(" or ".join(_names(column)[:2]) for column in wanted)
        more = f"; optional: {', '.join(_names(column)[0] for column in optional)}" if optional else ""
        raise CcdError(
            f"{path}, line {line}: its columns are {listed(map(printable, header)) or 'none'}; needed: {needed}{more}; "
            "correct the first line"
        )
    return columns


def _text(path: Path) -> str:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise CcdError(f"{path}: {error.strerror or error}") from None
    try:
        return content.decode("utf-16" if content.startswith(_UTF16_MARKS) else "utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        row = content.split(b"\n")[line - 1][:_SHOWN].decode("latin-1")
        raise CcdError(
            f"{path}, line {line}: not UTF-8 text ({error.reason}): {printable(row)!r}; save it as 'CSV UTF-8'"
        ) from None
