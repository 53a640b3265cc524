from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ccd.artifacts.checkpoint_file import Checkpoint
from ccd.errors import CcdError
from ccd.images.batches import ImageFiles
from ccd.runtime.hardware import Hardware, one_ahead
from ccd.student import inference
from ccd.student.inference import predict, score, score_checkpoints
from ccd.student.model import Student, StudentSpec, build_student
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


@pytest.mark.parametrize("count", [0, 1, 2, 5])
def test_every_item_comes_once_and_in_order_when_the_next_one_is_made(count: int) -> None:
    made: list[int] = []

    def numbers() -> Iterator[int]:
        for number in range(count):
            made.append(number)
            yield number

    for place, number in enumerate(one_ahead(numbers(), torch.device("cuda"))):
        assert number == place and made == list(range(min(place + 2, count)))
    assert len(made) == count


def test_a_cpu_is_asked_for_one_item_at_a_time() -> None:
    made = iter(range(3))
    assert [number for number in one_ahead(made, CPU) if next(made, None) is not None] == [0]


def test_an_error_comes_behind_the_items_before_it() -> None:
    def broken() -> Iterator[int]:
        yield 0
        yield 1
        raise ValueError("third")

    items = one_ahead(broken(), torch.device("cuda"))
    assert [next(items), next(items)] == [0, 1]
    with pytest.raises(ValueError, match="third"):
        next(items)


SPEC = StudentSpec("resnet18", ("a", "b", "c"), 3.0, 32)


def photos(folder: Path, count: int) -> ImageFiles:
    pixels, _ = colour_patches(count)
    paths = [folder / f"{number}.png" for number in range(count)]
    for image, path in zip(pixels, paths, strict=True):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(path)
    return ImageFiles(paths)


def test_equal_sets_of_weights_are_scored_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = photos(tmp_path, 3)
    start, last = (build_student(SPEC, "none", seed).state_dict() for seed in (0, 1))
    again = {key: value.clone() for key, value in last.items()}
    other = again | {"head.bias": torch.tensor([5.0, -5.0, 0.0])}
    passes = []
    forward = Student.forward
    monkeypatch.setattr(Student, "forward", lambda self, pixels: [passes.append(len(pixels)), forward(self, pixels)][1])
    warmup = Checkpoint(SPEC.to_dict(), {"last": start}, "last", {})
    final = Checkpoint(SPEC.to_dict(), {"early_stop": again, "last": last, "average": other}, "last", {})
    probs = score_checkpoints(warmup, final, files, Hardware(CPU, 0, 2))
    assert list(probs) == ["warmup", "early_stop", "last", "average", "student"]
    assert passes == [2] * 3 + [1] * 3  # of five tables, three sets of weights
    assert np.array_equal(probs["early_stop"], probs["last"]) and np.array_equal(probs["student"], probs["last"])
    assert not np.allclose(probs["warmup"], probs["last"]) and not np.allclose(probs["average"], probs["last"])
    alone = score({"x": inference.restore_student(SPEC, other)}, files, 32, Hardware(CPU, 0, 2))["x"]
    np.testing.assert_array_equal(probs["average"], alone)


def test_scores_in_half_precision_are_near_those_in_fp32(tmp_path: Path) -> None:
    files = photos(tmp_path, 5)
    place = Hardware(CPU, 0, 2)
    full = score({"x": tiny_student()}, files, 32, place)["x"]
    half = score({"x": tiny_student()}, files, 32, place, precision="bf16")["x"]
    assert full.dtype == half.dtype == np.float32 and not np.array_equal(full, half)
    np.testing.assert_allclose(half, full, atol=0.02)
    with pytest.raises(CcdError, match="fp16 needs a GPU"):
        score({"x": tiny_student()}, files, 32, place, precision="fp16")
