"""Stage text: CLIP's embedding of every class (method section 1)."""

from __future__ import annotations

from pathlib import Path

from ccd.artifacts import classes_file, text_file
from ccd.params.file import load
from ccd.params.sections import TeacherParams, TextParams, chosen_texts
from ccd.runtime.console import StageLog
from ccd.runtime.hardware import hardware
from ccd.runtime.launch import stage
from ccd.teacher.encode import class_embeddings, load_teacher


@stage
def main(classes: Path, out: Path) -> None:
    """Encode the class names under every template."""
    params = load(TextParams)
    origin = load(TeacherParams)
    log = StageLog("text")
    known = classes_file.read(classes)
    texts = chosen_texts(params, known.names, known.texts)
    log.reads(f"{len(texts)} classes", f"{len(params.templates)} templates")
    teacher = load_teacher(**origin.model_dump(), device=hardware().device)
    values = class_embeddings(teacher, texts, params.templates).numpy()
    outside = tuple(params.background_texts)
    background = class_embeddings(teacher, [(prompt,) for prompt in outside], ["{}"]).numpy() if outside else values[:0]
    scale = teacher.logit_scale if params.logit_scale is None else params.logit_scale
    attributes = {"teacher": f"{origin.backend} {origin.model}", "fingerprint": teacher.fingerprint}
    content = text_file.TextEmbeddings(
        known.names, values, scale, texts, tuple(params.templates), attributes, outside, background
    )
    text_file.write(out, content)
    log.wrote((out, len(values), "classes"))
    log.found(f"{values.shape[1]} dimensions, logit scale {scale:g}, teacher {teacher.fingerprint[:12]}")


if __name__ == "__main__":
    main()
