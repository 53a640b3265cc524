"""Presets and settings become a params.yaml that every section accepts, with the template's comments."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from ccd.errors import CcdError
from ccd.params.file import validate
from ccd.params.presets import PRESET_FOLDER, TEMPLATE, apply_preset, changes, is_plain_preset, presets
from ccd.params.sections import SECTIONS, DatasetParams

TEMPLATE_TEXT = (PRESET_FOLDER / "paper.yaml").read_text(encoding="utf-8")


def parsed(text: str) -> dict[str, Any]:
    loaded: dict[str, Any] = YAML(typ="safe").load(text)
    return loaded


def comments(text: str) -> list[str]:
    return [line.partition("#")[2] for line in text.splitlines() if "#" in line]


def test_the_template_has_every_section_and_key() -> None:
    assert {name: set(keys) for name, keys in parsed(TEMPLATE_TEXT).items()} == {
        model.section: set(model.model_fields) for model in SECTIONS
    }
    assert apply_preset(TEMPLATE, None, {}) == TEMPLATE_TEXT


@pytest.mark.parametrize("preset", sorted(set(presets()) - {TEMPLATE}))
def test_a_preset_changes_what_it_states_and_nothing_else(preset: str) -> None:
    text = apply_preset(preset, None, {})
    expected = parsed(TEMPLATE_TEXT)
    for section, values in parsed((PRESET_FOLDER / f"{preset}.yaml").read_text(encoding="utf-8")).items():
        expected[section] |= values
    assert parsed(text) == expected
    assert comments(text) == comments(TEMPLATE_TEXT)
    assert len(presets()[preset]) > 20


def test_names_of_presets_do_not_share_a_data_folder() -> None:
    names = [
        parsed(path.read_text())["dataset"]["name"] for path in PRESET_FOLDER.glob("*.yaml") if path.stem != TEMPLATE
    ]
    assert len(set(names)) == len(names)


def test_files_of_the_demo_are_pinned(root: Path) -> None:
    demo = parsed(apply_preset("demo", None, {}))
    for path, digest in (
        (demo["teacher"]["model"], demo["teacher"]["sha256"]),
        (demo["warmup"]["weights"], demo["warmup"]["weights_sha256"]),
    ):
        assert hashlib.sha256((root / path).read_bytes()).hexdigest() == digest, (
            f"state the new hash of {path} in demo.yaml"
        )


def test_root_and_settings_win_over_the_preset() -> None:
    settings = {
        "aggregate.alpha": "0.2",
        "train.lr": "1e-4",
        "index.test_split": "null",
        "cam_boxes.connected_components": "true",
        "text.templates": "[\"a {}\", 'the {}']",
        "text.class_texts": "{cat: [cat, kitten]}",
    }
    text = apply_preset("folder", "my photos/2024: all", settings)
    values = parsed(text)
    assert values["dataset"]["root"] == "my photos/2024: all"
    assert values["aggregate"]["alpha"] == 0.2
    assert values["train"]["lr"] == 1e-4
    assert values["index"]["test_split"] is None
    assert values["cam_boxes"]["connected_components"] is True
    assert values["text"]["templates"] == ["a {}", "the {}"]
    assert values["text"]["class_texts"] == {"cat": ["cat", "kitten"]}
    assert "  alpha: 0.2                  # weight of the global label" in text
    assert comments(text) == comments(TEMPLATE_TEXT)


def test_runtime_stays_as_the_user_has_it() -> None:
    current = "runtime:\n  device: cuda:1\n  workers: 3\n  gone_since: 7\naggregate:\n  alpha: 0.9\n"
    values = parsed(apply_preset("voc07", None, {"runtime.workers": "5"}, current))
    assert values["runtime"] == {
        "device": "cuda:1",
        "processes": 1,
        "workers": 5,
        "inference_batch_size": 64,
        "store_gb": 10.0,
    }
    assert values["aggregate"]["alpha"] == 0.4


@pytest.mark.parametrize(
    ("preset", "settings", "current", "message"),
    [
        ("imagenet", {}, None, "unknown preset 'imagenet'; the presets are: coco14, .*, voc_photos"),
        ("../params", {}, None, "unknown preset"),
        ("demo", {"agregate.alpha": "1"}, None, "unknown section 'agregate'; the sections are: dataset, .*, runtime"),
        ("demo", {"aggregate.alhpa": "1"}, None, r"unknown key 'aggregate\.alhpa'; the keys of 'aggregate' are: alpha"),
        ("demo", {"aggregate": "1"}, None, r"'aggregate' is not of the form section\.key"),
        ("demo", {"aggregate.alpha": "2"}, None, r"aggregate\.alpha = 2: Input should be less than or equal to 1"),
        ("demo", {"aggregate.alpha": "half"}, None, r"aggregate\.alpha = 'half': Input should be a valid number"),
        ("demo", {"text.templates": "[a"}, None, r"text\.templates=\[a: not a YAML value"),
        ("demo", {"text.templates": "[a photo]"}, None, r"text\.templates\.0"),
        ("demo", {}, "runtime: [", r"params\.yaml is not valid YAML: .*; fix or delete it"),
        ("demo", {}, "just text", r"params\.yaml holds no sections"),
    ],
)
def test_mistakes_are_named_with_what_is_valid(
    preset: str, settings: dict[str, str], current: str | None, message: str
) -> None:
    with pytest.raises(CcdError, match=message):
        apply_preset(preset, None, settings, current)


def test_changes_are_listed_in_the_files_order() -> None:
    new = apply_preset(TEMPLATE, "x", {"aggregate.alpha": "0.2", "index.test_split": "null"})
    assert changes(TEMPLATE_TEXT, new) == [
        'dataset.root: "datasets/VOC2012" -> "x"',
        'index.test_split: "val" -> null',
        "aggregate.alpha: 0.4 -> 0.2",
    ]
    assert changes(new, new) == []
    assert changes("a:\n  b: 1\n", "c:\n  d: 2\n") == ["c.d: (absent) -> 2", "a.b: 1 -> (absent)"]


ODD = ["2024", "007", "1e3", "true", "null", "2024-05-01", "~", "[a]", "a: b", "#x", "off", "0x1f", "1_000", "- a",
       "*a", "&a", "!tag", "%a", "{", "it's", "a #b", "'", '"', "1:30", ".inf", "NaN", "<<", "=",
       "größe", " padded"]  # fmt: skip


@pytest.mark.parametrize("text", ODD)
def test_what_is_no_setting_is_never_read_as_yaml(text: str) -> None:
    keys = ("index.classes_file", "index.labels_file", "teacher.model", "teacher.pretrained", "warmup.weights")
    values = parsed(apply_preset("folder", text, {}, values=dict.fromkeys(keys, text)))
    assert values["dataset"]["root"] == text
    assert [values[section][key] for section, key in (name.split(".") for name in keys)] == [text] * len(keys)
    assert is_plain_preset(apply_preset("folder", text, {}))


@pytest.mark.parametrize("text", [text for text in ODD if text not in ("null", "~", " padded")])
def test_a_setting_of_a_text_is_taken_as_written(text: str) -> None:
    values = parsed(apply_preset("folder", None, {"dataset.root": text, "index.labels_file": text}))
    assert values["dataset"]["root"] == values["index"]["labels_file"] == text


def test_a_setting_may_be_quoted_or_null_where_that_means_something() -> None:
    written = {
        "dataset.root": "'a b'",
        "index.labels_file": "null",
        "index.classes_file": '"null"',
        "teacher.model": "null",
    }
    values = parsed(apply_preset("folder", None, written))
    assert values["dataset"]["root"] == "a b" and values["index"]["labels_file"] is None
    assert values["index"]["classes_file"] == "null" and values["teacher"]["model"] == "null"


def test_numbers_in_the_place_of_names_in_the_file_are_told_to_be_quoted() -> None:
    with pytest.raises(CcdError, match=r"dataset\.name = 2024: .*; write quotes around it"):
        validate(DatasetParams, {"name": 2024, "root": "x"})


def test_a_preset_with_anything_of_a_person_is_no_plain_one() -> None:
    plain = apply_preset("voc07", "my VOC", {"runtime.workers": "3"})
    assert is_plain_preset(plain)
    for text in (plain + "# a note\n", plain.replace("epochs: 8", "epochs: 9"), "dataset: 3", "[", ""):
        assert text != plain and not is_plain_preset(text)
