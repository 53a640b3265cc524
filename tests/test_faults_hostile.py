"""Files that were made to do harm: nothing they hold is run, and nothing outside the data set is read."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
import torch

from ccd.artifacts.files import write_csv
from ccd.artifacts.sealed import BLANK, stamp, verify
from ccd.datasets.voc import annotated_objects
from ccd.errors import CcdError
from ccd.student.backbones import build_backbone
from ccd.teacher.encode import load_teacher
from tests.faults.artifacts import Planted

ROOT = Path(__file__).resolve().parent.parent
SOURCES = sorted(path for folder in ("ccd", "stages", "studies") for path in (ROOT / folder).rglob("*.py"))


@pytest.fixture()
def planted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkpoint that would make a file called ran, in the working directory, if its pickle were run."""
    monkeypatch.chdir(tmp_path)
    torch.save({"conv1.weight": torch.zeros(1), "x": Planted()}, tmp_path / "weights.pt")
    return tmp_path / "weights.pt"


def test_the_pickle_would_run_if_it_were_let(planted: Path) -> None:
    torch.load(planted, weights_only=False)
    assert Path("ran").exists()


def test_a_pickle_in_the_teacher_is_not_run(planted: Path) -> None:
    with pytest.raises(CcdError, match=r"weights\.pt"):
        load_teacher("clip", str(planted), None, device=torch.device("cpu"))
    assert not Path("ran").exists()


def test_a_pickle_in_the_backbone_is_not_run(planted: Path) -> None:
    with pytest.raises(CcdError, match=r"weights\.pt"):
        build_backbone("resnet18", planted)
    assert not Path("ran").exists()


def calls(path: Path) -> list[tuple[str, ast.Call]]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return [(ast.unparse(node.func), node) for node in ast.walk(tree) if isinstance(node, ast.Call)]


def test_no_source_runs_what_it_reads() -> None:
    forbidden = {"eval", "exec", "pickle.load", "pickle.loads", "os.system", "yaml.load"}
    for path in SOURCES:
        for name, call in calls(path):
            assert name not in forbidden, f"{path}: {name}"
            assert not name.endswith((".extractall", ".extract")), f"{path}: {name} can leave its folder"
            options = {word.arg: ast.unparse(word.value) for word in call.keywords}
            if name == "torch.load":
                assert options.get("weights_only") == "True", path
            if name in ("np.load", "numpy.load"):
                assert options.get("allow_pickle") == "False", path
            if name == "YAML" and "typ" in options:
                assert options["typ"] in ("'safe'", "'rt'"), path
            assert options.get("shell") != "True" and options.get("allow_pickle") != "True", path


BOMB = "".join(f'<!ENTITY {new} "{("&" + old + ";") * 10}">' for old, new in zip("abcdefgh", "bcdefghi", strict=True))


@pytest.mark.parametrize(
    "xml",
    [
        f'<!DOCTYPE a [<!ENTITY a "cat">{BOMB}]><annotation><object><name>&i;</name></object></annotation>',
        '<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><annotation><object><name>&x;</name></object></annotation>',
        '<!DOCTYPE a SYSTEM "http://localhost/a.dtd"><annotation/>',
        '<!DOCTYPE a [<!ENTITY % p SYSTEM "file:///etc/passwd">%p;]><annotation/>',
        "\ufeff <!DOCTYPE a><annotation/>",
        "<annotation>&undeclared;</annotation>",
    ],
    ids=["bomb", "external entity", "external DTD", "parameter entity", "after a byte order mark", "undeclared"],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "utf-7", "utf-32"])
def test_xml_has_no_entities(xml: str, encoding: str, tmp_path: Path) -> None:
    path = tmp_path / "a.xml"
    declared = f'<?xml version="1.0" encoding="{encoding}"?>' if encoding != "utf-8" else ""
    path.write_bytes((declared + xml).encode(encoding))
    with pytest.raises(CcdError, match=r"a\.xml: (a document type declaration|not UTF-8 text|not well-formed)"):
        annotated_objects(path)


def test_a_formula_in_a_class_name_stays_what_it_is(tmp_path: Path) -> None:
    """CSV has no way to say that a cell is text; SECURITY.md says what to do."""
    write_csv(tmp_path / "t.csv", [{"class": '=HYPERLINK("http://x","y")', "ap": 1}])
    assert (tmp_path / "t.csv").read_text() == 'class,ap\n"=HYPERLINK(""http://x"",""y"")",1\n'


def test_a_name_cannot_take_the_seals_place(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_text(f"name {BLANK} and {BLANK}")
    with pytest.raises(CcdError, match="'ccd-seal:' is reserved"):
        stamp(path)
    path.write_text("no place")
    with pytest.raises(CcdError, match="reserved"):
        stamp(path)


@pytest.mark.parametrize("at", [0, 5, 20, -1])
def test_every_byte_is_under_the_seal(at: int, tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_text(f"before {BLANK} after")
    stamp(path)
    verify(path, "index")
    content = bytearray(path.read_bytes())
    assert len(content) == len(f"before {BLANK} after")
    content[at] ^= 1
    path.write_bytes(content)
    with pytest.raises(CcdError, match=r"x: it(s content is not what was written| has no seal)"):
        verify(path, "index")
