"""``bias.json``: CLIP's class bias (method section 2), as readable JSON."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ccd.artifacts.files import unreadable
from ccd.artifacts.sealed import read_sealed, write_sealed

SCHEMA = "ccd.bias/1"


@dataclass(frozen=True)
class BiasFile:
    """The class bias b and its origin.

    ``bias`` (C,) float64: b_c. ``top1_counts`` (C,) int64: reliable images per top-1 class. ``reliable_share``: share
    of images with an entropy of at most ``max_entropy_nats``. ``shrunk``: classes that are no reliable image's top-1,
    so that their b_c is the mean. ``mean_cosines`` (C + K,) float64: of `ccd.labels.scores.Scoring`, the classes' and
    then the background texts'; None where scores are not centred.
    """

    classes: tuple[str, ...]
    bias: np.ndarray
    top1_counts: np.ndarray
    reliable_share: float
    max_entropy_nats: float
    shrinkage: float
    enabled: bool
    shrunk: tuple[str, ...]
    mean_cosines: np.ndarray | None = None


def write(path: Path, content: BiasFile) -> None:
    """Write ``bias.json``."""
    rows = {
        name: {"bias": float(b), "top1_images": int(count)}
        for name, b, count in zip(content.classes, content.bias, content.top1_counts, strict=True)
    }
    head: dict[str, object] = {
        "enabled": content.enabled,
        "max_entropy_nats": content.max_entropy_nats,
        "reliable_share": content.reliable_share,
        "shrinkage": content.shrinkage,
        "classes_without_top1": list(content.shrunk),
    }
    if content.mean_cosines is not None:
        head["mean_cosines"] = content.mean_cosines.tolist()
    write_sealed(path, SCHEMA, {**head, "classes": rows})


def read(path: Path) -> BiasFile:
    """Read ``bias.json``. Raises CcdError if it is missing, damaged or of another version."""
    content = read_sealed(path, SCHEMA, "bias")
    try:
        rows = content["classes"]
        return BiasFile(
            tuple(rows),
            np.asarray([row["bias"] for row in rows.values()], np.float64),
            np.asarray([row["top1_images"] for row in rows.values()], np.int64),
            float(content["reliable_share"]),
            float(content["max_entropy_nats"]),
            float(content["shrinkage"]),
            bool(content["enabled"]),
            tuple(content["classes_without_top1"]),
            np.asarray(content["mean_cosines"], np.float64) if "mean_cosines" in content else None,
        )
    except (KeyError, TypeError, AttributeError, ValueError, OverflowError) as error:
        raise unreadable(path, f"malformed: {error!r}", "bias") from None
