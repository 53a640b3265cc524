"""What a model needs besides its weights: the content of ``model.json``, and of the metadata of an ONNX file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ccd.artifacts.checkpoint import Checkpoint, thresholds
from ccd.errors import CcdError
from ccd.student.model import StudentSpec

SCHEMA = "ccd.model/1"
UNKNOWN_LICENCE = "not stated"
RESIZE = "squash to a square, antialiased bicubic, aspect ignored"


@dataclass(frozen=True)
class ModelDescription:
    """``spec``: architecture, classes and preprocessing. ``thresholds`` (C): a class is present where its probability
    is at least that; ``thresholds_from``: pseudo-labels, labelled images, or 0.5. ``provenance``: what it was made of,
    as far as known."""

    spec: StudentSpec
    thresholds: tuple[float, ...]
    thresholds_from: str
    licence: str = UNKNOWN_LICENCE
    provenance: dict[str, Any] = field(default_factory=dict)

    @property
    def cuts(self) -> np.ndarray:
        """The thresholds as (C,) float64."""
        return np.asarray(self.thresholds, np.float64)


def describe(checkpoint: Checkpoint) -> ModelDescription:
    """The description of a student from a checkpoint alone."""
    cuts, source = thresholds(checkpoint)
    known = {key: value for key, value in checkpoint.info.items() if key != "thresholds"}
    return ModelDescription(
        StudentSpec.from_dict(checkpoint.spec), tuple(cuts), source,
        provenance={"weights": checkpoint.selected, "training": known},
    )  # fmt: skip


def to_json(description: ModelDescription) -> dict[str, Any]:
    """Plain lists, strings and numbers."""
    spec = description.spec
    return {
        "schema": SCHEMA,
        "backbone": spec.backbone,
        "cam_boost": spec.cam_boost,
        "classes": list(spec.classes),
        "thresholds": {"source": description.thresholds_from, "values": list(description.thresholds)},
        "preprocessing": {
            "image_size_px": spec.image_size_px,
            "resize": RESIZE,
            "input": "RGB in [0, 1], upright (EXIF orientation applied), channels first; the network itself subtracts "
            "the mean and divides by the standard deviation",
            "mean": list(spec.mean),
            "std": list(spec.std),
        },
        "outputs": {
            "logits": "(images, classes); probability = sigmoid(logit)",
            "cam": "(images, classes, rows, columns); its mean over rows and columns is the logit",
        },
        "licence": description.licence,
        "provenance": description.provenance,
    }


def from_json(content: Mapping[str, Any], where: str) -> ModelDescription:
    """Inverse of `to_json`. Raises CcdError if the content is of another schema or malformed; ``where`` names it."""
    try:
        if content["schema"] != SCHEMA:
            raise CcdError(f"{where}: its schema is {content['schema']!r}, expected {SCHEMA!r}; export the model again")
        pixels = content["preprocessing"]
        spec = StudentSpec.from_dict(
            {
                "backbone": content["backbone"],
                "classes": list(content["classes"]),
                "cam_boost": float(content["cam_boost"]),
                "image_size_px": int(pixels["image_size_px"]),
                "mean": [float(value) for value in pixels["mean"]],
                "std": [float(value) for value in pixels["std"]],
            }
        )
        cuts = tuple(float(value) for value in content["thresholds"]["values"])
        if len(cuts) != len(spec.classes):
            raise ValueError(f"{len(cuts)} thresholds for {len(spec.classes)} classes")
        source, licence = str(content["thresholds"]["source"]), str(content["licence"])
        return ModelDescription(spec, cuts, source, licence, dict(content["provenance"]))
    except (KeyError, TypeError, ValueError) as error:
        raise CcdError(f"{where}: not a description of a model ({error!r}); export the model again") from None
