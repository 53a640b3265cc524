"""Every bad input: exit status 2, one message that says what, where and what to do, no traceback, nothing written."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults import artifacts, corrections, datasets, parameters, pictures
from tests.faults.case import ACCEPTED, Case, meet

CASES = [*pictures.CASES, *datasets.CASES, *artifacts.CASES, *corrections.CASES, *parameters.CASES]


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


def test_names_of_cases_are_unique() -> None:
    names = [(case.group, case.name) for case in CASES]
    assert len(names) == len(set(names))
