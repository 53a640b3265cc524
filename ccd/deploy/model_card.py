"""Collect the facts about a model from the artifacts beside it, and write its model card."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePath
from typing import Any

import numpy as np

from ccd import __version__
from ccd.artifacts import checkpoint_file, class_table, image_index, metrics_file, text_file
from ccd.artifacts.class_table import PSEUDO_LABELS
from ccd.deploy.classifier import UNKNOWN_LICENCE, HeadSpec, ModelDescription, describe
from ccd.deploy.load import read_student
from ccd.labels.thresholds import LABELLED
from ccd.params.teachers import weights_licence
from ccd.runtime.listing import artifact_list

SECTIONS = ("text", "clip_global", "bias", "global_labels", "cam_boxes", "clip_local", "aggregate", "warmup")
"""Those that a model's labels come from; ``train`` or ``head`` is added."""
WEIGHT_SUFFIXES = frozenset({".pt", ".pth", ".bin", ".safetensors"})
SOURCES = {
    "pseudo-labels": "Each class is decided in as many training images as its pseudo-labels claim: no ground truth.",
    "labelled images": "They have the largest F1 on labelled images that were given for this purpose.",
    "0.5": "Nothing was fitted.",
}
_OUR_HEAD = re.compile(r"# Image classifier of \d+ classes\n\nA \S+ that says which of these classes an image shows")


@dataclass(frozen=True)
class ModelFacts:
    """The facts that a model card states.

    ``description``: with provenance and licence. ``label_share`` (C,): share of the training images that have each
    class by their pseudo-labels; None if unknown. ``test`` and ``per_class``: the results of stage evaluate; None and
    {} if there are none.
    """

    description: ModelDescription
    label_share: np.ndarray | None
    test: metrics_file.SplitMetrics | None
    per_class: dict[str, dict[str, float]]


def read_facts(
    student: Path, licence: str, lock: Path = Path("dvc.lock")
) -> tuple[ModelFacts, checkpoint_file.Weights]:
    """Read the facts about ``student.pt`` and its weights; facts whose artifacts are missing are left out.

    Raises:
        CcdError: the student, or an artifact beside it, is damaged.
    """
    (checkpoint, sha256) = read_student(student)
    folder = student.parent
    description = with_provenance(describe(checkpoint), student, sha256, licence, lock)
    test, per_class = _results(folder)
    label_share = _label_share(folder / "pseudo_labels.parquet", description.spec.classes)
    return ModelFacts(description, label_share, test, per_class), checkpoint.weights[checkpoint.selected]


def with_provenance(
    description: ModelDescription, source: Path, sha256: str, licence: str, lock: Path = Path("dvc.lock")
) -> ModelDescription:
    """Add the licence, and what is known from the artifacts beside the model's file ``source``, see `read_facts`."""
    stage = "head" if isinstance(description.spec, HeadSpec) else "train"
    folder = source.parent
    provenance: dict[str, Any] = {
        "made_with": f"ccd {__version__} (Classifier-guided CLIP Distillation, CVPR 2025, arXiv:2503.16873)",
        "source_sha256": sha256,
        **description.provenance,
        **_teacher(folder / "text.h5"),
        **_images(folder / "images.parquet"),
        "parameters": _parameters(source, lock, (*SECTIONS, "teacher", stage)),
    }
    provenance |= _teacher_licence(provenance)
    return replace(description, licence=licence, provenance=provenance)


def _teacher(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    text_embeddings = text_file.read(path)
    backend, _, model = text_embeddings.attributes.get("teacher", "unknown").partition(" ")
    return {
        "teacher": f"{backend} {_without_folder(model)}".strip(),
        "teacher_fingerprint": text_embeddings.attributes.get("fingerprint", "unknown"),
        "templates": list(text_embeddings.templates),
        "class_texts": [list(texts) for texts in text_embeddings.texts],
    }


def _teacher_licence(provenance: dict[str, Any]) -> dict[str, Any]:
    """Return the licence of the teacher's weights, nothing where it is not known."""
    backend, _, model = provenance.get("teacher", "").partition(" ")
    licence = weights_licence(backend, model, provenance["parameters"].get("teacher.pretrained"))
    if licence is None:
        return {}
    return {"teacher_licence": licence.name, "teacher_is_restricted": licence.is_restricted}


def _images(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    is_train = image_index.read(path).is_train
    return {"images": {"train": int(is_train.sum()), "test": int((~is_train).sum())}}


def _parameters(model: Path, lock: Path, sections: Sequence[str]) -> dict[str, Any]:
    """Return the parameters that DVC recorded for the artifacts beside the model, without folders of this machine.

    Artifacts that have changed since are left out.
    """
    if not lock.is_file():
        return {}
    recorded = [artifact.parameters for artifact in artifact_list(model.parent, lock) if artifact.made_by]
    merged = {key: value for parameters in recorded for key, value in parameters.items()}
    relevant = {key: value for key, value in sorted(merged.items()) if key.split(".")[0] in sections}
    return {key: _without_folder(value) if isinstance(value, str) else value for key, value in relevant.items()}


def _without_folder(name: str) -> str:
    """Return a local file's name without its folder; names of models such as ViT-B/32 stay."""
    return PurePath(name).name if PurePath(name).suffix in WEIGHT_SUFFIXES else name


def _label_share(path: Path, classes: tuple[str, ...]) -> np.ndarray | None:
    if not path.is_file():
        return None
    pseudo_labels = class_table.read(path, PSEUDO_LABELS, ["label"])
    if pseudo_labels.classes != classes or not pseudo_labels.ids:
        return None
    share: np.ndarray = (pseudo_labels.columns["label"] >= LABELLED).mean(axis=0)
    return share


def _results(folder: Path) -> tuple[metrics_file.SplitMetrics | None, dict[str, dict[str, float]]]:
    if not (folder / "metrics.json").is_file() or not (folder / "per_class.csv").is_file():
        return None, {}
    test = metrics_file.read_metrics(folder / "metrics.json")["test"]
    return (test, metrics_file.read_per_class(folder / "per_class.csv")) if test.images else (None, {})


def is_model_card(text: str) -> bool:
    """Tell by the head of a README.md whether `model_card` wrote it."""
    return _OUR_HEAD.match(text.replace("\r\n", "\n")) is not None


def model_card(facts: ModelFacts) -> str:
    """Return the README.md of an exported folder."""
    parts = [
        _head(facts.description),
        _provenance(facts.description),
        _measures(facts),
        _classes(facts),
        _use(facts.description),
        _limits(facts),
        _licence(facts.description),
    ]
    return "\n\n".join(parts) + "\n"


def _head(model: ModelDescription) -> str:
    spec = model.spec
    return (
        f"# Image classifier of {len(spec.classes)} classes\n\n"
        f"A {spec.backbone} that says which of these classes an image shows, any number of them: "
        f"{', '.join(_plain(name) for name in spec.classes)}.\n"
        "It was trained without human labels: CLIP labelled the training images (Classifier-guided CLIP Distillation, "
        "CVPR 2025), and this network learnt those labels. CLIP is not needed to use it."
    )


def _provenance(model: ModelDescription) -> str:
    provenance = model.provenance
    lines = ["## How it was made", ""]
    for key, title in (("teacher", "Teacher"), ("templates", "Prompts"), ("images", "Images"), ("weights", "Weights")):
        value = provenance.get(key, "unknown")
        lines.append(f"- {title}: {_plain(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))}")
        if key == "teacher" and "teacher_licence" in provenance:
            lines.append(f"- Licence of the teacher's weights: {_plain(provenance['teacher_licence'])}")
    recorded = provenance.get("parameters", {}).get("warmup.weights", "unknown")
    initial_weights = provenance.get("training", {}).get("start", recorded)
    lines += [
        f"- Initial weights of the network: {_plain(str(initial_weights))}{_start_licence(provenance)}",
        f"- Made with {provenance.get('made_with', 'unknown')}",
    ]
    return "\n".join([*lines, "", "All recorded parameters are in `model.json`."])


def _start_licence(provenance: Mapping[str, Any]) -> str:
    """Return the licence of the initial weights, for a sentence about them; empty if it was not recorded."""
    licence = provenance.get("training", {}).get("start_licence")
    return "" if licence is None else f", licence {_plain(str(licence))} (as timm states it)"


def _measures(facts: ModelFacts) -> str:
    title = "## How good it is\n\n"
    test = facts.test
    if test is None:
        return title + (
            "**Not measured.** There were no test images with known labels beside the model. Its labels come from CLIP "
            "alone; look at its answers on images of your own before you rely on them."
        )
    rows = [("mAP, this model", test.mean_ap.get("student")), ("mAP, CLIP zero-shot", test.mean_ap.get("zero_shot"))]
    if test.mean_ap.get("head") is not None:
        rows.append(("mAP, linear head on CLIP's features", test.mean_ap["head"]))
    left_out = f" Left out, for want of positives: {_plain(test.left_out)}." if test.left_out else ""
    return title + (
        f"On {test.images:,} labelled test images, mean over {test.classes_counted} classes, in %.{left_out}\n\n"
        + _table(["", "%"], [[name, "-" if value is None else f"{value:.1f}"] for name, value in rows])
    )


def _classes(facts: ModelFacts) -> str:
    model = facts.description
    rows = []
    for index, name in enumerate(model.spec.classes):
        metrics = facts.per_class.get(name, {})
        share = "" if facts.label_share is None else f"{facts.label_share[index]:.1%}"
        figures = [f"{metrics[key]:.1f}" if key in metrics else "" for key in ("test_student", "test_f1_thresholds")]
        rows.append([_plain(name), f"{model.thresholds[index]:.3f}", share, *figures])
    source = SOURCES.get(model.thresholds_from, "")
    return (
        f"## Classes and thresholds\n\nA class is decided present where its probability is at least its threshold. "
        f"Source of the thresholds: {model.thresholds_from}. {source}\n\n"
        + _table(["class", "threshold", "training images labelled with it", "test AP %", "test F1 %"], rows)
    )


def _use(model: ModelDescription) -> str:
    size = model.spec.image_size_px
    return (
        "## Use\n\n```\nccd predict THIS_FOLDER photos/ --out labels.csv\n```\n"
        '```python\nfrom ccd import load_student\n\nload_student("THIS_FOLDER").predict(["photo.jpg"])\n```\n\n'
        f"Preprocessing (also in `model.json`): upright RGB, squashed to {size} x {size} pixels with antialiased "
        "bicubic resampling, values in [0, 1]; the network normalises them itself."
    )


def _limits(facts: ModelFacts) -> str:
    lines = [
        "It knows its classes only as CLIP does: what CLIP cannot name, or confuses, it has learnt so.",
        "An image that shows none of the classes can still get labels.",
        "Probabilities are not calibrated on ground truth; thresholds assume that classes are about as frequent as in "
        "the training images.",
        "Class activation maps show where the network looks; they are coarse, and no detector's boxes.",
        "Biases of CLIP and of the training images carry over. It was not tested for any use that affects people.",
    ]
    weak = [name for name, metrics in facts.per_class.items() if metrics.get("test_student", 100.0) < 50]
    if weak:
        lines.insert(0, f"Test AP is below 50 % for: {', '.join(_plain(name) for name in weak)}.")
    return "## Limits\n\n" + "\n".join(f"- {line}" for line in lines)


def _licence(model: ModelDescription) -> str:
    start = model.provenance.get("training", {}).get("start")
    remark = (
        ""
        if start is None
        else f"\n\nThe network began as {_plain(str(start))}{_start_licence(model.provenance)}: "
        "the licence of those weights holds for it too."
    )
    if model.provenance.get("teacher_is_restricted"):
        remark += (
            f"\n\n**The teacher's weights are under {_plain(model.provenance['teacher_licence'])}.** Whether that "
            "holds for a network trained on their answers is for you to settle before you use this one otherwise."
        )
    if model.licence != UNKNOWN_LICENCE:
        return f"## Licence\n\n{_plain(model.licence)}{remark}"
    return (
        "## Licence\n\nNot stated. It depends on the initial weights, on CLIP, and on the training images; whoever "
        "passes this model on has to settle it (`ccd export model DIR --licence TEXT` writes it here)." + remark
    )


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _plain(text: str) -> str:
    """Escape text so that Markdown and HTML show it as it is."""
    escaped = "".join(f"\\{char}" if char in "\\`*_{}[]#|!" else char for char in " ".join(text.split()))
    return escaped.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
