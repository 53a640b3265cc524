"""What every bad input is answered with, as tables in docs/reliability.md.

python -m tests.faults.table    # meets every case and rewrites the tables
"""

from __future__ import annotations

import tempfile
from itertools import groupby
from pathlib import Path

from tests.faults import artifacts, corrections, datasets, parameters, pictures
from tests.faults.case import ACCEPTED, Case, meet
from tests.faults.page import rewrite

CASES = [*pictures.CASES, *datasets.CASES, *artifacts.CASES, *corrections.CASES, *parameters.CASES]
LONGEST = 400


def cell(text: str) -> str:
    """Text that stays within one cell of a Markdown table."""
    one_line = " / ".join(line.strip() for line in text.split("\n"))
    short = one_line if len(one_line) <= LONGEST else one_line[:LONGEST] + " ..."
    return short.replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*").replace("`", "'")


def row_start(case: Case) -> str:
    """How the case's row begins."""
    name = case.name.encode("unicode_escape").decode() if not case.name.isprintable() else case.name
    return f"| {cell(name)} | {case.stage} | "


def answer(case: Case) -> str:
    """The message, or that all is well; what must be in the message where this machine cannot make the case."""
    if not case.possible():
        return "error: " + "; ".join(case.says)
    with tempfile.TemporaryDirectory() as folder:
        return meet(case, Path(folder)).message or ACCEPTED


def tables() -> str:
    """All groups, one table each."""
    parts = []
    for group, cases in groupby(CASES, key=lambda case: case.group):
        rows = [row_start(case) + cell(answer(case)).removeprefix("error: ") + " |" for case in cases]
        parts.append(
            "\n".join([f"### {group.capitalize()}", "", "| input | met by stage | answer |", "|---|---|---|", *rows])
        )
    return "\n\n".join(parts)


if __name__ == "__main__":
    rewrite("tests.faults.table", tables())
