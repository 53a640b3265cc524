"""Names behave as the list of strings that they stand for."""

from __future__ import annotations

import pickle

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, strategies as st

from ccd.artifacts.image_index import Names

TEXTS = st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=5), max_size=12)


@given(TEXTS, st.slices(12))
def test_names_are_a_sequence_of_their_strings(texts: list[str], part: slice) -> None:
    names = Names(texts)
    assert len(names) == len(texts) and list(names) == texts and list(names[part]) == texts[part]
    assert [names[row] for row in range(-len(texts), len(texts))] == texts + texts
    assert names == texts and texts == names and names[part] == texts[part]
    rows = np.arange(len(texts))[::-1]
    assert list(names.take(rows)) == texts[::-1]
    assert pickle.loads(pickle.dumps(names)) == names


def test_equal_is_only_what_holds_the_same_strings_in_the_same_order() -> None:
    names = Names(["a", "ü"])
    assert names == Names(["a", "ü"]) and names == ("a", "ü")
    assert names != ["a"] and names != ["a", "b"] and names != ["ü", "a"] and names != Names(["a"]) and names != 3
    assert repr(names) == "Names(2: 'a', 'ü')"


def test_chunks_and_bytes_of_a_file_are_taken_as_they_are() -> None:
    assert Names(pa.chunked_array([pa.array(["a"]), pa.array(["b", "c"])])) == ["a", "b", "c"]
    assert Names(pa.array(np.asarray([b"a", "ü".encode()]), pa.binary())) == ["a", "ü"]


@pytest.mark.parametrize("values", [pa.array(["a", None]), pa.array([b"\xff"], pa.binary())])
def test_what_is_no_text_is_refused(values: pa.Array) -> None:
    with pytest.raises(ValueError):
        Names(values)


def test_a_row_that_is_not_there_is_an_index_error() -> None:
    with pytest.raises(IndexError):
        Names(["a"])[1]
