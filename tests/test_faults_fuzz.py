"""A little of `python -m tests.fuzz`, with a seed of its own."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fuzz.run import fuzz
from tests.fuzz.subjects import SUBJECTS, plain, prepare


@pytest.mark.parametrize("family", ["params", "files"])
def test_200_spoilt_files(family: str, tmp_path: Path) -> None:
    tallies = fuzz(tmp_path, family, 200, seed=1)
    assert [finding for tally in tallies for finding in tally.findings] == []
    assert sum(tally.refused for tally in tallies) > 100, "spoilt files are mostly refused"


def test_every_good_file_is_accepted(tmp_path: Path) -> None:
    prepare(tmp_path)
    for subject in SUBJECTS:
        if not subject.name.startswith("resealed"):
            assert plain(subject.read(tmp_path / subject.file)), subject.name
