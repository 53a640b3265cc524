"""Options and helpers that several commands share."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click


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


def shell_path(path: Path) -> str:
    """Return a path as a printed command needs it: quoted, and never mistaken for an option."""
    text = str(path)
    return shlex.quote(f"./{text}" if text.startswith("-") else text)
