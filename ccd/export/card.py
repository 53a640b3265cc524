"""The model card: what the artifacts say about a student, in Markdown, and nothing that they do not."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

from ccd.deploy.description import UNKNOWN_LICENCE, ModelDescription
from ccd.export.provenance import Background

SOURCES = {
    "pseudo-labels": "Each class is decided in as many training images as its pseudo-labels claim: no ground truth.",
    "labelled images": "They have the largest F1 on labelled images that were given for this purpose.",
    "0.5": "Nothing was fitted.",
}

_OURS = re.compile(r"# Image classifier of \d+ classes\n\nA \S+ that says which of these classes an image shows")


def is_model_card(text: str) -> bool:
    """Whether a README.md was written by `model_card`, as far as its head says."""
    return _OURS.match(text.replace("\r\n", "\n")) is not None


def model_card(about: Background) -> str:
    """README.md of an exported folder."""
    parts = [
        _head(about.description), _making(about.description), _measures(about), _classes(about),
        _use(about.description), _limits(about), _licence(about.description),
    ]  # fmt: skip
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


def _making(model: ModelDescription) -> str:
    story = model.provenance
    lines = ["## How it was made", ""]
    for key, what in (("teacher", "Teacher"), ("templates", "Prompts"), ("images", "Images"), ("weights", "Weights")):
        value = story.get(key, "unknown")
        lines.append(f"- {what}: {_plain(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))}")
    start = story.get("parameters", {}).get("warmup.weights", "unknown")
    lines += [
        f"- Initial weights of the network: {_plain(str(start))}",
        f"- Made with {story.get('made_with', 'unknown')}",
    ]
    return "\n".join([*lines, "", "All recorded parameters are in `model.json`."])


def _measures(about: Background) -> str:
    title = "## How good it is\n\n"
    test = about.test
    if test is None:
        return title + (
            "**Not measured.** There were no test images with known labels beside the model. Its labels come from CLIP "
            "alone; look at its answers on images of your own before you rely on them."
        )
    rows = [("mAP, this model", test.mean_ap.get("student")), ("mAP, CLIP zero-shot", test.mean_ap.get("zero_shot"))]
    left_out = f" Left out, for want of positives: {_plain(test.left_out)}." if test.left_out else ""
    return title + (
        f"On {test.images:,} labelled test images, mean over {test.classes_counted} classes, in %.{left_out}\n\n"
        + _table(["", "%"], [[name, "-" if value is None else f"{value:.1f}"] for name, value in rows])
    )


def _classes(about: Background) -> str:
    model, rows = about.description, []
    for place, name in enumerate(model.spec.classes):
        found = about.per_class.get(name, {})
        share = "" if about.label_share is None else f"{about.label_share[place]:.1%}"
        figures = [f"{found[key]:.1f}" if key in found else "" for key in ("test_student", "test_f1_thresholds")]
        rows.append([_plain(name), f"{model.thresholds[place]:.3f}", share, *figures])
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
        '```python\nfrom ccd.predict import load_student\n\nload_student("THIS_FOLDER").predict(["photo.jpg"])\n```\n\n'
        f"Preprocessing (also in `model.json`): upright RGB, squashed to {size} x {size} pixels with antialiased "
        "bicubic resampling, values in [0, 1]; the network normalises them itself."
    )


def _limits(about: Background) -> str:
    lines = [
        "It knows its classes only as CLIP does: what CLIP cannot name, or confuses, it has learnt so.",
        "An image that shows none of the classes can still get labels.",
        "Probabilities are not calibrated on ground truth; thresholds assume that classes are about as frequent as in "
        "the training images.",
        "Class activation maps show where the network looks; they are coarse, and no detector's boxes.",
        "Biases of CLIP and of the training images carry over. It was not tested for any use that affects people.",
    ]
    weak = [name for name, row in about.per_class.items() if row.get("test_student", 100.0) < 50]
    if weak:
        lines.insert(0, f"Test AP is below 50 % for: {', '.join(_plain(name) for name in weak)}.")
    return "## Limits\n\n" + "\n".join(f"- {line}" for line in lines)


def _licence(model: ModelDescription) -> str:
    if model.licence != UNKNOWN_LICENCE:
        return f"## Licence\n\n{_plain(model.licence)}"
    return (
        "## Licence\n\nNot stated. It depends on the initial weights, on CLIP, and on the training images; whoever "
        "passes this model on has to settle it (`ccd export model DIR --licence TEXT` writes it here)."
    )


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _plain(text: str) -> str:
    """Text that Markdown and HTML show as it is."""
    escaped = "".join(f"\\{char}" if char in "\\`*_{}[]#|!" else char for char in " ".join(text.split()))
    return escaped.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
