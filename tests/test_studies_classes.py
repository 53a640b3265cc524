"""The class list of a study's runs, and what is measured of images that show no class."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from ccd.artifacts import background_file, class_table, classes_file
from ccd.artifacts.class_table import LABELS, PSEUDO_LABELS
from ccd.errors import CcdError
from ccd.labels.debias import nobody_decided
from ccd.params.presets import override
from studies.background import background_shares, measure_background
from studies.classes import drop_classes, kept_classes, settings, with_synonyms
from studies.run import Run
from studies.spec import Study, Variant

ROOT = Path(__file__).resolve().parent.parent
NAMES = ("boat", "car", "cup", "lamp")
IDS = ["a", "b", "c"]
TRUTH = np.array([[1, 0, 0, 0], [0, 0, 0, 1], [0, 1, 0, 1]], np.int8)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder with dvc.yaml, params.yaml and what the index stage writes in data/toy."""
    for name in ("dvc.yaml", "params.yaml"):
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    data = tmp_path / "data/toy"
    data.mkdir(parents=True)
    classes_file.write(data / "classes.json", classes_file.ClassList(NAMES, tuple((name,) for name in NAMES)))
    columns = {"label": TRUTH, "difficult": TRUTH.astype(bool)}
    class_table.write(data / "labels.parquet", LABELS, class_table.ClassTable(IDS, NAMES, columns, {}))
    return tmp_path


def test_as_many_classes_are_dropped_as_asked_and_always_the_same() -> None:
    kept = kept_classes(20, 4)
    assert len(kept) == 16 and (np.diff(kept) > 0).all() and kept.tolist() == kept_classes(20, 4).tolist()
    assert kept_classes(4, 0).tolist() == [0, 1, 2, 3]
    with pytest.raises(CcdError, match="drop_classes = 3 leaves 1 of 4 classes"):
        kept_classes(4, 3)


def test_a_dropped_class_leaves_class_list_and_truth_and_index_makes_them_no_more(project: Path) -> None:
    run = Run(project, "toy", {})
    drop_classes(run, 0)
    assert (
        classes_file.read(run.data / "classes.json").names == NAMES
        and "stages.index" in (project / "dvc.yaml").read_text()
    )
    drop_classes(run, 2)
    kept = kept_classes(4, 2)
    left = classes_file.read(run.data / "classes.json")
    known = class_table.read(run.data / "labels.parquet", LABELS)
    assert left.names == known.classes == tuple(NAMES[row] for row in kept) and known.ids == IDS
    np.testing.assert_array_equal(known.columns["label"], TRUTH[:, kept])
    assert "stages.index" not in (project / "dvc.yaml").read_text()


def study(drop: int, variant: Variant) -> Study:
    return Study(title="t", students=False, seeds=[0], drop_classes=drop, variants={"a": variant})


def texts_of(project: Path, drop: int, variant: Variant) -> object:
    changed = settings(study(drop, variant), variant, 3, project / "data/toy", project / "params.yaml")
    assert changed["warmup.seed"] == "3"
    override((project / "params.yaml").read_text(), changed)
    return json.loads(changed["text.class_texts"]) if "text.class_texts" in changed else None


def test_synonyms_are_added_to_what_clip_reads_anyway(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    assert texts_of(project, 0, Variant()) is None
    found = texts_of(project, 0, Variant(synonyms=True))
    assert isinstance(found, dict) and list(found) == ["boat", "car", "lamp"], "cup has none"
    assert found["car"][0] == "car" and "automobile" in found["car"]
    own = {"car": ["lorry"], "cup": ["beaker"]}
    text = override((project / "params.yaml").read_text(), {"text.class_texts": json.dumps(own)})
    (project / "params.yaml").write_text(text)
    found = texts_of(project, 0, Variant(synonyms=True))
    assert isinstance(found, dict)
    assert found["car"][:2] == ["lorry", "automobile"] and found["cup"] == ["beaker"] and found["boat"][0] == "boat"


def test_words_for_a_dropped_class_are_dropped_too(project: Path) -> None:
    """They would be refused as words for no class."""
    text = override(
        (project / "params.yaml").read_text(), {"text.class_texts": '{"boat": ["x"], "car": ["y"], "cup": ["z"]}'}
    )
    (project / "params.yaml").write_text(text)
    found = texts_of(project, 2, Variant())
    kept = [NAMES[row] for row in kept_classes(4, 2)]
    assert found == {name: word for name, word in (("boat", ["x"]), ("car", ["y"]), ("cup", ["z"])) if name in kept}


def test_classes_without_any_synonym_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "synonyms.yaml"
    path.write_text("car: [car, automobile]\n")
    assert with_synonyms({"car": ("car",), "cup": ("cup",)}, path) == {"car": ["car", "automobile"]}
    with pytest.raises(CcdError, match="no word for any of the 1 classes"):
        with_synonyms({"cup": ("cup",)}, path)


def test_shares_of_images_without_a_class_by_hand() -> None:
    truly = np.array([True, True, False, False, False])
    found = np.array([True, False, True, True, False])
    assert background_shares(truly, found, np.array([0, 3, 1, 1, 1])) == pytest.approx(
        {"none_true": 40, "none_found": 60, "none_precision": 100 / 3, "none_recall": 50, "none_labels": 1.5}
    )
    nothing = np.zeros(2, bool)
    assert background_shares(nothing, nothing, np.ones(2)) == {"none_true": 0, "none_found": 0}


def test_images_without_a_class_are_measured_where_their_truth_is_known(project: Path) -> None:
    data = project / "data/toy"
    ids = ["c", "x", "b", "a"]
    label = np.zeros((4, 4), np.float32)
    label[2, :3] = 0.5
    columns = dict.fromkeys(("global_prob", "local_prob", "global_label", "local_label", "label"), label)
    columns |= {"box_id": np.full((4, 4), -1)} | nobody_decided((4, 4))
    made = class_table.ClassTable(ids, NAMES, columns, {"alpha": "0.4"})
    class_table.write(data / "pseudo_labels.parquet", PSEUDO_LABELS, made)
    truth = TRUTH.copy()
    truth[1] = 0
    known = class_table.ClassTable(IDS, NAMES, {"label": truth, "difficult": truth.astype(bool)}, {})
    class_table.write(data / "labels.parquet", LABELS, known)

    def write(rule: str) -> None:
        found = np.array([False, True, True, False])
        background_file.write(
            data / "none_images.parquet", background_file.BackgroundImages(ids, label[:, 0], found, 1.0 - found, rule)
        )

    write("entropy")
    assert measure_background(data, None, wanted=False) == pytest.approx(
        {"none_true": 100 / 3, "none_found": 100 / 3, "none_precision": 100, "none_recall": 100, "none_labels": 3}
    ), "x has no known labels"
    assert measure_background(data, frozenset("ac"), wanted=False) == {"none_true": 0, "none_found": 0}
    write("off")
    assert measure_background(data, None, wanted=False) == {} != measure_background(data, None, wanted=True)
