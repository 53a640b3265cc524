from __future__ import annotations

from math import nan

import pytest
import torch
from hypothesis import given, strategies as st

from ccd.student.step import cpu_weights
from ccd.student.training_state import (
    EarlyStopTracker,
    WeightAverage,
    early_stop_epoch,
    first_local_minimum,
)


@pytest.mark.parametrize(
    ("gains", "expected"),
    [
        ([3.0, 1.0, 2.0], 1),
        ([3.0, 2.0, 1.0, -1.0, 0.5, -4.0, 1.0], 3),
        ([3.0, 1.0], None),  # not confirmed yet
        ([3.0, 2.0, 1.0], None),
        ([1.0, 2.0, 3.0], None),  # the first value is no minimum
        ([1.0, 2.0, 1.5, 1.6], 2),
        ([3.0, 1.0, 1.0, 2.0], 1),  # first of a flat bottom
        ([3.0, 1.0, 1.0, 0.5], None),  # a step is no bottom
        ([0.0, 0.0, 1.0], None),
        ([nan, nan, nan], None),
        ([], None),
    ],
)
def test_first_local_minimum(gains: list[float], expected: int | None) -> None:
    assert first_local_minimum(gains) == expected


def test_early_stop_epoch_by_hand() -> None:
    """m = 50 60 64 66 71: gains 10 4 2 5, so the gain of epoch 3 is the first minimum, confirmed by epoch 4."""
    assert early_stop_epoch([50, 60, 64, 66, 71]) == 3
    assert early_stop_epoch([50, 60, 64, 66]) is None
    assert early_stop_epoch([50]) is None
    assert early_stop_epoch([]) is None


@given(st.lists(st.integers(-5, 5).map(float), max_size=12))
def test_the_tracker_keeps_the_weights_that_the_whole_curve_asks_for(m: list[float]) -> None:
    tracker = EarlyStopTracker()
    kept = None
    for epoch, value in enumerate(m):
        if tracker.update(value):
            kept = epoch
    assert tracker.epoch == early_stop_epoch(m)
    if tracker.epoch is not None:
        assert kept == tracker.epoch


@given(st.lists(st.floats(-10, 10), max_size=10), st.floats(-10, 10))
def test_a_decision_is_never_revised(m: list[float], later: float) -> None:
    before = early_stop_epoch(m)
    if before is not None:
        assert early_stop_epoch([*m, later]) == before


def test_average_of_weights_by_hand() -> None:
    average = WeightAverage()
    for value in (1.0, 2.0, 6.0):
        average.update({"w": torch.tensor([value, -value]), "steps": torch.tensor(int(value))})
    torch.testing.assert_close(average.weights["w"], torch.tensor([3.0, -3.0]))
    assert average.weights["steps"].dtype == torch.int64
    assert int(average.weights["steps"]) == 6


def test_copies_are_independent_of_later_training() -> None:
    layer = torch.nn.BatchNorm2d(2)
    kept = cpu_weights(layer)
    average = WeightAverage()
    average.update(kept)
    average.update(kept)
    with torch.no_grad():
        layer.weight.add_(1)
    assert kept["weight"].tolist() == [1, 1]
    assert average.weights["weight"].tolist() == [1, 1]
    assert layer.weight.tolist() == [2, 2]
