"""Files that are there already are refused, or kept beside the new ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from ccd.artifacts.existing import keep_old, refuse_existing
from ccd.errors import CcdError


def test_a_file_that_is_there_is_refused_and_named(tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text("mine")
    with pytest.raises(CcdError, match=r"labels\.csv.*--force") as refused:
        refuse_existing([tmp_path / "labels.csv", tmp_path / "new.csv"], force=False)
    assert "new.csv" not in str(refused.value)


def test_a_broken_link_counts_as_there(tmp_path: Path) -> None:
    (tmp_path / "labels.csv").symlink_to(tmp_path / "gone")
    with pytest.raises(CcdError, match="already there"):
        refuse_existing([tmp_path / "labels.csv"], force=False)


def test_force_and_new_names_pass(tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text("mine")
    refuse_existing([tmp_path / "labels.csv"], force=True)
    refuse_existing([tmp_path / "new.csv"], force=False)


def test_every_content_is_kept_once(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    assert keep_old(path) is None
    for text, kept in (("one", "params.yaml.bak"), ("two", "params.yaml.2.bak"), ("one", "params.yaml.bak")):
        path.write_text(text)
        assert keep_old(path) == tmp_path / kept
        assert (tmp_path / kept).read_text() == text
    assert sorted(item.name for item in tmp_path.iterdir()) == ["params.yaml", "params.yaml.2.bak", "params.yaml.bak"]
