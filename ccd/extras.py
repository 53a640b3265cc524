"""Which packages an extra of the distribution needs, as a command to print: it never names this project itself.

A name on a package index belongs to whoever took it first, so advice names the extra's own requirements, which are
right in a clone and for an installed copy alike.
"""

from __future__ import annotations

import configparser
import re
import shlex
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path

DISTRIBUTION = "ccd-multilabel"
_CLONE = Path(__file__).resolve().parents[1]


def install_advice(extra: str) -> str:
    """The command that installs what ``extra`` (e.g. ``onnx``) needs: ``pip install 'onnx>=1.17' ...``.

    Raises:
        ValueError: there is no such extra.
    """
    try:
        needed = requirements(extra)
    except PackageNotFoundError:  # a copy of the package's folder alone
        return f"install the packages of the extra '{extra}', see setup.cfg in the repository"
    if not needed:
        raise ValueError(f"no extra is called {extra!r}")
    return f"pip install {' '.join(shlex.quote(each) for each in needed)}"


def requirements(extra: str) -> list[str]:
    """The requirements of ``extra``, of the clone this runs from, else of the installed distribution.

    Raises:
        PackageNotFoundError: it is neither.
    """
    settings = configparser.ConfigParser()
    settings.read(_CLONE / "setup.cfg", encoding="utf-8")
    if settings.get("metadata", "name", fallback="") == DISTRIBUTION:
        return settings.get("options.extras_require", extra, fallback="").split("\n")[1:]
    stated = requires(DISTRIBUTION) or []
    marked = (each.partition(";") for each in stated)
    return [name.strip() for name, _, marker in marked if re.search(rf"extra\s*==\s*['\"]{extra}['\"]", marker)]
