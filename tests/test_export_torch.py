"""``ccd export torch``: an archive that PyTorch alone reads, with the student's answers and its description."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from ccd.artifacts import checkpoint_file
from ccd.cli.main import main
from ccd.student.model import restore_student
from tests.toys.exported import CLASSES, SPEC, write_project

READ = """
import sys, numpy, torch
extra = {"model.json": ""}
with open(sys.argv[1], "rb") as file:
    network = torch.export.load(file, extra_files=extra).module()
for count in (1, 5):
    logits, cam = network(torch.from_numpy(numpy.load(sys.argv[2])[:count]))
numpy.save(sys.argv[3], torch.cat([logits.flatten(), cam.flatten()]).detach().numpy())
print(extra["model.json"])
sys.exit(any(name.split(".")[0] == "ccd" for name in sys.modules))
"""


@pytest.mark.slow
def test_a_process_without_ccd_gets_the_students_answers_and_its_description(tmp_path: Path) -> None:
    student = write_project(tmp_path / "project")
    out = tmp_path / "student.pt2"
    words = ["export", "torch", str(out), "--student", str(student), "--licence", "CC0-1.0", "--json"]
    done = CliRunner().invoke(main, words)
    assert done.exit_code == 0 and json.loads(done.stdout)["largest_difference"] <= 1e-5, done.output
    pixels = np.random.default_rng(0).random((5, 3, 64, 64), np.float32)
    np.save(tmp_path / "pixels.npy", pixels)
    files = [str(tmp_path / name) for name in ("student.pt2", "pixels.npy", "answers.npy")]
    run = subprocess.run([sys.executable, "-c", READ, *files], cwd=tmp_path, capture_output=True, text=True, check=True)
    checkpoint = checkpoint_file.read(student, "train")
    network = restore_student(SPEC, checkpoint.weights[checkpoint.selected]).eval()
    with torch.inference_mode():
        logits, cam = network(torch.from_numpy(pixels))
    expected = torch.cat([logits.flatten(), cam.flatten()]).numpy()
    np.testing.assert_allclose(np.load(tmp_path / "answers.npy"), expected, atol=1e-5)
    said = json.loads(run.stdout)
    assert (
        said["classes"] == list(CLASSES) and said["licence"] == "CC0-1.0" and said["thresholds"]["values"] == [0.5] * 3
    )
    assert not any(word in out.read_bytes() for word in (b"site-packages", str(tmp_path).encode()))


def test_mistakes_are_one_line(tmp_path: Path) -> None:
    for name, message in (("a.onnx", "must end in .pt2"), ("a.pt2", "no such file")):
        done = CliRunner().invoke(main, ["export", "torch", str(tmp_path / name), "--student", str(tmp_path / "no.pt")])
        assert done.exit_code == 2 and message in done.stderr and done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
