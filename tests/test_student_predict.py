from __future__ import annotations

import pytest
import torch

from ccd.student.inference import predict
from ccd.student.objectives import Outcome
from ccd.student.training_state import EpochMeter
from ccd.student.transforms import derived_seed, epoch_order
from tests.toys.student import colour_patches, tiny_student

CPU = torch.device("cpu")


def test_meter_by_hand() -> None:
    """Means weighted by batch size; image 3 is never seen; class 1 has no positive and does not count."""
    targets = torch.tensor([[0.9, 0.1], [0.5, 0.0], [0.4, 0.2], [1.0, 1.0]])
    meter = EpochMeter(targets, start_s=0.0)
    meter.add(torch.tensor([2, 0]), _outcome(3.0, [[2.0, 0.0], [1.0, 0.0]]))
    meter.add(torch.tensor([1]), _outcome(6.0, [[3.0, 0.0]]))
    record = meter.record(epoch=4)
    assert (record.epoch, record.images, record.loss) == (4, 3, 4.0)
    assert record.parts == {"half": 2.0}
    assert record.map_percent == pytest.approx(100 * (1 + 2 / 3) / 2)  # ranked: hit, miss, hit


def _outcome(loss: float, logits: list[list[float]]) -> Outcome:
    return Outcome(torch.tensor(loss), {"half": torch.tensor(loss / 2)}, torch.tensor(logits))


def test_orders_are_permutations_that_depend_on_seed_and_epoch() -> None:
    assert sorted(epoch_order(50, 0, 0).tolist()) == list(range(50))
    assert torch.equal(epoch_order(50, 3, 4), epoch_order(50, 3, 4))
    assert not torch.equal(epoch_order(50, 3, 4), epoch_order(50, 4, 3))
    assert len({derived_seed(seed, epoch, 0) for seed in range(10) for epoch in range(10)}) == 100


def test_predict_does_not_learn_flip_or_leak_its_modes() -> None:
    pixels, _ = colour_patches(6)
    student = tiny_student()
    state = {key: value.clone() for key, value in student.state_dict().items()}
    whole = [(torch.arange(6), pixels)]
    for rows, logits, cam in predict(student, whole, CPU):
        assert torch.is_grad_enabled() and not torch.is_autocast_enabled("cpu")
        assert rows.tolist() == list(range(6))
        assert logits.shape == (6, 3) and cam.shape == (6, 3, 4, 4)
        assert logits.dtype == cam.dtype == torch.float32
    assert all(torch.equal(state[key], value) for key, value in student.state_dict().items())
    single = torch.cat(
        [logits for _, logits, _ in predict(student, [(r, pixels[r]) for r in torch.arange(6).split(1)], CPU)]
    )
    torch.testing.assert_close(single, logits, atol=1e-5, rtol=1e-5)
    rough = next(iter(predict(student, whole, CPU, "bf16")))[1]
    torch.testing.assert_close(rough, logits, atol=0.1, rtol=0.05)
    assert rough.dtype == torch.float32
