"""A training that is killed and started again ends as one that was not."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from ccd.student.fit import Batches, TrainingResult, train
from ccd.student.objectives import Objective
from ccd.student.step import Optimization
from tests.toys.student import KilledError, Memory, batches_of, colour_patches, tiny_student

EPOCHS = 6


OBJECTIVE = Objective(1.0, 0.3, label_update_sigma=1.0)  # the one that moves its targets


def run(state: Memory | None, die_at: tuple[int, int] | None = None) -> tuple[TrainingResult, list[int]]:
    """Train; ``die_at`` is an epoch and a step. Returns also the epochs that were begun."""
    pixels, targets = colour_patches(40)
    begun: list[int] = []

    def batches(epoch: int) -> Batches:
        begun.append(epoch)
        return dying(epoch)

    def dying(epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        for step, batch in enumerate(batches_of(pixels, 8)(epoch)):
            if (epoch, step) == die_at:
                raise KilledError
            yield batch

    result = train(
        tiny_student(),
        batches,
        targets,
        OBJECTIVE,
        optimization=Optimization(EPOCHS, 3e-3, 10),
        seed=5,
        device=torch.device("cpu"),
        state=state,
    )
    return result, begun


def same(one: TrainingResult, other: TrainingResult) -> bool:
    pairs = [(one.last, other.last), (one.average, other.average), (one.early_stop or {}, other.early_stop or {})]
    return one.early_stop_epoch == other.early_stop_epoch and all(
        a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a) for a, b in pairs
    )


@pytest.mark.parametrize("die_at", [(0, 2), (1, 0), (3, 4), (5, 1)])
def test_a_killed_training_redoes_less_than_an_epoch_and_ends_the_same(die_at: tuple[int, int]) -> None:
    whole, _ = run(None)
    state = Memory()
    with pytest.raises(KilledError):
        run(state, die_at)
    resumed, begun = run(state)
    assert begun == list(range(die_at[0], EPOCHS))
    assert same(resumed, whole)
    strip = [(record.loss, record.parts, record.map_percent) for record in resumed.records]
    assert strip == [(record.loss, record.parts, record.map_percent) for record in whole.records]


def test_a_finished_training_is_not_repeated() -> None:
    state = Memory()
    first, _ = run(state)
    again, begun = run(state)
    assert begun == [] and same(first, again)


def test_a_damaged_state_means_a_fresh_start() -> None:
    state = Memory()
    with pytest.raises(KilledError):
        run(state, (3, 0))
    assert state.content is not None
    state.content = state.content[: len(state.content) // 2]
    resumed, begun = run(state)
    assert begun == list(range(EPOCHS)) and same(resumed, run(None)[0])
