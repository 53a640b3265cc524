"""Bad params.yaml: every key of every section out of range, of the wrong type, unknown or missing."""

from __future__ import annotations

import json
import typing
from collections.abc import Callable, Iterator
from copy import deepcopy
from functools import lru_cache
from pathlib import Path
from typing import Any

import annotated_types as bounds
from pydantic.fields import FieldInfo
from ruamel.yaml import YAML

from ccd.params.base import Section
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
BOMB = "a: &a [x, x]\n" + "".join(
    f"{new}: &{new} [*{old}, *{old}, *{old}, *{old}, *{old}, *{old}, *{old}, *{old}]\n"
    for old, new in zip("abcdefghij", "bcdefghijk", strict=True)
)


def values(model: type[Section]) -> Iterator[tuple[str, Any]]:
    """(key, a value that it must not take), for every key of a section: a wrong type, and beyond every bound."""
    for key, field in model.model_fields.items():
        yield key, 3 if typing.get_origin(field.annotation) is dict else {"a": 1}
        yield from ((key, value) for value in _beyond(field))


def _beyond(field: FieldInfo) -> Iterator[Any]:
    whole = field.annotation is int or int in typing.get_args(field.annotation)
    step = 1 if whole else 0.001
    for bound in field.metadata:
        if isinstance(bound, bounds.Ge):
            yield bound.ge - step  # type: ignore[operator]
        elif isinstance(bound, bounds.Gt):
            yield bound.gt
        elif isinstance(bound, bounds.Le):
            yield bound.le + step  # type: ignore[operator]
        elif isinstance(bound, bounds.Lt):
            yield bound.lt
        elif isinstance(bound, bounds.MinLen):
            yield [] if typing.get_origin(field.annotation) is list else ""
        else:
            yield "no such value!"
    if typing.get_origin(field.annotation) is typing.Literal:
        yield "nonsense"
    if field.annotation is float:
        yield float("nan")


def extra(field: FieldInfo) -> int:
    """How many values a field must not take beside those that its bounds forbid."""
    return int(typing.get_origin(field.annotation) is typing.Literal or field.annotation is float)


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


def _section_cases(model: type[Section]) -> Iterator[Case]:
    section, first = model.section, next(iter(model.model_fields))
    stage = READER.get(section, section)

    def put(key: str, value: object) -> Callable[[Path], None]:
        return spoilt(lambda content: content[section].update({key: value}))

    for key, value in values(model):
        yield Case(GROUP, f"{section}.{key} = {value!r}", stage, put(key, value), (f"{FILE}: {section}.{key}",))
    yield Case(GROUP, f"{section}.colour = 1", stage, put("colour", 1),
               (f"{FILE}: unknown key '{section}.colour'; valid keys of '{section}': {first}",))  # fmt: skip
    for key in model.model_fields:
        gone = spoilt(lambda content, key=key: content[section].pop(key))
        says = f"{FILE}: key '{section}.{key}' is missing; every key of a section must be stated"
        yield Case(GROUP, f"{section}.{key} missing", stage, gone, (says,))
    yield Case(GROUP, f"section {section} missing", stage, spoilt(lambda content: content.pop(section)),
               (f"{FILE}: section '{section}' is missing; its keys are: {first}",))  # fmt: skip


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
    *[case for model in SECTIONS for case in _section_cases(model)],
]
