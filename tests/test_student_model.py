from __future__ import annotations

import json

import pytest
import torch
from torch import nn

from ccd.errors import CcdError
from ccd.student.model import Student, StudentSpec, build_student, restore_student

SPEC = StudentSpec("resnet18", ("cat", "dog"), cam_boost=3.0, image_size_px=64)


def test_logits_by_hand() -> None:
    """One channel, weights 1 and -1, bias 0 and 1; positives times 3, then the mean."""
    student = Student(nn.Identity(), channels=3, classes=2, cam_boost=3.0, mean=(0, 0, 0), std=(1, 1, 1))
    with torch.no_grad():
        student.head.weight.copy_(torch.tensor([[1.0, 0, 0], [-1.0, 0, 0]]).view(2, 3, 1, 1))
        student.head.bias.copy_(torch.tensor([0.0, 1.0]))
        pixels = torch.zeros(1, 3, 1, 2)
        pixels[0, 0] = torch.tensor([[0.5, 2.0]])
        logits, cam = student(pixels)
    assert cam.tolist() == [[[[1.5, 6.0]], [[1.5, -1.0]]]]
    assert logits.tolist() == [[3.75, 0.25]]


def test_the_network_normalises_its_input() -> None:
    student = Student(nn.Identity(), 3, 1, 1.0, mean=(0.5, 0.2, 0.0), std=(0.25, 1.0, 0.5))
    pixels = torch.tensor([0.0, 0.2, 1.0]).view(1, 3, 1, 1)
    torch.testing.assert_close(student.features(pixels).flatten(), torch.tensor([-2.0, 0.0, 2.0]))
    with torch.no_grad():
        torch.testing.assert_close(student(pixels)[1], student.head(student.features(pixels)))
    assert not any(key in student.state_dict() for key in ("mean", "std"))


@pytest.mark.parametrize("classes", [1, 2, 80, 1000])
def test_shapes_for_any_number_of_classes(classes: int) -> None:
    spec = StudentSpec("resnet18", tuple(f"c{i}" for i in range(classes)), 3.0, 64)
    student = build_student(spec, "none", seed=0).eval()
    with torch.no_grad():
        logits, cam = student(torch.rand(2, 3, 64, 96))
    assert logits.shape == (2, classes)
    assert cam.shape == (2, classes, 2, 3)
    torch.testing.assert_close(logits, cam.mean(dim=(2, 3)))


def test_the_seed_decides_all_initial_weights_and_leaves_the_global_generator_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    first = build_student(SPEC, "none", seed=1).state_dict()
    assert torch.rand(1) == expected
    again = build_student(SPEC, "none", seed=1).state_dict()
    other = build_student(SPEC, "none", seed=2).state_dict()
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not torch.equal(first["head.weight"], other["head.weight"])
    assert not torch.equal(first["backbone.conv1.weight"], other["backbone.conv1.weight"])
    assert first["head.bias"].tolist() == [0, 0]


def test_restored_student_gives_the_same_logits() -> None:
    student = build_student(SPEC, "none", seed=3).eval()
    spec = StudentSpec.from_dict(json.loads(json.dumps(SPEC.to_dict())))
    assert spec == SPEC
    restored = restore_student(spec, student.state_dict()).eval()
    pixels = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(student(pixels)[0], restored(pixels)[0])


def test_weights_of_another_student_are_refused() -> None:
    state = build_student(SPEC, "none", seed=3).state_dict()
    three = StudentSpec("resnet18", ("cat", "dog", "bird"), 3.0, 64)
    with pytest.raises(CcdError, match=r"3 classes.*head.weight"):
        restore_student(three, state)
    with pytest.raises(CcdError, match="mobilenet_v2"):
        restore_student(StudentSpec("mobilenet_v2", ("cat", "dog"), 3.0, 64), state)


def test_a_description_with_other_keys_is_refused() -> None:
    with pytest.raises(CcdError, match="arch"):
        StudentSpec.from_dict({**SPEC.to_dict(), "arch": "resnet50"})


def test_no_classes_is_an_error() -> None:
    with pytest.raises(CcdError, match="at least one class"):
        build_student(StudentSpec("resnet18", (), 3.0, 64), "none", seed=0)
