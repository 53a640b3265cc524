"""The plan for ten million images: the document's tables are those of the script, and its sums are right."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.sizing import Plan, markdown, memory, on_one_machine, steps

TEXT = (Path(__file__).resolve().parent.parent / "docs/many_gpus.md").read_text()


@pytest.mark.parametrize("rows", [steps, on_one_machine, memory])
def test_the_document_shows_the_scripts_tables(rows) -> None:  # type: ignore[no-untyped-def]
    assert markdown(rows(Plan())) in TEXT


def test_sums_by_hand() -> None:
    first, *_, local, train = steps(Plan(images=2_160_000, gpus=1, price=2.0))
    assert list(first.values()) == ["clip_global", "216", "2.8", "6", "8.8 GB", "5"]  # 10,000 s at 2 an hour
    assert local["hours on 1"] == "31.6"  # 10.8 million views, 95 a second
    assert train["hours on 1"] == "48.0"  # 8 epochs, 100 a second
    needs = {row["stage"]: row["GB"] for row in memory(Plan(images=1_000_000, classes=10))}
    assert (needs["head"], needs["clip_local"], needs["report"], needs["clip_global"]) == ("4.1", "1.0", "0.2", "0.2")
