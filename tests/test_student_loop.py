from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from ccd.errors import CcdError
from ccd.student.fit import TrainingResult, train
from ccd.student.inference import predict
from ccd.student.model import Student, StudentSpec, build_student
from ccd.student.objectives import Objective, Outcome, Views
from ccd.student.step import Optimization
from ccd.student.transforms import epoch_order
from tests.toys.student import Memory, batches_of, colour_patches, tiny_student

CPU = torch.device("cpu")
WARMUP = Objective()


def run(
    student: Student,
    pixels: Tensor,
    targets: Tensor,
    *,
    epochs: int = 2,
    lr: float = 1e-3,
    seed: int = 0,
    batch_size: int = 8,
    objective: Objective = WARMUP,
) -> TrainingResult:
    optimization = Optimization(epochs=epochs, lr=lr, head_lr_multiplier=10)
    batches = batches_of(pixels, batch_size)
    return train(student, batches, targets, objective, optimization=optimization, seed=seed, device=CPU)


def saved_bytes(weights: dict[str, Tensor]) -> bytes:
    buffer = io.BytesIO()
    torch.save(weights, buffer)
    return buffer.getvalue()


def test_learns_a_learnable_toy_with_each_objective() -> None:
    pixels, targets = colour_patches(64)
    for objective in (Objective(), Objective(1.0, 0.2)):
        student = tiny_student()
        result = run(student, pixels, targets, epochs=12, lr=3e-3, objective=objective)
        assert result.records[-1].parts["bce"] < 0.6 * result.records[0].parts["bce"]
        assert result.records[-1].map_percent > 95
        logits = torch.cat([logits for _, logits, _ in predict(student, batches_of(pixels, 64)(0), CPU)])
        order = epoch_order(64, 0, 0)
        assert ((logits > 0) == (targets[order] > 0.5)).float().mean() > 0.9


def test_same_seed_same_bytes_and_other_seed_other_flips() -> None:
    pixels, targets = colour_patches(20)
    objective = Objective(1.0, 0.5)
    first = run(tiny_student(), pixels, targets, objective=objective)
    torch.rand(3)  # the state of the global generator must not matter
    again = run(tiny_student(), pixels, targets, objective=objective)
    other = run(tiny_student(), pixels, targets, objective=objective, seed=1)
    assert saved_bytes(first.last) == saved_bytes(again.last)
    assert saved_bytes(first.average) == saved_bytes(again.average)
    assert not torch.equal(first.last["head.weight"], other.last["head.weight"])


def test_stochastic_depth_repeats_too() -> None:
    spec = StudentSpec("efficientnet_b0", ("a", "b"), 3.0, 32)
    pixels, targets = colour_patches(4, classes=2)
    results = []
    for _ in range(2):
        student = build_student(spec, "none", seed=0)
        results.append(run(student, pixels, targets, epochs=1, batch_size=4).last)
        torch.rand(1)
    assert all(torch.equal(results[0][key], results[1][key]) for key in results[0])


def test_consistency_off_equals_the_warm_up_loop() -> None:
    pixels, targets = colour_patches(16)
    off = run(tiny_student(), pixels, targets, objective=Objective(0.0, 0.5))
    warmup = run(tiny_student(), pixels, targets)
    assert saved_bytes(off.last) == saved_bytes(warmup.last)


def test_head_learns_faster_by_the_multiplier() -> None:
    """Adam's first step moves every weight by its learning rate."""
    pixels, targets = colour_patches(8)
    student = tiny_student()
    before = {key: value.clone() for key, value in student.state_dict().items()}
    after = run(student, pixels, targets, epochs=1, lr=1e-4).last
    head = (after["head.weight"] - before["head.weight"]).abs().max()
    body = (after["backbone.0.weight"] - before["backbone.0.weight"]).abs().max()
    assert float(head) == pytest.approx(1e-3, rel=0.01)
    assert float(body) == pytest.approx(1e-4, rel=0.01)


def test_the_average_is_that_of_the_second_half_of_the_epochs_ends() -> None:
    pixels, targets = colour_patches(16)
    one, two, three = (run(tiny_student(), pixels, targets, epochs=epochs) for epochs in (1, 2, 3))
    expected = (two.last["head.weight"] + three.last["head.weight"]) / 2
    torch.testing.assert_close(three.average["head.weight"], expected)
    torch.testing.assert_close(one.average["head.weight"], one.last["head.weight"])
    torch.testing.assert_close(two.average["head.weight"], two.last["head.weight"])
    mean = (two.last["backbone.1.running_mean"] + three.last["backbone.1.running_mean"]) / 2
    torch.testing.assert_close(three.average["backbone.1.running_mean"], mean)
    assert int(three.average["backbone.1.num_batches_tracked"]) == 6
    assert two.early_stop is None and two.early_stop_epoch is None


def test_early_stop_keeps_the_weights_of_the_gains_first_minimum(monkeypatch: pytest.MonkeyPatch) -> None:
    curve = iter([50.0, 60.0, 64.0, 66.0, 71.0, 72.0])
    monkeypatch.setattr("ccd.student.training_state.EpochMeter._map_percent", lambda self: next(curve))
    pixels, targets = colour_patches(16)
    result = run(tiny_student(), pixels, targets, epochs=6)
    curve = iter([0.0] * 4)
    four = run(tiny_student(), pixels, targets, epochs=4)
    assert result.early_stop_epoch == 3
    assert result.early_stop is not None
    assert saved_bytes(result.early_stop) == saved_bytes(four.last)


def test_record_by_hand_without_learning() -> None:
    """A head of zeros and a vanishing learning rate: every probability is 1/2, every loss ln 2."""
    pixels, targets = colour_patches(12)
    student = tiny_student()
    with torch.no_grad():
        student.head.weight.zero_()
        student.head.bias.zero_()
    steps: list[tuple[int, int]] = []
    result = train(
        student,
        batches_of(pixels, 5),
        targets,
        Objective(),
        optimization=Optimization(epochs=2, lr=1e-12, head_lr_multiplier=1),
        seed=0,
        device=CPU,
        on_step=lambda epoch, step, loss: steps.append((epoch, step)),
    )
    seen = result.records
    assert steps == [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2)]
    assert [record.epoch for record in seen] == [0, 1]
    assert seen[0].images == 12
    assert seen[0].loss == pytest.approx(np.log(2), abs=1e-6)
    assert seen[0].images_per_s == pytest.approx(12 / seen[0].seconds)


def test_training_map_counts_targets_from_one_half_as_positive() -> None:
    pixels, _ = colour_patches(6, classes=1)
    none = run(tiny_student(1), pixels, torch.full((6, 1), 0.49))
    all_ = run(tiny_student(1), pixels, torch.full((6, 1), 0.5))
    assert np.isnan(none.records[0].map_percent)
    assert all_.records[0].map_percent == 100


@pytest.mark.parametrize("classes", [1, 2, 80, 1000])
def test_any_number_of_classes(classes: int) -> None:
    pixels, targets = colour_patches(4, classes)
    result = run(tiny_student(classes), pixels, targets, epochs=1, objective=Objective(1.0, 0.5))
    assert result.last["head.weight"].shape == (classes, 16, 1, 1)
    assert np.isfinite(result.records[0].loss)


def test_a_trailing_single_image_is_dropped() -> None:
    pixels, targets = colour_patches(9)
    result = run(tiny_student(), pixels, targets, epochs=1, batch_size=4)
    assert result.records[0].images == 8
    assert int(result.last["backbone.1.num_batches_tracked"]) == 2


@pytest.mark.parametrize("images", [1, 3])
def test_batches_of_one_image_keep_the_running_statistics(images: int) -> None:
    pixels, targets = colour_patches(images)
    student = tiny_student()
    before = student.state_dict()["backbone.1.running_mean"].clone()
    weight = student.head.weight.detach().clone()
    result = run(student, pixels, targets, epochs=1, batch_size=1)
    assert result.records[0].images == images
    assert torch.equal(result.last["backbone.1.running_mean"], before)
    assert not torch.equal(result.last["head.weight"], weight)


def test_a_loss_that_is_not_finite_names_epoch_step_and_images() -> None:
    pixels, targets = colour_patches(4)
    targets[2] = float("nan")
    with pytest.raises(CcdError, match=r"nan in epoch 1, step 2 .*c, d.*a, b"):
        train(
            tiny_student(),
            lambda epoch: [(torch.tensor(rows), pixels[rows]) for rows in ([0, 1], [2, 3])],
            targets,
            Objective(),
            optimization=Optimization(epochs=1, lr=1e-3, head_lr_multiplier=1),
            seed=0,
            device=CPU,
            names=["a", "b", "c", "d"],
        )


class Exploding:
    """An objective whose loss is finite and whose gradients are not, from step ``begin`` on."""

    views = staticmethod(Objective().views)

    def __init__(self, begin: int) -> None:
        self.left = begin

    def __call__(self, student: Student, views: Views) -> Outcome:
        outcome = Objective()(student, views)
        self.left -= 1
        if self.left >= 0:
            return outcome
        wall = (0 * student.head.bias.sum()).sqrt()  # 0, with an infinite slope times 0
        return replace(outcome, loss=outcome.loss + wall)


@pytest.mark.parametrize(
    ("begin", "says"),
    [
        (1, r"loss became nan in epoch 1, step 3 \(images: row 4, row 5; of the step before: row 2, row 3\)"),
        (2, r"after epoch 1 \d+ of the student's tensors hold NaN or Inf \(head"),
    ],
)
def test_gradients_that_are_not_finite_stop_the_training(begin: int, says: str) -> None:
    """At the next step, or at the end of the epoch where there is none: never as weights on the disk."""
    pixels, targets = colour_patches(6)
    state = Memory()
    with pytest.raises(CcdError, match=says):
        train(
            tiny_student(),
            lambda epoch: [(rows, pixels[rows]) for rows in torch.arange(6).split(2)],
            targets,
            Exploding(begin),
            optimization=Optimization(epochs=2, lr=1e-3, head_lr_multiplier=1),
            seed=0,
            device=CPU,
            state=state,
        )
    assert state.content is None


def test_an_epoch_without_images_is_an_error() -> None:
    with pytest.raises(CcdError, match="epoch 1 of training had no images"):
        train(
            tiny_student(),
            lambda epoch: [],
            torch.empty(0, 3),
            Objective(),
            optimization=Optimization(epochs=1, lr=1e-3, head_lr_multiplier=1),
            seed=0,
            device=CPU,
        )


def test_bf16_trains_on_the_cpu_with_float32_weights_and_fp16_is_refused() -> None:
    pixels, targets = colour_patches(16)
    bf16 = Optimization(epochs=2, lr=1e-3, head_lr_multiplier=10, precision="bf16")
    batches = batches_of(pixels, 8)
    objective = Objective(1.0, 0.5)
    result = train(tiny_student(), batches, targets, objective, optimization=bf16, seed=0, device=CPU)
    assert np.isfinite(result.records[-1].loss)
    assert result.last["backbone.0.weight"].dtype == torch.float32
    exact = run(tiny_student(), pixels, targets, objective=objective)
    assert result.records[0].loss == pytest.approx(exact.records[0].loss, rel=0.02)
    fp16 = Optimization(epochs=1, lr=1e-3, head_lr_multiplier=1, precision="fp16")
    with pytest.raises(CcdError, match="fp16 needs a GPU"):
        train(tiny_student(), batches, targets, objective, optimization=fp16, seed=0, device=CPU)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_trains_on_a_gpu_in_every_precision(precision: str) -> None:
    pixels, targets = colour_patches(16)
    spec = StudentSpec("resnet18", ("a", "b", "c"), 3.0, 32)
    optimization = Optimization(2, 1e-4, 10, precision)  # type: ignore[arg-type]
    results = [
        train(
            build_student(spec, "none", seed=0),
            batches_of(pixels, 8),
            targets,
            Objective(1.0, 0.5),
            optimization=optimization,
            seed=0,
            device=torch.device("cuda"),
        )
        for _ in range(2)
    ]
    assert np.isfinite(results[0].records[-1].loss)
    assert results[0].last["head.weight"].device == CPU


def test_a_cosine_schedule_sets_the_rates_of_every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two epochs of two steps: of each learning rate 1, 0.853..., 0.5 and 0.146...; the head's is ten times larger."""
    rates = []
    adam = torch.optim.Adam.step

    def step(optimizer: torch.optim.Adam, *given: object) -> object:
        rates.append([group["lr"] for group in optimizer.param_groups])
        return adam(optimizer, *given)

    monkeypatch.setattr(torch.optim.Adam, "step", step)
    pixels, targets = colour_patches(16)
    optimization = Optimization(2, 1e-3, 10, schedule="cosine", steps_per_epoch=2)
    batches = batches_of(pixels, 8)
    train(tiny_student(), batches, targets, Objective(), optimization=optimization, seed=0, device=CPU)
    expected = [(1 + np.cos(np.pi * done)) / 2 for done in (0.0, 0.25, 0.5, 0.75)]
    np.testing.assert_allclose(rates, [[1e-3 * factor, 1e-2 * factor] for factor in expected])
