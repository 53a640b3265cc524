"""The README of a new project: what to type, in its own names."""

from __future__ import annotations

import shlex

_TEXT = """\
# {name}

A multi-label classifier of {classes} classes, made from unlabelled images and class names by `ccd` (Classifier-guided
CLIP Distillation, CVPR 2025).

    dvc repro                     # everything; afterwards, what changed; interrupted, what is left
    dvc metrics show              # mAP in %, on the images that have labels in labels.csv

Then open `data/{name}/report.html` in a browser.

    ccd predict {student} PHOTOS --out labels.csv      # label any images; PHOTOS: files or folders
    ccd export onnx student.onnx  # the same classifier without ccd; it says which packages it needs
    ccd inspect --doubtful        # which images to look at

## Images that show none of the classes

They are not looked for by default (`global_labels.none_rule: off` in `params.yaml`), so **images that show none of
the classes still get labels**, and the classifier learns from them. If some of your images are like that:

- let a rule find them: `global_labels.none_rule` and `none_threshold`; with `none_weight: 1.0` it finds without
  touching a label, to look first;
- give the rule `background` texts of what else the images show: `text.background_texts`;
- decide by hand: `ccd review export --top 200`, answer 0, `ccd review import FILE`, `dvc repro`.

## Changing it

- **A parameter**: edit `params.yaml` (every key is explained there), `dvc repro`.
- **More images**: put them into the folder, `dvc repro`. CLIP looks at the new ones alone.
- **Classes**: edit `classes.txt`, `dvc repro`. One class a line; `sofa: couch, settee` gives CLIP other words. No whole
  image is encoded again.
- **Labels**, to measure with: `labels.csv` beside the images, columns `path,classes` (several classes with `;`). They
  are never trained on. Images below `test/` are kept for measuring.
- **Labels of training images**: `ccd review export`, decide, `ccd review import FILE`, `dvc repro`.
- **ccd itself**: install another version, `dvc repro`. What its code changes is done again, nothing else.

## What is here

`params.yaml`: numbers; `dvc.yaml`: stages; `classes.txt`: classes; `inputs.json`: what DVC cannot see (hashes of the
installed code, and of the images' names and sizes); `dvc.lock`: what was made from what; `corrections/`:
what people decided. Keep these in git. `data/` and
`.ccd/` can be made again and are not in git.

The images are not copied: `dataset.root` in `params.yaml` says where they are. {where}
"""
_ABSOLUTE = """That is a path of this computer; elsewhere
set it to where the same images lie. Only `index` runs again then, and finds nothing changed."""
_RELATIVE = """It is relative to this folder,
so that both can be moved together. git and DVC do not look into it."""


def readme(name: str, classes: int, root: str) -> str:
    """The text, for artifacts in ``data/<name>`` and images in ``root``."""
    where = _ABSOLUTE if root.startswith("/") else _RELATIVE
    student = shlex.quote(f"data/{name}/student.pt")
    return _TEXT.format(name=name, student=student, classes=classes, where=where)
