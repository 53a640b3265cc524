"""A training that is killed and started again ends as one that was not."""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

from ccd.student.fit import Batches, TrainingResult, train
from ccd.student.objectives import Objective
from ccd.student.step import Optimization
from tests.toys.student import KilledError, Memory, batches_of, colour_patches, tiny_student

EPOCHS = 6


OBJECTIVE = Objective(1.0, 0.3, label_update_sigma=1.0)  # the one that moves its targets


def run(
    state: Memory | None,
    die_at: tuple[int, int] | None = None,
    on_step: Callable[[int, int, float], None] | None = None,
) -> tuple[TrainingResult, list[int]]:
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
        on_step=on_step,
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


class Slow(Memory):
    """A state file on a slow disk: a state is written when the next epoch has done a step."""

    def __init__(self) -> None:
        super().__init__()
        self.stepped = threading.Event()
        self.writers: list[threading.Thread] = []

    def save(self, content: bytes | memoryview) -> None:
        self.stepped.wait(timeout=5)
        self.stepped.clear()
        self.writers.append(threading.current_thread())
        super().save(content)


def test_a_state_is_written_while_the_next_epoch_trains_and_is_of_its_own_epoch() -> None:
    whole, _ = run(None)
    state = Slow()
    with pytest.raises(KilledError):
        run(state, (3, 4), on_step=lambda epoch, step, loss: state.stepped.set() if epoch and step == 1 else None)
    assert len(state.writers) == 3 and threading.main_thread() not in state.writers
    resumed, begun = run(state, on_step=lambda epoch, step, loss: state.stepped.set())
    assert begun == [3, 4, 5] and same(resumed, whole)


def test_a_state_that_cannot_be_written_ends_the_training_with_the_reason() -> None:
    class Full(Memory):
        def save(self, content: bytes | memoryview) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        run(Full())


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
