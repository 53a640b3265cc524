"""Corrections: the file of people's decisions, and what they do to the labels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, strategies as st

from ccd.artifacts.corrections_file import Decisions, ensure, path_of, read, read_decisions, write
from ccd.errors import CcdError
from ccd.labels.debias import before_corrections, corrected, nobody_decided
from tests.faults.artifacts import finish
from tests.faults.case import fresh, run, set_params

IDS = ["a.jpg", "b.jpg", "=1+1", "d, e.jpg"]
CLASSES = ("cup", "tall lamp", "@mug")
HEADER = "image_id,class,label\n"


def test_a_corrected_label_is_exactly_what_the_person_said() -> None:
    labels = np.array([[0.3, 0.9, 0.55], [1.0, 0.0, 0.2]])
    decided = np.array([[1, 0, -1], [-1, -1, 1]], np.int8)
    found = corrected(labels, decided, weight=1.0)
    np.testing.assert_array_equal(found["label"], [[1, 0, 0.55], [1, 0, 1]])
    np.testing.assert_array_equal(found["correction"], decided)
    np.testing.assert_array_equal(found["uncorrected_label"], [[0.3, 0.9, np.nan], [np.nan, np.nan, 0.2]])
    np.testing.assert_array_equal(before_corrections(found), labels)


@pytest.mark.parametrize(("weight", "raised", "lowered"), [(0.0, 0.3, 0.9), (0.5, 0.65, 0.45), (0.75, 0.825, 0.225)])
def test_the_weight_mixes_both(weight: float, raised: float, lowered: float) -> None:
    found = corrected(np.array([[0.3, 0.9, 0.4]]), np.array([[1, 0, -1]], np.int8), weight)
    np.testing.assert_allclose(found["label"], [[raised, lowered, 0.4]], rtol=1e-12)


def test_nobody_decided_changes_nothing() -> None:
    labels = np.array([[0.25, 0.75]])
    empty = nobody_decided(labels.shape)
    found = corrected(labels, empty["correction"], weight=1.0)
    np.testing.assert_array_equal(found["label"], labels)
    np.testing.assert_array_equal(found["uncorrected_label"], empty["uncorrected_label"])


def test_the_file_is_read_by_name_and_given_out_in_pieces(tmp_path: Path) -> None:
    path = tmp_path / "c.csv"
    path.write_text(HEADER + '"d, e.jpg",cup,1\n' + "a.jpg,tall lamp,0\na.jpg,cup,1\n\na.jpg,cup,1\n'=1+1,'@mug,1\n")
    found = read(path, IDS, CLASSES)
    whole = [[1, 0, -1], [-1, -1, -1], [-1, -1, 1], [1, -1, -1]]
    np.testing.assert_array_equal(found.of_images(0, 4), whole)
    for start, stop in ((0, 1), (1, 2), (1, 4), (2, 3), (4, 4)):
        np.testing.assert_array_equal(found.of_images(start, stop), np.array(whole, np.int8)[start:stop])
    assert found.of_images(0, 4).dtype == np.int8


@given(st.dictionaries(st.tuples(st.sampled_from(IDS), st.sampled_from(CLASSES)), st.integers(0, 1)))
def test_what_is_written_is_read_and_the_order_does_not_matter(tmp_path_factory: object, decisions: Decisions) -> None:
    folder = tmp_path_factory.mktemp("c")  # type: ignore[attr-defined]
    write(folder / "one.csv", decisions)
    write(folder / "two.csv", dict(reversed(list(decisions.items()))))
    assert read_decisions(folder / "one.csv", IDS, CLASSES) == decisions
    content = (folder / "one.csv").read_bytes()
    assert content == (folder / "two.csv").read_bytes() and content.startswith(HEADER.encode())
    assert not any(cell.startswith(("=", "@")) for line in content.decode().splitlines() for cell in line.split(","))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "line 1: its columns are none; needed: image_id, class, label"),
        (b"image_id,class\na.jpg,cup\n", "line 1: its columns are image_id, class; needed"),
        (b"image_id,class,label,by\na.jpg,cup,1,me\n", "line 1: its columns are image_id, class, label, by"),
        (
            b"image_id,class,label,Label\na.jpg,cup,1,0\n",
            "line 1: its columns are image_id, class, label, label: label",
        ),
        (HEADER.encode() + b"a.jpg,cup,1\nz.jpg,cup,1\n", "1 row cannot be used: line 3: 'z.jpg' is no training image"),
        (HEADER.encode() + b"a.jpg,dog,1\n", r"line 2: 'dog' is no class \(classes: cup, tall lamp, @mug\)"),
        (HEADER.encode() + b"a.jpg,cup,2\n", "line 2: label '2' is neither 0 nor 1"),
        (HEADER.encode() + b"a.jpg,cup,\n", "line 2: label '' is neither 0 nor 1"),
        (
            HEADER.encode() + b"a.jpg,cup,1\nb.jpg,cup,0\na.jpg,cup,0\n",
            "2 rows .* line 2: contradicts .* line 4: contradicts",
        ),
        (HEADER.encode() + b"a.jpg,cup\n", "line 2: 2 cells under 3 columns"),
        (HEADER.encode() + b'a.jpg,"cup"x,1\n', "line 2: not valid CSV"),
        (HEADER.encode() + b"a.jpg,cup,1\ncaf\xe9,cup,1\n", "line 3: not UTF-8 text"),
        (HEADER.encode() + b"x,cup,1\ny,cup,1\n", "2 rows cannot be used: line 2: 'x' .* line 3: 'y'"),
    ],
)
def test_every_mistake_is_one_line_that_names_file_and_line(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "c.csv"
    path.write_bytes(content)
    with pytest.raises(CcdError, match=message) as error:
        read(path, IDS, CLASSES)
    assert str(error.value).startswith(str(path)) and "\n" not in str(error.value)


def test_a_missing_file_is_an_error_that_says_what_to_write(tmp_path: Path) -> None:
    with pytest.raises(CcdError, match=r"c\.csv .*image_id,class,label"):
        read(tmp_path / "c.csv", IDS, CLASSES)


def test_the_header_is_written_once_and_hand_work_is_kept(tmp_path: Path) -> None:
    path = tmp_path / path_of("toy")
    assert ensure(path) and path.read_text() == HEADER
    path.write_text(HEADER + "a.jpg,cup,1\n")
    assert not ensure(path) and path.read_text().endswith("cup,1\n")
    assert path.relative_to(tmp_path).as_posix() == "corrections/toy.csv"


def test_the_stage_takes_peoples_word_and_leaves_all_else(tmp_path: Path) -> None:
    finish(fresh(tmp_path))
    made = tmp_path / "data/toy/pseudo_labels.parquet"
    file = tmp_path / path_of("toy")
    before = pd.read_parquet(made)
    assert before["correction"].isna().all() and before["uncorrected_label"].isna().all()
    row = int(before.index[(before["image_id"] == "b.png") & (before["class"] == "cat")][0])
    decided = 0 if before.loc[row, "label"] >= 0.5 else 1
    file.write_text(f"{HEADER}b.png,cat,{decided}\n")
    assert run("aggregate", tmp_path).code == 0
    after = pd.read_parquet(made)
    assert after.loc[row, ["label", "correction"]].tolist() == [decided, decided]
    assert after.loc[row, "uncorrected_label"] == before.loc[row, "label"]
    pd.testing.assert_frame_equal(after.drop(index=row), before.drop(index=row))
    set_params(tmp_path, aggregate__correction_weight="0.25")
    assert run("aggregate", tmp_path).code == 0
    mixed = 0.75 * before.loc[row, "label"] + 0.25 * decided
    assert pd.read_parquet(made).loc[row, "label"] == pytest.approx(mixed, rel=1e-6)


def test_an_image_that_is_gone_is_said_by_the_first_stage_before_it_writes(tmp_path: Path) -> None:
    finish(fresh(tmp_path))
    (tmp_path / path_of("toy")).write_text(f"{HEADER}b.png,cat,1\n")
    picture = next(tmp_path.rglob("b.png"))
    picture.unlink()
    (tmp_path / "pictures/labels.csv").unlink()
    ended = run("index", tmp_path)
    assert ended.code == 2 and "'b.png' is no training image" in ended.message and "ccd review tidy" in ended.message
    assert ended.written.isdisjoint({"images.parquet", "classes.json", "labels.parquet"})
