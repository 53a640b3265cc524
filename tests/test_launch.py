"""What a launcher's environment variables say, and what they do not."""

from __future__ import annotations

import pytest

from ccd.errors import CcdError
from ccd.runtime import launch

VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")


def set_all(monkeypatch: pytest.MonkeyPatch, values: dict[str, str]) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    for name, value in values.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"RANK": "", "WORLD_SIZE": ""},
        {"RANK": "0", "WORLD_SIZE": "auto"},
        {"RANK": "0", "WORLD_SIZE": "0"},
        {"RANK": "-1", "WORLD_SIZE": "2"},
        {"RANK": "2"},
        {"WORLD_SIZE": "2"},
        {"RANK": "%RANK%", "WORLD_SIZE": "2", "LOCAL_RANK": "1"},
    ],
)
def test_empty_or_meaningless_variables_count_as_unset(values: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    set_all(monkeypatch, values)
    assert (launch.rank(), launch.world_size(), launch.local_rank(), launch.local_world_size()) == (0, 1, 0, 1)


def test_a_launchers_variables_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    set_all(monkeypatch, {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": ""})
    assert (launch.rank(), launch.world_size(), launch.local_rank(), launch.local_world_size()) == (3, 4, 1, 1)


def test_a_rank_outside_the_world_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    set_all(monkeypatch, {"RANK": "5", "WORLD_SIZE": "2"})
    with pytest.raises(CcdError, match=r"RANK=5.*WORLD_SIZE=2"):
        launch.rank()
