"""Tables for a terminal: whatever the cells, columns are aligned and no line is too wide."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from ccd.report.text_table import WIDEST, aligned, display_width, shortened, visible

ANY_TEXT = st.text(st.characters(exclude_categories=("Cs",)), max_size=150)


def test_control_characters_become_question_marks_and_columns_two_blanks_apart() -> None:
    assert aligned([["a", "b"], ["long\x1b[31m", "c"]]) == "a          b\nlong?[31m  c"


@pytest.mark.parametrize(
    ("text", "width"),
    [("cup", 3), ("茶碗", 4), ("Straße", 6), ("e\u0301te\u0301", 3), ("🐈", 2), ("\uff46\uff55", 4), ("각", 2)],
)
def test_wide_characters_take_two_places_and_combining_ones_none(text: str, width: int) -> None:
    assert display_width(text) == width
    rows = aligned([["class", "n"], [text, "1"]]).splitlines()
    assert {display_width(row) for row in rows} == {max(5, width) + 3}


def test_an_ellipsis_keeps_both_ends() -> None:
    assert shortened("train/holiday/photo_00017", 11) == "train…00017"
    assert shortened("photo", 5) == "photo" and shortened("photos", 1) == "…"


@given(ANY_TEXT, st.integers(1, 120))
def test_a_shortened_text_never_takes_more_than_its_room(text: str, limit: int) -> None:
    clean = visible(text)
    cut = shortened(clean, limit)
    assert display_width(cut) <= limit and (cut == clean) == (display_width(clean) <= limit)


@given(st.lists(st.tuples(ANY_TEXT, ANY_TEXT, st.just("0.123"), st.just("| end")), min_size=1, max_size=5))
def test_lines_are_at_most_100_wide_and_the_last_column_stands_in_one_place(rows: list[tuple[str, ...]]) -> None:
    lines = aligned(rows).splitlines()
    assert len(lines) == len(rows)
    assert all(display_width(line) <= WIDEST and line.endswith("0.123  | end") for line in lines)
    assert len({display_width(line) for line in lines}) == 1
