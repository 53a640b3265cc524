"""The class list of a study's runs: fewer classes than the data set has, or other words for them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from ccd.artifacts import class_table, classes_file
from ccd.artifacts.class_table import LABELS
from ccd.errors import CcdError
from ccd.params.file import load, read_yaml
from ccd.params.sections import TextParams
from studies.run import Run
from studies.spec import Study, Variant

SYNONYMS_FILE = Path("studies/synonyms.yaml")


def kept_classes(count: int, dropped: int) -> np.ndarray:
    """Rows of the ``count`` classes that stay when ``dropped`` are drawn, the same for every variant and seed.

    Raises:
        CcdError: fewer than two would stay.
    """
    if count - dropped < 2:
        raise CcdError(f"drop_classes = {dropped} leaves {count - dropped} of {count} classes; two are the fewest")
    gone = np.random.default_rng(0).choice(count, dropped, replace=False)
    return np.setdiff1d(np.arange(count), gone)


def drop_classes(run: Run, dropped: int) -> None:
    """Take classes out of the run's class list and ground truth, whose stage ``index`` has run; the images stay, so
    that those which show nothing else show no class at all. 0: nothing happens."""
    if dropped == 0:
        return
    known = class_table.read(run.data / "labels.parquet", LABELS)
    every = classes_file.read(run.data / "classes.json")
    kept = kept_classes(len(every.names), dropped)
    names = tuple(every.names[row] for row in kept)
    texts = tuple(every.texts[row] for row in kept)
    classes_file.write(run.give("classes.json"), classes_file.ClassList(names, texts))
    columns = {name: np.ascontiguousarray(values[:, kept]) for name, values in known.columns.items()}
    class_table.write(run.data / "labels.parquet", LABELS, class_table.ClassTable(known.ids, names, columns, {}))


def settings(study: Study, variant: Variant, seed: int, data: Path, params: Path) -> dict[str, str]:
    """What a run changes in ``params.yaml``, the words for its classes included: ``section.key`` -> value as in YAML.

    Args:
        data: the main pipeline's artifacts.
        params: its ``params.yaml``.

    Raises:
        CcdError: the variant wants synonyms, and none is known for a class of the data set.
    """
    changed = study.settings(variant, seed)
    if not (variant.synonyms or study.drop_classes):
        return changed
    every = classes_file.read(data / "classes.json")
    texts = dict(load(TextParams, params).class_texts)
    kept = [every.names[row] for row in kept_classes(len(every.names), study.drop_classes)]
    if variant.synonyms:
        own = dict(zip(every.names, every.texts, strict=True)) | {name: tuple(words) for name, words in texts.items()}
        texts |= with_synonyms({name: own[name] for name in kept})
    return changed | {"text.class_texts": json.dumps({name: words for name, words in texts.items() if name in kept})}


def with_synonyms(texts: dict[str, tuple[str, ...]], path: Path = SYNONYMS_FILE) -> dict[str, list[str]]:
    """Class -> its own texts and the further words of the file, of the classes that it knows.

    Raises:
        CcdError: it knows none of them.
    """
    words = read_yaml(path)
    found = {name: list(dict.fromkeys([*own, *words[name]])) for name, own in texts.items() if name in words}
    if not found:
        raise CcdError(
            f"{path} has no word for any of the {len(texts)} classes; add some, or take the variants with"
            " synonyms out of studies/params.yaml"
        )
    return found
