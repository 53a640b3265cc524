"""Files that should hold weights: what wraps a state dict is looked into, and all else is named as what it is."""

from __future__ import annotations

import argparse
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torchvision import models

from ccd.artifacts.weights_file import load_fitting, read_state_dict
from ccd.errors import CcdError
from ccd.student.backbones import build_backbone
from tests.toys.deployed import write_student

STATE: dict[str, Tensor] = models.resnet18(weights=None, num_classes=3).state_dict()
LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"


def prefixed(prefix: str) -> dict[str, Tensor]:
    return {prefix + name: value for name, value in STATE.items()}


def zipped(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("model/weights.pt", "x")


def scripted(path: Path) -> None:
    torch.jit.save(torch.jit.script(nn.Linear(2, 2)), str(path))


def cut(path: Path) -> None:
    torch.save(STATE, path)
    path.write_bytes(path.read_bytes()[:100_000])


def cut_safetensors(path: Path) -> None:
    save_file({"a": torch.zeros(100)}, path)
    path.write_bytes(path.read_bytes()[:-7])


OTHER: list[tuple[str, Callable[[Path], object], str]] = [
    ("LFS pointer", lambda path: path.write_text(LFS), "Git LFS"),
    ("LFS pointer with a mark", lambda path: path.write_text("\ufeff" + LFS), "Git LFS"),
    ("annex pointer", lambda path: path.write_text("/annex/objects/SHA256E-s9--00.pt\n"), "git-annex"),
    ("page", lambda path: path.write_text("\n\n<!DOCTYPE html>\n<html>404</html>"), "web page"),
    ("page without a type", lambda path: path.write_text("<HTML lang='de'>größe" + "ü" * 2000), "web page"),
    ("XML", lambda path: path.write_text("<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>"), "XML"),
    ("JSON", lambda path: path.write_text('{"error": "gated repository"}'), "gated repository"),
    ("text", lambda path: path.write_text("404: Not Found"), "404: Not Found"),
    ("empty", lambda path: path.touch(), "empty"),
    ("folder", lambda path: path.mkdir(), "folder"),
    ("ZIP", zipped, "model/weights.pt"),
    ("gzip", lambda path: path.write_bytes(b"\x1f\x8b\x08" + bytes(50)), "gzip"),
    ("HDF5", lambda path: path.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(50)), "HDF5"),
    ("TorchScript", scripted, "TorchScript"),
    ("whole model", lambda path: torch.save(models.resnet18(weights=None), path), "torchvision.models.resnet.ResNet"),
    ("nested whole model", lambda path: torch.save({"model": nn.Linear(1, 1)}, path), "torch.save(model.state_dict()"),
    ("plain pickle", lambda path: path.write_bytes(pickle.dumps({"a": argparse.Namespace()})), "pickled object"),
    ("cut off", cut, "incomplete"),
    ("cut off safetensors", cut_safetensors, "incomplete safetensors"),
    ("noise", lambda path: path.write_bytes(bytes([7, 200, 0, 255, 3]) * 400), "no PyTorch file"),
    ("list", lambda path: torch.save([1, 2], path), "no state dict"),
    ("no weights in it", lambda path: torch.save({"epoch": 1, "lr": 0.1}, path), "it holds epoch, lr"),
    ("two of them", lambda path: torch.save({"model": STATE, "state_dict": STATE}, path), "several state dicts"),
    ("absent", lambda path: None, "does not exist"),
]


@pytest.mark.parametrize(("make", "says"), [case[1:] for case in OTHER], ids=[case[0] for case in OTHER])
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_what_is_no_file_of_weights_is_named_in_one_line(
    make: Callable[[Path], object], says: str, tmp_path: Path
) -> None:
    path = tmp_path / "weights.pt"
    make(path)
    with pytest.raises(CcdError) as caught:
        read_state_dict(path, "warmup.weights")
    said = str(caught.value)
    assert says in said and f"warmup.weights: {path}" in said
    assert "\n" not in said and "weights_only" not in said


LEVELS = [(), ("state_dict",), ("model",), ("student", "state_dict"), ("a", "net", "model")]
PREFIXES = ["", "module.", "model.", "backbone.", "_orig_mod.", "module._orig_mod.encoder."]


@pytest.mark.parametrize(
    ("levels", "prefix"),
    [
        pytest.param(levels, prefix, marks=[] if levels == () or prefix == "module." else [pytest.mark.slow])
        for levels in LEVELS
        for prefix in PREFIXES
    ],
)
def test_wrapped_state_dicts_reach_every_layer(levels: tuple[str, ...], prefix: str, tmp_path: Path) -> None:
    content: Any = prefixed(prefix)
    for name in levels:
        content = {"net" if name == "a" else name: content, "epoch": 7, "optimizer": {"state": {}}}
    torch.save(content, tmp_path / "weights.pt")
    own = build_backbone("resnet18", tmp_path / "weights.pt")[0].state_dict()
    assert len(own) > 100 and all(torch.equal(value, STATE[name]) for name, value in own.items())


def test_other_parts_beside_a_prefix_are_left_out_and_two_networks_are_not_guessed_at(tmp_path: Path) -> None:
    torch.save(prefixed("backbone.") | {"projector.weight": torch.zeros(2, 2)}, tmp_path / "one.pt")
    own = build_backbone("resnet18", tmp_path / "one.pt")[0].state_dict()
    assert torch.equal(own["conv1.weight"], STATE["conv1.weight"])
    torch.save(prefixed("student.") | prefixed("teacher."), tmp_path / "two.pt")
    with pytest.raises(CcdError, match=r"several networks that fit, under student\., teacher\."):
        build_backbone("resnet18", tmp_path / "two.pt")


def test_safetensors_are_read_whatever_they_are_called(tmp_path: Path) -> None:
    save_file(STATE, tmp_path / "weights.pt")
    own = build_backbone("resnet18", tmp_path / "weights.pt")[0].state_dict()
    assert torch.equal(own["conv1.weight"], STATE["conv1.weight"])


def test_a_student_of_ccd_gives_its_backbone(tmp_path: Path) -> None:
    student = torch.load(write_student(tmp_path / "student.pt"), weights_only=True)
    kept = student["weights"][student["selected"]]
    own = build_backbone(student["spec"]["backbone"], tmp_path / "student.pt")[0].state_dict()
    assert all(torch.equal(value, kept[f"backbone.{name}"]) for name, value in own.items())


def test_keys_and_shapes_that_do_not_fit_are_listed() -> None:
    network = nn.Linear(2, 2)
    with pytest.raises(CcdError, match=r"missing: bias; unexpected: other"):
        load_fitting(network, {"weight": torch.zeros(2, 2), "other": torch.zeros(1)}, "net from a.pt")
    with pytest.raises(CcdError, match=r"weight \(3 x 2 instead of 2 x 2\)"):
        load_fitting(network, {"weight": torch.zeros(3, 2), "bias": torch.zeros(2)}, "net from a.pt")
