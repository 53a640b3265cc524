"""Stage text: CLIP's embedding of every class (method section 1)."""

from __future__ import annotations

from itertools import chain
from pathlib import Path

import numpy as np

from ccd.artifacts import classes_file, text_file
from ccd.labels.background import BACKGROUND_WORDS, competing_words
from ccd.params.file import chosen_texts, load
from ccd.params.sections import TeacherParams, TextParams
from ccd.runtime.console import StageLog
from ccd.runtime.hardware import set_up_hardware
from ccd.runtime.launch import stage
from ccd.runtime.store import open_store
from ccd.teacher.encode import class_embeddings, load_teacher, sigmoid_bias


@stage
def main(classes: Path, out: Path) -> None:
    """Encode the class names under every template."""
    params = load(TextParams)
    teacher_params = load(TeacherParams)
    log = StageLog("text")
    class_list = classes_file.read(classes)
    texts = chosen_texts(params.class_texts, class_list.names, class_list.texts)
    log.reads(f"{len(texts)} classes", f"{len(params.templates)} templates")
    teacher = load_teacher(**teacher_params.model_dump(), device=set_up_hardware().device, store=open_store())
    embeddings = class_embeddings(teacher, texts, params.templates).numpy()
    background_texts = tuple(params.background_texts)
    background = embeddings[:0]
    if background_texts:
        background = class_embeddings(teacher, [(prompt,) for prompt in background_texts], ["{}"]).numpy()
    note = ""
    if params.background_words:
        names = [*class_list.names, *chain.from_iterable(texts)]
        words = class_embeddings(teacher, [(word,) for word in BACKGROUND_WORDS], params.templates).numpy()
        kept, line = competing_words(BACKGROUND_WORDS, words, embeddings, names, background_texts)
        background_texts += tuple(BACKGROUND_WORDS[row] for row in kept)
        background = np.concatenate([background, words[kept]])
        note = f"; {line}"
    scale = teacher.logit_scale if params.logit_scale is None else params.logit_scale
    bias = sigmoid_bias(teacher) if params.activation == "sigmoid" else None
    content = text_file.TextEmbeddings(
        classes=class_list.names,
        values=embeddings,
        logit_scale=scale,
        texts=texts,
        templates=tuple(params.templates),
        attributes={
            "teacher": f"{teacher_params.backend} {teacher_params.model}",
            "fingerprint": teacher.fingerprint,
        },
        background_texts=background_texts,
        background=background,
        background_in_softmax=params.background_words,
        standardized_scale=params.standardized_scale,
        logit_bias=bias,
    )
    text_file.write(out, content)
    log.wrote((out, len(embeddings), "classes"))
    log.finding(f"{embeddings.shape[1]} dimensions, logit scale {scale:g}, teacher {teacher.fingerprint[:12]}{note}")


if __name__ == "__main__":
    main()
