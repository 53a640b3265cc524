"""Which versions of Python and the libraries are installed here."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

LIBRARIES = ("torch", "torchvision", "rf-clip", "open_clip_torch", "numpy", "pyarrow", "h5py", "Pillow")


def library_versions() -> dict[str, str]:
    """Python and those of `LIBRARIES` that are installed; nothing is imported."""
    known = {name: _version(name) for name in LIBRARIES}
    return {"python": platform.python_version(), **{name: number for name, number in known.items() if number}}


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""
