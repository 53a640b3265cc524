"""Advice to install something never names this project on a package index, where the name may be anybody's."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator
from configparser import ConfigParser
from pathlib import Path

import pytest

from ccd import errors

ROOT = Path(__file__).resolve().parent.parent
COMMAND = re.compile(r"pip3? install ([^`\n#]*)")
OWN = re.compile(r"(ccd|ccd[-_.]multilabel)(\[.*\])?([=<>!~@;].*)?", re.I)
TEXTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
SOURCES = [path for folder in ("ccd", "stages", "studies") for path in sorted((ROOT / folder).rglob("*.py"))]


def literals(source: str) -> Iterator[str]:
    """Every string of a module, docstrings and parts of f-strings among them."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def wrong(text: str) -> list[str]:
    """Requirements of `pip install` in ``text`` that a package index answers, or that hold in a clone alone."""
    found = []
    for arguments in COMMAND.findall(text):
        words = [word.strip("'\"().,;") for word in arguments.split("&&")[0].split()]
        found += [word for word in words if OWN.fullmatch(word)]
        found += [word for word in words if re.match(r"\.\[|\[", word) and "in the clone" not in text]
    return found


def test_the_check_itself_finds_what_it_must() -> None:
    for text in (
        "pip install ccd",
        "pip install 'ccd[onnx]'",
        "x: pip install -U ccd-multilabel==1 y",
        "pip install '.[a]'",
    ):
        assert wrong(text), text
    for text in (
        "in the clone: pip install '.[onnx]'",
        "pip install 'a/clone[onnx]'",
        "pip install ccd_multilabel-1.whl",
    ):
        assert not wrong(text), text


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_no_string_of_the_code_advises_a_package_of_our_name(path: Path) -> None:
    assert [word for text in literals(path.read_text()) for word in wrong(text)] == []


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.name)
def test_no_documentation_does(path: Path) -> None:
    blocks = re.split(r"\n\s*\n", path.read_text())
    assert [word for block in blocks for word in wrong(block)] == []


@pytest.mark.parametrize("extra", ["onnx", "openclip", "timm"])
def test_advice_lists_the_requirements_of_the_extra_quoted(extra: str) -> None:
    settings = ConfigParser()
    settings.read(ROOT / "setup.cfg")
    stated = settings["options.extras_require"][extra].split()
    assert shlex.split(errors.install_advice(extra)) == ["pip", "install", *stated]
    assert len(stated) > 0 and settings["metadata"]["name"] == errors.DISTRIBUTION


def test_an_installed_copy_asks_its_metadata(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(errors, "_CLONE", tmp_path)
    stated = ["torch>=2.4", 'onnx>=1.17; extra == "onnx"', "onnxruntime>=1.20 ; extra == 'onnx'", 'a; extra == "dev"']
    asked = []
    monkeypatch.setattr(errors, "requires", lambda name: asked.append(name) or stated)
    assert errors.install_advice("onnx") == "pip install 'onnx>=1.17' 'onnxruntime>=1.20'"
    assert asked == ["ccd-multilabel"], "another distribution that is called ccd is not asked"


def test_an_unknown_extra_is_a_bug() -> None:
    with pytest.raises(ValueError, match="nonsense"):
        errors.install_advice("nonsense")
