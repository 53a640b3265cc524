"""Options and helpers that several commands share."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import click

from ccd.params.recipes import RECIPES

Command = TypeVar("Command", bound=Callable[..., Any])


def check_device(context: click.Context, option: click.Parameter, value: str) -> str:
    """Refuse a value that is no device name, before anything is loaded."""
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", value):
        raise click.BadParameter(f"{value!r} is not auto, cpu, cuda or cuda:1")
    return value


device_option = click.option(
    "--device",
    metavar="NAME",
    default="auto",
    show_default=True,
    callback=check_device,
    help="auto, cpu, cuda or cuda:1.",
)
force_option = click.option("--force", is_flag=True, help="Replace existing files.")


def recipe_option(default: str) -> Callable[[Command], Command]:
    """Return the option ``--recipe``; ``default`` says in words which recipe is taken without it."""
    return click.option(
        "--recipe",
        type=click.Choice(RECIPES),
        help=f"Values as published (paper) or as our studies recommend (recommended); default: {default}.",
    )


def shell_path(path: Path) -> str:
    """Return a path as a printed command needs it: quoted, and never mistaken for an option."""
    text = str(path)
    return shlex.quote(f"./{text}" if text.startswith("-") else text)


def print_licence_warning(parameters: Mapping[str, Mapping[str, Any]]) -> None:
    """Warn on stderr if the teacher's weights are known to be for research or non-commercial use alone."""
    from ccd.params.teachers import licence_warning

    teacher = parameters["teacher"]
    line = licence_warning(teacher["backend"], teacher["model"], teacher["pretrained"])
    if line is not None:
        click.echo(line, err=True)
