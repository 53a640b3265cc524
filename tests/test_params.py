"""What we decided about params.yaml: strict, complete, explained; every error says the file, the key and what to do.

That pydantic compares numbers with bounds is pydantic's to test; here is one bound of each kind.
"""

from __future__ import annotations

import json
import re
import typing
from pathlib import Path
from typing import Any

import pytest

from ccd.errors import CcdError
from ccd.params.file import Section, load, read_yaml, validate
from ccd.params.presets import apply_preset, presets
from ccd.params.recipes import RECIPES
from ccd.params.sections import SECTIONS, ClipLocalParams

PAPER = Path(__file__).parent.parent / "ccd/params/paper.yaml"
VALUES = read_yaml(PAPER)
MODELS = {model.section: model for model in SECTIONS}
KEYS = [(model, key) for model in SECTIONS for key in model.model_fields]
SELF_EXPLAINING = {
    "index.demo_test",
    "index.demo_seed",
    "warmup.image_size_px",
    "warmup.epochs",
    "warmup.batch_size",
    "warmup.lr",
    "warmup.head_lr_multiplier",
    "warmup.seed",
    "cam_boxes.image_size_px",
    "train.image_size_px",
    "train.batch_size",
    "train.lr",
    "train.head_lr_multiplier",
    "train.precision",
    "train.seed",
    "runtime.inference_batch_size",
}
"""Keys without a comment in the template. A new key needs one, or a good reason to be here."""


def refusal(section: str, **changed: object) -> str:
    """The message about a section with some values changed; "" if it is accepted."""
    try:
        validate(MODELS[section], VALUES[section] | changed)
    except CcdError as error:
        return str(error)
    return ""


def number_kinds(model: type[Section], key: str) -> set[type]:
    annotation = model.model_fields[key].annotation
    return {int, float} & {annotation, *typing.get_args(annotation)}


def test_the_papers_values() -> None:
    assert VALUES["bias"]["max_entropy_nats"] == 2.0
    assert VALUES["aggregate"]["alpha"] == 0.4
    assert VALUES["global_labels"]["floor"] == 1 / 20
    warmup = VALUES["warmup"]
    assert warmup | {"epochs": 2, "lr": 1e-5, "batch_size": 16, "head_lr_multiplier": 10.0} == warmup
    assert VALUES["train"]["epochs"] + warmup["epochs"] == 10
    assert VALUES["cam_boxes"]["offset"] * VALUES["cam_boxes"]["image_size_px"] == 80
    assert VALUES["cam_boxes"]["cam_threshold"] == 0.95


def test_the_file_and_its_template_state_every_key_of_every_section(root: Path) -> None:
    stated = {model.section: list(model.model_fields) for model in SECTIONS}
    for path in (PAPER, root / "params.yaml"):
        assert {name: sorted(keys) for name, keys in read_yaml(path).items()} == {
            name: sorted(keys) for name, keys in stated.items()
        }
        for model in SECTIONS:
            assert load(model, path)


def test_every_key_is_explained_beside_its_value() -> None:
    explained = set()
    section = ""
    for line in PAPER.read_text(encoding="utf-8").splitlines():
        section = line.partition(":")[0] if re.match(r"\w+:", line) else section
        if found := re.match(r"  (\w+):.*\s#\s*\S+ \S", line):
            explained.add(f"{section}.{found[1]}")
    assert {f"{model.section}.{key}" for model, key in KEYS} - explained == SELF_EXPLAINING


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("preset", presets())
def test_every_preset_is_accepted_by_every_section(preset: str, recipe: str, tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(apply_preset(preset, None, {}, recipe=recipe), encoding="utf-8")
    for model in SECTIONS:
        assert load(model, path)


def test_an_unknown_key_is_named_with_the_valid_ones() -> None:
    for model in SECTIONS:
        said = refusal(model.section, colour=1)
        assert f"params.yaml: unknown key '{model.section}.colour'" in said
        assert said.endswith(", ".join(model.model_fields))


def test_a_missing_key_is_named_and_never_filled_in() -> None:
    for model, key in KEYS:
        with pytest.raises(CcdError, match=rf"params\.yaml: key '{model.section}\.{key}' is missing"):
            validate(model, {name: value for name, value in VALUES[model.section].items() if name != key})


@pytest.mark.parametrize("values", [None, 3, ["alpha"]])
def test_a_missing_section_is_named_with_its_keys(values: object) -> None:
    with pytest.raises(CcdError, match=r"params\.yaml: .*'aggregate'.*alpha, contest"):
        validate(MODELS["aggregate"], values)


def test_a_wrong_type_names_the_file_and_the_key() -> None:
    for model, key in KEYS:
        wrong = 3 if typing.get_origin(model.model_fields[key].annotation) is dict else {"a": 1}
        with pytest.raises(CcdError, match=rf"elsewhere\.yaml: {model.section}\.{key}\b.* = "):
            validate(model, VALUES[model.section] | {key: wrong}, Path("elsewhere.yaml"))


def test_nothing_is_converted() -> None:
    wrong: list[tuple[str, str, object]] = [
        ("aggregate", "alpha", "0.4"),
        ("aggregate", "alpha", True),
        ("train", "epochs", 2.0),
        ("train", "epochs", "2"),
        ("train", "epochs", True),
        ("bias", "enabled", "yes"),
        ("bias", "enabled", 1),
        ("index", "train_split", 2012),
        ("teacher", "model", b"ViT"),
        ("text", "templates", "a {}"),
        ("text", "class_texts", {"cat": "kitten"}),
    ]
    assert [
        each for each in wrong if f"params.yaml: {each[0]}.{each[1]}" not in refusal(each[0], **dict([each[1:]]))
    ] == []
    assert refusal("aggregate", alpha=1) == "", "a whole number is a number"


def test_a_number_where_text_belongs_asks_for_quotes() -> None:
    assert "quotes around it" in refusal("index", train_split=2012)
    assert "quotes" not in refusal("index", train_split=["train"])


def test_nan_and_infinity_are_refused_everywhere() -> None:
    for model, key in KEYS:
        for value in (float("nan"), float("inf"), float("-inf")) if number_kinds(model, key) else ():
            assert f"params.yaml: {model.section}.{key}" in refusal(model.section, **{key: value})


def test_every_number_has_a_bound() -> None:
    assert [key for model, key in KEYS if number_kinds(model, key) and not model.model_fields[key].metadata] == []


def test_one_bound_of_each_kind() -> None:
    table: list[tuple[str, str, list[object], list[object]]] = [
        ("aggregate", "alpha", [0, 0.0, 1.0], [-1e-9, 1 + 1e-9]),  # from, to
        ("aggregate", "sharpen_at", [0, 0.5, 1, "prevalence"], [-0.1, 1.1, "0.5", True, None, float("nan")]),
        ("runtime", "processes", ["auto", 1, 1024], [0, 1025, 1.0, True, "many", None]),
        ("aggregate", "contest_iou", [1e-9, 1.0], [0.0, 1.1]),  # above, to
        ("cam_boxes", "cam_threshold", [0.0, 0.999], [1.0]),  # from, below
        ("train", "epochs", [1, 1000], [0, 1001]),  # whole numbers
        ("train", "seed", [0, 2**31 - 1], [-1, 2**31]),
        ("cam_boxes", "tau", [None, 0.0, 1.0], [-0.1, 1.1]),  # or none
        ("runtime", "device", ["auto", "cpu", "cuda", "cuda:1"], ["gpu", "cuda:", "cpu\n", ""]),  # patterns
        ("dataset", "name", ["voc_07.b-1"], ["", "../x", "a/b", ".hidden", "a b"]),
        ("teacher", "sha256", [None, "0" * 64], ["0" * 63, "F" * 64]),
        ("dataset", "root", ["."], [""]),  # texts
        ("teacher", "precision", ["fp32", "bf16"], ["FP32", "float32", None]),  # choices
        ("text", "background_texts", [[], ["a wall"]], [[""], None]),  # lists
    ]
    for section, key, good, bad in table:
        assert [value for value in good if refusal(section, **{key: value})] == [], f"{section}.{key}"
        assert [value for value in bad if f"{section}.{key}" not in refusal(section, **{key: value})] == [], (
            f"{section}.{key}"
        )


@pytest.mark.parametrize(("lengths", "strides"), [(6, 0), (6, 3), (6, 6), (None, 20)])
def test_features_record_few_lengths_only_where_they_matter(lengths: int | None, strides: int) -> None:
    """Elsewhere the artifact is, byte for byte, the one without the key."""
    params = ClipLocalParams(image_size_px=96, source="original", resized_px=128, shorter_sides=lengths)
    rest = {"image_size_px": "96", "source": "original", "resized_px": "128"}
    assert params.attributes(strides) == rest
    if lengths:
        assert params.attributes(lengths + 1) == rest | {"shorter_sides": "6"}


def test_a_template_has_one_place_for_the_class() -> None:
    for template in ("no place", "{} and {}", "{class}", ""):
        assert "text.templates.1" in refusal("text", templates=["a {}", template])
    assert "text.templates" in refusal("text", templates=[])


def test_a_rule_for_background_images_needs_a_threshold_that_fits_it() -> None:
    for rule, good, bad in (
        ("off", (None, 0.5, 7.0), (-0.1,)),
        ("entropy", (0.0, 7.0), (None,)),
        ("max_prob", (0.0, 1.0), (None, 1.5)),
        ("background", (1.0,), (None, 1.5)),
    ):
        for value in good:
            assert refusal("global_labels", none_rule=rule, none_threshold=value) == ""
        for value in bad:
            assert "global_labels.none_threshold" in refusal("global_labels", none_rule=rule, none_threshold=value)


def test_processes_are_auto_or_a_number() -> None:
    assert [value for value in ("auto", 1, 1024) if refusal("runtime", processes=value)] == []
    for value in ("all", 0, 1025, 2.0, True, None, [1]):
        assert "runtime.processes" in refusal("runtime", processes=value)


def test_every_bad_value_is_named_at_once_and_cut_short() -> None:
    said = refusal("bias", enabled="yes", max_entropy_nats=0, shrinkage=["x" * 10_000] * 10_000, extra=1)
    assert [line.count("params.yaml: ") for line in said.splitlines()] == [1] * 4
    assert all(key in said for key in ("bias.enabled", "bias.max_entropy_nats", "bias.shrinkage", "bias.extra"))
    assert len(said) < 2000


def test_numbers_read_as_dvc_reads_them(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(PAPER.read_text().replace("lr: 1.0e-5", "lr: 1e-5"))
    assert load(MODELS["train"], path) == load(MODELS["train"], PAPER)


def test_a_file_written_as_json_is_read_the_same(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(json.dumps(VALUES))
    for model in SECTIONS:
        values: dict[str, Any] = load(model, path).model_dump()
        assert values == VALUES[model.section]


@pytest.mark.parametrize(("text", "message"), [("a: [", "not valid YAML"), ("", "no sections"), ("- 1", "no sections")])
def test_a_broken_file_is_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(text)
    with pytest.raises(CcdError, match=rf"params\.yaml.*{message}"):
        read_yaml(path)


def test_a_missing_file_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(CcdError, match="ccd init DIR --images FOLDER"):
        read_yaml(tmp_path / "params.yaml")
