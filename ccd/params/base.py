"""Strict reading of one section of ``params.yaml``: an unknown key, a wrong type or a bad range is a clear error."""

from __future__ import annotations

import reprlib
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from ccd.errors import CcdError

PARAMS_FILE = Path("params.yaml")
_SHORT = reprlib.Repr()  # a few bytes of YAML can stand for gigabytes of nested lists
_SHORT.maxstring = _SHORT.maxother = 200


class Section(BaseModel):
    """Base of every section. ``section`` is its name in ``params.yaml``."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)
    section: ClassVar[str]


S = TypeVar("S", bound=Section)


def load(model: type[S], path: Path = PARAMS_FILE) -> S:
    """Read and validate the section of ``model``.

    Raises:
        CcdError: the file is missing or not YAML, the section is missing, or a value does not fit; every
            offending key is named, unknown keys together with the valid ones.
    """
    return validate(model, read_yaml(path).get(model.section), path)


def read_yaml(path: Path) -> dict[str, Any]:
    """The file as a mapping of sections (YAML 1.2, as DVC reads it)."""
    try:
        content = YAML(typ="safe").load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CcdError(
            f"{path} does not exist here; run this in the project's folder, or make one: ccd use demo"
        ) from None
    except OSError as error:
        raise CcdError(
            f"{path}: cannot be read ({error.strerror or error}); mend it, or make one: ccd use demo"
        ) from None
    except (YAMLError, ValueError, RecursionError) as error:  # ValueError: not UTF-8, or an impossible date or number
        raise CcdError(f"{path} is not valid YAML: {' '.join(str(error).split())}; mend or remove it") from None
    if not isinstance(content, dict):
        raise CcdError(f"{path} holds no sections; write one with: ccd use demo")
    return content


def validate(model: type[S], values: object, path: Path = PARAMS_FILE) -> S:
    """Check one section's values against its model; see `load` for the errors."""
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
    return f"{path}: {key} = {_SHORT.repr(item['input'])}: {item['msg']}"
