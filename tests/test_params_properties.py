"""What no section may ever do, whatever params.yaml holds."""

from __future__ import annotations

import json
import math
import operator
import typing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from ccd.errors import CcdError
from ccd.params.base import Section, load, read_yaml, validate
from ccd.params.sections import SECTIONS
from tests.faults import parameters

VALUES = read_yaml(Path(__file__).parent.parent / "ccd/presets/paper.yaml")
FIELDS = [(model, key) for model in SECTIONS for key in model.model_fields]
WRONG_TYPES = st.one_of(
    st.dictionaries(st.sampled_from(["a", "b"]), st.integers(), min_size=1),
    st.lists(st.integers(), min_size=1, max_size=3),
    st.tuples(st.text(max_size=3)).map(list),
    st.binary(max_size=4),
    st.dates(),
)
numbers = st.integers() | st.floats() | st.booleans()


def accepted(model: type[Section], key: str, value: object) -> bool:
    try:
        validate(model, VALUES[model.section] | {key: value})
    except CcdError as error:
        assert f"params.yaml: {model.section}.{key}" in str(error) and len(str(error)) < 2000
        return False
    return True


@pytest.mark.parametrize(("model", "key"), FIELDS, ids=lambda part: getattr(part, "section", part))
@settings(max_examples=25)
@given(value=WRONG_TYPES)
def test_a_wrong_type_is_refused(model: type[Section], key: str, value: object) -> None:
    texts = isinstance(value, list) and all(isinstance(item, str) and item for item in value)
    templates = isinstance(value, list) and texts and all(item.count("{}") == 1 for item in value)
    fits = {"templates": templates, "background_texts": texts}
    assert not accepted(model, key, value) or fits.get(key, False)


@pytest.mark.parametrize(("model", "key"), FIELDS, ids=lambda part: getattr(part, "section", part))
@settings(max_examples=40)
@given(value=numbers)
def test_a_number_is_accepted_within_its_bounds_alone(model: type[Section], key: str, value: float) -> None:
    """The bounds are read from the model by other means than pydantic's."""
    field = model.model_fields[key]
    kinds = {field.annotation, *typing.get_args(field.annotation)}
    if isinstance(value, bool):
        fits = bool in kinds
    elif isinstance(value, float):
        fits = float in kinds and math.isfinite(value) and within(field.metadata, value)
    else:
        fits = bool({int, float} & kinds) and within(field.metadata, value)
    if isinstance(value, int) and float in kinds and abs(value) > 2**53:
        return  # as a float it is another number
    assert accepted(model, key, value) == fits


def within(bounds: list[Any], value: float) -> bool:
    """The names of a bound's attributes are those of Python's comparisons."""
    names = ("ge", "gt", "le", "lt")
    limits = [(name, getattr(each, name)) for each in bounds for name in names if hasattr(each, name)]
    return all(getattr(operator, name)(value, limit) for name, limit in limits)


@pytest.mark.parametrize("model", SECTIONS, ids=lambda model: model.section)
@settings(max_examples=25)
@given(data=st.data())
def test_unknown_and_missing_keys_are_named_together(model: type[Section], data: st.DataObject) -> None:
    valid = VALUES[model.section]
    gone = data.draw(st.sets(st.sampled_from(sorted(valid))))
    extra = data.draw(st.sets(st.text(min_size=1, max_size=6).filter(lambda key: key not in valid), max_size=3))
    content = {key: value for key, value in valid.items() if key not in gone} | dict.fromkeys(extra, 1)
    if not gone and not extra:
        assert validate(model, content)
        return
    with pytest.raises(CcdError) as caught:
        validate(model, content)
    said = str(caught.value)
    assert all(f"key '{model.section}.{key}' is missing" in said for key in gone)
    assert all(f"unknown key '{model.section}.{key}'; valid keys" in said for key in extra)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(data=st.binary(max_size=60) | st.text("{}[]:-&*!|>#'\"\n ab1.~", max_size=40).map(str.encode))
def test_any_bytes_are_a_mapping_or_a_clear_error(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_bytes(data)
    try:
        content = read_yaml(path)
    except CcdError as error:
        assert str(path) in str(error)
        return
    assert isinstance(content, dict)


def test_every_bound_of_the_models_is_met_by_a_case() -> None:
    """The table of bad values cannot fall behind the models."""
    for model, key in FIELDS:
        refused = [value for name, value in parameters.values(model) if name == key]
        assert len(refused) == 1 + len(model.model_fields[key].metadata) + parameters.extra(model.model_fields[key])
        assert not any(accepted(model, key, value) for value in refused), json.dumps(refused, default=repr)


@pytest.mark.parametrize("model", SECTIONS, ids=lambda model: model.section)
def test_what_is_valid_stays_valid_as_json(model: type[Section], tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text(json.dumps(VALUES))
    assert load(model, tmp_path / "params.yaml").model_dump() == VALUES[model.section]
