"""Read a section of ``params.yaml`` strictly: an unknown key, a wrong type or a value out of range is an error."""

from __future__ import annotations

import reprlib
from collections.abc import Mapping, Sequence
from copy import deepcopy
from datetime import date
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar, TypeVar, cast

from pydantic import BaseModel, ConfigDict, PlainValidator, ValidationError
from pydantic_core import PydanticCustomError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from ccd.errors import CcdError, listed

PARAMS_FILE = Path("params.yaml")
_SHORT = reprlib.Repr()  # a few bytes of YAML can expand to gigabytes of nested lists
_SHORT.maxstring = _SHORT.maxother = 200


class Section(BaseModel):
    """Base of every section. ``section``: its name in ``params.yaml``; ``paths``: its keys that may name files."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)
    section: ClassVar[str]
    paths: ClassVar[tuple[str, ...]] = ()


def word_or_number(word: str, kind: type[float], least: float, most: float) -> PlainValidator:
    """Return the check of a field that holds ``word`` or a number of ``kind`` (int or float) in least..most."""

    def check(value: object) -> object:
        is_number = isinstance(value, int if kind is int else (int, float)) and not isinstance(value, bool)
        if value != word and not (is_number and least <= cast(float, value) <= most):
            number = "a whole number" if kind is int else "a number"
            raise PydanticCustomError("word_or_number", f"write {word}, or {number} from {least} to {most}")
        return value

    return PlainValidator(check)


S = TypeVar("S", bound=Section)


def load(model: type[S], path: Path = PARAMS_FILE, *, as_written: bool = False) -> S:
    """Read and validate the section of ``model``.

    ``dvc exp run --temp`` and ``--queue`` run in a copy of the files that git tracks. A relative path that does not
    exist in the copy is taken from the original project, unless ``as_written``.

    Raises:
        CcdError: the file is missing or not YAML, the section is missing, or values are invalid; every offending key
            is named, an unknown one together with the valid ones. See also `check_together`.
    """
    sections = read_yaml(path)
    section = validate(model, sections.get(model.section), path)
    check_together(sections, path)
    original = None if as_written or path != PARAMS_FILE else copied_project(Path.cwd())
    return section if original is None else _with_original_paths(section, original)


def copied_project(folder: Path) -> Path | None:
    """Return the original of ``folder`` if it is an experiment's copy in ``PROJECT/.dvc/tmp/exps``, else None."""
    parts = folder.parts
    starts = [depth for depth in range(len(parts)) if parts[depth : depth + 3] == (".dvc", "tmp", "exps")]
    if not starts:
        return None
    project = Path(*parts[: starts[-1]])
    inside = [each for each in (folder, *folder.parents) if len(each.parts) > starts[-1] + 3]
    copy = next((each for each in inside if (each / ".dvc").is_dir()), None)
    return None if copy is None else project / folder.relative_to(copy)


def _with_original_paths(section: S, original: Path) -> S:
    values = {key: getattr(section, key) for key in section.paths}
    replaced = {
        key: str(original / value)
        for key, value in values.items()
        if value and not Path(value).exists() and (original / value).exists()
    }
    return section.model_copy(update=replaced)


def read_yaml(path: Path) -> dict[str, Any]:
    """Read the file as a mapping of sections (YAML 1.2, as DVC reads it).

    Raises:
        CcdError: the file is missing, cannot be read, is not YAML or holds no mapping.
    """
    try:
        content = deepcopy(_parsed(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise CcdError(f"{path} does not exist here; {_how_to_get_one(path.parent)}") from None
    except OSError as error:
        raise CcdError(f"{path}: cannot be read ({error.strerror or error}); {_how_to_get_one(path.parent)}") from None
    except (YAMLError, ValueError, RecursionError) as error:  # ValueError: not UTF-8, or an impossible date or number
        raise CcdError(f"{path} is not valid YAML: {' '.join(str(error).split())}; fix or delete it") from None
    if not isinstance(content, dict):
        raise CcdError(f"{path} holds no sections; {_how_to_get_one(path.parent)}")
    return content


@lru_cache(maxsize=2)
def _parsed(text: str) -> Any:
    """Parse YAML; a stage reads its sections from the same file one by one."""
    return YAML(typ="safe").load(text)


def is_clone(folder: Path) -> bool:
    """Tell whether ``folder`` is a clone of the repository; the paths in presets are relative to one."""
    return (folder / "dvc.yaml").is_file() and (folder / "stages/index.py").is_file()


def is_own_project(folder: Path) -> bool:
    """Tell whether ``ccd init`` made the project in ``folder``: its pipeline runs `ccd.project.pipeline`."""
    try:
        return "ccd.project.pipeline" in (folder / "dvc.yaml").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False


def _how_to_get_one(folder: Path) -> str:
    """Advise how to get a ``params.yaml`` in ``folder``: a clone, a project of ccd init, or another folder."""
    if is_clone(folder):
        return "write one: ccd use PRESET (ccd use lists the presets)"
    if is_own_project(folder):
        return "restore it (git checkout params.yaml), or start over: ccd init . --images FOLDER --force"
    return "run this in a project's folder, or make a project for your images: ccd init DIR --images FOLDER"


def check_together(sections: Mapping[str, Any], path: Path = PARAMS_FILE) -> None:
    """Check what no section can know alone. Every stage does, so that the first one finds it.

    Raises:
        CcdError: ``cam_boxes.views`` wants regions, and ``clip_global.regions`` makes none; or ``text.activation`` is
            sigmoid, and another value means something for a softmax alone.
    """
    _check_sigmoid(sections, path)
    views, regions = (
        values.get(key) if isinstance(values := sections.get(name), Mapping) else None
        for name, key in (("cam_boxes", "views"), ("clip_global", "regions"))
    )
    if views in ("dense", "both") and regions == 0:
        raise CcdError(
            f"{path}: cam_boxes.views = {views} needs regions, and clip_global.regions = 0 makes none; set "
            "clip_global.regions, e.g. to 6, or cam_boxes.views to cam"
        )


# Values that only a softmax over the classes gives a meaning, and what to set with a sigmoid.
_OF_SOFTMAX: Mapping[str, tuple[tuple[object, ...], str]] = {
    "text.background_words": ((False,), "false"),
    "text.logit_scale": ((None,), "empty (a sigmoid has the model's own scale and bias)"),
    "text.standardized_scale": ((None,), "empty"),
    "bias.center_scores": ((False,), "false"),
    "bias.enabled": ((False,), "false"),
    "global_labels.none_rule": (("off", "max_prob"), "max_prob or 'off'"),
}


def _check_sigmoid(sections: Mapping[str, Any], path: Path) -> None:
    """Refuse values that mean something for a softmax alone, if ``text.activation`` is sigmoid."""
    flat = {
        f"{section}.{key}": value
        for section, values in sections.items()
        if isinstance(values, Mapping)
        for key, value in values.items()
    }
    if flat.get("text.activation") != "sigmoid":
        return
    wrong = [
        f"{name} to {advice}"
        for name, (fitting, advice) in _OF_SOFTMAX.items()
        if name in flat and flat[name] not in fitting
    ]
    if wrong:
        raise CcdError(
            f"{path}: with text.activation = sigmoid each class has a probability of its own, and the softmax over the "
            f"classes that other values are about does not exist; set {', '.join(wrong)}"
        )


def validate(model: type[S], values: object, path: Path = PARAMS_FILE) -> S:
    """Check the values of one section against its model.

    Raises:
        CcdError: see `load`.
    """
    if not isinstance(values, dict):
        raise CcdError(f"{path}: section '{model.section}' is missing; its keys are: {', '.join(model.model_fields)}")
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise CcdError("\n".join(_explain(model, path, item) for item in error.errors())) from None


def _explain(model: type[Section], path: Path, item: Any) -> str:
    key = ".".join([model.section, *(str(part) for part in item["loc"])])
    if item["type"] == "extra_forbidden":
        return f"{path}: unknown key '{key}'; valid keys of '{model.section}': {', '.join(model.model_fields)}"
    if item["type"] == "missing":
        return f"{path}: key '{key}' is missing; every key of a section must be stated"
    value = item["input"]
    is_unquoted_text = isinstance(value, (int, float, date)) and item["type"] == "string_type"
    hint = "; write quotes around it" if is_unquoted_text else ""
    return f"{path}: {key} = {_SHORT.repr(value)}: {item['msg']}{hint}"


def chosen_texts(
    class_texts: Mapping[str, Sequence[str]], names: Sequence[str], own: Sequence[tuple[str, ...]]
) -> tuple[tuple[str, ...], ...]:
    """Return the texts of each class: those of ``text.class_texts``, else the data set's ``own``.

    Raises:
        CcdError: ``class_texts`` has a key that is no class.
    """
    unknown = [name for name in class_texts if name not in names]
    if unknown:
        raise CcdError(
            f"text.class_texts names {listed(unknown)}, not among the classes: {listed(names, 100)}; correct it"
        )
    return tuple(tuple(class_texts.get(name, texts)) for name, texts in zip(names, own, strict=True))
