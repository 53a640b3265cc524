"""The one reader of lists that people write: however a spreadsheet saves it, the same rows come out."""

from __future__ import annotations

import codecs
import csv
import io
from pathlib import Path

import pytest
from hypothesis import given, settings, strategies as st

from ccd.artifacts.csv_files import IMAGE, classes_in, meant, read_sheet
from ccd.artifacts.files import csv_line
from ccd.datasets.label_table import read_label_table
from ccd.errors import CcdError

LAYOUT = (IMAGE, ("classes",))
IMAGES = ["a.jpg", "sub/b.jpg", "sub/c.jpg"]
HOUSES = ("house", "tree", "sea lion")
ENCODINGS = {
    "utf-8": b"", "utf-8-sig": b"", "utf-16-le": codecs.BOM_UTF16_LE, "utf-16-be": codecs.BOM_UTF16_BE,
    "utf-32-le": codecs.BOM_UTF32_LE,
}  # fmt: skip
CELL = st.text(st.characters(codec="utf-8", exclude_characters="\0", exclude_categories=("Cc", "Zl", "Zp")), max_size=8)
CLASSES = st.one_of(CELL, st.sampled_from(["house;tree", 'a "b"', "x,y", "tab\there", "two\nlines"]))


def saved(rows: list[tuple[str, ...]], delimiter: str, encoding: str, end: str, sep: bool = False) -> bytes:
    """As a program would write it, with quotes where they are needed."""
    buffer = io.StringIO()
    csv.writer(buffer, delimiter=delimiter, lineterminator="\r\n").writerows(rows)
    text = (f"sep={delimiter}\r\n" if sep else "") + buffer.getvalue()
    return ENCODINGS[encoding] + text.replace("\r\n", end).encode(encoding)


@settings(deadline=None, max_examples=60)
@given(
    rows=st.lists(st.tuples(CELL.filter(str.strip), CLASSES), max_size=4),
    delimiter=st.sampled_from([",", ";", "\t"]),
    encoding=st.sampled_from(list(ENCODINGS)),
    end=st.sampled_from(["\n", "\r\n", "\r"]),
    sep=st.booleans(),
    header=st.sampled_from([("path", "classes"), (" Path ", "CLASSES"), ("FILE", "Labels"), ("image_id", "classes ")]),
)
def test_any_delimiter_encoding_and_line_end_gives_the_same_rows(
    tmp_path_factory: pytest.TempPathFactory,
    rows: list[tuple[str, str]],
    delimiter: str,
    encoding: str,
    end: str,
    sep: bool,
    header: tuple[str, str],
) -> None:
    path = tmp_path_factory.mktemp("list") / "labels.csv"
    path.write_bytes(saved([header, *rows], delimiter, encoding, end, sep))
    sheet = read_sheet(path, [LAYOUT])
    image = "image_id" if header[0] == "image_id" else "path"
    assert sheet.columns == (image, "classes")
    assert [(row.cells[image], row.cells["classes"], row.problem) for row in sheet.rows] == [(*row, "") for row in rows]


@pytest.mark.parametrize(
    ("header", "columns"),
    [
        ('path,"classes;with;semicolons",classes', ("path", "classes;with;semicolons", "classes")),
        ('"note, with, commas";path;classes', ("note,_with,_commas", "path", "classes")),
        ("path\tclasses\ta,b,c;d", ("path", "classes", "a,b,c;d")),
        ("Image ID;Classes", ("image_id", "classes")),
        ("image;labels", ("path", "classes")),
        ("path;image;classes;labels", ("path", "image", "classes", "labels")),
    ],
)
def test_the_delimiter_is_the_one_that_gives_the_columns(header: str, columns: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "l.csv").write_text(header + "\n")
    assert read_sheet(tmp_path / "l.csv", [LAYOUT]).columns == columns


def test_a_malformed_row_costs_no_other_row_and_is_shown(tmp_path: Path) -> None:
    path = tmp_path / "l.csv"
    path.write_text(
        'path,classes,note\n\na,cat,fine\nb,cat,dog,"\x1b[2Jmouse"\nc\n"d,cat,\ne,"cat"s,x\nf,"two\nlines",\n'
        "g,cat\nh,cat,,,\n,,\n" + f"i,{'y' * 300},x,y\nj,dog,\n"
    )
    rows = read_sheet(path, [LAYOUT]).rows
    good = {row.cells["path"]: (row.line, row.cells["classes"]) for row in rows if not row.problem}
    assert good == {"a": (3, "cat"), "f": (8, "two\nlines"), "g": (10, "cat"), "h": (11, "cat"), "j": (14, "dog")}
    bad = {row.line: row.problem for row in rows if row.problem}
    assert list(bad) == [4, 5, 6, 7, 13]
    assert "4 cells" in bad[4] and "3 columns" in bad[4] and "'b,cat,dog,\"\\x1b[2Jmouse\"'" in bad[4]
    assert "1 cells under 3 columns: 'c'" in bad[5] and "not valid CSV" in bad[6] and '"d,cat,' in bad[6]
    assert 'e,"cat"s,x' in bad[7] and len(bad[13]) < 130 and bad[13].endswith("...'")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", ("line 1", "columns are none", "needed: image_id or path, classes or labels")),
        (b"path|classes\na|cat\n", ("line 1", "path|classes")),
        (b"name,tags\n", ("line 1", "name, tags", "needed: image_id or path, classes")),
        (b"file,image,classes\na,b,c\n", ("file and image", "rename one to 'path'")),
        (b"path,classes,Classes\n", ("line 1", "classes", "more than once")),
        (b"path,classes\r\na,cat\r\ncaf\xe9.jpg,cat\r\n", ("line 3", "not UTF-8", "caf\xe9.jpg,cat", "iconv")),
        (codecs.BOM_UTF16_LE + "path,classes\na,b".encode("utf-16-le")[:-1], ("line 2", "not UTF-16")),
        ("path,classes\n".encode("utf-16-le"), ("line 1", "NUL", "UTF-8")),
        (b"PK\x03\x04rest", ("workbook", "CSV UTF-8")),
        (None, ("No such file", "do this")),
    ],
)
def test_an_unreadable_file_is_named_with_line_and_remedy(
    content: bytes | None, words: tuple[str, ...], tmp_path: Path
) -> None:
    path = tmp_path / "l.csv"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(CcdError) as error:
        read_sheet(path, [LAYOUT], "do this")
    said = str(error.value)
    assert said.startswith(str(path)) and "\n" not in said
    assert [word for word in words if word not in said] == []


def test_classes_are_told_apart_whatever_they_are_called() -> None:
    known = ("cat", "hot;dog", "-5", "hot")
    assert classes_in(" cat ;hot;dog; cow;hot", known) == (["cat", "hot;dog", "hot"], ["cow"])
    assert classes_in("'-5;cat", known) == (["-5", "cat"], [])
    assert classes_in(" ; ", known) == ([], [])
    assert classes_in("cat, hot", known) == (["cat", "hot"], [])
    assert classes_in("cat, cow", known) == ([], ["cat, cow"])


@given(st.lists(st.sampled_from(["cat", "-5", "@x", "a;b", "a", "=1+1"]), unique=True))
def test_the_classes_that_are_written_into_one_cell_are_read_again(names: list[str]) -> None:
    (cell,) = next(csv.reader([csv_line([";".join(names)]).rstrip("\n")]), None) or [""]
    assert classes_in(cell, ("cat", "-5", "@x", "a;b", "a", "=1+1", "b")) == (names, [])


def test_a_name_is_known_with_blanks_around_it_and_with_the_apostrophe() -> None:
    known = {"=1+1", "a", "'b"}
    found = {text: meant(text, known) for text in ("'=1+1", " a ", "'b", "'a", "")}
    assert found == {"'=1+1": "=1+1", " a ": "a", "'b": "'b", "'a": None, "": None}


@pytest.mark.parametrize(
    "text",
    [
        "path,classes\na.jpg,house\nb,house;tree\n",
        'path;classes\na.jpg;house\nb;"house;tree"\n',
        "sep=;\r\npath;classes\r\na.jpg;house\r\nsub/b.jpg;'house, tree\r\n".replace("'house, tree", '"house, tree"'),
        "image_id\tlabels\tnote\n./a.jpg\thouse\t?\nsub\\b.jpg\thouse;tree\t!\n",
        'File,Classes,,\n"a.jpg",house,,\n"photos/sub/b.jpg","house; tree",,\n',
        "path,labels,house,tree,sea lion\n{root}/a.jpg,house,0.9,0.1,0.2\n{root}/sub/b.jpg,house;tree,0.9,0.8,0\n",
    ],
)
def test_tables_of_labels_as_spreadsheets_save_them(text: str, tmp_path: Path) -> None:
    root = tmp_path / "photos"
    (tmp_path / "labels.csv").write_text(text.replace("{root}", str(root)))
    found = read_label_table(tmp_path / "labels.csv", IMAGES, HOUSES, root)
    assert {path: row.columns for path, row in found.items()} == {"a.jpg": (0,), "sub/b.jpg": (0, 1)}


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        (b"path,classes\na.jpg,house\nb.jpg,house,tree\n", ("line 3", "3 cells under 2 columns", "'b.jpg,house,tree'")),
        (b'path,classes\na.jpg,"house"x\n', ("line 2", "not valid CSV", "house")),
        (b"path,classes\na.jpg,h\xe4user\n", ("line 2", "not UTF-8", "UTF-8")),
        (b"path;label\na.jpg;house\n", ("line 1", "path, label", "needed: image_id or path", "classes or labels")),
        (b"path,classes,classes\na.jpg,house,tree\n", ("line 1", "its columns are path, classes, classes")),
        (b"", ("line 1", "its columns are none")),
        (
            b"path,classes\nz.jpg,house\na.jpg,horse\na,tree\na.jpg,tree\n",
            ("3 rows", "line 2: 'z.jpg'", "horse", "earlier"),
        ),
    ],
)
def test_what_cannot_be_read_is_shown(content: bytes, parts: tuple[str, ...], tmp_path: Path) -> None:
    path = tmp_path / "labels.csv"
    path.write_bytes(content)
    with pytest.raises(CcdError) as caught:
        read_label_table(path, IMAGES, HOUSES)
    assert str(path) in str(caught.value) and all(part in str(caught.value) for part in parts), str(caught.value)


def test_a_file_outside_is_not_taken_for_one_of_the_same_name(tmp_path: Path) -> None:
    (tmp_path / "l.csv").write_text("path,classes\n/elsewhere/a.jpg,house\n")
    with pytest.raises(CcdError, match="names no images"):
        read_label_table(tmp_path / "l.csv", IMAGES, HOUSES, tmp_path / "photos")
