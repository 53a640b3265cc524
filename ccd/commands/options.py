"""Options that several commands share."""

from __future__ import annotations

import re

import click


def check_device(context: click.Context, option: click.Parameter, value: str) -> str:
    """Refuse what is no device name, before anything is loaded."""
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", value):
        raise click.BadParameter(f"{value!r} is not auto, cpu, cuda or cuda:1")
    return value


device_option = click.option(
    "--device", default="auto", show_default=True, callback=check_device, help="auto, cpu, cuda or cuda:1."
)
