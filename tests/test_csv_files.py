"""Lists that people write, as spreadsheets of all kinds save them."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from ccd.artifacts.csv_files import records
from ccd.datasets.label_table import read_label_table
from ccd.errors import CcdError

IMAGES = ["a.jpg", "sub/b.jpg", "sub/c.jpg"]
CLASSES = ("house", "tree", "sea lion")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)
@given(
    delimiter=st.sampled_from([",", ";", "\t"]),
    encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-16-be"]),
    end=st.sampled_from(["\n", "\r\n", "\r"]),
    stated=st.booleans(),
    upper=st.booleans(),
    rows=st.lists(st.tuples(*[st.text(st.sampled_from('ab,;\t"\u732b '), max_size=6)] * 2), min_size=1, max_size=5),
)
def test_any_delimiter_encoding_and_line_end_gives_the_same_rows(
    delimiter: str, encoding: str, end: str, stated: bool, upper: bool, rows: list[tuple[str, str]], tmp_path: Path
) -> None:
    buffer = io.StringIO()
    writer = csv.writer(buffer, delimiter=delimiter, lineterminator=end, quoting=csv.QUOTE_ALL)
    writer.writerow([" Path ", "CLASSES"] if upper else ["path", "classes"])
    writer.writerows(rows)
    text = (f"sep={delimiter}{end}" if stated else "") + buffer.getvalue()
    mark = b"\xfe\xff" if encoding == "utf-16-be" else b""
    (tmp_path / "l.csv").write_bytes(mark + text.encode(encoding))
    found = [(record["path"], record["classes"]) for _, record in records(tmp_path / "l.csv", ("path", "classes"))]
    assert found == [row for row in rows if any(cell.strip() for cell in row)]


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
    found = read_label_table(tmp_path / "labels.csv", IMAGES, CLASSES, root)
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
        read_label_table(path, IMAGES, CLASSES)
    assert str(path) in str(caught.value) and all(part in str(caught.value) for part in parts), str(caught.value)


def test_a_file_outside_is_not_taken_for_one_of_the_same_name(tmp_path: Path) -> None:
    (tmp_path / "l.csv").write_text("path,classes\n/elsewhere/a.jpg,house\n")
    with pytest.raises(CcdError, match="names no images"):
        read_label_table(tmp_path / "l.csv", IMAGES, CLASSES, tmp_path / "photos")
