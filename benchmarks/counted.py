"""Runs a stage as ``python -m stages.X`` does and counts its work: python -m benchmarks.counted LOG SECONDS MODULE ...

Every batch that is encoded and every step of training appends a line to LOG (stage, how many images) before it counts
as done; encoded features are kept every SECONDS instead of every 20, so that a short run has something to lose.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

from ccd import store
from ccd.student import loop

Encoded = Iterable[tuple[np.ndarray, np.ndarray]]


def main(log: str, seconds: str, module: str, *words: str) -> None:
    """Count, and become the stage."""
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    recording: Callable[[store.StoredFeatures, Encoded], Iterator[Any]] = store.StoredFeatures.recording
    step = loop._Step.__call__

    def counted(encoded: Encoded) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for rows, values in encoded:
            os.write(file, f"{len(rows)}\n".encode())
            yield rows, values

    def counting_step(self: loop._Step, images: Any, *others: Any) -> Any:
        os.write(file, f"{len(images)}\n".encode())
        return step(self, images, *others)

    store._SECONDS_PER_CHUNK = float(seconds)
    store.StoredFeatures.recording = lambda self, encoded: recording(self, counted(encoded))  # type: ignore[method-assign]
    loop._Step.__call__ = counting_step  # type: ignore[method-assign, assignment]
    importlib.import_module(module).main(list(words))


if __name__ == "__main__":
    main(*sys.argv[1:])
