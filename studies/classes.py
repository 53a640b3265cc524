"""Changes the class list of a study's runs: fewer classes than the data set has, or other texts for CLIP."""

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
    """Return the rows of the classes that stay when ``dropped`` of ``count`` are drawn; all variants drop the same.

    Raises:
        CcdError: fewer than two classes are left.
    """
    if count - dropped < 2:
        raise CcdError(f"drop_classes = {dropped} leaves {count - dropped} of {count} classes; two are the fewest")
    removed = np.random.default_rng(0).choice(count, dropped, replace=False)
    return np.setdiff1d(np.arange(count), removed)


def drop_classes(run: Run, dropped: int) -> None:
    """Remove ``dropped`` classes from the run's class list and ground truth, after stage ``index``.

    The images stay; those that show only removed classes become background images.
    """
    if dropped == 0:
        return
    labels = class_table.read(run.data / "labels.parquet", LABELS)
    class_list = classes_file.read(run.data / "classes.json")
    kept = kept_classes(len(class_list.names), dropped)
    names = tuple(class_list.names[row] for row in kept)
    texts = tuple(class_list.texts[row] for row in kept)
    classes_file.write(run.replace_output("classes.json"), classes_file.ClassList(names, texts))
    columns = {name: np.ascontiguousarray(values[:, kept]) for name, values in labels.columns.items()}
    class_table.write(run.data / "labels.parquet", LABELS, class_table.ClassTable(labels.ids, names, columns, {}))


def settings(study: Study, variant: Variant, seed: int, data: Path, params: Path) -> dict[str, str]:
    """Return a run's changes of ``params.yaml``, also of the class texts: ``section.key`` -> value as in YAML.

    Args:
        data: the main pipeline's artifacts.
        params: its ``params.yaml``.

    Raises:
        CcdError: the variant wants synonyms, and none is known for a class of the data set.
    """
    changed = study.settings(variant, seed, read_yaml(params))
    if not (variant.synonyms or study.drop_classes):
        return changed
    class_list = classes_file.read(data / "classes.json")
    texts = dict(load(TextParams, params).class_texts)
    kept = [class_list.names[row] for row in kept_classes(len(class_list.names), study.drop_classes)]
    if variant.synonyms:
        own = dict(zip(class_list.names, class_list.texts, strict=True))
        own |= {name: tuple(phrases) for name, phrases in texts.items()}
        texts |= with_synonyms({name: own[name] for name in kept})
    kept_texts = {name: phrases for name, phrases in texts.items() if name in kept}
    return changed | {"text.class_texts": json.dumps(kept_texts)}


def with_synonyms(texts: dict[str, tuple[str, ...]], path: Path = SYNONYMS_FILE) -> dict[str, list[str]]:
    """Return class -> its own texts and its synonyms in the file, for the classes that have synonyms.

    Raises:
        CcdError: the file has a synonym for none of them.
    """
    synonyms = read_yaml(path)
    extended = {
        name: list(dict.fromkeys([*phrases, *synonyms[name]])) for name, phrases in texts.items() if name in synonyms
    }
    if not extended:
        raise CcdError(
            f"{path} has no word for any of the {len(texts)} classes; add some, or take the variants with"
            " synonyms out of studies/params.yaml"
        )
    return extended
