"""The documents: links and named files exist, commands and their options exist, snippets of Python run."""

from __future__ import annotations

import re
import shlex
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import click
import pytest
import torch
from PIL import Image

from ccd.artifacts import features_file
from ccd.cli.main import main
from ccd.deploy.load import open_model
from ccd.deploy.model_export import export_torch
from ccd.deploy.onnx_export import export_onnx
from tests.toys.deployed import write_student
from tests.toys.finished_run import write_run

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md")),
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "studies/results").glob("*.md")),
]
TEXTS = {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in DOCUMENTS}
WRITTEN = ("data/", "datasets/", "corrections/", "studies/results/", "benchmarks/results/", "review/")  # by runs
FENCE = re.compile(r"^```(?P<language>\w*)(?P<info>[^\n]*)\n(?P<body>.*?)^```", re.M | re.S)


def snippets(language: str) -> list[tuple[str, str, str]]:
    """(document, what stands behind the language, body) of every fenced block."""
    return [
        (name, found["info"].strip(), found["body"])
        for name, text in TEXTS.items()
        for found in FENCE.finditer(text)
        if found["language"] == language
    ]


def commands() -> list[tuple[str, list[str]]]:
    """(document, words) of every command line of `ccd` and `python -m`: indented blocks and code between backticks."""
    lines = []
    for name, text in TEXTS.items():
        plain = FENCE.sub("", text)
        blocks = re.findall(r"^    (\S.*)$", plain, re.M)
        inline = re.findall(r"`([^`\n]+)`", plain)
        lines += [(name, line.split(" # ")[0].split(" | ")[0].strip()) for line in blocks + inline]
    known = [(name, line) for name, line in lines if re.match(r"(ccd [a-z]|python -m )", line)]
    return [(name, shlex.split(line.replace("'", "").replace("...", ""))) for name, line in known]


@pytest.mark.parametrize("name", TEXTS)
def test_links_lead_somewhere(name: str) -> None:
    folder = (ROOT / name).parent
    for target, anchor in re.findall(r"\]\(([^)#\s]*)(?:#([^)]*))?\)", TEXTS[name]):
        if target.startswith(("http://", "https://")):
            continue
        path = folder / target if target else ROOT / name
        assert path.exists(), target
        assert not anchor or anchor in anchors(path.read_text(encoding="utf-8")), f"{target}#{anchor}"


def anchors(text: str) -> set[str]:
    """Names under which headings can be linked to."""
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", text), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("name", ["example.png", "report.png"])
def test_pictures_are_small(name: str) -> None:
    assert (ROOT / "docs" / name).stat().st_size < 200_000


def options_of(*commands: click.Command) -> set[str]:
    return {option for command in commands for parameter in command.params for option in parameter.opts} | {"--help"}


@pytest.mark.parametrize("name", TEXTS)
def test_files_that_are_named_exist(name: str) -> None:
    for path in set(re.findall(r"`((?:ccd|stages|studies|tests|tools|benchmarks|docs)/[\w./-]*)`", TEXTS[name])):
        if not path.startswith(WRITTEN):
            assert (ROOT / path).exists(), path


def test_commands_are_commands_and_their_options_options() -> None:
    seen = 0
    for name, words in commands():
        if words[0] == "python":
            seen += 1
            if words[2] == "stages.NAME":
                continue
            assert find_spec(words[2]) is not None, (name, words)
            asked = {word for word in words[3:] if word.startswith("--")}
            if asked:
                is_package = find_spec(words[2]).submodule_search_locations is not None  # type: ignore[union-attr]
                module = import_module(words[2] + ".__main__" * is_package)
                assert asked <= options_of(module.main), (name, words)
            continue
        command: click.Command = main
        rest = words[1:]
        while isinstance(command, click.Group) and rest and rest[0] in command.commands:
            command = command.commands[rest[0]]
            rest = rest[1:]
        unknown = isinstance(command, click.Group) and rest and rest[0].islower() and not rest[0].startswith("-")
        assert not unknown, f"{name}: no command: {words}"
        options = options_of(command, main)
        for word in rest:
            if word.startswith("--"):
                assert word.split("=")[0] in options, f"{name}: {words} has no {word}"
        seen += 1
    assert seen > 50


def test_snippets_of_python_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = write_run(tmp_path / "data/demo")
    if not (data / "clip_global.h5").is_file():
        looks = features_file.read(data / "clip_local.h5", features_file.LOCAL_SCHEMA)
        ids = [str(row) for row in range(len(looks.ids))]
        content = features_file.Features(ids, looks.values, looks.attributes)
        features_file.write(data / "clip_global.h5", features_file.GLOBAL_SCHEMA, content)
    write_student(data / "student.pt")
    for name in ("a.jpg", "b.jpg"):
        Image.new("RGB", (40, 30), "teal").save(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    export_onnx(data / "student.pt", tmp_path / "student.onnx", "CC0-1.0")
    export_torch(data / "student.pt", tmp_path / "student.pt2", "CC0-1.0")
    side_px = open_model(data / "student.pt", "cpu").description.spec.image_size_px
    pixels = torch.rand(2, 3, side_px, side_px, generator=torch.Generator().manual_seed(0))
    skipped = []
    for name, info, body in snippets("python"):
        if info.startswith("no-run"):
            skipped.append(name)
            continue
        given = {"pixels": pixels if "import torch" in body else pixels.numpy()}
        exec(compile(body.replace("data/my_images", "data/demo"), name, "exec"), given)
    assert skipped == [], "a snippet that nobody runs is soon wrong"
