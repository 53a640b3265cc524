"""Bad corrections: what people write by hand into corrections/<dataset.name>.csv."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tests.faults.artifacts import finish
from tests.faults.case import Case

GROUP = "corrections"
FILE = Path("corrections/toy.csv")
HEADER = b"image_id,class,label\n"
BAD: list[tuple[str, bytes | None, str]] = [
    ("missing", None, "does not exist; write its header into it: image_id,class,label"),
    ("empty", b"", "line 1: its columns are none; needed: image_id, class, label"),
    ("a column too few", b"image_id,label\na.png,1\n", "line 1: its columns are image_id, label; needed"),
    ("a column too many", b"image_id,class,label,by\n", "line 1: its columns are image_id, class, label, by; needed"),
    ("unknown image", HEADER + b"z.png,cat,1\n", "line 2: 'z.png' is no training image of this data set"),
    ("test image", HEADER + b"test/c.png,cat,1\n", "line 2: 'test/c.png' is no training image of this data set"),
    ("unknown class", HEADER + b"a.png,cow,1\n", "line 2: 'cow' is no class (classes: cat, dog)"),
    ("label neither 0 nor 1", HEADER + b"a.png,cat,0.5\n", "line 2: label '0.5' is neither 0 nor 1"),
    ("contradicting rows", HEADER + b"a.png,cat,1\na.png,cat,0\n", "line 3: contradicts another row about 'a.png'"),
    ("row of another length", HEADER + b"a.png,cat\n", "line 2: 2 cells under 3 columns"),
    ("not UTF-8", HEADER + b"caf\xe9,cat,1\n", "line 2: not UTF-8 text"),
    ("not CSV", HEADER + b'a.png,"cat"s,1\n', "line 2: not valid CSV"),
]


def _spoil(content: bytes | None) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        finish(folder)
        if content is None:
            (folder / FILE).unlink()
        else:
            (folder / FILE).write_bytes(content)

    return make


CASES = [Case(GROUP, name, "aggregate", _spoil(content), (f"{FILE}", says)) for name, content, says in BAD]
