"""CSV that people open in a spreadsheet: cells that would be calculated, and how they are read back."""

from __future__ import annotations

import csv
import io
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

from ccd.errors import CcdError, listed

_FORMULA = ("=", "+", "-", "@", "\t", "\r")
_DELIMITERS = (",", ";", "\t")


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
    """Which of the ``known`` names a cell stands for, also without the apostrophe that `neutral` puts in front; None:
    none of them."""
    if text in known:
        return text
    return text[1:] if text.startswith("'") and text[1:].startswith(_FORMULA) and text[1:] in known else None


def records(path: Path, wanted: Sequence[str], more: Collection[str] | None) -> Iterator[tuple[int, dict[str, str]]]:
    """The rows of a CSV file with their line numbers, as column -> cell; blank lines are passed over.

    Commas, semicolons or tabs part the cells, as the first line has it: spreadsheets write any of them.

    Args:
        wanted: columns that there must be.
        more: columns that there may be; None: any.

    Raises:
        CcdError: missing, not UTF-8, not CSV, without a wanted column or with one too many, or a row of another length.
    """
    text = _text(path)
    first = text.partition("\n")[0]
    delimiter = max(_DELIMITERS, key=first.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        header = next(reader, [])
        allowed = more is None or set(header) <= {*wanted, *more}
        if not set(wanted) <= set(header) or len(set(header)) < len(header) or not allowed:
            raise CcdError(
                f"{path}, line 1: its columns are {listed(header) or 'none'}; needed: {', '.join(wanted)}; mend it"
            )
        for cells in reader:
            if cells and len(cells) != len(header):
                said = f"{len(cells)} cells under {len(header)} columns"
                raise CcdError(f"{path}, line {reader.line_num}: {said}; correct or remove it")
            if any(cells):
                yield reader.line_num, dict(zip(header, cells, strict=True))
    except csv.Error as error:
        raise CcdError(f"{path}, line {reader.line_num}: not valid CSV ({error}); mend or remove it") from None


def _text(path: Path) -> str:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise CcdError(f"{path}: {error.strerror or error}") from None
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise CcdError(f"{path}, line {line}: not UTF-8 text ({error.reason}); save it as UTF-8") from None
