"""The library on several ranks: shares, their order, and training that comes to what one process comes to."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from ccd.errors import CcdError
from ccd.runtime.hardware import (
    Part,
    all_gather,
    from_rank0,
    merged,
    part_of_batch,
    rank_count,
    share,
    this_rank,
)
from ccd.runtime.launch import leave_ranks
from ccd.student.fit import Batches, TrainingResult, train
from ccd.student.objectives import Objective
from ccd.student.step import Optimization, SharedBatchNorm2d
from ccd.student.training_state import merge_rows
from ccd.student.transforms import BatchRows, batch_rows, epoch_order, per_image, step_generator
from tests.toys.many_ranks import on_ranks
from tests.toys.student import KilledError, Memory, colour_patches, tiny_student

IMAGES, BATCH, EPOCHS = 21, 4, 3  # the last batch has one image, which is dropped; on three ranks two have none of it
OBJECTIVE = Objective(1.0, 0.3, label_update_sigma=1.0)  # the one that moves its targets


def join() -> None:
    torch.distributed.init_process_group("gloo")


def test_one_process_has_everything() -> None:
    rows = np.arange(7)
    assert share(rows, 2).tolist() == share(rows).tolist() == rows.tolist()
    assert list(merged(iter("abc"))) == ["a", "b", "c"]
    assert from_rank0(lambda: 3) == 3 and all_gather(4) == [4]
    assert part_of_batch(5) == Part(0, 5, 5)


def test_batches_of_training_go_on_over_the_epochs() -> None:
    """Nine images in batches of four are three steps an epoch; three ranks have 2, 1, 1 of four, and 1, 0, 0 of one."""
    whole = [BatchRows(9, 4, 7, 2, 0, 1)(step) for step in range(6)]
    assert torch.equal(torch.cat(whole[:3]), epoch_order(9, 7, 2)) and [len(rows) for rows in whole[:3]] == [4, 4, 1]
    assert torch.equal(torch.cat(whole[3:]), epoch_order(9, 7, 3))
    parts = [[BatchRows(9, 4, 7, 2, rank, 3)(step) for rank in range(3)] for step in range(6)]
    assert [[len(part) for part in step] for step in parts[:3]] == [[2, 1, 1], [2, 1, 1], [1, 0, 0]]
    assert all(torch.equal(torch.cat(step), rows) for step, rows in zip(parts, whole, strict=True))
    assert batch_rows(9, 4, 7, 2) == BatchRows(9, 4, 7, 2, 0, 1)


def shares() -> None:
    join()
    rows = np.arange(10) * 10
    rank = this_rank()
    assert share(rows, 2).tolist() == [[0, 10, 60, 70], [20, 30, 80, 90], [40, 50]][rank]
    assert share(rows).tolist() == [[0, 10, 20, 30], [40, 50, 60], [70, 80, 90]][rank]
    blocks = iter(np.array_split(share(rows, 2), 2 if rank < 2 else 1))
    expected = [[0, 10], [20, 30], [40, 50], [60, 70], [80, 90]] if rank == 0 else []
    assert [block.tolist() for block in merged(blocks)] == expected
    assert from_rank0(lambda: ["first", rank]) == ["first", 0]
    assert all_gather(rank) == [0, 1, 2]
    assert part_of_batch((3, 0, 2)[rank]) == (Part(0, 3, 5), Part(3, 0, 5), Part(3, 2, 5))[rank]
    assert batch_rows(9, 4, 0, 1) == BatchRows(9, 4, 0, 1, rank, 3)
    values = torch.full((4, 2), 9.0)
    mine = torch.tensor([0, 1, 2, 5]) == rank
    values[mine] = float(rank)
    assert merge_rows(values, mine).tolist() == [True, True, True, False]
    assert values[:, 0].tolist() == [0, 1, 2, 9]
    with pytest.raises(CcdError, match="batch of 2 images cannot be shared by 3"):
        batch_rows(9, 2, 0, 0)
    leave_ranks()


def test_shares_come_back_in_order(tmp_path: Path) -> None:
    for ended in on_ranks(3, tmp_path, shares):
        assert ended.status == 0, ended.said


def test_an_images_random_numbers_are_those_of_one_process() -> None:
    whole = per_image(4, 5, torch.Generator().manual_seed(3))
    parts = [per_image(4, count, step_generator(3, Part(first, count, 5))) for first, count in ((0, 2), (2, 0), (2, 3))]
    assert torch.equal(torch.cat(parts, dim=1), whole)


def batch_norm() -> None:
    """The layer on parts of a batch against torch's on the whole; the third rank has no image."""
    join()
    torch.manual_seed(0)
    pixels = torch.randn(5, 3, 4, 4)
    weights = torch.randn(5, 3, 4, 4)
    mine = slice(*[(0, 2), (2, 5), (5, 5)][this_rank()])
    whole = nn.BatchNorm2d(3)
    shared = SharedBatchNorm2d(3)
    for layer in (whole, shared):
        nn.init.constant_(layer.weight, 1.5)
    one = pixels.clone().requires_grad_()
    part = pixels[mine].clone().requires_grad_()
    for _ in range(2):
        (whole(one) * weights).sum().backward()
        (shared(part) * weights[mine]).sum().backward()
    torch.testing.assert_close(part.grad, one.grad[mine], atol=1e-5, rtol=1e-5)  # type: ignore[index]
    gradients = torch.stack(all_gather(shared.weight.grad)).sum(dim=0)
    torch.testing.assert_close(gradients, whole.weight.grad, atol=1e-4, rtol=1e-5)
    for name, value in whole.state_dict().items():
        torch.testing.assert_close(shared.state_dict()[name], value)
    torch.testing.assert_close(shared.eval()(part), whole.eval()(one)[mine])
    leave_ranks()


def test_batch_norm_sees_the_images_of_all_ranks(tmp_path: Path) -> None:
    for ended in on_ranks(3, tmp_path, batch_norm):
        assert ended.status == 0, ended.said


def trained(state: Memory | None = None, die_at: int | None = None) -> TrainingResult:
    pixels, targets = colour_patches(IMAGES)

    def batches(epoch: int) -> Batches:
        if epoch == die_at:
            raise KilledError
        order = epoch_order(IMAGES, 0, epoch)
        mine = [batch.tensor_split(rank_count())[this_rank()] for batch in order.split(BATCH)]
        return [(rows, pixels[rows]) for rows in mine]

    student = tiny_student()
    student.backbone[0].bias.requires_grad_(
        False
    )  # BatchNorm cancels it: its gradient is rounding, its way by Adam noise
    return train(
        student,
        batches,
        targets,
        OBJECTIVE,
        optimization=Optimization(EPOCHS, 1e-3, 10),
        seed=5,
        device=torch.device("cpu"),
        state=state,
    )


def training(path: Path) -> None:
    """Rank 0's result, of a training that was killed and went on with what rank 0 had kept."""
    join()
    state = Memory()
    with pytest.raises(KilledError):
        trained(state, die_at=2)
    assert (state.content is not None) == (this_rank() == 0)
    if state.content is not None:
        path.with_suffix(".state").write_bytes(state.content)
    result = trained(state)
    states = all_gather(torch.cat([value.double().flatten() for value in result.last.values()]))
    assert all(torch.equal(states[0], other) for other in states)
    if this_rank() == 0:
        torch.save([result.last, result.average, result.records], path)
    leave_ranks()


@pytest.mark.parametrize("world", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_training_on_ranks_comes_to_what_one_process_comes_to(world: int, tmp_path: Path) -> None:
    """Weights within 1e-4: what differs is the rounding of sums, which Adam enlarges."""
    for ended in on_ranks(world, tmp_path, training, tmp_path / "result.pt"):
        assert ended.status == 0, ended.said
    last, average, records = torch.load(tmp_path / "result.pt", weights_only=False)
    one = trained()
    state = Memory()
    state.content = (tmp_path / "result.state").read_bytes()
    resumed = trained(state)  # ranks were killed, one process goes on
    assert len(resumed.records) == EPOCHS and resumed.records[0] == records[0]
    for found, expected in ((last, one.last), (average, one.average), (resumed.last, one.last)):
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            torch.testing.assert_close(found[name], value, atol=1e-4, rtol=1e-4)
    for found, expected in zip(records, one.records, strict=True):
        assert found.images == expected.images == 20
        assert found.loss == pytest.approx(expected.loss, abs=1e-5)
        assert found.parts == pytest.approx(expected.parts, abs=1e-5)
        assert found.map_percent == pytest.approx(expected.map_percent, abs=0.5)
