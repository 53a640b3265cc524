"""A run on given scores: its photos and labels take the place of CLIP's stages; students are trained and measured."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from ccd.artifacts import background_file, checkpoint_file, class_table, image_index, text_file
from ccd.artifacts.class_table import GLOBAL_LABELS, LABELS, PSEUDO_LABELS
from ccd.artifacts.image_index import ImageIndex
from ccd.errors import CcdError
from ccd.evaluation.summary import Scores
from ccd.images.batches import indexed_files
from ccd.params.file import PARAMS_FILE, load
from ccd.params.presets import override, parameters
from ccd.params.sections import AggregateParams, DatasetParams, EvaluateParams, WarmupParams
from ccd.runtime.hardware import set_up_hardware
from ccd.student.inference import score_checkpoints
from studies.given_scores import GivenScores, bias_of, labels_of, load_recipe, read_scores, split_again, untrained
from studies.inputs import write_inputs
from studies.measure import Finding, measure_labels, measure_part
from studies.run import Run
from studies.spec import Given, Study

SKIPPED = "given.scores is empty, so nothing was run; state the path of a teacher's scores in studies/params.yaml"
"""The line of a study whose file of scores nobody named."""


def check_given(study: Study, params: Path) -> None:
    """Check before the first run that the scores can be read and that they suffice for every variant.

    Raises:
        CcdError: the file does not fit, or a variant needs boxes or embeddings.
    """
    if study.given is None:
        return
    read_scores(Path(str(study.given.scores)))
    text = params.read_text(encoding="utf-8")
    for name, variant in study.rows().items():
        sections = parameters(override(text, study.settings(variant, study.seeds[0], parameters(text))))
        if sections["aggregate"]["contest"]:
            raise CcdError(f"variant '{name}': given scores have no boxes; set aggregate.contest: false")
        if sections["global_labels"]["none_rule"] == "background":
            raise CcdError(f"variant '{name}': given scores have no background texts; take another none_rule")


@dataclass(frozen=True)
class Photos:
    """The photos of a study of given scores: ``index`` after `split_again`, the ids it has ``held_out``, all scores."""

    index: ImageIndex
    held_out: frozenset[str]
    scores: GivenScores


def photos_of(data: Path, given: Given) -> Photos:
    """Read the scores, and deal the photos in the artifacts of stage index. Raises CcdError if they do not fit."""
    classes = class_table.read(data / "labels.parquet", LABELS, ["label"]).classes
    scores = read_scores(Path(str(given.scores)), classes)
    index, out = split_again(image_index.read(data / "images.parquet"), scores.ids, given.held_out_percent)
    return Photos(index, out, scores)


def run_given(run: Run, study: Study, name: str, seed: int, threads: int) -> Finding:
    """Run and measure variant ``name`` of a study of given scores in the copy ``run``.

    ``result`` is the mAP on the held-out photos, ``other_result`` that on the data set's own test split.

    Args:
        threads: CPU threads; 0: all.

    Raises:
        CcdError: the scores do not fit the data set, or no class of the held-out photos is counted.
    """
    assert study.given is not None
    variant = study.rows()[name]
    params = run.folder / PARAMS_FILE
    run.repro("index")
    photos = photos_of(run.data, study.given)
    if variant.shows != "student":
        ids = [each for each in photos.index.ids if each in photos.held_out]
        tables = untrained(photos.scores.of(ids), load(AggregateParams, params).alpha)
        means, per_class = measure_part(run.data, params, Scores(ids, tables), variant.shows)
        return Finding(name, seed, {"result": means[variant.shows]}, per_class)
    image_index.write(run.replace_output("images.parquet"), photos.index)
    if variant.labels == "truth":
        write_inputs(run, variant, seed, photos.index.train(), None)
    else:
        write_labels(run, photos)
    if load(WarmupParams, params).weights != "teacher":  # then no stage needs a CLIP
        write_no_text(run, photos.scores.classes)
    run.repro("train")
    of_labels = {} if variant.labels == "truth" else measure_labels(run.data, params, None, study)[0]
    tables, ids = score_test(run, photos.index.test(), threads)
    held = np.asarray([each in photos.held_out for each in ids], bool)
    means, per_class = measure_part(run.data, params, _rows(ids, tables, held), "student")
    other, _ = measure_part(run.data, params, _rows(ids, tables, ~held), None)
    shifted = {"other_result": other["student"]} if "student" in other else {}
    of_test = {f"test_{key}": value for key, value in means.items()}
    return Finding(name, seed, of_labels | of_test | {"result": means["student"]} | shifted, per_class)


def write_labels(run: Run, photos: Photos) -> None:
    """Write the labels of the training photos instead of stages global_labels and aggregate.

    The bias is estimated on all images of the file but the held-out ones, also those that the data set lacks.
    """
    recipe = load_recipe(run.folder / PARAMS_FILE)
    known = [each for each in photos.scores.ids if each not in photos.held_out]
    bias = bias_of(photos.scores.of(known), recipe.bias)
    scores = photos.scores.of(list(photos.index.train().ids))
    labels = labels_of(scores, bias, recipe)
    table = class_table.ClassTable(scores.ids, scores.classes, labels.whole_image, {})
    class_table.write(run.replace_output("global_labels.parquet"), GLOBAL_LABELS, table)
    table = class_table.ClassTable(scores.ids, scores.classes, labels.final, {"alpha": repr(recipe.aggregate.alpha)})
    class_table.write(run.replace_output("pseudo_labels.parquet"), PSEUDO_LABELS, table)
    background_file.write(run.data / "none_images.parquet", labels.background)  # its stage is gone with the labels


def write_no_text(run: Run, classes: tuple[str, ...]) -> None:
    """Write a ``text.h5`` that says nothing, for stage warmup, which looks at it for a start from the teacher alone."""
    nothing = np.ones((len(classes), 1), np.float32)
    texts = tuple((name,) for name in classes)
    content = text_file.TextEmbeddings(classes, nothing, 1.0, texts, ("{}",), {"teacher": "none"})
    text_file.write(run.replace_output("text.h5"), content)


def score_test(run: Run, test: ImageIndex, threads: int) -> tuple[dict[str, np.ndarray], list[str]]:
    """Score the test images by the warmed-up student and every set of weights of the final one, as stage evaluate.

    Returns:
        Name -> (N, C) probabilities, and the ids of the images.
    """
    if threads:
        torch.set_num_threads(threads)
    root = load(DatasetParams, run.folder / PARAMS_FILE).root
    warmup = checkpoint_file.read(run.data / "warmup.pt", "warmup")
    final = checkpoint_file.read(run.data / "student.pt", "train")
    files = indexed_files(str(run.folder / root), test)
    precision = load(EvaluateParams, run.folder / PARAMS_FILE).precision
    return score_checkpoints(warmup, final, files, set_up_hardware(), precision=precision), list(test.ids)


def _rows(ids: list[str], tables: dict[str, np.ndarray], chosen: np.ndarray) -> Scores:
    kept = [name for name, use in zip(ids, chosen, strict=True) if use]
    return Scores(kept, {name: table[chosen] for name, table in tables.items()})
