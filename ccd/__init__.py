"""Classifier-guided CLIP Distillation: unlabelled images and class names in, a multi-label classifier out."""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Import `ccd.deploy.load.load_student` when it is asked for: it needs torch, which takes seconds to import."""
    if name == "load_student":
        return import_module("ccd.deploy.load").load_student
    raise AttributeError(f"module 'ccd' has no attribute {name!r}")
