"""ONNX in fp16 and int8: the figures are those of the file written, and nothing of the test images made it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ccd.artifacts import class_table, image_index
from ccd.artifacts.class_table import LABELS
from ccd.deploy.agreement import ImageChoice, choose_images
from ccd.deploy.load import StudentModel, load_student
from ccd.evaluation.metrics import average_precision
from ccd.images.decode import read_image, squash
from ccd.student.transforms import to_unit
from tests.toys.commands import invoke
from tests.toys.exported import CLASSES, SPEC, TEST, TRAIN, write_labels, write_project

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")
PRECISIONS = ("fp32", "fp16", "int8")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("project")
    write_project(folder)
    return folder


@pytest.fixture(scope="module")
def exported(project: Path) -> dict[str, dict[str, Any]]:
    """What ``--json`` says of the files ``fp32.onnx``, ``fp16.onnx`` and ``int8.onnx`` in the project."""
    return {name: export(project, project / f"{name}.onnx", "--precision", name) for name in PRECISIONS}


def export(project: Path, out: Path, *words: object) -> dict[str, Any]:
    done = invoke("export", "onnx", out, "--student", project / "data/toy/student.pt", *words, "--json")
    assert done.exit_code == 0, done.output
    content: dict[str, Any] = json.loads(done.stdout)
    return content


def test_pictures(project: Path) -> list[Path]:
    return [project / f"pictures/{number}.png" for number in range(TRAIN, TRAIN + TEST)]


test_pictures.__test__ = False  # type: ignore[attr-defined]


def probs(model: StudentModel, paths: list[Path]) -> np.ndarray:
    values: np.ndarray = model.predict(paths).drop(columns="labels").to_numpy()
    return values


@pytest.mark.slow
@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_figures_are_those_of_predict(precision: str, project: Path, exported: dict[str, dict[str, Any]]) -> None:
    """`ccd predict` with both files on the test images, differences, decisions and mAP computed here."""
    paths = test_pictures(project)
    student = load_student(project / "data/toy/student.pt")
    file = load_student(project / f"{precision}.onnx")
    expected = probs(student, paths)
    actual = probs(file, paths)
    check = exported[precision]["check"]
    difference = np.abs(actual - expected)
    assert check["images"] == TEST and check["images_from"] == "test images"
    assert check["largest_difference"] == pytest.approx(difference.max(), rel=0.01, abs=1e-6)
    assert check["mean_difference"] == pytest.approx(difference.mean(), rel=0.01, abs=1e-6)
    differs = (actual >= 0.5) != (expected >= 0.5)
    assert check["decisions_that_differ"] == pytest.approx(differs.mean(), rel=0.01)
    assert check["images_with_other_classes"] == pytest.approx(differs.any(axis=1).mean(), rel=0.01)
    truth = class_table.read(project / "data/toy/labels.parquet", LABELS).columns["label"][TRAIN:] == 1
    for name, table in (("student", expected), ("export", actual)):
        assert check["mAP"][name] == pytest.approx(100 * average_precision(table, truth).mean(), abs=0.006)
    assert exported[precision]["bytes"][precision] == (project / f"{precision}.onnx").stat().st_size
    assert all(speed > 0 for speed in exported[precision]["images_per_second"].values())
    assert file.description == student_description(student, file)


def student_description(student: StudentModel, file: StudentModel) -> object:
    """The student's description with the provenance of the export, which knows more; it begins with the student's."""
    provenance = file.description.provenance
    assert student.description.provenance.items() <= provenance.items() and "source_sha256" in provenance
    return replace(student.description, provenance=provenance)


@pytest.mark.slow
def test_lower_precision_rounds_more_and_is_smaller(exported: dict[str, dict[str, Any]]) -> None:
    """Half and a quarter of the float32 weights, which are nearly the whole file; differences in the order of bits.

    To first order a logit differs by at most its size times the number of roundings on the way times half a unit of the
    format: 2^-11 for float16, and for int8 2^-9 of each tensor's range; a probability by a quarter of that.
    """
    sizes = {name: exported[name]["bytes"][name] for name in PRECISIONS}
    assert sizes["fp16"] < 0.6 * sizes["fp32"] and sizes["int8"] < 0.4 * sizes["fp32"]
    worst = {name: exported[name]["check"]["largest_difference"] for name in PRECISIONS}
    assert worst["fp32"] <= 1e-5 < worst["fp16"] < worst["int8"]
    layers = 3 + 4 * 4 + 2  # stem, bottlenecks with their shortcuts, head and mean
    assert worst["fp16"] < layers * 2**-11
    assert worst["int8"] < layers * 2**-9 * 4


@pytest.mark.slow
def test_the_metadata_say_how_it_was_made_and_no_speed_and_no_path(
    project: Path, exported: dict[str, dict[str, Any]]
) -> None:
    for precision in PRECISIONS:
        model = onnx.load(project / f"{precision}.onnx")
        metadata = {entry.key: entry.value for entry in model.metadata_props}
        assert metadata.keys() == {"ccd.model", "ccd.export"}
        said = json.loads(metadata["ccd.export"])
        assert said["precision"] == precision and said["check"] == exported[precision]["check"]
        assert ("calibration" in said) == (precision == "int8") and "second" not in metadata["ccd.export"]
        content = (project / f"{precision}.onnx").read_bytes()
        assert not any(word in content for word in (str(project).encode(), b"/tmp/", b"site-packages"))
    said = json.loads(metadata["ccd.export"])
    assert (said["calibration"]["images"], said["calibration"]["images_from"]) == (TRAIN, "training images")
    kinds = {node.op_type for node in model.graph.node}
    assert {"QuantizeLinear", "DequantizeLinear"} <= kinds


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_it_takes_any_batch_and_size_in_float32(
    precision: str, project: Path, exported: dict[str, dict[str, Any]]
) -> None:
    import onnxruntime

    session = onnxruntime.InferenceSession(project / f"{precision}.onnx", providers=["CPUExecutionProvider"])
    for images, height, width in ((1, 64, 64), (5, 96, 160)):
        logits, cam = session.run(None, {"pixels": np.full((images, 3, height, width), 0.5, np.float32)})
        assert logits.dtype == cam.dtype == np.float32
        assert logits.shape == (images, 3) and cam.shape == (images, 3, height // 32, width // 32)
        np.testing.assert_allclose(cam.mean(axis=(2, 3)), logits, rtol=2**-9, atol=1e-3)


@pytest.mark.slow
def test_test_images_and_labels_change_no_weight_and_no_scale_of_int8(
    project: Path, exported: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    """Other labels and other test images: the same graph, byte by byte; only what was measured differs."""
    write_project(tmp_path)
    write_labels(tmp_path / "data/toy/labels.parquet", seed=7)
    for path in test_pictures(tmp_path):
        path.write_bytes((tmp_path / "pictures/0.png").read_bytes())
    index = image_index.read(tmp_path / "data/toy/images.parquet")
    sizes = np.array([(tmp_path / "pictures" / name).stat().st_size for name in index.paths])
    image_index.write(tmp_path / "data/toy/images.parquet", replace(index, file_bytes=sizes))
    other = export(tmp_path, tmp_path / "other.onnx", "--precision", "int8")
    assert other["check"] != exported["int8"]["check"]
    first, second = (onnx.load(path) for path in (project / "int8.onnx", tmp_path / "other.onnx"))
    assert first.graph.SerializeToString(deterministic=True) == second.graph.SerializeToString(deterministic=True)


def test_calibration_and_check_share_no_image(project: Path) -> None:
    student = project / "data/toy/student.pt"
    images = choose_images(ImageChoice(None, 5, 100), student, CLASSES)
    assert images is not None and images.truth is not None
    assert [path.stem for path in images.calibrate.paths] == ["0", "2", "4", "7", "9"]
    assert [path.stem for path in images.check.paths] == [str(number) for number in range(TRAIN, TRAIN + TEST)]
    images = choose_images(ImageChoice(project / "pictures", 128, 500), student, CLASSES)
    assert images is not None and images.truth is None
    assert len(images.calibrate) == len(images.check) == 10
    assert not set(images.calibrate.paths) & set(images.check.paths)
    assert choose_images(ImageChoice(None, 5, 100), student, ("other", "classes")) is None


def test_mistakes_are_one_line_and_leave_nothing(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    student = tmp_path / "student.pt"
    student.write_bytes((project / "data/toy/student.pt").read_bytes())
    (tmp_path / "empty").mkdir()
    (tmp_path / "out").mkdir()
    for words, message in (
        (("--precision", "int8"), "no images are known to compare int8 with PyTorch on"),
        (("--precision", "fp16", "--images", "nowhere"), "nowhere: no such folder"),
        (("--precision", "int8", "--images", "empty"), "no images in empty"),
        (("--precision", "fp16", "--calibrate", "9"), "--calibrate is for --precision int8"),
        (("--max-difference", "0.1"), "give --images FOLDER"),
    ):
        done = invoke("export", "onnx", "out/a.onnx", "--student", student, *words)
        assert done.exit_code == 2 and message in done.stderr and done.stderr.count("\n") == 1, done.stderr
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.slow
def test_a_damaged_calibration_image_is_named_and_nothing_is_left(project: Path, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    for number in range(2):
        data = (project / f"pictures/{number}.png").read_bytes()
        (tmp_path / f"photos/{number}.png").write_bytes(data[: len(data) if number else 60])
    words = ("--precision", "int8", "--images", tmp_path / "photos")
    done = invoke("export", "onnx", tmp_path / "a.onnx", "--student", project / "data/toy/student.pt", *words)
    assert done.exit_code == 2 and "0.png: damaged or truncated" in done.stderr and done.stderr.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["photos"]


@pytest.mark.slow
def test_too_different_a_file_is_not_kept(project: Path, exported: dict[str, dict[str, Any]], tmp_path: Path) -> None:
    limit = exported["int8"]["check"]["largest_difference"] / 2
    words = ("--precision", "int8", "--max-difference", limit)
    done = invoke("export", "onnx", tmp_path / "a.onnx", "--student", project / "data/toy/student.pt", *words)
    assert done.exit_code == 2 and "nothing was written" in done.stderr and list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("precision", PRECISIONS)
def test_openvino_gives_what_onnxruntime_gives(
    precision: str, project: Path, exported: dict[str, dict[str, Any]]
) -> None:
    """float32 to 1e-4. Where both round, they do so at other places: no more than each may be away from the student."""
    openvino = pytest.importorskip("openvino")
    core = openvino.Core()
    options = {"INFERENCE_PRECISION_HINT": "f32"}
    compiled = core.compile_model(core.read_model(project / f"{precision}.onnx"), "CPU", options)
    paths = test_pictures(project)
    pixels = [torch.from_numpy(squash(read_image(path, min_size=64), 64, 64)) for path in paths]
    logits = compiled({"pixels": to_unit(torch.stack(pixels)).contiguous().numpy()})["logits"]
    expected = probs(load_student(project / f"{precision}.onnx"), paths)
    bound = 1e-4 if precision == "fp32" else 2 * exported[precision]["check"]["largest_difference"]
    assert SPEC.image_size_px == 64
    np.testing.assert_allclose(1 / (1 + np.exp(-logits.astype(np.float64))), expected, atol=bound, rtol=0)
