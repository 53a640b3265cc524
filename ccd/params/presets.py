"""Compose the text of ``params.yaml`` from a preset, a root and single settings (``ccd use``)."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from ccd.artifacts.existing import keep_old
from ccd.artifacts.files import write_text
from ccd.errors import CcdError
from ccd.params.file import PARAMS_FILE, check_together, is_own_project, validate
from ccd.params.recipes import (
    PAPER,
    PRESET_FOLDER,
    RECIPES,
    RECOMMENDED,
    TEMPLATE,
    has_header,
    preset_names,
    recipe_of,
    recipe_values,
    with_header,
)
from ccd.params.sections import SECTIONS, RuntimeParams

MODELS = {model.section: model for model in SECTIONS}
NOTHING: Mapping[str, Any] = MappingProxyType({})


def presets() -> dict[str, str]:
    """Return the presets, sorted by name, and a summary of each (the comment in its first line)."""
    texts = {name: _text_of(name) for name in preset_names()}
    summaries = {name: text.partition("\n")[0].removeprefix("#").strip() for name, text in texts.items()}
    return summaries | {TEMPLATE: "the template of all others: every value as in the paper, on PASCAL VOC 2012"}


def apply_preset(
    preset: str,
    root: str | None,
    settings: Mapping[str, str],
    current: str | None = None,
    *,
    values: Mapping[str, Any] = NOTHING,
    recipe: str = PAPER,
) -> str:
    """Return the text of ``params.yaml``: the template and its comments with the values of the preset and the recipe.

    Args:
        preset: one of `presets`.
        root: replaces ``dataset.root``.
        settings: ``section.key`` -> text of a value, see `parsed_value`; they take precedence.
        current: text of the ``params.yaml`` to be replaced, whose ``runtime`` section is kept.
        values: ``section.key`` -> value, used as it is: a text that looks like a number stays a text.
        recipe: one of `RECIPES`; the other arguments take precedence over its values.

    Raises:
        CcdError: unknown preset, recipe, section or key (the valid ones are listed), an invalid value, or ``current``
            is not YAML.
    """
    if preset not in presets():
        raise CcdError(f"unknown preset '{preset}'; the presets are: {', '.join(presets())}")
    document = _parse(_text_of(TEMPLATE), TEMPLATE)
    if preset != TEMPLATE:
        stated = _parse(_text_of(preset), preset)
        stated.pop(RECOMMENDED, None)
        _override(document, stated)
    _override_names(document, recipe_values(recipe, preset))
    runtime = (_parse(current, str(PARAMS_FILE)) if current is not None else {}).get(RuntimeParams.section)
    if isinstance(runtime, Mapping):
        kept = {key: value for key, value in runtime.items() if key in RuntimeParams.model_fields}
        _override(document, {RuntimeParams.section: kept})
    if root is not None:
        document["dataset"]["root"] = root
    text = _dump(document)
    return override(with_header(text, document) if recipe != PAPER else text, settings, values=values)


def override(text: str, settings: Mapping[str, str], *, values: Mapping[str, Any] = NOTHING) -> str:
    """Change values in the text of a ``params.yaml``, and its header if it names a recipe; check every section.

    Args:
        settings: see `apply_preset`.
        values: see `apply_preset`.

    Raises:
        CcdError: see `apply_preset`.
    """
    document = _parse(text, str(PARAMS_FILE))
    _override_names(document, {**values, **{key: parsed_value(key, setting) for key, setting in settings.items()}})
    new_text = _dump(document)
    sections = parameters(new_text)
    for section, model in MODELS.items():
        validate(model, sections[section])
    check_together(sections)
    return with_header(new_text, sections) if has_header(text) else new_text


def check_replaceable(*, force: bool) -> None:
    """Refuse a preset in a project of ``ccd init``, since the paths in presets are relative to a clone.

    Raises:
        CcdError: the working directory is such a project, and ``force`` is false.
    """
    if is_own_project(Path()) and not force:
        raise CcdError(
            f"this project was made by ccd init, and a preset would replace its {PARAMS_FILE}; change single values in "
            f"{PARAMS_FILE}, or try one: dvc exp run -S aggregate.alpha=0.6; to start over: ccd init . --images FOLDER "
            "--force; to use the preset anyway: --force"
        )


def replace_params(old: str | None, new: str) -> Path | None:
    """Write ``new`` as ``params.yaml`` instead of the text ``old``.

    Returns:
        The backup of the old file; None if none is needed, as `apply_preset` can write the old text again.
    """
    if new == old:
        return None
    backup = keep_old(PARAMS_FILE) if old is not None and not is_plain_preset(old) else None
    write_text(PARAMS_FILE, new)
    return backup


def settings_of(options: Iterable[str]) -> dict[str, str]:
    """Split the arguments of ``--set`` into ``section.key`` -> text of the value.

    Raises:
        CcdError: an argument is not of the form ``SECTION.KEY=VALUE``.
    """
    parts = [(option, *option.partition("=")) for option in options]
    malformed = [option for option, name, equals, _ in parts if not equals or "." not in name]
    if malformed:
        raise CcdError(f"--set {malformed[0]}: write SECTION.KEY=VALUE, e.g. --set aggregate.alpha=0.2")
    return {name.strip(): value for _, name, _, value in parts}


def parsed_value(name: str, text: str) -> Any:
    """Return the value of ``section.key=text``.

    A key that holds text takes ``text`` as written (``2024``, ``a: b``), without quotes around it; ``null`` stands for
    None if the key may be empty. For any other key, ``text`` is YAML.

    Raises:
        CcdError: the text is not YAML.
    """
    section, _, key = name.partition(".")
    field = MODELS[section].model_fields.get(key) if section in MODELS else None
    kinds = set() if field is None else _kinds(field.annotation)
    bare = text.strip()
    if str not in kinds or not kinds <= {str, type(None)}:
        return _parse_value(name, text)
    if type(None) in kinds and bare.lower() in ("", "~", "null"):
        return None
    return _unquoted(bare)


def _unquoted(text: str) -> str:
    if len(text) < 2 or text[0] != text[-1] or text[0] not in "'\"":
        return text
    try:
        value = _yaml().load(text)
    except (YAMLError, ValueError):
        return text
    return value if isinstance(value, str) else text


def _kinds(annotation: Any) -> set[Any]:
    """Return the types that a field accepts, ``list`` and ``dict`` without the types of their items."""
    if get_origin(annotation) is Literal:
        return {type(value) for value in get_args(annotation)}
    if get_origin(annotation) in (Union, UnionType):
        return set().union(*map(_kinds, get_args(annotation)))
    return {get_origin(annotation) or annotation}


def is_plain_preset(text: str) -> bool:
    """Tell whether the ``text`` of a ``params.yaml`` is a preset's, with any recipe, root and ``runtime`` section.

    Then `apply_preset` can write it again, and no change by the user is lost.
    """
    try:
        document = _parse(text, str(PARAMS_FILE))
        name = document["dataset"]["name"]
        root = document["dataset"]["root"]
        names = [each for each in preset_names() if _parse(_text_of(each), each)["dataset"]["name"] == name]
        return any(apply_preset(each, root, {}, text, recipe=recipe) == text for each in names for recipe in RECIPES)
    except (CcdError, KeyError, TypeError, ValueError):
        return False


def _text_of(preset: str) -> str:
    return (PRESET_FOLDER / f"{preset}.yaml").read_text(encoding="utf-8")


def upgraded_params(current: str) -> str:
    """Return this version's template with the values of the ``current`` text of ``params.yaml``; drop unknown keys.

    A header that names a recipe says which values are this version's recommended ones.

    Raises:
        CcdError: ``current`` is not YAML, or a value is no longer valid.
    """
    document = _parse(_text_of(TEMPLATE), TEMPLATE)
    old = _parse(current, str(PARAMS_FILE))
    for section, model in MODELS.items():
        values = old.get(section)
        if isinstance(values, Mapping):
            _override(document, {section: {key: values[key] for key in model.model_fields if key in values}})
    text = _dump(document)
    return override(with_header(text, document) if has_header(current) else text, {})


def parameters(text: str) -> dict[str, dict[str, Any]]:
    """Parse the text of a ``params.yaml`` into plain values by section and key."""
    values: dict[str, dict[str, Any]] = YAML(typ="safe").load(text)
    return values


def changes(old_text: str, new_text: str) -> list[str]:
    """Compare two texts of ``params.yaml``: one line ``section.key: old -> new`` per difference, in the new order.

    The first line is about the recipe (`recipe_of`), if it is another one.

    Raises:
        CcdError: one of them is not YAML.
    """
    documents = [_parse(text, str(PARAMS_FILE)) for text in (old_text, new_text)]
    old, new = ({"recipe": recipe_of(document), **_flat(document)} for document in documents)
    absent = "(absent)"
    lines = [(key, old.get(key, absent), new.get(key, absent)) for key in dict.fromkeys([*new, *old])]
    return [f"{key}: {before} -> {after}" for key, before, after in lines if before != after]


def _flat(document: Mapping[str, Any]) -> dict[str, str]:
    flat = {}
    for section, values in document.items():
        for key, value in values.items() if isinstance(values, Mapping) else [("", values)]:
            flat[f"{section}.{key}".rstrip(".")] = json.dumps(value, ensure_ascii=False, default=str)
    return flat


def _override_names(document: Any, changed: Mapping[str, Any]) -> None:
    for name, value in changed.items():
        section, dot, key = name.partition(".")
        if not dot:
            raise CcdError(f"'{name}' is not of the form section.key; sections: {', '.join(MODELS)}")
        _override(document, {section: {key: value}})


def _override(document: Any, changed: Mapping[str, Any]) -> None:
    for section, values in changed.items():
        if section not in MODELS:
            raise CcdError(f"unknown section '{section}'; the sections are: {', '.join(MODELS)}")
        for key, value in values.items():
            if key not in MODELS[section].model_fields:
                valid = ", ".join(MODELS[section].model_fields)
                raise CcdError(f"unknown key '{section}.{key}'; the keys of '{section}' are: {valid}")
            document[section][key] = value


def _parse(text: str, name: str) -> Any:
    """Parse YAML into a mapping that keeps comments, quotes and the notation of numbers."""
    try:
        content = _yaml().load(text)
    except (YAMLError, ValueError, RecursionError) as error:  # ValueError: an impossible date or number
        raise CcdError(f"{name} is not valid YAML: {' '.join(str(error).split())}; fix or delete it") from None
    if not isinstance(content, Mapping):
        raise CcdError(f"{name} holds no sections; fix or delete it")
    return content


def _parse_value(name: str, text: str) -> Any:
    try:
        return _yaml().load(text)
    except (YAMLError, ValueError, RecursionError) as error:
        raise CcdError(f"{name}={text}: not a YAML value ({' '.join(str(error).split())})") from None


def _dump(document: Any) -> str:
    stream = io.StringIO()
    _yaml().dump(document, stream)
    return stream.getvalue()


def _yaml() -> YAML:
    yaml = YAML()
    yaml.preserve_quotes = True
    yaml.width = 4096
    return yaml
