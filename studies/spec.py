"""The content of ``studies/params.yaml``: studies, their variants and seeds."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import ConfigDict, Field, model_validator

from ccd.errors import CcdError
from ccd.params.file import Section, read_yaml, validate
from ccd.params.recipes import PAPER, recipe_table

STUDIES_FILE = Path("studies/params.yaml")
PAPER_FILE = Path("studies/paper.yaml")
Scalar = bool | int | float | str | None
Setting = Scalar | list[Any] | dict[str, Any]
Strategy = Literal["around", "exact", "random", "grid", "second_round"]
LabelSource = Literal["cdul", "truth"]
Shown = Literal["student", "head", "zero_shot", "standardised", "sparc", "dense", "mixed"]


class Corrected(Section):
    """Corrections of ``images`` training images by their true labels; those of the project do not apply.

    ``order`` of the images: most doubtful between whole image and local views, the same with the student's probability,
    or a random draw by seed.
    """

    section: ClassVar[str] = "corrections"
    images: int = Field(ge=0)
    order: Literal["doubtful", "student", "random"] = "doubtful"


class Variant(Section):
    """One row of a study's table: the main pipeline with the stated changes.

    ``set``: parameters, ``section.key`` -> value, lists and mappings included. ``recipe``: the values of this recipe
    where the recipes differ, under those of ``set``; None: the project's. ``boxes``: local views from
    `studies.boxes` instead of the warmed-up student's, or, ``second_round``, those of the finished student of a first
    round. ``labels``: labels from `studies.inputs` instead of the method's.
    ``corrections``: see `Corrected`. ``shows``: whose predictions are the result: the ``student``'s, those of the
    ``head`` on the teacher's features, or the teacher's without training: ``zero_shot``, ``standardised`` cosines and
    ``sparc`` (`studies.sparc`), ``dense``: whole image and best region, half each, and, of given scores, ``mixed``:
    whole image and best tile by ``aggregate.alpha``.
    ``synonyms``: CLIP also reads the synonyms in ``studies/synonyms.yaml``.
    """

    section: ClassVar[str] = "variant"
    set: dict[str, Setting] = Field(default_factory=dict)
    recipe: Literal["paper", "recommended"] | None = None
    boxes: Strategy | None = None
    labels: LabelSource | None = None
    corrections: Corrected | None = None
    shows: Shown = "student"
    synonyms: bool = False

    def recipe_settings(self, parameters: Mapping[str, Any]) -> dict[str, Setting]:
        """Return ``section.key`` -> value of the variant's recipe for a project of these parameters."""
        rows = recipe_table(parameters) if self.recipe is not None else []
        return {name: published if self.recipe == PAPER else value for name, _, published, value in rows}

    @property
    def trains(self) -> bool:
        """Whether the result needs a student; for ``head`` and ``zero_shot`` the stages up to its measures run too."""
        return self.shows in ("student", "head", "zero_shot")

    @property
    def stages(self) -> tuple[str, ...]:
        """The stages that the result needs of a study of students, beside those before them."""
        if self.shows in ("standardised", "dense"):
            return ("text", "clip_global")
        return ("evaluate",) if self.trains else ("aggregate",)

    @model_validator(mode="after")
    def _regions(self) -> Variant:
        if self.shows == "dense" and not self.set.get("clip_global.regions"):
            raise ValueError("shows: dense needs regions; set clip_global.regions: 6 in the variant")
        return self

    @model_validator(mode="after")
    def _tiles(self) -> Variant:
        if self.labels == "cdul" and self.boxes is None:
            raise ValueError("labels: cdul are made of tiles; state boxes: grid too")
        if self.labels is not None and self.boxes == "second_round":
            raise ValueError("boxes: second_round are of the method's own student; state no labels")
        if self.labels is not None and self.corrections is not None:
            raise ValueError("labels: such labels take the place of those that corrections would change")
        return self


class Given(Section):
    """Scores of a strong teacher that take the place of the project's own (`studies.given_scores`).

    ``scores``: path of the .npz file, from the project's folder; null: the study is left out. ``held_out_percent``:
    share of the scored training images that no student sees and all are measured on, drawn by the md5 of the id.
    """

    section: ClassVar[str] = "given"
    scores: str | None = None
    held_out_percent: int = Field(default=30, ge=1, le=99)


class Sweep(Section):
    """One parameter at several values, in the order of the axis."""

    section: ClassVar[str] = "sweep"
    key: str = Field(pattern=r"^\w+\.\w+$")
    values: list[int | float] = Field(min_length=2)


class Study(Section):
    """A study: its runs, and how they are measured.

    ``students``: train and evaluate students; false: only make and measure labels. ``seeds``: of warm-up, final
    training and random boxes. ``images``: size of a fixed draw of training images to measure on (and to give the
    ``boxes`` of a variant), null: all. ``drop_classes``: number of classes, drawn once, that the runs do not know;
    images that show only these become background images. ``ranking``: the labels whose AP per class is the result
    without students, as scores before floor and clip (``raw``) or as trained on (``final``). The other variants are
    compared with the first one. Exactly one of ``variants`` and ``sweep`` is stated. ``given``: see `Given`. ``set``:
    parameters of every run, as in `Variant`, whose own take precedence.
    """

    section: ClassVar[str] = "study"
    title: str
    students: bool
    seeds: list[int] = Field(min_length=1)
    images: int | None = Field(default=None, ge=1)
    drop_classes: int = Field(default=0, ge=0)
    ranking: Literal["raw", "final"] = "raw"
    given: Given | None = None
    set: dict[str, Setting] = Field(default_factory=dict)
    sweep: Sweep | None = None
    variants: dict[str, Variant] | None = Field(default=None, min_length=1)

    @model_validator(mode="after")
    def _one_of(self) -> Study:
        if (self.sweep is None) == (self.variants is None):
            raise ValueError("state either variants or sweep")
        return self

    @model_validator(mode="after")
    def _given(self) -> Study:
        variants = self.rows().values()
        if self.given is None:
            if any(variant.shows == "mixed" for variant in variants):
                raise ValueError("shows: mixed needs given scores")
            return self
        if not self.students or self.images is not None or self.drop_classes:
            raise ValueError("given: such a study trains students, on all images and classes")
        if any(each.boxes or each.corrections or each.synonyms or each.labels == "cdul" for each in variants):
            raise ValueError(
                "given: no CLIP runs, so no variant can state boxes, corrections, synonyms or labels: cdul"
            )
        if any(variant.shows in ("head", "standardised", "sparc", "dense") for variant in variants):
            raise ValueError(
                "given: scores have no embeddings, so no variant can show head, standardised, sparc or dense"
            )
        return self

    def rows(self) -> dict[str, Variant]:
        """Return the variants by name; those of a sweep are named by the value."""
        if self.sweep is None:
            return dict(self.variants or {})
        return {f"{value:g}": Variant(set={self.sweep.key: value}) for value in self.sweep.values}

    def curves(self) -> dict[str, dict[str, int]]:
        """Return order -> variant -> number of corrected images; empty for a study without corrections.

        Variants that correct no image belong to every order.
        """
        counts = {name: variant.corrections for name, variant in self.rows().items()}
        orders = dict.fromkeys(each.order for each in counts.values() if each is not None and each.images)
        return {
            order: {
                name: each.images for name, each in counts.items() if each and (each.order == order or not each.images)
            }
            for order in orders
        }

    def settings(self, variant: Variant, seed: int, parameters: Mapping[str, Any]) -> dict[str, str]:
        """Return a run's changes of the project's ``parameters``: ``section.key`` -> value as in YAML."""
        recipe = variant.recipe_settings(parameters)
        values = {"warmup.seed": seed, "train.seed": seed, "head.seed": seed, **recipe, **self.set, **variant.set}
        return {key: json.dumps(value) for key, value in values.items()}


class RunParams(Section):
    """``jobs``: runs at a time; ``threads``: CPU threads of each, 0: all.

    They change no result, except for rounding: the last digits depend on the number of threads.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)
    section: ClassVar[str] = "run"
    jobs: int = Field(ge=1)
    threads: int = Field(ge=0)


def load_study(name: str, path: Path = STUDIES_FILE) -> Study:
    """Read a study. Raises CcdError if there is none of this name (the others are listed) or a value does not fit."""
    content = read_yaml(path)
    names = study_names(path)
    if name not in names:
        raise CcdError(f"{path} has no study '{name}'; it has: {', '.join(names)}")
    try:
        return validate(Study, content[name], path)
    except CcdError as error:
        raise CcdError(f"study '{name}': {error}") from None


def study_names(path: Path = STUDIES_FILE) -> list[str]:
    """Return the names of all studies, in the order of the file."""
    return [name for name in read_yaml(path) if name != RunParams.section]


def load_run_params(path: Path = STUDIES_FILE) -> RunParams:
    """Read the number of runs at a time, and their threads."""
    return validate(RunParams, read_yaml(path).get(RunParams.section), path)


def paper_numbers(study: str, dataset: str, path: Path = PAPER_FILE) -> dict[str, dict[str, float]]:
    """Read the paper's results: variant -> class (or ``mean``) -> AP (mAP) in %; empty if there are none.

    ``dataset``: a preset's name (voc12, voc07, coco14, nuswide), under which the paper's data sets are listed.
    """
    results = read_yaml(path).get(study, {}).get(dataset, {})
    return {
        variant: {"mean": numbers} if isinstance(numbers, float) else numbers for variant, numbers in results.items()
    }
