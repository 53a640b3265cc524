"""Tell the two recipes apart: the paper's values, and ``recommended.yaml``, the values that our studies recommend."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from ccd.errors import CcdError

PRESET_FOLDER = Path(__file__).parent
TEMPLATE = "paper"
PAPER = "paper"
RECOMMENDED = "recommended"
RECIPES = (PAPER, RECOMMENDED)
OWN_VALUES = "own values"
# Where the user names no recipe. `ccd use`: presets reproduce the paper, but for the demo; `ccd init`: the best labels.
USE_DEFAULTS = {"demo": RECOMMENDED}
INIT_DEFAULT = RECOMMENDED

# Changes to the folder preset's values, which are the paper's, for smaller networks.
_LIGHT = {
    "clip_global.image_size_px": 224,
    "warmup.lr": 1.0e-4,
    "train.lr": 1.0e-4,
    "cam_boxes.offset": 0.25,
    "clip_local.image_size_px": 224,
    "clip_local.resized_px": 224,
    "train.checkpoint": "average",
}
_ON_GPU = {
    "teacher.precision": "fp16",
    "warmup.precision": "bf16",
    "cam_boxes.precision": "bf16",
    "train.precision": "bf16",
    "evaluate.precision": "bf16",
}
# Values of `ccd init` by hardware; the recommended values take precedence over them.
HARDWARE: Mapping[str, dict[str, Any]] = {
    "cpu": _LIGHT
    | {
        "teacher.model": "ViT-B/32",
        "warmup.backbone": "mobilenet_v2",
        "warmup.image_size_px": 224,
        "cam_boxes.image_size_px": 224,
        "train.image_size_px": 224,
    },
    "small_gpu": _LIGHT
    | _ON_GPU
    | {
        "teacher.model": "ViT-B/16",
        "warmup.backbone": "resnet50",
        "warmup.image_size_px": 320,
        "cam_boxes.image_size_px": 320,
        "train.image_size_px": 320,
        "runtime.inference_batch_size": 32,
    },
    "large_gpu": _ON_GPU
    | {"teacher.model": "RN50x64", "warmup.backbone": "resnet101", "runtime.inference_batch_size": 16},
}
# At the end of the comment that opens a params.yaml; continued lines are indented.
_HEADER = re.compile(r"#\n# Recipe: .*\n(?:#   .*\n)*")
_MISSING = object()

Parameters = Mapping[str, Any]


def preset_names() -> list[str]:
    """Return the names of the presets, sorted."""
    return sorted(path.stem for path in PRESET_FOLDER.glob("*.yaml") if path.stem != RECOMMENDED)


def recipes() -> dict[str, str]:
    """Return the recipes and a summary of each."""
    text = (PRESET_FOLDER / f"{RECOMMENDED}.yaml").read_text(encoding="utf-8")
    return {PAPER: "every value of CCD as published", RECOMMENDED: text.partition("\n")[0].removeprefix("#").strip()}


def default_recipe(preset: str) -> str:
    """Return the recipe that ``ccd use`` takes for a preset if the user names none."""
    return USE_DEFAULTS.get(preset, PAPER)


def default_rule() -> str:
    """Return `default_recipe` in words."""
    words = [f"{recipe} for {preset}" for preset, recipe in USE_DEFAULTS.items()]
    return ", ".join([*words, f"{PAPER} for every other preset"])


def recipe_values(recipe: str, preset: str) -> dict[str, Any]:
    """Return ``section.key`` -> value of all that a recipe changes in a preset; nothing for the paper's recipe.

    The block ``recommended:`` in the preset's file takes precedence over ``recommended.yaml``.

    Raises:
        CcdError: unknown recipe.
    """
    if recipe not in RECIPES:
        raise CcdError(f"unknown recipe '{recipe}'; the recipes are: {', '.join(RECIPES)}")
    if recipe == PAPER:
        return {}
    return _flat(_read(PRESET_FOLDER, RECOMMENDED)) | _flat(_read(PRESET_FOLDER, preset).get(RECOMMENDED))


def recipe_of(parameters: Parameters) -> str:
    """Return the recipe that the values follow: ``paper``, ``recommended`` or ``own values``.

    Only the keys in which the recipes differ are compared: with the values of the preset, and for a folder of images
    of the hardware, that all other keys resemble most.

    Args:
        parameters: section -> key -> value; the sections ``dataset`` and ``runtime`` may be missing.
    """
    return next((recipe for recipe in RECIPES if not own_values(parameters, recipe)), OWN_VALUES)


def own_values(parameters: Parameters, recipe: str) -> list[str]:
    """Return the keys (``section.key``) in which the recipes differ and whose value is not the given recipe's."""
    column = 2 + RECIPES.index(recipe)
    return [row[0] for row in recipe_table(parameters) if row[1] != row[column]]


def recipe_table(parameters: Parameters) -> list[tuple[str, Any, Any, Any]]:
    """Return ``section.key``, this value, the paper's and the recommended one of every key in which these two differ.

    A missing value counts as empty. See `recipe_of` for what the paper's values are.
    """
    values = _flat(parameters)
    published, recommended = max(_variants(), key=lambda variant: _resemblance(values, *variant))
    return [
        (name, values.get(name), published[name], value)
        for name, value in recommended.items()
        if name in published and published[name] != value
    ]


def recipe_line(parameters: Parameters, recipe: str) -> str:
    """Return one line for the console: the recipe that the user chose, and the keys that have other values."""
    own = own_values(parameters, recipe)
    return f"recipe: {recipe}" + (f", but for {', '.join(own)}" if own else "")


def has_header(text: str) -> bool:
    """Tell whether the text of a ``params.yaml`` names its recipe; with the paper's it does not."""
    return _HEADER.search(text) is not None


def with_header(text: str, parameters: Parameters) -> str:
    """Return the text of a ``params.yaml`` with a header that says whose the ``parameters`` in it are.

    The header names the keys in which the recipes differ: those with the recommended value, and the others. Where all
    have the paper's value there is no header.
    """
    text = _HEADER.sub("", text, count=1)
    if recipe_of(parameters) == PAPER:
        return text
    own = own_values(parameters, RECOMMENDED)
    recommended = [name for name, *_ in recipe_table(parameters) if name not in own]
    first = f"Recipe: {RECOMMENDED}"
    first += f"; values that differ from the paper's recipe: {', '.join(recommended)}" if recommended else ""
    header = _comment(first, "# ") + (_comment(f"not the recipe's: {', '.join(own)}", "#   ") if own else [])
    lines = text.splitlines(keepends=True)
    opening = next((row for row, line in enumerate(lines) if not line.startswith("#")), len(lines))
    return "".join([*lines[:opening], "#\n", *header, *lines[opening:]])


def _comment(text: str, indent: str) -> list[str]:
    """Return the lines of a comment, at most 120 columns wide."""
    lines = textwrap.wrap(text, 120, initial_indent=indent, subsequent_indent="#   ", break_on_hyphens=False)
    return [f"{line}\n" for line in lines]


def _variants() -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Return all values of the paper's recipe, and those that the recommended one states, for each preset."""
    variants = []
    template = _flat(_read(PRESET_FOLDER, TEMPLATE))
    for preset in preset_names():
        published = template | _flat(_read(PRESET_FOLDER, preset))
        recommended = recipe_values(RECOMMENDED, preset)
        variants.append((published, recommended))
        if published["index.adapter"] == "folder":
            variants += [(published | changed, recommended) for changed in HARDWARE.values()]
    return variants


def _resemblance(
    values: Mapping[str, Any], published: Mapping[str, Any], recommended: Mapping[str, Any]
) -> tuple[bool, int]:
    """Rank a variant: first the kind of data set, then the number of equal values apart from the recipe's."""
    adapter = "index.adapter"
    compared = {name for name in published if name.partition(".")[0] not in ("dataset", "runtime")} - set(recommended)
    equal = sum(values.get(name, _MISSING) == published[name] for name in compared)
    return values.get(adapter) == published[adapter], equal


def _flat(sections: object) -> dict[str, Any]:
    """Return ``section.key`` -> value; the block of recommended values in a preset's file is no section."""
    pairs = sections.items() if isinstance(sections, Mapping) else ()
    return {
        f"{section}.{key}": value
        for section, values in pairs
        if section != RECOMMENDED and isinstance(values, Mapping)
        for key, value in values.items()
    }


@cache
def _read(folder: Path, name: str) -> Mapping[str, Any]:
    """Read a YAML file once; numbers and texts keep their notation, for the ``params.yaml`` that they go into."""
    from ruamel.yaml import YAML

    round_trip = YAML()
    round_trip.preserve_quotes = True
    content: Mapping[str, Any] = round_trip.load((folder / f"{name}.yaml").read_text(encoding="utf-8"))
    return content
