"""Presets, recipes and settings become a params.yaml that every section accepts, with the template's comments."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from ruamel.yaml import YAML

from ccd.cli.main import main
from ccd.errors import CcdError
from ccd.params import presets as presets_module, recipes as recipes_module
from ccd.params.file import validate
from ccd.params.presets import (
    PRESET_FOLDER,
    TEMPLATE,
    apply_preset,
    changes,
    is_plain_preset,
    override,
    presets,
    upgraded_params,
)
from ccd.params.recipes import HARDWARE, RECIPES, own_values, recipe_of
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
    stated = parsed((PRESET_FOLDER / f"{preset}.yaml").read_text(encoding="utf-8"))
    stated.pop("recommended", None)
    for section, values in stated.items():
        expected[section] |= values
    assert parsed(text) == expected
    assert comments(text) == comments(TEMPLATE_TEXT)
    assert len(presets()[preset]) > 20


def test_names_of_presets_do_not_share_a_data_folder() -> None:
    names = [
        parsed((PRESET_FOLDER / f"{preset}.yaml").read_text())["dataset"]["name"]
        for preset in presets()
        if preset != TEMPLATE
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
        "cache_gb": 20.0,
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


OVERLAY = """\
# a summary
global_labels:
  floor: 0.0
train:
  epochs: 16
  checkpoint: last
  lr: 3.0e-5
"""
OF_THE_DEMO = """
recommended:
  train:
    lr: 1.0e-3
    epochs: 12
"""
HEADER = """\
# View: a crop of an image that CLIP reads by itself.
#
# Recipe: recommended; {}

dataset:
"""


@pytest.fixture()
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Presets with a recommended recipe of three values, and a block in the demo's; its folder."""
    folder = tmp_path / "presets"
    folder.mkdir()
    for path in PRESET_FOLDER.glob("*.yaml"):
        (folder / path.name).write_text(path.read_text().partition("\nrecommended:")[0])
    (folder / "recommended.yaml").write_text(OVERLAY)
    demo = parsed((folder / "demo.yaml").read_text())
    assert "recommended" not in demo and (demo["train"]["lr"], demo["train"]["epochs"]) == (1e-3, 8)
    with (folder / "demo.yaml").open("a") as file:
        file.write(OF_THE_DEMO)
    for module in (presets_module, recipes_module):
        monkeypatch.setattr(module, "PRESET_FOLDER", folder)
    return folder


@pytest.mark.usefixtures("toy")
def test_the_recommended_recipe_is_the_preset_with_its_values_and_a_header() -> None:
    text = apply_preset("voc07", "VOC", {}, recipe="recommended")
    paper = apply_preset("voc07", "VOC", {})
    assert changes(paper, text) == [
        "recipe: paper -> recommended",
        "global_labels.floor: 0.05 -> 0.0",
        "train.epochs: 8 -> 16",
        "train.lr: 1e-05 -> 3e-05",
        'train.checkpoint: "early_stop" -> "last"',
    ]
    names = "global_labels.floor, train.epochs, train.checkpoint,\n#   train.lr"
    assert HEADER.format(f"values that differ from the paper's recipe: {names}") in text
    assert "  floor: 0.0                  # eps of clip" in text and "  lr: 3.0e-5\n" in text
    assert comments(text.partition("\n\n")[2]) == comments(paper.partition("\n\n")[2])


@pytest.mark.usefixtures("toy")
def test_a_preset_may_recommend_other_values() -> None:
    text = apply_preset("demo", None, {}, recipe="recommended")
    values = parsed(text)
    assert (values["train"]["lr"], values["train"]["epochs"], values["train"]["checkpoint"]) == (1e-3, 12, "last")
    listed = "global_labels.floor, train.epochs, train.checkpoint"
    assert HEADER.format(f"values that differ from the paper's recipe: {listed}") in text, "lr is the demo's own"
    assert "recommended" not in values and parsed(apply_preset("demo", None, {}))["train"]["epochs"] == 8


@pytest.mark.usefixtures("toy")
def test_what_the_user_sets_wins_and_the_header_knows() -> None:
    settings = {"train.epochs": "16", "train.lr": "1e-5", "train.checkpoint": "average", "aggregate.alpha": "0.2"}
    text = apply_preset("voc07", None, settings, recipe="recommended")
    listed = "global_labels.floor, train.epochs"
    assert (
        HEADER.format(
            f"values that differ from the paper's recipe: {listed}\n#   not the recipe's: train.checkpoint, train.lr"
        )
        in text
    )
    assert recipe_of(parsed(text)) == "own values"
    back = {"global_labels.floor": "0.05", "train.epochs": "8", "train.lr": "1e-5", "train.checkpoint": "early_stop"}
    assert "Recipe" not in apply_preset("voc07", None, back, recipe="recommended"), "all values are the paper's"
    assert "recipe's: train.epochs" in override(
        apply_preset("voc07", None, {}, recipe="recommended"), {"train.epochs": "9"}
    )
    assert "Recipe" not in override(apply_preset("voc07", None, {}), {"train.epochs": "9"})


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("preset", presets())
@pytest.mark.usefixtures("toy")
def test_a_recipe_is_told_from_the_values(preset: str, recipe: str) -> None:
    text = apply_preset(preset, "anywhere", {"dataset.name": "anything"}, recipe=recipe)
    for changed, told in (
        ({}, recipe),
        ({"aggregate.alpha": "0.1", "teacher.model": "clip.pt", "train.image_size_px": "96"}, recipe),
        ({"global_labels.floor": "0.01"}, "own values"),
        ({"global_labels.floor": "0.05" if recipe == "recommended" else "0.0"}, "own values"),
    ):
        values = parsed(override(text, changed))
        assert recipe_of(values) == told, changed
        del values["dataset"], values["runtime"]
        assert recipe_of(values) == told, "as the report has them"
    assert is_plain_preset(apply_preset(preset, "anywhere", {"runtime.workers": "3"}, recipe=recipe))
    assert not is_plain_preset(override(text, {"global_labels.floor": "0.01"}))
    assert recipe_of({}) == "own values" == recipe_of({"train": 3})


@pytest.mark.parametrize("hardware", HARDWARE)
@pytest.mark.usefixtures("toy")
def test_what_suits_the_hardware_is_no_value_of_ones_own(hardware: str) -> None:
    values = parsed(apply_preset("folder", None, {"teacher.model": "x.pt"}, values=HARDWARE[hardware]))
    assert recipe_of(values) == "paper"
    values["train"]["lr"] = 1e-5 if values["train"]["lr"] == 1e-4 else 1e-4
    assert own_values(values, "paper") == ["train.lr"], "the learning rate of other hardware"


def test_an_upgrade_says_what_is_recommended_now(toy: Path) -> None:
    old = apply_preset("voc07", "VOC", {"aggregate.alpha": "0.2"}, recipe="recommended")
    assert upgraded_params(old) == old
    (toy.parent / "newer").mkdir()
    newer = shutil.copytree(toy, toy.parent / "newer/presets")
    (newer / "recommended.yaml").write_text(OVERLAY.replace("epochs: 16", "epochs: 20").replace("  lr: 3.0e-5\n", ""))
    with pytest.MonkeyPatch.context() as patch:
        for module in (presets_module, recipes_module):
            patch.setattr(module, "PRESET_FOLDER", newer)
        new = upgraded_params(old)
        assert upgraded_params(new) == new
    assert parsed(new) == parsed(old)
    listed = "global_labels.floor, train.checkpoint\n#   not the recipe's: train.epochs"
    assert HEADER.format(f"values that differ from the paper's recipe: {listed}") in new


def test_a_recipe_of_many_values_is_wrapped_and_replaced_as_a_whole(toy: Path) -> None:
    paper = parsed(TEMPLATE_TEXT)
    keys = ("epochs", "batch_size", "lr", "head_lr_multiplier", "image_size_px")
    changed = {section: {key: paper[section][key] * 2 for key in keys} for section in ("warmup", "train")}
    with (toy / "recommended.yaml").open("w") as file:
        YAML().dump(changed, file)
    text = apply_preset("voc07", None, {}, recipe="recommended")
    header = text.split("\n\n")[0].splitlines()[6:]
    assert len(header) == 3 and max(map(len, header)) <= 120
    assert override(text, {}) == text == upgraded_params(text)
    back = {f"{section}.{key}": str(paper[section][key]) for section in changed for key in keys}
    assert parsed(override(text, back)) == parsed(apply_preset("voc07", None, {}))
    assert override(text, back).split("\n\n")[0] == TEMPLATE_TEXT.split("\n\n")[0]


@pytest.mark.parametrize(
    ("line", "message"),
    [("trian: {lr: 1}", "unknown section 'trian'"), ("train: {lrr: 1}", r"unknown key 'train\.lrr'")],
)
def test_keys_of_a_recipe_are_checked(toy: Path, line: str, message: str) -> None:
    (toy / "voc12.yaml").write_text((toy / "voc12.yaml").read_text() + f"recommended:\n  {line}\n")
    with pytest.raises(CcdError, match=message):
        apply_preset("voc12", None, {}, recipe="recommended")
    with pytest.raises(CcdError, match="unknown recipe 'best'; the recipes are: paper, recommended"):
        apply_preset("voc12", None, {}, recipe="best")
    assert recipe_of(parsed(apply_preset("voc12", None, {}))) == "paper"


def use(*words: str) -> str:
    done = CliRunner().invoke(main, ["use", *words])
    assert done.exit_code == 0, done.output
    return done.stdout


def test_use_takes_the_papers_recipe_but_for_the_demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = Path("params.yaml")
    for words, text in (
        (("demo",), apply_preset("demo", None, {}, recipe="recommended")),
        (("demo", "--recipe", "paper"), apply_preset("demo", None, {})),
        (("voc12",), apply_preset("voc12", None, {})),
        (("folder", "--recipe", "recommended"), apply_preset("folder", None, {}, recipe="recommended")),
    ):
        said = use(*words)
        assert path.read_text() == text
        assert f"\nrecipe: {recipe_of(parsed(text))}\n" in said
    assert "recipe: recommended -> paper" in use("folder")
    assert not list(Path().glob("*.bak")), "a recipe's values can be made again"
    assert "\nrecipe: recommended, but for train.epochs\n" in use("demo", "--set", "train.epochs=99")
    told = json.loads(use("demo", "--set", "train.epochs=99", "--json"))
    assert (told["recipe"], told["own_values"]) == ("recommended", ["train.epochs"])


def test_use_alone_and_the_shell_know_the_recipes() -> None:
    assert list(presets()) == sorted(path.stem for path in PRESET_FOLDER.glob("*.yaml") if path.stem != "recommended")
    lines = use().splitlines()
    start = lines.index("recipes (--recipe; default: recommended for demo, paper for every other preset):")
    assert [line.split()[0] for line in lines[start + 1 :]] == ["paper", "recommended"]
    told = json.loads(use("--json"))
    assert list(told["recipes"]) == ["paper", "recommended"] and set(told["default_recipes"]) == set(told["presets"])
    assert {preset for preset, recipe in told["default_recipes"].items() if recipe == "recommended"} == {"demo"}
    done = CliRunner().invoke(
        main,
        prog_name="ccd",
        env={"_CCD_COMPLETE": "bash_complete", "COMP_WORDS": "ccd use demo --recipe r", "COMP_CWORD": "4"},
    )
    assert done.stdout.split() == ["plain,recommended"]


def test_a_folder_that_is_not_there_is_said_and_a_url_is_not_looked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    missing = CliRunner().invoke(main, ["use", "folder", "--root", "photos", "--force"])
    assert missing.exit_code == 0 and "photos does not exist yet" in missing.output
    remote = CliRunner().invoke(main, ["use", "folder", "--root", "s3://bucket/photos", "--force"])
    assert remote.exit_code == 0 and "does not exist" not in remote.output
