"""Text embeddings that are written down."""

from __future__ import annotations

import numpy as np

from ccd.artifacts.text_file import TextEmbeddings


def text_of(values: np.ndarray, background: np.ndarray, *, scale: float = 100.0, **more: object) -> TextEmbeddings:
    """Classes c0, c1, ... and background texts with these embeddings."""
    names = tuple(f"c{row}" for row in range(len(values)))
    return TextEmbeddings(
        names,
        values.astype(np.float32),
        scale,
        tuple((name,) for name in names),
        ("a {}",),
        {"teacher": "none", "fingerprint": "none"},
        tuple(f"b{row}" for row in range(len(background))),
        background.astype(np.float32),
        **more,  # type: ignore[arg-type]
    )
