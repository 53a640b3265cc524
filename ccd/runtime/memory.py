"""Memory that was freed, for processes that do not import torch; see `ccd.runtime.hardware.keep_freed_memory`."""

from __future__ import annotations

import ctypes
import sys
from contextlib import suppress


def hand_back_memory() -> None:
    """Return freed memory to the system, where the C library can (glibc).

    The gaps that small objects leave are no place for large arrays that follow.
    """
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):  # another C library, with another allocator
            ctypes.CDLL("libc.so.6").malloc_trim(0)
