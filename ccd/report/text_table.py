"""Aligned text columns for a terminal, whatever characters the cells hold."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

WIDEST = 100
_GAP = "  "
_ELLIPSIS = "…"


def aligned(rows: Sequence[Sequence[str]], widest: int = WIDEST) -> str:
    """Format rows of cells as text columns, two blanks apart; the first row is the heading.

    A line is at most ``widest`` terminal columns wide: where the text columns are too wide together, the widest are
    cut, each cell in its middle. With more columns than fit even so, lines are longer.
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
    """Return ``text`` with a question mark for every control or invisible character."""
    return "".join(each if each.isprintable() else "?" for each in text)


def display_width(text: str) -> int:
    """Return the terminal columns that ``text`` takes: East Asian wide characters take two, combining ones none."""
    return sum(_columns_of(each) for each in text)


def shortened(text: str, limit: int) -> str:
    """Return ``text`` in at most ``limit`` (>= 1) terminal columns, its middle replaced by an ellipsis if it is longer.

    The middle, since names of files often differ only at their ends.
    """
    if display_width(text) <= limit:
        return text
    tail_limit = (limit - 1) // 2
    tail = _fitting(text[::-1], tail_limit)[::-1].lstrip()
    while tail and not _columns_of(tail[0]):  # a combining mark without its letter
        tail = tail[1:]
    return _fitting(text, limit - 1 - tail_limit) + _ELLIPSIS + tail


def _fitting(text: str, limit: int) -> str:
    """Return the longest beginning of ``text`` that takes at most ``limit`` terminal columns."""
    taken = 0
    for number, each in enumerate(text):
        taken += _columns_of(each)
        if taken > limit:
            return text[:number]
    return text


def _limits(widths: Sequence[int], room: int) -> list[int]:
    """Return ``widths``, the largest of them cut to one common width so that their sum is at most ``room``."""
    limits = list(widths)
    while sum(limits) > room and max(limits) > 1:
        limits[limits.index(max(limits))] -= 1
    return limits


def _columns_of(character: str) -> int:
    if unicodedata.category(character) in ("Mn", "Me") or "\u1160" <= character <= "\u11ff":  # second part of a Hangul
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1
