"""What several commands share: options, and errors that are the user's to mend."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

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


@contextmanager
def mendable() -> Iterator[None]:
    """See `ccd.console.user_errors`; a file that cannot be written (no space, no permission) is one of them."""
    from ccd.console import user_errors
    from ccd.errors import CcdError

    with user_errors():
        try:
            yield
        except BrokenPipeError:  # the reader of our output has seen enough; click ends quietly
            raise
        except OSError as error:
            raise CcdError(f"{error.filename or 'output'}: {error.strerror or error}") from None
