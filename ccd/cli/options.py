"""What several commands share: options, and errors that are the user's to mend."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click


def check_device(context: click.Context, option: click.Parameter, value: str) -> str:
    """Refuse what is no device name, before anything is loaded."""
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
force_option = click.option("--force", is_flag=True, help="Replace what is there already.")


@contextmanager
def mendable() -> Iterator[None]:
    """`ccd.runtime.console.user_errors`, imported when it is needed."""
    from ccd.errors import user_errors

    with user_errors():
        yield


def in_shell(path: Path) -> str:
    """A path as it must stand in a printed command: quoted, and never an option."""
    text = str(path)
    return shlex.quote(f"./{text}" if text.startswith("-") else text)
