"""Bad params.yaml: files that are none, and in every section a wrong value, as its stage meets them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from copy import deepcopy
from functools import lru_cache
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from ccd.params.file import Section
from ccd.params.sections import SECTIONS
from tests.faults.case import SETTINGS, Case, params_text

GROUP = "parameters"
FILE = "params.yaml"
# The first stage that reads a section; where none is named after it, another's.
READER = {"dataset": "index", "teacher": "text", "runtime": "index"}
WHOLE_FILE: list[tuple[str, str | bytes, str]] = [
    ("empty", "", "params.yaml holds no sections; run this in a project's folder, or make a project"),
    ("a list", "- index\n", "params.yaml holds no sections"),
    ("malformed YAML", "index: [", "params.yaml is not valid YAML"),
    ("key twice", "index: {verify: header, verify: decode}\n", "params.yaml is not valid YAML"),
    ("impossible date", "index: 2024-99-99\n", "params.yaml is not valid YAML"),
    ("number of 5,000 digits", "index: {demo_seed: " + "9" * 5000 + "}\n", "params.yaml is not valid YAML"),
    ("nested too deep", "[" * 2_000, "params.yaml is not valid YAML"),
    ("Python object", "index: !!python/object/apply:os.system [true]\n", "params.yaml is not valid YAML"),
    ("not UTF-8", b"index: caf\xe9\n", "params.yaml is not valid YAML"),
    ("section that is no mapping", "index: 3\n", "params.yaml: section 'index' is missing; its keys are: adapter, "),
]
WRONG = {"a": 1}
BOMB = "a: &a [x, x]\n" + "".join(
    f"{new}: &{new} [*{old}, *{old}, *{old}, *{old}, *{old}, *{old}, *{old}, *{old}]\n"
    for old, new in zip("abcdefghij", "bcdefghijk", strict=True)
)


@lru_cache
def good() -> dict[str, Any]:
    """The content of the params.yaml that the cases spoil."""
    content: dict[str, Any] = YAML(typ="safe").load(params_text(tuple(SETTINGS.items())))
    return content


def spoilt(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    """params.yaml with its content changed after `apply_preset` would have checked it."""

    def make(folder: Path) -> None:
        content = deepcopy(good())
        change(content)
        (folder / FILE).write_text(json.dumps(content).replace("NaN", ".nan"))  # which is YAML too, and quicker

    return make


def put(section: str, key: str, value: object) -> Callable[[Path], None]:
    return spoilt(lambda content: content[section].update({key: value}))


def _section_cases(model: type[Section]) -> Iterator[Case]:
    """The stage that reads a section meets what is wrong with it; tests/test_params.py has the other keys."""
    section = model.section
    key = next(iter(model.model_fields))
    stage = READER.get(section, section)
    yield Case(GROUP, f"{section}.{key} = {WRONG!r}", stage, put(section, key, WRONG), (f"{FILE}: {section}.{key}",))
    yield Case(
        GROUP,
        f"section {section} missing",
        stage,
        spoilt(lambda content: content.pop(section)),
        (f"{FILE}: section '{section}' is missing; its keys are: {key}",),
    )


def write(data: str | bytes) -> Callable[[Path], object]:
    return lambda folder: (folder / FILE).write_bytes(data.encode() if isinstance(data, str) else data)


def aliases(folder: Path) -> None:
    """A few hundred bytes that stand for 8 ** 10 strings."""
    text = (folder / FILE).read_text()
    (folder / FILE).write_text(BOMB + text.replace("train_split: train", "train_split: *k"))


def folder_instead(folder: Path) -> None:
    (folder / FILE).unlink()
    (folder / FILE).mkdir()


CASES = [
    Case(
        GROUP,
        "no params.yaml",
        "index",
        lambda f: (f / FILE).unlink(),
        ("does not exist here", "ccd init DIR --images FOLDER"),
    ),
    Case(GROUP, "params.yaml is a folder", "index", folder_instead, ("params.yaml: cannot be read (Is a directory)",)),
    *[Case(GROUP, f"params.yaml: {name}", "index", write(data), (says,)) for name, data, says in WHOLE_FILE],
    Case(GROUP, "params.yaml: aliases of aliases", "index", aliases, ("index.train_split = [[[",)),
    Case(
        GROUP, "bias.colour = 1", "bias", put("bias", "colour", 1), (f"{FILE}: unknown key 'bias.colour'; valid keys",)
    ),
    Case(
        GROUP,
        "bias.enabled missing",
        "bias",
        spoilt(lambda content: content["bias"].pop("enabled")),
        (f"{FILE}: key 'bias.enabled' is missing; every key of a section must be stated",),
    ),
    *[case for model in SECTIONS for case in _section_cases(model)],
]
