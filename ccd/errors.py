"""The one error that is meant for the user."""

from __future__ import annotations

from collections.abc import Iterable


class CcdError(Exception):
    """A mistake the user can mend. The message says what is wrong, where, and what to do; no traceback is shown."""


def listed(items: Iterable[object], limit: int = 10) -> str:
    """The first ``limit`` items, comma-separated, and how many more there are."""
    everything = [str(item) for item in items]
    more = len(everything) - limit
    return ", ".join(everything[:limit]) + (f" and {more} more" if more > 0 else "")


def printable(text: str) -> str:
    """``text`` with control characters, and bytes that are no UTF-8, as escapes: names of files reach the console."""
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode("ascii") for each in text)


def is_utf8(text: str) -> bool:
    """Whether the text can be written to a file; names from the file system or JSON may hold lone surrogates."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
