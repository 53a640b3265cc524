"""Every bad input: exit status 2, one message that says what, where and what to do, no traceback, nothing written."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.case import ACCEPTED, Case, meet
from tests.faults.page import PAGE
from tests.faults.table import CASES, row_start


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.group}: {case.name}")
def test_bad_input(case: Case, tmp_path: Path) -> None:
    if not case.possible():
        pytest.skip("cannot be made on this machine, or by this user")
    found = meet(case, tmp_path)
    if case.says == (ACCEPTED,):
        assert (found.code, found.message) == (0, "")
        return
    assert found.code == 2, found
    for part in case.says:
        assert part in found.message
    assert found.message.startswith("error: ") and "Traceback" not in found.message
    assert found.written == set()


def test_every_case_has_its_row_in_the_docs() -> None:
    page = PAGE.read_text(encoding="utf-8")
    missing = [case.name for case in CASES if row_start(case) not in page]
    assert missing == [], "run: python -m tests.faults.table"


def test_names_of_cases_are_unique() -> None:
    names = [(case.group, case.name) for case in CASES]
    assert len(names) == len(set(names))
