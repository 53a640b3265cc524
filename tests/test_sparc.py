"""Baselines without training: SPARC's standardised cosines and compound prompts, and the best of dense regions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ccd.artifacts import boxes_file, class_table, features_file
from ccd.artifacts.class_table import PSEUDO_LABELS
from ccd.artifacts.features_file import GLOBAL_SCHEMA, Features
from ccd.errors import CcdError
from ccd.params.file import validate
from studies import baselines, inputs
from studies.baselines import dense_scores, training_free_scores
from studies.inputs import with_known_regions
from studies.measure import measure
from studies.sparc import compound_pairs, first_component, sparc_scores, standardised_columns, standardised_rows
from studies.spec import Variant, load_study
from tests.toys.finished_run import TEST, TRAIN, write_project

ROOT = Path(__file__).resolve().parent.parent
# rows have mean 0.2 and deviation 0.1 over C - 1: standardised (-1, 0, 1), (1, 0, -1), (0, 1, -1)
COSINES = np.array([[0.1, 0.2, 0.3], [0.3, 0.2, 0.1], [0.2, 0.3, 0.1]])
THIRD = 1 / np.sqrt(3)  # column (0, 0, 1): mean 1/3, deviation 1/sqrt(3) -> (-THIRD, -THIRD, 2 THIRD)
Z = np.array([[-1, -THIRD, 2 * THIRD], [1, -THIRD, -THIRD], [0, 2 * THIRD, -THIRD]])


def test_a_row_is_measured_by_the_classes_own_prompts() -> None:
    found = standardised_rows(np.array([[0.5, 0.2], [0.0, 0.3]]), COSINES[:2])
    np.testing.assert_allclose(found, [[3, 0], [-2, 1]], atol=1e-12)
    assert standardised_rows(COSINES, np.full((3, 2), 0.2)).tolist() == [[0.0] * 3] * 3, "no class stands out"


def test_a_column_has_mean_0_and_deviation_1_over_the_images() -> None:
    found = standardised_columns(np.array([[1.0, 5.0], [3.0, 5.0]]))
    np.testing.assert_allclose(found, [[-(0.5**0.5), 0], [0.5**0.5, 0]])


def test_compound_prompts_are_of_classes_that_pseudo_labels_put_together() -> None:
    labels = np.array([[0.9, 0.5, 0.0, 0.0], [0.6, 0.7, 0.8, 0.1], [0.5, 0.0, 0.9, 0.1], [0.9, 0.9, 0.1, 0.4]])
    # images with both: 0-1 three, 0-2 two, 1-2 one; class 3 is nowhere
    assert compound_pairs(labels) == [(0, 1), (0, 2), (1, 2)]
    assert compound_pairs(labels, partners=1) == [(0, 1), (0, 2)], "1 asks for 0, and 2 asks for 0"
    assert compound_pairs(np.zeros((2, 3))) == []


def test_the_first_component_points_where_scores_grow() -> None:
    np.testing.assert_allclose(first_component(np.array([[0.0, 0.0], [3.0, 1.0]])), [0.75, 0.25])
    np.testing.assert_allclose(first_component(np.array([[1.0, 1.0], [-2.0, 2.0]])), [0.75, -0.25])


def test_sparc_with_one_compound_prompt_by_hand() -> None:
    """Two standardised columns v and z with a positive correlation: d = (1/2, 1/2), score = v / 4 + 3 z / 4."""
    z, scores = sparc_scores(COSINES, np.array([[0.1], [0.2], [0.3]]), [(0, 1)])
    np.testing.assert_allclose(z, Z, atol=1e-12)
    compound = np.array([-1, 0, 1])
    np.testing.assert_allclose(scores[:, 0], [-1, 0.75, 0.25], atol=1e-12)
    np.testing.assert_allclose(scores[:, 1], compound / 4 + 3 * Z[:, 1] / 4, atol=1e-12)
    np.testing.assert_allclose(scores[:, 2], Z[:, 2], atol=1e-12)  # no prompt names it


def test_sparc_sorts_the_compound_prompts_of_each_image() -> None:
    """Class 0 with prompts (-1, 0, 1) and (-1, 1, 0): sorted low (-1, 0, 0), high (-1, 1, 1), z (-1, 1, 0).

    High is twice low when centred; the scatter matrix of (sqrt 5 low, z) is ((10/3, sqrt 5), (sqrt 5, 2)) with the
    largest eigenvalue 5 and the direction (1, sqrt 5 / 3), so d = (1, 2, 5/3) / (14/3) = (3, 6, 5) / 14.
    """
    _, scores = sparc_scores(COSINES, np.array([[0.1, 0.1], [0.2, 0.3], [0.3, 0.2]]), [(0, 1), (0, 2)])
    np.testing.assert_allclose(scores[:, 0], [-1, (11 / 14 + 1) / 2, 3 / 14], atol=1e-12)


def test_dense_scores_take_the_best_region_of_each_class() -> None:
    whole = np.array([[0.6, 0.4], [0.2, 0.8]])
    regions = np.array([[0.1, 0.9], [0.7, 0.3]])
    np.testing.assert_allclose(dense_scores(whole, regions, np.array([0, 0])), [[0.65, 0.65], [0.2, 0.8]])
    np.testing.assert_allclose(
        dense_scores(whole, regions, np.array([1, 0]), weight=0.25), [[0.675, 0.325], [0.125, 0.875]]
    )


def test_dense_scores_of_the_test_images_take_their_regions(finished: Path) -> None:
    """The first test image looks like cup, and a region of it like tall lamp; the second has no region.

    At scale 100 a score is 0 or 1 but for e^-100, and where nothing stands out a third.
    """
    attributes = {"teacher": "toy clip", "fingerprint": "0"}
    ids = [*TRAIN, *TEST]
    boxes_px = np.zeros((6, 2, 4), np.float32)
    boxes_px[[0, 4], 0, 2:] = 8.0
    features = np.zeros((6, 2, 3), np.float32)
    features[0, 0, 2] = 1.0  # of a training image
    features[4, 0, 1] = 1.0
    with boxes_file.writing_regions(finished / "regions.h5", ids, 2, 3, attributes) as writer:
        writer.write(np.arange(6), boxes_px, features)
    scores = training_free_scores(finished, Path("params.yaml"), "dense")
    assert list(scores.ids) == TEST
    np.testing.assert_allclose(scores.tables["dense"], [[0.5, 0.5, 0], [0, 1, 0]], atol=1e-6)


def test_a_tower_without_patches_leaves_the_rows_out_that_want_regions(
    finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    visual = nn.Module()
    teacher = SimpleNamespace(tower=SimpleNamespace(module=visual))
    monkeypatch.setattr(inputs, "load_teacher", lambda **settings: teacher)
    for name, wanting in (("baselines", ["dense regions"]), ("views", ["regions", "CAM boxes and regions"])):
        study = load_study(name, ROOT / "studies/params.yaml")
        kept, left_out = with_known_regions(study, Path("params.yaml"))
        assert left_out == wanting and list(kept.rows()) == [each for each in study.rows() if each not in wanting]
    visual.attnpool = nn.Identity()
    assert with_known_regions(study, Path("params.yaml")) == (study, [])
    monkeypatch.setattr(inputs, "load_teacher", lambda **settings: pytest.fail("no variant wants regions"))
    ablation = load_study("ablation", ROOT / "studies/params.yaml")
    assert with_known_regions(ablation, Path("params.yaml")) == (ablation, [])


class Asked:
    """A teacher that keeps the prompts it is given, and puts all of them on the first axis."""

    embed_dim = 3

    def __init__(self) -> None:
        self.prompts: list[str] = []

    def encode_text(self, texts: Sequence[str]) -> Tensor:
        self.prompts += texts
        return torch.tensor([[1.0, 0.0, 0.0]] * len(texts))


@pytest.fixture
def finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run whose test images look exactly like the first and the second class, which also occur together."""
    monkeypatch.chdir(tmp_path)
    write_project()
    data = Path("data/toy")
    looks = np.eye(3, dtype=np.float32)[[2, 2, 2, 2, 0, 1]]
    features = Features([*TRAIN, *TEST], looks, {"teacher": "toy clip", "fingerprint": "0"})
    features_file.write(data / "clip_global.h5", GLOBAL_SCHEMA, features)
    table = class_table.read(data / "pseudo_labels.parquet", PSEUDO_LABELS)
    table.columns["label"][0] = (0.9, 0.5, 0.1)
    class_table.write(data / "pseudo_labels.parquet", PSEUDO_LABELS, table)
    return data


def test_standardised_cosines_of_the_test_images_need_no_further_prompt(finished: Path) -> None:
    scores = training_free_scores(finished, Path("params.yaml"), "standardised")
    half = 0.5**0.5
    assert list(scores.ids) == TEST
    np.testing.assert_allclose(scores.tables["standardised"], [[half, -half, 0], [-half, half, 0]], atol=1e-6)


def test_sparc_asks_for_both_classes_in_one_prompt(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    teacher = Asked()
    monkeypatch.setattr(baselines, "load_teacher", lambda **settings: teacher)
    scores = training_free_scores(finished, Path("params.yaml"), "sparc").tables["sparc"]
    assert teacher.prompts == ["a photo of the cup and tall lamp"]
    half = 0.5**0.5  # the prompt ranks the images as cup does
    np.testing.assert_allclose(scores[:, 0], [half, -half], atol=1e-6)


def test_a_row_without_training_has_only_its_result(finished: Path) -> None:
    """Cup is on the second test image alone, which looks like a tall lamp: it comes second, AP 50 %."""
    study = load_study("baselines", ROOT / "studies/params.yaml")
    found = measure(finished, Path("params.yaml"), study, "standardised cosines", 1, None)
    assert (found.variant, found.seed, found.means) == ("standardised cosines", 1, {"result": 50.0})
    assert found.per_class == {"cup": 50.0}


def test_the_study_of_baselines_shows_them() -> None:
    rows = load_study("baselines", ROOT / "studies/params.yaml").rows()
    assert rows["dense regions"].shows == "dense" and rows["dense regions"].stages == ("text", "clip_global")
    assert (rows["SPARC"].stages, rows["CLIP zero-shot"].stages) == (("aggregate",), ("evaluate",))
    with pytest.raises(CcdError, match=r"shows: dense needs regions; set clip_global\.regions"):
        validate(Variant, {"shows": "dense"})
    assert rows["SPARC"].shows == "sparc" and not rows["SPARC"].trains
    assert rows["standardised cosines"].shows == "standardised" and rows["CLIP zero-shot"].trains
