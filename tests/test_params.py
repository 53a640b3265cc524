"""params.yaml is read strictly, and every error says what, where and what to do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, strategies as st

from ccd.errors import CcdError
from ccd.params.aggregate import AggregateParams
from ccd.params.base import load, read_yaml, validate
from ccd.params.bias import BiasParams
from ccd.params.sections import SECTIONS
from ccd.params.text import TextParams
from ccd.params.train import TrainParams

PAPER = Path(__file__).parent.parent / "ccd/presets/paper.yaml"


def test_the_papers_values() -> None:
    values = read_yaml(PAPER)
    assert values["bias"]["max_entropy_nats"] == 2.0
    assert values["aggregate"]["alpha"] == 0.4
    assert values["global_labels"]["floor"] == 1 / 20
    assert (
        values["warmup"] | {"epochs": 2, "lr": 1e-5, "batch_size": 16, "head_lr_multiplier": 10.0} == values["warmup"]
    )
    assert values["train"]["epochs"] + values["warmup"]["epochs"] == 10
    assert values["cam_boxes"]["offset"] * values["cam_boxes"]["image_size_px"] == 80
    assert values["cam_boxes"]["cam_threshold"] == 0.95


@pytest.mark.parametrize("model", SECTIONS, ids=lambda model: model.section)
def test_every_section_of_the_template_is_valid_and_complete(model: Any, root: Path) -> None:
    load(model, PAPER)
    load(model, root / "params.yaml")


def test_the_template_has_no_section_without_a_model(root: Path) -> None:
    names = {model.section for model in SECTIONS}
    assert set(read_yaml(PAPER)) == names == set(read_yaml(root / "params.yaml"))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"alpha": 0.4, "beta": 1},
            "unknown key 'aggregate.beta'; valid keys of 'aggregate': alpha, contest, contest_iou",
        ),
        ({}, "key 'aggregate.alpha' is missing"),
        ({"alpha": "0.4"}, "aggregate.alpha = '0.4': Input should be a valid number"),
        ({"alpha": 1.5}, "aggregate.alpha = 1.5: Input should be less than or equal to 1"),
        ({"alpha": float("nan")}, "aggregate.alpha = nan"),
        (None, "section 'aggregate' is missing; its keys are: alpha, contest, contest_iou"),
    ],
)
def test_a_bad_value_is_named(values: object, message: str) -> None:
    with pytest.raises(CcdError) as error:
        validate(AggregateParams, values)
    assert message in str(error.value)


def test_every_bad_value_is_named_at_once() -> None:
    with pytest.raises(CcdError) as error:
        validate(BiasParams, {"enabled": "yes", "max_entropy_nats": 0, "shrinkage": -1})
    assert [key in str(error.value) for key in ("bias.enabled", "bias.max_entropy_nats", "bias.shrinkage")] == [
        True
    ] * 3


@pytest.mark.parametrize("template", ["no place", "{} and {}", "{class}", ""])
def test_a_template_has_one_place_for_the_class(template: str) -> None:
    with pytest.raises(CcdError, match=r"text\.templates\.0"):
        validate(TextParams, {"templates": [template], "class_texts": {}, "logit_scale": None})


def test_numbers_read_as_dvc_reads_them(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(PAPER.read_text().replace("lr: 1.0e-5", "lr: 1e-5"))
    assert load(TrainParams, path).lr == 1e-5


@pytest.mark.parametrize(("text", "message"), [("a: [", "not valid YAML"), ("", "no sections"), ("- 1", "no sections")])
def test_a_broken_file_is_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(text)
    with pytest.raises(CcdError, match=message):
        read_yaml(path)


def test_a_missing_file_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(CcdError, match="ccd init DIR --images FOLDER"):
        read_yaml(tmp_path / "params.yaml")


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@given(st.sampled_from(SECTIONS), st.data())
def test_no_value_gives_anything_but_a_model_or_a_clear_error(model: Any, data: st.DataObject) -> None:
    valid = dict(read_yaml(PAPER)[model.section])
    key = data.draw(st.sampled_from(sorted(valid)) | st.text(max_size=5))
    try:
        validate(model, valid | {key: data.draw(anything)})
    except CcdError as error:
        assert key in str(error)
